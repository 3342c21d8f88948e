//! Tests of [`super`]: each policy spreads as it says, and each choice has its reason.

use super::super::super::boards::tests::{MS, alive, farm};
use super::super::super::state::State;
use super::super::super::state::tests::QUIET;
use super::super::super::testing::flow;
use super::super::rules::Limits;
use super::super::traffic::Traffic;
use super::*;

fn set(boards: &[u16]) -> BoardSet {
    boards.iter().copied().map(BoardId).collect()
}

/// A farm whose boards have reported no connection, and a pool of all of them with these weights.
fn world(rules: Rules, weights: &[u16]) -> (Boards, Pools) {
    let mut boards = farm(weights.len() as u16);
    (0..weights.len() as u16).for_each(|id| alive(&mut boards, id, 0, 0));
    let members = (0..).map(BoardId).zip(weights);
    let members = members.map(|(board, weight)| Member { board, weight: *weight });
    let pool = PoolSettings { service: 0, members: members.collect() };
    (boards, Pools::new(vec![pool], vec![rules]))
}

fn of(policy: Policy) -> Rules {
    Rules { policy, ..Rules::default() }
}

fn choose_for(pools: &mut Pools, boards: &Boards, client: u32, tried: &BoardSet) -> Result<u16, NoBoard> {
    let flow = Flow { client: Ipv4Addr::from_bits(client), ..flow(1) };
    let wanted = Wanted { flow: &flow, pool: 0, tried, after: None, session: None };
    pools.choose(boards, MS, &wanted).map(|board| board.0)
}

fn choose(pools: &mut Pools, boards: &Boards) -> Result<u16, NoBoard> {
    choose_for(pools, boards, 1, &set(&[]))
}

/// So many choices, each of which is acknowledged at once: boards by how many they got.
fn spread<const COUNT: usize>(pools: &mut Pools, boards: &mut Boards, choices: u32) -> [u32; COUNT] {
    let mut got = [0; COUNT];
    for client in 0..choices {
        let board = choose_for(pools, boards, client, &set(&[])).expect("a board");
        boards.board_mut(BoardId(board)).expect("a board of the farm").traffic.place(MS);
        got[usize::from(board)] += 1;
    }
    got
}

/// What was counted for the service, by name.
fn reasons(pools: &Pools) -> Vec<(&'static str, u64)> {
    let (placed, failed) = pools.counts(0);
    let placed = Reason::ALL.iter().zip(placed).map(|(reason, count)| (reason.name(), count));
    let failed = NoBoard::ALL.iter().zip(failed).map(|(reason, count)| (reason.name(), count));
    placed.chain(failed).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn the_board_with_the_fewest_connections_is_chosen() {
    let (mut boards, mut pools) = world(of(Policy::LeastConnections), &[100; 3]);
    for (id, connections) in [(0, 9), (1, 4), (2, 7)] {
        alive(&mut boards, id, 1, connections);
    }
    assert_eq!(choose(&mut pools, &boards), Ok(1));
    assert_eq!(choose_for(&mut pools, &boards, 1, &set(&[1])), Ok(2));
    assert_eq!(choose_for(&mut pools, &boards, 1, &set(&[0, 1])), Ok(2));
    assert_eq!(choose_for(&mut pools, &boards, 1, &set(&[0, 1, 2])), Err(NoBoard::Tried));
    assert_eq!(reasons(&pools), [("policy", 2), ("only_one", 1)]);
}

#[test]
fn what_came_since_the_report_counts_and_what_went() {
    let (mut boards, mut pools) = world(of(Policy::LeastConnections), &[100; 2]);
    alive(&mut boards, 0, 1, 4);
    alive(&mut boards, 1, 1, 5);
    let mut traffic = |id, change: fn(&mut Traffic)| {
        change(&mut boards.board_mut(BoardId(id)).expect("the board").traffic);
    };
    traffic(0, |traffic| traffic.in_flight = 1);
    traffic(0, |traffic| traffic.place(MS));
    traffic(0, |traffic| traffic.place(MS));
    traffic(1, |traffic| traffic.place(MS));
    traffic(1, |traffic| traffic.end(MS));
    assert_eq!(choose(&mut pools, &boards), Ok(1));
}

#[test]
fn equals_take_turns() {
    let (boards, mut pools) = world(of(Policy::LeastConnections), &[100; 3]);
    let turns: Vec<u16> = (0..6).filter_map(|_| choose(&mut pools, &boards).ok()).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn round_robin_is_exact_in_every_round_whatever_the_weights() {
    for weights in [[100, 100, 100], [500, 100, 100], [1, 2, 4], [1000, 999, 1], [7, 7, 3]] {
        let (mut boards, mut pools) = world(of(Policy::RoundRobin), &weights);
        let divisor = (1..=weights[0]).rev().find(|d| weights.iter().all(|weight| weight % d == 0));
        let round = weights.map(|weight| u32::from(weight / divisor.expect("1 divides all")));
        for _ in 0..3 {
            assert_eq!(spread(&mut pools, &mut boards, round.iter().sum()), round, "{weights:?}");
        }
    }
    let (boards, mut pools) = world(of(Policy::RoundRobin), &[500, 100, 100]);
    let turns: Vec<u16> = (0..7).filter_map(|_| choose(&mut pools, &boards).ok()).collect();
    assert!(turns.windows(4).all(|four| four.contains(&1) || four.contains(&2)), "smooth: {turns:?}");
}

#[test]
fn round_robin_goes_on_exactly_without_a_board_and_with_it_again() {
    let (boards, mut pools) = world(of(Policy::RoundRobin), &[100, 200, 100]);
    let mut got = |tried: &[u16], choices: u32| {
        let mut got = [0; 3];
        for client in 0..choices {
            got[usize::from(choose_for(&mut pools, &boards, client, &set(tried)).expect("a board"))] += 1;
        }
        got
    };
    assert_eq!(got(&[], 40), [10, 20, 10]);
    assert_eq!(got(&[1], 40), [20, 0, 20]);
    assert_eq!(got(&[], 40), [10, 20, 10]);
}

#[test]
fn connections_spread_in_proportion_to_the_weights_of_board_and_list() {
    let (mut boards, mut pools) = world(of(Policy::LeastConnections), &[100, 200, 100]);
    boards.board_mut(BoardId(2)).expect("the board").standing.weight = 500;
    assert_eq!(spread(&mut pools, &mut boards, 800), [100, 200, 500]);
    boards.board_mut(BoardId(2)).expect("the board").standing.weight = 0;
    let with_none = spread::<3>(&mut pools, &mut boards, 300);
    assert_eq!(with_none, [100, 200, 0]);
}

#[test]
fn a_client_keeps_its_board_and_only_those_of_a_board_that_leaves_move() {
    let (boards, mut pools) = world(of(Policy::ConsistentHash), &[100, 100, 200]);
    let all: Vec<u16> = (0..8000)
        .map(|client| choose_for(&mut pools, &boards, client, &set(&[])).expect("a board"))
        .collect();
    let again = (0..8000).map(|client| choose_for(&mut pools, &boards, client, &set(&[])));
    assert!(again.zip(&all).all(|(again, first)| again == Ok(*first)));
    let share = |board| all.iter().filter(|chosen| **chosen == board).count();
    assert!((1850..=2150).contains(&share(0)) && (1850..=2150).contains(&share(1)), "{}", share(0));
    assert!((3850..=4150).contains(&share(2)), "{}", share(2));
    let mut moved_to = [0_u32; 3];
    for (client, before) in (0..8000).zip(&all) {
        let now = choose_for(&mut pools, &boards, client, &set(&[1])).expect("a board");
        if *before == 1 {
            moved_to[usize::from(now)] += 1;
        } else {
            assert_eq!(now, *before);
        }
    }
    let (first, third) = (f64::from(moved_to[0]), f64::from(moved_to[2]));
    assert!((0.4..=0.6).contains(&(first / third)), "in proportion to the weights: {moved_to:?}");
    let moved = u64::from(moved_to.iter().sum::<u32>());
    assert_eq!(reasons(&pools), [("policy", 24_000 - moved), ("hash_next", moved)]);
}

#[test]
fn the_home_board_keeps_what_it_can_take_and_the_others_get_the_rest() {
    let home = Rules { home: Some(BoardId(1)), ..Rules::default() };
    let (mut boards, mut pools) = world(home, &[100; 3]);
    alive(&mut boards, 1, 1, 5000);
    assert_eq!(choose(&mut pools, &boards), Ok(1), "however loaded");
    let limits = Limits { connections: Some(5000), ..Limits::default() };
    let (boards_2, mut limited) = (
        boards,
        Pools::new(
            vec![PoolSettings::equal([0, 1, 2].map(BoardId)), PoolSettings::equal([0, 2].map(BoardId))],
            vec![Rules { limits, ..home }],
        ),
    );
    assert_eq!(choose(&mut limited, &boards_2), Ok(0), "its state says otherwise");
    let (flow, tried) = (flow(1), set(&[]));
    let elsewhere = Wanted { flow: &flow, pool: 1, tried: &tried, after: None, session: None };
    assert_eq!(limited.choose(&boards_2, MS, &elsewhere), Ok(BoardId(0)), "the map says otherwise");
    assert_eq!(reasons(&pools), [("home", 1)]);
    assert_eq!(reasons(&limited), [("policy", 1), ("home_unfit", 1)]);
}

#[test]
fn boards_beyond_a_limit_are_passed_over_and_the_reason_is_kept_when_all_are() {
    let limits = Limits { cpu_percent: Some(50), ..Limits::default() };
    let (mut boards, mut pools) = world(Rules { limits, ..Rules::default() }, &[100; 2]);
    let busy = |boards: &mut Boards, id, sequence| {
        let state = State { sequence, cpu_hundredths: 9000, ..QUIET };
        assert_eq!(boards.report(MS, BoardId(id), state), Ok(()));
    };
    busy(&mut boards, 0, 7);
    assert_eq!([choose(&mut pools, &boards), choose(&mut pools, &boards)], [Ok(1); 2]);
    busy(&mut boards, 1, 8);
    assert_eq!(choose(&mut pools, &boards), Err(NoBoard::OverLimit));
    pools.failed(2 * MS, &flow(1), 0, NoBoard::OverLimit);
    assert_eq!(reasons(&pools), [("only_one", 2), ("over_limit", 1)]);
    let flow = flow(1);
    let last = pools.record.of(&flow).next().expect("it is kept");
    assert_eq!((last.verdict, last.at_ns), (Some(Verdict::None(NoBoard::OverLimit)), 2 * MS));
}

#[test]
fn only_boards_of_the_pool_are_chosen_and_an_unknown_pool_has_none() {
    let (boards, _) = world(Rules::default(), &[100; 2]);
    let mut pools = Pools::new(vec![PoolSettings::equal([BoardId(1)])], vec![Rules::default()]);
    assert_eq!(choose(&mut pools, &boards), Ok(1));
    let (flow, tried) = (flow(1), set(&[]));
    let wanted = Wanted { flow: &flow, pool: 7, tried: &tried, after: None, session: None };
    assert_eq!(pools.choose(&boards, MS, &wanted), Err(NoBoard::Silent));
    pools.failed(MS, &flow, 7, NoBoard::Silent);
}

#[test]
fn a_board_whose_reports_are_overdue_is_not_chosen() {
    let (mut boards, mut pools) = world(Rules::default(), &[100; 2]);
    alive(&mut boards, 1, 200, 99);
    let (flow, tried) = (flow(1), set(&[]));
    let wanted = Wanted { flow: &flow, pool: 0, tried: &tried, after: None, session: None };
    let mut at = |ms: u64| pools.choose(&boards, ms * MS, &wanted);
    assert_eq!([at(299), at(300), at(500)], [Ok(BoardId(0)), Ok(BoardId(1)), Err(NoBoard::Silent)]);
}

#[test]
fn a_board_that_joins_gets_its_share_slowly() {
    let slow = Rules { policy: Policy::RoundRobin, slow_start_ns: 10_000 * MS, ..Rules::default() };
    let (mut boards, mut pools) = world(slow, &[100; 2]);
    let mut shares = Vec::new();
    // The second board joins after 20 s.
    for at_ms in (100..=30_000).step_by(100) {
        alive(&mut boards, 0, at_ms, 0);
        if at_ms >= 20_000 {
            alive(&mut boards, 1, at_ms, 0);
        }
        if ![20_000, 25_000, 30_000].contains(&at_ms) {
            continue;
        }
        let (flow, tried) = (flow(1), set(&[]));
        let wanted = Wanted { flow: &flow, pool: 0, tried: &tried, after: None, session: None };
        let choices = (0..660).filter(|_| pools.choose(&boards, at_ms * MS, &wanted) == Ok(BoardId(1)));
        shares.push(choices.count());
    }
    assert_eq!(shares, [60, 220, 330], "a tenth, a half, the whole of its weight");
}

#[test]
fn the_decision_of_a_flow_has_the_scores_that_it_was_made_with() {
    let (mut boards, mut pools) = world(of(Policy::LeastLoad), &[100, 50, 100]);
    for (id, connections) in [(0, 9), (1, 4), (2, 7)] {
        let state = State { sequence: 9, connections, cpu_hundredths: 5000, endpoints: 0, ..QUIET };
        assert_eq!(boards.report(MS, BoardId(id), state), Ok(()));
    }
    let (flow, tried) = (flow(1), set(&[2]));
    let wanted =
        Wanted { flow: &flow, pool: 0, tried: &tried, after: Some(Reason::AfterRefusal), session: None };
    assert_eq!(pools.choose(&boards, MS, &wanted), Ok(BoardId(0)));
    let decision = pools.record.of(&flow).next().expect("it is kept");
    assert_eq!(decision.verdict, Some(Verdict::Board(BoardId(0), Reason::AfterRefusal)));
    // Two endpoints were held for a millisecond, and 0.1 ms is what a board begins with: 2.1 ms a connection, 1.1 ms to its end.
    // Half of the CPU is free; the second board counts half.
    let expected = 10.0 * (2.1_f64 * 1.1).sqrt() / 0.5;
    let scores: Vec<(u16, i64)> =
        decision.candidates().map(|(board, score)| (board.0, (score * 1000.0) as i64)).collect();
    let milli = (expected * 1000.0) as i64;
    assert_eq!((scores, decision.left_out), (vec![(0, milli), (1, milli)], 1));
    let (weight, score) = pools.candidate(0, BoardId(1), &boards, MS);
    assert!((weight - 50.0).abs() < 1e-9 && score.is_some_and(|score| (score - expected).abs() < 1e-3));
    assert_eq!(pools.candidate(0, BoardId(7), &boards, MS), (0.0, None));
}

#[test]
fn another_configuration_keeps_what_was_counted_and_whose_turn_it_is() {
    let (boards, mut pools) = world(of(Policy::RoundRobin), &[100, 100, 100]);
    assert_eq!([choose(&mut pools, &boards), choose(&mut pools, &boards)], [Ok(0), Ok(1)]);
    let same = PoolSettings::equal([0, 1, 2].map(BoardId));
    pools.reconfigure(vec![same, PoolSettings::equal([BoardId(2)])], vec![of(Policy::RoundRobin)]);
    assert_eq!((choose(&mut pools, &boards), pools.boards(1)), (Ok(2), &[BoardId(2)][..]));
    assert_eq!(
        (reasons(&pools), pools.record.of(&flow(1)).count()),
        (vec![("policy", 3)], 0),
        "another client"
    );
    // Other boards: their turns begin anew, and other rules hold.
    let home = Rules { home: Some(BoardId(1)), ..Rules::default() };
    pools.reconfigure(vec![PoolSettings::equal([0, 1].map(BoardId))], vec![home]);
    assert_eq!((choose(&mut pools, &boards), pools.boards(1)), (Ok(1), &[][..]));
    assert_eq!(reasons(&pools), [("policy", 3), ("home", 1)]);
}
