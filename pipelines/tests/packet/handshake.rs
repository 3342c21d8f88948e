//! Step 1 to 3 of a connection's life: SYN, SYN-ACK, and what comes before the first octet of data.

use ipos_pipelines::counters::{Drop, Happening};
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::Command;
use ipos_pipelines::handshake::cookie::CookieKeys;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::tcb::OptionBits;
use ipos_wire::tcp::{Flags, Options, Timestamps};

use crate::common::client::CLIENT_MAC;
use crate::common::scripts::REQUEST;
use crate::common::setup::COOKIE_KEY;
use crate::common::{Client, Rig, START_UNIX_US, Seg, Setup, WAN_MAC};

/// The appliance's time stamp clock at the start.
const START_TS: u32 = (START_UNIX_US / 1000) as u32;

#[test]
fn a_syn_is_answered_without_state() {
    let mut rig = Rig::new();
    let client = Client::new();
    assert_eq!(rig.client(&client.syn()), Verdict::Answered);
    let answer = rig.answer();
    assert_eq!((answer.flow, answer.ack), (client.flow, client.irs + 1));
    assert_eq!((answer.flags, answer.window), (Flags::SYN | Flags::ACK, 16_384));
    assert_eq!((answer.source_mac, answer.destination_mac), (WAN_MAC, CLIENT_MAC));
    assert_eq!((answer.ttl, answer.dont_fragment), (64, true));
    let stamps = Timestamps { tsval: START_TS & !1, tsecr: 7_000 };
    let all =
        Options { mss: Some(1444), window_scale: Some(7), sack_permitted: true, timestamps: Some(stamps) };
    assert_eq!(answer.options, all);
    assert!(answer.payload.is_empty());
    assert_eq!(rig.state(&client.flow), None);
    assert_eq!(rig.happened(Happening::SynAnswered), 1);
    rig.assert_silent();
}

#[test]
fn the_syn_ack_agrees_to_nothing_that_was_not_offered() {
    let stamps = Some(Timestamps { tsval: 7_000, tsecr: 0 });
    let none = Options { mss: Some(1460), ..Options::default() };
    let offers = [
        Options::default(),
        none,
        Options { window_scale: Some(0), ..none },
        Options { sack_permitted: true, ..none },
        Options { timestamps: stamps, ..none },
    ];
    for offered in offers {
        let mut rig = Rig::new();
        let client = Client { offers: offered, ..Client::new() };
        assert_eq!(rig.client(&client.syn()), Verdict::Answered);
        let agreed = rig.answer().options;
        assert_eq!(agreed.mss, Some(1444), "{offered:?}");
        assert_eq!(agreed.window_scale, offered.window_scale.map(|_| 7), "{offered:?}");
        assert_eq!(agreed.sack_permitted, offered.sack_permitted, "{offered:?}");
        assert_eq!(agreed.timestamps.is_some(), offered.timestamps.is_some(), "{offered:?}");
    }
}

#[test]
fn the_syn_ack_agrees_to_nothing_that_the_farm_does_not_support() {
    let mut rig = Rig::with(Setup { options: OptionBits(0), ..Setup::default() });
    let client = Client::new();
    let syn = Seg { flags: Flags::SYN | Flags::ECE | Flags::CWR, ..client.syn() };
    assert_eq!(rig.client(&syn), Verdict::Answered);
    let answer = rig.answer();
    assert_eq!(answer.options, Options { mss: Some(1444), ..Options::default() });
    assert_eq!(answer.flags, Flags::SYN | Flags::ACK);
}

#[test]
fn ecn_is_agreed_to_with_time_stamps_only_and_rides_in_their_lowest_bit() {
    let asks = Flags::SYN | Flags::ECE | Flags::CWR;
    for (flags, client, agreed) in [
        (asks, Client::new(), true),
        (asks, Client::plain(), false),
        (Flags::SYN | Flags::ECE, Client::new(), false),
        (Flags::SYN, Client::new(), false),
    ] {
        // An odd and an even reading of the clock.
        for ms in [0, 1] {
            let mut rig = Rig::new();
            rig.pass(ms);
            assert_eq!(rig.client(&Seg { flags, ..client.syn() }), Verdict::Answered);
            let answer = rig.answer();
            assert_eq!(answer.flags.contains(Flags::ECE), agreed);
            if let Some(stamps) = answer.options.timestamps {
                let clock = START_TS + ms as u32;
                assert_eq!(stamps.tsval & 1, u32::from(agreed));
                assert!(clock - stamps.tsval <= 1, "never ahead of the clock, never far behind");
            }
        }
    }
}

#[test]
fn a_cookie_is_good_for_two_slots_and_no_longer() {
    for (seconds, verdict) in [(0, Verdict::Held), (63, Verdict::Held), (127, Verdict::Held)] {
        let mut rig = Rig::new();
        let mut client = Client::new();
        rig.shake(&mut client);
        rig.pass(seconds * 1000);
        assert_eq!(rig.client(&client.data(0, REQUEST)), verdict, "after {seconds} s");
        assert_eq!(rig.happened(Happening::HandshakeProven), 1);
        rig.placed();
    }
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    rig.pass(128_000);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held, "held for the farm's answer");
    assert_eq!(rig.state(&client.flow), Some(State::Asking));
    assert_eq!(rig.happened(Happening::CookieFailed), 1);
}

#[test]
fn a_cookie_survives_one_rotation_of_the_secret_and_not_two() {
    let mut rig = Rig::new();
    let (mut early, mut late) = (Client::on_port(1), Client::on_port(2));
    rig.shake(&mut early);
    rig.shake(&mut late);
    let mut keys = CookieKeys::new(&COOKIE_KEY, &COOKIE_KEY);
    keys.rotate(&[1; 16]);
    rig.command(Command::CookieKeys(keys.clone()));
    assert_eq!(rig.client(&early.data(0, REQUEST)), Verdict::Held);
    assert_eq!(rig.state(&early.flow), Some(State::ForwardConnect));
    keys.rotate(&[2; 16]);
    rig.command(Command::CookieKeys(keys));
    assert_eq!(rig.client(&late.data(0, REQUEST)), Verdict::Held);
    assert_eq!(rig.state(&late.flow), Some(State::Asking));
}

#[test]
fn a_pure_ack_proves_nothing_that_is_worth_an_entry() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    assert_eq!(rig.client(&client.ack(0)), Verdict::Drop(Drop::NoRequest));
    assert_eq!(rig.state(&client.flow), None);
    rig.assert_silent();
}

#[test]
fn data_in_the_syn_is_ignored_and_taken_when_it_comes_again() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    let syn = Seg { payload: REQUEST.to_vec(), ..client.syn() };
    assert_eq!(rig.client(&syn), Verdict::Answered);
    let answer = rig.answer();
    assert_eq!(answer.ack, client.irs + 1, "nothing of the data is acknowledged");
    assert!(answer.payload.is_empty());
    client.hears(&answer);
    assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
    rig.placed();
}

#[test]
fn a_retransmitted_syn_gets_the_same_answer() {
    let mut rig = Rig::new();
    let client = Client::new();
    assert_eq!(rig.client(&client.syn()), Verdict::Answered);
    let first = rig.answer();
    assert_eq!(rig.client(&client.syn()), Verdict::Answered);
    assert_eq!(rig.answer(), first);
}

#[test]
fn a_fin_right_after_the_handshake_is_answered_without_state() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    rig.pass(5);
    assert_eq!(rig.client(&client.ack(0)), Verdict::Drop(Drop::NoRequest));
    assert_eq!(rig.client(&client.fin(0)), Verdict::Answered);
    let answer = rig.answer();
    assert_eq!(answer.flags, Flags::FIN | Flags::ACK);
    assert_eq!((answer.seq, answer.ack), (client.iss + 1, client.irs + 2));
    assert_eq!(answer.options.timestamps, Some(Timestamps { tsval: START_TS + 5, tsecr: 7_000 }));
    let last = Seg { ack: client.iss + 2, ..client.ack(1) };
    assert_eq!(rig.client(&last), Verdict::Drop(Drop::ClosedProbe));
    assert_eq!(rig.state(&client.flow), None);
    assert_eq!(rig.happened(Happening::ProbeClosed), 1);
    rig.assert_silent();
}

#[test]
fn what_comes_after_a_closed_probe_but_its_last_ack_asks_the_farm() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    let late_data = Seg { ack: client.iss + 2, ..client.data(1, b"x") };
    assert_eq!(rig.client(&late_data), Verdict::Held);
    assert_eq!(rig.state(&client.flow), Some(State::Asking));
}

#[test]
fn a_syn_with_a_broken_checksum_or_option_is_not_answered() {
    let mut rig = Rig::new();
    let client = Client::new();
    let mut frame = client.syn().frame();
    let last = frame.len() - 1;
    frame[last] ^= 1;
    assert_eq!(rig.on_wan(&frame), Verdict::Drop(Drop::BadTcpChecksum));
    let broken = client.syn().frame_with_options(&[2, 3, 5, 0]);
    assert_eq!(rig.on_wan(&broken), Verdict::Drop(Drop::BadTcpOptions));
    rig.assert_silent();
}

#[test]
fn a_wrong_guess_of_the_cookie_makes_no_request() {
    let mut rig = Rig::new();
    let mut client = Client::new();
    rig.shake(&mut client);
    let guesses = [
        Seg { ack: client.iss + 2, ..client.data(0, REQUEST) },
        Seg { seq: client.irs + 2, ..client.data(0, REQUEST) },
    ];
    for (guess, verdict) in guesses.iter().zip([Verdict::Held, Verdict::Drop(Drop::AwaitingHolder)]) {
        assert_eq!(rig.client(guess), verdict);
        assert_eq!(rig.state(&client.flow), Some(State::Asking));
    }
    let thief = Client { iss: client.iss, ..Client::on_port(9) };
    assert_eq!(rig.client(&thief.data(0, REQUEST)), Verdict::Held, "a cookie is good for its own flow alone");
    assert_eq!(rig.state(&thief.flow), Some(State::Asking));
    assert_eq!(rig.happened(Happening::HandshakeProven), 0);
    assert_eq!(rig.happened(Happening::CookieFailed), 2);
}
