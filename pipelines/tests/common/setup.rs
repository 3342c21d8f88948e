//! What a rig's worker is told at its start.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipos_dpdk::mempool::{DATA_ROOM_OCTETS, Mempool};
use ipos_dpdk::testing;
use ipos_pipelines::clock::Clock;
use ipos_pipelines::config::{Idle, PortSettings, Role, Timeouts, WorkerConfig};
use ipos_pipelines::counters::WorkerCounters;
use ipos_pipelines::handoff::{Answer, BoardId, Command, PortIndex, WorkerId, queue};
use ipos_pipelines::handshake::cookie::CookieKeys;
use ipos_pipelines::maglev::{HashBy, Maglev, Member};
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::steer::Peers;
use ipos_pipelines::tlsmap::{self, Otherwise, TlsMap, TlsRules};
use ipos_pipelines::urlmap::{Action, Rule, UrlMap};
use ipos_pipelines::worker::{Wiring, Worker};
use ipos_wire::tcb::OptionBits;

use super::wire::Wire;
use super::{
    BOARD, BOARD_MAC, DATAGRAM_SERVICE, FARM_ADDRESS, FARM_MAC, H2C_SERVICE, LAYER4_SERVICE, MOVING_SERVICE,
    Node, OTHER_BOARD, OTHER_BOARD_MAC, SECOND_SERVICE, SERVER_FIRST, SERVICE, SERVICE_PORT, START_UNIX_US,
    STRICT_TLS_SERVICE, TLS_SERVICE, WAN_ADDRESS, WAN_MAC,
};

/// The farm's port.
pub const FARM_PORT: PortIndex = PortIndex(1);
/// The key of the shards' and of the owners' hash.
pub const HASH_KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
/// The secrets of the cookies at the start.
pub const COOKIE_KEY: [u8; 16] = [0x5a; 16];
pub const OLD_COOKIE_KEY: [u8; 16] = [0xa5; 16];

/// What a rig is made from.
#[derive(Clone)]
pub struct Setup {
    pub entries: u32,
    pub pending: u32,
    pub datagram_flows: u32,
    /// Length of the queue to the control core.
    pub events: usize,
    pub options: OptionBits,
    pub ethertype: u16,
    pub hash_key: [u64; 2],
    pub timeouts: Timeouts,
    pub wan_role: Role,
    pub farm_role: Role,
    pub mbufs: u32,
    pub data_room_octets: u16,
    /// Where the boards are is known from the start.
    pub boards_known: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            entries: 4096,
            pending: 16,
            datagram_flows: 1024,
            events: 64,
            options: OptionBits::TIMESTAMPS | OptionBits::SACK | OptionBits::WINDOW_SCALE | OptionBits::ECN,
            ethertype: 0x88b5,
            hash_key: HASH_KEY,
            timeouts: Timeouts::default(),
            wan_role: Role::Wan,
            farm_role: Role::Farm,
            mbufs: 2047,
            data_room_octets: DATA_ROOM_OCTETS,
            boards_known: true,
        }
    }
}

impl Setup {
    /// A pool for the rig's packets.
    pub fn pool(&self) -> Mempool {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        testing::eal();
        let name = format!("rig-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Mempool::new(&name, self.mbufs, 0, self.data_room_octets, None).expect("a mempool")
    }

    /// Worker `number` of `workers`.
    pub fn node(&self, number: u8, workers: u8, peers: Peers, pool: &Mempool) -> Node {
        let (event_sender, events) = queue(self.events);
        let (commands, command_receiver) = queue(1024);
        let counters = Arc::new(WorkerCounters::new());
        let (wan, farm) = (Wire::new(), Wire::new());
        let ports = vec![(self.port(PortIndex(0)), wan.port()), (self.port(FARM_PORT), farm.port())];
        let wiring = Wiring {
            events: event_sender,
            commands: command_receiver,
            peers,
            mempool: pool.clone(),
            // One cycle is one microsecond, so that no time is lost to rounding.
            clock: Clock::new(0, 1_000_000, START_UNIX_US),
        };
        let worker = Worker::new(self.config(number, workers), ports, services(), counters.clone(), wiring)
            .expect("memory for a small worker");
        let ethertype = self.ethertype;
        let pool = pool.clone();
        let mut node = Node { worker, wan, farm, events, commands, counters, pool, ethertype, now_us: 0 };
        if self.boards_known {
            node.command(Command::Board { board: BOARD, mac: BOARD_MAC, port: FARM_PORT });
            node.command(Command::Board { board: OTHER_BOARD, mac: OTHER_BOARD_MAC, port: FARM_PORT });
        }
        node
    }

    fn port(&self, index: PortIndex) -> PortSettings {
        if index == FARM_PORT {
            PortSettings { index, role: self.farm_role, mac: FARM_MAC, address: FARM_ADDRESS }
        } else {
            PortSettings { index, role: self.wan_role, mac: WAN_MAC, address: WAN_ADDRESS }
        }
    }

    fn config(&self, number: u8, workers: u8) -> WorkerConfig {
        WorkerConfig {
            id: WorkerId(number),
            workers,
            ethertype: self.ethertype,
            entries: self.entries,
            pending: self.pending,
            datagram_flows: self.datagram_flows,
            hash_key: self.hash_key,
            cookie_keys: CookieKeys::new(&COOKIE_KEY, &OLD_COOKIE_KEY),
            options: self.options,
            mss: 1444,
            farm_mtu: 1500,
            idle: Idle::Spin,
            timeouts: self.timeouts,
        }
    }
}

/// A service without rows, whose connections are all of one pool.
pub fn plain(address: Ipv4Addr, port: u16, kind: Kind, default_pool: u16) -> Service {
    Service {
        address,
        port,
        kind,
        urls: UrlMap::default(),
        tls: TlsRules::default(),
        h2c: false,
        migrates_requests: false,
        default_pool,
        answers: Default::default(),
        cookie: None,
    }
}

/// The number of the service whose flows go by hash.
pub const LAYER4_NUMBER: u16 = 7;

/// `/a/` is pool 1, `/b/` pool 2, `/no/` is answered by 403.
fn moving_rules() -> [Rule; 3] {
    let refused = Rule { action: Action::Answer(Answer::Forbidden), ..Rule::prefix(None, "/no/", 0) };
    [Rule::prefix(None, "/a/", 1), Rule::prefix(None, "/b/", 2), refused]
}

/// The services. Of the first `/a/` is pool 1, `/b/` pool 2, `/a/` of b.example pool 3, the rest pool 9; the second is all pool 10;
/// the third, whose server may speak first, is pool 8. Of the TLS services a.example with h2 is pool 1, without it 2, *.b.example pool 3, the
/// rest pool 7 or refused. The sixth is as the first, and takes HTTP/2. Then datagrams, pool 6, and flows that go by hash to one of both boards. In the
/// last, each request is moved where it belongs.
pub fn services() -> Arc<Services> {
    Arc::new(all())
}

/// The same, with limits for the clients of the service whose flows go by hash.
pub fn limited_services() -> Arc<Services> {
    Arc::new(all().with_limits(&[LAYER4_NUMBER]))
}

fn all() -> Services {
    let rules = [
        Rule::prefix(None, "/a/", 1),
        Rule::prefix(None, "/b/", 2),
        Rule::prefix(Some("b.example"), "/a/", 3),
    ];
    let service = Service {
        address: SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        urls: UrlMap::build(&rules).expect("good rules"),
        tls: TlsRules::default(),
        h2c: false,
        migrates_requests: false,
        default_pool: 9,
        answers: Default::default(),
        cookie: None,
    };
    let second = Service {
        address: SECOND_SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        urls: UrlMap::default(),
        tls: TlsRules::default(),
        h2c: false,
        migrates_requests: false,
        default_pool: 10,
        answers: Default::default(),
        cookie: None,
    };
    let server_first = plain(SERVER_FIRST, SERVICE_PORT, Kind::Tcp, 8);
    let row = |sni: Option<&str>, alpn: &[&str], value| tlsmap::Rule {
        sni: sni.map(str::to_owned),
        alpn: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
        value,
    };
    let rows = [
        row(Some("a.example"), &["h2"], 1),
        row(Some("a.example"), &[], 2),
        row(Some("*.b.example"), &[], 3),
    ];
    let map = TlsMap::build(&rows).expect("good rows");
    let tls = |address, otherwise| Service {
        address,
        port: SERVICE_PORT,
        kind: Kind::Tls,
        urls: UrlMap::default(),
        tls: TlsRules { map: map.clone(), unknown_name: otherwise, no_name: otherwise },
        h2c: false,
        migrates_requests: false,
        default_pool: 7,
        answers: Default::default(),
        cookie: None,
    };
    let h2c = Service {
        address: H2C_SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        urls: UrlMap::build(&rules).expect("good rules"),
        tls: TlsRules::default(),
        h2c: true,
        migrates_requests: false,
        default_pool: 9,
        answers: Default::default(),
        cookie: None,
    };
    let moving = Service {
        address: MOVING_SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        urls: UrlMap::build(&moving_rules()).expect("good rules"),
        tls: TlsRules::default(),
        h2c: false,
        migrates_requests: true,
        default_pool: 9,
        answers: Default::default(),
        cookie: None,
    };
    let (tls, strict) = (tls(TLS_SERVICE, Otherwise::Default), tls(STRICT_TLS_SERVICE, Otherwise::Reject));
    let (datagrams, layer4) = (
        plain(DATAGRAM_SERVICE, SERVICE_PORT, Kind::Udp, 6),
        plain(LAYER4_SERVICE, SERVICE_PORT, Kind::L4, 6),
    );
    let all = vec![service, second, server_first, tls, strict, h2c, datagrams, layer4, moving];
    let member =
        |board: BoardId| Member { board, address: Ipv4Addr::new(192, 0, 2, 10 + board.0 as u8), weight: 100 };
    let table = Maglev::build(HashBy::Flow, [BOARD, OTHER_BOARD].map(member).to_vec(), 1021);
    let services = Services::new(all).expect("nine services");
    services.with_tables(vec![(LAYER4_NUMBER, Arc::new(table))])
}
