//! The server-board agent: takes TCP endpoints over from an ipOS appliance and reports the board's state.

mod agent;
mod applications;
mod config;
mod counters;
mod effort;
mod farm;
mod idle;
mod interface;
mod load;
mod local;
mod neighbours;
mod pins;
mod preflight;
mod procs;
mod records;
mod report;
mod sockets;
mod spawn;
mod sys;
mod takeover;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// The ipOS server-board agent.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The board's configuration.
    #[arg(long, global = true, default_value = config::DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Put the programs in place, or adopt those in place, and report to the appliances until SIGTERM.
    Run,
    /// Check the configuration alone.
    Check,
    /// Check whether this machine can take endpoints over, with the command that mends each obstacle.
    Preflight,
    /// Remove programs, maps and links.
    Detach,
    /// Print the Local Table (the endpoints that this board holds) and the counters; needs no running agent.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("IPOS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            eprintln!("configuration: {} errors", errors.problems().len());
            return ExitCode::from(2);
        }
    };
    let done = match arguments.command {
        Command::Run => run(&config),
        Command::Check => {
            println!("configuration: ok");
            Ok(true)
        }
        Command::Preflight => {
            let report = preflight::run(&config);
            println!("{report}");
            Ok(report.passed())
        }
        Command::Detach => detach(&config),
        Command::Status { json } => status(&config, json),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ipos-board: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> anyhow::Result<bool> {
    let report = preflight::run(config);
    if !report.passed() {
        eprintln!("{report}");
        eprintln!("ipos-board: not started");
        return Ok(false);
    }
    agent::run(config)?;
    Ok(true)
}

fn detach(config: &Config) -> anyhow::Result<bool> {
    let removed = takeover::detach(&config.pin_directory)
        .with_context(|| format!("detach from {}", config.pin_directory.display()))?;
    println!("{removed} pins removed from {}", config.pin_directory.display());
    Ok(true)
}

fn status(config: &Config, json: bool) -> anyhow::Result<bool> {
    let directory = &config.pin_directory;
    let missing = "the programs are not in place: ipos-board run";
    let counters = takeover::pinned_counters(directory).context(missing)?;
    let records = takeover::pinned_records(directory).context(missing)?;
    let endpoints = local::table(&records).context("the sockets cannot be read")?;
    // Whoever stops reading, such as `head`, has had enough.
    let written = if json {
        let counters: serde_json::Map<_, _> =
            counters.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        writeln!(std::io::stdout(), "{}", serde_json::json!({ "endpoints": endpoints, "counters": counters }))
    } else {
        let counters = counters.iter().map(|(name, value)| format!("{name:<24} {value}\n"));
        write!(std::io::stdout(), "{}\n{}", local::text(&endpoints), counters.collect::<String>())
    };
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(true),
    }
}
