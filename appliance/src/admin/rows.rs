//! The rows that only the admin thread can make: out of the workers' counters and the configuration.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipos_pipelines::counters::{Drop, Outcome, WorkerCounters};
use ipos_pipelines::handoff::{FlowRow, Table};
use ipos_wire::ipos::Protocol;
use serde::{Deserialize, Serialize};

/// A row of the URL Map (Fig. 12).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UrlRow {
    /// The service.
    pub service: String,
    /// The host; `None` for every host.
    pub host: Option<String>,
    /// What the path starts with, or after `=` is; `None` for the service's own boards.
    pub path: Option<String>,
    /// The method; `None` for every one.
    pub method: Option<String>,
    /// What a header has to say: its name, and its value where that counts, with `*` behind a prefix.
    pub header: Option<String>,
    /// Who serves it.
    pub boards: Vec<String>,
    /// What the appliance itself answers, instead: a status, and where a redirect leads.
    pub answer: Option<String>,
}

/// A row of the Temporary, Forward-Connect, Forward or Local Table (Fig. 12).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowJson {
    /// `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Client IP.
    pub client: Ipv4Addr,
    /// Client port.
    pub client_port: u16,
    /// Endpoint IP.
    pub endpoint: Ipv4Addr,
    /// Endpoint port.
    pub endpoint_port: u16,
    /// `temporary`, `forward-connect`, `forward` or `local`.
    pub table: String,
    /// The board to forward to.
    pub board: Option<String>,
    /// Since the last packet, milliseconds.
    pub idle_ms: u32,
    /// The worker that owns it.
    pub worker: u8,
}

fn tcp() -> String {
    "tcp".to_owned()
}

impl FlowJson {
    /// A row as `status` shows it.
    pub fn new(row: &FlowRow, worker: u8, boards: &[String]) -> Self {
        Self {
            protocol: if row.protocol == Protocol::Udp { "udp".to_owned() } else { tcp() },
            client: row.flow.client,
            client_port: row.flow.client_port,
            endpoint: row.flow.endpoint,
            endpoint_port: row.flow.endpoint_port,
            table: table_name(row.table).to_owned(),
            board: row.board.and_then(|board| boards.get(usize::from(board.0)).cloned()),
            idle_ms: row.idle_ms,
            worker,
        }
    }
}

/// The table's name.
pub const fn table_name(table: Table) -> &'static str {
    match table {
        Table::Temporary => "temporary",
        Table::ForwardConnect => "forward-connect",
        Table::Forward => "forward",
        Table::Local => "local",
    }
}

/// Names of the counts in [`WorkerCounters::entries`], in order.
pub const ENTRY_TABLES: [&str; 9] = [
    "temporary",
    "forward-connect",
    "forward",
    "local",
    "asking",
    "given-up",
    "layer4",
    "watched",
    "admitting",
];

/// What hangs on one worker's shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardRow {
    /// The worker.
    pub worker: usize,
    /// Flows of datagrams.
    #[serde(default)]
    pub datagram_flows: u64,
    /// Entries by table.
    pub entries: BTreeMap<String, u64>,
    /// How many the shard can hold.
    pub capacity: u64,
    /// Buffers for unfinished requests in use.
    pub pending: u64,
    /// How many of those there are.
    pub pending_capacity: u64,
}

impl ShardRow {
    /// One worker's shard now.
    pub fn new(worker: usize, counters: &WorkerCounters) -> Self {
        let entries = ENTRY_TABLES.iter().zip(&counters.entries);
        Self {
            worker,
            entries: entries.map(|(name, count)| ((*name).to_owned(), count.read())).collect(),
            datagram_flows: counters.datagram_flows.read(),
            capacity: counters.entries_capacity.read(),
            pending: counters.pending.read(),
            pending_capacity: counters.pending_capacity.read(),
        }
    }
}

/// What came in, and what became of it: `received` is the sum of the outcomes between two polls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PacketsRow {
    /// Packets received on all ports, or handed over by other workers.
    pub received: u64,
    /// By outcome: forwarded, answered, held, control, check, steered, dropped.
    #[serde(flatten)]
    pub outcomes: BTreeMap<String, u64>,
    /// Dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl PacketsRow {
    /// One worker's account.
    pub fn new(counters: &WorkerCounters) -> Self {
        // Outcomes first: a packet that comes in meanwhile is then seen as received, and not yet settled.
        let drops =
            Drop::ALL.iter().map(|reason| (reason.name().to_owned(), counters.dropped(*reason).read()));
        let drops: BTreeMap<String, u64> = drops.collect();
        let outcomes = Outcome::ALL.iter().map(|what| {
            let count = match what {
                // The sum of its reasons, so that the two never differ by a packet in between.
                Outcome::Dropped => drops.values().sum(),
                _ => counters.outcome(*what).read(),
            };
            (what.name().to_owned(), count)
        });
        Self { outcomes: outcomes.collect(), received: counters.packets_in(), drops }
    }

    /// Adds another worker's.
    pub fn add(mut self, other: &Self) -> Self {
        self.received += other.received;
        for (into, from) in [(&mut self.outcomes, &other.outcomes), (&mut self.drops, &other.drops)] {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        }
        self
    }
}

/// How long migrations took, microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct LatencyRow {
    /// How many.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: f64,
    /// 99 of 100 took no longer.
    pub p99_us: f64,
    /// None took longer.
    pub max_us: f64,
}

/// A port as the workers see it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TrafficRow {
    /// Packets received.
    pub received_packets: u64,
    /// Octets received.
    pub received_octets: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Octets sent.
    pub sent_octets: u64,
    /// Packets that the transmit queue had no room for.
    pub send_failed: u64,
}

impl TrafficRow {
    /// A port's traffic over all workers.
    pub fn new<'a>(port: usize, workers: impl Iterator<Item = &'a WorkerCounters>) -> Self {
        let ports = workers.filter_map(|counters| counters.ports.get(port));
        ports.fold(Self::default(), |sum, port| Self {
            received_packets: sum.received_packets + port.received_packets.read(),
            received_octets: sum.received_octets + port.received_octets.read(),
            sent_packets: sum.sent_packets + port.sent_packets.read(),
            sent_octets: sum.sent_octets + port.sent_octets.read(),
            send_failed: sum.send_failed + port.send_failed.read(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packets_account_adds_up_over_workers() {
        let counters = WorkerCounters::new();
        counters.ports[0].received_packets.add(3);
        counters.steered_in.add(1);
        counters.outcome(Outcome::Forwarded).add(2);
        counters.outcome(Outcome::Dropped).add(2);
        counters.dropped(Drop::Vlan).add(2);
        let row = PacketsRow::new(&counters).add(&PacketsRow::new(&counters));
        let json = serde_json::to_value(&row).expect("plain numbers");
        assert_eq!((json["received"].as_u64(), json["forwarded"].as_u64()), (Some(8), Some(4)));
        assert_eq!((json["dropped"].as_u64(), json["drops"]["vlan"].as_u64()), (Some(4), Some(4)));
        let settled: u64 = row.outcomes.values().sum();
        assert_eq!(settled, row.received);
    }
}
