//! A request's session: the board that it is at, whether that one can have it, and what is learned once a board has it
//! (docs/services.md).

use ipos_pipelines::handoff::{Answer, BoardId, Place, Session, SessionKey, WorkerId};

use super::super::board_set::BoardSet;
use super::super::context::Context;
use super::super::counters::{Did, Reason};
use super::super::placement::{Honours, Wanted};
use super::super::sessions::Put;
use super::{Attempts, Request, answer};

/// What is wanted for a request's session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// The board that it is at, while it may have it.
    pub(super) board: Option<BoardId>,
    /// The session that belongs to the board that takes the request.
    pub(super) learns: Option<SessionKey>,
    /// The request whose client may be given a cookie instead.
    pub(super) gives: Option<SessionKey>,
}

impl Attempts {
    /// What a request's session asks for. A board that the request's row does not name is no business of this request's: it keeps
    /// its session, and the request is placed as without.
    pub(super) fn wish(&mut self, ctx: &mut Context<'_>, place: &Place, session: Session) -> Wish {
        let (known, learns, gives) = match session {
            Session::None => return Wish::default(),
            Session::Fresh(request) => (None, None, Some(request)),
            Session::Named { board, again } => (Some(Ok(board)), None, again),
            Session::Learned(key) => {
                (self.sessions.find(ctx.boards, ctx.now_ns, place.service, key), Some(key), None)
            }
        };
        let board = match known {
            None => return Wish { board: None, learns, gives },
            Some(Ok(board)) => board,
            Some(Err(_)) => {
                ctx.counters.count(Did::SessionAnew);
                return Wish { board: None, learns, gives };
            }
        };
        match self.pools.honours(ctx.boards, ctx.now_ns, (&place.flow, place.pool), board) {
            Honours::Yes => Wish { board: Some(board), learns, gives: None },
            Honours::NotNow => {
                ctx.counters.count(Did::SessionAnew);
                Wish { board: None, learns, gives }
            }
            Honours::OtherRow => {
                ctx.counters.count(Did::SessionOtherRow);
                Wish::default()
            }
        }
    }

    /// Gives a request's client a cookie with the board that the request would be placed on, and has it come again. False where it
    /// does not keep cookies, or there is no board: the request is placed as it is.
    pub(super) fn give(
        &mut self,
        ctx: &mut Context<'_>,
        worker: WorkerId,
        place: &Place,
        wish: &Wish,
    ) -> bool {
        let Some(request) = wish.gives else { return false };
        if !self.sessions.may_give(ctx.now_ns, request) {
            ctx.counters.count(Did::CookieWithheld);
            return false;
        }
        let tried = BoardSet::default();
        let after = Some(Reason::Assigned);
        let wanted = Wanted { flow: &place.flow, pool: place.pool, tried: &tried, after, session: None };
        let Ok(board) = self.pools.choose(ctx.boards, ctx.now_ns, &wanted) else { return false };
        answer(ctx, worker, place.entry, Answer::Assign(board));
        true
    }

    /// A board has taken a request: its session is there.
    pub(super) fn learn(&mut self, ctx: &mut Context<'_>, request: &Learned, board: BoardId) {
        let Some((service, key)) = request.0 else { return };
        match self.sessions.learn(ctx.boards, ctx.now_ns, service, key, board) {
            None | Some(Put::Same) => {}
            Some(Put::New) => ctx.counters.count(Did::SessionLearned),
            Some(Put::Moved) => ctx.counters.count(Did::SessionMoved),
            Some(Put::Evicted) => {
                ctx.counters.count(Did::SessionLearned);
                ctx.counters.count(Did::SessionEvicted);
            }
        }
    }

    /// Lets sessions age.
    pub(super) fn age_sessions(&mut self, ctx: &mut Context<'_>) {
        for _ in 0..self.sessions.tick(ctx.now_ns) {
            ctx.counters.count(Did::SessionExpired);
        }
    }
}

impl Request {
    /// Whether the board of its session may yet turn out to live: the appliance has just started. Others have been heard of already,
    /// and would take the request.
    pub(super) fn waits_for_its_board(&self, ctx: &Context<'_>) -> bool {
        self.wish.board.is_some_and(|board| {
            let is_open = !self.tried.contains(board) && ctx.now_ns < self.deadline_ns;
            is_open && ctx.boards.is_unheard(board, ctx.now_ns)
        })
    }
}

/// The service and the session that is learned of a request, if one is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learned(Option<(u16, SessionKey)>);

impl Learned {
    pub(super) fn of(request: &Request) -> Self {
        Self(request.wish.learns.map(|key| (request.place.service, key)))
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
