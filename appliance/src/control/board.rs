//! One board: what the configuration says of it, whether it lives, what it reported, and whether it can take a connection.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::PortIndex;
use ipos_wire::mac::Mac;

use super::absurd::Absurd;
use super::applications::Applications;
use super::boards::MS_NS;
use super::census::Held;
use super::counters::{Ended, NoBoard};
use super::health::{Health, Outcome};
use super::life::Life;
use super::listening::Listening;
use super::offers::Offers;
use super::placement::rules::{Limit, Limits};
use super::placement::traffic::Traffic;
use super::standing::Standing;
use super::state::State;

/// Reports that a board may miss before it gets no connection, and before it is dead.
const SUSPECT_INTERVALS: u64 = 3;
const DEAD_INTERVALS: u64 = 10;

/// Reasons of a refusal, by code of 0x04 (docs/wire.md); 0 stands for codes that are unknown.
pub const REFUSALS: [&str; 10] = [
    "other",
    "no_listener",
    "not_covered",
    "accept_queue_full",
    "endpoint_table_full",
    "control_block",
    "mss_too_small",
    "mptcp",
    "held_by_another",
    "protocol",
];

/// A board as the configuration has it.
#[derive(Clone, Debug)]
pub struct BoardSettings {
    /// Its name in logs and metrics.
    pub name: String,
    /// Its address on the farm network.
    pub address: Ipv4Addr,
    /// Its MAC address, when it shall not be learned.
    pub mac: Option<Mac>,
    /// The farm port that it is behind.
    pub port: PortIndex,
    /// Its share of new connections, 0..=[`super::standing::WEIGHT_MAX`].
    pub weight: u16,
}

/// Whether a board lives, as its reports tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// No report yet.
    Unheard,
    /// Reports come.
    Alive,
    /// A report is overdue: no connection is placed there.
    Suspect,
    /// None has come for long.
    Dead,
}

impl Liveness {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Liveness::Unheard => "unheard",
            Liveness::Alive => "alive",
            Liveness::Suspect => "suspect",
            Liveness::Dead => "dead",
        }
    }
}

/// Why a board gets no connection of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No report, or an overdue one.
    Silent(Liveness),
    /// It died again and again: kept back for so long still, nanoseconds.
    Flapping(u64),
    /// Its MAC address is not known.
    NoMac,
    /// It takes no new connections.
    Draining,
    /// Its kernel lacks TCP options that clients are offered: these bits.
    Options(u16),
    /// Its health check fails, the last one in this way.
    Unhealthy(Outcome),
    /// Nothing listens on the service's port, at an address that covers the service's.
    NotListening,
    /// What listens there is about to be stopped.
    Stopping,
    /// Its weight is 0, or that which the list of boards gives it.
    NoWeight,
    /// It is beyond a limit of the service.
    Over(Limit),
}

impl Unfit {
    /// A sentence for `status`.
    pub fn reason(self) -> String {
        match self {
            Unfit::Silent(liveness) => format!("no reports: {}", liveness.name()),
            Unfit::NoMac => "its MAC address is not known: no answer to ARP".to_owned(),
            Unfit::Draining => "draining".to_owned(),
            Unfit::NoWeight => "its weight is 0".to_owned(),
            Unfit::Unhealthy(outcome) => format!("its health check fails: {}", outcome.sentence()),
            Unfit::Stopping => "its application is idle and about to be stopped".to_owned(),
            Unfit::NotListening => "nothing listens for the service there".to_owned(),
            Unfit::Flapping(for_ns) => {
                format!("it died again and again: kept back for {:.1} s more", for_ns as f64 / 1e9)
            }
            Unfit::Over(limit) => format!("beyond the service's limit {}", limit.name()),
            Unfit::Options(bits) => {
                let names = ["timestamps", "sack", "window_scale", "ecn"];
                let named = names.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
                let lacking: Vec<&str> = named.map(|(_, name)| *name).collect();
                format!("its kernel lacks TCP options that clients are offered: {}", lacking.join(", "))
            }
        }
    }

    /// What is counted when this is why a request gets no board.
    pub const fn counted(self) -> NoBoard {
        match self {
            Unfit::Silent(_) => NoBoard::Silent,
            Unfit::Flapping(_) => NoBoard::Flapping,
            Unfit::NoMac => NoBoard::NoMac,
            Unfit::Draining => NoBoard::Draining,
            Unfit::Options(_) => NoBoard::Options,
            Unfit::NotListening => NoBoard::NotListening,
            Unfit::Unhealthy(_) => NoBoard::Unhealthy,
            Unfit::Stopping => NoBoard::Stopping,
            Unfit::NoWeight => NoBoard::NoWeight,
            Unfit::Over(_) => NoBoard::OverLimit,
        }
    }
}

/// What a board must be able to do for a connection.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// TCP options that the client was offered.
    pub options: u16,
    /// Whether a listening socket is needed; of UDP sockets boards report nothing, and say so when asked.
    pub listener: bool,
    /// The address and port that the client connected to.
    pub endpoint: (Ipv4Addr, u16),
    /// What a board may have at most.
    pub limits: &'a Limits,
}

/// One board.
#[derive(Debug)]
pub struct Board {
    /// As configured.
    pub settings: BoardSettings,
    /// Where it is reached, once known.
    pub mac: Option<Mac>,
    pub(super) ask_at_ns: u64,
    pub(super) asked: u32,
    pub(super) moved_at_ns: Option<u64>,
    /// Another machine that claims its address.
    pub(super) rival: Option<Mac>,
    /// Its last report.
    pub state: Option<State>,
    /// When that came.
    pub reported_at_ns: u64,
    /// Whether it was last said to be alive, so that each change is said once.
    pub(super) said_alive: bool,
    /// What is wanted of it.
    pub standing: Standing,
    /// What health checks say.
    pub health: Health,
    /// Its Listening Sockets Table.
    pub listening: Listening,
    /// Its Application Information Table.
    pub applications: Applications,
    /// What was said about reports of its that cannot be.
    pub(super) absurd: Absurd,
    /// What it may start.
    pub offers: Offers,
    /// Its connections at this moment.
    pub traffic: Traffic,
    /// How often it died, and whether it is kept back for it.
    pub life: Life,
    /// Its flows in the workers' tables.
    pub held: Held,
    /// Whether the count that is under way began without an attempt under way.
    pub(super) counting_whole: bool,
    /// How attempts ended, by [`Ended`].
    pub ended: [u64; Ended::ALL.len()],
    /// Refusals by code.
    pub refusals: [u64; REFUSALS.len()],
}

impl Board {
    /// Nothing known of it yet.
    pub fn new(settings: BoardSettings) -> Self {
        Self {
            mac: settings.mac,
            standing: Standing::new(settings.weight),
            life: Life::default(),
            settings,
            ask_at_ns: 0,
            asked: 0,
            moved_at_ns: None,
            rival: None,
            state: None,
            reported_at_ns: 0,
            said_alive: false,
            health: Health::default(),
            listening: Listening::default(),
            applications: Applications::default(),
            absurd: Absurd::default(),
            offers: Offers::default(),
            traffic: Traffic::default(),
            held: Held::default(),
            counting_whole: false,
            ended: [0; Ended::ALL.len()],
            refusals: [0; REFUSALS.len()],
        }
    }

    /// Whether it lives: by its own interval between reports.
    pub fn liveness(&self, now_ns: u64) -> Liveness {
        let Some(state) = &self.state else { return Liveness::Unheard };
        let interval_ns = u64::from(state.interval_ms) * MS_NS;
        match now_ns.saturating_sub(self.reported_at_ns) {
            age_ns if age_ns >= DEAD_INTERVALS * interval_ns => Liveness::Dead,
            age_ns if age_ns >= SUSPECT_INTERVALS * interval_ns => Liveness::Suspect,
            _ => Liveness::Alive,
        }
    }

    /// Connections now: those reported, and what came and went since.
    pub fn connections(&self) -> u64 {
        self.traffic.connections(self.state.as_ref().map_or(0, |state| state.connections))
    }

    /// Whether it may get such a connection.
    ///
    /// # Errors
    /// Why not.
    #[inline]
    pub fn fit(&self, now_ns: u64, need: &Need<'_>) -> Result<&State, Unfit> {
        self.fit_for(now_ns, need, false)
    }

    /// Whether it may get such a connection that belongs to a session which it has: also while it drains, with weight 0, and while
    /// its reports are late but it is not dead.
    ///
    /// # Errors
    /// Why not.
    pub fn fit_for_session(&self, now_ns: u64, need: &Need<'_>) -> Result<&State, Unfit> {
        self.fit_for(now_ns, need, true)
    }

    // Asked of each board for each request: within the loop over them it costs a seventh less.
    #[inline(always)]
    fn fit_for(&self, now_ns: u64, need: &Need<'_>, in_session: bool) -> Result<&State, Unfit> {
        let state = match (self.liveness(now_ns), &self.state) {
            (Liveness::Alive, Some(state)) => state,
            (Liveness::Suspect, Some(state)) if in_session => state,
            (silent, _) => return Err(Unfit::Silent(silent)),
        };
        let kept_back_ns = self.life.kept_back_ns(now_ns);
        if kept_back_ns > 0 {
            return Err(Unfit::Flapping(kept_back_ns));
        }
        let lacking = need.options & !state.options;
        if self.mac.is_none() {
            return Err(Unfit::NoMac);
        }
        if in_session {
            if !self.standing.honours_sessions(now_ns) {
                return Err(Unfit::Draining);
            }
        } else if state.draining || self.standing.is_draining() {
            return Err(Unfit::Draining);
        } else if !self.standing.takes_new() {
            return Err(Unfit::NoWeight);
        }
        if lacking != 0 {
            return Err(Unfit::Options(lacking));
        }
        let (address, port) = need.endpoint;
        if need.listener && !self.listening.covers(address, port) {
            return Err(Unfit::NotListening);
        }
        if let Some(outcome) = self.health.failing(need.endpoint) {
            return Err(Unfit::Unhealthy(outcome));
        }
        if self.offers.are_leaving(need.endpoint) {
            return Err(Unfit::Stopping);
        }
        match need.limits.exceeded(state, || self.connections(), || self.listening.queue(address, port)) {
            Some(limit) => Err(Unfit::Over(limit)),
            None => Ok(state),
        }
    }

    /// Counts the end of an attempt.
    pub fn attempt_ended(&mut self, now_ns: u64, how: Ended) {
        self.traffic.in_flight = self.traffic.in_flight.saturating_sub(1);
        self.ended[how as usize] += 1;
        if how == Ended::Acknowledged {
            self.traffic.place(now_ns);
        }
    }

    /// Counts a refusal.
    pub fn refused(&mut self, code: u8) {
        let code = usize::from(code);
        self.refusals[if code < REFUSALS.len() { code } else { 0 }] += 1;
    }
}
