//! Migrated connections: each packet goes to its board as it came.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::handoff::Command;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ethernet::{self, ETHERTYPE_IPV4};
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::{checksum, icmp, ipos, ipv4};

use crate::common::client::CLIENT_MAC;
use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::setup::FARM_PORT;
use crate::common::{BOARD, BOARD_MAC, Client, FARM_MAC, Rig, Seg, Setup, WAN_MAC};

#[test]
fn the_packet_inside_is_bit_for_bit_what_came() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    for len in [0, 1, 5, 6, 1_000, 1_432] {
        let segment = client.data(REQUEST_LEN, &vec![0x61; len]);
        assert_eq!(rig.client(&segment), Verdict::Forwarded);
        let out = rig.forwarded();
        assert_eq!(out.packet, segment.frame()[ethernet::HEADER_LEN..], "{len} octets");
        assert_eq!((out.source_mac, out.destination_mac), (FARM_MAC, BOARD_MAC));
        assert_eq!(out.header.flow, client.flow);
        assert_eq!(out.header.kind, ipos::TYPE_PACKET);
    }
}

#[test]
fn ethernet_padding_is_cut() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    let padded = Seg { padding: 6, ..client.acks(REQUEST_LEN, 100) };
    assert_eq!(padded.frame().len(), 60);
    assert_eq!(rig.client(&padded), Verdict::Forwarded);
    let out = rig.forwarded();
    assert_eq!(out.frame.len(), 54 + 16);
    assert_eq!(out.packet, padded.frame()[14..54]);
}

#[test]
fn the_header_goes_into_the_headroom_and_nothing_is_copied() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    let mbuf = rig.mbuf(&client.data(REQUEST_LEN, b"data").frame());
    let address = mbuf.data().as_ptr() as usize;
    assert_eq!(rig.mbuf_on_wan(mbuf), Verdict::Forwarded);
    let out = rig.farm.pop().expect("the packet");
    assert_eq!(out.data().as_ptr() as usize, address - ipos::HEADER_LEN);
}

#[test]
fn a_wrong_tcp_checksum_is_for_the_boards_kernel_to_find() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    let mut frame = client.data(REQUEST_LEN, b"data").frame();
    *frame.last_mut().expect("an octet") ^= 1;
    assert_eq!(rig.on_wan(&frame), Verdict::Forwarded);
    let out = rig.farm.pop().expect("the packet");
    assert_eq!(out.data()[ethernet::HEADER_LEN + ipos::HEADER_LEN..], frame[ethernet::HEADER_LEN..]);
}

#[test]
fn a_board_that_moves_is_followed() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    let moved = Mac([2, 0, 0, 0, 0xb0, 0x33]);
    rig.command(Command::Board { board: BOARD, mac: moved, port: FARM_PORT });
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
    assert_eq!(rig.forwarded().destination_mac, moved);
}

#[test]
fn a_board_on_the_clients_own_port_is_reached_there() {
    let role = ipos_pipelines::config::Role::Both;
    let mut rig = Rig::with(Setup { wan_role: role, ..Setup::default() });
    let port = ipos_pipelines::handoff::PortIndex(0);
    rig.command(Command::Board { board: BOARD, mac: BOARD_MAC, port });
    let mut client = Client::new();
    let place = rig.request(&mut client, REQUEST);
    rig.migrated(&place);
    let frame = rig.wan.pop().expect("the replay");
    assert_eq!(frame.data()[..12], [BOARD_MAC.0, WAN_MAC.0].concat());
    assert!(rig.farm.pop().is_none());
}

/// An ICMP error of a router about a packet that the board sent to the client.
fn frag_needed(flow: &Flow, protocol: u8) -> Vec<u8> {
    let mut quoted = vec![0; 28];
    ipv4::Repr {
        src: flow.endpoint,
        dst: flow.client,
        protocol,
        ttl: 60,
        ident: 0,
        dont_fragment: true,
        payload_len: 1_480,
    }
    .emit(&mut quoted);
    quoted[20..22].copy_from_slice(&flow.endpoint_port.to_be_bytes());
    quoted[22..24].copy_from_slice(&flow.client_port.to_be_bytes());
    let mut message = vec![icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, 0, 0, 0, 0, 0x05, 0x78];
    message.extend_from_slice(&quoted);
    let sum = checksum::of(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 34];
    ethernet::Repr { dst: WAN_MAC, src: CLIENT_MAC, ethertype: ETHERTYPE_IPV4 }.emit(&mut frame);
    ipv4::Repr {
        // A router on the way, not the client.
        src: "192.0.2.254".parse().expect("an address"),
        dst: flow.endpoint,
        protocol: ipv4::PROTOCOL_ICMP,
        ttl: 60,
        ident: 0,
        dont_fragment: false,
        payload_len: message.len(),
    }
    .emit(&mut frame[14..]);
    frame.extend_from_slice(&message);
    frame
}

#[test]
fn an_icmp_error_about_a_migrated_flow_goes_to_its_board() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    let error = frag_needed(&client.flow, ipv4::PROTOCOL_TCP);
    assert_eq!(rig.on_wan(&error), Verdict::Forwarded);
    let out = rig.forwarded();
    assert_eq!(out.packet, error[ethernet::HEADER_LEN..]);
    assert_eq!((out.destination_mac, out.header.flow), (BOARD_MAC, client.flow));
}

#[test]
fn an_icmp_error_about_any_other_flow_goes_nowhere() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let dropped = Verdict::Drop(Drop::OtherIcmp);
    assert_eq!(rig.on_wan(&frag_needed(&client.flow, ipv4::PROTOCOL_TCP)), dropped, "no entry");
    rig.request(&mut client, REQUEST);
    assert_eq!(rig.on_wan(&frag_needed(&client.flow, ipv4::PROTOCOL_TCP)), dropped, "not migrated yet");
    assert_eq!(rig.on_wan(&frag_needed(&client.flow, ipv4::PROTOCOL_UDP)), dropped, "not TCP");
    rig.assert_silent();
}

#[test]
fn a_padded_icmp_error_is_forwarded_without_its_padding() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    let error = frag_needed(&client.flow, ipv4::PROTOCOL_TCP);
    let padded = [&error[..], &[0xee; 9]].concat();
    assert_eq!(rig.on_wan(&padded), Verdict::Forwarded);
    assert_eq!(rig.forwarded().packet, error[ethernet::HEADER_LEN..]);
}

#[test]
fn what_a_full_port_does_not_take_is_sent_in_order_later() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    rig.farm.set_room(1);
    for octet in [b"1", b"2", b"3"] {
        assert_eq!(rig.client(&client.data(REQUEST_LEN, octet)), Verdict::Forwarded);
    }
    assert_eq!(rig.forwarded().segment().payload, b"1");
    rig.farm.set_room(usize::MAX);
    rig.poll();
    let rest: Vec<Vec<u8>> = rig.packets_out().iter().map(|packet| packet.segment().payload).collect();
    assert_eq!(rest, [b"2", b"3"]);
}

#[test]
fn a_port_that_takes_nothing_costs_packets_and_no_memory() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.settle(&mut client);
    rig.farm.set_room(0);
    for _ in 0..1_030 {
        assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
    }
    assert_eq!(rig.counters.ports[1].send_failed.read(), 6, "1024 wait");
    rig.farm.set_room(usize::MAX);
    rig.poll();
    assert_eq!(rig.packets_out().len(), 1_024);
    assert_eq!(rig.happened(Happening::OriginateFailed), 0);
}
