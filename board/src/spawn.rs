//! Applications that appliances have started here (Figs 13-17): only those that the configuration lists.
//!
//! Input: orders (0x20), the ends of processes, time. Output: processes, outcomes (0x21), the offers of the reports (0x22).
//! Owner: the agent's one thread. Instances outlive the agent: the next one adopts them (docs/board.md).

mod backoff;
mod cgroup;
mod instance;
mod launch;
mod orders;
pub mod record;
mod supervisor;

use std::{
    io,
    net::Ipv4Addr,
    os::fd::BorrowedFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use ipos_wire::ipos::{Action, Offer, Order, Outcome, Progress};
use tracing::{debug, info, warn};

use self::{
    cgroup::Cgroups,
    instance::{Instance, Phase},
    orders::{Orders, shown},
    record::Record,
    supervisor::{Supervisor, Surroundings},
};
use crate::{config::Config, sockets::SockDiag};

/// Instances of applications that the configuration lists no more have so long between SIGTERM and SIGKILL.
const RETIRED_STOP: Duration = Duration::from_secs(5);

/// Reports that an appliance may miss before an instance that drains is ended.
const DRAIN_REPORTS: u32 = 3;

/// Everything that may be started here.
pub struct Applications {
    board: Ipv4Addr,
    directory: PathBuf,
    cgroups: Option<Cgroups>,
    drain: Duration,
    supervisors: Vec<Supervisor>,
    /// Instances of what is listed no more, on their way out.
    retired: Vec<(String, Instance)>,
    orders: Orders,
}

/// Endpoints of a listener that have not ended.
pub type Held<'a> = &'a dyn Fn(Ipv4Addr, u16) -> u32;

impl Applications {
    /// Those of a configuration, with the instances that an earlier agent left.
    pub fn new(config: &Config, now: Instant) -> Applications {
        let listed = !config.applications.is_empty();
        let mut applications = Applications {
            board: config.address,
            directory: config.run_directory.clone(),
            cgroups: if listed { Cgroups::open(config.cgroup.as_deref(), config.address) } else { None },
            drain: config.report_interval * DRAIN_REPORTS,
            supervisors: config.applications.iter().cloned().map(Supervisor::new).collect(),
            retired: Vec::new(),
            orders: Orders::new(config.address),
        };
        for record in Record::read_all(&applications.directory) {
            applications.adopt(&record, now);
        }
        applications
    }

    fn adopt(&mut self, record: &Record, now: Instant) {
        let Self { supervisors, cgroups, directory, drain, orders, .. } = self;
        let listed = supervisors.iter_mut().find(|s| s.settings().name.as_str() == record.name);
        if let Some(supervisor) = listed {
            let held = &|_, _| 0;
            let (cgroups, drain) = (cgroups.as_ref(), *drain);
            let s = Surroundings { now, directory, cgroups, held, drain, orders, changed: false };
            return supervisor.adopt(record, &s);
        }
        let phase = Phase::Ending { kill_at: now + RETIRED_STOP };
        match Instance::adopted(record, None, phase, now) {
            Ok(instance) => {
                warn!(name = record.name, pid = record.pid, "stopping: the configuration lists it no more");
                instance.terminate();
                self.retired.push((record.name.clone(), instance));
            }
            Err(error) => debug!(name = record.name, %error, "has ended"),
        }
    }

    /// Whether there is anything to look after.
    pub fn is_empty(&self) -> bool {
        self.supervisors.is_empty() && self.retired.is_empty()
    }

    /// Takes an order (0x20) from this appliance.
    pub fn order(&mut self, appliance: Ipv4Addr, message: &[u8], now: Instant, held: Held<'_>) {
        let order = match Order::parse(message) {
            Ok(order) if order.board == self.board && order.appliance == appliance && order.id != 0 => order,
            Ok(order) => {
                return debug!(?order, %appliance, "an order that is not for this board, or not its sender's");
            }
            Err(error) => return debug!(%error, %appliance, "no order"),
        };
        if self.orders.repeat(&order) {
            return;
        }
        let Self { supervisors, cgroups, directory, drain, orders, .. } = self;
        let Some(supervisor) = supervisors.iter_mut().find(|s| s.settings().name == order.name) else {
            let name = shown(&order.name);
            warn!(name, %appliance, "an application that is not listed was asked for: add an [[application]], or take it \
                from the appliance's [[service]]");
            return orders.answer(&order, Progress::Unlisted, 0, 0, 0);
        };
        info!(name = supervisor.settings().name.as_str(), %appliance, action = ?order.action, id = order.id, "ordered");
        let (cgroups, drain) = (cgroups.as_ref(), *drain);
        let mut s = Surroundings { now, directory, cgroups, held, drain, orders, changed: false };
        match order.action {
            Action::Start => supervisor.start(&order, &mut s),
            Action::Stop => supervisor.stop(&order, &mut s),
            Action::Other(_) => s.orders.answer(&order, Progress::UnknownAction, 0, 0, 0),
        }
    }

    /// Does what is due. True when the appliances shall hear of a change at once.
    ///
    /// # Errors
    /// When the listening sockets cannot be read.
    pub fn turn(&mut self, now: Instant, diag: &mut SockDiag, held: Held<'_>) -> io::Result<bool> {
        let looks = self.supervisors.iter().any(Supervisor::looks);
        let listeners = if looks { diag.listeners()? } else { Vec::new() };
        let Self { supervisors, cgroups, directory, drain, orders, .. } = self;
        let (cgroups, drain) = (cgroups.as_ref(), *drain);
        let mut s = Surroundings { now, directory, cgroups, held, drain, orders, changed: false };
        for supervisor in supervisors {
            supervisor.turn(&listeners, &mut s);
        }
        let changed = s.changed;
        self.turn_retired(now);
        Ok(changed)
    }

    fn turn_retired(&mut self, now: Instant) {
        let directory = &self.directory;
        self.retired.retain_mut(|(name, instance)| {
            if instance.ended().is_some() {
                instance.clear_away();
                Record::remove(directory, name, instance.number);
                return false;
            }
            if matches!(instance.phase, Phase::Ending { kill_at } if kill_at <= now) {
                instance.kill();
                instance.phase = Phase::Ending { kill_at: now + RETIRED_STOP };
            }
            true
        });
    }

    /// When [`Self::turn`] has something to do next.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let retired = self.retired.iter().filter_map(|(_, instance)| match instance.phase {
            Phase::Ending { kill_at } => Some(kill_at),
            _ => None,
        });
        self.supervisors.iter().filter_map(|supervisor| supervisor.next(now)).chain(retired).min()
    }

    /// What to poll: each becomes readable when an instance ends.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let running = self.supervisors.iter().flat_map(Supervisor::instances);
        running.chain(self.retired.iter().map(|(_, instance)| instance)).map(Instance::descriptor)
    }

    /// What the appliances are told with each report.
    pub fn offers(&self, now: Instant) -> Vec<Offer> {
        self.supervisors.iter().map(|supervisor| supervisor.offer(now)).collect()
    }

    /// Outcomes that are to be sent.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        self.orders.take()
    }
}

#[cfg(test)]
mod tests;
