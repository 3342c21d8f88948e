//! Fast path: packets of settled connections, from the frame's octets to the ipOS packet (0x02, Fig. 11G), without anything
//! in between; and SYNs of unknown flows, which go from here to [`crate::handshake`].
//!
//! Input: any frame of a port. Output: the frame on its way to its board, the SYN's packet, or the frame as it was: then it
//! takes the road of all others, which begins with [`crate::parse`]. A frame is taken only if that road would end at the
//! same place: this file accepts a part of what `parse` accepts. What it leaves out (addresses that nobody may have,
//! services, the owner of the flow) was checked when the flow was entered, and [`new_syn`] checks it for those that are
//! not. Owner: the worker. Cost: one cache line of the shard and one of the frame; everything is read and written in words,
//! since the processor stalls where it reads a word that was written in pieces (`make bench BENCH_ARGS="p1 p4"`).

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;
use ipos_wire::{ethernet, ipv4, tcp};

use crate::config::PortSettings;
use crate::core::Core;
use crate::counters::Drop;
use crate::entry::Entry;
use crate::forward;
use crate::handoff::{BoardId, PortIndex};
use crate::parse::{TcpPacket, may_be_a_client};
use crate::steer::Owners;
use crate::table::Shard;
use crate::table::index::Search;
use crate::verdict::Verdict;

/// Ethernet, IPv4 and TCP without options: what is read.
const HEAD_LEN: usize = TCP + tcp::HEADER_LEN;
const IP: usize = ethernet::HEADER_LEN;
const TCP: usize = IP + ipv4::HEADER_LEN;

/// Version 4, and a header of five words: no options.
const VERSION_IHL: u8 = 0x45;
/// More fragments, and the fragment's offset.
const FRAGMENT: u16 = 0x3fff;

type Head = [u8; HEAD_LEN];

/// The octets at a place, which is known when this is compiled.
#[inline(always)]
fn at<const PLACE: usize, const LEN: usize>(head: &Head) -> [u8; LEN] {
    const { assert!(PLACE + LEN <= HEAD_LEN) };
    head[PLACE..].first_chunk().copied().unwrap_or([0; LEN])
}

#[inline(always)]
fn u16_at<const PLACE: usize>(head: &Head) -> u16 {
    u16::from_be_bytes(at::<PLACE, 2>(head))
}

/// Octets of the frame up to the end of the IPv4 packet.
#[inline(always)]
fn frame_len(head: &Head) -> usize {
    IP + usize::from(u16_at::<{ IP + 2 }>(head))
}

/// The heads of frames that are whole TCP packets to a port that faces clients, well-formed in all that `parse` looks at but
/// addresses and control bits.
#[inline(always)]
fn head<'a>(mbuf: &'a Mbuf, port: &PortSettings) -> Option<&'a Head> {
    let data = mbuf.data();
    let head: &Head = data.first_chunk()?;
    let is_ours = at::<0, 6>(head) == port.mac.0 && head[6] & 1 == 0 && port.role.faces_clients();
    let is_ipv4 = u16_at::<12>(head) == ethernet::ETHERTYPE_IPV4 && head[IP] == VERSION_IHL;
    let is_whole_tcp = u16_at::<{ IP + 6 }>(head) & FRAGMENT == 0 && head[IP + 9] == ipv4::PROTOCOL_TCP;
    let tcp_header_len = usize::from(head[TCP + 12] >> 4) * 4;
    let fits = tcp_header_len >= tcp::HEADER_LEN
        && TCP + tcp_header_len <= frame_len(head)
        && frame_len(head) <= data.len();
    let is_plain_frame = mbuf.is_contiguous() && mbuf.vlan_stripped().is_none();
    (is_ours && is_ipv4 && is_whole_tcp && fits && is_plain_frame && ip_checksum_ok(head)).then_some(head)
}

/// RFC 1071 over the five words of 32 bits, in the machine's own order: it holds in any.
#[inline(always)]
fn ip_checksum_ok(head: &Head) -> bool {
    let word = |octets: [u8; 4]| u64::from(u32::from_ne_bytes(octets));
    let sum = word(at::<IP, 4>(head))
        + word(at::<{ IP + 4 }, 4>(head))
        + word(at::<{ IP + 8 }, 4>(head))
        + word(at::<{ IP + 12 }, 4>(head))
        + word(at::<{ IP + 16 }, 4>(head));
    ipos_wire::checksum::fold(sum) == 0xffff
}

#[inline(always)]
fn flow(head: &Head) -> Flow {
    Flow {
        client: Ipv4Addr::from(at::<{ IP + 12 }, 4>(head)),
        client_port: u16_at::<TCP>(head),
        endpoint: Ipv4Addr::from(at::<{ IP + 16 }, 4>(head)),
        endpoint_port: u16_at::<{ TCP + 2 }>(head),
    }
}

/// What a frame is at first glance, and where its flow is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    kind: Kind,
    search: Search,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A well-formed segment with ACK, and without SYN, FIN or RST.
    Plain,
    /// A well-formed SYN.
    Syn,
    /// Anything else.
    Other,
}

/// The way of a frame that `begin` has glanced at.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// To its board.
    Board(BoardId),
    /// A SYN of a flow that has no entry.
    NewSyn,
    /// To be looked at more closely.
    Other,
}

/// Control bits that decide; the others never do.
const DECISIVE: u8 = Flags::SYN.0 | Flags::ACK.0 | Flags::RST.0 | Flags::FIN.0;

/// Starts the look-up of a packet's flow.
#[inline(always)]
pub fn begin(mbuf: &Mbuf, port: &PortSettings, shard: &Shard<Entry>) -> Glance {
    let Some(head) = head(mbuf, port) else { return Glance { kind: Kind::Other, search: Search::NONE } };
    let kind = match head[TCP + 13] & DECISIVE {
        flags if flags == Flags::ACK.0 => Kind::Plain,
        flags if flags == Flags::SYN.0 => Kind::Syn,
        _ => Kind::Other,
    };
    Glance { kind, search: shard.begin(&flow(head)) }
}

/// Goes on with the look-up, once its first cache line has come.
#[inline(always)]
pub fn go_on(glance: &mut Glance, shard: &Shard<Entry>) {
    shard.go_on(&mut glance.search);
}

/// The way of a frame whose look-up has gone on. `entered` is what [`Shard::entered`] said when it began. Takes note of the time.
#[inline(always)]
pub fn way(core: &mut Core, glance: &Glance, entered: u32) -> Way {
    match glance.kind {
        Kind::Plain => core.shard.forward(&glance.search, core.now.ms).map_or(Way::Other, Way::Board),
        Kind::Syn if core.shard.is_absent(&glance.search, entered) => Way::NewSyn,
        Kind::Syn | Kind::Other => Way::Other,
    }
}

/// Sends a packet to its board.
#[inline(always)]
pub fn forward(core: &mut Core, board: BoardId, mbuf: Mbuf) -> Verdict {
    let Some(head) = mbuf.data().first_chunk() else { return Verdict::Drop(Drop::BadEthernet) };
    let (flow, frame_len) = (flow(head), frame_len(head));
    forward::encapsulate(core, board, &flow, frame_len, mbuf)
}

/// The packet of a SYN whose flow has no entry, if it is to a service of this worker's; all others are for `parse` to name.
#[inline(always)]
pub fn new_syn(core: &Core, owners: &Owners, port: PortIndex, mbuf: &Mbuf) -> Option<TcpPacket> {
    let head: &Head = mbuf.data().first_chunk()?;
    let packet = packet(head, port);
    let flow = &packet.flow;
    let services = &core.services;
    let may_ask = may_be_a_client(flow.client)
        && flow.client != flow.endpoint
        && !services.knows_address(flow.client)
        && services.answers_syn(flow.endpoint, flow.endpoint_port);
    (may_ask && owners.owner(flow) == core.config.id).then_some(packet)
}

/// What `parse` makes of a head that [`head`] has found well-formed.
#[inline(always)]
fn packet(head: &Head, port: PortIndex) -> TcpPacket {
    let tcp_header_len = u16::from(head[TCP + 12] >> 4) * 4;
    TcpPacket {
        flow: flow(head),
        port,
        source_mac: Mac(at::<6, 6>(head)),
        seq: Seq(u32::from_be_bytes(at::<{ TCP + 4 }, 4>(head))),
        ack: Seq(u32::from_be_bytes(at::<{ TCP + 8 }, 4>(head))),
        flags: Flags(head[TCP + 13]),
        window: u16_at::<{ TCP + 14 }>(head),
        // A frame's length is 16 bits: `head` has compared.
        frame_len: frame_len(head) as u16,
        tcp_offset: TCP as u16,
        payload_offset: TCP as u16 + tcp_header_len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;
    use crate::handoff::PortIndex;
    use crate::parse::{Parsed, parse};
    use crate::services::{Kind, Service, Services};
    use crate::tlsmap::TlsRules;
    use crate::urlmap::UrlMap;
    use ipos_dpdk::mempool::Mempool;
    use ipos_dpdk::testing;
    use ipos_wire::mac::Mac;
    use ipos_wire::seq::Seq;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn port(role: Role) -> PortSettings {
        PortSettings { index: PortIndex(0), role, mac: MAC, address: Ipv4Addr::new(203, 0, 113, 1) }
    }

    fn services() -> Services {
        let urls = UrlMap::build(&[]).expect("no rule is wrong");
        let service = Service {
            address: SERVICE,
            port: 80,
            kind: Kind::Http,
            urls,
            tls: TlsRules::default(),
            h2c: false,
            migrates_requests: false,
            default_pool: 0,
            answers: Default::default(),
            cookie: None,
        };
        Services::new(vec![service]).expect("one service")
    }

    fn frame(payload: &[u8], padding: usize) -> Vec<u8> {
        let (client, port) = (Ipv4Addr::new(192, 0, 2, 10), 40_000);
        let repr = tcp::Repr {
            src_port: port,
            dst_port: 80,
            seq: Seq(1),
            ack: Seq(2),
            flags: Flags::ACK,
            window: 500,
            options: tcp::Options {
                timestamps: Some(tcp::Timestamps { tsval: 1, tsecr: 2 }),
                ..tcp::Options::default()
            },
        };
        let mut segment = vec![0; tcp::HEADER_LEN + repr.options.emitted_len() + payload.len()];
        repr.emit(&mut segment, payload, client, SERVICE);
        let mut frame = vec![0; TCP];
        ethernet::Repr { dst: MAC, src: Mac([2, 0, 0, 0, 0, 9]), ethertype: ethernet::ETHERTYPE_IPV4 }
            .emit(&mut frame);
        ipv4::Repr {
            src: client,
            dst: SERVICE,
            protocol: ipv4::PROTOCOL_TCP,
            ttl: 64,
            ident: 7,
            dont_fragment: true,
            payload_len: segment.len(),
        }
        .emit(&mut frame[IP..]);
        frame.extend(segment);
        frame.resize(frame.len() + padding, 0xa5);
        frame
    }

    fn mbuf(frame: &[u8]) -> Mbuf {
        static POOL: LazyLock<Mempool> = LazyLock::new(|| testing::mempool(63).expect("a mempool"));
        let mut mbuf = POOL.alloc().expect("an mbuf");
        mbuf.append(frame.len()).expect("room").copy_from_slice(frame);
        mbuf
    }

    /// What the fast path makes of a frame: its flow and length.
    fn taken(frame: &[u8], role: Role) -> Option<(Flow, usize)> {
        head(&mbuf(frame), &port(role)).map(|head| (flow(head), frame_len(head)))
    }

    #[test]
    fn a_plain_packet_is_taken_by_ports_that_face_clients() {
        let frame = frame(b"hello", 3);
        let expected = (
            Flow {
                client: Ipv4Addr::new(192, 0, 2, 10),
                client_port: 40_000,
                endpoint: SERVICE,
                endpoint_port: 80,
            },
            frame.len() - 3,
        );
        assert_eq!(taken(&frame, Role::Wan), Some(expected));
        assert_eq!(taken(&frame, Role::Both), Some(expected));
        assert_eq!(taken(&frame, Role::Farm), None);
    }

    #[test]
    fn every_cut_is_left_to_parse() {
        let frame = frame(b"hello", 0);
        assert!((0..frame.len()).all(|len| taken(&frame[..len], Role::Wan).is_none()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

        /// What the fast path takes, `parse` takes too, and sees the same in it.
        #[test]
        fn it_takes_nothing_that_parse_would_not(
            payload in 0..40usize,
            padding in 0..8usize,
            changes in prop::collection::vec((0..HEAD_LEN, any::<u8>()), 0..3),
            heal in any::<bool>(),
            syn in any::<bool>(),
        ) {
            let mut octets = frame(&[0x5a; 40][..payload], padding);
            if syn {
                octets[TCP + 13] = Flags::SYN.0;
            }
            for (place, value) in changes {
                // Addresses were checked when the flow was entered.
                if !(IP + 12..IP + 20).contains(&place) {
                    octets[place] = value;
                }
            }
            if heal {
                let checksum = IP + 10..IP + 12;
                octets[checksum.clone()].fill(0);
                let sum = ipos_wire::checksum::of(&octets[IP..TCP]);
                octets[checksum].copy_from_slice(&sum.to_be_bytes());
            }
            let decisive = Flags(octets[TCP + 13] & DECISIVE);
            let is_judged = [Flags::ACK, Flags::SYN].contains(&decisive);
            let buffer = mbuf(&octets);
            if let Some(head) = head(&buffer, &port(Role::Wan)).filter(|_| is_judged) {
                match parse(&mut mbuf(&octets), &port(Role::Wan), 0x88b5, &services()) {
                    Ok(Parsed::Tcp(expected)) => {
                        let packet = packet(head, PortIndex(0));
                        prop_assert_eq!(format!("{packet:?}"), format!("{expected:?}"));
                        prop_assert_eq!(frame_len(head), usize::from(expected.frame_len));
                        prop_assert_eq!(flow(head), expected.flow);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
