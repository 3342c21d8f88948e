//! A request's session: the board that it is at, whether that one can have it, and what is learned once a board has it
//! (docs/services.md).

use ipos_pipelines::handoff::{BoardId, Place, Session, SessionKey};

use super::super::context::Context;
use super::super::counters::Did;
use super::super::placement::Honours;
use super::super::sessions::Put;
use super::{Attempts, Request};

/// What is wanted for a request's session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// The board that it is at, while it may have it.
    pub(super) board: Option<BoardId>,
    /// The session that belongs to the board that takes the request.
    pub(super) learns: Option<SessionKey>,
}

impl Attempts {
    /// What a request's session asks for. A board that the request's row does not name is no business of this request's: it keeps
    /// its session, and the request is placed as without.
    pub(super) fn wish(&mut self, ctx: &mut Context<'_>, place: &Place, session: Session) -> Wish {
        let (known, learns) = match session {
            Session::None | Session::Fresh(_) => return Wish::default(),
            Session::Named { board, .. } => (Some(Ok(board)), None),
            Session::Learned(key) => {
                (self.sessions.find(ctx.boards, ctx.now_ns, place.service, key), Some(key))
            }
        };
        let board = match known {
            None => return Wish { board: None, learns },
            Some(Ok(board)) => board,
            Some(Err(_)) => {
                ctx.counters.count(Did::SessionAnew);
                return Wish { board: None, learns };
            }
        };
        match self.pools.honours(ctx.boards, ctx.now_ns, (&place.flow, place.pool), board) {
            Honours::Yes => Wish { board: Some(board), learns },
            Honours::NotNow => {
                ctx.counters.count(Did::SessionAnew);
                Wish { board: None, learns }
            }
            Honours::OtherRow => {
                ctx.counters.count(Did::SessionOtherRow);
                Wish::default()
            }
        }
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
