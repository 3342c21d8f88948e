//! How much memory a configuration takes: packet buffers from DPDK, tables on pages of their own (`ipos_dpdk::memory`).

use ipos_pipelines::watch::{WATCHED_PER_PENDING, Watch};
use ipos_pipelines::{admit, datagram};

use super::model::{Config, CookieMode};

/// What a configuration takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Packet buffers.
    pub mbufs: u32,
    /// Octets of a buffer's data room, headroom included.
    pub data_room_octets: u16,
    /// Octets per packet buffer, all in.
    pub mbuf_octets: u64,
    /// DPDK's memory.
    pub dpdk_octets: u64,
    /// The workers' tables and request buffers, and the Cookie Maps.
    pub tables_octets: u64,
}

/// Octets in front of a fresh packet (DPDK's `RTE_PKTMBUF_HEADROOM`).
const HEADROOM_OCTETS: u16 = 128;

/// What every driver can rely on (DPDK's `RTE_MBUF_DEFAULT_DATAROOM`).
const DATA_ROOM_MIN_OCTETS: u16 = 2048;

/// Ethernet header, two VLAN tags, frame check sequence.
const LINK_OCTETS: u16 = 14 + 8 + 4;

/// Memory pool header, mbuf structure.
const MBUF_OVERHEAD_OCTETS: u64 = 64 + 128;

/// Octets of a descriptor and its book-keeping, generously.
const DESCRIPTOR_OCTETS: u64 = 256;

/// What the EAL and the drivers take for themselves.
const EAL_OCTETS: u64 = 16 << 20;

/// Octets of a shard per entry, timers and index included, and what its pages round up.
const ENTRY_OCTETS: u64 = 81;

/// Octets of a session of the Cookie Map, chains included.
const SESSION_OCTETS: u64 = 72;

/// Octets of a request buffer, and of the records of watched connections that go with it.
const PENDING_OCTETS: u64 = 16 * 1024 + 512 + WATCHED_PER_PENDING as u64 * WATCH_OCTETS;

/// Octets of a watched connection's record in its table.
const WATCH_OCTETS: u64 = 80;

const _: () = assert!(size_of::<Watch>() as u64 + 8 <= WATCH_OCTETS, "as the table keeps it");

/// Packet buffers that a worker has in hand beside those in queues: bursts, caches, answers on their way, datagrams
/// that wait for a board, SYNs that wait to be admitted.
const WORKER_MBUFS: u64 = 4096;

const _: () = assert!(
    (datagram::HOLDING_MAX as usize * datagram::HELD_EACH) as u64 + admit::HELD_MAX as u64
        <= WORKER_MBUFS / 2,
    "datagrams and SYNs that wait leave the half of them"
);

/// The sizes of a configuration.
pub fn of(config: &Config) -> Sizes {
    let workers = config.dpdk.worker_cpus.len() as u64;
    let descriptors: u64 = config
        .ports
        .iter()
        .map(|port| workers * (u64::from(port.rx_descriptors) + u64::from(port.tx_descriptors)))
        .sum();
    // Segments that wait for a gap to fill, or for the farm's answer, are mbufs: two for each request buffer, on average.
    let waiting = workers * u64::from(config.worker.pending.value) * 2;
    let computed =
        (descriptors + waiting + workers * WORKER_MBUFS + u64::from(config.worker.command_queue) * workers)
            .next_power_of_two()
            - 1;
    let mbufs = match config.dpdk.mbufs.value {
        0 => u32::try_from(computed).unwrap_or(u32::MAX),
        given => given,
    };
    let mtu = config.ports.iter().map(|port| port.mtu.value).max().unwrap_or(1500);
    let data_room_octets =
        HEADROOM_OCTETS + (mtu + LINK_OCTETS).max(DATA_ROOM_MIN_OCTETS).next_multiple_of(64);
    let mbuf_octets = u64::from(data_room_octets) + MBUF_OVERHEAD_OCTETS;
    let sessions = sessions(config);
    Sizes {
        mbufs,
        data_room_octets,
        mbuf_octets,
        dpdk_octets: u64::from(mbufs) * mbuf_octets + descriptors * DESCRIPTOR_OCTETS + EAL_OCTETS,
        tables_octets: workers
            * ((u64::from(config.worker.entries.value) + u64::from(config.worker.datagram_flows))
                * ENTRY_OCTETS
                + u64::from(config.worker.pending.value) * PENDING_OCTETS)
            + sessions * SESSION_OCTETS,
    }
}

/// Sessions of the Cookie Maps.
fn sessions(config: &Config) -> u64 {
    let modes = config.services.iter().filter_map(|service| Some(&service.cookie.as_ref()?.mode));
    let entries = modes.map(|mode| match mode {
        CookieMode::Learn { entries, .. } => u64::from(*entries),
        CookieMode::Encoded { .. } | CookieMode::Insert { .. } => 0,
    });
    entries.sum()
}
