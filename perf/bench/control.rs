//! The appliance's control core as `ipos-appliance run` makes it, for one worker and a few boards.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use ipos_appliance::control::attempts::AttemptSettings;
use ipos_appliance::control::board::BoardSettings;
use ipos_appliance::control::boards::MS_NS;
use ipos_appliance::control::core::{Core, CoreSettings};
use ipos_appliance::control::holders::AskSettings;
use ipos_appliance::control::outlet::Outlet;
use ipos_appliance::control::placement::{PoolSettings, Pools, Rules};
use ipos_appliance::control::standing::WEIGHT_DEFAULT;
use ipos_appliance::control::turn::{Pages, Turn};
use ipos_dpdk::mempool::Mempool;
use ipos_pipelines::config::Idle;
use ipos_pipelines::handoff::{BoardId, Command, Event, Receiver, Sender};
use ipos_pipelines::steer::Owners;

use crate::setup::{BOARDS, ETHERTYPE, FARM_PORT, HASH_KEY, board_address, board_mac, ports};

/// The loop with all that belongs to it; the boards' MAC addresses are configured.
pub fn turn(pool: &Mempool, events: Receiver<Event>, commands: Sender<Command>) -> Turn {
    let owners = Owners::new(1, HASH_KEY);
    let settings = CoreSettings {
        ethertype: ETHERTYPE,
        epoch: 1,
        workers: 1,
        owners: owners.clone(),
        ports: ports().to_vec(),
        boards: (0..BOARDS).map(board).collect(),
        options: 0xf,
        pools: Pools::new(vec![PoolSettings::equal((0..BOARDS).map(BoardId))], vec![Rules::default()]),
        attempts: AttemptSettings {
            retry_ns: 20 * MS_NS,
            tries: 4,
            deadline_ns: 3000 * MS_NS,
            capacity: 65_536,
            appliance_id: 1,
        },
        checks: Vec::new(),
        hashed: Vec::new(),
        started_unix_us: 0,
        ask: AskSettings { retry_ns: 50 * MS_NS, tries: 2, outstanding: 1024 },
    };
    let mut number = 0;
    let random = move || {
        number += 1;
        [number; 16]
    };
    let mut core = Core::new(settings, Box::new(random), 0);
    let mut outlet = Outlet::new(vec![commands], ports().to_vec(), ETHERTYPE, owners, pool.clone());
    core.start(&mut outlet);
    // Nobody asks for snapshots; the sending end stays alive with the process.
    let (ask, requests) = crossbeam_channel::bounded(1);
    std::mem::forget(ask);
    Turn {
        core,
        outlet,
        events: vec![events],
        workers: Vec::new(),
        requests,
        stop: Arc::new(AtomicBool::new(false)),
        ports: Vec::new(),
        mempool: pool.clone(),
        services: Vec::new(),
        idle: Idle::Spin,
        started: Instant::now(),
        begun_ns: 0,
        pages: Pages::default(),
        turns: (0, 0),
    }
}

fn board(number: u16) -> BoardSettings {
    BoardSettings {
        name: format!("board{number}"),
        address: board_address(number),
        mac: Some(board_mac(number)),
        port: FARM_PORT,
        weight: WEIGHT_DEFAULT,
    }
}
