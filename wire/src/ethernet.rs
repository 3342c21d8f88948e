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
