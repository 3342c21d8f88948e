//! Data packets of N connections that were opened before (or, on a cable, of N flows that need no opening), stamped.
//!
//! SEG.SEQ stays where the request ended: the packets are for boards of ours, which do not mind, and a target that
//! forwards by flow has no use for it.

use ipos_wire::tcp::{Flags, Options};

use super::returns::Returns;
use super::{Phase, Profile, Tally};
use crate::addressing::Clients;
use crate::boards::Arrived;
use crate::client::{ClientSide, ConnectionCounters, ConnectionLatency, Io};
use crate::endpoint::Reply;
use crate::frame::{Received, Segment};
use crate::latency::Latency;
use crate::schedule::Schedule;
use crate::size::{FCS_OCTETS, Sizes};
use crate::stamp::Stamp;

/// The profile.
#[derive(Debug)]
pub struct Established {
    clients: Clients,
    sizes: Sizes,
    /// Who opens the connections; `None` on a cable.
    opener: Option<ClientSide>,
    flows: u32,
    phase: Phase,
    closed: u64,
    returns: Returns,
}

impl Established {
    /// `flows` flows (at least 1), used in turn; opened first where there is an `opener`.
    #[must_use]
    pub fn new(clients: Clients, flows: u32, sizes: Sizes, opener: Option<ClientSide>) -> Self {
        let returns = Returns::default();
        Self { clients, sizes, opener, flows: flows.max(1), phase: Phase::Measure, closed: 0, returns }
    }

    /// Slot, SND.NXT and RCV.NXT of the flow for packet `number`.
    #[inline]
    fn flow(&self, number: u64) -> Option<(u64, u32, u32)> {
        let Some(opener) = &self.opener else { return Some((number % u64::from(self.flows), 1, 1)) };
        let open = opener.open();
        let slot = *open.get((number % (open.len() as u64).max(1)) as usize)?;
        let (seq, ack) = opener.numbers(slot)?;
        Some((slot.into(), seq, ack))
    }

    fn send(&mut self, number: u64, io: &mut Io<'_>) -> bool {
        let Some((slot, seq, ack)) = self.flow(number) else { return false };
        let octets = usize::from(self.sizes.of(number) - FCS_OCTETS);
        let stamp = self.returns.stamp(number, io.now_ns).to_octets();
        let (flow, flags) = (self.clients.flow(slot), Flags::ACK | Flags::PSH);
        let segment = Segment { flow, seq, ack, flags, options: Options::default(), payload: &stamp };
        let way = io.way;
        let sent = io.lane.send(octets, |frame| segment.write(way, frame));
        if !sent {
            self.returns.take_back();
        }
        sent
    }
}

impl Profile for Established {
    fn next_trial(&mut self) {
        self.returns.next_trial();
        self.closed = 0;
        if let Some(opener) = &mut self.opener {
            opener.next_trial();
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    fn start(&mut self, number: u64, intended_ns: u64, io: &mut Io<'_>) -> bool {
        match (self.phase, &mut self.opener) {
            (Phase::Measure, _) => self.send(number, io),
            (Phase::Open, Some(opener)) => opener.start(intended_ns, io),
            (Phase::Close, Some(opener)) => {
                let reset = opener.reset_next_open(io);
                self.closed += u64::from(reset);
                reset
            }
            (Phase::Open | Phase::Close, None) => true,
        }
    }

    fn client_packet(&mut self, packet: &Received<'_>, _schedule: &Schedule, io: &mut Io<'_>) {
        if let Some(opener) = &mut self.opener {
            opener.receive(packet, io);
        }
    }

    fn arrived(&mut self, arrived: &Arrived<'_>, schedule: &Schedule, io: &mut Io<'_>) -> bool {
        let packet = &arrived.packet;
        if self.phase != Phase::Measure || packet.payload.is_empty() {
            return false;
        }
        if let Some(stamp) = Stamp::parse(packet.payload) {
            self.returns.back(stamp, schedule, io.now_ns);
        }
        true
    }

    fn replied(&mut self, slot: u32, reply: &Reply, io: &mut Io<'_>) {
        if let Some(opener) = &mut self.opener {
            opener.replied(slot, reply, io);
        }
    }

    fn tick(&mut self, io: &mut Io<'_>) {
        if let Some(opener) = &mut self.opener {
            opener.sweep(io);
        }
    }

    fn tally(&self) -> Tally {
        match (self.phase, &self.opener) {
            (Phase::Open, Some(opener)) => {
                let counters = opener.counters();
                Tally { sent: counters.started, returned: counters.completed, ..Tally::default() }
            }
            (Phase::Close, _) => Tally { sent: self.closed, returned: self.closed, ..Tally::default() },
            _ => self.returns.tally(),
        }
    }

    fn is_settled(&self) -> bool {
        match (self.phase, &self.opener) {
            (Phase::Open, Some(opener)) => opener.under_way() == 0,
            _ => {
                let tally = self.tally();
                tally.returned >= tally.sent
            }
        }
    }

    fn latency(&self) -> &Latency {
        self.returns.latency()
    }

    fn connections(&self) -> Option<(ConnectionCounters, &ConnectionLatency)> {
        let opener = self.opener.as_ref().filter(|_| self.phase == Phase::Open)?;
        Some((opener.counters(), opener.latency()))
    }

    fn held_open(&self) -> u64 {
        self.opener.as_ref().map_or(0, |opener| opener.open().len() as u64)
    }
}
