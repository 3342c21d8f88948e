//! Every arrow of the state table in `entry.rs`, and what the gauges say of it.

use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command, Holder, Table};
use ipos_pipelines::verdict::Verdict;

use crate::common::scripts::REQUEST;
use crate::common::{BOARD, Client, MIGRATION, Node, Rig};

const STATES: [State; 9] = [
    State::Temporary,
    State::ForwardConnect,
    State::Forward,
    State::Local,
    State::Asking,
    State::GivenUp,
    State::Layer4,
    State::Watched,
    State::Admitting,
];

/// The only entry is in this state, and the gauges agree; `None`: there is none.
#[track_caller]
fn assert_only(node: &Node, client: &Client, state: Option<State>) {
    assert_eq!(node.state(&client.flow), state);
    for other in STATES {
        let gauge = node.counters.entries[other.index()].read();
        assert_eq!(gauge, u64::from(Some(other) == state), "{other:?}");
    }
    let buffers = match state {
        Some(State::Temporary | State::ForwardConnect | State::Local) => 1,
        Some(State::Forward) => node.counters.pending.read(),
        Some(State::Asking | State::GivenUp | State::Layer4 | State::Watched | State::Admitting) | None => 0,
    };
    assert_eq!(node.counters.pending.read(), buffers);
}

fn temporary(rig: &mut Rig) -> Client {
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_only(rig, &client, None);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
    assert_only(rig, &client, Some(State::Temporary));
    client
}

#[test]
fn none_to_temporary_to_forward_connect_to_forward_to_none() {
    let mut rig = Rig::new();
    let client = temporary(&mut rig);
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..])), Verdict::Held);
    assert_only(&rig, &client, Some(State::ForwardConnect));
    let place = rig.placed();
    rig.migrated(&place);
    assert_only(&rig, &client, Some(State::Forward));
    rig.command(Command::Closed { flow: client.flow, board: BOARD, migration_id: MIGRATION });
    rig.pass(2_000);
    assert_only(&rig, &client, None);
}

#[test]
fn temporary_to_local_to_none() {
    let mut rig = Rig::new();
    let client = temporary(&mut rig);
    assert_eq!(rig.client(&client.fin(9)), Verdict::Answered);
    assert_only(&rig, &client, Some(State::Local));
    let text = rig.segments_out().pop().map_or(0, |answer| answer.payload.len() as u32);
    assert_eq!(rig.client(&client.acks(10, text + 1)), Verdict::Answered);
    rig.pass(2_000);
    assert_only(&rig, &client, None);
}

#[test]
fn temporary_to_local_by_deadline() {
    let mut rig = Rig::new();
    let client = temporary(&mut rig);
    rig.pass(10_000);
    assert_only(&rig, &client, Some(State::Local));
}

#[test]
fn temporary_to_none() {
    let mut rig = Rig::new();
    let client = temporary(&mut rig);
    assert_eq!(rig.client(&client.rst(9)), Verdict::Answered);
    assert_only(&rig, &client, None);
}

#[test]
fn forward_connect_to_local() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
    assert_only(&rig, &client, Some(State::Local));
}

#[test]
fn forward_connect_to_none() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let place = rig.request(&mut client, REQUEST);
    rig.command(Command::Answer { entry: place.entry, answer: Answer::Reset });
    assert_only(&rig, &client, None);
}

#[test]
fn none_to_asking_to_forward() {
    let mut rig = Rig::new();
    let stranger = Client::stranger(1);
    let entry = rig.ask(&stranger);
    assert_only(&rig, &stranger, Some(State::Asking));
    rig.command(Command::Holder { entry, holder: Holder::Board(BOARD, MIGRATION) });
    assert_only(&rig, &stranger, Some(State::Forward));
}

#[test]
fn asking_to_none() {
    for holder in [Holder::Nobody, Holder::Unknown] {
        let mut rig = Rig::new();
        let stranger = Client::stranger(1);
        let entry = rig.ask(&stranger);
        rig.command(Command::Holder { entry, holder });
        rig.pass(1_000);
        assert_only(&rig, &stranger, None);
    }
}

#[test]
fn asking_to_temporary() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..12])), Verdict::Held);
    assert_only(&rig, &client, Some(State::Asking));
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
    assert_only(&rig, &client, Some(State::Temporary));
}

#[test]
fn every_state_shows_its_table() {
    let tables = [
        Table::Temporary,
        Table::ForwardConnect,
        Table::Forward,
        Table::Local,
        Table::ForwardConnect,
        Table::Local,
        Table::Forward,
        Table::Forward,
        Table::ForwardConnect,
    ];
    assert_eq!(STATES.map(State::table), tables);
}
