//! The binary `ipos-appliance`: its command line, and nothing else.

use std::process::ExitCode;

use clap::Parser;
use ipos_appliance::{cli, run, status};

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Run { config } => run::main(&config),
        cli::Command::Check { config } => run::check(&config),
        cli::Command::Status { what, json, socket, config } => status::main(what, json, socket, &config),
    }
}
