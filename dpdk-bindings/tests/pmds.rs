//! Every driver that ipOS names is there although nothing links it: DPDK loads them as plugins. And those that need no
//! peer receive and send.

mod common;

use std::fs;

use ipos_dpdk::burst::Burst;
use ipos_dpdk::eal::{Eal, EalConfig};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::port::{Port, PortConfig};
use ipos_dpdk::testing;

/// A capture of one frame, in the classic pcap format, microseconds, Ethernet.
fn capture(frame: &[u8]) -> Vec<u8> {
    let length = (frame.len() as u32).to_le_bytes();
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65535_u32.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 8]);
    file.extend(length);
    file.extend(length);
    file.extend(frame);
    file
}

#[test]
fn all_drivers_probe_and_the_self_sufficient_ones_run() {
    let veth = common::Veth::new();
    let directory = common::TempDir::new();
    let pcap = directory.0.join("in.pcap");
    let frame: Vec<u8> = (0..64).collect();
    fs::write(&pcap, capture(&frame)).expect("a capture");
    let pid = std::process::id();
    let vdevs = [
        "net_null0,size=90".to_owned(),
        "net_ring0".to_owned(),
        format!("net_af_packet0,iface={}", veth.a),
        format!("net_af_xdp0,iface={}", veth.b),
        format!("net_pcap0,rx_pcap={},infinite_rx=1", pcap.display()),
        format!("net_memif0,role=server,socket=ipos-test-{pid},socket-abstract=yes"),
        format!("net_tap0,iface=t{pid:x}"),
    ];
    let eal = Eal::init(&EalConfig { vdevs: vdevs.to_vec(), ..testing::config() });
    let eal = eal.unwrap_or_else(|error| panic!("{error}"));
    for vdev in &vdevs {
        Port::find(vdev).unwrap_or_else(|error| panic!("{error}\n{}", eal.init_log()));
    }
    let pool = Mempool::new("pmds", 8191, 0, DATA_ROOM_OCTETS, None).expect("a pool");
    let mut ports = Vec::new();
    for vdev in &vdevs {
        let id = Port::find(vdev).expect("it was found before");
        let started = Port::start(id, &PortConfig::default(), std::slice::from_ref(&pool));
        ports.push(started.unwrap_or_else(|error| panic!("{error}")));
    }
    let mut burst = Burst::<32>::new();
    let (null, pcap) = (0, 4);
    assert_eq!(ports[null].1[0].receive(&mut burst), 32);
    assert!(burst.iter().all(|mbuf| mbuf.len() == 90));
    assert_eq!(ports[null].2[0].send(&mut burst), 32);
    assert_eq!(ports[pcap].1[0].receive(&mut burst), 32, "one frame, replayed without end");
    assert!(burst.iter().all(|mbuf| mbuf.data() == frame && mbuf.port() == ports[pcap].0.id().raw()));
    burst.clear();
    drop(ports);
    drop(eal);
    assert!(!fs::exists(format!("/sys/class/net/t{pid:x}")).expect("sysfs"), "the tap interface is gone");
}
