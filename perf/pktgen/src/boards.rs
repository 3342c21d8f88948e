//! The pretended boards behind the generator's second port: they answer ARP, report their state (0x10, 0x11), take
//! connections over (0x01 -> 0x03), give them up (0x05), say what they hold (0x08 -> 0x09 or 0x07) and tell when a
//! connection has closed (0x07). So an appliance can be loaded to its limit with no server behind it.
//!
//! The endpoints lie in a table by the client's slot, so that no look-up costs more than an index.

use std::net::Ipv4Addr;

use ipos_wire::ethernet;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{
    self, Ack, Closed, ClosedReason, Detach, HeldState, Holds, Message, Protocol, RefusalReason, Refused,
    TcpConnection, Trailer, WhoHolds,
};
use ipos_wire::mac::Mac;
use ipos_wire::tcp::Flags;
use ipos_wire::{arp, tcb};
use serde::Serialize;

use crate::addressing::Clients;
use crate::endpoint::{Endpoint, Reply, State, Step};
use crate::frame::{ARP_OCTETS, Received, Way, parse_arp, write_arp};
use crate::lane::Lane;
use crate::reports::Reporter;

/// What the farm looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// EtherType of ipOS frames.
    pub ethertype: u16,
    /// Boards there are.
    pub boards: u16,
    /// Address of the first; the others follow it.
    pub first_address: Ipv4Addr,
    /// The appliance's address on the farm.
    pub appliance: Ipv4Addr,
    /// Between two reports of a board, milliseconds.
    pub report_ms: u16,
    /// Octets of the answer to a request.
    pub response_octets: u32,
}

/// What the boards saw and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BoardCounters {
    /// Connection messages (0x01) acknowledged, repeated ones included.
    pub taken_over: u64,
    /// Of those, the ones that repeated an attempt.
    pub repeated: u64,
    /// Connection messages refused (0x04).
    pub refused: u64,
    /// Client packets (0x02) for endpoints that are held.
    pub packets: u64,
    /// Client packets for endpoints that are not (answered with 0x07, stray).
    pub stray: u64,
    /// Endpoints that closed (0x07).
    pub closed: u64,
    /// Detaches (0x05).
    pub detached: u64,
    /// Questions who holds an endpoint (0x08), answered either way.
    pub asked: u64,
    /// Reports (0x10) sent.
    pub reports: u64,
    /// Frames that nobody here understands.
    pub ignored: u64,
}

/// All boards.
#[derive(Debug)]
pub struct Boards {
    farm: Farm,
    clients: Clients,
    endpoints: Box<[Endpoint]>,
    held: Box<[u32]>,
    appliance_mac: Option<Mac>,
    reporter: Reporter,
    counters: BoardCounters,
}

/// A client's packet that reached a board.
#[derive(Debug, Clone, Copy)]
pub struct Arrived<'a> {
    /// The flow's number.
    pub slot: u32,
    /// The packet.
    pub packet: Received<'a>,
}

/// MAC address of a board.
#[must_use]
pub fn board_mac(board: u16) -> Mac {
    let [high, low] = board.to_be_bytes();
    Mac([2, 0, 0, 0xb0, high, low])
}

/// Which board a MAC address belongs to.
fn board_of(mac: Mac) -> Option<u16> {
    match mac.0 {
        [2, 0, 0, 0xb0, high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

impl Boards {
    /// Boards that can hold an endpoint for each of `slots` flows.
    #[must_use]
    pub fn new(farm: Farm, clients: Clients, slots: u32, epoch_s: u32) -> Self {
        let reporter = Reporter::new(&farm, clients.service_port(), epoch_s);
        Self {
            endpoints: vec![Endpoint::default(); slots as usize].into_boxed_slice(),
            held: vec![0; usize::from(farm.boards)].into_boxed_slice(),
            farm,
            clients,
            appliance_mac: None,
            reporter,
            counters: BoardCounters::default(),
        }
    }

    /// What they saw and did since the start.
    #[must_use]
    pub fn counters(&self) -> BoardCounters {
        self.counters
    }

    /// Whether the appliance has answered ARP, so that reports reach it.
    #[must_use]
    pub fn knows_appliance(&self) -> bool {
        self.appliance_mac.is_some()
    }

    /// Endpoints that all of them hold.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.iter().copied().map(u64::from).sum()
    }

    fn address(&self, board: u16) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.farm.first_address.to_bits().wrapping_add(board.into()))
    }

    fn board_at(&self, address: Ipv4Addr) -> Option<u16> {
        let board = address.to_bits().wrapping_sub(self.farm.first_address.to_bits());
        u16::try_from(board).ok().filter(|board| *board < self.farm.boards)
    }

    /// Sends what is due: ARP for the appliance, then reports.
    pub fn tick(&mut self, now_ns: u64, lane: &mut Lane) {
        if !self.reporter.is_due(now_ns) {
            return;
        }
        for board in 0..self.farm.boards {
            let (src, address) = (board_mac(board), self.address(board));
            let Some(dst) = self.appliance_mac else {
                let ask = arp::Repr {
                    operation: arp::Operation::Request,
                    sender_mac: src,
                    sender_ip: address,
                    target_mac: Mac::default(),
                    target_ip: self.farm.appliance,
                };
                let way = Way { src, dst: Mac::BROADCAST };
                lane.send(ARP_OCTETS, |frame| write_arp(way, &ask, frame));
                continue;
            };
            let held = self.held.get(usize::from(board)).copied().unwrap_or(0);
            self.reporter.send(Way { src, dst }, address, held, lane);
            self.counters.reports += 1;
        }
    }

    /// Reads a frame of the farm. A client's packet is returned; everything else is answered here.
    pub fn frame<'a>(&mut self, frame: &'a [u8], lane: &mut Lane) -> Option<Arrived<'a>> {
        let (header, body) = frame.split_at_checked(ethernet::HEADER_LEN)?;
        let header = ethernet::Repr::parse(&ethernet::Frame::new_checked(header).ok()?);
        if header.ethertype == ethernet::ETHERTYPE_ARP {
            self.arp(body, lane);
            return None;
        }
        if header.ethertype != self.farm.ethertype {
            self.counters.ignored += 1;
            return None;
        }
        let Ok(Some(message)) = Message::parse(body) else {
            self.counters.ignored += 1;
            return None;
        };
        let Some(board) = board_of(header.dst).filter(|board| *board < self.farm.boards) else {
            self.counters.ignored += 1;
            return None;
        };
        let way = Way { src: header.dst, dst: header.src };
        match message {
            Message::Packet { header, packet } => {
                return self.packet(board, way, &header, packet, lane);
            }
            Message::TcpConnection(connection) => self.take_over(board, way, &connection, lane),
            Message::UdpConnection(connection) => {
                self.counters.taken_over += 1;
                let trailer = None;
                let ack = Ack { flow: connection.flow, protocol: Protocol::Udp, trailer };
                self.send(way, ack.buffer_len(), lane, |body| ack.emit(body));
            }
            Message::Detach(detach) => self.detach(board, way, &detach, lane),
            Message::WhoHolds(question) => self.who_holds(board, way, &question, lane),
            _ => self.counters.ignored += 1,
        }
        None
    }

    fn send(&self, way: Way, octets: usize, lane: &mut Lane, emit: impl FnOnce(&mut [u8])) {
        let ethertype = self.farm.ethertype;
        lane.send(ethernet::HEADER_LEN + octets, |frame| {
            if let Some((front, body)) = frame.split_at_mut_checked(ethernet::HEADER_LEN) {
                ethernet::Repr { dst: way.dst, src: way.src, ethertype }.emit(front);
                emit(body);
            }
        });
    }

    fn arp(&mut self, body: &[u8], lane: &mut Lane) {
        let Some(repr) = parse_arp(body) else {
            self.counters.ignored += 1;
            return;
        };
        if repr.sender_ip == self.farm.appliance {
            self.appliance_mac = Some(repr.sender_mac);
        }
        let Some(board) = self.board_at(repr.target_ip).filter(|_| repr.operation == arp::Operation::Request)
        else {
            return;
        };
        let src = board_mac(board);
        let reply = arp::Repr {
            operation: arp::Operation::Reply,
            sender_mac: src,
            sender_ip: repr.target_ip,
            target_mac: repr.sender_mac,
            target_ip: repr.sender_ip,
        };
        let way = Way { src, dst: repr.sender_mac };
        lane.send(ARP_OCTETS, |frame| write_arp(way, &reply, frame));
    }

    fn slot(&self, flow: &Flow) -> Option<u32> {
        let slot = u32::try_from(self.clients.slot(flow)?).ok()?;
        ((slot as usize) < self.endpoints.len()).then_some(slot)
    }

    fn endpoint(&mut self, slot: u32) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(slot as usize)
    }

    fn count_held(&mut self, board: u16, change: i32) {
        if let Some(held) = self.held.get_mut(usize::from(board)) {
            *held = held.saturating_add_signed(change);
        }
    }

    fn take_over(&mut self, board: u16, way: Way, connection: &TcpConnection, lane: &mut Lane) {
        let block = &connection.tcb;
        let (flow, trailer) = (connection.flow, Trailer::open(block.migration_id));
        let fits = block.state == tcb::STATE_ESTABLISHED && block.snd_una == block.snd_nxt;
        let Some(slot) = self.slot(&flow).filter(|_| fits) else {
            self.counters.refused += 1;
            let reason = RefusalReason::ControlBlock;
            let refused = Refused { flow, protocol: Protocol::Tcp, reason, trailer };
            self.send(way, Refused::LEN, lane, |body| refused.emit(body));
            return;
        };
        self.counters.taken_over += 1;
        let fresh = Endpoint::taken_over(block.migration_id, block.snd_nxt.0, block.rcv_nxt.0, board);
        let Some(endpoint) = self.endpoint(slot) else { return };
        if endpoint.state != State::Free && endpoint.id == block.migration_id {
            self.counters.repeated += 1;
        } else {
            let old = std::mem::replace(endpoint, fresh);
            if old.state != State::Free {
                self.count_held(old.board, -1);
            }
            self.count_held(board, 1);
        }
        let ack = Ack { flow, protocol: Protocol::Tcp, trailer: Some(trailer) };
        self.send(way, ack.buffer_len(), lane, |body| ack.emit(body));
    }

    fn packet<'a>(
        &mut self,
        board: u16,
        way: Way,
        header: &ipos::Header,
        packet: &'a [u8],
        lane: &mut Lane,
    ) -> Option<Arrived<'a>> {
        let slot = self.slot(&header.flow);
        let holder = slot.and_then(|slot| self.endpoint(slot)).filter(|e| e.state != State::Free);
        let is_ours = holder.is_some_and(|endpoint| endpoint.board == board);
        // UDP has no endpoint: a datagram is for whoever gets it.
        if !is_ours && header.protocol == Protocol::Tcp {
            self.counters.stray += 1;
            self.closed(way, header.flow, ClosedReason::Stray, 0, lane);
            return None;
        }
        self.counters.packets += 1;
        Some(Arrived { slot: slot?, packet: Received::parse(packet)? })
    }

    fn closed(&self, way: Way, flow: Flow, reason: ClosedReason, id: u64, lane: &mut Lane) {
        let closed = Closed { flow, protocol: Protocol::Tcp, reason, trailer: Trailer::open(id) };
        self.send(way, Closed::LEN, lane, |body| closed.emit(body));
    }

    fn detach(&mut self, board: u16, way: Way, detach: &Detach, lane: &mut Lane) {
        self.counters.detached += 1;
        let id = detach.trailer.id;
        let held = self.slot(&detach.flow).and_then(|slot| self.endpoint(slot));
        if let Some(endpoint) = held.filter(|e| e.state != State::Free && e.id == id && e.board == board) {
            endpoint.state = State::Free;
            self.count_held(board, -1);
        }
        self.closed(way, detach.flow, ClosedReason::Forced, id, lane);
    }

    fn who_holds(&mut self, board: u16, way: Way, question: &WhoHolds, lane: &mut Lane) {
        self.counters.asked += 1;
        let held = self.slot(&question.flow).and_then(|slot| self.endpoint(slot));
        match held.filter(|e| e.state != State::Free && e.board == board) {
            Some(endpoint) => {
                let trailer = Trailer::open(endpoint.id);
                let state = HeldState::Live;
                let holds = Holds { flow: question.flow, protocol: question.protocol, state, trailer };
                self.send(way, Holds::LEN, lane, |body| holds.emit(body));
            }
            None => self.closed(way, question.flow, ClosedReason::NotHeld, question.trailer.id, lane),
        }
    }

    /// Has the endpoint of a flow answer a client's segment.
    pub fn serve(&mut self, arrived: &Arrived<'_>, lane: &mut Lane) -> Option<Reply> {
        let response_octets = self.farm.response_octets;
        let endpoint = self.endpoints.get_mut(arrived.slot as usize)?;
        let step = endpoint.receive(&arrived.packet, response_octets);
        let (board, id) = (endpoint.board, endpoint.id);
        match step {
            Step::Nothing => None,
            Step::Reply(reply) => Some(reply),
            Step::Closed => {
                self.counters.closed += 1;
                self.count_held(board, -1);
                if let Some(dst) = self.appliance_mac {
                    let way = Way { src: board_mac(board), dst };
                    self.closed(way, self.clients.flow(arrived.slot.into()), ClosedReason::Closed, id, lane);
                }
                None
            }
        }
    }

    /// As [`Boards::serve`], where no appliance stands between: a SYN is accepted here.
    pub fn serve_directly(&mut self, arrived: &Arrived<'_>, lane: &mut Lane) -> Option<Reply> {
        let flags = arrived.packet.flags;
        if !flags.contains(Flags::SYN) {
            return self.serve(arrived, lane);
        }
        let boards = u32::from(self.farm.boards.max(1));
        let board = (arrived.slot % boards) as u16;
        // Any number will do, as long as neighbours differ.
        let iss = arrived.slot.wrapping_mul(0x85eb_ca6b);
        let endpoint = self.endpoints.get_mut(arrived.slot as usize)?;
        let is_new = endpoint.state == State::Free;
        let reply = endpoint.accept(&arrived.packet, iss, board);
        self.count_held(board, i32::from(is_new));
        Some(reply)
    }
}

#[cfg(test)]
#[path = "boards_tests.rs"]
mod tests;
