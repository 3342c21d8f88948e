//! A port in memory: the worker at one end, a script at the other.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ipos_dpdk::burst::Burst;
use ipos_dpdk::mbuf::Mbuf;
use ipos_pipelines::io::{PortIo, RX_BURST, TX_BURST};

/// Frames that a wire holds each way without allocating.
const LONGEST: usize = 4096;

/// The script's end.
#[derive(Clone)]
pub struct Wire(Rc<RefCell<Queues>>);

struct Queues {
    to_worker: VecDeque<Mbuf>,
    from_worker: VecDeque<Mbuf>,
}

/// The worker's end.
pub struct MemoryPort(Wire);

impl Wire {
    /// An empty one.
    pub fn new() -> Self {
        let queue = || VecDeque::with_capacity(LONGEST);
        Self(Rc::new(RefCell::new(Queues { to_worker: queue(), from_worker: queue() })))
    }

    /// The end that the worker polls.
    pub fn port(&self) -> MemoryPort {
        MemoryPort(self.clone())
    }

    /// Puts a frame on the wire towards the worker.
    pub fn push(&self, frame: Mbuf) {
        self.0.borrow_mut().to_worker.push_back(frame);
    }

    /// Frames that the worker has sent and nobody has taken.
    pub fn sent(&self) -> usize {
        self.0.borrow().from_worker.len()
    }

    /// Takes the oldest of them.
    pub fn pop(&self) -> Option<Mbuf> {
        self.0.borrow_mut().from_worker.pop_front()
    }
}

impl PortIo for MemoryPort {
    fn receive(&mut self, burst: &mut Burst<RX_BURST>) -> usize {
        let mut queues = self.0.0.borrow_mut();
        let before = burst.len();
        while !burst.is_full()
            && let Some(frame) = queues.to_worker.pop_front()
        {
            // There is room: the burst is not full.
            let _ = burst.push(frame);
        }
        burst.len() - before
    }

    fn send(&mut self, burst: &mut Burst<TX_BURST>) -> usize {
        let count = burst.len();
        self.0.0.borrow_mut().from_worker.extend(burst.drain());
        count
    }
}
