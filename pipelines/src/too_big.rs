//! Too big: a packet that does not fit the farm's MTU once the ipOS header is in front of it. Its sender is told (RFC 792, RFC 1191:
//! destination unreachable, fragmentation needed, with the next hop's MTU), and makes smaller ones.
//!
//! Input: a client's packet on its way to a board. Output: the ICMP message, in the packet's own buffer, when the packet forbids
//! fragmentation; nothing otherwise. Owner: the worker. Cost: none for packets that fit but one comparison. Connections whose
//! handshake is the appliance's never come here: their MSS is chosen so that they fit.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::{ethernet, icmp, ipos, ipv4};

use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::segment::{Way, write_ethernet};
use crate::verdict::Verdict;

/// Messages that one worker sends in a second, at most.
pub const PER_SECOND: u32 = 1_000;

/// Octets of an IPv4 packet that still fits the farm's MTU behind an ipOS header.
pub const fn packet_max(farm_mtu: u16) -> u16 {
    farm_mtu.saturating_sub(ipos::HEADER_LEN as u16)
}

/// What is quoted: the header of the packet, and the ports behind it.
const QUOTE_LEN: usize = ipv4::HEADER_LEN + 8;
const ANSWER_LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + icmp::HEADER_LEN + QUOTE_LEN;

/// Tells the sender of a frame that its packet does not fit.
#[cold]
#[inline(never)]
pub fn answer(core: &mut Core, mut mbuf: Mbuf) -> Verdict {
    let mtu = packet_max(core.config.farm_mtu);
    let Ok(frame) = ethernet::Frame::new_checked(mbuf.data()) else {
        return Verdict::Drop(Drop::BadEthernet);
    };
    let (client_mac, our_mac) = (frame.src(), frame.dst());
    let Ok(packet) = ipv4::Packet::new_checked(frame.payload()) else { return Verdict::Drop(Drop::BadIpv4) };
    let client = packet.src();
    let Some(quote) = frame.payload().first_chunk::<QUOTE_LEN>().copied() else {
        return Verdict::Drop(Drop::TooBig);
    };
    // What may be fragmented would have to be fragmented here, and the pieces be steered: nobody sends such packets.
    if !packet.dont_fragment() || !core.too_big.take(core.now.ms) {
        return Verdict::Drop(Drop::TooBig);
    }
    let arrived = core.ports.iter().find(|port| port.role.faces_clients() && port.mac == our_mac);
    let Some((port, address)) = arrived.map(|port| (port.index, port.address)) else {
        return Verdict::Drop(Drop::TooBig);
    };
    mbuf.truncate(ANSWER_LEN);
    let Some((front, rest)) = mbuf.data_mut().split_at_mut_checked(ethernet::HEADER_LEN) else {
        return Verdict::Drop(Drop::TooBig);
    };
    let Some((header, message)) = rest.split_at_mut_checked(ipv4::HEADER_LEN) else {
        return Verdict::Drop(Drop::TooBig);
    };
    write_ethernet(front, Way { source: our_mac, destination: client_mac }, ethernet::ETHERTYPE_IPV4);
    ipv4::Repr {
        src: address,
        dst: client,
        protocol: ipv4::PROTOCOL_ICMP,
        ttl: 64,
        ident: 0,
        dont_fragment: true,
        payload_len: message.len(),
    }
    .emit(header);
    icmp::emit_fragmentation_needed(message, mtu, &quote);
    core.transmit(port, mbuf);
    core.happened(Happening::TooBigTold);
    Verdict::Answered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_fits_leaves_room_for_the_header() {
        assert_eq!((packet_max(1500), packet_max(1516), packet_max(0)), (1484, 1500, 0));
    }
}
