//! Tests of [`super`]: what the farm must say before an answer is given.

use super::super::boards::tests::{MS, alive, farm, unheard};
use super::super::testing::{WORKER, World, board, flow, id};
use super::*;

const SETTINGS: AskSettings = AskSettings { retry_ns: 50 * MS, tries: 2, outstanding: 2 };

fn world(boards: u16) -> (World, Holders) {
    let mut world = World::new(farm(boards));
    (0..boards).for_each(|n| alive(&mut world.boards, n, 0, 0));
    (world, Holders::new(SETTINGS))
}

/// The boards that were asked since the last look, and under which id.
fn asked(world: &mut World) -> Vec<(u16, u64)> {
    let messages = world.out.messages();
    let short = messages.iter().map(|(_, to, message)| match message {
        Message::Question { id, .. } => (u16::from(to[5]) - 1, *id),
        other => panic!("no question: {other:?}"),
    });
    short.collect()
}

fn told(entry: EntryRef, holder: Holder) -> Vec<String> {
    vec![format!("2 {:?}", Command::Holder { entry, holder })]
}

#[test]
fn a_board_that_holds_the_endpoint_is_believed_at_once() {
    let (mut world, mut holders) = world(2);
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(1), None);
    assert_eq!(asked(&mut world), [(0, id(1)), (1, id(1))]);
    holders.holds(&mut world.at(1), board(1), flow(1), 77, true);
    assert_eq!(world.out.commands(), told(entry, Holder::Board(board(1), 77)));
    holders.tick(&mut world.at(60));
    assert_eq!((asked(&mut world), holders.count()), (vec![], 0));
}

#[test]
fn nobody_holds_it_only_when_every_live_board_denied() {
    let (mut world, mut holders) = world(2);
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(1), None);
    assert!(holders.not_held(&mut world.at(1), board(0), flow(1), id(1)));
    assert_eq!(world.out.commands(), [""; 0]);
    assert!(holders.not_held(&mut world.at(2), board(1), flow(1), id(1)));
    assert_eq!(world.out.commands(), told(entry, Holder::Nobody));
}

#[test]
fn a_board_that_does_not_answer_is_asked_again_and_then_nothing_is_known() {
    let (mut world, mut holders) = world(2);
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(1), None);
    holders.not_held(&mut world.at(1), board(0), flow(1), id(1));
    asked(&mut world);
    holders.tick(&mut world.at(50));
    assert_eq!(asked(&mut world), [(1, id(1))], "only who has not answered");
    holders.tick(&mut world.at(99));
    assert_eq!(world.out.commands(), [""; 0]);
    holders.tick(&mut world.at(100));
    assert_eq!(world.out.commands(), told(entry, Holder::Unknown));
}

#[test]
fn a_dead_board_is_asked_too_but_its_silence_is_not_waited_for_longer_than_one_try() {
    let (mut world, mut holders) = world(2);
    alive(&mut world.boards, 0, 2000, 0);
    let entry = world.entry();
    holders.ask(&mut world.at(2000), WORKER, entry, flow(1), None);
    assert_eq!(asked(&mut world), [(0, id(1)), (1, id(1))]);
    holders.not_held(&mut world.at(2001), board(0), flow(1), id(1));
    assert_eq!(world.out.commands(), [""; 0], "its programs may outlive its agent");
    holders.tick(&mut world.at(2050));
    assert_eq!(world.out.commands(), told(entry, Holder::Nobody));

    let entry = world.entry();
    holders.ask(&mut world.at(2060), WORKER, entry, flow(2), None);
    holders.holds(&mut world.at(2061), board(1), flow(2), 78, true);
    assert_eq!(world.out.commands(), told(entry, Holder::Board(board(1), 78)));
}

#[test]
fn without_a_live_board_nothing_is_known() {
    let (mut world, mut holders) = world(1);
    let entry = world.entry();
    holders.ask(&mut world.at(5000), WORKER, entry, flow(1), None);
    holders.not_held(&mut world.at(5001), board(0), flow(1), id(1));
    holders.tick(&mut world.at(5050));
    holders.tick(&mut world.at(5100));
    assert_eq!(world.out.commands(), told(entry, Holder::Unknown));

    let mut world = World::new(unheard(1));
    let entry = world.entry();
    holders.ask(&mut world.at(5000), WORKER, entry, flow(2), None);
    assert_eq!(world.out.commands(), told(entry, Holder::Unknown), "there is nobody to ask");
}

#[test]
fn just_after_the_start_a_board_that_has_not_been_heard_from_may_hold_it() {
    let mut world = World::new(unheard(2));
    // Board 0 answers ARP and reports; board 1 has not had the time to.
    let mut boards = farm(1);
    alive(&mut boards, 0, 0, 0);
    world.boards = unheard(2);
    assert!(
        world
            .boards
            .learn(
                0,
                ipos_pipelines::handoff::PortIndex(1),
                super::super::boards::tests::address(0),
                super::super::boards::tests::mac(0)
            )
            .is_ok()
    );
    alive(&mut world.boards, 0, 0, 0);
    let mut holders = Holders::new(SETTINGS);
    let entry = world.entry();
    holders.ask(&mut world.at(10), WORKER, entry, flow(1), None);
    assert_eq!(asked(&mut world), [(0, id(1))]);
    holders.not_held(&mut world.at(11), board(0), flow(1), id(1));
    holders.tick(&mut world.at(60));
    holders.tick(&mut world.at(110));
    assert_eq!(world.out.commands(), told(entry, Holder::Unknown));
}

#[test]
fn a_pending_record_gives_way_to_a_live_endpoint_and_counts_when_there_is_none() {
    let (mut world, mut holders) = world(2);
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(1), None);
    holders.holds(&mut world.at(1), board(0), flow(1), 76, false);
    assert_eq!(world.out.commands(), [""; 0]);
    holders.holds(&mut world.at(2), board(1), flow(1), 77, true);
    assert_eq!(world.out.commands(), told(entry, Holder::Board(board(1), 77)));

    let entry = world.entry();
    holders.ask(&mut world.at(3), WORKER, entry, flow(2), None);
    holders.holds(&mut world.at(4), board(0), flow(2), 76, false);
    holders.not_held(&mut world.at(5), board(1), flow(2), id(2));
    assert_eq!(world.out.commands(), told(entry, Holder::Board(board(0), 76)));
}

#[test]
fn a_time_wait_is_believed_only_when_every_live_board_has_spoken() {
    let (mut world, mut holders) = world(2);
    // The board with the live endpoint is the slower one.
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(1), None);
    holders.holds(&mut world.at(1), board(0), flow(1), 0, false);
    holders.tick(&mut world.at(50));
    assert_eq!(world.out.commands(), [""; 0]);
    holders.holds(&mut world.at(51), board(1), flow(1), 77, true);
    assert_eq!(world.out.commands(), told(entry, Holder::Board(board(1), 77)));

    let entry = world.entry();
    holders.ask(&mut world.at(100), WORKER, entry, flow(2), None);
    holders.holds(&mut world.at(101), board(0), flow(2), 0, false);
    holders.tick(&mut world.at(150));
    holders.tick(&mut world.at(200));
    assert_eq!(world.out.commands(), told(entry, Holder::Unknown), "the other board never answered");

    let entry = world.entry();
    holders.ask(&mut world.at(200), WORKER, entry, flow(3), None);
    holders.holds(&mut world.at(201), board(0), flow(3), 0, false);
    holders.not_held(&mut world.at(202), board(1), flow(3), id(3));
    assert_eq!(world.out.commands(), told(entry, Holder::TimeWait(board(0))));
}

#[test]
fn one_board_alone_can_be_asked() {
    let (mut world, mut holders) = world(3);
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(1), Some(board(2)));
    assert_eq!(asked(&mut world), [(2, id(1))]);
    holders.holds(&mut world.at(1), board(0), flow(1), 1, true);
    assert_eq!((world.out.commands(), world.counters.ignored(Ignored::LateAnswer)), (vec![], 1), "not asked");
    holders.not_held(&mut world.at(1), board(2), flow(1), id(1));
    assert_eq!(world.out.commands(), told(entry, Holder::Nobody));
}

#[test]
fn a_question_asked_twice_is_one_and_another_entry_takes_its_place() {
    let (mut world, mut holders) = world(1);
    let (first, second) = (world.entry(), world.entry());
    holders.ask(&mut world.at(0), WORKER, first, flow(1), None);
    holders.ask(&mut world.at(1), WORKER, first, flow(1), None);
    assert_eq!((asked(&mut world), world.out.commands()), (vec![(0, id(1))], vec![]));
    holders.ask(&mut world.at(2), WORKER, second, flow(1), None);
    assert_eq!(world.out.commands(), told(first, Holder::Unknown));
    assert!(!holders.not_held(&mut world.at(3), board(0), flow(1), id(1)), "of the earlier question");
    assert!(holders.not_held(&mut world.at(3), board(0), flow(1), id(2)));
    assert_eq!(world.out.commands(), told(second, Holder::Nobody));
}

#[test]
fn questions_beyond_the_bound_are_answered_at_once() {
    let (mut world, mut holders) = world(1);
    for port in 1..=2 {
        let entry = world.entry();
        holders.ask(&mut world.at(0), WORKER, entry, flow(port), None);
    }
    let entry = world.entry();
    holders.ask(&mut world.at(0), WORKER, entry, flow(3), None);
    assert_eq!(world.out.commands(), told(entry, Holder::Unknown));
    assert_eq!((world.counters.did(Did::QuestionsFull), holders.count()), (1, 2));
}
