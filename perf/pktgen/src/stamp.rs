//! What tells a returning packet from another: a stamp of six octets, and the table of what is on its way.
//!
//! A 64-octet TCP frame has six octets of payload, so the stamp has six: the trial (8 bits) and the packet's number in
//! it (40 bits). The intended time follows from the number; the actual one is kept in a table of the last packets.

/// Octets of a stamp.
pub const STAMP_OCTETS: usize = 6;

/// Packets whose sending times are remembered: more are hardly ever on their way at once.
const IN_FLIGHT: usize = 1 << 17;

/// Bits of a stamp's number.
const NUMBER_BITS: u32 = 40;

/// A stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which trial, modulo 256: packets of an earlier one must not count.
    pub trial: u8,
    /// Number of the packet in the trial.
    pub number: u64,
}

impl Stamp {
    /// As it is carried, big-endian.
    #[inline]
    #[must_use]
    pub fn to_octets(self) -> [u8; STAMP_OCTETS] {
        let [_, _, _, a, b, c, d, e] = self.number.to_be_bytes();
        [self.trial, a, b, c, d, e]
    }

    /// Reads the start of a payload.
    #[inline]
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [trial, a, b, c, d, e] = *payload.first_chunk::<STAMP_OCTETS>()?;
        Some(Self { trial, number: u64::from_be_bytes([0, 0, 0, a, b, c, d, e]) })
    }
}

/// What a returned packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returned {
    /// Back for the first time; sent at this time, nanoseconds.
    First {
        /// When it was sent.
        sent_ns: u64,
    },
    /// Back again.
    Duplicate,
    /// Not of this trial, or so late that its place in the table is another's.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    number: u64,
    sent_ns: u64,
}

/// Not on its way.
const BACK: u64 = u64::MAX;

/// Packets on their way.
#[derive(Debug)]
pub struct InFlight {
    trial: u8,
    places: Box<[Sent]>,
}

impl InFlight {
    /// Nothing on its way.
    #[must_use]
    pub fn new() -> Self {
        Self { trial: 0, places: vec![Sent { number: BACK, sent_ns: 0 }; IN_FLIGHT].into_boxed_slice() }
    }

    /// A new trial: what is on its way does not count any more.
    pub fn next_trial(&mut self) {
        self.trial = self.trial.wrapping_add(1);
        self.places.fill(Sent { number: BACK, sent_ns: 0 });
    }

    /// Notes that packet `number` is sent now; its stamp.
    #[inline]
    pub fn sent(&mut self, number: u64, now_ns: u64) -> Stamp {
        if let Some(place) = self.places.get_mut(number as usize % IN_FLIGHT) {
            *place = Sent { number, sent_ns: now_ns };
        }
        Stamp { trial: self.trial, number: number & ((1 << NUMBER_BITS) - 1) }
    }

    /// Notes that a packet is back.
    #[inline]
    pub fn returned(&mut self, stamp: Stamp) -> Returned {
        if stamp.trial != self.trial {
            return Returned::Unknown;
        }
        self.returned_number(stamp.number, NUMBER_BITS).0
    }

    /// As [`InFlight::returned`] where only the low `bits` of a number came back; also the whole number.
    #[inline]
    pub fn returned_number(&mut self, number: u64, bits: u32) -> (Returned, u64) {
        let Some(place) = self.places.get_mut(number as usize % IN_FLIGHT) else {
            return (Returned::Unknown, number);
        };
        let mask = (1 << bits) - 1;
        // A number that came back is kept, marked by the time 0, which no packet is sent at.
        if place.number == BACK || place.number & mask != number & mask {
            return (Returned::Unknown, number);
        }
        let sent_ns = std::mem::take(&mut place.sent_ns);
        let returned = if sent_ns == 0 { Returned::Duplicate } else { Returned::First { sent_ns } };
        (returned, place.number)
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_wire() {
        let stamp = Stamp { trial: 0xa5, number: 0x12_3456_789a };
        assert_eq!(Stamp::parse(&[&stamp.to_octets()[..], &[0; 4]].concat()), Some(stamp));
        assert_eq!(Stamp::parse(&[0; 5]), None);
    }

    #[test]
    fn each_packet_returns_once() {
        let mut table = InFlight::new();
        table.next_trial();
        let stamp = table.sent(7, 100);
        assert_eq!(table.returned(stamp), Returned::First { sent_ns: 100 });
        assert_eq!(table.returned(stamp), Returned::Duplicate);
        assert_eq!(table.returned(Stamp { number: 8, ..stamp }), Returned::Unknown, "never sent");
    }

    #[test]
    fn packets_of_an_earlier_trial_or_overtaken_by_a_whole_table_are_unknown() {
        let mut table = InFlight::new();
        let old = table.sent(1, 5);
        table.next_trial();
        table.sent(1, 6);
        assert_eq!(table.returned(old), Returned::Unknown);
        let early = table.sent(3, 7);
        table.sent(3 + IN_FLIGHT as u64, 8);
        assert_eq!(table.returned(early), Returned::Unknown);
    }

    #[test]
    fn a_number_of_32_bits_is_completed() {
        let mut table = InFlight::new();
        let number = (5 << 32) + 77;
        table.sent(number, 9);
        assert_eq!(table.returned_number(77, 32), (Returned::First { sent_ns: 9 }, number));
    }
}
