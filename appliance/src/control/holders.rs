//! Who holds an endpoint? The farm is asked (0x08) and its answers weighed (design: system.md, table of corners).
//!
//! Every board that can be reached is asked, live or not: an agent may be dead while the board's programs go on. A board
//! that says "I do" (0x09) is believed, live endpoints before pending ones. *Nobody* holds it only when every live board
//! denied (and the others have had their time); anything less is *unknown*, and nobody resets on that.

use std::collections::HashMap;

use ipos_pipelines::handoff::{BoardId, Command, Holder, WorkerId};
use ipos_pipelines::table::slab::EntryRef;
use ipos_wire::flow::Flow;

use super::context::Context;
use super::counters::{Did, Ignored};
use super::delays::Delays;
use super::sink::Message;

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
    by_flow: HashMap<Flow, Question>,
    timers: Delays<(Flow, u64)>,
}

#[derive(Debug)]
struct Question {
    worker: WorkerId,
    entry: EntryRef,
    id: u64,
    only: Option<BoardId>,
    asked: u8,
    boards: Vec<Witness>,
    /// A board that has the endpoint's record, but no socket yet.
    pending: Option<(BoardId, u64)>,
}

/// A board that is asked.
#[derive(Debug)]
struct Witness {
    board: BoardId,
    denied: bool,
    /// Whether nobody can be said to hold the endpoint without its denial.
    needed: bool,
}

impl Question {
    /// Whether every board has denied, or with `patience` over, every one that is needed.
    fn all_denied(&self, patience_over: bool) -> bool {
        let denied = |witness: &Witness| witness.denied || (patience_over && !witness.needed);
        self.boards.iter().any(|witness| witness.needed && witness.denied) && self.boards.iter().all(denied)
    }
}

impl Holders {
    /// No question yet.
    pub fn new(settings: AskSettings) -> Self {
        Self { settings, by_flow: HashMap::new(), timers: Delays::new(settings.retry_ns) }
    }

    /// Questions under way.
    pub fn count(&self) -> usize {
        self.by_flow.len()
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
        if let Some(question) = self.by_flow.get(&flow) {
            if question.entry == entry && question.only == only {
                return;
            }
            // The flow has another entry now; the earlier one is answered, as every question is.
            self.end(ctx, flow, Holder::Unknown);
        }
        if self.by_flow.len() >= self.settings.outstanding {
            ctx.counters.count(Did::QuestionsFull);
            return tell(ctx, worker, entry, Holder::Unknown);
        }
        let boards = ctx.boards.iter().filter(|(id, _)| only.is_none_or(|only| only == *id)).filter_map(
            |(id, board)| {
                let needed = ctx.boards.may_hold(id, ctx.now_ns);
                (needed || board.mac.is_some()).then_some(Witness { board: id, denied: false, needed })
            },
        );
        let boards: Vec<Witness> = boards.collect();
        let id = ctx.ids.next(worker);
        let hopeless = boards.is_empty();
        self.by_flow.insert(flow, Question { worker, entry, id, only, asked: 0, boards, pending: None });
        if hopeless {
            return self.end(ctx, flow, Holder::Unknown);
        }
        self.send(ctx, flow);
    }

    fn send(&mut self, ctx: &mut Context<'_>, flow: Flow) {
        let Some(question) = self.by_flow.get_mut(&flow) else { return };
        question.asked += 1;
        let message = Message::Question { flow, id: question.id };
        for witness in question.boards.iter().filter(|witness| !witness.denied) {
            if let Some(way) = ctx.way(witness.board) {
                ctx.sink.send(way, &message);
                ctx.counters.count(Did::QuestionSent);
            }
        }
        self.timers.add(ctx.now_ns, (flow, question.id));
    }

    /// A board says that it holds the endpoint (0x09); `live` when its socket exists.
    pub fn holds(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64, live: bool) {
        let question = self.by_flow.get_mut(&flow);
        let Some(question) = question.filter(|q| q.boards.iter().any(|witness| witness.board == board))
        else {
            return ctx.counters.ignore(Ignored::LateAnswer);
        };
        if live {
            return self.end(ctx, flow, Holder::Board(board, id));
        }
        // A record says more than a TIME-WAIT, which has no id.
        if question.pending.is_none() || id != 0 {
            question.pending = Some((board, id));
        }
        self.denied(ctx, board, flow);
    }

    /// A board says that it does not (0x07, reason 1). False when no such question is under way.
    pub fn not_held(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64) -> bool {
        let open = self.by_flow.get(&flow).is_some_and(|question| question.id == id);
        if open {
            self.denied(ctx, board, flow);
        }
        open
    }

    /// This board has nothing (more) to say.
    fn denied(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow) {
        let Some(question) = self.by_flow.get_mut(&flow) else { return };
        if let Some(witness) = question.boards.iter_mut().find(|witness| witness.board == board) {
            witness.denied = true;
        }
        // One try is the time that boards have whose denial is not needed.
        self.conclude(ctx, flow, false);
    }

    /// Ends the question if it can be answered.
    fn conclude(&mut self, ctx: &mut Context<'_>, flow: Flow, patience_over: bool) {
        let Some(question) = self.by_flow.get(&flow) else { return };
        let heard = |witness: &Witness| witness.denied || (patience_over && !witness.needed);
        let answered = question.boards.iter().all(heard);
        match question.pending {
            // A live endpoint of a slow board would be lost to a TIME-WAIT of a quick one: everybody is waited for.
            Some((board, id)) if answered => self.end(ctx, flow, Holder::Board(board, id)),
            None if question.all_denied(patience_over) => self.end(ctx, flow, Holder::Nobody),
            _ => {}
        }
    }

    /// Repeats questions that are due, and ends those that were asked often enough.
    pub fn tick(&mut self, ctx: &mut Context<'_>) {
        while let Some((flow, id)) = self.timers.due(ctx.now_ns) {
            if self.by_flow.get(&flow).is_none_or(|question| question.id != id) {
                continue;
            }
            self.conclude(ctx, flow, true);
            match self.by_flow.get(&flow) {
                Some(question) if question.asked < self.settings.tries => self.send(ctx, flow),
                Some(question) => {
                    let record = question.pending.filter(|(_, id)| *id != 0);
                    self.end(
                        ctx,
                        flow,
                        record.map_or(Holder::Unknown, |(board, id)| Holder::Board(board, id)),
                    );
                }
                None => {}
            }
        }
    }

    fn end(&mut self, ctx: &mut Context<'_>, flow: Flow, holder: Holder) {
        let Some(question) = self.by_flow.remove(&flow) else { return };
        ctx.counters.count(match holder {
            Holder::Board(..) => Did::HolderFound,
            Holder::Nobody => Did::HolderNobody,
            Holder::Unknown => Did::HolderUnknown,
        });
        tell(ctx, question.worker, question.entry, holder);
    }
}

fn tell(ctx: &mut Context<'_>, worker: WorkerId, entry: EntryRef, holder: Holder) {
    ctx.sink.tell(worker, Command::Holder { entry, holder });
}

#[cfg(test)]
#[path = "holders_tests.rs"]
mod tests;
