//! `ipos-bench`: harnesses P1 to P8 of design: targets.md, each with its baseline in the same run.
//!
//! The files are the road: [`machine`] finds CPUs and memory, [`capture`] makes what is replayed, [`rates`] lets the worker
//! ([`forward`]) and the baselines ([`testpmd`], [`capsule`]) take turns, [`targets`] turns figures into rows, [`report`] and
//! [`svg`] write them down. [`migrate`] is the road of P5 and P6, with [`peers`] at its ends and [`control`] beside it. P7 and
//! P8 are in [`compare`]: [`lab`] takes the lab up, [`balancers`] lets the contenders take turns, [`load`] is the clients,
//! [`billing`] says what they cost, [`quiet`] whether the machine was left alone. [`placement`] compares the policies on boards of
//! unequal speed, [`moves`] requests that move their connection with those that do not, [`urls`] the URL map with what else finds paths, [`cookies`] the Cookie Map; [`listing`] says what a listing of all flows costs a worker.

mod balancers;
mod billing;
mod capsule;
mod capture;
mod child;
mod compare;
mod control;
mod cookies;
mod cputime;
mod forward;
mod lab;
mod listing;
mod load;
mod lookup;
mod machine;
mod migrate;
mod moves;
mod peers;
mod placement;
mod process;
mod quiet;
mod rates;
mod report;
mod setup;
mod stats;
mod svg;
mod targets;
mod testpmd;
mod urls;
mod wire;

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

use crate::machine::Machine;

/// Counts, so that P4 can say that there were none.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Measures what ipOS costs, against what else there is.
#[derive(Parser)]
#[command(name = "ipos-bench", version)]
struct Cli {
    /// What to measure: p1 to p8, placement, moves, listing, urls, cookies, or all.
    #[arg(default_value = "all")]
    targets: Vec<String>,
    /// Tiny sizes: shows that every harness runs, and nothing else. Writes to target/bench-quick.
    #[arg(long)]
    quick: bool,
    /// Runs of each figure; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// CPU on which ours and the baseline run in turns [default: the last]
    #[arg(long)]
    cpu: Option<u32>,
    /// CPU that waits, and runs the control core [default: the first]
    #[arg(long)]
    main_cpu: Option<u32>,
    /// Folder of latest.json and the plots [default: perf/results]
    #[arg(long)]
    results: Option<PathBuf>,
    /// Be a measuring process; for ipos-bench itself.
    #[arg(long, hide = true)]
    child: Option<String>,
}

/// How to measure.
pub struct Options {
    machine: Machine,
    quick: bool,
    runs: u32,
    results: PathBuf,
}

impl Options {
    /// Time of a run of the baseline.
    fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 600 })
    }

    /// Packets of a run of ours.
    fn packets(&self) -> u64 {
        if self.quick { 100_000 } else { 15_000_000 }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(spec) = &cli.child {
        return match child::main(spec) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let options = match options(&cli) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("ipos-bench: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if targets::run(&cli.targets, &options) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options(cli: &Cli) -> anyhow::Result<Options> {
    let found = Machine::detect()?;
    let machine =
        Machine { main_cpu: cli.main_cpu.unwrap_or(found.main_cpu), cpu: cli.cpu.unwrap_or(found.cpu) };
    let folder = if cli.quick { "target/bench-quick" } else { "perf/results" };
    Ok(Options {
        machine,
        quick: cli.quick,
        runs: if cli.quick { 1 } else { cli.runs },
        results: cli.results.clone().unwrap_or_else(|| folder.into()),
    })
}
