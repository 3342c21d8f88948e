//! What the appliance answers about itself, octet by octet; and what of ARP and ipOS is the control core's.

use ipos_pipelines::config::Role;
use ipos_pipelines::counters::Drop;
use ipos_pipelines::handoff::{Event, PortIndex};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::arp::{self, Operation};
use ipos_wire::ethernet::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4};
use ipos_wire::ipos::{self, Protocol};
use ipos_wire::mac::Mac;
use ipos_wire::{checksum, ipv4};
use std::net::Ipv4Addr;

use crate::common::client::{CLIENT, CLIENT_MAC};
use crate::common::{
    BOARD_MAC, Client, FARM_ADDRESS, FARM_MAC, Node, Rig, SERVICE, Setup, WAN_ADDRESS, WAN_MAC, only,
};

const BOARD_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 33);

fn arp_frame(to: Mac, operation: Operation, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = vec![0; 60];
    ethernet::Repr { dst: to, src: sender.0, ethertype: ETHERTYPE_ARP }.emit(&mut frame);
    let repr = arp::Repr {
        operation,
        sender_mac: sender.0,
        sender_ip: sender.1,
        target_mac: target.0,
        target_ip: target.1,
    };
    repr.emit(&mut frame[14..]);
    frame
}

fn who_has(address: Ipv4Addr) -> Vec<u8> {
    arp_frame(Mac::BROADCAST, Operation::Request, (CLIENT_MAC, CLIENT), (Mac::default(), address))
}

/// An echo request with 5 octets of payload, padded.
fn ping(to: Mac, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, 7, b'h', b'e', b'l', b'l', b'o'];
    let sum = checksum::of(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 34];
    ethernet::Repr { dst: to, src: CLIENT_MAC, ethertype: ETHERTYPE_IPV4 }.emit(&mut frame);
    ipv4::Repr {
        src: source,
        dst: destination,
        protocol: ipv4::PROTOCOL_ICMP,
        ttl: 3,
        ident: 0x0102,
        dont_fragment: false,
        payload_len: message.len(),
    }
    .emit(&mut frame[14..]);
    frame.extend_from_slice(&message);
    frame.resize(60, 0);
    frame
}

#[track_caller]
fn frame_for_control(node: &mut Node, port: PortIndex) -> Vec<u8> {
    match only(node.told()) {
        Event::Frame { port: from, frame } => {
            assert_eq!(from, port);
            frame.data().to_vec()
        }
        other => panic!("a frame, not {other:?}"),
    }
}

#[test]
fn arp_for_our_own_address_and_for_a_service_is_answered() {
    for address in [WAN_ADDRESS, SERVICE] {
        let mut rig = Rig::new();
        assert_eq!(rig.on_wan(&who_has(address)), Verdict::Answered);
        let mut expected = arp_frame(CLIENT_MAC, Operation::Reply, (WAN_MAC, address), (CLIENT_MAC, CLIENT));
        expected.truncate(42);
        assert_eq!(only(rig.wan_frames()), expected);
    }
}

#[test]
fn a_unicast_arp_request_is_answered_too() {
    let mut rig = Rig::new();
    let probe = arp_frame(WAN_MAC, Operation::Request, (CLIENT_MAC, CLIENT), (WAN_MAC, WAN_ADDRESS));
    assert_eq!(rig.on_wan(&probe), Verdict::Answered);
    assert_eq!(rig.wan_frames().len(), 1);
}

#[test]
fn arp_about_others_is_the_control_cores_on_the_farm_and_nobodys_elsewhere() {
    let mut rig = Rig::new();
    assert_eq!(rig.on_wan(&who_has(Ipv4Addr::new(203, 0, 113, 77))), Verdict::Drop(Drop::OtherArp));
    let reply = arp_frame(FARM_MAC, Operation::Reply, (BOARD_MAC, BOARD_ADDRESS), (FARM_MAC, FARM_ADDRESS));
    assert_eq!(rig.on_farm(&reply), Verdict::Control);
    assert_eq!(frame_for_control(&mut rig, PortIndex(1)), reply);
    assert_eq!(rig.on_farm(&who_has(BOARD_ADDRESS)), Verdict::Control);
    frame_for_control(&mut rig, PortIndex(1));
    assert_eq!(rig.on_farm(&who_has(SERVICE)), Verdict::Control, "services are not announced to the farm");
    frame_for_control(&mut rig, PortIndex(1));
    assert_eq!(rig.on_farm(&who_has(FARM_ADDRESS)), Verdict::Answered);
    assert_eq!(rig.farm_frames().len(), 1);
}

#[test]
fn an_echo_request_is_answered_exactly() {
    for address in [WAN_ADDRESS, SERVICE] {
        let mut rig = Rig::new();
        assert_eq!(rig.on_wan(&ping(WAN_MAC, CLIENT, address)), Verdict::Answered);
        let mut message = vec![0, 0, 0, 0, 0x12, 0x34, 0, 7, b'h', b'e', b'l', b'l', b'o'];
        let sum = checksum::of(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut expected = vec![0; 34];
        ethernet::Repr { dst: CLIENT_MAC, src: WAN_MAC, ethertype: ETHERTYPE_IPV4 }.emit(&mut expected);
        ipv4::Repr {
            src: address,
            dst: CLIENT,
            protocol: ipv4::PROTOCOL_ICMP,
            ttl: 64,
            ident: 0x0102,
            dont_fragment: false,
            payload_len: message.len(),
        }
        .emit(&mut expected[14..]);
        expected.extend_from_slice(&message);
        assert_eq!(only(rig.wan_frames()), expected);
    }
}

#[test]
fn the_farm_can_ping_the_appliance_and_not_its_services() {
    let mut rig = Rig::new();
    assert_eq!(rig.on_farm(&ping(FARM_MAC, BOARD_ADDRESS, FARM_ADDRESS)), Verdict::Answered);
    assert_eq!(rig.farm_frames().len(), 1);
    assert_eq!(rig.on_farm(&ping(FARM_MAC, BOARD_ADDRESS, SERVICE)), Verdict::Drop(Drop::OtherAddress));
    rig.assert_silent();
}

/// A board's answer to "who holds this endpoint?".
fn ipos_frame(to: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = vec![0; 60];
    ethernet::Repr { dst: to, src: BOARD_MAC, ethertype }.emit(&mut frame);
    let trailer = ipos::Trailer::open(5);
    ipos::Ack { flow: Client::new().flow, protocol: Protocol::Tcp, trailer: Some(trailer) }
        .emit(&mut frame[14..]);
    frame
}

#[test]
fn an_ipos_message_from_the_farm_goes_to_the_control_core_whole() {
    for ethertype in [0x88b5, 0x0007] {
        let mut rig = Rig::with(Setup { ethertype, ..Setup::default() });
        let frame = ipos_frame(FARM_MAC, ethertype);
        assert_eq!(rig.on_farm(&frame), Verdict::Control);
        assert_eq!(frame_for_control(&mut rig, PortIndex(1)), frame);
        assert_eq!(rig.on_wan(&ipos_frame(WAN_MAC, ethertype)), Verdict::Drop(Drop::IposOnWan));
        rig.assert_silent();
    }
}

#[test]
fn a_port_of_both_roles_takes_clients_and_boards() {
    let mut rig = Rig::with(Setup { wan_role: Role::Both, ..Setup::default() });
    assert_eq!(rig.on_wan(&ipos_frame(WAN_MAC, 0x88b5)), Verdict::Control);
    frame_for_control(&mut rig, PortIndex(0));
    assert_eq!(rig.client(&Client::new().syn()), Verdict::Answered);
    rig.answer();
}

#[test]
fn an_ipos_packet_to_the_appliance_is_refused() {
    let mut rig = Rig::new();
    let mut frame = ipos_frame(FARM_MAC, 0x88b5);
    ipos::encapsulate(Client::new().flow, Protocol::Tcp, &mut frame[14..]);
    assert_eq!(rig.on_farm(&frame), Verdict::Drop(Drop::UnexpectedIpos));
    rig.assert_silent();
}
