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
//! two lowest bits only) and the octet of MSS index, window scale and SACK. With the whole number under the MAC a
//! cookie cannot come back to life 256 s later, when the two bits repeat.
//!
//! What the cookie does not carry: timestamps are in force when the client's segment has the option; ECN travels in
//! the lowest bit of the SYN-ACK's TSval ([`tsval_with_ecn`]), so it is offered with timestamps only.
//!
//! A guess is right with probability 2^-22 (2^-21 in the two minutes after a rotation, 0 with the wrong slot), the
//! keys live in memory only and are drawn at random at every start: cookies of an earlier life of the appliance are
//! void, and such a flow is asked for at the boards like any unknown one.

use ipos_wire::{flow::Flow, seq::Seq};

/// Length of a time slot, seconds. A cookie is good in its own slot and the one after: 64 to 128 s.
pub const SLOT_S: u64 = 64;

/// A cookie of an older slot than so many before the present one is void.
pub const COOKIE_AGE_MAX_SLOTS: u16 = 1;

/// What the MSS index stands for, octets; a client's MSS is rounded down to one of these.
///
/// 8960: jumbo frames. 1460: Ethernet. 1440: PPPoE (1452) and hosts that count IPv6 or timestamps in. 1400, 1360,
/// 1220: tunnels, mobile networks, the IPv6 minimum. 536: what a SYN without the option means (RFC 9293 section
/// 3.7.1), and the least that a board takes over. 64: anything below 536; no board accepts it (0x04 reason 6), so it
/// only cuts the appliance's own short answers, and all clients that say less than 64 are sent 64 (Linux itself sends
/// 48 at least).
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
///
/// The bare keys: a hasher is made of one in four instructions, and is twice as long to copy, also in a command.
#[derive(Clone)]
pub struct CookieKeys {
    current: Key,
    previous: Key,
}

type Key = [u64; 2];

const _: () = assert!(size_of::<CookieKeys>() == 32);

fn key_of(octets: &[u8; 16]) -> Key {
    let (words, _) = octets.as_chunks();
    [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
}

impl CookieKeys {
    /// Keys from 128 random bits each.
    pub fn new(current: &[u8; 16], previous: &[u8; 16]) -> Self {
        Self { current: key_of(current), previous: key_of(previous) }
    }

    /// Makes `next` the current secret and the current one the previous. Two rotations are to be at least 128 s
    /// apart, or cookies die before their slots do.
    pub fn rotate(&mut self, next: &[u8; 16]) {
        self.previous = core::mem::replace(&mut self.current, key_of(next));
    }

    /// The ISS to answer a SYN with. About 25 ns (release, one AMD EPYC vCPU, measured ad hoc).
    ///
    /// `now_slot` is the time in units of [`SLOT_S`], on any clock that does not jump.
    #[inline]
    pub fn make(&self, flow: &Flow, irs: Seq, offer: Offer, now_slot: u32) -> Seq {
        let fields = encode(offer);
        let mac = mac(&self.current, flow, irs, now_slot, fields);
        Seq(now_slot << SLOT_SHIFT | u32::from(fields) << MAC_BITS | mac)
    }

    /// What the client offered, when `iss` is a cookie made for this flow and `irs` in the current time slot or the
    /// one before; `None` otherwise. About 20 ns for a good one, 40 ns for a bad one, which is tried under both keys
    /// (release, one AMD EPYC vCPU, measured ad hoc).
    ///
    /// For the segment that follows the SYN-ACK, `irs` is SEG.SEQ-1 and `iss` is SEG.ACK-1.
    pub fn check(&self, flow: &Flow, irs: Seq, iss: Seq, now_slot: u32) -> Option<Cookie> {
        let age_slots = now_slot.wrapping_sub(iss.0 >> SLOT_SHIFT) & 3;
        if age_slots > u32::from(COOKIE_AGE_MAX_SLOTS) {
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
    // The table is sorted; below its first value there is nothing to round down to, so that one need not be compared.
    // All are compared, which takes fewer instructions than to search.
    let mss_index = MSS_TABLE[1..].iter().filter(|value| **value <= mss).count() as u8;
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

#[inline(always)]
fn mac(key: &Key, flow: &Flow, irs: Seq, slot: u32, fields: u8) -> u32 {
    // 21 octets: with SipHash's length octet they are three blocks; 24 octets would be a fourth. Made of words, and never in
    // memory.
    let endpoint = u64::from(flow.endpoint.to_bits());
    let head = u64::from(flow.client.to_bits()) << 32 | u64::from(flow.client_port) << 16 | endpoint >> 16;
    let tail = endpoint << 48 | u64::from(flow.endpoint_port) << 32 | u64::from(irs.0);
    let rest = u64::from(slot.swap_bytes()) | u64::from(fields) << 32;
    siphash_2_4(*key, [head.swap_bytes(), tail.swap_bytes(), rest | 21 << 56]) as u32 & MAC_MASK
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012) of a message in its blocks, little-endian, the length octet included. The
/// crate `siphasher` takes octets of any number, and half of its time for that.
#[inline(always)]
fn siphash_2_4(key: Key, blocks: [u64; 3]) -> u64 {
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    for block in blocks {
        state[3] ^= block;
        state = sip_round(sip_round(state));
        state[0] ^= block;
    }
    state[2] ^= 0xff;
    let [a, b, c, d] = sip_round(sip_round(sip_round(sip_round(state))));
    a ^ b ^ c ^ d
}

#[inline(always)]
fn sip_round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32).wrapping_add(d);
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    d = d.rotate_left(21) ^ a;
    [a, b, c.rotate_left(32), d]
}

/// The TSval of a SYN-ACK: our clock, with "ECN was agreed" in its lowest bit.
///
/// The clock is rounded *down* to the wanted bit: a TSval ahead of the clock would make the next segment, sent within
/// the same millisecond with the plain clock, look older than the SYN-ACK (PAWS, RFC 7323 section 5). `now_ms` is the
/// clock that all our TSvals come from, milliseconds modulo 2^32.
pub fn tsval_with_ecn(now_ms: u32, ecn: bool) -> u32 {
    now_ms.wrapping_sub((now_ms ^ u32::from(ecn)) & 1)
}

/// Whether ECN was agreed, from the TSecr of a segment that echoes a SYN-ACK's TSval, that is, before we have sent
/// anything else. The client can lie here about nobody but itself.
pub fn ecn_from_tsecr(tsecr: u32) -> bool {
    tsecr & 1 == 1
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    use super::*;

    const KEY_1: [u8; 16] = [0x11; 16];
    const KEY_2: [u8; 16] = [0x22; 16];
    const KEY_3: [u8; 16] = [0x33; 16];
    const IRS: Seq = Seq(0xfeed_beef);
    const SLOT: u32 = 0x1234_5677;

    fn keys() -> CookieKeys {
        CookieKeys::new(&KEY_1, &KEY_2)
    }

    fn flow() -> Flow {
        Flow {
            client: Ipv4Addr::new(192, 0, 2, 7),
            client_port: 40_000,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 80,
        }
    }

    fn offer() -> Offer {
        Offer { mss: Some(1460), window_scale: Some(7), sack: true }
    }

    #[test]
    fn a_cookie_brings_the_offer_back() {
        let iss = keys().make(&flow(), IRS, offer(), SLOT);
        let expected = Cookie { mss: 1460, window_scale: Some(7), sack: true };
        assert_eq!(keys().check(&flow(), IRS, iss, SLOT), Some(expected));
    }

    #[test]
    fn every_mss_is_rounded_down_to_the_table() {
        let cases = [
            (None, 536),
            (Some(0), 64),
            (Some(64), 64),
            (Some(535), 64),
            (Some(536), 536),
            (Some(1219), 536),
            (Some(1380), 1360),
            (Some(1452), 1440),
            (Some(1460), 1460),
            (Some(8959), 1460),
            (Some(8960), 8960),
            (Some(65495), 8960),
        ];
        for (mss, expected) in cases {
            let iss = keys().make(&flow(), IRS, Offer { mss, ..Offer::default() }, SLOT);
            let cookie = keys().check(&flow(), IRS, iss, SLOT).unwrap();
            assert_eq!(cookie, Cookie { mss: expected, window_scale: None, sack: false }, "{mss:?}");
        }
    }

    #[test]
    fn a_window_scale_above_14_counts_as_14_and_is_not_taken_for_none() {
        for (shift, expected) in [(0, 0), (14, 14), (15, 14), (255, 14)] {
            let iss = keys().make(&flow(), IRS, Offer { window_scale: Some(shift), ..offer() }, SLOT);
            let cookie = keys().check(&flow(), IRS, iss, SLOT).unwrap();
            assert_eq!(cookie.window_scale, Some(expected));
        }
    }

    #[test]
    fn the_fields_lie_where_the_figure_says() {
        let iss = keys().make(&flow(), IRS, Offer { mss: Some(1460), window_scale: None, sack: true }, 2).0;
        assert_eq!(iss >> 30, 2, "slot");
        assert_eq!(iss >> 27 & 7, 6, "MSS index of 1460");
        assert_eq!(iss >> 23 & 15, 15, "no window scale");
        assert_eq!(iss >> 22 & 1, 1, "SACK");
    }

    #[test]
    fn the_mac_is_siphash_2_4_over_flow_irs_slot_and_fields() {
        let mut message = flow().to_octets().to_vec();
        message.extend([0xfe, 0xed, 0xbe, 0xef, 0x12, 0x34, 0x56, 0x77, 6 << 5 | 7 << 1 | 1]);
        let expected = SipHasher24::new_with_key(&KEY_1).hash(&message) as u32 & 0x3f_ffff;
        assert_eq!(keys().make(&flow(), IRS, offer(), SLOT).0 & 0x3f_ffff, expected);
    }

    #[test]
    fn a_cookie_is_good_in_its_slot_and_the_next_only() {
        // The last slot of all: the slot number may wrap.
        for made in [SLOT, u32::MAX] {
            let iss = keys().make(&flow(), IRS, offer(), made);
            assert!(keys().check(&flow(), IRS, iss, made).is_some());
            assert!(keys().check(&flow(), IRS, iss, made.wrapping_add(1)).is_some());
            assert_eq!(keys().check(&flow(), IRS, iss, made.wrapping_sub(1)), None);
            assert_eq!(keys().check(&flow(), IRS, iss, made.wrapping_add(2)), None);
        }
    }

    #[test]
    fn a_cookie_does_not_come_back_when_the_slot_bits_repeat() {
        let iss = keys().make(&flow(), IRS, offer(), SLOT);
        for age in [4, 5, 8, 400] {
            assert_eq!(keys().check(&flow(), IRS, iss, SLOT + age), None);
        }
    }

    #[test]
    fn a_cookie_survives_one_rotation_and_not_two() {
        let mut keys = keys();
        let iss = keys.make(&flow(), IRS, offer(), SLOT);
        keys.rotate(&KEY_3);
        assert!(keys.check(&flow(), IRS, iss, SLOT).is_some());
        assert_ne!(keys.make(&flow(), IRS, offer(), SLOT), iss, "new cookies are made with the new key");
        keys.rotate(&[0x44; 16]);
        assert_eq!(keys.check(&flow(), IRS, iss, SLOT), None);
    }

    #[test]
    fn another_flow_or_irs_does_not_fit() {
        let iss = keys().make(&flow(), IRS, offer(), SLOT);
        let others = [
            Flow { client: Ipv4Addr::new(192, 0, 2, 8), ..flow() },
            Flow { client_port: 40_001, ..flow() },
            Flow { endpoint: Ipv4Addr::new(198, 51, 100, 2), ..flow() },
            Flow { endpoint_port: 81, ..flow() },
        ];
        for other in others {
            assert_eq!(keys().check(&other, IRS, iss, SLOT), None);
        }
        assert_eq!(keys().check(&flow(), Seq(IRS.0.wrapping_add(1)), iss, SLOT), None);
    }

    #[test]
    fn guesses_succeed_about_as_often_as_the_mac_allows() {
        // 2^22 guesses, half in the wrong slot: 0.5 expected under each of the two keys.
        let keys = keys();
        let hits = (0..1_u32 << 22)
            .filter(|guess| keys.check(&flow(), IRS, Seq(guess.wrapping_mul(0x9e37_79b1)), SLOT).is_some())
            .count();
        assert!(hits <= 8, "{hits} of 2^22 guesses accepted");
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", keys()), "CookieKeys { .. }");
    }

    #[test]
    fn the_tsval_carries_ecn_and_never_runs_ahead_of_the_clock() {
        for now_ms in [0, 1, 2, 1000, 1001, u32::MAX - 1, u32::MAX] {
            for ecn in [false, true] {
                let tsval = tsval_with_ecn(now_ms, ecn);
                assert_eq!(ecn_from_tsecr(tsval), ecn);
                assert!(now_ms.wrapping_sub(tsval) <= 1, "{now_ms} {ecn} {tsval}");
            }
        }
    }

    fn any_flow() -> impl Strategy<Value = Flow> {
        any::<(u32, u16, u32, u16)>().prop_map(|(client, client_port, endpoint, endpoint_port)| Flow {
            client: Ipv4Addr::from(client),
            client_port,
            endpoint: Ipv4Addr::from(endpoint),
            endpoint_port,
        })
    }

    fn any_offer() -> impl Strategy<Value = Offer> {
        (any::<Option<u16>>(), prop::option::of(0..=14_u8), any::<bool>())
            .prop_map(|(mss, window_scale, sack)| Offer { mss, window_scale, sack })
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            rng_seed: proptest::test_runner::RngSeed::Fixed(0x1905),
            ..ProptestConfig::default()
        })]

        #[test]
        fn every_cookie_comes_back_whole(
            flow in any_flow(), irs: u32, offer in any_offer(), slot: u32, age in 0..2_u32,
        ) {
            let iss = keys().make(&flow, Seq(irs), offer, slot);
            let cookie = keys().check(&flow, Seq(irs), iss, slot.wrapping_add(age)).unwrap();
            let client_mss = offer.mss.unwrap_or(536);
            prop_assert!(cookie.mss <= client_mss.max(64));
            prop_assert_eq!(Some(&cookie.mss), MSS_TABLE.iter().rev().find(|mss| **mss <= client_mss.max(64)));
            prop_assert_eq!((cookie.window_scale, cookie.sack), (offer.window_scale, offer.sack));
        }

        // With a fixed seed this cannot fail by chance (about 1 in 130,000 per run otherwise).
        #[test]
        fn any_flipped_bit_voids_the_cookie(
            flow in any_flow(), irs: u32, offer in any_offer(), slot: u32, bit in 0..32_u32,
        ) {
            let iss = keys().make(&flow, Seq(irs), offer, slot);
            prop_assert_eq!(keys().check(&flow, Seq(irs), Seq(iss.0 ^ 1 << bit), slot), None);
        }
    }
}
