//! The Cookie Map (Fig. 12): cookie id -> server, for each service that learns its application's cookie.
//!
//! A cookie's value is known here by a keyed hash alone. A value that is new is placed like any request without one and then
//! belongs to the board that took it; so does one whose board cannot serve it any more. Values that name their board themselves
//! ([`ipos_pipelines::sessions`]) need no table.

pub mod rows;
pub mod table;

use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BoardId, SessionKey};

use super::boards::{Boards, MS_NS};
pub use table::{Entry, Place, Put, Table};

/// Between two looks at what has aged.
const LOOK_NS: u64 = 10 * MS_NS;

/// Sessions that age out in one look, of all services, at most.
const EXPIRE_MAX: usize = 512;

/// A client that comes again without the cookie that it was given within so long does not keep cookies, nanoseconds.
const GIVEN_NS: u64 = 10_000_000_000;

/// Requests that are remembered for it.
const GIVEN_MAX: usize = 16_384;

/// Slots that are looked at for one page of a listing.
pub const PAGE_SLOTS: usize = 1024;

/// What a service says of its Cookie Map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSettings {
    /// Sessions that are kept.
    pub entries: usize,
    /// A session that was not used for so long is forgotten, nanoseconds.
    pub idle_ns: u64,
}

/// The Cookie Map of one service.
#[derive(Debug)]
struct Map {
    idle_ns: u64,
    table: Table,
}

/// The Cookie Maps.
#[derive(Debug)]
pub struct Sessions {
    /// By number of service.
    maps: Vec<Option<Map>>,
    /// Whose turn it is to age.
    turn: usize,
    next_look_ns: u64,
    /// Requests whose clients were given a cookie a short while ago.
    given: Table,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { maps: Vec::new(), turn: 0, next_look_ns: 0, given: Table::new(GIVEN_MAX) }
    }
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Sessions, with the numbers of their services.
    pub rows: Vec<(u16, Entry)>,
    /// Where the listing goes on, if it does.
    pub next: Option<u32>,
}

impl Sessions {
    /// Empty maps, by number of service.
    pub fn new(settings: &[Option<MapSettings>]) -> Self {
        let mut sessions = Self::default();
        sessions.reconfigure(settings);
        sessions
    }

    /// Those of another configuration. A service that has a map keeps its sessions.
    pub fn reconfigure(&mut self, settings: &[Option<MapSettings>]) {
        self.maps.resize_with(settings.len(), || None);
        for (map, settings) in self.maps.iter_mut().zip(settings) {
            *map = settings.map(|settings| {
                let MapSettings { entries, idle_ns } = settings;
                let table = match map.take().map(|map| map.table) {
                    Some(table) if table.capacity() == entries => table,
                    Some(table) => table.resized(entries),
                    None => Table::new(entries),
                };
                Map { idle_ns, table }
            });
        }
    }

    fn map(&mut self, service: u16) -> Option<&mut Map> {
        self.maps.get_mut(usize::from(service))?.as_mut()
    }

    /// Uses a session. Its board, where that is still the one that it was.
    pub fn find(
        &mut self,
        boards: &Boards,
        now_ns: u64,
        service: u16,
        key: SessionKey,
    ) -> Option<Result<BoardId, GoneBoard>> {
        let map = self.map(service)?;
        let Place { board, address } = map.table.use_(key, now_ns)?.place;
        let is_there = boards.board(board).is_some_and(|board| board.settings.address == address);
        Some(if is_there { Ok(board) } else { Err(GoneBoard) })
    }

    /// A board took a request of this session: it is there from now on.
    pub fn learn(
        &mut self,
        boards: &Boards,
        now_ns: u64,
        service: u16,
        key: SessionKey,
        board: BoardId,
    ) -> Option<Put> {
        let address = boards.board(board)?.settings.address;
        Some(self.map(service)?.table.put(key, Place { board, address }, now_ns))
    }

    /// Whether a client may be given a cookie for this request: not when it came with the same a short while ago and was given one
    /// then. Whoever does not keep cookies is so redirected once, and served as long as it comes often enough.
    pub fn may_give(&mut self, now_ns: u64, request: SessionKey) -> bool {
        let last_ns = self.given.peek(request).map(|entry| entry.used_ns);
        if self.given.use_(request, now_ns).is_none() {
            let nowhere = Place { board: BoardId(0), address: Ipv4Addr::UNSPECIFIED };
            self.given.put(request, nowhere, now_ns);
        }
        last_ns.is_none_or(|last_ns| now_ns.saturating_sub(last_ns) >= GIVEN_NS)
    }

    /// Lets sessions age, some at a time. How many went.
    pub fn tick(&mut self, now_ns: u64) -> usize {
        if now_ns < self.next_look_ns {
            return 0;
        }
        self.next_look_ns = now_ns + LOOK_NS;
        let count = self.maps.len();
        self.turn = if self.turn + 1 < count { self.turn + 1 } else { 0 };
        let (first, last) = self.maps.split_at_mut(self.turn);
        self.given.expire(now_ns.saturating_sub(GIVEN_NS), EXPIRE_MAX);
        let mut gone = 0;
        for map in last.iter_mut().chain(first).flatten() {
            if gone < EXPIRE_MAX {
                gone += map.table.expire(now_ns.saturating_sub(map.idle_ns), EXPIRE_MAX - gone);
            }
        }
        gone
    }

    /// Sessions of a service, and how many fit; `None` where it learns none.
    pub fn count(&self, service: u16) -> Option<(usize, usize)> {
        let map = self.maps.get(usize::from(service))?.as_ref()?;
        Some((map.table.len(), map.table.capacity()))
    }

    /// A page of the sessions of one service or all, from a place on. The places of all services are one after the other.
    pub fn page(&self, from: u32, service: Option<u16>, wanted: impl Fn(&Entry) -> bool) -> Page {
        let mut page = Page::default();
        let (mut start, mut left) = (0usize, PAGE_SLOTS);
        let from = from as usize;
        for (number, map) in (0u16..).zip(&self.maps) {
            let Some(map) = map else { continue };
            let slots = map.table.slots();
            let (begin, end) = (start, start + slots);
            start = end;
            if end <= from || service.is_some_and(|service| service != number) {
                continue;
            }
            if left == 0 {
                page.next = u32::try_from(begin.max(from)).ok();
                return page;
            }
            let skip = from.saturating_sub(begin);
            let count = (slots - skip).min(left);
            let rows = map.table.rows(skip, count).filter(|entry| wanted(entry));
            page.rows.extend(rows.map(|entry| (number, *entry)));
            left -= count;
            if skip + count < slots {
                page.next = u32::try_from(begin + skip + count).ok();
                return page;
            }
        }
        page
    }
}

/// A session's board is not in the farm any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoneBoard;

#[cfg(test)]
mod tests {
    use super::super::boards::tests::{MS, farm};
    use super::*;

    fn key(number: u64) -> SessionKey {
        SessionKey::of(1 << 40 | number)
    }

    const LEARNS: Option<MapSettings> = Some(MapSettings { entries: 4096, idle_ns: 1000 * MS });

    #[test]
    fn a_session_is_known_by_service_and_key_until_it_was_unused_for_long() {
        let boards = farm(2);
        let mut sessions = Sessions::new(&[LEARNS, None, LEARNS]);
        assert_eq!(sessions.learn(&boards, MS, 0, key(1), BoardId(1)), Some(Put::New));
        assert_eq!(sessions.find(&boards, 2 * MS, 0, key(1)), Some(Ok(BoardId(1))));
        assert_eq!(sessions.find(&boards, 2 * MS, 2, key(1)), None);
        assert_eq!(sessions.find(&boards, 2 * MS, 0, key(2)), None);
        assert_eq!(sessions.learn(&boards, MS, 1, key(1), BoardId(1)), None, "it learns none");
        assert_eq!(sessions.learn(&boards, MS, 9, key(1), BoardId(1)), None);
        assert_eq!(sessions.learn(&boards, MS, 0, key(1), BoardId(7)), None, "no such board");
        assert_eq!((sessions.tick(1002 * MS), sessions.count(0)), (0, Some((1, 4096))));
        assert_eq!((sessions.tick(1003 * MS), sessions.count(0)), (0, Some((1, 4096))), "not yet");
        assert_eq!((sessions.tick(1012 * MS), sessions.count(0)), (1, Some((0, 4096))));
        assert_eq!(sessions.count(1), None);
    }

    #[test]
    fn another_board_with_the_number_of_one_that_is_gone_gets_none_of_its_sessions() {
        let mut boards = farm(2);
        let mut sessions = Sessions::new(&[LEARNS]);
        sessions.learn(&boards, MS, 0, key(1), BoardId(1));
        boards.board_mut(BoardId(1)).expect("a board").settings.address = [192, 0, 2, 99].into();
        assert_eq!(sessions.find(&boards, MS, 0, key(1)), Some(Err(GoneBoard)));
        boards.remove(BoardId(1), MS);
        assert_eq!(sessions.find(&boards, MS, 0, key(1)), Some(Err(GoneBoard)));
        assert_eq!(sessions.learn(&boards, MS, 0, key(1), BoardId(0)), Some(Put::Moved));
        assert_eq!(sessions.find(&boards, MS, 0, key(1)), Some(Ok(BoardId(0))));
    }

    #[test]
    fn a_client_is_given_a_cookie_once_and_again_only_after_a_pause() {
        let mut sessions = Sessions::default();
        assert!(sessions.may_give(0, key(1)) && sessions.may_give(0, key(2)));
        assert!(!sessions.may_give(9_000 * MS, key(1)));
        assert!(!sessions.may_give(18_000 * MS, key(1)), "it comes often");
        sessions.tick(18_000 * MS);
        assert_eq!(sessions.given.len(), 1, "what is over is forgotten");
        assert!(sessions.may_give(28_000 * MS, key(1)));
        for number in 0..2 * GIVEN_MAX as u64 {
            assert!(sessions.may_give(28_000 * MS, key(100 + number)));
        }
        assert_eq!(sessions.given.len(), GIVEN_MAX);
    }

    #[test]
    fn a_reload_keeps_what_was_learned() {
        let boards = farm(2);
        let mut sessions = Sessions::new(&[LEARNS]);
        sessions.learn(&boards, MS, 0, key(1), BoardId(1));
        sessions.reconfigure(&[LEARNS, LEARNS]);
        sessions.reconfigure(&[Some(MapSettings { entries: 64, idle_ns: 5 })]);
        assert_eq!(sessions.count(0), Some((1, 64)));
        assert_eq!(sessions.find(&boards, MS, 0, key(1)), Some(Ok(BoardId(1))));
        sessions.reconfigure(&[None]);
        assert_eq!((sessions.count(0), sessions.find(&boards, MS, 0, key(1))), (None, None));
    }

    #[test]
    fn ageing_is_bounded_and_takes_every_service_in_turn() {
        let boards = farm(2);
        let mut sessions = Sessions::new(&[LEARNS, LEARNS]);
        for service in 0..2 {
            for n in 0..600 {
                let _ = sessions.learn(&boards, MS, service, key(n), BoardId(0));
            }
        }
        let gone: Vec<usize> = (0..4).map(|look| sessions.tick((5000 + 10 * look) * MS)).collect();
        assert_eq!(gone, [EXPIRE_MAX, EXPIRE_MAX, 1200 - 2 * EXPIRE_MAX, 0]);
    }

    #[test]
    fn a_listing_sees_every_session_once_in_bounded_pages() {
        let boards = farm(2);
        let mut sessions = Sessions::new(&[LEARNS, None, LEARNS]);
        for service in [0, 2] {
            for n in 0..1500 {
                let _ = sessions.learn(&boards, MS, service, key(n), BoardId((n % 2) as u16));
            }
        }
        let list = |service, wanted: &dyn Fn(&Entry) -> bool| {
            let (mut at, mut rows, mut pages) = (Some(0), Vec::new(), 0);
            while let Some(from) = at {
                let page = sessions.page(from, service, wanted);
                assert!(page.rows.len() <= PAGE_SLOTS);
                rows.extend(page.rows.iter().map(|(number, entry)| (*number, entry.key)));
                (at, pages) = (page.next, pages + 1);
            }
            let count = rows.len();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), count, "none twice");
            (count, pages)
        };
        assert_eq!(list(None, &|_| true), (3000, 3));
        assert_eq!(list(Some(2), &|_| true), (1500, 2));
        assert_eq!(list(None, &|entry| entry.place.board == BoardId(1)), (1500, 3));
        assert_eq!(list(Some(1), &|_| true).0, 0);
        assert_eq!(sessions.page(u32::MAX, None, |_| true), Page::default());
    }
}
