//! UDP datagrams (RFC 768).

use core::net::Ipv4Addr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::ipv4::PROTOCOL_UDP;
use crate::octets;

/// Octets of the header.
pub const HEADER_LEN: usize = 8;

const SRC_PORT: usize = 0;
const DST_PORT: usize = 2;
const LENGTH: usize = 4;
const CHECKSUM: usize = 6;

/// Why octets are not a UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Header or payload cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// A length field that ends inside the header.
    #[error("UDP length of {0} octets is below the header's 8")]
    LengthField(usize),
}

/// A view of a datagram; octets behind its own length are padding.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Datagram<T> {
    /// Checks the length field against the header and the buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::LengthField`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Datagram<T>, Error> {
        let available = buffer.as_ref().len();
        LengthError::check(Layer::Udp, 0, HEADER_LEN, available)?;
        let datagram = Datagram { buffer };
        let length = datagram.total_len();
        if length < HEADER_LEN {
            return Err(Error::LengthField(length));
        }
        LengthError::check(Layer::Udp, 0, length, available)?;
        Ok(datagram)
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

    /// Octets of header and payload.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(octets::u16(self.buffer.as_ref(), LENGTH))
    }

    /// The checksum as sent; zero when the sender computed none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), CHECKSUM)
    }

    /// Whether the checksum is right between these addresses, or absent.
    #[inline]
    pub fn checksum_ok(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        let data = &self.buffer.as_ref()[..self.total_len()];
        self.checksum() == 0 || checksum_over(data, src, dst) == 0
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> Datagram<&'a T> {
    /// What follows the header, cut to the datagram's length. It outlives the view.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buffer.as_ref()[HEADER_LEN..self.total_len()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Datagram<T> {
    /// Changes the sender's port. The checksum is wrong until [`Datagram::fill_checksum`].
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        octets::put_u16(self.buffer.as_mut(), SRC_PORT, port);
    }

    /// Changes the receiver's port. The checksum is wrong until [`Datagram::fill_checksum`].
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        octets::put_u16(self.buffer.as_mut(), DST_PORT, port);
    }

    /// Computes the checksum anew for these addresses.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        let len = self.total_len();
        fill_checksum(&mut self.buffer.as_mut()[..len], src, dst);
    }
}

/// The complemented sum over pseudo header and datagram.
fn checksum_over(data: &[u8], src: Ipv4Addr, dst: Ipv4Addr) -> u16 {
    !checksum::fold(checksum::pseudo_header(src, dst, PROTOCOL_UDP, data.len()) + checksum::sum(data))
}

fn fill_checksum(data: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) {
    octets::put_u16(data, CHECKSUM, 0);
    // Zero would mean that there is no checksum; its other form in one's complement is all ones.
    let checksum = match checksum_over(data, src, dst) {
        0 => 0xffff,
        checksum => checksum,
    };
    octets::put_u16(data, CHECKSUM, checksum);
}

/// The values of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
}

impl Repr {
    /// Reads a datagram's header.
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(datagram: &Datagram<T>) -> Repr {
        Repr { src_port: datagram.src_port(), dst_port: datagram.dst_port() }
    }

    /// Writes header, payload and checksum to `buf`.
    ///
    /// # Panics
    ///
    /// If `buf` is not exactly [`HEADER_LEN`] and the payload long, or that is more than 65,535 octets.
    pub fn emit(&self, buf: &mut [u8], payload: &[u8], src: Ipv4Addr, dst: Ipv4Addr) {
        assert_eq!(buf.len(), HEADER_LEN + payload.len(), "the buffer must fit the datagram");
        assert!(buf.len() <= usize::from(u16::MAX), "a UDP datagram has at most 65,535 octets");
        let length = buf.len() as u16;
        octets::put_u16(buf, SRC_PORT, self.src_port);
        octets::put_u16(buf, DST_PORT, self.dst_port);
        octets::put_u16(buf, LENGTH, length);
        octets::put(buf, HEADER_LEN, payload);
        fill_checksum(buf, src, dst);
    }
}
