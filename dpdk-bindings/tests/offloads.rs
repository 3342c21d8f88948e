//! Checksum offloads and RSS on ports that have them: a tap, which does in software what a NIC does, reached through
//! the kernel by an af_packet port on its interface.

mod common;

use common::receive_where;
use ipos_dpdk::burst::Burst;
use ipos_dpdk::eal::Eal;
use ipos_dpdk::mbuf::{Checksum, L4, Mbuf, TxChecksums};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::port::{Port, PortConfig, RssMode};
use ipos_dpdk::queue::{RxQueue, TxQueue};
use ipos_dpdk::testing;

const IP: usize = 14;
const TCP: usize = IP + 20;
const END: usize = TCP + 20 + 7;

fn start(device: &str, config: &PortConfig, pool: &Mempool) -> (Port, RxQueue, TxQueue) {
    let id = Port::attach(device).unwrap_or_else(|error| panic!("{error}"));
    let (port, rx, tx) =
        Port::start(id, config, std::slice::from_ref(pool)).unwrap_or_else(|error| panic!("{error}"));
    (port, rx.into_iter().next().expect("a queue"), tx.into_iter().next().expect("a queue"))
}

/// Sum of RFC 1071, not inverted.
fn sum(octets: &[u8], start: u32) -> u16 {
    let words = octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&o| o.into()));
    let mut sum = words.sum::<u32>() + start;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn pseudo_header(packet: &[u8]) -> u32 {
    u32::from(sum(&packet[IP + 12..IP + 20], 0)) + 6 + (END - TCP) as u32
}

fn ip_is_right(packet: &[u8]) -> bool {
    sum(&packet[IP..TCP], 0) == 0xffff
}

fn tcp_is_right(packet: &[u8]) -> bool {
    sum(&packet[TCP..END], pseudo_header(packet)) == 0xffff
}

/// A TCP segment with seven octets of data and both checksum fields zero.
fn segment(pool: &Mempool) -> Mbuf {
    let mut mbuf = pool.alloc().expect("an mbuf");
    let packet = mbuf.append(END).expect("room");
    packet.fill(0);
    packet[..IP].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    packet[IP..IP + 4].copy_from_slice(&[0x45, 0, 0, (END - IP) as u8]);
    packet[IP + 8..IP + 10].copy_from_slice(&[64, 6]);
    packet[IP + 12..IP + 20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 1]);
    packet[TCP..TCP + 4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    packet[TCP + 12..TCP + 14].copy_from_slice(&[0x50, 0x18]);
    packet[TCP + 20..].copy_from_slice(b"GET / \n");
    mbuf
}

fn with_checksums(pool: &Mempool) -> Mbuf {
    let mut mbuf = segment(pool);
    let packet = mbuf.data_mut();
    let ip = !sum(&packet[IP..TCP], 0);
    packet[IP + 10..IP + 12].copy_from_slice(&ip.to_be_bytes());
    let tcp = !sum(&packet[TCP..END], pseudo_header(packet));
    packet[TCP + 16..TCP + 18].copy_from_slice(&tcp.to_be_bytes());
    mbuf
}

fn is_segment(mbuf: &Mbuf) -> bool {
    mbuf.data().get(12..14) == Some(&[8, 0]) && mbuf.data().get(IP + 12..IP + 16) == Some(&[192, 0, 2, 1])
}

fn pass(mbuf: Mbuf, tx: &mut TxQueue, rx: &mut RxQueue) -> Mbuf {
    let mut burst = Burst::<1>::new();
    burst.push(mbuf).expect("room");
    common::send_all(tx, &mut burst);
    receive_where(std::slice::from_mut(rx), 1, is_segment).remove(0)
}

#[test]
fn ports_that_can_check_and_compute_do() {
    let eal = Eal::init(&testing::config()).unwrap_or_else(|error| panic!("{error}"));
    let pool = Mempool::new("offloads", 16383, 0, DATA_ROOM_OCTETS, None).expect("a pool");
    let interface = format!("o{:x}", std::process::id());
    let config = PortConfig { checksum_offloads: true, ..PortConfig::default() };
    let (tap, mut tap_rx, mut tap_tx) = start(&format!("net_tap0,iface={interface}"), &config, &pool);
    let (peer, mut peer_rx, mut peer_tx) =
        start(&format!("net_af_packet0,iface={interface}"), &PortConfig::default(), &pool);
    let granted = tap.offloads();
    assert!(granted.rx_ipv4_checksum && granted.rx_tcp_checksum && granted.rx_udp_checksum);
    assert!(granted.tx_ipv4_checksum && granted.tx_tcp_checksum && granted.tx_udp_checksum);

    let good = pass(with_checksums(&pool), &mut peer_tx, &mut tap_rx);
    assert_eq!((good.ip_checksum(), good.l4_checksum()), (Checksum::Good, Checksum::Good));
    assert_eq!(good.port(), tap.id().raw());
    let mut wrong = with_checksums(&pool);
    wrong.data_mut()[TCP + 20] ^= 1;
    let wrong = pass(wrong, &mut peer_tx, &mut tap_rx);
    assert_eq!((wrong.ip_checksum(), wrong.l4_checksum()), (Checksum::Good, Checksum::Bad));
    let mut wrong = with_checksums(&pool);
    wrong.data_mut()[IP + 8] -= 1;
    let wrong = pass(wrong, &mut peer_tx, &mut tap_rx);
    assert_eq!(wrong.ip_checksum(), Checksum::Bad);

    let mut asked = segment(&pool);
    let pseudo = sum(&[], pseudo_header(asked.data()));
    asked.data_mut()[TCP + 16..TCP + 18].copy_from_slice(&pseudo.to_be_bytes());
    let request = TxChecksums { l2_octets: 14, l3_octets: 20, ipv4: true, l4: Some(L4::Tcp) };
    assert!(asked.request_tx_checksums(request));
    let sent = pass(asked, &mut tap_tx, &mut peer_rx);
    assert!(ip_is_right(sent.data()) && tcp_is_right(sent.data()), "{:02x?}", sent.data());

    let mut taken_back = segment(&pool);
    assert!(taken_back.request_tx_checksums(request));
    taken_back.clear_tx_requests();
    let sent = pass(taken_back, &mut tap_tx, &mut peer_rx);
    assert!(!ip_is_right(sent.data()) && !tcp_is_right(sent.data()));

    let unasked = PortConfig { rx_queues: 2, tx_queues: 2, ..PortConfig::default() };
    let (plain, ..) = start("net_null_plain", &unasked, &pool);
    assert!(!plain.offloads().rss, "granted only when wanted");
    let symmetric = PortConfig { rss: RssMode::Symmetric, ..unasked };
    let (spread, ..) = start("net_null_rss", &symmetric, &pool);
    assert!(spread.offloads().rss, "net_null has it");
    assert!(!peer.offloads().rss && !peer.offloads().tx_tcp_checksum, "af_packet has none of this");
    drop((eal, tap, peer));
}
