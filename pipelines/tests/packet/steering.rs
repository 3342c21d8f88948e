//! Two workers: a packet goes to its flow's owner, wherever it came in.

use ipos_pipelines::counters::Outcome;
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Event, WorkerId};
use ipos_pipelines::steer::{Owners, mesh};
use ipos_pipelines::verdict::Verdict;

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::setup::HASH_KEY;
use crate::common::{Client, Ground, Pair, Segment, Setup, only};

/// What both workers received and settled, hand-overs counted on both sides.
fn assert_sums(pair: &Pair, received: u64) {
    let [first, second] = &pair.nodes;
    let steered = |outcome_of: &crate::common::Node| outcome_of.counters.outcome(Outcome::Steered).read();
    assert_eq!(steered(first), second.counters.steered_in.read());
    assert_eq!(steered(second), first.counters.steered_in.read());
    let settled: u64 = pair.nodes.iter().map(|node| node.counters.packets_settled()).sum();
    assert_eq!(settled - steered(first) - steered(second), received, "each packet is settled once");
    let at_ports: u64 = pair
        .nodes
        .iter()
        .flat_map(|node| node.counters.ports.iter().map(|port| port.received_packets.read()))
        .sum();
    assert_eq!(at_ports, received);
}

#[test]
fn a_connection_lives_in_its_owners_shard_wherever_its_packets_arrive() {
    for owner in [0, 1] {
        for mut at in [0, 1] {
            let mut pair = Pair::new();
            let mut client = Client::owned_by(owner as u8, 2);
            let mut received = 0;
            // Every packet comes in by the other queue than the one before.
            let mut send = |pair: &mut Pair, segment: &crate::common::Seg, expected: Verdict| {
                let outcomes = pair.client(at, segment);
                assert_eq!(
                    outcomes,
                    if at == owner { (expected, None) } else { (Verdict::Steered, Some(expected)) }
                );
                at = 1 - at;
                received += 1;
            };
            send(&mut pair, &client.syn(), Verdict::Answered);
            let frames: Vec<_> = pair.nodes.iter_mut().flat_map(|node| node.wan_frames()).collect();
            client.hears(&Segment::to_client(&only(frames)));
            send(&mut pair, &client.data(0, &REQUEST[..9]), Verdict::Held);
            send(&mut pair, &client.data(9, &REQUEST[9..]), Verdict::Held);
            let place = pair.nodes[owner].placed();
            pair.nodes[owner].migrated(&place);
            send(&mut pair, &client.acks(REQUEST_LEN, 100), Verdict::Forwarded);
            send(&mut pair, &client.data(REQUEST_LEN, b"more"), Verdict::Forwarded);
            assert_eq!(pair.nodes[owner].state(&client.flow), Some(State::Forward));
            assert_eq!(pair.nodes[1 - owner].worker.core().shard.len(), 0, "never in the other shard");
            assert_eq!(pair.nodes[owner].packets_out().len(), 3);
            assert_sums(&pair, received);
        }
    }
}

#[test]
fn many_flows_are_spread_over_both_and_never_move() {
    let mut pair = Pair::new();
    let owners = Owners::new(2, HASH_KEY);
    for round in 0..2 {
        for port in 0..200 {
            let stranger = Client::stranger(port);
            let WorkerId(owner) = owners.owner(&stranger.flow);
            let outcomes = pair.client(usize::from(port) % 2, &stranger.ack(0));
            assert_eq!(outcomes.0 == Verdict::Steered, usize::from(owner) != usize::from(port) % 2);
            let here = pair.nodes[usize::from(owner)].state(&stranger.flow);
            assert_eq!(here, Some(State::Asking), "round {round}");
            assert_eq!(pair.nodes[usize::from(1 - owner)].state(&stranger.flow), None);
            pair.nodes.iter_mut().for_each(|node| drop(node.told()));
        }
    }
    let shares = pair.nodes.each_ref().map(|node| node.worker.core().shard.len());
    assert!(shares.iter().all(|share| *share > 60), "{shares:?}");
    assert_sums(&pair, 400);
}

#[test]
fn a_question_about_a_steered_packet_comes_from_its_owner() {
    let mut pair = Pair::new();
    let stranger = Client { irs: ipos_wire::seq::Seq(7), ..Client::owned_by(1, 2) };
    assert_eq!(pair.client(0, &stranger.ack(0)), (Verdict::Steered, Some(Verdict::Held)));
    assert!(pair.nodes[0].told().is_empty());
    assert!(matches!(only(pair.nodes[1].told()), Event::WhoHolds { board: None, .. }));
}

#[test]
fn what_belongs_to_no_flow_is_answered_where_it_arrives() {
    let mut pair = Pair::new();
    let broken = Client::plain().syn().frame();
    let first = pair.on_wan(0, &broken[..40]);
    assert!(matches!(first, (Verdict::Drop(_), None)));
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[
        2, 0, 0, 0, 0xc1, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0xc1, 1, 203, 0, 113, 9,
    ]);
    frame.extend_from_slice(&[0, 0, 0, 0, 0, 0, 198, 51, 100, 1]);
    for at in [0, 1] {
        assert_eq!(pair.on_wan(at, &frame), (Verdict::Answered, None));
        assert_eq!(pair.nodes[at].wan_frames().len(), 1);
    }
    assert_sums(&pair, 3);
}

#[test]
fn a_packet_that_was_handed_over_is_not_handed_back() {
    // Two workers of different opinions, which no configuration makes: a packet must not circle between them.
    let keys = [[1, 2], [3, 4]];
    let [first, second] = keys.map(|key| Owners::new(2, key));
    let stranger = (1..u16::MAX)
        .map(Client::stranger)
        .find(|client| (first.owner(&client.flow), second.owner(&client.flow)) == (WorkerId(1), WorkerId(0)))
        .expect("a flow that each thinks is the other's");
    let setup = |key| Setup { hash_key: key, ..Setup::default() };
    let ground = Ground(setup(keys[0]).pool());
    let mut peers = mesh(2).into_iter();
    let mut nodes = [0, 1].map(|number: u8| {
        let peers = peers.next().expect("two ends");
        setup(keys[usize::from(number)]).node(number, 2, peers, &ground.0)
    });
    assert_eq!(nodes[0].client(&stranger.ack(0)), Verdict::Steered);
    nodes.iter_mut().for_each(|node| assert!(node.poll()));
    assert_eq!(nodes[1].counters.outcome(Outcome::Held).read(), 1, "the second keeps it");
    assert_eq!(nodes[1].counters.outcome(Outcome::Steered).read(), 0);
}

#[test]
fn bursts_cross_in_order() {
    let mut pair = Pair::new();
    let mut client = Client::owned_by(1, 2);
    assert_eq!(pair.client(0, &client.syn()), (Verdict::Steered, Some(Verdict::Answered)));
    let syn_ack = pair.nodes[1].answer();
    client.hears(&syn_ack);
    for (offset, octet) in (0..REQUEST_LEN).zip(REQUEST) {
        let mbuf = pair.nodes[0].mbuf(&client.data(offset, &[*octet]).frame());
        pair.nodes[0].wan.push(mbuf);
    }
    // 47 packets: two bursts on one side, one round of the queue on the other.
    for _ in 0..2 {
        pair.nodes[0].poll();
    }
    pair.nodes[1].poll();
    assert_eq!(pair.nodes[1].placed().tcb().octets_following, REQUEST_LEN);
    let acks: Vec<_> = pair.nodes[1].segments_out().iter().map(|answer| answer.ack).collect();
    let expected: Vec<_> = (1..REQUEST_LEN).map(|octets| client.irs + 1 + octets).collect();
    assert_eq!(acks, expected);
}
