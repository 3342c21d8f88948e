//! Safe owners over DPDK, for the packet path of ipOS.
//!
//! Every handle owns what it stands for and gives it back when it is dropped; none that owns is `Clone`, except
//! [`mempool::Mempool`], which is shared by nature. What outlives what is kept by the handles themselves: queues keep
//! their port, ports their mempools, and all of them the EAL, whatever the order in which a program drops them.
//!
//! The packet path ([`queue`], [`burst`], [`mbuf`], [`clock`]) neither allocates nor locks nor makes a system call of
//! its own; the rest is set-up, and its errors say what failed, where, and how to mend it.
//!
//! Unsafe code of the whole project lives here and in `dpdk-sys` (design: style.md, rule 3).

pub mod burst;
pub mod clock;
pub mod eal;
mod eal_check;
pub mod hash;
pub mod lcore;
pub mod mbuf;
pub mod memory;
pub mod mempool;
pub mod port;
mod port_start;
pub mod prefetch;
pub mod queue;
pub mod testing;
