//! TCP segments (RFC 9293 section 3.1) and the options of a handshake (RFC 9293 section 3.2, RFC 7323, RFC 2018).

mod options;

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::BitOr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::ipv4::PROTOCOL_TCP;
use crate::octets;
use crate::seq::Seq;

pub use options::{MAX_WINDOW_SCALE, Options, Timestamps};

/// Octets of the header without options.
pub const HEADER_LEN: usize = 20;
/// Octets of options that fit a header.
pub const MAX_OPTIONS_LEN: usize = 40;

const SRC_PORT: usize = 0;
const DST_PORT: usize = 2;
const SEQ: usize = 4;
const ACK: usize = 8;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;

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
