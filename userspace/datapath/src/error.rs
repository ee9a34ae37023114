//! Why the datapath could not do what it was asked. Every text names the thing, the place and the mend.

use std::{io, path::PathBuf};

use weir_core::{
    ids::{ListenKey, PoolName, ServiceName},
    plan::IpNet,
};

/// Why the datapath could not be opened or attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The binary holds no eBPF object.
    #[error("this binary was built without the eBPF object; build it with `cargo xtask build`")]
    NoObject,
    /// `xdp = "off"` was given.
    #[error("xdp is \"off\": there is no datapath to open")]
    Off,
    /// The pin directory is not on a bpf file system.
    #[error(
        "{} is not on a bpf file system; mount one with `mount -t bpf bpf /sys/fs/bpf`, or set node.pins to a directory \
         on one", path.display()
    )]
    NoBpffs {
        /// The pin directory as configured.
        path: PathBuf,
    },
    /// Somebody else could change what is pinned.
    #[error(
        "{} belongs to user {owner} with mode {mode:o}: others could change what weir pins there; remove it, or make it \
         root's with mode 755", path.display()
    )]
    Unsafe {
        /// The pin directory, or the directory of the state.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// Another control process holds the pin directory, or the directory of the state.
    #[error(
        "another weir control process{} uses {}; stop it first, or give this one another node.pins and admin.socket",
        pid.map(|p| format!(" (pid {p})")).unwrap_or_default(), path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, when it says so.
        pid: Option<i32>,
    },
    /// A pinned map is not as this binary would make it.
    #[error(
        "the pinned map {map} in {} has {what} {found}, this configuration needs {expected}; stop weir in order (it then \
         removes its pins) or remove the directory {}, and start again", dir.display(), dir.display()
    )]
    PinMismatch {
        /// Name of the map.
        map: String,
        /// Directory of the pinned maps.
        dir: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the kernel says it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A weir of another layout forwards flows that this one cannot go on with.
    #[error(
        "another version of weir, whose tables have another layout, forwards by the pins in {}: {flows} recorded flows \
         ({translated} of them by full-nat) would be lost, since this version cannot read them; go on with that version until \
         they are over, or start this one with --discard-flows: recorded flows are then placed anew by their hash, and \
         those by full-nat break", dir.display()
    )]
    OtherLayout {
        /// The other version's directory.
        dir: PathBuf,
        /// Entries of its flow tables.
        flows: u64,
        /// Those of them that full-nat needs.
        translated: u64,
    },
    /// The embedded object does not fit the layouts that this binary was built with.
    #[error("the eBPF object does not fit this binary: {0}; build both anew with `cargo xtask build`")]
    Object(String),
    /// The kernel refused a map or a program.
    #[error("the kernel refused {what}: {cause}{mend}")]
    Load {
        /// The map or program.
        what: String,
        /// The kernel's words.
        cause: String,
        /// What the operator can do, with leading punctuation; may be empty.
        mend: &'static str,
    },
    /// What is pinned is attached in another network namespace.
    #[error(
        "the links in {} are attached in another network namespace; give weir another node.pins in this one, or remove \
         that directory if they are not needed any more", path.display()
    )]
    OtherNamespace {
        /// The directory of the links.
        path: PathBuf,
    },
    /// An interface does not exist in this network namespace.
    #[error(
        "interface {name:?} does not exist in this network namespace; correct node.interfaces or create it first"
    )]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// XDP could not be attached.
    #[error("XDP could not be attached to interface {name} in {mode} mode: {cause}; {mend}")]
    Attach {
        /// The interface.
        name: String,
        /// `native` or `generic`.
        mode: &'static str,
        /// The kernel's reason in words.
        cause: String,
        /// What the operator can do.
        mend: String,
    },
    /// The sk_lookup program could not be attached.
    #[error("{program} could not be attached to the network namespace: {cause}", program = weir_abi::names::STEER_PROGRAM)]
    Steer {
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A tc program could not be attached.
    #[error("{program} could not be attached to interface {name}: {cause}{mend}")]
    Tc {
        /// The program.
        program: &'static str,
        /// The interface.
        name: String,
        /// The kernel's reason.
        cause: io::Error,
        /// What the operator can do, with leading punctuation; may be empty.
        mend: &'static str,
    },
    /// A sysctl could not be read or set.
    #[error(
        "sysctl {name} could not be {doing}: {cause}; weir needs it to look routes up for forwarded packets"
    )]
    Sysctl {
        /// Its dotted name.
        name: String,
        /// `read` or `set`.
        doing: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
    /// A file or directory could not be used.
    #[error("{doing} {}: {cause}", path.display())]
    File {
        /// What was being done, as in "cannot create".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
    /// A map could not be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A map operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: cannot {doing}: {cause}")]
pub struct MapError {
    /// Name of the map.
    pub map: &'static str,
    /// What was being done, as in "update".
    pub doing: &'static str,
    /// The kernel's reason.
    pub cause: io::Error,
}

/// Why a desired state could not be put into the maps. What was written before it stays; the same call made again
/// carries on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name or a key was given twice.
    #[error("{0} is given twice: every service name and every listen address can be used once")]
    Duplicate(String),
    /// A table has no room.
    #[error("{what} do not fit: {need} needed, room for {room}; {mend}")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How many are needed.
        need: u64,
        /// How many fit.
        room: u64,
        /// What the operator can do.
        mend: &'static str,
    },
    /// A ring's size is not one that Maglev can fill.
    #[error("service {service}: a ring of {size} slots cannot be built: {cause}; take a prime such as 65537")]
    Ring {
        /// The service.
        service: ServiceName,
        /// The size asked for.
        size: u32,
        /// Why not.
        cause: String,
    },
    /// `full-nat` without a source address of a family that the service listens on.
    #[error(
        "service {service}: no {family} address in the source of its pool, so full-nat cannot send to its {family} \
         backends; add one to pools.NAME.source.addresses"
    )]
    NoSource {
        /// The service.
        service: ServiceName,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// A pool's range of source ports leaves some CPU without any.
    #[error(
        "pool {pool}: source ports {first} to {last} are fewer than the {cpus} CPUs of this machine, each of which \
         needs some of its own; widen pools.{pool}.source.ports"
    )]
    FewPorts {
        /// The pool.
        pool: PoolName,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
        /// CPUs that are there.
        cpus: u32,
    },
    /// Two backends of a service have one QUIC server id.
    #[error(
        "service {service}: two of its backends have the same quic_id, so a connection id names neither; give each its own"
    )]
    QuicId {
        /// The service.
        service: ServiceName,
    },
    /// A network is to be taken off the lists that the configuration put on them.
    #[error("{net} stands in [lists] of the configuration; take it out there and reload")]
    Configured {
        /// The network.
        net: IpNet,
    },
    /// A listener of one interface, on a kernel that does not say which one a connection comes in by.
    #[error(
        "{key} is for one interface, and before Linux {}.{} a virtual address can't be told by it; listen without `interface`",
        weir_abi::names::STEER_FLOOR.0,
        weir_abi::names::STEER_FLOOR.1
    )]
    OldKernel {
        /// The listener.
        key: ListenKey,
    },
    /// A socket cannot be used for steering.
    #[error(
        "socket for {key} cannot be used for steering: {cause}; it must be a listening TCP or a bound UDP socket"
    )]
    Socket {
        /// The listener.
        key: ListenKey,
        /// The kernel's reason.
        cause: io::Error,
    },
    /// A map could not be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The state file could not be written.
    #[error("cannot write {}: {cause}; without it a restart could not tell which backend a number stands for", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}
