//! Packet messages, type 0x02 (Figs 11G and 11H): an IPv4 packet of a migrated connection, as the client sent it.

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_PACKET, seal, verify};
use super::octets::{first, first_mut};
use crate::error::Layer;
use crate::flow::Flow;
use crate::ipv4;

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

/// The header, and the IPv4 packet that follows it, without Ethernet padding. The packet's checksums are not verified:
/// the appliance has seen them, and whoever delivers the packet will.
///
/// # Errors
/// [`Error::Length`], [`Error::Type`], [`Error::Protocol`], [`Error::Checksum`], and [`Error::Packet`] when what follows
/// is not one whole IPv4 packet.
pub fn decapsulate(buffer: &[u8]) -> Result<(Header, &[u8]), Error> {
    let header = Header::of_connection(TYPE_PACKET, buffer)?;
    verify(first::<0, HEADER_LEN>(Layer::IposHeader, buffer)?)?;
    let rest = buffer.get(HEADER_LEN..).unwrap_or_default();
    let total_len = ipv4::Packet::new_checked(rest).map_err(Error::Packet)?.total_len();
    Ok((header, rest.get(..total_len).unwrap_or(rest)))
}
