//! Real frames through the kernel: af_packet and af_xdp ports on the ends of veth pairs.

mod common;

use common::{Veth, frame, interface, receive_frames, send_all};
use ipos_dpdk::burst::Burst;
use ipos_dpdk::eal::{Eal, EalConfig};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::port::{Port, PortConfig, PortError};
use ipos_dpdk::queue::{RxQueue, TxQueue};
use ipos_dpdk::testing;

fn start(device: &str, queues: u16, pool: &Mempool) -> (Port, Vec<RxQueue>, Vec<TxQueue>) {
    let id = Port::find(device).expect("the port");
    let config = PortConfig {
        rx_queues: queues,
        tx_queues: queues,
        promiscuous: true,
        checksum_offloads: true,
        ..PortConfig::default()
    };
    Port::start(id, &config, std::slice::from_ref(pool)).unwrap_or_else(|error| panic!("{error}"))
}

fn octets(mac: &str) -> Vec<u8> {
    mac.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("a MAC address")).collect()
}

/// Sends 200 frames of different lengths and checks that exactly these come out, in order.
fn exchange(pool: &Mempool, tx: &mut TxQueue, rx: &mut [RxQueue]) {
    let mut burst = Burst::<20>::new();
    let mut received = Vec::new();
    for round in 0..10_u8 {
        for place in 0..20_u8 {
            let number = round * 20 + place;
            burst.push(frame(pool, 60 + 5 * usize::from(number), number)).expect("room");
        }
        send_all(tx, &mut burst);
        received.extend(receive_frames(rx, 20));
    }
    for (mbuf, number) in received.iter().zip(0_u8..) {
        assert_eq!(mbuf.len(), 60 + 5 * usize::from(number));
        assert!(mbuf.data()[14..].iter().all(|&octet| octet == number), "frame {number}");
    }
    assert_eq!(received.len(), 200);
}

#[test]
fn frames_cross_the_kernel_both_ways() {
    let (packet, xdp) = (Veth::new(), Veth::new());
    let vdevs = vec![
        format!("net_af_packet0,iface={}", packet.a),
        format!("net_af_packet1,iface={},qpairs=2", packet.b),
        format!("net_af_packet2,iface={}", xdp.a),
        format!("net_af_xdp0,iface={}", xdp.b),
    ];
    let eal = Eal::init(&EalConfig { vdevs, ..testing::config() }).unwrap_or_else(|error| panic!("{error}"));
    let pool = Mempool::new("veth", 16383, 0, DATA_ROOM_OCTETS, None).expect("a pool");

    let too_many = PortConfig { rx_queues: 2, ..PortConfig::default() };
    let id = Port::find("net_af_packet0").expect("the port");
    let error = Port::start(id, &too_many, std::slice::from_ref(&pool)).expect_err("it has one queue");
    assert!(matches!(error, PortError::Queues { wanted: 2, max: 1, .. }), "{error}");
    let error = Port::find("net_af_packet7").expect_err("there is none").to_string();
    assert!(error.contains("net_af_packet0, net_af_packet1, net_af_packet2, net_af_xdp0"), "{error}");

    let (port_a, mut rx_a, mut tx_a) = start("net_af_packet0", 1, &pool);
    let (port_b, mut rx_b, mut tx_b) = start("net_af_packet1", 2, &pool);
    assert_eq!(port_a.mac().to_vec(), octets(&interface(&packet.a, "address")));
    assert_eq!((port_a.max_rx_queues(), port_b.max_rx_queues(), port_a.mtu()), (1, 2, 1500));
    assert!(port_a.link().up && port_a.offloads().promiscuous && !port_a.offloads().rss);
    exchange(&pool, &mut tx_a[0], &mut rx_b);
    exchange(&pool, &mut tx_b[1], &mut rx_a);
    let kernel: u64 = interface(&packet.b, "statistics/rx_packets").parse().expect("a number");
    assert!(kernel >= 200, "the kernel counted {kernel}");
    assert!(port_b.stats().ipackets >= 200 && port_a.stats().opackets == 200);

    let (_port_c, mut rx_c, mut tx_c) = start("net_af_packet2", 1, &pool);
    let (_port_d, mut rx_d, mut tx_d) = start("net_af_xdp0", 1, &pool);
    exchange(&pool, &mut tx_c[0], &mut rx_d);
    exchange(&pool, &mut tx_d[0], &mut rx_c);
    drop((eal, pool));
}
