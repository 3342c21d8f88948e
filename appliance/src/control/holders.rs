//! Who holds an endpoint? The farm is asked (0x08) and its answers weighed (design: system.md, table of corners).
//!
//! Every board that can be reached is asked, live or not: an agent may be dead while the board's programs go on. A board
//! that says "I do" (0x09) is believed, live endpoints before pending ones, and those before a TIME-WAIT. *Nobody* holds it only when every live board
//! denied (and the others have had their time); anything less is *unknown*, and nobody resets on that.

use ipos_pipelines::handoff::{BoardId, Command, Holder, WorkerId};
use ipos_pipelines::table::slab::EntryRef;
use ipos_wire::flow::Flow;

use super::board_set::BoardSet;
use super::context::Context;
use super::counters::{Did, Ignored};
use super::sink::Message;
use super::under_way::{At, UnderWay};

/// `[ask]` of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct AskSettings {
    /// Until a question is repeated.
    pub retry_ns: u64,
    /// How often it is asked.
    pub tries: u8,
    /// Questions under way at once.
    pub outstanding: usize,
}

/// All questions under way.
#[derive(Debug)]
pub struct Holders {
    settings: AskSettings,
    questions: UnderWay<Question>,
}

#[derive(Debug)]
struct Question {
    worker: WorkerId,
    entry: EntryRef,
    id: u64,
    only: Option<BoardId>,
    asked: u8,
    /// The boards that are asked, and have not denied.
    open: BoardSet,
    /// Those without whose denial nobody can be said to hold the endpoint.
    needed: BoardSet,
    /// All that are, or were, asked.
    witnesses: BoardSet,
    /// Whether a board that is needed has denied.
    denied: bool,
    /// A board that has the endpoint's record, but no socket yet.
    pending: Option<(BoardId, u64)>,
}

impl Question {
    fn new(worker: WorkerId, entry: EntryRef) -> Self {
        Self {
            worker,
            entry,
            id: 0,
            only: None,
            asked: 0,
            open: BoardSet::default(),
            needed: BoardSet::default(),
            witnesses: BoardSet::default(),
            denied: false,
            pending: None,
        }
    }

    /// Writes this over an earlier question; no board is asked yet.
    fn begin(&mut self, worker: WorkerId, entry: EntryRef, id: u64, only: Option<BoardId>) {
        (self.worker, self.entry, self.id, self.only) = (worker, entry, id, only);
        (self.asked, self.denied, self.pending) = (0, false, None);
        self.open.clear();
        self.needed.clear();
        self.witnesses.clear();
    }

    /// Whether every board has been heard, or with `patience` over, every one that is needed.
    fn all_heard(&self, patience_over: bool) -> bool {
        self.open.is_empty() || (patience_over && !self.open.iter().any(|board| self.needed.contains(board)))
    }
}

impl Holders {
    /// No question yet.
    pub fn new(settings: AskSettings) -> Self {
        Self { settings, questions: UnderWay::new(settings.outstanding, settings.retry_ns) }
    }

    /// Questions under way.
    pub fn count(&self) -> usize {
        self.questions.count()
    }

    /// A worker asks who holds an endpoint: `only` this board, or any.
    pub fn ask(
        &mut self,
        ctx: &mut Context<'_>,
        worker: WorkerId,
        entry: EntryRef,
        flow: Flow,
        only: Option<BoardId>,
    ) {
        if let Some(at) = self.questions.find(&flow) {
            let known = self.questions.get(at);
            if known.is_some_and(|question| question.entry == entry && question.only == only) {
                return;
            }
            // The flow has another entry now; the earlier one is answered, as every question is.
            self.end(ctx, at, Holder::Unknown);
        }
        let Some((at, question)) = self.questions.enter(&flow, || Question::new(worker, entry)) else {
            ctx.counters.count(Did::QuestionsFull);
            return tell(ctx, worker, entry, Holder::Unknown);
        };
        question.begin(worker, entry, ctx.ids.next(worker), only);
        for (id, board) in ctx.boards.iter().filter(|(id, _)| only.is_none_or(|only| only == *id)) {
            let needed = ctx.boards.may_hold(id, ctx.now_ns);
            if needed {
                question.needed.insert(id);
            }
            if needed || board.mac.is_some() {
                question.open.insert(id);
                question.witnesses.insert(id);
            }
        }
        if question.open.is_empty() {
            return self.end(ctx, at, Holder::Unknown);
        }
        self.send(ctx, at);
    }

    fn send(&mut self, ctx: &mut Context<'_>, at: At) {
        let Some(flow) = self.questions.flow(at) else { return };
        let Some(question) = self.questions.get_mut(at) else { return };
        question.asked += 1;
        let message = Message::Question { flow, id: question.id };
        for board in question.open.iter() {
            if let Some(way) = ctx.way(board) {
                ctx.sink.send(way, &message);
                ctx.counters.count(Did::QuestionSent);
            }
        }
        self.questions.start_timer(at, ctx.now_ns);
    }

    /// A board says that it holds the endpoint (0x09); `live` when its socket exists.
    pub fn holds(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64, live: bool) {
        let at = self.questions.find(&flow);
        let Some((at, question)) = at.and_then(|at| Some((at, self.questions.get_mut(at)?))) else {
            return ctx.counters.ignore(Ignored::LateAnswer);
        };
        if !question.witnesses.contains(board) {
            return ctx.counters.ignore(Ignored::LateAnswer);
        }
        if live {
            return self.end(ctx, at, Holder::Board(board, id));
        }
        // A record says more than a TIME-WAIT, which has no id.
        if question.pending.is_none() || id != 0 {
            question.pending = Some((board, id));
        }
        self.denied(ctx, board, at);
    }

    /// A board says that it does not (0x07, reason 1). False when no such question is under way.
    pub fn not_held(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64) -> bool {
        let at = self.questions.find(&flow);
        let open = at.filter(|at| self.questions.get(*at).is_some_and(|question| question.id == id));
        if let Some(at) = open {
            self.denied(ctx, board, at);
        }
        open.is_some()
    }

    /// This board has nothing (more) to say.
    fn denied(&mut self, ctx: &mut Context<'_>, board: BoardId, at: At) {
        let Some(question) = self.questions.get_mut(at) else { return };
        question.denied |= question.needed.contains(board);
        question.open.remove(board);
        // One try is the time that boards have whose denial is not needed.
        self.conclude(ctx, at, false);
    }

    /// Ends the question if it can be answered.
    fn conclude(&mut self, ctx: &mut Context<'_>, at: At, patience_over: bool) {
        let Some(question) = self.questions.get(at) else { return };
        let answered = question.all_heard(patience_over);
        match question.pending {
            // A live endpoint of a slow board would be lost to a TIME-WAIT of a quick one: everybody is waited for.
            Some((board, 0)) if answered => self.end(ctx, at, Holder::TimeWait(board)),
            Some((board, id)) if answered => self.end(ctx, at, Holder::Board(board, id)),
            None if answered && question.denied => self.end(ctx, at, Holder::Nobody),
            _ => {}
        }
    }

    /// Repeats questions that are due, and ends those that were asked often enough.
    pub fn tick(&mut self, ctx: &mut Context<'_>) {
        while let Some(at) = self.questions.due(ctx.now_ns) {
            self.conclude(ctx, at, true);
            match self.questions.get(at) {
                Some(question) if question.asked < self.settings.tries => self.send(ctx, at),
                Some(question) => {
                    let record = question.pending.filter(|(_, id)| *id != 0);
                    let holder = record.map_or(Holder::Unknown, |(board, id)| Holder::Board(board, id));
                    self.end(ctx, at, holder);
                }
                None => {}
            }
        }
    }

    fn end(&mut self, ctx: &mut Context<'_>, at: At, holder: Holder) {
        let Some(question) = self.questions.get(at) else { return };
        let (worker, entry) = (question.worker, question.entry);
        self.questions.remove(at);
        ctx.counters.count(match holder {
            Holder::Board(..) | Holder::TimeWait(_) => Did::HolderFound,
            Holder::Nobody => Did::HolderNobody,
            Holder::Unknown => Did::HolderUnknown,
        });
        tell(ctx, worker, entry, holder);
    }
}

fn tell(ctx: &mut Context<'_>, worker: WorkerId, entry: EntryRef, holder: Holder) {
    ctx.sink.tell(worker, Command::Holder { entry, holder });
}

#[cfg(test)]
#[path = "holders_tests.rs"]
mod tests;
