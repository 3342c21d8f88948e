//! What happens to the farm, in which order: drawn from a seed, so that a run can be had again.

use std::time::Duration;

/// Boards of the soak's lab.
pub const BOARDS: u32 = 3;
/// The board that is nobody's only one: it can be removed.
pub const SPARE: u32 = 3;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM to a board's agent, and a new one.
    AgentRestart(u32),
    /// SIGKILL to a board's agent, and a new one after this time.
    AgentKill(u32, Duration),
    /// SIGKILL to all of a board's nginx, and a new one after this time.
    NginxKill(u32, Duration),
    /// SIGHUP to a board's nginx: new workers, and the old ones close what is idle.
    NginxReload(u32),
    /// A board gets no new connections for this time.
    Drain(u32, Duration),
    /// The same, and its idle connections are closed.
    DrainByDeadline(u32, Duration),
    /// The spare board is drained, removed and added.
    Remove,
    /// It is removed with its connections, and added.
    RemoveByForce,
    /// The configuration changes.
    Reload,
    /// SIGTERM to the appliance, and a new one after this time.
    ApplianceStop(Duration),
    /// SIGKILL to the appliance, and a new one after this time.
    ApplianceKill(Duration),
    /// A board's cable is out for this time.
    Link(u32, Duration),
    /// The cable between appliance and boards loses so many percent of all frames, each way, for this time.
    Loss(u32, Duration),
}

impl Event {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Event::AgentRestart(_) => "agent restarted",
            Event::AgentKill(..) => "agent killed",
            Event::NginxKill(..) => "nginx killed",
            Event::NginxReload(_) => "nginx reloaded",
            Event::Drain(..) => "board drained",
            Event::DrainByDeadline(..) => "board drained by a deadline",
            Event::Remove => "board removed",
            Event::RemoveByForce => "board removed by force",
            Event::Reload => "configuration reloaded",
            Event::ApplianceStop(_) => "appliance stopped",
            Event::ApplianceKill(_) => "appliance killed",
            Event::Link(..) => "link down",
            Event::Loss(..) => "frames lost",
        }
    }

    /// The board that it happens to.
    pub fn board(self) -> Option<u32> {
        match self {
            Event::AgentRestart(board)
            | Event::AgentKill(board, _)
            | Event::NginxKill(board, _)
            | Event::NginxReload(board)
            | Event::Drain(board, _)
            | Event::DrainByDeadline(board, _)
            | Event::Link(board, _) => Some(board),
            Event::Remove | Event::RemoveByForce => Some(SPARE),
            Event::Reload | Event::ApplianceStop(_) | Event::ApplianceKill(_) | Event::Loss(..) => None,
        }
    }

    /// Whether a process of ours ends: what is to show leaks must live on.
    pub fn is_restart(self) -> bool {
        matches!(
            self,
            Event::AgentRestart(_) | Event::AgentKill(..) | Event::ApplianceStop(_) | Event::ApplianceKill(_)
        )
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): enough for a plan, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number from `from` on and below `to`.
    fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    fn ms(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.within(from, to))
    }

    fn board(&mut self) -> u32 {
        self.within(1, u64::from(BOARDS) + 1) as u32
    }
}

/// Events for ever: every kind once, in a new order each time round.
pub struct Plan {
    random: Random,
    round: Vec<fn(&mut Random) -> Event>,
}

/// Each kind of event, with what has to be drawn for it.
const KINDS: &[fn(&mut Random) -> Event] = &[
    |random| Event::AgentRestart(random.board()),
    |random| Event::AgentKill(random.board(), random.ms(0, 1_500)),
    |random| Event::NginxKill(random.board(), random.ms(0, 2_000)),
    |random| Event::NginxReload(random.board()),
    |random| Event::Drain(random.board(), random.ms(500, 4_000)),
    |random| Event::DrainByDeadline(random.board(), random.ms(1_000, 4_000)),
    |_| Event::Remove,
    |_| Event::RemoveByForce,
    |_| Event::Reload,
    |random| Event::ApplianceStop(random.ms(0, 1_500)),
    |random| Event::ApplianceKill(random.ms(0, 1_500)),
    |random| Event::Link(random.board(), random.ms(200, 3_000)),
    |random| Event::Loss(random.within(1, 6) as u32, random.ms(1_000, 5_000)),
];

impl Plan {
    /// The plan of this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), round: Vec::new() }
    }
}

impl Iterator for Plan {
    /// How long nothing happens, and what happens then.
    type Item = (Duration, Event);

    fn next(&mut self) -> Option<Self::Item> {
        if self.round.is_empty() {
            self.round.extend(KINDS);
        }
        let place = self.random.within(0, self.round.len() as u64) as usize;
        let kind = self.round.swap_remove(place);
        Some((self.random.ms(500, 4_000), kind(&mut self.random)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let of = |seed| Plan::new(seed).take(100).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_kind_of_event_happens_once_in_each_round() {
        let mut plan = Plan::new(1);
        for _ in 0..50 {
            let names: BTreeSet<_> = plan.by_ref().take(KINDS.len()).map(|(_, event)| event.name()).collect();
            assert_eq!(names.len(), KINDS.len());
        }
    }

    #[test]
    fn only_boards_of_the_lab_are_touched_and_only_the_spare_one_leaves() {
        for (_, event) in Plan::new(3).take(2_000) {
            assert!(event.board().is_none_or(|board| (1..=BOARDS).contains(&board)), "{event:?}");
            if matches!(event, Event::Remove | Event::RemoveByForce) {
                assert_eq!(event.board(), Some(SPARE));
            }
        }
    }
}
