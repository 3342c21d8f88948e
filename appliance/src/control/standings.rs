//! Standings: which boards take flows of the services whose boards the workers choose by hash (`l4`), and which are dead for the flows of `udp` services.
//!
//! Input: the boards, at every housekeeping. Output: [`Command::Standing`] to every worker for each board whose standing with a
//! service has changed. Owner: the control core. Cost: one look at each board of each such service in 10 ms.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipos_pipelines::handoff::{BoardId, Command, Takes, WorkerId};

use super::board::{Liveness, Need, Unfit};
use super::boards::Boards;
use super::placement::Limits;
use super::sink::Sink;

/// A service whose boards are chosen by hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedService {
    /// Its number.
    pub service: u16,
    /// Whether it is a UDP service.
    pub udp: bool,
    /// Address and port.
    pub endpoint: (Ipv4Addr, u16),
    /// The boards of its table.
    pub boards: Vec<BoardId>,
    /// What a board may have at most; one that is beyond it is passed over.
    pub limits: Limits,
}

/// What the workers were told.
#[derive(Debug, Default)]
pub struct Standings {
    services: Vec<HashedService>,
    /// For each service and board what the workers know.
    told: HashMap<(u16, BoardId), Takes>,
}

impl Standings {
    /// Of these services; nothing told yet.
    pub fn new(services: Vec<HashedService>) -> Self {
        Self { services, told: HashMap::new() }
    }

    /// Other services. What was told stays true until the next look.
    pub fn reconfigure(&mut self, services: Vec<HashedService>) {
        self.services = services;
    }

    /// Looks at every board, and tells the workers what has changed.
    pub fn tick(&mut self, now_ns: u64, boards: &Boards, workers: u8, sink: &mut dyn Sink) {
        let Self { services, told } = self;
        for service in services.iter() {
            for board in &service.boards {
                let (number, board) = (service.service, *board);
                let takes = takes(now_ns, boards, service, board);
                if told.get(&(number, board)) == Some(&takes) {
                    continue;
                }
                told.insert((number, board), takes);
                for worker in 0..workers {
                    sink.tell(WorkerId(worker), Command::Standing { service: number, board, takes });
                }
            }
        }
    }
}

fn takes(now_ns: u64, boards: &Boards, service: &HashedService, board: BoardId) -> Takes {
    // The board's own kernel does the handshake: which options it offers is its business.
    let need =
        Need { options: 0, listener: !service.udp, endpoint: service.endpoint, limits: &service.limits };
    match boards.board(board).map(|board| board.fit(now_ns, &need)) {
        Some(Ok(_)) => Takes::New,
        None | Some(Err(Unfit::Silent(Liveness::Dead))) => Takes::None,
        Some(Err(_)) => Takes::Known,
    }
}

#[cfg(test)]
mod tests {
    use super::super::boards::tests::{MS, alive, farm};
    use super::super::testing::Recorder;
    use super::*;

    fn said(standings: &mut Standings, at_ms: u64, boards: &Boards) -> Vec<(u16, u16, Takes)> {
        let mut out = Recorder::default();
        standings.tick(at_ms * MS, boards, 2, &mut out);
        let told = out.told.drain(..).filter_map(|(worker, command)| match command {
            Command::Standing { service, board, takes } => Some((worker, (service, board.0, takes))),
            _ => None,
        });
        let (first, second): (Vec<_>, Vec<_>) = told.partition(|(worker, _)| *worker == WorkerId(0));
        let rows = |rows: Vec<(WorkerId, _)>| rows.into_iter().map(|row| row.1).collect::<Vec<_>>();
        let (first, second) = (rows(first), rows(second));
        assert_eq!(first, second, "both workers hear the same");
        first
    }

    #[test]
    fn workers_hear_of_each_change_once() {
        let mut boards = farm(2);
        let limits = Limits { connections: Some(10), ..Limits::default() };
        let endpoint = (Ipv4Addr::new(198, 51, 100, 1), 80);
        let service =
            HashedService { service: 3, udp: false, endpoint, boards: vec![BoardId(0), BoardId(1)], limits };
        let mut standings = Standings::new(vec![service.clone()]);
        alive(&mut boards, 0, 1_000, 1);
        alive(&mut boards, 1, 1_000, 10);
        assert_eq!(said(&mut standings, 1_010, &boards), [(3, 0, Takes::New), (3, 1, Takes::Known)], "full");
        assert_eq!(said(&mut standings, 1_020, &boards), []);
        alive(&mut boards, 1, 1_100, 9);
        assert_eq!(said(&mut standings, 1_110, &boards), [(3, 1, Takes::New)]);
        alive(&mut boards, 1, 2_000, 9);
        assert_eq!(
            said(&mut standings, 2_000, &boards),
            [(3, 0, Takes::None)],
            "it has said nothing for long"
        );
        standings.reconfigure(vec![HashedService { boards: vec![BoardId(1), BoardId(7)], ..service }]);
        assert_eq!(said(&mut standings, 2_010, &boards), [(3, 7, Takes::None)], "there is no such board");
    }
}
