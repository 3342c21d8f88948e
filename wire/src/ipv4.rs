//! IPv4 packets (RFC 791 section 3.1).

use core::net::Ipv4Addr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::octets;

/// Octets of the header without options.
pub const HEADER_LEN: usize = 20;
/// Protocol number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

const VERSION_IHL: usize = 0;
const TOTAL_LEN: usize = 2;
const IDENT: usize = 4;
const FRAGMENT: usize = 6;
const TTL: usize = 8;
const PROTOCOL: usize = 9;
const CHECKSUM: usize = 10;
const SRC: usize = 12;
const DST: usize = 16;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Why octets are not an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Header or payload cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// Another version of IP.
    #[error("IP version {0} instead of 4")]
    Version(u8),
    /// A header length below the 20 octets that every header has.
    #[error("IPv4 header length of {0} octets is below 20")]
    HeaderLength(usize),
    /// A total length that ends inside the header.
    #[error("IPv4 total length of {total_len} octets is below the header's {header_len}")]
    TotalLength {
        /// Octets of the packet by its own word.
        total_len: usize,
        /// Octets of the header by its own word.
        header_len: usize,
    },
}

/// A view of a packet; octets behind its total length are padding.
///
/// Constructing one does not check the header checksum, because the NIC often has: ask [`Packet::checksum_ok`].
#[derive(Debug, Clone, Copy)]
pub struct Packet<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks version, header length and total length against each other and against the buffer.
    ///
    /// # Errors
    ///
    /// Every variant of [`Error`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Packet<T>, Error> {
        let data = buffer.as_ref();
        LengthError::check(Layer::Ipv4, 0, HEADER_LEN, data.len())?;
        let version = data[VERSION_IHL] >> 4;
        if version != 4 {
            return Err(Error::Version(version));
        }
        let packet = Packet { buffer };
        let (header_len, total_len) = (packet.header_len(), packet.total_len());
        if header_len < HEADER_LEN {
            return Err(Error::HeaderLength(header_len));
        }
        if total_len < header_len {
            return Err(Error::TotalLength { total_len, header_len });
        }
        LengthError::check(Layer::Ipv4, 0, total_len, packet.buffer.as_ref().len())?;
        Ok(packet)
    }

    /// Gives the buffer back.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// Octets of the header with its options: 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.buffer.as_ref()[VERSION_IHL] & 0x0f) * 4
    }

    /// Octets of header and payload.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(octets::u16(self.buffer.as_ref(), TOTAL_LEN))
    }

    /// The identification that a packet's fragments share.
    #[inline]
    pub fn ident(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), IDENT)
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        octets::u16(self.buffer.as_ref(), FRAGMENT) & DONT_FRAGMENT != 0
    }

    /// Whether fragments follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        octets::u16(self.buffer.as_ref(), FRAGMENT) & MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the unfragmented one, in octets.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(octets::u16(self.buffer.as_ref(), FRAGMENT) & 0x1fff) * 8
    }

    /// Whether the packet is any fragment, the first included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        octets::u16(self.buffer.as_ref(), FRAGMENT) & (MORE_FRAGMENTS | 0x1fff) != 0
    }

    /// Hops left.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.buffer.as_ref()[TTL]
    }

    /// The payload's protocol number.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.buffer.as_ref()[PROTOCOL]
    }

    /// The header checksum as sent.
    #[inline]
    pub fn checksum(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), CHECKSUM)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        checksum::of(&self.buffer.as_ref()[..self.header_len()]) == 0
    }

    /// The source.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        octets::ip(self.buffer.as_ref(), SRC)
    }

    /// The destination.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        octets::ip(self.buffer.as_ref(), DST)
    }

    /// The options, unread; empty in nearly every packet.
    #[inline]
    pub fn options_raw(&self) -> &[u8] {
        &self.buffer.as_ref()[HEADER_LEN..self.header_len()]
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> Packet<&'a T> {
    /// What follows the header, cut to the total length. It outlives the view.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buffer.as_ref()[self.header_len()..self.total_len()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Changes the hops left. The checksum is wrong until [`Packet::fill_checksum`].
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        octets::put(self.buffer.as_mut(), TTL, &[ttl]);
    }

    /// Changes the source. The checksums of header and payload are wrong until they are filled.
    #[inline]
    pub fn set_src(&mut self, src: Ipv4Addr) {
        octets::put(self.buffer.as_mut(), SRC, &src.octets());
    }

    /// Changes the destination. The checksums of header and payload are wrong until they are filled.
    #[inline]
    pub fn set_dst(&mut self, dst: Ipv4Addr) {
        octets::put(self.buffer.as_mut(), DST, &dst.octets());
    }

    /// Computes the header checksum anew.
    #[inline]
    pub fn fill_checksum(&mut self) {
        let header_len = self.header_len();
        let header = &mut self.buffer.as_mut()[..header_len];
        octets::put_u16(header, CHECKSUM, 0);
        let checksum = checksum::of(header);
        octets::put_u16(header, CHECKSUM, checksum);
    }

    /// What follows the header, cut to the total length, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let (header_len, total_len) = (self.header_len(), self.total_len());
        &mut self.buffer.as_mut()[header_len..total_len]
    }
}

/// The values of a header. We send neither options nor fragments, so it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The source.
    pub src: Ipv4Addr,
    /// The destination.
    pub dst: Ipv4Addr,
    /// The payload's protocol number.
    pub protocol: u8,
    /// Hops left.
    pub ttl: u8,
    /// The identification; its value matters only where `dont_fragment` is false (RFC 6864 section 4.1).
    pub ident: u16,
    /// Whether routers must not fragment the packet.
    pub dont_fragment: bool,
    /// Octets behind the header, at most 65,515.
    pub payload_len: usize,
}

impl Repr {
    /// Reads a packet's header, passing over options, type of service and fragmentation.
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Repr {
        Repr {
            src: packet.src(),
            dst: packet.dst(),
            protocol: packet.protocol(),
            ttl: packet.ttl(),
            ident: packet.ident(),
            dont_fragment: packet.dont_fragment(),
            payload_len: packet.total_len() - packet.header_len(),
        }
    }

    /// Writes the first [`HEADER_LEN`] octets of `buf`, checksum included; type of service is zero.
    ///
    /// # Panics
    ///
    /// If `buf` is shorter, or `payload_len` is more than a packet can hold.
    #[inline(always)]
    pub fn emit(&self, buf: &mut [u8]) {
        let total_len = HEADER_LEN + self.payload_len;
        assert!(total_len <= usize::from(u16::MAX), "an IPv4 packet holds at most 65,515 octets of payload");
        let buf = &mut buf[..HEADER_LEN];
        // Whole words: reading words back that were written in pieces stalls the processor.
        let words = [
            0x4500 << 16 | total_len as u32,
            u32::from(self.ident) << 16 | if self.dont_fragment { u32::from(DONT_FRAGMENT) } else { 0 },
            u32::from(self.ttl) << 24 | u32::from(self.protocol) << 16,
            self.src.to_bits(),
            self.dst.to_bits(),
        ];
        let checksum = !checksum::fold(words.iter().map(|word| u64::from(*word)).sum());
        octets::put_u32(buf, VERSION_IHL, words[0]);
        octets::put_u32(buf, IDENT, words[1]);
        octets::put_u32(buf, TTL, words[2] | u32::from(checksum));
        octets::put_u32(buf, SRC, words[3]);
        octets::put_u32(buf, DST, words[4]);
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    /// A UDP packet as Linux sent it, and two octets of padding.
    const UDP: [u8; 35] = [
        0x45, 0x00, 0x00, 0x21, 0x00, 0x67, 0x40, 0x00, 0x40, 0x11, 0xc2, 0x58, 0xcb, 0x00, 0x71, 0x0a, 0xcb,
        0x00, 0x71, 0x01, 0x86, 0xcd, 0x27, 0x0f, 0x00, 0x0d, 0x96, 0x18, 0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        0x00,
    ];

    const UDP_REPR: Repr = Repr {
        src: Ipv4Addr::new(203, 0, 113, 10),
        dst: Ipv4Addr::new(203, 0, 113, 1),
        protocol: PROTOCOL_UDP,
        ttl: 64,
        ident: 0x67,
        dont_fragment: true,
        payload_len: 13,
    };

    /// A header with four octets of options, the last fragment of its packet.
    const FRAGMENT_WITH_OPTIONS: [u8; 26] = [
        0x46, 0x00, 0x00, 0x1a, 0x12, 0x34, 0x00, 0xb9, 0x02, 0x06, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x94,
        0x04, 0, 0, 0xab, 0xcd,
    ];

    #[test]
    fn deconstructs_a_packet() {
        let packet = Packet::new_checked(&UDP).unwrap();
        assert_eq!(Repr::parse(&packet), UDP_REPR);
        assert_eq!((packet.header_len(), packet.total_len()), (20, 33));
        assert_eq!(
            (packet.more_fragments(), packet.fragment_offset(), packet.is_fragment()),
            (false, 0, false)
        );
        assert_eq!(packet.checksum(), 0xc258);
        assert!(packet.checksum_ok());
        assert_eq!(packet.options_raw(), []);
    }

    #[test]
    fn cuts_the_payload_to_the_total_length() {
        let packet = Packet::new_checked(&UDP[..]).unwrap();
        assert_eq!(packet.payload(), &UDP[20..33]);
    }

    #[test]
    fn the_payload_outlives_the_view() {
        let payload = Packet::new_checked(&UDP[..]).unwrap().payload();
        assert_eq!(payload.len(), 13);
    }

    #[test]
    fn reads_options_and_fragments() {
        let packet = Packet::new_checked(&FRAGMENT_WITH_OPTIONS).unwrap();
        assert_eq!(packet.header_len(), 24);
        assert_eq!(packet.options_raw(), [0x94, 0x04, 0, 0]);
        assert_eq!(packet.payload(), [0xab, 0xcd]);
        assert_eq!(packet.fragment_offset(), 1480);
        assert!(packet.is_fragment() && !packet.more_fragments() && !packet.dont_fragment());
        assert!(!packet.checksum_ok());
    }

    #[test]
    fn the_first_fragment_is_a_fragment() {
        let mut octets = UDP;
        octets[6] = 0x20;
        let packet = Packet::new_checked(&octets).unwrap();
        assert!(packet.is_fragment() && packet.more_fragments());
        assert_eq!(packet.fragment_offset(), 0);
    }

    #[test]
    fn the_reserved_bit_is_no_fragment() {
        let mut octets = UDP;
        octets[6] = 0x80;
        assert!(!Packet::new_checked(&octets).unwrap().is_fragment());
    }

    #[test]
    fn constructs_a_packet() {
        let mut octets = [0xa5; 22];
        UDP_REPR.emit(&mut octets);
        assert_eq!(octets[..HEADER_LEN], UDP[..HEADER_LEN]);
        assert_eq!(octets[HEADER_LEN..], [0xa5; 2]);
    }

    #[test]
    #[should_panic(expected = "at most 65,515 octets")]
    fn emit_refuses_a_payload_beyond_the_format() {
        Repr { payload_len: 65_516, ..UDP_REPR }.emit(&mut [0; HEADER_LEN]);
    }

    #[test]
    fn setters_change_their_field_and_the_checksum_follows() {
        let mut packet = Packet::new_checked(FRAGMENT_WITH_OPTIONS).unwrap();
        packet.set_ttl(63);
        packet.set_src(Ipv4Addr::new(192, 0, 2, 1));
        packet.set_dst(Ipv4Addr::new(192, 0, 2, 2));
        packet.payload_mut().fill(0x11);
        packet.fill_checksum();
        assert!(packet.checksum_ok());
        assert_eq!(
            (packet.ttl(), packet.src().octets(), packet.dst().octets()),
            (63, [192, 0, 2, 1], [192, 0, 2, 2])
        );
        let octets = packet.into_inner();
        assert_eq!(octets[..8], FRAGMENT_WITH_OPTIONS[..8]);
        assert_eq!(octets[20..24], FRAGMENT_WITH_OPTIONS[20..24]);
        assert_eq!(octets[24..], [0x11; 2]);
    }

    #[test]
    fn every_impossible_length_is_an_error() {
        for len in 0..33 {
            let required = if len < HEADER_LEN { HEADER_LEN } else { 33 };
            let error = LengthError { layer: Layer::Ipv4, offset: 0, required, actual: len };
            assert_eq!(Packet::new_checked(&UDP[..len]).unwrap_err(), Error::Length(error));
        }
        assert!(Packet::new_checked(&UDP[..33]).is_ok());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_errors() {
        for ihl in 0..5_u8 {
            let mut octets = UDP;
            octets[0] = 0x40 | ihl;
            let expected = Error::HeaderLength(usize::from(ihl) * 4);
            assert_eq!(Packet::new_checked(&octets).unwrap_err(), expected);
        }
        for total_len in 0..24 {
            let mut octets = FRAGMENT_WITH_OPTIONS;
            octets[3] = total_len;
            let expected = Error::TotalLength { total_len: usize::from(total_len), header_len: 24 };
            assert_eq!(Packet::new_checked(&octets).unwrap_err(), expected);
        }
    }

    #[test]
    fn refuses_other_versions() {
        for version in (0..16).filter(|&version| version != 4) {
            let mut octets = UDP;
            octets[0] = version << 4 | 5;
            assert_eq!(Packet::new_checked(&octets).unwrap_err(), Error::Version(version));
        }
    }

    proptest! {
        #[test]
        fn no_octets_panic(
            octets in prop::collection::vec(any::<u8>(), 0..100), ihl in 0x40..0x50_u8, total in 0..100_u8,
        ) {
            let mut octets = octets;
            // Wholly random octets nearly always fail on the version.
            for (octet, plausible) in octets.iter_mut().zip([ihl, 0, 0, total]) {
                *octet = plausible;
            }
            if let Ok(packet) = Packet::new_checked(&octets[..]) {
                prop_assert_eq!(packet.header_len() + packet.payload().len(), packet.total_len());
                prop_assert_eq!(packet.options_raw().len(), packet.header_len() - HEADER_LEN);
                let is_later_fragment = packet.fragment_offset() != 0;
                prop_assert_eq!(packet.is_fragment(), packet.more_fragments() || is_later_fragment);
                prop_assert_eq!(Repr::parse(&packet).payload_len, packet.payload().len());
                packet.checksum_ok();
                let mut packet = Packet::new_checked(octets.clone()).unwrap();
                packet.fill_checksum();
                prop_assert!(packet.checksum_ok());
                packet.set_ttl(packet.ttl().wrapping_add(1));
                prop_assert!(!packet.checksum_ok());
            }
        }

        #[test]
        fn parses_what_it_emits(
            src: u32, dst: u32, protocol: u8, ttl: u8, ident: u16, dont_fragment: bool,
            payload_len in 0..1600_usize,
        ) {
            let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
            let repr = Repr { src, dst, protocol, ttl, ident, dont_fragment, payload_len };
            let mut octets = vec![0xa5; HEADER_LEN + payload_len];
            repr.emit(&mut octets);
            let packet = Packet::new_checked(&octets[..]).unwrap();
            prop_assert!(packet.checksum_ok());
            prop_assert_eq!(Repr::parse(&packet), repr);
            prop_assert_eq!(packet.payload(), vec![0xa5; payload_len]);
        }
    }
}
