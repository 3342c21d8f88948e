//! The ipOS appliance: configuration, core placement, control core, admin (design: system.md, roles).
//!
//! The packet path is in the crate `ipos-pipelines`; here is what starts it, decides for it, and shows it.

mod admin;
mod cli;
mod config;
mod control;
mod epoch;
mod run;
mod status;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Run { config } => run::main(&config),
        cli::Command::Check { config } => run::check(&config),
        cli::Command::Status { what, json, socket, config } => status::main(what, json, socket, &config),
    }
}
