//! Held: a later request that is perhaps another board's, from its first segment to the board that gets it.
//!
//! Input: segments of Forward-Connect entries that were Watched; the control core's answers. Output: [`Event::Move`], and then the
//! request, to its new board or to the one that has the connection; or an answer of the appliance's own. Owner: the worker. Cost: one
//! copy of the request, and what its placement costs.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::tcp::Flags;
use ipos_wire::tls::RecordScan;

use super::{Asker, Judged, Next, judge, resume, see_unsettled};
use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::entry::{Pending, Stage, State, Timestamps};
use crate::forward;
use crate::handoff::{Answer, Event, Session, Stay};
use crate::local;
use crate::migrate;
use crate::parse::TcpPacket;
use crate::request::assembly::{OffsetRange, WINDOW};
use crate::request::head::HeadScan;
use crate::request::stage::{Taken, place, reset, take};
use crate::services::Kind;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;

/// Holds a request's first segment: from Watched to Forward-Connect. `Err(None)` when no buffer is left; any other error is that of a
/// segment that cannot be held.
pub(super) fn hold(
    core: &mut Core,
    entry: EntryRef,
    at: EntryRef,
    packet: &TcpPacket,
    mbuf: &Mbuf,
) -> Result<(), Option<Drop>> {
    let options = packet.options(mbuf).map_err(Some)?;
    let now = core.now;
    let Some(watch) = core.watches.get(at) else { return Err(None) };
    let Some(boundary) = watch.framing.boundary() else { return Err(None) };
    let offset = packet.seq.diff(boundary);
    if offset < 0 || offset as usize + packet.payload(mbuf).len() > WINDOW {
        return Err(Some(Drop::OutOfWindow));
    }
    // RFC 7323, section 3.2: once agreed on, they are in every segment.
    if watch.timestamps && options.timestamps.is_none() {
        return Err(Some(Drop::BadTcpOptions));
    }
    let theirs = options.timestamps.filter(|_| watch.timestamps);
    let Some(assembly) = core.assemblies.take() else { return Err(None) };
    let pending = Pending {
        assembly,
        scan: HeadScan::new(),
        hello: RecordScan::new(),
        iss: packet.ack - 1,
        irs: boundary - 1,
        cookie: watch.cookie,
        timestamps: theirs.map(|theirs| Timestamps {
            first: theirs.tsval,
            recent: theirs.tsval,
            echoed: theirs.tsecr,
        }),
        ecn: watch.ecn,
        window: packet.window,
        acked: 0,
        peer_mac: packet.source_mac,
        port: packet.port,
        service: watch.service,
        kind: Kind::Http,
        ack_repeats: 0,
        pool: watch.pool(core.reloads),
        session: Session::None,
        established_us: watch.established_us,
        since_ms: now.ms,
        complete_us: now.unix_us,
        event_owed: false,
        repeating: false,
        local: None,
        migrates_requests: true,
        stage: Stage::Collecting,
        watch: Some(at),
        answer: None,
        resource: OffsetRange::default(),
    };
    let hanging = match core.pending.insert(pending) {
        Ok(hanging) => hanging,
        Err(pending) => {
            core.assemblies.give(pending.assembly);
            return Err(None);
        }
    };
    core.counters.pending.add(1);
    core.change_state(entry, State::ForwardConnect);
    if let Some(mut found) = core.shard.get_mut(entry) {
        found.pending = Some(hanging);
    }
    core.shard.see(entry, core.now.ms);
    // Nothing is in it yet, and it fits: this cannot fail.
    let _ = take(core, entry, packet, mbuf);
    Ok(())
}

/// A segment of a connection whose next request is held, and whose boards are perhaps being asked.
pub fn segment(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    let Some((is_collecting, news)) = core
        .pending_of(entry)
        .map(|pending| (pending.stage == Stage::Collecting, packet.ack.diff(pending.iss + 1)))
    else {
        return Verdict::Drop(Drop::OldSegment);
    };
    let is_reset = packet.flags.contains(Flags::RST);
    if is_collecting && (is_reset || news > 0) {
        // The client is done, or its board goes on with the answer before.
        release(core, entry, if is_reset { Happening::UnwatchedLast } else { Happening::UnwatchedPipelined });
        return forward::packet(core, entry, packet, mbuf);
    }
    if is_reset {
        return reset(core, entry, packet);
    }
    core.shard.see(entry, core.now.ms);
    match take(core, entry, packet, &mbuf) {
        Err(reason) => Verdict::Drop(reason),
        Ok(Taken::New) => {
            if is_collecting {
                decide(core, entry);
            } else {
                see_unsettled(core, entry, packet, &mbuf);
            }
            Verdict::Held
        }
        Ok(Taken::Nothing { .. }) => {
            if is_collecting && packet.payload_len() > 0 {
                // The client waits for an acknowledgement before it sends the rest, and only its board can give one.
                release(core, entry, Happening::UnwatchedIncomplete);
            }
            Verdict::Drop(Drop::OldSegment)
        }
    }
}

/// More of a held request has come.
fn decide(core: &mut Core, entry: EntryRef) {
    let Core { shard, pending, assemblies, services, path_buffer, watches, counters, .. } = core;
    let Some(client) = shard.flow(entry).map(|flow| flow.client) else { return };
    let hanging = shard.get(entry).and_then(|entry| entry.pending);
    let Some(pending) = hanging.and_then(|hanging| pending.get_mut(hanging)) else { return };
    let octets = assemblies.at(&pending.assembly).contiguous();
    let asker = Asker { client, pool: pending.pool, counters };
    let judged = match services.service(pending.service) {
        Some(service) => {
            judge(service, &asker, &mut path_buffer[..], &mut pending.scan, pending.irs + 1, octets)
        }
        None => Next::Unsure(Happening::UnwatchedReload),
    };
    match judged {
        Next::Incomplete => {}
        Next::Unsure(reason) => release(core, entry, reason),
        Next::Known(Judged { framing: None, pool, .. }) if pool == pending.pool => {
            release(core, entry, Happening::UnwatchedLast);
        }
        Next::Known(Judged { framing: Some(framing), pool, .. }) if pool == pending.pool => {
            if let Some(watch) = pending.watch.and_then(|watch| watches.get_mut(watch)) {
                (watch.framing, watch.request_ack) = (framing, pending.iss + 1);
            }
            back(core, entry);
        }
        Next::Known(known) => ask(core, entry, known),
    }
}

/// A request that is another board's: the control core has the one that holds the connection asked for it.
pub(super) fn ask(core: &mut Core, entry: EntryRef, known: Judged) {
    let Core { shard, pending, watches, now, .. } = core;
    let Some(found) = shard.get(entry) else { return };
    let (board, migration_id) = (found.board, found.migration_id);
    let Some(pending) = found.pending.and_then(|hanging| pending.get_mut(hanging)) else { return };
    pending.stage = Stage::Asked;
    pending.since_ms = now.ms;
    (pending.pool, pending.answer, pending.resource) = (known.pool, known.answer, known.resource);
    // Should it have to be asked once more.
    pending.session = known.session;
    match (known.framing, pending.watch) {
        (Some(framing), Some(watch)) => {
            if let Some(watch) = watches.get_mut(watch) {
                (watch.framing, watch.request_ack) = (framing, pending.iss + 1);
            }
        }
        (None, Some(watch)) => {
            watches.remove(watch);
            pending.watch = None;
        }
        (_, None) => {}
    }
    let Some(place) = place(core, entry) else { return };
    if core.tell(Event::Move { place, session: known.session, board, migration_id }) {
        core.happened(Happening::MoveAsked);
        core.schedule_in(entry, core.config.timeouts.place_ms);
    } else {
        core.happened(Happening::StayedNoRoom);
        back(core, entry);
    }
}

/// Lets go of an unfinished request: it goes to the board that has the connection, which keeps it for good.
fn release(core: &mut Core, entry: EntryRef, reason: Happening) {
    core.happened(reason);
    if let Some(watch) = core.pending_of(entry).and_then(|pending| pending.watch.take()) {
        core.watches.remove(watch);
    }
    back(core, entry);
}

/// A head that does not become complete.
pub fn expired(core: &mut Core, entry: EntryRef) {
    release(core, entry, Happening::UnwatchedIncomplete);
}

/// Sends what is held to the board that has the connection. False where that is gone, and the connection with it.
fn give_back(core: &mut Core, entry: EntryRef) -> bool {
    let Some(flow) = core.shard.flow(entry) else { return false };
    let Some(found) = core.shard.get(entry) else { return false };
    let (board, id, hanging) = (found.board, found.migration_id, found.held());
    if core.place_of(board).is_none() {
        // It was removed by force meanwhile, and its flows given up, but for those that were held.
        core.tell(Event::Abandon { entry, flow, migrated: Some((board, id)) });
        local::reset(core, entry);
        return false;
    }
    if let Some(hanging) = hanging {
        migrate::replay(core, entry, hanging, (&flow, board));
    }
    true
}

/// What is held goes to the board that has the connection, for good: from Forward-Connect back to where it was.
fn back(core: &mut Core, entry: EntryRef) {
    if !give_back(core, entry) {
        return;
    }
    let watch = core.pending_of(entry).and_then(|pending| pending.watch.take());
    core.release_pending(entry);
    match watch {
        Some(watch) => resume(core, entry, watch),
        None => core.change_state(entry, State::Forward),
    }
    let idle_ms = idle_ms(core, entry);
    core.schedule_in(entry, idle_ms);
}

/// How long the connection may be idle: a FIN may have been held with the request.
fn idle_ms(core: &Core, entry: EntryRef) -> u32 {
    let timeouts = &core.config.timeouts;
    core.shard.get(entry).map_or(timeouts.idle_ms, |found| found.idle_limit_ms(timeouts))
}

/// What is held goes to a board that was silent, which may have given the connection up: it is held on to, until the client shows that
/// the board has it ([`forward::unsettled`]), or something shows that it has not.
fn back_for_now(core: &mut Core, entry: EntryRef) {
    if !give_back(core, entry) {
        return;
    }
    core.change_state(entry, State::Forward);
    let now_ms = core.now.ms;
    if let Some(pending) = core.pending_of(entry) {
        (pending.stage, pending.since_ms) = (Stage::Unanswered, now_ms);
    }
    let idle_ms = idle_ms(core, entry);
    core.schedule_in(entry, migrate::SETTLE_MS.min(idle_ms));
}

/// A board that was silent, and was sent the request, seems not to have it: its client sends the request again, the board says that it
/// has given the connection up, or that nobody there holds it. It is asked once more, with the same numbers: as long as the request has
/// not reached its socket it answers what it did before, and nothing runs twice.
pub fn ask_again(core: &mut Core, entry: EntryRef) {
    let now = core.now;
    let Some(found) = core.shard.get(entry).filter(|found| !found.closing) else { return };
    let (board, migration_id) = (found.board, found.migration_id);
    let Some(pending) = core.pending_of(entry).filter(|pending| pending.stage == Stage::Unanswered) else {
        return;
    };
    let (session, since_us) = (pending.session, now.unix_us.saturating_sub(pending.complete_us));
    if since_us >= u64::from(migrate::SETTLE_MS) * 1_000 {
        // Often enough. What comes now is the board's, and where nobody holds it the farm is asked.
        return forward::settle(core, entry);
    }
    let Some(place) = place(core, entry) else { return };
    if !core.tell(Event::Move { place, session, board, migration_id }) {
        // The client sends it again.
        return;
    }
    core.happened(Happening::MoveAskedAgain);
    core.change_state(entry, State::ForwardConnect);
    if let Some(pending) = core.pending_of(entry) {
        (pending.stage, pending.since_ms) = (Stage::AskedAgain, now.ms);
    }
    core.schedule_in(entry, core.config.timeouts.place_ms);
}

/// Nobody decides about a request that was sent to a board already, which may have begun to answer it: the appliance must not.
pub fn undecided(core: &mut Core, entry: EntryRef) {
    if let Some(flow) = core.shard.flow(entry) {
        core.tell(Event::Abandon { entry, flow, migrated: None });
    }
    back_for_now(core, entry);
}

/// The control core says that a request stays with the board that has the connection.
pub fn stay(core: &mut Core, entry: EntryRef, why: Stay) {
    // Unless the appliance has answered meanwhile, because nobody had decided.
    let asked = core.pending_of(entry).filter(|pending| pending.stage.is_asked() && pending.local.is_none());
    let Some((pool, is_again)) = asked.map(|pending| (pending.pool, pending.stage == Stage::AskedAgain))
    else {
        return;
    };
    core.happened(match why {
        Stay::Shared => Happening::StayedShared,
        Stay::Busy => Happening::StayedBusy,
        Stay::NotHeld => Happening::StayedNotHeld,
        Stay::Silent => Happening::StayedSilent,
        Stay::NoBoard => Happening::StayedNoBoard,
        Stay::NoRoom => Happening::StayedNoRoom,
    });
    if why == Stay::Shared
        && let Some(watch) = core.pending_of(entry).and_then(|pending| pending.watch)
        && let Some(watch) = core.watches.get_mut(watch)
    {
        // The next request of that row need not ask.
        (watch.pool, watch.reloads) = (pool, core.reloads);
    }
    // Nobody has asked the board then, which may have given the connection up before.
    let is_unasked = is_again && matches!(why, Stay::NoBoard | Stay::NoRoom);
    if why == Stay::Silent || is_unasked { back_for_now(core, entry) } else { back(core, entry) }
}

/// The board that had the connection has given it up, for an answer of the appliance's own.
pub fn detached(core: &mut Core, entry: EntryRef) {
    let Some((answer, resource)) = core
        .pending_of(entry)
        .filter(|pending| pending.stage.is_asked() && pending.local.is_none())
        .map(|pending| (pending.answer.unwrap_or(Answer::Unavailable), pending.resource))
    else {
        return;
    };
    if let Some(mut found) = core.shard.get_mut(entry) {
        found.migration_id = 0;
    }
    core.happened(Happening::MovedHere);
    local::answer_about(core, entry, answer, resource);
}

/// The board of a request that was moved has acknowledged: how long it took, and whose requests need not ask from now on.
pub fn moved(core: &mut Core, entry: EntryRef) {
    let now_us = core.now.unix_us;
    let Core { shard, pending, watches, counters, reloads, .. } = core;
    let hanging = shard.get(entry).and_then(|entry| entry.pending);
    let Some(pending) = hanging.and_then(|hanging| pending.get_mut(hanging)) else { return };
    pending.stage = Stage::Moved;
    if let Some(watch) = pending.watch.and_then(|watch| watches.get_mut(watch)) {
        (watch.pool, watch.reloads) = (pending.pool, *reloads);
    }
    counters.happening(Happening::Moved).add(1);
    counters.moves.record(now_us.saturating_sub(pending.complete_us));
}
