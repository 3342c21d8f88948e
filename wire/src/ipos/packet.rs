//! Packet messages, type 0x02 (Figs 11G and 11H): an IPv4 packet of a migrated connection, as the client sent it.

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_PACKET, seal, verify};
use super::octets::{first, first_mut, u8_at, u16_at};
use crate::error::LengthError;
use crate::flow::Flow;

/// The smallest IPv4 header, octets (RFC 791 section 3.1).
const IPV4_HEADER_LEN: usize = 20;

/// Writes the header that goes before an encapsulated packet. The checksum covers the header alone, so the packet need
/// not be touched.
///
/// # Panics
/// When `header` is shorter than [`HEADER_LEN`].
pub fn encapsulate(flow: Flow, protocol: Protocol, header: &mut [u8]) {
    let octets = first_mut::<HEADER_LEN>(header);
    Header { flow, kind: TYPE_PACKET, protocol }.emit(octets);
    seal(octets);
}

/// The header, and the IPv4 packet that follows it, without Ethernet padding. Of the packet only version and total
/// length are looked at.
///
/// # Errors
/// [`Error::Length`], [`Error::Type`], [`Error::Protocol`], [`Error::Checksum`], and [`Error::PacketVersion`] when what
/// follows is not IPv4.
pub fn decapsulate(buffer: &[u8]) -> Result<(Header, &[u8]), Error> {
    let header = Header::of_connection(TYPE_PACKET, buffer)?;
    verify(first::<HEADER_LEN>("ipOS header", buffer)?)?;
    let rest = buffer.get(HEADER_LEN..).unwrap_or_default();
    let cut = |required| LengthError {
        layer: "packet in ipOS",
        offset: HEADER_LEN,
        required,
        actual: rest.len(),
    };
    let ip = rest.first_chunk::<IPV4_HEADER_LEN>().ok_or(cut(IPV4_HEADER_LEN))?;
    let version = u8_at::<0, _>(ip) >> 4;
    if version != 4 {
        return Err(Error::PacketVersion(version));
    }
    let total_len = usize::from(u16_at::<2, _>(ip)).max(IPV4_HEADER_LEN);
    let packet = rest.get(..total_len).ok_or(cut(total_len))?;
    Ok((header, packet))
}
