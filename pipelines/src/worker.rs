//! One worker: a polled lcore with its ports' queues, its shard, its timers and its counters.
//!
//! ```text
//!  rx burst -> fast path: settled? -> forward;  SYN of an unknown flow? -> handshake
//!          or -> parse -> steer? -> classify -> match route { forward | handshake | request | local | recover | drop }
//!  commands of the control core -> migrate          timers -> expire          all of them -> tx burst
//! ```
//!
//! Nothing here allocates, locks, makes a system call (but for sleeping when idle) or formats text.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use ipos_dpdk::burst::Burst;
use ipos_dpdk::clock::Tsc;
use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::Mempool;
use ipos_wire::{ethernet, ipos};

use crate::by_board;
use crate::classify::{Route, classify};
use crate::clock::Clock;
use crate::config::{Idle, PortSettings, WorkerConfig};
use crate::core::Core;
use crate::counters::{Drop, Outcome, WorkerCounters};
use crate::datagram;
use crate::ended;
use crate::expire::expire;
use crate::fast_path::{self, Glance, Way};
use crate::forward;
use crate::handoff::{Command, Event, PORTS_MAX, PortIndex, Receiver, Sender};
use crate::handshake;
use crate::io::{PortIo, RX_BURST};
use crate::layer4;
use crate::local;
use crate::migrate::command;
use crate::parse::{Parsed, TcpPacket, parse};
use crate::recover;
use crate::reply;
use crate::request::stage as request;
use crate::services::Services;
use crate::steer::{Owners, Peers, Steered};
use crate::table::OutOfMemory;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;
use crate::watch;

/// Commands and steered packets taken per poll and queue.
const QUEUE_BURST: usize = 64;

/// One worker.
pub struct Worker<IO> {
    core: Core,
    io: ArrayVec<IO, PORTS_MAX>,
    commands: Receiver<Command>,
    peers: Peers,
    owners: Owners,
    clock: Clock,
    burst: Burst<RX_BURST>,
}

/// What a worker is connected to.
pub struct Wiring {
    /// To the control core.
    pub events: Sender<Event>,
    /// From the control core.
    pub commands: Receiver<Command>,
    /// To and from the other workers.
    pub peers: Peers,
    /// Where frames that no received packet can carry come from.
    pub mempool: Mempool,
    /// Time.
    pub clock: Clock,
}

impl<IO: PortIo> Worker<IO> {
    /// Takes all memory that the worker will ever use. `ports` are in the order of the configuration.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(
        config: WorkerConfig,
        ports: Vec<(PortSettings, IO)>,
        services: Arc<Services>,
        counters: Arc<WorkerCounters>,
        wiring: Wiring,
    ) -> Result<Self, OutOfMemory> {
        let owners = Owners::new(config.workers, config.hash_key);
        let (settings, io): (Vec<_>, ArrayVec<_, PORTS_MAX>) = ports.into_iter().unzip();
        let core = Core::new(config, settings, services, counters, wiring.events, wiring.mempool)?;
        Ok(Self {
            core,
            io,
            commands: wiring.commands,
            peers: wiring.peers,
            owners,
            clock: wiring.clock,
            burst: Burst::new(),
        })
    }

    /// Polls until the control core says stop.
    pub fn run(mut self) {
        let started = Tsc::now();
        let mut empty_polls = 0u32;
        let mut before = started;
        loop {
            let Some(work) = self.poll(before) else { return };
            let after = Tsc::now();
            let counters = &self.core.counters;
            counters.polls.add(1);
            counters.total_cycles.set(after.wrapping_sub(started));
            if work > 0 {
                counters.busy_polls.add(1);
                counters.busy_cycles.add(after.wrapping_sub(before));
                empty_polls = 0;
            } else {
                empty_polls = empty_polls.saturating_add(1);
                rest(self.core.config.idle, empty_polls);
            }
            before = Tsc::now();
        }
    }

    /// One round: receive, decide, send. Returns how much there was to do; `None` once the control core said stop.
    pub fn poll(&mut self, tsc: u64) -> Option<usize> {
        self.core.now = self.clock.at(tsc);
        let mut work = 0;
        for place in 0..self.io.len() {
            work += self.receive(place);
        }
        work += self.take_steered();
        let (commands, go_on) = self.take_commands();
        work += commands
            + expire(&mut self.core)
            + datagram::expire(&mut self.core)
            + by_board::sweep(&mut self.core)
            + ended::tell(&mut self.core);
        self.transmit();
        go_on.then_some(work)
    }

    /// The worker's tables and counters, to look at.
    pub fn core(&self) -> &Core {
        &self.core
    }

    fn receive(&mut self, place: usize) -> usize {
        let Self { io, burst, core, peers, owners, .. } = self;
        let (Some(io), Some(settings)) = (io.get_mut(place), core.ports.get(place)) else { return 0 };
        let count = io.receive(burst);
        if count == 0 {
            return 0;
        }
        // Three passes, so that the cache misses of the burst's lookups overlap. What a packet changes, the next one finds.
        let entered = core.shard.entered();
        let mut octets = 0;
        let mut glances: ArrayVec<Glance, RX_BURST> = ArrayVec::new();
        for mbuf in burst.iter() {
            octets += mbuf.len() as u64;
            glances.push(fast_path::begin(mbuf, settings, &core.shard));
        }
        let port = settings.index;
        glances.iter_mut().for_each(|glance| fast_path::go_on(glance, &core.shard));
        let (mut forwarded, mut answered) = (0, 0);
        for (mbuf, glance) in burst.drain().zip(&glances) {
            let verdict = match fast_path::way(core, glance, entered) {
                Way::Board(board) => fast_path::forward(core, board, mbuf),
                Way::NewSyn => match fast_path::new_syn(core, owners, port, &mbuf) {
                    Some(syn) => handshake::syn(core, &syn, mbuf),
                    None => packet(core, peers, owners, Arrived { port, frame: mbuf, may_steer: true }),
                },
                Way::Other => packet(core, peers, owners, Arrived { port, frame: mbuf, may_steer: true }),
            };
            match verdict {
                Verdict::Forwarded => forwarded += 1,
                Verdict::Answered => answered += 1,
                other => settle(core, other),
            }
        }
        let counters = &core.counters;
        counters.ports[place].received_packets.add(count as u64);
        counters.ports[place].received_octets.add(octets);
        counters.outcome(Outcome::Forwarded).add(forwarded);
        counters.outcome(Outcome::Answered).add(answered);
        count
    }

    fn take_steered(&mut self) -> usize {
        let mut count = 0;
        for place in 0..self.peers.from.len() {
            for _ in 0..QUEUE_BURST {
                let Some(Steered { port, frame }) = self.peers.from[place].receive() else { break };
                self.core.counters.steered_in.add(1);
                let arrived = Arrived { port, frame, may_steer: false };
                let verdict = packet(&mut self.core, &mut self.peers, &self.owners, arrived);
                settle(&self.core, verdict);
                count += 1;
            }
        }
        count
    }

    fn take_commands(&mut self) -> (usize, bool) {
        for count in 0..QUEUE_BURST {
            let Some(message) = self.commands.receive() else { return (count, true) };
            if !command(&mut self.core, message) {
                return (count, false);
            }
        }
        (QUEUE_BURST, true)
    }

    fn transmit(&mut self) {
        for (io, burst) in self.io.iter_mut().zip(&mut self.core.tx) {
            if !burst.is_empty() {
                io.send(burst);
            }
        }
    }
}

/// A packet that the fast path has left.
struct Arrived {
    port: PortIndex,
    frame: Mbuf,
    /// False for what another worker handed over.
    may_steer: bool,
}

#[inline]
fn settle(core: &Core, verdict: Verdict) {
    core.counters.outcome(verdict.outcome()).add(1);
    if let Verdict::Drop(reason) = verdict {
        core.counters.dropped(reason).add(1);
    }
}

/// The way of one packet. The only place where it forks.
fn packet(core: &mut Core, peers: &mut Peers, owners: &Owners, arrived: Arrived) -> Verdict {
    let Arrived { port, frame: mut mbuf, may_steer } = arrived;
    let Some(settings) = core.ports.get(usize::from(port.0)) else {
        return Verdict::Drop(Drop::OtherMac);
    };
    // Used where it lies: to copy it would be to wait for all its parts.
    let parsed = parse(&mut mbuf, settings, core.config.ethertype, &core.services);
    let parsed = match &parsed {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Drop(*reason),
    };
    let flow = match parsed {
        Parsed::Tcp(packet) => Some(&packet.flow),
        Parsed::Udp(packet) => Some(&packet.flow),
        Parsed::IcmpError(flow) => Some(flow),
        _ => None,
    };
    if let Some(owner) = flow.map(|flow| owners.owner(flow))
        && owner != core.config.id
        && may_steer
    {
        return match peers.hand_over(owner, Steered { port, frame: mbuf }) {
            Ok(()) => Verdict::Steered,
            Err(_) => Verdict::Drop(Drop::SteerFull),
        };
    }
    match parsed {
        Parsed::Tcp(packet) => tcp(core, packet, mbuf),
        Parsed::Udp(packet) => datagram::packet(core, packet, mbuf),
        Parsed::ArpRequest(request) => reply::arp(core, port, request, mbuf),
        Parsed::Echo => reply::echo(core, port, mbuf),
        Parsed::IcmpError(flow) => forward::icmp_error(core, flow, mbuf),
        Parsed::ArpFarm => to_control(core, port, mbuf, Verdict::Control),
        Parsed::Check => to_control(core, port, mbuf, Verdict::Check),
        Parsed::Ipos => farm_frame(core, port, mbuf),
    }
}

#[inline]
fn tcp(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    match classify(core, packet) {
        Route::Forward(entry) => forward::packet(core, entry, packet, mbuf),
        Route::Unsettled(entry) => forward::unsettled(core, entry, packet, mbuf),
        Route::Watched(entry) => watch::segment(core, entry, packet, mbuf),
        Route::Request(entry) => request::segment(core, entry, packet, mbuf),
        Route::Held(entry) => watch::held::segment(core, entry, packet, mbuf),
        Route::Handshake => handshake::syn(core, packet, mbuf),
        Route::First { cookie, irs, service, kind, replaces } => {
            // A request's second segment that overtook its first waits in the entry that the farm is asked about.
            let waited = replaces.and_then(|old| replace(core, old));
            let proof = request::Proof { cookie, irs, service, kind };
            let verdict = request::first(core, packet, mbuf, proof);
            if let Some(recover::Waiting { packet, frame, .. }) = waited
                && let Route::Request(entry) = classify(core, &packet)
            {
                // Counted as held when it came.
                let _ = request::segment(core, entry, &packet, frame);
            }
            verdict
        }
        Route::Local(entry) => local::segment(core, entry, packet, mbuf),
        Route::Layer4 { service, entry } => {
            let entry = entry.filter(|entry| {
                let is_kept = layer4::is_of(core, *entry);
                if !is_kept {
                    // What waited in it was of another connection.
                    let _ = replace(core, *entry);
                }
                is_kept
            });
            layer4::packet(core, service, entry, packet, mbuf)
        }
        Route::GivenUp(entry) => by_board::refuse(core, entry, packet, mbuf),
        Route::ProbeFin => handshake::probe_fin(core, packet, mbuf),
        Route::Unknown => recover::unknown(core, packet, mbuf),
        Route::Refuse => local::refuse(core, packet, mbuf),
        Route::Drop(reason) => Verdict::Drop(reason),
    }
}

/// A new connection has proven itself on the addresses and ports of an old one: the old one ends, and its endpoint is
/// detached by force (system.md, table of corners). What waited for the farm's answer is handed back.
fn replace(core: &mut Core, old: EntryRef) -> Option<recover::Waiting> {
    use crate::counters::Happening;
    use crate::entry::State;
    let flow = core.shard.flow(old)?;
    let found = core.shard.get(old)?;
    let migrated = found.holder();
    match found.state {
        State::Asking => return recover::withdraw(core, old),
        State::ForwardConnect | State::Forward | State::Watched => {
            // A full queue costs the board a stale socket until its own time-out; the new connection goes on.
            core.tell(Event::Abandon { entry: old, flow, migrated });
        }
        State::Temporary | State::Local | State::GivenUp | State::Layer4 | State::Admitting => {}
    }
    core.happened(Happening::Replaced);
    core.remove(old);
    // Before the new one asks for a board: it may be within its limits only because the old one has ended.
    ended::tell(core);
    None
}

/// An ipOS frame from the farm: all but packets are for the control core, which checks them whole.
fn farm_frame(core: &mut Core, port: PortIndex, mbuf: Mbuf) -> Verdict {
    let body = mbuf.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
    match ipos::Header::parse(body) {
        Ok(header) if header.kind == ipos::TYPE_PACKET => Verdict::Drop(Drop::UnexpectedIpos),
        Ok(_) => to_control(core, port, mbuf, Verdict::Control),
        Err(_) => Verdict::Drop(Drop::BadIpos),
    }
}

fn to_control(core: &mut Core, port: PortIndex, frame: Mbuf, taken: Verdict) -> Verdict {
    if core.tell(Event::Frame { port, frame }) { taken } else { Verdict::Drop(Drop::ControlFull) }
}

/// Nothing to do.
#[inline]
fn rest(idle: Idle, empty_polls: u32) {
    match idle {
        Idle::Sleep { after_polls, sleep_us } if empty_polls >= after_polls => {
            std::thread::sleep(Duration::from_micros(u64::from(sleep_us)));
        }
        _ => std::hint::spin_loop(),
    }
}
