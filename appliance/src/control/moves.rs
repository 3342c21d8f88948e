//! Moves: a later request that belongs to another board, from the worker's word to the old board's answer.
//!
//! ```text
//! Move ──0x05──> asked ──0x06 detached──> placed as any request (attempts), or Command::Detached
//!   │              │ │ ▲
//!   │      silence └─┘ └ (0x05 again)
//!   └──no board fit──┴──0x06 busy, not held; or silence──> Command::Stay
//! ```
//!
//! Nothing is asked of the old board before a board is fit that the request's row names, so that as a rule there is somewhere to go.
//! When all of those then refuse, the client gets 503: the old board is not asked to take the endpoint again, since the URL map
//! does not let it serve that request. Source: design: takeover.md, "Moving a connection again, between requests".

use ipos_pipelines::handoff::{BoardId, Command, NO_POOL, Place, Session, Stay, WorkerId};
use ipos_pipelines::table::slab::EntryRef;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{DetachOutcome, Detached, NextRequest};

use super::attempts::Attempts;
use super::board_set::BoardSet;
use super::context::Context;
use super::counters::{Did, Ignored};
use super::placement::{Pools, Wanted};
use super::sink::Message;
use super::under_way::{At, UnderWay};

/// The moves whose old boards are being asked.
#[derive(Debug)]
pub struct Moves {
    under_way: UnderWay<Move>,
    tries: u8,
    /// No board has been tried.
    none: BoardSet,
}

#[derive(Clone, Copy, Debug)]
struct Move {
    worker: WorkerId,
    place: Place,
    session: Session,
    board: BoardId,
    id: u64,
    sent: u8,
}

impl Move {
    fn next(&self) -> NextRequest {
        NextRequest { seq: self.place.endpoint.irs + 1, ack: self.place.endpoint.iss + 1 }
    }
}

impl Moves {
    /// None under way, at most `capacity`; a detach is sent up to `tries` times, `retry_ns` apart.
    pub fn new(capacity: usize, retry_ns: u64, tries: u8) -> Self {
        Self { under_way: UnderWay::new(capacity, retry_ns), tries, none: BoardSet::default() }
    }

    /// How many old boards are being asked.
    pub fn count(&self) -> usize {
        self.under_way.count()
    }

    /// A worker wants a connection moved with a later request.
    pub fn begin(
        &mut self,
        ctx: &mut Context<'_>,
        pools: &mut Pools,
        worker: WorkerId,
        (place, session): (&Place, Session),
        holder: (BoardId, u64),
    ) {
        let (board, id) = holder;
        if let Some(earlier) = self.under_way.find(&place.flow) {
            // Of an entry that is gone; its worker has abandoned it.
            self.under_way.remove(earlier);
        }
        if let Some(why) = self.stays(ctx, pools, place, board) {
            return stay(ctx, worker, place.entry, why);
        }
        let value = Move { worker, place: *place, session, board, id, sent: 0 };
        let Some((at, under_way)) = self.under_way.enter(&place.flow, || value) else {
            return stay(ctx, worker, place.entry, Stay::NoRoom);
        };
        *under_way = value;
        self.send(ctx, at);
    }

    /// Why the old board need not be asked.
    fn stays(&self, ctx: &Context<'_>, pools: &mut Pools, place: &Place, board: BoardId) -> Option<Stay> {
        if place.pool == NO_POOL {
            return None;
        }
        if pools.boards(place.pool).contains(&board) {
            return Some(Stay::Shared);
        }
        let wanted =
            Wanted { flow: &place.flow, pool: place.pool, tried: &self.none, after: None, session: None };
        (!pools.has_board(ctx.boards, ctx.now_ns, &wanted)).then_some(Stay::NoBoard)
    }

    fn send(&mut self, ctx: &mut Context<'_>, at: At) {
        let Some(under_way) = self.under_way.get_mut(at) else { return };
        under_way.sent = under_way.sent.saturating_add(1);
        if let Some(way) = ctx.way(under_way.board) {
            let (flow, id, next) = (under_way.place.flow, under_way.id, under_way.next());
            ctx.sink.send(way, &Message::GiveUp { flow, id, next });
            ctx.counters.count(Did::DetachAsked);
        }
        self.under_way.start_timer(at, ctx.now_ns);
    }

    /// An old board answered (0x06). False when no move waits for that answer.
    pub fn answered(
        &mut self,
        ctx: &mut Context<'_>,
        attempts: &mut Attempts,
        board: BoardId,
        said: &Detached,
    ) -> bool {
        let Some(at) = self.under_way.find(&said.flow) else { return false };
        let Some(asked) = self.under_way.get(at).copied() else { return false };
        if asked.id != said.trailer.id || asked.next() != said.next {
            return false;
        }
        if asked.board != board {
            ctx.counters.ignore(Ignored::WrongBoard);
            return true;
        }
        let (worker, entry) = (asked.worker, asked.place.entry);
        if said.outcome == DetachOutcome::Detached {
            let endpoint = (said.flow.endpoint, said.flow.endpoint_port);
            attempts.spawner.ended(ctx.now_ns, endpoint, board);
            if let Some(board) = ctx.boards.board_mut(board) {
                board.traffic.end(ctx.now_ns);
            }
        }
        match said.outcome {
            DetachOutcome::Other(_) => {
                ctx.counters.ignore(Ignored::BadField);
                return true;
            }
            DetachOutcome::Detached if asked.place.pool == NO_POOL => {
                ctx.sink.tell(worker, Command::Detached { entry });
            }
            DetachOutcome::Detached => attempts.place_moved(ctx, worker, &asked.place, asked.session),
            DetachOutcome::Busy => stay(ctx, worker, entry, Stay::Busy),
            DetachOutcome::NotHeld => stay(ctx, worker, entry, Stay::NotHeld),
        }
        self.under_way.remove(at);
        true
    }

    /// A worker gives the connection up.
    pub fn abandon(&mut self, entry: EntryRef, flow: &Flow) {
        if let Some(at) = self.under_way.find(flow)
            && self.under_way.get(at).is_some_and(|under_way| under_way.place.entry == entry)
        {
            self.under_way.remove(at);
        }
    }

    /// Repeats what is due; a board that is silent keeps the connection.
    pub fn tick(&mut self, ctx: &mut Context<'_>) {
        while let Some(at) = self.under_way.due(ctx.now_ns) {
            let Some(asked) = self.under_way.get(at).copied() else { continue };
            if asked.sent < self.tries {
                self.send(ctx, at);
            } else {
                self.under_way.remove(at);
                stay(ctx, asked.worker, asked.place.entry, Stay::Silent);
            }
        }
    }
}

fn stay(ctx: &mut Context<'_>, worker: WorkerId, entry: EntryRef, why: Stay) {
    ctx.sink.tell(worker, Command::Stay { entry, why });
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
