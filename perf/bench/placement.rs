//! The policies on four boards of unequal speed, in the lab: how long requests take under `wrk`.
//!
//! Each board takes 1, 2, 4 or 8 ms for a request, one at a time, and burns no CPU. The lab has a service for each policy, on a
//! port of its own, so they take turns on the same boards (deploy/lab.d/timed.py).

use anyhow::Context as _;

use crate::lab::Lab;
use crate::load::{Took, crowd};
use crate::report::{Row, Target};
use crate::stats::{Runs, paired};
use crate::targets::Desk;

/// What the boards take for a request, milliseconds.
const SERVICE_MS: [u32; 4] = [1, 2, 4, 8];

/// Ours first, then what it is compared with, and the address of each (deploy/lab.d/ipos_lab/plan.py).
const CONTENDERS: [(&str, &str, Option<Target>); 4] = [
    ("least-load", "198.51.100.1:8003", None),
    ("best weights", "198.51.100.1:8005", Some(Target::RatioAtMost(1.3))),
    ("round-robin", "198.51.100.1:8001", Some(Target::RatioAtMost(1.0))),
    ("least-connections", "198.51.100.1:8002", None),
];

/// Clients at a time.
const CLIENTS: [u32; 3] = [8, 16, 64];

/// Medians and tails of all policies.
pub fn placement(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let (is_quick, runs) = (desk.options.quick, desk.options.runs);
    let lab = Lab::unequal(desk.options.machine, &SERVICE_MS)?;
    let seconds = if is_quick { 1 } else { 3 };
    for clients in CLIENTS.into_iter().take(if is_quick { 1 } else { CLIENTS.len() }) {
        let mut took: Vec<Vec<Took>> = vec![Vec::new(); CONTENDERS.len()];
        for _ in 0..runs {
            for ((_, address, _), took) in CONTENDERS.iter().zip(&mut took) {
                took.push(crowd(address, clients, seconds)?);
            }
        }
        for (name, figure) in [("p50", (|took| took.p50_ms) as fn(&Took) -> f64), ("p99", |took| took.p99_ms)]
        {
            let what = format!("time to first byte, {name}, {clients} clients, boards of 1, 2, 4, 8 ms");
            let figures: Vec<Vec<f64>> = took.iter().map(|runs| runs.iter().map(figure).collect()).collect();
            desk.rows.extend(rows(&what, &figures, name == "p99")?);
        }
    }
    drop(lab);
    Ok(())
}

/// Least-load beside each of the others.
fn rows(what: &str, figures: &[Vec<f64>], is_held: bool) -> anyhow::Result<Vec<Row>> {
    let ours = figures.first().context("no figure")?;
    let others = CONTENDERS.iter().zip(figures).skip(1);
    let row = |((name, _, target), theirs): (&(&str, &str, Option<Target>), &Vec<f64>)| {
        let what = format!("{what}; least-load beside {name}");
        let row = Row::new("placement", what, "ms", &Runs::new(ours.clone()).context("no run")?);
        let ratio = paired(ours, theirs, |ours, theirs| ours / theirs).context("no run")?;
        let row = row.against(Runs::new(theirs.clone()).context("no run")?.median(), ratio.median());
        Ok(match target {
            Some(target) if is_held => row.held_to(*target),
            _ => row,
        })
    };
    others.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tail_is_held_to_a_target() {
        let figures = [vec![10.0], vec![8.0], vec![40.0], vec![20.0]];
        let tail = rows("p99", &figures, true).expect("figures");
        let held: Vec<_> = tail.iter().map(|row| (row.ratio, row.ok)).collect();
        assert_eq!(held, [(Some(1.25), Some(true)), (Some(0.25), Some(true)), (Some(0.5), None)]);
        assert!(rows("p50", &figures, false).expect("figures").iter().all(|row| row.ok.is_none()));
    }
}
