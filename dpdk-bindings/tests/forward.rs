//! Packets through memory ports, on the shared test EAL: bursts, partial sends, queues moved to threads, leaks.

use ipos_dpdk::burst::Burst;
use ipos_dpdk::testing;

#[test]
fn what_is_sent_comes_back_in_order_and_every_mbuf_returns_to_its_pool() {
    testing::eal();
    let pool = testing::mempool(2047).expect("a pool");
    let (port, mut rx, mut tx) = testing::ring_port(&pool).expect("a port");
    let mut burst = Burst::<32>::new();
    for round in 0..100_u8 {
        assert_eq!(pool.alloc_burst(&mut burst), 32);
        for (mbuf, number) in burst.iter_mut().zip(0..) {
            mbuf.append(64).expect("an empty mbuf has room").fill(round.wrapping_add(number));
        }
        assert_eq!(tx.send(&mut burst), 32);
        assert!(burst.is_empty());
        assert_eq!(rx.receive(&mut burst), 32);
        for (mbuf, number) in burst.drain().zip(0..) {
            assert_eq!(mbuf.data(), [round.wrapping_add(number); 64]);
        }
        testing::assert_no_leak(&pool);
    }
    assert_eq!((port.stats().opackets, port.stats().ipackets), (3200, 3200));
}
