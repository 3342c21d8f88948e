//! Raw bindings to the installed libdpdk (22.11 or later), made by bindgen when this crate is built, and C wrappers
//! for what is inline or thread-local in C. Nothing more: owners, checks and names are the business of `ipos-dpdk`.
//!
//! - Functions keep DPDK's names; wrappers are called `dpdk_sys_` and the name of what they wrap.
//! - Macros that are constants are called `DPDK_SYS_`...; those that start `DPDK_SYS_MBUF_` and name a field are its
//!   offset in `struct rte_mbuf`, in octets, as the C compiler has it.
//! - What each does and needs is in the DPDK API reference of the installed version.
#![no_std]
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    reason = "generated from C headers: C's names, and no prose"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
