//! The farm interface as this network namespace sees it.

use std::{collections::HashMap, net::Ipv4Addr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

/// One interface of this namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index, 0 never.
    pub index: u32,
    /// The Ethernet address, when it has one.
    pub mac: Option<[u8; 6]>,
    /// Administratively up.
    pub up: bool,
    /// Its IPv4 addresses.
    pub addresses: Vec<Ipv4Addr>,
}

/// All interfaces of this namespace by name.
///
/// # Errors
/// When the kernel does not list them.
pub fn interfaces() -> Result<HashMap<String, Interface>, nix::Error> {
    let mut found: HashMap<String, Interface> = HashMap::new();
    for entry in getifaddrs()? {
        let interface = found.entry(entry.interface_name).or_default();
        interface.up |= entry.flags.contains(InterfaceFlags::IFF_UP);
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            interface.mac = link.addr();
            interface.index = u32::try_from(link.ifindex()).unwrap_or(0);
        }
        if let Some(ip) = address.as_sockaddr_in() {
            interface.addresses.push(ip.ip());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_with_its_index() {
        let all = interfaces().expect("interfaces");
        let lo = all.get("lo").expect("every namespace has lo");
        assert_eq!(lo.index, 1);
    }
}
