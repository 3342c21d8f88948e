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

use super::emit::{self, FRAME_MAX};
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
    /// The queues are by worker, and hold `capacity` commands each.
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
            backlog: VecDeque::new(),
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

    fn transmit(&mut self, worker: WorkerId, way: Way, frame: &[u8]) {
        let Some(lane) = self.lanes.get_mut(usize::from(worker.0)) else { return };
        let Some(mut mbuf) = self.mempool.alloc() else {
            self.no_mbuf += 1;
            return;
        };
        let Some(room) = mbuf.append(frame.len()) else {
            self.no_mbuf += 1;
            return;
        };
        room.copy_from_slice(frame);
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
        if lane.backlog.len() >= BACKLOG_MAX && matches!(command, Command::Closed { .. }) {
            self.notices_dropped += 1;
            return;
        }
        lane.backlog.push_back(command);
    }

    fn send(&mut self, way: Way, message: &Message) {
        let Some(port) = self.ports.get(usize::from(way.port.0)) else { return };
        let from = emit::Sender { mac: port.mac, address: port.address, ethertype: self.ethertype };
        let mut frame = [0; FRAME_MAX];
        let len = emit::emit(from, way.to, message, &mut frame);
        let worker = match message {
            Message::Connection { flow, .. }
            | Message::Detach { flow, .. }
            | Message::Question { flow, .. } => self.owners.owner(flow),
            Message::WhoHas(_) => WorkerId(0),
        };
        if let Some(frame) = frame.get(..len) {
            self.transmit(worker, way, frame);
        }
    }
}
