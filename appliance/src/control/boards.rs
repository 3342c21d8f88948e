//! The boards: where they are reached (ARP), whether they live (0x10), what they say of themselves.
//!
//! Frames count as a board's only when they come from the MAC address that ARP learned for it, or that the configuration
//! fixes, on the port that it is behind (design: system.md, rules).

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BoardId, PortIndex};
use ipos_wire::ipos::Offer;
use ipos_wire::mac::Mac;

use super::absurd::Report;
use super::applications::Application;
use super::board::{Board, BoardSettings, Liveness};
use super::counters::Ignored;
use super::gather::{Part, Taken};
use super::listening::Socket;
use super::state::State;

/// Nanoseconds per millisecond.
pub const MS_NS: u64 = 1_000_000;

/// Between requests for an unknown MAC address: the first few, then all others.
const ASK_FIRST_NS: u64 = 100 * MS_NS;
const ASK_LATER_NS: u64 = 1000 * MS_NS;
const ASK_FIRST_TRIES: u32 = 20;

/// A MAC address that is known is confirmed so often.
const CONFIRM_NS: u64 = 30_000 * MS_NS;

/// A MAC address that has just changed does not change again for so long: two machines that claim one address would flood
/// the log and the workers.
const MOVE_NS: u64 = 1000 * MS_NS;

/// After the start, boards that have not been heard of may still hold anything: their agents report within this time.
pub const HEARD_WITHIN_NS: u64 = 5000 * MS_NS;

/// Unanswered questions to the known MAC address before everybody is asked again.
const UNICAST_TRIES: u32 = 3;

/// What ARP taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The MAC address is new, or another one: the workers must hear of it.
    Moved(BoardId, Mac),
    /// A second machine claims the address of a board that lives, which keeps it. Said once for each such machine.
    Contested(BoardId, Mac),
    /// Nothing new.
    Known,
}

/// A question by ARP that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpRequest {
    /// Where.
    pub port: PortIndex,
    /// Whose MAC address is asked for.
    pub address: Ipv4Addr,
    /// Who is asked; `None` asks everybody.
    pub to: Option<Mac>,
}

/// A number that no new board may have, with name and address of the board that has it, if one still has.
pub type TakenNumber = (BoardId, Option<(String, Ipv4Addr)>);

/// A change of liveness, said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Which board.
    pub board: BoardId,
    /// Whether it lives now.
    pub alive: bool,
    /// For how long it gets no connections nevertheless, since it died again and again, nanoseconds.
    pub kept_back_ns: u64,
}

/// A board's number, which a board has or had.
#[derive(Debug)]
struct Slot {
    board: Option<Board>,
    /// When the last board that had the number went, nanoseconds; 0 when none did.
    freed_at_ns: u64,
}

/// The number of a board that is gone is nobody's for so long: by then nothing that names it is under way (a detach is
/// remembered for 10 s, a request for its deadline).
const REUSE_NS: u64 = 60_000 * MS_NS;

/// All boards.
#[derive(Debug)]
pub struct Boards {
    /// By number.
    slots: Vec<Slot>,
    /// By address, in order: each board has one at most.
    by_mac: Vec<(Mac, BoardId)>,
    by_address: HashMap<Ipv4Addr, BoardId>,
    /// TCP options that clients are offered.
    options: u16,
    started_at_ns: u64,
}

impl Boards {
    /// The boards of a configuration, none heard of yet. Clients are offered these TCP options.
    pub fn new(settings: Vec<BoardSettings>, options: u16, now_ns: u64) -> Self {
        let mut boards = Self {
            slots: Vec::with_capacity(settings.len()),
            by_mac: Vec::with_capacity(settings.len()),
            by_address: HashMap::with_capacity(settings.len()),
            options,
            started_at_ns: now_ns,
        };
        for (place, settings) in settings.into_iter().enumerate() {
            boards.enter(BoardId(place as u16), settings);
        }
        boards
    }

    /// Takes a board in under a number that no board has.
    pub fn enter(&mut self, id: BoardId, settings: BoardSettings) {
        let place = usize::from(id.0);
        while self.slots.len() <= place {
            self.slots.push(Slot { board: None, freed_at_ns: 0 });
        }
        if let Some(mac) = settings.mac {
            self.set_mac(id, mac);
        }
        self.by_address.insert(settings.address, id);
        if let Some(slot) = self.slots.get_mut(place) {
            slot.board = Some(Board::new(settings));
        }
    }

    /// Takes a board out. Its number stays unused for a while.
    pub fn remove(&mut self, id: BoardId, now_ns: u64) -> Option<Board> {
        let slot = self.slots.get_mut(usize::from(id.0))?;
        let board = slot.board.take()?;
        slot.freed_at_ns = now_ns.max(1);
        self.by_mac.retain(|row| row.1 != id);
        self.by_address.retain(|_, owner| *owner != id);
        Some(board)
    }

    /// The numbers that no new board may have.
    pub fn taken(&self, now_ns: u64) -> Vec<TakenNumber> {
        let recently = |freed_at_ns: u64| freed_at_ns > 0 && now_ns.saturating_sub(freed_at_ns) < REUSE_NS;
        let slots = self.slots.iter().enumerate();
        let taken = slots.filter(|(_, slot)| slot.board.is_some() || recently(slot.freed_at_ns));
        taken
            .map(|(place, slot)| {
                let board = slot.board.as_ref().map(|b| (b.settings.name.clone(), b.settings.address));
                (BoardId(place as u16), board)
            })
            .collect()
    }

    /// The board of this name; one that stays goes before one that leaves.
    pub fn find(&self, name: &str) -> Option<BoardId> {
        let named = self.iter().filter(|(_, board)| board.settings.name == name);
        named.min_by_key(|(_, board)| board.standing.leaving).map(|(id, _)| id)
    }

    /// Puts a board's MAC address in its place among the others, and takes it from the one that had it.
    fn set_mac(&mut self, id: BoardId, mac: Mac) {
        if let Some(owner) =
            self.of_mac(mac).filter(|owner| *owner != id).and_then(|owner| self.board_mut(owner))
        {
            owner.mac = None;
        }
        self.by_mac.retain(|row| row.1 != id && row.0 != mac);
        let at = self.by_mac.partition_point(|row| word(row.0) < word(mac));
        self.by_mac.insert(at, (mac, id));
    }

    /// Gives a board another name, weight, port or fixed MAC address; its address is what it is known by. Returns the MAC address
    /// that workers have to hear of.
    pub fn change(&mut self, id: BoardId, settings: BoardSettings) -> Option<Mac> {
        let board = self.board_mut(id)?;
        board.standing.weight = settings.weight;
        let moved =
            board.settings.port != settings.port || settings.mac.is_some_and(|mac| board.mac != Some(mac));
        let fixed = settings.mac;
        board.settings = settings;
        if let Some(mac) = fixed {
            board.mac = Some(mac);
            self.set_mac(id, mac);
        }
        self.board(id)?.mac.filter(|_| moved)
    }

    /// Each with its number.
    pub fn iter(&self) -> impl Iterator<Item = (BoardId, &Board)> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(place, slot)| Some((BoardId(place as u16), slot.board.as_ref()?)))
    }

    /// Each with its number, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (BoardId, &mut Board)> {
        let numbered = self.slots.iter_mut().enumerate();
        numbered.filter_map(|(place, slot)| Some((BoardId(place as u16), slot.board.as_mut()?)))
    }

    /// One of them.
    pub fn board(&self, id: BoardId) -> Option<&Board> {
        self.slots.get(usize::from(id.0))?.board.as_ref()
    }

    /// One of them, to change.
    pub fn board_mut(&mut self, id: BoardId) -> Option<&mut Board> {
        self.slots.get_mut(usize::from(id.0))?.board.as_mut()
    }

    /// TCP options that clients are offered.
    pub fn options(&self) -> u16 {
        self.options
    }

    /// Every frame of a board's asks: among a few, or a thousand, a search by halves is quicker than any hash.
    fn of_mac(&self, mac: Mac) -> Option<BoardId> {
        let at = self.by_mac.binary_search_by_key(&word(mac), |row| word(row.0)).ok()?;
        self.by_mac.get(at).map(|row| row.1)
    }

    /// The board whose frame this is.
    ///
    /// # Errors
    /// Why it is nobody's.
    pub fn identify(&self, source: Mac, port: PortIndex) -> Result<BoardId, Ignored> {
        let id = self.of_mac(source).ok_or(Ignored::UnknownMac)?;
        match self.board(id) {
            Some(board) if board.settings.port == port => Ok(id),
            _ => Err(Ignored::WrongPort),
        }
    }

    /// Takes what an ARP message says of its sender.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn learn(
        &mut self,
        now_ns: u64,
        port: PortIndex,
        address: Ipv4Addr,
        mac: Mac,
    ) -> Result<Learned, Ignored> {
        let id = *self.by_address.get(&address).ok_or(Ignored::OtherArp)?;
        let owner = self.of_mac(mac).filter(|owner| *owner != id);
        let inherited = owner.is_some_and(|owner| self.has_lost_its_mac(owner, now_ns));
        let board = self.board_mut(id).ok_or(Ignored::OtherArp)?;
        if board.settings.port != port {
            return Err(Ignored::OtherArp);
        }
        let fixed = board.settings.mac.is_some_and(|fixed| fixed != mac);
        let moves = board.mac.is_some_and(|known| known != mac);
        let restless = moves && board.moved_at_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < MOVE_NS);
        // Two boards behind one MAC address could not be told apart.
        if fixed || restless || (owner.is_some() && !inherited) {
            return Err(Ignored::ForgedArp);
        }
        // Its reports come from the address that is known: whoever else claims it would get its connections.
        if moves && board.liveness(now_ns) == Liveness::Alive {
            return match board.rival.replace(mac) {
                Some(rival) if rival == mac => Err(Ignored::AddressConflict),
                _ => Ok(Learned::Contested(id, mac)),
            };
        }
        board.asked = 0;
        board.ask_at_ns = now_ns + CONFIRM_NS;
        if board.mac == Some(mac) {
            return Ok(Learned::Known);
        }
        if board.mac.replace(mac).is_some() {
            board.moved_at_ns = Some(now_ns);
            board.rival = None;
        }
        self.set_mac(id, mac);
        Ok(Learned::Moved(id, mac))
    }

    /// Whether a learned MAC address may go to another board: its own is dead. So cards that change places, or an address
    /// that moves to another machine, leave no board locked out for good.
    fn has_lost_its_mac(&self, id: BoardId, now_ns: u64) -> bool {
        self.board(id)
            .is_some_and(|board| board.settings.mac.is_none() && board.liveness(now_ns) == Liveness::Dead)
    }

    /// Nobody has listened for so long: it does not count against the boards, whose reports may still be waiting.
    pub fn excuse(&mut self, stalled_ns: u64) {
        for (_, board) in self.iter_mut() {
            board.reported_at_ns = board.reported_at_ns.saturating_add(stalled_ns);
        }
        self.started_at_ns = self.started_at_ns.saturating_add(stalled_ns);
    }

    /// The questions by ARP that are due now.
    pub fn arp_due(&mut self, now_ns: u64) -> Vec<ArpRequest> {
        let mut due = Vec::new();
        for (_, board) in self.iter_mut().filter(|(_, board)| board.settings.mac.is_none()) {
            if board.ask_at_ns > now_ns {
                continue;
            }
            // Who is dead may have come back with another card.
            let dead = board.liveness(now_ns) == Liveness::Dead;
            let to = board.mac.filter(|_| board.asked < UNICAST_TRIES && !dead);
            due.push(ArpRequest { port: board.settings.port, address: board.settings.address, to });
            board.asked = board.asked.saturating_add(1);
            let hurry = board.mac.is_none() && board.asked < ASK_FIRST_TRIES;
            board.ask_at_ns = now_ns + if hurry { ASK_FIRST_NS } else { ASK_LATER_NS };
        }
        due
    }

    /// Takes a board's state report.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn report(&mut self, now_ns: u64, id: BoardId, state: State) -> Result<(), Ignored> {
        let board = self.board_mut(id).ok_or(Ignored::UnknownMac)?;
        if let Some(what) = state.wrong() {
            return Err(board.absurd.ignore(&board.settings.name, Report::State, what));
        }
        // An agent that starts again with an older clock is believed once its former life is over.
        let before = board.liveness(now_ns);
        if before != Liveness::Dead && board.state.as_ref().is_some_and(|known| !state.is_after(known)) {
            return Err(Ignored::StaleReport);
        }
        if matches!(before, Liveness::Dead | Liveness::Unheard) {
            board.life.rise(now_ns);
        }
        board.listening.follow(state.epoch, state.sequence);
        board.applications.follow(state.epoch, state.sequence);
        board.offers.follow(state.epoch, state.sequence);
        board.state = Some(state);
        board.reported_at_ns = now_ns;
        board.traffic.report(now_ns, state.endpoints);
        Ok(())
    }

    /// Takes a part of a board's listening sockets report. `Ok(true)` when the table is new.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn sockets(&mut self, id: BoardId, part: Part<Socket>) -> Result<bool, Ignored> {
        let board = self.board_mut(id).ok_or(Ignored::UnknownMac)?;
        let taken = board.listening.take(part);
        judged(board, Report::Sockets, taken)
    }

    /// Takes a part of a board's application information report. `Ok(true)` when the table is new.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn applications(&mut self, id: BoardId, part: Part<Application>) -> Result<bool, Ignored> {
        let board = self.board_mut(id).ok_or(Ignored::UnknownMac)?;
        let taken = board.applications.take(part, board.state.as_ref());
        judged(board, Report::Applications, taken)
    }

    /// Takes a part of a board's list of what it may start. `Ok(true)` when the list is new.
    ///
    /// # Errors
    /// Why it is ignored.
    pub fn offers(&mut self, id: BoardId, part: Part<Offer>) -> Result<bool, Ignored> {
        let board = self.board_mut(id).ok_or(Ignored::UnknownMac)?;
        let taken = board.offers.take(part);
        judged(board, Report::Offers, taken)
    }

    /// Changes of liveness since the last call. A dead board's lists are forgotten.
    pub fn transitions(&mut self, now_ns: u64) -> Vec<Transition> {
        let mut changes = Vec::new();
        for (id, board) in self.iter_mut() {
            let alive = match board.liveness(now_ns) {
                Liveness::Alive => true,
                Liveness::Unheard | Liveness::Dead => false,
                Liveness::Suspect => board.said_alive,
            };
            if alive != board.said_alive {
                board.said_alive = alive;
                if alive {
                    board.standing.join(now_ns);
                } else {
                    board.life.die(now_ns);
                    board.listening.clear();
                    board.applications.clear();
                    board.absurd.clear();
                    board.offers.clear();
                    board.ask_at_ns = now_ns;
                }
                let kept_back_ns = if alive { board.life.kept_back_ns(now_ns) } else { 0 };
                changes.push(Transition { board: id, alive, kept_back_ns });
            }
        }
        changes
    }

    /// Whether a board's denial is needed before nobody can be said to hold an endpoint: it lives, or the appliance has
    /// only just started and cannot know yet.
    pub fn may_hold(&self, id: BoardId, now_ns: u64) -> bool {
        let starting = now_ns.saturating_sub(self.started_at_ns) < HEARD_WITHIN_NS;
        self.board(id).is_some_and(|board| match board.liveness(now_ns) {
            Liveness::Alive | Liveness::Suspect => true,
            Liveness::Unheard => starting,
            Liveness::Dead => false,
        })
    }

    /// Whether nothing can be known of it yet: the appliance has only just started.
    pub fn is_unheard(&self, id: BoardId, now_ns: u64) -> bool {
        self.board(id).is_some_and(|board| match board.liveness(now_ns) {
            Liveness::Alive => !board.listening.is_known(),
            Liveness::Unheard => self.may_hold(id, now_ns),
            Liveness::Suspect | Liveness::Dead => false,
        })
    }

    /// Whether it has yet to turn out if the board can take connections: a report is overdue, or none could have come yet,
    /// or it has just come alive and has not said what listens there, or is kept back for a while.
    pub fn is_undecided(&self, id: BoardId, now_ns: u64) -> bool {
        self.board(id).is_some_and(|board| match board.liveness(now_ns) {
            Liveness::Alive => !board.listening.is_known() || board.life.kept_back_ns(now_ns) > 0,
            Liveness::Suspect => true,
            Liveness::Unheard | Liveness::Dead => self.may_hold(id, now_ns),
        })
    }
}

/// `Ok(true)` when the part made the table new.
fn judged(board: &mut Board, report: Report, taken: Taken) -> Result<bool, Ignored> {
    match taken {
        Taken::Complete => Ok(true),
        Taken::Waiting => Ok(false),
        Taken::Stale => Err(Ignored::StaleReport),
        Taken::Absurd(what) => Err(board.absurd.ignore(&board.settings.name, report, what)),
    }
}

/// A MAC address as one number, in the same order.
fn word(Mac([a, b, c, d, e, f]): Mac) -> u64 {
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

#[cfg(test)]
#[path = "boards_tests.rs"]
pub(crate) mod tests;
