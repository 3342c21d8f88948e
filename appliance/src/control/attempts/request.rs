//! A request under way, and the board that is being asked for it.

use ipos_pipelines::handoff::{BoardId, Counted, Place, WorkerId};

use super::super::board_set::BoardSet;
use super::super::counters::Reason;
use super::session::Wish;

/// A request and the board that is being asked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) worker: WorkerId,
    pub(super) place: Place,
    pub(super) wish: Wish,
    pub(super) asked: Option<Asked>,
    /// Attempts made, this one included.
    pub(super) made: u32,
    /// Boards that refused or were silent.
    pub(super) tried: BoardSet,
    /// Those of them that were silent: busy, perhaps, and worth asking again when all the others have been asked.
    pub(super) silent: BoardSet,
    /// Why another board is wanted than the one asked before.
    pub(super) after: Option<Reason>,
    pub(super) first_sent_ns: Option<u64>,
    pub(super) deadline_ns: u64,
    pub(super) repeat: bool,
    /// What it counts against.
    pub(super) counted: Counted,
    /// It waits for a start now, and counts as one that does.
    pub(super) waiting: bool,
    /// It has waited for one.
    pub(super) waited: bool,
}

impl Request {
    pub(super) fn new(worker: WorkerId, place: Place) -> Self {
        Self {
            worker,
            place,
            wish: Wish::default(),
            asked: None,
            made: 0,
            tried: BoardSet::default(),
            silent: BoardSet::default(),
            after: None,
            first_sent_ns: None,
            deadline_ns: 0,
            repeat: false,
            counted: Counted::No,
            waiting: false,
            waited: false,
        }
    }

    /// Writes this over an earlier request.
    pub(super) fn begin(&mut self, worker: WorkerId, place: &Place, deadline_ns: u64, repeat: bool) {
        self.worker = worker;
        self.place = *place;
        self.wish = Wish::default();
        self.asked = None;
        self.made = 0;
        self.tried.clear();
        self.silent.clear();
        self.after = None;
        self.first_sent_ns = None;
        self.deadline_ns = deadline_ns;
        self.repeat = repeat;
        self.counted = Counted::No;
        self.waiting = false;
        self.waited = false;
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) board: BoardId,
    pub(super) id: u64,
    pub(super) sent: u8,
    /// Waits of `retry_ns` until the next Connection Packet.
    pub(super) waits: u32,
}
