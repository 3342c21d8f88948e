//! The ipOS appliance: configuration, core placement, control core, admin (design: system.md, roles).
//!
//! The packet path is in the crate `ipos-pipelines`; here is what starts it, decides for it, and shows it. A library, so that
//! packet-level tests and benches can put the control core beside a worker; the binary is `main.rs`.

mod admin;
pub mod cli;
mod client;
mod config;
pub mod control;
pub mod cookie;
mod epoch;
pub mod orders;
pub mod run;
pub mod status;
