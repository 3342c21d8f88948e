//! Whole migrations in memory: a real worker and the appliance's real control core between scripted clients and boards
//! (P5, P6).
//!
//! ```text
//!  client: SYN ........ request ............................ (ACK of the answer: not counted)
//!  worker:     SYN-ACK ......... event ... 0x01 ........... 0x02
//!  control core: ....................... 0x01 .. verdict ..
//!  board: ............................... 0x03
//! ```
//!
//! What the scripts do lies between the phases and is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use ipos_appliance::control::turn::Turn;
use ipos_dpdk::clock::Tsc;
use ipos_dpdk::eal::Eal;
use ipos_dpdk::lcore::{self, LcoreId};
use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_pipelines::clock::Clock;
use ipos_pipelines::handoff::{self, Command, Event, Receiver, Sender};
use ipos_pipelines::handshake::cookie::CookieKeys;
use ipos_pipelines::steer;
use ipos_pipelines::worker::{Wiring, Worker};
use serde::{Deserialize, Serialize};

use crate::ALLOCATOR;
use crate::control;
use crate::cputime::thread_ns;
use crate::machine::{Machine, Pages};
use crate::peers::Peers;
use crate::setup;
use crate::wire::{MemoryPort, Wire};

/// What the process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// CPUs.
    pub machine: Machine,
    /// Where memory comes from.
    pub pages: Pages,
    /// Migrations of a run.
    pub migrations: u32,
    /// Runs.
    pub runs: u32,
    /// Whether the control core has a thread, and a CPU, of its own.
    pub two_threads: bool,
    /// Connections that are at the same point at a time: a burst, or one.
    pub at_once: u32,
}

/// What the process says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Migrated {
    /// CPU time of the worker per migration, microseconds, run by run.
    pub worker_us: Vec<f64>,
    /// CPU time of the control core per migration, microseconds, run by run; nothing when it has a thread of its own.
    pub control_us: Vec<f64>,
    /// Allocations and frees of worker and control core, per migration of a run that is not timed.
    pub allocations: f64,
    /// Request's last segment in to Connection Packet out.
    pub request: Latency,
    /// Acknowledgement in to first held packet out.
    pub ack: Latency,
}

/// How long a step took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Median, microseconds, run by run.
    pub p50_us: Vec<f64>,
    /// 99th percentile, microseconds, run by run.
    pub p99_us: Vec<f64>,
    /// Percentiles of all runs together, and microseconds.
    pub percentiles: Vec<(f64, f64)>,
}

/// Memory of the EAL, MiB.
pub const EAL_MB: u32 = 96;

/// Packet buffers.
const MBUFS: u32 = 16_383;

/// Rounds without the frames that are due until something is wrong.
const ROUNDS_MAX: u32 = 50_000_000;

/// Percentiles of a plot.
const PERCENTILES: [f64; 10] = [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

/// Cycles that were spent.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    worker: u64,
    control: u64,
}

/// Cycles from the first frame in to the last frame out, phase by phase.
struct Phases {
    request: u64,
    ack: u64,
}

/// The child's whole life.
///
/// # Errors
/// When something cannot be set up, or a migration goes another way than it should.
pub fn child(spec: &Spec) -> anyhow::Result<()> {
    let _eal = Eal::init(&spec.machine.eal(spec.pages, EAL_MB, Vec::new()))?;
    let pool = Mempool::new("bench", MBUFS, 256, DATA_ROOM_OCTETS, None)?;
    let (its_spec, its_pool) = (spec.clone(), pool.clone());
    let worker = LcoreId::new(1);
    let migrated = if spec.two_threads {
        let (turn, keys, lanes) = control_core(&pool);
        let stop = Arc::new(AtomicBool::new(false));
        let its_stop = Arc::clone(&stop);
        let handle = lcore::launch(worker, move || {
            let outcome =
                Rig::new(&its_spec, &its_pool, keys, lanes).and_then(|rig| rig.run(&its_spec, None));
            its_stop.store(true, Ordering::Release);
            outcome
        })?;
        spin(turn, &stop);
        handle.join()??
    } else {
        let run = move || {
            let (turn, keys, lanes) = control_core(&its_pool);
            Rig::new(&its_spec, &its_pool, keys, lanes).and_then(|rig| rig.run(&its_spec, Some(turn)))
        };
        lcore::launch(worker, run)?.join()??
    };
    println!("{}", serde_json::to_string(&migrated)?);
    Ok(())
}

fn spin(mut turn: Turn, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if turn.turn() == 0 {
            std::hint::spin_loop();
        }
    }
}

/// The worker's ends of the queues.
struct Lanes {
    events: Sender<Event>,
    commands: Receiver<Command>,
}

fn control_core(pool: &Mempool) -> (Turn, CookieKeys, Lanes) {
    let (events, events_rx) = handoff::queue(4096);
    let (commands_tx, commands) = handoff::queue(4096);
    let turn = control::turn(pool, events_rx, commands_tx);
    let keys = turn.core.cookies().keys().clone();
    (turn, keys, Lanes { events, commands })
}

/// A worker, and the scripts around it.
struct Rig {
    worker: Worker<MemoryPort>,
    wan: Wire,
    farm: Wire,
    peers: Peers,
    next: u32,
    spent: Spent,
    /// Allocations and frees in a poll or a turn, while they are counted: that takes time.
    allocations: Option<usize>,
}

impl Rig {
    fn new(spec: &Spec, pool: &Mempool, keys: CookieKeys, lanes: Lanes) -> anyhow::Result<Self> {
        let (wan, farm) = (Wire::new(), Wire::new());
        let ports = setup::ports().into_iter().zip([wan.port(), farm.port()]).collect();
        let unix_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
        let wiring = Wiring {
            events: lanes.events,
            commands: lanes.commands,
            peers: steer::mesh(1).remove(0),
            mempool: pool.clone(),
            clock: Clock::new(Tsc::now(), Tsc::new()?.hz(), unix_us as u64),
        };
        // Nothing is removed: each run finds the table fuller.
        let entries = spec.migrations * (spec.runs + 3);
        let mut config = setup::config(entries, 1024);
        config.cookie_keys = keys;
        let worker = Worker::new(config, ports, setup::services()?, Arc::default(), wiring)?;
        let peers = Peers::new(pool.clone());
        Ok(Self { worker, wan, farm, peers, next: 0, spent: Spent::default(), allocations: None })
    }

    fn run(mut self, spec: &Spec, mut control: Option<Turn>) -> anyhow::Result<Migrated> {
        self.introduce(control.as_mut())?;
        let cycles_per_us = Tsc::new()?.hz() as f64 / 1e6;
        let mut migrated = Migrated::default();
        let mut steps = [Step::new()?, Step::new()?];
        // The first does not count.
        for run in 0..=spec.runs {
            self.spent = Spent::default();
            let (wall, cpu_ns) = (Instant::now(), thread_ns()?);
            for _ in (0..spec.migrations).step_by(spec.at_once as usize) {
                let phases = self.migrate(spec.at_once, control.as_mut())?;
                if run > 0 {
                    let ns = |cycles: u64| (cycles as f64 / cycles_per_us * 1e3) as u64;
                    steps[0].run.record(ns(phases.request))?;
                    steps[1].run.record(ns(phases.ack))?;
                }
            }
            // Where something else had the CPU for a while, all phases are taken to have waited alike.
            let had = (thread_ns()? - cpu_ns) as f64 / wall.elapsed().as_nanos() as f64;
            let us = |cycles: u64| cycles as f64 / cycles_per_us * had.min(1.0) / f64::from(spec.migrations);
            if run > 0 {
                migrated.worker_us.push(us(self.spent.worker));
                migrated.control_us.extend(control.is_some().then(|| us(self.spent.control)));
                steps.iter_mut().try_for_each(Step::end_run)?;
            }
        }
        self.allocations = Some(0);
        for _ in (0..spec.migrations).step_by(spec.at_once as usize) {
            self.migrate(spec.at_once, control.as_mut())?;
        }
        let allocations = self.allocations.unwrap_or(0) as f64 / f64::from(spec.migrations);
        let [request, ack] = steps.map(Step::latency);
        Ok(Migrated { request, ack, allocations, ..migrated })
    }

    /// The boards report; the worker learns where they are.
    fn introduce(&mut self, control: Option<&mut Turn>) -> anyhow::Result<()> {
        for frame in self.peers.reports()? {
            self.farm.push(frame);
        }
        let mut control = control;
        // Every board is heard, and its place told, once the worker knows the way to the last.
        let last = usize::from(setup::BOARDS - 1);
        for _ in 0..ROUNDS_MAX {
            self.round(&mut control)?;
            if self.worker.core().boards.get(last).is_some_and(Option::is_some) && self.farm.sent() == 0 {
                for _ in 0..1000 {
                    self.round(&mut control)?;
                }
                return Ok(());
            }
            while self.farm.pop().is_some() {}
        }
        anyhow::bail!("the worker does not learn where the boards are")
    }

    /// One poll, and one turn where the control core is on this thread.
    fn round(&mut self, control: &mut Option<&mut Turn>) -> anyhow::Result<()> {
        let Some(count) = self.allocations else { return self.timed_round(control) };
        let before = ALLOCATOR.stats();
        self.timed_round(control)?;
        let change = ALLOCATOR.stats() - before;
        self.allocations = Some(count + change.allocations + change.deallocations + change.reallocations);
        Ok(())
    }

    fn timed_round(&mut self, control: &mut Option<&mut Turn>) -> anyhow::Result<()> {
        let begun = Tsc::now();
        self.worker.poll(begun).context("the worker stopped")?;
        let polled = Tsc::now();
        self.spent.worker += polled.wrapping_sub(begun);
        if let Some(turn) = control {
            turn.turn();
            self.spent.control += Tsc::now().wrapping_sub(polled);
        }
        Ok(())
    }

    /// Goes on until a wire has brought so many frames. Returns the cycles it took.
    fn until(&mut self, wire: &Wire, count: u32, control: &mut Option<&mut Turn>) -> anyhow::Result<u64> {
        let begun = Tsc::now();
        for _ in 0..ROUNDS_MAX {
            self.round(control)?;
            if wire.sent() >= count as usize {
                return Ok(Tsc::now().wrapping_sub(begun));
            }
        }
        anyhow::bail!("{} of {count} frames came", wire.sent())
    }

    /// So many connections, all of them from the SYN to the replay.
    fn migrate(&mut self, count: u32, control: Option<&mut Turn>) -> anyhow::Result<Phases> {
        let mut control = control;
        let (wan, farm) = (self.wan.clone(), self.farm.clone());
        let numbers = self.next..self.next + count;
        self.next += count;
        self.peers.syns(numbers, &wan)?;
        self.until(&wan, count, &mut control)?;
        self.peers.requests(&wan)?;
        let request = self.until(&farm, count, &mut control)?;
        self.peers.acknowledgements(&farm)?;
        let ack = self.until(&farm, count, &mut control)?;
        self.peers.take_replays(&farm)?;
        // The clients hear from the board, so that nothing is held any more: not counted.
        let spent = self.spent;
        self.peers.acks(&wan)?;
        self.until(&farm, count, &mut control)?;
        while farm.pop().is_some() {}
        self.spent = spent;
        let pending = self.worker.core().pending.len();
        ensure!(pending == 0, "{pending} connections are not settled");
        Ok(Phases { request, ack })
    }
}

/// Nanoseconds of one step, in this run and in all that are over.
struct Step {
    run: Histogram<u64>,
    all: Histogram<u64>,
    latency: Latency,
}

impl Step {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { run: Histogram::new(3)?, all: Histogram::new(3)?, latency: Latency::default() })
    }

    fn end_run(&mut self) -> anyhow::Result<()> {
        self.latency.p50_us.push(us_at(&self.run, 50.0));
        self.latency.p99_us.push(us_at(&self.run, 99.0));
        self.all.add(&self.run)?;
        self.run.reset();
        Ok(())
    }

    fn latency(self) -> Latency {
        let percentiles = PERCENTILES.iter().map(|percentile| (*percentile, us_at(&self.all, *percentile)));
        Latency { percentiles: percentiles.collect(), ..self.latency }
    }
}

fn us_at(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    histogram.value_at_percentile(percentile) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_has_its_own_percentiles_and_the_plot_has_all() {
        let mut step = Step::new().expect("histograms");
        for ns in [1_000, 9_000] {
            (0..1000).for_each(|_| step.run.record(ns).expect("in range"));
            step.end_run().expect("alike histograms");
        }
        let latency = step.latency();
        let rounded: Vec<f64> = latency.p50_us.iter().map(|us| us.round()).collect();
        assert_eq!(rounded, [1.0, 9.0]);
        assert_eq!(latency.p99_us, latency.p50_us);
        let at =
            |wanted: f64| latency.percentiles.iter().find(|point| point.0 == wanted).map(|point| point.1);
        assert_eq!((at(25.0).map(f64::round), at(75.0).map(f64::round)), (Some(1.0), Some(9.0)));
    }
}
