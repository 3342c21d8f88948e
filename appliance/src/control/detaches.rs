//! Endpoints that are taken back by force (0x05), until their board confirms (0x07) and for a while after: an
//! acknowledgement that comes late must not leave an endpoint on a board that nobody knows of.

use std::collections::HashMap;

use ipos_pipelines::handoff::BoardId;
use ipos_wire::flow::Flow;

use super::context::Context;
use super::counters::Did;
use super::delays::Delays;
use super::sink::Message;

/// How long a late acknowledgement is expected.
const KEEP_NS: u64 = 10_000_000_000;

/// Most detaches remembered; the oldest are forgotten first.
const KEEP_MAX: usize = 65_536;

/// The detaches.
#[derive(Debug)]
pub struct Detaches {
    by_id: HashMap<u64, Detach>,
    repeats: Delays<u64>,
    kept: Delays<u64>,
    tries: u8,
}

#[derive(Debug)]
struct Detach {
    flow: Flow,
    board: BoardId,
    tries_left: u8,
}

impl Detaches {
    /// None; each is sent up to `tries` times, `retry_ns` apart.
    pub fn new(retry_ns: u64, tries: u8) -> Self {
        Self {
            // Twice the room: a map that is at most half full cleans up in place, and never grows.
            by_id: HashMap::with_capacity(2 * KEEP_MAX),
            repeats: Delays::new(retry_ns, KEEP_MAX),
            kept: Delays::new(KEEP_NS, KEEP_MAX),
            tries,
        }
    }

    /// Takes the endpoint back from the board.
    pub fn begin(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64) {
        if self.kept.count() >= KEEP_MAX
            && let Some(oldest) = self.kept.oldest()
        {
            self.by_id.remove(&oldest);
        }
        self.by_id.insert(id, Detach { flow, board, tries_left: self.tries.saturating_sub(1) });
        self.kept.add(ctx.now_ns, id);
        // So many at once that this one is not repeated: a late acknowledgement still is answered by another one.
        self.repeats.add(ctx.now_ns, id);
        send(ctx, board, flow, id);
    }

    /// An acknowledgement of this attempt came from this board. Whether the attempt had been given up: then the board is
    /// told again.
    pub fn late_ack(&mut self, ctx: &mut Context<'_>, board: BoardId, id: u64) -> bool {
        match self.by_id.get(&id) {
            Some(detach) if detach.board == board => {
                send(ctx, board, detach.flow, id);
                true
            }
            _ => false,
        }
    }

    /// The board says that the endpoint is gone. Whether it was one of these.
    pub fn confirmed(&mut self, board: BoardId, id: u64) -> bool {
        match self.by_id.get_mut(&id) {
            Some(detach) if detach.board == board => {
                detach.tries_left = 0;
                true
            }
            _ => false,
        }
    }

    /// Repeats what is due, forgets what is old.
    pub fn tick(&mut self, ctx: &mut Context<'_>) {
        while let Some(id) = self.repeats.due(ctx.now_ns) {
            let Some(detach) = self.by_id.get_mut(&id).filter(|detach| detach.tries_left > 0) else {
                continue;
            };
            detach.tries_left -= 1;
            send(ctx, detach.board, detach.flow, id);
            self.repeats.add(ctx.now_ns, id);
        }
        while let Some(id) = self.kept.due(ctx.now_ns) {
            self.by_id.remove(&id);
        }
    }
}

fn send(ctx: &mut Context<'_>, board: BoardId, flow: Flow, id: u64) {
    if let Some(way) = ctx.way(board) {
        ctx.sink.send(way, &Message::Detach { flow, id });
        ctx.counters.count(Did::DetachSent);
    }
}
