//! Packets through memory ports, on the shared test EAL: bursts, partial sends, exhaustion, queues on lcores, leaks.

use ipos_dpdk::burst::Burst;
use ipos_dpdk::lcore::{self, LcoreError};
use ipos_dpdk::mempool::{CACHE_MAX, DATA_ROOM_OCTETS, Mempool, MempoolError};
use ipos_dpdk::port::{Port, PortConfig, PortError};
use ipos_dpdk::testing;

/// What fits a net_ring: a ring of 1024, one place of which stays free.
const RING_PACKETS: usize = 1023;

#[test]
fn what_is_sent_comes_back_in_order_and_every_mbuf_returns_to_its_pool() {
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

#[test]
fn a_full_port_takes_what_it_can_and_the_rest_stays_in_order_at_the_front() {
    let pool = testing::mempool(2047).expect("a pool");
    let (_port, mut rx, mut tx) = testing::ring_port(&pool).expect("a port");
    let mut burst = Burst::<2000>::new();
    assert_eq!(pool.alloc_burst(&mut burst), 2000);
    for (mbuf, number) in burst.iter_mut().zip(0_u32..) {
        mbuf.append(4).expect("room").copy_from_slice(&number.to_be_bytes());
    }
    assert_eq!(tx.send(&mut burst), RING_PACKETS);
    assert_eq!(burst.len(), 2000 - RING_PACKETS);
    let left = (RING_PACKETS as u32..2000).map(u32::to_be_bytes);
    assert!(burst.iter().zip(left).all(|(mbuf, number)| mbuf.data() == number));
    assert_eq!(tx.send(&mut burst), 0, "the port is full");
    assert_eq!(burst.len(), 2000 - RING_PACKETS);
    let mut back = Burst::<64>::new();
    let mut next = 0_u32;
    for _ in 0..2000 {
        rx.receive(&mut back);
        for mbuf in back.drain() {
            assert_eq!(mbuf.data(), next.to_be_bytes());
            next += 1;
        }
        tx.send(&mut burst);
    }
    assert_eq!(next, 2000);
    assert!(burst.is_empty());
    testing::assert_no_leak(&pool);
}

#[test]
fn receiving_fills_only_the_free_places() {
    let pool = testing::mempool(255).expect("a pool");
    let (_port, mut rx, mut tx) = testing::ring_port(&pool).expect("a port");
    let mut burst = Burst::<8>::new();
    assert_eq!(pool.alloc_burst(&mut burst), 8);
    assert_eq!(tx.send(&mut burst), 8);
    burst.push(pool.alloc().expect("an mbuf")).expect("room");
    burst.as_mut_slice()[0].append(3).expect("room").copy_from_slice(b"own");
    assert_eq!(rx.receive(&mut burst), 7);
    assert!(burst.is_full());
    assert_eq!(burst.as_slice()[0].data(), b"own");
    assert_eq!(rx.receive(&mut burst), 0);
    burst.clear();
    assert_eq!(rx.receive(&mut burst), 1);
    drop(burst);
    testing::assert_no_leak(&pool);
}

#[test]
fn bursts_refuse_what_does_not_fit_and_free_what_they_hold() {
    let pool = testing::mempool(15).expect("a pool");
    let mut burst = Burst::<2>::new();
    assert!(burst.push(pool.alloc().expect("an mbuf")).is_ok());
    assert!(burst.push(pool.alloc().expect("an mbuf")).is_ok());
    let refused = burst.push(pool.alloc().expect("an mbuf")).expect_err("the burst is full");
    assert_eq!((burst.len(), burst.spare(), pool.in_use()), (2, 0, 3));
    drop(refused);
    assert_eq!(pool.in_use(), 2);
    let first = burst.drain().next();
    assert_eq!(pool.in_use(), 1, "a dropped drain frees what it has not given out");
    assert!(burst.is_empty());
    burst.push(first.expect("the first")).expect("room");
    drop(burst);
    testing::assert_no_leak(&pool);
}

#[test]
fn an_exhausted_pool_gives_nothing_until_an_mbuf_is_dropped() {
    let pool = testing::mempool(31).expect("a pool");
    let mut held: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!((held.len(), pool.available(), pool.in_use()), (31, 0, 31));
    assert_eq!(pool.alloc_burst(&mut Burst::<4>::new()), 0);
    held.truncate(28);
    assert_eq!(pool.alloc_burst(&mut Burst::<4>::new()), 0, "three are free: four are all or nothing");
    assert_eq!((pool.available(), pool.in_use()), (3, 28));
    assert!(pool.alloc().is_some());
    held.clear();
    testing::assert_no_leak(&pool);
}

#[test]
fn mbufs_may_outlive_the_last_handle_of_their_pool() {
    let pool = testing::mempool(31).expect("a pool");
    let name = pool.name().to_owned();
    let mut mbuf = pool.alloc().expect("an mbuf");
    drop(pool);
    mbuf.append(5).expect("room").copy_from_slice(b"alive");
    assert_eq!(mbuf.data(), b"alive");
    let again = Mempool::new(&name, 31, 0, DATA_ROOM_OCTETS, None);
    assert!(matches!(again, Err(MempoolError::Exists { .. })), "{again:?}: the pool is still there");
}

#[test]
fn a_pool_is_given_back_with_its_last_handle() {
    testing::eal();
    let pool = Mempool::new("reused", 31, 0, DATA_ROOM_OCTETS, None).expect("a pool");
    let other = pool.clone();
    drop(pool);
    drop(other.alloc().expect("the other handle keeps it"));
    drop(other);
    let again = Mempool::new("reused", 31, 0, DATA_ROOM_OCTETS, None).expect("the name is free again");
    assert_eq!(again.available(), 31);
}

#[test]
fn pools_that_cannot_be_are_refused_with_the_cause() {
    testing::eal();
    let error = |name: &str, count, cache, room| {
        Mempool::new(name, count, cache, room, None).expect_err("it cannot be").to_string()
    };
    assert!(error("", 31, 0, DATA_ROOM_OCTETS).contains("1 to 25 octets"));
    assert!(error(&"x".repeat(26), 31, 0, DATA_ROOM_OCTETS).contains("1 to 25 octets"));
    assert!(error("a\0b", 31, 0, DATA_ROOM_OCTETS).contains("no zero octet"));
    assert!(error("cache", 1 << 14, CACHE_MAX + 1, DATA_ROOM_OCTETS).contains("513 mbufs"));
    assert!(error("cache", 63, 63, DATA_ROOM_OCTETS).contains("cache * 1.5 <= count (63)"));
    assert!(error("room", 31, 0, 128).contains("headroom of 128"));
    let longest = "x".repeat(25);
    assert_eq!(Mempool::new(&longest, 31, 0, DATA_ROOM_OCTETS, None).expect("a pool").name(), longest);
}

#[test]
fn ports_have_one_owner_and_their_queues_keep_them_open() {
    let pool = testing::mempool(255).expect("a pool");
    let (port, mut rx, mut tx) = testing::ring_port(&pool).expect("a port");
    let (id, name) = (port.id(), port.name().to_owned());
    let again = Port::start(id, &PortConfig::default(), std::slice::from_ref(&pool));
    assert!(matches!(again, Err(PortError::AlreadyStarted { .. })), "{again:?}");
    drop(port);
    let mut burst = Burst::<8>::new();
    pool.alloc_burst(&mut burst);
    assert_eq!(tx.send(&mut burst), 8);
    drop(tx);
    assert_eq!(rx.receive(&mut burst), 8);
    assert_eq!(Port::find(&name).expect("it is open"), id);
    drop(rx);
    let error = Port::find(&name).expect_err("closed with its last handle").to_string();
    assert!(error.contains(&format!("no port {name:?}")), "{error}");
}

#[test]
fn a_port_is_asked_for_what_it_has_and_refuses_the_rest_by_name() {
    let pool = testing::mempool(255).expect("a pool");
    let pools = std::slice::from_ref(&pool);
    let id = Port::attach("net_null_limits").expect("a port");
    let start = |config: PortConfig, pools: &[Mempool]| {
        Port::start(id, &config, pools).expect_err("it cannot be").to_string()
    };
    let error = start(PortConfig { rx_queues: 2000, ..PortConfig::default() }, pools);
    assert!(error.contains("net_null_limits has at most 1024 receive queues, 2000 are wanted"), "{error}");
    let error = start(PortConfig { tx_queues: 2000, ..PortConfig::default() }, pools);
    assert!(error.contains("at most 1024 transmit queues"), "{error}");
    let error = start(PortConfig { tx_queues: 0, ..PortConfig::default() }, pools);
    assert!(error.contains("at least one"), "{error}");
    let error = start(PortConfig { rx_queues: 3, ..PortConfig::default() }, &[pool.clone(), pool.clone()]);
    assert!(error.contains("2 mempools for 3 receive queues"), "{error}");
    let error = start(PortConfig { mtu: Some(20), ..PortConfig::default() }, pools);
    assert!(error.contains("MTU 20 is not within 46 to"), "{error}");
    let error = start(PortConfig { mtu: Some(9000), ..PortConfig::default() }, pools);
    assert!(error.contains("a data room of 9154 octets"), "{error}");
    let config = PortConfig { rx_queues: 2, tx_queues: 2, checksum_offloads: true, ..PortConfig::default() };
    let (port, rx, tx) = Port::start(id, &config, pools).expect("after errors it can be started");
    assert_eq!((rx.len(), tx.len()), (2, 2));
    assert_eq!(rx[1].id().raw(), 1);
    assert!(
        !port.offloads().rx_tcp_checksum && !port.offloads().tx_tcp_checksum,
        "net_null has no checksums"
    );
    assert!(port.link().up);
}

#[test]
fn queues_work_on_the_lcore_that_they_are_moved_to() {
    testing::eal();
    let pool = Mempool::new("lcore-forward", 1023, 64, DATA_ROOM_OCTETS, None).expect("a pool");
    let (port, mut rx, mut tx) = testing::ring_port(&pool).expect("a port");
    let mut burst = Burst::<32>::new();
    pool.alloc_burst(&mut burst);
    assert_eq!(tx.send(&mut burst), 32);
    let worker = *lcore::workers().last().expect("a worker");
    let job = lcore::launch(worker, move || {
        let mut burst = Burst::<32>::new();
        let mut forwarded = 0;
        while forwarded < 32_000 {
            rx.receive(&mut burst);
            forwarded += tx.send(&mut burst);
        }
        (lcore::current(), forwarded, rx)
    });
    let (ran_on, forwarded, mut rx) = job.expect("a launch").join().expect("a result");
    assert_eq!((ran_on, forwarded), (Some(worker), 32_000));
    assert_eq!(port.stats().opackets, 32_032);
    assert_eq!(rx.receive(&mut burst), 32);
    drop(burst);
    testing::assert_no_leak(&pool);
}

#[test]
fn launching_elsewhere_than_on_a_worker_is_refused() {
    testing::eal();
    let main = lcore::main().expect("the main lcore");
    let error = lcore::launch(main, || ()).expect_err("the main lcore is no worker");
    assert!(matches!(error, LcoreError::NotAWorker { .. }));
    assert!(error.to_string().contains("the workers are 1, 2, 3"), "{error}");
}
