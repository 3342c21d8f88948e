//! The command line.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use ipos_wire::mac::Mac;

use crate::engine::Target;
use crate::profiles::Kind;
use crate::size::Sizes;

/// Exit status of [`crate::report::Ending`], for `--help`.
const AFTER: &str = "Exit status: 0 measured; 1 could not start or stopped early; 2 wrong options; 3 the rate was not \
reached, so the figures are of a lower one; 4 nothing came back, connections failed, or the search found no rate.

Rates are packets per second, and connections per second for `connections`. Every run is bounded by --duration and, where \
given, --packets; Ctrl-C ends it in order, with the report of what was measured so far.";

/// Where packet buffers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryKind {
    /// Hugepages: as fast as can be
    Hugepages,
    /// Ordinary pages: about half as fast
    NoHuge,
}

/// What the generator does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Poll on: exact, where --cpu serves nothing else
    Spin,
    /// Let others run: where the target shares the CPU
    Yield,
}

/// Loads an ipOS appliance (or anything that forwards packets) through DPDK ports, and measures rate, loss and latency.
#[derive(Debug, Clone, Parser)]
#[command(name = "ipos-pktgen", version, after_help = AFTER)]
pub struct Cli {
    /// What to send
    #[arg(value_enum)]
    pub profile: Kind,

    /// Port on the clients' side: a PCI address, or a virtual device with its arguments (net_memif0,role=client,...)
    #[arg(long, value_name = "DEVICE", help_heading = "Ports")]
    pub client_port: String,
    /// Port on the boards' side, where what the target forwards comes out; not needed on a ring or for syn-flood
    #[arg(long, value_name = "DEVICE", help_heading = "Ports")]
    pub farm_port: Option<String>,
    /// CPU of the generator's thread
    #[arg(long, default_value_t = 0, value_name = "CPU", help_heading = "Ports")]
    pub cpu: u16,
    /// When there is nothing to do
    #[arg(long, value_enum, default_value = "spin", help_heading = "Ports")]
    pub idle: Idle,
    /// Where packet buffers come from
    #[arg(long, value_enum, default_value = "hugepages", help_heading = "Ports")]
    pub memory: MemoryKind,
    /// DPDK's memory, MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(32..=1 << 20), value_name = "MIB", help_heading = "Ports")]
    pub memory_mb: u32,
    /// Packet buffers; each takes 2368 octets
    #[arg(long, default_value_t = 16_383, value_parser = clap::value_parser!(u32).range(2047..=1 << 24), value_name = "N", help_heading = "Ports")]
    pub mbufs: u32,
    /// Descriptors of each queue
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(64..=16384), value_name = "N", help_heading = "Ports")]
    pub descriptors: u16,
    /// How long to wait for the links, seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600), value_name = "S", help_heading = "Ports")]
    pub link_wait: u64,
    /// Speed of the clients' line, Mbit/s [default: what the port tells]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "MBPS", help_heading = "Ports")]
    pub line_mbps: Option<u32>,

    /// What stands between the ports
    #[arg(long, value_enum, default_value = "appliance", help_heading = "Target")]
    pub target: Target,
    /// Service that clients connect to
    #[arg(long, default_value = "198.51.100.1:80", value_name = "IP:PORT", help_heading = "Target")]
    pub service: SocketAddrV4,
    /// MAC address that client frames go to [default: whoever answers ARP for the service; on a loop, broadcast]
    #[arg(long, value_name = "MAC", help_heading = "Target")]
    pub next_hop: Option<Mac>,
    /// First client address
    #[arg(long, default_value = "198.18.0.1", value_name = "IP", help_heading = "Target")]
    pub clients: Ipv4Addr,
    /// Client addresses; each has 64512 ports
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536), value_name = "N", help_heading = "Target")]
    pub client_count: u32,
    /// The farm's EtherType
    #[arg(long, default_value = "0x88b5", value_parser = hex_u16, value_name = "TYPE", help_heading = "Target")]
    pub ethertype: u16,
    /// The appliance's address on the farm
    #[arg(long, default_value = "192.0.2.2", value_name = "IP", help_heading = "Target")]
    pub appliance_address: Ipv4Addr,
    /// Pretended boards
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N", help_heading = "Target")]
    pub boards: u16,
    /// Address of the first board; the others follow it
    #[arg(long, default_value = "192.0.2.11", value_name = "IP", help_heading = "Target")]
    pub board_address: Ipv4Addr,
    /// Between two reports of a board, milliseconds
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(10..=10_000), value_name = "MS", help_heading = "Target")]
    pub report_ms: u16,

    /// Units per second; with --search the highest rate to try
    #[arg(long, visible_alias = "pps", value_parser = positive, value_name = "N", conflicts_with = "percent", help_heading = "Load")]
    pub rate: Option<f64>,
    /// Rate as a share of the clients' line, percent
    #[arg(long, value_parser = percent, value_name = "P", help_heading = "Load")]
    pub percent: Option<f64>,
    /// How long to send, seconds; with --search, for each trial (RFC 2544 section 24 wants 60)
    #[arg(long, default_value_t = 10.0, value_parser = duration, value_name = "S", help_heading = "Load")]
    pub duration: f64,
    /// Most units to send [default: as many as the duration holds]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N", help_heading = "Load")]
    pub packets: Option<u64>,
    /// Flows; for connections, how many there can be at once
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1 << 26), value_name = "N", help_heading = "Load")]
    pub flows: u32,
    /// Frame sizes of established and udp, octets with frame check sequence: one, a list in turn, or `imix`
    #[arg(long, default_value = "64", value_name = "SIZES", help_heading = "Load")]
    pub size: Sizes,
    /// Rate at which established opens and ends its connections, per second
    #[arg(long, default_value_t = 10_000.0, value_parser = positive, value_name = "N", help_heading = "Load")]
    pub open_rate: f64,
    /// Path that clients ask for
    #[arg(long, default_value = "/", value_parser = path, help_heading = "Load")]
    pub path: String,
    /// Octets of a board's answer; the client acknowledges every 2888
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20), value_name = "N", help_heading = "Load")]
    pub response_octets: u32,
    /// Until a client sends again, milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=60_000), value_name = "MS", help_heading = "Load")]
    pub rto_ms: u32,
    /// Until a connection has failed, milliseconds
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..=120_000), value_name = "MS", help_heading = "Load")]
    pub timeout_ms: u32,
    /// How long to wait for the last packets, milliseconds
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=60_000), value_name = "MS", help_heading = "Load")]
    pub drain_ms: u32,
    /// A start so far behind its time counts as late, microseconds
    #[arg(long, default_value_t = 100, value_name = "US", help_heading = "Load")]
    pub late_us: u32,
    /// How long after its time a sender that fell behind may go on, at least (else 2 % of the duration), milliseconds
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=60_000), value_name = "MS", help_heading = "Load")]
    pub overtime_ms: u32,

    /// Find the highest rate without loss (RFC 2544 section 26.1); starts at --rate, --percent, or the line's speed
    #[arg(long, help_heading = "Search")]
    pub search: bool,
    /// The search ends when it knows the rate as exactly as this, percent of the highest
    #[arg(long, default_value_t = 1.0, value_parser = percent, value_name = "P", help_heading = "Search")]
    pub resolution: f64,
    /// Loss that a trial may have, percent of the units; a connection that sent something again counts as well
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "P", help_heading = "Search")]
    pub loss: f64,
    /// Most trials
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N", help_heading = "Search")]
    pub trials: u32,
    /// A rate has failed when so many trials of it failed; 1 as in the RFC, more on noisy machines
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10), value_name = "N", help_heading = "Search")]
    pub attempts: u32,

    /// Write the report as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write a plot of the latency's percentiles
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub svg: Option<PathBuf>,
    /// No summary on the standard output, no progress
    #[arg(long, help_heading = "Output")]
    pub quiet: bool,
}

fn hex_u16(text: &str) -> Result<u16, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u16::from_str_radix(digits, 16).map_err(|_| "expected hexadecimal digits, such as 0x88b5".to_owned())
}

fn number(text: &str, low: f64, high: f64, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (low..=high).contains(n)).ok_or_else(|| format!("expected {what}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, 0.1, 1e9, "a number from 0.1 to 1e9")
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, 0.001, 100.0, "a number from 0.001 to 100")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 100.0, "a number from 0 to 100")
}

fn duration(text: &str) -> Result<f64, String> {
    number(text, 0.001, 86_400.0, "seconds from 0.001 to 86400")
}

fn path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("expected a path from / on, without spaces, of at most 1024 octets".into())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(options: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["ipos-pktgen"], options].concat())
    }

    #[test]
    fn the_command_line_is_consistent_and_every_option_is_described() {
        Cli::command().debug_assert();
        for argument in Cli::command().get_arguments() {
            assert!(argument.get_help().is_some(), "{}", argument.get_id());
        }
    }

    #[test]
    fn options_have_their_defaults() {
        let cli =
            parse(&["connections", "--client-port", "net_null0", "--rate", "100"]).expect("a command line");
        assert_eq!((cli.profile, cli.boards, cli.ethertype), (Kind::Connections, 2, 0x88b5));
        assert_eq!(cli.rate, Some(100.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            &["connections"][..],
            &["nonsense", "--client-port", "net_null0"],
            &["udp", "--client-port", "net_null0", "--rate", "0"],
            &["udp", "--client-port", "net_null0", "--rate", "nan"],
            &["udp", "--client-port", "net_null0", "--rate", "5", "--percent", "5"],
            &["udp", "--client-port", "net_null0", "--percent", "101"],
            &["udp", "--client-port", "net_null0", "--size", "63"],
            &["udp", "--client-port", "net_null0", "--path", "a b"],
            &["udp", "--client-port", "net_null0", "--ethertype", "0x12345"],
        ] {
            let error = parse(wrong).expect_err("a command line that makes no sense");
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
    }
}
