//! A start without hugepages, of this process alone: what comes before it, once only, and nothing left behind.

mod common;

use std::process::{Command, Stdio};
use std::sync::mpsc;

use ipos_dpdk::burst::Burst;
use ipos_dpdk::eal::{Eal, EalConfig, EalError, Memory, NotInitialised};
use ipos_dpdk::lcore;
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool, MempoolError};
use ipos_dpdk::port::{Port, PortConfig};
use ipos_dpdk::{clock, testing};

/// Set in the processes that a test starts from this file.
const CHILD: &str = "IPOS_DPDK_TEST_CHILD";

fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

fn forward(config: &EalConfig) {
    let id = Port::find(&config.vdevs[0]).expect("the port");
    let pool = Mempool::new("forward", 1023, 64, DATA_ROOM_OCTETS, None).expect("a pool");
    let (port, mut rx, mut tx) =
        Port::start(id, &PortConfig::default(), std::slice::from_ref(&pool)).expect("a start");
    let mut burst = Burst::<32>::new();
    pool.alloc_burst(&mut burst);
    for _ in 0..1000 {
        assert_eq!(tx[0].send(&mut burst), 32);
        assert_eq!(rx[0].receive(&mut burst), 32);
    }
    assert_eq!(port.stats().ipackets, 32_000);
    drop(burst);
    testing::assert_no_leak(&pool);
}

/// The only test here that starts the EAL in this very process.
#[test]
fn it_starts_once_forwards_and_leaves_nothing() {
    if is_child() {
        return;
    }
    assert_eq!(clock::Tsc::new(), Err(NotInitialised));
    assert!(matches!(
        Mempool::new("early", 31, 0, DATA_ROOM_OCTETS, None),
        Err(MempoolError::NotInitialised(NotInitialised))
    ));
    assert!(lcore::workers().is_empty());
    let memory = Memory::NoHuge { mb: 64 };
    let config = EalConfig { memory, vdevs: vec!["net_ring0".to_owned()], ..testing::config() };
    let eal = Eal::init(&config).expect("a start");
    assert!(eal.version().starts_with("DPDK "), "{}", eal.version());
    assert!(!eal.has_hugepages());
    assert!(matches!(Eal::init(&config), Err(EalError::AlreadyInitialised)));
    forward(&config);
    let error = Mempool::new("large", 100_000, 0, DATA_ROOM_OCTETS, None).expect_err("64 MiB are too little");
    assert!(error.to_string().contains("(about 226 MiB): give the EAL more memory"), "{error}");
    let kept = Mempool::new("kept", 31, 0, DATA_ROOM_OCTETS, None).expect("a pool");
    drop(eal);
    assert!(kept.alloc().is_some(), "the pool keeps the EAL running");
    drop(kept);
    assert_eq!(clock::Tsc::new(), Err(NotInitialised));
    assert!(matches!(Eal::init(&config), Err(EalError::AlreadyInitialised)), "once, even after the end");
    assert_eq!(common::runtime_dirs(&config.file_prefix), Vec::<String>::new());
}

/// Runs in processes of its own; alone it is what each of them does.
#[test]
fn child_shares_the_test_eal() {
    if !is_child() {
        return two_at_once("child_shares_the_test_eal");
    }
    assert!(!testing::eal().has_hugepages());
    let pool = testing::mempool(255).expect("a pool");
    let (_port, mut rx, mut tx) = testing::ring_port(&pool).expect("a port");
    let mut burst = Burst::<32>::new();
    pool.alloc_burst(&mut burst);
    assert_eq!((tx.send(&mut burst), rx.receive(&mut burst)), (32, 32));
}

fn two_at_once(test: &str) {
    let children: Vec<_> = (0..3).map(|_| child(test).spawn().expect("a process")).collect();
    for child in children {
        let prefix = format!("ipos-test-{}-", child.id());
        let output = child.wait_with_output().expect("its end");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(common::runtime_dirs(&prefix), Vec::<String>::new());
    }
}

/// Without capabilities a packet socket is refused: the error names them.
#[test]
fn child_lacks_capabilities() {
    if !is_child() {
        let mut command = Command::new("setpriv");
        command
            .args(["--bounding-set=-all", "--inh-caps=-all"])
            .arg(std::env::current_exe().expect("this test"));
        command.args(["--exact", "child_lacks_capabilities", "--nocapture"]).env(CHILD, "1");
        let output = command.output().expect("setpriv");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        return;
    }
    let config = EalConfig { vdevs: vec!["net_af_packet0,iface=lo".to_owned()], ..testing::config() };
    let error = Eal::init(&config).expect_err("packet sockets need CAP_NET_RAW");
    assert!(matches!(error, EalError::Vdev { .. }), "{error}");
    assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
}

/// The last owner may be a worker, which cannot wait for itself: the process ends in order all the same.
#[test]
fn child_ends_on_a_worker() {
    if !is_child() {
        return two_at_once("child_ends_on_a_worker");
    }
    let config = EalConfig { vdevs: vec!["net_ring0".to_owned()], ..testing::config() };
    let eal = Eal::init(&config).expect("a start");
    let pool = Mempool::new("moved", 1023, 0, DATA_ROOM_OCTETS, None).expect("a pool");
    let id = Port::find("net_ring0").expect("the port");
    let started = Port::start(id, &PortConfig::default(), std::slice::from_ref(&pool)).expect("a start");
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let job = lcore::launch(lcore::LcoreId::new(1), move || {
        let started = wait.recv().map(|()| (started, pool));
        drop(started);
        tell.send(clock::Tsc::new()).expect("the test waits");
    });
    drop(job.expect("a launch"));
    drop(eal);
    assert!(clock::Tsc::new().is_ok(), "the worker's port keeps the EAL running");
    go.send(()).expect("the job waits");
    assert_eq!(told.recv(), Ok(Err(NotInitialised)));
}
