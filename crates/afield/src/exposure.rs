//! Whether somebody else could reach a listening node.
//!
//! Links are not authenticated yet, so a node may listen on loopback, or where nobody but the machine's own users can come
//! from: a network namespace whose interfaces are all virtual (loopback, `veth`, `dummy`) and which has no route with a
//! gateway and no default route. What cannot be found out counts as exposed.

use std::fs;
use std::net::SocketAddr;

use crate::sys::network;

/// Drivers of interfaces whose other end is on this machine.
const VIRTUAL_DRIVERS: [&str; 2] = ["veth", "dummy"];

// Flags in the routing tables.
const ROUTE_UP: u32 = 0x0001;
const ROUTE_GATEWAY: u32 = 0x0002;
const ROUTE_REJECT: u32 = 0x0200;

/// Says why not, if listening on the address would let others in.
pub fn check(address: SocketAddr) -> Result<(), String> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    routes_4(&read("/proc/self/net/route")?)?;
    match fs::read_to_string("/proc/self/net/ipv6_route") {
        Ok(table) => routes_6(&table)?,
        // A kernel without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(format!("/proc/self/net/ipv6_route: {error}")),
    }
    for name in network::interfaces().map_err(|error| format!("the list of network interfaces: {error}"))? {
        if name == "lo" {
            continue;
        }
        let driver = network::driver(&name);
        if !driver
            .as_ref()
            .is_ok_and(|driver| VIRTUAL_DRIVERS.contains(&driver.as_str()))
        {
            return Err(format!("interface {name} may lead to other machines"));
        }
    }
    Ok(())
}

/// The table in `/proc/net/route`: name, destination, gateway, flags, …, mask; numbers in hexadecimal.
fn routes_4(table: &str) -> Result<(), String> {
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, _, flags, _, _, _, mask, ..] = fields[..] else {
            return Err(format!("unreadable route `{}`", line.trim_end()));
        };
        let flags =
            u32::from_str_radix(flags, 16).map_err(|_| format!("unreadable route `{}`", line.trim_end()))?;
        judge(name, flags, destination == "00000000" && mask == "00000000")?;
    }
    Ok(())
}

/// The table in `/proc/net/ipv6_route`: destination, its prefix length, source, its prefix length, next hop, metric, two
/// counters, flags, name.
fn routes_6(table: &str) -> Result<(), String> {
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, length, _, _, _, _, _, _, flags, name] = fields[..] else {
            return Err(format!("unreadable route `{line}`"));
        };
        let flags = u32::from_str_radix(flags, 16).map_err(|_| format!("unreadable route `{line}`"))?;
        // The kernel's own entry "no route" is on lo.
        if name != "lo" {
            judge(name, flags, length == "00")?;
        }
    }
    Ok(())
}

fn judge(name: &str, flags: u32, is_default: bool) -> Result<(), String> {
    if flags & ROUTE_UP == 0 || flags & ROUTE_REJECT != 0 {
        Ok(())
    } else if is_default {
        Err(format!("there is a default route ({name})"))
    } else if flags & ROUTE_GATEWAY != 0 {
        Err(format!("there is a route through a gateway ({name})"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    #[test]
    fn routes_out_are_found() {
        let with = |routes: &str| routes_4(&format!("{HEAD}{routes}"));
        assert_eq!(with(""), Ok(()));
        assert_eq!(
            with("veth0\t00004D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0   \n"),
            Ok(())
        );
        assert_eq!(
            with("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"),
            Err("there is a default route (eth0)".to_owned())
        );
        assert_eq!(
            with("eth0\t0000000A\t010200C0\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n"),
            Err("there is a route through a gateway (eth0)".to_owned())
        );
        assert!(with("eth0 x\n").is_err());
    }

    #[test]
    fn routes_out_are_found_in_version_6() {
        let zero = "0".repeat(32);
        let line = |length: &str, flags: &str, name: &str| {
            format!("{zero} {length} {zero} 00 {zero} 00000400 00000001 00000000 {flags} {name}\n")
        };
        assert_eq!(routes_6(&line("00", "00200200", "lo")), Ok(()));
        assert_eq!(routes_6(&line("40", "00000001", "veth0")), Ok(()));
        assert!(routes_6(&line("00", "00450003", "eth0")).is_err());
        assert!(routes_6(&line("40", "00000003", "eth0")).is_err());
        assert!(routes_6("nonsense\n").is_err());
    }

    #[test]
    fn loopback_is_always_fine() {
        assert_eq!(check("127.0.0.1:1".parse().unwrap()), Ok(()));
        assert_eq!(check("[::1]:1".parse().unwrap()), Ok(()));
    }
}
