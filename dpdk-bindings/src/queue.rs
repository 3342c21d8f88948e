//! The ends of a port: receive and transmit queues. One thread at a time uses a queue; it can be moved to that thread.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use dpdk_sys as sys;

use crate::burst::Burst;
use crate::port::{Open, PortId, QueueId};

/// What keeps `&Queue` from being shared between threads.
type NotSync = PhantomData<Cell<()>>;

/// One receive queue. Not `Clone`, and not `Sync`: DPDK's queues have one user each.
#[derive(Debug)]
pub struct RxQueue {
    port: Arc<Open>,
    queue: QueueId,
    not_sync: NotSync,
}

/// One transmit queue. Not `Clone`, and not `Sync`: DPDK's queues have one user each.
#[derive(Debug)]
pub struct TxQueue {
    port: Arc<Open>,
    queue: QueueId,
    not_sync: NotSync,
}

impl RxQueue {
    /// # Safety
    /// The queue is set up and started on the port, and this is its only `RxQueue`.
    pub(crate) unsafe fn new(port: Arc<Open>, queue: QueueId) -> Self {
        Self { port, queue, not_sync: PhantomData }
    }

    /// Receives into the free places of the burst, without waiting; returns how many came.
    ///
    /// Pass a burst that is empty, of 32 or more: some vector drivers receive in fours and give nothing to fewer free
    /// places than that.
    #[inline]
    pub fn receive<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        let free = burst.spare();
        if free == 0 {
            return 0;
        }
        let places = burst.spare_ptr();
        // SAFETY: the port is started as long as `self.port` lives, and nobody else polls this queue; `places` has room
        // for `free` addresses, of which the driver writes as many as it returns, and hands those mbufs over.
        unsafe {
            let received =
                sys::dpdk_sys_rte_eth_rx_burst(self.port.id().raw(), self.queue.raw(), places, free as u16);
            burst.set_filled(received.into());
            received.into()
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port.id()
    }

    /// The queue's number.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.queue
    }
}

impl TxQueue {
    /// # Safety
    /// The queue is set up and started on the port, and this is its only `TxQueue`.
    pub(crate) unsafe fn new(port: Arc<Open>, queue: QueueId) -> Self {
        Self { port, queue, not_sync: PhantomData }
    }

    /// Hands packets to the port, in order, without waiting; returns how many it took. Those leave the burst; the rest
    /// stay in it, in order, from the front.
    ///
    /// Send packets of several segments only on a port that grants [`crate::port::Offloads::tx_multi_segment`], and
    /// request checksums only as granted; make others contiguous with [`crate::mbuf::Mbuf::linearize`].
    #[inline]
    pub fn send<const N: usize>(&mut self, burst: &mut Burst<N>) -> usize {
        if burst.is_empty() {
            return 0;
        }
        let count = burst.len() as u16;
        // SAFETY: the port is started as long as `self.port` lives, and nobody else sends on this queue; the first
        // `count` addresses are mbufs that the burst owns, and the driver owns as many as it returns from then on.
        unsafe {
            let sent = sys::dpdk_sys_rte_eth_tx_burst(
                self.port.id().raw(),
                self.queue.raw(),
                burst.as_mut_ptr(),
                count,
            );
            burst.forget_front(sent.into());
            sent.into()
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port.id()
    }

    /// The queue's number.
    #[must_use]
    pub fn id(&self) -> QueueId {
        self.queue
    }
}
