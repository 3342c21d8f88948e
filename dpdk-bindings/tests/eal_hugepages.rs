//! A start with hugepages, anonymous ones. Reserves some if none are free, and gives those back.

mod common;

use std::fs;

use ipos_dpdk::burst::Burst;
use ipos_dpdk::eal::{Eal, EalConfig, Memory};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::port::{Port, PortConfig};
use ipos_dpdk::testing;

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";
const WANTED_MB: u32 = 64;

fn meminfo(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key} is missing"));
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// Free hugepages, reserved if need be; the former number is restored when dropped.
struct Hugepages {
    restore: Option<String>,
}

impl Hugepages {
    fn ensure(mb: u64) -> Self {
        let wanted = (mb * 1024).div_ceil(meminfo("Hugepagesize:"));
        let free = meminfo("HugePages_Free:");
        if free >= wanted {
            return Self { restore: None };
        }
        let before = fs::read_to_string(NR_HUGEPAGES).expect(NR_HUGEPAGES);
        let more = before.trim().parse::<u64>().expect("a number") + wanted - free;
        let guard = Self { restore: Some(before) };
        fs::write(NR_HUGEPAGES, more.to_string()).unwrap_or_else(|e| {
            panic!("no hugepages are free, and {NR_HUGEPAGES} cannot be written ({e}): run as root")
        });
        let free = meminfo("HugePages_Free:");
        assert!(free >= wanted, "the kernel finds only {free} of {wanted} hugepages: free some memory");
        guard
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Some(before) = &self.restore {
            let _ = fs::write(NR_HUGEPAGES, before);
        }
    }
}

#[test]
fn it_starts_forwards_and_gives_the_pages_back() {
    let _pages = Hugepages::ensure(WANTED_MB.into());
    let config = EalConfig {
        memory: Memory::Hugepages { mb: WANTED_MB, in_memory: true },
        vdevs: vec!["net_ring0".to_owned()],
        ..testing::config()
    };
    let eal = Eal::init(&config).expect("a start");
    assert!(eal.has_hugepages());
    assert_eq!(common::runtime_dirs(&config.file_prefix), Vec::<String>::new());
    let pool = Mempool::new("huge", 8191, 256, DATA_ROOM_OCTETS, None).expect("a pool");
    let id = Port::find("net_ring0").expect("the port");
    let (port, mut rx, mut tx) =
        Port::start(id, &PortConfig::default(), std::slice::from_ref(&pool)).expect("a start");
    let mut burst = Burst::<64>::new();
    pool.alloc_burst(&mut burst);
    for _ in 0..1000 {
        assert_eq!(tx[0].send(&mut burst), 64);
        assert_eq!(rx[0].receive(&mut burst), 64);
    }
    drop(burst);
    testing::assert_no_leak(&pool);
    drop((eal, pool, rx, tx, port));
    assert!(Eal::init(&config).is_err(), "it ended, and starts once");
    assert_eq!(common::runtime_dirs(&config.file_prefix), Vec::<String>::new());
}
