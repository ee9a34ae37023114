//! The few system calls that no crate offers as weir needs them: bpf(2) on maps and links, a shared mapping, one socket
//! option.
//!
//! Safe functions over raw calls, nothing more: no names, no policy, no retry. Typed maps are built on it in `table`,
//! links in `attach`.

mod clock;
pub(crate) mod ethtool;
pub(crate) mod packet;
pub(crate) mod test_run;
mod walk;

use std::{
    ffi::CString,
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

pub(crate) use self::walk::{Walk, map_each};
pub(crate) use clock::{coarse_tick, monotonic_nanoseconds, monotonic_seconds};

/// Commands of bpf(2), from `enum bpf_cmd` of linux/bpf.h.
mod cmd {
    pub(super) const MAP_LOOKUP_ELEM: libc::c_int = 1;
    pub(super) const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub(super) const MAP_DELETE_ELEM: libc::c_int = 3;
    pub(super) const MAP_GET_NEXT_KEY: libc::c_int = 4;
    pub(super) const OBJ_PIN: libc::c_int = 6;
    pub(super) const OBJ_GET: libc::c_int = 7;
    pub(super) const PROG_TEST_RUN: libc::c_int = 10;
    pub(super) const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
    pub(super) const MAP_LOOKUP_BATCH: libc::c_int = 24;
    pub(super) const MAP_DELETE_BATCH: libc::c_int = 27;
    pub(super) const LINK_CREATE: libc::c_int = 28;
    pub(super) const LINK_UPDATE: libc::c_int = 29;
    pub(super) const LINK_DETACH: libc::c_int = 34;
}

/// `BPF_F_MMAPABLE` of a map's flags.
pub(crate) const F_MMAPABLE: u32 = 1 << 10;

/// Types whose every bit pattern is a value and that have no padding: they may pass through the kernel as bytes.
///
/// # Safety
/// The implementing type is `repr(C)` (or primitive), holds integers only, and has no padding.
pub(crate) unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($ty:ty),* $(,)?) => { $(
        // SAFETY: a primitive, or a `shared!` structure of weir-abi, which asserts at compile time that its fields
        // fill it without padding and that all of them are integers or further such structures.
        unsafe impl Plain for $ty {}
    )* };
}
plain!(
    u32,
    u64,
    weir_abi::Addr16,
    weir_abi::Backend,
    weir_abi::CaptureFilter,
    weir_abi::ClientKey,
    weir_abi::ClientState,
    weir_abi::FlowKey,
    weir_abi::FlowState,
    weir_abi::FragmentKey,
    weir_abi::FragmentState,
    weir_abi::GroupLink,
    weir_abi::HearKey,
    weir_abi::LinkKey,
    weir_abi::ListEntry,
    weir_abi::NatFlow,
    weir_abi::NatReply,
    weir_abi::NatSource,
    weir_abi::NeighborEvent,
    weir_abi::NextHop,
    weir_abi::Prefix,
    weir_abi::QuicKey,
    weir_abi::RecordLimit,
    weir_abi::ReturnKey,
    weir_abi::ReturnTarget,
    weir_abi::ReturnVip,
    weir_abi::Service,
    weir_abi::ServiceKey,
    weir_abi::SteerKey,
    weir_abi::ServiceLimits,
    weir_abi::Settings,
    weir_abi::Slot,
    weir_abi::Taken,
    weir_abi::Traffic,
    weir_abi::Vlan,
);

/// One call of bpf(2).
///
/// # Safety
/// `attr` is laid out as the kernel's `union bpf_attr` for this command, and every pointer in it is valid for what the
/// command reads and writes through it.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads (and for some commands writes) `size_of::<T>()` bytes at `attr`, which is a live,
    // exclusive reference; pointers inside are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as libc::c_int)
    }
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<()>().addr() as u64
}

fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<()>().expose_provenance() as u64
}

fn number(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

#[repr(C)]
#[derive(Default)]
struct ElemAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Looks one key up into `values`, which holds as many values as the map has per key (one, or one per possible CPU).
/// False if the key is absent.
pub(crate) fn map_lookup<K: Plain, V: Plain>(map: impl AsFd, key: &K, values: &mut [V]) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: number(map),
        key: address(key),
        value: address_mut(values),
        ..ElemAttr::default()
    };
    // SAFETY: ElemAttr is the `BPF_MAP_*_ELEM` member; `table` has checked that the map's key and value sizes are
    // those of K and V (times the CPUs), so the kernel stays inside both.
    match unsafe { bpf(cmd::MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes one key, whether it is there or not.
pub(crate) fn map_update<K: Plain, V: Plain>(map: impl AsFd, key: &K, values: &[V]) -> io::Result<()> {
    let mut attr = ElemAttr {
        map_fd: number(map),
        key: address(key),
        value: address(values),
        ..ElemAttr::default()
    };
    // SAFETY: as for `map_lookup`; the kernel only reads.
    unsafe { bpf(cmd::MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Adds one key. False if it was there.
pub(crate) fn map_add<K: Plain, V: Plain>(map: impl AsFd, key: &K, values: &[V]) -> io::Result<bool> {
    const NO_EXIST: u64 = 1;
    let mut attr = ElemAttr {
        map_fd: number(map),
        key: address(key),
        value: address(values),
        flags: NO_EXIST,
        ..ElemAttr::default()
    };
    // SAFETY: as for `map_lookup`; the kernel only reads.
    match unsafe { bpf(cmd::MAP_UPDATE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Deletes one key. False if it was absent.
pub(crate) fn map_delete<K: Plain>(map: impl AsFd, key: &K) -> io::Result<bool> {
    let mut attr = ElemAttr {
        map_fd: number(map),
        key: address(key),
        ..ElemAttr::default()
    };
    // SAFETY: as for `map_lookup`; the kernel only reads the key.
    match unsafe { bpf(cmd::MAP_DELETE_ELEM, &mut attr) } {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The bytes of an array's first value, whatever their layout.
pub(crate) fn map_first(map: impl AsFd) -> io::Result<Vec<u8>> {
    let shape = map_shape(&map)?;
    if shape.kind != weir_abi::spec::kind::ARRAY || shape.key_size as usize != size_of::<u32>() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut value = vec![0_u8; shape.value_size as usize];
    let mut attr = ElemAttr {
        map_fd: number(&map),
        key: address(&0_u32),
        value: address_mut(value.as_mut_slice()),
        ..ElemAttr::default()
    };
    // SAFETY: ElemAttr is the element member; the key has an array's 4 bytes and the value as many as the kernel says
    // one of this map has: it has one, not one per CPU.
    unsafe { bpf(cmd::MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(value)
}

/// Entries of a hash map of any layout. Where entries go meanwhile, the kernel may begin anew and count some twice; never
/// more than fit.
pub(crate) fn map_count(map: impl AsFd) -> io::Result<u64> {
    let shape = map_shape(&map)?;
    let most = u64::from(shape.max_entries);
    let mut key = vec![0_u8; shape.key_size as usize];
    let mut next = key.clone();
    let mut count = 0;
    while count < most {
        let mut attr = ElemAttr {
            map_fd: number(&map),
            key: if count == 0 { 0 } else { address(key.as_slice()) },
            value: address_mut(next.as_mut_slice()),
            ..ElemAttr::default()
        };
        // SAFETY: ElemAttr is the element member, whose `value` is `next_key` here; both buffers have the size that the
        // kernel says a key of this map has. Without a key the kernel gives the first one.
        match unsafe { bpf(cmd::MAP_GET_NEXT_KEY, &mut attr) } {
            Ok(_) => count += 1,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            Err(e) => return Err(e),
        }
        std::mem::swap(&mut key, &mut next);
    }
    Ok(count)
}

/// Deletes the keys given, as far as they are still there.
pub(crate) fn map_delete_all<K: Plain>(map: impl AsFd, keys: &[K]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let mut attr = BatchAttr {
            keys: address(rest),
            count: rest.len() as u32,
            map_fd: number(&map),
            ..BatchAttr::default()
        };
        // SAFETY: as for `map_each`; the kernel only reads the keys.
        match unsafe { bpf(cmd::MAP_DELETE_BATCH, &mut attr) } {
            Ok(_) => return Ok(()),
            // The kernel stops at the first key that is gone: go on behind it.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get(attr.count as usize + 1..).unwrap_or_default();
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What a map is, as far as weir compares it: the beginning of the kernel's `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct MapShape {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

/// What a link is: the beginning of the kernel's `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct LinkShape {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) program_id: u32,
    pad: u32,
    /// XDP and tc: the interface's index, 0 once it is gone. Network namespace: its inode, 0 once it is gone.
    pub(crate) target: u32,
    pad_end: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

/// # Safety
/// `T` is a prefix of the info structure that the kernel has for the kind of object behind `fd`.
unsafe fn info<T: Default>(fd: impl AsFd) -> io::Result<T> {
    let mut out = T::default();
    let mut attr = InfoAttr {
        fd: number(fd),
        len: size_of::<T>() as u32,
        info: address_mut(&mut out),
    };
    // SAFETY: InfoAttr is the `BPF_OBJ_GET_INFO_BY_FD` member; the kernel writes at most `len` bytes to `out`.
    unsafe { bpf(cmd::OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(out)
}

/// What the map behind this descriptor is.
pub(crate) fn map_shape(map: impl AsFd) -> io::Result<MapShape> {
    // SAFETY: MapShape is a prefix of bpf_map_info, integers only. Behind another kind of object the kernel writes that
    // kind's integers: wrong, but harmless, and the comparison that follows fails.
    unsafe { info(map) }
}

/// What the link behind this descriptor is.
pub(crate) fn link_shape(link: impl AsFd) -> io::Result<LinkShape> {
    // SAFETY: as for `map_shape`, with bpf_link_info.
    unsafe { info(link) }
}

#[repr(C)]
#[derive(Default)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Pins an object (map, link) under a path on a bpf file system.
pub(crate) fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr {
        path: path.as_ptr().addr() as u64,
        fd: number(object),
        flags: 0,
    };
    path.as_ptr().expose_provenance();
    // SAFETY: PinAttr is the `BPF_OBJ_*` member; the path is NUL-terminated and lives until the call returns.
    unsafe { bpf(cmd::OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = PinAttr {
        path: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    path.as_ptr().expose_provenance();
    // SAFETY: as for `pin`.
    let fd = unsafe { bpf(cmd::OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it. bpf(2) sets close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    program: u32,
    /// A descriptor, or an interface index.
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program: `target` is an interface index or a descriptor's number, as the attach type wants it.
pub(crate) fn link_create(
    program: impl AsFd,
    target: LinkTarget<'_>,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let target = match target {
        LinkTarget::Interface(index) => index,
        LinkTarget::Namespace(fd) => number(fd),
    };
    let mut attr = LinkCreateAttr {
        program: number(program),
        target,
        attach_type,
        flags,
    };
    // SAFETY: LinkCreateAttr is the beginning of the `BPF_LINK_CREATE` member and holds no pointers.
    let fd = unsafe { bpf(cmd::LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a link attaches to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinkTarget<'a> {
    /// An interface, by index.
    Interface(u32),
    /// A network namespace.
    Namespace(BorrowedFd<'a>),
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces a link's program: every packet meets the old or the new one.
pub(crate) fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link: number(link),
        program: number(program),
        ..LinkUpdateAttr::default()
    };
    // SAFETY: LinkUpdateAttr is the `BPF_LINK_UPDATE` member and holds no pointers.
    unsafe { bpf(cmd::LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link whoever else holds it; the link itself stays, dead, until its last descriptor and pin are gone.
pub(crate) fn link_detach(link: impl AsFd) -> io::Result<()> {
    let mut attr = number(link);
    // SAFETY: the `BPF_LINK_DETACH` member is one descriptor.
    unsafe { bpf(cmd::LINK_DETACH, &mut attr) }.map(drop)
}

/// A shared mapping of an array map of 8-byte values. Each value is read and written whole.
pub(crate) struct SharedWords {
    start: NonNull<AtomicU64>,
    words: usize,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone until it is dropped, and is reached only through atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `words` values of an mmapable array whose values have 8 bytes.
    pub(crate) fn map(fd: impl AsFd, words: usize) -> io::Result<Self> {
        let bytes = words
            .checked_mul(8)
            .filter(|&b| b > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice; it aliases nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words, bytes })
    }

    /// All values.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `map` mapped `words` values of 8 bytes, page-aligned, readable and writable, for as long as `self`
        // lives; others (the kernel, its programs) reach them as atomics do.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// The value at `index`; None past the end.
    pub(crate) fn load(&self, index: usize) -> Option<u64> {
        self.words().get(index).map(|word| word.load(Ordering::Relaxed))
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made; no reference into it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWords")
            .field("words", &self.words)
            .finish_non_exhaustive()
    }
}

/// Sets a socket option that is one C int.
pub(crate) fn set_int_option(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: the kernel reads `size` bytes at `value`, which lives until the call returns.
    if unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value, size) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets a socket have addresses that are not on this box. Needs CAP_NET_ADMIN or CAP_NET_RAW; whoever has the socket later
/// does not.
pub(crate) fn set_transparent(socket: impl AsFd, v6: bool) -> io::Result<()> {
    let (level, name) = if v6 {
        (libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
    } else {
        (libc::SOL_IP, libc::IP_TRANSPARENT)
    };
    set_int_option(socket, level, name, 1)
}

/// Returns when every program that runs now has ended (an RCU grace period).
pub(crate) fn wait_for_programs() -> io::Result<()> {
    let (none, any_cpu) = (0, 0);
    // SAFETY: no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, none, any_cpu) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
