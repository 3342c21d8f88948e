//! A worker as the appliance starts it, for one service and one board.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use ipos_pipelines::config::{Idle, PortSettings, Role, Timeouts, WorkerConfig};
use ipos_pipelines::handoff::{BoardId, PortIndex, WorkerId};
use ipos_pipelines::handshake::cookie::CookieKeys;
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::tlsmap::TlsRules;
use ipos_pipelines::urlmap::{Rule, UrlMap};
use ipos_wire::mac::Mac;
use ipos_wire::tcb::OptionBits;

use crate::capture::{FARM_MAC, SERVICE, SERVICE_PORT, WAN_MAC};

/// The farm's EtherType.
pub const ETHERTYPE: u16 = 0x88b5;
/// Boards behind the farm port.
pub const BOARDS: u16 = 4;
/// The first of them.
pub const BOARD: BoardId = BoardId(0);
/// The appliance's own address on the farm's network.
pub const FARM_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The port to the farm.
pub const FARM_PORT: PortIndex = PortIndex(1);
/// The pool of the service's requests.
pub const POOL: u16 = 0;
/// Key of the shard's hash: any will do, for here nobody is hostile.
pub const HASH_KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// No entry expires during a measurement, milliseconds.
const NEVER_MS: u32 = 1 << 30;

/// Where a board is.
pub fn board_mac(board: u16) -> Mac {
    Mac([2, 0, 0, 0, 0xb0, 1 + board as u8])
}

/// Its address.
pub fn board_address(board: u16) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 11 + board as u8)
}

/// The two ports: clients, boards.
pub fn ports() -> [PortSettings; 2] {
    let wan = Ipv4Addr::new(203, 0, 113, 1);
    [
        PortSettings { index: PortIndex(0), role: Role::Wan, mac: WAN_MAC, address: wan },
        PortSettings { index: FARM_PORT, role: Role::Farm, mac: FARM_MAC, address: FARM_ADDRESS },
    ]
}

/// What the worker is told.
pub fn config(entries: u32, pending: u32) -> WorkerConfig {
    WorkerConfig {
        id: WorkerId(0),
        workers: 1,
        ethertype: ETHERTYPE,
        entries,
        pending,
        datagram_flows: 1024,
        hash_key: HASH_KEY,
        cookie_keys: CookieKeys::new(&[0x5a; 16], &[0xa5; 16]),
        options: OptionBits::TIMESTAMPS | OptionBits::SACK | OptionBits::WINDOW_SCALE | OptionBits::ECN,
        mss: 1444,
        farm_mtu: 1500,
        idle: Idle::Spin,
        timeouts: Timeouts { idle_ms: NEVER_MS, half_closed_ms: NEVER_MS, ..Timeouts::default() },
    }
}

/// One service with a handful of URL rules, all to the same pool.
///
/// # Errors
/// Never, for these rules.
pub fn services() -> anyhow::Result<Arc<Services>> {
    let rule = |host, prefix| Rule::prefix(host, prefix, POOL);
    let rules = [rule(None, "/images/"), rule(None, "/api/"), rule(Some("www.example"), "/static/")];
    let service = Service {
        address: SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        urls: UrlMap::build(&rules).map_err(|errors| anyhow::anyhow!("the URL rules: {errors:?}"))?,
        tls: TlsRules::default(),
        h2c: false,
        migrates_requests: false,
        default_pool: POOL,
        answers: Default::default(),
        cookie: None,
    };
    Ok(Arc::new(Services::new(vec![service]).context("the service")?))
}
