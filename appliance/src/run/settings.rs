//! From the configuration to what control core and admin thread are told.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_pipelines::config::{PortSettings, Timeouts};
use ipos_pipelines::handoff::{BoardId, PortIndex};
use ipos_pipelines::services::Kind;
use ipos_pipelines::steer::Owners;
use ipos_wire::ipos::Protocol;
use ipos_wire::mac::Mac;

use crate::admin::collector::About;
use crate::admin::rows::UrlRow;
use crate::config::model::{Board, Check, Config, CookieMode};
use crate::config::snapshot::Snapshot;
use crate::control::admission::AdmitSettings;
use crate::control::attempts::AttemptSettings;
use crate::control::board::BoardSettings;
use crate::control::boards::MS_NS;
use crate::control::checks::CheckSettings;
use crate::control::core::CoreSettings;
use crate::control::health::Patience;
use crate::control::holders::AskSettings;
use crate::control::operate::Farm;
use crate::control::placement::{PoolSettings, Pools, Rules};
use crate::control::sessions::MapSettings;
use crate::control::snapshot::ServiceName;
use crate::control::spawn::ServiceSettings;
use crate::control::standings::HashedService;

fn ms(ms: u32) -> u64 {
    u64::from(ms) * MS_NS
}

/// What the control core is told.
pub fn core(
    config: &Config,
    epoch: u16,
    owners: Owners,
    ports: &[PortSettings],
    pools: &[PoolSettings],
    services: &[ServiceName],
    started_unix_us: u64,
) -> CoreSettings {
    let migration = &config.migration;
    // At the start a board's number is its place.
    let ids: Vec<BoardId> = (0..config.boards.len() as u16).map(BoardId).collect();
    CoreSettings {
        ethertype: config.appliance.ethertype.value,
        epoch,
        workers: config.dpdk.worker_cpus.len() as u8,
        owners,
        ports: ports.to_vec(),
        boards: config.boards.iter().map(board).collect(),
        options: super::offered(&config.tcp).0,
        pools: Pools::new(pools.to_vec(), rules(config, &ids, services)),
        attempts: AttemptSettings {
            retry_ns: ms(migration.retry_ms),
            tries: migration.tries,
            deadline_ns: ms(migration.deadline_ms.value),
            capacity: migration.attempts as usize,
            appliance_id: config.appliance.id,
        },
        checks: checks(config, services),
        hashed: hashed(config, services),
        started_unix_us,
        ask: AskSettings {
            retry_ns: ms(config.ask.retry_ms),
            tries: config.ask.tries,
            outstanding: config.ask.outstanding as usize,
        },
    }
}

/// The services that are checked.
fn checks(config: &Config, services: &[ServiceName]) -> Vec<CheckSettings> {
    let named = config.services.iter().zip(services.iter().cloned());
    let checked = named.filter_map(|(service, named)| Some((service.check.as_ref()?, named)));
    let settings = checked.map(|(check, service)| CheckSettings {
        endpoint: (service.address, service.port),
        request: request(check, service.address).into_bytes().into(),
        service: service.name,
        boards: service.boards,
        expect: check.expect,
        interval_ns: ms(check.interval_ms),
        timeout_ns: ms(check.timeout_ms),
        patience: Patience { fall: check.fall, rise: check.rise },
    });
    settings.collect()
}

/// The services whose boards the workers choose by hash.
fn hashed(config: &Config, services: &[ServiceName]) -> Vec<HashedService> {
    let named = config.services.iter().zip(services);
    let hashed = named.filter(|(service, _)| service.kind == Kind::L4 || service.kind.is_udp());
    let settings = hashed.map(|(service, name)| HashedService {
        service: name.number,
        udp: service.kind.is_udp(),
        endpoint: (name.address, name.port),
        boards: name.boards.clone(),
        limits: service.limits,
    });
    settings.collect()
}

/// What a check sends.
fn request(check: &Check, address: Ipv4Addr) -> String {
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ipos-appliance/{}\r\nConnection: close\r\n\r\n",
        check.path,
        env!("CARGO_PKG_VERSION")
    )
}

/// What the services say of placement, by number. `ids` are the boards' numbers.
fn rules(config: &Config, ids: &[BoardId], services: &[ServiceName]) -> Vec<Rules> {
    let numbers = services.iter().map(|service| usize::from(service.number));
    let mut rules = vec![Rules::default(); numbers.max().map_or(0, |most| most + 1)];
    for (service, name) in config.services.iter().zip(services) {
        if let Some(place) = rules.get_mut(usize::from(name.number)) {
            *place = Rules {
                policy: service.policy,
                home: service.home.and_then(|place| ids.get(usize::from(place)).copied()),
                limits: service.limits,
                udp: service.kind.is_udp(),
                slow_start_ns: ms(1000) * u64::from(service.slow_start_s),
            };
        }
    }
    rules
}

/// What the control core is told of a board.
pub fn board(board: &Board) -> BoardSettings {
    BoardSettings {
        name: board.name.value.clone(),
        address: board.address.value,
        mac: board.mac.map(|mac| Mac(mac.0)),
        port: PortIndex(board.port),
        weight: board.weight,
    }
}

/// What the control core is told of a configuration that takes the place of another, and the services' names. `ids` are the
/// boards' numbers.
pub fn farm(
    config: &Config,
    ids: &[BoardId],
    snapshot: Snapshot,
    forced: Vec<BoardId>,
) -> (Farm, Vec<ServiceName>) {
    let migration = &config.migration;
    let names = services(config, ids, &snapshot);
    let farm = Farm {
        boards: ids.iter().copied().zip(config.boards.iter().map(board)).collect(),
        forced,
        pools: snapshot.pools,
        rules: rules(config, ids, &names),
        services: Arc::new(snapshot.services),
        checks: checks(config, &names),
        hashed: hashed(config, &names),
        starts: starts(config, &names),
        admits: admits(config, &names),
        sessions: sessions(config, &names),
        timeouts: timeouts(config),
        deadline_ns: ms(migration.deadline_ms.value),
    };
    (farm, names)
}

/// The services' names, each with its number and all its boards. `ids` are the boards' numbers.
pub fn services(config: &Config, ids: &[BoardId], snapshot: &Snapshot) -> Vec<ServiceName> {
    let all = config.services.iter().map(|service| {
        let mut boards: Vec<u16> = service.maps.iter().flat_map(|map| map.boards.iter().copied()).collect();
        boards.extend(service.tls.rows.iter().flat_map(|row| &row.boards));
        boards.extend(&service.boards);
        boards.sort_unstable();
        boards.dedup();
        let (address, port) = (service.address.value, service.port);
        let number = match service.kind.is_udp() {
            true => snapshot.services.find_udp(address, port),
            false => snapshot.services.find(address, port),
        };
        ServiceName {
            // Each service of the configuration has one.
            number: number.unwrap_or(u16::MAX),
            name: service.name.value.clone(),
            address: service.address.value,
            port: service.port,
            boards: boards.into_iter().filter_map(|place| ids.get(usize::from(place)).copied()).collect(),
        }
    });
    all.collect()
}

/// The services that have limits for their clients.
pub fn admits(config: &Config, services: &[ServiceName]) -> Vec<AdmitSettings> {
    let named = config.services.iter().zip(services).filter(|(service, _)| service.admit.limits_anything());
    let settings = named.map(|(service, name)| AdmitSettings {
        service: name.number,
        endpoint: (name.address, name.port),
        protocol: if service.kind.is_udp() { Protocol::Udp } else { Protocol::Tcp },
        admit: service.admit,
    });
    settings.collect()
}

/// What boards may start, by number of service.
pub fn starts(config: &Config, services: &[ServiceName]) -> Vec<Option<ServiceSettings>> {
    let numbers = services.iter().map(|service| usize::from(service.number));
    let mut starts: Vec<Option<ServiceSettings>> = Vec::new();
    starts.resize_with(numbers.max().map_or(0, |most| most + 1), || None);
    for (service, name) in config.services.iter().zip(services.iter().cloned()) {
        let start = service.start;
        let settings = start.application.map(|application| ServiceSettings {
            service: name.name,
            application,
            endpoint: (name.address, name.port),
            boards: name.boards,
            queue: start.queue,
            wait_ns: ms(start.wait_s * 1000),
            idle_ns: Some(ms(start.idle_stop_s * 1000)).filter(|ns| *ns > 0),
            instances_max: start.instances_max,
        });
        if let Some(place) = starts.get_mut(usize::from(name.number)) {
            *place = settings;
        }
    }
    starts
}

/// The Cookie Maps, by number of service.
pub fn sessions(config: &Config, services: &[ServiceName]) -> Vec<Option<MapSettings>> {
    let numbers = services.iter().map(|service| usize::from(service.number));
    let mut maps = vec![None; numbers.max().map_or(0, |most| most + 1)];
    for (service, name) in config.services.iter().zip(services) {
        let mode = service.cookie.as_ref().map(|cookie| &cookie.mode);
        let Some(CookieMode::Learn { entries, idle_s }) = mode else { continue };
        if let Some(place) = maps.get_mut(usize::from(name.number)) {
            *place = Some(MapSettings { entries: *entries as usize, idle_ns: ms(1000) * u64::from(*idle_s) });
        }
    }
    maps
}

/// The workers' deadlines: a request that may wait for a start is not given up before the control core says so.
pub fn timeouts(config: &Config) -> Timeouts {
    let starts = config.services.iter().map(|service| service.start);
    let waits = starts.filter(|start| start.application.is_some()).map(|start| start.wait_s * 1000);
    let longest_ms = waits.max().map_or(0, |ms| ms + config.migration.deadline_ms.value + 1000);
    Timeouts { place_ms: config.timeouts.place_ms.max(longest_ms), ..config.timeouts }
}

/// Octets of the largest IPv4 packet on the way to any board: the narrowest port counts.
pub fn farm_mtu(config: &Config) -> u16 {
    let farm = config.ports.iter().filter(|port| port.role.faces_farm());
    farm.map(|port| port.mtu.value).min().unwrap_or(1500)
}

/// The URL Map (Fig. 12).
pub fn urls(config: &Config) -> Vec<UrlRow> {
    let names = |places: &[u16]| -> Vec<String> {
        let boards = places.iter().filter_map(|place| config.boards.get(usize::from(*place)));
        boards.map(|board| board.name.value.clone()).collect()
    };
    let urls = config.services.iter().flat_map(|service| {
        let name = &service.name.value;
        let maps = service.maps.iter().map(|map| UrlRow {
            service: name.clone(),
            host: map.host.clone(),
            path: Some(map.path.to_string()),
            method: map.method.clone(),
            header: map.header.as_ref().map(ToString::to_string),
            boards: names(&map.boards),
            answer: map.answer.as_ref().map(ToString::to_string),
        });
        // A TLS map's server name stands where a URL map has its host, and its protocols in the path's place.
        let tls = service.tls.rows.iter().map(|row| UrlRow {
            service: name.clone(),
            host: row.sni.clone(),
            path: Some(if row.alpn.is_empty() { "any ALPN".to_owned() } else { row.alpn.join(",") }),
            boards: names(&row.boards),
            ..UrlRow::default()
        });
        let rest = UrlRow { service: name.clone(), boards: names(&service.boards), ..UrlRow::default() };
        maps.chain(tls).chain([rest]).collect::<Vec<_>>()
    });
    urls.collect()
}

/// What the admin thread is told.
pub fn about(config: &Config, epoch: u16, started_s: f64) -> About {
    About {
        id: config.appliance.id,
        epoch,
        started_s,
        ports: config.ports.iter().map(|port| port.name.value.clone()).collect(),
        urls: urls(config),
        boards: config.boards.iter().map(|board| board.name.value.clone()).collect(),
    }
}
