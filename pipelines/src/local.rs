//! Local: endpoints that the appliance serves itself, to say why it does not pass them on (the Local Table of Fig. 12).
//!
//! Input: an entry and what to say; later the client's segments. Output: a small HTTP answer or a TLS alert with our FIN, retransmitted
//! until the client has acknowledged it; or a RST. Owner: the worker. Cost: off the fast path.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::entry::{Local, Pending, State};
use crate::handoff::{self, Alert, Answer, RetryAfter};
use crate::handshake::echo;
use crate::parse::TcpPacket;
use crate::request::assembly::WINDOW;
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

/// What the appliance says, and what it counts. `None` for a RST.
const fn text(answer: Answer) -> Option<(&'static str, Happening)> {
    Some(match answer {
        Answer::BadRequest => (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 16\r\nConnection: close\r\n\r\n\
             400 Bad Request\n",
            Happening::AnsweredBadRequest,
        ),
        Answer::RequestTimeout => (
            "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain\r\nContent-Length: 20\r\nConnection: close\r\n\r\n\
             408 Request Timeout\n",
            Happening::AnsweredTimeout,
        ),
        Answer::HeadTooLarge => (
            "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\
             Connection: close\r\n\r\n431 Request Header Fields Too Large\n",
            Happening::AnsweredTooLarge,
        ),
        Answer::Unavailable | Answer::NotYet(RetryAfter::S1) => unavailable!("1"),
        Answer::NotYet(RetryAfter::S2) => unavailable!("2"),
        Answer::NotYet(RetryAfter::S5) => unavailable!("5"),
        Answer::NotYet(RetryAfter::S10) => unavailable!("10"),
        Answer::NotYet(RetryAfter::S30) => unavailable!("30"),
        Answer::NotYet(RetryAfter::S60) => unavailable!("60"),
        Answer::Alert(alert) => (alert_record(alert), Happening::AlertSent),
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

/// The octets of an answer to a request that starts like this: a HEAD gets no body.
fn octets(answer: Answer, request: &[u8]) -> &'static [u8] {
    let Some((text, _)) = text(answer) else { return &[] };
    match (request.starts_with(b"HEAD "), text.find("\r\n\r\n")) {
        (true, Some(end)) => text.as_bytes().get(..end + 4).unwrap_or_default(),
        _ => text.as_bytes(),
    }
}

/// What an answer in HTTP comes to where clients speak something else, and why it is given.
const fn in_the_clients_words(kind: Kind, answer: Answer) -> (Answer, Option<Happening>) {
    use Answer::{Alert, BadRequest, HeadTooLarge, NotYet, RequestTimeout, Reset, Unavailable};
    match (kind, answer) {
        (Kind::Http, _) | (_, Reset | Alert(_)) => (answer, None),
        // What they speak is not known.
        (Kind::Tcp, _) => (Reset, Some(Happening::ResetUnplaced)),
        (Kind::Tls, BadRequest) => (Alert(handoff::Alert::DecodeError), Some(Happening::HelloCut)),
        (Kind::Tls, HeadTooLarge) => (Alert(handoff::Alert::DecodeError), Some(Happening::HelloTooLong)),
        (Kind::Tls, RequestTimeout) => (Alert(handoff::Alert::CloseNotify), Some(Happening::HelloTimeout)),
        (Kind::Tls, Unavailable | NotYet(_)) => {
            (Alert(handoff::Alert::InternalError), Some(Happening::AlertUnavailable))
        }
    }
}

/// Answers the client of an entry that nobody else will serve, in the words of its service's kind. A RST ends the entry at
/// once; anything else moves it to the Local Table.
pub fn answer(core: &mut Core, entry: EntryRef, answer: Answer) {
    let kind = core.pending_of(entry).map_or(Kind::Http, |pending| pending.kind);
    let (answer, reason) = in_the_clients_words(kind, answer);
    if let Some(reason) = reason {
        core.happened(reason);
    }
    let Some((_, happening)) = text(answer) else { return reset(core, entry) };
    core.happened(happening);
    let since_ms = core.now.ms;
    let Some((pending, request)) = pending_and_octets(core, entry) else { return core.remove(entry) };
    let len = octets(answer, request).len() as u32;
    pending.local = Some(Local { answer, len, fin_acked: false, sent: 0 });
    pending.since_ms = since_ms;
    pending.event_owed = false;
    core.change_state(entry, State::Local);
    send(core, entry);
}

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
    let text = octets(local.answer, &[]).get(..local.len as usize).unwrap_or_default();
    let (iss, mss, mac, port) = (pending.iss, pending.cookie.mss, pending.peer_mac, pending.port);
    let head = ack_of(core, entry);
    let chunk_len = usize::from(mss.max(64)) - 12;
    let chunks = text.chunks(chunk_len).count();
    for (at, chunk) in text.chunks(chunk_len).enumerate() {
        let last = at + 1 == chunks;
        let segment = Segment {
            seq: iss + 1 + (at * chunk_len) as u32,
            flags: if last { Flags::ACK | Flags::PSH | Flags::FIN } else { Flags::ACK },
            payload: chunk,
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
    let Some((fin_acked, client_done, news)) = take(core, entry, packet, &mbuf) else {
        return Verdict::Drop(Drop::OutOfWindow);
    };
    if fin_acked && client_done {
        // Both ends are done. The entry lingers, so that a client that missed our last ACK gets it again.
        let linger_ms = core.config.timeouts.linger_ms;
        if let Some(mut entry) = core.shard.get_mut(entry) {
            entry.closing = true;
        }
        core.schedule_in(entry, linger_ms);
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

/// Whether a RST with this sequence number can be the client's own (RFC 9293, section 3.10.7.4): from what we have
/// acknowledged on to the window's end, the client's FIN included.
fn in_window(core: &mut Core, entry: EntryRef, seq: Seq) -> bool {
    core.pending_of(entry).is_some_and(|pending| {
        let offset = i64::from(pending.offset_of(seq));
        (i64::from(pending.acked)..=WINDOW as i64 + 1).contains(&offset)
    })
}

/// Takes what a segment says: whether our FIN is acknowledged, whether the client's has come, and whether there is
/// something in it to acknowledge. `None` when it lies outside the window.
fn take(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: &Mbuf) -> Option<(bool, bool, bool)> {
    let hanging = core.shard.get(entry)?.pending?;
    let pending = core.pending.get_mut(hanging)?;
    let local = pending.local.as_mut()?;
    let end = pending.iss + 1 + local.len + 1;
    if packet.ack.gt(end) || packet.ack.lt(pending.iss + 1) {
        return None;
    }
    local.fin_acked |= packet.ack == end;
    let fin_acked = local.fin_acked;
    let offset = u32::try_from(packet.seq.diff(pending.irs + 1)).ok()?;
    let payload = packet.payload(mbuf);
    let assembly = core.assemblies.at_mut(&pending.assembly);
    assembly.insert(offset, payload).ok()?;
    let fin = packet.flags.contains(Flags::FIN);
    if fin {
        assembly.note_fin(offset + payload.len() as u32).ok()?;
    }
    pending.acked = assembly.contiguous_len() as u32;
    Some((fin_acked, assembly.fin_reached(), fin || !payload.is_empty()))
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
    let assembly = core.assemblies.at(&pending.assembly);
    pending.acked = assembly.contiguous_len() as u32;
    let ack = pending.rcv_nxt() + u32::from(assembly.fin_reached());
    let window = pending.window_field();
    let recent = pending.timestamps.map(|stamps| stamps.recent);
    Segment { ack, window, options: echo(core, recent), ..none }
}

/// SND.NXT: past our FIN once we have answered.
fn pending_seq(core: &mut Core, entry: EntryRef) -> Seq {
    core.pending_of(entry)
        .map_or(Seq::default(), |pending| pending.iss + 1 + pending.local.map_or(0, |local| local.len + 1))
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
mod tests {
    use super::*;

    const ANSWERS: [Answer; 7] = [
        Answer::BadRequest,
        Answer::RequestTimeout,
        Answer::HeadTooLarge,
        Answer::Unavailable,
        Answer::NotYet(RetryAfter::S1),
        Answer::NotYet(RetryAfter::S10),
        Answer::NotYet(RetryAfter::S60),
    ];

    #[test]
    fn a_service_that_starts_says_when_to_come_again() {
        for (seconds, said) in [(0, 1), (2, 2), (3, 5), (9, 10), (11, 30), (31, 60), (u64::MAX, 60)] {
            let answer = Answer::NotYet(RetryAfter::at_least(seconds));
            let text = String::from_utf8_lossy(octets(answer, b"GET / HTTP/1.1\r\n")).into_owned();
            assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
            assert!(text.contains(&format!("\r\nRetry-After: {said}\r\n")), "{seconds}: {text}");
        }
    }

    #[test]
    fn content_length_is_the_bodys() {
        for answer in ANSWERS {
            let text = std::str::from_utf8(octets(answer, b"GET / HTTP/1.1\r\n")).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), body.len(), "{text}");
            assert!(head.contains("\r\nConnection: close"));
        }
    }

    #[test]
    fn alerts_are_records_of_one_alert() {
        let alerts = [
            (Alert::CloseNotify, [1, 0]),
            (Alert::DecodeError, [2, 50]),
            (Alert::InternalError, [2, 80]),
            (Alert::UnrecognizedName, [2, 112]),
        ];
        for (alert, [level, description]) in alerts {
            let record = octets(Answer::Alert(alert), b"HEAD ");
            assert_eq!(record, [21, 3, 3, 0, 2, level, description]);
        }
    }

    #[test]
    fn every_answer_has_words_for_every_kind() {
        for answer in ANSWERS {
            assert_eq!(in_the_clients_words(Kind::Http, answer), (answer, None));
            assert_eq!(
                in_the_clients_words(Kind::Tcp, answer),
                (Answer::Reset, Some(Happening::ResetUnplaced))
            );
            let (alert, reason) = in_the_clients_words(Kind::Tls, answer);
            assert!(matches!(alert, Answer::Alert(_)) && reason.is_some(), "{answer:?}");
        }
        for kind in [Kind::Http, Kind::Tcp, Kind::Tls] {
            assert_eq!(in_the_clients_words(kind, Answer::Reset), (Answer::Reset, None));
        }
    }

    #[test]
    fn a_head_request_gets_no_body() {
        for answer in ANSWERS {
            let text = octets(answer, b"HEAD /x HTTP/1.1\r\n");
            assert!(text.ends_with(b"\r\n\r\n"), "{text:?}");
        }
    }
}
