//! The control core allocates nothing and frees nothing for a connection after its start, whatever comes of it: an allocator
//! counts what happens inside the worker and inside the control core.

#[path = "../../pipelines/tests/common/mod.rs"]
mod common;
#[path = "farm/world.rs"]
#[allow(dead_code, reason = "each test binary uses its own part of the world")]
mod world;

use ipos_appliance::control::admission::{Admit, Rate};
use ipos_appliance::control::placement::{Limits, Policy, Rules};
use ipos_pipelines::handoff::{BoardId, Command, Takes};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::ipos::{ClosedReason, RefusalReason};

use common::counting::{Counting, counted};
use common::scripts::{REQUEST, REQUEST_LEN};
use common::setup::{FARM_PORT, LAYER4_NUMBER, limited_services};
use common::{BOARD, BOARD_MAC, Client, LAYER4_SERVICE, OTHER_BOARD, OTHER_BOARD_MAC};
use world::{DEADLINE_MS, FIRST, RETRY_MS, SECOND, Sent, World};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Connections of each script: as many as the worker has buffers for, should each keep its own.
const ROUNDS: u16 = 12;

/// A farm that has been noticed to live, which is said once.
fn world() -> World {
    let mut world = World::new();
    world.pass(20);
    world
}

/// The attempt that a board was just asked to take an endpoint under.
#[track_caller]
fn asked(world: &mut World, board: world::Board) -> u64 {
    let sent = world.sent();
    let id = sent.iter().find_map(|sent| match sent {
        Sent::Connection(asked, id, _) if *asked == board => Some(*id),
        _ => None,
    });
    id.unwrap_or_else(|| panic!("{board:?} is asked, not {sent:?}"))
}

#[test]
fn placing_acknowledgement_and_end() {
    let mut world = world();
    let count = counted(|| {
        for port in 1..=ROUNDS {
            let mut client = Client::on_port(port);
            let (board, id) = world.request(&mut client, REQUEST);
            world.acknowledges(board, client.flow, id);
            assert_eq!(world.rig.client(&client.acks(REQUEST_LEN, 500)), Verdict::Forwarded);
            world.closes(board, client.flow, id, ClosedReason::Closed);
            world.sent();
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn limits_for_clients_that_are_reached_and_not() {
    let rate = Some(Rate { per_second: 1_000, burst: 1_000 });
    let admit = Admit { connections: Some(6), rate, client_connections: Some(5), client_rate: rate };
    let mut world = World::limited(admit);
    world.pass(20);
    let count = counted(|| {
        for port in 1..=ROUNDS {
            let mut client = Client::on_port(port);
            world.rig.shake(&mut client);
            assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
            world.turn();
            let asked = world.sent();
            assert_eq!(asked.len(), usize::from(port <= 5), "{asked:?}");
            if let [Sent::Connection(board, id, flow)] = asked[..] {
                world.acknowledges(board, flow, id);
                world.sent();
            }
            world.rig.segments_out();
        }
        world.pass(1_100);
    });
    assert_eq!(count, 0);
}

#[test]
fn first_packets_that_are_admitted_and_not() {
    let rate = Some(Rate { per_second: 1_000, burst: 1_000 });
    let admit = Admit { connections: Some(6), rate, client_connections: Some(5), client_rate: rate };
    let mut world = World::limited(admit);
    world.pass(5_000);
    world.tell(Command::Services(limited_services()));
    world.tell(Command::Board { board: BOARD, mac: BOARD_MAC, port: FARM_PORT });
    world.tell(Command::Board { board: OTHER_BOARD, mac: OTHER_BOARD_MAC, port: FARM_PORT });
    for board in [BOARD, OTHER_BOARD] {
        world.tell(Command::Standing { service: LAYER4_NUMBER, board, takes: Takes::New });
    }
    world.sent();
    let count = counted(|| {
        for port in 1..=ROUNDS {
            let mut client = Client::on_port(port);
            client.flow.endpoint = LAYER4_SERVICE;
            assert_eq!(world.rig.client(&client.syn()), Verdict::Held);
            world.turn();
            assert_eq!(world.sent().len(), usize::from(port <= 5));
            assert_eq!(world.rig.segments_out().len(), usize::from(port > 5));
        }
        for port in 1..=5 {
            let mut client = Client::on_port(port);
            client.flow.endpoint = LAYER4_SERVICE;
            assert_eq!(world.rig.client(&client.rst(0)), Verdict::Forwarded);
            world.turn();
            world.sent();
        }
        world.pass(1_100);
    });
    assert_eq!(count, 0);
}

#[test]
fn every_policy_with_limits_and_a_home_board() {
    for (policy, home) in [
        (Policy::LeastConnections, None),
        (Policy::LeastLoad, None),
        (Policy::RoundRobin, None),
        (Policy::ConsistentHash, None),
        (Policy::LeastLoad, Some(BoardId(1))),
    ] {
        let limits = Limits {
            connections: Some(1000),
            cpu_percent: Some(90),
            memory_free_mb: Some(1),
            bandwidth_free_mbps: Some(1),
            accept_queue_percent: Some(90),
        };
        let mut world =
            World::placed_by(Rules { policy, home, limits, udp: false, slow_start_ns: 1_000_000_000 });
        world.pass(20);
        let count = counted(|| {
            for port in 1..=ROUNDS {
                let mut client = Client::on_port(port);
                let (board, id) = world.request(&mut client, REQUEST);
                assert!(home.is_none() || board == SECOND, "the home board");
                world.acknowledges(board, client.flow, id);
                world.closes(board, client.flow, id, ClosedReason::Closed);
                world.sent();
            }
        });
        assert_eq!(count, 0, "{policy:?}");
    }
}

#[test]
fn refusals_of_every_board() {
    let mut world = world();
    let count = counted(|| {
        for port in 1..=ROUNDS {
            let mut client = Client::on_port(port);
            let (board, id) = world.request(&mut client, REQUEST);
            world.refuses(board, client.flow, id, RefusalReason::AcceptQueueFull);
            let other = if board == FIRST { SECOND } else { FIRST };
            let id = asked(&mut world, other);
            world.refuses(other, client.flow, id, RefusalReason::NoListener);
            assert!(world.rig.answer().payload.starts_with(b"HTTP/1.1 503"));
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn silence_repetition_and_late_acknowledgement() {
    let mut world = world();
    let count = counted(|| {
        for port in 1..=ROUNDS {
            let mut client = Client::on_port(port);
            let (board, first_id) = world.request(&mut client, REQUEST);
            let other = if board == FIRST { SECOND } else { FIRST };
            world.pass(RETRY_MS * 15);
            let id = asked(&mut world, other);
            world.acknowledges(board, client.flow, first_id);
            assert!(world.sent().contains(&Sent::Detach(board, first_id)));
            world.acknowledges(other, client.flow, id);
            world.sent();
            // The client hears nothing of the board, and sends again.
            world.pass(200);
            assert_eq!(world.rig.client(&client.data(0, REQUEST)), Verdict::Held);
            world.turn();
            assert_eq!(asked(&mut world, other), id);
            world.acknowledges(other, client.flow, id);
            world.sent();
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn deadlines_and_clients_that_leave() {
    let mut world = world();
    let count = counted(|| {
        for port in 1..=4 {
            let mut client = Client::on_port(port);
            world.request(&mut client, REQUEST);
            if port % 2 == 0 {
                world.pass(DEADLINE_MS);
                let answers = world.rig.segments_out();
                assert!(answers.iter().any(|answer| answer.payload.starts_with(b"HTTP/1.1 503")));
            } else {
                assert_eq!(world.rig.client(&client.rst(REQUEST_LEN)), Verdict::Answered);
                world.turn();
            }
            world.sent();
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn questions_and_their_answers() {
    let mut world = world();
    let count = counted(|| {
        for port in 1..=ROUNDS {
            let client = Client::stranger(port);
            assert!(matches!(world.rig.client(&client.ack(0)), Verdict::Held | Verdict::Drop(_)));
            world.turn();
            let id = match world.sent()[..] {
                [Sent::Question(FIRST, id), Sent::Question(SECOND, _)] => id,
                ref other => panic!("both boards are asked, not {other:?}"),
            };
            match port % 3 {
                0 => world.holds(SECOND, client.flow, 77),
                1 => {
                    world.closes(FIRST, client.flow, id, ClosedReason::NotHeld);
                    world.closes(SECOND, client.flow, id, ClosedReason::NotHeld);
                }
                // Nobody answers: asked once more, then unknown.
                _ => world.pass(110),
            }
            world.sent();
        }
    });
    assert_eq!(count, 0);
}
