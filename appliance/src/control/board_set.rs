//! A set of boards, in a fixed number of octets.

use ipos_pipelines::handoff::{BOARDS_MAX, BoardId};

const BITS: usize = u64::BITS as usize;
const WORDS: usize = BOARDS_MAX.div_ceil(BITS);

/// Which boards: a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BoardSet {
    words: [u64; WORDS],
    count: u16,
}

fn place(board: BoardId) -> (usize, u64) {
    let number = usize::from(board.0);
    (number / BITS, 1 << (number % BITS))
}

impl BoardSet {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it has this one.
    pub fn contains(&self, board: BoardId) -> bool {
        let (word, bit) = place(board);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Takes one in; a number that no board has is left out.
    pub fn insert(&mut self, board: BoardId) {
        let (word, bit) = place(board);
        if let Some(word) = self.words.get_mut(word) {
            self.count += u16::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, board: BoardId) {
        let (word, bit) = place(board);
        if let Some(word) = self.words.get_mut(word) {
            self.count -= u16::from(*word & bit != 0);
            *word &= !bit;
        }
    }

    /// Takes all out. Most sets are empty, and are not written then.
    pub fn clear(&mut self) {
        if !self.is_empty() {
            *self = Self::default();
        }
    }

    /// Those that it has, by number.
    pub fn iter(&self) -> impl Iterator<Item = BoardId> {
        self.words.iter().enumerate().flat_map(|(place, word)| {
            let not_none = |word: u64| (word != 0).then_some(word);
            // Each without the lowest bit of the one before.
            let rest = std::iter::successors(not_none(*word), move |word| not_none(word & (word - 1)));
            rest.map(move |word| BoardId((place * BITS) as u16 + word.trailing_zeros() as u16))
        })
    }
}

impl FromIterator<BoardId> for BoardSet {
    fn from_iter<I: IntoIterator<Item = BoardId>>(boards: I) -> Self {
        let mut set = Self::default();
        boards.into_iter().for_each(|board| set.insert(board));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_was_taken_in_and_not_out_again() {
        let mut set: BoardSet = [0, 63, 64, 1023, 64, 1024].map(BoardId).into_iter().collect();
        assert_eq!(set.iter().map(|board| board.0).collect::<Vec<_>>(), [0, 63, 64, 1023]);
        set.remove(BoardId(63));
        set.remove(BoardId(63));
        assert!(set.contains(BoardId(64)) && !set.contains(BoardId(63)) && !set.contains(BoardId(2000)));
        assert!(!set.is_empty());
        set.clear();
        assert_eq!((set.is_empty(), set.iter().count()), (true, 0));
        set.insert(BoardId(5));
        assert_eq!(set.count, 1);
    }
}
