//! What tests of the state machines share: a farm, a clock, and a recorder in place of the queues.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BoardId, Command, Endpoint, FlowCount, Place, PortIndex, WorkerId};
use ipos_pipelines::table::slab::{EntryRef, Slab};
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;
use ipos_wire::tcb::OptionBits;

use super::boards::Boards;
use super::boards::tests::MS;
use super::context::Context;
use super::counters::ControlCounters;
use super::ids::Ids;
use super::sink::{Message, Sink, Way};

/// Keeps what is decided.
#[derive(Default)]
pub struct Recorder {
    /// Commands.
    pub told: Vec<(WorkerId, Command)>,
    /// Messages.
    pub sent: Vec<(Way, Message)>,
    /// Pages of the census, which come by time and not by what is tested.
    pub counts: Vec<(WorkerId, Box<FlowCount>)>,
}

impl Sink for Recorder {
    fn tell(&mut self, worker: WorkerId, command: Command) {
        match command {
            Command::Count(page) => self.counts.push((worker, page)),
            command => self.told.push((worker, command)),
        }
    }

    fn send(&mut self, way: Way, message: &Message) {
        self.sent.push((way, message.clone()));
    }
}

impl Recorder {
    /// The commands since the last call, as text: they hold what cannot be compared.
    pub fn commands(&mut self) -> Vec<String> {
        self.told.drain(..).map(|(worker, command)| format!("{} {command:?}", worker.0)).collect()
    }

    /// The messages since the last call.
    pub fn messages(&mut self) -> Vec<(PortIndex, [u8; 6], Message)> {
        self.sent.drain(..).map(|(way, message)| (way.port, way.to.0, message)).collect()
    }
}

/// Everything that a state machine is lent.
pub struct World {
    /// The boards.
    pub boards: Boards,
    /// What was counted.
    pub counters: ControlCounters,
    /// What was decided.
    pub out: Recorder,
    ids: Ids,
    entries: Slab<u32>,
}

impl World {
    /// A farm; ids have epoch 5.
    pub fn new(boards: Boards) -> Self {
        Self {
            boards,
            counters: ControlCounters::default(),
            out: Recorder::default(),
            ids: Ids::new(5),
            entries: Slab::new(64).expect("memory for 64 entries"),
        }
    }

    /// Lent at a time.
    pub fn at(&mut self, at_ms: u64) -> Context<'_> {
        Context {
            now_ns: at_ms * MS,
            boards: &mut self.boards,
            counters: &mut self.counters,
            ids: &mut self.ids,
            sink: &mut self.out,
        }
    }

    /// A reference to an entry that no other is equal to.
    pub fn entry(&mut self) -> EntryRef {
        self.entries.insert(0).expect("fewer than 64 entries")
    }

    /// A request of a new entry, for boards of pool 0.
    pub fn request(&mut self, client_port: u16) -> Place {
        let entry = self.entry();
        let endpoint = Endpoint {
            established_at_us: 1,
            iss: Seq(2),
            irs: Seq(3),
            snd_wnd: 4,
            ts_recent: 5,
            last_tsval: 6,
            octets_following: 7,
            options: OptionBits(8),
            client_mss: 9,
            our_mss: 10,
            client_window_scale: 11,
            our_window_scale: 12,
        };
        Place { entry, flow: flow(client_port), service: 0, pool: 0, endpoint }
    }
}

/// A connection to the service.
pub fn flow(client_port: u16) -> Flow {
    Flow {
        client: Ipv4Addr::new(203, 0, 113, 7),
        client_port,
        endpoint: Ipv4Addr::new(198, 51, 100, 1),
        endpoint_port: 80,
    }
}

/// The id of the n-th attempt or question of worker 2.
pub fn id(number: u64) -> u64 {
    0x0005_0200_0000_0000 | number
}

/// The worker of the tests.
pub const WORKER: WorkerId = WorkerId(2);

/// A board by number.
pub fn board(number: u16) -> BoardId {
    BoardId(number)
}
