//! Request: the client's first octets, until the head is complete and the control core can place it.
//!
//! Input: segments of Temporary and Forward-Connect entries, and the packet that begins a new one. Output: an ACK while the
//! head is incomplete (never of the segment that completes it), [`Event::Place`] once it is complete, or an answer of the
//! appliance's own. A service whose server may speak first has no head: [`Event::Place`] at once. Owner: the worker. Cost:
//! one copy of the new octets, one look at each octet of the head.

use std::net::Ipv4Addr;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::seq::Seq;
use ipos_wire::tcb::OptionBits;
use ipos_wire::tcp::Flags;
use ipos_wire::tls::RecordScan;

use super::assembly::{AssemblyError, Inserted, OffsetRange, WINDOW};
use super::head::{BadReason, Head, HeadScan, Preface, Request, preface};
use super::hello;
use super::route::route;
use crate::config::WINDOW_SCALE;
use crate::core::Core;
use crate::counters::{Drop, Happening, WorkerCounters};
use crate::entry::{Entry, Pending, Stage, State, Timestamps};
use crate::handoff::{Answer, Endpoint, Event, Place, Session};
use crate::handshake::cookie::{Cookie, ecn_from_tsecr};
use crate::handshake::echo;
use crate::local;
use crate::parse::TcpPacket;
use crate::segment::Segment;
use crate::services::{Kind, Service};
use crate::table::slab::EntryRef;
use crate::urlmap::Action;
use crate::verdict::Verdict;

/// How long until an event that found the control core's queue full is sent again, if the client does not ask earlier.
pub const OWED_RETRY_MS: u32 = 20;

/// What the packet that begins a connection has proven.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// What the handshake agreed on.
    pub cookie: Cookie,
    /// The client's initial sequence number.
    pub irs: Seq,
    /// The service addressed.
    pub service: u16,
    /// Its kind.
    pub kind: Kind,
}

/// The packet that begins a connection: its cookie has been proven. Makes the Temporary entry, or, where the server may speak
/// first, the Forward-Connect entry.
pub fn first(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf, proof: Proof) -> Verdict {
    match admit(core, packet, &mbuf, proof) {
        Ok(entry) => {
            core.happened(Happening::HandshakeProven);
            if proof.kind.is_server_first() {
                return server_first(core, entry, packet, &mbuf);
            }
            let verdict = checked_segment(core, entry, packet, mbuf);
            // Mostly its head is whole already, and another time counts.
            if core.shard.get(entry).is_some_and(|found| found.state == State::Temporary) {
                core.schedule_in(entry, core.config.timeouts.request_ms);
            }
            verdict
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Asks for a board without waiting for an octet. What the packet brings, and what follows while the board is asked, is held.
fn server_first(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: &Mbuf) -> Verdict {
    // What lies outside the window is not taken; the client sends again what it still wants to say.
    let _ = take(core, entry, packet, mbuf);
    let service = core.pending_of(entry).map(|pending| pending.service);
    let service = service.and_then(|service| core.services.service(service));
    let Some(pool) = service.map(|service| service.default_pool) else {
        // Cannot be: it was found in the same snapshot a moment ago.
        core.remove(entry);
        return Verdict::Drop(Drop::OldSegment);
    };
    core.happened(Happening::ServerFirst);
    ask_for_board(core, entry, pool, Asked::default());
    Verdict::Held
}

fn admit(core: &mut Core, packet: &TcpPacket, mbuf: &Mbuf, proof: Proof) -> Result<EntryRef, Drop> {
    if !packet.checksum_ok(mbuf) {
        return Err(Drop::BadTcpChecksum);
    }
    let options = packet.options(mbuf)?;
    let farm = core.config.options;
    let timestamps = options.timestamps.filter(|_| farm.contains(OptionBits::TIMESTAMPS));
    let assembly = core.assemblies.take().ok_or(Drop::PendingFull)?;
    let pending = Pending {
        assembly,
        scan: HeadScan::new(),
        hello: RecordScan::new(),
        iss: packet.ack - 1,
        irs: proof.irs,
        cookie: proof.cookie,
        timestamps: timestamps.map(|theirs| Timestamps {
            first: theirs.tsval,
            recent: theirs.tsval,
            echoed: theirs.tsecr,
        }),
        ecn: farm.contains(OptionBits::ECN) && timestamps.is_some_and(|theirs| ecn_from_tsecr(theirs.tsecr)),
        window: packet.window,
        acked: 0,
        peer_mac: packet.source_mac,
        port: packet.port,
        service: proof.service,
        kind: proof.kind,
        ack_repeats: 0,
        pool: 0,
        session: Session::None,
        resource: OffsetRange::default(),
        established_us: core.now.unix_us,
        since_ms: core.now.ms,
        complete_us: 0,
        event_owed: false,
        repeating: false,
        local: None,
        migrates_requests: false,
        stage: Stage::First,
        watch: None,
        answer: None,
    };
    let hanging = match core.pending.insert(pending) {
        Ok(hanging) => hanging,
        Err(pending) => {
            core.assemblies.give(pending.assembly);
            return Err(Drop::PendingFull);
        }
    };
    core.counters.pending.add(1);
    core.enter(&packet.flow, State::Temporary, Some(hanging)).inspect_err(|_| {
        if let Some(pending) = core.pending.remove(hanging) {
            core.assemblies.give(pending.assembly);
            core.counters.pending.sub(1);
        }
    })
}

/// What a segment brought to the held octets.
pub(crate) enum Taken {
    /// Octets, or a FIN, that were not there before.
    New,
    /// Nothing that was not there before; `probe` when the client wants to know where we stand (a keep-alive, or a
    /// retransmission of what was acknowledged).
    Nothing { probe: bool },
}

/// A segment of a Temporary or Forward-Connect entry.
pub fn segment(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    core.shard.see(entry, core.now.ms);
    checked_segment(core, entry, packet, mbuf)
}

/// As [`segment`], with a checksum that holds, of a packet that the entry has seen.
fn checked_segment(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if packet.flags.contains(Flags::RST) {
        return reset(core, entry, packet);
    }
    let taken = match take(core, entry, packet, &mbuf) {
        Ok(taken) => taken,
        Err(reason) => return Verdict::Drop(reason),
    };
    let state = core.shard.get(entry).map(|entry| entry.state);
    match (state, taken) {
        (Some(State::Temporary), taken) => progress(core, entry, packet, mbuf, taken),
        (_, taken) => {
            place_if_owed(core, entry);
            match taken {
                Taken::New => Verdict::Held,
                Taken::Nothing { .. } => Verdict::Drop(Drop::OldSegment),
            }
        }
    }
}

/// Takes a segment's acknowledgement, window, time stamps and octets into the entry.
pub(crate) fn take(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: &Mbuf) -> Result<Taken, Drop> {
    let options = packet.options(mbuf)?;
    let hanging = core.shard.get(entry).and_then(|entry| entry.pending);
    let Some(pending) = hanging.and_then(|hanging| core.pending.get_mut(hanging)) else {
        return Err(Drop::OldSegment);
    };
    // Nothing but the SYN-ACK has been sent, so nothing else can be acknowledged.
    if packet.ack != pending.iss + 1 {
        return Err(Drop::OutOfWindow);
    }
    let payload = packet.payload(mbuf);
    let fin = packet.flags.contains(Flags::FIN);
    let offset = pending.offset_of(packet.seq);
    if offset < -1 || offset > WINDOW as i32 {
        return Err(Drop::OutOfWindow);
    }
    pending.window = packet.window;
    if let (Some(ours), Some(theirs)) = (&mut pending.timestamps, options.timestamps) {
        if offset <= pending.acked as i32 {
            ours.saw(theirs.tsval);
        }
        if offset == 0 {
            ours.sent_again(theirs.tsval);
        }
        ours.echoed = theirs.tsecr;
    }
    let assembly = core.assemblies.at_mut(&pending.assembly);
    // One octet before the first is a keep-alive probe's; it is not the client's data.
    let (start, payload) =
        if offset < 0 { (0, payload.get(1..).unwrap_or_default()) } else { (offset as u32, payload) };
    let had_fin = assembly.fin_reached();
    let Inserted { new_octets, .. } = assembly.insert(start, payload).map_err(drop_reason)?;
    if fin {
        assembly.note_fin(start + payload.len() as u32).map_err(drop_reason)?;
    }
    if new_octets > 0 || (assembly.fin_reached() && !had_fin) {
        return Ok(Taken::New);
    }
    Ok(Taken::Nothing { probe: packet.payload_len() > 0 || offset < pending.acked as i32 })
}

fn drop_reason(error: AssemblyError) -> Drop {
    match error {
        AssemblyError::Beyond | AssemblyError::PastFin => Drop::OutOfWindow,
        AssemblyError::TooManyRanges => Drop::TooManyGaps,
    }
}

/// What the octets held in a Temporary entry amount to.
pub(super) enum Step {
    /// Octets are missing.
    Incomplete,
    /// All that the choice needs: the pool, what became complete, and the session.
    Complete { pool: u16, what: Happening, session: Asked },
    /// A row of the URL map has the appliance answer; path and query lie there in the stream.
    Answer(Answer, OffsetRange),
    /// A request head that is refused.
    Bad(BadReason),
    /// To be answered, and counted for a reason of its own where the answer alone does not tell it.
    Wrong(Answer, Option<Happening>),
}

/// The session of a request, and where its path and query lie in the stream, where it may be redirected.
#[derive(Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) session: Session,
    resource: OffsetRange,
}

fn progress(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf, taken: Taken) -> Verdict {
    let step = match look(core, entry, packet.flow.client) {
        Some(step) => step,
        None => return Verdict::Drop(Drop::OldSegment),
    };
    match step {
        Step::Wrong(answer, reason) => {
            if let Some(reason) = reason {
                core.happened(reason);
            }
            local::answer(core, entry, answer);
            Verdict::Answered
        }
        Step::Answer(answer, resource) => {
            core.happened(Happening::HeadComplete);
            local::answer_about(core, entry, answer, resource);
            Verdict::Answered
        }
        Step::Bad(reason) => bad_request(core, entry, reason),
        Step::Incomplete => match (acknowledge(core, entry, packet, mbuf, &taken), taken) {
            (Err(reason), Taken::Nothing { .. }) => Verdict::Drop(reason),
            // Octets are held, whether the ACK could be sent or not.
            (_, Taken::New) => Verdict::Held,
            (Ok(()), Taken::Nothing { probe: true }) => Verdict::Answered,
            (Ok(()), Taken::Nothing { probe: false }) => Verdict::Drop(Drop::OldSegment),
        },
        Step::Complete { pool, what, session } => {
            core.happened(what);
            ask_for_board(core, entry, pool, session);
            Verdict::Held
        }
    }
}

/// All that the choice needs is known: from Temporary to Forward-Connect.
fn ask_for_board(core: &mut Core, entry: EntryRef, pool: u16, session: Asked) {
    core.change_state(entry, State::ForwardConnect);
    let (since_ms, complete_us) = (core.now.ms, core.now.unix_us);
    if let Some(pending) = core.pending_of(entry) {
        pending.pool = pool;
        (pending.session, pending.resource) = (session.session, session.resource);
        pending.event_owed = true;
        pending.since_ms = since_ms;
        pending.complete_us = complete_us;
    }
    core.schedule_in(entry, core.config.timeouts.place_ms);
    place_if_owed(core, entry);
}

fn bad_request(core: &mut Core, entry: EntryRef, reason: BadReason) -> Verdict {
    core.counters.bad_request(reason).add(1);
    local::answer(core, entry, Answer::BadRequest);
    Verdict::Answered
}

fn look(core: &mut Core, entry: EntryRef, client: Ipv4Addr) -> Option<Step> {
    let hanging = core.shard.get(entry)?.pending?;
    let pending = core.pending.get_mut(hanging)?;
    let assembly = core.assemblies.at(&pending.assembly);
    let contiguous = assembly.contiguous();
    let service = core.services.service(pending.service)?;
    pending.migrates_requests = service.migrates_requests;
    let buffer = &mut core.path_buffer[..];
    let step = match pending.kind {
        Kind::Tls => hello::step(&mut pending.hello, contiguous, service, buffer),
        // Of the last three nothing is ever looked at here.
        Kind::Http | Kind::Tcp | Kind::L4 | Kind::Udp => {
            head(&mut pending.scan, contiguous, (service, client), (buffer, &core.counters))
        }
    };
    Some(match step {
        Some(step) => step,
        None if pending.window_after(contiguous.len() as u32) == 0 => Step::Wrong(Answer::HeadTooLarge, None),
        None if !assembly.fin_reached() => Step::Incomplete,
        None if pending.kind == Kind::Tls => Step::Wrong(Answer::BadRequest, None),
        None => Step::Bad(BadReason::Unfinished),
    })
}

/// The request head; `None` while it is incomplete.
fn head(
    scan: &mut HeadScan,
    contiguous: &[u8],
    (service, client): (&Service, Ipv4Addr),
    (buffer, counters): (&mut [u8], &WorkerCounters),
) -> Option<Step> {
    if service.h2c {
        match preface(contiguous) {
            Preface::Whole => {
                let (pool, session) = (service.default_pool, Asked::default());
                return Some(Step::Complete { pool, what: Happening::Http2Begun, session });
            }
            Preface::Begun => return None,
            Preface::Not => {}
        }
    }
    match scan.advance(contiguous) {
        Head::Incomplete => None,
        Head::Bad(reason) => Some(Step::Bad(reason)),
        Head::TooLong => Some(Step::Wrong(Answer::HeadTooLarge, None)),
        Head::Complete(request) => {
            let complete = |pool| {
                let session = session(service, &request, client, counters);
                Step::Complete { pool, what: Happening::HeadComplete, session }
            };
            Some(match route(&service.urls, &request, buffer) {
                Ok(Some(Action::Pool(pool))) => complete(pool),
                Ok(Some(Action::Answer(answer))) => Step::Answer(answer, resource_in_stream(&request)),
                Ok(None) => complete(service.default_pool),
                Err(reason) => Step::Bad(reason),
            })
        }
    }
}

/// The session that a request's cookie names, in services that look for one.
pub(crate) fn session(
    service: &Service,
    request: &Request<'_>,
    client: Ipv4Addr,
    counters: &WorkerCounters,
) -> Asked {
    let Some(cookie) = &service.cookie else { return Asked::default() };
    let (session, fault) = cookie.session(request, client);
    if let Some(fault) = fault {
        counters.happening(fault).add(1);
    }
    Asked { session, resource: resource_in_stream(request) }
}

/// Where path and query lie in the client's stream: they end the target, which a space follows.
pub(crate) fn resource_in_stream(request: &Request<'_>) -> OffsetRange {
    let head_start = request.len - request.head.len();
    let target_start = request.method.len() + 1;
    let target = request.head.get(target_start..).unwrap_or_default();
    let target_len = target.iter().position(|octet| *octet == b' ').unwrap_or(0);
    let end = head_start + target_start + target_len;
    // Within the window, which has 16 bits.
    OffsetRange { start: end.saturating_sub(request.resource.len()) as u16, end: end as u16 }
}

/// Acknowledges what is contiguous, in the segment's own buffer; nothing when there is nothing to say.
fn acknowledge(
    core: &mut Core,
    entry: EntryRef,
    packet: &TcpPacket,
    mbuf: Mbuf,
    taken: &Taken,
) -> Result<(), Drop> {
    if matches!(taken, Taken::Nothing { probe: false }) {
        return Ok(());
    }
    let Some(hanging) = core.shard.get(entry).and_then(|entry| entry.pending) else { return Ok(()) };
    let Some(pending) = core.pending.get_mut(hanging) else { return Ok(()) };
    pending.acked = core.assemblies.at(&pending.assembly).contiguous_len() as u32;
    let (seq, ack, window) = (pending.iss + 1, pending.rcv_nxt(), pending.window_field());
    let recent = pending.timestamps.map(|stamps| stamps.recent);
    let answer = Segment { seq, ack, flags: Flags::ACK, window, options: echo(core, recent), payload: &[] };
    core.answer_in_place(mbuf, packet.port, packet.source_mac, &packet.flow, &answer)
}

/// Tells the control core of a complete head, if it has not been told yet.
pub fn place_if_owed(core: &mut Core, entry: EntryRef) {
    let Some(hanging) = core.shard.get(entry).and_then(Entry::held) else { return };
    let Some(pending) = core.pending.get(hanging).filter(|pending| pending.event_owed) else { return };
    let session = pending.session;
    let Some(place) = place(core, entry) else { return };
    let told = core.tell(Event::Place(place, session));
    if let Some(pending) = core.pending.get_mut(hanging) {
        pending.event_owed = !told;
    }
    if !told {
        core.schedule_in(entry, OWED_RETRY_MS);
    }
}

/// What the control core needs to know of an entry whose head is complete.
pub fn place(core: &mut Core, entry: EntryRef) -> Option<Place> {
    let flow = core.shard.flow(entry)?;
    let now = core.now;
    let our_mss = core.config.mss;
    let hanging = core.shard.get(entry)?.pending?;
    let pending = core.pending.get(hanging)?;
    let octets = core.assemblies.at(&pending.assembly).contiguous_len() as u32;
    Some(Place {
        entry,
        flow,
        service: pending.service,
        pool: pending.pool,
        endpoint: endpoint(pending, now.timestamp, our_mss, octets),
    })
}

fn endpoint(pending: &Pending, timestamp: u32, our_mss: u16, octets_following: u32) -> Endpoint {
    let mut options = OptionBits(0);
    if pending.timestamps.is_some() {
        options = options | OptionBits::TIMESTAMPS;
    }
    if pending.cookie.sack {
        options = options | OptionBits::SACK;
    }
    if pending.cookie.window_scale.is_some() {
        options = options | OptionBits::WINDOW_SCALE;
    }
    if pending.ecn {
        options = options | OptionBits::ECN;
    }
    let their_scale = pending.cookie.window_scale.unwrap_or(0);
    Endpoint {
        established_at_us: pending.established_us,
        iss: pending.iss,
        irs: pending.irs,
        snd_wnd: u32::from(pending.window) << their_scale.min(14),
        ts_recent: pending.timestamps.map_or(0, |stamps| stamps.first),
        // Our clock now is at or past every TSval that we have sent: the board goes on from there, so that the client
        // never sees time go backwards (takeover.md: PAWS).
        last_tsval: pending.timestamps.map_or(0, |stamps| match pending.stage {
            Stage::First => timestamp,
            // Its board's clock has told the client the time since: what the client echoes of it.
            _ => stamps.echoed,
        }),
        octets_following,
        options,
        client_mss: pending.cookie.mss,
        our_mss,
        client_window_scale: their_scale,
        our_window_scale: if pending.cookie.window_scale.is_some() { WINDOW_SCALE } else { 0 },
    }
}

/// A RST from the client. RFC 5961, section 3.2: it counts only where the client's next octet is expected.
pub(crate) fn reset(core: &mut Core, entry: EntryRef, packet: &TcpPacket) -> Verdict {
    let Some(flow) = core.shard.flow(entry) else { return Verdict::Drop(Drop::OldSegment) };
    let Some((rcv_nxt, received)) = ends(core, entry) else { return Verdict::Drop(Drop::OldSegment) };
    if packet.seq != rcv_nxt && packet.seq != received {
        return Verdict::Drop(Drop::OutOfWindow);
    }
    let Some(found) = core.shard.get(entry) else { return Verdict::Drop(Drop::OldSegment) };
    let (asked, migrated) = (found.state == State::ForwardConnect, found.holder());
    if asked && !core.tell(Event::Abandon { entry, flow, migrated }) {
        // The client's RST is all that says so: the entry stays until its deadline, when it is abandoned.
        return Verdict::Drop(Drop::ControlFull);
    }
    core.happened(Happening::ClosedByReset);
    core.remove(entry);
    Verdict::Answered
}

/// Up to where we have acknowledged, and up to where we hold the client's octets.
fn ends(core: &mut Core, entry: EntryRef) -> Option<(Seq, Seq)> {
    let hanging = core.shard.get(entry)?.pending?;
    let pending = core.pending.get(hanging)?;
    let held = core.assemblies.at(&pending.assembly).contiguous_len() as u32;
    Some((pending.rcv_nxt(), pending.irs + 1 + held))
}
