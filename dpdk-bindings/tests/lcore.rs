//! Jobs on lcores, registered threads, and the clock. On the shared test EAL; each test has a worker of its own.

use std::sync::mpsc;

use ipos_dpdk::clock::Tsc;
use ipos_dpdk::lcore::{self, LcoreError, LcoreId};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::testing;

fn worker(place: usize) -> LcoreId {
    testing::eal();
    let workers = lcore::workers();
    assert_eq!(workers, [1, 2, 3].map(LcoreId::new));
    workers[place]
}

#[test]
fn a_job_runs_on_its_lcore_and_gives_its_result() {
    let lcore = worker(0);
    for round in 0..100_u64 {
        let job = lcore::launch(lcore, move || (lcore::current(), round * 2)).expect("an idle lcore");
        assert_eq!(job.join().expect("a result"), (Some(lcore), round * 2));
    }
}

#[test]
fn an_lcore_has_one_job_at_a_time() {
    let lcore = worker(1);
    let (go, wait) = mpsc::channel::<u32>();
    let job = lcore::launch(lcore, move || wait.recv()).expect("an idle lcore");
    let error = lcore::launch(lcore, || ()).expect_err("it is busy");
    assert!(matches!(error, LcoreError::Busy { .. }), "{error}");
    assert!(!job.is_finished());
    go.send(7).expect("the job waits");
    assert_eq!(job.join().expect("a result"), Ok(7));
}

#[test]
fn a_panic_is_reported_and_the_lcore_goes_on() {
    let lcore = worker(2);
    let job = lcore::launch(lcore, || -> u32 { panic!("on purpose {}", 1) }).expect("an idle lcore");
    let error = job.join().expect_err("it panicked");
    assert!(error.to_string().contains("lcore 3 panicked: on purpose 1"), "{error}");
    let job = lcore::launch(lcore, || 5).expect("an idle lcore");
    assert_eq!(job.join().expect("a result"), 5);
}

#[test]
fn a_registered_thread_has_an_lcore_number_and_so_a_cache() {
    testing::eal();
    let pool = Mempool::new("cached", 511, 32, DATA_ROOM_OCTETS, None).expect("a pool");
    let thread = std::thread::spawn(move || {
        assert_eq!(lcore::current(), None);
        let guard = lcore::register_thread().expect("a number");
        assert_eq!(lcore::current(), Some(guard.lcore()));
        let again = lcore::register_thread().expect_err("once");
        assert!(matches!(again, LcoreError::AlreadyRegistered { .. }), "{again}");
        assert!(!lcore::workers().contains(&guard.lcore()));
        let error = lcore::launch(guard.lcore(), || ()).expect_err("no EAL thread");
        assert!(matches!(error, LcoreError::NotAWorker { .. }), "{error}");
        drop(pool.alloc().expect("an mbuf"));
        testing::assert_no_leak(&pool);
        drop(guard);
        assert_eq!(lcore::current(), None);
    });
    thread.join().expect("the thread");
}

#[test]
fn the_clock_runs_at_the_rate_that_it_tells() {
    testing::eal();
    let tsc = Tsc::new().expect("a running EAL");
    let (wall, start) = (std::time::Instant::now(), Tsc::now());
    while wall.elapsed().as_millis() < 50 {
        ipos_dpdk::clock::pause();
    }
    let (cycles, elapsed_us) = (Tsc::now() - start, wall.elapsed().as_micros() as u64);
    let measured_us = tsc.micros(cycles);
    assert!(measured_us.abs_diff(elapsed_us) < elapsed_us / 10, "{measured_us} us for {elapsed_us} us");
    assert!(tsc.cycles(measured_us).abs_diff(cycles) <= tsc.hz() / 1_000_000 + 1);
}
