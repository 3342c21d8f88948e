//! Ethernet II frames with at most one 802.1Q tag (Fig 11A; IEEE 802.3 section 3.2, IEEE 802.1Q section 9).

use crate::error::{Layer, LengthError};
use crate::mac::Mac;
use crate::octets;

/// Octets of the header without a tag.
pub const HEADER_LEN: usize = 14;
/// Octets that an 802.1Q tag adds.
pub const VLAN_TAG_LEN: usize = 4;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of an 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad service tag, which this crate does not look behind.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

const DST: usize = 0;
const SRC: usize = 6;
const TYPE: usize = 12;
const TAG_CONTROL: usize = 14;
const TAGGED_TYPE: usize = 16;

/// Why octets are not an Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Header or tag cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
}

/// A view of a frame without its check sequence. The payload keeps the padding of short frames.
#[derive(Debug, Clone, Copy)]
pub struct Frame<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Frame<T> {
    /// Checks that the header, and the tag if the type announces one, are there.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for the Ethernet header or the 802.1Q tag.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Frame<T>, Error> {
        let data = buffer.as_ref();
        LengthError::check(Layer::Ethernet, 0, HEADER_LEN, data.len())?;
        if octets::u16(data, TYPE) == ETHERTYPE_VLAN {
            LengthError::check(Layer::Vlan, HEADER_LEN, VLAN_TAG_LEN, data.len())?;
        }
        Ok(Frame { buffer })
    }

    /// Gives the buffer back.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// The destination.
    #[inline]
    pub fn dst(&self) -> Mac {
        octets::mac(self.buffer.as_ref(), DST)
    }

    /// The source.
    #[inline]
    pub fn src(&self) -> Mac {
        octets::mac(self.buffer.as_ref(), SRC)
    }

    /// Whether an 802.1Q tag stands before the type.
    #[inline]
    fn is_tagged(&self) -> bool {
        octets::u16(self.buffer.as_ref(), TYPE) == ETHERTYPE_VLAN
    }

    /// The type of the payload, behind one optional tag. A second tag shows as the type 0x8100.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), if self.is_tagged() { TAGGED_TYPE } else { TYPE })
    }

    /// The VLAN identifier (12 bits) of a tagged frame.
    #[inline]
    pub fn vlan(&self) -> Option<u16> {
        self.is_tagged().then(|| octets::u16(self.buffer.as_ref(), TAG_CONTROL) & 0x0fff)
    }

    /// Octets before the payload: 14, or 18 with a tag.
    #[inline]
    pub fn header_len(&self) -> usize {
        if self.is_tagged() { HEADER_LEN + VLAN_TAG_LEN } else { HEADER_LEN }
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.buffer.as_ref()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Frame<T> {
    /// Changes the destination.
    #[inline]
    pub fn set_dst(&mut self, mac: Mac) {
        octets::put(self.buffer.as_mut(), DST, &mac.0);
    }

    /// Changes the source.
    #[inline]
    pub fn set_src(&mut self, mac: Mac) {
        octets::put(self.buffer.as_mut(), SRC, &mac.0);
    }

    /// What follows the header, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let header_len = self.header_len();
        &mut self.buffer.as_mut()[header_len..]
    }
}

/// The values of a header. A tag is not among them: we send none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The destination.
    pub dst: Mac,
    /// The source.
    pub src: Mac,
    /// The type of the payload.
    pub ethertype: u16,
}

impl Repr {
    /// Reads a frame's header, passing over its tag.
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(frame: &Frame<T>) -> Repr {
        Repr { dst: frame.dst(), src: frame.src(), ethertype: frame.ethertype() }
    }

    /// Writes the first [`HEADER_LEN`] octets of `buf`.
    ///
    /// # Panics
    ///
    /// If `buf` is shorter.
    #[inline]
    pub fn emit(&self, buf: &mut [u8]) {
        octets::put(buf, DST, &self.dst.0);
        octets::put(buf, SRC, &self.src.0);
        octets::put_u16(buf, TYPE, self.ethertype);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DST_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x0b]);
    const SRC_MAC: Mac = Mac([0x02, 0, 0, 0, 0, 0x0a]);

    const PLAIN: [u8; 18] =
        [0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x00, 0xde, 0xad, 0xbe, 0xef];
    const TAGGED: [u8; 20] =
        [0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x81, 0x00, 0xe1, 0x23, 0x08, 0x06, 0xca, 0xfe];

    #[test]
    fn deconstructs_a_frame() {
        let frame = Frame::new_checked(&PLAIN).unwrap();
        assert_eq!((frame.dst(), frame.src()), (DST_MAC, SRC_MAC));
        assert_eq!(frame.ethertype(), ETHERTYPE_IPV4);
        assert_eq!(frame.vlan(), None);
        assert_eq!(frame.header_len(), HEADER_LEN);
        assert_eq!(frame.payload(), [0xde, 0xad, 0xbe, 0xef]);
    }

    #[test]
    fn looks_behind_one_tag() {
        let frame = Frame::new_checked(&TAGGED).unwrap();
        assert_eq!(frame.ethertype(), ETHERTYPE_ARP);
        assert_eq!(frame.vlan(), Some(0x123), "priority and DEI are no part of the identifier");
        assert_eq!(frame.header_len(), 18);
        assert_eq!(frame.payload(), [0xca, 0xfe]);
    }

    #[test]
    fn shows_a_second_tag_as_the_type() {
        let mut octets = TAGGED;
        octets[16..18].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        assert_eq!(Frame::new_checked(&octets).unwrap().ethertype(), ETHERTYPE_VLAN);
        octets[12..14].copy_from_slice(&ETHERTYPE_QINQ.to_be_bytes());
        let frame = Frame::new_checked(&octets).unwrap();
        assert_eq!((frame.ethertype(), frame.vlan()), (ETHERTYPE_QINQ, None));
    }

    #[test]
    fn constructs_a_frame() {
        let mut octets = [0xa5; 18];
        Repr { dst: DST_MAC, src: SRC_MAC, ethertype: ETHERTYPE_IPV4 }.emit(&mut octets);
        assert_eq!(octets[..HEADER_LEN], PLAIN[..HEADER_LEN]);
        assert_eq!(octets[HEADER_LEN..], [0xa5; 4], "the payload is not the header's to write");
    }

    #[test]
    fn setters_change_their_field_alone() {
        let mut frame = Frame::new_checked(TAGGED).unwrap();
        frame.set_dst(SRC_MAC);
        frame.set_src(DST_MAC);
        frame.payload_mut().fill(0x11);
        let mut expected = TAGGED;
        expected[..6].copy_from_slice(&SRC_MAC.0);
        expected[6..12].copy_from_slice(&DST_MAC.0);
        expected[18..].fill(0x11);
        assert_eq!(frame.into_inner(), expected);
    }

    #[test]
    fn every_impossible_length_is_an_error() {
        for len in 0..HEADER_LEN {
            let error = LengthError { layer: Layer::Ethernet, offset: 0, required: 14, actual: len };
            assert_eq!(Frame::new_checked(&TAGGED[..len]).unwrap_err(), Error::Length(error));
        }
        for len in HEADER_LEN..18 {
            let error = LengthError { layer: Layer::Vlan, offset: 14, required: 4, actual: len - 14 };
            assert_eq!(Frame::new_checked(&TAGGED[..len]).unwrap_err(), Error::Length(error));
            assert!(Frame::new_checked(&PLAIN[..len]).is_ok());
        }
        assert_eq!(Frame::new_checked(&TAGGED[..18]).unwrap().payload(), []);
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..64), tagged: bool) {
            let mut octets = octets;
            if tagged && octets.len() >= HEADER_LEN {
                octets[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
            }
            if let Ok(frame) = Frame::new_checked(&octets[..]) {
                prop_assert_eq!(frame.header_len() + frame.payload().len(), octets.len());
                prop_assert_eq!(frame.vlan().is_some(), frame.header_len() == 18);
                prop_assert_eq!(Repr::parse(&frame).ethertype, frame.ethertype());
            }
        }

        #[test]
        fn parses_what_it_emits(dst: [u8; 6], src: [u8; 6], ethertype in 0..ETHERTYPE_VLAN) {
            let repr = Repr { dst: Mac(dst), src: Mac(src), ethertype };
            let mut octets = [0xa5; HEADER_LEN];
            repr.emit(&mut octets);
            prop_assert_eq!(Repr::parse(&Frame::new_checked(&octets).unwrap()), repr);
        }
    }
}
