//! The appliance and what else could stand in its place, in one lab, one after the other: each run is a run of every one.

use std::time::Duration;

use anyhow::Context as _;

use crate::billing::{EmptyPrice, Moment, Polls};
use crate::child::{self, Spec};
use crate::lab::{Lab, Spread};
use crate::load::{Done, Load, VisitSpec, Visited};
use crate::machine::Machine;
use crate::process::Process;
use crate::quiet::Patience;

/// The appliance's metrics, in its namespace.
const METRICS: &str = "127.0.0.1:9464";

/// How long a process of ours may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time for repeating runs that others disturbed, of each harness.
const REPEAT: Duration = Duration::from_secs(240);

/// A way from the client to a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// Its name in the table.
    pub name: &'static str,
    /// Where clients find it.
    pub address: &'static str,
    /// Whether it is what the targets compare the appliance with.
    pub is_haproxy: bool,
}

/// Ours. `deploy/lab.d/ipos_lab/plan.py` has all these addresses.
const APPLIANCE: Contender =
    Contender { name: "the appliance", address: "198.51.100.1:80", is_haproxy: false };

/// HAProxy with one thread, in three modes. `http-reuse safe` is what it does when it is not told: the first request of a
/// client's connection gets a new connection to a board.
const HAPROXY: [Contender; 3] = [
    Contender { name: "HAProxy tcp", address: "198.51.100.2:81", is_haproxy: true },
    Contender { name: "HAProxy http, http-reuse safe", address: "198.51.100.2:80", is_haproxy: true },
    Contender { name: "HAProxy http, http-reuse always", address: "198.51.100.2:83", is_haproxy: true },
];

/// nginx with one process and kept connections to the boards.
const NGINX: Contender = Contender { name: "nginx as proxy", address: "198.51.100.2:82", is_haproxy: false };

/// A board's own address: what is left without any balancer.
const DIRECT: Contender = Contender { name: "no balancer", address: "192.0.2.11:80", is_haproxy: false };

/// The contenders of a lab, ours first. `--quick` leaves out most.
pub fn contenders(lab: &Lab, is_quick: bool, with_direct: bool) -> Vec<Contender> {
    let haproxy = &HAPROXY[..if is_quick { 1 } else { HAPROXY.len() }];
    let haproxy = if lab.has_haproxy() { haproxy } else { &[] };
    let direct = with_direct.then_some(DIRECT);
    [APPLIANCE].iter().chain(haproxy).chain([&NGINX]).copied().chain(direct).collect()
}

/// A lab in which contenders take turns.
pub struct Arena<'a> {
    lab: &'a Lab,
    machine: Machine,
    spread: Spread,
    patience: Patience,
}

/// The appliance's account of its empty polls.
pub struct Meter(Process);

impl<'a> Arena<'a> {
    /// Spreads the lab. Runs are repeated where the machine is not left alone, unless `is_quick`.
    ///
    /// # Errors
    /// When a process of the lab is gone.
    pub fn new(lab: &'a Lab, machine: Machine, spread: Spread, is_quick: bool) -> anyhow::Result<Self> {
        lab.spread(spread)?;
        Ok(Self {
            lab,
            machine,
            spread,
            patience: Patience::new(if is_quick { Duration::ZERO } else { REPEAT }),
        })
    }

    /// Starts to read the appliance's counters.
    ///
    /// # Errors
    /// When this program does not start beside it.
    pub fn meter(&self) -> anyhow::Result<Meter> {
        let spec = Spec::Meter(METRICS.parse().context("an address")?);
        Ok(Meter(self.child("appliance", self.machine.main_cpu, &spec)?))
    }

    fn child(&self, namespace: &str, cpu: u32, spec: &Spec) -> anyhow::Result<Process> {
        let program = std::env::current_exe().context("finding this program")?;
        self.lab.spawn(namespace, cpu, &program.to_string_lossy(), &child::arguments(spec)?)
    }

    /// `figure` of each contender, run by run: A B C A B C. The appliance runs only while it is its turn.
    ///
    /// # Errors
    /// The first that a figure has.
    pub fn rounds<F>(
        &mut self,
        contenders: &[Contender],
        runs: u32,
        mut figure: impl FnMut(&Self, &Contender) -> anyhow::Result<F>,
    ) -> anyhow::Result<Vec<Vec<F>>> {
        let mut figures: Vec<Vec<F>> = contenders.iter().map(|_| Vec::new()).collect();
        for _ in 0..runs {
            for (contender, figures) in contenders.iter().zip(&mut figures) {
                let is_ours = *contender == APPLIANCE;
                if is_ours {
                    self.lab.resume_appliance(APPLIANCE.address)?;
                }
                // Out of `self` for a moment, so that a figure can look at the rest.
                let mut patience = std::mem::replace(&mut self.patience, Patience::new(Duration::ZERO));
                let run = patience.run(|| figure(self, contender));
                self.patience = patience;
                figures.push(run.with_context(|| contender.name)?);
                if is_ours {
                    self.lab.pause_appliance()?;
                }
            }
        }
        // Whoever comes next finds it as it was.
        self.lab.resume_appliance(APPLIANCE.address)?;
        Ok(figures)
    }

    /// What the figures since the last remark have to say of the machine.
    pub fn remark(&mut self) -> String {
        self.patience.remark()
    }

    /// Time of the balancer's CPU that a load takes, seconds, and what was done for it.
    ///
    /// # Errors
    /// When the load or the appliance fails.
    pub fn bill(
        &self,
        meter: &mut Meter,
        contender: &Contender,
        load: Load,
        window: Duration,
    ) -> anyhow::Result<(f64, Done)> {
        let load = || load.run(contender.address, self.lab.client_cpu(self.spread), window);
        let cpu = self.machine.cpu;
        if *contender != APPLIANCE {
            let before = Moment::now(cpu)?;
            let done = load()?;
            return Ok((Moment::now(cpu)?.billed_since(&before), done));
        }
        let Meter(process) = meter;
        // Just before: a virtual CPU does not wake up equally fast all day.
        let price = EmptyPrice::measure(self.lab.appliance_pid()?, window / 4, || polls(process))?;
        let (before, polls_before) = (Moment::now(cpu)?, polls(process)?);
        let done = load()?;
        let empty = price.of(polls_before, polls(process)?);
        Ok((Moment::now(cpu)?.billed_since(&before) - empty, done))
    }

    /// One connection after the other.
    ///
    /// # Errors
    /// When one fails.
    pub fn visit(&self, contender: &Contender, warm_up: u32, visits: u32) -> anyhow::Result<Visited> {
        let address = contender.address.parse().context("an address")?;
        let spec = Spec::Visit(VisitSpec { address, warm_up, visits });
        let mut process = self.child("client", self.lab.client_cpu(self.spread), &spec)?;
        child::hear(&mut process, PATIENCE)
    }
}

fn polls(meter: &mut Process) -> anyhow::Result<Polls> {
    meter.say("now")?;
    child::hear(meter, PATIENCE).context("the appliance's /metrics")
}
