//! One application: how many instances are wanted, those that run, and what is done when one starts, ends or fails.
//!
//! ```text
//! start ──> starting ──listens──> listening ──stop──> draining ──no endpoint──> ending ──> gone
//!              │ ends, or too late            │ ends       └─ endpoints, or a start: listening
//!              └─ failed: said, not again     └─ started again
//!                 before the back-off is over    after the back-off
//! ```

use std::{
    net::Ipv4Addr,
    path::Path,
    time::{Duration, Instant},
};

use ipos_wire::ipos::{Offer, Order, Progress};
use tracing::{error, info, warn};

use super::{
    backoff::{Backoff, STABLE},
    cgroup::Cgroups,
    instance::{Instance, Phase},
    launch,
    orders::{Key, Orders, key},
    record::Record,
};
use crate::{config::Application, sockets::Listener};

/// How often the listening sockets are looked at while an instance starts.
pub const LOOK: Duration = Duration::from_millis(5);

/// What a supervisor works with.
pub struct Surroundings<'a> {
    /// The time.
    pub now: Instant,
    /// Where it is kept what runs.
    pub directory: &'a Path,
    /// Where instances get their cgroups.
    pub cgroups: Option<&'a Cgroups>,
    /// Endpoints of a listener that have not ended.
    pub held: &'a dyn Fn(Ipv4Addr, u16) -> u32,
    /// From the word that no new connections are taken until the end: as long as appliances may need to hear it.
    pub drain: Duration,
    /// The orders.
    pub orders: &'a mut Orders,
    /// Set when the appliances shall hear of it at once.
    pub changed: bool,
}

/// One application.
#[derive(Debug)]
pub struct Supervisor {
    settings: Application,
    instances: Vec<Instance>,
    /// How many shall run.
    wanted: u16,
    backoff: Backoff,
    /// No new connections; the instances end at this time if they hold none then.
    drains_until: Option<Instant>,
    start_orders: Vec<Key>,
    stop_orders: Vec<Key>,
}

impl Supervisor {
    /// None runs.
    pub fn new(settings: Application) -> Supervisor {
        Supervisor {
            settings,
            instances: Vec::new(),
            wanted: 0,
            backoff: Backoff::default(),
            drains_until: None,
            start_orders: Vec::new(),
            stop_orders: Vec::new(),
        }
    }

    /// Its settings.
    pub fn settings(&self) -> &Application {
        &self.settings
    }

    /// The instances.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Whether one starts, so that the listening sockets must be looked at.
    pub fn looks(&self) -> bool {
        self.instances.iter().any(|instance| matches!(instance.phase, Phase::Starting { .. }))
    }

    /// Takes over an instance that an earlier agent left.
    pub fn adopt(&mut self, record: &Record, s: &Surroundings<'_>) {
        let label = Record::label(&record.name, record.number);
        let cgroup = s.cgroups.and_then(|cgroups| cgroups.existing(&label));
        let phase = if record.ending {
            Phase::Ending { kill_at: s.now + self.settings.stop_timeout }
        } else {
            Phase::Starting { until: s.now + self.settings.start_timeout, ordered: false }
        };
        match Instance::adopted(record, cgroup, phase, s.now) {
            Ok(instance) => {
                info!(name = record.name, pid = record.pid, "adopted");
                self.wanted = self.wanted.saturating_add(u16::from(!record.ending));
                self.instances.push(instance);
            }
            Err(error) => info!(name = record.name, pid = record.pid, %error, "not adopted: it has ended"),
        }
    }

    fn ending(&self) -> usize {
        self.instances.iter().filter(|instance| matches!(instance.phase, Phase::Ending { .. })).count()
    }

    fn running(&self) -> usize {
        self.instances.len() - self.ending()
    }

    /// The process of an instance in such a phase; 0 when there is none.
    fn pid_of(&self, is: impl Fn(Phase) -> bool) -> u32 {
        self.instances.iter().find(|instance| is(instance.phase)).map_or(0, |instance| instance.pid)
    }

    /// An order to start.
    pub fn start(&mut self, order: &Order, s: &mut Surroundings<'_>) {
        self.keep(s);
        if self.looks() || self.ending() > 0 {
            // One starts already, or will once its predecessor has let its address go.
            self.wanted = self.wanted.max(1);
            self.start_orders.push(key(order));
            let pid = self.pid_of(|phase| matches!(phase, Phase::Starting { .. }));
            return s.orders.answer(order, Progress::Starting, pid, 0, 0);
        }
        if self.running() >= usize::from(self.settings.instances_max) {
            let pid = self.pid_of(|phase| matches!(phase, Phase::Listening { .. }));
            return s.orders.answer(order, Progress::Listening, pid, 0, 0);
        }
        let left_ms = self.backoff.left_ms(s.now);
        if left_ms > 0 {
            return s.orders.answer(order, Progress::BackingOff, 0, 0, left_ms);
        }
        let ordered = self.running() >= usize::from(self.wanted);
        self.wanted = self.wanted.saturating_add(u16::from(ordered));
        match self.launch(ordered, s) {
            Ok(pid) => {
                self.start_orders.push(key(order));
                s.orders.answer(order, Progress::Starting, pid, 0, 0);
            }
            Err(number) => {
                let left_ms = self.backoff.left_ms(s.now);
                s.orders.answer(order, Progress::Impossible, 0, number, left_ms);
            }
        }
    }

    /// It shall not be stopped after all.
    fn keep(&mut self, s: &mut Surroundings<'_>) {
        if self.drains_until.take().is_some() {
            info!(name = self.settings.name.as_str(), "kept: it has connections, or is wanted again");
            s.changed = true;
            for order in self.stop_orders.drain(..) {
                s.orders.settle(order, Progress::Busy, 0, 0, 0);
            }
        }
    }

    /// An order to stop.
    pub fn stop(&mut self, order: &Order, s: &mut Surroundings<'_>) {
        if self.instances.is_empty() {
            // One that would be started again after its back-off is not wanted any more.
            self.wanted = 0;
            return s.orders.answer(order, Progress::Stopped, 0, 0, 0);
        }
        let pid = self.instances.first().map_or(0, |instance| instance.pid);
        if self.running() > 0 && self.drains_until.is_none() {
            if self.held(s) > 0 {
                return s.orders.answer(order, Progress::Busy, pid, 0, 0);
            }
            self.drains_until = Some(s.now + s.drain);
            s.changed = true;
        }
        self.stop_orders.push(key(order));
        s.orders.answer(order, Progress::Stopping, pid, 0, 0);
    }

    fn held(&self, s: &Surroundings<'_>) -> u32 {
        (s.held)(*self.settings.listen.ip(), self.settings.listen.port())
    }

    /// Makes a process. Returns its id, or the system's error number.
    fn launch(&mut self, ordered: bool, s: &mut Surroundings<'_>) -> Result<u32, u32> {
        let name = self.settings.name.as_str().to_owned();
        let taken = |number: &u16| self.instances.iter().any(|instance| instance.number == *number);
        let number = (1..=u16::MAX).find(|number| !taken(number)).unwrap_or(u16::MAX);
        let label = Record::label(&name, number);
        let cgroup = s.cgroups.and_then(|cgroups| {
            let made = cgroups.group(&label, self.settings.limits);
            made.inspect_err(|error| warn!(name, %error, "runs without a cgroup: none could be made")).ok()
        });
        let phase = Phase::Starting { until: s.now + self.settings.start_timeout, ordered };
        let made = launch::launch(&self.settings, number, cgroup.as_ref()).and_then(|child| {
            Instance::of_child(child, number, cgroup, phase, s.now)
                .map_err(|cause| launch::Error::Io { what: "watch it".to_owned(), cause })
        });
        match made {
            Ok(instance) => {
                let pid = instance.pid;
                info!(name, number, pid, "started");
                remember(&name, &instance, s.directory);
                self.instances.push(instance);
                s.changed = true;
                Ok(pid)
            }
            Err(error) => {
                let wait = self.backoff.failed(s.now);
                error!(name, %error, again_in = ?wait, "cannot be started");
                if ordered {
                    self.wanted = self.wanted.saturating_sub(1);
                }
                Err(error.number())
            }
        }
    }

    /// Time has passed, or an instance has ended. `listeners` are there when [`Self::looks`].
    pub fn turn(&mut self, listeners: &[Listener], s: &mut Surroundings<'_>) {
        self.take_ended(s);
        self.take_listening(listeners, s);
        self.take_overdue(s);
        if self.drains_until.is_some_and(|until| until <= s.now) {
            if self.held(s) > 0 {
                self.keep(s);
            } else {
                self.end_all(s);
            }
        }
        if self.is_due_again(s.now) {
            let ordered = !self.start_orders.is_empty();
            if let Err(number) = self.launch(ordered, s) {
                self.settle_starts(Progress::Impossible, 0, number, s);
            }
        }
        let is_stable = |instance: &Instance| match instance.phase {
            Phase::Listening { since } => s.now.saturating_duration_since(since) >= STABLE,
            _ => false,
        };
        if self.backoff.failures > 0 && self.instances.iter().any(is_stable) {
            self.backoff.recovered();
        }
    }

    fn lacks(&self) -> bool {
        self.ending() == 0 && self.running() < usize::from(self.wanted)
    }

    fn is_due_again(&self, now: Instant) -> bool {
        self.lacks() && self.backoff.until(now).is_none()
    }

    fn take_ended(&mut self, s: &mut Surroundings<'_>) {
        let mut place = 0;
        while let Some(instance) = self.instances.get_mut(place) {
            match instance.ended() {
                None => place += 1,
                Some(status) => {
                    let instance = self.instances.remove(place);
                    instance.clear_away();
                    Record::remove(s.directory, self.settings.name.as_str(), instance.number);
                    self.has_ended(&instance, status, s);
                }
            }
        }
    }

    fn has_ended(&mut self, instance: &Instance, status: Option<u32>, s: &mut Surroundings<'_>) {
        s.changed = true;
        let (name, pid) = (self.settings.name.as_str().to_owned(), instance.pid);
        match instance.phase {
            Phase::Ending { .. } => info!(name, pid, "ended"),
            _ if self.drains_until.take().is_some() => {
                self.wanted = 0;
                info!(name, pid, "ended by itself while it was to be stopped");
            }
            Phase::Starting { ordered, .. } => {
                let wait = self.backoff.failed(s.now);
                warn!(name, pid, ?status, failures = self.backoff.failures, again_in = ?wait, "ended before it listened");
                self.settle_starts(Progress::Exited, pid, status.unwrap_or(0), s);
                self.wanted = self.wanted.saturating_sub(u16::from(ordered));
            }
            Phase::Listening { since } => {
                if s.now.saturating_duration_since(since) >= STABLE {
                    self.backoff.recovered();
                }
                let wait = self.backoff.failed(s.now);
                warn!(name, pid, ?status, failures = self.backoff.failures, again_in = ?wait, "ended; it is started again");
            }
        }
        if self.instances.is_empty() {
            let progress = if self.wanted == 0 { Progress::Stopped } else { Progress::Busy };
            for order in self.stop_orders.drain(..) {
                s.orders.settle(order, progress, 0, 0, 0);
            }
        }
    }

    fn settle_starts(&mut self, progress: Progress, pid: u32, detail: u32, s: &mut Surroundings<'_>) {
        let left_ms = if progress == Progress::Listening { 0 } else { self.backoff.left_ms(s.now) };
        for order in self.start_orders.drain(..) {
            s.orders.settle(order, progress, pid, detail, left_ms);
        }
    }

    fn take_listening(&mut self, listeners: &[Listener], s: &mut Surroundings<'_>) {
        let listen = self.settings.listen;
        let its = |listener: &&Listener| {
            listener.port == listen.port()
                && (listener.address.is_unspecified() || listener.address == *listen.ip())
        };
        let candidates: Vec<&Listener> = listeners.iter().filter(its).collect();
        let mut ready = None;
        for instance in &mut self.instances {
            if matches!(instance.phase, Phase::Starting { .. }) && instance.owns_one(&candidates) {
                instance.phase = Phase::Listening { since: s.now };
                let after_ms = s.now.saturating_duration_since(instance.begun).as_secs_f64() * 1e3;
                let (name, pid) = (self.settings.name.as_str(), instance.pid);
                info!(name, pid, "listens after {after_ms:.1} ms");
                ready = Some(instance.pid);
            }
        }
        if let Some(pid) = ready {
            s.changed = true;
            self.settle_starts(Progress::Listening, pid, 0, s);
        }
    }

    /// Those that should listen by now, and those that should have ended.
    fn take_overdue(&mut self, s: &mut Surroundings<'_>) {
        let (name, stop_timeout) = (self.settings.name.as_str().to_owned(), self.settings.stop_timeout);
        let mut late = None;
        for instance in &mut self.instances {
            match instance.phase {
                Phase::Starting { until, ordered } if until <= s.now => {
                    instance.phase = Phase::Ending { kill_at: s.now + stop_timeout };
                    instance.terminate();
                    late = Some((instance.pid, ordered));
                }
                Phase::Ending { kill_at } if kill_at <= s.now => {
                    warn!(name, pid = instance.pid, "did not end within {stop_timeout:?} of SIGTERM: killed");
                    instance.phase = Phase::Ending { kill_at: s.now + stop_timeout };
                    instance.kill();
                }
                _ => {}
            }
        }
        if let Some((pid, ordered)) = late {
            let wait = self.backoff.failed(s.now);
            let (listen, timeout) = (self.settings.listen, self.settings.start_timeout);
            warn!(name, pid, again_in = ?wait, "does not listen on {listen} after {timeout:?}: ended");
            self.settle_starts(Progress::NeverListened, pid, 0, s);
            self.wanted = self.wanted.saturating_sub(u16::from(ordered));
            s.changed = true;
        }
    }

    /// SIGTERM to all instances; nobody wants one any more.
    fn end_all(&mut self, s: &mut Surroundings<'_>) {
        self.drains_until = None;
        self.wanted = 0;
        let name = self.settings.name.as_str();
        for instance in &mut self.instances {
            info!(name, pid = instance.pid, "stopping: nobody is connected");
            instance.phase = Phase::Ending { kill_at: s.now + self.settings.stop_timeout };
            remember(name, instance, s.directory);
            instance.terminate();
        }
    }

    /// When [`Self::turn`] has something to do next, apart from ends, which the instances' descriptors tell.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let phases = self.instances.iter().map(|instance| match instance.phase {
            Phase::Starting { until, .. } => until.min(now + LOOK),
            Phase::Ending { kill_at } => kill_at,
            Phase::Listening { since } if self.backoff.failures > 0 => since + STABLE,
            Phase::Listening { .. } => now + Duration::from_secs(3600),
        });
        let again = self.lacks().then(|| self.backoff.until(now).unwrap_or(now));
        phases.chain(again).chain(self.drains_until).min()
    }

    /// What the appliances are told of it.
    pub fn offer(&self, now: Instant) -> Offer {
        let count = |is: fn(Phase) -> bool| {
            let count = self.instances.iter().filter(|instance| is(instance.phase)).count();
            u16::try_from(count).unwrap_or(u16::MAX)
        };
        let starting = count(|phase| matches!(phase, Phase::Starting { .. }));
        let missing = usize::from(self.wanted).saturating_sub(self.running());
        let missing = u16::try_from(missing).unwrap_or(0);
        Offer {
            name: self.settings.name,
            memory: u64::from(self.settings.memory_mb) << 20,
            cpu_hundredths: self.settings.cpu_percent,
            instances_max: self.settings.instances_max,
            listening: count(|phase| matches!(phase, Phase::Listening { .. })),
            starting: starting.saturating_add(missing),
            failures: self.backoff.failures,
            draining: self.drains_until.is_some() || (self.ending() > 0 && self.running() == 0),
            retry_ms: self.backoff.left_ms(now),
            address: *self.settings.listen.ip(),
            port: self.settings.listen.port(),
        }
    }
}

/// Keeps note of an instance for the next agent.
fn remember(name: &str, instance: &Instance, directory: &Path) {
    let record = Record {
        name: name.to_owned(),
        number: instance.number,
        pid: instance.pid,
        started_ticks: instance.started_ticks,
        ending: matches!(instance.phase, Phase::Ending { .. }),
    };
    if let Err(error) = record.write(directory) {
        let directory = directory.display();
        error!(name, %directory, %error, "the next agent will not know of this instance: see `run_directory`");
    }
}
