//! What a service says of its placement, and when a board is above a limit.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::BoardId;

use super::super::board::Need;
use super::super::state::State;

/// How a board is chosen among those that are fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The fewest connections for its weight.
    #[default]
    LeastConnections,
    /// The lowest score: see [`super::score`].
    LeastLoad,
    /// In turns, by weight.
    RoundRobin,
    /// The first in the order that the client's address has, see [`super::hash`].
    ConsistentHash,
}

impl Policy {
    /// Every policy with its name in the configuration, the default first.
    pub const NAMES: [(&'static str, Policy); 4] = [
        ("least-connections", Policy::LeastConnections),
        ("least-load", Policy::LeastLoad),
        ("round-robin", Policy::RoundRobin),
        ("consistent-hash", Policy::ConsistentHash),
    ];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::LeastConnections => "least-connections",
            Policy::LeastLoad => "least-load",
            Policy::RoundRobin => "round-robin",
            Policy::ConsistentHash => "consistent-hash",
        }
    }
}

/// A service's rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// How a board is chosen.
    pub policy: Policy,
    /// The board that keeps what it can take (Fig. 7).
    pub home: Option<BoardId>,
    /// What a board may have at most.
    pub limits: Limits,
    /// It is a UDP service: no listening socket and no TCP option is asked for.
    pub udp: bool,
    /// Over so long a board that joins gets its whole weight, nanoseconds.
    pub slow_start_ns: u64,
}

impl Rules {
    /// What a board must be able to do for a connection to this endpoint. Clients are offered these TCP options.
    pub fn need(&self, options: u16, endpoint: (Ipv4Addr, u16)) -> Need<'_> {
        let options = if self.udp { 0 } else { options };
        Need { options, listener: !self.udp, endpoint, limits: &self.limits }
    }
}

/// `[service.limits]`: a board beyond one of them gets no further connection of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections: reported, in flight and placed since.
    pub connections: Option<u32>,
    /// CPU utilization, percent of all cores.
    pub cpu_percent: Option<u8>,
    /// Available memory that must be left, MiB.
    pub memory_free_mb: Option<u32>,
    /// Available bandwidth that must be left, Mbit/s. A link of unknown speed is not held against it.
    pub bandwidth_free_mbps: Option<u32>,
    /// How full the accept queue may be, percent.
    pub accept_queue_percent: Option<u8>,
}

/// The limit that a board is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// As many connections as it may have.
    Connections,
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Bandwidth.
    Bandwidth,
    /// The accept queue.
    AcceptQueue,
}

impl Limit {
    /// The key in `[service.limits]`.
    pub const fn name(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::Cpu => "cpu_percent",
            Limit::Memory => "memory_free_mb",
            Limit::Bandwidth => "bandwidth_free_mbps",
            Limit::AcceptQueue => "accept_queue_percent",
        }
    }
}

impl Limits {
    /// The first limit that a board is beyond: with its last report, its connections now, and the fill of the accept queue
    /// (waiting, room).
    #[inline]
    pub fn exceeded(
        &self,
        state: &State,
        connections: impl FnOnce() -> u64,
        queue: impl FnOnce() -> (u64, u64),
    ) -> Option<Limit> {
        let below = |limit: Option<u32>, have: u64, unit: u64| {
            limit.is_some_and(|limit| have < u64::from(limit).saturating_mul(unit))
        };
        if self.connections.is_some_and(|limit| connections() >= u64::from(limit)) {
            return Some(Limit::Connections);
        }
        if self.cpu_percent.is_some_and(|limit| state.cpu_hundredths > u16::from(limit) * 100) {
            return Some(Limit::Cpu);
        }
        if below(self.memory_free_mb, state.memory_free_octets, 1 << 20) {
            return Some(Limit::Memory);
        }
        if state.link_bits > 0 && below(self.bandwidth_free_mbps, state.bandwidth_free_bits, 1_000_000) {
            return Some(Limit::Bandwidth);
        }
        let is_full = |limit| {
            let (waiting, room) = queue();
            waiting * 100 > room * u64::from(limit)
        };
        self.accept_queue_percent.is_some_and(is_full).then_some(Limit::AcceptQueue)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::state::tests::QUIET;
    use super::*;

    #[test]
    fn each_limit_is_held_against_its_own_field_and_the_edge_is_inside() {
        let limits = Limits {
            connections: Some(10),
            cpu_percent: Some(90),
            memory_free_mb: Some(256),
            bandwidth_free_mbps: Some(100),
            accept_queue_percent: Some(80),
        };
        let edge = State {
            cpu_hundredths: 9000,
            memory_free_octets: 256 << 20,
            bandwidth_free_bits: 100_000_000,
            ..QUIET
        };
        assert_eq!(limits.exceeded(&edge, || 9, || (80, 100)), None);
        assert_eq!(limits.exceeded(&edge, || 10, || (80, 100)), Some(Limit::Connections));
        assert_eq!(limits.exceeded(&edge, || 9, || (81, 100)), Some(Limit::AcceptQueue));
        for (state, limit) in [
            (State { cpu_hundredths: 9001, ..edge }, Limit::Cpu),
            (State { memory_free_octets: (256 << 20) - 1, ..edge }, Limit::Memory),
            (State { bandwidth_free_bits: 99_999_999, ..edge }, Limit::Bandwidth),
        ] {
            assert_eq!(limits.exceeded(&state, || 9, || (0, 0)), Some(limit));
        }
        let unknown = State { link_bits: 0, bandwidth_free_bits: 0, ..edge };
        assert_eq!(limits.exceeded(&unknown, || 9, || (0, 0)), None, "an unknown speed is no fault");
        assert_eq!(Limits::default().exceeded(&edge, || u64::MAX, || (1, 0)), None);
    }
}
