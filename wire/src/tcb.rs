//! The TCP control block that a connection message carries (Fig. 11D; docs/wire.md "The TCP control block").

use core::ops::BitOr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::ipos::octets::{first, first_mut, take, u8_at, u16_at, u32_at, u64_at};
use crate::seq::Seq;

/// Size of a control block, octets (Fig. 11D: 146 less server IP and port).
pub const LEN: usize = 140;

/// The version of the layout that this crate reads and writes.
pub const VERSION: u8 = 1;

/// [`Tcb::state`] of an established connection, the only one that a board takes over.
pub const STATE_ESTABLISHED: u8 = 4;

/// Why octets are not a control block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The buffer ends before the control block does.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// The layout is of a version that this crate does not know.
    #[error("TCP control block of version {0}, not {VERSION}")]
    Version(u8),
}

/// TCP options, one bit each, in a control block (those in force) and in a server's state (those its kernel supports).
/// Bits without a name are kept as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OptionBits(pub u16);

impl OptionBits {
    /// Timestamps (RFC 7323 section 3).
    pub const TIMESTAMPS: OptionBits = OptionBits(1 << 0);
    /// Selective acknowledgement (RFC 2018).
    pub const SACK: OptionBits = OptionBits(1 << 1);
    /// Window scale (RFC 7323 section 2).
    pub const WINDOW_SCALE: OptionBits = OptionBits(1 << 2);
    /// Explicit congestion notification (RFC 3168).
    pub const ECN: OptionBits = OptionBits(1 << 3);

    /// Whether every bit of `other` is set here.
    #[must_use]
    pub const fn contains(self, other: OptionBits) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for OptionBits {
    type Output = OptionBits;

    fn bitor(self, other: OptionBits) -> OptionBits {
        OptionBits(self.0 | other.0)
    }
}

/// A TCP control block: the connection as the board shall continue it. Names as in RFC 9293 section 3.3.1, seen from
/// the server's end: SND is towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tcb {
    /// TCP state in the order of RFC 9293 section 3.3.2 (3 SYN-RECEIVED, 4 ESTABLISHED, ...).
    pub state: u8,
    /// Options in force on the connection.
    pub options: OptionBits,
    /// The MSS that the client announced, octets.
    pub client_mss: u16,
    /// The MSS that the appliance announced, octets.
    pub our_mss: u16,
    /// Shift of the windows that the client announces.
    pub client_window_scale: u8,
    /// Shift of the windows that the appliance announced.
    pub our_window_scale: u8,
    /// Initial send sequence number.
    pub iss: Seq,
    /// Initial receive sequence number.
    pub irs: Seq,
    /// SND.UNA; equals SND.NXT in a block that a board takes over.
    pub snd_una: Seq,
    /// SND.NXT.
    pub snd_nxt: Seq,
    /// SND.WND, octets (already scaled).
    pub snd_wnd: u32,
    /// SND.WL1: sequence number of the segment that last updated the window.
    pub snd_wl1: Seq,
    /// SND.WL2: acknowledgement number of the segment that last updated the window.
    pub snd_wl2: Seq,
    /// RCV.NXT: sequence number of the first packet that will follow.
    pub rcv_nxt: Seq,
    /// RCV.WND, octets (already scaled).
    pub rcv_wnd: u32,
    /// TS.Recent: TSval of the first packet that will follow.
    pub ts_recent: u32,
    /// The last TSval sent to the client.
    pub last_tsval: u32,
    /// SRTT, microseconds; 0 unknown.
    pub srtt_us: u32,
    /// RTTVAR, microseconds.
    pub rttvar_us: u32,
    /// Congestion window, octets; 0 unknown.
    pub cwnd: u32,
    /// Slow-start threshold, octets.
    pub ssthresh: u32,
    /// Unique per attempt, never 0; a repeated id is the same attempt.
    pub migration_id: u64,
    /// When the handshake was completed, Unix microseconds.
    pub established_at_us: u64,
    /// The service whose URL map chose the board.
    pub service_id: u32,
    /// Octets of client data in the packets that follow.
    pub octets_following: u32,
    /// The appliance that migrates the connection.
    pub appliance_id: u16,
    /// Grows at every start of that appliance.
    pub epoch: u16,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; 16],
}

impl Tcb {
    /// Size of a control block, octets.
    pub const LEN: usize = LEN;

    /// Reads the first [`LEN`] octets of `buffer`. Reserved octets are ignored, and so is what the fields mean: whether
    /// a board can take the connection over is the board's to judge.
    ///
    /// # Errors
    /// [`Error::Length`] when the buffer is shorter, [`Error::Version`] when the version is not 1.
    pub fn parse(buffer: &[u8]) -> Result<Tcb, Error> {
        let block = first::<0, LEN>(Layer::Tcb, buffer)?;
        let version = u8_at::<0, _>(block);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        Ok(Tcb {
            state: u8_at::<1, _>(block),
            options: OptionBits(u16_at::<2, _>(block)),
            client_mss: u16_at::<4, _>(block),
            our_mss: u16_at::<6, _>(block),
            client_window_scale: u8_at::<8, _>(block),
            our_window_scale: u8_at::<9, _>(block),
            iss: Seq(u32_at::<12, _>(block)),
            irs: Seq(u32_at::<16, _>(block)),
            snd_una: Seq(u32_at::<20, _>(block)),
            snd_nxt: Seq(u32_at::<24, _>(block)),
            snd_wnd: u32_at::<28, _>(block),
            snd_wl1: Seq(u32_at::<32, _>(block)),
            snd_wl2: Seq(u32_at::<36, _>(block)),
            rcv_nxt: Seq(u32_at::<40, _>(block)),
            rcv_wnd: u32_at::<44, _>(block),
            ts_recent: u32_at::<48, _>(block),
            last_tsval: u32_at::<52, _>(block),
            srtt_us: u32_at::<56, _>(block),
            rttvar_us: u32_at::<60, _>(block),
            cwnd: u32_at::<64, _>(block),
            ssthresh: u32_at::<68, _>(block),
            migration_id: u64_at::<72, _>(block),
            established_at_us: u64_at::<80, _>(block),
            service_id: u32_at::<88, _>(block),
            octets_following: u32_at::<92, _>(block),
            appliance_id: u16_at::<96, _>(block),
            epoch: u16_at::<98, _>(block),
            tag: take::<124, 16, _>(block),
        })
    }

    /// Writes the first [`LEN`] octets of `buffer`, reserved ones as zero.
    ///
    /// # Panics
    /// When the buffer is shorter than [`LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        self.write(buffer);
    }

    /// Writes the block, and returns its sum. In whole words, so that neither the sum nor a copy has to wait for octets that
    /// were stored one by one.
    #[inline]
    pub(crate) fn write(&self, buffer: &mut [u8]) -> u64 {
        let block = first_mut::<LEN>(buffer);
        let pair = |first: u32, second: u32| u64::from(first) << 32 | u64::from(second);
        let halves = |first: u16, second: u16| u32::from(first) << 16 | u32::from(second);
        let octets = |first: u8, second: u8| u16::from_be_bytes([first, second]);
        let of_tag = |place: usize| u32::from_be_bytes(self.tag.as_chunks().0[place]);
        let state = halves(octets(VERSION, self.state), self.options.0);
        let scales = halves(octets(self.client_window_scale, self.our_window_scale), 0);
        let words = [
            pair(state, halves(self.client_mss, self.our_mss)),
            pair(scales, self.iss.0),
            pair(self.irs.0, self.snd_una.0),
            pair(self.snd_nxt.0, self.snd_wnd),
            pair(self.snd_wl1.0, self.snd_wl2.0),
            pair(self.rcv_nxt.0, self.rcv_wnd),
            pair(self.ts_recent, self.last_tsval),
            pair(self.srtt_us, self.rttvar_us),
            pair(self.cwnd, self.ssthresh),
            self.migration_id,
            self.established_at_us,
            pair(self.service_id, self.octets_following),
            pair(halves(self.appliance_id, self.epoch), 0),
            0,
            0,
            pair(0, of_tag(0)),
            pair(of_tag(1), of_tag(2)),
        ];
        let (places, last) = block.as_chunks_mut::<8>();
        let mut sum = u64::from(of_tag(3));
        for (place, word) in places.iter_mut().zip(words) {
            *place = word.to_be_bytes();
            sum = checksum::add_with_carry(sum, word);
        }
        last.copy_from_slice(&of_tag(3).to_be_bytes());
        sum
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipos::testing::{assert_emit_needs, emitted};

    /// The control block of Fig. 11D, laid out from docs/wire.md apart from this crate.
    pub(crate) const GOLDEN: [u8; 140] = [
        // version, state
        0x01, 0x04, // options: timestamps, SACK, window scale
        0x00, 0x07, // client's MSS 1460, ours 1440
        0x05, 0xb4, 0x05, 0xa0, // client's window scale 7, ours 9
        0x07, 0x09, // zero
        0x00, 0x00, // ISS, IRS
        0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24, // SND.UNA, SND.NXT
        0x11, 0x12, 0x13, 0x15, 0x11, 0x12, 0x13, 0x15, // SND.WND 64000, SND.WL1, SND.WL2
        0x00, 0x00, 0xfa, 0x00, 0x21, 0x22, 0x23, 0x25, 0x11, 0x12, 0x13, 0x15,
        // RCV.NXT, RCV.WND 65536
        0x21, 0x22, 0x23, 0x25, 0x00, 0x01, 0x00, 0x00, // TS.Recent, last TSval
        0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0x43, 0x44, // SRTT 1500 us, RTTVAR 750 us
        0x00, 0x00, 0x05, 0xdc, 0x00, 0x00, 0x02, 0xee,
        // congestion window 14400, slow-start threshold
        0x00, 0x00, 0x38, 0x40, 0x7f, 0xff, 0xff, 0xff, // migration id
        0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, // established at
        0x00, 0x06, 0x50, 0xa1, 0xb2, 0xc3, 0xd4, 0xe5, // service id, 300 octets follow
        0x61, 0x62, 0x63, 0x64, 0x00, 0x00, 0x01, 0x2c, // appliance id, epoch
        0x71, 0x72, 0x81, 0x82, // zero
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    pub(crate) fn golden() -> Tcb {
        Tcb {
            state: STATE_ESTABLISHED,
            options: OptionBits::TIMESTAMPS | OptionBits::SACK | OptionBits::WINDOW_SCALE,
            client_mss: 1460,
            our_mss: 1440,
            client_window_scale: 7,
            our_window_scale: 9,
            iss: Seq(0x1112_1314),
            irs: Seq(0x2122_2324),
            snd_una: Seq(0x1112_1315),
            snd_nxt: Seq(0x1112_1315),
            snd_wnd: 64_000,
            snd_wl1: Seq(0x2122_2325),
            snd_wl2: Seq(0x1112_1315),
            rcv_nxt: Seq(0x2122_2325),
            rcv_wnd: 65_536,
            ts_recent: 0x3132_3334,
            last_tsval: 0x4142_4344,
            srtt_us: 1_500,
            rttvar_us: 750,
            cwnd: 14_400,
            ssthresh: 0x7fff_ffff,
            migration_id: 0x5152_5354_5556_5758,
            established_at_us: 0x0006_50a1_b2c3_d4e5,
            service_id: 0x6162_6364,
            octets_following: 300,
            appliance_id: 0x7172,
            epoch: 0x8182,
            tag: [0; 16],
        }
    }

    /// A block whose every octet tells its own offset, so that two fields swapped or one misplaced shows.
    fn numbered() -> [u8; LEN] {
        let mut block = core::array::from_fn(|at| at as u8);
        block[0] = VERSION;
        block
    }

    /// The octets that no field owns.
    const RESERVED: [core::ops::Range<usize>; 2] = [10..12, 100..124];

    #[test]
    fn deconstructs_the_golden_block() {
        assert_eq!(Tcb::parse(&GOLDEN), Ok(golden()));
    }

    #[test]
    fn constructs_the_golden_block_over_old_octets() {
        assert_eq!(emitted(LEN, |buffer| golden().emit(buffer)), GOLDEN);
    }

    #[test]
    fn every_field_lies_where_the_table_says() {
        let tcb = Tcb::parse(&numbered()).expect("version 1");
        assert_eq!((tcb.state, tcb.options), (1, OptionBits(0x0203)));
        assert_eq!((tcb.client_mss, tcb.our_mss), (0x0405, 0x0607));
        assert_eq!((tcb.client_window_scale, tcb.our_window_scale), (8, 9));
        assert_eq!((tcb.iss, tcb.irs), (Seq(0x0c0d_0e0f), Seq(0x1011_1213)));
        assert_eq!((tcb.snd_una, tcb.snd_nxt), (Seq(0x1415_1617), Seq(0x1819_1a1b)));
        assert_eq!((tcb.snd_wnd, tcb.snd_wl1), (0x1c1d_1e1f, Seq(0x2021_2223)));
        assert_eq!((tcb.snd_wl2, tcb.rcv_nxt), (Seq(0x2425_2627), Seq(0x2829_2a2b)));
        assert_eq!((tcb.rcv_wnd, tcb.ts_recent), (0x2c2d_2e2f, 0x3031_3233));
        assert_eq!((tcb.last_tsval, tcb.srtt_us), (0x3435_3637, 0x3839_3a3b));
        assert_eq!((tcb.rttvar_us, tcb.cwnd), (0x3c3d_3e3f, 0x4041_4243));
        assert_eq!((tcb.ssthresh, tcb.migration_id), (0x4445_4647, 0x4849_4a4b_4c4d_4e4f));
        assert_eq!((tcb.established_at_us, tcb.service_id), (0x5051_5253_5455_5657, 0x5859_5a5b));
        assert_eq!((tcb.octets_following, tcb.appliance_id), (0x5c5d_5e5f, 0x6061));
        assert_eq!((tcb.epoch, tcb.tag), (0x6263, core::array::from_fn(|at| 124 + at as u8)));
    }

    #[test]
    fn reserved_octets_are_ignored_and_written_as_zero() {
        let mut expected = numbered();
        for range in RESERVED {
            expected[range].fill(0);
        }
        let tcb = Tcb::parse(&numbered()).expect("version 1");
        assert_eq!(emitted(LEN, |buffer| tcb.emit(buffer)), expected);
    }

    #[test]
    fn every_shorter_buffer_is_refused() {
        for len in 0..LEN {
            let error = LengthError { layer: Layer::Tcb, offset: 0, required: LEN, actual: len };
            assert_eq!(Tcb::parse(&GOLDEN[..len]), Err(Error::Length(error)));
        }
    }

    #[test]
    fn every_other_version_is_refused() {
        let mut block = GOLDEN;
        for version in (0..=u8::MAX).filter(|version| *version != VERSION) {
            block[0] = version;
            assert_eq!(Tcb::parse(&block), Err(Error::Version(version)));
        }
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(LEN, |buffer| golden().emit(buffer));
    }

    #[test]
    fn option_bits_contain_their_parts_and_nothing_else() {
        let both = OptionBits::SACK | OptionBits::ECN;
        assert_eq!(both, OptionBits(0b1010));
        assert!(both.contains(OptionBits::SACK) && both.contains(OptionBits::ECN) && both.contains(both));
        assert!(both.contains(OptionBits::default()));
        assert!(!both.contains(OptionBits::TIMESTAMPS) && !both.contains(OptionBits::WINDOW_SCALE));
        assert!(!both.contains(OptionBits::SACK | OptionBits::TIMESTAMPS));
    }

    proptest! {
        /// Reading and writing lose nothing but reserved octets, whatever the fields hold.
        #[test]
        fn octets_survive_a_round_trip(mut block in prop::collection::vec(any::<u8>(), LEN)) {
            block[0] = VERSION;
            for range in RESERVED {
                block[range].fill(0);
            }
            let tcb = Tcb::parse(&block).expect("version 1");
            prop_assert_eq!(emitted(LEN, |buffer| tcb.emit(buffer)), block);
        }
    }
}
