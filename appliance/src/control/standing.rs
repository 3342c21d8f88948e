//! How a board stands with its operator: its weight, whether it drains or leaves, and since when it takes connections.
//!
//! What a board says of itself is in [`super::state`] and [`super::listening`]; this is what is wanted of it.

/// The weight of a board that the configuration gives none.
pub const WEIGHT_DEFAULT: u16 = 100;

/// The largest weight.
pub const WEIGHT_MAX: u16 = 1000;

/// A drain that is under way, or at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When it began, nanoseconds.
    pub since_ns: u64,
    /// From when on the board is told to close connections that are idle, nanoseconds; `None` never.
    pub deadline_ns: Option<u64>,
    /// When the board is told next, after the deadline.
    pub tell_at_ns: u64,
    /// None of its connections is left.
    pub is_done: bool,
}

impl Drain {
    /// A drain that begins now.
    pub const fn new(now_ns: u64, deadline_ns: Option<u64>) -> Self {
        Self { since_ns: now_ns, deadline_ns, tell_at_ns: 0, is_done: false }
    }
}

/// What is wanted of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its share of new connections, relative to the other boards' weights, 0..=[`WEIGHT_MAX`]; with 0 it gets none.
    pub weight: u16,
    /// It gets no new connections, and keeps those that it has.
    pub drain: Option<Drain>,
    /// It is not in the configuration any more, and goes with its last connection.
    pub leaving: bool,
    /// When it last began to take connections (came alive, or was undrained), nanoseconds: where a slow start counts from.
    /// `None` before that.
    pub joined_at_ns: Option<u64>,
}

impl Standing {
    /// A board that was heard of and not heard from.
    pub const fn new(weight: u16) -> Self {
        Self { weight, drain: None, leaving: false, joined_at_ns: None }
    }

    /// Whether it drains, also in order to leave.
    pub const fn is_draining(&self) -> bool {
        self.drain.is_some() || self.leaving
    }

    /// Whether it may get new connections as far as the operator is concerned.
    pub const fn takes_new(&self) -> bool {
        self.weight > 0 && !self.is_draining()
    }

    /// Whether it may get connections of sessions that it has: not once it leaves, or its drain's deadline is over.
    pub const fn honours_sessions(&self, now_ns: u64) -> bool {
        match self.drain {
            _ if self.leaving => false,
            Some(Drain { deadline_ns: Some(deadline_ns), .. }) => now_ns < deadline_ns,
            _ => true,
        }
    }

    /// A word for it, when it takes no connections by an operator's will.
    pub const fn word(&self) -> Option<&'static str> {
        match (&self.drain, self.leaving) {
            (_, true) => Some("leaving"),
            (Some(Drain { is_done: true, .. }), _) => Some("drained"),
            (Some(_), _) => Some("draining"),
            (None, _) => None,
        }
    }

    /// It begins to take connections.
    pub fn join(&mut self, now_ns: u64) {
        self.joined_at_ns = Some(now_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_takes_connections_unless_it_has_no_weight_drains_or_leaves() {
        let takes = Standing::new(WEIGHT_DEFAULT);
        assert!(takes.takes_new() && !takes.is_draining());
        assert!(!Standing::new(0).takes_new());
        let drains = Standing { drain: Some(Drain::new(1, None)), ..takes };
        assert!(!drains.takes_new() && drains.is_draining());
        let leaves = Standing { leaving: true, ..takes };
        assert!(!leaves.takes_new() && leaves.is_draining());
        assert!(takes.honours_sessions(9) && drains.honours_sessions(9) && !leaves.honours_sessions(9));
        let ends = Standing { drain: Some(Drain::new(1, Some(5))), ..takes };
        assert!(ends.honours_sessions(4) && !ends.honours_sessions(5));
    }
}
