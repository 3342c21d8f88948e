//! The targets: what is measured for each, and what it is held to.

use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::capture::{Folder, Kind};
use crate::lookup::{self, Costs, Looked};
use crate::machine::{self, Pages};
use crate::migrate::{self, Migrated};
use crate::rates::{Rates, Scene};
use crate::report::{self, Row, Target};
use crate::stats::{Runs, paired};
use crate::svg::{Plot, Series};
use crate::{Options, child, compare, cookies, listing, moves, placement, urls};

/// Packet buffers as the appliance has them.
const DATA_ROOM_OCTETS: u16 = 2176;

/// Packet buffers where millions of flows have to fit into the capture.
pub const SMALL_DATA_ROOM_OCTETS: u16 = 384;

/// Flows of the capture in P2, at most: the first of these that fits into the hugepages.
const CAPTURED: [u32; 4] = [1 << 20, 1 << 19, 1 << 18, 1 << 17];

/// What harnesses hand in.
pub struct Desk<'a> {
    /// How to measure.
    pub options: &'a Options,
    folder: Folder,
    /// The figures so far.
    pub rows: Vec<Row>,
    /// What could not be measured.
    failures: Vec<String>,
}

type Harness = fn(&mut Desk<'_>) -> anyhow::Result<()>;

const HARNESSES: [(&str, Harness); 13] = [
    ("p1", p1),
    ("p2", p2),
    ("p3", p3),
    ("p4", p4),
    ("p5", p5),
    ("p6", p6),
    ("p7", compare::p7),
    ("p8", compare::p8),
    ("placement", placement::placement),
    ("moves", moves::moves),
    ("listing", listing::listing),
    ("urls", urls::urls),
    ("cookies", cookies::cookies),
];

/// Runs the harnesses of these names, prints the table and writes the files. False when something could not be measured;
/// a target that is missed is a result like any other.
pub fn run(names: &[String], options: &Options) -> bool {
    let folder = match Folder::new() {
        Ok(folder) => folder,
        Err(error) => {
            eprintln!("ipos-bench: {error:#}");
            return false;
        }
    };
    let about = machine::about();
    let mut desk = Desk { options, folder, rows: Vec::new(), failures: Vec::new() };
    let all = names.iter().any(|name| name == "all");
    for name in names.iter().filter(|name| *name != "all") {
        if !HARNESSES.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            let known: Vec<&str> = HARNESSES.iter().map(|(known, _)| *known).collect();
            desk.fail(format!("{name}: no such target; there are {} and all", known.join(", ")));
        }
    }
    for (name, harness) in HARNESSES {
        if all || names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)) {
            eprintln!("ipos-bench: {name} ..");
            let before = desk.rows.len();
            if let Err(error) = harness(&mut desk) {
                desk.fail(format!("{name}: {error:#}"));
            } else if desk.rows.len() == before {
                desk.fail(format!("{name}: no figure"));
            }
        }
    }
    print!("{}", report::table(&desk.rows));
    if let Err(error) = report::write(&options.results, &about, &desk.rows) {
        desk.fail(format!("{error:#}"));
    }
    for failure in &desk.failures {
        println!("not measured: {failure}");
    }
    desk.failures.is_empty()
}

impl Desk<'_> {
    /// Notes what could not be measured.
    pub fn fail(&mut self, what: String) {
        eprintln!("ipos-bench: {what}");
        self.failures.push(what);
    }

    /// Where captures are made.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    fn plot(&self, name: &str, plot: &Plot) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.options.results)?;
        let path = self.options.results.join(name);
        std::fs::write(&path, plot.render()).with_context(|| format!("writing {}", path.display()))
    }

    /// Measures a scene; a baseline that does not run is noted.
    fn rates(&mut self, scene: &Scene) -> anyhow::Result<Rates> {
        let rates = scene.measure(self.options, &self.folder)?;
        for why in &rates.no_baselines {
            self.fail(why.clone());
        }
        Ok(rates)
    }
}

fn mpps(rates: &[f64]) -> Vec<f64> {
    rates.iter().map(|rate| rate / 1e6).collect()
}

/// A row of ours in Mpps, compared run by run with a baseline, if there is one.
fn rate_row(id: &str, what: String, rates: &Rates, theirs: &[f64]) -> anyhow::Result<Row> {
    let ours = mpps(&rates.ours);
    let row = Row::new(id, what, "Mpps", &Runs::new(ours.clone()).context("no run")?);
    let theirs = mpps(theirs);
    let ratio = paired(&ours, &theirs, |ours, theirs| ours / theirs);
    Ok(match (ratio, Runs::new(theirs)) {
        (Some(ratio), Some(theirs)) => row.against(theirs.median(), ratio.median()),
        _ => row,
    })
}

/// Flows in words.
pub fn flows_in_words(flows: u32) -> String {
    match flows {
        flows if flows >= 1_000_000 => format!("{} M", f64::from(flows) / 1e6),
        flows if flows >= 1_000 => format!("{} k", flows / 1000),
        flows => flows.to_string(),
    }
}

/// Established packets of 64 k flows.
fn p1(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let flows = if desk.options.quick { 256 } else { 65_536 };
    let scene = Scene {
        kind: Kind::Established,
        captured: flows,
        resident: flows,
        entries: capacity(flows),
        data_room_octets: DATA_ROOM_OCTETS,
        modes: &["io", "macswap"],
        // Shown to run without it: it is not part of what is built for the tests.
        with_capsule: !desk.options.quick,
    };
    let rates = desk.rates(&scene)?;
    let remark = rates.pages.remark();
    let what = format!("established packet, 64 B, {flows} flows{remark}; baseline");
    let row = |name: &str, theirs: &[f64]| rate_row("P1", format!("{what} {name}"), &rates, theirs);
    let [io, macswap] = rates.testpmd.as_slice() else { bail!("testpmd was measured in other modes") };
    desk.rows.push(row("testpmd io", io)?.held_to(Target::RatioAtLeast(0.43)));
    desk.rows.push(row("testpmd io (goal)", io)?.held_to(Target::RatioAtLeast(0.55)));
    desk.rows.push(row("testpmd macswap", macswap)?);
    if !rates.capsule.is_empty() {
        desk.rows.push(row("capsule 0.1.5, forwarding only", &rates.capsule)?);
    }
    Ok(())
}

/// A shard for so many flows at 90 % load.
pub fn capacity(flows: u32) -> u32 {
    (u64::from(flows) * 10).div_ceil(9) as u32
}

/// The cost of a packet as flows grow.
fn p2(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let sizes: &[u32] =
        if desk.options.quick { &[256, 1024] } else { &[1_000, 10_000, 65_536, 1_000_000, 10_000_000] };
    // The size that the largest is compared with.
    let reference = if desk.options.quick { sizes[0] } else { 65_536 };
    let mut own: Vec<(u32, Vec<f64>)> = Vec::new();
    let mut memory = None;
    for &flows in sizes {
        // More flows need more memory: those that fit are measured all the same.
        match own_cost(desk, flows) {
            Ok((costs, octets)) => {
                own.push((flows, costs));
                memory = Some((flows, octets));
            }
            Err(error) => desk.fail(format!("p2, {} flows: {error:#}", flows_in_words(flows))),
        }
    }
    let at = |flows: u32| own.iter().find(|(known, _)| *known == flows).map(|(_, costs)| costs.clone());
    let largest = sizes[sizes.len() - 1];
    if let (Some(small), Some(large)) = (at(reference), at(largest))
        && let (Some(small), Some(large)) = (Runs::new(small), Runs::new(large))
    {
        let (large_words, small_words) = (flows_in_words(largest), flows_in_words(reference));
        let what = format!("own cost per packet, {large_words} flows against {small_words}");
        let row = Row::new("P2", what, "ns", &large).against(small.median(), large.median() / small.median());
        desk.rows.push(row.held_to(Target::RatioAtMost(3.0)));
    }
    if let Some((flows, octets)) = memory
        && let Some(octets) = Runs::new(vec![octets])
    {
        let what = format!("memory per established flow, all in, {} flows", flows_in_words(flows));
        desk.rows.push(Row::new("P2", what, "B", &octets).held_to(Target::ValueAtMost(96.0)));
    }
    p2_plot(desk, sizes, &own)
}

/// What the worker's packet costs beyond testpmd's, nanoseconds, run by run; and octets per flow.
fn own_cost(desk: &mut Desk<'_>, flows: u32) -> anyhow::Result<(Vec<f64>, f64)> {
    let scene = |captured: u32| Scene {
        kind: Kind::Established,
        captured: flows.min(captured),
        resident: flows,
        entries: capacity(flows),
        data_room_octets: SMALL_DATA_ROOM_OCTETS,
        modes: &["io"],
        with_capsule: false,
    };
    // As many of them as hugepages allow; the rest is resident only.
    let fits = |captured: &u32| scene(*captured).dpdk_mb() <= machine::free_huge_mb();
    let captured = CAPTURED.into_iter().find(fits).unwrap_or(CAPTURED[0]);
    let rates = desk.rates(&scene(captured))?;
    let theirs = rates.testpmd.first().map_or(&[][..], Vec::as_slice);
    let costs: Vec<f64> = rates.ours.iter().zip(theirs).map(|(o, t)| 1e9 / o - 1e9 / t).collect();
    let runs = Runs::new(costs.clone()).context("no baseline, so no cost of our own")?;
    let what = format!("own cost per packet, {} flows{}", flows_in_words(flows), rates.pages.remark());
    desk.rows.push(Row::new("P2", what, "ns", &runs));
    Ok((costs, rates.octets_per_flow))
}

/// Own cost per packet beside the cost of a lookup in the libraries.
fn p2_plot(desk: &mut Desk<'_>, sizes: &[u32], own: &[(u32, Vec<f64>)]) -> anyhow::Result<()> {
    let median = |values: &[f64]| Runs::new(values.to_vec()).map(|runs| runs.median());
    let points = |values: &[(u32, Vec<f64>)]| -> Vec<(f64, f64)> {
        values.iter().filter_map(|(flows, costs)| Some((f64::from(*flows), median(costs)?))).collect()
    };
    let mut series = vec![Series { name: "ipOS, whole packet".to_owned(), points: points(own) }];
    let mut looked = Vec::new();
    for &flows in sizes {
        match look(desk.options, flows) {
            Ok((found, _)) => looked.push((flows, found.hits)),
            Err(error) => desk.fail(format!("p2, lookups, {} flows: {error:#}", flows_in_words(flows))),
        }
    }
    for (place, name) in ["shard, lookup", "rte_hash, lookup", "hashbrown, lookup"].into_iter().enumerate() {
        let of = |costs: &Costs| [&costs.shard, &costs.rte_hash, &costs.hashbrown][place].clone();
        let costs: Vec<_> = looked.iter().map(|(flows, costs)| (*flows, of(costs))).collect();
        series.push(Series { name: name.to_owned(), points: points(&costs) });
    }
    let plot = Plot {
        title: "P2: cost by the number of flows".to_owned(),
        x: "flows in the table".to_owned(),
        y: "ns".to_owned(),
        ticks: sizes.iter().map(|flows| (f64::from(*flows), flows_in_words(*flows))).collect(),
        series,
    };
    desk.plot("p2-flows.svg", &plot)
}

/// Looks up, and says where `rte_hash` had its memory from.
fn look(options: &Options, flows: u32) -> anyhow::Result<(Looked, Pages)> {
    let mb = lookup::rte_hash_mb(flows);
    let pages = machine::pages_for(mb, lookup::heap_mb(flows) + 256)?;
    let spec = lookup::Spec {
        machine: options.machine,
        pages,
        mb: mb as u32,
        flows,
        lookups: if options.quick { 100_000 } else { 1 << 22 },
        runs: options.runs,
    };
    let mut process = child::spawn(&child::Spec::Lookup(spec))?;
    Ok((child::hear(&mut process, Duration::from_secs(600)).context("lookups")?, pages))
}

/// Lookups alone.
fn p3(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let sizes: &[u32] = if desk.options.quick { &[10_000] } else { &[100_000, 1_000_000, 10_000_000] };
    for &flows in sizes {
        let (looked, pages) = match look(desk.options, flows) {
            Ok(looked) => looked,
            Err(error) => {
                desk.fail(format!("p3, {} entries: {error:#}", flows_in_words(flows)));
                continue;
            }
        };
        let remark = pages.remark();
        // Held to a target from a million on.
        let is_held = flows >= 1_000_000;
        let words = flows_in_words(flows);
        for (kind, costs) in [("hits", &looked.hits), ("misses", &looked.misses)] {
            let what = format!("lookup, {kind}, {words} entries, 90 % load{remark}; baseline");
            for (name, theirs, target) in [
                ("rte_hash_lookup_bulk", &costs.rte_hash, Target::RatioAtLeast(1.5)),
                ("hashbrown", &costs.hashbrown, Target::RatioAtLeast(1.0)),
                ("the shard one by one", &costs.shard_single, Target::RatioAtLeast(1.0)),
            ] {
                let row = speed_row(format!("{what} {name}"), &costs.shard, theirs)?;
                desk.rows.push(if is_held { row.held_to(target) } else { row });
            }
        }
        let costs = &looked.hits;
        for (name, theirs) in [("rte_hash", &costs.rte_hash_entry), ("hashbrown", &costs.hashbrown_entry)] {
            let what =
                format!("lookup and entry read, {words} entries{remark}; baseline {name} and an array");
            desk.rows.push(speed_row(what, &costs.shard_entry, theirs)?);
        }
    }
    Ok(())
}

/// A row of ours in nanoseconds; the ratio is how many times as fast it is.
fn speed_row(what: String, ours: &[f64], theirs: &[f64]) -> anyhow::Result<Row> {
    let times = paired(ours, theirs, |ours, theirs| theirs / ours).context("no run")?;
    let ours = Runs::new(ours.to_vec()).context("no run")?;
    let theirs = Runs::new(theirs.to_vec()).context("no run")?;
    Ok(Row::new("P3", what, "ns", &ours).against(theirs.median(), times.median()))
}

/// SYNs, each of a new flow.
fn p4(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let flows = if desk.options.quick { 256 } else { 65_536 };
    let scene = Scene {
        kind: Kind::Syn,
        captured: flows,
        resident: 0,
        entries: 65_536,
        data_room_octets: DATA_ROOM_OCTETS,
        modes: &["io"],
        with_capsule: false,
    };
    let rates = desk.rates(&scene)?;
    let remark = rates.pages.remark();
    let what = format!("SYN -> SYN-ACK, every SYN a new flow{remark}; baseline testpmd io");
    desk.rows.push(rate_row("P4", what, &rates, &rates.testpmd[0])?.held_to(Target::RatioAtLeast(0.35)));
    for (what, count) in [
        ("allocations meanwhile, whole process", rates.allocations as f64),
        ("growth of the tables meanwhile", rates.growth.unsigned_abs() as f64),
    ] {
        let runs = Runs::new(vec![count]).context("no run")?;
        desk.rows.push(Row::new("P4", what, "", &runs).held_to(Target::ValueAtMost(0.0)));
    }
    Ok(())
}

fn migrations(
    options: &Options,
    at_once: u32,
    two_threads: bool,
    migrations: u32,
) -> anyhow::Result<Migrated> {
    let spec = migrate::Spec {
        machine: options.machine,
        pages: machine::pages_for(migrate::EAL_MB.into(), 512)?,
        migrations,
        runs: options.runs,
        two_threads,
        at_once,
    };
    let mut process = child::spawn(&child::Spec::Migrate(spec))?;
    child::hear(&mut process, Duration::from_secs(300)).context("migrations")
}

/// Whole migrations: CPU of worker and control core, without the scripts' share.
fn p5(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let count = if desk.options.quick { 2_048 } else { 131_072 };
    let migrated = migrations(desk.options, 32, false, count)?;
    let both = paired(&migrated.worker_us, &migrated.control_us, |worker, control| worker + control);
    let what = "whole migration, worker and control core on one thread";
    let row = Row::new("P5", what, "us", &both.context("no run")?);
    desk.rows.push(row.held_to(Target::ValueAtMost(1.0)));
    for (what, us) in [("worker", migrated.worker_us), ("control core", migrated.control_us)] {
        let runs = Runs::new(us).context("no run")?;
        desk.rows.push(Row::new("P5", format!("the {what}'s share of it"), "us", &runs));
    }
    let what = "allocations per migration, worker and control core";
    let allocations = Runs::new(vec![migrated.allocations]).context("no run")?;
    desk.rows.push(Row::new("P5", what, "", &allocations).held_to(Target::ValueAtMost(0.0)));
    Ok(())
}

/// One migration at a time: how long it takes.
fn p6(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let count = if desk.options.quick { 500 } else { 20_000 };
    let mut series = Vec::new();
    for (two_threads, threads) in [(false, "one thread"), (true, "two threads")] {
        if two_threads && desk.options.machine.cpu == desk.options.machine.main_cpu {
            desk.fail("p6: two threads need two CPUs".to_owned());
            continue;
        }
        let migrated = migrations(desk.options, 1, two_threads, count)?;
        for (what, latency) in [
            ("request's last segment in -> Connection Packet out", migrated.request),
            ("acknowledgement in -> first held packet out", migrated.ack),
        ] {
            for (us, name, most) in [(latency.p50_us, "p50", 5.0), (latency.p99_us, "p99", 20.0)] {
                let runs = Runs::new(us).context("no run")?;
                let row = Row::new("P6", format!("{what}, {threads}, {name}"), "us", &runs);
                desk.rows.push(row.held_to(Target::ValueAtMost(most)));
            }
            let short = what.split(' ').next().unwrap_or(what);
            let points = latency.percentiles.iter().map(|(p, us)| (100.0 / (100.0 - p), *us)).collect();
            series.push(Series { name: format!("{short}, {threads}"), points });
        }
    }
    let ticks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
    let plot = Plot {
        title: "P6: latency of a migration's two steps in the appliance".to_owned(),
        x: "percentile".to_owned(),
        y: "us".to_owned(),
        ticks: ticks.iter().map(|p| (100.0 / (100.0 - p), format!("{p}"))).collect(),
        series,
    };
    desk.plot("p6-latency.svg", &plot)
}
