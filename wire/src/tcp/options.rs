//! A TCP header's options (RFC 9293 section 3.2, RFC 7323, RFC 2018).

use super::Error;
use crate::error::{Layer, LengthError};
use crate::octets;

/// The largest shift of the window field (RFC 7323 section 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_TIMESTAMPS: u8 = 8;

/// The timestamps option (RFC 7323 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Timestamps {
    /// TSval, the sender's clock.
    pub tsval: u32,
    /// TSecr, the echo of the receiver's clock.
    pub tsecr: u32,
}

impl Timestamps {
    /// The value of the option, as it is on the wire.
    #[inline]
    fn of(octets: [u8; 8]) -> Timestamps {
        let both = u64::from_be_bytes(octets);
        Timestamps { tsval: (both >> 32) as u32, tsecr: both as u32 }
    }
}

/// The options that a handshake settles, and the timestamps of every later segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// Maximum segment size in octets (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Shift of the window field, 0 to 14 (RFC 7323 section 2.2).
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgements are welcome (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323 section 3.2).
    pub timestamps: Option<Timestamps>,
}

impl Options {
    /// Reads a header's options. Unknown ones are skipped, of a repeated one the last counts, and a window scale above
    /// 14 reads as 14 (RFC 7323 section 2.3). Every step consumes an octet, so the work is bounded by the slice.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for an option that runs past the end, [`Error::OptionLength`] for one whose length field is
    /// below two or not that of its kind.
    #[inline(always)]
    pub fn parse(data: &[u8]) -> Result<Options, Error> {
        // What nearly every stack sends: time stamps alone behind the handshake, and the SYN of Linux.
        match *data {
            [] => Ok(Options::default()),
            [OPTION_NOP, OPTION_NOP, OPTION_TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => Ok(Options {
                timestamps: Some(Timestamps::of([a, b, c, d, e, f, g, h])),
                ..Options::default()
            }),
            [
                OPTION_MSS,
                4,
                mss_high,
                mss_low,
                OPTION_SACK_PERMITTED,
                2,
                OPTION_TIMESTAMPS,
                10,
                a,
                b,
                c,
                d,
                e,
                f,
                g,
                h,
                OPTION_NOP,
                OPTION_WINDOW_SCALE,
                3,
                shift,
            ] => Ok(Options {
                mss: Some(u16::from_be_bytes([mss_high, mss_low])),
                window_scale: Some(shift.min(MAX_WINDOW_SCALE)),
                sack_permitted: true,
                timestamps: Some(Timestamps::of([a, b, c, d, e, f, g, h])),
            }),
            _ => Options::parse_any(data),
        }
    }

    fn parse_any(data: &[u8]) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut rest = data;
        while let [kind, tail @ ..] = rest {
            if *kind == OPTION_END {
                break;
            }
            if *kind == OPTION_NOP {
                rest = tail;
                continue;
            }
            let offset = data.len() - rest.len();
            LengthError::check(Layer::TcpOption, offset, 2, data.len())?;
            let len = rest[1];
            if len < 2 {
                return Err(Error::OptionLength { kind: *kind, len });
            }
            LengthError::check(Layer::TcpOption, offset, usize::from(len), data.len())?;
            let (option, behind) = rest.split_at(usize::from(len));
            options.take(option)?;
            rest = behind;
        }
        Ok(options)
    }

    /// Notes one whole option: kind, length, value.
    fn take(&mut self, option: &[u8]) -> Result<(), Error> {
        match *option {
            [OPTION_MSS, 4, a, b] => self.mss = Some(u16::from_be_bytes([a, b])),
            [OPTION_WINDOW_SCALE, 3, shift] => self.window_scale = Some(shift.min(MAX_WINDOW_SCALE)),
            [OPTION_SACK_PERMITTED, 2] => self.sack_permitted = true,
            [OPTION_TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => {
                self.timestamps = Some(Timestamps::of([a, b, c, d, e, f, g, h]));
            }
            [
                kind @ (OPTION_MSS | OPTION_WINDOW_SCALE | OPTION_SACK_PERMITTED | OPTION_TIMESTAMPS),
                len,
                ..,
            ] => {
                return Err(Error::OptionLength { kind, len });
            }
            _ => {}
        }
        Ok(())
    }

    /// Octets that [`Options::emit`] writes: a multiple of 4, at most 20.
    #[inline]
    pub const fn emitted_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        // SACK-permitted takes the place of the two NOPs before the timestamps, where there are any.
        let stamps = match (self.timestamps.is_some(), self.sack_permitted) {
            (true, _) => 12,
            (false, true) => 4,
            (false, false) => 0,
        };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        mss + stamps + scale
    }

    /// Writes the options to the first [`Options::emitted_len`] octets of `buf`, in the order and with the padding of
    /// Linux: MSS; SACK-permitted and timestamps; NOP and window scale. Middleboxes know that order best.
    ///
    /// # Panics
    ///
    /// If `buf` is shorter.
    #[inline]
    pub fn emit(&self, buf: &mut [u8]) {
        self.write(buf);
    }

    /// Writes the options, and returns their sum.
    #[inline]
    pub(super) fn write(&self, buf: &mut [u8]) -> u64 {
        // What nearly every client settles with us: all of them, in places that are known when this is compiled.
        if let Options {
            mss: Some(mss),
            window_scale: Some(shift),
            sack_permitted: true,
            timestamps: Some(stamps),
        } = *self
            && let Some(buf) = buf.first_chunk_mut::<20>()
        {
            let words = [
                u32::from_be_bytes([OPTION_MSS, 4, 0, 0]) | u32::from(mss),
                u32::from_be_bytes([OPTION_SACK_PERMITTED, 2, OPTION_TIMESTAMPS, 10]),
                stamps.tsval,
                stamps.tsecr,
                u32::from_be_bytes([OPTION_NOP, OPTION_WINDOW_SCALE, 3, shift.min(MAX_WINDOW_SCALE)]),
            ];
            for (place, word) in words.iter().enumerate() {
                octets::put_u32(buf, 4 * place, *word);
            }
            return words.map(u64::from).iter().sum();
        }
        let (mut at, mut sum) = (0, 0);
        // Whole words: their sum does not have to be read back from octets.
        let mut word = |word: u32| {
            octets::put_u32(buf, at, word);
            at += 4;
            sum += u64::from(word);
        };
        if let Some(mss) = self.mss {
            word(u32::from_be_bytes([OPTION_MSS, 4, 0, 0]) | u32::from(mss));
        }
        match (self.timestamps, self.sack_permitted) {
            (Some(Timestamps { tsval, tsecr }), sack_permitted) => {
                let before =
                    if sack_permitted { [OPTION_SACK_PERMITTED, 2] } else { [OPTION_NOP, OPTION_NOP] };
                word(u32::from_be_bytes([before[0], before[1], OPTION_TIMESTAMPS, 10]));
                word(tsval);
                word(tsecr);
            }
            (None, true) => word(u32::from_be_bytes([OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2])),
            (None, false) => {}
        }
        if let Some(shift) = self.window_scale {
            word(u32::from_be_bytes([OPTION_NOP, OPTION_WINDOW_SCALE, 3, shift.min(MAX_WINDOW_SCALE)]));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::MAX_OPTIONS_LEN;
    use super::*;

    #[test]
    fn skips_unknown_options_and_stops_at_the_end() {
        let data = [0xfd, 4, 1, 2, 1, 2, 4, 2, 0, 19, 18].as_slice();
        assert_eq!(
            Options::parse(data).unwrap_err(),
            Error::Length(LengthError { layer: Layer::TcpOption, offset: 9, required: 18, actual: 2 })
        );
        // Behind the end of the list nothing is an option, however malformed.
        let data = [0xfd, 2, 1, 2, 4, 2, 0, 0, 3, 99];
        assert_eq!(Options::parse(&data), Ok(Options { mss: Some(512), ..Options::default() }));
        assert_eq!(Options::parse(&[]), Ok(Options::default()));
    }

    #[test]
    fn of_a_repeated_option_the_last_counts() {
        let data = [2, 4, 2, 0, 2, 4, 5, 0xb4];
        assert_eq!(Options::parse(&data).unwrap().mss, Some(1460));
    }

    #[test]
    fn a_window_scale_above_14_reads_and_writes_as_14() {
        assert_eq!(Options::parse(&[3, 3, 14]).unwrap().window_scale, Some(14));
        assert_eq!(Options::parse(&[3, 3, 255]).unwrap().window_scale, Some(14));
        let mut octets = [0xa5; 4];
        Options { window_scale: Some(15), ..Options::default() }.emit(&mut octets);
        assert_eq!(octets, [1, 3, 3, 14]);
    }

    #[test]
    fn options_cut_short_are_errors() {
        for kind in (2..=u8::MAX).chain([2, 3, 4, 8]) {
            let error = LengthError { layer: Layer::TcpOption, offset: 1, required: 2, actual: 1 };
            assert_eq!(Options::parse(&[1, kind]), Err(Error::Length(error)), "kind {kind} without a length");
            for len in [0, 1] {
                let expected = Error::OptionLength { kind, len };
                assert_eq!(Options::parse(&[kind, len, 0, 0]), Err(expected), "kind {kind}");
            }
            let error = LengthError { layer: Layer::TcpOption, offset: 0, required: 5, actual: 4 };
            assert_eq!(Options::parse(&[kind, 5, 0, 0]), Err(Error::Length(error)), "kind {kind}");
        }
    }

    #[test]
    fn known_options_of_another_length_are_errors() {
        for (kind, right) in [(2, 4), (3, 3), (4, 2), (8, 10)] {
            for len in 2..=40_u8 {
                let mut data = [0; 40];
                (data[0], data[1]) = (kind, len);
                let options = Options::parse(&data);
                if len == right {
                    assert!(options.is_ok(), "kind {kind}");
                } else {
                    assert_eq!(options, Err(Error::OptionLength { kind, len }));
                }
            }
        }
    }

    #[test]
    fn emits_in_the_order_of_linux() {
        let stamps = Some(Timestamps { tsval: 0x0102_0304, tsecr: 0x0506_0708 });
        let none = Options::default();
        let cases: [(Options, &[u8]); 6] = [
            (none, &[]),
            (Options { sack_permitted: true, ..none }, &[1, 1, 4, 2]),
            (Options { timestamps: stamps, ..none }, &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
            (
                Options { timestamps: stamps, sack_permitted: true, ..none },
                &[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            ),
            (
                Options { mss: Some(1400), window_scale: Some(7), sack_permitted: true, timestamps: None },
                &[2, 4, 5, 0x78, 1, 1, 4, 2, 1, 3, 3, 7],
            ),
            (Options { mss: Some(1400), window_scale: Some(7), ..none }, &[2, 4, 5, 0x78, 1, 3, 3, 7]),
        ];
        for (options, expected) in cases {
            let mut octets = [0xa5; MAX_OPTIONS_LEN];
            options.emit(&mut octets);
            let len = options.emitted_len();
            assert_eq!(&octets[..len], expected);
            assert_eq!(&octets[len..], vec![0xa5; MAX_OPTIONS_LEN - len]);
        }
    }

    /// Option lists that are well formed more often than random octets are.
    fn option_octets() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(vec![1]),
            Just(vec![4, 2]),
            any::<[u8; 2]>().prop_map(|value| [&[2, 4][..], &value].concat()),
            any::<u8>().prop_map(|shift| vec![3, 3, shift]),
            any::<[u8; 8]>().prop_map(|value| [&[8, 10][..], &value].concat()),
            any::<[u8; 3]>().prop_map(|octets| octets.to_vec()),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_options_panic_and_those_read_survive(octets in option_octets()) {
            if let Ok(options) = Options::parse(&octets) {
                prop_assert!(options.window_scale.is_none_or(|shift| shift <= MAX_WINDOW_SCALE));
                let mut emitted = vec![0xa5; options.emitted_len()];
                options.emit(&mut emitted);
                prop_assert_eq!(Options::parse(&emitted), Ok(options));
            }
        }
    }
}
