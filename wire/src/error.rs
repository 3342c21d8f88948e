//! The length error that every parser of this crate shares.
//!
//! It says which layer was cut short, where, how much was needed and how much was there, so that a drop can be
//! understood from the error alone. Each module's own `Error` wraps it beside the faults only that format can have.

use core::fmt;

/// The part of a packet that a [`LengthError`] speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Ethernet header (Fig 11A), IEEE 802.3.
    Ethernet,
    /// 802.1Q tag between the MAC addresses and the EtherType.
    Vlan,
    /// ARP packet for Ethernet and IPv4, RFC 826.
    Arp,
    /// IPv4 header and payload, RFC 791 section 3.1.
    Ipv4,
    /// TCP header, RFC 9293 section 3.1.
    Tcp,
    /// One TCP option, RFC 9293 section 3.2.
    TcpOption,
    /// UDP header and payload, RFC 768.
    Udp,
    /// ICMP message, RFC 792.
    Icmp,
    /// ipOS header (Fig 11B).
    IposHeader,
    /// Connection information (Figs 11C and 11D).
    IposConnection,
    /// IP packet that an ipOS packet carries (Figs 11G and 11H).
    IposPacket,
    /// Body of an ipOS message (docs/wire.md, "Messages").
    IposBody,
    /// Trailer of an ipOS message (docs/wire.md, "Trailer").
    IposTrailer,
    /// TCP control block (docs/wire.md, "The TCP control block").
    Tcb,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::Ethernet => "Ethernet header",
            Layer::Vlan => "802.1Q tag",
            Layer::Arp => "ARP packet",
            Layer::Ipv4 => "IPv4 packet",
            Layer::Tcp => "TCP header",
            Layer::TcpOption => "TCP option",
            Layer::Udp => "UDP datagram",
            Layer::Icmp => "ICMP message",
            Layer::IposHeader => "ipOS header",
            Layer::IposConnection => "ipOS connection information",
            Layer::IposPacket => "packet in ipOS",
            Layer::IposBody => "ipOS message body",
            Layer::IposTrailer => "ipOS trailer",
            Layer::Tcb => "TCP control block",
        })
    }
}

/// A layer needs more octets than are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{layer} at octet {offset} needs {required} octets, but {actual} are there")]
pub struct LengthError {
    /// What is cut short.
    pub layer: Layer,
    /// Where it starts, in octets from the start of the slice that was handed to the parser.
    pub offset: usize,
    /// Octets it needs from `offset` on.
    pub required: usize,
    /// Octets that are there from `offset` on.
    pub actual: usize,
}

impl LengthError {
    /// Checks that a layer that starts at `offset` of a slice of `len` octets finds its `required` octets.
    ///
    /// # Errors
    ///
    /// The error that describes the shortage. A start behind the end of the slice counts as nothing there.
    #[inline]
    pub fn check(layer: Layer, offset: usize, required: usize, len: usize) -> Result<(), LengthError> {
        let actual = len.saturating_sub(offset);
        if actual < required { Err(LengthError { layer, offset, required, actual }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn the_message_says_what_where_and_how_much() {
        let error = LengthError::check(Layer::Vlan, 14, 4, 17).unwrap_err();
        assert_eq!(error, LengthError { layer: Layer::Vlan, offset: 14, required: 4, actual: 3 });
        assert_eq!(error.to_string(), "802.1Q tag at octet 14 needs 4 octets, but 3 are there");
    }

    #[test]
    fn exactly_enough_is_enough() {
        assert_eq!(LengthError::check(Layer::Tcp, 0, 20, 20), Ok(()));
        assert_eq!(LengthError::check(Layer::Vlan, 14, 4, 18), Ok(()));
    }

    #[test]
    fn a_start_behind_the_end_counts_as_nothing_there() {
        let error = LengthError::check(Layer::Tcb, 30, 1, 16).unwrap_err();
        assert_eq!(error.actual, 0);
    }
}
