//! What is sent, and what counts as its return.

mod connections;
mod established;
mod returns;
mod syn_flood;
mod udp;

use clap::ValueEnum;
use serde::Serialize;

use crate::boards::Arrived;
use crate::client::{ConnectionCounters, ConnectionLatency, Io};
use crate::endpoint::Reply;
use crate::frame::Received;
use crate::latency::Latency;
use crate::schedule::Schedule;

pub use connections::Connections;
pub use established::Established;
pub use syn_flood::SynFlood;
pub use udp::Udp;

/// The profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// SYNs, each a new flow; the SYN-ACKs are counted
    SynFlood,
    /// Data packets of connections that were opened before
    Established,
    /// Whole connections: SYN, ACK, request, ACKs, FIN; rates count connections
    Connections,
    /// Datagrams
    Udp,
}

impl Kind {
    /// As the command line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::SynFlood => "syn-flood",
            Kind::Established => "established",
            Kind::Connections => "connections",
            Kind::Udp => "udp",
        }
    }

    /// Whether what is sent comes out of the target's other port, so that a second port of ours must be there.
    #[must_use]
    pub fn needs_farm(self) -> bool {
        self != Kind::SynFlood
    }
}

/// What a profile does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opens connections that later packets belong to.
    Open,
    /// What is measured.
    Measure,
    /// Ends what [`Phase::Open`] opened.
    Close,
}

/// Units by what became of them, since the last [`Profile::next_trial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Units sent (or connections started).
    pub sent: u64,
    /// Units that came back, each once (or connections completed).
    pub returned: u64,
    /// Units that came back again.
    pub duplicates: u64,
    /// Packets that came back too late to tell, or were never sent.
    pub unknown: u64,
}

/// One kind of traffic. A unit is what the schedule counts: a packet, or a connection.
pub trait Profile: std::fmt::Debug {
    /// Counts from zero; what is on its way does not count any more.
    fn next_trial(&mut self);

    /// Changes what the units are.
    fn enter(&mut self, _phase: Phase) {}

    /// Sends the unit of this number; `false` when it cannot be sent now.
    fn start(&mut self, number: u64, intended_ns: u64, io: &mut Io<'_>) -> bool;

    /// A packet that the target sent to a client.
    fn client_packet(&mut self, packet: &Received<'_>, schedule: &Schedule, io: &mut Io<'_>);

    /// A client's packet that has passed the target; whether it is settled, so that no endpoint needs to see it.
    fn arrived(&mut self, arrived: &Arrived<'_>, schedule: &Schedule, io: &mut Io<'_>) -> bool;

    /// What a board's endpoint says to a client.
    fn replied(&mut self, _slot: u32, _reply: &Reply, _io: &mut Io<'_>) {}

    /// Looks after time-outs.
    fn tick(&mut self, _io: &mut Io<'_>) {}

    /// What became of the units.
    fn tally(&self) -> Tally;

    /// Whether nothing is under way.
    fn is_settled(&self) -> bool {
        let tally = self.tally();
        tally.returned >= tally.sent
    }

    /// From a unit's start to its return.
    fn latency(&self) -> &Latency;

    /// What became of connections, where there are any.
    fn connections(&self) -> Option<(ConnectionCounters, &ConnectionLatency)> {
        None
    }

    /// Connections that are held open.
    fn held_open(&self) -> u64 {
        0
    }
}
