//! The configuration as the program uses it, checked. `docs/configuration.md` says what each key means.

mod cookie;
mod service;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipos_pipelines::config::{Idle, Role, Timeouts};

use super::read::At;

pub use cookie::{Attributes, Cookie, CookieMode, CookieName, CookiePath, KeyText, SameSite};
pub use service::{
    Check, CheckHost, CheckPath, ContentType, Datagrams, FlowMode, Map, Page, Pages, RowAnswer, Service,
    Start, Table, Tls, TlsRow,
};

/// The whole file.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[appliance]`
    pub appliance: Appliance,
    /// `[dpdk]`
    pub dpdk: Dpdk,
    /// `[worker]`
    pub worker: Worker,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// `[tcp]`
    pub tcp: Tcp,
    /// `[migration]`
    pub migration: Migration,
    /// `[ask]`
    pub ask: Ask,
    /// `[[port]]`
    pub ports: Vec<Port>,
    /// `[[service]]`
    pub services: Vec<Service>,
    /// `[[board]]`
    pub boards: Vec<Board>,
}

/// `[appliance]`
#[derive(Clone, Debug)]
pub struct Appliance {
    /// Names the appliance to the boards.
    pub id: u16,
    /// The farm's EtherType.
    pub ethertype: At<u16>,
    /// The Unix socket that `status` talks to.
    pub admin_socket: PathBuf,
    /// The socket's mode.
    pub admin_socket_mode: u32,
    /// Where `/metrics` and `/healthz` are served; `None` when they are not.
    pub metrics: Option<SocketAddr>,
    /// Where the epoch is kept.
    pub state_directory: PathBuf,
    /// Filter of the log, as `tracing` has it.
    pub log: String,
}

/// Where DPDK takes its memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Reserved hugepages (`--in-memory`).
    Hugepages,
    /// Ordinary pages (`--no-huge`).
    NoHuge,
}

/// `[dpdk]`
#[derive(Clone, Debug)]
pub struct Dpdk {
    /// Where memory comes from.
    pub memory: Memory,
    /// How much, MiB.
    pub memory_mb: At<u32>,
    /// Packet buffers; 0 computes them.
    pub mbufs: At<u32>,
    /// The CPU of the control core.
    pub control_cpu: At<u16>,
    /// What the control core does when there is nothing to do.
    pub control_idle: Idle,
    /// The CPU of each worker.
    pub worker_cpus: Vec<At<u16>>,
    /// Tells processes with `no-huge` memory apart.
    pub file_prefix: String,
    /// Further arguments of the EAL.
    pub extra: Vec<String>,
}

/// `[worker]`
#[derive(Clone, Debug)]
pub struct Worker {
    /// Entries per shard.
    pub entries: At<u32>,
    /// Flows of datagrams per worker.
    pub datagram_flows: u32,
    /// Buffers for unfinished requests, per worker.
    pub pending: At<u32>,
    /// When idle.
    pub idle: Idle,
    /// Messages that the queue to the control core holds.
    pub event_queue: u32,
    /// Messages that the queue from the control core holds.
    pub command_queue: u32,
}

/// `[tcp]`
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Timestamps may be agreed to (RFC 7323).
    pub timestamps: bool,
    /// SACK may be agreed to (RFC 2018).
    pub sack: bool,
    /// Window scaling may be agreed to (RFC 7323).
    pub window_scale: bool,
    /// ECN may be agreed to (RFC 3168).
    pub ecn: bool,
    /// The MSS that the SYN-ACK advertises, octets.
    pub mss: At<u16>,
}

/// `[migration]`
#[derive(Clone, Debug)]
pub struct Migration {
    /// Until a Connection Packet is repeated, milliseconds.
    pub retry_ms: u32,
    /// Connection Packets per board.
    pub tries: u8,
    /// Until a request must have a board, milliseconds.
    pub deadline_ms: At<u32>,
    /// Attempts under way at once.
    pub attempts: u32,
}

/// `[ask]`: who holds an endpoint?
#[derive(Clone, Debug)]
pub struct Ask {
    /// Until a question is repeated, milliseconds.
    pub retry_ms: u32,
    /// How often a question is asked.
    pub tries: u8,
    /// Questions under way at once.
    pub outstanding: u32,
}

/// `[[port]]`
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name in metrics and messages.
    pub name: At<String>,
    /// What DPDK calls it.
    pub device: At<Device>,
    /// What it faces.
    pub role: Role,
    /// The appliance's address on it, and the subnet.
    pub address: At<Subnet>,
    /// Octets of the largest IPv4 packet.
    pub mtu: At<u16>,
    /// Descriptors per receive queue.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue.
    pub tx_descriptors: u16,
}

/// `[[board]]`
#[derive(Clone, Debug)]
pub struct Board {
    /// Its name in metrics and messages.
    pub name: At<String>,
    /// Its address on the farm network.
    pub address: At<Ipv4Addr>,
    /// Its MAC address, when it shall not be learned.
    pub mac: Option<MacText>,
    /// The farm port that it is behind: a place in [`Config::ports`].
    pub port: u8,
    /// Its share of new connections.
    pub weight: u16,
}

/// A MAC address as text has it: six pairs of hexadecimal digits between colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacText(pub [u8; 6]);

impl FromStr for MacText {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(())?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| ())?;
        }
        // A multicast address belongs to nobody, and the zero address to a device that has none.
        let usable = octets[0] & 1 == 0 && octets != [0; 6];
        if parts.next().is_none() && usable { Ok(Self(octets)) } else { Err(()) }
    }
}

/// An address with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The address itself.
    pub address: Ipv4Addr,
    /// Octets of the network's prefix, bits (8..=31).
    pub prefix: u8,
}

impl Subnet {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// Whether the address is on this network.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.address.to_bits() & self.mask()
    }

    /// Whether a machine may have the address: on this network, and neither its first nor its last address.
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let host = address.to_bits() & !self.mask();
        self.contains(address) && (self.prefix == 31 || (host != 0 && host != !self.mask()))
    }

    /// Whether two networks share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.address.to_bits() & mask == other.address.to_bits() & mask
    }
}

impl FromStr for Subnet {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let subnet =
            Self { address: address.parse().map_err(|_| ())?, prefix: prefix.parse().map_err(|_| ())? };
        if !(8..=31).contains(&subnet.prefix) {
            return Err(());
        }
        if subnet.has_host(subnet.address) { Ok(subnet) } else { Err(()) }
    }
}

/// A device as DPDK names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A virtual device: driver, instance and arguments, as `--vdev` has it.
    Virtual(String),
    /// A PCI address in full, as `--allow` has it.
    Pci(String),
}

impl Device {
    /// The text that DPDK is given.
    pub fn text(&self) -> &str {
        match self {
            Device::Virtual(text) | Device::Pci(text) => text,
        }
    }

    /// The device's name within DPDK: the text before its arguments.
    pub fn name(&self) -> &str {
        self.text().split(',').next().unwrap_or_default()
    }

    /// The kernel's interface that a virtual device is tied to, if it names one that must exist already.
    pub fn interface(&self) -> Option<&str> {
        let Device::Virtual(text) = self else { return None };
        let tied = text.starts_with("net_af_packet") || text.starts_with("net_af_xdp");
        text.split(',').find_map(|part| part.strip_prefix("iface=")).filter(|_| tied)
    }
}

impl FromStr for Device {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if is_pci(text.split(',').next().unwrap_or_default()) {
            return Ok(Device::Pci(text.to_ascii_lowercase()));
        }
        let named = text.starts_with("net_") && text.split(',').all(|part| !part.is_empty());
        if named && !text.contains(char::is_whitespace) {
            Ok(Device::Virtual(text.to_owned()))
        } else {
            Err(())
        }
    }
}

/// Whether the text is a PCI address in full: `0000:81:00.0`.
fn is_pci(text: &str) -> bool {
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let Some((head, function)) = text.split_once('.') else { return false };
    let mut parts = head.split(':');
    let all = [parts.next(), parts.next(), parts.next()];
    let [Some(domain), Some(bus), Some(device)] = all else { return false };
    parts.next().is_none() && hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_knows_its_hosts() {
        let subnet: Subnet = "192.0.2.130/25".parse().expect("a subnet");
        assert!(subnet.has_host(Ipv4Addr::new(192, 0, 2, 129)));
        assert!(!subnet.contains(Ipv4Addr::new(192, 0, 2, 1)));
        assert!(!subnet.has_host(Ipv4Addr::new(192, 0, 2, 128)), "the network itself");
        assert!(!subnet.has_host(Ipv4Addr::new(192, 0, 2, 255)), "the broadcast address");
        assert!(subnet.overlaps("192.0.2.1/24".parse().expect("a subnet")));
        assert!(!subnet.overlaps("192.0.2.1/25".parse().expect("a subnet")));
        for wrong in ["192.0.2.1", "192.0.2.0/24", "192.0.2.1/33", "192.0.2.1/0", "x/24"] {
            assert_eq!(wrong.parse::<Subnet>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn devices_are_virtual_or_pci() {
        let device: Device = "net_af_packet0,iface=wan0,qpairs=2".parse().expect("a device");
        assert_eq!((device.name(), device.interface()), ("net_af_packet0", Some("wan0")));
        assert_eq!("0000:81:00.0".parse(), Ok(Device::Pci("0000:81:00.0".to_owned())));
        let null: Device = "net_null0".parse().expect("a device");
        assert_eq!(null.interface(), None);
        for wrong in ["", "eth0", "81:00.0", "net_null0,,", "net_null 0", "0000:81:00"] {
            assert_eq!(wrong.parse::<Device>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn mac_addresses_are_six_pairs_of_a_single_station() {
        assert_eq!("02:00:5e:10:00:fF".parse(), Ok(MacText([2, 0, 0x5e, 0x10, 0, 0xff])));
        for wrong in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "2:0:5e:10:0:1",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
        ] {
            assert_eq!(wrong.parse::<MacText>(), Err(()), "{wrong}");
        }
    }
}
