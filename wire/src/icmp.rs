//! ICMP for IPv4 (RFC 792): echo, and the errors that quote a packet of ours.

use core::net::Ipv4Addr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::ipv4;
use crate::octets;

/// Octets of the header, the four that depend on the type included.
pub const HEADER_LEN: usize = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of "destination unreachable".
pub const UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`] for a packet that is too large and must not be fragmented (RFC 1191 section 4).
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// Type of "source quench", deprecated by RFC 6633.
pub const SOURCE_QUENCH: u8 = 4;
/// Type of a redirect.
pub const REDIRECT: u8 = 5;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type of "time exceeded".
pub const TIME_EXCEEDED: u8 = 11;
/// Type of "parameter problem".
pub const PARAMETER_PROBLEM: u8 = 12;

const KIND: usize = 0;
const CODE: usize = 1;
const CHECKSUM: usize = 2;
const ECHO_IDENT: usize = 4;
const ECHO_SEQ: usize = 6;
const NEXT_HOP_MTU: usize = 6;

/// Why octets are not the ICMP message that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Message cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// Only an echo request has an echo reply.
    #[error("ICMP type {kind} code {code} is not an echo request (8, 0)")]
    NotEchoRequest {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
}

/// The flow of the packet that an error message quotes, as that packet was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quoted {
    /// The quoted packet's source.
    pub src: Ipv4Addr,
    /// The quoted packet's destination.
    pub dst: Ipv4Addr,
    /// The quoted packet's protocol: TCP or UDP.
    pub protocol: u8,
    /// The quoted packet's source port.
    pub src_port: u16,
    /// The quoted packet's destination port.
    pub dst_port: u16,
}

/// A view of a message; the buffer must end where the IPv4 payload ends.
#[derive(Debug, Clone, Copy)]
pub struct Packet<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks that the header is there.
    ///
    /// # Errors
    ///
    /// [`Error::Length`].
    pub fn new_checked(buffer: T) -> Result<Packet<T>, Error> {
        LengthError::check(Layer::Icmp, 0, HEADER_LEN, buffer.as_ref().len())?;
        Ok(Packet { buffer })
    }

    /// Gives the buffer back.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// The type.
    pub fn kind(&self) -> u8 {
        self.buffer.as_ref()[KIND]
    }

    /// The code, which divides the type.
    pub fn code(&self) -> u8 {
        self.buffer.as_ref()[CODE]
    }

    /// The checksum as sent.
    pub fn checksum(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), CHECKSUM)
    }

    /// Whether the checksum over the whole message is right.
    pub fn checksum_ok(&self) -> bool {
        checksum::of(self.buffer.as_ref()) == 0
    }

    /// Whether this is an echo request, code 0.
    pub fn is_echo_request(&self) -> bool {
        (self.kind(), self.code()) == (ECHO_REQUEST, 0)
    }

    fn is_echo(&self) -> bool {
        matches!(self.kind(), ECHO_REQUEST | ECHO_REPLY)
    }

    /// The identifier of an echo request or reply.
    pub fn echo_ident(&self) -> Option<u16> {
        self.is_echo().then(|| octets::u16(self.buffer.as_ref(), ECHO_IDENT))
    }

    /// The sequence number of an echo request or reply.
    pub fn echo_seq(&self) -> Option<u16> {
        self.is_echo().then(|| octets::u16(self.buffer.as_ref(), ECHO_SEQ))
    }

    /// The MTU in octets that "fragmentation needed" reports; `None` for other messages, and for routers older than
    /// RFC 1191, which leave the field zero.
    pub fn next_hop_mtu(&self) -> Option<u16> {
        if (self.kind(), self.code()) != (UNREACHABLE, FRAGMENTATION_NEEDED) {
            return None;
        }
        Some(octets::u16(self.buffer.as_ref(), NEXT_HOP_MTU)).filter(|&mtu| mtu != 0)
    }

    /// The flow of the packet that an error quotes.
    ///
    /// `None` unless the message is an error (types 3, 4, 5, 11, 12), the quoted IPv4 header and the four octets of
    /// ports behind it are there, the protocol is TCP or UDP, and the quoted packet is not a later fragment, whose
    /// payload has no ports. The quote is what the router claims: compare it with state before acting on it (RFC 5927).
    pub fn quoted(&self) -> Option<Quoted> {
        if !matches!(self.kind(), UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
        {
            return None;
        }
        let quote = self.buffer.as_ref().get(HEADER_LEN..)?;
        let header: &[u8; ipv4::HEADER_LEN] = quote.first_chunk()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header[0] >> 4 != 4 || header_len < ipv4::HEADER_LEN {
            return None;
        }
        let is_later_fragment = octets::u16(header, 6) & 0x1fff != 0;
        let total_len = usize::from(octets::u16(header, 2));
        let protocol = header[9];
        let has_ports = matches!(protocol, ipv4::PROTOCOL_TCP | ipv4::PROTOCOL_UDP);
        // A router quotes the start of a packet, so the packet may be longer than the quote, but not shorter.
        if is_later_fragment || !has_ports || total_len < header_len + 4 {
            return None;
        }
        let ports: &[u8; 4] = quote.get(header_len..)?.first_chunk()?;
        Some(Quoted {
            src: octets::ip(header, 12),
            dst: octets::ip(header, 16),
            protocol,
            src_port: octets::u16(ports, 0),
            dst_port: octets::u16(ports, 2),
        })
    }
}

/// Turns an echo request into its reply. The addresses around it are the caller's to swap.
///
/// The checksum is updated, not computed anew (RFC 1624), so a damaged request becomes a damaged reply.
///
/// # Errors
///
/// [`Error::Length`], or [`Error::NotEchoRequest`]; `message` is then untouched.
pub fn echo_reply_in_place(message: &mut [u8]) -> Result<(), Error> {
    let packet = Packet::new_checked(&*message)?;
    let (kind, code, old) = (packet.kind(), packet.code(), packet.checksum());
    if !packet.is_echo_request() {
        return Err(Error::NotEchoRequest { kind, code });
    }
    let request_word = u16::from_be_bytes([kind, code]);
    let reply_word = u16::from_be_bytes([ECHO_REPLY, code]);
    octets::put_u16(message, KIND, reply_word);
    octets::put_u16(message, CHECKSUM, checksum::update_u16(old, request_word, reply_word));
    Ok(())
}
