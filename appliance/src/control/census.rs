//! How many flows the workers forward to each board: counted by the workers, asked for ten times a second.
//!
//! A count travels as a message through the queue that the commands take, so that whatever was migrated before it was asked for
//! is in it. Its pages go back and forth: nothing is allocated after the first round, unless a full queue loses one.

use ipos_pipelines::handoff::{Command, FlowCount, WorkerId};

use super::boards::{Boards, MS_NS};
use super::sink::Sink;

/// Between two rounds.
const ROUND_NS: u64 = 100 * MS_NS;

/// A page that has not come back for so long is lost.
const LOST_NS: u64 = 1000 * MS_NS;

/// What a board's flows came to when last counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Flows in the workers' Forward Tables; those that linger after their end do not count.
    pub flows: u32,
    /// When the count was asked for, nanoseconds; 0 before the first.
    pub asked_at_ns: u64,
    /// No attempt was under way then: none of the board's connections is missing in the count.
    pub is_whole: bool,
}

/// The rounds.
#[derive(Debug)]
pub struct Census {
    /// By worker: the page, when it is here.
    pages: Vec<Option<Box<FlowCount>>>,
    asked_at_ns: u64,
    /// All pages of this round are back, and have been added up.
    is_done: bool,
    /// Rounds that are complete.
    pub rounds: u64,
}

impl Census {
    /// The first round begins at once.
    pub fn new(workers: u8) -> Self {
        let pages = (0..workers).map(|_| Some(Box::default())).collect();
        Self { pages, asked_at_ns: 0, is_done: true, rounds: 0 }
    }

    /// Begins the next round when it is time.
    pub fn tick(&mut self, now_ns: u64, boards: &mut Boards, sink: &mut dyn Sink) {
        let since_ns = now_ns.saturating_sub(self.asked_at_ns);
        let is_due = self.asked_at_ns == 0 || since_ns >= if self.is_done { ROUND_NS } else { LOST_NS };
        if !is_due {
            return;
        }
        self.asked_at_ns = now_ns.max(1);
        self.is_done = false;
        for (_, board) in boards.iter_mut() {
            board.counting_whole = board.traffic.in_flight == 0;
        }
        for (worker, page) in self.pages.iter_mut().enumerate() {
            let mut page = page.take().unwrap_or_default();
            page.asked_at_ns = self.asked_at_ns;
            sink.tell(WorkerId(worker as u8), Command::Count(page));
        }
    }

    /// A page is back. True when the round is complete: the boards have their counts then.
    pub fn counted(&mut self, page: Box<FlowCount>, boards: &mut Boards) -> bool {
        let Some(place) = self.pages.get_mut(usize::from(page.worker.0)) else { return false };
        // A page of an earlier round that was taken for lost.
        if page.asked_at_ns != self.asked_at_ns {
            return false;
        }
        *place = Some(page);
        self.is_done = self.pages.iter().all(Option::is_some);
        if self.is_done {
            self.rounds += 1;
            self.add_up(boards);
        }
        self.is_done
    }

    fn add_up(&self, boards: &mut Boards) {
        for (id, board) in boards.iter_mut() {
            let pages = self.pages.iter().flatten();
            let flows = pages.filter_map(|page| page.by_board.get(usize::from(id.0))).sum();
            board.held = Held { flows, asked_at_ns: self.asked_at_ns, is_whole: board.counting_whole };
        }
    }
}
