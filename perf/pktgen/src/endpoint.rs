//! A board's end of a client's connection, as small as can be: it answers one request, and closes when the client does.
//! Answers do not travel: they reach the client's end in the same process, as a board's go past the appliance.

use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::frame::Received;

/// How a request head ends (RFC 9112 section 2.1).
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// There is none.
    #[default]
    Free,
    /// Taken over (or accepted); waits for the request.
    Held,
    /// The request is answered.
    Served,
    /// Both sides have closed; waits for the last ACK.
    LastAck,
}

/// One endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Endpoint {
    /// The attempt that brought it.
    pub id: u64,
    /// SND.NXT.
    pub snd_nxt: u32,
    /// RCV.NXT.
    pub rcv_nxt: u32,
    /// Which board holds it.
    pub board: u16,
    /// Where it stands.
    pub state: State,
}

/// What the endpoint says to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// SEG.SEQ.
    pub seq: u32,
    /// SEG.ACK.
    pub ack: u32,
    /// Octets of data.
    pub octets: u32,
    /// With SYN.
    pub syn: bool,
    /// With FIN.
    pub fin: bool,
}

/// What a segment led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to say.
    Nothing,
    /// An answer.
    Reply(Reply),
    /// The endpoint is gone.
    Closed,
}

impl Endpoint {
    /// A connection taken over at these numbers.
    #[must_use]
    pub fn taken_over(id: u64, snd_nxt: u32, rcv_nxt: u32, board: u16) -> Self {
        Self { id, snd_nxt, rcv_nxt, board, state: State::Held }
    }

    /// A connection accepted here, without an appliance: the SYN-ACK.
    pub fn accept(&mut self, syn: &Received<'_>, iss: u32, board: u16) -> Reply {
        *self = Self::taken_over(0, iss.wrapping_add(1), syn.seq.wrapping_add(1), board);
        Reply { seq: iss, ack: self.rcv_nxt, octets: 0, syn: true, fin: false }
    }

    fn reply(&self, seq: u32, octets: u32, fin: bool) -> Step {
        Step::Reply(Reply { seq, ack: self.rcv_nxt, octets, syn: false, fin })
    }

    /// A segment from the client; the answer to a request has `response_octets`.
    pub fn receive(&mut self, segment: &Received<'_>, response_octets: u32) -> Step {
        if self.state == State::Free {
            return Step::Nothing;
        }
        if segment.flags.contains(Flags::RST) {
            self.state = State::Free;
            return Step::Closed;
        }
        if self.state == State::LastAck && segment.ack == self.snd_nxt {
            self.state = State::Free;
            return Step::Closed;
        }
        let end = Seq(segment.seq) + segment.payload.len() as u32;
        let fin = segment.flags.contains(Flags::FIN);
        if segment.seq != self.rcv_nxt {
            return self.old(end, fin, response_octets);
        }
        self.rcv_nxt = end.0;
        if self.state == State::Held && segment.payload.ends_with(HEAD_END) {
            self.state = State::Served;
            let seq = self.snd_nxt;
            self.snd_nxt = seq.wrapping_add(response_octets);
            return self.reply(seq, response_octets, false);
        }
        if fin && self.state != State::LastAck {
            self.rcv_nxt = self.rcv_nxt.wrapping_add(1);
            self.state = State::LastAck;
            let seq = self.snd_nxt;
            self.snd_nxt = seq.wrapping_add(1);
            return self.reply(seq, 0, true);
        }
        Step::Nothing
    }

    /// A segment that came before, wholly: what was answered then is answered again.
    fn old(&self, end: Seq, fin: bool, response_octets: u32) -> Step {
        let is_old = end.le(Seq(self.rcv_nxt));
        match self.state {
            State::Served if is_old && !fin => {
                self.reply(self.snd_nxt.wrapping_sub(response_octets), response_octets, false)
            }
            State::LastAck if is_old && fin => self.reply(self.snd_nxt.wrapping_sub(1), 0, true),
            _ => Step::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn segment(seq: u32, ack: u32, flags: Flags, payload: &[u8]) -> Received<'_> {
        let any = Ipv4Addr::UNSPECIFIED;
        Received { src: any, dst: any, src_port: 0, dst_port: 0, seq, ack, flags, payload }
    }

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    #[test]
    fn a_request_is_answered_once_it_is_whole_and_the_close_is_mutual() {
        let mut endpoint = Endpoint::taken_over(5, u32::MAX - 9, 100, 0);
        let (first, second) = REQUEST.split_at(7);
        assert_eq!(endpoint.receive(&segment(100, 0, Flags::ACK, first), 1000), Step::Nothing);
        let reply = Reply { seq: u32::MAX - 9, ack: 118, octets: 1000, syn: false, fin: false };
        assert_eq!(endpoint.receive(&segment(107, 0, Flags::ACK, second), 1000), Step::Reply(reply));
        assert_eq!(endpoint.receive(&segment(107, 0, Flags::ACK, second), 1000), Step::Reply(reply), "again");
        let fin = Reply { seq: 990, ack: 119, octets: 0, syn: false, fin: true };
        assert_eq!(
            endpoint.receive(&segment(118, 990, Flags::ACK | Flags::FIN, b""), 1000),
            Step::Reply(fin)
        );
        assert_eq!(
            endpoint.receive(&segment(118, 990, Flags::ACK | Flags::FIN, b""), 1000),
            Step::Reply(fin),
            "again"
        );
        assert_eq!(endpoint.receive(&segment(119, 991, Flags::ACK, b""), 1000), Step::Closed);
        assert_eq!(endpoint.receive(&segment(119, 991, Flags::ACK, b""), 1000), Step::Nothing);
    }

    #[test]
    fn a_reset_closes_and_a_gap_waits() {
        let mut endpoint = Endpoint::default();
        let reply = endpoint.accept(&segment(9, 0, Flags::SYN, b""), 50, 0);
        assert_eq!((reply.seq, reply.ack, reply.syn), (50, 10, true));
        assert_eq!(endpoint.receive(&segment(11, 51, Flags::ACK, REQUEST), 1), Step::Nothing);
        assert_eq!(endpoint.receive(&segment(10, 51, Flags::RST, b""), 1), Step::Closed);
        assert_eq!(endpoint.state, State::Free);
    }
}
