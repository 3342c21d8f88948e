//! SYN cookies: the ISS that carries the handshake's state to the client and back (design: system.md, step 1).
//!
//! ```text
//!  31 30 29    27 26          23 22   21                                             0
//! +-----+--------+--------------+----+------------------------------------------------+
//! |slot |MSS idx | window scale |SACK|                      MAC                       |
//! +-----+--------+--------------+----+------------------------------------------------+
//! ```
//!
//! The MAC is 22 bits of SipHash-2-4 over 4-tuple, IRS, the *whole* number of the time slot (the ISS has room for its
//! two lowest bits only) and the octet of MSS index, window scale and SACK. With the whole number under the MAC a cookie
//! cannot come back to life 256 s later, when the two bits repeat.
//!
//! What the cookie does not carry: timestamps are in force when the client's segment has the option; ECN travels in the
//! lowest bit of the SYN-ACK's TSval ([`tsval_with_ecn`]), so it is offered with timestamps only.
//!
//! A guess is right with probability 2^-22 (2^-21 in the two minutes after a rotation, 0 with the wrong slot), the keys
//! live in memory only and are drawn at random at every start: cookies of an earlier life of the appliance are void, and
//! such a flow is asked for at the boards like any unknown one.

use core::hash::Hasher;

use ipos_wire::{flow::Flow, seq::Seq};
use siphasher::sip::SipHasher24;

/// Length of a time slot, seconds. A cookie is good in its own slot and the one after: 64 to 128 s.
pub const SLOT_S: u64 = 64;

/// What the MSS index stands for, octets; a client's MSS is rounded down to one of these.
///
/// 8960: jumbo frames. 1460: Ethernet. 1440: PPPoE (1452) and hosts that count IPv6 or timestamps in. 1400, 1360, 1220:
/// tunnels, mobile networks, the IPv6 minimum. 536: what a SYN without the option means (RFC 9293 section 3.7.1), and the
/// least that a board takes over. 64: anything below 536; no board accepts it (0x04 reason 6), so it only cuts the
/// appliance's own short answers, and all clients that say less than 64 are sent 64 (Linux itself sends 48 at least).
pub const MSS_TABLE: [u16; 8] = [64, 536, 1220, 1360, 1400, 1440, 1460, 8960];

/// What a SYN without an MSS option means (RFC 9293 section 3.7.1), octets.
const DEFAULT_MSS: u16 = 536;
/// Largest shift that a window scale can be (RFC 7323 section 2.3); a larger one counts as this.
const MAX_WINDOW_SCALE: u8 = 14;
/// The window scale field's "the client did not offer one".
const NO_WINDOW_SCALE: u8 = 15;
const MAC_BITS: u32 = 22;
const MAC_MASK: u32 = (1 << MAC_BITS) - 1;
const SLOT_SHIFT: u32 = 30;

/// The options of a client's SYN that the cookie has to bring back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offer {
    /// MSS option, octets; `None` when the SYN has none.
    pub mss: Option<u16>,
    /// Window scale option, shift count.
    pub window_scale: Option<u8>,
    /// SACK-permitted option.
    pub sack: bool,
}

/// What a valid cookie says about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie {
    /// Largest segment to send to the client, octets: its MSS rounded down to [`MSS_TABLE`].
    pub mss: u16,
    /// The client's window scale, shift count 0..=14; `None` when it offered none.
    pub window_scale: Option<u8>,
    /// The client permits SACK.
    pub sack: bool,
}

/// The two live secrets. Cookies are made with the current one and accepted under both.
#[derive(Clone)]
pub struct CookieKeys {
    current: SipHasher24,
    previous: SipHasher24,
}

impl CookieKeys {
    /// Keys from 128 random bits each.
    pub fn new(current: &[u8; 16], previous: &[u8; 16]) -> Self {
        Self { current: SipHasher24::new_with_key(current), previous: SipHasher24::new_with_key(previous) }
    }

    /// Makes `next` the current secret and the current one the previous. Two rotations are to be at least 128 s apart,
    /// or cookies die before their slots do.
    pub fn rotate(&mut self, next: &[u8; 16]) {
        self.previous = core::mem::replace(&mut self.current, SipHasher24::new_with_key(next));
    }

    /// The ISS to answer a SYN with. `now_slot` is the time in units of [`SLOT_S`], on any clock that does not jump.
    pub fn make(&self, flow: &Flow, irs: Seq, offer: Offer, now_slot: u32) -> Seq {
        let fields = encode(offer);
        let mac = mac(&self.current, flow, irs, now_slot, fields);
        Seq(now_slot << SLOT_SHIFT | u32::from(fields) << MAC_BITS | mac)
    }

    /// What the client offered, when `iss` is a cookie made for this flow and `irs` in the current time slot or the one
    /// before; `None` otherwise. For the segment that follows the SYN-ACK, `irs` is SEG.SEQ-1 and `iss` is SEG.ACK-1.
    pub fn check(&self, flow: &Flow, irs: Seq, iss: Seq, now_slot: u32) -> Option<Cookie> {
        let age_slots = now_slot.wrapping_sub(iss.0 >> SLOT_SHIFT) & 3;
        if age_slots > 1 {
            return None;
        }
        let slot = now_slot.wrapping_sub(age_slots);
        let fields = (iss.0 >> MAC_BITS) as u8;
        let claimed = iss.0 & MAC_MASK;
        let genuine = mac(&self.current, flow, irs, slot, fields) == claimed
            || mac(&self.previous, flow, irs, slot, fields) == claimed;
        genuine.then(|| decode(fields))
    }
}

impl core::fmt::Debug for CookieKeys {
    /// Says nothing: secrets do not belong in a log.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CookieKeys").finish_non_exhaustive()
    }
}

/// MSS index, window scale and SACK as the octet between slot and MAC.
fn encode(offer: Offer) -> u8 {
    let mss = offer.mss.unwrap_or(DEFAULT_MSS);
    // The table is sorted; below its first value there is nothing to round down to.
    let mss_index = MSS_TABLE.partition_point(|value| *value <= mss).saturating_sub(1) as u8;
    let window_scale = offer.window_scale.map_or(NO_WINDOW_SCALE, |shift| shift.min(MAX_WINDOW_SCALE));
    mss_index << 5 | window_scale << 1 | u8::from(offer.sack)
}

fn decode(fields: u8) -> Cookie {
    let window_scale = fields >> 1 & 0xf;
    Cookie {
        mss: MSS_TABLE[usize::from(fields >> 5)],
        window_scale: (window_scale != NO_WINDOW_SCALE).then_some(window_scale),
        sack: fields & 1 == 1,
    }
}

fn mac(key: &SipHasher24, flow: &Flow, irs: Seq, slot: u32, fields: u8) -> u32 {
    // 21 octets: SipHash adds its length octet and runs three blocks; 24 octets would cost a fourth.
    let mut message = [0; 21];
    message[..12].copy_from_slice(&flow.to_octets());
    message[12..16].copy_from_slice(&irs.0.to_be_bytes());
    message[16..20].copy_from_slice(&slot.to_be_bytes());
    message[20] = fields;
    let mut hasher = *key;
    hasher.write(&message);
    hasher.finish() as u32 & MAC_MASK
}

/// The TSval of a SYN-ACK: our clock, with "ECN was agreed" in its lowest bit.
///
/// The clock is rounded *down* to the wanted bit: a TSval ahead of the clock would make the next segment, sent within the
/// same millisecond with the plain clock, look older than the SYN-ACK (PAWS, RFC 7323 section 5). `now_ms` is the clock
/// that all our TSvals come from, milliseconds modulo 2^32.
pub fn tsval_with_ecn(now_ms: u32, ecn: bool) -> u32 {
    now_ms.wrapping_sub((now_ms ^ u32::from(ecn)) & 1)
}

/// Whether ECN was agreed, from the TSecr of a segment that echoes a SYN-ACK's TSval, that is, before we have sent
/// anything else. The client can lie here about nobody but itself.
pub fn ecn_from_tsecr(tsecr: u32) -> bool {
    tsecr & 1 == 1
}
