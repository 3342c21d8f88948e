//! Requests that wait, bounded in number and in time: until a board has started their service's application, or may be fit.

use ipos_pipelines::handoff::{Answer, BoardId, RetryAfter};

use super::super::context::Context;
use super::super::counters::{Did, NoBoard};
use super::super::spawn::Prospect;
use super::super::under_way::At;
use super::Attempts;

const SECOND_NS: u64 = 1_000_000_000;

impl Attempts {
    /// No board is left for a request. True when it waits for a start, or has been told to come again: both only where its
    /// service has an application that boards may start.
    pub(super) fn waits_for_start(&mut self, ctx: &mut Context<'_>, at: At, why: NoBoard) -> bool {
        let Self { requests, pools, spawner, settings, .. } = self;
        let Some(request) = requests.get_mut(at).filter(|request| !request.repeat) else { return false };
        let service = request.place.service;
        let Some(wait_ns) = spawner.wait_ns(service) else { return false };
        let boards = pools.boards(request.place.pool);
        // The appliance has only just started: who runs the application may not have been heard yet.
        if !request.waited && boards.iter().any(|board| ctx.boards.is_unheard(*board, ctx.now_ns)) {
            return false;
        }
        if request.waited && ctx.now_ns >= request.deadline_ns {
            ctx.counters.count(Did::WaitOver);
            self.not_yet(ctx, at, why, RetryAfter::S1);
            return true;
        }
        // A board that was asked and did not take it may do so in a moment: its queue is full, or its instance has just crashed.
        match spawner.want(ctx, service, boards, request.made > 0) {
            Prospect::Soon if request.waiting => {}
            Prospect::Soon if spawner.enter(service) => {
                request.waiting = true;
                if !request.waited {
                    request.waited = true;
                    let begun_ns = request.deadline_ns.saturating_sub(settings.deadline_ns);
                    request.deadline_ns = begun_ns.saturating_add(wait_ns);
                    ctx.counters.count(Did::Waited);
                }
            }
            Prospect::Soon => {
                ctx.counters.count(Did::WaitFull);
                self.not_yet(ctx, at, why, RetryAfter::at_least(wait_ns / SECOND_NS));
                return true;
            }
            // What runs may soon be below its limits again.
            Prospect::None(_) if why == NoBoard::OverLimit => return false,
            Prospect::None(ns) => {
                ctx.counters.count(Did::NoStart);
                self.not_yet(ctx, at, why, RetryAfter::at_least(ns.div_ceil(SECOND_NS)));
                return true;
            }
        }
        // Those that refused may take it by then.
        request.tried.clear();
        request.silent.clear();
        self.requests.start_timer(at, ctx.now_ns);
        true
    }

    /// Whether a board of the request's pool may be fit soon: it has yet to show whether it lives, or is beyond a limit.
    pub(super) fn may_turn_up(&self, ctx: &Context<'_>, at: At, why: NoBoard) -> bool {
        self.requests.get(at).is_some_and(|request| {
            let boards = self.pools.boards(request.place.pool);
            let mut untried = boards.iter().filter(|board| !request.tried.contains(**board));
            let undecided = |board: &BoardId| ctx.boards.is_undecided(*board, ctx.now_ns);
            ctx.now_ns < request.deadline_ns && (why == NoBoard::OverLimit || untried.any(undecided))
        })
    }

    /// Ends a request: its client is told when to come again.
    fn not_yet(&mut self, ctx: &mut Context<'_>, at: At, why: NoBoard, after: RetryAfter) {
        if let Some(place) = self.requests.get(at).map(|request| request.place) {
            self.pools.failed(ctx.now_ns, &place.flow, place.pool, why);
        }
        self.end(ctx, at, Answer::NotYet(after));
    }

    /// A request waits no more: it has a board to ask, or ends.
    pub(super) fn waits_no_more(&mut self, at: At) {
        let Self { requests, spawner, .. } = self;
        if let Some(request) = requests.get_mut(at).filter(|request| request.waiting) {
            request.waiting = false;
            spawner.leave(request.place.service);
        }
    }

    /// Looks for boards for all that wait, at once: an instance listens, or a start has failed.
    pub fn retry_waiting(&mut self, ctx: &mut Context<'_>) {
        for at in self.requests.places() {
            let waits =
                self.requests.get(at).is_some_and(|request| request.waiting && request.asked.is_none());
            if waits {
                self.ask_next(ctx, at);
            }
        }
    }
}
