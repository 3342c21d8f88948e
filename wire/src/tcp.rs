//! TCP segments (RFC 9293 section 3.1) and the options of a handshake (RFC 9293 section 3.2, RFC 7323, RFC 2018).

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::BitOr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::ipv4::PROTOCOL_TCP;
use crate::octets;
use crate::seq::Seq;

/// Octets of the header without options.
pub const HEADER_LEN: usize = 20;
/// Octets of options that fit a header.
pub const MAX_OPTIONS_LEN: usize = 40;
/// The largest shift of the window field (RFC 7323 section 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const SRC_PORT: usize = 0;
const DST_PORT: usize = 2;
const SEQ: usize = 4;
const ACK: usize = 8;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_TIMESTAMPS: u8 = 8;

/// Why octets are not a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Header or option cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// A data offset below the 20 octets that every header has.
    #[error("TCP header length of {0} octets is below 20")]
    HeaderLength(usize),
    /// An option whose length field contradicts its kind.
    #[error("TCP option {kind} says it has {len} octets")]
    OptionLength {
        /// The option's kind.
        kind: u8,
        /// The option's length field.
        len: u8,
    },
}

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Hand the data to the receiver without delay.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// Congestion was met (RFC 3168 section 6.1).
    pub const ECE: Flags = Flags(0x40);
    /// The congestion window was reduced (RFC 3168 section 6.1).
    pub const CWR: Flags = Flags(0x80);

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub const fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut separator = "";
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if self.0 == 0 { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A view of a segment; the buffer must end where the IPv4 payload ends, because TCP has no length of its own.
///
/// Constructing one neither checks the checksum nor reads the options: ask [`Segment::checksum_ok`] and
/// [`Segment::options`].
#[derive(Debug, Clone, Copy)]
pub struct Segment<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Segment<T> {
    /// Checks the data offset against the fixed header and the buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::HeaderLength`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Segment<T>, Error> {
        let available = buffer.as_ref().len();
        LengthError::check(Layer::Tcp, 0, HEADER_LEN, available)?;
        let segment = Segment { buffer };
        let header_len = segment.header_len();
        if header_len < HEADER_LEN {
            return Err(Error::HeaderLength(header_len));
        }
        LengthError::check(Layer::Tcp, 0, header_len, available)?;
        Ok(segment)
    }

    /// Gives the buffer back.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// The sender's port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), SRC_PORT)
    }

    /// The receiver's port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), DST_PORT)
    }

    /// SEG.SEQ, the sequence number of the first octet, or of the SYN.
    #[inline]
    pub fn seq(&self) -> Seq {
        Seq(octets::u32(self.buffer.as_ref(), SEQ))
    }

    /// SEG.ACK, which counts only with [`Flags::ACK`].
    #[inline]
    pub fn ack(&self) -> Seq {
        Seq(octets::u32(self.buffer.as_ref(), ACK))
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.buffer.as_ref()[FLAGS])
    }

    /// SEG.WND as sent, not yet shifted by the window scale.
    #[inline]
    pub fn window(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), WINDOW)
    }

    /// Octets of the header with its options: 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.buffer.as_ref()[DATA_OFFSET] >> 4) * 4
    }

    /// The checksum as sent.
    #[inline]
    pub fn checksum(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), CHECKSUM)
    }

    /// Whether the checksum is right between these addresses.
    #[inline]
    pub fn checksum_ok(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let data = self.buffer.as_ref();
        checksum::is_right(data, checksum::pseudo_header(src, dst, PROTOCOL_TCP, data.len()))
    }

    /// The options, unread.
    #[inline]
    pub fn options_raw(&self) -> &[u8] {
        &self.buffer.as_ref()[HEADER_LEN..self.header_len()]
    }

    /// The options, read.
    ///
    /// # Errors
    ///
    /// As [`Options::parse`].
    #[inline]
    pub fn options(&self) -> Result<Options, Error> {
        Options::parse(self.options_raw())
    }

    /// SEG.LEN: octets of payload, plus one each for SYN and FIN (RFC 9293 section 3.4).
    #[inline]
    pub fn seg_len(&self) -> u32 {
        let payload_len = (self.buffer.as_ref().len() - self.header_len()) as u32;
        let flags = self.flags();
        payload_len + u32::from(flags.intersects(Flags::SYN)) + u32::from(flags.intersects(Flags::FIN))
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> Segment<&'a T> {
    /// What follows the header. It outlives the view.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buffer.as_ref()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Segment<T> {
    /// Changes the sender's port. After this and every other setter the checksum is wrong until
    /// [`Segment::fill_checksum`].
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        octets::put_u16(self.buffer.as_mut(), SRC_PORT, port);
    }

    /// Changes the receiver's port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        octets::put_u16(self.buffer.as_mut(), DST_PORT, port);
    }

    /// Changes SEG.SEQ.
    #[inline]
    pub fn set_seq(&mut self, seq: Seq) {
        octets::put_u32(self.buffer.as_mut(), SEQ, seq.0);
    }

    /// Changes SEG.ACK.
    #[inline]
    pub fn set_ack(&mut self, ack: Seq) {
        octets::put_u32(self.buffer.as_mut(), ACK, ack.0);
    }

    /// Changes the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        octets::put(self.buffer.as_mut(), FLAGS, &[flags.0]);
    }

    /// Changes the window field.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        octets::put_u16(self.buffer.as_mut(), WINDOW, window);
    }

    /// Computes the checksum anew for these addresses.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        fill_checksum(self.buffer.as_mut(), src, dst);
    }

    /// What follows the header, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let header_len = self.header_len();
        &mut self.buffer.as_mut()[header_len..]
    }
}

/// The complemented sum over pseudo header and segment.
#[inline]
fn checksum_over(data: &[u8], src: Ipv4Addr, dst: Ipv4Addr) -> u16 {
    !checksum::fold(checksum::pseudo_header(src, dst, PROTOCOL_TCP, data.len()) + checksum::sum(data))
}

fn fill_checksum(data: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) {
    octets::put_u16(data, CHECKSUM, 0);
    let checksum = checksum_over(data, src, dst);
    octets::put_u16(data, CHECKSUM, checksum);
}

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
    fn write(&self, buf: &mut [u8]) -> u64 {
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

/// The values of a header. The urgent pointer is not among them: we send none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as sent, already shifted by the window scale.
    pub window: u16,
    /// The options.
    pub options: Options,
}

impl Repr {
    /// Reads a segment's header and options.
    ///
    /// # Errors
    ///
    /// As [`Options::parse`].
    pub fn parse<T: AsRef<[u8]>>(segment: &Segment<T>) -> Result<Repr, Error> {
        Ok(Repr {
            src_port: segment.src_port(),
            dst_port: segment.dst_port(),
            seq: segment.seq(),
            ack: segment.ack(),
            flags: segment.flags(),
            window: segment.window(),
            options: segment.options()?,
        })
    }

    /// Octets of the header with its options.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.emitted_len()
    }

    /// Writes header, options, payload and checksum to `buf`.
    ///
    /// # Panics
    ///
    /// If `buf` is not exactly [`Repr::header_len`] and the payload long.
    #[inline(always)]
    pub fn emit(&self, buf: &mut [u8], payload: &[u8], src: Ipv4Addr, dst: Ipv4Addr) {
        let header_len = self.header_len();
        assert_eq!(buf.len(), header_len + payload.len(), "the buffer must fit the segment");
        // Whole words, and their sum beside them: reading words back that were written in pieces stalls the processor.
        let ports = u32::from(self.src_port) << 16 | u32::from(self.dst_port);
        let control = (header_len as u32 / 4) << 28 | u32::from(self.flags.0) << 16 | u32::from(self.window);
        let mut sum = checksum::pseudo_header(src, dst, PROTOCOL_TCP, buf.len());
        sum += [ports, self.seq.0, self.ack.0, control].map(u64::from).iter().sum::<u64>();
        // Cut up once, so that nothing below has to compare lengths.
        let (fixed, rest) = buf.split_at_mut(HEADER_LEN);
        let (options, body) = rest.split_at_mut(header_len - HEADER_LEN);
        sum += self.options.write(options);
        sum += checksum::sum(payload);
        body.copy_from_slice(payload);
        octets::put_u32(fixed, SRC_PORT, ports);
        octets::put_u32(fixed, SEQ, self.seq.0);
        octets::put_u32(fixed, ACK, self.ack.0);
        octets::put_u32(fixed, DATA_OFFSET, control);
        octets::put_u32(fixed, CHECKSUM, u32::from(!checksum::fold(sum)) << 16);
    }
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

    /// SYN,ACK and request of one connection as Linux sent them.
    const SYN_ACK: [u8; 40] = [
        0x00, 0x50, 0x10, 0x92, 0x1d, 0x6c, 0x5f, 0xd6, 0x8c, 0xc6, 0x08, 0x12, 0xa0, 0x12, 0xfe, 0x88, 0x74,
        0xe9, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0x87, 0x21, 0xb5, 0xce, 0x78, 0xb3,
        0x83, 0xcd, 0x01, 0x03, 0x03, 0x0a,
    ];
    const REQUEST: [u8; 50] = [
        0x10, 0x92, 0x00, 0x50, 0x8c, 0xc6, 0x08, 0x12, 0x1d, 0x6c, 0x5f, 0xd7, 0x80, 0x18, 0x00, 0x3f, 0xc3,
        0x47, 0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0x78, 0xb3, 0x83, 0xcd, 0x87, 0x21, 0xb5, 0xce, 0x47, 0x45,
        0x54, 0x20, 0x2f, 0x20, 0x48, 0x54, 0x54, 0x50, 0x2f, 0x31, 0x2e, 0x31, 0x0d, 0x0a, 0x0d, 0x0a,
    ];
    const REQUEST_TEXT: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    const SYN_ACK_REPR: Repr = Repr {
        src_port: 80,
        dst_port: 4242,
        seq: Seq(493_641_686),
        ack: Seq(2_361_788_434),
        flags: Flags(0x12),
        window: 65_160,
        options: Options {
            mss: Some(1460),
            window_scale: Some(10),
            sack_permitted: true,
            timestamps: Some(Timestamps { tsval: 2_267_133_390, tsecr: 2_025_030_605 }),
        },
    };
    const REQUEST_REPR: Repr = Repr {
        src_port: 4242,
        dst_port: 80,
        seq: Seq(2_361_788_434),
        ack: Seq(493_641_687),
        flags: Flags(0x18),
        window: 63,
        options: Options {
            mss: None,
            window_scale: None,
            sack_permitted: false,
            timestamps: Some(Timestamps { tsval: 2_025_030_605, tsecr: 2_267_133_390 }),
        },
    };

    #[test]
    fn deconstructs_a_syn_ack() {
        let segment = Segment::new_checked(&SYN_ACK).unwrap();
        assert_eq!(Repr::parse(&segment), Ok(SYN_ACK_REPR));
        assert_eq!(segment.flags(), Flags::SYN | Flags::ACK);
        assert_eq!((segment.header_len(), segment.seg_len()), (40, 1));
        assert_eq!(segment.checksum(), 0x74e9);
        assert!(segment.checksum_ok(SERVER, CLIENT));
        assert_eq!(segment.payload(), []);
    }

    #[test]
    fn deconstructs_a_segment_with_data() {
        let segment = Segment::new_checked(&REQUEST[..]).unwrap();
        assert_eq!(Repr::parse(&segment), Ok(REQUEST_REPR));
        assert!(segment.checksum_ok(CLIENT, SERVER));
        assert_eq!(segment.options_raw(), &REQUEST[20..32]);
        assert_eq!((segment.payload(), segment.seg_len()), (REQUEST_TEXT, 18));
    }

    #[test]
    fn constructs_the_segments_of_linux() {
        let mut octets = [0xa5; 40];
        SYN_ACK_REPR.emit(&mut octets, &[], SERVER, CLIENT);
        assert_eq!(octets, SYN_ACK);
        let mut octets = [0xa5; 50];
        REQUEST_REPR.emit(&mut octets, REQUEST_TEXT, CLIENT, SERVER);
        assert_eq!(octets, REQUEST);
    }

    #[test]
    #[should_panic(expected = "the buffer must fit the segment")]
    fn emit_refuses_a_buffer_of_another_size() {
        SYN_ACK_REPR.emit(&mut [0; 41], &[], SERVER, CLIENT);
    }

    #[test]
    fn the_checksum_covers_addresses_and_payload() {
        assert!(!Segment::new_checked(&REQUEST).unwrap().checksum_ok(CLIENT, CLIENT));
        let mut octets = REQUEST;
        octets[49] ^= 1;
        assert!(!Segment::new_checked(&octets).unwrap().checksum_ok(CLIENT, SERVER));
    }

    #[test]
    fn syn_and_fin_take_a_sequence_number_each() {
        let mut segment = Segment::new_checked(REQUEST).unwrap();
        for (flags, expected) in [
            (Flags::ACK, 18),
            (Flags::FIN | Flags::ACK, 19),
            (Flags::SYN, 19),
            (Flags::SYN | Flags::FIN, 20),
            (Flags::RST | Flags::PSH | Flags::URG, 18),
        ] {
            segment.set_flags(flags);
            assert_eq!(segment.seg_len(), expected, "{flags}");
        }
    }

    #[test]
    fn setters_change_their_field_and_the_checksum_follows() {
        let mut segment = Segment::new_checked(REQUEST).unwrap();
        segment.set_src_port(80);
        segment.set_dst_port(4242);
        segment.set_seq(Seq(1));
        segment.set_ack(Seq(2));
        segment.set_flags(Flags::RST);
        segment.set_window(3);
        assert_eq!(segment.payload_mut(), REQUEST_TEXT);
        assert!(!segment.checksum_ok(SERVER, CLIENT));
        segment.fill_checksum(SERVER, CLIENT);
        assert!(segment.checksum_ok(SERVER, CLIENT));
        let expected = Repr {
            src_port: 80,
            dst_port: 4242,
            seq: Seq(1),
            ack: Seq(2),
            flags: Flags::RST,
            window: 3,
            options: REQUEST_REPR.options,
        };
        assert_eq!(Repr::parse(&segment), Ok(expected));
        assert_eq!(segment.into_inner()[18..], REQUEST[18..]);
    }

    #[test]
    fn every_impossible_length_is_an_error() {
        for len in 0..40 {
            let required = if len < HEADER_LEN { HEADER_LEN } else { 40 };
            let error = LengthError { layer: Layer::Tcp, offset: 0, required, actual: len };
            assert_eq!(Segment::new_checked(&SYN_ACK[..len]).unwrap_err(), Error::Length(error));
        }
        for words in 0..5_u8 {
            let mut octets = SYN_ACK;
            octets[12] = words << 4;
            let expected = Error::HeaderLength(usize::from(words) * 4);
            assert_eq!(Segment::new_checked(&octets).unwrap_err(), expected);
        }
    }

    #[test]
    fn flags_contain_all_or_intersect_any() {
        let flags = Flags::SYN | Flags::ACK;
        assert!(flags.contains(Flags::SYN | Flags::ACK) && !flags.contains(Flags::SYN | Flags::FIN));
        assert!(flags.intersects(Flags::SYN | Flags::FIN) && !flags.intersects(Flags::RST | Flags::FIN));
        assert_eq!(format!("{flags} {:?}", Flags::default()), "SYN|ACK none");
        assert_eq!(format!("{}", Flags(0xff)), "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR");
    }

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

    fn options() -> impl Strategy<Value = Options> {
        let timestamps = prop::option::of(any::<(u32, u32)>());
        (any::<Option<u16>>(), prop::option::of(0..=MAX_WINDOW_SCALE), any::<bool>(), timestamps).prop_map(
            |(mss, window_scale, sack_permitted, timestamps)| Options {
                mss,
                window_scale,
                sack_permitted,
                timestamps: timestamps.map(|(tsval, tsecr)| Timestamps { tsval, tsecr }),
            },
        )
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
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..100), words in 0..16_u8) {
            let mut octets = octets;
            if octets.len() >= HEADER_LEN {
                octets[12] = words << 4;
            }
            if let Ok(segment) = Segment::new_checked(&octets[..]) {
                prop_assert_eq!(segment.header_len() + segment.payload().len(), octets.len());
                prop_assert_eq!(segment.options_raw().len(), segment.header_len() - HEADER_LEN);
                prop_assert_eq!(Repr::parse(&segment).is_ok(), segment.options().is_ok());
                let mut segment = Segment::new_checked(octets.clone()).unwrap();
                segment.fill_checksum(CLIENT, SERVER);
                prop_assert!(segment.checksum_ok(CLIENT, SERVER));
            }
        }

        #[test]
        fn no_options_panic_and_those_read_survive(octets in option_octets()) {
            if let Ok(options) = Options::parse(&octets) {
                prop_assert!(options.window_scale.is_none_or(|shift| shift <= MAX_WINDOW_SCALE));
                let mut emitted = vec![0xa5; options.emitted_len()];
                options.emit(&mut emitted);
                prop_assert_eq!(Options::parse(&emitted), Ok(options));
            }
        }

        #[test]
        fn parses_what_it_emits(
            ports: (u16, u16), numbers: (u32, u32), flags: u8, window: u16, options in options(),
            addresses: (u32, u32), payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let repr = Repr {
                src_port: ports.0,
                dst_port: ports.1,
                seq: Seq(numbers.0),
                ack: Seq(numbers.1),
                flags: Flags(flags),
                window,
                options,
            };
            let (src, dst) = (Ipv4Addr::from(addresses.0), Ipv4Addr::from(addresses.1));
            prop_assert!(repr.header_len().is_multiple_of(4));
            prop_assert!(repr.header_len() <= HEADER_LEN + MAX_OPTIONS_LEN);
            let mut octets = vec![0xa5; repr.header_len() + payload.len()];
            repr.emit(&mut octets, &payload, src, dst);
            let segment = Segment::new_checked(&octets[..]).unwrap();
            prop_assert!(segment.checksum_ok(src, dst));
            prop_assert_eq!(Repr::parse(&segment), Ok(repr));
            prop_assert_eq!(segment.payload(), payload);
        }
    }
}
