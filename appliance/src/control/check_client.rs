//! The client's side of one check: the least of TCP that brings a request to a board's socket and a status line back.
//!
//! ```text
//! Asked ──0x03──> Sent ──status line──> over, RST
//!   └──0x04──> over   └──RST, FIN or time-out──> over, detach
//! ```
//!
//! The RST at the end is meant: it spares the board a TIME-WAIT for every check. Without options, and with a window that the
//! status line fits and a page does not.

use arrayvec::ArrayVec;
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;
use ipos_wire::tcb::{STATE_ESTABLISHED, Tcb};
use ipos_wire::tcp::{Flags, Options};

use super::counters::Checked;
use super::health::Outcome;

/// RCV.WND, octets.
const WINDOW: u16 = 4096;

/// The MSS that the board is told, octets: the least that a board takes, and so one that fits every farm.
const MSS: u16 = 536;

/// `HTTP/1.1 200`: what is read of an answer.
const STATUS_LEN: usize = 12;

/// The TCP part of a segment to the board, but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
}

impl Segment {
    /// As the worker's code writes it.
    pub fn with<'a>(&self, payload: &'a [u8]) -> ipos_pipelines::segment::Segment<'a> {
        ipos_pipelines::segment::Segment {
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: WINDOW,
            options: Options::default(),
            payload,
        }
    }
}

/// What a board's segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard<'a> {
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
    /// Payload.
    pub payload: &'a [u8],
}

/// What shall be done about one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// An acknowledgement is due.
    Acknowledge,
    /// It is over.
    Over(Outcome),
}

/// One check's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// From the appliance's address to the service's.
    pub flow: Flow,
    /// The attempt's migration id.
    pub id: u64,
    /// The board has acknowledged the endpoint: the request is on its way.
    pub acknowledged: bool,
    /// The board's TCP has acknowledged the request.
    pub delivered: bool,
    /// The endpoint's ISS, from which the board's socket goes on.
    iss: Seq,
    /// RCV.NXT.
    rcv_nxt: Seq,
    /// SND.UNA of the client: where the request starts.
    start: Seq,
    request_len: u32,
    status: ArrayVec<u8, STATUS_LEN>,
}

impl Client {
    /// A connection whose handshake is over, as the board shall believe.
    pub fn new(flow: Flow, id: u64, [iss, irs]: [Seq; 2], request_len: u32) -> Self {
        Self {
            flow,
            id,
            acknowledged: false,
            delivered: false,
            iss,
            rcv_nxt: iss + 1,
            start: irs + 1,
            request_len,
            status: ArrayVec::new(),
        }
    }

    /// The endpoint for the Connection Packet, but for appliance and epoch.
    pub fn tcb(&self) -> Tcb {
        Tcb {
            state: STATE_ESTABLISHED,
            client_mss: MSS,
            our_mss: MSS,
            iss: self.iss,
            irs: self.start - 1,
            snd_una: self.iss + 1,
            snd_nxt: self.iss + 1,
            snd_wnd: u32::from(WINDOW),
            snd_wl1: self.start,
            snd_wl2: self.iss + 1,
            rcv_nxt: self.start,
            rcv_wnd: u32::from(u16::MAX),
            migration_id: self.id,
            octets_following: self.request_len,
            ..Tcb::default()
        }
    }

    /// The segment that carries the request.
    pub fn request(&self) -> Segment {
        Segment { seq: self.start, ack: self.iss + 1, flags: Flags::ACK | Flags::PSH }
    }

    /// An acknowledgement.
    pub fn acknowledgement(&self) -> Segment {
        Segment { seq: self.start + self.request_len, ack: self.rcv_nxt, flags: Flags::ACK }
    }

    /// The end.
    pub fn reset(&self) -> Segment {
        Segment { flags: Flags::RST | Flags::ACK, ..self.acknowledgement() }
    }

    /// Takes a segment of the board's.
    pub fn take(&mut self, heard: Heard<'_>, expect: u16) -> Step {
        let end = self.start + self.request_len;
        let offset = self.rcv_nxt.diff(heard.seq);
        if heard.flags.contains(Flags::RST) {
            return if self.acknowledged && offset == 0 { Step::Over(cut()) } else { Step::Wait };
        }
        // Before the request, and of another connection than this one, nothing counts.
        if !self.acknowledged || heard.ack.gt(end) || heard.ack.lt(self.start) {
            return Step::Wait;
        }
        self.delivered |= heard.ack == end;
        let Some(new) = usize::try_from(offset).ok().and_then(|offset| heard.payload.get(offset..)) else {
            // Past a gap, or all of it old: the board sends again what is missing, or has missed our acknowledgement.
            return if offset > 0 { Step::Acknowledge } else { Step::Wait };
        };
        self.rcv_nxt = self.rcv_nxt + new.len() as u32;
        let room = self.status.remaining_capacity();
        self.status.extend(new.iter().take(room).copied());
        if self.status.is_full() {
            return Step::Over(judge(&self.status, expect));
        }
        if heard.flags.contains(Flags::FIN) {
            return Step::Over(cut());
        }
        if heard.payload.is_empty() { Step::Wait } else { Step::Acknowledge }
    }

    /// How it ends when its time is over.
    pub fn timed_out(&self) -> Outcome {
        let how = if self.acknowledged { Checked::NoAnswer } else { Checked::Silent };
        Outcome { how, code: 0 }
    }
}

fn cut() -> Outcome {
    Outcome { how: Checked::Cut, code: 0 }
}

/// RFC 9112, section 4: `HTTP-version SP status-code`.
fn judge(line: &[u8], expect: u16) -> Outcome {
    let status = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', code @ ..] if minor.is_ascii_digit() => {
            let digits =
                std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|code| code.parse().ok())
        }
        _ => None,
    };
    match status {
        Some(status) if status == expect => Outcome { how: Checked::Passed, code: status },
        Some(status) => Outcome { how: Checked::OtherStatus, code: status },
        None => Outcome { how: Checked::NotHttp, code: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::flow;
    use super::*;

    const ISS: Seq = Seq(u32::MAX - 3);
    const IRS: Seq = Seq(77);

    fn client() -> Client {
        let mut client = Client::new(flow(50_000), 9, [ISS, IRS], 30);
        client.acknowledged = true;
        client
    }

    fn heard(offset: u32, flags: Flags, payload: &[u8]) -> Heard<'_> {
        Heard { seq: ISS + 1 + offset, ack: IRS + 31, flags, payload }
    }

    fn over(how: Checked, code: u16) -> Step {
        Step::Over(Outcome { how, code })
    }

    #[test]
    fn a_status_line_decides_however_it_is_cut() {
        let line = b"HTTP/1.1 200 OK\r\n";
        for cut in 1..STATUS_LEN {
            let mut client = client();
            assert_eq!(client.take(heard(0, Flags::ACK, &line[..cut]), 200), Step::Acknowledge);
            assert_eq!(client.acknowledgement().ack, ISS + 1 + cut as u32);
            // What was there already comes again with the rest.
            assert_eq!(client.take(heard(0, Flags::ACK, line), 200), over(Checked::Passed, 200));
            let reset = client.reset();
            assert_eq!((reset.seq, reset.ack), (IRS + 31, ISS + 1 + line.len() as u32));
        }
    }

    #[test]
    fn other_answers_fail_each_for_its_reason() {
        for (payload, expected) in [
            (&b"HTTP/1.0 503 Busy"[..], over(Checked::OtherStatus, 503)),
            (b"HTTP/2.0 200 OK\r\n", over(Checked::NotHttp, 0)),
            (b"HTTP/1.1 2x0 OK\r\n", over(Checked::NotHttp, 0)),
            (b"HTTP/1.1 +20 OK\r\n", over(Checked::NotHttp, 0)),
            (b"SSH-2.0-OpenSSH_9.2", over(Checked::NotHttp, 0)),
        ] {
            assert_eq!(client().take(heard(0, Flags::ACK, payload), 200), expected, "{payload:?}");
        }
        assert_eq!(client().take(heard(0, Flags::RST, b""), 200), over(Checked::Cut, 0));
        assert_eq!(client().take(heard(0, Flags::ACK | Flags::FIN, b"HTTP"), 200), over(Checked::Cut, 0));
    }

    #[test]
    fn what_is_not_next_decides_nothing() {
        let mut client = client();
        assert_eq!(client.take(heard(1, Flags::ACK, b"TTP/1.1 200 OK"), 200), Step::Wait, "past a gap");
        assert_eq!(client.take(heard(1, Flags::RST, b""), 200), Step::Wait, "a RST that is not next");
        let foreign = Heard { ack: IRS + 32, ..heard(0, Flags::ACK, b"HTTP/1.1 200 OK") };
        assert_eq!(client.take(foreign, 200), Step::Wait, "acknowledges what was never sent");
        assert_eq!(client.take(heard(0, Flags::ACK, b""), 200), Step::Wait);
        assert!(client.delivered);
        let mut early = Client { acknowledged: false, ..client };
        assert_eq!(
            early.take(heard(0, Flags::ACK, b"HTTP/1.1 200 OK"), 200),
            Step::Wait,
            "before the request"
        );
    }

    #[test]
    fn the_control_block_continues_where_the_request_starts() {
        let client = client();
        let tcb = client.tcb();
        assert_eq!((tcb.rcv_nxt, tcb.snd_nxt), (client.request().seq, client.request().ack));
        assert_eq!((tcb.snd_una, tcb.irs + 1, tcb.migration_id), (tcb.snd_nxt, tcb.rcv_nxt, 9));
    }
}
