//! The soak: traffic of every kind at once through a farm to which things happen at random, and what must be true all the same. No octet is
//! wrong, nothing fails that may not (`verdict.rs` says what may), no request is served twice; at the end nothing is left, nothing has
//! grown, and the packet sum is exact. `make soak`; tests/README.md.
//!
//! From the environment: SOAK_MINUTES (30), SOAK_SEED (drawn, and said), SOAK_REPORT (where the report goes).

mod events;
mod plan;
mod processes;
mod report;
mod rest;
mod traffic;
mod verdict;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipos_tests::lab::{deploy_lab, repository, said};
use ipos_tests::{Lab, Shape};

use crate::events::Farm;
use crate::plan::{Event, Plan};
use crate::processes::Processes;
use crate::report::Report;
use crate::traffic::{Clients, Clock, Said};
use crate::verdict::Happened;

/// Three boards with a service of each kind.
const SHAPE: Shape = Shape { name: "soak", options: &OPTIONS };
/// The same, with two workers: seeds that are even.
const WORKERS: Shape = Shape {
    name: "soak_two_workers",
    options: &["--workers", "2", "--boards", "3", "--services", "--forwarded", "--memory", "no-huge"],
};
const OPTIONS: [&str; 6] = ["--boards", "3", "--services", "--forwarded", "--memory", "no-huge"];
/// No process of ours is restarted in the last part of the run, so that leaks have the time to show: a quarter, but at least so much.
const CALM_MIN: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(100);

struct Options {
    time: Duration,
    seed: u64,
    report: PathBuf,
}

impl Options {
    fn read() -> Result<Self, String> {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str, default: f64| match text(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| format!("{name}={text}: expected a number")),
        };
        let minutes = number("SOAK_MINUTES", 30.0)?;
        if !(2.0..=10_000.0).contains(&minutes) {
            return Err(format!("SOAK_MINUTES={minutes}: 2 to 10000 are possible; less shows no leak"));
        }
        let seed = match text("SOAK_SEED") {
            Some(text) => text.parse().map_err(|_| format!("SOAK_SEED={text}: expected a whole number"))?,
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs()) % 1_000_000,
        };
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from);
        let report =
            text("SOAK_REPORT").map_or_else(|| target.join(format!("soak-{seed}.json")), PathBuf::from);
        Ok(Self { time: Duration::from_secs_f64(minutes * 60.0), seed, report })
    }
}

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("soak: {error}");
            return ExitCode::FAILURE;
        }
    };
    let state = said(&deploy_lab(&["status"]));
    if !state.starts_with("no lab is up") {
        eprintln!("soak: it builds a lab of its own: {state}(take it down with `make clean-lab`)");
        return ExitCode::FAILURE;
    }
    println!("soak: {:.1} minutes, SOAK_SEED={}", options.time.as_secs_f64() / 60.0, options.seed);
    let lab = Lab::up(if options.seed.is_multiple_of(2) { WORKERS } else { SHAPE });
    let report = soak(&lab, &options);
    report.write(&options.report);
    print!("{report}");
    println!("soak: the report is {}", options.report.display());
    if report.failures.is_empty() {
        lab.down();
        println!("soak: ok");
        return ExitCode::SUCCESS;
    }
    eprintln!("{}", lab.logs());
    for failure in report.failures.iter().take(50) {
        eprintln!("soak: {failure}");
    }
    eprintln!(
        "soak: FAILED for {} reasons; SOAK_SEED={} has the same events again",
        report.failures.len(),
        options.seed
    );
    ExitCode::FAILURE
}

/// The words of a panic.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// All of a run but the lab.
fn soak(lab: &Lab, options: &Options) -> Report {
    let mut report = Report { seed: options.seed, time: options.time, ..Report::default() };
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut farm = Farm::new(lab);
        lab.exec("client", &["ip", "address", "add", "203.0.113.11/24", "dev", "eth0"]);
        let (mut clients, hearing) = Clients::start(lab, options.seed);
        thread::scope(|scope| {
            let reader = scope.spawn(|| Said::read(lab, hearing));
            let ran = run(&mut farm, &mut clients, options, &mut report);
            report.failures.extend(ran.err());
            // Without it the reader would read for ever.
            if let Err(error) = clients.stop() {
                report.failures.push(error);
            }
            match reader.join() {
                Ok(said) => report.said = said,
                Err(panic) => report.failures.push(words(&*panic)),
            }
        });
        drop(clients);
        report.judge();
        let is_forced = report.happened.iter().any(|one| one.event == Event::RemoveByForce);
        report.failures.extend(rest::complaints(lab, is_forced));
        let (served, twice) = rest::served();
        report.served = served;
        report.failures.extend(twice);
        report.counts = rest::counts(lab);
    }));
    if let Err(panic) = ran {
        report.failures.push(words(&*panic));
    }
    let grown = report.processes.grown();
    report.failures.extend(grown);
    report
}

/// Events until the time is over.
fn run(farm: &mut Farm, clients: &mut Clients, options: &Options, report: &mut Report) -> Result<(), String> {
    let clock = clients.clock()?;
    let begin = Instant::now();
    let end = begin + options.time;
    let calm = end - CALM_MIN.max(options.time / 4);
    for (pause, event) in Plan::new(options.seed) {
        let is_calm = Instant::now() >= calm;
        if is_calm && event.is_restart() {
            continue;
        }
        if !wait(pause, end, &mut report.processes) {
            return Ok(());
        }
        let happened = happen(farm, event, &clock)?;
        println!(
            "soak: {:6.1} s: {event:?}, well again after {:.1} s",
            begin.elapsed().as_secs_f64(),
            happened.until_s - happened.from_s
        );
        report.happened.push(happened);
    }
    Ok(())
}

/// Lets so much time pass; false when the run is over.
fn wait(pause: Duration, end: Instant, processes: &mut Processes) -> bool {
    let until = Instant::now() + pause;
    while Instant::now() < until.min(end) {
        processes.look();
        thread::sleep(STEP);
    }
    Instant::now() < end
}

fn happen(farm: &mut Farm, event: Event, clock: &Clock) -> Result<Happened, String> {
    let from_s = clock.now_s();
    let away = catch_unwind(AssertUnwindSafe(|| farm.happen(event)))
        .map_err(|panic| format!("{event:?}: {}", words(&*panic)))?;
    Ok(Happened { event, from_s, until_s: clock.now_s(), away_s: away.as_secs_f64() })
}
