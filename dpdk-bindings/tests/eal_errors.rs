//! Starts that fail: each error names the cause and the cure. What is checked beforehand does not use up the start.

mod common;

use ipos_dpdk::eal::{Eal, EalConfig, EalError, Memory};
use ipos_dpdk::testing;

fn error(config: EalConfig) -> EalError {
    Eal::init(&config).expect_err("it cannot start")
}

/// In order, in one process: the last one reaches DPDK, after which no start is possible.
#[test]
fn causes_are_named() {
    let config = testing::config;
    let text = error(EalConfig { lcores: "0@4095".to_owned(), ..config() }).to_string();
    assert!(text.contains("names CPU 4095, which is not online here: online are 0"), "{text}");
    let text = error(EalConfig { lcores: "0@0,x".to_owned(), ..config() }).to_string();
    assert!(text.contains("cannot be read at \"x\""), "{text}");
    let text = error(EalConfig { lcores: "4000@0".to_owned(), ..config() }).to_string();
    assert!(text.contains("names lcore 4000, but the installed DPDK has lcores 0 to"), "{text}");
    let text = error(EalConfig { main_lcore: 9, ..config() }).to_string();
    assert!(text.contains("main lcore 9 is not in the lcore map"), "{text}");
    let text = error(EalConfig { allow: vec!["ffff:ff:1f.7".to_owned()], ..config() }).to_string();
    assert!(text.contains("PCI device ffff:ff:1f.7 does not exist here (network devices: "), "{text}");
    let memory = Memory::Hugepages { mb: 1 << 30, in_memory: true };
    let text = error(EalConfig { memory, ..config() }).to_string();
    assert!(
        text.contains("1073741824 MiB of hugepages are wanted")
            && text.contains("sysctl -w vm.nr_hugepages=")
    );
    let text = error(EalConfig { extra: vec!["a\0b".to_owned()], ..config() }).to_string();
    assert!(text.contains("holds a zero octet"), "{text}");
    let vdevs = vec!["net_null0".to_owned(), "net_af_packet0,iface=no-such-if".to_owned()];
    let last = EalConfig { vdevs, ..config() };
    let text = error(last.clone()).to_string();
    assert!(text.contains("\"net_af_packet0,iface=no-such-if\" could not be made"), "{text}");
    assert!(text.contains("DPDK said:") && !text.contains("DPDK said: nothing"), "{text}");
    assert!(matches!(error(config()), EalError::AlreadyInitialised));
    assert_eq!(common::runtime_dirs(&last.file_prefix), Vec::<String>::new());
}
