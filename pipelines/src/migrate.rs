//! Migrate: what the control core decided is done, and what was held follows the endpoint to its board.
//!
//! Input: [`Command`]s. Output: the held octets as ipOS packets (0x02), in order, in segments that the appliance builds
//! (design: system.md, steps 7 and 9). Owner: the worker. Cost: one copy of the held octets per replay.

use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;
use ipos_wire::tcp::{Flags, Options, Timestamps};

use crate::admit;
use crate::by_board;
use crate::core::Core;
use crate::counters::Happening;
use crate::datagram;
use crate::ended;
use crate::entry::{Pending, Stage, State};
use crate::handoff::{Answer, BoardId, Command, Counted, Event};
use crate::listing;
use crate::local;
use crate::recover;
use crate::request::assembly::WINDOW;
use crate::request::stage::place;
use crate::segment::Segment;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;
use crate::watch::{self, held};

/// How long held octets are kept without the client's proof that the board has them, milliseconds. A client that is
/// still there has retransmitted or acknowledged many times by then.
pub const SETTLE_MS: u32 = 30_000;

/// From the replay of a bare ACK until it is sent again, milliseconds; doubles each time.
const ACK_REPEAT_MS: u32 = 250;

/// Times something is done about it: the last one 16 s after the replay, and that time the whole attempt is repeated, so that a
/// client whose board has died learns of it. What a client sends later makes the socket just as well.
pub const ACK_REPEATS_MAX: u8 = 6;

/// Does what the control core says. False when the worker shall leave its loop.
pub fn command(core: &mut Core, command: Command) -> bool {
    match command {
        Command::Migrated { entry, flow, board, migration_id, counted } => {
            migrated(core, entry, flow, (board, migration_id), counted);
        }
        Command::Datagrams { entry, flow, placed } => datagram::placed(core, entry, flow, placed),
        Command::Admitted { entry, flow, admission } => admit::decided(core, entry, flow, admission),
        Command::Answer { entry, answer } => answer_for(core, entry, answer),
        Command::Stay { entry, why } => held::stay(core, entry, why),
        Command::Detached { entry } => held::detached(core, entry),
        Command::Holder { entry, holder } => recover::holder(core, entry, holder),
        Command::Closed { flow, board, migration_id } => closed(core, &flow, board, migration_id),
        Command::Left { flow, board, migration_id } => left(core, &flow, board, migration_id),
        Command::Transmit { port, frame } => {
            core.happened(Happening::Originated);
            core.transmit(port, frame);
        }
        Command::Board { board, mac, port } => core.set_place(board, mac, port),
        Command::CookieKeys(keys) => core.config.cookie_keys = keys,
        Command::Services(services) => {
            core.services = services;
            core.reloads = core.reloads.wrapping_add(1);
        }
        Command::Timeouts(timeouts) => core.config.timeouts = timeouts,
        Command::ListFlows(page) => listing::list_flows(core, page),
        Command::Count(page) => by_board::count(core, page),
        Command::Standing { service, board, takes } => core.standings.set(service, board, takes),
        Command::Forget { board } => by_board::forget(core, board),
        Command::Stop => return false,
    }
    true
}

/// The board has acknowledged.
fn migrated(
    core: &mut Core,
    entry: EntryRef,
    flow: Flow,
    (board, migration_id): (BoardId, u64),
    counted: Counted,
) {
    let Some(mut found) = core.shard.get_mut(entry) else {
        // The client left while the board was being asked.
        core.ended.owe(flow, Protocol::Tcp, counted);
        core.tell(Event::Abandon { entry, flow, migrated: Some((board, migration_id)) });
        return;
    };
    let hanging = found.held();
    match found.state {
        // A repeated attempt, acknowledged after the client has shown that its board has the request, and perhaps asked for the
        // next thing: that board is no news, and what is held since is not for it.
        State::Watched | State::ForwardConnect if found.migration_id == migration_id => {
            std::mem::drop(found);
            core.happened(Happening::Repeated);
            return;
        }
        State::ForwardConnect => {
            found.board = board;
            found.migration_id = migration_id;
            // A move counts nothing: the connection does already.
            if counted != Counted::No {
                found.counted = counted;
            }
            std::mem::drop(found);
            core.change_state(entry, State::Forward);
            core.happened(Happening::Migrated);
            if let Some(pending) = hanging.and_then(|hanging| core.pending.get(hanging)) {
                let Pending { stage, complete_us, migrates_requests: is_watched, .. } = *pending;
                if stage.is_asked() {
                    held::moved(core, entry);
                } else {
                    core.counters.placements.record(core.now.unix_us.saturating_sub(complete_us));
                    if is_watched {
                        watch::begin(core, entry);
                    }
                }
            }
        }
        State::Forward if found.migration_id == migration_id => {
            std::mem::drop(found);
            core.happened(Happening::Repeated);
        }
        // A verdict that the entry has moved on from: answered by a deadline in between.
        _ => {
            std::mem::drop(found);
            core.ended.owe(flow, Protocol::Tcp, counted);
            core.tell(Event::Abandon { entry, flow, migrated: Some((board, migration_id)) });
            return;
        }
    }
    if let Some(hanging) = hanging
        && let Some(pending) = core.pending.get_mut(hanging)
    {
        pending.repeating = false;
        pending.since_ms = core.now.ms;
        replay(core, entry, hanging, (&flow, board));
        let wait_ms = ack_repeat_ms(core, hanging).unwrap_or(SETTLE_MS);
        core.schedule_in(entry, wait_ms.min(core.config.timeouts.idle_ms));
    }
}

/// How long until the handshake's ACK is sent again; `None` where the client's own retransmissions see to it, because it has
/// sent something, or where it was repeated often enough.
fn ack_repeat_ms(core: &Core, hanging: EntryRef) -> Option<u32> {
    let pending = core.pending.get(hanging)?;
    let is_bare = pending.kind.is_server_first() && core.assemblies.at(&pending.assembly).is_empty();
    (is_bare && pending.ack_repeats < ACK_REPEATS_MAX).then(|| ACK_REPEAT_MS << pending.ack_repeats)
}

/// A migrated connection whose client has sent nothing, and has acknowledged nothing either: the packet that the board's socket
/// is made of may be lost, or have met a full accept queue, and nobody else would send it again. A socket that is there takes it
/// for an old ACK. Returns how long until the next time, milliseconds; `None` when it is no such connection.
pub fn repeat_ack(core: &mut Core, entry: EntryRef) -> Option<u32> {
    let found = core.shard.get(entry)?;
    let (hanging, board) = (found.held()?, found.board);
    ack_repeat_ms(core, hanging)?;
    let flow = core.shard.flow(entry)?;
    core.pending.get_mut(hanging)?.ack_repeats += 1;
    let next_ms = ack_repeat_ms(core, hanging);
    if next_ms.is_some() {
        core.happened(Happening::AckRepeated);
        replay(core, entry, hanging, (&flow, board));
    } else {
        let _ = repeat(core, entry);
    }
    Some(next_ms.unwrap_or(SETTLE_MS))
}

/// Sends what is held for an entry, and hangs on it, to the board, from the first octet on.
pub fn replay(core: &mut Core, entry: EntryRef, hanging: EntryRef, (flow, board): (&Flow, BoardId)) {
    let mut offset = 0;
    loop {
        let Some(pending) = core.pending.get(hanging) else { return };
        let assembly = core.assemblies.at(&pending.assembly);
        let held = assembly.contiguous();
        let options = Options {
            timestamps: pending
                .timestamps
                .map(|stamps| Timestamps { tsval: stamps.first, tsecr: stamps.echoed }),
            ..Options::default()
        };
        // What the SYN-ACK advertised counts without options (RFC 6691).
        let chunk_len = usize::from(core.config.mss) - options.emitted_len();
        let end = held.len().min(offset + chunk_len);
        let last = end == held.len();
        let Some(payload) = held.get(offset..end) else { return };
        let fin = last && assembly.fin_reached();
        // Of a client that has sent nothing this is the handshake's ACK, made anew: the board's kernel makes the socket of it.
        let push = last && !payload.is_empty();
        let flags =
            Flags::ACK | if push { Flags::PSH } else { Flags(0) } | if fin { Flags::FIN } else { Flags(0) };
        let segment = Segment {
            seq: pending.irs + 1 + offset as u32,
            ack: pending.iss + 1,
            flags,
            window: pending.window,
            options,
            payload,
        };
        let sent = core.way_to(board).zip(core.mempool.alloc()).and_then(|((port, way), mut mbuf)| {
            crate::segment::to_board(&mut mbuf, way, core.config.ethertype, flow, &segment)
                .then_some((port, mbuf))
        });
        match sent {
            Some((port, mbuf)) => {
                core.transmit(port, mbuf);
                core.happened(Happening::Originated);
            }
            // The client's retransmission brings the replay again.
            None => core.happened(Happening::OriginateFailed),
        }
        if last {
            if fin && let Some(mut entry) = core.shard.get_mut(entry) {
                entry.client_fin = true;
            }
            return;
        }
        offset = end;
    }
}

/// The control core has no board for the entry, or has lost the one it had.
fn answer_for(core: &mut Core, entry: EntryRef, answer: Answer) {
    let Some(found) = core.shard.get(entry) else { return };
    let (state, migration_id) = (found.state, found.migration_id);
    match state {
        // Of a repeated attempt, which nobody waits for any more: a later request is held, and has a verdict of its own coming.
        State::ForwardConnect if migration_id != 0 && answer == Answer::Reset => {}
        State::ForwardConnect => local::answer(core, entry, answer),
        // Only a repeated attempt is answered after the first 0x02, and then the endpoint is lost: unless it was repeated for a request
        // that the client has shown since to be where it belongs.
        State::Forward if core.pending_of(entry).is_some_and(|pending| pending.repeating) => {
            local::reset(core, entry);
        }
        _ => {}
    }
}

/// The client retransmits what the board should have: the attempt is repeated (system.md, step 9). Its octets are held
/// already.
pub fn repeat(core: &mut Core, entry: EntryRef) -> Verdict {
    let Some((board, migration_id)) = core.shard.get(entry).map(|entry| (entry.board, entry.migration_id))
    else {
        return Verdict::Held;
    };
    let Some(pending) = core.pending_of(entry).filter(|pending| !pending.repeating) else {
        return Verdict::Held;
    };
    if pending.stage == Stage::Unanswered {
        held::ask_again(core, entry);
        return Verdict::Held;
    }
    let Some(place) = place(core, entry) else { return Verdict::Held };
    // A full queue: the client retransmits again.
    let told = core.tell(Event::Repeat { place, board, migration_id });
    if let Some(pending) = core.pending_of(entry) {
        pending.repeating = told;
    }
    Verdict::Held
}

/// A board says that an endpoint is over.
fn closed(core: &mut Core, flow: &Flow, board: BoardId, migration_id: u64) {
    let Some(entry) = core.shard.lookup(flow) else { return };
    let Some(found) = core.shard.get(entry) else { return };
    if !matches!(found.state, State::Forward | State::Watched) || found.board != board {
        return;
    }
    let is_watched = found.state == State::Watched;
    if migration_id == 0 {
        // A stray packet: the board has no record. While held octets may still have to be replayed, the client's
        // retransmission sees to it.
        match found
            .pending
            .filter(|_| !is_watched)
            .map(|hanging| core.pending.get(hanging).map(|pending| (pending.kind, pending.stage)))
        {
            None => {
                core.happened(Happening::ClosedByBoard);
                core.remove(entry);
            }
            // A client that waits for the server's first word retransmits nothing.
            Some(Some((kind, stage))) if kind.is_server_first() || stage == Stage::Unanswered => {
                let _ = repeat(core, entry);
            }
            Some(_) => {}
        }
        return;
    }
    if found.migration_id == migration_id && !found.closing {
        linger(core, entry);
    }
}

/// The endpoint of an open entry is over: what its client still sends goes to its board for a while, and it counts no more.
pub fn linger(core: &mut Core, entry: EntryRef) {
    let Some(mut found) = core.shard.get_mut(entry) else { return };
    found.closing = true;
    let board = found.board;
    std::mem::drop(found);
    ended::entry(core, entry);
    core.by_board.left(board);
    core.happened(Happening::ClosedByBoard);
    core.schedule_in(entry, core.config.timeouts.linger_ms);
}

/// A board says, late or again, that it has given an endpoint up for a later request.
fn left(core: &mut Core, flow: &Flow, board: BoardId, migration_id: u64) {
    let entry = core.shard.lookup(flow);
    let is_unanswered = |pending: &mut Pending| pending.stage == Stage::Unanswered;
    match entry {
        Some(entry)
            if core.pending_of(entry).is_some_and(is_unanswered)
                && core
                    .shard
                    .get(entry)
                    .is_some_and(|found| found.holder() == Some((board, migration_id))) =>
        {
            held::ask_again(core, entry);
        }
        // Nothing is held that could be placed.
        _ => closed(core, flow, board, migration_id),
    }
}

const _: () = assert!(WINDOW <= 1 << 14, "a replay is at most a dozen segments");
