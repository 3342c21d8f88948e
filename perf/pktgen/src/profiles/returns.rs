//! Stamped packets: sent, and expected back.

use super::Tally;
use crate::latency::Latency;
use crate::schedule::Schedule;
use crate::stamp::{InFlight, Returned, Stamp};

/// The account of one trial's packets.
#[derive(Debug, Default)]
pub(super) struct Returns {
    in_flight: InFlight,
    tally: Tally,
    latency: Latency,
}

impl Returns {
    pub(super) fn next_trial(&mut self) {
        self.in_flight.next_trial();
        self.tally = Tally::default();
        self.latency.reset();
    }

    /// The stamp for a packet that is sent now.
    #[inline]
    pub(super) fn stamp(&mut self, number: u64, now_ns: u64) -> Stamp {
        self.tally.sent += 1;
        self.in_flight.sent(number, now_ns)
    }

    /// The packet that was just stamped was not sent after all.
    pub(super) fn take_back(&mut self) {
        self.tally.sent -= 1;
    }

    /// A stamp is back.
    #[inline]
    pub(super) fn back(&mut self, stamp: Stamp, schedule: &Schedule, now_ns: u64) {
        let returned = self.in_flight.returned(stamp);
        self.count(returned, stamp.number, schedule, now_ns);
    }

    /// The low 32 bits of a number are back.
    #[inline]
    pub(super) fn back_low(&mut self, low: u32, schedule: &Schedule, now_ns: u64) {
        let (returned, number) = self.in_flight.returned_number(low.into(), u32::BITS);
        self.count(returned, number, schedule, now_ns);
    }

    #[inline]
    fn count(&mut self, returned: Returned, number: u64, schedule: &Schedule, now_ns: u64) {
        match returned {
            Returned::First { sent_ns } => {
                self.tally.returned += 1;
                self.latency.record(schedule.intended_ns(number), sent_ns, now_ns);
            }
            Returned::Duplicate => self.tally.duplicates += 1,
            Returned::Unknown => self.tally.unknown += 1,
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    pub(super) fn latency(&self) -> &Latency {
        &self.latency
    }
}
