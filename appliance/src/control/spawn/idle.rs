//! Scale to zero: an instance without a connection for a while is held back from new ones, then stopped.
//!
//! The board judges: it tells every appliance that the instance takes no new connections, waits, and stops it only when
//! no endpoint is there then (docs/board.md). A request in the meantime keeps it.

use ipos_pipelines::handoff::BoardId;
use ipos_wire::ipos::{Action, Outcome, Progress};

use super::super::context::Context;
use super::super::counters::Did;
use super::{Order, Service};

impl Service {
    /// Begins to stop the first instance that is idle.
    pub(super) fn look_for_idle(&mut self, ctx: &mut Context<'_>) {
        let Some(idle_ns) = self.settings.idle_ns else { return };
        if self.stop.is_some() || self.start.is_some() || self.waiting > 0 {
            return;
        }
        let name = self.settings.application;
        let used_ns = &mut self.used_ns;
        let idle = self.settings.boards.iter().find(|id| {
            let Some(board) = ctx.boards.board(**id) else { return false };
            let Some(used_ns) = used_ns.get_mut(usize::from(id.0)) else { return false };
            let listens =
                board.offers.find(&name).is_some_and(|offer| offer.listening > 0 && !offer.draining);
            // What has just been seen for the first time has not been idle yet.
            if !listens || *used_ns == 0 {
                *used_ns = if listens { ctx.now_ns.max(1) } else { 0 };
                return false;
            }
            ctx.now_ns.saturating_sub(*used_ns) >= idle_ns
        });
        if let Some(id) = idle.copied()
            && let Some(board) = ctx.boards.board_mut(id)
        {
            board.offers.hold_back(name);
            self.stop = Some(Order::to(id, ctx.now_ns));
        }
    }

    /// Sends the order once no attempt is under way that might still bring a connection there, and repeats it.
    pub(super) fn tick_stop(&mut self, ctx: &mut Context<'_>) {
        let Some(mut stop) = self.stop else { return };
        if stop.is_silent(ctx) {
            ctx.counters.count(Did::StopSilent);
            return self.end_stop(ctx);
        }
        let quiet = ctx.boards.board(stop.board).is_some_and(|board| board.traffic.in_flight == 0);
        if stop.id == 0 && quiet {
            let board = ctx.boards.board(stop.board).map_or("", |board| &board.settings.name);
            tracing::info!(service = self.settings.service, board, "asking for a stop: idle");
            ctx.counters.count(Did::StopAsked);
        }
        if stop.id != 0 || quiet {
            stop.send(ctx, Action::Stop, self.settings.application);
            self.stop = Some(stop);
        }
    }

    /// A request comes while an instance of these boards is about to be stopped: without an order yet, it simply goes on.
    pub(super) fn cancel_stop(&mut self, ctx: &mut Context<'_>, boards: &[BoardId]) -> bool {
        let is_unsent = self.stop.is_some_and(|stop| stop.id == 0 && boards.contains(&stop.board));
        if is_unsent {
            self.end_stop(ctx);
        }
        is_unsent
    }

    /// What has come of the order to stop.
    pub(super) fn stop_outcome(&mut self, ctx: &mut Context<'_>, outcome: &Outcome) -> bool {
        match outcome.progress {
            Progress::Stopping => {
                if let Some(stop) = &mut self.stop {
                    (stop.begun, stop.sent) = (true, 0);
                }
                return false;
            }
            Progress::Stopped => ctx.counters.count(Did::Stopped),
            _ => ctx.counters.count(Did::StopBusy),
        }
        self.end_stop(ctx);
        // Requests may wait for just that instance.
        true
    }

    fn end_stop(&mut self, ctx: &mut Context<'_>) {
        let Some(stop) = self.stop.take() else { return };
        if let Some(used) = self.used_ns.get_mut(usize::from(stop.board.0)) {
            *used = ctx.now_ns;
        }
        if let Some(board) = ctx.boards.board_mut(stop.board) {
            board.offers.release(&self.settings.application);
        }
    }
}
