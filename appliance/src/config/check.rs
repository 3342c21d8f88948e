//! Holding the sections against each other and against the machine, and naming places instead of names.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::path::Path;

use ipos_pipelines::answers::PAGE_OCTETS_MAX;
use ipos_pipelines::handoff::{BOARDS_MAX, PORTS_MAX};
use ipos_pipelines::table::ENDPOINTS_MAX;
use ipos_pipelines::tlsmap::{self, Otherwise};
use ipos_pipelines::urlmap::{Action, PathRule, Rule, UrlMap};

use super::cookie;
use super::farm::{Farm, MapDraft, PagesDraft, ServiceDraft, TlsDraft, Weights};
use super::host::{self, Host};
use super::model::{Board, Config, Map, Memory, Page, Pages, Port, Service, Tls, TlsRow};
use super::parse::Draft;
use super::quic;
use super::read::{At, Notes};
use super::size;
use crate::control::standing::WEIGHT_DEFAULT;

/// Everything that one section alone cannot tell. The result is of use only when the notes stay empty.
pub fn check(draft: Draft, host: &impl Host, notes: &Notes) -> Config {
    let Draft { farm, .. } = &draft;
    counts(farm, notes);
    ports(&farm.ports, host, notes);
    if farm.ports_complete {
        roles(&farm.ports, notes);
    }
    cpus(&draft, host, notes);
    times(&draft, notes);
    mss(&draft, notes);
    let boards = boards(farm, notes);
    let services = services(farm, host, notes);
    let config = Config {
        appliance: draft.appliance,
        dpdk: draft.dpdk,
        worker: draft.worker,
        timeouts: draft.timeouts,
        tcp: draft.tcp,
        migration: draft.migration,
        ask: draft.ask,
        ports: draft.farm.ports,
        services,
        boards,
    };
    memory(&config, host, notes);
    config
}

/// Notes each value that stands a second time.
fn duplicates<'a, T: Eq + Hash + 'a>(
    notes: &Notes,
    values: impl Iterator<Item = (T, usize)> + 'a,
    say: impl Fn(&T) -> String,
) {
    let mut seen = HashSet::new();
    for (value, offset) in values {
        if let Some(value) = seen.replace(value) {
            notes.problem(offset, say(&value));
        }
    }
}

fn counts(farm: &Farm, notes: &Notes) {
    if farm.ports.is_empty() && farm.ports_complete {
        notes.problem(0, "no [[port]]; expected one towards the clients and one towards the boards");
    }
    if farm.boards.is_empty() && farm.boards_complete {
        notes.problem(0, "no [[board]]; expected at least one");
    }
    if !farm.any_service {
        notes.problem(0, "no [[service]]; expected at least one");
    }
    if let Some(port) = farm.ports.get(PORTS_MAX) {
        notes.problem(port.name.offset, format!("more than {PORTS_MAX} ports"));
    }
    if let Some(board) = farm.boards.get(BOARDS_MAX) {
        notes.problem(board.name.offset, format!("more than {BOARDS_MAX} boards"));
    }
    if let Some(service) = farm.services.get(ENDPOINTS_MAX) {
        notes.problem(service.name.offset, format!("more than {ENDPOINTS_MAX} services"));
    }
}

fn ports(ports: &[Port], host: &impl Host, notes: &Notes) {
    duplicates(notes, ports.iter().map(|port| (&port.name.value, port.name.offset)), |name| {
        format!("a second port named \"{name}\"; expected another name")
    });
    duplicates(notes, ports.iter().map(|port| (port.device.value.name(), port.device.offset)), |name| {
        format!(
            "a second port on device {name}; expected a device of its own (a virtual one ends in another number)"
        )
    });
    let interfaces =
        ports.iter().filter_map(|port| Some((port.device.value.interface()?, port.device.offset)));
    duplicates(notes, interfaces, |interface| {
        format!("a second port on interface {interface}; expected an interface of its own")
    });
    for (place, port) in ports.iter().enumerate() {
        if let Some(what) = host::missing(host, &port.device.value) {
            notes.problem(port.device.offset, what);
        }
        let earlier = ports.iter().take(place);
        if let Some(other) =
            earlier.into_iter().find(|other| other.address.value.overlaps(port.address.value))
        {
            let what = format!(
                "the network of port \"{}\" again; expected one that overlaps no other",
                other.name.value
            );
            notes.problem(port.address.offset, what);
        }
        if !usable(port.address.value.address) {
            notes.problem(port.address.offset, "no address that a host can have");
        }
    }
}

fn roles(ports: &[Port], notes: &Notes) {
    if ports.is_empty() {
        return;
    }
    if !ports.iter().any(|port| port.role.faces_clients()) {
        notes.problem(0, "no port faces the clients; expected one of role \"wan\" or \"both\"");
    }
    if !ports.iter().any(|port| port.role.faces_farm()) {
        notes.problem(0, "no port faces the boards; expected one of role \"farm\" or \"both\"");
    }
}

fn cpus(draft: &Draft, host: &impl Host, notes: &Notes) {
    for cpu in draft.dpdk.worker_cpus.iter().chain([&draft.dpdk.control_cpu]) {
        if !host.has_cpu(cpu.value) {
            notes.problem(cpu.offset, format!("no CPU {} here; expected one of {}", cpu.value, host.cpus()));
        }
    }
}

fn times(draft: &Draft, notes: &Notes) {
    let migration = &draft.migration;
    if migration.deadline_ms.value >= draft.timeouts.place_ms {
        let what = format!(
            "`deadline_ms` is {}; expected less than timeouts.place_ms ({}), which is when the client is answered",
            migration.deadline_ms.value, draft.timeouts.place_ms
        );
        notes.problem(migration.deadline_ms.offset, what);
    }
    if draft.timeouts.half_closed_ms > draft.timeouts.idle_ms {
        let what = format!(
            "`half_closed_ms` is {}; expected at most idle_ms ({})",
            draft.timeouts.half_closed_ms, draft.timeouts.idle_ms
        );
        notes.problem(draft.timeouts_offset, what);
    }
}

/// Octets of ipOS, IPv4 and TCP header: what a segment of a migrated connection has on top of its data.
const HEADERS_OCTETS: u16 = 16 + 20 + 20;

fn mss(draft: &Draft, notes: &Notes) {
    let farm = draft.farm.ports.iter().filter(|port| port.role.faces_farm());
    let Some(narrowest) = farm.min_by_key(|port| port.mtu.value) else { return };
    let most = narrowest.mtu.value.saturating_sub(HEADERS_OCTETS);
    if draft.tcp.mss.value > most {
        let what = format!(
            "`mss` is {}; expected at most {most}: port \"{}\" has MTU {} and a packet to a board carries {HEADERS_OCTETS} octets of headers",
            draft.tcp.mss.value, narrowest.name.value, narrowest.mtu.value
        );
        notes.problem(draft.tcp.mss.offset, what);
    }
}

fn memory(config: &Config, host: &impl Host, notes: &Notes) {
    let sizes = size::of(config);
    let have = u64::from(config.dpdk.memory_mb.value) << 20;
    if sizes.dpdk_octets > have {
        let what = format!(
            "`memory_mb` is {}; expected at least {}: {} packet buffers of {} octets and the ports' queues",
            config.dpdk.memory_mb.value,
            sizes.dpdk_octets.div_ceil(1 << 20),
            sizes.mbufs,
            sizes.mbuf_octets
        );
        notes.problem(config.dpdk.memory_mb.offset, what);
    }
    if config.dpdk.memory == Memory::Hugepages && have > host.hugepage_octets() {
        let what = format!(
            "`memory_mb` is {}, but there are {} MiB of hugepages; expected less, or more pages (sysctl -w \
             vm.nr_hugepages=N), or memory = \"no-huge\"",
            config.dpdk.memory_mb.value,
            host.hugepage_octets() >> 20
        );
        notes.problem(config.dpdk.memory_mb.offset, what);
    }
    if sizes.tables_octets + have > host.memory_octets() {
        let what = format!(
            "{} entries and {} request buffers for each of {} workers take {} MiB, memory_mb {}; this machine has {} MiB",
            config.worker.entries.value,
            config.worker.pending.value,
            config.dpdk.worker_cpus.len(),
            sizes.tables_octets >> 20,
            config.dpdk.memory_mb.value,
            host.memory_octets() >> 20
        );
        notes.problem(config.worker.entries.offset, what);
    }
}

/// Whether a station may have the address.
fn usable(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first < 224 && !address.is_loopback()
}

fn boards(farm: &Farm, notes: &Notes) -> Vec<Board> {
    let boards = &farm.boards;
    duplicates(notes, boards.iter().map(|board| (&board.name.value, board.name.offset)), |name| {
        format!("a second board named \"{name}\"; expected another name")
    });
    duplicates(notes, boards.iter().map(|board| (board.address.value, board.address.offset)), |address| {
        format!("a second board at {address}; expected an address of its own")
    });
    let macs = boards.iter().filter_map(|board| board.mac.as_ref()).map(|mac| (mac.value.0, mac.offset));
    duplicates(notes, macs, |_| "a second board with this MAC address; expected one of its own".to_owned());
    boards
        .iter()
        .map(|board| {
            let at = &board.address;
            let behind =
                farm.ports.iter().position(|p| p.role.faces_farm() && p.address.value.contains(at.value));
            if behind.is_none() && farm.ports_complete {
                let what = format!(
                    "board \"{}\" at {} is on no farm port's network; expected an address in one of: {}",
                    board.name.value,
                    at.value,
                    networks(&farm.ports)
                );
                notes.problem(at.offset, what);
            }
            if let Some(port) = behind.and_then(|behind| farm.ports.get(behind)) {
                if port.address.value.address == at.value {
                    let what = format!(
                        "{} is the appliance's own address on port \"{}\"",
                        at.value, port.name.value
                    );
                    notes.problem(at.offset, what);
                } else if !port.address.value.has_host(at.value) {
                    notes.problem(
                        at.offset,
                        format!("{} is the network or broadcast address, no host's", at.value),
                    );
                }
            }
            Board {
                name: board.name.clone(),
                address: at.clone(),
                mac: board.mac.as_ref().map(|mac| mac.value),
                port: behind.map_or(0, |behind| behind as u8),
                weight: board.weight,
            }
        })
        .collect()
}

fn networks(ports: &[Port]) -> String {
    let farm = ports.iter().filter(|port| port.role.faces_farm());
    let networks = farm.map(|port| format!("{}/{}", port.address.value.address, port.address.value.prefix));
    networks.collect::<Vec<_>>().join(", ")
}

fn services(farm: &Farm, host: &impl Host, notes: &Notes) -> Vec<Service> {
    duplicates(
        notes,
        farm.services.iter().map(|service| (&service.name.value, service.name.offset)),
        |name| format!("a second service named \"{name}\"; expected another name"),
    );
    let endpoints = farm.services.iter();
    let endpoints = endpoints.map(|s| ((s.address.value, s.port.value, s.kind.is_udp()), s.address.offset));
    duplicates(notes, endpoints, |(address, port, _)| {
        format!("a second service at {address}:{port}; expected another address or port")
    });
    farm.services.iter().map(|service| resolve(service, farm, host, notes)).collect()
}

fn resolve(service: &ServiceDraft, farm: &Farm, host: &impl Host, notes: &Notes) -> Service {
    let at = &service.address;
    if !usable(at.value) {
        notes.problem(at.offset, format!("{} is no address that clients can connect to", at.value));
    }
    if let Some(port) = farm.ports.iter().find(|port| port.address.value.address == at.value) {
        let what = format!(
            "{} is the appliance's own address on port \"{}\"; expected one of its own",
            at.value, port.name.value
        );
        notes.problem(at.offset, what);
    }
    if let Some(board) = farm.boards.iter().find(|board| board.address.value == at.value) {
        let what =
            format!("{} is the address of board \"{}\"; expected one of its own", at.value, board.name.value);
        notes.problem(at.offset, what);
    }
    let boards: Vec<u16> = match &service.boards {
        None => (0..farm.boards.len().min(BOARDS_MAX) as u16).collect(),
        Some(names) => places(names, farm, notes),
    };
    let names = service.boards.as_ref();
    if let Some(weights) = service.weights.as_ref().filter(|_| names.is_none()) {
        notes
            .problem(weights.offset, "`weights` without `boards`; expected the list whose weights these are");
    }
    rules(&service.maps, notes);
    let maps = service.maps.iter().map(|map| Map {
        host: map.host.as_ref().map(|host| host.value.clone()),
        path: PathRule::parse(&map.path.value),
        method: map.method.clone(),
        header: map.header.clone(),
        boards: map.boards.as_ref().map_or(Vec::new(), |boards| places(boards, farm, notes)),
        weights: map.boards.as_ref().map_or(Vec::new(), |boards| {
            weights(map.weights.as_ref(), Some(boards), boards.value.len(), notes)
        }),
        answer: map.answer.clone(),
    });
    let maps: Vec<Map> = maps.collect();
    let tls = tls(&service.tls, farm, notes);
    let quic_ids = quic::check(service, &boards, notes);
    Service {
        name: service.name.clone(),
        address: at.clone(),
        port: service.port.value,
        kind: service.kind,
        datagrams: service.datagrams,
        table: service.table,
        weights: weights(service.weights.as_ref(), names, boards.len(), notes),
        home: home(service, &boards, (&maps, &tls), farm, notes),
        boards,
        maps,
        tls,
        h2c: service.h2c,
        migrates_requests: service.migrates_requests,
        policy: service.policy,
        limits: service.limits,
        admit: service.admit,
        quic: quic_ids,
        slow_start_s: service.slow_start_s,
        check: service.check.clone(),
        start: service.start,
        pages: pages(&service.pages, host, notes),
        cookie: service.cookie.as_ref().map(|cookie| cookie::resolve(cookie, host, notes)),
    }
}

/// The service's pages, read.
fn pages(draft: &PagesDraft, host: &impl Host, notes: &Notes) -> Pages {
    let read = draft.files.iter().filter_map(|(status, path)| {
        let found = match host.file(Path::new(&path.value), PAGE_OCTETS_MAX) {
            Ok(body) if body.len() <= PAGE_OCTETS_MAX => return Some(Page { status: *status, body }),
            Ok(_) => "it is longer than that".to_owned(),
            Err(error) => error.to_string(),
        };
        let what = format!(
            "page {status} is \"{}\": {found}; expected a file of at most {PAGE_OCTETS_MAX} octets",
            path.value
        );
        notes.problem(path.offset, what);
        None
    });
    Pages { pages: read.collect(), content_type: draft.content_type.clone() }
}

/// The weights of a list of boards: one for each, and not all of them 0.
fn weights(
    written: Option<&Weights>,
    boards: Option<&At<Vec<At<String>>>>,
    count: usize,
    notes: &Notes,
) -> Vec<u16> {
    let Some(written) = written else { return vec![WEIGHT_DEFAULT; count] };
    let weights: Vec<u16> = written.value.iter().map(|weight| weight.value).collect();
    if let Some(boards) = boards.filter(|boards| boards.value.len() != weights.len()) {
        let (few, many) = (weights.len(), boards.value.len());
        let what =
            format!("`weights` has {few} numbers for {many} boards; expected one for each, in their order");
        notes.problem(written.offset, what);
    } else if weights.iter().all(|weight| *weight == 0) {
        notes.problem(written.offset, "`weights` are all 0: nobody would serve; expected one above 0");
    }
    weights
}

/// The place of the home board, which is one of the service's own.
fn home(
    service: &ServiceDraft,
    boards: &[u16],
    (maps, tls): (&[Map], &Tls),
    farm: &Farm,
    notes: &Notes,
) -> Option<u16> {
    let home = service.home.as_ref()?;
    let place = farm.boards.iter().position(|board| board.name.value == home.value);
    let place = place.map(|place| place as u16);
    let of_rows = maps.iter().map(|map| &map.boards).chain(tls.rows.iter().map(|row| &row.boards));
    let mut own: Vec<u16> = of_rows.flatten().chain(boards).copied().collect();
    own.sort_unstable();
    own.dedup();
    if farm.boards_complete && place.is_none_or(|place| !own.contains(&place)) {
        let names = own.iter().filter_map(|place| farm.boards.get(usize::from(*place)));
        let names: Vec<&str> = names.map(|board| board.name.value.as_str()).collect();
        let what = format!(
            "`home` is \"{}\", which is none of the service's boards; expected one of {}",
            home.value,
            names.join(", ")
        );
        notes.problem(home.offset, what);
    }
    place
}

/// The places of named boards.
fn places(names: &At<Vec<At<String>>>, farm: &Farm, notes: &Notes) -> Vec<u16> {
    if names.value.is_empty() {
        notes.problem(names.offset, "`boards` names no board; expected at least one");
    }
    duplicates(notes, names.value.iter().map(|name| (&name.value, name.offset)), |name| {
        format!("board \"{name}\" a second time; expected it once")
    });
    let find = |name: &At<String>| {
        let place = farm.boards.iter().position(|board| board.name.value == name.value);
        if place.is_none() && farm.boards_complete {
            let known: Vec<&str> = farm.boards.iter().map(|board| board.name.value.as_str()).collect();
            let what = format!("no board named \"{}\"; expected one of {}", name.value, known.join(", "));
            notes.problem(name.offset, what);
        }
        place.map(|place| place as u16)
    };
    names.value.iter().filter_map(find).collect()
}

/// The TLS map, with what it says itself about its rows.
fn tls(draft: &TlsDraft, farm: &Farm, notes: &Notes) -> Tls {
    let rows = draft.rows.iter().map(|row| TlsRow {
        sni: row.sni.as_ref().map(|sni| sni.value.clone()),
        alpn: row.alpn.iter().flat_map(|alpn| &alpn.value).map(|protocol| protocol.value.clone()).collect(),
        boards: places(&row.boards, farm, notes),
        weights: weights(row.weights.as_ref(), Some(&row.boards), row.boards.value.len(), notes),
    });
    let rows: Vec<TlsRow> = rows.collect();
    let rules: Vec<tlsmap::Rule> = rows
        .iter()
        .map(|row| tlsmap::Rule { sni: row.sni.clone(), alpn: row.alpn.clone(), value: 0 })
        .collect();
    for error in tlsmap::TlsMap::build(&rules).err().unwrap_or_default() {
        let row = draft.rows.get(error.rule);
        let offset = row.map_or(0, |row| row.sni.as_ref().map_or(row.offset, |sni| sni.offset));
        notes.problem(offset, error.fault.to_string());
    }
    let otherwise =
        |word: &Option<At<Otherwise>>| word.as_ref().map_or(Otherwise::Default, |word| word.value);
    if let Some(word) = draft.unknown_name.as_ref().filter(|word| word.value == Otherwise::Reject)
        && rows.is_empty()
    {
        notes.problem(
            word.offset,
            "`unknown_name` is \"reject\" without any [[service.map]]: every name would be refused",
        );
    }
    Tls { unknown_name: otherwise(&draft.unknown_name), no_name: otherwise(&draft.no_name), rows }
}

/// What the URL map itself says about its rows.
fn rules(maps: &[MapDraft], notes: &Notes) {
    let rules: Vec<Rule> = maps
        .iter()
        .map(|map| Rule {
            host: map.host.as_ref().map(|host| host.value.clone()),
            path: PathRule::parse(&map.path.value),
            method: map.method.clone(),
            header: map.header.clone(),
            action: Action::Pool(0),
        })
        .collect();
    for error in UrlMap::build(&rules).err().unwrap_or_default() {
        let offset = maps.get(error.rule).map_or(0, |map| map.path.offset.max(map.offset));
        notes.problem(offset, error.fault.to_string());
    }
}
