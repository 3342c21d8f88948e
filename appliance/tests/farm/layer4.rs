//! Limits for clients of connections that are not terminated (`[service.admit]`, kind `l4`): two workers, and the control core that
//! counts for both.

use std::mem;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_appliance::control::admission::{Admit, AdmitSettings, Admitted, Rate};
use ipos_appliance::control::attempts::AttemptSettings;
use ipos_appliance::control::boards::MS_NS;
use ipos_appliance::control::core::{Core, CoreSettings};
use ipos_appliance::control::counters::OverLimit;
use ipos_appliance::control::holders::AskSettings;
use ipos_appliance::control::outlet::Outlet;
use ipos_appliance::control::placement::Pools;
use ipos_appliance::control::sink::Sink;
use ipos_pipelines::counters::Happening;
use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Command, Event, Holder, Takes, WorkerId, queue};
use ipos_pipelines::services::Services;
use ipos_pipelines::steer::Owners;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;
use ipos_wire::tcp::Flags;

use crate::common::setup::{HASH_KEY, LAYER4_NUMBER, limited_services, services};
use crate::common::{BOARD, Client, LAYER4_SERVICE, OTHER_BOARD, Pair, Seg};

const ETHERTYPE: u16 = 0x88b5;
/// By when boards have been heard of.
const HEARD_MS: u64 = 5_000;

/// Two workers and the control core.
struct Two {
    pair: Pair,
    core: Core,
    outlet: Outlet,
}

impl Two {
    /// With these limits for the service's clients.
    fn new(admit: Admit) -> Self {
        let mut pair = Pair::new();
        // The nodes' own ends of the queues of commands stay unused: the control core has the only ones.
        let lanes = pair.nodes.iter_mut().map(|node| mem::replace(&mut node.commands, queue(1).0)).collect();
        let owners = Owners::new(2, HASH_KEY);
        let pool = pair.nodes[0].pool.clone();
        let outlet = Outlet::new(lanes, Vec::new(), ETHERTYPE, owners.clone(), pool);
        let settings = CoreSettings {
            ethertype: ETHERTYPE,
            epoch: 7,
            workers: 2,
            owners,
            ports: Vec::new(),
            boards: Vec::new(),
            options: 0,
            pools: Pools::new(Vec::new(), Vec::new()),
            attempts: AttemptSettings {
                retry_ns: MS_NS,
                tries: 1,
                deadline_ns: MS_NS,
                capacity: 1,
                appliance_id: 9,
            },
            checks: Vec::new(),
            hashed: Vec::new(),
            started_unix_us: 1_700_000_000_000_000,
            ask: AskSettings { retry_ns: MS_NS, tries: 1, outstanding: 1 },
        };
        let core = Core::new(settings, Box::new(|| [0x5a; 16]), 0);
        let mut two = Self { pair, core, outlet };
        two.pass(HEARD_MS);
        two.limit(Some(admit));
        for board in [BOARD, OTHER_BOARD] {
            two.tell(|| Command::Standing { service: LAYER4_NUMBER, board, takes: Takes::New });
        }
        two
    }

    fn tell(&mut self, command: impl Fn() -> Command) {
        (0..2).for_each(|worker| self.outlet.tell(WorkerId(worker), command()));
        self.turn();
    }

    /// A reload, in its order.
    fn limit(&mut self, admit: Option<Admit>) {
        let endpoint = (LAYER4_SERVICE, 80);
        let of = |admit| AdmitSettings { service: LAYER4_NUMBER, endpoint, protocol: Protocol::Tcp, admit };
        let settings: Vec<AdmitSettings> = admit.map(of).into_iter().collect();
        self.core.attempts.admission.reconfigure(&settings);
        let snapshot: Arc<Services> = if admit.is_some() { limited_services() } else { services() };
        self.tell(|| Command::Services(Arc::clone(&snapshot)));
    }

    /// Workers and control core go on until none has anything to say.
    fn turn(&mut self) {
        for _ in 0..3 {
            for (worker, node) in self.pair.nodes.iter_mut().enumerate() {
                node.poll();
                let now_ns = node.now_us * 1000;
                while let Some(event) = node.events.receive() {
                    self.core.event(now_ns, WorkerId(worker as u8), event, &mut self.outlet);
                }
            }
            self.core.tick(self.pair.nodes[0].now_us * 1000, &mut self.outlet);
            self.outlet.flush();
        }
        self.pair.nodes.iter_mut().for_each(|node| assert!(node.poll()));
    }

    fn pass(&mut self, ms: u64) {
        self.pair.nodes.iter_mut().for_each(|node| node.now_us += ms * 1000);
        self.turn();
    }

    /// A segment arrives at one worker's queue; what its owner makes of it.
    fn client(&mut self, arrives_at: usize, segment: &Seg) -> Verdict {
        let (first, second) = self.pair.client(arrives_at, segment);
        second.unwrap_or(first)
    }

    /// A SYN that is not decided yet.
    #[track_caller]
    fn begins(&mut self, client: &Client) {
        let arrives_at = usize::from(client.flow.client_port % 2);
        assert_eq!(self.client(arrives_at, &client.syn()), Verdict::Held);
    }

    /// SYNs that went to boards, and those that were answered by RST.
    fn decided(&mut self) -> (usize, usize) {
        self.turn();
        let (mut let_in, mut resets) = (0, 0);
        for node in &mut self.pair.nodes {
            let_in += node.packets_out().len();
            let answers = node.segments_out();
            assert!(answers.iter().all(|answer| answer.flags == Flags::RST | Flags::ACK), "{answers:?}");
            resets += answers.len();
        }
        (let_in, resets)
    }

    /// Whether a connection is let in.
    #[track_caller]
    fn opens(&mut self, client: &Client) -> bool {
        self.begins(client);
        match self.decided() {
            (1, 0) => true,
            (0, 1) => false,
            other => panic!("one answer, not {other:?}"),
        }
    }

    /// The connection's segment is forwarded.
    #[track_caller]
    fn goes_on(&mut self, segment: &Seg) {
        assert_eq!(self.client(0, segment), Verdict::Forwarded);
        assert_eq!(self.decided(), (1, 0));
    }

    /// The same of a connection that no worker knows, and every board denies to have: it goes by the table.
    #[track_caller]
    fn is_relearned(&mut self, segment: &Seg) {
        assert_eq!(self.client(0, segment), Verdict::Held);
        for (worker, node) in self.pair.nodes.iter_mut().enumerate() {
            while let Some(event) = node.events.receive() {
                let Event::WhoHolds { entry, .. } = event else { panic!("a question, not {event:?}") };
                let denied = Command::Holder { entry, holder: Holder::Nobody };
                self.outlet.tell(WorkerId(worker as u8), denied);
            }
        }
        assert_eq!(self.decided(), (1, 0));
    }

    fn admitted(&self) -> Admitted {
        self.core.attempts.admission.shown(LAYER4_NUMBER).expect("it has limits").1
    }

    fn refused(&self, limit: OverLimit) -> u64 {
        self.admitted().refused[limit as usize]
    }

    fn happened(&self, what: Happening) -> u64 {
        self.pair.nodes.iter().map(|node| node.happened(what)).sum()
    }
}

/// Connections from one address, by turns of one worker and the other.
fn from(host: u8) -> impl Iterator<Item = Client> {
    let owners = Owners::new(2, HASH_KEY);
    let clients = move |worker: u8| {
        let owners = owners.clone();
        let all = (1..u16::MAX).map(move |port| {
            let client = Client::on_port(port);
            let address = Ipv4Addr::new(203, 0, 113, host);
            Client { flow: Flow { client: address, endpoint: LAYER4_SERVICE, ..client.flow }, ..client }
        });
        all.filter(move |client| owners.owner(&client.flow) == WorkerId(worker))
    };
    clients(0).zip(clients(1)).flat_map(|(one, other)| [one, other])
}

#[test]
fn a_limit_is_of_all_workers_together_and_an_end_at_one_makes_room_at_the_other() {
    let mut two = Two::new(Admit { connections: Some(5), ..Admit::default() });
    let clients: Vec<Client> = from(77).take(12).collect();
    let mut open = Vec::new();
    for client in &clients {
        if two.opens(client) {
            open.push(client.clone());
        }
    }
    assert_eq!(open.len(), 5);
    let placed = two.pair.nodes.each_ref().map(|node| node.happened(Happening::Layer4Placed));
    assert!(placed.iter().all(|count| *count >= 2), "both workers: {placed:?}");
    assert_eq!((two.admitted().connections, two.refused(OverLimit::Connections)), (5, 7));
    assert_eq!(two.happened(Happening::ResetOverLimit), 7);
    // One of the first worker's ends, one of the second's begins: by FIN, by RST.
    for (place, end) in [(0, open[0].fin(0)), (1, open[1].rst(0))] {
        two.goes_on(&open[place].ack(0));
        two.goes_on(&end);
        assert_eq!(two.admitted().connections, 4);
        assert!(two.opens(&clients[10 + 1 - place]));
        assert!(!two.opens(&clients[9]));
    }
}

#[test]
fn syns_that_come_at_once_and_again_count_once_each() {
    let mut two = Two::new(Admit { client_connections: Some(6), ..Admit::default() });
    let clients: Vec<Client> = from(77).take(20).collect();
    for round in 0..3 {
        for client in &clients {
            let verdict = two.client(0, &client.syn());
            // The same SYN waits already, or its connection is at its board.
            assert_eq!(verdict == Verdict::Held, round == 0, "{verdict:?}");
        }
        if round == 1 {
            assert_eq!(two.decided(), (6, 14));
            break;
        }
    }
    assert_eq!(two.admitted().connections, 6);
    let admitted: Vec<&Client> = {
        let entry = |client: &&Client| two.pair.nodes.iter().any(|node| node.entry(&client.flow).is_some());
        clients.iter().filter(entry).collect()
    };
    assert_eq!(admitted.len(), 6);
    for client in admitted {
        two.goes_on(&client.syn());
        two.goes_on(&client.ack(0));
    }
    assert_eq!((two.admitted().connections, two.refused(OverLimit::ClientConnections)), (6, 14));
}

#[test]
fn a_client_beyond_its_limit_keeps_nobody_else_out() {
    let rate = Some(Rate { per_second: 1, burst: 3 });
    let mut two = Two::new(Admit { client_rate: rate, ..Admit::default() });
    let one: Vec<bool> = from(77).take(6).map(|client| two.opens(&client)).collect();
    assert_eq!(one, [true, true, true, false, false, false]);
    assert!(from(78).take(3).all(|client| two.opens(&client)));
    assert_eq!(two.refused(OverLimit::ClientRate), 3);
    two.pass(1_000);
    assert!(two.opens(&from(77).nth(7).expect("a client")));
}

#[test]
fn handshakes_that_do_not_go_on_and_idle_connections_count_no_more() {
    let mut two = Two::new(Admit { connections: Some(2), ..Admit::default() });
    let clients: Vec<Client> = from(77).take(4).collect();
    assert!(two.opens(&clients[0]) && two.opens(&clients[1]) && !two.opens(&clients[2]));
    two.goes_on(&clients[0].ack(0));
    two.pass(11_000);
    assert_eq!(two.admitted().connections, 1, "the one whose handshake went on");
    assert!(two.opens(&clients[3]));
    for _ in 0..3 {
        two.pass(200_000);
    }
    assert_eq!(two.admitted().connections, 0);
}

#[test]
fn what_a_restarted_appliance_relearns_is_not_counted_anew() {
    let mut two = Two::new(Admit { connections: Some(1), ..Admit::default() });
    let old: Vec<Client> = from(77).take(4).collect();
    for client in &old {
        two.is_relearned(&client.data(7, b"x"));
    }
    assert_eq!((two.admitted().connections, two.refused(OverLimit::Connections)), (0, 0));
    let new = from(78).next().expect("a client");
    assert!(two.opens(&new));
    for client in &old {
        two.goes_on(&client.rst(8));
    }
    assert_eq!(two.admitted().connections, 1, "what did not count does not end");
}

#[test]
fn a_reload_takes_limits_away_and_brings_them_back_and_knows_what_counted() {
    let two_each = Admit { client_connections: Some(2), ..Admit::default() };
    let mut two = Two::new(two_each);
    let clients: Vec<Client> = from(77).take(12).collect();
    assert!(two.opens(&clients[0]) && two.opens(&clients[1]) && !two.opens(&clients[2]));
    two.limit(None);
    for client in &clients[3..6] {
        assert_eq!(two.client(0, &client.syn()), Verdict::Forwarded);
        assert_eq!(two.decided(), (1, 0));
    }
    two.limit(Some(two_each));
    assert!(!two.opens(&clients[6]), "two count still");
    two.goes_on(&clients[4].rst(0));
    assert!(!two.opens(&clients[7]), "that one did not");
    two.limit(None);
    two.goes_on(&clients[0].rst(0));
    two.limit(Some(two_each));
    assert!(two.opens(&clients[8]) && !two.opens(&clients[9]), "an end is not lost meanwhile");
    // The control core has heard of the reload, the worker not yet: it asks, and nothing counts.
    two.core.attempts.admission.reconfigure(&[]);
    assert!(two.opens(&clients[10]));
    two.limit(Some(two_each));
    assert_eq!(two.admitted().connections, 2);
    let states = two.pair.nodes.iter().filter_map(|node| node.state(&clients[10].flow));
    assert_eq!(states.collect::<Vec<_>>(), [State::Layer4]);
}
