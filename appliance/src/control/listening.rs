//! The Listening Sockets Table (Fig. 12) of one board, from its 0x11 reports (docs/wire.md).

use std::net::Ipv4Addr;

use super::gather::{Gathered, Part, Taken};
use super::state::{CONNECTIONS_MAX, PROCESS_MAX};

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The address it is bound to; 0.0.0.0 covers all.
    pub address: Ipv4Addr,
    /// Its TCP port.
    pub port: u16,
    /// Whether it speaks MPTCP: no endpoint can be migrated to it (design: takeover.md).
    pub mptcp: bool,
    /// Whether it is bound to `[::]`.
    pub dual_stack: bool,
    /// Connections that wait to be accepted.
    pub queue: u32,
    /// How many may wait.
    pub queue_limit: u32,
    /// The process that listens; 0 when the board does not know it.
    pub process_id: u32,
    /// The process's name.
    pub process: String,
}

impl Socket {
    /// Whether a connection to this endpoint can be migrated to the socket.
    pub fn covers(&self, address: Ipv4Addr, port: u16) -> bool {
        self.port == port && !self.mptcp && (self.address.is_unspecified() || self.address == address)
    }

    /// Why there cannot be such a socket. A queue longer than its limit can be: the limit may have been lowered.
    fn wrong(&self) -> Option<&'static str> {
        let never_bound = self.address.is_multicast() || self.address.is_broadcast();
        [
            (self.port == 0, "a socket that listens on port 0"),
            (never_bound, "a socket bound to an address that none can have"),
            (self.dual_stack && !self.address.is_unspecified(), "a socket bound to [::] and to an address"),
            (self.process_id == 0 && !self.process.is_empty(), "a process that has a name and no id"),
            (self.process_id > PROCESS_MAX, "a process id that none can have"),
            (
                self.queue > CONNECTIONS_MAX || self.queue_limit > i32::MAX as u32,
                "an accept queue that none can have",
            ),
        ]
        .into_iter()
        .find_map(|(is_so, what)| is_so.then_some(what))
    }
}

/// The table of one board.
#[derive(Debug, Default)]
pub struct Listening {
    table: Gathered<Socket>,
}

impl Listening {
    /// The sockets, as last reported in full.
    pub fn sockets(&self) -> &[Socket] {
        self.table.rows()
    }

    /// Whether some socket takes connections to this endpoint.
    #[inline]
    pub fn covers(&self, address: Ipv4Addr, port: u16) -> bool {
        self.sockets().iter().any(|socket| socket.covers(address, port))
    }

    /// How many connections to this endpoint wait to be accepted, and how many may: of all sockets that take them together.
    pub fn queue(&self, address: Ipv4Addr, port: u16) -> (u64, u64) {
        let covering = self.sockets().iter().filter(|socket| socket.covers(address, port));
        covering.fold((0, 0), |(queue, limit), socket| {
            (queue + u64::from(socket.queue), limit + u64::from(socket.queue_limit))
        })
    }

    /// Whether there has been a complete report.
    pub fn is_known(&self) -> bool {
        self.table.sequence().is_some()
    }

    /// Forgets everything: the board is dead, and an agent that starts with an older clock must be believed.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// See [`Gathered::follow`].
    pub fn follow(&mut self, epoch: u32, sequence: u32) {
        self.table.follow(epoch, sequence);
    }

    /// Takes a part. A report replaces the table once all its parts have come.
    pub fn take(&mut self, part: Part<Socket>) -> Taken {
        self.table.take(part, |rows| rows.iter().find_map(Socket::wrong))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A socket as nginx has it.
    pub fn socket(address: [u8; 4], port: u16) -> Socket {
        Socket {
            address: Ipv4Addr::from(address),
            port,
            mptcp: false,
            dual_stack: false,
            queue: 0,
            queue_limit: 511,
            process_id: 7,
            process: "nginx".to_owned(),
        }
    }

    #[test]
    fn a_socket_that_cannot_be_keeps_its_part_out() {
        let sound = socket([0; 4], 80);
        let part = |sequence, socket: &Socket| Part {
            epoch: 1,
            sequence,
            part: 0,
            parts: 1,
            rows: vec![sound.clone(), socket.clone()],
        };
        let mut table = Listening::default();
        let overfull = Socket { queue: 600, ..sound.clone() };
        let unknown = Socket { process_id: 0, process: String::new(), ..sound.clone() };
        assert_eq!(table.take(part(1, &overfull)), Taken::Complete);
        assert_eq!(table.take(part(2, &unknown)), Taken::Complete);
        let nonsense = [
            Socket { port: 0, ..sound.clone() },
            Socket { address: Ipv4Addr::new(224, 0, 0, 1), ..sound.clone() },
            Socket { address: Ipv4Addr::BROADCAST, ..sound.clone() },
            Socket { dual_stack: true, address: Ipv4Addr::LOCALHOST, ..sound.clone() },
            Socket { process_id: 0, ..sound.clone() },
            Socket { process_id: PROCESS_MAX + 1, ..sound.clone() },
            Socket { queue: u32::MAX, ..sound.clone() },
            Socket { queue_limit: u32::MAX, ..sound.clone() },
        ];
        for socket in nonsense {
            assert!(matches!(table.take(part(3, &socket)), Taken::Absurd(_)), "{socket:?}");
        }
        assert_eq!(table.sockets(), [sound.clone(), unknown]);
        let service = Ipv4Addr::new(198, 51, 100, 1);
        assert_eq!((table.queue(service, 80), table.queue(service, 7)), ((0, 1022), (0, 0)));
        assert!(table.covers(service, 80) && !table.covers(service, 7));
        table.clear();
        assert_eq!(table.take(part(1, &sound)), Taken::Complete, "an older report after its death");
    }

    #[test]
    fn a_socket_covers_its_own_address_or_all_of_them_but_not_with_mptcp() {
        let service = Ipv4Addr::new(198, 51, 100, 1);
        assert!(socket([0; 4], 80).covers(service, 80));
        assert!(socket([198, 51, 100, 1], 80).covers(service, 80));
        assert!(!socket([127, 0, 0, 1], 80).covers(service, 80));
        assert!(!socket([0; 4], 8080).covers(service, 80));
        assert!(!Socket { mptcp: true, ..socket([0; 4], 80) }.covers(service, 80));
    }
}
