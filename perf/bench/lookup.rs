//! Table lookups alone: the worker's shard beside `rte_hash` and `hashbrown`, the same flows in all three.
//!
//! - Each table is made for as many entries as are in it divided by 0.9. (`rte_hash` and `hashbrown` round that up to
//!   powers of two and are emptier, which is to their advantage.)
//! - `rte_hash` has keys of 16 octets, for which it has a comparison of its own, its default hash (CRC, unkeyed), and
//!   answers with a position; bursts of 32.
//! - `hashbrown` has the shard's own hash and values of four octets. It knows no bursts: a loop.
//! - The shard has what a forwarder needs to know beside the key; users of the libraries keep it in an array beside the
//!   table. So hits are measured a second time with what a forwarder does next: it reads the flow's board.

use std::hint::black_box;
use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use hashbrown::HashTable;
use ipos_dpdk::eal::Eal;
use ipos_dpdk::hash::{Hash, Key};
use ipos_pipelines::handoff::BoardId;
use ipos_pipelines::table::{FlowHasher, FlowKey, Indexed, Settled, Shard};
use ipos_wire::flow::Flow;
use serde::{Deserialize, Serialize};

use crate::capture::{FLOWS_MAX, flow, sample};
use crate::cputime::thread_ns;
use crate::machine::{Machine, Pages};
use crate::setup::HASH_KEY;

/// What the process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// CPUs.
    pub machine: Machine,
    /// Where DPDK's memory comes from.
    pub pages: Pages,
    /// How much, MiB.
    pub mb: u32,
    /// Flows in the tables.
    pub flows: u32,
    /// Lookups per run.
    pub lookups: u32,
    /// Runs.
    pub runs: u32,
}

/// Nanoseconds per lookup, run by run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Costs {
    /// The shard, in bursts of 32.
    pub shard: Vec<f64>,
    /// The shard, one by one.
    pub shard_single: Vec<f64>,
    /// `rte_hash`, in bursts of 32.
    pub rte_hash: Vec<f64>,
    /// `hashbrown`, one by one.
    pub hashbrown: Vec<f64>,
    /// The shard, in bursts of 32, and each entry read.
    pub shard_entry: Vec<f64>,
    /// `rte_hash`, in bursts of 32, and each entry read.
    pub rte_hash_entry: Vec<f64>,
    /// `hashbrown`, one by one, and each entry read.
    pub hashbrown_entry: Vec<f64>,
}

/// What the process says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Looked {
    /// Flows that are in the tables.
    pub hits: Costs,
    /// Flows that are not.
    pub misses: Costs,
}

/// As the worker's bursts.
const BURST: usize = 32;

/// Different flows that are looked up in turns: more than fit any cache.
const DISTINCT: u32 = 1 << 20;

/// Memory that DPDK needs for `rte_hash`, MiB: 32 octets per key and 12 per place, rounded up, and its rings.
pub fn rte_hash_mb(flows: u32) -> u64 {
    let capacity = u64::from(capacity(flows));
    ((capacity * 48 + capacity.next_power_of_two() * 24) >> 20) + 64
}

/// Memory that the process needs besides, MiB.
pub fn heap_mb(flows: u32) -> u64 {
    (u64::from(flows) * (100 + 40 + 72)) >> 20
}

fn capacity(flows: u32) -> u32 {
    (u64::from(flows) * 10).div_ceil(9) as u32
}

/// Looks up, and says how long it took.
///
/// # Errors
/// When something cannot be set up, or a table answers wrongly.
pub fn child(spec: &Spec) -> anyhow::Result<()> {
    let _eal = Eal::init(&spec.machine.eal(spec.pages, spec.mb, Vec::new()))?;
    // Measured where nothing else runs, not on the main lcore.
    let its_spec = spec.clone();
    let lcore = ipos_dpdk::lcore::LcoreId::new(1);
    let looked = ipos_dpdk::lcore::launch(lcore, move || look(&its_spec))?.join()??;
    println!("{}", serde_json::to_string(&looked)?);
    Ok(())
}

/// A flow that is settled on the second board.
struct Forwarded(#[expect(dead_code, reason = "as large as the worker's")] [u64; 4]);

impl Settled for Forwarded {
    fn settled_board(&self) -> Option<BoardId> {
        Some(BoardId(1))
    }
}

struct Tables {
    shard: Shard<Forwarded>,
    rte_hash: Hash,
    hashbrown: HashTable<(FlowKey, u32)>,
    hasher: FlowHasher,
    /// What users of the libraries keep beside them: as large as the shard's, by position or value.
    entries: Vec<[u64; 8]>,
}

fn look(spec: &Spec) -> anyhow::Result<Looked> {
    ensure!(spec.flows < FLOWS_MAX, "at most {FLOWS_MAX} flows can be told apart");
    let tables = fill(spec.flows)?;
    let numbers = sample(spec.flows.min(DISTINCT), spec.flows);
    let hits: Vec<Flow> = numbers.iter().map(|n| flow(*n)).collect();
    // The same service, and clients that it does not have.
    let elsewhere = |client: Ipv4Addr| Ipv4Addr::from_bits(client.to_bits() ^ 1 << 31);
    let misses: Vec<Flow> = hits.iter().map(|hit| Flow { client: elsewhere(hit.client), ..*hit }).collect();
    Ok(Looked { hits: costs(&tables, &hits, spec, true)?, misses: costs(&tables, &misses, spec, false)? })
}

fn fill(flows: u32) -> anyhow::Result<Tables> {
    let capacity = capacity(flows);
    let mut tables = Tables {
        shard: Shard::new(capacity, HASH_KEY, 0)?,
        rte_hash: Hash::new("bench", capacity)?,
        hashbrown: HashTable::with_capacity(capacity as usize),
        hasher: FlowHasher::new(HASH_KEY),
        entries: vec![[1; 8]; capacity as usize + 1],
    };
    for number in 0..flows {
        let flow = flow(number);
        let entered = tables.shard.insert(&flow, Forwarded([1; 4]), 0);
        ensure!(entered.is_ok(), "the shard takes no more than {number} flows");
        tables
            .rte_hash
            .insert(&key(&flow))
            .with_context(|| format!("rte_hash takes no more than {number}"))?;
        let (key, hasher) = (FlowKey::from(&flow), &tables.hasher);
        tables.hashbrown.insert_unique(hasher.hash(&key), (key, number), |(key, _)| hasher.hash(key));
    }
    Ok(tables)
}

/// A flow as DPDK's `l3fwd` keeps it: 5-tuple and padding.
fn key(flow: &Flow) -> Key {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&octets(flow.client));
    key[4..8].copy_from_slice(&octets(flow.endpoint));
    key[8..10].copy_from_slice(&flow.client_port.to_be_bytes());
    key[10..12].copy_from_slice(&flow.endpoint_port.to_be_bytes());
    key[12] = 6;
    key
}

fn octets(address: Ipv4Addr) -> [u8; 4] {
    address.octets()
}

/// All tables in turns, a run of each, again; the first round does not count.
fn costs(tables: &Tables, flows: &[Flow], spec: &Spec, are_there: bool) -> anyhow::Result<Costs> {
    let keys: Vec<Key> = flows.iter().map(key).collect();
    let addresses: Vec<&Key> = keys.iter().collect();
    let wanted = if are_there { spec.lookups as usize / flows.len().max(1) * flows.len() } else { 0 };
    let rounds = spec.lookups as usize / flows.len().max(1);
    ensure!(rounds > 0, "fewer lookups than flows");
    let mut costs = Costs::default();
    for run in 0..=spec.runs {
        let figures = [
            time(rounds, flows.len(), wanted, || shard_burst(tables, flows, false))?,
            time(rounds, flows.len(), wanted, || shard_single(tables, flows))?,
            time(rounds, flows.len(), wanted, || rte_hash(tables, &addresses, false))?,
            time(rounds, flows.len(), wanted, || hashbrown(tables, flows, false))?,
            time(rounds, flows.len(), wanted, || shard_burst(tables, flows, true))?,
            time(rounds, flows.len(), wanted, || rte_hash(tables, &addresses, true))?,
            time(rounds, flows.len(), wanted, || hashbrown(tables, flows, true))?,
        ];
        if run > 0 {
            costs.lists().into_iter().zip(figures).for_each(|(list, figure)| list.push(figure));
        }
    }
    Ok(costs)
}

impl Costs {
    /// In the order in which they are measured.
    fn lists(&mut self) -> [&mut Vec<f64>; 7] {
        [
            &mut self.shard,
            &mut self.shard_single,
            &mut self.rte_hash,
            &mut self.hashbrown,
            &mut self.shard_entry,
            &mut self.rte_hash_entry,
            &mut self.hashbrown_entry,
        ]
    }
}

/// Nanoseconds per lookup; `pass` looks all flows up once and returns how many it found.
fn time(rounds: usize, flows: usize, wanted: usize, pass: impl Fn() -> usize) -> anyhow::Result<f64> {
    let before = thread_ns()?;
    let found: usize = (0..rounds).map(|_| pass()).sum();
    let ns = thread_ns()? - before;
    ensure!(found == wanted, "{found} flows were found, not {wanted}");
    Ok(ns as f64 / (rounds * flows) as f64)
}

#[inline(never)]
fn shard_burst(tables: &Tables, flows: &[Flow], reads_entry: bool) -> usize {
    let mut found: [Option<Indexed>; BURST] = [None; BURST];
    let mut count = 0;
    for burst in flows.chunks(BURST) {
        tables.shard.lookup_burst(burst, &mut found);
        let found = black_box(&found)[..burst.len()].iter().flatten();
        count += if reads_entry {
            // Every flow's board is number one.
            found.filter_map(|found| found.hot.board()).map(|board| usize::from(board.0)).sum()
        } else {
            found.count()
        };
    }
    count
}

#[inline(never)]
fn shard_single(tables: &Tables, flows: &[Flow]) -> usize {
    flows.iter().filter(|flow| black_box(tables.shard.lookup(flow)).is_some()).count()
}

#[inline(never)]
fn rte_hash(tables: &Tables, keys: &[&Key], reads_entry: bool) -> usize {
    let mut found = [0; BURST];
    let mut count = 0;
    for burst in keys.chunks(BURST) {
        tables.rte_hash.lookup_bulk(burst, &mut found);
        let found = black_box(&found)[..burst.len()].iter();
        count += if reads_entry {
            found
                .filter_map(|position| tables.entries.get(*position as usize))
                .map(|entry| entry[0] as usize)
                .sum()
        } else {
            found.filter(|position| **position >= 0).count()
        };
    }
    count
}

#[inline(never)]
fn hashbrown(tables: &Tables, flows: &[Flow], reads_entry: bool) -> usize {
    let find = |flow: &Flow| {
        let key = FlowKey::from(flow);
        black_box(tables.hashbrown.find(tables.hasher.hash(&key), |(stored, _)| *stored == key))
    };
    let found = flows.iter().filter_map(find);
    if reads_entry {
        found
            .filter_map(|(_, number)| tables.entries.get(*number as usize))
            .map(|entry| entry[0] as usize)
            .sum()
    } else {
        found.count()
    }
}
