//! The command line.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::socket::{Only, What};

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
        /// With flow: the client's address and port, and those that it connected to
        #[arg(value_names = ["CLIENT:PORT", "ENDPOINT:PORT"], num_args = 2, required_if_eq("what", "flow"))]
        flow: Vec<SocketAddrV4>,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Again every second, until a signal; of flows the first thousand
        #[arg(long)]
        watch: bool,
        /// Of flows and cookies: so many rows at most
        #[arg(long)]
        limit: Option<usize>,
        /// See there.
        #[command(flatten)]
        only: Only,
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
    /// Take boards in and out, while the appliance runs
    Board {
        /// What to do.
        #[command(subcommand)]
        command: BoardCommand,
    },
    /// Print what a board's servers set so that a client stays with them (mode "encoded" of [service.cookie])
    Cookie(CookieWish),
    /// Read the configuration again and apply it whole, or say why not and change nothing (as SIGHUP does)
    Reload {
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
}

/// Whose cookie is printed.
#[derive(Clone, Debug, Args)]
pub struct CookieWish {
    /// The service
    #[arg(long)]
    pub service: String,
    /// The board that the value names
    #[arg(long)]
    pub board: String,
    /// The value alone, without name and attributes
    #[arg(long)]
    pub value: bool,
    /// The configuration file
    #[arg(long, default_value = CONFIG)]
    pub config: PathBuf,
}

/// Which appliance is talked to.
#[derive(Clone, Debug, Args)]
pub struct Appliance {
    /// The appliance's admin socket; otherwise the configuration names it
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// The configuration file
    #[arg(long, default_value = CONFIG)]
    pub config: PathBuf,
}

/// What to do about a board.
#[derive(Debug, Subcommand)]
pub enum BoardCommand {
    /// Add a board
    Add {
        /// Its name
        name: String,
        /// Its address on the farm network
        #[arg(long)]
        address: Ipv4Addr,
        /// Its MAC address, when it shall not be learned
        #[arg(long)]
        mac: Option<String>,
        /// The name of the farm port that it is behind; otherwise the one on whose network it is
        #[arg(long)]
        port: Option<String>,
        /// Its share of new connections, 0 to 1000
        #[arg(long)]
        weight: Option<u16>,
        /// A service that it serves what no row of the URL map names; may be given again
        #[arg(long = "service")]
        services: Vec<String>,
        /// A row of the URL map that it serves: SERVICE:PATH or SERVICE:HOST/PATH; may be given again
        #[arg(long = "map")]
        maps: Vec<String>,
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
    /// Take a board out that has no connections
    Remove {
        /// Its name
        name: String,
        /// Also with connections: they are given up at once
        #[arg(long)]
        force: bool,
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
    /// Give a board another share of new connections; 0: none
    Weight {
        /// Its name
        name: String,
        /// The share, 0 to 1000
        weight: u16,
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
    /// Give a board no new connections; those that it has go on
    Drain {
        /// Its name
        name: String,
        /// After so many seconds connections that are idle are closed by the board, none within a request
        #[arg(long)]
        deadline: Option<u64>,
        /// Say how many connections are left until the last has ended
        #[arg(long)]
        wait: bool,
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
    /// Give a board new connections again
    Undrain {
        /// Its name
        name: String,
        /// See there.
        #[command(flatten)]
        appliance: Appliance,
    },
}
