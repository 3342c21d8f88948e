//! Ports: finding them, and what a started one tells. Starting is in `port_start`.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::sync::Arc;

use dpdk_sys as sys;
use thiserror::Error;

use crate::eal::{NotInitialised, Runtime};
use crate::mempool::Mempool;
use crate::port_start;
use crate::queue::{RxQueue, TxQueue};

/// Number of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub(crate) u16);

impl PortId {
    /// Its number, as in [`crate::mbuf::Mbuf::port`].
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a queue of a port, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub(crate) u16);

impl QueueId {
    /// Its number.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a port spreads packets over its receive queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RssMode {
    /// As the port likes.
    #[default]
    None,
    /// By addresses and ports, both directions of a connection alike (key 6d5a repeated), over a fixed table; on ports
    /// that can, see [`Offloads::rss`].
    Symmetric,
}

/// What a port is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors of each receive queue; the port may round it.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; the port may round it.
    pub tx_descriptors: u16,
    /// Octets of the largest packet without its link header; `None` leaves the port's own.
    pub mtu: Option<u16>,
    /// How packets are spread.
    pub rss: RssMode,
    /// Receive frames for every MAC address, on ports that tell them apart.
    pub promiscuous: bool,
    /// Have the port check and compute checksums, as far as it can: see [`Port::offloads`].
    pub checksum_offloads: bool,
}

impl Default for PortConfig {
    /// One queue each way with 1024 descriptors, nothing asked for.
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            rss: RssMode::None,
            promiscuous: false,
            checksum_offloads: false,
        }
    }
}

/// What a port was granted: wanted, and within its abilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Checks IPv4 header checksums.
    pub rx_ipv4_checksum: bool,
    /// Checks TCP checksums.
    pub rx_tcp_checksum: bool,
    /// Checks UDP checksums.
    pub rx_udp_checksum: bool,
    /// Computes IPv4 header checksums.
    pub tx_ipv4_checksum: bool,
    /// Computes TCP checksums.
    pub tx_tcp_checksum: bool,
    /// Computes UDP checksums.
    pub tx_udp_checksum: bool,
    /// Sends packets of several segments.
    pub tx_multi_segment: bool,
    /// Receives packets longer than a buffer into several segments.
    pub rx_scatter: bool,
    /// Spreads packets over queues by [`RssMode::Symmetric`]. Without it, software must steer.
    pub rss: bool,
    /// Receives frames for every MAC address.
    pub promiscuous: bool,
}

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Its rate in Mbit/s, 0 if unknown.
    pub speed_mbps: u32,
}

/// Counters of a port, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets received.
    pub ipackets: u64,
    /// Packets sent.
    pub opackets: u64,
    /// Octets received.
    pub ibytes: u64,
    /// Octets sent.
    pub obytes: u64,
    /// Packets dropped by the port because the receive queue was full.
    pub imissed: u64,
    /// Packets received with an error.
    pub ierrors: u64,
    /// Packets that could not be sent.
    pub oerrors: u64,
    /// Packets dropped because the mempool was exhausted.
    pub rx_nombuf: u64,
}

/// Why a port was not found or not started.
#[derive(Debug, Error)]
pub enum PortError {
    /// No EAL.
    #[error(transparent)]
    NotInitialised(#[from] NotInitialised),
    /// No such port.
    #[error(
        "there is no port {device:?}; ports that exist: {present}. Name a virtual device given to the EAL, or the \
         address of a PCI device that is bound to vfio-pci"
    )]
    NoSuchPort {
        /// The name.
        device: String,
        /// Ports that exist, in words.
        present: String,
    },
    /// The device could not be attached.
    #[error("device {device:?} could not be attached: {reason}")]
    Attach {
        /// The device with its arguments.
        device: String,
        /// DPDK's error in words.
        reason: String,
    },
    /// The port is in use.
    #[error("port {port} is started already: one owner at a time")]
    AlreadyStarted {
        /// The port's name.
        port: String,
    },
    /// More queues than the port has.
    #[error(
        "port {port} has at most {max} {direction} queues, {wanted} are wanted: ask for fewer, or for more in the \
         device's arguments (net_af_packet: qpairs=, net_af_xdp: queue_count=)"
    )]
    Queues {
        /// The port's name.
        port: String,
        /// `receive` or `transmit`.
        direction: &'static str,
        /// Asked for.
        wanted: u16,
        /// What it has.
        max: u16,
    },
    /// No queue in a direction.
    #[error("port {port}: at least one receive and one transmit queue are needed")]
    NoQueues {
        /// The port's name.
        port: String,
    },
    /// Pools and queues do not match.
    #[error("port {port}: {pools} mempools for {queues} receive queues: give one for all, or one for each")]
    Pools {
        /// The port's name.
        port: String,
        /// Mempools given.
        pools: usize,
        /// Receive queues asked for.
        queues: u16,
    },
    /// An MTU that the port cannot have.
    #[error("port {port}: MTU {wanted} is not within {min} to {max}, which is what the port can")]
    Mtu {
        /// The port's name.
        port: String,
        /// Asked for, in octets.
        wanted: u16,
        /// Least, in octets.
        min: u16,
        /// Most, in octets.
        max: u16,
    },
    /// Buffers too small for the MTU.
    #[error(
        "port {port}: frames of {frame_octets} octets do not fit the buffers of mempool {pool:?} ({room_octets} octets \
         after the headroom), and the port cannot spread them: give the mempool a data room of {needed_octets} octets"
    )]
    DataRoom {
        /// The port's name.
        port: String,
        /// The largest frame, in octets.
        frame_octets: u32,
        /// The mempool.
        pool: String,
        /// What fits, in octets.
        room_octets: u32,
        /// The data room that would do, in octets.
        needed_octets: u32,
    },
    /// A step that DPDK refused.
    #[error("port {port}: {step} failed: {reason} (DPDK's log says more)")]
    Step {
        /// The port's name.
        port: String,
        /// What was attempted.
        step: String,
        /// DPDK's error in words.
        reason: String,
    },
}

/// A port that is open: what the port's handle and its queues share. Stopped and closed with the last of them.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) id: PortId,
    pub(crate) _pools: Vec<Mempool>,
    /// Dropped last.
    pub(crate) _runtime: Arc<Runtime>,
}

impl Open {
    #[inline(always)]
    pub(crate) fn id(&self) -> PortId {
        self.id
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        port_start::close(self.id);
    }
}

/// A started port. It is stopped and closed when this and all its queues are dropped; a closed device is gone for this
/// process (unless attached again).
#[derive(Debug)]
pub struct Port {
    pub(crate) open: Arc<Open>,
    pub(crate) name: String,
    pub(crate) offloads: Offloads,
    pub(crate) max_rx_queues: u16,
    pub(crate) max_tx_queues: u16,
}

impl Port {
    /// Finds a port by the name of its virtual device (arguments after a comma are ignored) or its PCI address.
    ///
    /// # Errors
    /// [`PortError::NoSuchPort`] lists those that exist.
    pub fn find(device: &str) -> Result<PortId, PortError> {
        let _runtime = Runtime::current()?;
        let name = device.split(',').next().unwrap_or(device);
        if let Some(port) = by_name(name).or_else(|| by_name(&format!("0000:{name}"))) {
            return Ok(port);
        }
        let present = names().join(", ");
        let present = if present.is_empty() { "none".to_owned() } else { present };
        Err(PortError::NoSuchPort { device: device.to_owned(), present })
    }

    /// Attaches a device while the EAL runs, such as `net_ring5`, and finds its port.
    ///
    /// # Errors
    /// [`PortError::Attach`].
    pub fn attach(device: &str) -> Result<PortId, PortError> {
        let _runtime = Runtime::current()?;
        port_start::attach(device)?;
        Self::find(device)
    }

    /// Configures and starts a port, with one mempool for all receive queues or one for each.
    ///
    /// Of offloads and RSS only what the port has is asked for; see [`Port::offloads`].
    ///
    /// # Errors
    /// [`PortError`]. What is refused before the port starts leaves it as it was, to be started with another
    /// configuration; if only promiscuous mode is refused, it is closed again.
    pub fn start(
        id: PortId,
        config: &PortConfig,
        pools: &[Mempool],
    ) -> Result<(Self, Vec<RxQueue>, Vec<TxQueue>), PortError> {
        port_start::start(id, config, pools)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> PortId {
        self.open.id
    }

    /// Its name: that of the virtual device, or the PCI address.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its MAC address; zeros if it has none.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let mut address = sys::rte_ether_addr::default();
        // SAFETY: the port is open; writes the address, or nothing on an error.
        unsafe { sys::rte_eth_macaddr_get(self.id().raw(), &raw mut address) };
        address.addr_bytes
    }

    /// State of the link, without waiting for it.
    #[must_use]
    pub fn link(&self) -> Link {
        let (mut speed_mbps, mut up) = (0, 0);
        // SAFETY: the port is open; both addresses are valid for writes.
        let error = unsafe {
            sys::dpdk_sys_rte_eth_link_get_nowait(self.id().raw(), &raw mut speed_mbps, &raw mut up)
        };
        if speed_mbps == sys::DPDK_SYS_ETH_SPEED_NUM_UNKNOWN {
            speed_mbps = 0;
        }
        Link { up: error == 0 && up != 0, speed_mbps }
    }

    /// Its counters. Not for the packet path: some ports ask the kernel or the hardware.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: the port is open; writes the counters, or leaves them zero.
        unsafe { sys::rte_eth_stats_get(self.id().raw(), &raw mut stats) };
        Stats {
            ipackets: stats.ipackets,
            opackets: stats.opackets,
            ibytes: stats.ibytes,
            obytes: stats.obytes,
            imissed: stats.imissed,
            ierrors: stats.ierrors,
            oerrors: stats.oerrors,
            rx_nombuf: stats.rx_nombuf,
        }
    }

    /// What it was granted.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// NUMA socket that it is attached to, if that is known.
    #[must_use]
    pub fn socket(&self) -> Option<u32> {
        socket(self.id())
    }

    /// Octets of the largest packet without its link header.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        let mut mtu = 0;
        // SAFETY: the port is open; the address is valid for writes.
        unsafe { sys::rte_eth_dev_get_mtu(self.id().raw(), &raw mut mtu) };
        mtu
    }

    /// Receive queues that it could have.
    #[must_use]
    pub fn max_rx_queues(&self) -> u16 {
        self.max_rx_queues
    }

    /// Transmit queues that it could have.
    #[must_use]
    pub fn max_tx_queues(&self) -> u16 {
        self.max_tx_queues
    }
}

/// NUMA socket of a port, if known: for the mempool that it shall be started with.
#[must_use]
pub fn socket(id: PortId) -> Option<u32> {
    // SAFETY: checks the number itself; reads tables that outlive the EAL.
    u32::try_from(unsafe { sys::rte_eth_dev_socket_id(id.raw()) }).ok()
}

fn by_name(name: &str) -> Option<PortId> {
    let name = CString::new(name).ok()?;
    let mut port = 0;
    // SAFETY: a zero-terminated string, and an address valid for writes.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) } == 0).then_some(PortId(port))
}

/// Room for the longest name and its final zero.
const NAME_OCTETS: usize = sys::DPDK_SYS_ETH_NAME_MAX_LEN as usize;

/// Name of a port.
pub(crate) fn name(id: PortId) -> Option<String> {
    let mut name: [c_char; NAME_OCTETS] = [0; NAME_OCTETS];
    // SAFETY: the buffer has the length that DPDK wants; it writes a zero-terminated string on success.
    unsafe {
        (sys::rte_eth_dev_get_name_by_port(id.raw(), name.as_mut_ptr()) == 0)
            .then(|| CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

/// Names of all ports that exist.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut id = 0;
    loop {
        // SAFETY: reads tables that outlive the EAL; bounds are checked there.
        let port = unsafe { sys::rte_eth_find_next(id) };
        if u32::from(port) >= sys::DPDK_SYS_MAX_ETHPORTS {
            return names;
        }
        names.extend(name(PortId(port)));
        id = port + 1;
    }
}
