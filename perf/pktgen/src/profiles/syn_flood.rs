//! SYNs, each of a new flow. SEG.SEQ is the packet's number plus the trial's offset, so that the SYN-ACK's acknowledgement
//! number (or, from a cable, the SYN itself) tells which one it answers.

use ipos_wire::tcp::{Flags, Options, Timestamps};

use super::returns::Returns;
use super::{Profile, Tally};
use crate::addressing::Clients;
use crate::boards::Arrived;
use crate::client::Io;
use crate::frame::{Received, Segment};
use crate::latency::Latency;
use crate::schedule::Schedule;

/// What the SYNs offer: as Linux.
const OFFER: Options = Options {
    mss: Some(1460),
    window_scale: Some(7),
    sack_permitted: true,
    timestamps: Some(Timestamps { tsval: 1, tsecr: 0 }),
};

/// The profile.
#[derive(Debug)]
pub struct SynFlood {
    clients: Clients,
    returns: Returns,
    /// Where this trial's sequence numbers start: late answers to an earlier one fall outside.
    base: u32,
}

/// Sequence numbers between the starts of two trials.
const TRIAL_STEP: u32 = 0x2545_f491;

impl SynFlood {
    /// From these clients, over all their addresses and ports in turn.
    #[must_use]
    pub fn new(clients: Clients) -> Self {
        Self { clients, returns: Returns::default(), base: 0 }
    }

    /// Octets of a SYN's frame, without frame check sequence.
    #[must_use]
    pub fn frame_octets(clients: &Clients) -> usize {
        Self::syn(clients, 0, 0).frame_octets()
    }

    fn syn(clients: &Clients, number: u64, seq: u32) -> Segment<'static> {
        Segment { flow: clients.flow(number), seq, ack: 0, flags: Flags::SYN, options: OFFER, payload: &[] }
    }
}

impl Profile for SynFlood {
    fn next_trial(&mut self) {
        self.base = self.base.wrapping_add(TRIAL_STEP);
        self.returns.next_trial();
    }

    fn start(&mut self, number: u64, _intended_ns: u64, io: &mut Io<'_>) -> bool {
        self.returns.stamp(number, io.now_ns);
        let syn = Self::syn(&self.clients, number, self.base.wrapping_add(number as u32));
        let way = io.way;
        let sent = io.lane.send(syn.frame_octets(), |frame| syn.write(way, frame));
        if !sent {
            self.returns.take_back();
        }
        sent
    }

    fn client_packet(&mut self, packet: &Received<'_>, schedule: &Schedule, io: &mut Io<'_>) {
        if packet.flags.contains(Flags::SYN | Flags::ACK) && self.clients.slot(&packet.to_client()).is_some()
        {
            let low = packet.ack.wrapping_sub(1).wrapping_sub(self.base);
            self.returns.back_low(low, schedule, io.now_ns);
        }
    }

    fn arrived(&mut self, arrived: &Arrived<'_>, schedule: &Schedule, io: &mut Io<'_>) -> bool {
        if arrived.packet.flags.contains(Flags::SYN) {
            let low = arrived.packet.seq.wrapping_sub(self.base);
            self.returns.back_low(low, schedule, io.now_ns);
        }
        true
    }

    fn tally(&self) -> Tally {
        self.returns.tally()
    }

    fn latency(&self) -> &Latency {
        self.returns.latency()
    }
}
