//! The scripted end of the farm link: it speaks ipOS like an appliance, and sees what the board sends to clients, because
//! the board's default route leads here.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use ipos_wire::{
    ethernet,
    flow::Flow,
    ipos::{
        Ack, Closed, ClosedReason, Detach, DetachOutcome, Detached, HeldState, Holds, Message, NextRequest,
        Protocol, RefusalReason, Refused, TcpConnection, Trailer, WhoHolds, encapsulate,
    },
    ipv4,
    mac::Mac,
    tcp,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

/// Frames come within microseconds; this only bounds a failing test.
const DEADLINE: Duration = Duration::from_secs(10);

/// A segment that the board sent to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub flow: Flow,
    pub header: tcp::Repr,
    pub payload: Vec<u8>,
}

pub struct Appliance {
    socket: File,
    mac: [u8; 6],
    board_mac: [u8; 6],
    ethertype: u16,
    /// Frames that were received and not asked for yet.
    unread: Vec<Vec<u8>>,
    /// Flows to which the board has sent a RST.
    resets: Vec<Flow>,
}

impl Appliance {
    /// Must be called inside the far namespace.
    pub fn open(ifindex: i32, mac: [u8; 6], board_mac: [u8; 6], ethertype: u16) -> Appliance {
        const ETH_P_ALL: u16 = libc::ETH_P_ALL as u16;
        // SAFETY: no pointers; the result is checked.
        let raw = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(ETH_P_ALL.to_be()))
        };
        assert!(raw >= 0, "a packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: nobody else owns the new descriptor.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ETH_P_ALL.to_be(),
            sll_ifindex: ifindex,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: pointer and length describe `address`, which outlives the call.
        let bound = unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        assert_eq!(bound, 0, "bound: {}", std::io::Error::last_os_error());
        // The board sends super-frames; a full queue would lose some.
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).expect("a large queue");
        Appliance {
            socket: File::from(socket),
            mac,
            board_mac,
            ethertype,
            unread: Vec::new(),
            resets: Vec::new(),
        }
    }

    /// The appliance's address and the board's.
    pub fn macs(&self) -> ([u8; 6], [u8; 6]) {
        (self.mac, self.board_mac)
    }

    /// Sends octets that start at the ipOS header.
    pub fn send(&mut self, message: &[u8]) {
        let (from, to) = (self.mac, self.board_mac);
        self.send_from_to(from, to, message);
    }

    pub fn send_from_to(&mut self, from: [u8; 6], to: [u8; 6], message: &[u8]) {
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::Repr { dst: Mac(to), src: Mac(from), ethertype: self.ethertype }.emit(&mut frame);
        frame.extend(message);
        self.socket.write_all(&frame).expect("sent");
    }

    /// 0x02.
    pub fn send_packet(&mut self, flow: Flow, packet: &[u8]) {
        let mut message = vec![0; 16];
        encapsulate(flow, Protocol::Tcp, &mut message);
        message.extend(packet);
        self.send(&message);
    }

    /// 0x01.
    pub fn send_connection(&mut self, connection: &TcpConnection) {
        let mut message = [0; TcpConnection::LEN];
        connection.emit(&mut message);
        self.send(&message);
    }

    /// 0x05.
    pub fn send_detach(&mut self, flow: Flow, id: u64) {
        let mut message = [0; Detach::LEN];
        let (next, trailer) = (NextRequest::NONE, Trailer::open(id));
        Detach { flow, protocol: Protocol::Tcp, force: true, next, trailer }.emit(&mut message);
        self.send(&message);
    }

    /// 0x05 without force, and the answer: `next` is the client's next request.
    pub fn ask_to_leave(&mut self, flow: Flow, id: u64, next: NextRequest) -> DetachOutcome {
        let mut message = [0; Detach::LEN];
        let trailer = Trailer::open(id);
        Detach { flow, protocol: Protocol::Tcp, force: false, next, trailer }.emit(&mut message);
        self.send(&message);
        self.message("the answer to 0x05", |message| match message {
            Message::Detached(Detached { flow: left, outcome, next: of, trailer, .. })
                if (left, of, trailer.id) == (flow, next, id) =>
            {
                Some(outcome)
            }
            _ => None,
        })
    }

    /// 0x08, and the answer: the state and id of the record held, or nothing.
    pub fn ask_who_holds(&mut self, flow: Flow, id: u64) -> Option<(HeldState, u64)> {
        let mut message = [0; WhoHolds::LEN];
        WhoHolds { flow, protocol: Protocol::Tcp, trailer: Trailer::open(id) }.emit(&mut message);
        self.send(&message);
        self.message("the answer to 0x08", |message| match message {
            Message::Holds(Holds { flow: held, state, trailer, .. }) if held == flow => {
                Some(Some((state, trailer.id)))
            }
            Message::Closed(Closed { flow: asked, reason: ClosedReason::NotHeld, trailer, .. })
                if asked == flow && trailer.id == id =>
            {
                Some(None)
            }
            _ => None,
        })
    }

    /// Awaits the acknowledgement of that attempt.
    pub fn await_ack(&mut self, flow: Flow, id: u64) {
        let answer = self.answer(flow, id);
        assert_eq!(answer, Answer::Acknowledged, "attempt {id} of {flow}");
    }

    /// Awaits whatever the board says to that attempt.
    pub fn answer(&mut self, flow: Flow, id: u64) -> Answer {
        self.message(&format!("an answer to attempt {id} of {flow}"), |message| match message {
            Message::Ack(Ack { flow: f, trailer: Some(trailer), .. }) if f == flow && trailer.id == id => {
                Some(Answer::Acknowledged)
            }
            Message::Refused(Refused { flow: f, reason, trailer, .. }) if f == flow && trailer.id == id => {
                Some(Answer::Refused(reason))
            }
            Message::Closed(Closed { flow: f, reason, trailer, .. }) if f == flow && trailer.id == id => {
                Some(Answer::Closed(reason))
            }
            _ => None,
        })
    }

    /// Awaits a 0x07 about the flow; its reason and id.
    pub fn closed(&mut self, flow: Flow) -> (ClosedReason, u64) {
        self.message(&format!("0x07 of {flow}"), |message| match message {
            Message::Closed(closed) if closed.flow == flow => Some((closed.reason, closed.trailer.id)),
            _ => None,
        })
    }

    /// Awaits an ipOS message that `take` wants. Others wait for who asks for them.
    pub fn message<T>(&mut self, what: &str, mut take: impl FnMut(Message<'_>) -> Option<T>) -> T {
        let ethertype = self.ethertype;
        self.frame(what, |frame| {
            let frame = ethernet::Frame::new_checked(frame).ok()?;
            if frame.ethertype() != ethertype {
                return None;
            }
            let message = Message::parse(frame.payload()).expect("the board sends well-formed messages");
            take(message.expect("the board sends known messages"))
        })
    }

    /// Awaits a segment to the client of `flow`.
    pub fn segment(&mut self, flow: Flow) -> Segment {
        self.frame(&format!("a segment of {flow}"), |frame| {
            segment_of(frame).filter(|segment| segment.flow == flow)
        })
    }

    /// Forgets what has arrived and was not asked for.
    pub fn forget(&mut self) {
        while self.is_ready(Duration::ZERO) {
            self.receive();
        }
        self.unread.clear();
    }

    /// Whether the board has sent a RST into the flow so far. Ask the board something before, so that all has arrived.
    pub fn saw_reset(&self, flow: Flow) -> bool {
        self.resets.contains(&flow)
    }

    /// Whether a message that `is` recognises has arrived and was not asked for.
    pub fn has_unread(&self, mut is: impl FnMut(Message<'_>) -> bool) -> bool {
        self.unread.iter().any(|frame| {
            let frame = ethernet::Frame::new_checked(frame.as_slice()).expect("Ethernet");
            frame.ethertype() == self.ethertype
                && Message::parse(frame.payload()).ok().flatten().is_some_and(&mut is)
        })
    }

    fn frame<T>(&mut self, what: &str, mut take: impl FnMut(&[u8]) -> Option<T>) -> T {
        for at in 0..self.unread.len() {
            if let Some(found) = take(&self.unread[at]) {
                self.unread.remove(at);
                return found;
            }
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(self.is_ready(left), "no frame for {}; unread: {}", what, self.describe_unread());
            match self.receive() {
                Some(frame) => match take(&frame) {
                    Some(found) => return found,
                    None => self.unread.push(frame),
                },
                // A packet socket also sees what is sent, and what is for others.
                None => continue,
            }
        }
    }

    fn is_ready(&self, within: Duration) -> bool {
        let timeout = PollTimeout::try_from(within.as_millis()).expect("a short time");
        let mut descriptors = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, timeout).expect("poll") > 0
    }

    /// One frame, if the board has sent it to this end.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1 << 17];
        let length = self.socket.read(&mut frame).expect("read");
        frame.truncate(length);
        if frame[6..12] != self.board_mac || frame[..6] != self.mac {
            return None;
        }
        if let Some(segment) = segment_of(&frame).filter(|s| s.header.flags.intersects(tcp::Flags::RST)) {
            self.resets.push(segment.flow);
        }
        Some(frame)
    }

    fn describe_unread(&self) -> String {
        let describe = |frame: &Vec<u8>| match segment_of(frame) {
            Some(segment) => {
                format!("{} {:?} {} octets", segment.flow, segment.header, segment.payload.len())
            }
            None => format!("type {:#04x}", frame.get(26).copied().unwrap_or_default()),
        };
        let last: Vec<String> = self.unread.iter().rev().take(8).map(describe).collect();
        last.join("\n")
    }
}

/// What a board says to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Acknowledged,
    Refused(RefusalReason),
    Closed(ClosedReason),
}

fn segment_of(frame: &[u8]) -> Option<Segment> {
    let frame = ethernet::Frame::new_checked(frame).ok()?;
    if frame.ethertype() != ethernet::ETHERTYPE_IPV4 {
        return None;
    }
    let packet = ipv4::Packet::new_checked(frame.payload()).ok()?;
    if packet.protocol() != ipv4::PROTOCOL_TCP {
        return None;
    }
    let segment = tcp::Segment::new_checked(packet.payload()).ok()?;
    let flow = Flow {
        client: packet.dst(),
        client_port: segment.dst_port(),
        endpoint: packet.src(),
        endpoint_port: segment.src_port(),
    };
    let header = tcp::Repr::parse(&segment).ok()?;
    Some(Segment { flow, header, payload: segment.payload().to_vec() })
}
