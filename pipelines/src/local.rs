//! Local: endpoints that the appliance serves itself, to say why it does not pass them on (the Local Table of Fig. 12).
//!
//! Input: an entry and what to say; later the client's segments. Output: a small HTTP answer or a TLS alert with our FIN,
//! retransmitted until the client has acknowledged it; or a RST. Owner: the worker. Cost: off the fast path.

use std::sync::Arc;

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{self, Flags};

use crate::answers::LOCATION_OCTETS_MAX;
use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::entry::{Local, Pending, State};
use crate::handoff::{self, Alert, Answer, RetryAfter};
use crate::handshake::echo;
use crate::parse::TcpPacket;
use crate::request::assembly::{OffsetRange, WINDOW};
use crate::segment::Segment;
use crate::services::Kind;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;

/// Times an answer is sent before the client is given up.
const SENDS_MAX: u8 = 5;

/// A 503 that says when to come again.
macro_rules! unavailable {
    ($seconds:literal) => {
        (
            concat!(
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 24\r\nRetry-After: ",
                $seconds,
                "\r\nConnection: close\r\n\r\n503 Service Unavailable\n"
            ),
            Happening::AnsweredUnavailable,
        )
    };
}

/// A 429 that says when to come again.
macro_rules! over_limit {
    ($seconds:literal) => {
        (
            concat!(
                "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: 22\r\nRetry-After: ",
                $seconds,
                "\r\nConnection: close\r\n\r\n429 Too Many Requests\n"
            ),
            Happening::AnsweredTooMany,
        )
    };
}

/// A short text.
macro_rules! short {
    ($status:literal, $octets:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nContent-Type: text/plain\r\nContent-Length: ",
            $octets,
            "\r\nConnection: close\r\n\r\n",
            $status,
            "\n"
        )
    };
}

/// What the appliance says where the service has no text of its own, and what it counts. `None` for a RST.
const fn text(answer: Answer) -> Option<(&'static str, Happening)> {
    Some(match answer {
        Answer::BadRequest => (short!("400 Bad Request", "16"), Happening::AnsweredBadRequest),
        Answer::Forbidden => (short!("403 Forbidden", "14"), Happening::AnsweredForbidden),
        Answer::NotFound => (short!("404 Not Found", "14"), Happening::AnsweredNotFound),
        Answer::RequestTimeout => (short!("408 Request Timeout", "20"), Happening::AnsweredTimeout),
        Answer::UriTooLong => (short!("414 URI Too Long", "17"), Happening::AnsweredUriTooLong),
        Answer::TooManyRequests => (short!("429 Too Many Requests", "22"), Happening::AnsweredTooMany),
        Answer::OverLimit(RetryAfter::S1) => over_limit!("1"),
        Answer::OverLimit(RetryAfter::S2) => over_limit!("2"),
        Answer::OverLimit(RetryAfter::S5) => over_limit!("5"),
        Answer::OverLimit(RetryAfter::S10) => over_limit!("10"),
        Answer::OverLimit(RetryAfter::S30) => over_limit!("30"),
        Answer::OverLimit(RetryAfter::S60) => over_limit!("60"),
        Answer::HeadTooLarge => {
            (short!("431 Request Header Fields Too Large", "36"), Happening::AnsweredTooLarge)
        }
        Answer::Unavailable | Answer::NotYet(RetryAfter::S1) => unavailable!("1"),
        Answer::NotYet(RetryAfter::S2) => unavailable!("2"),
        Answer::NotYet(RetryAfter::S5) => unavailable!("5"),
        Answer::NotYet(RetryAfter::S10) => unavailable!("10"),
        Answer::NotYet(RetryAfter::S30) => unavailable!("30"),
        Answer::NotYet(RetryAfter::S60) => unavailable!("60"),
        Answer::Alert(alert) => (alert_record(alert), Happening::AlertSent),
        // Its text is the service's; this one stands for a number that the service does not have.
        Answer::Redirect(_) => (short!("404 Not Found", "14"), Happening::Redirected),
        // The same.
        Answer::Assign(_) => (short!("404 Not Found", "14"), Happening::CookieGiven),
        Answer::Reset => return None,
    })
}

/// A record of TLS 1.2, which every client reads: type 21, version, length 2; level (1 warning, 2 fatal) and description.
const fn alert_record(alert: Alert) -> &'static str {
    match alert {
        Alert::CloseNotify => "\x15\x03\x03\0\x02\x01\0",
        Alert::DecodeError => "\x15\x03\x03\0\x02\x02\x32",
        Alert::InternalError => "\x15\x03\x03\0\x02\x02\x50",
        Alert::UnrecognizedName => "\x15\x03\x03\0\x02\x02\x70",
    }
}

/// What an answer in HTTP comes to where clients speak something else, and why it is given.
const fn in_the_clients_words(kind: Kind, answer: Answer) -> (Answer, Option<Happening>) {
    use Answer::{Alert, BadRequest, HeadTooLarge, OverLimit, RequestTimeout, Reset};
    match (kind, answer) {
        (Kind::Http, _) | (_, Reset | Alert(_)) => (answer, None),
        (_, OverLimit(_)) => (Reset, Some(Happening::ResetOverLimit)),
        // What they speak is not known.
        (Kind::Tcp | Kind::L4 | Kind::Udp, _) => (Reset, Some(Happening::ResetUnplaced)),
        (Kind::Tls, BadRequest) => (Alert(handoff::Alert::DecodeError), Some(Happening::HelloCut)),
        (Kind::Tls, HeadTooLarge) => (Alert(handoff::Alert::DecodeError), Some(Happening::HelloTooLong)),
        (Kind::Tls, RequestTimeout) => (Alert(handoff::Alert::CloseNotify), Some(Happening::HelloTimeout)),
        (Kind::Tls, _) => (Alert(handoff::Alert::InternalError), Some(Happening::AlertUnavailable)),
    }
}

/// The line of a 503 or 429 that says when to come again.
const fn retry_after(answer: Answer) -> &'static str {
    match answer {
        Answer::Unavailable | Answer::NotYet(RetryAfter::S1) | Answer::OverLimit(RetryAfter::S1) => {
            "Retry-After: 1\r\n"
        }
        Answer::NotYet(RetryAfter::S2) | Answer::OverLimit(RetryAfter::S2) => "Retry-After: 2\r\n",
        Answer::NotYet(RetryAfter::S5) | Answer::OverLimit(RetryAfter::S5) => "Retry-After: 5\r\n",
        Answer::NotYet(RetryAfter::S10) | Answer::OverLimit(RetryAfter::S10) => "Retry-After: 10\r\n",
        Answer::NotYet(RetryAfter::S30) | Answer::OverLimit(RetryAfter::S30) => "Retry-After: 30\r\n",
        Answer::NotYet(RetryAfter::S60) | Answer::OverLimit(RetryAfter::S60) => "Retry-After: 60\r\n",
        _ => "",
    }
}

/// An answer in parts, end to end; the last is its body. `stream` is the client's, from IRS+1 on.
fn parts<'a>(local: &'a Local, stream: &'a [u8]) -> [&'a [u8]; 4] {
    let Some(page) = &local.page else {
        let text = text(local.answer).map_or("", |(text, _)| text);
        let (head, body) =
            text.split_once("\r\n\r\n").map_or((text, ""), |(head, _)| text.split_at(head.len() + 4));
        return [head.as_bytes(), &[], &[], body.as_bytes()];
    };
    let OffsetRange { start, end } = local.resource;
    let between = match page.takes_resource {
        true => stream.get(usize::from(start)..usize::from(end)).unwrap_or_default(),
        false => retry_after(local.answer).as_bytes(),
    };
    [&page.start, between, &page.end, &page.body]
}

/// Copies what lies at an offset of the parts, end to end, into `target`; how much that was.
fn copy(parts: &[&[u8]; 4], offset: usize, target: &mut [u8]) -> usize {
    let (mut skip, mut written) = (offset, 0);
    for part in parts {
        let rest = part.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        let room = target.get_mut(written..).unwrap_or_default();
        let len = rest.len().min(room.len());
        if let (Some(from), Some(to)) = (rest.get(..len), room.get_mut(..len)) {
            to.copy_from_slice(from);
            written += len;
        }
    }
    written
}

/// Answers the client of an entry that nobody else will serve, in the words of its service's kind. A RST ends the entry at
/// once; anything else moves it to the Local Table.
pub fn answer(core: &mut Core, entry: EntryRef, answer: Answer) {
    let resource = core.pending_of(entry).map(|pending| pending.resource);
    answer_about(core, entry, answer, resource.unwrap_or_default());
}

/// The same for a request whose path and query lie there in the client's stream: a redirect may repeat them.
pub fn answer_about(core: &mut Core, entry: EntryRef, answer: Answer, resource: OffsetRange) {
    let kind = core.pending_of(entry).map_or(Kind::Http, |pending| pending.kind);
    let (answer, reason) = in_the_clients_words(kind, answer);
    if let Some(reason) = reason {
        core.happened(reason);
    }
    let since_ms = core.now.ms;
    let Core { shard, pending, assemblies, services, .. } = core;
    let hanging = shard.get(entry).and_then(|entry| entry.pending);
    let Some(pending) = hanging.and_then(|hanging| pending.get_mut(hanging)) else {
        return if answer == Answer::Reset { reset(core, entry) } else { core.remove(entry) };
    };
    let service = services.service(pending.service);
    let page_of = |answer| {
        let page = match answer {
            Answer::Assign(board) => service?.cookie.as_ref()?.page(board),
            _ => service?.answers.page(answer),
        };
        page.map(Arc::clone)
    };
    let (mut said, mut page) = (answer, page_of(answer));
    let resource_octets = usize::from(resource.end.saturating_sub(resource.start));
    if page
        .as_ref()
        .is_some_and(|page| page.takes_resource && page.start.len() + resource_octets > LOCATION_OCTETS_MAX)
    {
        (said, page) = (Answer::UriTooLong, page_of(Answer::UriTooLong));
    } else if matches!(said, Answer::Redirect(_) | Answer::Assign(_)) && page.is_none() {
        // A reload has taken the row, or the board, away since.
        said = Answer::Unavailable;
    }
    let Some((_, happening)) = text(said) else { return reset(core, entry) };
    let assembly = assemblies.at(&pending.assembly);
    let client_fin = assembly.fin_reached();
    let mut local = Local { answer: said, page, resource, len: 0, fin_acked: false, client_fin, sent: 0 };
    let stream = assembly.contiguous();
    pending.acked = stream.len() as u32;
    let [head @ .., body] = parts(&local, stream).map(<[u8]>::len);
    // A HEAD gets no body (RFC 9110, section 9.3.2); empty lines may stand before it.
    let body = if stream.trim_ascii_start().starts_with(b"HEAD ") { 0 } else { body };
    local.len = (head.iter().sum::<usize>() + body) as u32;
    pending.local = Some(local);
    pending.since_ms = since_ms;
    pending.event_owed = false;
    core.happened(happening);
    core.change_state(entry, State::Local);
    send(core, entry);
}

/// Octets of one segment of an answer, at most.
const CHUNK_OCTETS: usize = 1448;

/// Sends the answer (again), all of it: it is smaller than any initial window. Once the client has acknowledged it, only
/// its FIN is waited for, as long as retransmissions would have gone on.
pub fn send(core: &mut Core, entry: EntryRef) {
    let Some(flow) = core.shard.flow(entry) else { return };
    let rto_ms = core.config.timeouts.answer_rto_ms;
    let Some(pending) = core.pending_of(entry) else { return core.remove(entry) };
    let Some(local) = &mut pending.local else { return };
    if local.sent >= SENDS_MAX {
        return reset(core, entry);
    }
    local.sent += 1;
    let wait_ms = rto_ms << (local.sent - 1);
    if local.fin_acked {
        return core.schedule_in(entry, wait_ms);
    }
    // Of the length that was settled first, however much of its request the client has sent since.
    let len = local.len as usize;
    let (iss, mac, port) = (pending.iss, pending.peer_mac, pending.port);
    let chunk_len = (usize::from(pending.cookie.mss.max(64)) - 12).min(CHUNK_OCTETS);
    let head = ack_of(core, entry);
    let mut chunk = [0; CHUNK_OCTETS];
    for offset in (0..len).step_by(chunk_len) {
        let wanted = chunk_len.min(len - offset);
        let copied = pending_and_octets(core, entry).and_then(|(pending, stream)| {
            Some(copy(&parts(pending.local.as_ref()?, stream), offset, chunk.get_mut(..wanted)?))
        });
        let last = offset + wanted == len;
        let segment = Segment {
            seq: iss + 1 + offset as u32,
            flags: if last { Flags::ACK | Flags::PSH | Flags::FIN } else { Flags::ACK },
            payload: chunk.get(..copied.unwrap_or(0)).unwrap_or_default(),
            ..head
        };
        core.originate_to_client(port, mac, &flow, &segment);
    }
    core.schedule_in(entry, wait_ms);
}

/// A segment of a Local entry: the client acknowledges, goes on sending, or closes.
pub fn segment(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    if packet.flags.contains(Flags::RST) {
        if !in_window(core, entry, packet.seq) {
            return Verdict::Drop(Drop::OutOfWindow);
        }
        core.happened(Happening::ClosedByReset);
        core.remove(entry);
        return Verdict::Answered;
    }
    let timestamps = match packet.options(&mbuf) {
        Ok(options) => options.timestamps,
        Err(reason) => return Verdict::Drop(reason),
    };
    let Some((fin_acked, client_done, news)) = take(core, entry, packet, timestamps) else {
        return Verdict::Drop(Drop::OutOfWindow);
    };
    let is_new = core.shard.get(entry).is_some_and(|found| !found.closing);
    if fin_acked && client_done && is_new {
        // Both ends are done. The entry lingers, so that a client that missed our last ACK gets it again.
        if let Some(mut entry) = core.shard.get_mut(entry) {
            entry.closing = true;
        }
        core.schedule_in(entry, core.config.timeouts.linger_ms);
    }
    if !news {
        return if fin_acked { Verdict::Answered } else { Verdict::Drop(Drop::OldSegment) };
    }
    let seq = pending_seq(core, entry);
    let answer = Segment { seq, ..ack_of(core, entry) };
    match core.answer_in_place(mbuf, packet.port, packet.source_mac, &packet.flow, &answer) {
        Ok(()) => Verdict::Answered,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Whether a RST with this sequence number can be the client's own: from what we have acknowledged on (RFC 9293, section 3.10.7.4), and not as
/// far as our window is wide, so that it is no easier to guess.
fn in_window(core: &mut Core, entry: EntryRef, seq: Seq) -> bool {
    core.pending_of(entry)
        .is_some_and(|pending| (0..=WINDOW as i32).contains(&seq.diff(pending.ack_number())))
}

/// Takes what a segment says: whether our FIN is acknowledged, whether the client's has come, and whether there is
/// something in it to acknowledge. `None` when it lies outside the window.
///
/// What the client goes on sending is acknowledged and thrown away: one that reads only once it has sent all of its request would
/// never come to the answer (RFC 9112, section 9.6). That goes for what was lost on the way as well: nobody needs it, so it need not come again.
fn take(
    core: &mut Core,
    entry: EntryRef,
    packet: &TcpPacket,
    timestamps: Option<tcp::Timestamps>,
) -> Option<(bool, bool, bool)> {
    let pending = core.pending_of(entry)?;
    let (next, window) = (pending.ack_number(), pending.window_octets());
    let local = pending.local.as_mut()?;
    let end = pending.iss + 1 + local.len + 1;
    if packet.ack.gt(end) || packet.ack.lt(pending.iss + 1) {
        return None;
    }
    let ahead = packet.seq.diff(next);
    if i64::from(ahead) >= window {
        return None;
    }
    local.fin_acked |= packet.ack == end;
    if let (Some(ours), Some(theirs)) = (&mut pending.timestamps, timestamps)
        && ahead <= 0
    {
        ours.saw(theirs.tsval);
    }
    let (len, fin) = (packet.payload_len(), packet.flags.contains(Flags::FIN));
    let news = i64::from(ahead) + i64::from(len);
    if !local.client_fin {
        pending.acked = pending.acked.wrapping_add(u32::try_from(news).unwrap_or(0));
        local.client_fin = fin && news >= 0;
    }
    // One octet before the next is a probe's (RFC 9293, section 3.8.6.1).
    Some((local.fin_acked, local.client_fin, fin || len > 0 || ahead != 0))
}

/// RST to the client of an entry, and the entry's end.
pub fn reset(core: &mut Core, entry: EntryRef) {
    if let (Some(flow), Some(hanging)) =
        (core.shard.flow(entry), core.shard.get(entry).and_then(|entry| entry.pending))
        && let Some(pending) = core.pending.get(hanging)
    {
        let (mac, port) = (pending.peer_mac, pending.port);
        let seq = pending_seq(core, entry);
        let segment = Segment { seq, flags: Flags::RST | Flags::ACK, window: 0, ..ack_of(core, entry) };
        core.originate_to_client(port, mac, &flow, &segment);
        core.happened(Happening::ResetSent);
    }
    core.remove(entry);
}

/// An ACK of all that we hold of the client's, FIN included: the parts that all our segments share.
fn ack_of(core: &mut Core, entry: EntryRef) -> Segment<'static> {
    let none = Segment {
        seq: Seq::default(),
        ack: Seq::default(),
        flags: Flags::ACK,
        window: 0,
        options: Default::default(),
        payload: &[],
    };
    let Some(hanging) = core.shard.get(entry).and_then(|entry| entry.pending) else { return none };
    let Some(pending) = core.pending.get_mut(hanging) else { return none };
    let mut ack = pending.ack_number();
    if pending.local.is_none() {
        let assembly = core.assemblies.at(&pending.assembly);
        pending.acked = assembly.contiguous_len() as u32;
        ack = pending.rcv_nxt() + u32::from(assembly.fin_reached());
    }
    let window = pending.window_field();
    let stamps = pending.timestamps;
    let mut options = echo(core, stamps.map(|stamps| stamps.recent));
    if let (Some(ours), Some(stamps)) = (&mut options.timestamps, stamps)
        && stamps.echoed.wrapping_sub(ours.tsval) < 1 << 31
    {
        // A board that had the connection before has told the client a later time: it would drop an earlier one (RFC 7323, 5).
        ours.tsval = stamps.echoed;
    }
    Segment { ack, window, options, ..none }
}

/// SND.NXT: past our FIN once we have answered.
fn pending_seq(core: &mut Core, entry: EntryRef) -> Seq {
    core.pending_of(entry).map_or(Seq::default(), |pending| {
        pending.iss + 1 + pending.local.as_ref().map_or(0, |local| local.len + 1)
    })
}

fn pending_and_octets(core: &mut Core, entry: EntryRef) -> Option<(&mut Pending, &[u8])> {
    let hanging = core.shard.get(entry)?.pending?;
    let pending = core.pending.get_mut(hanging)?;
    let octets = core.assemblies.at(&pending.assembly).contiguous();
    Some((pending, octets))
}

/// RST in answer to a packet for an endpoint that nobody holds (RFC 9293, section 3.10.7.1), in the packet's own buffer.
pub fn refuse(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    if packet.flags.contains(Flags::RST) {
        return Verdict::Drop(Drop::StrayReset);
    }
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    if !core.resets.take(core.now.ms) {
        return Verdict::Drop(Drop::ResetLimit);
    }
    match refuse_unchecked(core, packet, mbuf, &packet.flow) {
        Ok(()) => Verdict::Answered,
        Err(reason) => Verdict::Drop(reason),
    }
}

fn refuse_unchecked(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf, flow: &Flow) -> Result<(), Drop> {
    let len = packet.payload_len()
        + u32::from(packet.flags.contains(Flags::SYN))
        + u32::from(packet.flags.contains(Flags::FIN));
    let (seq, ack, flags) = if packet.flags.contains(Flags::ACK) {
        (packet.ack, Seq(0), Flags::RST)
    } else {
        (Seq(0), packet.seq + len, Flags::RST | Flags::ACK)
    };
    let answer = Segment { seq, ack, flags, window: 0, options: Default::default(), payload: &[] };
    core.answer_in_place(mbuf, packet.port, packet.source_mac, flow, &answer)?;
    core.happened(Happening::ResetSent);
    Ok(())
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
