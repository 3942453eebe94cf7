//! Network interfaces.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType, socket};

const ETHTOOL_GDRVINFO: u32 = 0x0000_0003;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    _rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// Names of the interfaces that are up, in this network namespace.
pub fn interfaces() -> io::Result<Vec<String>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: a pointer to a live variable, which receives a list that is freed below.
    super::check(unsafe { libc::getifaddrs(&mut list) })?;
    let mut names = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: a member of the list, which is valid until it is freed.
        let current = unsafe { &*entry };
        if current.ifa_flags & libc::IFF_UP as u32 != 0 {
            // SAFETY: the name is a string of the same lifetime.
            let name = unsafe { CStr::from_ptr(current.ifa_name) };
            names.push(name.to_string_lossy().into_owned());
        }
        entry = current.ifa_next;
    }
    // SAFETY: the list that getifaddrs has made, not used any more.
    unsafe { libc::freeifaddrs(list) };
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Name of an interface's driver, for example `veth`.
pub fn driver(interface: &str) -> io::Result<String> {
    let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        _rest: [0; 160],
    };
    // SAFETY: plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: the request names the interface, NUL-terminated, and points to a structure of the kernel's size.
    super::check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) })?;
    let end = info
        .driver
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(info.driver.len());
    Ok(String::from_utf8_lossy(&info.driver[..end]).into_owned())
}
