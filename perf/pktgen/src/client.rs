//! The clients' end of many connections: SYN, ACK, request, ACKs, FIN, with retransmission and a deadline for each.
//!
//! Slots are used in turn, so that a pair of address and port rests as long as possible before it is used again. Time-outs
//! are found by a sweep of bounded work per poll.

use std::collections::VecDeque;

use ipos_wire::tcp::{Flags, Options};
use serde::Serialize;

use crate::addressing::Clients;
use crate::endpoint::Reply;
use crate::frame::{Received, Segment, Way};
use crate::lane::Lane;
use crate::latency::Latency;

/// Octets of data in a board's segment: the appliance advertises 1444 (design: system.md, step 1).
const MSS: u32 = 1444;
/// What a client offers; as Linux, but for time stamps.
const OFFER: Options =
    Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, timestamps: None };
/// No options.
const NONE: Options = Options { mss: None, window_scale: None, sack_permitted: false, timestamps: None };
/// Most slots that one sweep looks at.
const SWEEP_MAX: u64 = 512;

/// How patient clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until something is sent again, nanoseconds.
    pub rto_ns: u64,
    /// Until a connection has failed, nanoseconds from its start.
    pub timeout_ns: u64,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Free,
    SynSent,
    Requested,
    Open,
    FinSent,
}

#[derive(Debug, Clone, Copy, Default)]
struct Connection {
    state: State,
    snd_nxt: u32,
    rcv_nxt: u32,
    intended_ns: u64,
    started_ns: u64,
    /// When the segment that waits for its answer was sent first.
    asked_ns: u64,
    /// When it was sent last.
    resent_ns: u64,
}

/// What became of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct ConnectionCounters {
    /// SYNs of new connections.
    pub started: u64,
    /// Request answered (and, unless it stays open, closed from both ends).
    pub completed: u64,
    /// No answer before the deadline.
    pub failed_timeout: u64,
    /// Reset.
    pub failed_reset: u64,
    /// Answered by the appliance itself (4xx, 5xx) instead of a board.
    pub failed_answered: u64,
    /// Segments sent again.
    pub retransmitted: u64,
    /// Starts that found every slot in use, and waited for one.
    pub starved: u64,
}

impl ConnectionCounters {
    /// Connections that failed, for whatever reason.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed_timeout + self.failed_reset + self.failed_answered
    }
}

/// Latencies of connections.
#[derive(Debug, Default)]
pub struct ConnectionLatency {
    /// From the connection's start to the first octet of the answer.
    pub first_octet: Latency,
    /// From SYN to SYN-ACK.
    pub handshake: Latency,
    /// From the request to the first octet of the answer: decision, migration, delivery.
    pub request: Latency,
}

/// What a client needs to send: the time, its port and the way to the next hop.
#[derive(Debug)]
pub struct Io<'a> {
    /// Now, nanoseconds.
    pub now_ns: u64,
    /// The clients' port.
    pub lane: &'a mut Lane,
    /// The way to the target.
    pub way: Way,
}

impl Io<'_> {
    /// Sends a segment. What finds no room is lost, as on any wire.
    fn segment(&mut self, segment: &Segment<'_>) {
        let way = self.way;
        self.lane.send(segment.frame_octets(), |frame| segment.write(way, frame));
    }
}

/// All clients.
#[derive(Debug)]
pub struct ClientSide {
    clients: Clients,
    slots: Box<[Connection]>,
    free: VecDeque<u32>,
    open: Vec<u32>,
    request: Vec<u8>,
    patience: Patience,
    hold_open: bool,
    swept: u64,
    sweep_cursor: usize,
    sweep_from_ns: u64,
    counters: ConnectionCounters,
    latency: ConnectionLatency,
}

impl ClientSide {
    /// Clients with `slots` connections at once, which all ask the same. With `hold_open`, connections stay open once
    /// their request is answered.
    #[must_use]
    pub fn new(clients: Clients, slots: u32, request: Vec<u8>, patience: Patience, hold_open: bool) -> Self {
        Self {
            clients,
            slots: vec![Connection::default(); slots as usize].into_boxed_slice(),
            free: (0..slots).collect(),
            open: Vec::with_capacity(if hold_open { slots as usize } else { 0 }),
            request,
            patience,
            hold_open,
            swept: 0,
            sweep_cursor: 0,
            sweep_from_ns: 0,
            counters: ConnectionCounters::default(),
            latency: ConnectionLatency::default(),
        }
    }

    /// What became of connections since [`ClientSide::next_trial`].
    #[must_use]
    pub fn counters(&self) -> ConnectionCounters {
        self.counters
    }

    /// Their latencies.
    #[must_use]
    pub fn latency(&self) -> &ConnectionLatency {
        &self.latency
    }

    /// Connections under way, those that are held open not counted.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len() - self.open.len()
    }

    /// Connections that are held open.
    #[must_use]
    pub fn open(&self) -> &[u32] {
        &self.open
    }

    /// SND.NXT and RCV.NXT of an open connection.
    #[must_use]
    pub fn numbers(&self, slot: u32) -> Option<(u32, u32)> {
        self.slots.get(slot as usize).map(|c| (c.snd_nxt, c.rcv_nxt))
    }

    /// Counts from zero. Connections under way go on, and count when they end.
    pub fn next_trial(&mut self) {
        self.counters = ConnectionCounters::default();
        self.latency = ConnectionLatency::default();
    }

    fn segment<'a>(&self, slot: u32, flags: Flags, payload: &'a [u8]) -> Option<Segment<'a>> {
        let connection = self.slots.get(slot as usize)?;
        let flow = self.clients.flow(slot.into());
        Some(Segment {
            flow,
            seq: connection.snd_nxt,
            ack: connection.rcv_nxt,
            flags,
            options: NONE,
            payload,
        })
    }

    /// Opens the next connection; `false` when every slot is in use.
    pub fn start(&mut self, intended_ns: u64, io: &mut Io<'_>) -> bool {
        let Some(slot) = self.free.pop_front() else {
            self.counters.starved += 1;
            return false;
        };
        let now_ns = io.now_ns;
        let flow = self.clients.flow(slot.into());
        // As RFC 9293 section 3.4.1 has it: grows every 4 us, and differs between flows.
        let iss = ((now_ns >> 12) as u32).wrapping_add(slot.wrapping_mul(0x9e37_79b1));
        if let Some(connection) = self.slots.get_mut(slot as usize) {
            *connection = Connection {
                state: State::SynSent,
                snd_nxt: iss,
                rcv_nxt: 0,
                intended_ns,
                started_ns: now_ns,
                asked_ns: now_ns,
                resent_ns: now_ns,
            };
        }
        self.counters.started += 1;
        io.segment(&Segment { flow, seq: iss, ack: 0, flags: Flags::SYN, options: OFFER, payload: &[] });
        true
    }

    /// A packet that the target sent to a client.
    pub fn receive(&mut self, packet: &Received<'_>, io: &mut Io<'_>) {
        let Some(slot) = self.clients.slot(&packet.to_client()).and_then(|slot| u32::try_from(slot).ok())
        else {
            return;
        };
        let Some(connection) = self.slots.get(slot as usize) else { return };
        let state = connection.state;
        if state == State::Free {
            return;
        }
        if packet.flags.contains(Flags::RST) {
            // One that answers what was sent last, or follows what was received last (RFC 9293 section 3.10.7).
            if packet.ack.wrapping_sub(connection.snd_nxt) <= 1 || packet.seq == connection.rcv_nxt {
                self.counters.failed_reset += 1;
                self.give_back(slot);
            }
        } else if packet.flags.contains(Flags::SYN | Flags::ACK) {
            let reply = Reply { seq: packet.seq, ack: packet.ack, octets: 0, syn: true, fin: false };
            self.replied(slot, &reply, io);
        } else if state == State::Requested
            && (!packet.payload.is_empty() || packet.flags.contains(Flags::FIN))
        {
            self.counters.failed_answered += 1;
            self.reset(slot, io);
        }
    }

    /// What a board (or the appliance, with SYN) said to a client.
    pub fn replied(&mut self, slot: u32, reply: &Reply, io: &mut Io<'_>) {
        let Some(connection) = self.slots.get(slot as usize) else { return };
        match connection.state {
            State::SynSent if reply.syn && reply.ack == connection.snd_nxt.wrapping_add(1) => {
                self.ask(slot, reply, io);
            }
            State::Requested if reply.octets > 0 && reply.seq == connection.rcv_nxt => {
                self.take_answer(slot, reply, io);
            }
            State::FinSent if reply.fin && reply.seq == connection.rcv_nxt => {
                self.advance(slot, State::FinSent, 0, 1, io.now_ns);
                if let Some(ack) = self.segment(slot, Flags::ACK, &[]) {
                    io.segment(&ack);
                }
                self.counters.completed += 1;
                self.give_back(slot);
            }
            _ => {}
        }
    }

    /// Moves a connection on; returns it as it was.
    fn advance(&mut self, slot: u32, state: State, sent: u32, received: u32, now_ns: u64) -> Connection {
        let Some(connection) = self.slots.get_mut(slot as usize) else { return Connection::default() };
        let before = *connection;
        connection.state = state;
        connection.snd_nxt = before.snd_nxt.wrapping_add(sent);
        connection.rcv_nxt = before.rcv_nxt.wrapping_add(received);
        (connection.asked_ns, connection.resent_ns) = (now_ns, now_ns);
        before
    }

    /// The handshake is done: ACK, and the request.
    fn ask(&mut self, slot: u32, syn_ack: &Reply, io: &mut Io<'_>) {
        let now_ns = io.now_ns;
        let before = self.advance(slot, State::Requested, 1, syn_ack.seq.wrapping_add(1), now_ns);
        self.latency.handshake.record(before.intended_ns, before.asked_ns, now_ns);
        if let Some(ack) = self.segment(slot, Flags::ACK, &[]) {
            io.segment(&ack);
        }
        self.send_request(slot, io);
    }

    fn send_request(&self, slot: u32, io: &mut Io<'_>) {
        if let Some(request) = self.segment(slot, Flags::ACK | Flags::PSH, &self.request) {
            io.segment(&request);
        }
    }

    /// The answer is here: one ACK for every second segment of it (RFC 9293 section 3.8.6.3), and FIN.
    fn take_answer(&mut self, slot: u32, reply: &Reply, io: &mut Io<'_>) {
        let now_ns = io.now_ns;
        let next = if self.hold_open { State::Open } else { State::FinSent };
        let before = self.advance(slot, next, self.request.len() as u32, 0, now_ns);
        self.latency.request.record(before.asked_ns, before.asked_ns, now_ns);
        self.latency.first_octet.record(before.intended_ns, before.started_ns, now_ns);
        let mut left = reply.octets;
        while left > 0 {
            let acknowledged = left.min(2 * MSS);
            left -= acknowledged;
            self.advance(slot, next, 0, acknowledged, now_ns);
            if let Some(ack) = self.segment(slot, Flags::ACK, &[]) {
                io.segment(&ack);
            }
        }
        if self.hold_open {
            self.counters.completed += 1;
            self.open.push(slot);
            return;
        }
        self.send_fin(slot, io);
        self.advance(slot, State::FinSent, 1, 0, now_ns);
    }

    fn send_fin(&self, slot: u32, io: &mut Io<'_>) {
        if let Some(fin) = self.segment(slot, Flags::ACK | Flags::FIN, &[]) {
            io.segment(&fin);
        }
    }

    fn give_back(&mut self, slot: u32) {
        if let Some(connection) = self.slots.get_mut(slot as usize) {
            connection.state = State::Free;
            self.free.push_back(slot);
        }
    }

    /// Resets a connection and gives its slot back.
    fn reset(&mut self, slot: u32, io: &mut Io<'_>) {
        if let Some(reset) = self.segment(slot, Flags::RST | Flags::ACK, &[]) {
            io.segment(&reset);
        }
        self.give_back(slot);
    }

    /// Resets one open connection; `false` when there is none left.
    pub fn reset_next_open(&mut self, io: &mut Io<'_>) -> bool {
        let Some(slot) = self.open.pop() else { return false };
        self.reset(slot, io);
        true
    }

    /// Sends again what has waited too long, and gives up what has waited for ever. Looks at every slot four times in a
    /// retransmission time-out, at most 512 in a call.
    pub fn sweep(&mut self, io: &mut Io<'_>) {
        let elapsed_ns = io.now_ns.saturating_sub(self.sweep_from_ns);
        let quarter_ns = (self.patience.rto_ns / 4).max(1);
        let due = (u128::from(elapsed_ns) * self.slots.len() as u128 / u128::from(quarter_ns)) as u64;
        let due = due.saturating_sub(self.swept).min(SWEEP_MAX).min(self.slots.len() as u64);
        if due == 0 {
            return;
        }
        self.swept += due;
        if elapsed_ns > quarter_ns {
            // A sweep that fell behind is not caught up: the next one starts from here.
            (self.sweep_from_ns, self.swept) = (io.now_ns, 0);
        }
        for _ in 0..due {
            let slot = self.sweep_cursor as u32;
            self.sweep_cursor = (self.sweep_cursor + 1) % self.slots.len().max(1);
            self.check_time(slot, io);
        }
    }

    fn check_time(&mut self, slot: u32, io: &mut Io<'_>) {
        let now_ns = io.now_ns;
        let Patience { rto_ns, timeout_ns } = self.patience;
        let Some(connection) = self.slots.get_mut(slot as usize) else { return };
        if matches!(connection.state, State::Free | State::Open)
            || now_ns.saturating_sub(connection.resent_ns) < rto_ns
        {
            return;
        }
        if now_ns.saturating_sub(connection.started_ns) >= timeout_ns {
            self.counters.failed_timeout += 1;
            self.reset(slot, io);
            return;
        }
        connection.resent_ns = now_ns;
        self.counters.retransmitted += 1;
        match connection.state {
            State::SynSent => {
                let flow = self.clients.flow(slot.into());
                let (seq, flags) = (connection.snd_nxt, Flags::SYN);
                io.segment(&Segment { flow, seq, ack: 0, flags, options: OFFER, payload: &[] });
            }
            State::Requested => self.send_request(slot, io),
            // SND.NXT has the FIN behind it already.
            State::FinSent => {
                if let Some(fin) = self.segment(slot, Flags::ACK | Flags::FIN, &[]) {
                    io.segment(&Segment { seq: fin.seq.wrapping_sub(1), ..fin });
                }
            }
            State::Free | State::Open => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipos_wire::mac::Mac;

    use super::*;
    use crate::lane::testing::{lane, sent};

    const MS: u64 = 1_000_000;
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// One client with one slot, its port, and what it sends.
    struct Rig {
        clients: ClientSide,
        lane: Lane,
        now_ns: u64,
    }

    /// A segment that a client sent.
    #[derive(Debug, PartialEq, Eq)]
    struct Sent {
        seq: u32,
        ack: u32,
        flags: Flags,
        payload: Vec<u8>,
    }

    impl Rig {
        fn new(hold_open: bool) -> Self {
            let clients = Clients::new(Ipv4Addr::new(198, 18, 0, 1), 1, Ipv4Addr::new(198, 51, 100, 1), 80);
            let patience = Patience { rto_ns: 100 * MS, timeout_ns: 250 * MS };
            let clients = ClientSide::new(clients, 1, REQUEST.to_vec(), patience, hold_open);
            Self { clients, lane: lane(), now_ns: MS }
        }

        fn with<R>(&mut self, act: impl FnOnce(&mut ClientSide, &mut Io<'_>) -> R) -> R {
            let way = Way { src: Mac([2; 6]), dst: Mac([4; 6]) };
            act(&mut self.clients, &mut Io { now_ns: self.now_ns, lane: &mut self.lane, way })
        }

        fn sent(&mut self) -> Vec<Sent> {
            let read = |frame: &Vec<u8>| {
                let Received { seq, ack, flags, payload, .. } =
                    Received::parse(&frame[14..]).expect("a packet");
                Sent { seq, ack, flags, payload: payload.to_vec() }
            };
            sent(&mut self.lane).iter().map(read).collect()
        }

        /// Opens a connection; its ISS.
        fn start(&mut self) -> u32 {
            let intended_ns = self.now_ns;
            assert!(self.with(|clients, io| clients.start(intended_ns, io)));
            let sent = self.sent();
            assert_eq!((sent.len(), sent[0].flags), (1, Flags::SYN));
            sent[0].seq
        }

        /// What the target says, as a packet.
        fn hears(&mut self, seq: u32, ack: u32, flags: Flags, payload: &[u8]) {
            let flow = self.clients.clients.flow(0);
            let (src, dst) = (flow.endpoint, flow.client);
            let (src_port, dst_port) = (flow.endpoint_port, flow.client_port);
            let packet = Received { src, dst, src_port, dst_port, seq, ack, flags, payload };
            self.with(|clients, io| clients.receive(&packet, io));
        }

        fn replied(&mut self, seq: u32, ack: u32, octets: u32, fin: bool) {
            let reply = Reply { seq, ack, octets, syn: false, fin };
            self.with(|clients, io| clients.replied(0, &reply, io));
        }

        fn pass(&mut self, ms: u64) {
            self.now_ns += ms * MS;
            self.with(|clients, io| clients.sweep(io));
        }
    }

    #[test]
    fn a_connection_goes_through_its_states_and_gives_its_slot_back() {
        let mut rig = Rig::new(false);
        let iss = rig.start();
        assert!(!rig.with(|clients, io| clients.start(0, io)), "the only slot is in use");
        rig.hears(700, iss + 1, Flags::SYN | Flags::ACK, b"");
        let sent = rig.sent();
        let ack = Sent { seq: iss + 1, ack: 701, flags: Flags::ACK, payload: vec![] };
        assert_eq!(sent[0], ack);
        assert_eq!(sent[1], Sent { flags: Flags::ACK | Flags::PSH, payload: REQUEST.to_vec(), ..ack });
        rig.now_ns += 3 * MS;
        let end = iss + 1 + REQUEST.len() as u32;
        rig.replied(701, end, 3000, false);
        let acks: Vec<(u32, Flags)> = rig.sent().iter().map(|sent| (sent.ack, sent.flags)).collect();
        assert_eq!(acks, [(3589, Flags::ACK), (3701, Flags::ACK), (3701, Flags::ACK | Flags::FIN)]);
        rig.replied(3701, end + 1, 0, true);
        assert_eq!(rig.sent(), [Sent { seq: end + 1, ack: 3702, flags: Flags::ACK, payload: vec![] }]);
        let counters = rig.clients.counters();
        assert_eq!((counters.completed, counters.failed(), counters.starved), (1, 0, 1));
        assert_eq!(rig.clients.under_way(), 0);
        let first_octet = rig.clients.latency().first_octet.from_intended().max();
        assert!(first_octet.abs_diff(3 * MS) < MS / 100, "{first_octet} ns");
    }

    #[test]
    fn a_syn_is_sent_again_until_the_deadline() {
        let mut rig = Rig::new(false);
        let iss = rig.start();
        rig.pass(50);
        assert_eq!(rig.sent(), []);
        rig.pass(60);
        let again = rig.sent();
        assert_eq!((again.len(), again[0].seq, again[0].flags), (1, iss, Flags::SYN));
        rig.pass(150);
        assert_eq!(rig.sent()[0].flags, Flags::RST | Flags::ACK);
        let counters = rig.clients.counters();
        assert_eq!((counters.retransmitted, counters.failed_timeout), (1, 1));
        assert_eq!(rig.clients.under_way(), 0);
    }

    #[test]
    fn request_and_fin_are_sent_again_as_they_were() {
        let mut rig = Rig::new(false);
        let iss = rig.start();
        rig.hears(700, iss + 1, Flags::SYN | Flags::ACK, b"");
        let request = rig.sent().pop().expect("the request");
        rig.pass(110);
        assert_eq!(rig.sent(), [request]);
        rig.replied(701, 0, 10, false);
        let fin = rig.sent().pop().expect("the FIN");
        rig.pass(110);
        assert_eq!(rig.sent(), [fin]);
    }

    #[test]
    fn a_reset_that_fits_ends_a_connection_and_one_that_does_not_is_nothing() {
        let mut rig = Rig::new(false);
        let iss = rig.start();
        rig.hears(9, iss + 9, Flags::RST | Flags::ACK, b"");
        assert_eq!(rig.clients.counters().failed_reset, 0);
        rig.hears(0, iss + 1, Flags::RST | Flags::ACK, b"");
        assert_eq!((rig.clients.counters().failed_reset, rig.clients.under_way()), (1, 0));
    }

    #[test]
    fn an_answer_by_the_appliance_itself_is_a_failure() {
        let mut rig = Rig::new(false);
        let iss = rig.start();
        rig.hears(700, iss + 1, Flags::SYN | Flags::ACK, b"");
        rig.sent();
        rig.hears(701, iss + 20, Flags::ACK | Flags::FIN, b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert_eq!(rig.sent()[0].flags, Flags::RST | Flags::ACK);
        assert_eq!((rig.clients.counters().failed_answered, rig.clients.under_way()), (1, 0));
    }

    #[test]
    fn held_connections_stay_open_until_they_are_reset() {
        let mut rig = Rig::new(true);
        let iss = rig.start();
        rig.hears(700, iss + 1, Flags::SYN | Flags::ACK, b"");
        rig.replied(701, 0, 10, false);
        let numbers = (iss + 1 + REQUEST.len() as u32, 711);
        assert_eq!((rig.clients.open(), rig.clients.numbers(0)), (&[0][..], Some(numbers)));
        rig.sent();
        rig.pass(1000);
        assert_eq!(rig.sent(), [], "no time-out");
        assert!(rig.with(|clients, io| clients.reset_next_open(io)));
        assert_eq!((rig.sent()[0].seq, rig.sent().len()), (numbers.0, 0));
        assert!(!rig.with(|clients, io| clients.reset_next_open(io)));
    }
}
