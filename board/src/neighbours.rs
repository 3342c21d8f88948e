//! Where the appliances are: the kernel's neighbour table, kept warm.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

use tracing::debug;

/// The discard port (RFC 863): nobody needs to listen, the datagram only makes the kernel resolve its target.
const DISCARD: u16 = 9;

/// The configured appliances whose Ethernet address the kernel knows on `interface`.
pub fn known(interface: &str, appliances: &[Ipv4Addr]) -> Vec<(Ipv4Addr, [u8; 6])> {
    let table = fs::read_to_string("/proc/self/net/arp").unwrap_or_default();
    parse(&table, interface).into_iter().filter(|(address, _)| appliances.contains(address)).collect()
}

/// Makes the kernel resolve the appliances, and check stale entries again.
pub fn refresh(own: Ipv4Addr, appliances: &[Ipv4Addr]) {
    let Ok(socket) = UdpSocket::bind((own, 0)) else { return };
    for appliance in appliances {
        if let Err(error) = socket.send_to(&[], (*appliance, DISCARD)) {
            debug!(%appliance, %error, "resolution not triggered");
        }
    }
}

/// /proc/net/arp: address, hardware type, flags, hardware address, mask, device. Incomplete entries lack flag 2.
fn parse(table: &str, interface: &str) -> Vec<(Ipv4Addr, [u8; 6])> {
    const ATF_COM: u32 = 2;
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = fields.next()?.parse().ok()?;
        let flags = u32::from_str_radix(fields.nth(1)?.strip_prefix("0x")?, 16).ok()?;
        let mac = parse_mac(fields.next()?)?;
        let device = fields.nth(1)?;
        (flags & ATF_COM != 0 && device == interface).then_some((address, mac))
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets: Vec<u8> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16).ok()).collect::<Option<_>>()?;
    octets.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_entries_of_the_farm_interface_are_known() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     192.0.2.2        0x1         0x2         02:00:00:00:00:02     *        eth0\n\
                     192.0.2.3        0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     192.0.2.4        0x1         0x6         02:00:00:00:00:04     *        eth0\n\
                     192.0.2.5        0x1         0x2         02:00:00:00:00:05     *        eth1\n\
                     nonsense\n";
        let expected = [
            (Ipv4Addr::new(192, 0, 2, 2), [2, 0, 0, 0, 0, 2]),
            (Ipv4Addr::new(192, 0, 2, 4), [2, 0, 0, 0, 0, 4]),
        ];
        assert_eq!(parse(table, "eth0"), expected);
    }

    #[test]
    fn only_configured_appliances_count() {
        assert!(known("lo", &[Ipv4Addr::new(192, 0, 2, 2)]).is_empty());
    }
}
