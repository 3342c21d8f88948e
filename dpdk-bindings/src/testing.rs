//! A real EAL for tests: one per process, without hugepages, PCI devices or privileges, and nothing left behind.
//!
//! Many tests of one process share it; several test processes can run at once. Test threads work as they are (their
//! mempools have no cache then); [`crate::lcore::register_thread`] gives one a cache. Mempools from [`mempool`] and
//! ports from [`ring_port`] are new for each caller, so tests do not see each other's packets.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::eal::{Eal, EalConfig, EalError, Memory};
use crate::mempool::{DATA_ROOM_OCTETS, Mempool, MempoolError};
use crate::port::{Port, PortConfig, PortError};
use crate::queue::{RxQueue, TxQueue};

/// Memory of the test EAL, in MiB. What is not touched costs nothing.
const MEMORY_MB: u32 = 1024;

/// What the test EAL is started with; a test that needs its own process can change it and call [`Eal::init`] itself.
/// Lcores 0 to 3 float on all CPUs.
#[must_use]
pub fn config() -> EalConfig {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    EalConfig {
        program: "ipos-test".to_owned(),
        lcores: format!("(0-3)@({})", cpus_allowed()),
        main_lcore: 0,
        memory: Memory::NoHuge { mb: MEMORY_MB },
        no_pci: true,
        // Process ids repeat in containers that share /run.
        file_prefix: format!("ipos-test-{}-{nanos}", std::process::id()),
        ..EalConfig::default()
    }
}

/// CPUs that this process may use, as the kernel lists them.
fn cpus_allowed() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    allowed.map_or("0", str::trim).to_owned()
}

/// The EAL of this test process, started by the first call, on a thread of its own that stays its main lcore: test
/// threads come and go, and are not bound to anything.
///
/// # Panics
/// With the cause, if the EAL does not start.
pub fn eal() -> &'static Eal {
    static EAL: OnceLock<Result<Eal, EalError>> = OnceLock::new();
    let eal = EAL.get_or_init(|| {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            // A receiver that is gone means that the test process ends.
            let _ = tell.send(Eal::init(&config()));
            loop {
                std::thread::park();
            }
        });
        told.recv().unwrap_or(Err(EalError::AlreadyInitialised))
    });
    match eal {
        Ok(eal) => eal,
        Err(error) => panic!("the test EAL: {error}"),
    }
}

fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A mempool of `count` mbufs with default buffers, without caches, so that its counts are exact.
///
/// # Errors
/// [`MempoolError`], if the test EAL's memory is used up.
pub fn mempool(count: u32) -> Result<Mempool, MempoolError> {
    eal();
    Mempool::new(&format!("test-{}", unique()), count, 0, DATA_ROOM_OCTETS, None)
}

/// A started memory port (net_ring) that receives what it sends, with one queue each way and room for 1023 packets.
///
/// # Errors
/// [`PortError`].
pub fn ring_port(pool: &Mempool) -> Result<(Port, RxQueue, TxQueue), PortError> {
    eal();
    let device = format!("net_ring_test{}", unique());
    let id = Port::attach(&device)?;
    let (port, rx, tx) = Port::start(id, &PortConfig::default(), std::slice::from_ref(pool))?;
    match (rx.into_iter().next(), tx.into_iter().next()) {
        (Some(rx), Some(tx)) => Ok((port, rx, tx)),
        _ => Err(PortError::NoQueues { port: device }),
    }
}

/// That every mbuf of the pool is back.
///
/// # Panics
/// With the number of those that are not.
pub fn assert_no_leak(pool: &Mempool) {
    let in_use = pool.in_use();
    assert!(in_use == 0, "mempool {}: {in_use} of {} mbufs are still out", pool.name(), pool.count());
}
