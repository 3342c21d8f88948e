//! Health checks through the data path: the control core is a client of its own service. It moves a made-up endpoint to the
//! board (0x01), sends it a request (0x02) and reads the status of the answer, which the board's kernel sends to the
//! appliance's address on the farm network. So each check proves what a connection needs: programs, listener and server.
//!
//! One check at a time for each service and board. What is looked at in a turn is bounded by the checks that are due.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_pipelines::handoff::{BoardId, CHECK_PORTS, WorkerId};
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use super::board::Liveness;
use super::boards::MS_NS;
use super::check_client::{Client, Heard, Segment, Step};
use super::context::Context;
use super::counters::{Checked, Ignored};
use super::health::{Outcome, Patience, Verdict};
use super::sink::Message;

/// Until what got no answer is sent again; doubles.
const RETRY_NS: u64 = 100 * MS_NS;

/// One service's checks.
#[derive(Clone, Debug)]
pub struct CheckSettings {
    /// The service's name, for the log.
    pub service: String,
    /// The service's address and port.
    pub endpoint: (Ipv4Addr, u16),
    /// Its boards.
    pub boards: Vec<BoardId>,
    /// What is sent: a whole HTTP request.
    pub request: Arc<[u8]>,
    /// The status that a good answer has.
    pub expect: u16,
    /// From the start of one check to that of the next.
    pub interval_ns: u64,
    /// How long an answer may take.
    pub timeout_ns: u64,
    /// When the verdict changes.
    pub patience: Patience,
}

/// What every endpoint is stamped with, as in attempts.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Names the appliance.
    pub appliance_id: u16,
    /// The clock's zero, Unix microseconds.
    pub started_unix_us: u64,
}

/// All checks.
#[derive(Debug)]
pub struct Checks {
    stamp: Stamp,
    /// The appliance's addresses, by port.
    addresses: Vec<Ipv4Addr>,
    services: Vec<CheckSettings>,
    slots: Vec<Slot>,
    /// Checks under way: local port to slot.
    by_port: HashMap<u16, usize>,
    next_port: u16,
    /// Nothing is due before.
    due_ns: u64,
    random: RandomState,
    made: u64,
}

/// One service on one board.
#[derive(Debug)]
struct Slot {
    service: usize,
    board: BoardId,
    next_ns: u64,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    client: Client,
    deadline_ns: u64,
    again_ns: u64,
    wait_ns: u64,
}

impl Slot {
    fn due_ns(&self) -> u64 {
        self.under_way.as_ref().map_or(self.next_ns, |check| check.again_ns.min(check.deadline_ns))
    }
}

impl Checks {
    /// Checks of these services, the first ones spread over an interval.
    pub fn new(services: Vec<CheckSettings>, addresses: Vec<Ipv4Addr>, stamp: Stamp, now_ns: u64) -> Self {
        let count: u64 = services.iter().map(|service| service.boards.len() as u64).sum();
        let pairs = services.iter().enumerate().flat_map(|(number, service)| {
            service.boards.iter().map(move |board| (number, *board, service.interval_ns))
        });
        let slots: Vec<Slot> = (0u64..)
            .zip(pairs)
            .map(|(place, (service, board, interval_ns))| {
                // At most a second late: what is not known yet is used.
                let next_ns = now_ns + interval_ns.min(1000 * MS_NS) * place / count.max(1);
                Slot { service, board, next_ns, under_way: None }
            })
            .collect();
        Self {
            stamp,
            addresses,
            by_port: HashMap::with_capacity(2 * slots.len()),
            services,
            slots,
            next_port: *CHECK_PORTS.start(),
            due_ns: now_ns,
            random: RandomState::new(),
            made: 0,
        }
    }

    /// Other services, or other boards for them. What is under way is left: its sockets are reset when they speak.
    pub fn reconfigure(&mut self, services: Vec<CheckSettings>, now_ns: u64) {
        let fresh = Self::new(services, std::mem::take(&mut self.addresses), self.stamp, now_ns);
        let (next_port, made) = (self.next_port, self.made);
        let random = self.random.clone();
        *self = Self { next_port, made, random, ..fresh };
    }

    /// Whether a connection is a check's, of now or before: no client has the appliance's own address.
    pub fn owns(&self, flow: &Flow) -> bool {
        CHECK_PORTS.contains(&flow.client_port) && self.addresses.contains(&flow.client)
    }

    /// Checks under way.
    pub fn count(&self) -> usize {
        self.by_port.len()
    }

    /// Starts what is due, repeats what got no answer, ends what took too long. Returns an endpoint to take back by force; to
    /// be called until there is none.
    pub fn tick(&mut self, ctx: &mut Context<'_>) -> Option<(BoardId, Flow, u64)> {
        if ctx.now_ns < self.due_ns {
            return None;
        }
        for place in 0..self.slots.len() {
            if self.slots.get(place).is_some_and(|slot| slot.due_ns() <= ctx.now_ns)
                && let Some(taken_back) = self.due(ctx, place)
            {
                return Some(taken_back);
            }
        }
        self.due_ns = self.slots.iter().map(Slot::due_ns).min().unwrap_or(u64::MAX);
        None
    }

    fn due(&mut self, ctx: &mut Context<'_>, place: usize) -> Option<(BoardId, Flow, u64)> {
        let slot = self.slots.get_mut(place)?;
        let board = slot.board;
        let Some(check) = &mut slot.under_way else {
            self.begin(ctx, place);
            return None;
        };
        if ctx.now_ns >= check.deadline_ns {
            let (flow, id, outcome) = (check.client.flow, check.client.id, check.client.timed_out());
            self.end(ctx, place, outcome);
            return Some((board, flow, id));
        }
        check.wait_ns = check.wait_ns.saturating_mul(2);
        check.again_ns = ctx.now_ns.saturating_add(check.wait_ns);
        self.send(ctx, place);
        None
    }

    fn begin(&mut self, ctx: &mut Context<'_>, place: usize) {
        let Self { slots, services, by_port, addresses, random, .. } = self;
        let Some(slot) = slots.get_mut(place) else { return };
        let Some(service) = services.get(slot.service) else { return };
        slot.next_ns = ctx.now_ns.saturating_add(RETRY_NS);
        let port = self.next_port;
        self.next_port = if port == *CHECK_PORTS.end() { *CHECK_PORTS.start() } else { port + 1 };
        let Some(board) = ctx.boards.board(slot.board) else { return };
        let address = addresses.get(usize::from(board.settings.port.0)).copied();
        // Whether a silent board serves need not be asked: it gets no connection.
        let (true, Some(client)) = (is_alive(ctx, slot.board) && board.mac.is_some(), address) else {
            return;
        };
        if by_port.contains_key(&port) {
            return;
        }
        let (endpoint, endpoint_port) = service.endpoint;
        let flow = Flow { client, client_port: port, endpoint, endpoint_port };
        slot.next_ns = ctx.now_ns.saturating_add(service.interval_ns);
        self.made += 1;
        let numbers = random.hash_one(self.made);
        let id = ctx.ids.next(WorkerId(0));
        let client = Client::new(
            flow,
            id,
            [Seq(numbers as u32), Seq((numbers >> 32) as u32)],
            service.request.len() as u32,
        );
        let deadline_ns = ctx.now_ns.saturating_add(service.timeout_ns);
        let again_ns = ctx.now_ns.saturating_add(RETRY_NS);
        slot.under_way = Some(UnderWay { client, deadline_ns, again_ns, wait_ns: RETRY_NS });
        by_port.insert(port, place);
        self.send(ctx, place);
    }

    /// Sends what the board has to have next.
    fn send(&mut self, ctx: &mut Context<'_>, place: usize) {
        let Some(slot) = self.slots.get(place) else { return };
        let (Some(check), Some(service)) = (&slot.under_way, self.services.get(slot.service)) else { return };
        let (Some(way), Some(board)) = (ctx.way(slot.board), ctx.boards.board(slot.board)) else { return };
        let client = &check.client;
        let flow = client.flow;
        if client.delivered {
            return;
        }
        if client.acknowledged {
            let payload = Some(service.request.clone());
            return ctx.sink.send(way, &Message::Segment { flow, segment: client.request(), payload });
        }
        let mut tcb = client.tcb();
        tcb.appliance_id = self.stamp.appliance_id;
        tcb.epoch = ctx.ids.epoch();
        tcb.established_at_us = self.stamp.started_unix_us.saturating_add(ctx.now_ns / 1000);
        let server = (board.settings.address, flow.endpoint_port);
        ctx.sink.send(way, &Message::Connection { flow, server, tcb });
    }

    /// The slot whose check is under way for this connection, with this board and, unless it is `None`, this id.
    fn find(&self, board: BoardId, flow: &Flow, id: Option<u64>) -> Option<usize> {
        let place = *self.by_port.get(&flow.client_port)?;
        let slot = self.slots.get(place)?;
        let client = &slot.under_way.as_ref()?.client;
        let is_it =
            slot.board == board && client.flow == *flow && id.is_none_or(|id| id == 0 || id == client.id);
        is_it.then_some(place)
    }

    /// The board acknowledged (0x03). False when no check waits for it.
    pub fn acknowledged(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: &Flow, id: u64) -> bool {
        let Some(place) = self.find(board, flow, Some(id)) else { return false };
        if let Some(check) = self.slots.get_mut(place).and_then(|slot| slot.under_way.as_mut()) {
            if check.client.acknowledged {
                return true;
            }
            check.client.acknowledged = true;
            check.wait_ns = RETRY_NS;
            check.again_ns = ctx.now_ns.saturating_add(RETRY_NS);
        }
        self.due_ns = ctx.now_ns;
        self.send(ctx, place);
        true
    }

    /// The board refused (0x04).
    pub fn refused(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: &Flow, id: u64, reason: u8) {
        match self.find(board, flow, Some(id)) {
            Some(place) => self.end(ctx, place, Outcome { how: Checked::Refused, code: reason.into() }),
            None => ctx.counters.ignore(Ignored::LateAnswer),
        }
    }

    /// The board says that the endpoint is gone (0x07). After the end of a check that is what it shall say.
    pub fn closed(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: &Flow, id: u64) {
        if let Some(place) = self.find(board, flow, Some(id).filter(|id| *id != 0)) {
            self.end(ctx, place, Outcome { how: Checked::Cut, code: 0 });
        }
    }

    /// A segment of the board's kernel.
    pub fn heard(&mut self, ctx: &mut Context<'_>, board: BoardId, flow: Flow, heard: Heard<'_>) {
        let Some(place) = self.find(board, &flow, None) else { return stray(ctx, board, flow, heard) };
        let Some(slot) = self.slots.get_mut(place) else { return };
        let Some(expect) = self.services.get(slot.service).map(|service| service.expect) else { return };
        let Some(check) = &mut slot.under_way else { return };
        match check.client.take(heard, expect) {
            Step::Wait => {}
            Step::Acknowledge => say(ctx, board, flow, check.client.acknowledgement()),
            Step::Over(outcome) => {
                if !heard.flags.contains(Flags::RST) {
                    say(ctx, board, flow, check.client.reset());
                }
                self.end(ctx, place, outcome);
            }
        }
    }

    fn end(&mut self, ctx: &mut Context<'_>, place: usize, outcome: Outcome) {
        let Some(slot) = self.slots.get_mut(place) else { return };
        if let Some(check) = slot.under_way.take() {
            self.by_port.remove(&check.client.flow.client_port);
        }
        self.due_ns = ctx.now_ns;
        // What a board that is dying does says nothing about its server.
        let Some(service) = self.services.get(slot.service).filter(|_| is_alive(ctx, slot.board)) else {
            return;
        };
        let Some(board) = ctx.boards.board_mut(slot.board) else { return };
        let changed = board.health.take(service.endpoint, outcome, service.patience);
        let (board, service) = (&board.settings.name, &service.service);
        match changed {
            Some(Verdict::Failing) => {
                let why = outcome.sentence();
                tracing::warn!(board, service, why, "health check fails: no new connections of this service");
            }
            Some(_) => tracing::info!(board, service, "health check passes"),
            None => {}
        }
    }
}

fn is_alive(ctx: &Context<'_>, board: BoardId) -> bool {
    let liveness = |board: &super::board::Board| board.liveness(ctx.now_ns);
    ctx.boards.board(board).map(liveness) == Some(Liveness::Alive)
}

fn say(ctx: &mut Context<'_>, board: BoardId, flow: Flow, segment: Segment) {
    if let Some(way) = ctx.way(board) {
        ctx.sink.send(way, &Message::Segment { flow, segment, payload: None });
    }
}

/// A socket that has missed the RST at the end of its check, or that of an appliance before this one: RFC 9293, section
/// 3.10.7.1.
fn stray(ctx: &mut Context<'_>, board: BoardId, flow: Flow, heard: Heard<'_>) {
    ctx.counters.ignore(Ignored::LateAnswer);
    if heard.flags.contains(Flags::ACK) && !heard.flags.contains(Flags::RST) {
        say(ctx, board, flow, Segment { seq: heard.ack, ack: heard.seq, flags: Flags::RST | Flags::ACK });
    }
}
