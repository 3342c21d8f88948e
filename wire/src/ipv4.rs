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
const SERVICE: usize = 1;
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
    #[inline]
    pub fn emit(&self, buf: &mut [u8]) {
        let total_len = HEADER_LEN + self.payload_len;
        assert!(total_len <= usize::from(u16::MAX), "an IPv4 packet holds at most 65,515 octets of payload");
        let buf = &mut buf[..HEADER_LEN];
        octets::put(buf, VERSION_IHL, &[0x45]);
        octets::put(buf, SERVICE, &[0]);
        octets::put_u16(buf, TOTAL_LEN, total_len as u16);
        octets::put_u16(buf, IDENT, self.ident);
        octets::put_u16(buf, FRAGMENT, if self.dont_fragment { DONT_FRAGMENT } else { 0 });
        octets::put(buf, TTL, &[self.ttl]);
        octets::put(buf, PROTOCOL, &[self.protocol]);
        octets::put_u16(buf, CHECKSUM, 0);
        octets::put(buf, SRC, &self.src.octets());
        octets::put(buf, DST, &self.dst.octets());
        let checksum = checksum::of(buf);
        octets::put_u16(buf, CHECKSUM, checksum);
    }
}
