//! `ipos-pktgen`: a DPDK traffic generator that loads an ipOS appliance to its limit, with no client and no server behind
//! it (design: targets.md). `perf/pktgen/README.md` says how to use it.
//!
//! One thread polls: what is due goes out ([`schedule`], open loop), what comes back is recognised ([`stamp`]), counted
//! and timed from when it was *intended* ([`latency`]). The boards' side is pretended by the second port ([`boards`]).

#![forbid(unsafe_code)]

pub mod addressing;
pub mod boards;
pub mod cli;
pub mod client;
pub mod clock;
pub mod endpoint;
pub mod engine;
pub mod error;
pub mod frame;
pub mod lane;
pub mod latency;
pub mod line;
pub mod ports;
pub mod profiles;
pub mod progress;
pub mod report;
pub mod reports;
pub mod run;
pub mod schedule;
pub mod search;
pub mod size;
pub mod stamp;
pub mod stop;
pub mod svg;
pub mod trial;
