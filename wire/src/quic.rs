//! QUIC packets, as far as all versions agree (RFC 8999), seen from outside: the first packet of a datagram names the connection.
//!
//! Layout of a long header: form bit 1 and version-specific bits 1 octet, version 4, length of the destination connection id 1, that id,
//! length of the source connection id 1, that id. Of a short header: form bit 0 and version-specific bits 1 octet, then the
//! destination connection id, whose length only its server knows.

/// The form bit of the first octet: set in a long header (RFC 8999, section 5).
const LONG: u8 = 0x80;

/// Octets before a long header's destination connection id.
const LONG_FRONT_LEN: usize = 6;

/// Octets before a short header's destination connection id.
pub const SHORT_FRONT_LEN: usize = 1;

/// The longest connection id of QUIC versions 1 and 2, octets (RFC 9000, section 17.2).
pub const CONNECTION_ID_MAX_LEN: usize = 20;

/// What the first packet of a datagram says of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Header<'a> {
    /// A long header: the connection is being made, and its client may have chosen the id.
    Long {
        /// The version; 0 in version negotiation, which no client sends.
        version: u32,
        /// The destination connection id.
        destination: &'a [u8],
        /// The source connection id.
        source: &'a [u8],
    },
    /// A short header.
    Short {
        /// All that follows the first octet: the destination connection id, and the protected packet.
        rest: &'a [u8],
    },
}

/// Why a datagram begins with no QUIC packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// No octet.
    #[error("an empty datagram")]
    Empty,
    /// A long header that ends within version or connection ids.
    #[error("a long header cut short within its connection ids")]
    Cut,
}

impl<'a> Header<'a> {
    /// Reads the header of a datagram's first packet. What a version says beyond it is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::Cut`].
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Error> {
        let (first, rest) = datagram.split_first().ok_or(Error::Empty)?;
        if first & LONG == 0 {
            return Ok(Self::Short { rest });
        }
        let (front, ids) = datagram.split_at_checked(LONG_FRONT_LEN).ok_or(Error::Cut)?;
        let [_, version @ .., destination_len] = front else { return Err(Error::Cut) };
        let version = version.first_chunk().copied().map_or(0, u32::from_be_bytes);
        let (destination, ids) = ids.split_at_checked(usize::from(*destination_len)).ok_or(Error::Cut)?;
        let (source_len, ids) = ids.split_first().ok_or(Error::Cut)?;
        let source = ids.get(..usize::from(*source_len)).ok_or(Error::Cut)?;
        Ok(Self::Long { version, destination, source })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec::Vec;

    use super::*;

    fn long(version: u32, destination: &[u8], source: &[u8]) -> Vec<u8> {
        let ids = [&[destination.len() as u8][..], destination, &[source.len() as u8], source].concat();
        [&[0xc3][..], &version.to_be_bytes(), &ids, b"payload"].concat()
    }

    #[test]
    fn a_long_header_has_both_ids_at_every_length() {
        for len in 0..=255usize {
            let (destination, source) = (std::vec![0xd5; len], std::vec![0x5d; 255 - len]);
            let octets = long(1, &destination, &source);
            let header = Header::Long { version: 1, destination: &destination, source: &source };
            assert_eq!(Header::parse(&octets), Ok(header), "{len}");
            for end in 1..7 + 255 {
                assert_eq!(Header::parse(&octets[..end]), Err(Error::Cut), "{len}, cut at {end}");
            }
        }
    }

    #[test]
    fn a_short_header_is_all_that_follows_its_first_octet() {
        assert_eq!(Header::parse(&[]), Err(Error::Empty));
        assert_eq!(Header::parse(&[0x40]), Ok(Header::Short { rest: &[] }));
        // Without the fixed bit: other versions need not set it.
        assert_eq!(Header::parse(&[0x00, 1, 2]), Ok(Header::Short { rest: &[1, 2] }));
    }

    /// The client's Initial of RFC 9001, appendix A.2: its first octets.
    #[test]
    fn the_specifications_own_initial() {
        let octets = [
            0xc0, 0x00, 0x00, 0x00, 0x01, 0x08, 0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08, 0x00, 0x00,
            0x44, 0x9e,
        ];
        let destination = &octets[6..14];
        assert_eq!(Header::parse(&octets), Ok(Header::Long { version: 1, destination, source: &[] }));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_within_its_bounds(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            match Header::parse(&octets) {
                Ok(Header::Short { rest }) => prop_assert_eq!(rest, &octets[1..]),
                Ok(Header::Long { version, destination, source }) => {
                    let again = long(version, destination, source);
                    let len = again.len() - b"payload".len();
                    prop_assert_eq!(&again[1..len], &octets[1..len]);
                }
                Err(Error::Empty) => prop_assert!(octets.is_empty()),
                Err(Error::Cut) => prop_assert!(octets[0] & LONG != 0 && octets.len() < 7 + 255 + 255),
            }
        }
    }
}
