//! The last decisions, for `status flow`: a ring that is reserved at the start. Nothing is allocated, and each decision costs
//! the writing of one cache line, where it lies: what is written in pieces and then copied whole costs more than all else here.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::BoardId;
use ipos_wire::flow::Flow;

use super::super::counters::{NoBoard, Reason};

/// Decisions that are kept.
pub const DECISIONS_MAX: usize = 65_536;

/// Boards of a decision whose scores are kept: those that were looked at first, and the chosen one.
pub const CANDIDATES_MAX: usize = 5;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A board, and why that one.
    Board(BoardId, Reason),
    /// None, and why.
    None(NoBoard),
}

/// One decision.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Decision {
    /// The connection.
    pub flow: Flow,
    /// When, nanoseconds on the control core's clock.
    pub at_ns: u64,
    /// The pool.
    pub pool: u16,
    /// What was decided; `None` while it is not.
    pub verdict: Option<Verdict>,
    /// Boards of the pool that could not take it, or had been asked before.
    pub left_out: u16,
    count: u8,
    boards: [BoardId; CANDIDATES_MAX],
    scores: [f32; CANDIDATES_MAX],
}

const _: () = assert!(size_of::<Decision>() == 64, "written with every decision");

impl Decision {
    /// No decision at all.
    const BLANK: Self = Self {
        flow: Flow {
            client: Ipv4Addr::UNSPECIFIED,
            client_port: 0,
            endpoint: Ipv4Addr::UNSPECIFIED,
            endpoint_port: 0,
        },
        at_ns: 0,
        pool: 0,
        verdict: None,
        left_out: 0,
        count: 0,
        boards: [BoardId(0); CANDIDATES_MAX],
        scores: [0.0; CANDIDATES_MAX],
    };

    /// Begins another decision over this one.
    fn begin(&mut self, flow: &Flow, at_ns: u64, pool: u16) {
        self.flow = *flow;
        self.at_ns = at_ns;
        self.pool = pool;
        self.verdict = None;
        self.left_out = 0;
        self.count = 0;
    }

    /// Takes a board that was considered.
    pub(super) fn consider(&mut self, board: BoardId, score: f64) {
        let place = usize::from(self.count);
        if let (Some(at), Some(kept)) = (self.boards.get_mut(place), self.scores.get_mut(place)) {
            (*at, *kept) = (board, score as f32);
            self.count += 1;
        }
    }

    /// Sees to it that the chosen board is among those kept.
    pub(super) fn chose(&mut self, board: BoardId, score: f64, reason: Reason) {
        self.verdict = Some(Verdict::Board(board, reason));
        if !self.candidates().any(|(known, _)| known == board) {
            self.count = self.count.min(CANDIDATES_MAX as u8 - 1);
            self.consider(board, score);
        }
    }

    /// The boards that were considered, with what the policy went by: the lowest is the best.
    pub fn candidates(&self) -> impl Iterator<Item = (BoardId, f32)> {
        self.boards.into_iter().zip(self.scores).take(usize::from(self.count))
    }
}

/// The ring.
#[derive(Debug)]
pub struct Record {
    decisions: Vec<Decision>,
    next: usize,
}

impl Default for Record {
    fn default() -> Self {
        Self { decisions: Vec::with_capacity(DECISIONS_MAX), next: 0 }
    }
}

impl Record {
    /// Begins a decision in the place of the oldest. It counts once it is kept. Never `None`.
    pub fn begin(&mut self, flow: &Flow, at_ns: u64, pool: u16) -> Option<&mut Decision> {
        if self.decisions.len() == self.next {
            self.decisions.push(Decision::BLANK);
        }
        let decision = self.decisions.get_mut(self.next)?;
        decision.begin(flow, at_ns, pool);
        Some(decision)
    }

    /// Keeps the decision that was begun.
    pub fn keep(&mut self) {
        self.next += 1;
        if self.next == DECISIONS_MAX {
            self.next = 0;
        }
    }

    /// The decisions about a connection, the newest first. Reads all that is kept: some milliseconds.
    pub fn of<'a>(&'a self, flow: &'a Flow) -> impl Iterator<Item = &'a Decision> {
        let (newer, older) = self.decisions.split_at(self.next.min(self.decisions.len()));
        let all = newer.iter().rev().chain(older.iter().rev());
        all.filter(move |decision| decision.flow == *flow && decision.verdict.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::flow;
    use super::*;

    #[test]
    fn the_last_decisions_are_kept_and_found_newest_first() {
        let mut record = Record::default();
        for at_ns in 0..=DECISIONS_MAX as u64 {
            let made = record.begin(&flow((at_ns % 4) as u16), at_ns, 0).expect("room");
            made.verdict = Some(Verdict::None(NoBoard::Tried));
            record.keep();
        }
        let ages: Vec<u64> = record.of(&flow(0)).map(|decision| decision.at_ns).collect();
        assert_eq!((ages.len(), ages.first()), (DECISIONS_MAX / 4, Some(&(DECISIONS_MAX as u64))));
        assert!(ages.windows(2).all(|pair| pair[0] > pair[1]), "newest first");
        assert_eq!(ages.last(), Some(&4), "the one at 0 is overwritten");
        assert_eq!(record.of(&flow(9)).count(), 0);
        assert!(record.begin(&flow(9), 0, 0).is_some());
        assert_eq!(record.of(&flow(9)).count(), 0, "not decided");
        assert_eq!(record.decisions.capacity(), DECISIONS_MAX);
    }

    #[test]
    fn the_chosen_board_is_kept_however_many_were_looked_at() {
        let mut made = Decision::BLANK;
        (0..20).for_each(|board| made.consider(BoardId(board), f64::from(board)));
        made.chose(BoardId(15), 15.0, Reason::Policy);
        let kept: Vec<u16> = made.candidates().map(|(board, _)| board.0).collect();
        assert_eq!(kept, [0, 1, 2, 3, 15]);
        made.chose(BoardId(3), 3.0, Reason::Policy);
        assert_eq!(made.candidates().count(), CANDIDATES_MAX);
    }
}
