//! Ours and the baseline in turns on one CPU: a run of one, a run of the other, again.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::capsule::Capsule;
use crate::capture::{Folder, Kind};
use crate::forward::{Measured, Order, Ready, Spec};
use crate::machine::{self, Machine, Pages};
use crate::process::Process;
use crate::testpmd::{Pool, Testpmd, Topology};
use crate::{Options, child};

/// Packet buffers besides those that hold the capture: bursts, caches, and what waits to be sent.
const SPARE_MBUFS: u32 = 8191;

/// Memory of an EAL besides its packet buffers, MiB.
const EAL_MB: u64 = 48;

/// How long a child may take to set up, seconds per million flows and at least.
const SETUP_PATIENCE_S: u64 = 60;

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// What is replayed.
    pub kind: Kind,
    /// Flows in the capture.
    pub captured: u32,
    /// Flows that are established, those of the capture among them.
    pub resident: u32,
    /// Places in the worker's shard.
    pub entries: u32,
    /// Octets of a packet buffer, headroom included.
    pub data_room_octets: u16,
    /// Modes of testpmd that are measured; the first is the baseline.
    pub modes: &'static [&'static str],
    /// Whether capsule is measured too.
    pub with_capsule: bool,
}

/// What came of it, run by run.
#[derive(Debug)]
pub struct Rates {
    /// Where both had their memory from.
    pub pages: Pages,
    /// Ours, packets per second.
    pub ours: Vec<f64>,
    /// Testpmd's by mode, packets per second; empty where it is not installed.
    pub testpmd: Vec<Vec<f64>>,
    /// Capsule's, packets per second; empty where it does not run, or is not measured.
    pub capsule: Vec<f64>,
    /// What the worker grew the process by, octets per established flow.
    pub octets_per_flow: f64,
    /// Allocations of the process in all runs.
    pub allocations: u64,
    /// Entries by which the tables grew in all runs.
    pub growth: i64,
    /// Why a baseline is missing, each in one line.
    pub no_baselines: Vec<String>,
}

impl Rates {
    /// What there is of a baseline; otherwise, notes why.
    fn noted<T>(&mut self, outcome: anyhow::Result<T>) -> Option<T> {
        outcome.map_err(|error| self.no_baselines.push(format!("{error:#}"))).ok()
    }
}

impl Scene {
    fn mbufs(&self) -> u32 {
        self.captured + SPARE_MBUFS
    }

    /// Memory of one EAL, MiB: buffers, and the ring that holds the capture.
    fn mb(&self) -> u64 {
        let ring = (u64::from(self.captured).next_power_of_two() * 16) >> 20;
        machine::pool_mb(self.mbufs().into(), self.data_room_octets.into()) + ring + EAL_MB
    }

    /// Memory of both EALs, ours and testpmd's, MiB; capsule takes what is left, if it is enough.
    pub fn dpdk_mb(&self) -> u64 {
        2 * self.mb()
    }

    /// Memory of the tables, MiB.
    fn table_mb(&self) -> u64 {
        (u64::from(self.entries) * 128) >> 20
    }

    /// Measures.
    ///
    /// # Errors
    /// In one line, why there are no figures. A baseline that does not run is none.
    pub fn measure(&self, options: &Options, folder: &Folder) -> anyhow::Result<Rates> {
        let pages = machine::pages_for(self.dpdk_mb(), self.table_mb() + 512)?;
        let capture = folder.capture(self.kind, self.captured, self.resident.max(self.captured))?;
        let pool =
            Pool { mbufs: self.mbufs(), data_room_octets: self.data_room_octets, mb: self.mb() as u32 };
        let topology = if self.kind == Kind::Syn { Topology::Loop } else { Topology::Paired };
        let mut rates = Rates {
            pages,
            ours: Vec::new(),
            testpmd: self.modes.iter().map(|_| Vec::new()).collect(),
            capsule: Vec::new(),
            octets_per_flow: 0.0,
            allocations: 0,
            growth: 0,
            no_baselines: Vec::new(),
        };
        let testpmd = Testpmd::start(&options.machine, pages, pool, &capture, topology);
        let mut testpmd = rates.noted(testpmd);
        let (mut ours, ready) = self.start(&options.machine, pages, &capture)?;
        rates.octets_per_flow = ready.octets_per_flow;
        // The last to take memory: it must not leave the others without.
        let capsule = self.with_capsule.then(|| Capsule::start(&options.machine, pages, pool, &capture));
        let mut capsule = capsule.and_then(|capsule| rates.noted(capsule));
        // All have it in memory.
        folder.forget(&capture);
        for _ in 0..options.runs {
            for (mode, figures) in self.modes.iter().zip(&mut rates.testpmd) {
                if let Some(testpmd) = &mut testpmd {
                    figures.push(testpmd.rate(mode, options.window())?);
                }
            }
            if let Some(running) = &mut capsule {
                let rate = running.rate(options.window());
                match rates.noted(rate) {
                    Some(rate) => rates.capsule.push(rate),
                    // Figures of some runs would be compared with those of others.
                    None => {
                        rates.capsule.clear();
                        capsule = None;
                    }
                }
            }
            let measured = run(&mut ours, Order { packets: options.packets(), listing: false })?;
            ensure!(measured.others == 0, "{} packets took another way than the rest", measured.others);
            rates.ours.push(measured.rate);
            rates.allocations += measured.allocations;
            rates.growth += measured.growth;
        }
        Ok(rates)
    }

    fn start(
        &self,
        machine: &Machine,
        pages: Pages,
        capture: &std::path::Path,
    ) -> anyhow::Result<(Process, Ready)> {
        let spec = Spec {
            machine: *machine,
            pages,
            mb: self.mb() as u32,
            mbufs: self.mbufs(),
            data_room_octets: self.data_room_octets,
            capture: capture.to_owned(),
            kind: self.kind,
            entries: self.entries,
            resident: self.resident,
        };
        let mut process = child::spawn(&child::Spec::Forward(spec))?;
        let patience = Duration::from_secs(SETUP_PATIENCE_S * (1 + u64::from(self.resident) / 1_000_000));
        let ready: Ready = child::hear(&mut process, patience)?;
        ensure!(ready.established == u64::from(self.resident), "flows are missing");
        process.pause()?;
        Ok((process, ready))
    }
}

/// A worker of ours that is measured as often as wanted, without a baseline.
pub struct Taker {
    process: Process,
    pages: Pages,
}

impl Taker {
    /// Sets a scene up.
    ///
    /// # Errors
    /// In one line, why there will be no figures.
    pub fn start(scene: &Scene, options: &Options, folder: &Folder) -> anyhow::Result<Self> {
        let pages = machine::pages_for(scene.mb(), scene.table_mb() + 512)?;
        let capture = folder.capture(scene.kind, scene.captured, scene.resident.max(scene.captured))?;
        let (process, _) = scene.start(&options.machine, pages, &capture)?;
        folder.forget(&capture);
        Ok(Self { process, pages })
    }

    /// Where it has its memory from.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// A run; whoever has the CPU in between does not count.
    ///
    /// # Errors
    /// When a packet takes another way than the rest.
    pub fn take(&mut self, packets: u64, listing: bool) -> anyhow::Result<Measured> {
        let measured = run(&mut self.process, Order { packets, listing })?;
        ensure!(measured.others == 0, "{} packets took another way than the rest", measured.others);
        Ok(measured)
    }
}

fn run(process: &mut Process, order: Order) -> anyhow::Result<Measured> {
    process.resume()?;
    process.say(&serde_json::to_string(&order)?)?;
    let measured = child::hear(process, Duration::from_secs(60)).context("measuring")?;
    process.pause()?;
    Ok(measured)
}
