//! What all stages of one worker share: its tables, its timers, its outgoing bursts, its time.
//!
//! Owned by the worker, moved into it by value; nothing here is shared but the counters, which only the worker writes.

use std::sync::Arc;

use ipos_dpdk::burst::Burst;
use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::Mempool;
use ipos_wire::ethernet;
use ipos_wire::flow::Flow;
use ipos_wire::mac::Mac;

use crate::admit::Admitting;
use crate::by_board::ByBoard;
use crate::clock::Now;
use crate::config::{PortSettings, WorkerConfig};
use crate::counters::{Drop, Happening, WorkerCounters};
use crate::datagram::Datagrams;
use crate::ended::{self, Ended};
use crate::entry::{Entry, Pending, State};
use crate::handoff::{BOARDS_MAX, BoardId, Event, PortIndex, Sender};
use crate::io::TX_BURST;
use crate::layer4::Standings;
use crate::limit::Limit;
use crate::recover::Waiting;
use crate::request::assembly::AssemblyPool;
use crate::request::path::PATH_OCTETS;
use crate::segment::{self, Segment, Way};
use crate::services::Services;
use crate::table::OutOfMemory;
use crate::table::shard::Shard;
use crate::table::slab::{EntryRef, Slab};
use crate::too_big;
use crate::verdict::Verdict;
use crate::watch::{WATCHED_PER_PENDING, Watch};

/// RSTs that one worker sends in a second, at most.
const RESETS_PER_SECOND: u32 = 10_000;

/// Questions to the farm that one worker asks in a second, at most.
const QUESTIONS_PER_SECOND: u32 = 20_000;

/// Flows of one worker that may wait for the farm's answer at once.
pub const WAITING_MAX: u32 = 1024;

/// Where a board is reached.
#[derive(Clone, Copy, Debug)]
pub struct BoardPlace {
    /// Its MAC address.
    pub mac: Mac,
    /// The farm port that it is behind.
    pub port: PortIndex,
    /// Octets of the longest frame of a client's that fits on the way there.
    pub frame_max: u16,
    /// The Ethernet header of what goes there.
    pub ethernet: [u8; ethernet::HEADER_LEN],
}

/// The state of one worker.
pub struct Core {
    /// What the worker was told at its start.
    pub config: WorkerConfig,
    /// Its ports, by [`PortIndex`].
    pub ports: Vec<PortSettings>,
    /// The services' snapshot.
    pub services: Arc<Services>,
    /// How often that was another one: numbers of pools are given again.
    pub reloads: u32,
    /// Temporary, Forward-Connect, Forward and Local Table in one.
    pub shard: Shard<Entry>,
    /// What hangs on entries that are not settled.
    pub pending: Slab<Pending>,
    /// Buffers of unfinished requests.
    pub assemblies: AssemblyPool,
    /// Connections each request of which is looked at.
    pub watches: Slab<Watch>,
    /// Packets of flows that the farm is being asked about.
    pub waiting: Slab<Waiting>,
    /// Where boards are reached, by [`BoardId`].
    pub boards: Box<[Option<BoardPlace>]>,
    /// How many flows they have.
    pub by_board: ByBoard,
    /// Flows of datagrams.
    pub datagrams: Datagrams,
    /// First packets that wait to be admitted.
    pub admitting: Admitting,
    /// Messages that the queue to the control core has room for.
    pub events_room: usize,
    /// Connections that counted against limits, and have ended.
    pub ended: Ended,
    /// Which boards take the flows of services that choose by hash.
    pub standings: Standings,
    /// What goes out at the end of the poll, by [`PortIndex`].
    pub tx: Vec<Burst<TX_BURST>>,
    /// Numbers for the admin thread.
    pub counters: Arc<WorkerCounters>,
    /// To the control core.
    pub events: Sender<Event>,
    /// Where frames that no received packet can carry come from.
    pub mempool: Mempool,
    /// The time of this poll.
    pub now: Now,
    /// Bounds RSTs.
    pub resets: Limit,
    /// Bounds questions to the farm.
    pub questions: Limit,
    /// Bounds those about connections that are not terminated here.
    pub layer4_questions: Limit,
    /// Bounds messages about packets that do not fit.
    pub too_big: Limit,
    /// For normalising paths.
    pub path_buffer: Box<[u8; PATH_OCTETS]>,
}

impl Core {
    /// Takes all memory that the worker will ever use.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(
        config: WorkerConfig,
        ports: Vec<PortSettings>,
        services: Arc<Services>,
        counters: Arc<WorkerCounters>,
        events: Sender<Event>,
        mempool: Mempool,
    ) -> Result<Self, OutOfMemory> {
        counters.entries_capacity.set(u64::from(config.entries));
        counters.pending_capacity.set(u64::from(config.pending));
        let [one, other] = config.hash_key;
        let flows_max = config.entries as usize + config.datagram_flows as usize;
        Ok(Self {
            // Another key, so that what is learned of one shard says nothing of the other.
            datagrams: Datagrams::new(config.datagram_flows, [other, !one])?,
            admitting: Admitting::new()?,
            events_room: events.room(),
            ended: Ended::new(flows_max)?,
            shard: Shard::new(config.entries, config.hash_key, 0)?,
            pending: Slab::new(config.pending)?,
            assemblies: AssemblyPool::with_capacity(config.pending),
            watches: Slab::new(config.pending.saturating_mul(WATCHED_PER_PENDING))?,
            waiting: Slab::new(WAITING_MAX)?,
            boards: vec![None; BOARDS_MAX].into_boxed_slice(),
            by_board: ByBoard::new(),
            standings: Standings::new(),
            tx: ports.iter().map(|_| Burst::new()).collect(),
            resets: Limit::per_second(RESETS_PER_SECOND),
            questions: Limit::per_second(QUESTIONS_PER_SECOND),
            layer4_questions: Limit::per_second(QUESTIONS_PER_SECOND / 2),
            too_big: Limit::per_second(too_big::PER_SECOND),
            path_buffer: Box::new([0; PATH_OCTETS]),
            now: Now::default(),
            config,
            ports,
            services,
            reloads: 0,
            counters,
            events,
            mempool,
        })
    }

    /// Puts a frame into a port's outgoing burst. A full burst means that the port has not taken anything for a while:
    /// the frame is gone then, and counted with the port.
    #[inline]
    pub fn transmit(&mut self, port: PortIndex, mbuf: Mbuf) {
        let place = usize::from(port.0);
        let (Some(burst), Some(counters)) = (self.tx.get_mut(place), self.counters.ports.get(place)) else {
            return;
        };
        let octets = mbuf.len() as u64;
        if burst.push(mbuf).is_ok() {
            counters.sent_packets.add(1);
            counters.sent_octets.add(octets);
        } else {
            counters.send_failed.add(1);
        }
    }

    /// Counts something that happened to a connection.
    #[inline]
    pub fn happened(&self, what: Happening) {
        self.counters.happening(what).add(1);
    }

    /// Counts what became of a packet that has waited, and was counted as held when it came.
    pub fn went_on(&self, verdict: Verdict) {
        match verdict {
            Verdict::Forwarded => self.happened(Happening::Originated),
            // By a RST or an ICMP message, which count themselves.
            Verdict::Answered => {}
            _ => self.happened(Happening::OriginateFailed),
        }
    }

    /// The MAC address of a port.
    #[inline]
    pub fn port_mac(&self, port: PortIndex) -> Mac {
        self.ports.get(usize::from(port.0)).map_or(Mac::default(), |port| port.mac)
    }

    /// Takes note of where a board is reached.
    pub fn set_place(&mut self, board: BoardId, mac: Mac, port: PortIndex) {
        let mut ethernet = [0; ethernet::HEADER_LEN];
        let way = Way { source: self.port_mac(port), destination: mac };
        segment::write_ethernet(&mut ethernet, way, self.config.ethertype);
        if let Some(place) = self.boards.get_mut(usize::from(board.0)) {
            let frame_max = ethernet::HEADER_LEN as u16 + too_big::packet_max(self.config.farm_mtu);
            *place = Some(BoardPlace { mac, port, frame_max, ethernet });
        }
    }

    /// Where a board is reached, once it is known.
    #[inline(always)]
    pub fn place_of(&self, board: BoardId) -> Option<&BoardPlace> {
        self.boards.get(usize::from(board.0))?.as_ref()
    }

    /// The way to a board, once it is known.
    #[inline]
    pub fn way_to(&self, board: BoardId) -> Option<(PortIndex, Way)> {
        let place = self.place_of(board)?;
        Some((place.port, Way { source: self.port_mac(place.port), destination: place.mac }))
    }

    /// Answers a client with the buffer of the packet that asked.
    #[inline(always)]
    pub fn answer_in_place(
        &mut self,
        mut mbuf: Mbuf,
        port: PortIndex,
        client_mac: Mac,
        flow: &Flow,
        segment: &Segment<'_>,
    ) -> Result<(), Drop> {
        let way = Way { source: self.port_mac(port), destination: client_mac };
        if !segment::to_client(&mut mbuf, way, flow, segment) {
            return Err(Drop::NoMbuf);
        }
        self.transmit(port, mbuf);
        Ok(())
    }

    /// Sends a client a segment that no packet asked for.
    pub fn originate_to_client(
        &mut self,
        port: PortIndex,
        client_mac: Mac,
        flow: &Flow,
        segment: &Segment<'_>,
    ) {
        let sent = self
            .mempool
            .alloc()
            .is_some_and(|mbuf| self.answer_in_place(mbuf, port, client_mac, flow, segment).is_ok());
        self.happened(if sent { Happening::Originated } else { Happening::OriginateFailed });
    }

    /// Sends a board a segment of the client's, as an ipOS packet.
    pub fn originate_to_board(&mut self, board: BoardId, flow: &Flow, segment: &Segment<'_>) {
        let sent = self.way_to(board).zip(self.mempool.alloc()).is_some_and(|((port, way), mut mbuf)| {
            let written = segment::to_board(&mut mbuf, way, self.config.ethertype, flow, segment);
            if written {
                self.transmit(port, mbuf);
            }
            written
        });
        self.happened(if sent { Happening::Originated } else { Happening::OriginateFailed });
    }

    /// Enters a connection.
    ///
    /// # Errors
    /// [`Drop::ShardFull`].
    pub fn enter(&mut self, flow: &Flow, state: State, pending: Option<EntryRef>) -> Result<EntryRef, Drop> {
        let entry =
            self.shard.insert(flow, Entry::new(state, pending), self.now.ms).map_err(|_| Drop::ShardFull)?;
        self.counters.entries[state.index()].add(1);
        Ok(entry)
    }

    /// Enters a connection that a board has from the start.
    ///
    /// # Errors
    /// [`Drop::ShardFull`].
    pub fn enter_at_board(&mut self, flow: &Flow, entry: Entry) -> Result<EntryRef, Drop> {
        let (state, board) = (entry.state, entry.board);
        let entry = self.shard.insert(flow, entry, self.now.ms).map_err(|_| Drop::ShardFull)?;
        self.counters.entries[state.index()].add(1);
        self.by_board.joined(board);
        Ok(entry)
    }

    /// Moves a connection to another table. Into Forward it goes with its board set.
    #[inline]
    pub fn change_state(&mut self, entry: EntryRef, state: State) {
        if let Some(mut entry) = self.shard.get_mut(entry) {
            if entry.is_open() {
                self.by_board.left(entry.board);
            }
            if state.is_at_board() && !entry.closing {
                self.by_board.joined(entry.board);
            }
            self.counters.entries[entry.state.index()].sub(1);
            self.counters.entries[state.index()].add(1);
            entry.state = state;
        }
    }

    /// Removes a connection with all that hangs on it.
    pub fn remove(&mut self, entry: EntryRef) {
        ended::entry(self, entry);
        self.release_pending(entry);
        if let Some(removed) = self.shard.remove(entry) {
            self.counters.entries[removed.state.index()].sub(1);
            if removed.is_open() {
                self.by_board.left(removed.board);
            }
        }
    }

    /// Lets go of what hangs on an entry, buffers included.
    pub fn release_pending(&mut self, entry: EntryRef) {
        if let Some(watch) = self.release_held(entry) {
            self.watches.remove(watch);
        }
    }

    /// As [`Self::release_pending`], but for the watch over a connection whose octets are held: it is handed back.
    #[inline(always)]
    pub fn release_held(&mut self, entry: EntryRef) -> Option<EntryRef> {
        let mut found = self.shard.get_mut(entry)?;
        let (state, hanging) = (found.state, found.pending.take()?);
        std::mem::drop(found);
        match state {
            State::Asking => drop(self.waiting.remove(hanging)),
            State::Watched => drop(self.watches.remove(hanging)),
            State::Admitting => self.admitting.release(hanging),
            _ => {
                let pending = self.pending.remove(hanging)?;
                self.assemblies.give(pending.assembly);
                self.counters.pending.sub(1);
                return pending.watch;
            }
        }
        None
    }

    /// What hangs on an entry before it is settled.
    #[inline]
    pub fn pending_of(&mut self, entry: EntryRef) -> Option<&mut Pending> {
        self.pending.get_mut(self.shard.get(entry)?.held()?)
    }

    /// Sets an entry's timer, in so many milliseconds from now.
    #[inline]
    pub fn schedule_in(&mut self, entry: EntryRef, ms: u32) {
        self.shard.schedule(entry, self.now.ms.wrapping_add(ms.max(1)));
    }

    /// Tells the control core. False when its queue is full: the event is gone then, which the queue counts.
    #[inline]
    pub fn tell(&mut self, event: Event) -> bool {
        self.events.send(event).is_ok()
    }
}
