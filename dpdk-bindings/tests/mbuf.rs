//! The packet buffer: its room, its chain, its flags. On the shared test EAL.

use ipos_dpdk::mbuf::{Checksum, L4, Mbuf, TxChecksums};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, HEADROOM_OCTETS, Mempool};
use ipos_dpdk::testing;

const HEADROOM: usize = HEADROOM_OCTETS as usize;
const ROOM: usize = DATA_ROOM_OCTETS as usize - HEADROOM;

fn packet(pool: &Mempool, octets: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().expect("an mbuf");
    mbuf.append(octets.len()).expect("room").copy_from_slice(octets);
    mbuf
}

/// A packet of one segment for each part.
fn chain(pool: &Mempool, parts: &[&[u8]]) -> Mbuf {
    let mut parts = parts.iter();
    let mut mbuf = packet(pool, parts.next().expect("a part"));
    for part in parts {
        mbuf.chain(packet(pool, part)).expect("few segments");
    }
    mbuf
}

#[test]
fn a_fresh_mbuf_is_empty_contiguous_and_from_no_port() {
    let pool = testing::mempool(7).expect("a pool");
    let mbuf = pool.alloc().expect("an mbuf");
    assert!(mbuf.is_empty() && mbuf.is_contiguous() && mbuf.data().is_empty());
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.port()), (HEADROOM, ROOM, u16::MAX));
    assert_eq!((mbuf.rss_hash(), mbuf.vlan_stripped()), (None, None));
    assert_eq!((mbuf.ip_checksum(), mbuf.l4_checksum()), (Checksum::Unknown, Checksum::Unknown));
}

#[test]
fn growing_takes_exactly_the_room_there_is() {
    let pool = testing::mempool(7).expect("a pool");
    let mut mbuf = packet(&pool, b"data");
    mbuf.prepend(3).expect("headroom").copy_from_slice(b"pre");
    mbuf.append(4).expect("tailroom").copy_from_slice(b"tail");
    assert_eq!(mbuf.data(), b"predatatail");
    assert_eq!((mbuf.len(), mbuf.headroom(), mbuf.tailroom()), (11, HEADROOM - 3, ROOM - 8));
    assert!(mbuf.prepend(HEADROOM - 2).is_none());
    assert!(mbuf.append(ROOM - 7).is_none());
    assert!(mbuf.prepend(usize::MAX).is_none() && mbuf.append(usize::MAX).is_none());
    assert_eq!(mbuf.data(), b"predatatail", "what failed changed nothing");
    assert_eq!(mbuf.prepend(HEADROOM - 3).expect("all of it").len(), HEADROOM - 3);
    assert_eq!(mbuf.append(ROOM - 8).expect("all of it").len(), ROOM - 8);
    assert_eq!((mbuf.headroom(), mbuf.tailroom(), mbuf.len()), (0, 0, DATA_ROOM_OCTETS.into()));
    assert!(mbuf.prepend(1).is_none() && mbuf.append(1).is_none());
    assert_eq!(mbuf.prepend(0).map(|octets| octets.len()), Some(0));
}

#[test]
fn shortening_takes_from_the_named_end() {
    let pool = testing::mempool(7).expect("a pool");
    let mut mbuf = packet(&pool, b"0123456789");
    assert!(mbuf.trim_front(2));
    assert_eq!((mbuf.data(), mbuf.len(), mbuf.headroom()), (&b"23456789"[..], 8, HEADROOM + 2));
    assert!(!mbuf.trim_front(9) && !mbuf.trim_front(usize::MAX), "longer than the packet");
    mbuf.truncate(3);
    assert_eq!((mbuf.data(), mbuf.len()), (&b"234"[..], 3));
    mbuf.truncate(4);
    assert_eq!(mbuf.data(), b"234", "truncating never grows");
    mbuf.data_mut().copy_from_slice(b"xyz");
    assert_eq!(mbuf.data(), b"xyz");
    assert!(mbuf.trim_front(3));
    assert!(mbuf.is_empty());
}

#[test]
fn reframing_cuts_behind_and_grows_in_front() {
    let pool = testing::mempool(7).expect("a pool");
    let mut mbuf = packet(&pool, b"packet, padding");
    let frame = mbuf.reframe(6, 3).expect("headroom");
    frame[..3].copy_from_slice(b"my ");
    assert_eq!(frame, b"my packet");
    assert_eq!((mbuf.data(), mbuf.len(), mbuf.headroom()), (&b"my packet"[..], 9, HEADROOM - 3));
    assert!(mbuf.reframe(10, 0).is_none(), "longer than the packet");
    assert!(mbuf.reframe(9, HEADROOM - 2).is_none() && mbuf.reframe(9, usize::MAX).is_none());
    assert!(chain(&pool, &[b"one", b"two"]).reframe(3, 1).is_none());
    assert_eq!(
        (mbuf.data(), mbuf.headroom()),
        (&b"my packet"[..], HEADROOM - 3),
        "what failed changed nothing"
    );
    assert_eq!(mbuf.reframe(0, HEADROOM - 3).expect("all of it").len(), HEADROOM - 3);
}

#[test]
fn linearize_joins_the_segments_and_frees_them() {
    let pool = testing::mempool(7).expect("a pool");
    let mut mbuf = chain(&pool, &[b"one", b"two", b"three"]);
    assert_eq!((mbuf.len(), mbuf.is_contiguous(), pool.in_use()), (11, false, 3));
    assert_eq!(mbuf.data(), b"one");
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [&b"one"[..], b"two", b"three"]);
    assert!(mbuf.linearize());
    assert_eq!((mbuf.data(), mbuf.is_contiguous(), pool.in_use()), (&b"onetwothree"[..], true, 1));
    assert!(mbuf.linearize(), "it is");
    drop(mbuf);
    testing::assert_no_leak(&pool);
}

#[test]
fn linearize_without_room_changes_nothing() {
    let pool = testing::mempool(7).expect("a pool");
    let mut mbuf = chain(&pool, &[&[1; ROOM], &[2; 1]]);
    assert!(!mbuf.linearize());
    assert_eq!((mbuf.len(), mbuf.is_contiguous(), mbuf.segments().count()), (ROOM + 1, false, 2));
    drop(mbuf);
    testing::assert_no_leak(&pool);
}

#[test]
fn a_chain_grows_at_its_last_segment_and_shortens_by_freeing() {
    let pool = testing::mempool(7).expect("a pool");
    let parts = |mbuf: &Mbuf| mbuf.segments().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut mbuf = chain(&pool, &[b"one", b"two", b"three"]);
    assert_eq!(mbuf.tailroom(), ROOM - 5);
    mbuf.append(1).expect("room").copy_from_slice(b"!");
    mbuf.prepend(1).expect("room").copy_from_slice(b"^");
    assert_eq!(parts(&mbuf), [&b"^one"[..], b"two", b"three!"]);
    assert_eq!(mbuf.len(), 13);
    mbuf.truncate(6);
    assert_eq!((parts(&mbuf), mbuf.len(), pool.in_use()), (vec![b"^one".to_vec(), b"tw".to_vec()], 6, 2));
    mbuf.truncate(4);
    assert_eq!((parts(&mbuf), mbuf.is_contiguous(), pool.in_use()), (vec![b"^one".to_vec()], true, 1));
    drop(mbuf);
    testing::assert_no_leak(&pool);
}

#[test]
fn ownership_survives_the_raw_address() {
    let pool = testing::mempool(7).expect("a pool");
    let raw = packet(&pool, b"raw").into_raw();
    assert_eq!(pool.in_use(), 1, "given away, not freed");
    // SAFETY: the address comes from `into_raw`, and is taken back once.
    let mbuf = unsafe { Mbuf::from_raw(raw) };
    assert_eq!(mbuf.data(), b"raw");
    drop(mbuf);
    testing::assert_no_leak(&pool);
}

#[test]
fn mbufs_are_freed_by_any_thread() {
    let pool = testing::mempool(31).expect("a pool");
    let held: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(held.len(), 31);
    std::thread::spawn(move || drop(held)).join().expect("the thread");
    testing::assert_no_leak(&pool);
}

#[test]
fn checksum_requests_need_lengths_that_fit() {
    let pool = testing::mempool(7).expect("a pool");
    let mut mbuf = packet(&pool, &[0; 54]);
    let request = TxChecksums { l2_octets: 14, l3_octets: 20, ipv4: true, l4: Some(L4::Tcp) };
    assert!(mbuf.request_tx_checksums(request));
    assert!(mbuf.request_tx_checksums(TxChecksums { l4: None, ..request }));
    assert!(!mbuf.request_tx_checksums(TxChecksums { l2_octets: 128, ..request }), "seven bits");
    assert!(!mbuf.request_tx_checksums(TxChecksums { l3_octets: 512, ..request }), "nine bits");
    assert!(!mbuf.request_tx_checksums(TxChecksums { l3_octets: 41, ..request }), "beyond the packet");
    mbuf.clear_tx_requests();
    assert_eq!((mbuf.ip_checksum(), mbuf.len()), (Checksum::Unknown, 54));
}

#[test]
fn mbufs_lie_side_by_side_without_hugepages() {
    // net_af_xdp registers count x size as its memory: mbufs that were padded to pages would lie beyond it.
    const COUNT: usize = 511;
    let pool = testing::mempool(COUNT as u32).expect("a pool");
    let mbufs: Vec<Mbuf> = (0..COUNT).map(|_| pool.alloc().expect("an mbuf")).collect();
    let mut places: Vec<usize> = mbufs.iter().map(|mbuf| mbuf.data().as_ptr().addr()).collect();
    places.sort_unstable();
    let stride = places[1] - places[0];
    // The buffer, the mbuf's own two cache lines, the pool's header of one, and what spreads them over memory channels.
    let most = usize::from(DATA_ROOM_OCTETS) + 3 * 64 + 64;
    assert!((usize::from(DATA_ROOM_OCTETS)..=most).contains(&stride), "{stride} octets apart");
    assert_eq!(places[COUNT - 1] - places[0], (COUNT - 1) * stride);
}
