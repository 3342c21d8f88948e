//! What the options mean together: rates against the line, flows against addresses and memory.

use crate::addressing::Clients;
use crate::cli::Cli;
use crate::engine::Target;
use crate::error::Error;
use crate::lane::Lane;
use crate::profiles::{Kind, SynFlood};
use crate::size::{FCS_OCTETS, LINE_OCTETS, SHORTEST};

/// Octets that a flow takes in the tables of both ends, generously.
const FLOW_OCTETS: u64 = 160;
/// Ethernet, IPv4 and TCP header without options.
const HEADERS: usize = 14 + 20 + 20;
/// Octets of the options of a client's SYN.
const SYN_OPTIONS: usize = 12;
/// Octets that one ACK of an answer acknowledges.
const ACK_EVERY: u32 = 2888;

/// The clients of a command line.
#[must_use]
pub fn clients(cli: &Cli) -> Clients {
    Clients::new(cli.clients, cli.client_count, *cli.service.ip(), cli.service.port())
}

/// What clients ask.
#[must_use]
pub fn request(cli: &Cli) -> String {
    format!("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ipos-pktgen\r\n\r\n", cli.path, cli.service.ip())
}

/// Checks the options against each other, before anything is started.
///
/// # Errors
/// [`Error::Options`].
pub fn check_options(cli: &Cli) -> Result<(), Error> {
    let fail = |what: String| Err(Error::Options(what));
    if cli.rate.is_none() && cli.percent.is_none() && !cli.search {
        return fail("no rate: give --rate N, --percent P, or --search".to_owned());
    }
    let clients = clients(cli);
    if cli.profile != Kind::SynFlood && u64::from(cli.flows) > clients.capacity() {
        return fail(format!(
            "{} flows need more than {} client addresses with 64512 ports each: raise --client-count to {}",
            cli.flows,
            cli.client_count,
            cli.flows.div_ceil(crate::addressing::PORTS)
        ));
    }
    let last = cli.clients.to_bits().checked_add(cli.client_count - 1).map(std::net::Ipv4Addr::from_bits);
    let may_be =
        |address: std::net::Ipv4Addr| (1..224).contains(&address.octets()[0]) && !address.is_loopback();
    if !last.is_some_and(|last| may_be(last) && may_be(cli.clients)) {
        return fail(format!("--clients {}: these are no addresses that clients can have", cli.clients));
    }
    if clients.has(*cli.service.ip()) {
        return fail(format!(
            "the service {} is one of the clients: change --service or --clients",
            cli.service.ip()
        ));
    }
    if cli.target == Target::Appliance && cli.profile.needs_farm() && cli.farm_port.is_none() {
        return fail(format!(
            "{} against an appliance needs the boards' side: give --farm-port, or --target loop for a cable",
            cli.profile.name()
        ));
    }
    if cli.timeout_ms < cli.rto_ms {
        return fail(format!("--timeout-ms {} is less than --rto-ms {}", cli.timeout_ms, cli.rto_ms));
    }
    let (need, have) = (u64::from(cli.flows) * FLOW_OCTETS, available_octets());
    if cli.profile.needs_farm() && need > have {
        return fail(format!(
            "{} flows take {} MiB and {} MiB are available: lower --flows",
            cli.flows,
            need >> 20,
            have >> 20
        ));
    }
    Ok(())
}

/// Memory that a program may still have; all there is to address if the kernel does not tell.
fn available_octets() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024)
}

/// Octets that a unit takes on the clients' line towards the target, preambles and gaps included.
#[must_use]
pub fn line_octets(cli: &Cli) -> f64 {
    let frame = |octets: usize| {
        (octets + usize::from(FCS_OCTETS)).max(usize::from(SHORTEST)) + usize::from(LINE_OCTETS)
    };
    match cli.profile {
        Kind::SynFlood => frame(SynFlood::frame_octets(&clients(cli))) as f64,
        Kind::Established | Kind::Udp => cli.size.line_octets(),
        Kind::Connections => {
            let acks = cli.response_octets.div_ceil(ACK_EVERY) as usize;
            // The handshake's ACK, those of the answer, FIN, and the last ACK.
            let bare = frame(HEADERS) * (1 + acks + 2);
            (frame(HEADERS + SYN_OPTIONS) + frame(HEADERS + request(cli).len()) + bare) as f64
        }
    }
}

/// Bits per second of the clients' line: the option, or what the port tells.
fn line_bps(cli: &Cli, told_mbps: u32) -> Option<f64> {
    cli.line_mbps.or(Some(told_mbps).filter(|mbps| *mbps > 0)).map(|mbps| f64::from(mbps) * 1e6)
}

/// Units per second that the clients' line can carry, if its speed is known.
#[must_use]
pub fn line_rate(cli: &Cli, lane: &Lane) -> Option<f64> {
    line_bps(cli, lane.port().link().speed_mbps).map(|bps| bps / 8.0 / line_octets(cli))
}

/// The rate of a run (of a search: the highest to try), units per second.
///
/// # Errors
/// [`Error::AboveLine`], [`Error::NoLineSpeed`].
pub fn rate(cli: &Cli, line_rate: Option<f64>, port: &str) -> Result<f64, Error> {
    let port = || port.to_owned();
    match (cli.rate, cli.percent, line_rate) {
        (Some(rate), _, Some(max)) if rate > max => {
            let gbps = |rate: f64| rate * line_octets(cli) * 8.0 / 1e9;
            let units = if cli.profile == Kind::Connections { "connections" } else { "packets" };
            Err(Error::AboveLine {
                port: port(),
                units,
                asked_mpps: rate / 1e6,
                asked_gbps: gbps(rate),
                line_gbps: gbps(max),
                max_mpps: max / 1e6,
            })
        }
        (Some(rate), _, _) => Ok(rate),
        (None, Some(percent), Some(max)) => Ok(max * percent / 100.0),
        (None, None, Some(max)) => Ok(max),
        (None, percent, None) => {
            let option = if percent.is_some() { "--percent" } else { "--search without --rate" };
            Err(Error::NoLineSpeed { port: port(), option })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn cli(options: &str) -> Cli {
        let program = "ipos-pktgen --client-port net_null0 ";
        Cli::try_parse_from(format!("{program}{options}").split_whitespace()).expect("a command line")
    }

    #[test]
    fn line_rates_are_those_of_the_textbook() {
        let cli = cli("udp --percent 50 --line-mbps 10000");
        let max = line_bps(&cli, 0).map(|bps| bps / 8.0 / line_octets(&cli));
        assert!(max.is_some_and(|max| (max - 14_880_952.0).abs() < 1.0), "{max:?}");
        let half = rate(&cli, max, "p").expect("a rate");
        assert!((half - 7_440_476.0).abs() < 1.0, "{half}");
    }

    #[test]
    fn a_rate_above_the_line_is_refused_with_the_rate_that_fits() {
        let cli = cli("established --rate 20e6 --line-mbps 10000");
        let error = rate(&cli, Some(14_880_952.4), "net_null0").expect_err("too much").to_string();
        assert!(error.contains("13.44 Gbit/s") && error.contains("14.881 M fit"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn without_a_speed_percent_and_search_have_no_meaning() {
        for options in ["udp --percent 5", "udp --search"] {
            let error = rate(&cli(options), None, "p").expect_err(options).to_string();
            assert!(error.contains("--line-mbps"), "{error}");
        }
        assert_eq!(rate(&cli("udp --search --rate 9"), None, "p").ok(), Some(9.0));
    }

    #[test]
    fn options_that_contradict_each_other_are_named() {
        for (options, word) in [
            ("udp --target loop", "--rate"),
            ("connections --rate 1", "--farm-port"),
            ("udp --target loop --rate 1 --flows 100000 --client-count 1", "--client-count to 2"),
            ("udp --target loop --rate 1 --clients 224.0.0.1", "--clients"),
            ("udp --target loop --rate 1 --clients 223.255.255.255", "--clients"),
            ("udp --target loop --rate 1 --clients 198.51.100.1", "--service"),
            ("connections --target loop --rate 1 --timeout-ms 10", "--rto-ms"),
        ] {
            let error = check_options(&cli(options)).expect_err(options).to_string();
            assert!(error.contains(word), "{error}");
        }
        check_options(&cli("syn-flood --rate 1")).expect("a flood needs no boards");
    }

    #[test]
    fn a_connection_takes_its_packets_on_the_line() {
        // SYN 66 + 4 + 20, ACK + ACK + FIN + ACK at 84 each, and the request.
        let cli = cli("connections --rate 1 --response-octets 1024");
        let request_octets = (HEADERS + request(&cli).len() + 24) as f64;
        assert!((line_octets(&cli) - (90.0 + 4.0 * 84.0 + request_octets)).abs() < 1e-9);
    }
}
