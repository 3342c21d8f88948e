//! One port as the generator uses it: one queue each way, a pool, and a burst that fills up until it is flushed.

use ipos_dpdk::burst::Burst;
use ipos_dpdk::mempool::Mempool;
use ipos_dpdk::port::Port;
use ipos_dpdk::queue::{RxQueue, TxQueue};
use ipos_wire::mac::Mac;
use serde::Serialize;

/// Packets taken from the port at once.
pub const RX_BURST: usize = 64;

/// Packets that wait for the port at most.
const OUT: usize = 512;

/// Octets of the shortest frame without its check sequence (IEEE 802.3 section 3.2.8): memory ports do not pad.
const SHORTEST_FRAME: usize = 60;

/// Places kept free for answers, so that scheduled packets cannot crowd them out.
const FOR_ANSWERS: usize = 256;

/// What a port carried, as the generator saw it; octets without frame check sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LaneCounters {
    /// Packets that the port took.
    pub sent_packets: u64,
    /// Octets that the port took.
    pub sent_octets: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Octets received.
    pub received_octets: u64,
    /// Packets dropped here, because the port took none for too long.
    pub send_failed: u64,
    /// Packets not made, because no buffer was left.
    pub no_mbuf: u64,
}

/// A started port with its queues.
#[derive(Debug)]
pub struct Lane {
    port: Port,
    rx: RxQueue,
    tx: TxQueue,
    pool: Mempool,
    out: Burst<OUT>,
    mac: Mac,
    counters: LaneCounters,
}

impl Lane {
    /// Takes a port over. A port without a MAC address is given a local one.
    #[must_use]
    pub fn new(port: Port, rx: RxQueue, tx: TxQueue, pool: Mempool) -> Self {
        let mac = match Mac(port.mac()) {
            Mac([0, 0, 0, 0, 0, 0]) => Mac([2, 0, 0, 0, 0xc1, port.id().raw() as u8]),
            mac => mac,
        };
        Self { port, rx, tx, pool, out: Burst::new(), mac, counters: LaneCounters::default() }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> &Port {
        &self.port
    }

    /// The address that frames come from.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// What it carried so far.
    #[must_use]
    pub fn counters(&self) -> LaneCounters {
        self.counters
    }

    /// Whether there is room for another scheduled packet. Answers may go on when there is none.
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.out.spare() > FOR_ANSWERS
    }

    /// Has `write` fill a frame of `octets`, and puts it into the outgoing burst. Whether that worked; failures are
    /// counted.
    #[inline]
    pub fn send(&mut self, octets: usize, write: impl FnOnce(&mut [u8])) -> bool {
        if self.out.is_full() {
            self.flush();
        }
        if self.out.is_full() {
            self.counters.send_failed += 1;
            return false;
        }
        let Some(mut mbuf) = self.pool.alloc() else {
            self.counters.no_mbuf += 1;
            return false;
        };
        let Some(frame) = mbuf.append(octets.max(SHORTEST_FRAME)) else {
            self.counters.no_mbuf += 1;
            return false;
        };
        let (frame, padding) = frame.split_at_mut(octets);
        write(frame);
        padding.fill(0);
        self.out.push(mbuf).is_ok()
    }

    /// Hands the port what waits; what it does not take waits on.
    #[inline]
    pub fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let octets = |burst: &Burst<OUT>| burst.iter().map(|mbuf| mbuf.len() as u64).sum::<u64>();
        let before = octets(&self.out);
        let sent = self.tx.send(&mut self.out);
        self.counters.sent_packets += sent as u64;
        self.counters.sent_octets += before - octets(&self.out);
    }

    /// Receives, without waiting.
    #[inline]
    pub fn receive(&mut self) -> Burst<RX_BURST> {
        let mut burst = Burst::new();
        let received = self.rx.receive(&mut burst);
        self.counters.received_packets += received as u64;
        self.counters.received_octets += burst.iter().map(|mbuf| mbuf.len() as u64).sum::<u64>();
        burst
    }
}

/// A lane for tests: a memory port that receives what it sends.
#[cfg(test)]
pub(crate) mod testing {
    use super::Lane;

    /// A new one.
    pub(crate) fn lane() -> Lane {
        let pool = ipos_dpdk::testing::mempool(2047).expect("mbufs for a test");
        let (port, rx, tx) = ipos_dpdk::testing::ring_port(&pool).expect("a memory port");
        Lane::new(port, rx, tx, pool)
    }

    /// What a lane has sent, as frames.
    pub(crate) fn sent(lane: &mut Lane) -> Vec<Vec<u8>> {
        lane.flush();
        lane.receive().iter().map(|mbuf| mbuf.data().to_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{lane, sent};
    use super::*;

    #[test]
    fn short_frames_are_padded_with_zeros_and_all_are_counted() {
        let mut lane = lane();
        for _ in 0..2 {
            // The second time the buffer is not fresh.
            assert!(lane.send(20, |frame| frame.fill(0xa5)));
            assert_eq!(sent(&mut lane), [[&[0xa5; 20][..], &[0; 40]].concat()]);
        }
        let counters = lane.counters();
        assert_eq!((counters.sent_packets, counters.sent_octets), (2, 120));
        assert_eq!((counters.received_packets, counters.received_octets), (2, 120));
    }

    #[test]
    fn what_the_port_does_not_take_waits_until_there_is_no_room_and_is_counted_then() {
        let mut lane = lane();
        // The ring holds 1023; nobody takes anything out.
        let sent = (0..2000).take_while(|_| lane.send(60, |frame| frame.fill(0))).count();
        assert_eq!(sent, 1023 + OUT);
        assert_eq!((lane.counters().send_failed, lane.counters().no_mbuf), (1, 0));
        assert!(!lane.has_room());
        while !lane.receive().is_empty() {
            lane.flush();
        }
        assert_eq!(lane.counters().sent_packets, sent as u64);
        assert!(lane.has_room());
    }
}
