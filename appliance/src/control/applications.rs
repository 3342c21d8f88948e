//! The Application Information Table (Fig. 12) of one board, from its 0x12 reports (docs/wire.md): what an application needs.

use super::gather::{Gathered, Part, Taken};
use super::state::{PROCESS_MAX, State};

/// One application: a process that owns a listening socket, and its descendants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// The process that owns the socket.
    pub process_id: u32,
    /// Its name.
    pub process: String,
    /// Processes counted, that one included.
    pub processes: u16,
    /// Resident memory of all of them, octets; pages that they share count in each.
    pub memory_octets: u64,
    /// CPU of all of them, hundredths of a percent of one core.
    pub cpu_hundredths: u32,
    /// Time over which the CPU was measured, milliseconds; 0 when there is no figure yet.
    pub interval_ms: u16,
}

impl Application {
    /// Why there cannot be such an application on a board of which this much is known.
    fn wrong(&self, board: Option<&State>) -> Option<&'static str> {
        let processes = u32::from(self.processes);
        let cores = board.map_or(u32::from(u16::MAX), |board| u32::from(board.cores));
        let memory = board.map_or(u64::MAX, |board| board.memory_octets);
        [
            (self.process_id == 0 || self.process_id > PROCESS_MAX, "a process id that none can have"),
            (processes == 0, "an application without processes"),
            (self.interval_ms == 0 && self.cpu_hundredths > 0, "CPU over no time"),
            (self.cpu_hundredths > cores.saturating_mul(10_000), "more CPU than the board has cores"),
            (
                self.memory_octets > memory.saturating_mul(u64::from(processes)),
                "more memory than the board has in each process",
            ),
        ]
        .into_iter()
        .find_map(|(is_so, what)| is_so.then_some(what))
    }
}

/// The table of one board.
#[derive(Debug, Default)]
pub struct Applications {
    table: Gathered<Application>,
}

impl Applications {
    /// The applications, as last reported in full.
    pub fn rows(&self) -> &[Application] {
        self.table.rows()
    }

    /// The sequence of that report; `None` before the first.
    pub fn sequence(&self) -> Option<u32> {
        self.table.sequence()
    }

    /// Forgets everything: the board is dead.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// See [`Gathered::follow`].
    pub fn follow(&mut self, epoch: u32, sequence: u32) {
        self.table.follow(epoch, sequence);
    }

    /// Takes a part, held against what the board says of itself. A report replaces the table once all its parts have come.
    pub fn take(&mut self, part: Part<Application>, board: Option<&State>) -> Taken {
        self.table
            .take(part, |rows| rows.iter().find_map(|row| row.wrong(board)).or_else(|| named_twice(rows)))
    }
}

fn named_twice(rows: &[Application]) -> Option<&'static str> {
    let mut ids: Vec<u32> = rows.iter().map(|row| row.process_id).collect();
    ids.sort_unstable();
    let twice = ids.windows(2).any(|pair| pair.first() == pair.last());
    twice.then_some("a process in two rows")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::state::tests::QUIET;
    use super::*;

    /// An application as nginx is one.
    pub fn application(process_id: u32) -> Application {
        Application {
            process_id,
            process: "nginx".to_owned(),
            processes: 3,
            memory_octets: 20 << 20,
            cpu_hundredths: 150,
            interval_ms: 1000,
        }
    }

    fn part(sequence: u32, rows: Vec<Application>) -> Part<Application> {
        Part { epoch: QUIET.epoch, sequence, part: 0, parts: 1, rows }
    }

    #[test]
    fn an_application_that_cannot_be_keeps_its_part_out() {
        let mut table = Applications::default();
        let sound = application(7);
        let all_cores = Application { cpu_hundredths: 20_000, ..application(8) };
        // Each process maps the same gigabyte.
        let shared = Application { memory_octets: 3 << 30, ..application(9) };
        let unmeasured = Application { cpu_hundredths: 0, interval_ms: 0, ..application(10) };
        let rows = vec![sound.clone(), all_cores, shared, unmeasured];
        assert_eq!(table.take(part(1, rows), Some(&QUIET)), Taken::Complete);
        let nonsense = [
            application(0),
            application(PROCESS_MAX + 1),
            Application { processes: 0, ..application(8) },
            Application { interval_ms: 0, ..application(8) },
            Application { cpu_hundredths: 20_001, ..application(8) },
            Application { memory_octets: (3 << 30) + 1, ..application(8) },
            sound.clone(),
        ];
        for row in nonsense {
            let taken = table.take(part(2, vec![sound.clone(), row.clone()]), Some(&QUIET));
            assert!(matches!(taken, Taken::Absurd(_)), "{row:?}");
        }
        assert_eq!((table.rows().len(), table.sequence()), (4, Some(1)));
        table.clear();
        assert_eq!((table.rows().len(), table.sequence()), (0, None));
    }

    #[test]
    fn a_process_in_two_parts_is_in_two_rows() {
        let mut table = Applications::default();
        let half = |part, process_id| Part {
            epoch: 1,
            sequence: 1,
            part,
            parts: 2,
            rows: vec![application(process_id)],
        };
        assert_eq!(table.take(half(0, 7), None), Taken::Waiting);
        assert_eq!(table.take(half(1, 7), None), Taken::Absurd("a process in two rows"));
        assert_eq!(table.rows(), []);
    }
}
