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

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

    /// A datagram as Linux sent it from CLIENT to SERVER, and two octets of padding.
    const HELLO: [u8; 15] =
        [0x86, 0xcd, 0x27, 0x0f, 0x00, 0x0d, 0x96, 0x18, b'h', b'e', b'l', b'l', b'o', 0x00, 0x00];
    const HELLO_REPR: Repr = Repr { src_port: 34509, dst_port: 9999 };

    #[test]
    fn deconstructs_a_datagram() {
        let datagram = Datagram::new_checked(&HELLO).unwrap();
        assert_eq!(Repr::parse(&datagram), HELLO_REPR);
        assert_eq!(datagram.total_len(), 13);
        assert_eq!(datagram.checksum(), 0x9618);
        assert!(datagram.checksum_ok(CLIENT, SERVER));
        assert_eq!(datagram.payload(), b"hello");
    }

    #[test]
    fn constructs_a_datagram() {
        let mut octets = [0xa5; 13];
        HELLO_REPR.emit(&mut octets, b"hello", CLIENT, SERVER);
        assert_eq!(octets, HELLO[..13]);
    }

    #[test]
    fn the_checksum_covers_addresses_and_payload() {
        let datagram = Datagram::new_checked(&HELLO).unwrap();
        assert!(!datagram.checksum_ok(CLIENT, CLIENT));
        let mut octets = HELLO;
        octets[12] ^= 1;
        assert!(!Datagram::new_checked(&octets).unwrap().checksum_ok(CLIENT, SERVER));
    }

    #[test]
    fn a_missing_checksum_is_no_wrong_one() {
        let mut octets = HELLO;
        octets[6..8].fill(0);
        assert!(Datagram::new_checked(&octets).unwrap().checksum_ok(CLIENT, SERVER));
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones() {
        // The payload that brings the sum to all ones is the checksum of the datagram with a payload of zero.
        let mut octets = [0xa5; 10];
        HELLO_REPR.emit(&mut octets, &[0, 0], CLIENT, SERVER);
        let payload = [octets[6], octets[7]];
        HELLO_REPR.emit(&mut octets, &payload, CLIENT, SERVER);
        assert_eq!(octets[6..8], [0xff; 2]);
        assert!(Datagram::new_checked(&octets).unwrap().checksum_ok(CLIENT, SERVER));
    }

    #[test]
    fn setters_change_their_field_and_the_checksum_follows() {
        let mut datagram = Datagram::new_checked(HELLO).unwrap();
        datagram.set_src_port(53);
        datagram.set_dst_port(5353);
        assert!(!datagram.checksum_ok(SERVER, CLIENT));
        datagram.fill_checksum(SERVER, CLIENT);
        assert!(datagram.checksum_ok(SERVER, CLIENT));
        assert_eq!((datagram.src_port(), datagram.dst_port()), (53, 5353));
        assert_eq!(datagram.into_inner()[8..], HELLO[8..]);
    }

    #[test]
    fn every_impossible_length_is_an_error() {
        for len in 0..13 {
            let required = if len < HEADER_LEN { HEADER_LEN } else { 13 };
            let error = LengthError { layer: Layer::Udp, offset: 0, required, actual: len };
            assert_eq!(Datagram::new_checked(&HELLO[..len]).unwrap_err(), Error::Length(error));
        }
        for length in 0..8 {
            let mut octets = HELLO;
            octets[5] = length;
            let expected = Error::LengthField(usize::from(length));
            assert_eq!(Datagram::new_checked(&octets).unwrap_err(), expected);
        }
        let mut octets = HELLO;
        octets[5] = 8;
        assert_eq!(Datagram::new_checked(&octets).unwrap().payload(), []);
    }

    #[test]
    #[should_panic(expected = "the buffer must fit the datagram")]
    fn emit_refuses_a_buffer_of_another_size() {
        HELLO_REPR.emit(&mut [0; 12], b"hello", CLIENT, SERVER);
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..64), length in 0..64_u8) {
            let mut octets = octets;
            if octets.len() >= HEADER_LEN {
                octets[4..6].copy_from_slice(&[0, length]);
            }
            if let Ok(datagram) = Datagram::new_checked(&octets[..]) {
                prop_assert_eq!(HEADER_LEN + datagram.payload().len(), datagram.total_len());
                datagram.checksum_ok(CLIENT, SERVER);
                let mut datagram = Datagram::new_checked(octets.clone()).unwrap();
                datagram.fill_checksum(CLIENT, SERVER);
                prop_assert!(datagram.checksum_ok(CLIENT, SERVER) && datagram.checksum() != 0);
            }
        }

        #[test]
        fn parses_what_it_emits(
            src_port: u16, dst_port: u16, src: u32, dst: u32,
            payload in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let repr = Repr { src_port, dst_port };
            let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
            let mut octets = vec![0xa5; HEADER_LEN + payload.len()];
            repr.emit(&mut octets, &payload, src, dst);
            let datagram = Datagram::new_checked(&octets[..]).unwrap();
            prop_assert!(datagram.checksum_ok(src, dst) && datagram.checksum() != 0);
            prop_assert_eq!(Repr::parse(&datagram), repr);
            prop_assert_eq!(datagram.payload(), payload);
        }
    }
}
