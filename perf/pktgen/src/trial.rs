//! One trial: units at a rate, for a time; then a wait for the last ones to come back.

use serde::Serialize;

use crate::boards::BoardCounters;
use crate::cli::Idle;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::lane::LaneCounters;
use crate::profiles::Tally;
use crate::progress::{Progress, Watch};
use crate::schedule::{SECOND_NS, Schedule};
use crate::stop::Stop;

/// A sender that has not finished so long after its time gives up what is left: a share of the duration, and at least
/// what the plan allows.
const OVERTIME_SHARE: f64 = 0.02;

/// Of the units planned, so many must have been sent for the rate to count as reached.
const REACHED: f64 = 0.999;

/// A search takes a rate for held when so much of it was: in a short trial the overtime would flatter it.
const HELD: f64 = 0.98;

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Units per second.
    pub rate: f64,
    /// Seconds.
    pub duration_s: f64,
    /// Most units.
    pub units_max: u64,
    /// How long to wait for the last units, nanoseconds.
    pub drain_ns: u64,
    /// A start so far behind its time is late, nanoseconds.
    pub late_after_ns: u64,
    /// How long after its time a sender that fell behind may go on, at least, nanoseconds.
    pub overtime_ns: u64,
}

impl Plan {
    /// Units that rate and duration make.
    #[must_use]
    pub fn units(&self) -> u64 {
        ((self.rate * self.duration_s).ceil() as u64).clamp(1, self.units_max.max(1))
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trial {
    /// Units per second asked for.
    pub asked_rate: f64,
    /// Units per second reached.
    pub reached_rate: f64,
    /// How long it sent, seconds.
    pub duration_s: f64,
    /// Units planned.
    pub planned: u64,
    /// What became of them.
    #[serde(flatten)]
    pub tally: Tally,
    /// Units sent that did not come back.
    pub lost: u64,
    /// Units that started late.
    pub late: u64,
    /// The furthest that a start fell behind, microseconds.
    pub lag_max_us: f64,
    /// Whether the user ended it early.
    pub stopped: bool,
    /// What the clients' port carried.
    pub client_port: LaneCounters,
    /// What the boards' port carried.
    pub farm_port: Option<LaneCounters>,
}

impl Trial {
    /// Share of the units sent that did not come back.
    #[must_use]
    pub fn loss(&self) -> f64 {
        if self.tally.sent == 0 { 0.0 } else { self.lost as f64 / self.tally.sent as f64 }
    }

    /// Whether the rate asked for was reached without the help of overtime: what a search goes by.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.is_reached() && self.reached_rate >= self.asked_rate * HELD
    }

    /// Whether the rate asked for was reached, but for a scheduler's slice at the end.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.stopped || self.tally.sent as f64 >= self.planned as f64 * REACHED
    }
}

/// Runs trials on an engine.
#[derive(Debug)]
pub struct Runner {
    /// The ports and who talks through them.
    pub engine: Engine,
    /// Time.
    pub clock: Clock,
    /// Whether to end.
    pub stop: Stop,
    /// What to do when idle.
    pub idle: Idle,
    /// Who looks on.
    pub watch: Watch,
}

impl Runner {
    /// One poll; the time at which it started, nanoseconds.
    #[inline]
    pub fn turn(&mut self) -> u64 {
        let now_ns = self.clock.now_ns();
        if !self.engine.poll(now_ns) && self.idle == Idle::Yield {
            std::thread::yield_now();
        }
        now_ns
    }

    /// Polls until `done` says so or the time is over; whether it was done. Ends early when the user wants to.
    pub fn poll_until(&mut self, limit_ns: u64, mut done: impl FnMut(&mut Engine, u64) -> bool) -> bool {
        let end_ns = self.clock.now_ns().saturating_add(limit_ns);
        loop {
            let now_ns = self.turn();
            if done(&mut self.engine, now_ns) {
                return true;
            }
            if now_ns >= end_ns || self.stop.is_set() {
                return false;
            }
        }
    }

    /// Sends as planned, and waits for what comes back.
    pub fn trial(&mut self, plan: &Plan) -> Trial {
        let client_before = self.engine.client_lane().counters();
        let farm_before = self.engine.farm_lane().map(|lane| lane.counters());
        let start_ns = self.clock.now_ns();
        self.engine.begin(Schedule::new(start_ns, plan.rate, plan.units(), plan.late_after_ns));
        let end_ns = self.engine.schedule().end_ns();
        let overtime_ns = ((end_ns - start_ns) as f64 * OVERTIME_SHARE) as u64;
        let limit_ns = end_ns - start_ns + overtime_ns.max(plan.overtime_ns);
        let mut watch = std::mem::take(&mut self.watch);
        self.poll_until(limit_ns, |engine, now_ns| {
            watch.show(now_ns, || Progress::of(engine, start_ns, now_ns));
            engine.schedule().is_done()
        });
        let (sent_ns, planned) = (self.clock.now_ns(), self.engine.schedule().units());
        let stopped = self.stop.is_set() && !self.engine.schedule().is_done();
        self.engine.end_starts();
        self.poll_drain(plan.drain_ns, &mut watch, start_ns);
        self.watch = watch;
        let tally = self.engine.profile().tally();
        let schedule = self.engine.schedule();
        // The last unit has its share of time too.
        let duration_ns = sent_ns.max(end_ns.min(start_ns + limit_ns)).saturating_sub(start_ns).max(1);
        let duration_ns = if stopped { sent_ns - start_ns } else { duration_ns };
        let duration_s = duration_ns.max(1) as f64 / SECOND_NS as f64;
        Trial {
            asked_rate: plan.rate,
            reached_rate: tally.sent as f64 / duration_s,
            duration_s,
            planned,
            tally,
            lost: tally.sent.saturating_sub(tally.returned),
            late: schedule.late(),
            lag_max_us: schedule.lag_max_ns() as f64 / 1e3,
            stopped,
            client_port: since(self.engine.client_lane().counters(), client_before),
            farm_port: self
                .engine
                .farm_lane()
                .zip(farm_before)
                .map(|(lane, before)| since(lane.counters(), before)),
        }
    }

    /// Waits for what is under way, also after a stop, so that the report is whole.
    fn poll_drain(&mut self, drain_ns: u64, watch: &mut Watch, start_ns: u64) {
        let end_ns = self.clock.now_ns().saturating_add(drain_ns);
        loop {
            let now_ns = self.turn();
            watch.show(now_ns, || Progress::of(&self.engine, start_ns, now_ns));
            if now_ns >= end_ns || self.engine.profile().is_settled() {
                return;
            }
        }
    }

    /// What the boards did so far.
    #[must_use]
    pub fn boards(&self) -> BoardCounters {
        self.engine.boards().counters()
    }
}

fn since(now: LaneCounters, before: LaneCounters) -> LaneCounters {
    LaneCounters {
        sent_packets: now.sent_packets - before.sent_packets,
        sent_octets: now.sent_octets - before.sent_octets,
        received_packets: now.received_packets - before.received_packets,
        received_octets: now.received_octets - before.received_octets,
        send_failed: now.send_failed - before.send_failed,
        no_mbuf: now.no_mbuf - before.no_mbuf,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(sent: u64, duration_s: f64) -> Trial {
        Trial {
            asked_rate: 1000.0,
            reached_rate: sent as f64 / duration_s,
            duration_s,
            planned: 1000,
            tally: Tally { sent, returned: sent, ..Tally::default() },
            lost: 0,
            late: 0,
            lag_max_us: 0.0,
            stopped: false,
            client_port: LaneCounters::default(),
            farm_port: None,
        }
    }

    #[test]
    fn a_rate_reached_in_overtime_is_not_held() {
        let judge = |trial: Trial| (trial.is_reached(), trial.is_held());
        assert_eq!(judge(trial(1000, 1.0)), (true, true));
        assert_eq!(judge(trial(1000, 1.05)), (true, false));
        assert_eq!(judge(trial(990, 1.0)), (false, false));
    }

    #[test]
    fn a_plan_is_bounded_by_time_and_count() {
        let plan = Plan {
            rate: 2.5,
            duration_s: 3.0,
            units_max: 100,
            drain_ns: 0,
            late_after_ns: 0,
            overtime_ns: 0,
        };
        assert_eq!(plan.units(), 8);
        assert_eq!(Plan { units_max: 5, ..plan }.units(), 5);
        assert_eq!(Plan { duration_s: 1e-6, ..plan }.units(), 1);
    }
}
