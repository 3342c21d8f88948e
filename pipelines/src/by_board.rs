//! What a worker keeps by board: how many flows it forwards there, and the boards that are being forgotten.
//!
//! Input: [`Command::Count`](crate::handoff::Command::Count) and [`Command::Forget`](crate::handoff::Command::Forget). Output: the
//! counts; for each flow of a forgotten board [`Event::Abandon`], so that its endpoint is detached, and a RST for what its
//! client sends next. Owner: the worker. Cost: one word per migrated flow; a sweep looks at [`SWEEP_SLOTS`] slots a poll,
//! whatever the shard holds.

use arrayvec::ArrayVec;
use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;

use crate::core::Core;
use crate::counters::Happening;
use crate::ended;
use crate::entry::State;
use crate::handoff::{BOARDS_MAX, BoardId, Event, FlowCount};
use crate::local;
use crate::parse::TcpPacket;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;

/// Slots that a sweep looks at in one poll.
pub const SWEEP_SLOTS: usize = 64;

/// Flows in Forward by board whose end has not been seen, and the sweep that gives those of forgotten boards up.
pub struct ByBoard {
    flows: Box<[u32; BOARDS_MAX]>,
    forgotten: Box<[bool; BOARDS_MAX]>,
    /// Where the sweep goes on; `None` when there is none.
    cursor: Option<u32>,
}

impl ByBoard {
    /// No flow, nothing to forget.
    pub fn new() -> Self {
        Self { flows: Box::new([0; BOARDS_MAX]), forgotten: Box::new([false; BOARDS_MAX]), cursor: None }
    }

    /// A flow is forwarded there from now on.
    #[inline]
    pub fn joined(&mut self, board: BoardId) {
        if let Some(flows) = self.flows.get_mut(usize::from(board.0)) {
            *flows += 1;
        }
    }

    /// A flow is not forwarded there any more.
    #[inline]
    pub fn left(&mut self, board: BoardId) {
        if let Some(flows) = self.flows.get_mut(usize::from(board.0)) {
            *flows = flows.saturating_sub(1);
        }
    }

    /// Flows that are forwarded there; those that linger after their end do not count.
    pub fn flows(&self, board: BoardId) -> u32 {
        self.flows.get(usize::from(board.0)).copied().unwrap_or(0)
    }

    fn is_forgotten(&self, board: BoardId) -> bool {
        self.forgotten.get(usize::from(board.0)).copied().unwrap_or(false)
    }
}

impl Default for ByBoard {
    fn default() -> Self {
        Self::new()
    }
}

/// Fills in how many flows each board has, and sends the page back.
pub fn count(core: &mut Core, mut page: Box<FlowCount>) {
    page.worker = core.config.id;
    page.by_board.copy_from_slice(&core.by_board.flows[..]);
    // A full queue loses the page: who asked asks again.
    core.tell(Event::Counted(page));
}

/// Forgets where a board is, and begins to give its flows up.
pub fn forget(core: &mut Core, board: BoardId) {
    if let Some(place) = core.boards.get_mut(usize::from(board.0)) {
        *place = None;
    }
    if core.by_board.flows(board) == 0 {
        return;
    }
    if let Some(forgotten) = core.by_board.forgotten.get_mut(usize::from(board.0)) {
        *forgotten = true;
        core.by_board.cursor = Some(0);
    }
}

/// A flow that is given up, with the attempt by which its board has taken it over.
type Gone = (EntryRef, Flow, Option<(BoardId, u64)>);

/// Goes on with the sweep, if there is one. Returns how many flows it has given up, or 1 where it has only looked.
pub fn sweep(core: &mut Core) -> usize {
    let Some(cursor) = core.by_board.cursor else { return 0 };
    let mut gone: ArrayVec<Gone, SWEEP_SLOTS> = ArrayVec::new();
    let Core { shard, by_board, .. } = core;
    let next = shard.visit_slots(cursor, SWEEP_SLOTS as u32, |entry, flow, found| {
        if found.state.is_at_board() && by_board.is_forgotten(found.board) {
            let migrated = found.holder();
            let _ = gone.try_push((entry, *flow, migrated));
        }
    });
    let taken = gone.len();
    for (entry, flow, migrated) in gone {
        // A board that has had the connection from the start holds no record of it that could be detached.
        if migrated.is_some() && !core.tell(Event::Abandon { entry, flow, migrated }) {
            // The queue is full: the same slots again in the next poll, without those that are gone by now.
            return taken;
        }
        core.happened(Happening::Forgotten);
        core.release_pending(entry);
        ended::entry(core, entry);
        core.change_state(entry, State::GivenUp);
        core.schedule_in(entry, core.config.timeouts.idle_ms);
    }
    core.by_board.cursor = next;
    if next.is_none() {
        core.by_board.forgotten.fill(false);
    }
    taken.max(1)
}

/// What the client of a flow that was given up still sends. The farm is not asked: a board that met the same addresses and
/// ports before, and keeps their TIME-WAIT, would take the connection for its own and leave its client without an answer.
pub fn refuse(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    core.schedule_in(entry, core.config.timeouts.linger_ms);
    local::refuse(core, packet, mbuf)
}
