//! The binary `ipos-appliance`: its command line, and nothing else.

use std::process::ExitCode;

use clap::Parser;
use ipos_appliance::{cli, cookie, orders, run, status};

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Run { config } => run::main(&config),
        cli::Command::Check { config } => run::check(&config),
        cli::Command::Status { what, flow, json, watch, only, limit, appliance } => {
            status::main(&status::Wish { what, flow, json, watch, only, limit }, &appliance)
        }
        cli::Command::Board { command } => orders::board(command),
        cli::Command::Cookie(wish) => cookie::main(&wish),
        cli::Command::Reload { appliance } => orders::reload(&appliance),
    }
}
