//! Runs of `weir_steer`, which looks at no packet but at what the kernel looks a socket up by.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{MapData, SockMap},
    programs::SkLookup,
};
use nix::libc::{AF_INET, AF_INET6};
use weir_abi::{SteerKey, maps::port_proto, names};

use super::Kernel;
use crate::raw;

/// What became of a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steered {
    /// This socket was chosen, by its cookie.
    To(u64),
    /// Left to the kernel's own look-up.
    Passed,
    /// Refused.
    Dropped,
}

impl Steered {
    /// To this socket.
    ///
    /// # Errors
    /// The kernel does not say its cookie.
    pub fn to(socket: impl AsFd) -> Result<Self> {
        raw::socket_cookie(socket.as_fd()).map(Self::To)
    }
}

impl Kernel {
    /// Has connections to this address go to the socket at an index of `SOCKETS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn steer(&mut self, to: SocketAddr, protocol: u8, index: u32) -> Result<()> {
        self.steer_by(to, protocol, 0, index)
    }

    /// The same of those that come in by an interface; 0: of all, and then bits of `steer` may stand beside the index.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn steer_by(&mut self, to: SocketAddr, protocol: u8, ifindex: u32, index: u32) -> Result<()> {
        let key = SteerKey {
            addr: to.ip().into(),
            port_proto: port_proto(to.port().to_be(), protocol),
            ifindex,
        };
        self.steer_entry(key, index)
    }

    /// Puts a socket at an index of `SOCKETS`. It leaves by itself when it is closed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn socket(&mut self, index: u32, socket: impl AsFd) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        let mut sockets: SockMap<&mut MapData> = self.map_mut(names::SOCKETS)?.try_into()?;
        Ok(sockets.set(index, &socket.as_fd().as_raw_fd(), 0)?)
    }

    /// Runs `weir_steer` for a packet from a client to an address that no connected socket takes.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn look_up(&self, from: SocketAddr, to: SocketAddr, protocol: u8) -> Result<Steered> {
        self.look_up_in(names::STEER_PROGRAM, from, to, protocol)
    }

    /// The same by either of the two programs. (Of a run the kernel takes no interface: it is none, 0.)
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn look_up_in(
        &self,
        program: &str,
        from: SocketAddr,
        to: SocketAddr,
        protocol: u8,
    ) -> Result<Steered> {
        const SK_PASS: u32 = 1;
        let steer: &SkLookup = self
            .ebpf
            .program(program)
            .with_context(|| program.to_owned())?
            .try_into()?;
        let mut context = context(from, to, protocol);
        let verdict = raw::run_context(steer.fd()?.as_fd(), &mut context)?;
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&context[..8]);
        Ok(match (verdict, u64::from_ne_bytes(cookie)) {
            (SK_PASS, 0) => Steered::Passed,
            (SK_PASS, cookie) => Steered::To(cookie),
            _ => Steered::Dropped,
        })
    }
}

/// `struct bpf_sk_lookup`: cookie, family, protocol, remote IPv4, IPv6 and port, local ones, interface. Addresses and the
/// remote port are in network order, the rest is in host order.
fn context(from: SocketAddr, to: SocketAddr, protocol: u8) -> [u8; 72] {
    let addresses = |ip| match ip {
        IpAddr::V4(v4) => (v4.octets(), [0; 16]),
        IpAddr::V6(v6) => ([0; 4], v6.octets()),
    };
    let family = if to.is_ipv4() { AF_INET } else { AF_INET6 };
    let ((remote4, remote6), (local4, local6)) = (addresses(from.ip()), addresses(to.ip()));
    let mut context = [0; 72];
    for (at, bytes) in [
        (8, family.to_ne_bytes().as_slice()),
        (12, &u32::from(protocol).to_ne_bytes()),
        (16, &remote4),
        (20, &remote6),
        (36, &from.port().to_be_bytes()),
        (40, &local4),
        (44, &local6),
        (60, &u32::from(to.port()).to_ne_bytes()),
    ] {
        context[at..at + bytes.len()].copy_from_slice(bytes);
    }
    context
}
