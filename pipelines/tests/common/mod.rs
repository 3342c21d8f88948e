//! The rig of the packet-level tests: one worker between memory ports, with the test as its clients, its boards, its
//! control core and its clock. Every rig checks, when it is dropped, that each packet has exactly one outcome, that the
//! gauges are right, and that no mbuf is missing.

#![allow(dead_code, reason = "each test binary uses its own part of the rig")]

pub mod client;
pub mod counting;
pub mod dgram;
pub mod hello;
pub mod scripts;
pub mod seen;
pub mod setup;
pub mod wire;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::Mempool;
use ipos_dpdk::testing;
use ipos_pipelines::counters::{Drop as DropReason, Happening, Outcome, WorkerCounters};
use ipos_pipelines::entry::{Entry, State};
use ipos_pipelines::handoff::{BOARDS_MAX, BoardId, Command, Event, Place, Receiver, Sender};
use ipos_pipelines::verdict::Verdict;
use ipos_pipelines::worker::Worker;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;

pub use client::{Client, Seg};
pub use seen::{Encapsulated, Segment};
pub use setup::Setup;
use wire::{MemoryPort, Wire};

/// The service's address and port.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const SERVICE_PORT: u16 = 80;
/// A second service, on the same port.
pub const SECOND_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// A service whose server may speak first, on the same port.
pub const SERVER_FIRST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 8);
/// A service that TLS chooses boards for, one that also refuses by name, and one that takes HTTP/2; on the same port.
pub const TLS_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
pub const STRICT_TLS_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub const H2C_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
pub const DATAGRAM_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 12);
pub const LAYER4_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 13);
/// As the first service, and each request is moved where it belongs.
pub const MOVING_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 14);
/// The port that faces the clients.
pub const WAN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xa1]);
pub const WAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The port that faces the boards.
pub const FARM_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xa2]);
pub const FARM_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Two boards.
pub const BOARD: BoardId = BoardId(3);
pub const BOARD_MAC: Mac = Mac([2, 0, 0, 0, 0xb0, 3]);
pub const OTHER_BOARD: BoardId = BoardId(7);
pub const OTHER_BOARD_MAC: Mac = Mac([2, 0, 0, 0, 0xb0, 7]);
/// An attempt.
pub const MIGRATION: u64 = 0x1122_3344_5566_7788;
/// When tests start: the first microsecond of a cookie slot.
pub const START_UNIX_US: u64 = 1_700_000_000_000_000;

thread_local! {
    /// Set while this thread is inside the worker or the control core, for whoever counts what it does there.
    pub static IN_POLL: Cell<bool> = const { Cell::new(false) };
}

/// One worker and the ends of everything that it is connected to.
pub struct Node {
    pub worker: Worker<MemoryPort>,
    pub wan: Wire,
    pub farm: Wire,
    pub events: Receiver<Event>,
    pub commands: Sender<Command>,
    pub counters: Arc<WorkerCounters>,
    pub pool: Mempool,
    pub ethertype: u16,
    pub now_us: u64,
}

impl Node {
    /// A frame in an mbuf of the rig's pool.
    pub fn mbuf(&self, frame: &[u8]) -> Mbuf {
        let mut mbuf = self.pool.alloc().expect("an mbuf for the test's frame");
        mbuf.append(frame.len()).expect("a frame that fits its mbuf").copy_from_slice(frame);
        mbuf
    }

    /// One round of the worker, now. False once it has stopped.
    pub fn poll(&mut self) -> bool {
        IN_POLL.set(true);
        let work = self.worker.poll(self.now_us);
        IN_POLL.set(false);
        assert_eq!(
            self.counters.packets_in(),
            self.counters.packets_settled(),
            "every packet has one outcome"
        );
        work.is_some()
    }

    /// Lets time pass, and the worker notice.
    pub fn pass(&mut self, ms: u64) {
        self.now_us += ms * 1000;
        self.poll();
    }

    /// The worker receives one frame on a wire; what became of it.
    fn receives(&mut self, wire: &Wire, mbuf: Mbuf) -> Verdict {
        wire.push(mbuf);
        self.changes(Node::poll).expect("an outcome")
    }

    /// The outcome of the one packet that the worker handles meanwhile, if there is one.
    fn changes(&mut self, meanwhile: impl FnOnce(&mut Self) -> bool) -> Option<Verdict> {
        let before = self.totals();
        meanwhile(self);
        let after = self.totals();
        let changed: Vec<usize> = (0..after.len()).filter(|place| after[*place] != before[*place]).collect();
        let (outcome, reason) = match changed[..] {
            [] => return None,
            [outcome] => (Outcome::ALL[outcome], None),
            [outcome, reason] => (Outcome::ALL[outcome], DropReason::ALL.get(reason - Outcome::ALL.len())),
            _ => panic!("one packet, these counters: {changed:?}"),
        };
        Some(match (outcome, reason) {
            (Outcome::Forwarded, None) => Verdict::Forwarded,
            (Outcome::Answered, None) => Verdict::Answered,
            (Outcome::Held, None) => Verdict::Held,
            (Outcome::Control, None) => Verdict::Control,
            (Outcome::Check, None) => Verdict::Check,
            (Outcome::Steered, None) => Verdict::Steered,
            (Outcome::Dropped, Some(reason)) => Verdict::Drop(*reason),
            other => panic!("one packet, this outcome: {other:?}"),
        })
    }

    /// Outcomes, then drop reasons.
    fn totals(&self) -> Vec<u64> {
        let outcomes = Outcome::ALL.iter().map(|outcome| self.counters.outcome(*outcome).read());
        outcomes.chain(DropReason::ALL.iter().map(|reason| self.counters.dropped(*reason).read())).collect()
    }

    /// The client sends a segment.
    pub fn client(&mut self, segment: &Seg) -> Verdict {
        self.on_wan(&segment.frame())
    }

    /// A frame comes in where the clients are.
    pub fn on_wan(&mut self, frame: &[u8]) -> Verdict {
        self.mbuf_on_wan(self.mbuf(frame))
    }

    /// The same, with a buffer of the test's making.
    pub fn mbuf_on_wan(&mut self, mbuf: Mbuf) -> Verdict {
        let wire = self.wan.clone();
        self.receives(&wire, mbuf)
    }

    /// A frame comes in where the boards are.
    pub fn on_farm(&mut self, frame: &[u8]) -> Verdict {
        let wire = self.farm.clone();
        self.receives(&wire, self.mbuf(frame))
    }

    /// The control core says something.
    pub fn command(&mut self, command: Command) {
        self.commands.send(command).expect("room in the queue of commands");
        self.poll();
    }

    /// All that went out to the clients, as frames.
    pub fn wan_frames(&mut self) -> Vec<Vec<u8>> {
        frames(&self.wan)
    }

    /// All that went out to the boards, as frames.
    pub fn farm_frames(&mut self) -> Vec<Vec<u8>> {
        frames(&self.farm)
    }

    /// All segments that went out to clients.
    pub fn segments_out(&mut self) -> Vec<Segment> {
        self.wan_frames().iter().map(|frame| Segment::to_client(frame)).collect()
    }

    /// All packets that went out to boards.
    pub fn packets_out(&mut self) -> Vec<Encapsulated> {
        let ethertype = self.ethertype;
        self.farm_frames().iter().map(|frame| Encapsulated::read(frame, ethertype)).collect()
    }

    /// The one segment that went out to the client.
    pub fn answer(&mut self) -> Segment {
        only(self.segments_out())
    }

    /// The one packet that went out to a board.
    pub fn forwarded(&mut self) -> Encapsulated {
        only(self.packets_out())
    }

    /// Nothing went out, and the control core was told nothing.
    #[track_caller]
    pub fn assert_silent(&mut self) {
        assert_eq!(self.wan_frames(), Vec::<Vec<u8>>::new(), "nothing to the client");
        assert_eq!(self.farm_frames(), Vec::<Vec<u8>>::new(), "nothing to the boards");
        let told = self.told();
        assert!(told.is_empty(), "nothing to the control core, but {told:?}");
    }

    /// All that the control core has been told.
    pub fn told(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.events.receive()).collect()
    }

    /// The one event that the control core has been told, a request to place.
    #[track_caller]
    pub fn placed(&mut self) -> Place {
        match only(self.told()) {
            Event::Place(place, _) => place,
            other => panic!("a request to place, not {other:?}"),
        }
    }

    /// The entry of a connection.
    pub fn entry(&self, flow: &Flow) -> Option<&Entry> {
        let shard = &self.worker.core().shard;
        shard.lookup(flow).and_then(|entry| shard.get(entry))
    }

    /// Where a connection stands.
    pub fn state(&self, flow: &Flow) -> Option<State> {
        self.entry(flow).map(|entry| entry.state)
    }

    /// How often something happened.
    pub fn happened(&self, what: Happening) -> u64 {
        self.counters.happening(what).read()
    }

    /// Every gauge says what is there.
    pub fn check(&self) {
        let core = self.worker.core();
        let mut entries = [0; 9];
        let mut by_board = std::collections::BTreeMap::new();
        let mut hanging = [0; 4];
        let mut watches = 0;
        let mut cursor = Some(0);
        while let Some(start) = cursor {
            cursor = core.shard.visit_slots(start, 1024, |_, _, entry| {
                if entry.is_open() {
                    *by_board.entry(entry.board).or_insert(0) += 1;
                }
                entries[entry.state.index()] += 1;
                let what = match entry.state {
                    State::Asking => 1,
                    State::Watched => 2,
                    State::Admitting => 3,
                    _ => 0,
                };
                hanging[what] += u32::from(entry.pending.is_some());
                let pending = entry.pending.filter(|_| what == 0).and_then(|at| core.pending.get(at));
                watches += u32::from(pending.is_some_and(|pending| pending.watch.is_some()));
            });
        }
        let mut datagram_flows = 0;
        let mut cursor = Some(0);
        while let Some(start) = cursor {
            cursor = core.datagrams.flows.visit_slots(start, 1024, |_, _, flow| {
                datagram_flows += 1;
                if let Some(board) = flow.board() {
                    *by_board.entry(board).or_insert(0) += 1;
                }
            });
        }
        assert_eq!(self.counters.datagram_flows.read(), datagram_flows, "flows of datagrams");
        let gauges: Vec<u64> = self.counters.entries.iter().map(|gauge| gauge.read()).collect();
        assert_eq!(gauges, entries, "entries by table");
        for board in (0..BOARDS_MAX as u16).map(BoardId) {
            let flows = by_board.get(&board).copied().unwrap_or(0);
            assert_eq!(core.by_board.flows(board), flows, "flows of {board:?}");
        }
        let watched = core.watches.len() - watches;
        let held = core.admitting.holding();
        let expected = [core.pending.len(), core.waiting.len(), watched, held];
        assert_eq!(hanging, expected, "what hangs on entries");
        assert_eq!(self.counters.pending.read(), u64::from(core.pending.len()), "pending");
        assert_eq!(core.assemblies.in_use(), core.pending.len(), "buffers");
        assert_eq!(
            self.counters.packets_in(),
            self.counters.packets_settled(),
            "every packet has one outcome"
        );
        let drops: u64 = DropReason::ALL.iter().map(|reason| self.counters.dropped(*reason).read()).sum();
        assert_eq!(drops, self.counters.outcome(Outcome::Dropped).read(), "every drop has one reason");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
    }
}

fn frames(wire: &Wire) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| wire.pop())
        .map(|mbuf| {
            assert!(mbuf.is_contiguous());
            mbuf.data().to_vec()
        })
        .collect()
}

/// The only element.
#[track_caller]
pub fn only<T: std::fmt::Debug>(mut all: Vec<T>) -> T {
    assert_eq!(all.len(), 1, "exactly one, not {all:?}");
    all.remove(0)
}

/// The pool that a rig's packets come from; dropped last, it misses none.
pub struct Ground(pub Mempool);

impl Drop for Ground {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            testing::assert_no_leak(&self.0);
        }
    }
}

/// One worker that owns every flow.
pub struct Rig {
    node: Node,
    _ground: Ground,
}

impl Rig {
    /// As an appliance usually is.
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    /// As the test wants it. Two boards are where [`BOARD`] and [`OTHER_BOARD`] say.
    pub fn with(setup: Setup) -> Self {
        let ground = Ground(setup.pool());
        let peers = ipos_pipelines::steer::mesh(1).remove(0);
        Self { node: setup.node(0, 1, peers, &ground.0), _ground: ground }
    }
}

/// Two workers that share the flows between them, as two receive queues of the same ports.
pub struct Pair {
    pub nodes: [Node; 2],
    _ground: Ground,
}

impl Pair {
    pub fn new() -> Self {
        let setup = Setup::default();
        let ground = Ground(setup.pool());
        let mut peers = ipos_pipelines::steer::mesh(2);
        let (second, first) = (peers.remove(1), peers.remove(0));
        let nodes = [setup.node(0, 2, first, &ground.0), setup.node(1, 2, second, &ground.0)];
        Self { nodes, _ground: ground }
    }

    /// A client's segment arrives at one worker's queue, and both do what there is to do: the outcome where it arrived,
    /// and at the owner, if that is the other.
    pub fn client(&mut self, arrives_at: usize, segment: &Seg) -> (Verdict, Option<Verdict>) {
        self.on_wan(arrives_at, &segment.frame())
    }

    /// The same with any frame.
    pub fn on_wan(&mut self, arrives_at: usize, frame: &[u8]) -> (Verdict, Option<Verdict>) {
        let first = self.nodes[arrives_at].on_wan(frame);
        let other = &mut self.nodes[1 - arrives_at];
        let second = other.changes(Node::poll);
        (first, second)
    }
}

impl Deref for Rig {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}
