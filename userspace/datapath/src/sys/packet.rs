//! Packet sockets and the scheduler, as far as no crate has them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Instructions of a socket's filter (linux/filter.h, linux/bpf_common.h).
pub(crate) mod filter {
    use socket2::SockFilter;

    /// The accumulator becomes the four bytes at an offset (`BPF_LD | BPF_W | BPF_ABS`).
    pub(crate) const LOAD_WORD: u16 = 0x20;
    /// The accumulator becomes the byte at an offset (`BPF_LD | BPF_B | BPF_ABS`).
    pub(crate) const LOAD_BYTE: u16 = 0x30;
    /// The offset that stands for whom the packet is for (`SKF_AD_OFF + SKF_AD_PKTTYPE`).
    pub(crate) const PACKET_TYPE: u32 = 0xffff_f004;
    /// The whole packet is taken.
    pub(crate) const RETURN_ALL: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
    /// Nothing of it is.
    pub(crate) const RETURN_NONE: SockFilter = SockFilter::new(0x06, 0, 0, 0);

    /// Goes on behind so many instructions if the accumulator is that, else behind so many.
    pub(crate) const fn equal(value: u32, then: u8, otherwise: u8) -> SockFilter {
        SockFilter::new(0x15, then, otherwise, value)
    }

    /// Goes on behind so many instructions if the accumulator is greater, else behind so many.
    pub(crate) const fn greater(value: u32, then: u8, otherwise: u8) -> SockFilter {
        SockFilter::new(0x25, then, otherwise, value)
    }
}

/// Binds a packet socket to an interface, and to a type of frames, in host order. Type 0: it receives none.
pub(crate) fn bind_packet(socket: impl AsFd, ether_type: u16, index: u32) -> io::Result<()> {
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ether_type.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a whole `sockaddr_ll` that outlives the call, and its length is told with it.
    let done = unsafe {
        libc::bind(
            socket.as_fd().as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the calling thread one of `SCHED_FIFO`: it runs whenever it wants to, before all ordinary ones.
pub(crate) fn run_in_real_time(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: 0 is the calling thread, and the parameters outlive the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
