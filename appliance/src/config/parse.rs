//! From text to tables: every section but those of the farm (see [`super::farm`]).

use ipos_pipelines::config::{Idle, Timeouts};
use toml::de::DeTable;

use super::farm::{self, Farm};
use super::model::{Appliance, Ask, Dpdk, Memory, Migration, Tcp, Worker};
use super::read::{At, Notes, Section, start_of};

/// Most workers of an appliance.
pub const WORKERS_MAX: usize = 64;

/// A configuration whose sections have been read, not yet held against each other.
pub struct Draft {
    /// `[appliance]`
    pub appliance: Appliance,
    /// `[dpdk]`
    pub dpdk: Dpdk,
    /// `[worker]`
    pub worker: Worker,
    /// `[timeouts]`
    pub timeouts: Timeouts,
    /// Where `[timeouts]` stands.
    pub timeouts_offset: usize,
    /// `[tcp]`
    pub tcp: Tcp,
    /// `[migration]`
    pub migration: Migration,
    /// `[ask]`
    pub ask: Ask,
    /// Ports, services and boards.
    pub farm: Farm,
}

/// Reads the text; what is wrong with it goes to the notes. `None` when it is no TOML: what stands in such a text cannot
/// be told from what was meant to.
pub fn parse(text: &str, notes: &Notes) -> Option<Draft> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        notes.problem(start_of(error.span()), format!("not TOML: {}", error.message().replace('\n', ", ")));
    }
    if !errors.is_empty() {
        return None;
    }
    let root = Section::root(notes, table.get_ref());
    let timeouts = root.section("timeouts");
    let draft = Draft {
        appliance: appliance(&root.section("appliance"), notes),
        dpdk: dpdk(&root.section("dpdk"), notes),
        worker: worker(&root.section("worker")),
        timeouts_offset: timeouts.offset,
        timeouts: read_timeouts(&timeouts),
        tcp: tcp(&root.section("tcp")),
        migration: migration(&root.section("migration")),
        ask: ask(&root.section("ask")),
        farm: farm::read(&root),
    };
    root.finish();
    Some(draft)
}

fn appliance(section: &Section<'_>, notes: &Notes) -> Appliance {
    let metrics = section.string("metrics", "127.0.0.1:9464");
    let address = metrics.value.parse().ok();
    if address.is_none() && !metrics.value.is_empty() {
        let what = format!("`metrics` is \"{}\"; expected address:port, or \"\" for none", metrics.value);
        notes.problem(metrics.offset, what);
    }
    let ethertype = section.integer("ethertype", 7u16..=0xffff, 0x88b5);
    if matches!(ethertype.value, 0x08..=0x05ff | 0x0800 | 0x0806 | 0x86dd | 0x8100 | 0x88a8) {
        let what = format!(
            "`ethertype` is {:#06x}, which is a length or belongs to another protocol; expected 0x88b5 or 0x0007",
            ethertype.value
        );
        notes.problem(ethertype.offset, what);
    }
    let appliance = Appliance {
        id: section.integer("id", 1u16..=65535, 1).value,
        ethertype,
        admin_socket: section.string("admin_socket", "/run/ipos/appliance.sock").value.into(),
        admin_socket_mode: section.integer("admin_socket_mode", 0u32..=0o777, 0o660).value,
        metrics: address,
        state_directory: section.string("state_directory", "/var/lib/ipos").value.into(),
        log: section.string("log", "info").value,
    };
    section.finish();
    appliance
}

fn idle(section: &Section<'_>, keys: [&'static str; 3], after_polls: u32, sleep_us: u32) -> Idle {
    let [word, after_key, sleep_key] = keys;
    let sleeps = section.choice(word, &[("sleep", true), ("spin", false)]).is_none_or(|choice| choice.value);
    let after_polls = section.integer(after_key, 1u32..=1_000_000_000, after_polls).value;
    let sleep_us = section.integer(sleep_key, 1u32..=10_000, sleep_us).value;
    if sleeps { Idle::Sleep { after_polls, sleep_us } } else { Idle::Spin }
}

fn dpdk(section: &Section<'_>, notes: &Notes) -> Dpdk {
    let memory = section.choice("memory", &[("hugepages", Memory::Hugepages), ("no-huge", Memory::NoHuge)]);
    let cpus = section.integers("worker_cpus", 0u16..=1023, "[1]");
    let cpus = cpus.unwrap_or_else(|| At::new(vec![At::new(1, section.offset)], section.offset));
    if cpus.value.is_empty() || cpus.value.len() > WORKERS_MAX {
        let what = format!(
            "`worker_cpus` names {} CPUs; expected 1..={WORKERS_MAX}, one per worker",
            cpus.value.len()
        );
        notes.problem(cpus.offset, what);
    }
    let extra = section.strings("extra", "[]");
    let dpdk = Dpdk {
        memory: memory.map_or(Memory::Hugepages, |memory| memory.value),
        memory_mb: section.integer("memory_mb", 64u32..=1_048_576, 512),
        mbufs: section.integer("mbufs", 0u32..=67_108_864, 0),
        control_cpu: section.integer("control_cpu", 0u16..=1023, 0),
        control_idle: idle(section, ["control_idle", "control_after_polls", "control_sleep_us"], 10_000, 20),
        worker_cpus: cpus.value,
        file_prefix: section.string("file_prefix", "ipos").value,
        extra: extra.map_or_else(Vec::new, |extra| extra.value.into_iter().map(|item| item.value).collect()),
    };
    section.finish();
    dpdk
}

fn worker(section: &Section<'_>) -> Worker {
    let worker = Worker {
        entries: section.integer("entries", 1024u32..=67_108_864, 262_144),
        datagram_flows: section.integer("datagram_flows", 1024u32..=67_108_864, 65_536).value,
        pending: section.integer("pending", 16u32..=1_048_576, 4096),
        idle: idle(section, ["idle", "after_polls", "sleep_us"], 10_000, 20),
        event_queue: section.integer("event_queue", 64u32..=1_048_576, 4096).value,
        command_queue: section.integer("command_queue", 64u32..=1_048_576, 4096).value,
    };
    section.finish();
    worker
}

fn read_timeouts(section: &Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    let day_ms = 86_400_000;
    let timeouts = Timeouts {
        request_ms: section.integer("request_ms", 100..=day_ms, default.request_ms).value,
        place_ms: section.integer("place_ms", 100..=day_ms, default.place_ms).value,
        idle_ms: section.integer("idle_ms", 1000..=day_ms, default.idle_ms).value,
        half_closed_ms: section.integer("half_closed_ms", 1000..=day_ms, default.half_closed_ms).value,
        linger_ms: section.integer("linger_ms", 100..=day_ms, default.linger_ms).value,
        answer_rto_ms: section.integer("answer_rto_ms", 50..=60_000, default.answer_rto_ms).value,
    };
    section.finish();
    timeouts
}

fn tcp(section: &Section<'_>) -> Tcp {
    let tcp = Tcp {
        timestamps: section.boolean("timestamps", true),
        sack: section.boolean("sack", true),
        window_scale: section.boolean("window_scale", true),
        ecn: section.boolean("ecn", false),
        mss: section.integer("mss", 536u16..=9000, 1444),
    };
    section.finish();
    tcp
}

fn migration(section: &Section<'_>) -> Migration {
    let migration = Migration {
        retry_ms: section.integer("retry_ms", 1u32..=10_000, 20).value,
        tries: section.integer("tries", 1u8..=100, 4).value,
        deadline_ms: section.integer("deadline_ms", 10u32..=600_000, 3000),
        attempts: section.integer("attempts", 16u32..=1_048_576, 65_536).value,
    };
    section.finish();
    migration
}

fn ask(section: &Section<'_>) -> Ask {
    let ask = Ask {
        retry_ms: section.integer("retry_ms", 1u32..=10_000, 50).value,
        tries: section.integer("tries", 1u8..=100, 2).value,
        outstanding: section.integer("outstanding", 1u32..=1_048_576, 4096).value,
    };
    section.finish();
    ask
}
