//! Layer 4: connections that are not terminated here. A table chooses the board of the first packet (`maglev.rs`), and every packet
//! goes there as it came, as an ipOS packet (0x02): for kernels or applications that cannot take endpoints over.
//!
//! Input: TCP packets to services of kind `l4` that the fast path has left. Output: the packet on its way to its board; a RST when no
//! board may have it. Owner: the worker. Cost: one hash and one cache line of the table for a flow's first packet, and an
//! entry, so that the flow keeps its board when boards come, drain or die. Its other packets take the fast path. A flow without an
//! entry that does not begin by a SYN is older than this appliance, or has been idle: its board may not be the table's, and the farm
//! is asked ([`crate::recover`]).
//!
//! Half of the shard at most is theirs, because their first packets prove nothing: what finds it used up goes by the table
//! alone, and a flood of SYNs leaves the other services their room. Where a service has limits for clients (`[service.admit]`), a first
//! packet is admitted before it goes anywhere ([`crate::admit`]), and an entry counts until its end.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::tcp::Flags;

use crate::admit;
use crate::core::{Core, WAITING_MAX};
use crate::counters::{Drop, Happening};
use crate::entry::{Entry, State};
use crate::forward;
use crate::handoff::{BOARDS_MAX, BoardId, Counted, Takes};
use crate::local;
use crate::parse::TcpPacket;
use crate::recover;
use crate::table::ENDPOINTS_MAX;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;

/// How long an entry waits for the handshake's second packet, milliseconds: SYNs are repeated after 1, 3 and 7 seconds.
pub const HALF_OPEN_MS: u32 = 10_000;

/// Until boards may have been heard of after the start, milliseconds: their agents report within this time (`control/boards.rs`).
pub const HEARD_WITHIN_MS: u32 = 5_000;

/// Numbers that services may have: those that are open, and as many that were closed since the start.
const SERVICES_MAX: usize = 2 * ENDPOINTS_MAX;
const BITS: usize = u64::BITS as usize;
const WORDS: usize = BOARDS_MAX / BITS;

const _: () = assert!(BOARDS_MAX.is_multiple_of(BITS), "whole words");

/// What boards take of each service that chooses by hash: two bits for each, by the services' and the boards' numbers. As long
/// as nothing was said of a board it takes the flows that it has, and no new ones.
pub struct Standings {
    /// Those that take new flows, then those that are dead: [`WORDS`] of each for a service. The pages of services that do not
    /// exist are never touched.
    words: Box<[u64]>,
}

impl Standings {
    /// Nothing said of any; takes all memory that it will ever use.
    pub fn new() -> Self {
        Self { words: vec![0; SERVICES_MAX * 2 * WORDS].into_boxed_slice() }
    }

    fn at(service: u16, board: BoardId) -> (usize, u64) {
        let board = usize::from(board.0);
        (usize::from(service) * 2 * WORDS + board / BITS, 1 << (board % BITS))
    }

    /// Takes note of what a board takes.
    pub fn set(&mut self, service: u16, board: BoardId, takes: Takes) {
        if usize::from(board.0) >= BOARDS_MAX {
            return;
        }
        let (place, bit) = Self::at(service, board);
        for (place, is_so) in [(place, takes == Takes::New), (place + WORDS, takes == Takes::None)] {
            if let Some(word) = self.words.get_mut(place) {
                *word = if is_so { *word | bit } else { *word & !bit };
            }
        }
    }

    /// What a board takes.
    #[inline]
    pub fn takes(&self, service: u16, board: BoardId) -> Takes {
        let (place, bit) = Self::at(service, board);
        let is_so = |place: usize| self.words.get(place).is_some_and(|word| word & bit != 0);
        match () {
            () if is_so(place) => Takes::New,
            () if is_so(place + WORDS) => Takes::None,
            () => Takes::Known,
        }
    }
}

impl Default for Standings {
    fn default() -> Self {
        Self::new()
    }
}

/// The service of a flow, if its connections are not terminated here.
pub fn service_of(core: &Core, flow: &Flow) -> Option<u16> {
    let service = core.services.find(flow.endpoint, flow.endpoint_port)?;
    core.services.table(service).is_some().then_some(service)
}

/// Whether an entry is, or may be, of a connection that is not terminated here.
pub fn is_of(core: &Core, entry: EntryRef) -> bool {
    let is_of = |state| matches!(state, State::Layer4 | State::Admitting | State::Asking);
    core.shard.get(entry).is_some_and(|found| is_of(found.state))
}

/// A packet to a service of kind `l4`, with the flow's entry if it has one.
pub fn packet(
    core: &mut Core,
    service: u16,
    entry: Option<EntryRef>,
    packet: &TcpPacket,
    mbuf: Mbuf,
) -> Verdict {
    let is_syn = packet.flags.contains(Flags::SYN);
    let must_count = is_syn && core.services.is_limited(service);
    if let Some(entry) = entry {
        match relation(core, service, entry, packet) {
            Relation::Held(Some(board)) if !is_syn => {
                return forward::encapsulate(core, board, &packet.flow, usize::from(packet.frame_len), mbuf);
            }
            Relation::Held(_) => return Verdict::Drop(Drop::AdmitHeld),
            Relation::Keeps { counts } if counts || !must_count => return known(core, entry, packet, mbuf),
            // A packet that was sent ahead of the SYN is no way around the limits.
            Relation::Keeps { .. } => return admit::ask(core, service, Some(entry), packet, mbuf),
            Relation::Again if must_count && goes_elsewhere(core, service, entry, packet) => {
                return known(core, entry, packet, mbuf);
            }
            Relation::Again | Relation::Anew => core.remove(entry),
            Relation::Asked => return Verdict::Drop(Drop::AwaitingHolder),
        }
    }
    if is_syn || !has_room(core) {
        return place(core, service, packet, mbuf);
    }
    // It may have been placed beside the table, by whoever was here before, or before it was idle.
    let (reason, mbuf) = if may_ask(core) {
        match recover::ask(core, packet, mbuf) {
            Ok(()) => return Verdict::Held,
            Err(refused) => refused,
        }
    } else {
        (Drop::AskLimit, mbuf)
    };
    // Most flows without an entry are those of before the start, and they come all at once: each is asked about in its turn.
    if core.now.ms < HEARD_WITHIN_MS {
        return Verdict::Drop(reason);
    }
    core.happened(Happening::Layer4Unasked);
    place(core, service, packet, mbuf)
}

/// Whether the farm may be asked about another flow: what is terminated here comes first, since it has no table to go by.
fn may_ask(core: &mut Core) -> bool {
    core.waiting.len() < WAITING_MAX / 4
        && core.events.room() > core.events_room / 2
        && core.layer4_questions.take(core.now.ms)
}

/// No board says that it holds the flow for which the farm was asked: its packet goes by the table.
pub fn unclaimed(core: &mut Core, entry: EntryRef, service: u16) {
    if let Some(recover::Waiting { packet, frame, .. }) = recover::withdraw(core, entry) {
        let verdict = place(core, service, &packet, frame);
        core.went_on(verdict);
    }
}

/// A packet of a flow without an entry goes by the table.
fn place(core: &mut Core, service: u16, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    let is_syn = packet.flags.contains(Flags::SYN);
    let Some(board) = choose(core, service, packet, is_syn) else { return no_board(core, packet, mbuf) };
    if core.place_of(board).is_none() {
        // Whoever has just been started does not know yet where its boards are: the client sends the packet again.
        return Verdict::Drop(Drop::NoBoardMac);
    }
    if is_syn && core.services.is_limited(service) {
        return admit::ask(core, service, None, packet, mbuf);
    }
    match keep(core, packet, board) {
        // RST and FIN end what has just been entered.
        Some(entry) => forward::packet(core, entry, packet, mbuf),
        None => forward::encapsulate(core, board, &packet.flow, usize::from(packet.frame_len), mbuf),
    }
}

/// What a packet is to the entry of its flow.
enum Relation {
    /// A SYN of the flow waits to be admitted; the board that has the flow already, if one has.
    Held(Option<BoardId>),
    /// It goes where the entry says.
    Keeps {
        /// The entry counts against the limits of its service.
        counts: bool,
    },
    /// It is the SYN of an entry that counts, sent again, and the entry's board takes no new flows any more.
    Again,
    /// It begins another connection on the same addresses and ports.
    Anew,
    /// Another one of the same flow waits for the farm's answer. That is awaited by SYNs as well, which may be forged.
    Asked,
}

/// What the packet is to the entry. A SYN may begin another connection on the same addresses and ports, and goes on to another board
/// when this one takes none.
fn relation(core: &Core, service: u16, entry: EntryRef, packet: &TcpPacket) -> Relation {
    let Some(found) = core.shard.get(entry) else { return Relation::Anew };
    let counts = found.counted != Counted::No;
    let is_over = found.closing || found.client_fin;
    match () {
        () if found.state == State::Admitting => {
            let is_known = found.pending.is_some_and(|hanging| core.admitting.is_known(hanging));
            Relation::Held(is_known.then_some(found.board))
        }
        () if found.state == State::Asking => Relation::Asked,
        () if !packet.flags.contains(Flags::SYN) => Relation::Keeps { counts },
        () if !is_over && core.standings.takes(service, found.board) == Takes::New => {
            Relation::Keeps { counts }
        }
        () if counts && found.syn_irs == Some(packet.seq) => Relation::Again,
        () => Relation::Anew,
    }
}

/// A SYN that was sent again counts once, though it goes to another board now. False when there is none.
fn goes_elsewhere(core: &mut Core, service: u16, entry: EntryRef, packet: &TcpPacket) -> bool {
    let board = choose(core, service, packet, true).filter(|board| core.place_of(*board).is_some());
    let Some((board, mut found)) = board.zip(core.shard.get_mut(entry)) else { return false };
    let before = std::mem::replace(&mut found.board, board);
    std::mem::drop(found);
    core.by_board.left(before);
    core.by_board.joined(board);
    true
}

/// A packet of a flow that has an entry.
fn known(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    let opens = !packet.flags.contains(Flags::SYN)
        && core.shard.get_mut(entry).is_some_and(|mut found| found.syn_irs.take().is_some());
    if opens {
        // The client has answered the board's SYN-ACK.
        core.schedule_in(entry, core.config.timeouts.idle_ms);
    }
    forward::packet(core, entry, packet, mbuf)
}

/// The board of a flow that has no entry: one that takes new flows for a SYN; for any other packet the first that may have the
/// flow already, which after a restart is the one that the table named before it.
fn choose(core: &Core, service: u16, packet: &TcpPacket, is_syn: bool) -> Option<BoardId> {
    let table = core.services.table(service)?;
    let takes = |board| core.standings.takes(service, board);
    if is_syn {
        return table.choose(&packet.flow, |board| takes(board) == Takes::New);
    }
    table.choose(&packet.flow, |board| takes(board) != Takes::None)
}

/// Whether the share of the shard has room for another flow.
pub fn has_room(core: &Core) -> bool {
    let have = [State::Layer4, State::Admitting].map(|state| core.counters.entries[state.index()].read());
    have.iter().sum::<u64>() < u64::from(core.config.entries / 2)
}

/// Enters a flow at its board; `None` where there is nothing to keep, or no room.
fn keep(core: &mut Core, packet: &TcpPacket, board: BoardId) -> Option<EntryRef> {
    if packet.flags.contains(Flags::RST) {
        return None;
    }
    let has_room = has_room(core);
    let is_syn = packet.flags.contains(Flags::SYN);
    let entry = Entry {
        board,
        syn_irs: is_syn.then_some(packet.seq),
        syn_slot: core.now.cookie_slot as u8,
        ..Entry::new(State::Layer4, None)
    };
    match has_room.then(|| core.enter_at_board(&packet.flow, entry)) {
        Some(Ok(entry)) => {
            core.happened(Happening::Layer4Placed);
            core.schedule_in(entry, if is_syn { HALF_OPEN_MS } else { core.config.timeouts.idle_ms });
            Some(entry)
        }
        Some(Err(_)) | None => {
            core.happened(Happening::Layer4Unkept);
            None
        }
    }
}

/// The board of a first packet that has waited and is admitted: the one that has the flow already, if one has.
///
/// # Errors
/// There is none; true where the service is still of kind `l4`.
pub fn board_of_admitted(
    core: &Core,
    service: u16,
    entry: EntryRef,
    known: bool,
    packet: &TcpPacket,
) -> Result<BoardId, bool> {
    if core.services.table(service).is_none() {
        return Err(false);
    }
    let before = core.shard.get(entry).map(|found| found.board).filter(|_| known);
    let before = before.filter(|board| core.standings.takes(service, *board) == Takes::New);
    before.or_else(|| choose(core, service, packet, true)).ok_or(true)
}

/// A first packet that has waited is admitted: its entry counts, and it goes to its board.
pub fn admitted(core: &mut Core, entry: EntryRef, board: BoardId, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    let cookie_slot = core.now.cookie_slot;
    if let Some(mut found) = core.shard.get_mut(entry) {
        found.board = board;
        found.note_syn(packet.seq, cookie_slot);
    }
    core.change_state(entry, State::Layer4);
    core.happened(Happening::Layer4Placed);
    core.schedule_in(entry, HALF_OPEN_MS);
    forward::packet(core, entry, packet, mbuf)
}

/// No board may have the flow.
pub fn no_board(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if core.now.ms < HEARD_WITHIN_MS {
        return Verdict::Drop(Drop::NoBoardYet);
    }
    core.happened(Happening::Layer4NoBoard);
    local::refuse(core, packet, mbuf)
}

/// A flow whose time has come. Its board is not asked: about a packet that still comes, the farm is.
pub fn idle(core: &mut Core, entry: EntryRef) {
    let Some(found) = core.shard.get(entry) else { return };
    let timeouts = &core.config.timeouts;
    let limit_ms = if found.syn_irs.is_some() { HALF_OPEN_MS } else { found.idle_limit_ms(timeouts) };
    let idle_ms = core.shard.idle_ms(entry, core.now.ms).unwrap_or(u32::MAX);
    if idle_ms < limit_ms {
        return core.schedule_in(entry, limit_ms - idle_ms);
    }
    core.happened(Happening::ExpiredIdle);
    core.remove(entry);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_takes_what_was_said_last_and_what_it_has_before_that() {
        let mut standings = Standings::new();
        let (service, board, other) = (5, BoardId(64), BoardId(65));
        assert_eq!(standings.takes(service, board), Takes::Known);
        for takes in [Takes::New, Takes::None, Takes::Known, Takes::None, Takes::New] {
            standings.set(service, board, takes);
            assert_eq!(standings.takes(service, board), takes);
            assert_eq!(
                (standings.takes(service, other), standings.takes(4, board)),
                (Takes::Known, Takes::Known)
            );
        }
    }

    #[test]
    fn numbers_that_nobody_has_change_nothing() {
        let mut standings = Standings::new();
        standings.set(u16::MAX, BoardId(0), Takes::New);
        standings.set(0, BoardId(u16::MAX), Takes::New);
        assert_eq!(standings.takes(u16::MAX, BoardId(0)), Takes::Known);
        assert!(standings.words.iter().all(|word| *word == 0));
    }
}
