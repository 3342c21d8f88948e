//! A run from the command line to the report: ports, addresses, a first connection, trials, the end.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::addressing::Clients;
use crate::boards::{Boards, Farm};
use crate::cli::Cli;
use crate::client::{ClientSide, ConnectionCounters, Patience};
use crate::clock::Clock;
use crate::engine::{Engine, Target};
use crate::error::Error;
use crate::lane::Lane;
use crate::line;
use crate::ports;
use crate::profiles::{Connections, Established, Kind, Phase, Profile, SynFlood, Udp};
use crate::progress::Watch;
use crate::report::{ConnectionFigures, Ending, LatencyFigures, Measured, Report};
use crate::schedule::SECOND_NS;
use crate::search::{SearchPlan, SearchResult, Tried, Verdict, search};
use crate::stop::Stop;
use crate::trial::{Plan, Runner, Trial};

const MS_NS: u64 = 1_000_000;
/// How long ARP may take, and how often it asks.
const ARP_LIMIT_NS: u64 = 5 * SECOND_NS;
const ARP_RETRY_NS: u64 = 100 * MS_NS;
/// Reports of the boards before the first connection.
const REPORTS_FIRST: u64 = 3;
/// How long a first connection is tried for.
const PROBE_LIMIT_NS: u64 = 10 * SECOND_NS;
/// Between opening (or ending) connections and the next step, so that the last packets are through.
const SETTLE_NS: u64 = 100 * MS_NS;

/// Runs what the command line asks for.
///
/// # Errors
/// [`Error`], before anything was measured.
pub fn run(cli: &Cli, stop: &Stop) -> Result<(Report, Option<Measured>), Error> {
    line::check_options(cli)?;
    // Dropped last, when the ports are closed.
    let _eal = ports::start_eal(cli)?;
    let client_lane = ports::start_port(&cli.client_port, cli)?;
    let farm_lane = cli.farm_port.as_deref().map(|device| ports::start_port(device, cli)).transpose()?;
    for lane in [Some(&client_lane), farm_lane.as_ref()].into_iter().flatten() {
        ports::wait_for_link(lane, cli.link_wait, || stop.is_set())?;
    }
    let line_rate = line::line_rate(cli, &client_lane);
    let rate = line::rate(cli, line_rate, client_lane.port().name())?;
    let mut session = Session { cli, runner: runner(cli, stop, client_lane, farm_lane)? };
    session.find_target()?;
    let opening = session.open()?;
    let (measured, found) = if cli.search {
        let (measured, found) = session.search(rate)?;
        (measured, Some(found))
    } else {
        (Some(session.measure(rate)), None)
    };
    session.close();
    session.runner.watch.clear();
    let ending = ending(stop, measured.as_ref(), found.as_ref());
    Ok((session.report(measured.as_ref(), found, opening, line_rate, ending), measured))
}

fn runner(cli: &Cli, stop: &Stop, client_lane: Lane, farm_lane: Option<Lane>) -> Result<Runner, Error> {
    let clients = line::clients(cli);
    let farm = Farm {
        ethertype: cli.ethertype,
        boards: cli.boards,
        first_address: cli.board_address,
        appliance: cli.appliance_address,
        report_ms: cli.report_ms,
        response_octets: cli.response_octets,
    };
    let slots = if cli.profile == Kind::SynFlood { 0 } else { cli.flows };
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let boards = Boards::new(farm, clients, slots, u32::try_from(epoch).unwrap_or(u32::MAX));
    let lanes = (client_lane, farm_lane);
    let engine = Engine::new(cli.target, clients, lanes, boards, profile(cli, clients), cli.next_hop);
    let watch = Watch::on_terminal(cli.quiet);
    Ok(Runner { engine, clock: Clock::start()?, stop: stop.clone(), idle: cli.idle, watch })
}

fn profile(cli: &Cli, clients: Clients) -> Box<dyn Profile> {
    let patience =
        Patience { rto_ns: u64::from(cli.rto_ms) * MS_NS, timeout_ns: u64::from(cli.timeout_ms) * MS_NS };
    let client_side =
        |hold_open| ClientSide::new(clients, cli.flows, line::request(cli).into_bytes(), patience, hold_open);
    match cli.profile {
        Kind::SynFlood => Box::new(SynFlood::new(clients)),
        Kind::Udp => Box::new(Udp::new(clients, cli.flows, cli.size.clone())),
        Kind::Connections => Box::new(Connections::new(client_side(false))),
        Kind::Established => {
            let opener = (cli.target == Target::Appliance).then(|| client_side(true));
            Box::new(Established::new(clients, cli.flows, cli.size.clone(), opener))
        }
    }
}

fn ending(stop: &Stop, measured: Option<&Measured>, found: Option<&SearchResult>) -> Ending {
    if stop.is_set() {
        return Ending::Stopped;
    }
    if found.is_some_and(|found| found.best_rate.is_none()) {
        return Ending::Failed;
    }
    match measured {
        Some(measured) if found.is_none() => {
            let failed = measured.connections.is_some_and(|c| c.counters.failed() > 0);
            if failed || measured.trial.tally.returned == 0 {
                Ending::Failed
            } else if measured.trial.is_reached() {
                Ending::Measured
            } else {
                Ending::RateNotReached
            }
        }
        _ => Ending::Measured,
    }
}

/// Why connections failed, in words.
fn why(counters: ConnectionCounters) -> String {
    format!(
        "{} without an answer, {} reset, {} answered by the appliance itself",
        counters.failed_timeout, counters.failed_reset, counters.failed_answered
    )
}

/// A trial of units as `phase` has them.
fn plan(cli: &Cli, phase: Phase, rate: f64, duration_s: f64, units_max: u64) -> Plan {
    let are_connections = phase != Phase::Measure || cli.profile == Kind::Connections;
    // A connection's last word is its time-out; a packet that is lost has none.
    let last_word_ms = if are_connections { u64::from(cli.timeout_ms) + u64::from(cli.rto_ms) } else { 0 };
    let drain_ns = last_word_ms.max(cli.drain_ms.into()) * MS_NS;
    Plan {
        rate,
        duration_s,
        units_max,
        drain_ns,
        late_after_ns: u64::from(cli.late_us) * 1_000,
        overtime_ns: u64::from(cli.overtime_ms) * MS_NS,
    }
}

struct Session<'a> {
    cli: &'a Cli,
    runner: Runner,
}

impl Session<'_> {
    fn stopped(&self) -> Result<(), Error> {
        if self.runner.stop.is_set() { Err(Error::Stopped) } else { Ok(()) }
    }

    fn is_connected(&self) -> bool {
        matches!(self.cli.profile, Kind::Connections | Kind::Established)
    }

    /// ARP on both sides, reports, and one connection that must complete.
    fn find_target(&mut self) -> Result<(), Error> {
        if self.cli.target == Target::Loop {
            return Ok(());
        }
        let mut ask_at_ns = 0;
        let found = self.runner.poll_until(ARP_LIMIT_NS, |engine, now_ns| {
            if !engine.knows_next_hop() && now_ns >= ask_at_ns {
                ask_at_ns = now_ns + ARP_RETRY_NS;
                engine.ask_next_hop();
            }
            engine.knows_next_hop() && (engine.farm_lane().is_none() || engine.boards().knows_appliance())
        });
        if !found {
            self.stopped()?;
            let engine = &self.runner.engine;
            if !engine.knows_next_hop() {
                let port = engine.client_lane().port().name().to_owned();
                return Err(Error::NoNextHop { service: *self.cli.service.ip(), port });
            }
            let port = engine.farm_lane().map_or("", |lane| lane.port().name()).to_owned();
            return Err(Error::NoAppliance { appliance: self.cli.appliance_address, port });
        }
        if self.is_connected() { self.probe() } else { Ok(()) }
    }

    fn probe(&mut self) -> Result<(), Error> {
        let reports = u64::from(self.cli.boards) * REPORTS_FIRST;
        let settle_ns = u64::from(self.cli.report_ms) * MS_NS * REPORTS_FIRST * 2;
        self.runner.poll_until(settle_ns, |engine, _| engine.boards().counters().reports >= reports);
        self.runner.engine.profile_mut().enter(Phase::Open);
        let mut why_not = why(ConnectionCounters::default());
        let end_ns = self.runner.clock.now_ns() + PROBE_LIMIT_NS;
        while self.runner.clock.now_ns() < end_ns {
            let trial = self.runner.trial(&plan(self.cli, Phase::Open, 100.0, 1.0, 1));
            if trial.tally.returned > 0 {
                return Ok(());
            }
            self.stopped()?;
            if let Some((counters, _)) = self.runner.engine.profile().connections() {
                why_not = why(counters);
            }
        }
        let last = self.cli.board_address.to_bits().saturating_add(u32::from(self.cli.boards) - 1);
        let boards = format!("{} to {}", self.cli.board_address, std::net::Ipv4Addr::from_bits(last));
        let service = self.cli.service.to_string();
        Err(Error::NoConnection { service, boards, ethertype: self.cli.ethertype, why: why_not })
    }

    /// Opens the connections that `established` sends on.
    fn open(&mut self) -> Result<Option<ConnectionFigures>, Error> {
        let is_needed = self.cli.profile == Kind::Established && self.cli.target == Target::Appliance;
        if !is_needed {
            return Ok(None);
        }
        self.runner.watch.label("opening");
        let wanted = u64::from(self.cli.flows);
        let missing = wanted.saturating_sub(self.runner.engine.profile().held_open()).max(1);
        let rate = self.cli.open_rate;
        self.runner.trial(&plan(self.cli, Phase::Open, rate, missing as f64 / rate, missing));
        self.stopped()?;
        let profile = self.runner.engine.profile();
        let figures =
            profile.connections().map(|(counters, latency)| ConnectionFigures::of(counters, latency));
        let open = profile.held_open();
        if open < wanted {
            let why = why(figures.map(|figures| figures.counters).unwrap_or_default());
            return Err(Error::NotOpened { open, wanted, why });
        }
        self.runner.poll_until(SETTLE_NS, |_, _| false);
        self.runner.engine.profile_mut().enter(Phase::Measure);
        Ok(figures)
    }

    /// Ends them again, so that neither appliance nor later runs have to do with them.
    fn close(&mut self) {
        let open = self.runner.engine.profile().held_open();
        if open == 0 {
            // The clients' last words are still on their way to the boards.
            self.runner.poll_until(SETTLE_NS, |engine, _| engine.boards().held() == 0);
            return;
        }
        self.runner.watch.label("closing");
        self.runner.engine.profile_mut().enter(Phase::Close);
        let rate = self.cli.open_rate;
        // Also after a stop: it is bounded by the number of connections.
        let stop = std::mem::take(&mut self.runner.stop);
        self.runner.trial(&plan(self.cli, Phase::Close, rate, open as f64 / rate, open));
        self.runner.poll_until(SETTLE_NS, |_, _| false);
        self.runner.stop = stop;
    }

    fn measure(&mut self, rate: f64) -> Measured {
        let cli = self.cli;
        self.runner.watch.label(cli.profile.name());
        let units_max = cli.packets.unwrap_or(u64::MAX);
        let trial = self.runner.trial(&plan(cli, Phase::Measure, rate, cli.duration, units_max));
        let profile = self.runner.engine.profile();
        let connections =
            profile.connections().map(|(counters, latency)| ConnectionFigures::of(counters, latency));
        Measured { trial, latency: profile.latency().clone(), connections }
    }

    fn search(&mut self, max_rate: f64) -> Result<(Option<Measured>, SearchResult), Error> {
        let (tolerated, cli) = (self.cli.loss / 100.0, self.cli);
        let plan = SearchPlan {
            max_rate,
            resolution: max_rate * cli.resolution / 100.0,
            trials_max: cli.trials,
            attempts: cli.attempts,
        };
        let mut best = None;
        let found = search(&plan, |rate| {
            let measured = self.measure(rate);
            let verdict = if self.runner.stop.is_set() {
                Verdict::Stopped
            } else if !measured.trial.is_held() {
                Verdict::NotHeld
            } else if measured.loss() > tolerated {
                Verdict::Lost
            } else {
                Verdict::Passed
            };
            let Trial { reached_rate, lag_max_us, .. } = measured.trial;
            let lost = measured.lost();
            if verdict == Verdict::Passed {
                best = Some(measured);
            }
            Ok::<_, Error>(Tried { verdict, reached_rate, lost, lag_max_us })
        })?;
        Ok((best, found))
    }

    fn report(
        &self,
        measured: Option<&Measured>,
        search: Option<SearchResult>,
        opening: Option<ConnectionFigures>,
        line_rate: Option<f64>,
        ending: Ending,
    ) -> Report {
        let (cli, engine) = (self.cli, &self.runner.engine);
        let ports = [Some(engine.client_lane()), engine.farm_lane()];
        Report {
            generator: concat!("ipos-pktgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            profile: cli.profile,
            target: cli.target,
            ports: ports.into_iter().flatten().map(|lane| lane.port().name().to_owned()).collect(),
            service: cli.service.to_string(),
            flows: cli.flows,
            line_rate,
            trial: measured.map(|measured| measured.trial),
            latency: measured.map(|m| LatencyFigures::of(&m.latency)).unwrap_or_default(),
            connections: measured.and_then(|measured| measured.connections),
            opening,
            search,
            boards: self.runner.boards(),
            ending,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn only_connections_are_waited_for_until_their_time_out() {
        let drain_ms = |profile: &str, phase| {
            let words = ["ipos-pktgen", profile, "--client-port", "net_null0", "--drain-ms", "300"];
            let patience = ["--timeout-ms", "4000", "--rto-ms", "1000"];
            let cli = Cli::try_parse_from(words.into_iter().chain(patience)).expect("a command line");
            plan(&cli, phase, 1.0, 1.0, 1).drain_ns / MS_NS
        };
        assert_eq!(drain_ms("connections", Phase::Measure), 5_000);
        assert_eq!(drain_ms("established", Phase::Open), 5_000);
        // Its packets are not sent again: what is not back soon never will be, and a search has many such trials.
        assert_eq!(drain_ms("established", Phase::Measure), 300);
        assert_eq!(drain_ms("udp", Phase::Measure), 300);
    }
}
