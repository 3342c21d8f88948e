//! A worker and the control core beside it, as in the appliance, with the test as clients, boards and clock.

use std::mem;

use ipos_appliance::control::admission::{Admit, AdmitSettings, Admitted};
use ipos_appliance::control::attempts::AttemptSettings;
use ipos_appliance::control::board::BoardSettings;
use ipos_appliance::control::boards::MS_NS;
use ipos_appliance::control::checks::CheckSettings;
use ipos_appliance::control::core::{Core, CoreSettings};
use ipos_appliance::control::health::Patience;
use ipos_appliance::control::holders::AskSettings;
use ipos_appliance::control::outlet::Outlet;
use ipos_appliance::control::placement::{PoolSettings, Pools, Rules};
use ipos_appliance::control::sessions::{MapSettings, Sessions};
use ipos_appliance::control::sink::Sink;
use ipos_appliance::control::standing::WEIGHT_DEFAULT;
use ipos_pipelines::config::{PortSettings, Role};
use ipos_pipelines::handoff::{BoardId, Command, PortIndex, WorkerId, queue};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::sessions::Cookie;
use ipos_pipelines::steer::Owners;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;
use ipos_wire::tcb::OptionBits;
use ipos_wire::{ethernet, ipos, ipv4, tcp, udp};
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::common::setup::{FARM_PORT, HASH_KEY, LAYER4_NUMBER, plain};
use crate::common::{
    Client, DATAGRAM_SERVICE, Encapsulated, FARM_ADDRESS, FARM_MAC, IN_POLL, LAYER4_SERVICE, Rig, SERVICE,
    Segment, Setup, WAN_ADDRESS, WAN_MAC,
};

/// What a check asks.
pub const CHECK: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
/// The number of the service for datagrams.
pub const UDP_NUMBER: u16 = 6;
/// Between two checks of a board, and how long one may take.
pub const CHECK_MS: u64 = 500;
const ETHERTYPE: u16 = 0x88b5;
const REPORT_MS: u64 = 100;
/// When the boards' agents started, Unix seconds.
const AGENT_EPOCH: u32 = 1_700_000_000;
/// Until the first repeated Connection Packet to a silent board.
pub const RETRY_MS: u64 = 20;
/// Connection Packets to a silent board.
pub const TRIES: usize = 4;
/// Until a request must have a board.
pub const DEADLINE_MS: u64 = 2_000;

/// A scripted board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board(pub u8);

/// The board with fewer connections, and the other one.
pub const FIRST: Board = Board(1);
pub const SECOND: Board = Board(2);

impl Board {
    pub fn mac(self) -> Mac {
        Mac([2, 0, 0, 0, 0xb0, self.0])
    }

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, 10 + self.0)
    }
}

/// Something that left on the farm port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    Connection(Board, u64, Flow),
    /// 0x01 of a flow of datagrams.
    Flow(Board, Flow),
    /// 0x02 of a flow of datagrams, with the datagram's payload.
    Datagram(Board, Vec<u8>),
    Detach(Board, u64),
    /// 0x05 without force.
    GiveUp(Board, u64, ipos::NextRequest),
    Question(Board, u64),
    /// 0x02, with the payload of the segment inside.
    Packet(Board, Vec<u8>),
    /// 0x02 of a health check: its flow and the segment.
    Checked(Board, Flow, Segment),
}

pub struct World {
    pub rig: Rig,
    core: Core,
    outlet: Outlet,
    sequence: u32,
    /// Boards whose agents report.
    reporting: Vec<Board>,
    /// A report is being read: tables of listening sockets are made anew, ten times a second, and may allocate.
    is_reporting: bool,
}

impl World {
    /// Two boards that live and listen; the second has more connections, so that the first is chosen.
    pub fn new() -> Self {
        Self::placed_by(Rules::default())
    }

    /// The same, with other rules of placement.
    pub fn placed_by(rules: Rules) -> Self {
        let mut world = Self::with(rules, Vec::new());
        world.reporting = vec![FIRST, SECOND];
        world.report();
        world
    }

    /// Two boards that live and listen, and are checked.
    pub fn checked() -> Self {
        let checks = CheckSettings {
            service: "web".to_owned(),
            endpoint: (SERVICE, 80),
            boards: vec![BoardId(0), BoardId(1)],
            request: CHECK.to_vec().into(),
            expect: 200,
            interval_ns: CHECK_MS * MS_NS,
            timeout_ns: CHECK_MS * MS_NS,
            patience: Patience { fall: 3, rise: 2 },
        };
        let mut world = Self::with(Rules::default(), vec![checks]);
        world.reporting = vec![FIRST, SECOND];
        world.report();
        world
    }

    /// The same boards, and limits for the clients of the service.
    pub fn limited(admit: Admit) -> Self {
        let mut world = Self::new();
        world.limit(admit);
        world
    }

    /// Other limits, as a reload brings them.
    pub fn limit(&mut self, admit: Admit) {
        let of =
            |service, address, protocol| AdmitSettings { service, endpoint: (address, 80), protocol, admit };
        let (tcp, udp) = (ipos::Protocol::Tcp, ipos::Protocol::Udp);
        let settings = [
            of(0, SERVICE, tcp),
            of(UDP_NUMBER, DATAGRAM_SERVICE, udp),
            of(LAYER4_NUMBER, LAYER4_SERVICE, tcp),
        ];
        self.core.attempts.admission.reconfigure(&settings);
    }

    /// What the limits of the service have admitted.
    pub fn admitted(&self) -> Admitted {
        self.core.attempts.admission.shown(0).expect("it has limits").1
    }

    /// What those of the service for datagrams have.
    pub fn admitted_flows(&self) -> Admitted {
        self.core.attempts.admission.shown(UDP_NUMBER).expect("it has limits").1
    }

    /// Two boards that live and listen, and a service that looks for a cookie; with `map` it learns its values.
    pub fn with_cookie(rules: Rules, cookie: Cookie, map: Option<MapSettings>) -> Self {
        let mut world = Self::placed_by(rules);
        world.core.attempts.sessions = Sessions::new(&[map]);
        let service = Service { cookie: Some(cookie), ..plain(SERVICE, 80, Kind::Http, 9) };
        let services = Services::new(vec![service]).expect("one service");
        world.outlet.tell(WorkerId(0), Command::Services(Arc::new(services)));
        world.turn();
        world
    }

    /// Two boards that have not been heard of yet.
    pub fn unheard() -> Self {
        Self::with(Rules::default(), Vec::new())
    }

    /// Two boards that live and listen: pool 1 is the first alone, pool 2 the second.
    pub fn divided() -> Self {
        let mut pools = vec![PoolSettings::equal([BoardId(0), BoardId(1)]); 11];
        (pools[1], pools[2]) = (PoolSettings::equal([BoardId(0)]), PoolSettings::equal([BoardId(1)]));
        let mut world = Self::of_pools(Pools::new(pools, vec![Rules::default()]), Vec::new());
        world.reporting = vec![FIRST, SECOND];
        world.report();
        world
    }

    fn with(rules: Rules, checks: Vec<CheckSettings>) -> Self {
        let pools = vec![PoolSettings::equal([BoardId(0), BoardId(1)]); 11];
        Self::of_pools(Pools::new(pools, vec![rules]), checks)
    }

    fn of_pools(pools: Pools, checks: Vec<CheckSettings>) -> Self {
        let mut rig = Rig::with(Setup { boards_known: false, ..Setup::default() });
        // The rig's own end of the queue of commands stays unused: the control core has the only one.
        let (unused, _) = queue(1);
        let commands = mem::replace(&mut rig.commands, unused);
        let ports = vec![
            PortSettings { index: PortIndex(0), role: Role::Wan, mac: WAN_MAC, address: WAN_ADDRESS },
            PortSettings { index: FARM_PORT, role: Role::Farm, mac: FARM_MAC, address: FARM_ADDRESS },
        ];
        let owners = Owners::new(1, HASH_KEY);
        let outlet = Outlet::new(vec![commands], ports.clone(), ETHERTYPE, owners.clone(), rig.pool.clone());
        let board = |board: Board| BoardSettings {
            name: format!("board{}", board.0),
            address: board.address(),
            mac: Some(board.mac()),
            port: FARM_PORT,
            weight: WEIGHT_DEFAULT,
        };
        let settings = CoreSettings {
            ethertype: ETHERTYPE,
            epoch: 7,
            workers: 1,
            owners,
            ports,
            boards: vec![board(FIRST), board(SECOND)],
            options: 0,
            pools,
            attempts: AttemptSettings {
                retry_ns: RETRY_MS * MS_NS,
                tries: TRIES as u8,
                deadline_ns: DEADLINE_MS * MS_NS,
                capacity: 100,
                appliance_id: 9,
            },
            checks,
            hashed: Vec::new(),
            started_unix_us: 1_700_000_000_000_000,
            ask: AskSettings { retry_ns: 50 * MS_NS, tries: 2, outstanding: 100 },
        };
        let core = Core::new(settings, Box::new(|| [0x5a; 16]), 0);
        let mut world = Self { rig, core, outlet, sequence: 0, reporting: Vec::new(), is_reporting: false };
        world.core.start(&mut world.outlet);
        world.turn();
        world
    }

    /// Worker and control core go on until neither has anything to say to the other.
    pub fn turn(&mut self) {
        for _ in 0..3 {
            self.rig.poll();
            let now_ns = self.rig.now_us * 1000;
            IN_POLL.set(!self.is_reporting);
            while let Some(event) = self.rig.events.receive() {
                self.core.event(now_ns, WorkerId(0), event, &mut self.outlet);
            }
            self.core.tick(now_ns, &mut self.outlet);
            self.outlet.flush();
            IN_POLL.set(false);
        }
        self.rig.poll();
    }

    /// The control core tells the worker something of the test's.
    pub fn tell(&mut self, command: Command) {
        self.outlet.tell(WorkerId(0), command);
        self.turn();
    }

    /// Time passes, a millisecond at a time; boards go on reporting.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.rig.now_us += 1000;
            if (self.rig.now_us / 1000).is_multiple_of(REPORT_MS) {
                self.report();
            }
            self.turn();
        }
    }

    /// What the checks say of a board: the verdict, and how the last one ended.
    pub fn verdict(&self, board: Board) -> (&'static str, Option<String>) {
        let of = self.core.boards.board(BoardId(u16::from(board.0) - 1)).expect("a board of the world");
        let health = of.health.of((SERVICE, 80)).expect("it is checked");
        (health.verdict.name(), health.last.map(|outcome| outcome.sentence()))
    }

    /// Boards stop reporting.
    pub fn silence(&mut self, board: Board) {
        self.reporting.retain(|reporting| *reporting != board);
    }

    fn report(&mut self) {
        self.sequence += 1;
        self.is_reporting = true;
        for board in self.reporting.clone() {
            let state = ipos::ServerState {
                board: board.address(),
                appliance: FARM_ADDRESS,
                draining: false,
                interval_ms: REPORT_MS as u16,
                epoch: AGENT_EPOCH,
                sequence: self.sequence,
                options: OptionBits(0xf),
                cpu_cores: 2,
                cpu_utilisation: 100,
                established: 10 * u32::from(board.0),
                memory: 1 << 30,
                memory_available: 1 << 29,
                link_speed_bps: 0,
                bandwidth_available_bps: 0,
                endpoints_held: 0,
                pressure: None,
                tag: [0; 16],
            };
            let mut message = [0; ipos::ServerState::LEN];
            state.emit(&mut message);
            self.receives_from(board, &message);
            let row = ipos::ListeningRow {
                address: Ipv4Addr::UNSPECIFIED,
                port: 80,
                ipv6: false,
                mptcp: false,
                queue_len: 0,
                queue_max: 511,
                pid: 1,
                name: ipos::ListeningRow::name_from("nginx"),
            };
            let mut message = [0; 128];
            let report = ipos::ReportPart {
                board: board.address(),
                appliance: FARM_ADDRESS,
                part: 0,
                parts: 1,
                epoch: AGENT_EPOCH,
                sequence: self.sequence,
            };
            let len = ipos::Listening::emit(&report, &[row], &mut message);
            self.receives_from(board, &message[..len]);
        }
        self.is_reporting = false;
    }

    /// A board's frame arrives, padded as Ethernet pads it.
    pub fn receives_from(&mut self, board: Board, message: &[u8]) {
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::Repr { dst: FARM_MAC, src: board.mac(), ethertype: ETHERTYPE }.emit(&mut frame);
        frame.extend_from_slice(message);
        frame.resize(frame.len().max(60), 0);
        assert_eq!(self.rig.on_farm(&frame), Verdict::Control);
        self.turn();
    }

    pub fn acknowledges(&mut self, board: Board, flow: Flow, id: u64) {
        let trailer = Some(ipos::Trailer::open(id));
        let ack = ipos::Ack { flow, protocol: ipos::Protocol::Tcp, trailer };
        let mut message = [0; 40];
        ack.emit(&mut message);
        self.receives_from(board, &message);
    }

    /// A board takes a flow of datagrams.
    pub fn takes(&mut self, board: Board, flow: Flow) {
        let mut message = [0; 16];
        ipos::Ack { flow, protocol: ipos::Protocol::Udp, trailer: None }.emit(&mut message);
        self.receives_from(board, &message);
    }

    /// A board does not take a flow of datagrams: nothing listens.
    pub fn takes_not(&mut self, board: Board, flow: Flow) {
        let (reason, trailer) = (ipos::RefusalReason::NoListener, ipos::Trailer::open(0));
        let mut message = [0; ipos::Refused::LEN];
        ipos::Refused { flow, protocol: ipos::Protocol::Udp, reason, trailer }.emit(&mut message);
        self.receives_from(board, &message);
    }

    /// The figure's own acknowledgement, of 30 octets (Fig. 11I).
    pub fn acknowledges_barely(&mut self, board: Board, flow: Flow) {
        let mut message = [0; 16];
        ipos::Ack { flow, protocol: ipos::Protocol::Tcp, trailer: None }.emit(&mut message);
        self.receives_from(board, &message);
    }

    pub fn refuses(&mut self, board: Board, flow: Flow, id: u64, reason: ipos::RefusalReason) {
        let trailer = ipos::Trailer::open(id);
        let mut message = [0; ipos::Refused::LEN];
        ipos::Refused { flow, protocol: ipos::Protocol::Tcp, reason, trailer }.emit(&mut message);
        self.receives_from(board, &message);
    }

    pub fn closes(&mut self, board: Board, flow: Flow, id: u64, reason: ipos::ClosedReason) {
        let trailer = ipos::Trailer::open(id);
        let mut message = [0; ipos::Closed::LEN];
        ipos::Closed { flow, protocol: ipos::Protocol::Tcp, reason, trailer }.emit(&mut message);
        self.receives_from(board, &message);
    }

    pub fn detached(
        &mut self,
        board: Board,
        flow: Flow,
        id: u64,
        outcome: ipos::DetachOutcome,
        next: ipos::NextRequest,
    ) {
        let trailer = ipos::Trailer::open(id);
        let mut message = [0; ipos::Detached::LEN];
        ipos::Detached { flow, protocol: ipos::Protocol::Tcp, outcome, next, trailer }.emit(&mut message);
        self.receives_from(board, &message);
    }

    pub fn holds(&mut self, board: Board, flow: Flow, id: u64) {
        let trailer = ipos::Trailer::open(id);
        let mut message = [0; ipos::Holds::LEN];
        let state = ipos::HeldState::Live;
        ipos::Holds { flow, protocol: ipos::Protocol::Tcp, state, trailer }.emit(&mut message);
        self.receives_from(board, &message);
    }

    /// A board's kernel answers a check: an Ethernet frame of its own to the appliance's address.
    pub fn serves(&mut self, board: Board, flow: Flow, segment: tcp::Repr, payload: &[u8]) {
        let tcp_len = tcp::HEADER_LEN + payload.len();
        let mut frame = vec![0xa5; ethernet::HEADER_LEN + ipv4::HEADER_LEN + tcp_len];
        let (front, packet) = frame.split_at_mut(ethernet::HEADER_LEN);
        ethernet::Repr { dst: FARM_MAC, src: board.mac(), ethertype: ethernet::ETHERTYPE_IPV4 }.emit(front);
        let (header, body) = packet.split_at_mut(ipv4::HEADER_LEN);
        ipv4::Repr {
            src: flow.endpoint,
            dst: flow.client,
            protocol: ipv4::PROTOCOL_TCP,
            ttl: 64,
            ident: 0,
            dont_fragment: true,
            payload_len: tcp_len,
        }
        .emit(header);
        segment.emit(body, payload, flow.endpoint, flow.client);
        frame.resize(frame.len().max(60), 0);
        assert_eq!(self.rig.on_farm(&frame), Verdict::Check);
        self.turn();
    }

    /// What the control core counts on a board: connections, attempts under way, flows by the workers' last count.
    pub fn counts(&self, board: Board) -> (u64, u32, u32) {
        let board = self.core.boards.board(BoardId(u16::from(board.0) - 1)).expect("a board of the world");
        (board.connections(), board.traffic.in_flight, board.held.flows)
    }

    /// What has left on the farm port since the last call.
    pub fn sent(&mut self) -> Vec<Sent> {
        self.rig.farm_frames().iter().filter_map(|frame| read(frame)).collect()
    }

    /// Handshake and a whole request; the one Connection Packet that comes of it.
    #[track_caller]
    pub fn request(&mut self, client: &mut Client, octets: &[u8]) -> (Board, u64) {
        self.rig.shake(client);
        assert_eq!(self.rig.client(&client.data(0, octets)), Verdict::Held);
        self.turn();
        match self.sent()[..] {
            [Sent::Connection(board, id, flow)] if flow == client.flow => (board, id),
            ref other => panic!("one Connection Packet, not {other:?}"),
        }
    }
}

/// ARP that keeps the boards' addresses fresh is of no interest here.
fn read(frame: &[u8]) -> Option<Sent> {
    let view = ethernet::Frame::new_checked(frame).expect("an Ethernet frame");
    if view.ethertype() == ethernet::ETHERTYPE_ARP {
        return None;
    }
    let board = Board(view.dst().0[5]);
    let bytes = view.payload();
    let header = ipos::Header::parse(bytes).expect("an ipOS header");
    Some(match header.kind {
        ipos::TYPE_CONNECTION if header.protocol == ipos::Protocol::Udp => {
            let connection = ipos::UdpConnection::parse(bytes).expect("a UDP Connection Packet");
            assert_eq!((connection.server, connection.server_port), (board.address(), 80));
            Sent::Flow(board, connection.flow)
        }
        ipos::TYPE_PACKET if header.protocol == ipos::Protocol::Udp => {
            let packet = Encapsulated::read(frame, ETHERTYPE).packet;
            Sent::Datagram(board, packet[ipv4::HEADER_LEN + udp::HEADER_LEN..].to_vec())
        }
        ipos::TYPE_CONNECTION => {
            let connection = ipos::TcpConnection::parse(bytes).expect("a Connection Packet");
            assert_eq!((connection.server, connection.server_port), (board.address(), 80));
            let tcb = connection.tcb;
            assert_eq!((tcb.state, tcb.appliance_id, tcb.epoch), (4, 9, 7));
            assert_eq!((tcb.snd_una, tcb.rcv_nxt), (tcb.snd_nxt, tcb.irs + 1));
            Sent::Connection(board, tcb.migration_id, connection.flow)
        }
        ipos::TYPE_DETACH => {
            let detach = ipos::Detach::parse(bytes).expect("a detach");
            if detach.force {
                assert_eq!(detach.next, ipos::NextRequest::NONE);
                Sent::Detach(board, detach.trailer.id)
            } else {
                Sent::GiveUp(board, detach.trailer.id, detach.next)
            }
        }
        ipos::TYPE_WHO_HOLDS => {
            Sent::Question(board, ipos::WhoHolds::parse(bytes).expect("a question").trailer.id)
        }
        ipos::TYPE_PACKET if header.flow.client == FARM_ADDRESS => {
            Sent::Checked(board, header.flow, Encapsulated::read(frame, ETHERTYPE).segment())
        }
        ipos::TYPE_PACKET => Sent::Packet(board, Encapsulated::read(frame, ETHERTYPE).segment().payload),
        other => panic!("type {other:#x} to a board"),
    })
}
