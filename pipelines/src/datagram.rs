//! Datagrams: UDP to services of kind `udp`. The first datagram of a flow has the control core choose a board, which acknowledges
//! that it takes the flow (Figs 11F, 11I), and every datagram goes there as an ipOS packet (0x02, Fig. 11H). Where a service says
//! `flow = "datagram"`, each goes by the table alone, and nothing is kept.
//!
//! Input: UDP packets, the control core's answers. Output: datagrams on their way to boards; [`Event::PlaceDatagrams`]. Owner: the
//! worker. Cost: one look-up in a shard of its own, so that no flood of datagrams takes a place from a TCP connection;
//! while a board is asked, at most [`HELD_EACH`] datagrams of a flow wait, and those of [`HOLDING_MAX`] flows. Half of the queue
//! to the control core at most is for new flows.

use arrayvec::ArrayVec;
use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;

use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::expire::BUDGET;
use crate::forward;
use crate::handoff::{BoardId, Counted, DatagramsPlaced, Event, Takes};
use crate::layer4::HEARD_WITHIN_MS;
use crate::limit::Limit;
use crate::quic;
use crate::table::OutOfMemory;
use crate::table::shard::{Settled, Shard};
use crate::table::slab::{EntryRef, Slab};
use crate::table::wheel::Due;
use crate::verdict::Verdict;

/// Datagrams of one flow that wait while its board is asked.
pub const HELD_EACH: usize = 4;

/// Flows whose datagrams wait at once.
pub const HOLDING_MAX: u32 = 256;

/// New flows that one worker tells of in a second, at most.
const FLOWS_PER_SECOND: u32 = 20_000;

/// The control core always answers; after this long the flow is forgotten all the same, milliseconds.
const ANSWER_MS: u32 = 20_000;

/// A flow that no board takes asks again after this long, milliseconds.
const NOWHERE_MS: u32 = 1_000;

/// A UDP packet's headers, and where it ends.
#[derive(Clone, Copy, Debug)]
pub struct UdpPacket {
    /// Client and endpoint.
    pub flow: Flow,
    /// Octets of the frame up to the end of the IPv4 packet.
    pub frame_len: u16,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// The control core has been asked for a board.
    Placing,
    /// A board has taken it.
    Placed,
    /// No board takes it.
    Nowhere,
    /// Its service is beyond a limit of its own.
    OverLimit,
}

/// A flow of datagrams.
#[derive(Debug)]
pub struct DatagramFlow {
    /// Where its datagrams go, once a board has taken it.
    board: BoardId,
    /// The service addressed.
    service: u16,
    stand: Stand,
    /// What it counts against ([`crate::ended`]).
    counted: Counted,
    held: Option<EntryRef>,
}

impl DatagramFlow {
    /// The board that has taken it.
    pub fn board(&self) -> Option<BoardId> {
        (self.stand == Stand::Placed).then_some(self.board)
    }
}

impl Settled for DatagramFlow {
    #[inline]
    fn settled_board(&self) -> Option<BoardId> {
        self.board()
    }
}

type Held = ArrayVec<(Mbuf, u16), HELD_EACH>;

/// All flows of datagrams of one worker.
pub struct Datagrams {
    /// By flow.
    pub flows: Shard<DatagramFlow>,
    held: Slab<Held>,
    new: Limit,
}

impl Datagrams {
    /// Room for so many flows; takes all memory that it will ever use.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(flows: u32, key: [u64; 2]) -> Result<Self, OutOfMemory> {
        let new = Limit::per_second(FLOWS_PER_SECOND);
        Ok(Self { flows: Shard::new(flows, key, 0)?, held: Slab::new(HOLDING_MAX)?, new })
    }

    /// Flows whose datagrams wait.
    pub fn holding(&self) -> u32 {
        self.held.len()
    }
}

/// A datagram to one of our addresses.
pub fn packet(core: &mut Core, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    let flow = &packet.flow;
    let entry = core.datagrams.flows.lookup(flow);
    let Some(service) = core.services.find_udp(flow.endpoint, flow.endpoint_port) else {
        // A service that was removed: the flows that are left go on.
        let board = entry.and_then(|entry| core.datagrams.flows.get(entry)?.board());
        let Some((entry, board)) = entry.zip(board) else { return Verdict::Drop(Drop::NoUdpService) };
        return forward(core, entry, board, packet, mbuf);
    };
    if core.services.table(service).is_some() {
        return alone(core, service, packet, mbuf);
    }
    if let Some(board) = quic::board(core, service, packet, &mbuf) {
        return named(core, entry, service, board, packet, mbuf);
    }
    let Some(entry) = entry else { return first(core, service, packet, mbuf) };
    let Some(found) = core.datagrams.flows.get(entry) else { return Verdict::Drop(Drop::NoUdpService) };
    match (found.stand, found.board) {
        (Stand::Placing, _) => hold(core, entry, packet, mbuf),
        (Stand::Nowhere, _) => Verdict::Drop(Drop::NoUdpBoard),
        (Stand::OverLimit, _) => Verdict::Drop(Drop::OverLimit),
        (Stand::Placed, board) if is_gone(core, service, board) => again(core, entry, service, packet, mbuf),
        (Stand::Placed, board) => forward(core, entry, board, packet, mbuf),
    }
}

/// A datagram whose connection is a board's by its id, whatever its flow says. The board is not asked: what it has it takes.
fn named(
    core: &mut Core,
    entry: Option<EntryRef>,
    service: u16,
    board: BoardId,
    packet: &UdpPacket,
    mbuf: Mbuf,
) -> Verdict {
    match entry.and_then(|entry| Some((entry, core.datagrams.flows.get(entry)?))) {
        Some((entry, found)) if found.board() == Some(board) => forward(core, entry, board, packet, mbuf),
        Some((entry, found)) if found.stand == Stand::Placed => {
            // The same address and port, another connection: what begins there next goes along.
            let before = found.board;
            if let Some(mut found) = core.datagrams.flows.get_mut(entry) {
                found.board = board;
            }
            core.by_board.left(before);
            core.by_board.joined(board);
            core.happened(Happening::QuicMoved);
            forward(core, entry, board, packet, mbuf)
        }
        // A connection that begins at this address is being placed; this one is not it.
        Some(_) => send(core, board, packet, mbuf),
        None => {
            if let Some(entry) = follow(core, service, board, packet) {
                core.happened(Happening::QuicFollowed);
                return forward(core, entry, board, packet, mbuf);
            }
            core.happened(Happening::QuicUnkept);
            send(core, board, packet, mbuf)
        }
    }
}

/// Makes a flow at the board that a connection id has named; `None` where there is no room for it.
fn follow(core: &mut Core, service: u16, board: BoardId, packet: &UdpPacket) -> Option<EntryRef> {
    let Datagrams { flows, new, .. } = &mut core.datagrams;
    let has_room = flows.len() < flows.capacity() / 2 && new.take(core.now.ms);
    let flow = DatagramFlow { board, service, stand: Stand::Placed, counted: Counted::No, held: None };
    let entry = has_room.then(|| flows.insert(&packet.flow, flow, core.now.ms).ok()).flatten()?;
    core.counters.datagram_flows.add(1);
    core.by_board.joined(board);
    let wait_ms = idle_ms(core, service);
    schedule_in(core, entry, wait_ms);
    Some(entry)
}

/// Whether a board is dead, or was taken out.
fn is_gone(core: &Core, service: u16, board: BoardId) -> bool {
    core.standings.takes(service, board) == Takes::None || core.place_of(board).is_none()
}

/// A datagram of a service whose datagrams each go by the table alone.
fn alone(core: &mut Core, service: u16, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    let least = if core.now.ms < HEARD_WITHIN_MS { Takes::Known } else { Takes::New };
    let takes = |board| core.standings.takes(service, board);
    let chosen = core.services.table(service).and_then(|table| {
        let new = table.choose(&packet.flow, |board| takes(board) == Takes::New);
        new.or_else(|| table.choose(&packet.flow, |board| takes(board) == least))
    });
    match chosen {
        Some(board) => send(core, board, packet, mbuf),
        None => Verdict::Drop(Drop::NoUdpBoard),
    }
}

fn forward(core: &mut Core, entry: EntryRef, board: BoardId, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    core.datagrams.flows.see(entry, core.now.ms);
    send(core, board, packet, mbuf)
}

fn send(core: &mut Core, board: BoardId, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    forward::encapsulate_as(core, Protocol::Udp, board, &packet.flow, usize::from(packet.frame_len), mbuf)
}

/// The first datagram of a flow.
fn first(core: &mut Core, service: u16, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    let (board, stand, counted) = (BoardId(0), Stand::Placing, Counted::No);
    let flow = DatagramFlow { board, service, stand, counted, held: None };
    if core.datagrams.flows.len() == core.datagrams.flows.capacity() || !may_ask(core) {
        return Verdict::Drop(Drop::DatagramsFull);
    }
    let now_ms = core.now.ms;
    let Ok(entry) = core.datagrams.flows.insert(&packet.flow, flow, now_ms) else {
        return Verdict::Drop(Drop::DatagramsFull);
    };
    core.counters.datagram_flows.add(1);
    ask(core, entry, (service, false), packet, mbuf)
}

/// A datagram of a flow whose board is dead or gone: UDP has no state to lose, so another one takes it.
fn again(core: &mut Core, entry: EntryRef, service: u16, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    if !may_ask(core) {
        return Verdict::Drop(Drop::DatagramsFull);
    }
    if let Some(mut found) = core.datagrams.flows.get_mut(entry) {
        found.stand = Stand::Placing;
        let board = found.board;
        std::mem::drop(found);
        core.by_board.left(board);
    }
    core.happened(Happening::DatagramsMoved);
    ask(core, entry, (service, true), packet, mbuf)
}

/// Whether the control core may be told of another flow: requests of TCP clients need the queue as well.
fn may_ask(core: &mut Core) -> bool {
    core.events.room() > core.events_room / 2 && core.datagrams.new.take(core.now.ms)
}

fn ask(
    core: &mut Core,
    entry: EntryRef,
    (service, moved): (u16, bool),
    packet: &UdpPacket,
    mbuf: Mbuf,
) -> Verdict {
    let pool = core.services.service(service).map_or(0, |service| service.default_pool);
    if !core.tell(Event::PlaceDatagrams { entry, flow: packet.flow, service, pool, moved }) {
        remove(core, entry);
        return Verdict::Drop(Drop::ControlFull);
    }
    schedule_in(core, entry, ANSWER_MS);
    hold(core, entry, packet, mbuf)
}

/// Keeps a datagram until the board has answered.
fn hold(core: &mut Core, entry: EntryRef, packet: &UdpPacket, mbuf: Mbuf) -> Verdict {
    let Datagrams { flows, held, .. } = &mut core.datagrams;
    let Some(mut found) = flows.get_mut(entry) else { return Verdict::Drop(Drop::DatagramsHeld) };
    if found.held.is_none() {
        found.held = held.insert(Held::new()).ok();
    }
    let waiting = found.held.and_then(|at| held.get_mut(at));
    match waiting.map(|waiting| waiting.try_push((mbuf, packet.frame_len))) {
        Some(Ok(())) => Verdict::Held,
        Some(Err(_)) | None => Verdict::Drop(Drop::DatagramsHeld),
    }
}

/// The control core says which board has taken a flow, if one has.
pub fn placed(core: &mut Core, entry: EntryRef, flow: Flow, placed: DatagramsPlaced) {
    let (board, counted) = match placed {
        DatagramsPlaced::At(board, counted) => (Some(board), counted),
        DatagramsPlaced::Nowhere | DatagramsPlaced::OverLimit => (None, Counted::No),
    };
    if core.datagrams.flows.get(entry).is_none_or(|found| found.stand != Stand::Placing) {
        // Forgotten meanwhile.
        return core.ended.owe(flow, Protocol::Udp, counted);
    }
    let Some(mut found) = core.datagrams.flows.get_mut(entry) else { return };
    let (service, held) = (found.service, found.held.take());
    found.stand = match placed {
        DatagramsPlaced::At(..) => Stand::Placed,
        DatagramsPlaced::Nowhere => Stand::Nowhere,
        DatagramsPlaced::OverLimit => Stand::OverLimit,
    };
    if counted != Counted::No {
        found.counted = counted;
    }
    found.board = board.unwrap_or(BoardId(0));
    std::mem::drop(found);
    let waited = held.and_then(|held| core.datagrams.held.remove(held)).unwrap_or_default();
    let Some(board) = board else {
        let is_over = placed == DatagramsPlaced::OverLimit;
        core.happened(if is_over { Happening::DatagramsOverLimit } else { Happening::DatagramsUnplaced });
        return schedule_in(core, entry, NOWHERE_MS);
    };
    core.by_board.joined(board);
    core.happened(Happening::DatagramsPlaced);
    schedule_in(core, entry, idle_ms(core, service));
    // Counted as held when they came; that they go on now are originated packets.
    for (mbuf, frame_len) in waited {
        let sent = send(core, board, &UdpPacket { flow, frame_len }, mbuf) == Verdict::Forwarded;
        core.happened(if sent { Happening::Originated } else { Happening::OriginateFailed });
    }
}

fn idle_ms(core: &Core, service: u16) -> u32 {
    core.services.idle_ms(service).unwrap_or(crate::services::UDP_IDLE_MS)
}

fn schedule_in(core: &mut Core, entry: EntryRef, ms: u32) {
    core.datagrams.flows.schedule(entry, core.now.ms.wrapping_add(ms.max(1)));
}

fn remove(core: &mut Core, entry: EntryRef) {
    let flow = core.datagrams.flows.flow(entry);
    let Some(removed) = core.datagrams.flows.remove(entry) else { return };
    core.counters.datagram_flows.sub(1);
    if let Some(board) = removed.board() {
        core.by_board.left(board);
    }
    if let Some(flow) = flow {
        core.ended.owe(flow, Protocol::Udp, removed.counted);
    }
    if let Some(held) = removed.held {
        core.datagrams.held.remove(held);
    }
}

/// Handles what is due. Returns how many flows the wheel touched.
pub fn expire(core: &mut Core) -> usize {
    let mut due: ArrayVec<EntryRef, BUDGET> = ArrayVec::new();
    let now_ms = core.now.ms;
    let work = core.datagrams.flows.expire(now_ms, BUDGET, |entry, _, _| {
        let _ = due.try_push(entry);
        Due::Again(now_ms.wrapping_add(1_000))
    });
    for entry in due {
        idle(core, entry);
    }
    work.total()
}

/// A flow whose time has come; one whose datagrams go on is put off.
fn idle(core: &mut Core, entry: EntryRef) {
    let Some(found) = core.datagrams.flows.get(entry) else { return };
    if found.stand == Stand::Placed {
        let limit_ms = idle_ms(core, found.service);
        let idle_ms = core.datagrams.flows.idle_ms(entry, core.now.ms).unwrap_or(u32::MAX);
        if idle_ms < limit_ms {
            return schedule_in(core, entry, limit_ms - idle_ms);
        }
        core.happened(Happening::DatagramsIdle);
    }
    remove(core, entry);
}
