//! Steering: which worker owns a flow, and the queues that bring it there.
//!
//! One flow is owned by one worker (design: system.md, rules). With hardware RSS that is the worker whose queue its packets
//! arrive on; where RSS is missing or may move a flow, the owner hash decides, and packets cross here.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;

use crate::handoff::{PortIndex, Receiver, Sender, WorkerId, queue};
use crate::table::hash::{FlowHasher, FlowKey};

/// Packets that may wait between two workers.
const STEER_QUEUE: usize = 1024;

/// A packet on its way to the worker that owns its flow.
#[derive(Debug)]
pub struct Steered {
    /// Where it came in.
    pub port: PortIndex,
    /// The frame.
    pub frame: Mbuf,
}

/// One worker's ends of the queues between workers.
pub struct Peers {
    /// To the others, by number; `None` at the worker's own place.
    pub to: Vec<Option<Sender<Steered>>>,
    /// From the others.
    pub from: Vec<Receiver<Steered>>,
}

impl Peers {
    /// Hands a packet to its owner.
    ///
    /// # Errors
    /// The packet, when the queue is full or there is no such worker.
    #[inline]
    pub fn hand_over(&mut self, owner: WorkerId, steered: Steered) -> Result<(), Steered> {
        match self.to.get_mut(usize::from(owner.0)) {
            Some(Some(sender)) => sender.send(steered),
            _ => Err(steered),
        }
    }
}

/// The queues between `workers` workers: every worker's ends, by number.
pub fn mesh(workers: u8) -> Vec<Peers> {
    let count = usize::from(workers);
    let mut ends: Vec<Peers> =
        (0..count).map(|_| Peers { to: (0..count).map(|_| None).collect(), from: Vec::new() }).collect();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            let (sender, receiver) = queue(STEER_QUEUE);
            ends[from].to[to] = Some(sender);
            ends[to].from.push(receiver);
        }
    }
    ends
}

/// Names the owner of flows: the same in every worker and in the control core.
#[derive(Clone, Debug)]
pub struct Owners {
    hasher: FlowHasher,
    workers: u8,
}

impl Owners {
    /// For so many workers, with the workers' common key.
    pub fn new(workers: u8, hash_key: [u64; 2]) -> Self {
        // Another key than the shards': else all flows of a shard would share hash bits.
        Self { hasher: FlowHasher::new([hash_key[1].rotate_left(32), !hash_key[0]]), workers: workers.max(1) }
    }

    /// The worker that owns this flow.
    #[inline]
    pub fn owner(&self, flow: &Flow) -> WorkerId {
        if self.workers == 1 {
            return WorkerId(0);
        }
        let hash = self.hasher.hash(&FlowKey::from(flow));
        // Multiply and shift: even, without a division.
        WorkerId(((u128::from(hash) * u128::from(self.workers)) >> 64) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn flow(port: u16) -> Flow {
        Flow {
            client: Ipv4Addr::new(203, 0, 113, 9),
            client_port: port,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 80,
        }
    }

    #[test]
    fn flows_spread_evenly_and_never_move() {
        let owners = Owners::new(3, [7, 11]);
        let mut counts = [0u32; 3];
        for port in 0..30_000 {
            let owner = owners.owner(&flow(port));
            assert_eq!(owner, owners.clone().owner(&flow(port)));
            counts[usize::from(owner.0)] += 1;
        }
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }

    #[test]
    fn every_pair_of_workers_has_a_queue() {
        let ends = mesh(3);
        for (number, peers) in ends.iter().enumerate() {
            assert_eq!(peers.from.len(), 2);
            for (to, sender) in peers.to.iter().enumerate() {
                assert_eq!(sender.is_some(), to != number);
            }
        }
    }
}
