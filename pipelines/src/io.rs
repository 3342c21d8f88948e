//! A port as a worker polls it: one receive and one transmit queue.
//!
//! DPDK queues in the appliance; memory in packet-level tests.

use ipos_dpdk::burst::Burst;
use ipos_dpdk::queue::{RxQueue, TxQueue};

/// Packets received per call.
pub const RX_BURST: usize = 32;

/// Packets that may wait for transmission on one port until the end of a poll.
pub const TX_BURST: usize = 1024;

/// What a worker needs of a port.
pub trait PortIo {
    /// Receives up to [`RX_BURST`] packets; returns how many came.
    fn receive(&mut self, burst: &mut Burst<RX_BURST>) -> usize;

    /// Sends what it can from the front of the burst; the rest stays, in order. Returns how many went.
    fn send(&mut self, burst: &mut Burst<TX_BURST>) -> usize;
}

/// The queues of a DPDK port that belong to one worker. A worker that has no receive queue on a port (the port has fewer
/// queues than there are workers) gets its packets from the worker that has.
pub struct QueuePair {
    /// Where packets come from.
    pub rx: Option<RxQueue>,
    /// Where packets go.
    pub tx: TxQueue,
}

impl PortIo for QueuePair {
    #[inline]
    fn receive(&mut self, burst: &mut Burst<RX_BURST>) -> usize {
        self.rx.as_mut().map_or(0, |rx| rx.receive(burst))
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<TX_BURST>) -> usize {
        self.tx.send(burst)
    }
}
