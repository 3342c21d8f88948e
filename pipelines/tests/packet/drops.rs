//! Every reason to drop a packet, reached by a packet.

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::HEADROOM_OCTETS;
use ipos_pipelines::counters::Drop;
use ipos_pipelines::handoff::Event;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;
use ipos_wire::mac::Mac;
use ipos_wire::tcp::{Flags, Options, Timestamps};
use ipos_wire::{checksum, ipos, ipv4};

use crate::common::client::CLIENT_MAC;
use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::{
    BOARD, Client, FARM_ADDRESS, FARM_MAC, Ground, Rig, Seg, Setup, WAN_ADDRESS, WAN_MAC, only,
};

/// A SYN's frame with one octet changed, and the IPv4 checksum made good again where `mend` says so.
fn changed(at: usize, value: u8, mend: bool) -> Vec<u8> {
    let mut frame = Client::plain().syn().frame();
    frame[at] = value;
    if mend {
        let header_end = 14 + usize::from(frame[14] & 15) * 4;
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..header_end.min(34)]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn syn_to(flow: Flow) -> Vec<u8> {
    Seg { flow, ..Client::plain().syn() }.frame()
}

fn flags(flags: Flags) -> Vec<u8> {
    Seg { flags, ..Client::plain().syn() }.frame()
}

/// A frame of this EtherType with so many octets of zero.
fn of_type(destination: Mac, ethertype: u16, len: usize) -> Vec<u8> {
    let mut frame = [&destination.0[..], &CLIENT_MAC.0, &ethertype.to_be_bytes()].concat();
    frame.resize(14 + len, 0);
    frame
}

/// An ICMP message to the service in place of a SYN.
fn icmp(message: &[u8]) -> Vec<u8> {
    let mut frame = changed(23, 1, false);
    frame.truncate(34);
    frame.extend_from_slice(message);
    frame[16..18].copy_from_slice(&(20 + message.len() as u16).to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// What a board's kernel says to the appliance's own address, from a service's port.
fn answer_to(port: u16) -> Vec<u8> {
    let endpoint = Client::plain().flow;
    let flow = Flow {
        client: endpoint.endpoint,
        client_port: endpoint.endpoint_port,
        endpoint: FARM_ADDRESS,
        endpoint_port: port,
    };
    let mut frame = Seg { flow, flags: Flags::ACK, ..Client::plain().syn() }.frame();
    frame[..6].copy_from_slice(&FARM_MAC.0);
    frame
}

#[test]
fn an_answer_to_a_check_goes_to_the_control_core_and_to_nobody_else() {
    let mut rig = Rig::new();
    for port in [49_152, 65_535] {
        assert_eq!(rig.on_farm(&answer_to(port)), Verdict::Check);
        assert!(matches!(only(rig.told()), Event::Frame { .. }));
    }
    assert_eq!(rig.on_farm(&answer_to(49_151)), Verdict::Drop(Drop::BadSource), "no port for checks");
    // Clients cannot reach the control core so.
    let mut frame = answer_to(50_000);
    frame[..6].copy_from_slice(&WAN_MAC.0);
    assert_eq!(rig.on_wan(&frame), Verdict::Drop(Drop::OtherAddress));
    rig.assert_silent();
}

/// An IPv4 packet with a word of options.
fn with_ip_options() -> Vec<u8> {
    let mut frame = Client::plain().syn().frame();
    frame.splice(34..34, [1, 1, 1, 0]);
    frame[14] = 0x46;
    let total_len = frame.len() as u16 - 14;
    frame[16..18].copy_from_slice(&total_len.to_be_bytes());
    frame[24..26].fill(0);
    let sum = checksum::of(&frame[14..38]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A client between its first data and the end of its head.
fn temporary(rig: &mut Rig) -> Client {
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"G")), Verdict::Held);
    client
}

/// Makes a packet be dropped for this reason; what became of it.
fn provoke(reason: Drop) -> Verdict {
    let mut rig = Rig::new();
    let service = Client::plain().flow;
    match reason {
        Drop::OtherMac => rig.on_wan(&changed(5, 0xff, false)),
        Drop::OtherEthertype => rig.on_wan(&of_type(WAN_MAC, 0x86dd, 46)),
        Drop::OtherAddress => {
            rig.on_wan(&syn_to(Flow { endpoint: Ipv4Addr::new(198, 51, 100, 2), ..service }))
        }
        Drop::OtherProtocol => rig.on_wan(&syn_to(Flow { endpoint: WAN_ADDRESS, ..service })),
        Drop::OtherArp => {
            let mut frame = of_type(Mac::BROADCAST, 0x0806, 46);
            frame[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
            rig.on_wan(&frame)
        }
        Drop::OtherIcmp => rig.on_wan(&icmp(&[0, 0, 0xff, 0xff, 0, 0, 0, 0])),
        Drop::IposOnWan => rig.on_wan(&of_type(WAN_MAC, 0x88b5, 46)),
        Drop::Vlan => rig.on_wan(&of_type(WAN_MAC, 0x8100, 46)),
        Drop::Segmented => {
            let mut head = rig.mbuf(&Client::plain().data(0, &[0; 1_400]).frame());
            let tail = rig.mbuf(&[0; 1_000]);
            head.chain(tail).expect("two segments");
            rig.mbuf_on_wan(head)
        }
        Drop::BadEthernet => rig.on_wan(&[2; 13]),
        Drop::BadArp => rig.on_wan(&of_type(Mac::BROADCAST, 0x0806, 46)),
        Drop::BadIpv4 => rig.on_wan(&changed(14, 0x65, false)),
        Drop::BadIpv4Checksum => rig.on_wan(&changed(22, 99, false)),
        Drop::BadTcp => rig.on_wan(&changed(46, 0x40, false)),
        Drop::BadTcpChecksum => rig.on_wan(&changed(48, 0x99, false)),
        Drop::BadUdp => rig.on_wan(&super::datagram::cut_short()),
        Drop::BadTcpOptions => rig.on_wan(&Client::plain().syn().frame_with_options(&[2, 9, 0, 0])),
        Drop::BadTcpFlags => rig.on_wan(&flags(Flags::SYN | Flags::FIN)),
        Drop::BadIcmp => rig.on_wan(&icmp(&[8, 0, 1, 2, 3, 4, 5, 6])),
        Drop::BadIpos => rig.on_farm(&of_type(FARM_MAC, 0x88b5, 15)),
        Drop::Fragment => rig.on_wan(&changed(20, 0x20, true)),
        Drop::IpOptions => rig.on_wan(&with_ip_options()),
        Drop::BadSource => rig.on_wan(&syn_to(Flow { client: Ipv4Addr::LOCALHOST, ..service })),
        Drop::UnexpectedIpos => {
            let mut frame = of_type(FARM_MAC, 0x88b5, 56);
            ipos::encapsulate(service, Protocol::Tcp, &mut frame[14..]);
            rig.on_farm(&frame)
        }
        _ => provoke_later(reason, rig),
    }
}

/// The reasons that need a connection, or pressure.
fn provoke_later(reason: Drop, mut rig: Rig) -> Verdict {
    let mut client = Client::plain();
    match reason {
        Drop::NoRequest => {
            rig.shake(&mut client);
            rig.client(&client.ack(0))
        }
        Drop::ClosedProbe => {
            rig.shake(&mut client);
            rig.client(&Seg { ack: client.iss + 2, ..client.ack(1) })
        }
        Drop::OutOfWindow => {
            let client = temporary(&mut rig);
            rig.client(&client.data(20_000, b"x"))
        }
        Drop::OldSegment => {
            let client = temporary(&mut rig);
            rig.client(&client.ack(1))
        }
        Drop::TooManyGaps => {
            let client = temporary(&mut rig);
            for gap in 1..=16 {
                assert_eq!(rig.client(&client.data(gap * 2, b"x")), Verdict::Held);
            }
            rig.client(&client.data(34, b"x"))
        }
        Drop::AwaitingHolder => {
            let stranger = Client::stranger(1);
            rig.ask(&stranger);
            rig.client(&stranger.data(0, b"x"))
        }
        Drop::AskLimit => {
            rig = Rig::with(Setup { events: 2_048, ..Setup::default() });
            for port in 0..1_024 {
                assert_eq!(rig.client(&Client::stranger(port).ack(0)), Verdict::Held);
            }
            rig.client(&Client::stranger(1_024).ack(0))
        }
        Drop::StrayReset => {
            client.flow.endpoint_port = 81;
            rig.client(&client.rst(0))
        }
        Drop::ResetLimit => {
            client.flow.endpoint_port = 81;
            for _ in 0..10_000 {
                assert_eq!(rig.client(&client.ack(0)), Verdict::Answered);
                while rig.wan.pop().is_some() {}
            }
            rig.client(&client.ack(0))
        }
        Drop::ShardFull => {
            rig = Rig::with(Setup { entries: 2, ..Setup::default() });
            let verdicts: Vec<Verdict> =
                (1..=3).map(|port| rig.client(&Client::stranger(port).ack(0))).collect();
            assert_eq!(verdicts[..2], [Verdict::Held; 2]);
            verdicts[2]
        }
        Drop::PendingFull => {
            rig = Rig::with(Setup { pending: 1, ..Setup::default() });
            rig.request(&mut Client::on_port(1), REQUEST);
            rig.shake(&mut client);
            rig.client(&client.data(0, REQUEST))
        }
        Drop::ControlFull => {
            rig = Rig::with(Setup { events: 1, ..Setup::default() });
            rig.request(&mut Client::on_port(1), REQUEST);
            assert_eq!(rig.client(&Client::stranger(2).ack(0)), Verdict::Held);
            rig.client(&Client::stranger(3).ack(0))
        }
        Drop::SteerFull => steer_full(),
        Drop::NoMbuf => no_room_for_an_answer(),
        Drop::NoBoardMac => {
            rig = Rig::with(Setup { boards_known: false, ..Setup::default() });
            rig.migrate(&mut client, REQUEST);
            rig.client(&client.acks(REQUEST_LEN, 100))
        }
        Drop::NoUdpService => rig.on_wan(&super::datagram::Dgram::on_port(1).frame()),
        Drop::NoUdpBoard | Drop::DatagramsFull | Drop::DatagramsHeld | Drop::OverLimit => {
            super::datagram::provoke(reason)
        }
        Drop::AdmitFull | Drop::AdmitHeld => super::admit::provoke(reason),
        Drop::NoBoardYet => {
            client.flow.endpoint_port = super::layer4::PORT;
            super::layer4::serve(&mut rig, &[BOARD]);
            rig.client(&client.syn())
        }
        Drop::TooBig => {
            rig.settle(&mut client);
            let mut frame = client.data(REQUEST_LEN, &[0x61; 1460]).frame();
            frame[20] &= !0x40;
            ipv4::Packet::new_checked(&mut frame[14..]).expect("IPv4").fill_checksum();
            rig.on_wan(&frame)
        }
        Drop::NoHeadroom => {
            rig.settle(&mut client);
            let frame = client.data(REQUEST_LEN, b"x").frame();
            let mbuf = in_headroom(&rig, &frame, ipos::HEADER_LEN - 1);
            rig.mbuf_on_wan(mbuf)
        }
        _ => unreachable!("{reason:?} needs no connection"),
    }
}

/// A frame in an mbuf that leaves only so much headroom.
fn in_headroom(rig: &Rig, frame: &[u8], headroom: usize) -> Mbuf {
    let mut mbuf = rig.pool.alloc().expect("an mbuf");
    mbuf.prepend(usize::from(HEADROOM_OCTETS) - headroom).expect("headroom");
    mbuf.truncate(frame.len());
    let missing = frame.len().saturating_sub(mbuf.len());
    mbuf.append(missing).expect("room");
    mbuf.data_mut().copy_from_slice(frame);
    assert_eq!(mbuf.headroom(), headroom);
    mbuf
}

/// Packets of flows that another worker owns, which takes none of them.
fn steer_full() -> Verdict {
    let setup = Setup::default();
    let ground = Ground(setup.pool());
    let mut peers = ipos_pipelines::steer::mesh(2);
    let _other = peers.pop();
    let mut node = setup.node(0, 2, peers.remove(0), &ground.0);
    let stranger = Client::owned_by(1, 2);
    for _ in 0..1_024 {
        assert_eq!(node.client(&stranger.ack(0)), Verdict::Steered);
    }
    node.client(&stranger.ack(0))
}

/// A SYN that fills its mbuf and has no MSS option: the answer, which has one, does not fit.
fn no_room_for_an_answer() -> Verdict {
    let timestamps = Some(Timestamps { tsval: 1, tsecr: 0 });
    let offers = Options { mss: None, window_scale: Some(9), sack_permitted: true, timestamps };
    let client = Client { offers, ..Client::new() };
    let frame = client.syn().frame();
    let data_room_octets = HEADROOM_OCTETS + frame.len() as u16;
    let mut rig = Rig::with(Setup { data_room_octets, ..Setup::default() });
    rig.on_wan(&frame)
}

#[test]
fn every_reason_to_drop_a_packet_is_reached() {
    for reason in Drop::ALL {
        assert_eq!(provoke(*reason), Verdict::Drop(*reason));
    }
}

#[test]
fn flags_that_never_go_together_are_dropped() {
    let nonsense = [
        Flags(0),
        Flags::FIN,
        Flags::PSH | Flags::URG,
        Flags::FIN | Flags::PSH | Flags::URG,
        Flags::SYN | Flags::FIN,
        Flags::SYN | Flags::RST,
        Flags::SYN | Flags::ACK,
        Flags::RST | Flags::FIN,
        Flags(0xff),
    ];
    let mut rig = Rig::new();
    for nonsense in nonsense {
        assert_eq!(rig.on_wan(&flags(nonsense)), Verdict::Drop(Drop::BadTcpFlags), "{nonsense:?}");
    }
    rig.assert_silent();
}

#[test]
fn sources_that_no_single_host_can_have_are_dropped() {
    let mut rig = Rig::new();
    let flow = Client::plain().flow;
    for source in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "198.51.100.7",
        "198.51.100.1",
    ] {
        let client = source.parse().expect("an address");
        let verdict = rig.on_wan(&syn_to(Flow { client, ..flow }));
        assert_eq!(verdict, Verdict::Drop(Drop::BadSource), "{source}");
    }
    rig.assert_silent();
}

#[test]
fn nobody_is_answered_at_a_multicast_mac_address() {
    let mut rig = Rig::new();
    for source_mac in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1])] {
        let syn = Seg { source_mac, ..Client::plain().syn() };
        assert_eq!(rig.client(&syn), Verdict::Drop(Drop::BadSource), "{source_mac}");
    }
    rig.assert_silent();
}

#[test]
fn every_fragment_is_dropped() {
    let mut rig = Rig::new();
    for (at, value) in [(20, 0x20), (20, 0x01), (21, 0x01)] {
        assert_eq!(rig.on_wan(&changed(at, value, true)), Verdict::Drop(Drop::Fragment));
    }
}

#[test]
fn a_frame_cut_anywhere_is_dropped() {
    let mut rig = Rig::new();
    let frame = Client::new().data(0, REQUEST).frame();
    for len in 1..frame.len() {
        let verdict = rig.on_wan(&frame[..len]);
        let expected = if len < 14 { Drop::BadEthernet } else { Drop::BadIpv4 };
        assert_eq!(verdict, Verdict::Drop(expected), "{len} octets");
    }
    rig.assert_silent();
}

#[test]
fn a_segmented_frame_that_fits_one_buffer_is_joined() {
    let mut rig = Rig::new();
    let frame = Client::new().syn().frame();
    let mut mbuf = rig.mbuf(&frame[..20]);
    for part in frame[20..].chunks(7) {
        let tail = rig.mbuf(part);
        mbuf.chain(tail).expect("few segments");
    }
    assert_eq!(rig.mbuf_on_wan(mbuf), Verdict::Answered);
    rig.answer();
}
