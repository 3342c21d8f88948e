//! What every state machine of the control core works with: the time, the boards, the counters, the way out.

use ipos_pipelines::handoff::BoardId;

use super::boards::Boards;
use super::counters::ControlCounters;
use super::ids::Ids;
use super::sink::{Sink, Way};

/// Lent to a state machine for one event.
pub struct Context<'a> {
    /// Nanoseconds on a clock that does not jump.
    pub now_ns: u64,
    /// The boards.
    pub boards: &'a mut Boards,
    /// What is counted.
    pub counters: &'a mut ControlCounters,
    /// Ids for attempts and questions.
    pub ids: &'a mut Ids,
    /// Where decisions go.
    pub sink: &'a mut dyn Sink,
}

impl Context<'_> {
    /// How a board is reached, once its MAC address is known.
    pub fn way(&self, board: BoardId) -> Option<Way> {
        let board = self.boards.board(board)?;
        Some(Way { port: board.settings.port, to: board.mac? })
    }
}
