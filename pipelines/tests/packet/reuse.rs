//! SYNs where there is an entry: port reuse and forged SYNs (system.md, table of corners).

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Answer, Command, Event};
use ipos_pipelines::handshake::cookie::CookieKeys;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;

use crate::common::scripts::{REQUEST, REQUEST_LEN};
use crate::common::setup::{COOKIE_KEY, OLD_COOKIE_KEY};
use crate::common::{BOARD, Client, MIGRATION, Rig, START_UNIX_US, Seg, only};

/// The same addresses and ports again, with other numbers.
fn again(client: &Client) -> Client {
    Client { irs: Seq(0x7000_0000), ..client.clone() }
}

/// The control core is told to give the old endpoint up.
#[track_caller]
fn abandoned(event: &Event, about: Flow, was_migrated: bool) {
    match event {
        Event::Abandon { flow, migrated, .. } => {
            assert_eq!(*flow, about);
            assert_eq!(*migrated, was_migrated.then_some((BOARD, MIGRATION)));
        }
        other => panic!("the old endpoint is to be given up, not {other:?}"),
    }
}

/// Brings a client into a state.
type Bring = fn(&mut Rig, &mut Client);

/// The way into each state that an entry can be in.
fn every_state() -> [(State, Bring); 5] {
    [
        (State::Temporary, |rig, client| {
            rig.shake(client);
            assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
            rig.answer();
        }),
        (State::ForwardConnect, |rig, client| {
            rig.request(client, REQUEST);
        }),
        (State::Forward, |rig, client| {
            rig.settle(client);
        }),
        (State::Local, |rig, client| {
            let place = rig.request(client, REQUEST);
            rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
            rig.answer();
        }),
        (State::Asking, |rig, client| {
            *client = Client { irs: Seq(5), iss: Seq(6), ..client.clone() };
            rig.ask(client);
        }),
    ]
}

#[test]
fn a_syn_is_answered_by_cookie_in_every_state_and_harms_nothing() {
    for (state, bring) in every_state() {
        let mut rig = Rig::new();
        let mut client = Client::new();
        bring(&mut rig, &mut client);
        let forged = again(&client);
        for syn in [client.syn(), forged.syn(), client.syn()] {
            assert_eq!(rig.client(&syn), Verdict::Answered, "{state:?}");
            assert_eq!(rig.answer().ack, syn.seq + 1, "{state:?}");
            assert_eq!(rig.state(&client.flow), Some(state));
        }
        assert_eq!(rig.entry(&client.flow).and_then(|entry| entry.syn_irs), Some(client.irs));
        rig.assert_silent();
    }
}

#[test]
fn the_old_connection_goes_on_while_only_a_forged_syn_was_seen() {
    // Temporary: the head is completed and placed.
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
    assert_eq!(rig.client(&again(&client).syn()), Verdict::Answered);
    rig.segments_out();
    assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Answered, "its own first segment again");
    assert_eq!(rig.answer().ack, client.irs + 10);
    assert_eq!(rig.client(&client.data(9, &REQUEST[9..])), Verdict::Held);
    let place = rig.placed();
    // Forward-Connect: octets are held. Forward: replayed, repeated, proven, forwarded.
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"body")), Verdict::Held);
    rig.migrated(&place);
    assert_eq!(rig.forwarded().segment().payload.len(), REQUEST.len() + 4);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    assert!(matches!(only(rig.told()), Event::Repeat { .. }));
    rig.migrated(&place);
    rig.forwarded();
    for segment in [client.acks(REQUEST_LEN + 4, 100), client.data(REQUEST_LEN + 4, b"x"), client.rst(9)] {
        assert_eq!(rig.client(&segment), Verdict::Forwarded);
        assert_eq!(rig.forwarded().packet, segment.frame()[14..]);
    }
    assert_eq!(rig.happened(Happening::Replaced), 0);
}

#[test]
fn a_packet_that_proves_a_cookie_by_chance_replaces_nothing() {
    // 22 bits are guessed often in the millions of packets of a long upload. Only the octet after the SYN's can be a
    // new connection's first.
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    assert_eq!(rig.client(&again(&client).syn()), Verdict::Answered);
    rig.answer();
    let keys = CookieKeys::new(&COOKIE_KEY, &OLD_COOKIE_KEY);
    let slot = (START_UNIX_US / 64_000_000) as u32;
    let iss = Seq(slot << 30 | 0x0012_3456);
    let irs = (1..u32::MAX).map(Seq).find(|irs| keys.check(&client.flow, *irs, iss, slot).is_some());
    let lucky = Seg { seq: irs.expect("a hit in 2^32") + 1, ack: iss + 1, ..client.data(0, REQUEST) };
    assert_eq!(rig.client(&lucky), Verdict::Forwarded);
    assert_eq!(rig.forwarded().packet, lucky.frame()[14..]);
    assert_eq!(rig.happened(Happening::Replaced), 0);
}

#[test]
fn the_new_handshakes_ack_alone_replaces_nothing() {
    for (state, bring) in every_state() {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        bring(&mut rig, &mut client);
        let mut new = again(&client);
        rig.shake(&mut new);
        assert_eq!(rig.client(&new.ack(0)), Verdict::Drop(Drop::NoRequest), "{state:?}");
        assert_eq!(rig.client(&new.fin(0)), Verdict::Answered, "a health check");
        rig.answer();
        assert_eq!(rig.state(&client.flow), Some(state));
        rig.assert_silent();
    }
}

#[test]
fn the_first_data_of_a_new_connection_replaces_the_entry_in_every_state() {
    for (state, bring) in every_state() {
        let mut rig = Rig::new();
        let mut client = Client::plain();
        bring(&mut rig, &mut client);
        let mut new = again(&client);
        rig.shake(&mut new);
        assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Held, "{state:?}");
        let mut told = rig.told();
        match state {
            State::ForwardConnect => abandoned(&told.remove(0), client.flow, false),
            State::Forward => abandoned(&told.remove(0), client.flow, true),
            State::Temporary
            | State::Local
            | State::Asking
            | State::GivenUp
            | State::Layer4
            | State::Watched
            | State::Admitting => {}
        }
        match only(told) {
            Event::Place(place, _) => assert_eq!(place.tcb().irs, new.irs, "{state:?}"),
            other => panic!("{state:?}: a request to place, not {other:?}"),
        }
        assert_eq!(rig.state(&new.flow), Some(State::ForwardConnect));
        let replaced = u64::from(state != State::Asking);
        assert_eq!(rig.happened(Happening::Replaced), replaced, "{state:?}");
        assert_eq!(rig.counters.pending.read(), 1, "{state:?}");
        rig.assert_silent();
    }
}

#[test]
fn an_unsettled_endpoint_is_detached_like_a_settled_one() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.migrate(&mut client, REQUEST);
    let mut new = again(&client);
    rig.shake(&mut new);
    assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Held);
    abandoned(&rig.told()[0], client.flow, true);
    assert_eq!(rig.counters.pending.read(), 1);
}

#[test]
fn verdicts_about_the_replaced_entry_do_not_touch_the_new_one() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    let old = rig.request(&mut client, REQUEST);
    let mut new = again(&client);
    rig.shake(&mut new);
    assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Held);
    rig.told();
    rig.command(Command::Answer { entry: old.entry, answer: Answer::Unavailable });
    rig.assert_silent();
    rig.migrated(&old);
    abandoned(&only(rig.told()), client.flow, true);
    assert_eq!(rig.state(&new.flow), Some(State::ForwardConnect));
    rig.assert_silent();
}

#[test]
fn a_lingering_local_entry_is_replaced_without_a_syn_in_between() {
    // The SYN itself may have been answered by another appliance with the same secrets; the cookie proves enough.
    let mut elsewhere = Rig::new();
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.data(0, b"\0")), Verdict::Answered);
    let answer = rig.answer();
    let end = answer.payload.len() as u32 + 1;
    assert_eq!(rig.client(&Seg { ack: client.iss + 1 + end, ..client.fin(1) }), Verdict::Answered);
    rig.answer();
    let mut new = again(&client);
    elsewhere.shake(&mut new);
    assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Held);
    rig.placed();
    rig.pass(2_000);
    assert_eq!(rig.state(&new.flow), Some(State::ForwardConnect), "the old linger time is void");
}

#[test]
fn a_new_connection_that_finds_no_buffer_still_ends_the_old_one() {
    let mut rig = Rig::with(crate::common::Setup { pending: 1, ..Default::default() });
    let mut client = Client::plain();
    rig.settle(&mut client);
    let mut other = Client::on_port(2);
    rig.request(&mut other, REQUEST);
    let mut new = again(&client);
    rig.shake(&mut new);
    assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Drop(Drop::PendingFull));
    abandoned(&only(rig.told()), client.flow, true);
    assert_eq!(rig.state(&new.flow), None);
    // Once there is one again, the client's retransmission is taken.
    assert_eq!(rig.client(&other.rst(REQUEST_LEN)), Verdict::Answered);
    rig.told();
    assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Held);
    rig.placed();
}

#[test]
fn a_forged_syn_is_forgotten_with_its_cookie() {
    let mut rig = Rig::new();
    let mut client = Client::plain();
    rig.settle(&mut client);
    assert_eq!(rig.client(&again(&client).syn()), Verdict::Answered);
    rig.answer();
    let syn = |rig: &Rig| rig.entry(&client.flow).and_then(|entry| entry.syn_irs);
    rig.pass(60_000);
    assert_eq!(rig.client(&client.data(REQUEST_LEN, b"x")), Verdict::Forwarded);
    assert!(syn(&rig).is_some(), "its cookie may still be good");
    rig.pass(130_000);
    assert_eq!(rig.client(&client.data(REQUEST_LEN + 1, b"x")), Verdict::Forwarded);
    assert_eq!(syn(&rig), None);
    rig.packets_out();
}
