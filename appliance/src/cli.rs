//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::admin::socket::What;

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/ipos/appliance.toml";

/// Request-aware placement of TCP connections on a farm of server boards, without a proxy.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the appliance until SIGTERM or SIGINT
    Run {
        /// The configuration file
        #[arg(long, default_value = CONFIG)]
        config: PathBuf,
    },
    /// Check the configuration: prints every mistake with file, line and column; exits 1 if there is one
    Check {
        /// The configuration file
        #[arg(long, default_value = CONFIG)]
        config: PathBuf,
    },
    /// Show the tables of the running appliance
    Status {
        /// Which table
        #[arg(value_enum, default_value = "servers")]
        what: What,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// The appliance's admin socket; otherwise the configuration names it
        #[arg(long)]
        socket: Option<PathBuf>,
        /// The configuration file
        #[arg(long, default_value = CONFIG)]
        config: PathBuf,
    },
}
