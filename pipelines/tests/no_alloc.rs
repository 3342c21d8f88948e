//! The worker allocates nothing and frees nothing after its start, whatever comes (design: system.md, roles; style.md, rule
//! 5): an allocator counts what happens inside `Worker::poll`.

use std::sync::Arc;

use ipos_pipelines::answers::{Answers, Page};
use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{
    Admission, Answer, Command, Counted, Event, FlowFilter, FlowPage, Holder, Takes, WorkerId,
};
use ipos_pipelines::handshake::cookie::CookieKeys;
use ipos_pipelines::services::{Kind, Service, Services};
use ipos_pipelines::sessions::{Cookie, Key};
use ipos_pipelines::urlmap::condition::HeaderTest;
use ipos_pipelines::urlmap::{Action, HeaderRule, Rule, UrlMap};
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::seq::Seq;

mod common;

use common::counting::{Counting, counted};
use common::hello::{PREFACE, hello, records, stream};
use common::scripts::{REQUEST, REQUEST_LEN};
use common::setup::{LAYER4_NUMBER, limited_services};
use common::{
    BOARD, Client, H2C_SERVICE, IN_POLL, LAYER4_SERVICE, MIGRATION, MOVING_SERVICE, OTHER_BOARD, Pair, Rig,
    SERVER_FIRST, SERVICE, SERVICE_PORT, STRICT_TLS_SERVICE, Seg, Setup, TLS_SERVICE, only,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_counter_counts() {
    IN_POLL.set(true);
    let count = counted(|| drop(std::hint::black_box(vec![1u8; 100])));
    IN_POLL.set(false);
    assert_eq!(count, 2, "one allocation, one free");
    assert_eq!(counted(|| drop(std::hint::black_box(vec![1u8; 100]))), 0, "outside of the worker");
}

#[test]
fn handshake_request_migration_replay_and_forwarding() {
    let mut rig = Rig::new();
    let count = counted(|| {
        for port in 1..=100 {
            let mut client = Client::on_port(port);
            rig.shake(&mut client);
            assert_eq!(rig.client(&client.ack(0)), Verdict::Drop(ipos_pipelines::counters::Drop::NoRequest));
            // In pieces, the second last.
            assert_eq!(rig.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
            assert_eq!(rig.client(&client.data(20, &REQUEST[20..])), Verdict::Held);
            assert_eq!(rig.client(&client.data(9, &REQUEST[9..20])), Verdict::Held);
            rig.segments_out();
            let place = rig.placed();
            assert_eq!(rig.client(&client.data(REQUEST_LEN, &[0; 1_400])), Verdict::Held);
            rig.migrated(&place);
            assert_eq!(rig.client(&client.data(0, REQUEST)), Verdict::Held);
            assert!(matches!(only(rig.told()), Event::Repeat { .. }));
            rig.migrated(&place);
            assert_eq!(rig.client(&client.acks(REQUEST_LEN + 1_400, 100)), Verdict::Forwarded);
            assert_eq!(rig.client(&client.data(REQUEST_LEN + 1_400, b"x")), Verdict::Forwarded);
            assert_eq!(rig.packets_out().len(), 6);
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn the_other_kinds_of_services() {
    let mut rig = Rig::new();
    // In records of 90 octets, so that it has to be put together.
    let octets = records(&hello(Some(b"w.b.example"), &["h2", "http/1.1"], 1_000), 90);
    let unknown = stream(Some(b"c.example"), &[]);
    let count = counted(|| {
        for port in 1..=100 {
            let on = |endpoint| {
                let client = Client::on_port(port);
                Client { flow: Flow { endpoint, ..client.flow }, ..client }
            };
            let mut client = on(SERVER_FIRST);
            let place = rig.shake_and_place(&mut client);
            rig.migrated(&place);
            rig.pass(300);
            assert_eq!(rig.packets_out().len(), 2);
            assert_eq!(rig.client(&client.acks(0, 100)), Verdict::Forwarded);
            let mut client = on(TLS_SERVICE);
            rig.shake(&mut client);
            assert_eq!(rig.client(&client.data(0, &octets[..700])), Verdict::Held);
            assert_eq!(rig.client(&client.data(700, &octets[700..])), Verdict::Held);
            rig.segments_out();
            let place = rig.placed();
            rig.migrated(&place);
            assert_eq!(rig.client(&client.acks(octets.len() as u32, 100)), Verdict::Forwarded);
            let mut client = on(STRICT_TLS_SERVICE);
            rig.shake(&mut client);
            assert_eq!(rig.client(&client.data(0, &unknown)), Verdict::Answered);
            assert_eq!(rig.client(&client.rst(unknown.len() as u32)), Verdict::Answered);
            rig.segments_out();
            let mut client = on(H2C_SERVICE);
            rig.shake(&mut client);
            assert_eq!(rig.client(&client.data(0, PREFACE)), Verdict::Held);
            rig.placed();
            assert_eq!(rig.client(&client.rst(24)), Verdict::Answered);
            rig.told();
            rig.segments_out();
            rig.packets_out();
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn first_packets_that_are_admitted_and_not() {
    let mut rig = Rig::new();
    rig.pass(5_000);
    rig.command(Command::Services(limited_services()));
    for board in [BOARD, OTHER_BOARD] {
        rig.command(Command::Standing { service: LAYER4_NUMBER, board, takes: Takes::New });
    }
    let count = counted(|| {
        for port in 1..=100 {
            let mut client = Client::on_port(port);
            client.flow.endpoint = LAYER4_SERVICE;
            assert_eq!(rig.client(&client.syn()), Verdict::Held);
            assert_eq!(rig.client(&client.syn()), Verdict::Drop(ipos_pipelines::counters::Drop::AdmitHeld));
            let Event::Admit { entry, flow, .. } = only(rig.told()) else { panic!("a question") };
            let is_over = port % 3 == 0;
            let admission = if is_over { Admission::OverLimit } else { Admission::Admitted(Counted::Client) };
            if port % 5 == 0 {
                rig.pass(11_000);
            }
            rig.command(Command::Admitted { entry, flow, admission });
            rig.told();
            for segment in [client.ack(0), client.data(0, b"x"), client.fin(1)] {
                let verdict = rig.client(&segment);
                if rig.state(&flow) == Some(State::Asking) {
                    let Event::WhoHolds { entry, .. } = only(rig.told()) else { panic!("a question") };
                    rig.command(Command::Holder { entry, holder: Holder::Nobody });
                    assert_eq!((verdict, rig.state(&flow)), (Verdict::Held, Some(State::Layer4)));
                } else {
                    assert_eq!(verdict, Verdict::Forwarded);
                }
            }
            rig.segments_out();
            rig.packets_out();
            rig.told();
        }
        rig.pass(100_000);
        rig.told();
    });
    assert_eq!(count, 0);
    assert!(rig.happened(Happening::ResetOverLimit) > 0 && rig.happened(Happening::ExpiredPending) > 0);
}

#[test]
fn later_requests() {
    const B: &[u8] = b"GET /b/ HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut rig = Rig::with(Setup { pending: 64, ..Setup::default() });
    let count = counted(|| {
        for port in 1..=50 {
            let mut client = Client::on_port(port);
            client.flow.endpoint = MOVING_SERVICE;
            rig.migrate(&mut client, REQUEST);
            let (mut sent, mut heard, mut board) = (REQUEST_LEN, 0, OTHER_BOARD);
            for (row, whole) in [(B, true), (REQUEST, false), (REQUEST, true), (B, false)] {
                heard += 100;
                assert_eq!(rig.client(&client.acks(sent, heard)), Verdict::Forwarded);
                let cut = if whole { row.len() } else { 9 };
                for (offset, piece) in [(0, &row[..cut]), (cut, &row[cut..])] {
                    let segment = client.data(sent + offset as u32, piece);
                    let _ = rig.client(&Seg { ack: client.iss + 1 + heard, ..segment });
                }
                sent += row.len() as u32;
                if let Some(Event::Move { place, .. }) = rig.told().pop() {
                    let (entry, flow, migration_id) = (place.entry, place.flow, MIGRATION + u64::from(sent));
                    rig.command(Command::Migrated { entry, flow, board, migration_id, counted: Counted::No });
                    board = if board == BOARD { OTHER_BOARD } else { BOARD };
                }
                rig.packets_out();
            }
            let _ = rig.client(&client.rst(sent));
        }
    });
    assert_eq!(count, 0);
    assert_eq!(rig.happened(Happening::Moved), 150);
}

#[test]
fn every_end() {
    let mut rig = Rig::new();
    let count = counted(|| {
        for port in 1..=20 {
            let mut client = Client::on_port(port);
            let place = rig.settle(&mut client);
            match port % 4 {
                0 => assert_eq!(rig.client(&client.rst(REQUEST_LEN)), Verdict::Forwarded),
                1 => assert_eq!(rig.client(&client.fin(REQUEST_LEN)), Verdict::Forwarded),
                2 => rig.command(Command::Closed { flow: place.flow, board: BOARD, migration_id: MIGRATION }),
                _ => {}
            }
            rig.packets_out();
        }
        // Lingering, half-closed, idle: kept by one answer, removed by the next.
        for holder in [Holder::Board(BOARD, MIGRATION), Holder::Nobody, Holder::Nobody] {
            rig.pass(300_000);
            for event in rig.told() {
                let Event::WhoHolds { entry, .. } = event else { panic!("{event:?}") };
                rig.command(Command::Holder { entry, holder });
            }
        }
        assert!(rig.worker.core().shard.is_empty());
    });
    assert_eq!(count, 0);
}

#[test]
fn recovery() {
    let mut rig = Rig::new();
    let count = counted(|| {
        for (port, holder) in
            (1..).zip([Holder::Board(BOARD, MIGRATION), Holder::Nobody, Holder::Unknown].repeat(5))
        {
            let entry = rig.ask(&Client::stranger(port));
            rig.command(Command::Holder { entry, holder });
        }
        rig.pass(1_000);
        assert_eq!(rig.segments_out().len(), 5, "as many RSTs as denials");
        assert_eq!(rig.packets_out().len(), 5);
    });
    assert_eq!(count, 0);
}

#[test]
fn answers_of_the_appliances_own() {
    let mut rig = Rig::new();
    let count = counted(|| {
        for port in 1..=16 {
            let mut client = Client::on_port(port);
            match port % 4 {
                0 => {
                    rig.shake(&mut client);
                    assert_eq!(rig.client(&client.data(0, b"\0")), Verdict::Answered);
                }
                1 => rig.shake_and_hold(&mut client),
                2 => {
                    rig.shake(&mut client);
                    assert_eq!(rig.client(&client.fin(0)), Verdict::Answered);
                }
                _ => {
                    let place = rig.request(&mut client, REQUEST);
                    rig.command(Command::Answer { entry: place.entry, answer: Answer::Unavailable });
                }
            }
            rig.segments_out();
        }
        // 408, retransmissions, RST.
        for _ in 0..60 {
            rig.pass(1_000);
        }
        assert!(rig.segments_out().len() > 12 * 5);
        assert!(rig.worker.core().shard.is_empty());
    });
    assert_eq!(count, 0);
}

#[test]
fn rows_with_conditions_redirects_and_pages() {
    let row = |prefix, header: Option<&str>, action| Rule {
        action,
        header: header.map(|name| HeaderRule { name: name.to_owned(), test: HeaderTest::Present }),
        ..Rule::prefix(Some("*.example"), prefix, 0)
    };
    let rules = [
        row("/a/", Some("X-Beta"), Action::Pool(1)),
        row("/a/", None, Action::Answer(Answer::Redirect(0))),
        row("/b/", None, Action::Answer(Answer::NotFound)),
    ];
    let page = Page::own(Answer::NotFound, "text/html", &[b'x'; 8_000]).expect("a page");
    let redirect = Page::redirect(301, "https://example.org").expect("a target");
    let service = Service {
        address: SERVICE,
        port: SERVICE_PORT,
        kind: Kind::Http,
        tls: Default::default(),
        h2c: false,
        migrates_requests: false,
        urls: UrlMap::build(&rules).expect("good rules"),
        default_pool: 9,
        answers: Answers {
            pages: vec![(Answer::NotFound, Arc::new(page))],
            redirects: vec![Arc::new(redirect)],
        },
        cookie: Some(Cookie::learned("sid", 0, Key([1; 16]))),
    };
    let services = Arc::new(Services::new(vec![service]).expect("one service"));
    let mut rig = Rig::new();
    rig.command(Command::Services(Arc::clone(&services)));
    let count = counted(|| {
        for port in 1..=16 {
            let mut client = Client::on_port(port);
            rig.shake(&mut client);
            let (request, expected): (&[u8], _) = match port % 4 {
                0 => (b"GET /x/../a/%62?q HTTP/1.1\r\nHost: a.example\r\n\r\n", Verdict::Answered),
                1 => (b"GET /b/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Verdict::Answered),
                2 => (b"GET /a%2f..%2fb/ HTTP/1.1\r\nHost: a.example\r\n\r\n", Verdict::Answered),
                _ => (
                    b"GET /a/ HTTP/1.1\r\nHost: a.example\r\nX-Beta: 1\r\nCookie: a=b; sid=c\r\n\r\n",
                    Verdict::Held,
                ),
            };
            assert_eq!(rig.client(&client.data(0, request)), expected);
            rig.segments_out();
        }
        // A reload meanwhile, and retransmissions.
        rig.command(Command::Services(Arc::clone(&services)));
        for _ in 0..40 {
            rig.pass(1_000);
            rig.segments_out();
        }
    });
    rig.told();
    assert_eq!(count, 0);
}

#[test]
fn port_reuse() {
    let mut rig = Rig::new();
    let count = counted(|| {
        let mut client = Client::new();
        rig.settle(&mut client);
        for turn in 1..20 {
            let mut new = Client { irs: Seq(turn << 24), ..client.clone() };
            rig.shake(&mut new);
            assert_eq!(rig.client(&new.data(0, REQUEST)), Verdict::Held);
            assert_eq!(rig.told().len(), 2, "one given up, one placed");
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn steering() {
    let mut pair = Pair::new();
    let count = counted(|| {
        for at in [0, 1] {
            let mut client = Client::owned_by(1 - at as u8, 2);
            assert_eq!(pair.client(at, &client.syn()), (Verdict::Steered, Some(Verdict::Answered)));
            client.hears(&pair.nodes[1 - at].answer());
            assert_eq!(pair.client(at, &client.data(0, REQUEST)), (Verdict::Steered, Some(Verdict::Held)));
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn pressure_and_rubbish() {
    let mut rig = Rig::with(Setup { entries: 4, pending: 2, events: 2, ..Setup::default() });
    let count = counted(|| {
        for port in 1..=50 {
            let mut client = Client::on_port(port);
            rig.shake(&mut client);
            for segment in [client.data(0, REQUEST), Client::stranger(port).ack(0), client.rst(REQUEST_LEN)] {
                // Taken or dropped for want of room: either is fine here.
                let _ = rig.client(&segment);
            }
            let padded = Seg { padding: 9, ..client.syn() }.frame();
            for len in [1, 20, 40, 60] {
                assert!(matches!(rig.on_wan(&padded[..len]), Verdict::Drop(_)));
            }
            rig.segments_out();
        }
        rig.pass(20_000);
        rig.segments_out();
    });
    assert_eq!(count, 0);
}

#[test]
fn what_the_control_core_hands_over_is_handed_back_or_kept() {
    let mut rig = Rig::new();
    // The control core keeps the snapshots that it has handed out, so that no worker is the one to free them.
    let kept: Vec<Arc<Services>> = vec![rig.worker.core().services.clone(), common::setup::services()];
    let count = counted(|| {
        rig.command(Command::Services(kept[1].clone()));
        rig.command(Command::CookieKeys(CookieKeys::new(&[1; 16], &[2; 16])));
        rig.ask(&Client::stranger(1));
        let page = FlowPage {
            request: 1,
            worker: WorkerId(0),
            cursor: Some(0),
            filter: FlowFilter::default(),
            rows: Vec::with_capacity(256),
        };
        rig.command(Command::ListFlows(Box::new(page)));
        assert!(matches!(only(rig.told()), Event::Flows(page) if page.rows.len() == 1));
        let frame = rig.mbuf(&[0; 60]);
        rig.command(Command::Transmit { port: ipos_pipelines::handoff::PortIndex(0), frame });
        assert_eq!(rig.wan_frames().len(), 1);
    });
    assert_eq!(count, 0);
}
