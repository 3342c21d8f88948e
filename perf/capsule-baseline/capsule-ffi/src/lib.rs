//! What capsule 0.1.5 calls, bound to the installed libdpdk (22.11 and later) when this crate is built.
//!
//! It stands in for the published crate of this name, which is for DPDK 19.11, and has only the names in common with it:
//! those that capsule uses. Where DPDK has changed since, the old name leads to today's:
//!
//! - constants got the prefix `RTE_`;
//! - the option `--master-lcore` became `--main-lcore`;
//! - the kernel NIC interface (KNI) is gone. What is here in its place never makes a device.
#![allow(non_camel_case_types, reason = "C's names")]

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_uint};

mod bindings {
    #![allow(
        non_snake_case,
        non_upper_case_globals,
        unnecessary_transmutes,
        unsafe_op_in_unsafe_fn,
        clippy::all,
        clippy::missing_safety_doc,
        clippy::undocumented_unsafe_blocks,
        reason = "generated from C headers"
    )]
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

pub const ETH_RSS_IP: u64 = CAPSULE_FFI_RSS_IP;
pub const ETH_RSS_TCP: u64 = CAPSULE_FFI_RSS_TCP;
pub const ETH_RSS_UDP: u64 = CAPSULE_FFI_RSS_UDP;
pub const ETH_RSS_SCTP: u64 = CAPSULE_FFI_RSS_SCTP;
pub const DEV_TX_OFFLOAD_MBUF_FAST_FREE: u64 = CAPSULE_FFI_TX_OFFLOAD_MBUF_FAST_FREE;

/// In the place of the enumeration, which bindgen makes a type of.
pub mod rte_eth_rx_mq_mode {
    pub const ETH_MQ_RX_RSS: super::bindings::rte_eth_rx_mq_mode = super::RTE_ETH_MQ_RX_RSS;
}

/// Starts the EAL with today's options.
///
/// # Safety
/// `argv` points to `argc` strings, each ended by a zero, that live as long as the process.
pub unsafe fn rte_eal_init(argc: c_int, argv: *mut *mut c_char) -> c_int {
    for place in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: the caller's word: there are so many, and each is a string.
        unsafe {
            let argument = argv.add(place);
            if CStr::from_ptr(*argument) == c"--master-lcore" {
                // The EAL never writes to an option's name.
                *argument = c"--main-lcore".as_ptr().cast_mut();
            }
        }
    }
    // SAFETY: the caller's word.
    unsafe { bindings::rte_eal_init(argc, argv) }
}

/// A kernel NIC interface: there is none.
pub struct rte_kni {
    _private: (),
}

#[derive(Default)]
pub struct rte_kni_conf {
    pub name: [c_char; 32],
    pub group_id: u16,
    pub mbuf_size: c_uint,
    pub mac_addr: [u8; 6],
}

#[derive(Default)]
pub struct rte_kni_ops {
    pub port_id: u16,
    pub change_mtu: Option<extern "C" fn(u16, c_uint) -> c_int>,
    pub config_network_if: Option<extern "C" fn(u16, u8) -> c_int>,
    pub config_mac_address: Option<extern "C" fn(u16, *mut u8) -> c_int>,
    pub config_promiscusity: Option<extern "C" fn(u16, u8) -> c_int>,
}

pub fn rte_kni_init(_interfaces: c_uint) -> c_int {
    -1
}

pub fn rte_kni_close() {}

pub fn rte_kni_alloc(
    _pool: *mut rte_mempool,
    _conf: *const rte_kni_conf,
    _ops: *mut rte_kni_ops,
) -> *mut rte_kni {
    std::ptr::null_mut()
}

pub fn rte_kni_release(_kni: *mut rte_kni) -> c_int {
    -1
}

pub fn rte_kni_handle_request(_kni: *mut rte_kni) -> c_int {
    -1
}

pub fn rte_kni_rx_burst(_kni: *mut rte_kni, _mbufs: *mut *mut rte_mbuf, _count: c_uint) -> c_uint {
    0
}

pub fn rte_kni_tx_burst(_kni: *mut rte_kni, _mbufs: *mut *mut rte_mbuf, _count: c_uint) -> c_uint {
    0
}
