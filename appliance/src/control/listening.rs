//! The Listening Sockets Table (Fig. 12) of one board, put together from the parts of its 0x11 reports (docs/wire.md).

use std::net::Ipv4Addr;

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
    /// The process that listens.
    pub process_id: u32,
    /// The process's name.
    pub process: String,
}

impl Socket {
    /// Whether a connection to this endpoint can be migrated to the socket.
    pub fn covers(&self, address: Ipv4Addr, port: u16) -> bool {
        self.port == port && !self.mptcp && (self.address.is_unspecified() || self.address == address)
    }
}

/// One part of a report.
#[derive(Clone, Debug)]
pub struct Part {
    /// When the agent started, Unix seconds.
    pub epoch: u32,
    /// The report's number.
    pub sequence: u32,
    /// Which part, from 0.
    pub part: u8,
    /// How many parts.
    pub parts: u8,
    /// Its rows.
    pub rows: Vec<Socket>,
}

/// What became of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The table is that of this report now.
    Complete,
    /// Other parts are to come.
    Waiting,
    /// Older than what is known: ignored.
    Stale,
    /// No such part can be: ignored.
    Absurd,
}

/// The table of one board.
#[derive(Debug, Default)]
pub struct Listening {
    /// Epoch and sequence of the table.
    known: Option<(u32, u32)>,
    sockets: Vec<Socket>,
    gathering: Option<Gathering>,
}

#[derive(Debug)]
struct Gathering {
    report: (u32, u32),
    parts: Vec<Option<Vec<Socket>>>,
}

impl Listening {
    /// The sockets, as last reported in full.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// Whether some socket takes connections to this endpoint.
    pub fn covers(&self, address: Ipv4Addr, port: u16) -> bool {
        self.sockets.iter().any(|socket| socket.covers(address, port))
    }

    /// Whether there has been a complete report.
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Forgets everything: the board is dead, and an agent that starts with an older clock must be believed.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes note of the board's newest state report, whose epoch and sequence its socket reports share. A table or a
    /// part that claims to be from elsewhere, or from later, must not keep the board's own reports out as stale.
    pub fn follow(&mut self, epoch: u32, sequence: u32) {
        let strays = |report: (u32, u32)| report.0 != epoch || report.1 > sequence;
        if self.known.is_some_and(strays) {
            self.known = Some((epoch, sequence.saturating_sub(1)));
        }
        if self.gathering.as_ref().is_some_and(|gathering| strays(gathering.report)) {
            self.gathering = None;
        }
    }

    /// Takes a part. A report replaces the table once all its parts have come.
    pub fn take(&mut self, part: Part) -> Taken {
        if part.part >= part.parts {
            return Taken::Absurd;
        }
        let report = (part.epoch, part.sequence);
        let newest = self.gathering.as_ref().map(|gathering| gathering.report).max(self.known);
        if newest.is_some_and(|newest| report < newest) || self.known == Some(report) {
            return Taken::Stale;
        }
        let fresh = || Gathering { report, parts: vec![None; usize::from(part.parts)] };
        if self.gathering.as_ref().is_none_or(|gathering| gathering.report != report) {
            self.gathering = Some(fresh());
        }
        let gathering = self.gathering.get_or_insert_with(fresh);
        if gathering.parts.len() != usize::from(part.parts) {
            return Taken::Absurd;
        }
        if let Some(slot) = gathering.parts.get_mut(usize::from(part.part)) {
            *slot = Some(part.rows);
        }
        if gathering.parts.iter().any(Option::is_none) {
            return Taken::Waiting;
        }
        self.sockets = gathering.parts.drain(..).flatten().flatten().collect();
        self.known = Some(report);
        self.gathering = None;
        Taken::Complete
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

    fn part(report: (u32, u32), part: u8, parts: u8, port: u16) -> Part {
        Part { epoch: report.0, sequence: report.1, part, parts, rows: vec![socket([0; 4], port)] }
    }

    #[test]
    fn a_report_from_nowhere_is_outlived() {
        let mut table = Listening::default();
        let part = |epoch, sequence, parts, port| Part {
            epoch,
            sequence,
            part: 0,
            parts,
            rows: vec![socket([0; 4], port)],
        };
        assert_eq!(table.take(part(1000, 7, 1, 80)), Taken::Complete);
        // Forged: a whole table, and a part of one, from an epoch that is never reached.
        assert_eq!(table.take(part(u32::MAX, 9, 1, 81)), Taken::Complete);
        assert_eq!(table.take(part(u32::MAX, 10, 2, 82)), Taken::Waiting);
        assert_eq!(table.take(part(1000, 8, 1, 80)), Taken::Stale);
        table.follow(1000, 9);
        assert_eq!(table.take(part(1000, 9, 1, 80)), Taken::Complete);
        assert_eq!(table.sockets().iter().map(|s| s.port).collect::<Vec<_>>(), [80]);
        // The board's own order goes on.
        table.follow(1000, 10);
        assert_eq!(table.take(part(1000, 9, 1, 83)), Taken::Stale);
    }

    #[test]
    fn a_report_counts_once_all_its_parts_have_come_in_any_order() {
        let mut table = Listening::default();
        assert_eq!(table.take(part((1, 1), 1, 2, 81)), Taken::Waiting);
        assert!(table.sockets().is_empty());
        assert_eq!(table.take(part((1, 1), 0, 2, 80)), Taken::Complete);
        assert_eq!(table.sockets().iter().map(|s| s.port).collect::<Vec<_>>(), [80, 81]);
        assert_eq!(table.take(part((1, 2), 0, 1, 8080)), Taken::Complete);
        assert_eq!(table.sockets().len(), 1);
    }

    #[test]
    fn parts_of_different_reports_are_never_mixed() {
        let mut table = Listening::default();
        assert_eq!(table.take(part((1, 1), 0, 2, 80)), Taken::Waiting);
        assert_eq!(table.take(part((1, 2), 1, 2, 81)), Taken::Waiting);
        assert_eq!(table.take(part((1, 1), 1, 2, 82)), Taken::Stale);
        assert_eq!(table.take(part((1, 2), 0, 2, 83)), Taken::Complete);
        assert_eq!(table.sockets().iter().map(|s| s.port).collect::<Vec<_>>(), [83, 81]);
    }

    #[test]
    fn old_and_impossible_parts_change_nothing() {
        let mut table = Listening::default();
        assert_eq!(table.take(part((2, 5), 0, 1, 80)), Taken::Complete);
        assert_eq!(table.take(part((2, 5), 0, 1, 81)), Taken::Stale);
        assert_eq!(table.take(part((2, 4), 0, 1, 81)), Taken::Stale);
        assert_eq!(table.take(part((1, 9), 0, 1, 81)), Taken::Stale);
        assert_eq!(table.take(part((2, 6), 2, 2, 81)), Taken::Absurd);
        assert_eq!(table.take(part((2, 6), 0, 0, 81)), Taken::Absurd);
        assert_eq!(table.take(part((2, 6), 0, 3, 81)), Taken::Waiting);
        assert_eq!(table.take(part((2, 6), 1, 2, 81)), Taken::Absurd, "the number of parts differs");
        assert!(table.covers(Ipv4Addr::new(198, 51, 100, 1), 80));
        table.clear();
        assert_eq!(table.take(part((1, 1), 0, 1, 82)), Taken::Complete);
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
