//! Reply: what the appliance answers about itself, ARP and ICMP echo, in place.
//!
//! Input: an ARP request or an ICMP echo request for one of our addresses. Output: the answer, in the packet's own buffer.
//! Owner: the worker. Cost: a header rewritten.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::{arp, ethernet, icmp, ipv4};

use crate::core::Core;
use crate::counters::Drop;
use crate::handoff::PortIndex;
use crate::segment::{Way, write_ethernet};
use crate::verdict::Verdict;

/// Answers an ARP request for an address of ours.
pub fn arp(core: &mut Core, port: PortIndex, request: &arp::Repr, mut mbuf: Mbuf) -> Verdict {
    let ours = core.port_mac(port);
    let reply = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: ours,
        sender_ip: request.target_ip,
        target_mac: request.sender_mac,
        target_ip: request.sender_ip,
    };
    mbuf.truncate(ethernet::HEADER_LEN + arp::LEN);
    let Some((front, body)) = mbuf.data_mut().split_at_mut_checked(ethernet::HEADER_LEN) else {
        return Verdict::Drop(Drop::BadArp);
    };
    write_ethernet(front, Way { source: ours, destination: request.sender_mac }, ethernet::ETHERTYPE_ARP);
    reply.emit(body);
    core.transmit(port, mbuf);
    Verdict::Answered
}

/// Answers an ICMP echo request to an address of ours.
pub fn echo(core: &mut Core, port: PortIndex, mut mbuf: Mbuf) -> Verdict {
    let ours = core.port_mac(port);
    let Some((front, rest)) = mbuf.data_mut().split_at_mut_checked(ethernet::HEADER_LEN) else {
        return Verdict::Drop(Drop::BadIcmp);
    };
    let Ok(frame) = ethernet::Frame::new_checked(&*front) else { return Verdict::Drop(Drop::BadEthernet) };
    let way = Way { source: ours, destination: frame.src() };
    write_ethernet(front, way, ethernet::ETHERTYPE_IPV4);
    let Ok(mut packet) = ipv4::Packet::new_checked(&mut *rest) else { return Verdict::Drop(Drop::BadIpv4) };
    let (source, destination, total_len) = (packet.src(), packet.dst(), packet.total_len());
    packet.set_src(destination);
    packet.set_dst(source);
    packet.set_ttl(64);
    packet.fill_checksum();
    let Some(message) = rest.get_mut(ipv4::HEADER_LEN..total_len) else {
        return Verdict::Drop(Drop::BadIcmp);
    };
    if icmp::echo_reply_in_place(message).is_err() {
        return Verdict::Drop(Drop::BadIcmp);
    }
    mbuf.truncate(ethernet::HEADER_LEN + total_len);
    core.transmit(port, mbuf);
    Verdict::Answered
}
