//! What a packet of a settled flow needs to know, and leaves behind: one word, kept beside the flow's key.
//!
//! With it the packet of a migrated flow touches one cache line of the shard, and writes to it once in 64 ms at most: the
//! entry itself is not looked at.

use crate::handoff::{BOARDS_MAX, BoardId};

/// Milliseconds in a unit of the time that [`Hot::see`] keeps.
pub const SEEN_UNIT_MS: u32 = 64;

/// The longest time that [`Hot::idle_ms`] can tell from a shorter one, milliseconds: 37 hours.
pub const IDLE_MAX_MS: u32 = (1 << SEEN_BITS) * SEEN_UNIT_MS - 2 * SEEN_UNIT_MS;

const SEEN_BITS: u32 = 21;
const SEEN_MASK: u32 = (1 << SEEN_BITS) - 1;
/// All ones: no board, look at the entry.
const LOOK: u32 = u32::MAX >> SEEN_BITS;

const _: () = assert!(BOARDS_MAX <= LOOK as usize, "every board has a number of its own");

/// The board that packets go to, and when the last one came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hot(u32);

const _: () = assert!(size_of::<Hot>() == 4);

impl Hot {
    /// A packet of this flow has to look at the entry.
    pub const LOOK: Self = Self(LOOK << SEEN_BITS);

    /// The board that holds the endpoint, when nothing else matters.
    #[inline(always)]
    pub fn board(self) -> Option<BoardId> {
        let board = self.0 >> SEEN_BITS;
        (board != LOOK).then_some(BoardId(board as u16))
    }

    /// Sets the board; `None` when packets have to look at the entry.
    #[inline(always)]
    pub fn set_board(&mut self, board: Option<BoardId>) {
        let board = board.map_or(LOOK, |board| u32::from(board.0).min(LOOK));
        self.0 = self.0 & SEEN_MASK | board << SEEN_BITS;
    }

    /// A packet came. Writes only when the clock has moved on since the last one.
    #[inline(always)]
    pub fn see(&mut self, now_ms: u32) {
        let seen = self.0 & !SEEN_MASK | (now_ms / SEEN_UNIT_MS) & SEEN_MASK;
        if seen != self.0 {
            self.0 = seen;
        }
    }

    /// How long ago the last packet came, milliseconds: never less than it is, and less than [`SEEN_UNIT_MS`] too much.
    #[inline]
    pub fn idle_ms(self, now_ms: u32) -> u32 {
        // Both clocks wrap at powers of two, so that the difference is right modulo 21 bits of units.
        let units = (now_ms / SEEN_UNIT_MS).wrapping_sub(self.0) & SEEN_MASK;
        units * SEEN_UNIT_MS + now_ms % SEEN_UNIT_MS
    }
}

impl std::fmt::Debug for Hot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hot({:?}, seen {})", self.board(), self.0 & SEEN_MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn board_and_time_are_apart() {
        let mut hot = Hot::LOOK;
        assert_eq!(hot.board(), None);
        hot.see(1_000_000);
        assert_eq!(hot.board(), None);
        for board in [0, 1, BOARDS_MAX as u16 - 1] {
            hot.set_board(Some(BoardId(board)));
            assert_eq!((hot.board(), hot.idle_ms(1_000_000)), (Some(BoardId(board)), 0), "a whole unit");
        }
        hot.set_board(None);
        assert_eq!(hot.board(), None);
    }

    #[test]
    fn idle_time_is_never_too_short_and_less_than_a_unit_too_long() {
        for seen_ms in [0, 1, 63, 64, 1_000_003, u32::MAX - 70, u32::MAX] {
            let mut hot = Hot::LOOK;
            hot.see(seen_ms);
            for idle_ms in [0, 1, 62, 63, 64, 65, 1_000, 300_000, 86_400_000, IDLE_MAX_MS] {
                let told_ms = hot.idle_ms(seen_ms.wrapping_add(idle_ms));
                assert!(told_ms >= idle_ms && told_ms - idle_ms < SEEN_UNIT_MS, "{told_ms} of {idle_ms}");
            }
        }
    }
}
