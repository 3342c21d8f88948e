//! Tests of what excuses what.

use std::time::Duration;

use serde_json::json;

use super::*;

fn operation(kind: &str, outcome: &str, boards: &[u32], accepted_by: &[u32]) -> Operation {
    let line = json!({"kind": kind, "boards": boards, "board": null, "port": 2000, "endpoint_port": 80, "since": 10.0,
        "begin": 10.5, "until": 11.0, "octets": 0, "tries": 1, "outcome": outcome});
    let mut operation = Operation::read(line).expect("whole");
    operation.accepted_by = accepted_by.to_vec();
    operation
}

fn happened(event: Event) -> Happened {
    Happened { event, from_s: 9.0, until_s: 12.0, away_s: 0.5 }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn nothing_excuses_what_is_wrong() {
    let operation = operation("http-short", "wrong", &[1], &[1]);
    let all = [Event::NginxKill(1, SECOND), Event::Link(1, SECOND), Event::ApplianceKill(SECOND)];
    assert_eq!(excuse(&operation, &all.map(happened)), None);
}

#[test]
fn only_an_event_at_its_own_board_excuses_a_loss() {
    let lost = operation("http-kept", "lost", &[1, 2, 3], &[2]);
    assert_eq!(excuse(&lost, &[happened(Event::NginxKill(1, SECOND))]), None);
    let excused = excuse(&lost, &[happened(Event::NginxKill(2, SECOND))]);
    assert_eq!(excused, Some("lost: nginx was killed"));
    assert_eq!(excuse(&lost, &[happened(Event::Drain(2, SECOND))]), None);
    assert_eq!(excuse(&lost, &[happened(Event::NginxReload(2))]), None);
    // nginx's end is nothing to another server's connections.
    let other = operation("websocket", "lost", &[1, 2, 3], &[2]);
    assert_eq!(excuse(&other, &[happened(Event::NginxKill(2, SECOND))]), None);
}

#[test]
fn nothing_excuses_that_no_query_of_five_was_answered() {
    let lost = operation("udp-flow", "lost", &[1, 2, 3], &[]);
    for event in [Event::Link(1, SECOND), Event::RemoveByForce, Event::ApplianceKill(SECOND)] {
        assert_eq!(excuse(&lost, &[happened(event)]), None, "{event:?}");
    }
}

#[test]
fn only_while_it_was_under_way() {
    let lost = operation("http-kept", "lost", &[1, 2, 3], &[2]);
    let event = Event::NginxKill(2, SECOND);
    for (from_s, until_s, is_excused) in
        [(8.0, 9.9, false), (11.1, 12.0, false), (8.0, 10.1, true), (10.9, 12.0, true)]
    {
        let happened = Happened { event, from_s, until_s, away_s: 1.0 };
        assert_eq!(excuse(&lost, &[happened]).is_some(), is_excused, "{from_s} to {until_s}");
    }
}

#[test]
fn restarts_excuse_no_loss_of_what_a_board_had() {
    for event in [
        Event::AgentRestart(2),
        Event::AgentKill(2, SECOND),
        Event::ApplianceStop(SECOND),
        Event::ApplianceKill(SECOND),
        Event::Reload,
        Event::Remove,
        Event::Loss(5, SECOND),
    ] {
        for kind in ["http-short", "tls", "websocket", "tcp", "l4", "h2c", "udp-flow"] {
            let lost = operation(kind, "lost", &[1, 2, 3], &[2]);
            assert_eq!(excuse(&lost, &[happened(event)]), None, "{kind} {event:?}");
        }
    }
    let unplaced = operation("http-short", "lost", &[1, 2, 3], &[]);
    assert!(excuse(&unplaced, &[happened(Event::ApplianceKill(SECOND))]).is_some());
    assert_eq!(excuse(&unplaced, &[happened(Event::AgentKill(1, SECOND))]), None);
}

#[test]
fn a_refusal_needs_that_the_only_board_was_out() {
    let one = operation("tls", "refused", &[1], &[]);
    let many = operation("http-short", "refused", &[1, 2, 3], &[]);
    for event in [Event::NginxKill(1, SECOND), Event::Drain(1, SECOND), Event::Link(1, SECOND)] {
        assert!(excuse(&one, &[happened(event)]).is_some(), "{event:?}");
        assert_eq!(excuse(&many, &[happened(event)]), None, "{event:?}");
    }
    assert_eq!(excuse(&one, &[happened(Event::Drain(2, SECOND))]), None);
    let mut away = happened(Event::AgentKill(1, SECOND));
    assert_eq!(excuse(&one, &[away]), None, "its board was not dead yet");
    away.away_s = 2.5;
    assert!(excuse(&one, &[away]).is_some());
}

fn moving(outcome: &str, before: u32, to: u32) -> Operation {
    let mut operation = operation("moves", outcome, &[to], &[1, 2, 3]);
    (operation.before, operation.before_s) = (Some(before), 1.0);
    operation
}

#[test]
fn a_connection_stays_when_its_next_board_is_out() {
    let stayed = moving("strayed", 1, 2);
    for event in [Event::NginxKill(2, SECOND), Event::Drain(2, SECOND), Event::Link(2, SECOND)] {
        assert_eq!(excuse(&stayed, &[happened(event)]), Some("stayed: the board of its row was out"));
    }
    let others = [
        Event::NginxKill(1, SECOND),
        Event::Drain(1, SECOND),
        Event::Link(3, SECOND),
        Event::AgentRestart(2),
        Event::AgentKill(1, SECOND),
        Event::Reload,
    ];
    assert!(excuse(&stayed, &[happened(Event::Loss(5, SECOND))]).is_some());
    assert_eq!(excuse(&stayed, &others.map(happened)), None);
    assert!(excuse(&stayed, &[happened(Event::Link(1, SECOND))]).is_some());
}

#[test]
fn a_connection_that_outlived_an_appliance_stays() {
    let stayed = moving("strayed", 1, 2);
    let restart =
        |from_s: f64, until_s: f64| Happened { from_s, until_s, ..happened(Event::ApplianceKill(SECOND)) };
    assert!(excuse(&stayed, &[restart(2.0, 3.0)]).is_some(), "long ago, but it was open");
    assert_eq!(excuse(&stayed, &[restart(0.1, 0.9)]), None, "before it was opened");
    let mut drained = happened(Event::Drain(2, SECOND));
    (drained.from_s, drained.until_s) = (2.0, 3.0);
    assert_eq!(excuse(&stayed, &[drained]), None, "that was over");
}

fn of_session(kind: &str, is_shown: bool) -> Operation {
    let mut operation = operation(kind, "strayed", &[1, 2, 3], &[2]);
    (operation.before, operation.before_s) = (Some(1), 8.0);
    operation.line["shown"] = json!(is_shown);
    operation
}

#[test]
fn a_session_strays_when_its_board_could_not_serve_it() {
    for kind in ["session-learned", "session-encoded", "session-inserted"] {
        let strayed = of_session(kind, true);
        for event in [Event::Link(1, SECOND), Event::DrainByDeadline(1, SECOND)] {
            assert!(excuse(&strayed, &[happened(event)]).is_some(), "{kind} {event:?}");
        }
        for event in [
            Event::Link(2, SECOND),
            Event::Drain(1, SECOND),
            Event::NginxReload(1),
            Event::AgentRestart(1),
            Event::Reload,
            Event::Loss(5, SECOND),
            Event::RemoveByForce,
        ] {
            assert_eq!(excuse(&strayed, &[happened(event)]), None, "{kind} {event:?}");
        }
        let is_learned = kind == "session-learned";
        let killed = excuse(&strayed, &[happened(Event::NginxKill(1, SECOND))]);
        assert_eq!(killed.is_none(), is_learned, "its application is another server");
        let ended = excuse(&strayed, &[happened(Event::ApplianceKill(SECOND))]);
        assert_eq!(ended.is_some(), is_learned, "the others' cookies say the board");
    }
}

#[test]
fn a_cookie_that_was_not_shown_yet_is_found_by_its_client() {
    let drain = happened(Event::Drain(3, SECOND));
    assert!(excuse(&of_session("session-learned", false), &[drain]).is_some());
    assert_eq!(excuse(&of_session("session-learned", true), &[drain]), None);
    assert_eq!(excuse(&of_session("session-encoded", false), &[drain]), None);
    let reload = happened(Event::NginxReload(3));
    assert_eq!(excuse(&of_session("session-learned", false), &[reload]), None, "no board was out");
}

#[test]
fn a_cookie_may_name_a_board_that_was_out_when_it_was_given() {
    let mut strayed = of_session("session-inserted", true);
    (strayed.before, strayed.before_s, strayed.board) = (Some(2), 10.0, Some(1));
    let mut cable = happened(Event::Link(1, SECOND));
    (cable.from_s, cable.until_s) = (1.0, 3.0);
    assert_eq!(excuse(&strayed, &[cable]), None, "nothing says when its cookie was given");
    strayed.given_s = Some((2.5, 4.0));
    assert!(excuse(&strayed, &[cable]).is_some());
    strayed.given_s = Some((3.5, 4.0));
    assert_eq!(excuse(&strayed, &[cable]), None, "the cable was in again");
    (strayed.given_s, strayed.board) = (Some((2.5, 4.0)), Some(3));
    assert!(excuse(&strayed, &[cable]).is_some(), "two others served it before the appliance knew");
}

#[test]
fn a_forwarded_connection_outlives_the_appliance() {
    for outcome in [Outcome::Stale, Outcome::Lost] {
        let lost = Operation { outcome, board: Some(3), ..operation("l4", "lost", &[1, 2, 3], &[]) };
        let drain = happened(Event::Drain(1, SECOND));
        for end in [Event::ApplianceStop(SECOND), Event::ApplianceKill(SECOND)] {
            assert_eq!(excuse(&lost, &[drain, happened(end)]), None, "{end:?}: its board is found again");
        }
    }
}

#[test]
fn only_the_two_boards_of_a_move_excuse_its_loss() {
    let lost = moving("lost", 1, 2);
    for (event, is_excused) in [
        (Event::NginxKill(1, SECOND), true),
        (Event::Link(2, SECOND), true),
        (Event::NginxKill(3, SECOND), false),
        (Event::AgentKill(1, SECOND), false),
        (Event::ApplianceKill(SECOND), true),
        (Event::Loss(5, SECOND), false),
    ] {
        assert_eq!(excuse(&lost, &[happened(event)]).is_some(), is_excused, "{event:?}");
    }
    let mut over = happened(Event::ApplianceKill(SECOND));
    over.until_s = 10.2;
    assert_eq!(excuse(&lost, &[over]), None, "the request came later: nothing was being moved");
    let still = moving("lost", 2, 2);
    assert_eq!(excuse(&still, &[happened(Event::ApplianceKill(SECOND))]), None, "it had not to move");
}

#[test]
fn a_line_without_its_numbers_is_an_error() {
    assert!(Operation::read(json!({"kind": "tls", "outcome": "right"})).is_err());
    assert!(Operation::read(json!({"kind": "tls"})).is_err());
}
