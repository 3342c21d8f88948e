//! Processes of our own: DPDK starts once in each, so that every measurement has its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::{forward, load, lookup, migrate, moves};

/// What a child does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Spec {
    /// P1, P2, P4.
    Forward(forward::Spec),
    /// P3.
    Lookup(lookup::Spec),
    /// P5, P6.
    Migrate(migrate::Spec),
    /// P7: beside the appliance.
    Meter(SocketAddr),
    /// P8.
    Visit(load::VisitSpec),
    /// Moves between requests.
    Walk(moves::WalkSpec),
}

/// The child's side.
///
/// # Errors
/// What went wrong, for its last line.
pub fn main(spec: &str) -> anyhow::Result<()> {
    match serde_json::from_str(spec).context("the child's orders")? {
        Spec::Forward(spec) => forward::child(&spec),
        Spec::Lookup(spec) => lookup::child(&spec),
        Spec::Migrate(spec) => migrate::child(&spec),
        Spec::Meter(metrics) => load::meter(metrics),
        Spec::Visit(spec) => load::visitor(&spec),
        Spec::Walk(spec) => moves::walker(&spec),
    }
}

/// Starts one.
///
/// # Errors
/// When it does not start.
pub fn spawn(spec: &Spec) -> anyhow::Result<Process> {
    let program = std::env::current_exe().context("finding this program")?;
    Process::spawn("the measuring process", &program.to_string_lossy(), &arguments(spec)?)
}

/// What makes this program a child.
///
/// # Errors
/// Never, for what a specification can hold.
pub fn arguments(spec: &Spec) -> anyhow::Result<[String; 2]> {
    Ok(["--child".to_owned(), serde_json::to_string(spec)?])
}

/// Its next message: the next line that is one.
///
/// # Errors
/// When it ends, or time is up, before there is one.
pub fn hear<T: DeserializeOwned>(process: &mut Process, patience: Duration) -> anyhow::Result<T> {
    process
        .hear(patience, |line| line.starts_with('{').then(|| serde_json::from_str(line)).and_then(Result::ok))
}
