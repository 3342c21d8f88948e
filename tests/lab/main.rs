//! The tests in the lab: real clients, real servers, the appliance and the agents as they are shipped.
//!
//! Tests that need the same shape of lab share one; a test that fails takes its lab with it, so that the next one starts
//! with a fresh one. Needs root and the release binaries (`make build`); `make test-lab` sees to both.

mod admin;
mod cost;
mod failure;
mod fitness;
mod forwarded;
mod frames;
mod health;
mod http;
mod kinds;
mod lifecycle;
mod limits;
mod loss;
mod moves;
mod operate;
mod placement;
mod quic;
mod restart;
mod sessions;
mod shared;
mod spawn;
mod tables;
mod tcp;
mod tls;
mod urls;

use std::process::ExitCode;

use ipos_tests::lab::{deploy_lab, said};
use ipos_tests::{Shape, command};
use libtest_mimic::Arguments;

/// What a plain `deploy/lab up` builds: two ports on af_packet, EtherType 0x88b5, hugepages.
const PLAIN: Shape = Shape { name: "plain", options: &[] };

/// The other driver, the figure's EtherType, no hugepages.
const XDP: Shape =
    Shape { name: "xdp", options: &["--port", "af_xdp", "--ethertype", "0x0007", "--memory", "no-huge"] };

/// One port that faces clients and boards.
const ONE_PORT: Shape = Shape { name: "one_port", options: &["--one-port", "--ethertype", "0x0007"] };

/// Boards are checked.
const CHECKED: Shape = Shape { name: "checked", options: &["--check", "/health"] };

/// Two workers behind two queues per port.
const WORKERS: Shape = Shape { name: "two_workers", options: &["--workers", "2", "--memory", "no-huge"] };

/// nginx is started by the boards' agents.
const SPAWN: Shape = Shape { name: "spawn", options: &["--spawn", "--memory", "no-huge"] };
/// Services that are merely forwarded.
const FORWARDED: Shape = Shape { name: "forwarded", options: &["--forwarded", "--memory", "no-huge"] };

/// The same, with two workers.
const FORWARDED_WORKERS: Shape = Shape {
    name: "forwarded_two_workers",
    options: &["--forwarded", "--workers", "2", "--memory", "no-huge"],
};

/// Four boards that take 1, 2, 4 and 8 ms for a request to the timed services.
const UNEQUAL: Shape =
    Shape { name: "unequal", options: &["--boards", "4", "--service-ms", "1,2,4,8", "--memory", "no-huge"] };

/// A service of each kind.
const SERVICES: Shape = Shape { name: "services", options: &["--services", "--memory", "no-huge"] };

/// The same, with two workers.
const SERVICES_WORKERS: Shape =
    Shape { name: "services_two_workers", options: &["--services", "--workers", "2", "--memory", "no-huge"] };

/// A test: its name, the lab that it needs, what it does.
pub type Test = (&'static str, fn(&ipos_tests::Lab));

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // All tests share the machine's namespaces.
    arguments.test_threads = Some(1);
    if !arguments.list {
        let state = said(&deploy_lab(&["status"]));
        if !state.starts_with("no lab is up") {
            eprintln!("the lab tests build labs of their own: {}(take it down with `make clean-lab`)", state);
            return ExitCode::FAILURE;
        }
    }
    let all: &[&[Test]] = &[
        http::CORE,
        http::TESTS,
        tcp::TESTS,
        admin::TESTS,
        tables::TESTS,
        frames::TESTS,
        failure::TESTS,
        loss::TESTS,
        moves::TESTS,
        restart::TESTS,
        operate::TESTS,
        urls::TESTS,
        limits::TESTS,
    ];
    let mut trials = Vec::new();
    for (shape, groups) in [
        (PLAIN, all),
        (PLAIN, &[cost::TESTS][..]),
        (XDP, &[http::CORE, restart::CORE, admin::CORE, frames::CORE][..]),
        (ONE_PORT, &[http::CORE, restart::CORE, frames::BOTH][..]),
        (WORKERS, all),
        (CHECKED, &[health::TESTS][..]),
        (SPAWN, &[spawn::TESTS][..]),
        (UNEQUAL, &[placement::TESTS, fitness::TESTS][..]),
        (SERVICES, &[kinds::TESTS, tls::TESTS, limits::OF_KINDS, quic::TESTS, sessions::TESTS][..]),
        (SERVICES_WORKERS, &[sessions::CORE][..]),
        (FORWARDED, &[forwarded::TESTS, limits::OF_FORWARDED][..]),
        (FORWARDED_WORKERS, &[forwarded::CORE, limits::OF_FORWARDED][..]),
    ] {
        for (name, test) in groups.iter().copied().flatten().copied() {
            trials.push(shared::trial(shape, name, test));
        }
    }
    trials.extend(lifecycle::TESTS.iter().map(|(name, test)| shared::alone(name, *test)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared::take_down();
    conclusion.exit_code()
}
