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
//! Input: segments of Watched entries. Output: the segment to the board that has the connection, or a request that is held
//! ([`held`]). Owner: the worker. Cost: none for other connections; a look-up and a comparison for each segment of a watched one,
//! and the head's parsing for each request.
//!
//! What of a request has been held has not been acknowledged, so that whoever gets it answers for it. A client that does
//! not wait for an answer before it sends the next request (pipelining) is not moved: the numbers of its request show octets
//! under way. One case shows nothing: a server that has sent a part of its answer, all of it acknowledged, and goes on later, to a
//! client that pipelines in between. Its endpoint would be moved in the middle of that answer; docs/services.md says so.
//! Source: design: takeover.md, "Moving a connection again, between requests".

pub mod held;

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::core::Core;
use crate::counters::{Drop, Happening, WorkerCounters};
use crate::entry::State;
use crate::forward;
use crate::handoff::{Answer, NO_POOL, Session};
use crate::handshake::cookie::Cookie;
use crate::parse::TcpPacket;
use crate::request::assembly::OffsetRange;
use crate::request::framing::{Framing, Seen, Unsure};
use crate::request::head::{Head, HeadScan, parse};
use crate::request::route::route;
use crate::request::stage::{resource_in_stream, session};
use crate::services::Service;
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
    if let Some(watch) = core.release_held(entry) {
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
            match held::hold(core, entry, at, packet, &mbuf) {
                Ok(()) => {}
                Err(Some(reason)) => return Verdict::Drop(reason),
                Err(None) => {
                    // No buffer: the request goes where the connection is.
                    stays_for_want_of_room(core, entry, at, packet.ack, judged);
                    return forward::packet(core, entry, packet, mbuf);
                }
            }
            match judged {
                Next::Known(known) => held::ask(core, entry, known),
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
