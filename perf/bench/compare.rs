//! P7 and P8: the appliance against other balancers, in the lab.

use std::time::Duration;

use anyhow::Context as _;

use crate::balancers::{Arena, Contender, contenders};
use crate::lab::{Lab, Rest, Spread};
use crate::load::{Load, Visited};
use crate::report::{Row, Target};
use crate::stats::{Runs, paired};
use crate::targets::Desk;

/// Many clients, each request on a connection of its own.
const NEW: Load = Load { path: "/1k", connections: 64, is_new: true };
/// Many clients that keep their connections.
const KEPT: Load = Load { path: "/1k", connections: 64, is_new: false };
/// A few that take large bodies.
const BODIES: Load = Load { path: "/10m", connections: 4, is_new: false };

/// Control core and worker sleep after the first empty poll: neither takes from the other, nor from receive work, what it
/// does not need.
pub const SLEEP: Rest = Rest { control_polls: 1, worker_polls: 1, sleep_us: 20 };
/// The same, but for longer: the fewer empty polls, the less an error in their price matters. What arrives meanwhile is one
/// burst, as it is on a CPU that is busy.
const DOZE: Rest = Rest { sleep_us: 100, ..SLEEP };
/// The worker never sleeps, as on a CPU of its own; the control core shares it, and must not hold it.
pub const SPIN: Rest = Rest { worker_polls: 1_000_000_000, ..SLEEP };

/// A figure of every contender, run by run; and what they all are.
struct Table<'a> {
    id: &'static str,
    what: String,
    unit: &'static str,
    contenders: &'a [Contender],
    figures: Vec<Vec<f64>>,
}

impl Table<'_> {
    /// Each run of everybody, on standard error: the rows have only the medians of the baselines.
    fn show_runs(&self) {
        for (contender, figures) in self.contenders.iter().zip(&self.figures) {
            let runs: Vec<String> = figures.iter().map(|figure| format!("{figure:.0}")).collect();
            eprintln!("ipos-bench: {}, {}, {}: {}", self.what, self.unit, contender.name, runs.join(" "));
        }
    }

    /// The rows: ours against each of the others; against HAProxy with a target.
    fn rows(&self, target: Option<Target>) -> anyhow::Result<Vec<Row>> {
        let ours = self.figures.first().context("no figure")?;
        let others = self.contenders.iter().zip(&self.figures).skip(1);
        let mut rows = Vec::new();
        for (contender, theirs) in others {
            let what = format!("{}; baseline {}", self.what, contender.name);
            let row = Row::new(self.id, what, self.unit, &Runs::new(ours.clone()).context("no run")?);
            let ratio = paired(ours, theirs, |ours, theirs| ours / theirs).context("no run")?;
            let row = row.against(Runs::new(theirs.clone()).context("no run")?.median(), ratio.median());
            rows.push(match target {
                Some(target) if contender.is_haproxy => row.held_to(target),
                _ => row,
            });
        }
        Ok(rows)
    }
}

/// Says what is missing to compare with.
fn note_missing(desk: &mut Desk<'_>, lab: &Lab, id: &str) {
    if !lab.has_haproxy() {
        desk.fail(format!(
            "{id}: no baseline HAProxy, it is not installed (Debian: apt-get install haproxy)"
        ));
    }
}

/// What a bill is divided by.
#[derive(Clone, Copy)]
enum Per {
    Request,
    Gb,
}

/// One line of P7.
struct Measurement {
    what: &'static str,
    load: Load,
    per: Per,
    target: Option<Target>,
}

const STEERED: [Measurement; 3] = [
    Measurement {
        what: "CPU per new connection, 1 kB",
        load: NEW,
        per: Per::Request,
        target: Some(Target::RatioAtMost(0.333)),
    },
    Measurement {
        what: "CPU per GB, 10 MB bodies",
        load: BODIES,
        per: Per::Gb,
        target: Some(Target::RatioAtMost(0.05)),
    },
    Measurement { what: "CPU per keep-alive request, 1 kB", load: KEPT, per: Per::Request, target: None },
];

const UNSTEERED: [Measurement; 1] = [Measurement {
    what: "CPU per new connection, 1 kB, receive work unsteered",
    load: NEW,
    per: Per::Request,
    target: None,
}];

/// CPU per connection, per request and per GB.
pub fn p7(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let (machine, is_quick, runs) = (desk.options.machine, desk.options.quick, desk.options.runs);
    let lab = Lab::up(machine, DOZE)?;
    note_missing(desk, &lab, "p7");
    let contenders = contenders(&lab, is_quick, false);
    let window = Duration::from_millis(if is_quick { 200 } else { 2000 });
    for (spread, measurements) in [(Spread::OwnCpu, STEERED.as_slice()), (Spread::Unsteered, &UNSTEERED)] {
        let mut arena = Arena::new(&lab, machine, spread, is_quick)?;
        let mut meter = arena.meter()?;
        for Measurement { what, load, per, target } in measurements {
            let figures = arena.rounds(&contenders, runs, |arena, contender| {
                let (seconds, done) = arena.bill(&mut meter, contender, *load, window)?;
                Ok(match per {
                    Per::Request => seconds * 1e6 / done.requests,
                    Per::Gb => seconds * 1e3 / (done.octets / 1e9),
                })
            })?;
            let what = format!("{what}{}", arena.remark());
            let unit = if matches!(per, Per::Gb) { "ms" } else { "us" };
            let table = Table { id: "P7", what, unit, contenders: &contenders, figures };
            table.show_runs();
            desk.rows.extend(table.rows(*target)?);
        }
    }
    Ok(())
}

/// Time to the first octet.
pub fn p8(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let (machine, is_quick, runs) = (desk.options.machine, desk.options.quick, desk.options.runs);
    let (warm_up, visits) = if is_quick { (5, 50) } else { (100, 2000) };
    for (spread, rest, how) in [
        (Spread::OwnCpu, SPIN, "balancer on its own CPU, the worker spins"),
        (Spread::OneCpu, SLEEP, "all on one CPU, the worker sleeps"),
    ] {
        let lab = Lab::up(machine, rest)?;
        if spread == Spread::OwnCpu {
            note_missing(desk, &lab, "p8");
        }
        let contenders = contenders(&lab, is_quick, true);
        let mut arena = Arena::new(&lab, machine, spread, is_quick)?;
        let visited =
            arena.rounds(&contenders, runs, |arena, contender| arena.visit(contender, warm_up, visits))?;
        let each = |figure: fn(&Visited) -> f64| -> Vec<Vec<f64>> {
            visited.iter().map(|runs| runs.iter().map(figure).collect()).collect()
        };
        let remark = arena.remark();
        for (figures, name) in [(each(|times| times.p50_us), "p50"), (each(|times| times.p99_us), "p99")] {
            let what = format!("time to first byte, {name}, {how}{remark}");
            let table = Table { id: "P8", what, unit: "us", contenders: &contenders, figures };
            table.show_runs();
            desk.rows.extend(table.rows(Some(Target::RatioAtMost(1.0)))?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_held_against_haproxy_and_only_compared_with_others() {
        let contender = |name, is_haproxy| Contender { name, address: "", is_haproxy };
        let contenders = [contender("ours", false), contender("HAProxy", true), contender("nginx", false)];
        let figures = vec![vec![10.0, 12.0, 11.0], vec![40.0, 48.0, 44.0], vec![22.0, 24.0, 22.0]];
        let table = Table { id: "P7", what: "CPU".to_owned(), unit: "us", contenders: &contenders, figures };
        let rows = table.rows(Some(Target::RatioAtMost(0.333))).expect("figures");
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].value, rows[0].baseline, rows[0].ratio), (11.0, Some(44.0), Some(0.25)));
        assert_eq!((rows[0].what.as_str(), rows[0].ok), ("CPU; baseline HAProxy", Some(true)));
        assert_eq!((rows[1].baseline, rows[1].ratio, rows[1].ok), (Some(22.0), Some(0.5), None));
    }
}
