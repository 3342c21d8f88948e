//! Flags that no software driver sets on request: written where a driver writes them, read by the accessors.

use dpdk_sys as sys;
use ipos_dpdk::mbuf::{Checksum, Mbuf};
use ipos_dpdk::testing;

/// An mbuf as a driver hands it over.
fn received(flags: u64, rss: u32, vlan: u16) -> Mbuf {
    let pool = testing::mempool(1).expect("a pool");
    let raw = pool.alloc().expect("an mbuf").into_raw();
    let field = |offset: usize| raw.as_ptr().cast::<u8>().wrapping_add(offset);
    // SAFETY: the mbuf is alive and owned here; offsets and widths are those of the C compiler.
    unsafe {
        field(sys::DPDK_SYS_MBUF_OL_FLAGS).cast::<u64>().write(flags);
        field(sys::DPDK_SYS_MBUF_HASH_RSS).cast::<u32>().write(rss);
        field(sys::DPDK_SYS_MBUF_VLAN_TCI).cast::<u16>().write(vlan);
        Mbuf::from_raw(raw)
    }
}

#[test]
fn a_hash_counts_only_with_its_flag() {
    assert_eq!(received(sys::DPDK_SYS_MBUF_F_RX_RSS_HASH, 0xdead_beef, 0).rss_hash(), Some(0xdead_beef));
    assert_eq!(received(!sys::DPDK_SYS_MBUF_F_RX_RSS_HASH & 0xffff, 0xdead_beef, 0).rss_hash(), None);
}

#[test]
fn a_tag_counts_only_when_it_was_taken_out() {
    let (vlan, stripped) = (sys::DPDK_SYS_MBUF_F_RX_VLAN, sys::DPDK_SYS_MBUF_F_RX_VLAN_STRIPPED);
    assert_eq!(received(vlan | stripped, 0, 0x2064).vlan_stripped(), Some(0x2064));
    assert_eq!(received(vlan, 0, 0x2064).vlan_stripped(), None);
}

#[test]
fn a_checksum_that_only_the_pseudo_header_fills_is_unknown() {
    let (ip, l4) = (sys::DPDK_SYS_MBUF_F_RX_IP_CKSUM_MASK, sys::DPDK_SYS_MBUF_F_RX_L4_CKSUM_MASK);
    let none = received(ip | l4, 0, 0);
    assert_eq!((none.ip_checksum(), none.l4_checksum()), (Checksum::Unknown, Checksum::Unknown));
    let bad = received(sys::DPDK_SYS_MBUF_F_RX_IP_CKSUM_BAD | sys::DPDK_SYS_MBUF_F_RX_L4_CKSUM_GOOD, 0, 0);
    assert_eq!((bad.ip_checksum(), bad.l4_checksum()), (Checksum::Bad, Checksum::Good));
}
