//! What a request's cookie says of its session, as the control core is told.

use std::num::NonZeroU32;

use super::BoardId;

/// A keyed hash of 64 bits: of a cookie's value, or of what tells one request without a cookie from another. What was hashed
/// cannot be had from it, and nobody without the key can make two meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(NonZeroU32, u32);

impl SessionKey {
    /// Of a hash. One in 2^32 loses a bit, so that none is 0.
    #[inline]
    pub const fn of(hash: u64) -> Self {
        let upper = match NonZeroU32::new((hash >> 32) as u32) {
            Some(upper) => upper,
            None => NonZeroU32::MIN,
        };
        Self(upper, hash as u32)
    }

    /// The bits.
    #[inline]
    pub const fn bits(self) -> u64 {
        (self.0.get() as u64) << 32 | self.1 as u64
    }
}

/// The session of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// None that anything is known of: placed as the policy says.
    #[default]
    None,
    /// The application's cookie had a value with this hash: at the board that served it before, if it is known.
    Learned(SessionKey),
    /// The cookie's value names a board.
    Named {
        /// Which.
        board: BoardId,
        /// Where the client may be given another value, when that board cannot serve: its request's hash.
        again: Option<SessionKey>,
    },
    /// No cookie, or none that names a board, and the client may be given one by a redirect: its request's hash.
    Fresh(SessionKey),
}

impl Session {
    /// The same for a later request of a connection, which is moved and not asked to come again.
    #[must_use]
    pub fn to_move_by(self) -> Self {
        match self {
            Session::Named { board, .. } => Session::Named { board, again: None },
            Session::Fresh(_) => Session::None,
            Session::None | Session::Learned(_) => self,
        }
    }
}

const _: () = assert!(size_of::<Session>() <= 12, "goes with each request");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_kept_but_for_the_one_that_stands_for_none() {
        assert_eq!(SessionKey::of(0x0123_4567_89ab_cdef).bits(), 0x0123_4567_89ab_cdef);
        assert_eq!(SessionKey::of(7).bits(), 1 << 32 | 7);
    }
}
