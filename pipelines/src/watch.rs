//! Watch: connections of services with `migrate = "request"`, each request of which may belong to another board.
//!
//! ```text
//!             first request migrated        a request begins at the boundary
//!   Forward ----------------------> Watched ----------------------------------> ForwardConnect
//!      ^     and proven                | ^                (its board is another one)   |   |
//!      |                               | | the request goes to the same board, or      |   |
//!      +-------------------------------+ +---- the board that has it is busy ----------+   |
//!        nobody is sure where requests begin: the watch ends                               |
//!      Forward <------------- the old board has detached, the new one acknowledged --------+
//! ```
//!
//! Input: segments of Watched entries, and those that come while the boards are asked. Output: the segment to the board that has the
//! connection, or [`Event::Move`], and then the request to its new board. Owner: the worker. Cost: none for other
//! connections; a look-up and a comparison for each segment of a watched one, and the head's parsing for each request.
//!
//! What of a request has been held has not been acknowledged, so that whoever gets it answers for it. A client that does
//! not wait for an answer before it sends the next request (pipelining) is not moved: the numbers of its request show octets
//! under way. One case shows nothing: a server that has sent a part of its answer, all of it acknowledged, and goes on later, to a
//! client that pipelines in between. Its endpoint would be moved in the middle of that answer; docs/services.md says so.
//! Source: design: takeover.md, "Moving a connection again, between requests".

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;
use ipos_wire::tls::RecordScan;

use crate::core::Core;
use crate::counters::{Drop, Happening, WorkerCounters};
use crate::entry::{Pending, Stage, State, Timestamps};
use crate::forward;
use crate::handoff::{Answer, Event, NO_POOL, Session, Stay};
use crate::handshake::cookie::Cookie;
use crate::local;
use crate::migrate;
use crate::parse::TcpPacket;
use crate::request::assembly::{OffsetRange, WINDOW};
use crate::request::framing::{Framing, Seen, Unsure};
use crate::request::head::{Head, HeadScan, parse};
use crate::request::route::route;
use crate::request::stage::{Taken, place, reset, resource_in_stream, session, take};
use crate::services::{Kind, Service};
use crate::table::slab::EntryRef;
use crate::urlmap::Action;
use crate::verdict::Verdict;

/// Watched connections for each buffer for unfinished requests.
pub const WATCHED_PER_PENDING: u32 = 4;

/// How long the rest of a request head is waited for before what is there goes to the board that has the connection,
/// milliseconds: the first time-out of a retransmission (RFC 6298, section 2), within which a client sends again what was lost.
pub const HOLD_MS: u32 = 1_000;

/// A watched connection: where its next request begins, and what a control block needs that no later packet tells.
#[derive(Debug)]
pub struct Watch {
    framing: Framing,
    /// SEG.ACK of the request in hand: the next one acknowledges more, since it was answered.
    request_ack: Seq,
    cookie: Cookie,
    timestamps: bool,
    ecn: bool,
    established_us: u64,
    service: u16,
    /// The pool whose board has the connection, as pools were numbered after so many reloads.
    pool: u16,
    reloads: u32,
}

impl Watch {
    /// The pool whose board has the connection. After a reload that is none: its row may name other boards, and its number may be
    /// another row's, so that the control core is asked at the next request.
    fn pool(&self, reloads: u32) -> u16 {
        if self.reloads == reloads { self.pool } else { UNKNOWN_POOL }
    }
}

/// No row's pool.
const UNKNOWN_POOL: u16 = NO_POOL - 1;

/// What becomes of a later request.
enum Next {
    /// Its head is incomplete.
    Incomplete,
    /// Its row is known.
    Known(Judged),
    /// The watch ends.
    Unsure(Happening),
}

/// A later request whose row is known.
#[derive(Clone, Copy)]
struct Judged {
    /// Where it ends; `None` where none follows.
    framing: Option<Framing>,
    /// [`NO_POOL`] where the appliance answers.
    pool: u16,
    answer: Option<Answer>,
    resource: OffsetRange,
    session: Session,
}

/// Begins the watch over a connection that is migrated for the first time and whose service wants that.
pub fn begin(core: &mut Core, entry: EntryRef) {
    let Core { shard, pending, assemblies, watches, counters, reloads, .. } = core;
    let hanging = shard.get(entry).and_then(|entry| entry.pending);
    let Some(pending) = hanging.and_then(|hanging| pending.get_mut(hanging)) else { return };
    let octets = assemblies.at(&pending.assembly).contiguous();
    let start = pending.irs + 1;
    // HTTP/2 is placed as a whole.
    let Head::Complete(request) = parse(octets) else { return };
    let framing = match followed(&request, start, octets) {
        Ok(framing) => framing,
        Err(why) => return counters.happening(unwatched(why)).add(1),
    };
    let watch = Watch {
        framing,
        request_ack: pending.iss + 1,
        cookie: pending.cookie,
        timestamps: pending.timestamps.is_some(),
        ecn: pending.ecn,
        established_us: pending.established_us,
        service: pending.service,
        pool: pending.pool,
        reloads: *reloads,
    };
    pending.watch = watches.insert(watch).ok();
    let began = pending.watch.is_some();
    let what = if began { Happening::WatchBegun } else { Happening::UnwatchedNoRoom };
    counters.happening(what).add(1);
}

/// Where a request ends, of which these octets are in hand.
fn followed(
    request: &crate::request::head::Request<'_>,
    start: Seq,
    octets: &[u8],
) -> Result<Framing, Unsure> {
    let body_at = start + request.len as u32;
    let mut framing = Framing::of(request, body_at)?;
    match framing.see(body_at, octets.get(request.len..).unwrap_or_default())? {
        Seen::Body => Ok(framing),
        Seen::Next => Err(Unsure::Pipelined),
    }
}

/// What counts when a watch ends for this reason.
const fn unwatched(why: Unsure) -> Happening {
    match why {
        Unsure::Last => Happening::UnwatchedLast,
        Unsure::Upgrade => Happening::UnwatchedUpgrade,
        Unsure::Long => Happening::UnwatchedLong,
        Unsure::Chunks => Happening::UnwatchedChunks,
        Unsure::Pipelined => Happening::UnwatchedPipelined,
    }
}

/// The client has shown that the board has its request: from now on the next one is waited for.
pub fn settled(core: &mut Core, entry: EntryRef) {
    let watch = core.pending_of(entry).and_then(|pending| pending.watch.take());
    core.release_pending(entry);
    if let Some(watch) = watch {
        resume(core, entry, watch);
    }
}

/// Puts an entry without anything that hangs on it back under its watch.
fn resume(core: &mut Core, entry: EntryRef, watch: EntryRef) {
    core.change_state(entry, State::Watched);
    if let Some(mut found) = core.shard.get_mut(entry) {
        found.pending = Some(watch);
    }
}

/// Ends the watch over a connection whose board holds it by another attempt than the one that was known.
pub fn relearned(core: &mut Core, entry: EntryRef) {
    unwatch(core, entry, Happening::UnwatchedRelearned);
}

/// Ends the watch over a connection: it stays with its board for good, and the fast path has it again.
fn unwatch(core: &mut Core, entry: EntryRef, reason: Happening) {
    core.happened(reason);
    core.release_pending(entry);
    core.change_state(entry, State::Forward);
}

/// A segment of a connection whose octets are still held: more of the same request, as a rule.
pub fn see_unsettled(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: &Mbuf) {
    let Some(watch) = core.pending_of(entry).and_then(|pending| pending.watch) else { return };
    let reason = match see(core, watch, packet, mbuf) {
        Ok(Seen::Body) => return,
        // There is no answer to that one yet.
        Ok(Seen::Next) => Happening::UnwatchedPipelined,
        Err(why) => unwatched(why),
    };
    core.happened(reason);
    core.watches.remove(watch);
    if let Some(pending) = core.pending_of(entry) {
        pending.watch = None;
    }
}

/// Follows the request in hand.
fn see(core: &mut Core, watch: EntryRef, packet: &TcpPacket, mbuf: &Mbuf) -> Result<Seen, Unsure> {
    let Some(watch) = core.watches.get_mut(watch) else { return Ok(Seen::Body) };
    // What the board will not take must not be read either.
    if packet.payload_len() == 0 || (watch.framing.boundary().is_none() && !packet.checksum_ok(mbuf)) {
        return Ok(Seen::Body);
    }
    watch.framing.see(packet.seq, packet.payload(mbuf))
}

/// A segment of a watched connection.
pub fn segment(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    // Of a connection whose end was seen nothing is moved any more.
    let watch = core.shard.get(entry).filter(|entry| !entry.closing).and_then(|entry| entry.pending);
    if let Some(watch) = watch.filter(|_| packet.payload_len() > 0 && !packet.flags.contains(Flags::RST)) {
        match see(core, watch, packet, &mbuf) {
            Ok(Seen::Body) => {}
            Ok(Seen::Next) => return next(core, entry, watch, packet, mbuf),
            Err(why) => unwatch(core, entry, unwatched(why)),
        }
    }
    forward::packet(core, entry, packet, mbuf)
}

/// A segment that begins the next request, or comes behind its beginning.
fn next(core: &mut Core, entry: EntryRef, at: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    let Some(client) = core.shard.flow(entry).map(|flow| flow.client) else {
        return Verdict::Drop(Drop::OldSegment);
    };
    let Core { watches, services, path_buffer, counters, reloads, .. } = core;
    let Some((watch, boundary)) = watches.get(at).and_then(|watch| Some((watch, watch.framing.boundary()?)))
    else {
        return forward::packet(core, entry, packet, mbuf);
    };
    let service = services.service(watch.service).filter(|service| service.migrates_requests);
    let offset = packet.seq.diff(boundary);
    let judged = match service {
        None => Next::Unsure(Happening::UnwatchedReload),
        Some(_) if packet.ack.diff(watch.request_ack) <= 0 => Next::Unsure(Happening::UnwatchedPipelined),
        Some(service) if offset == 0 => {
            let asker = Asker { client, pool: watch.pool(*reloads), counters };
            judge(
                service,
                &asker,
                &mut path_buffer[..],
                &mut HeadScan::new(),
                boundary,
                packet.payload(&mbuf),
            )
        }
        Some(_) => Next::Incomplete,
    };
    let pool = watch.pool(*reloads);
    match judged {
        Next::Unsure(reason) => unwatch(core, entry, reason),
        Next::Known(known) if known.pool == pool => match known.framing {
            Some(framing) => {
                if let Some(watch) = core.watches.get_mut(at) {
                    (watch.framing, watch.request_ack) = (framing, packet.ack);
                }
            }
            None => unwatch(core, entry, Happening::UnwatchedLast),
        },
        Next::Incomplete | Next::Known(_) => {
            match hold(core, entry, at, packet, &mbuf) {
                Ok(()) => {}
                Err(Some(reason)) => return Verdict::Drop(reason),
                Err(None) => {
                    // No buffer: the request goes where the connection is.
                    stays_for_want_of_room(core, entry, at, packet.ack, judged);
                    return forward::packet(core, entry, packet, mbuf);
                }
            }
            match judged {
                Next::Known(known) => ask(core, entry, known),
                _ => core.schedule_in(entry, HOLD_MS),
            }
            return Verdict::Held;
        }
    }
    forward::packet(core, entry, packet, mbuf)
}

fn stays_for_want_of_room(core: &mut Core, entry: EntryRef, at: EntryRef, ack: Seq, judged: Next) {
    let framing = if let Next::Known(Judged { framing, .. }) = judged { framing } else { None };
    match (framing, core.watches.get_mut(at)) {
        (Some(framing), Some(watch)) => {
            (watch.framing, watch.request_ack) = (framing, ack);
            core.happened(Happening::StayedNoRoom);
        }
        _ => unwatch(core, entry, Happening::UnwatchedNoRoom),
    }
}

/// Whose later request is judged.
struct Asker<'a> {
    client: Ipv4Addr,
    /// The pool whose board has the connection.
    pool: u16,
    counters: &'a WorkerCounters,
}

/// What a stream is that begins with a later request.
fn judge(
    service: &Service,
    asker: &Asker<'_>,
    buffer: &mut [u8],
    scan: &mut HeadScan,
    start: Seq,
    octets: &[u8],
) -> Next {
    let request = match scan.advance(octets) {
        Head::Incomplete => return Next::Incomplete,
        // Its board says so to the client.
        Head::Bad(_) | Head::TooLong => return Next::Unsure(Happening::UnwatchedMalformed),
        Head::Complete(request) => request,
    };
    let framing = match followed(&request, start, octets) {
        Ok(framing) => Some(framing),
        Err(Unsure::Last) => None,
        Err(why) => return Next::Unsure(unwatched(why)),
    };
    let (pool, answer) = match route(&service.urls, &request, buffer) {
        Ok(Some(Action::Pool(pool))) => (pool, None),
        Ok(Some(Action::Answer(answer))) => (NO_POOL, Some(answer)),
        Ok(None) => (service.default_pool, None),
        Err(_) => return Next::Unsure(Happening::UnwatchedMalformed),
    };
    // What stays where it is needs none.
    let session = if pool == asker.pool || pool == NO_POOL {
        Session::None
    } else {
        session(service, &request, asker.client, asker.counters).session.to_move_by()
    };
    Next::Known(Judged { framing, pool, answer, resource: resource_in_stream(&request), session })
}

/// Holds a request's first segment: from Watched to Forward-Connect. `Err(None)` when no buffer is left; any other error is that of a
/// segment that cannot be held.
fn hold(
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
    // Nothing is in it yet, and it fits: this cannot fail.
    let _ = take(core, entry, packet, mbuf);
    Ok(())
}

/// A segment of a connection whose next request is held, and whose boards are perhaps being asked.
pub fn held(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
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
fn ask(core: &mut Core, entry: EntryRef, known: Judged) {
    let Core { shard, pending, watches, now, .. } = core;
    let Some(found) = shard.get(entry) else { return };
    let (board, migration_id) = (found.board, found.migration_id);
    let Some(pending) = found.pending.and_then(|hanging| pending.get_mut(hanging)) else { return };
    pending.stage = Stage::Asked;
    pending.since_ms = now.ms;
    (pending.pool, pending.answer, pending.resource) = (known.pool, known.answer, known.resource);
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

/// What is held goes to the board that has the connection: from Forward-Connect back to where it was.
fn back(core: &mut Core, entry: EntryRef) {
    let Some(flow) = core.shard.flow(entry) else { return };
    let Some((board, id)) = core.shard.get(entry).map(|entry| (entry.board, entry.migration_id)) else {
        return;
    };
    if core.place_of(board).is_none() {
        // It was removed by force meanwhile, and its flows given up, but for those that were held.
        core.tell(Event::Abandon { entry, flow, migrated: Some((board, id)) });
        return local::reset(core, entry);
    }
    migrate::replay(core, entry, &flow, board);
    let watch = core.pending_of(entry).and_then(|pending| pending.watch.take());
    core.release_pending(entry);
    match watch {
        Some(watch) => resume(core, entry, watch),
        None => core.change_state(entry, State::Forward),
    }
    core.schedule_in(entry, core.config.timeouts.idle_ms);
}

/// The control core says that a request stays with the board that has the connection.
pub fn stay(core: &mut Core, entry: EntryRef, why: Stay) {
    let Some(pool) = core.pending_of(entry).filter(|pending| pending.stage == Stage::Asked).map(|p| p.pool)
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
    back(core, entry);
}

/// The board that had the connection has given it up, for an answer of the appliance's own.
pub fn detached(core: &mut Core, entry: EntryRef) {
    let Some((answer, resource)) = core
        .pending_of(entry)
        .filter(|pending| pending.stage == Stage::Asked)
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
