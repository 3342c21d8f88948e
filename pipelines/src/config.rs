//! What a worker is told at its start, once. Everything here comes checked from the appliance's configuration.

use std::net::Ipv4Addr;

use ipos_wire::mac::Mac;
use ipos_wire::tcb::OptionBits;

use crate::handoff::{PortIndex, WorkerId};
use crate::handshake::cookie::CookieKeys;

/// What a port faces, and so which frames it may bring (system.md, rules).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Clients: IPv4 and ARP.
    Wan,
    /// Boards: ipOS frames and ARP.
    Farm,
    /// Both behind one port; ipOS frames only from the boards' known MAC addresses.
    Both,
}

impl Role {
    /// Whether clients are behind it.
    #[inline]
    pub const fn faces_clients(self) -> bool {
        matches!(self, Role::Wan | Role::Both)
    }

    /// Whether boards are behind it.
    #[inline]
    pub const fn faces_farm(self) -> bool {
        matches!(self, Role::Farm | Role::Both)
    }
}

/// A port as a worker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// Its place in the configuration.
    pub index: PortIndex,
    /// What it faces.
    pub role: Role,
    /// Its MAC address.
    pub mac: Mac,
    /// The appliance's own address on it: answers ARP and echo requests.
    pub address: Ipv4Addr,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: bare metal, a core of its own.
    Spin,
    /// After this many empty polls in a row it sleeps this long, and goes on doing so until there is work.
    Sleep {
        /// Empty polls before the first sleep.
        after_polls: u32,
        /// How long, microseconds.
        sleep_us: u32,
    },
}

/// Deadlines, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first data until the request head must be complete (408 after it).
    pub request_ms: u32,
    /// From a complete head until the control core must have said where it goes (503 after it).
    pub place_ms: u32,
    /// A migrated connection without a packet from the client: then its board is asked whether it still holds it.
    pub idle_ms: u32,
    /// The same once the client has sent FIN.
    pub half_closed_ms: u32,
    /// How long an entry lingers once its end was seen.
    pub linger_ms: u32,
    /// Retransmission of an answer of the appliance's own; doubles each time.
    pub answer_rto_ms: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request_ms: 10_000,
            place_ms: 10_000,
            idle_ms: 300_000,
            half_closed_ms: 60_000,
            linger_ms: 2_000,
            answer_rto_ms: 1_000,
        }
    }
}

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Which worker this is.
    pub id: WorkerId,
    /// How many workers there are: a flow belongs to the one that its owner hash names.
    pub workers: u8,
    /// The farm's EtherType.
    pub ethertype: u16,
    /// Entries in the worker's shard.
    pub entries: u32,
    /// Flows of datagrams that the worker keeps.
    pub datagram_flows: u32,
    /// Buffers for unfinished requests, 16 KiB each, touched only when used.
    pub pending: u32,
    /// Key of the shard's hash and of the owner hash: the same in every worker, random at every start.
    pub hash_key: [u64; 2],
    /// Secrets of the SYN cookies: the same in every worker, random at every start.
    pub cookie_keys: CookieKeys,
    /// TCP options that every board of the farm supports, and so may be agreed to.
    pub options: OptionBits,
    /// The MSS that the SYN-ACK advertises, octets.
    pub mss: u16,
    /// Octets of the largest IPv4 packet, or ipOS message, on the way to any board.
    pub farm_mtu: u16,
    /// When idle.
    pub idle: Idle,
    /// Deadlines.
    pub timeouts: Timeouts,
}

/// The window scale that the SYN-ACK advertises; the board's kernel keeps it for life (system.md, step 1).
pub const WINDOW_SCALE: u8 = 7;
