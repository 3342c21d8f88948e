//! Which board gets a connection: the one with the fewest among those of the pool that can take it.

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::BoardId;

use super::board_set::BoardSet;
use super::boards::Boards;

/// The pools, each with the place from which the next choice starts: boards of equal load take turns.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool>,
}

#[derive(Debug)]
struct Pool {
    boards: Vec<BoardId>,
    start: usize,
}

impl Pools {
    /// The pools of a configuration, by number.
    pub fn new(pools: Vec<Vec<BoardId>>) -> Self {
        Self { pools: pools.into_iter().map(|boards| Pool { boards, start: 0 }).collect() }
    }

    /// The boards of a pool.
    pub fn boards(&self, pool: u16) -> &[BoardId] {
        self.pools.get(usize::from(pool)).map_or(&[], |pool| &pool.boards)
    }

    /// The board of the pool with the fewest connections that is fit for the endpoint, and not among `tried`.
    pub fn choose(
        &mut self,
        pool: u16,
        boards: &Boards,
        now_ns: u64,
        endpoint: (Ipv4Addr, u16),
        tried: &BoardSet,
    ) -> Option<BoardId> {
        let pool = self.pools.get_mut(usize::from(pool))?;
        let count = pool.boards.len();
        let start = pool.start.checked_rem(count)?;
        let (before, after) = pool.boards.split_at(start);
        let mut best: Option<(u64, usize)> = None;
        for (place, id) in after.iter().chain(before).enumerate() {
            if tried.contains(*id) {
                continue;
            }
            let load = boards.board(*id).and_then(|board| board.fit(now_ns, boards.times(), endpoint).ok());
            if let Some(load) = load
                && best.is_none_or(|(least, _)| load < least)
            {
                best = Some((load, place));
            }
        }
        let chosen = (start + best?.1) % count;
        pool.start = chosen + 1;
        pool.boards.get(chosen).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::boards::tests::{MS, alive, farm};
    use super::*;

    fn none() -> BoardSet {
        BoardSet::default()
    }

    fn set<const COUNT: usize>(boards: [u16; COUNT]) -> BoardSet {
        boards.map(BoardId).into_iter().collect()
    }

    const ENDPOINT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 80);

    fn all(count: u16) -> Pools {
        Pools::new(vec![(0..count).map(BoardId).collect()])
    }

    #[test]
    fn the_board_with_the_fewest_connections_is_chosen() {
        let mut boards = farm(3);
        for (id, connections) in [(0, 9), (1, 4), (2, 7)] {
            alive(&mut boards, id, 0, connections);
        }
        let mut pools = all(3);
        assert_eq!(pools.choose(0, &boards, MS, ENDPOINT, &none()), Some(BoardId(1)));
        assert_eq!(pools.choose(0, &boards, MS, ENDPOINT, &set([1])), Some(BoardId(2)));
        assert_eq!(pools.choose(0, &boards, MS, ENDPOINT, &set([0, 1, 2])), None);
    }

    #[test]
    fn what_was_placed_since_the_report_counts() {
        let mut boards = farm(2);
        alive(&mut boards, 0, 0, 4);
        alive(&mut boards, 1, 0, 5);
        if let Some(board) = boards.board_mut(BoardId(0)) {
            board.in_flight = 1;
            board.placed = 1;
        }
        assert_eq!(all(2).choose(0, &boards, MS, ENDPOINT, &none()), Some(BoardId(1)));
    }

    #[test]
    fn equals_take_turns() {
        let mut boards = farm(3);
        (0..3).for_each(|id| alive(&mut boards, id, 0, 5));
        let mut pools = all(3);
        let turns: Vec<u16> = (0..6)
            .filter_map(|_| pools.choose(0, &boards, MS, ENDPOINT, &none()).map(|board| board.0))
            .collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn only_boards_of_the_pool_are_chosen_and_an_unknown_pool_has_none() {
        let mut boards = farm(2);
        alive(&mut boards, 0, 0, 0);
        alive(&mut boards, 1, 0, 99);
        let mut pools = Pools::new(vec![vec![BoardId(1)], vec![]]);
        assert_eq!(pools.choose(0, &boards, MS, ENDPOINT, &none()), Some(BoardId(1)));
        assert_eq!(pools.choose(1, &boards, MS, ENDPOINT, &none()), None);
        assert_eq!(pools.choose(7, &boards, MS, ENDPOINT, &none()), None);
    }

    #[test]
    fn a_board_whose_reports_are_overdue_is_not_chosen() {
        let mut boards = farm(2);
        alive(&mut boards, 0, 0, 0);
        alive(&mut boards, 1, 200, 99);
        assert_eq!(all(2).choose(0, &boards, 299 * MS, ENDPOINT, &none()), Some(BoardId(0)));
        assert_eq!(all(2).choose(0, &boards, 300 * MS, ENDPOINT, &none()), Some(BoardId(1)));
        assert_eq!(all(2).choose(0, &boards, 500 * MS, ENDPOINT, &none()), None);
    }
}
