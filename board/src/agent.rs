//! The agent's loop: reports, events of the programs, applications, neighbours, ageing. One thread, woken by events, signals and time.

use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use ipos_wire::{
    flow::Flow,
    ipos::{ClosedReason, RefusalReason},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use tracing::{debug, error, info, warn};

use crate::{
    config::Config,
    farm::Farm,
    idle,
    interface::{self, Interface},
    neighbours, pins,
    records::{Event, EventKind, Notice},
    report::Reporter,
    sockets::SockDiag,
    spawn::Applications,
    sys,
    takeover::{self, Takeover},
};

/// How often the neighbour table is kept warm.
const REFRESH: Duration = Duration::from_secs(5);
/// How often an appliance that is not resolved is looked for.
const RESOLVE: Duration = Duration::from_millis(500);
/// How often records are aged; every row is looked at, so a large table is looked through less often.
const REAP: Duration = Duration::from_secs(2);
const REAP_LARGE: Duration = Duration::from_secs(10);
const LARGE_TABLE: u32 = 1 << 17;
/// Events handled before the time is looked at again: destroying a socket takes 0.1 ms at most, and under a flood of events
/// the reports must go on, or the appliances take the board for dead.
const EVENTS_PER_TURN: usize = 128;

/// Why the agent ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The programs could not be put in place.
    #[error(transparent)]
    Takeover(#[from] takeover::Error),
    /// The farm interface is not there.
    #[error("interface {0} does not exist in this network namespace")]
    NoInterface(String),
    /// The farm interface is no longer the one that the programs are attached to.
    #[error(
        "interface {0} was removed, made anew, or has another Ethernet address: the agent has to be started again"
    )]
    InterfaceChanged(String),
    /// `ipos-board detach` ran meanwhile.
    #[error("the programs were taken away from {0} while the agent ran: start it again to put them in place")]
    TakenAway(String),
    /// The system refused something.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

fn io_error<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
    move |cause| Error::Io { what, cause: cause.into() }
}

/// Runs until SIGTERM or SIGINT. The programs stay in place: connections live on without the agent.
///
/// # Errors
/// When something at the start fails; later troubles are logged and outlived.
pub fn run(config: &Config) -> Result<(), Error> {
    // First, so that a signal is an orderly end from the start on.
    let signals = catch_signals().map_err(io_error("catch signals"))?;
    let interface = interface::interfaces()
        .map_err(io_error("list the interfaces"))?
        .remove(&config.interface)
        .ok_or_else(|| Error::NoInterface(config.interface.clone()))?;
    pins::prepare(&config.pin_directory).map_err(takeover::Error::from)?;
    let _lock = pins::lock(&config.pin_directory).map_err(takeover::Error::from)?;
    let mut storage = MaybeUninit::uninit();
    let takeover = Takeover::put_in_place(&mut storage, config, &interface)?;
    let mac = interface.mac.unwrap_or_default();
    let farm =
        Farm::open(interface.index, mac, config.ethertype).map_err(io_error("open a packet socket"))?;
    let diag = SockDiag::open().map_err(io_error("open sock_diag"))?;
    info!(interface = config.interface, pins = %config.pin_directory.display(), "programs in place");
    let agent = Agent {
        config,
        takeover: &takeover,
        farm: RefCell::new(farm),
        diag: RefCell::new(diag),
        applications: RefCell::new(Applications::new(config, Instant::now())),
    };
    agent.serve(&interface, &signals)
}

fn catch_signals() -> Result<SignalFd, Errno> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

struct Agent<'a, 'obj> {
    config: &'a Config,
    takeover: &'a Takeover<'obj>,
    farm: RefCell<Farm>,
    diag: RefCell<SockDiag>,
    applications: RefCell<Applications>,
}

impl Agent<'_, '_> {
    fn serve(&self, interface: &Interface, signals: &SignalFd) -> Result<(), Error> {
        // What an earlier agent knew: events that waited for this one can be told at once.
        let mut adopted = self.takeover.appliances();
        adopted.retain(|(address, _)| self.config.appliances.contains(address));
        let known = RefCell::new(adopted);
        let ring = self.takeover.events(|notice| match notice {
            Notice::Event(event) => self.handle(&event, &known.borrow()),
            Notice::Order(appliance, message) => self.order(appliance, &message),
        })?;
        let mut reporter = Reporter::new(self.config, interface.index).map_err(io_error("open sock_diag"))?;
        let reap_every = if self.config.endpoints_max > LARGE_TABLE { REAP_LARGE } else { REAP };
        let start = Instant::now();
        let (mut report_at, mut resolve_at, mut reap_at) = (start, start, start + reap_every);
        loop {
            let now = Instant::now();
            if now >= resolve_at {
                self.expect_unchanged(interface)?;
                neighbours::refresh(self.config.address, &self.config.appliances);
                let all_known = known.borrow().len() == self.config.appliances.len();
                resolve_at = now + if all_known { REFRESH } else { RESOLVE };
            }
            let urgent = self.turn_applications(now);
            if urgent {
                report_at = now;
            }
            if now >= report_at {
                if !takeover::is_in_place(&self.config.pin_directory) {
                    // An appliance must not take this board for one that acknowledges.
                    return Err(Error::TakenAway(self.config.pin_directory.display().to_string()));
                }
                self.follow_neighbours(&known);
                let held = self.takeover.endpoints_held()?;
                let offers = self.applications.borrow().offers(now);
                let farm = &mut self.farm.borrow_mut();
                if let Err(error) = reporter.report(farm, &known.borrow(), held, &offers, urgent, now) {
                    error!(%error, "no report: what it is made of cannot be read");
                }
                // A late report is not made up for.
                report_at = (report_at + self.config.report_interval).max(now);
            }
            if now >= reap_at {
                self.takeover.reap()?;
                reap_at = now + reap_every;
            }
            // After the report, which says that the socket is there.
            self.tell_outcomes(&known.borrow());
            let applications = self.applications.borrow();
            let next = report_at.min(resolve_at).min(reap_at);
            let next = applications.next(now).map_or(next, |due| due.min(next));
            let ends = applications.descriptors();
            let stop = wait(sys::ring_descriptor(&ring), signals, ends, next)
                .map_err(io_error("wait for events"))?;
            drop(applications);
            if stop {
                info!("stopping; the programs stay in place");
                return Ok(());
            }
            let consumed = ring.consume_raw_n(EVENTS_PER_TURN);
            if consumed < 0 {
                return Err(Error::Io {
                    what: "read events",
                    cause: io::Error::from_raw_os_error(consumed.saturating_neg()),
                });
            }
        }
    }

    /// An appliance wants an application started or stopped.
    fn order(&self, appliance: Ipv4Addr, message: &[u8]) {
        let held = |address, port| self.held_on(address, port);
        self.applications.borrow_mut().order(appliance, message, Instant::now(), &held);
    }

    /// Endpoints of a listener that have not ended; many, when that cannot be told.
    fn held_on(&self, address: Ipv4Addr, port: u16) -> u32 {
        self.takeover.held_on(address, port).unwrap_or_else(|error| {
            error!(%error, "it cannot be told who is connected: nothing is stopped");
            u32::MAX
        })
    }

    /// True when the appliances shall hear of a change at once.
    fn turn_applications(&self, now: Instant) -> bool {
        let mut applications = self.applications.borrow_mut();
        if applications.is_empty() {
            return false;
        }
        let held = |address, port| self.held_on(address, port);
        applications.turn(now, &mut self.diag.borrow_mut(), &held).unwrap_or_else(|error| {
            error!(%error, "it cannot be seen what listens");
            false
        })
    }

    fn tell_outcomes(&self, known: &[(Ipv4Addr, [u8; 6])]) {
        for outcome in self.applications.borrow_mut().outcomes() {
            let Some((_, mac)) = known.iter().find(|(address, _)| *address == outcome.appliance) else {
                continue;
            };
            if let Err(error) = self.farm.borrow_mut().outcome(*mac, &outcome) {
                // The appliance asks again.
                debug!(%error, "outcome not sent");
            }
        }
    }

    /// The programs know the board by its Ethernet address and are attached to one interface index; when either changes,
    /// everything that they and the reports say is lost, and only a new start mends it.
    fn expect_unchanged(&self, interface: &Interface) -> Result<(), Error> {
        let name = &self.config.interface;
        let all = interface::interfaces().map_err(io_error("list the interfaces"))?;
        let same = |now: &Interface| (now.index, now.mac) == (interface.index, interface.mac);
        if all.get(name).is_some_and(same) { Ok(()) } else { Err(Error::InterfaceChanged(name.clone())) }
    }

    fn follow_neighbours(&self, known: &RefCell<Vec<(Ipv4Addr, [u8; 6])>>) {
        let mut now = neighbours::known(&self.config.interface, &self.config.appliances);
        // One that the kernel does not resolve just now keeps the address it had.
        for (address, mac) in known.borrow().iter() {
            if !now.iter().any(|(resolved, _)| resolved == address) {
                now.push((*address, *mac));
            }
        }
        now.sort_unstable();
        if *known.borrow() == now {
            return;
        }
        info!(appliances = ?now.iter().map(|(address, _)| address).collect::<Vec<_>>(), "appliances resolved");
        match self.takeover.sync_appliances(&now, &self.config.appliances) {
            Ok(()) => *known.borrow_mut() = now,
            Err(error) => error!(%error, "the programs do not know the appliances"),
        }
    }

    fn handle(&self, event: &Event, known: &[(Ipv4Addr, [u8; 6])]) {
        debug!(kind = ?event.kind, flow = %event.flow, id = event.migration_id, "event");
        let Some((_, mac)) = known.iter().find(|(address, _)| *address == event.appliance) else {
            // Nobody to answer; a clearing or a detach is asked for again.
            debug!(appliance = %event.appliance, "event for an appliance that is not resolved");
            return;
        };
        let handled = match event.kind {
            EventKind::Closed => self.tell_closed(event, *mac),
            EventKind::Clear => self.clear(event, *mac),
            EventKind::Detach => self.detach(event, *mac),
            EventKind::Moved => self.give_up(event).map(drop),
            EventKind::CloseIdle => self.close_idle(event),
        };
        if let Err(error) = handled {
            warn!(kind = ?event.kind, flow = %event.flow, %error, "event not handled");
        }
    }

    fn tell_closed(&self, event: &Event, mac: [u8; 6]) -> Result<(), Error> {
        self.farm
            .borrow_mut()
            .closed(mac, event.flow, event.migration_id, ClosedReason::Closed)
            .map_err(io_error("send 0x07"))
    }

    /// Destroys the socket of the flow while egress is hidden; false when it cannot be destroyed.
    fn destroy(&self, event: &Event) -> bool {
        match self.diag.borrow_mut().destroy(&event.flow) {
            Ok(_) => true,
            Err(error) => {
                error!(flow = %event.flow, %error, "socket not destroyed");
                false
            }
        }
    }

    /// The client reuses its port: the old socket goes, then the new endpoint is acknowledged.
    fn clear(&self, event: &Event, mac: [u8; 6]) -> Result<(), Error> {
        if self.takeover.endpoint_state(&event.flow, event.migration_id)? != Some("clearing") {
            return Ok(());
        }
        let destroyed = self.destroy(event);
        if !self.takeover.settle(&event.flow, event.migration_id, destroyed)? {
            return Ok(());
        }
        let mut farm = self.farm.borrow_mut();
        if destroyed {
            farm.ack(mac, event.flow, event.migration_id).map_err(io_error("send 0x03"))
        } else {
            farm.refused(mac, event.flow, event.migration_id, RefusalReason::HeldByOther)
                .map_err(io_error("send 0x04"))
        }
    }

    /// The appliance wants its idle connections closed.
    fn close_idle(&self, event: &Event) -> Result<(), Error> {
        let between = |flow: &Flow| self.takeover.is_between_requests(flow, event.appliance);
        idle::close(&mut self.diag.borrow_mut(), event.appliance, event.idle_ms, between)
            .map(drop)
            .map_err(io_error("close idle connections"))
    }

    /// Destroys the socket of an endpoint that is being given up; false when it is not, or not yet.
    fn give_up(&self, event: &Event) -> Result<bool, Error> {
        if self.takeover.endpoint_state(&event.flow, event.migration_id)? != Some("detaching") {
            return Ok(false);
        }
        let destroyed = self.destroy(event);
        Ok(self.takeover.settle(&event.flow, event.migration_id, destroyed)? && destroyed)
    }

    /// The appliance gives the endpoint up: its socket goes without a word to the client.
    fn detach(&self, event: &Event, mac: [u8; 6]) -> Result<(), Error> {
        if self.give_up(event)? {
            self.farm
                .borrow_mut()
                .closed(mac, event.flow, event.migration_id, ClosedReason::Forced)
                .map_err(io_error("send 0x07"))?;
        }
        Ok(())
    }
}

/// Sleeps until the ring has events, a signal came, an instance ended or `until`; true when a signal asks to stop.
fn wait<'a>(
    ring: BorrowedFd<'a>,
    signals: &'a SignalFd,
    ends: impl Iterator<Item = BorrowedFd<'a>>,
    until: Instant,
) -> Result<bool, Errno> {
    let left = until.saturating_duration_since(Instant::now());
    // Rounded up, so that the loop does not spin through the last millisecond.
    let timeout = PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
    let all = [ring, signals.as_fd()].into_iter().chain(ends);
    let mut descriptors: Vec<PollFd<'_>> =
        all.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)).collect();
    match poll(&mut descriptors, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(signals.read_signal()?.is_some()),
        Err(error) => Err(error),
    }
}
