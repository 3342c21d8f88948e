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
    // Identifier 0, sequence number 0 and a payload of zeros: only the other form of zero is right then.
    if message.iter().all(|&octet| octet == 0) {
        octets::put_u16(message, CHECKSUM, 0xffff);
    }
    Ok(())
}

/// Writes "fragmentation needed" (RFC 1191, section 4) over `message`: what does not fit through the next hop's MTU is quoted from
/// its IPv4 header on.
///
/// # Panics
///
/// When `message` is not exactly [`HEADER_LEN`] octets longer than `quote`.
pub fn emit_fragmentation_needed(message: &mut [u8], next_hop_mtu: u16, quote: &[u8]) {
    let (header, rest) = message.split_at_mut(HEADER_LEN);
    header.fill(0);
    header[KIND] = UNREACHABLE;
    header[KIND + 1] = FRAGMENTATION_NEEDED;
    octets::put_u16(header, 6, next_hop_mtu);
    rest.copy_from_slice(quote);
    let sum = checksum::of(message);
    octets::put_u16(message, CHECKSUM, sum);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An echo request as Linux sent it, and the reply that Linux gave.
    const REQUEST: [u8; 24] = [
        0x08, 0x00, 0x1b, 0xd2, 0x11, 0x0e, 0x00, 0x01, 0xce, 0xe3, 0x03, 0x6b, 0x00, 0x00, 0x00, 0x00, 0xee,
        0xcf, 0x0a, 0x00, 0x00, 0x00, 0x00, 0x00,
    ];
    const REPLY_START: [u8; 8] = [0x00, 0x00, 0x23, 0xd2, 0x11, 0x0e, 0x00, 0x01];

    /// "Port unreachable" as Linux sent it, quoting a whole UDP packet.
    const PORT_UNREACHABLE: [u8; 41] = [
        0x03, 0x03, 0x75, 0x28, 0x00, 0x00, 0x00, 0x00, 0x45, 0x00, 0x00, 0x21, 0x00, 0x67, 0x40, 0x00, 0x40,
        0x11, 0xc2, 0x58, 0xcb, 0x00, 0x71, 0x0a, 0xcb, 0x00, 0x71, 0x01, 0x86, 0xcd, 0x27, 0x0f, 0x00, 0x0d,
        0x96, 0x18, 0x68, 0x65, 0x6c, 0x6c, 0x6f,
    ];
    const QUOTED: Quoted = Quoted {
        src: Ipv4Addr::new(203, 0, 113, 10),
        dst: Ipv4Addr::new(203, 0, 113, 1),
        protocol: ipv4::PROTOCOL_UDP,
        src_port: 34509,
        dst_port: 9999,
    };

    fn quoted(message: &[u8]) -> Option<Quoted> {
        Packet::new_checked(message).unwrap().quoted()
    }

    fn with(at: usize, octet: u8) -> [u8; 41] {
        let mut message = PORT_UNREACHABLE;
        message[at] = octet;
        message
    }

    #[test]
    fn deconstructs_an_echo_request() {
        let packet = Packet::new_checked(&REQUEST).unwrap();
        assert_eq!((packet.kind(), packet.code(), packet.checksum()), (ECHO_REQUEST, 0, 0x1bd2));
        assert!(packet.checksum_ok() && packet.is_echo_request());
        assert_eq!((packet.echo_ident(), packet.echo_seq()), (Some(0x110e), Some(1)));
        assert_eq!((packet.quoted(), packet.next_hop_mtu()), (None, None));
    }

    #[test]
    fn answers_an_echo_request_as_linux_does() {
        let mut message = REQUEST;
        echo_reply_in_place(&mut message).unwrap();
        assert_eq!(message[..8], REPLY_START);
        assert_eq!(message[8..], REQUEST[8..]);
        assert!(Packet::new_checked(&message).unwrap().checksum_ok());
    }

    #[test]
    fn a_reply_of_zeros_has_a_right_checksum() {
        let mut message = [0; 24];
        message[..4].copy_from_slice(&[8, 0, 0xf7, 0xff]);
        assert!(Packet::new_checked(&message).unwrap().checksum_ok());
        echo_reply_in_place(&mut message).unwrap();
        assert!(Packet::new_checked(&message).unwrap().checksum_ok());
    }

    #[test]
    fn a_damaged_request_stays_damaged() {
        let mut message = REQUEST;
        message[20] ^= 1;
        echo_reply_in_place(&mut message).unwrap();
        assert!(!Packet::new_checked(&message).unwrap().checksum_ok());
    }

    #[test]
    fn answers_nothing_else() {
        let mut message = PORT_UNREACHABLE;
        let error = echo_reply_in_place(&mut message).unwrap_err();
        assert_eq!(error, Error::NotEchoRequest { kind: 3, code: 3 });
        assert_eq!(message, PORT_UNREACHABLE);

        let mut message = REQUEST;
        message[1] = 7;
        let error = echo_reply_in_place(&mut message).unwrap_err();
        assert_eq!(error, Error::NotEchoRequest { kind: 8, code: 7 });
    }

    #[test]
    fn finds_the_flow_in_the_quote() {
        let packet = Packet::new_checked(&PORT_UNREACHABLE).unwrap();
        assert!(packet.checksum_ok());
        assert_eq!(packet.quoted(), Some(QUOTED));
        assert_eq!((packet.echo_ident(), packet.echo_seq()), (None, None));
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(quoted(&with(0, kind)), Some(QUOTED), "type {kind}");
        }
        for kind in [0, 8, 9, 10, 13, 14] {
            assert_eq!(quoted(&with(0, kind)), None, "type {kind}");
        }
    }

    #[test]
    fn finds_the_ports_behind_quoted_options() {
        let mut message = [0; 8 + 24 + 4];
        message[..28].copy_from_slice(&PORT_UNREACHABLE[..28]);
        message[8] = 0x46;
        message[32..].copy_from_slice(&PORT_UNREACHABLE[28..32]);
        assert_eq!(quoted(&message), Some(QUOTED));
        assert_eq!(quoted(&message[..35]), None);
    }

    #[test]
    fn a_quote_without_ports_names_no_flow() {
        assert_eq!(quoted(&PORT_UNREACHABLE[..32]), Some(QUOTED), "four octets behind the header suffice");
        for len in HEADER_LEN..32 {
            assert_eq!(quoted(&PORT_UNREACHABLE[..len]), None, "{len} octets");
        }
        assert_eq!(quoted(&with(8, 0x65)), None, "version 6");
        assert_eq!(quoted(&with(8, 0x44)), None, "a header of 16 octets");
        assert_eq!(quoted(&with(11, 23)), None, "a packet that ends before its ports");
        assert_eq!(quoted(&with(11, 24)), Some(QUOTED), "a packet that ends right behind its ports");
        assert_eq!(quoted(&with(15, 1)), None, "a later fragment");
        assert_eq!(quoted(&with(14, 0x20)), Some(QUOTED), "the first fragment has the ports");
        assert_eq!(quoted(&with(17, ipv4::PROTOCOL_ICMP)), None, "ICMP has no ports");
        let tcp = Quoted { protocol: ipv4::PROTOCOL_TCP, ..QUOTED };
        assert_eq!(quoted(&with(17, ipv4::PROTOCOL_TCP)), Some(tcp));
    }

    #[test]
    fn reads_the_next_hop_mtu_of_fragmentation_needed_alone() {
        let mut message = with(1, FRAGMENTATION_NEEDED);
        assert_eq!(Packet::new_checked(&message).unwrap().next_hop_mtu(), None, "an old router says nothing");
        message[6..8].copy_from_slice(&1400_u16.to_be_bytes());
        assert_eq!(Packet::new_checked(&message).unwrap().next_hop_mtu(), Some(1400));
        message[1] = 3;
        assert_eq!(Packet::new_checked(&message).unwrap().next_hop_mtu(), None);
    }

    #[test]
    fn every_impossible_length_is_an_error() {
        for len in 0..HEADER_LEN {
            let error =
                Error::Length(LengthError { layer: Layer::Icmp, offset: 0, required: 8, actual: len });
            assert_eq!(Packet::new_checked(&REQUEST[..len]).unwrap_err(), error);
            let mut message = REQUEST;
            assert_eq!(echo_reply_in_place(&mut message[..len]), Err(error));
            assert_eq!(message, REQUEST);
        }
    }

    proptest! {
        #[test]
        fn no_octets_panic(
            octets in prop::collection::vec(any::<u8>(), 0..100), kind in 0..13_u8,
            version_ihl in 0x40..0x50_u8,
        ) {
            let mut octets = octets;
            if octets.len() > HEADER_LEN {
                (octets[0], octets[8]) = (kind, version_ihl);
            }
            if let Ok(packet) = Packet::new_checked(&octets[..]) {
                packet.checksum_ok();
                prop_assert_eq!(packet.echo_ident().is_some(), packet.echo_seq().is_some());
                if packet.quoted().is_some() {
                    prop_assert!(octets.len() >= 32);
                }
                if packet.next_hop_mtu().is_some() {
                    prop_assert_eq!(octets[..2].to_vec(), [3, 4]);
                }
            }
            let before = octets.clone();
            let answered = echo_reply_in_place(&mut octets).is_ok();
            prop_assert_eq!(answered, before.len() >= 8 && before[..2] == [8, 0]);
            prop_assert_eq!(answered, octets != before);
        }

        #[test]
        fn replies_to_right_requests_are_right(tail in prop::collection::vec(any::<u8>(), 4..100)) {
            let mut message = [&[8, 0, 0, 0][..], &tail].concat();
            let checksum = checksum::of(&message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            echo_reply_in_place(&mut message).unwrap();
            prop_assert!(Packet::new_checked(&message[..]).unwrap().checksum_ok());
            prop_assert_eq!(&message[4..], tail);
        }
    }
}
