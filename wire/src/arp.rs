//! ARP for IPv4 over Ethernet (RFC 826).

use core::net::Ipv4Addr;

use crate::error::{Layer, LengthError};
use crate::ethernet::ETHERTYPE_IPV4;
use crate::mac::Mac;
use crate::octets;

/// Octets of a packet.
pub const LEN: usize = 28;

/// Hardware type of Ethernet.
const HARDWARE_ETHERNET: u16 = 1;

const HARDWARE: usize = 0;
const PROTOCOL: usize = 2;
const HARDWARE_LEN: usize = 4;
const PROTOCOL_LEN: usize = 5;
const OPERATION: usize = 6;
const SENDER_MAC: usize = 8;
const SENDER_IP: usize = 14;
const TARGET_MAC: usize = 18;
const TARGET_IP: usize = 24;

/// Why octets are not an ARP packet that we understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Packet cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// Addresses of another kind than Ethernet and IPv4.
    #[error(
        "ARP for hardware type {hardware} ({hardware_len} octets) and protocol {protocol:#06x} \
         ({protocol_len} octets) instead of Ethernet and IPv4"
    )]
    AddressKind {
        /// Hardware type; Ethernet is 1.
        hardware: u16,
        /// Octets of a hardware address; Ethernet has 6.
        hardware_len: u8,
        /// Protocol type; IPv4 is 0x0800.
        protocol: u16,
        /// Octets of a protocol address; IPv4 has 4.
        protocol_len: u8,
    },
    /// Neither request nor reply.
    #[error("ARP operation {0} is neither request (1) nor reply (2)")]
    Operation(u16),
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
}

/// A view of a packet; octets behind the 28th are padding.
#[derive(Debug, Clone, Copy)]
pub struct Packet<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks the length and that the addresses are those of Ethernet and IPv4.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::AddressKind`].
    pub fn new_checked(buffer: T) -> Result<Packet<T>, Error> {
        let data = buffer.as_ref();
        LengthError::check(Layer::Arp, 0, LEN, data.len())?;
        let hardware = octets::u16(data, HARDWARE);
        let protocol = octets::u16(data, PROTOCOL);
        let [hardware_len, protocol_len] = [data[HARDWARE_LEN], data[PROTOCOL_LEN]];
        if (hardware, hardware_len, protocol, protocol_len) != (HARDWARE_ETHERNET, 6, ETHERTYPE_IPV4, 4) {
            return Err(Error::AddressKind { hardware, hardware_len, protocol, protocol_len });
        }
        Ok(Packet { buffer })
    }

    /// Gives the buffer back.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// What the packet is for, as the number on the wire: 1 request, 2 reply, others exist.
    pub fn operation_code(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), OPERATION)
    }

    /// The sender's MAC address.
    pub fn sender_mac(&self) -> Mac {
        octets::mac(self.buffer.as_ref(), SENDER_MAC)
    }

    /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227 section 2.1.1).
    pub fn sender_ip(&self) -> Ipv4Addr {
        octets::ip(self.buffer.as_ref(), SENDER_IP)
    }

    /// The target's MAC address; zero in a request.
    pub fn target_mac(&self) -> Mac {
        octets::mac(self.buffer.as_ref(), TARGET_MAC)
    }

    /// The target's IPv4 address: in a request, the one that is looked for.
    pub fn target_ip(&self) -> Ipv4Addr {
        octets::ip(self.buffer.as_ref(), TARGET_IP)
    }
}

/// The values of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repr {
    /// What the packet is for.
    pub operation: Operation,
    /// The sender's MAC address.
    pub sender_mac: Mac,
    /// The sender's IPv4 address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC address; zero in a request.
    pub target_mac: Mac,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl Repr {
    /// Reads a packet.
    ///
    /// # Errors
    ///
    /// [`Error::Operation`] for what is neither request nor reply.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Result<Repr, Error> {
        let operation = match packet.operation_code() {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(Error::Operation(other)),
        };
        Ok(Repr {
            operation,
            sender_mac: packet.sender_mac(),
            sender_ip: packet.sender_ip(),
            target_mac: packet.target_mac(),
            target_ip: packet.target_ip(),
        })
    }

    /// Writes the first [`LEN`] octets of `buf`.
    ///
    /// # Panics
    ///
    /// If `buf` is shorter.
    pub fn emit(&self, buf: &mut [u8]) {
        octets::put_u16(buf, HARDWARE, HARDWARE_ETHERNET);
        octets::put_u16(buf, PROTOCOL, ETHERTYPE_IPV4);
        octets::put(buf, HARDWARE_LEN, &[6, 4]);
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        octets::put_u16(buf, OPERATION, operation);
        octets::put(buf, SENDER_MAC, &self.sender_mac.0);
        octets::put(buf, SENDER_IP, &self.sender_ip.octets());
        octets::put(buf, TARGET_MAC, &self.target_mac.0);
        octets::put(buf, TARGET_IP, &self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reply as Linux sent it.
    const REPLY: [u8; LEN] = [
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x02, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0b, 0xcb, 0x00, 0x71,
        0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x0a, 0xcb, 0x00, 0x71, 0x0a,
    ];

    const REPLY_REPR: Repr = Repr {
        operation: Operation::Reply,
        sender_mac: Mac([2, 0, 0, 0, 0, 0x0b]),
        sender_ip: Ipv4Addr::new(203, 0, 113, 1),
        target_mac: Mac([2, 0, 0, 0, 0, 0x0a]),
        target_ip: Ipv4Addr::new(203, 0, 113, 10),
    };

    #[test]
    fn deconstructs_a_packet() {
        let packet = Packet::new_checked(&REPLY).unwrap();
        assert_eq!(packet.operation_code(), 2);
        assert_eq!(Repr::parse(&packet), Ok(REPLY_REPR));
    }

    #[test]
    fn constructs_a_packet() {
        let mut octets = [0xa5; LEN + 2];
        REPLY_REPR.emit(&mut octets);
        assert_eq!(octets[..LEN], REPLY);
        assert_eq!(octets[LEN..], [0xa5; 2]);
    }

    #[test]
    fn padding_behind_the_packet_is_no_fault() {
        let mut padded = [0; 46];
        padded[..LEN].copy_from_slice(&REPLY);
        assert_eq!(Repr::parse(&Packet::new_checked(&padded).unwrap()), Ok(REPLY_REPR));
    }

    #[test]
    fn every_impossible_length_is_an_error() {
        for len in 0..LEN {
            let error = LengthError { layer: Layer::Arp, offset: 0, required: LEN, actual: len };
            assert_eq!(Packet::new_checked(&REPLY[..len]).unwrap_err(), Error::Length(error));
        }
    }

    #[test]
    fn refuses_addresses_of_another_kind() {
        for at in [0, 1, 2, 3, 4, 5] {
            let mut octets = REPLY;
            octets[at] ^= 0x10;
            let error = Packet::new_checked(&octets).unwrap_err();
            assert!(matches!(error, Error::AddressKind { .. }), "octet {at}: {error:?}");
        }
        let mut octets = REPLY;
        octets[4] = 8;
        assert_eq!(
            Packet::new_checked(&octets).unwrap_err(),
            Error::AddressKind { hardware: 1, hardware_len: 8, protocol: 0x0800, protocol_len: 4 }
        );
    }

    #[test]
    fn refuses_other_operations() {
        let mut octets = REPLY;
        octets[7] = 3;
        assert_eq!(Repr::parse(&Packet::new_checked(&octets).unwrap()), Err(Error::Operation(3)));
    }

    proptest! {
        #[test]
        fn no_octets_panic(octets in prop::collection::vec(any::<u8>(), 0..40), ours: bool) {
            let mut octets = octets;
            if ours && octets.len() >= 6 {
                octets[..6].copy_from_slice(&REPLY[..6]);
            }
            if let Ok(packet) = Packet::new_checked(&octets[..]) {
                let is_known = matches!(packet.operation_code(), 1 | 2);
                prop_assert_eq!(Repr::parse(&packet).is_ok(), is_known);
            }
        }

        #[test]
        fn parses_what_it_emits(request: bool, sender: ([u8; 6], u32), target: ([u8; 6], u32)) {
            let repr = Repr {
                operation: if request { Operation::Request } else { Operation::Reply },
                sender_mac: Mac(sender.0),
                sender_ip: Ipv4Addr::from(sender.1),
                target_mac: Mac(target.0),
                target_ip: Ipv4Addr::from(target.1),
            };
            let mut octets = [0xa5; LEN];
            repr.emit(&mut octets);
            prop_assert_eq!(Repr::parse(&Packet::new_checked(&octets).unwrap()), Ok(repr));
        }
    }
}
