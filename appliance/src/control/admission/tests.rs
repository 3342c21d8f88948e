//! Tests of [`super`].

use super::super::boards::tests::MS;
use super::*;

const SERVICE: u16 = 2;

fn settings(admit: Admit) -> [AdmitSettings; 1] {
    let endpoint = (Ipv4Addr::new(198, 51, 100, 1), 80);
    [AdmitSettings { service: SERVICE, endpoint, protocol: Protocol::Tcp, admit }]
}

fn with(admit: Admit) -> Admission {
    Admission::new(&settings(admit))
}

fn flow(client: u32, port: u16) -> Flow {
    Flow {
        client: Ipv4Addr::from_bits(0xcb00_7100 + client),
        client_port: port,
        endpoint: Ipv4Addr::new(198, 51, 100, 1),
        endpoint_port: 80,
    }
}

fn ended(admission: &mut Admission, flow: Flow, counted: Counted) {
    admission.ended(&EndedFlow { flow, protocol: Protocol::Tcp, counted });
}

fn wants(admission: &mut Admission, now_ns: u64, service: u16, flow: &Flow) -> Result<Counted, Beyond> {
    admission.admit(now_ns, &mut ControlCounters::default(), service, flow)
}

fn refused(admission: &Admission, reason: OverLimit) -> u64 {
    admission.shown(SERVICE).map_or(0, |(_, admitted)| admitted.refused[reason as usize])
}

fn connections(admission: &Admission) -> u32 {
    admission.shown(SERVICE).map_or(u32::MAX, |(_, admitted)| admitted.connections)
}

const BOTH: Rate = Rate { per_second: 2, burst: 3 };

#[test]
fn a_service_without_limits_counts_nothing() {
    let mut admission = with(Admit { connections: Some(1), ..Admit::default() });
    for port in 0..10 {
        assert_eq!(wants(&mut admission, 0, 0, &flow(1, port)), Ok(Counted::No));
        assert_eq!(wants(&mut admission, 0, 7, &flow(1, port)), Ok(Counted::No));
    }
    assert_eq!((connections(&admission), admission.clients()), (0, 0));
}

#[test]
fn connections_at_once_are_bounded_by_client_and_by_service_until_they_end() {
    let admit = Admit { connections: Some(3), client_connections: Some(2), ..Admit::default() };
    let mut admission = with(admit);
    for port in 0..2 {
        assert_eq!(wants(&mut admission, 0, SERVICE, &flow(1, port)), Ok(Counted::Client));
    }
    assert_eq!(wants(&mut admission, 0, SERVICE, &flow(1, 2)), Err(Beyond { retry: RetryAfter::S1 }));
    assert_eq!(wants(&mut admission, 0, SERVICE, &flow(2, 0)), Ok(Counted::Client), "another client");
    assert!(wants(&mut admission, 0, SERVICE, &flow(3, 0)).is_err(), "the service is full");
    assert_eq!(refused(&admission, OverLimit::ClientConnections), 1);
    assert_eq!(refused(&admission, OverLimit::Connections), 1);
    ended(&mut admission, flow(1, 0), Counted::Client);
    assert_eq!(wants(&mut admission, 0, SERVICE, &flow(1, 3)), Ok(Counted::Client));
    assert_eq!(connections(&admission), 3);
    // An end of a service that never had limits, and one too many.
    let other = Flow { endpoint_port: 81, ..flow(1, 0) };
    ended(&mut admission, other, Counted::Client);
    assert_eq!(connections(&admission), 3);
    (0..9).for_each(|_| ended(&mut admission, flow(9, 0), Counted::Client));
    assert_eq!(connections(&admission), 0);
}

#[test]
fn a_client_beyond_its_rate_takes_nothing_from_the_others() {
    let rate = Some(Rate { per_second: 100, burst: 5 });
    let mut admission = with(Admit { rate, client_rate: Some(BOTH), ..Admit::default() });
    let (flood, other) = (|port| flow(1, port), flow(2, 0));
    let admitted = (0..100).filter(|port| wants(&mut admission, MS, SERVICE, &flood(*port)).is_ok()).count();
    assert_eq!((admitted, refused(&admission, OverLimit::ClientRate)), (3, 97));
    assert_eq!(wants(&mut admission, MS, SERVICE, &other), Ok(Counted::Client));
    assert!(wants(&mut admission, MS, SERVICE, &flow(3, 0)).is_ok());
    assert!(wants(&mut admission, MS, SERVICE, &flow(4, 0)).is_err(), "the service's own burst is used up");
    assert_eq!(refused(&admission, OverLimit::Rate), 1);
    assert_eq!(wants(&mut admission, MS, SERVICE, &flood(1)), Err(Beyond { retry: RetryAfter::S1 }));
    assert!(wants(&mut admission, 501 * MS, SERVICE, &flood(1)).is_ok(), "half a second gives one back");
    assert!(wants(&mut admission, 501 * MS, SERVICE, &flood(2)).is_err());
}

#[test]
fn a_slow_rate_says_how_long_to_wait() {
    let slow = Rate { per_second: 1, burst: 1 };
    let mut admission = with(Admit { client_rate: Some(slow), ..Admit::default() });
    assert!(wants(&mut admission, 0, SERVICE, &flow(1, 0)).is_ok());
    assert_eq!(wants(&mut admission, 0, SERVICE, &flow(1, 1)), Err(Beyond { retry: RetryAfter::S1 }));
}

#[test]
fn a_reload_changes_limits_and_keeps_counts() {
    let mut admission = with(Admit { client_connections: Some(2), ..Admit::default() });
    for port in 0..2 {
        assert!(wants(&mut admission, 0, SERVICE, &flow(1, port)).is_ok());
    }
    admission.reconfigure(&settings(Admit { client_connections: Some(3), ..Admit::default() }));
    assert!(wants(&mut admission, 0, SERVICE, &flow(1, 2)).is_ok());
    assert!(wants(&mut admission, 0, SERVICE, &flow(1, 3)).is_err());
    assert_eq!((connections(&admission), refused(&admission, OverLimit::ClientConnections)), (3, 1));
    // None for a while: what counts ends all the same.
    admission.reconfigure(&[]);
    assert!(admission.shown(SERVICE).is_none());
    assert_eq!(wants(&mut admission, 0, SERVICE, &flow(1, 4)), Ok(Counted::No));
    ended(&mut admission, flow(1, 0), Counted::Client);
    admission.reconfigure(&settings(Admit { client_connections: Some(3), ..Admit::default() }));
    assert_eq!(connections(&admission), 2);
    assert!(wants(&mut admission, 0, SERVICE, &flow(1, 5)).is_ok());
    assert!(wants(&mut admission, 0, SERVICE, &flow(1, 6)).is_err());
}

#[test]
fn more_clients_than_there_is_room_for_are_let_through_and_counted_and_room_comes_back() {
    let admit = Admit { client_connections: Some(1), client_rate: Some(BOTH), ..Admit::default() };
    let mut admission = with(admit);
    for client in 0..CLIENTS_MAX as u32 {
        assert_eq!(wants(&mut admission, 0, SERVICE, &flow(client, 0)), Ok(Counted::Client));
    }
    let more = flow(CLIENTS_MAX as u32, 0);
    let mut counters = ControlCounters::default();
    for _ in 0..3 {
        let admitted = admission.admit(0, &mut counters, SERVICE, &more);
        assert_eq!(admitted, Ok(Counted::Service), "nobody is locked out");
    }
    assert_eq!((counters.did(Did::ClientsFull), admission.clients()), (3, CLIENTS_MAX));
    assert!(
        wants(&mut admission, 0, SERVICE, &flow(7, 1)).is_err(),
        "those that are known keep their limits"
    );
    for client in 0..CLIENTS_MAX as u32 / 2 {
        ended(&mut admission, flow(client, 0), Counted::Client);
    }
    (0..3).for_each(|_| ended(&mut admission, more, Counted::Service));
    for turn in 0..CLIENTS_MAX as u64 {
        admission.tick(2_000 * MS + turn);
    }
    assert_eq!(admission.clients(), CLIENTS_MAX / 2, "those with connections are remembered");
    assert_eq!(connections(&admission), CLIENTS_MAX as u32 / 2);
    assert_eq!(wants(&mut admission, 3_000 * MS, SERVICE, &more), Ok(Counted::Client));
}

#[test]
fn a_client_is_not_forgotten_before_its_bucket_is_full() {
    let rate = Rate { per_second: 1, burst: 5 };
    let mut admission = with(Admit { client_rate: Some(rate), ..Admit::default() });
    for port in 0..5 {
        assert!(wants(&mut admission, 0, SERVICE, &flow(1, port)).is_ok());
        ended(&mut admission, flow(1, port), Counted::Client);
    }
    for at_ms in (0..4_900).step_by(100) {
        admission.tick(at_ms * MS);
        assert_eq!(admission.clients(), 1);
    }
    admission.tick(7_000 * MS);
    assert_eq!(admission.clients(), 0);
}

#[test]
fn a_turn_looks_at_a_bounded_number_of_clients() {
    let mut admission = with(Admit { client_connections: Some(1), ..Admit::default() });
    for client in 0..1_000 {
        assert!(wants(&mut admission, 0, SERVICE, &flow(client, 0)).is_ok());
        ended(&mut admission, flow(client, 0), Counted::Client);
    }
    admission.tick(2_000 * MS);
    assert_eq!(admission.clients(), 1_000 - LOOKS_EACH);
}
