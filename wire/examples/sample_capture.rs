//! Writes a capture with every ipOS message, once with each EtherType, and with what a dissector must not fall over: an
//! unknown type, a damaged message, an acknowledgement without trailer.
//!
//! ```text
//! cargo run -p ipos-wire --example sample_capture -- sample.pcap
//! tshark -X lua_script:docs/ipos.lua -r sample.pcap
//! ```

use std::io::Write;
use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;
use ipos_wire::ipos::{
    Ack, Action, ApplicationName, ApplicationRow, Applications, CloseIdle, Closed, ClosedReason, Detach,
    DetachOutcome, Detached, HEADER_LEN, HeldState, Holds, Listening, ListeningRow, NextRequest, Offer,
    Offers, Order, Outcome, Pressure, Progress, Protocol, RefusalReason, Refused, ReportPart, ServerState,
    TcpConnection, Trailer, UdpConnection, WhoHolds, encapsulate,
};
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcb::{OptionBits, STATE_ESTABLISHED, Tcb};
use ipos_wire::{checksum, ethernet, ipv4, tcp, udp};

/// The EtherTypes that a farm may use (docs/wire.md "Encapsulation").
pub const ETHERTYPES: [u16; 2] = [0x88b5, 0x0007];

/// Octets of the shortest Ethernet frame without its check sequence.
const FRAME_MIN: usize = 60;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const BOARD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 21);
const APPLIANCE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BOARD_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x15]);
const APPLIANCE_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x01]);

const FLOW: Flow = Flow { client: CLIENT, client_port: 49152, endpoint: ENDPOINT, endpoint_port: 80 };
const UDP_FLOW: Flow = Flow { client: CLIENT, client_port: 49153, endpoint: ENDPOINT, endpoint_port: 9000 };
const TRAILER: Trailer = Trailer::open(0x5152_5354_5556_5758);
const REQUEST: &[u8] = b"GET /index.html HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

/// A message, and whether a board sends it.
type Sent = (Vec<u8>, bool);

fn main() {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("sample_capture: name the file to write, such as sample.pcap");
        std::process::exit(2);
    };
    if let Err(error) = std::fs::File::create(&path).and_then(|mut file| file.write_all(&capture(&frames())))
    {
        eprintln!("sample_capture: cannot write {}: {error}", path.display());
        std::process::exit(1);
    }
}

/// Frames as a pcap file (classic format, microseconds, Ethernet).
pub fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(4_u16.to_le_bytes());
    file.extend([0; 8]);
    file.extend(65_535_u32.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for (number, frame) in (0_u32..).zip(frames) {
        // The lengths of frames are at most 1514 and fit.
        let len = (frame.len() as u32).to_le_bytes();
        file.extend(1_700_000_000_u32.to_le_bytes());
        file.extend((number * 100).to_le_bytes());
        file.extend(len);
        file.extend(len);
        file.extend(frame);
    }
    file
}

/// The messages in frames, padded as Ethernet pads them; all with the first EtherType, then all with the second.
pub fn frames() -> Vec<Vec<u8>> {
    let frame = |ethertype, (message, from_board): Sent| {
        let (dst, src) = if from_board { (APPLIANCE_MAC, BOARD_MAC) } else { (BOARD_MAC, APPLIANCE_MAC) };
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::Repr { dst, src, ethertype }.emit(&mut frame);
        frame.extend(message);
        frame.resize(frame.len().max(FRAME_MIN), 0);
        frame
    };
    ETHERTYPES
        .iter()
        .flat_map(|ethertype| messages().into_iter().map(|sent| frame(*ethertype, sent)))
        .collect()
}

fn messages() -> Vec<Sent> {
    let mut messages = connections();
    messages.extend(answers());
    messages.extend(reports());
    messages.extend(spawning());
    messages.extend(oddities());
    messages
}

fn written(len: usize, emit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut message = vec![0; len];
    emit(&mut message);
    message
}

/// 0x01 and 0x02 of both protocols.
fn connections() -> Vec<Sent> {
    let connection = TcpConnection { flow: FLOW, server: BOARD, server_port: 8080, tcb: control_block() };
    let udp = UdpConnection { flow: UDP_FLOW, server: BOARD, server_port: 9001 };
    vec![
        (written(TcpConnection::LEN, |buffer| connection.emit(buffer)), false),
        (written(UdpConnection::LEN, |buffer| udp.emit(buffer)), false),
        (packet(FLOW, Protocol::Tcp, &tcp_packet()), false),
        (packet(UDP_FLOW, Protocol::Udp, &udp_packet()), false),
    ]
}

fn control_block() -> Tcb {
    Tcb {
        state: STATE_ESTABLISHED,
        options: OptionBits::TIMESTAMPS | OptionBits::SACK | OptionBits::WINDOW_SCALE,
        client_mss: 1460,
        our_mss: 1440,
        client_window_scale: 7,
        our_window_scale: 9,
        iss: Seq(1_000),
        irs: Seq(2_000),
        snd_una: Seq(1_001),
        snd_nxt: Seq(1_001),
        snd_wnd: 64_000,
        snd_wl1: Seq(2_001),
        snd_wl2: Seq(1_001),
        rcv_nxt: Seq(2_001),
        rcv_wnd: 16_384,
        ts_recent: 3_000,
        last_tsval: 4_000,
        srtt_us: 1_500,
        rttvar_us: 750,
        cwnd: 14_400,
        ssthresh: u32::MAX,
        migration_id: TRAILER.id,
        established_at_us: 1_700_000_000_000_000,
        service_id: 7,
        // A request is far shorter than 4 GiB.
        octets_following: REQUEST.len() as u32,
        appliance_id: 1,
        epoch: 12,
        tag: [0; 16],
    }
}

fn packet(flow: Flow, protocol: Protocol, packet: &[u8]) -> Vec<u8> {
    let mut message = written(HEADER_LEN, |buffer| encapsulate(flow, protocol, buffer));
    message.extend(packet);
    message
}

fn ip_packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::Repr {
        src: CLIENT,
        dst: ENDPOINT,
        protocol,
        ttl: 63,
        ident: 0x1234,
        dont_fragment: true,
        payload_len: payload.len(),
    };
    let mut packet = written(ipv4::HEADER_LEN, |buffer| header.emit(buffer));
    packet.extend(payload);
    packet
}

fn tcp_packet() -> Vec<u8> {
    let timestamps = Some(tcp::Timestamps { tsval: 3_000, tsecr: 4_000 });
    let header = tcp::Repr {
        src_port: FLOW.client_port,
        dst_port: FLOW.endpoint_port,
        seq: Seq(2_001),
        ack: Seq(1_001),
        flags: tcp::Flags::PSH | tcp::Flags::ACK,
        window: 501,
        options: tcp::Options { timestamps, ..tcp::Options::default() },
    };
    let len = header.header_len() + REQUEST.len();
    ip_packet(ipv4::PROTOCOL_TCP, &written(len, |buffer| header.emit(buffer, REQUEST, CLIENT, ENDPOINT)))
}

fn udp_packet() -> Vec<u8> {
    let header = udp::Repr { src_port: UDP_FLOW.client_port, dst_port: UDP_FLOW.endpoint_port };
    // One octet, so that Ethernet pads the frame.
    let datagram = written(udp::HEADER_LEN + 1, |buffer| header.emit(buffer, &[0], CLIENT, ENDPOINT));
    ip_packet(ipv4::PROTOCOL_UDP, &datagram)
}

/// 0x03 to 0x09.
fn answers() -> Vec<Sent> {
    let (flow, protocol, trailer) = (FLOW, Protocol::Tcp, TRAILER);
    let ack = Ack { flow, protocol, trailer: Some(trailer) };
    let bare = Ack { trailer: None, ..ack };
    let refused = Refused { flow, protocol, reason: RefusalReason::AcceptQueueFull, trailer };
    let forced = Detach { flow, protocol, force: true, next: NextRequest::NONE, trailer };
    let next = NextRequest { seq: Seq(1_001), ack: Seq(2_002) };
    let detach = Detach { force: false, next, ..forced };
    let detached = Detached { flow, protocol, outcome: DetachOutcome::Busy, next, trailer };
    let closed = Closed { flow, protocol, reason: ClosedReason::Forced, trailer };
    let who_holds = WhoHolds { flow, protocol, trailer: Trailer::open(99) };
    let holds = Holds { flow, protocol, state: HeldState::Live, trailer };
    vec![
        (written(ack.buffer_len(), |buffer| ack.emit(buffer)), true),
        (written(bare.buffer_len(), |buffer| bare.emit(buffer)), true),
        (written(Refused::LEN, |buffer| refused.emit(buffer)), true),
        (written(Detach::LEN, |buffer| forced.emit(buffer)), false),
        (written(Detach::LEN, |buffer| detach.emit(buffer)), false),
        (written(Detached::LEN, |buffer| detached.emit(buffer)), true),
        (written(Closed::LEN, |buffer| closed.emit(buffer)), true),
        (written(WhoHolds::LEN, |buffer| who_holds.emit(buffer)), false),
        (written(Holds::LEN, |buffer| holds.emit(buffer)), true),
    ]
}

/// 0x10 to 0x13.
fn reports() -> Vec<Sent> {
    let state = ServerState {
        board: BOARD,
        appliance: APPLIANCE,
        draining: true,
        interval_ms: 500,
        epoch: 1_700_000_000,
        sequence: 7,
        options: OptionBits(0xf),
        cpu_cores: 8,
        cpu_utilisation: 4_321,
        established: 1_234,
        memory: 16 << 30,
        memory_available: 6 << 30,
        link_speed_bps: 10_000_000_000,
        bandwidth_available_bps: 9_000_000_000,
        endpoints_held: 99,
        pressure: Some(Pressure { cpu: 1_234, memory: 7 }),
        tag: [0; 16],
    };
    let row = ListeningRow {
        address: Ipv4Addr::UNSPECIFIED,
        port: 80,
        ipv6: true,
        mptcp: false,
        queue_len: 3,
        queue_max: 511,
        pid: 4242,
        name: ListeningRow::name_from("nginx"),
    };
    let other = ListeningRow { address: BOARD, port: 8080, ipv6: false, mptcp: true, ..row };
    let rows = [row, other];
    let report = ReportPart {
        board: BOARD,
        appliance: APPLIANCE,
        part: 0,
        parts: 1,
        epoch: 1_700_000_000,
        sequence: 7,
    };
    let list = written(Listening::buffer_len(rows.len()), |buffer| {
        Listening::emit(&report, &rows, buffer);
    });
    let application = ApplicationRow {
        pid: 4242,
        processes: 5,
        interval_ms: 1_000,
        memory: 5 << 30,
        cpu: 15_000,
        name: ListeningRow::name_from("nginx"),
    };
    let applications = written(Applications::buffer_len(1), |buffer| {
        Applications::emit(&report, &[application], buffer);
    });
    let idle = CloseIdle { board: BOARD, appliance: APPLIANCE, idle_ms: 1000, tag: [0; 16] };
    vec![
        (written(ServerState::LEN, |buffer| state.emit(buffer)), true),
        (list, true),
        (applications, true),
        (written(CloseIdle::LEN, |buffer| idle.emit(buffer)), false),
    ]
}

/// 0x20 to 0x22.
fn spawning() -> Vec<Sent> {
    let (board, appliance, id, tag) = (BOARD, APPLIANCE, TRAILER.id, [0; 16]);
    let name = ApplicationName::new("web").expect("a plain name");
    let order = Order { board, appliance, action: Action::Start, id, name, tag };
    let outcome = Outcome {
        board,
        appliance,
        progress: Progress::Exited,
        retry_ms: 1_500,
        id,
        pid: 4_242,
        detail: 1,
        name,
        tag,
    };
    let row = Offer {
        name,
        memory: 64 << 20,
        cpu_hundredths: 50,
        instances_max: 2,
        listening: 1,
        starting: 1,
        failures: 3,
        draining: true,
        retry_ms: 1_500,
        address: ENDPOINT,
        port: 80,
    };
    let head = ReportPart { board, appliance, part: 0, parts: 1, epoch: 1_700_000_000, sequence: 7 };
    let offers = written(Offers::buffer_len(1), |buffer| {
        Offers::emit(&head, &[row], buffer);
    });
    vec![
        (written(Order::LEN, |buffer| order.emit(buffer)), false),
        (written(Outcome::LEN, |buffer| outcome.emit(buffer)), true),
        (offers, true),
    ]
}

/// What farms may meet and dissectors must survive: a type of the future, and a message damaged on its way.
fn oddities() -> Vec<Sent> {
    let flow = FLOW;
    let mut unknown = written(HEADER_LEN, |buffer| encapsulate(flow, Protocol::Tcp, buffer));
    let sum = u16::from_be_bytes([unknown[14], unknown[15]]);
    let sum = checksum::update_u16(sum, 0x0201, 0x5501);
    unknown[12] = 0x55;
    unknown[14..16].copy_from_slice(&sum.to_be_bytes());
    let refused =
        Refused { flow, protocol: Protocol::Tcp, reason: RefusalReason::Other(77), trailer: TRAILER };
    let mut damaged = written(Refused::LEN, |buffer| refused.emit(buffer));
    damaged[30] ^= 0x01;
    vec![(unknown, true), (damaged, true)]
}
