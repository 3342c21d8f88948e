//! 100,000 random and mutated frames on each port role: no panic, every packet counted once, no mbuf lost, and the service
//! still answers. The frames come from a fixed seed.

use ipos_dpdk::mbuf::Mbuf;
use ipos_pipelines::config::{Role, Timeouts};
use ipos_pipelines::counters::{Happening, Outcome};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{
    Admission, Answer, Command, Counted, DatagramsPlaced, Event, FlowFilter, FlowPage, Holder, Stay, Takes,
    WorkerId,
};
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{self, Protocol};
use ipos_wire::tcp::Flags;
use ipos_wire::{checksum, ipv4, tcp};

use crate::common::client::CLIENT_MAC;
use crate::common::hello::{PREFACE, stream};
use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::setup::{LAYER4_NUMBER, limited_services, services};
use crate::common::{
    BOARD, BOARD_MAC, Client, DATAGRAM_SERVICE, H2C_SERVICE, LAYER4_SERVICE, MIGRATION, MOVING_SERVICE, Node,
    OTHER_BOARD, Rig, SERVER_FIRST, SERVICE, Seg, Setup, TLS_SERVICE,
};
use crate::datagram::Dgram;

const FRAMES: usize = 100_000;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    fn octet(&mut self) -> u8 {
        (self.next() >> 40) as u8
    }
}

/// Valid frames of all kinds, of clients that have shaken hands with this node.
fn corpus(node: &mut Node) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for port in 1..=16 {
        let mut client = if port % 2 == 0 { Client::on_port(port) } else { Client::plain() };
        client.flow.client_port = port;
        client.flow.endpoint = match port {
            9 | 10 => SERVER_FIRST,
            11 => TLS_SERVICE,
            12 => H2C_SERVICE,
            13.. => MOVING_SERVICE,
            _ => SERVICE,
        };
        node.shake(&mut client);
        let hello = stream(Some(b"a.example"), &["h2"]);
        let long = [b"POST /b/ HTTP/1.1\r\nHost: b.example\r\nX: ", &[b'y'; 1_300][..]].concat();
        let segments = [
            client.syn(),
            Seg { flags: Flags::SYN | Flags::ECE | Flags::CWR, ..client.syn() },
            client.ack(0),
            Seg { seq: client.irs, ..client.ack(0) },
            client.fin(0),
            client.data(0, &hello),
            client.data(0, &hello[..20]),
            client.data(20, &hello[20..]),
            client.data(0, PREFACE),
            client.data(0, REQUEST),
            client.data(0, &REQUEST[..11]),
            client.data(11, &REQUEST[11..]),
            client.data(0, &long),
            client.data(long.len() as u32, b"\r\n\r\nbody"),
            client.data(REQUEST_LEN, b"body"),
            client.data(16_380, b"edge"),
            client.acks(REQUEST_LEN, 100),
            Seg { ack: client.iss + 101, ..client.data(REQUEST_LEN, b"GET /b/ HTTP/1.1\r\nHost: b\r\n\r\n") },
            Seg { ack: client.iss + 101, ..client.data(REQUEST_LEN, b"GET /b/ HTTP") },
            Seg { ack: client.iss + 101, ..client.data(REQUEST_LEN + 12, b"/1.1\r\nHost: b\r\n\r\n") },
            Seg { ack: client.iss + 201, ..client.data(REQUEST_LEN + 31, REQUEST) },
            client.fin(REQUEST_LEN),
            client.rst(REQUEST_LEN),
            client.rst(0),
            Client::stranger(port).data(0, b"unknown"),
            Client::stranger(port).rst(0),
        ];
        frames.extend(segments.iter().map(Seg::frame));
        frames.push(icmp_error(&client));
        frames.extend(from_the_farm(&client));
    }
    for port in 20..24 {
        let mut client = Client::on_port(port);
        client.flow.endpoint = LAYER4_SERVICE;
        let segments = [client.syn(), client.ack(0), client.data(0, REQUEST), client.fin(0), client.rst(0)];
        frames.extend(segments.iter().map(Seg::frame));
        let flow = Flow { endpoint: DATAGRAM_SERVICE, ..client.flow };
        frames.extend([5, 1_472].map(|len| Dgram { flow, payload: vec![b'q'; len] }.frame()));
    }
    frames.push(arp());
    frames.push(echo());
    frames
}

fn around(source: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    [&[0; 6][..], &source, &ethertype.to_be_bytes(), body].concat()
}

fn arp() -> Vec<u8> {
    let mut body =
        vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0xc1, 1, 203, 0, 113, 9, 0, 0, 0, 0, 0, 0, 198, 51, 100, 1];
    body.resize(46, 0);
    around(CLIENT_MAC.0, 0x0806, &body)
}

fn icmp_packet(message: &mut Vec<u8>) -> Vec<u8> {
    let sum = checksum::of(message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0; 20];
    ipv4::Repr {
        src: [203, 0, 113, 9].into(),
        dst: [198, 51, 100, 1].into(),
        protocol: ipv4::PROTOCOL_ICMP,
        ttl: 64,
        ident: 0,
        dont_fragment: false,
        payload_len: message.len(),
    }
    .emit(&mut packet);
    packet.append(message);
    around(CLIENT_MAC.0, 0x0800, &packet)
}

fn echo() -> Vec<u8> {
    icmp_packet(&mut vec![8, 0, 0, 0, 0, 1, 0, 1, b'e', b'c', b'h', b'o'])
}

/// "Fragmentation needed" about what a board sent to this client.
fn icmp_error(client: &Client) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0];
    let from_board = client.data(0, b"");
    let frame = from_board.frame();
    message.extend_from_slice(&frame[14..42]);
    // Towards the client: addresses and ports the other way round.
    message[20..28].rotate_left(4);
    message[28..32].rotate_left(2);
    icmp_packet(&mut message)
}

/// What a board says: every message of the appliance's side, and a packet that has no business here.
fn from_the_farm(client: &Client) -> Vec<Vec<u8>> {
    let trailer = ipos::Trailer::open(MIGRATION);
    let (flow, protocol) = (client.flow, Protocol::Tcp);
    let mut messages = vec![vec![0; 46]; 3];
    ipos::Ack { flow, protocol, trailer: Some(trailer) }.emit(&mut messages[0]);
    ipos::Ack { flow, protocol, trailer: None }.emit(&mut messages[1]);
    ipos::encapsulate(flow, protocol, &mut messages[2]);
    messages.iter().map(|message| around(BOARD_MAC.0, 0x88b5, message)).collect()
}

/// Changes a frame a little, or a lot, or not at all; sums are mended half of the time, so that more than the checksum
/// is tried.
fn mutate(random: &mut Random, corpus: &[Vec<u8>], destination: [u8; 6]) -> Vec<u8> {
    let mut frame = corpus[random.below(corpus.len())].clone();
    if random.below(50) != 0 {
        frame[..6].copy_from_slice(&destination);
    }
    match random.below(8) {
        0 | 1 => {}
        2 => (0..=random.below(4)).for_each(|_| flip(random, &mut frame, 0)),
        3 | 4 => (0..=random.below(3)).for_each(|_| flip(random, &mut frame, 14)),
        5 => frame.truncate(random.below(frame.len()) + 1),
        6 => {
            let other = &corpus[random.below(corpus.len())];
            frame.truncate(random.below(frame.len()) + 1);
            frame.extend_from_slice(&other[random.below(other.len())..]);
        }
        _ => {
            let keep = [0, 12, 14, 34][random.below(4)];
            let len = random.below(200) + 1;
            frame.resize(len, 0);
            frame[keep.min(len)..].fill_with(|| random.octet());
        }
    }
    if random.below(2) == 0 {
        mend(&mut frame);
    }
    frame.truncate(1_900);
    frame
}

fn flip(random: &mut Random, frame: &mut [u8], from: usize) {
    let at = from + random.below(frame.len() - from);
    frame[at] = if random.below(2) == 0 { frame[at] ^ 1 << random.below(8) } else { random.octet() };
}

/// Fills in every checksum that the frame has room for.
fn mend(frame: &mut [u8]) {
    if frame.len() < 34 || frame[12..14] != [8, 0] {
        return;
    }
    if let Ok(mut packet) = ipv4::Packet::new_checked(&mut frame[14..]) {
        packet.fill_checksum();
        let (source, destination, protocol) = (packet.src(), packet.dst(), packet.protocol());
        match (protocol, tcp::Segment::new_checked(packet.payload_mut())) {
            (ipv4::PROTOCOL_TCP, Ok(mut segment)) => segment.fill_checksum(source, destination),
            (ipv4::PROTOCOL_ICMP, Ok(segment)) => {
                let message = segment.into_inner();
                message[2..4].fill(0);
                let sum = checksum::of(message);
                message[2..4].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
    }
}

/// A control core that decides by chance, late or never.
fn decide(random: &mut Random, event: Event) -> Option<Command> {
    let board = if random.below(2) == 0 { BOARD } else { OTHER_BOARD };
    let answers = [
        Answer::BadRequest,
        Answer::RequestTimeout,
        Answer::HeadTooLarge,
        Answer::Unavailable,
        Answer::Reset,
    ];
    let answer = answers[random.below(answers.len())];
    match event {
        Event::Place(place, _) | Event::Repeat { place, .. } => match random.below(8) {
            0 => None,
            1 => Some(Command::Answer { entry: place.entry, answer }),
            _ => Some(Command::Migrated {
                entry: place.entry,
                flow: place.flow,
                board: BOARD,
                migration_id: MIGRATION,
                counted: if random.below(2) == 0 { Counted::Client } else { Counted::No },
            }),
        },
        Event::WhoHolds { entry, .. } => match random.below(5) {
            0 => Some(Command::Holder { entry, holder: Holder::Nobody }),
            1 => Some(Command::Holder { entry, holder: Holder::Unknown }),
            2 => Some(Command::Holder { entry, holder: Holder::Board(board, MIGRATION) }),
            3 => Some(Command::Holder { entry, holder: Holder::TimeWait(board) }),
            _ => None,
        },
        Event::PlaceDatagrams { entry, flow, .. } => match random.below(5) {
            0 => None,
            1 => Some(Command::Datagrams { entry, flow, placed: DatagramsPlaced::Nowhere }),
            2 => Some(Command::Datagrams { entry, flow, placed: DatagramsPlaced::OverLimit }),
            _ => {
                Some(Command::Datagrams { entry, flow, placed: DatagramsPlaced::At(board, Counted::Service) })
            }
        },
        Event::Admit { entry, flow, .. } => match random.below(5) {
            0 => None,
            1 => Some(Command::Admitted { entry, flow, admission: Admission::OverLimit }),
            2 => Some(Command::Admitted { entry, flow, admission: Admission::Admitted(Counted::No) }),
            _ => Some(Command::Admitted { entry, flow, admission: Admission::Admitted(Counted::Client) }),
        },
        Event::Move { place, .. } => match random.below(10) {
            0 => None,
            1 => Some(Command::Answer { entry: place.entry, answer }),
            2 => Some(Command::Detached { entry: place.entry }),
            3 => Some(Command::Stay { entry: place.entry, why: Stay::Busy }),
            4 => Some(Command::Stay { entry: place.entry, why: Stay::Shared }),
            5 => Some(Command::Stay { entry: place.entry, why: Stay::Silent }),
            6 => Some(Command::Left { flow: place.flow, board, migration_id: MIGRATION }),
            _ => {
                let (entry, flow) = (place.entry, place.flow);
                Some(Command::Migrated {
                    entry,
                    flow,
                    board,
                    migration_id: MIGRATION + 1,
                    counted: Counted::No,
                })
            }
        },
        Event::Abandon { entry, flow, .. } => match random.below(4) {
            0 => Some(Command::Migrated { entry, flow, board, migration_id: 3, counted: Counted::Service }),
            1 => Some(Command::Closed { flow, board, migration_id: MIGRATION }),
            2 => Some(Command::Closed { flow, board, migration_id: 0 }),
            _ => Some(Command::Answer { entry, answer }),
        },
        Event::Flows(_) | Event::Counted(_) | Event::Ended(_) | Event::Frame { .. } => None,
    }
}

/// Lets everything that has an end come to it.
fn settle_down(rig: &mut Rig) {
    for _ in 0..2_000 {
        rig.pass(1_000);
        drain(rig);
        rig.told();
        if rig.worker.core().shard.is_empty() && rig.worker.core().datagrams.flows.is_empty() {
            return;
        }
    }
}

fn drain(node: &mut Node) {
    while node.wan.pop().is_some() {}
    while node.farm.pop().is_some() {}
}

/// A frame in one segment, or now and then in two.
fn in_segments(random: &mut Random, node: &Node, frame: &[u8]) -> Mbuf {
    let cut = if random.below(16) == 0 { random.below(frame.len()) } else { frame.len() };
    let mut mbuf = node.mbuf(&frame[..cut]);
    if cut < frame.len() {
        mbuf.chain(node.mbuf(&frame[cut..])).expect("two segments");
    }
    mbuf
}

/// 100,000 frames into one of the two ports.
fn make_noise(setup: Setup, into_farm: bool, seed: u64) {
    let mut random = Random(seed);
    let mut rig = Rig::with(setup);
    let no_commands = rig.commands.room();
    let mut frames = corpus(&mut rig);
    for board in [BOARD, OTHER_BOARD] {
        rig.command(Command::Standing { service: LAYER4_NUMBER, board, takes: Takes::New });
    }
    let destination = [2, 0, 0, 0, 0, if into_farm { 0xa2 } else { 0xa1 }];
    let mut sent = 0;
    while sent < FRAMES {
        for _ in 0..=random.below(32) {
            let frame = mutate(&mut random, &frames, destination);
            let mbuf = in_segments(&mut random, &rig, &frame);
            if into_farm {
                rig.farm.push(mbuf)
            } else {
                rig.wan.push(mbuf)
            }
            sent += 1;
        }
        rig.now_us += random.next() % 40_000;
        while rig.wan.waiting() + rig.farm.waiting() > 0 {
            assert!(rig.poll());
        }
        drain(&mut rig);
        if random.below(4) == 0 {
            // Only now and then: the queue shall be full at times.
            for event in rig.told() {
                if let Some(command) = decide(&mut random, event) {
                    rig.commands.send(command).expect("room in the queue of commands");
                }
            }
        }
        if random.below(500) == 0 {
            let page = FlowPage {
                request: 0,
                worker: WorkerId(0),
                cursor: Some(0),
                filter: FlowFilter::default(),
                rows: Vec::with_capacity(16),
            };
            rig.command(Command::ListFlows(Box::new(page)));
            rig.command(Command::Count(Box::default()));
            rig.check();
        }
        if random.below(100) == 0 {
            let with_limits = random.below(2) == 0;
            rig.command(Command::Services(if with_limits { limited_services() } else { services() }));
        }
        if random.below(1_000) == 0 {
            // Cookies age and die: new handshakes for the same flows, once all commands have been obeyed.
            while rig.commands.room() < no_commands {
                rig.poll();
            }
            drain(&mut rig);
            frames = corpus(&mut rig);
        }
    }
    assert!(rig.counters.packets_settled() >= FRAMES as u64);
    drain(&mut rig);
    rig.told();
    rig.check();
    settle_down(&mut rig);
    assert!(rig.worker.core().shard.is_empty(), "every entry has an end");
    let mut client = Client::on_port(50_000);
    rig.settle(&mut client);
    assert_eq!(rig.state(&client.flow), Some(State::Forward), "the service still answers");
    if !into_farm {
        assert_was_everywhere(&rig);
    }
}

/// The noise went through every outcome and every state.
fn assert_was_everywhere(rig: &Rig) {
    for outcome in [Outcome::Forwarded, Outcome::Answered, Outcome::Held, Outcome::Dropped] {
        assert!(rig.counters.outcome(outcome).read() > 100, "{outcome:?}");
    }
    for happening in [
        Happening::SynAnswered,
        Happening::HandshakeProven,
        Happening::HeadComplete,
        Happening::Migrated,
        Happening::Repeated,
        Happening::Proven,
        Happening::AnsweredBadRequest,
        Happening::AnsweredUnavailable,
        Happening::ResetSent,
        Happening::ProbeClosed,
        Happening::HolderFound,
        Happening::HolderDenied,
        Happening::HolderUnknown,
        Happening::Replaced,
        Happening::ClosedByReset,
        Happening::DatagramsPlaced,
        Happening::DatagramsUnplaced,
        Happening::DatagramsIdle,
        Happening::Layer4Placed,
        Happening::ResetOverLimit,
    ] {
        assert!(rig.counters.happening(happening).read() > 0, "{happening:?}");
    }
}

fn setup() -> Setup {
    // Short times, so that deadlines fall into the noise.
    let timeouts = Timeouts {
        request_ms: 500,
        place_ms: 700,
        idle_ms: 2_000,
        half_closed_ms: 900,
        linger_ms: 100,
        answer_rto_ms: 50,
    };
    Setup { timeouts, pending: 8, ..Setup::default() }
}

#[test]
fn noise_from_clients() {
    make_noise(setup(), false, 0x1905_0000_0001);
}

#[test]
fn noise_from_the_farm() {
    make_noise(setup(), true, 0x1905_0000_0002);
}

#[test]
fn noise_on_a_port_of_both_roles() {
    make_noise(Setup { wan_role: Role::Both, ..setup() }, false, 0x1905_0000_0003);
}

#[test]
fn noise_in_a_tiny_worker() {
    make_noise(Setup { entries: 4, pending: 2, events: 2, ..setup() }, false, 0x1905_0000_0004);
}
