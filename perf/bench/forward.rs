//! One worker between a replayed capture and a port that swallows everything: what P1, P2 and P4 measure.
//!
//! Runs as a process of its own, which waits for orders on its standard input, so that the baseline and it can take turns
//! on one CPU. The worker is the appliance's own, in its own loop on an EAL lcore; its counters tell the rate.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use ipos_dpdk::burst::Burst;
use ipos_dpdk::clock::Tsc;
use ipos_dpdk::eal::Eal;
use ipos_dpdk::lcore::{self, LcoreId};
use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::Mempool;
use ipos_dpdk::port::{Port, PortConfig};
use ipos_pipelines::clock::Clock;
use ipos_pipelines::counters::{Drop as Reason, Outcome, WorkerCounters};
use ipos_pipelines::handoff::{self, Command, Event, Holder, Receiver, Sender};
use ipos_pipelines::io::{PortIo, QueuePair, RX_BURST, TX_BURST};
use ipos_pipelines::steer;
use ipos_pipelines::worker::{Wiring, Worker};
use ipos_wire::seq::Seq;
use ipos_wire::tcp::{Flags, Options};
use serde::{Deserialize, Serialize};

use crate::ALLOCATOR;
use crate::capture::{self, Kind};
use crate::cputime;
use crate::listing::{Read, Reader};
use crate::machine::{Machine, Pages, resident_octets};
use crate::setup;
use crate::testpmd::devices;

/// What the process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// CPUs.
    pub machine: Machine,
    /// Where memory comes from.
    pub pages: Pages,
    /// Memory of the EAL, MiB.
    pub mb: u32,
    /// Packet buffers.
    pub mbufs: u32,
    /// Octets of each.
    pub data_room_octets: u16,
    /// What is replayed.
    pub capture: PathBuf,
    /// What it holds.
    pub kind: Kind,
    /// Places in the worker's shard.
    pub entries: u32,
    /// Flows that are established before anything is measured.
    pub resident: u32,
}

/// What it says once it is set up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Entries in Forward.
    pub established: u64,
    /// What the worker with its tables grew the process by, octets, per entry.
    pub octets_per_flow: f64,
}

/// A run that it is told to make.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Packets that count.
    pub packets: u64,
    /// Whether all flows are listed meanwhile, again and again.
    pub listing: bool,
}

/// What it says of one run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Packets that reached their outcome, per second of CPU time.
    pub rate: f64,
    /// Of packets received, those that did not.
    pub others: u64,
    /// Allocations and frees of the whole process meanwhile.
    pub allocations: u64,
    /// By how much the worker's tables grew, entries.
    pub growth: i64,
    /// Flows that were listed, per second of that time.
    pub listed: f64,
}

/// Packets before those that count.
const WARM_UP_PACKETS: u64 = 2_000_000;

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(5);

/// Looks without a packet until the worker is taken for stuck.
const PATIENCE_LOOKS: u32 = 2_000;

/// The child's whole life: set up, then a run for each [`Order`] on standard input, a line each.
///
/// # Errors
/// When something cannot be set up, or a packet takes another way than it should.
pub fn child(spec: &Spec) -> anyhow::Result<()> {
    let eal = Eal::init(&spec.machine.eal(spec.pages, spec.mb, devices(&spec.capture)))?;
    let pool = Mempool::new("bench", spec.mbufs, 256, spec.data_room_octets, None)?;
    let counters = Arc::new(WorkerCounters::new());
    let (tell, told) = mpsc::channel();
    let io = [start("net_pcap0", &pool)?, start("net_null0", &pool)?].map(|(_, pair)| pair);
    let (its_spec, its_counters) = (spec.clone(), Arc::clone(&counters));
    // The worker is made on its own lcore: what it shares with the set-up never leaves that thread.
    let handle = lcore::launch(LcoreId::new(1), move || {
        let bench = Bench::new(&its_spec, io, its_counters, pool);
        // Nobody listens any more only when the process ends.
        match bench.and_then(|bench| bench.populated(its_spec.resident)) {
            Ok((ready, reader, worker)) => {
                let _ = tell.send(Ok((ready, reader)));
                worker.run();
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    })?;
    let (ready, mut reader): (Ready, Reader) = told.recv().context("the worker's lcore ended")??;
    println!("{}", serde_json::to_string(&ready)?);
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?).context("an order")?;
        let read = Read::default();
        let measured = std::thread::scope(|scope| {
            let reading = order.listing.then(|| scope.spawn(|| reader.read(&read)));
            let measured = measure(&counters, spec.kind, order.packets, &read);
            read.is_over.store(true, Ordering::Relaxed);
            let outcome = reading.map(|reading| reading.join());
            match outcome {
                Some(Err(_)) => bail!("the reader panicked"),
                Some(Ok(outcome)) => outcome.and(measured),
                None => measured,
            }
        })?;
        println!("{}", serde_json::to_string(&measured)?);
    }
    ensure!(reader.commands.send(Command::Stop).is_ok(), "the worker takes no commands");
    handle.join()?;
    drop(eal);
    Ok(())
}

fn start(device: &str, pool: &Mempool) -> anyhow::Result<(Port, QueuePair)> {
    let (port, rx, tx) =
        Port::start(Port::find(device)?, &PortConfig::default(), std::slice::from_ref(pool))?;
    let tx = tx.into_iter().next().context("a transmit queue")?;
    Ok((port, QueuePair { rx: rx.into_iter().next(), tx }))
}

fn measure(counters: &WorkerCounters, kind: Kind, packets: u64, read: &Read) -> anyhow::Result<Measured> {
    let outcome = match kind {
        Kind::Established => Outcome::Forwarded,
        Kind::Syn => Outcome::Answered,
    };
    let wait = |until: u64| -> anyhow::Result<()> {
        let mut looks = 0;
        let mut last = 0;
        while counters.outcome(outcome).read() < until {
            let now = counters.packets_in();
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            ensure!(looks < PATIENCE_LOOKS, "the worker receives no packets");
            std::thread::sleep(LOOK);
        }
        Ok(())
    };
    let count = || counters.outcome(outcome).read();
    let others = || -> u64 {
        let others = Outcome::ALL.iter().filter(|each| **each != outcome);
        others.map(|each| counters.outcome(*each).read()).sum()
    };
    let entries = || counters.entries.iter().map(|gauge| gauge.read()).sum::<u64>();
    let before_warm_up = others();
    wait(count() + WARM_UP_PACKETS.min(packets))?;
    if others() != before_warm_up {
        bail!("packets took another way: {}", drops(counters));
    }
    let (others_before, entries_before) = (others(), entries());
    let allocated = ALLOCATOR.stats();
    let billed_ns = || -> anyhow::Result<u64> {
        let all = cputime::process_ns(std::process::id())?;
        Ok(all.saturating_sub(read.own_ns.load(Ordering::Relaxed)))
    };
    let rows_before = read.rows.load(Ordering::Relaxed);
    let (packets_before, ns_before) = (count(), billed_ns()?);
    wait(packets_before + packets)?;
    let (packets_after, ns_after) = (count(), billed_ns()?);
    let s = ns_after.saturating_sub(ns_before).max(1) as f64 / 1e9;
    let change = ALLOCATOR.stats() - allocated;
    Ok(Measured {
        rate: (packets_after - packets_before) as f64 / s,
        others: others() - others_before,
        allocations: (change.allocations + change.deallocations + change.reallocations) as u64,
        growth: entries() as i64 - entries_before as i64,
        listed: (read.rows.load(Ordering::Relaxed) - rows_before) as f64 / s,
    })
}

fn drops(counters: &WorkerCounters) -> String {
    let dropped = Reason::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason).read()));
    let words: Vec<String> =
        dropped.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    words.join(", ")
}

/// A port that first gives what the set-up puts in, then what its queues bring.
struct Tap {
    queues: QueuePair,
    gate: Option<Rc<Gate>>,
}

#[derive(Default)]
struct Gate {
    is_open: Cell<bool>,
    waiting: RefCell<VecDeque<Mbuf>>,
}

impl PortIo for Tap {
    #[inline]
    fn receive(&mut self, burst: &mut Burst<RX_BURST>) -> usize {
        let Some(gate) = self.gate.as_ref().filter(|gate| !gate.is_open.get()) else {
            return self.queues.receive(burst);
        };
        let mut waiting = gate.waiting.borrow_mut();
        let before = burst.len();
        while !burst.is_full()
            && let Some(mbuf) = waiting.pop_front()
        {
            // There is room: the burst is not full.
            let _ = burst.push(mbuf);
        }
        burst.len() - before
    }

    #[inline]
    fn send(&mut self, burst: &mut Burst<TX_BURST>) -> usize {
        self.queues.send(burst)
    }
}

/// Flows that are established at once: the worker asks the farm about as many, and no more.
const BATCH: u32 = 512;

/// Packets that a flow may take to be established.
const ESTABLISH_TRIES: u32 = 4;

/// Questions to the farm that a worker asks in a second of its own time, and somewhat fewer.
const QUESTIONS_PER_SECOND: u64 = 18_000;

/// The worker while it is set up, and the other ends of what it is connected to.
struct Bench {
    worker: Worker<Tap>,
    gate: Rc<Gate>,
    events: Receiver<Event>,
    commands: Sender<Command>,
    counters: Arc<WorkerCounters>,
    pool: Mempool,
    /// The worker's time in the set-up, cycles: taken out of the past, so that its clock is right when it starts to run.
    tsc: u64,
    batch_cycles: u64,
    resident_before: u64,
}

impl Bench {
    fn new(
        spec: &Spec,
        [wan, farm]: [QueuePair; 2],
        counters: Arc<WorkerCounters>,
        pool: Mempool,
    ) -> anyhow::Result<Self> {
        let tsc_hz = Tsc::new()?.hz();
        let past_s = u64::from(spec.resident) / QUESTIONS_PER_SECOND + 10;
        let tsc = Tsc::now().wrapping_sub(past_s * tsc_hz);
        let (event_sender, events) = handoff::queue(4096);
        let (commands, command_ends) = handoff::queue(4096);
        let gate = Rc::new(Gate::default());
        let taps = [Tap { queues: wan, gate: Some(Rc::clone(&gate)) }, Tap { queues: farm, gate: None }];
        let wiring = Wiring {
            events: event_sender,
            commands: command_ends,
            peers: steer::mesh(1).remove(0),
            mempool: pool.clone(),
            clock: Clock::new(tsc, tsc_hz, 1_700_000_000_000_000),
        };
        let resident_before = resident_octets();
        let ports = setup::ports().into_iter().zip(taps).collect();
        let config = setup::config(spec.entries, 64);
        let worker = Worker::new(config, ports, setup::services()?, Arc::clone(&counters), wiring)?;
        let batch_cycles = u64::from(BATCH) * tsc_hz / QUESTIONS_PER_SECOND;
        Ok(Self { worker, gate, events, commands, counters, pool, tsc, batch_cycles, resident_before })
    }

    /// Establishes flows by the road that connections take after an appliance's restart: a packet that nobody knows, the
    /// question to the farm, a board's word that it holds the endpoint.
    fn populated(mut self, resident: u32) -> anyhow::Result<(Ready, Reader, Worker<Tap>)> {
        self.order(Command::Board {
            board: setup::BOARD,
            mac: setup::board_mac(setup::BOARD.0),
            port: setup::FARM_PORT,
        })?;
        for first in (0..resident).step_by(BATCH as usize) {
            self.establish(first..resident.min(first + BATCH))?;
        }
        let established = self.counters.entries[ipos_pipelines::entry::State::Forward.index()].read();
        ensure!(
            established == u64::from(resident),
            "{established} of {resident} flows are established: {}",
            drops(&self.counters)
        );
        let grown = resident_octets().saturating_sub(self.resident_before);
        let octets_per_flow = grown as f64 / f64::from(resident.max(1));
        self.gate.is_open.set(true);
        let reader = Reader { commands: self.commands, events: self.events };
        Ok((Ready { established, octets_per_flow }, reader, self.worker))
    }

    fn order(&mut self, command: Command) -> anyhow::Result<()> {
        ensure!(self.commands.send(command).is_ok(), "the queue of commands is full");
        Ok(())
    }

    fn establish(&mut self, numbers: std::ops::Range<u32>) -> anyhow::Result<()> {
        let mut missing: Vec<u32> = numbers.collect();
        // Once in a million packets, made-up sequence numbers pass for a cookie's: then with others.
        for salt in 0..ESTABLISH_TRIES {
            for &number in &missing {
                let seq = Seq(number.wrapping_mul(0x9e37_79b9).wrapping_add(salt << 20));
                let numbers = (seq, Seq(!seq.0));
                let frame =
                    capture::frame(&capture::flow(number), numbers, Flags::ACK, Options::default(), &[]);
                let mut mbuf = self.pool.alloc().context("a packet buffer")?;
                mbuf.append(frame.len()).context("room in a packet buffer")?.copy_from_slice(&frame);
                self.gate.waiting.borrow_mut().push_back(mbuf);
            }
            self.poll_until_idle();
            while let Some(event) = self.events.receive() {
                if let Event::WhoHolds { entry, .. } = event {
                    let holder = Holder::Board(setup::BOARD, u64::from(entry.slot()) + 1);
                    self.order(Command::Holder { entry, holder })?;
                }
            }
            self.poll_until_idle();
            self.tsc = self.tsc.wrapping_add(self.batch_cycles);
            let shard = &self.worker.core().shard;
            missing.retain(|number| shard.lookup(&capture::flow(*number)).is_none());
            if missing.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn poll_until_idle(&mut self) {
        while self.worker.poll(self.tsc).is_some_and(|work| work > 0) {}
    }
}
