//! The old ethtool ioctl: driver and offloads of an interface. Reads only; needs no privilege.

use std::{
    ffi::{CStr, c_char},
    io,
    os::fd::AsRawFd,
};

use socket2::{Domain, Socket, Type};

/// Commands of linux/ethtool.h.
const GDRVINFO: u32 = 0x3;
const GTXCSUM: u32 = 0x16;
const GFLAGS: u32 = 0x25;
/// Bits of `GFLAGS`.
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// What the interface's driver does on its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Offloads {
    pub(crate) tx_checksum: bool,
    pub(crate) lro: bool,
    pub(crate) rx_vlan: bool,
}

/// One ioctl for an interface of the calling thread's network namespace.
///
/// # Safety
/// `T` is laid out as the structure of the command in its first field.
unsafe fn call<T>(interface: &str, argument: &mut T) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    let mut name = [0 as c_char; libc::IFNAMSIZ];
    // The last byte stays 0.
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    let data = std::ptr::from_mut(argument).cast();
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: data },
    };
    // SAFETY: the request names an interface and points to the command's structure, exclusively borrowed here.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Name of the interface's driver.
pub(crate) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        cmd: GDRVINFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: DriverInfo is 196 bytes, as struct ethtool_drvinfo.
    unsafe { call(interface, &mut info) }?;
    let name = CStr::from_bytes_until_nul(&info.driver).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(name.to_string_lossy().into_owned())
}

fn value(interface: &str, cmd: u32) -> io::Result<u32> {
    let mut value = Value { cmd, data: 0 };
    // SAFETY: Value is struct ethtool_value, which all commands used here take.
    unsafe { call(interface, &mut value) }?;
    Ok(value.data)
}

/// The interface's offloads.
pub(crate) fn offloads(interface: &str) -> io::Result<Offloads> {
    let flags = value(interface, GFLAGS)?;
    Ok(Offloads {
        tx_checksum: value(interface, GTXCSUM)? != 0,
        lro: flags & FLAG_LRO != 0,
        rx_vlan: flags & FLAG_RXVLAN != 0,
    })
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lo_has_offloads_and_what_does_not_exist_is_an_error() {
        let lo = offloads("lo").unwrap();
        assert!(lo.tx_checksum && !lo.lro, "{lo:?}");
        assert!(driver("no-such-interface-name").is_err());
        assert!(offloads("nosuchif0").is_err());
    }
}
