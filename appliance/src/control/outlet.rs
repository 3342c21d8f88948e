//! The way out: commands into the workers' queues, messages into packet buffers.
//!
//! A queue that is full is never waited on. What an entry waits for goes to a backlog that is tried again at the next turn;
//! it is bounded because each entry waits for one verdict at most, and while it is long no further events are taken.
//! Frames are dropped instead, and counted: their senders repeat them.

use std::collections::VecDeque;

use ipos_dpdk::mempool::Mempool;
use ipos_pipelines::config::PortSettings;
use ipos_pipelines::handoff::{Command, Sender as QueueSender, WorkerId};
use ipos_pipelines::steer::Owners;

use super::emit;
use super::sink::{Message, Sink, Way};

/// Commands in a backlog from which on no further events are taken of that worker.
const BACKLOG_HIGH: usize = 1024;

/// Notices (0x07) in a backlog from which on further ones are dropped: the entry expires by itself.
const BACKLOG_MAX: usize = 65_536;

/// Everything that leaves the control core.
pub struct Outlet {
    lanes: Vec<Lane>,
    ports: Vec<PortSettings>,
    ethertype: u16,
    owners: Owners,
    mempool: Mempool,
    /// Frames that found no packet buffer.
    pub no_mbuf: u64,
    /// Frames that found a worker's queue full.
    pub frames_dropped: u64,
    /// Notices that found even the backlog full.
    pub notices_dropped: u64,
}

struct Lane {
    queue: QueueSender<Command>,
    capacity: usize,
    backlog: VecDeque<Command>,
    overflows: u64,
}

impl Outlet {
    /// The queues are by worker, and empty.
    pub fn new(
        queues: Vec<QueueSender<Command>>,
        ports: Vec<PortSettings>,
        ethertype: u16,
        owners: Owners,
        mempool: Mempool,
    ) -> Self {
        let lane = |queue: QueueSender<Command>| Lane {
            capacity: queue.room(),
            queue,
            backlog: VecDeque::with_capacity(BACKLOG_MAX + 2 * BACKLOG_HIGH),
            overflows: 0,
        };
        Self {
            lanes: queues.into_iter().map(lane).collect(),
            ports,
            ethertype,
            owners,
            mempool,
            no_mbuf: 0,
            frames_dropped: 0,
            notices_dropped: 0,
        }
    }

    /// Tries the backlogs again.
    pub fn flush(&mut self) {
        for lane in &mut self.lanes {
            while let Some(command) = lane.backlog.pop_front() {
                if let Err(command) = lane.queue.send(command) {
                    lane.backlog.push_front(command);
                    break;
                }
            }
        }
    }

    /// Whether a worker takes commands fast enough for its events to be taken.
    pub fn is_open(&self, worker: WorkerId) -> bool {
        self.lanes.get(usize::from(worker.0)).is_some_and(|lane| lane.backlog.len() < BACKLOG_HIGH)
    }

    /// Commands that wait in a worker's queue, in its backlog, and how often the queue was full.
    pub fn lane(&self, worker: WorkerId) -> (usize, usize, u64) {
        self.lanes.get(usize::from(worker.0)).map_or((0, 0, 0), |lane| {
            (lane.capacity.saturating_sub(lane.queue.room()), lane.backlog.len(), lane.overflows)
        })
    }

    fn transmit(&mut self, worker: WorkerId, way: Way, from: emit::Sender, message: &Message) {
        let Some(lane) = self.lanes.get_mut(usize::from(worker.0)) else { return };
        let Some(mut mbuf) = self.mempool.alloc() else {
            self.no_mbuf += 1;
            return;
        };
        let Some(room) = mbuf.append(emit::frame_len(message)) else {
            self.no_mbuf += 1;
            return;
        };
        emit::emit(from, way.to, message, room);
        // Behind a backlog a frame would be late, and its sender repeats it anyway.
        if !lane.backlog.is_empty()
            || lane.queue.send(Command::Transmit { port: way.port, frame: mbuf }).is_err()
        {
            lane.overflows += 1;
            self.frames_dropped += 1;
        }
    }
}

impl Sink for Outlet {
    fn tell(&mut self, worker: WorkerId, command: Command) {
        let Some(lane) = self.lanes.get_mut(usize::from(worker.0)) else { return };
        let command = if lane.backlog.is_empty() {
            match lane.queue.send(command) {
                Ok(()) => return,
                Err(command) => {
                    lane.overflows += 1;
                    command
                }
            }
        } else {
            command
        };
        if lane.backlog.len() >= BACKLOG_MAX
            && matches!(command, Command::Closed { .. } | Command::Left { .. })
        {
            self.notices_dropped += 1;
            return;
        }
        lane.backlog.push_back(command);
    }

    fn send(&mut self, way: Way, message: &Message) {
        let Some(port) = self.ports.get(usize::from(way.port.0)) else { return };
        let from = emit::Sender { mac: port.mac, address: port.address, ethertype: self.ethertype };
        let worker = match message {
            Message::Connection { flow, .. }
            | Message::UdpConnection { flow, .. }
            | Message::Detach { flow, .. }
            | Message::GiveUp { flow, .. }
            | Message::Question { flow, .. }
            | Message::Segment { flow, .. } => self.owners.owner(flow),
            Message::CloseIdle { .. } | Message::Order { .. } | Message::WhoHas(_) => WorkerId(0),
        };
        self.transmit(worker, way, from, message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{board, flow};
    use super::*;
    use ipos_dpdk::testing::{assert_no_leak, mempool};
    use ipos_pipelines::config::Role;
    use ipos_pipelines::handoff::{self, PortIndex, Receiver};
    use ipos_wire::mac::Mac;

    const WAY: Way = Way { port: PortIndex(0), to: Mac([2, 0, 0, 0, 0, 9]) };

    fn outlet(capacity: usize, mempool: &Mempool) -> (Outlet, Receiver<Command>) {
        let (tx, rx) = handoff::queue(capacity);
        let port = PortSettings {
            index: PortIndex(0),
            role: Role::Farm,
            mac: Mac([2, 0, 0, 0, 1, 0]),
            address: [192, 0, 2, 2].into(),
        };
        (Outlet::new(vec![tx], vec![port], 0x88b5, Owners::new(1, [1, 2]), mempool.clone()), rx)
    }

    fn notice(n: u16) -> Command {
        Command::Closed { flow: flow(n), board: board(0), migration_id: 1 }
    }

    fn ports(rx: &mut Receiver<Command>) -> Vec<u16> {
        std::iter::from_fn(|| rx.receive())
            .filter_map(|command| match command {
                Command::Closed { flow, .. } => Some(flow.client_port),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn commands_to_a_full_queue_wait_and_arrive_in_order() {
        let pool = mempool(15).expect("buffers");
        let (mut outlet, mut rx) = outlet(2, &pool);
        (1..=5).for_each(|n| outlet.tell(WorkerId(0), notice(n)));
        assert_eq!(outlet.lane(WorkerId(0)), (2, 3, 1), "waiting, backlog, once full");
        assert_eq!(ports(&mut rx), [1, 2]);
        outlet.tell(WorkerId(0), notice(6));
        outlet.flush();
        assert_eq!(ports(&mut rx), [3, 4]);
        outlet.flush();
        assert_eq!((ports(&mut rx), outlet.lane(WorkerId(0)).1), (vec![5, 6], 0));
    }

    #[test]
    fn a_long_backlog_closes_the_door_to_events_and_a_flush_opens_it() {
        let pool = mempool(15).expect("buffers");
        let (mut outlet, mut rx) = outlet(1, &pool);
        for n in 0..=BACKLOG_HIGH {
            outlet.tell(WorkerId(0), notice(n as u16));
        }
        assert!(!outlet.is_open(WorkerId(0)));
        ports(&mut rx);
        outlet.flush();
        assert!(outlet.is_open(WorkerId(0)));
        assert!(!outlet.is_open(WorkerId(1)), "there is no such worker");
    }

    #[test]
    fn frames_are_dropped_and_counted_where_commands_wait() {
        let pool = mempool(15).expect("buffers");
        let (mut outlet, mut rx) = outlet(1, &pool);
        let question = Message::Question { flow: flow(1), id: 7 };
        (0..2).for_each(|_| outlet.send(WAY, &question));
        assert_eq!((outlet.frames_dropped, outlet.lane(WorkerId(0))), (1, (1, 0, 1)));
        let Some(Command::Transmit { port, frame }) = rx.receive() else { panic!("a frame") };
        assert_eq!((port, frame.len(), &frame.data()[..6]), (PortIndex(0), 60, &WAY.to.0[..]));
        drop(frame);
        assert_no_leak(&pool);
    }

    #[test]
    fn a_frame_without_a_buffer_is_counted() {
        let pool = mempool(1).expect("a buffer");
        let taken = pool.alloc().expect("the only one");
        let (mut outlet, mut rx) = outlet(4, &pool);
        outlet.send(WAY, &Message::WhoHas([192, 0, 2, 11].into()));
        assert_eq!((outlet.no_mbuf, rx.receive().is_none()), (1, true));
        drop(taken);
    }
}
