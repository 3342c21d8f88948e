//! A port in memory: a scripted wire, with a queue of frames each way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use ipos_dpdk::burst::Burst;
use ipos_dpdk::mbuf::Mbuf;
use ipos_pipelines::io::{PortIo, RX_BURST, TX_BURST};

/// Frames that a wire holds each way without allocating.
const LONGEST: usize = 4096;

/// The test's end of a wire.
#[derive(Clone)]
pub struct Wire(Rc<RefCell<Queues>>);

struct Queues {
    to_worker: VecDeque<Mbuf>,
    from_worker: VecDeque<Mbuf>,
    /// What the port did not take, on its way back into the burst.
    refused: VecDeque<Mbuf>,
    /// Frames that the port takes before it is full.
    room: usize,
}

/// The worker's end of a wire.
pub struct MemoryPort(Wire);

impl Wire {
    pub fn new() -> Self {
        let queue = || VecDeque::with_capacity(LONGEST);
        let (to_worker, from_worker, refused) = (queue(), queue(), queue());
        Self(Rc::new(RefCell::new(Queues { to_worker, from_worker, refused, room: usize::MAX })))
    }

    /// The end that the worker polls.
    pub fn port(&self) -> MemoryPort {
        MemoryPort(self.clone())
    }

    /// Puts a frame on the wire towards the worker.
    pub fn push(&self, mbuf: Mbuf) {
        self.0.borrow_mut().to_worker.push_back(mbuf);
    }

    /// Frames that the worker has not received yet.
    pub fn waiting(&self) -> usize {
        self.0.borrow().to_worker.len()
    }

    /// Takes the oldest frame that the worker sent.
    pub fn pop(&self) -> Option<Mbuf> {
        self.0.borrow_mut().from_worker.pop_front()
    }

    /// From now on the port takes only so many frames more.
    pub fn set_room(&self, room: usize) {
        self.0.borrow_mut().room = room;
    }
}

impl PortIo for MemoryPort {
    fn receive(&mut self, burst: &mut Burst<RX_BURST>) -> usize {
        let mut queues = self.0.0.borrow_mut();
        let before = burst.len();
        while !burst.is_full() {
            let Some(mbuf) = queues.to_worker.pop_front() else { break };
            burst.push(mbuf).expect("a place in a burst that is not full");
        }
        burst.len() - before
    }

    fn send(&mut self, burst: &mut Burst<TX_BURST>) -> usize {
        let mut queues = self.0.0.borrow_mut();
        let Queues { from_worker, refused, room, .. } = &mut *queues;
        let before = burst.len();
        for mbuf in burst.drain() {
            if *room > 0 {
                *room -= 1;
                from_worker.push_back(mbuf);
            } else {
                refused.push_back(mbuf);
            }
        }
        for mbuf in refused.drain(..) {
            burst.push(mbuf).expect("the place that it had");
        }
        before - burst.len()
    }
}
