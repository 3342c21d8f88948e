//! Application information, type 0x12: a board's rows of the Application Information Table (Fig. 12; docs/wire.md).

use super::header::TYPE_APPLICATIONS;
use super::list::{List, NAME_LEN, ROW_LEN, Row, name_str};
use super::octets::{put, take, u16_at, u32_at, u64_at};

/// Application information, type 0x12.
pub type Applications<'a> = List<'a, ApplicationRow>;

/// One application: a process that owns a listening socket, and its descendants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplicationRow {
    /// The process that owns a listening socket, as 0x11 names it.
    pub pid: u32,
    /// Processes counted, that one included.
    pub processes: u16,
    /// Time over which the CPU was measured, milliseconds; 0 when there is no figure yet.
    pub interval_ms: u16,
    /// Resident memory of all of them, octets.
    pub memory: u64,
    /// CPU of all of them, hundredths of a percent of one core.
    pub cpu: u32,
    /// The process's name, cut, padded with zeros.
    pub name: [u8; NAME_LEN],
}

impl ApplicationRow {
    /// The name, as far as it can be read.
    #[must_use]
    pub fn name_str(&self) -> &str {
        name_str(&self.name)
    }
}

impl Row for ApplicationRow {
    const KIND: u8 = TYPE_APPLICATIONS;

    fn parse(row: &[u8; ROW_LEN]) -> ApplicationRow {
        ApplicationRow {
            pid: u32_at::<0, _>(row),
            processes: u16_at::<4, _>(row),
            interval_ms: u16_at::<6, _>(row),
            memory: u64_at::<8, _>(row),
            cpu: u32_at::<16, _>(row),
            name: take::<20, NAME_LEN, _>(row),
        }
    }

    fn emit(&self, row: &mut [u8; ROW_LEN]) {
        put::<0, 4, _>(row, self.pid.to_be_bytes());
        put::<4, 2, _>(row, self.processes.to_be_bytes());
        put::<6, 2, _>(row, self.interval_ms.to_be_bytes());
        put::<8, 8, _>(row, self.memory.to_be_bytes());
        put::<16, 4, _>(row, self.cpu.to_be_bytes());
        put::<20, NAME_LEN, _>(row, self.name);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;
    use crate::ipos::list::testing::{stands_its_tests, survives_a_round_trip};
    use crate::ipos::list::{ReportPart, name_from};
    use crate::ipos::testing::any_address;
    use crate::ipos::{Error, Listening, ROWS_MAX};

    const APPLICATIONS: [u8; 112] = [
        // source: the board 10.0.0.21, port 0
        0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
        0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
        0x12, 0x00, // checksum
        0x4e, 0x31, // version, part 0 of 1, 2 rows
        0x01, 0x00, 0x01, 0x02, // epoch, sequence 7, zero
        0x65, 0xf0, 0xa1, 0xb2, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00,
        // process 4242, 5 processes, over 1000 ms
        0x00, 0x00, 0x10, 0x92, 0x00, 0x05, 0x03, 0xe8, // 5 GiB of memory
        0x00, 0x00, 0x00, 0x01, 0x40, 0x00, 0x00, 0x00, // 150.00 % of a core
        0x00, 0x00, 0x3a, 0x98, // process name
        0x6e, 0x67, 0x69, 0x6e, 0x78, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        // process 77, alone, no CPU figure yet
        0x00, 0x00, 0x00, 0x4d, 0x00, 0x01, 0x00, 0x00, // 8 MiB of memory
        0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // process name
        0x68, 0x61, 0x70, 0x72, 0x6f, 0x78, 0x79, 0x2d, 0x6d, 0x61, 0x73, 0x74, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    fn golden_rows() -> [ApplicationRow; 2] {
        [
            ApplicationRow {
                pid: 4242,
                processes: 5,
                interval_ms: 1000,
                memory: 5 << 30,
                cpu: 15_000,
                name: name_from("nginx"),
            },
            ApplicationRow {
                pid: 77,
                processes: 1,
                interval_ms: 0,
                memory: 8 << 20,
                cpu: 0,
                name: name_from("haproxy-master"),
            },
        ]
    }

    #[test]
    fn the_golden_list_stands_its_tests() {
        stands_its_tests(&APPLICATIONS, &golden_rows());
        assert_eq!(golden_rows()[1].name_str(), "haproxy-mast");
    }

    #[test]
    fn one_list_is_not_read_as_the_other() {
        assert_eq!(Listening::parse(&APPLICATIONS), Err(Error::Type { expected: 0x11, found: 0x12 }));
    }

    prop_compose! {
        fn any_row()(
            (pid, processes, interval_ms) in any::<(u32, u16, u16)>(),
            (memory, cpu, name) in any::<(u64, u32, [u8; 12])>(),
        ) -> ApplicationRow {
            ApplicationRow { pid, processes, interval_ms, memory, cpu, name }
        }
    }

    proptest! {
        #[test]
        fn lists_survive_a_round_trip(
            (board, appliance) in (any_address(), any_address()),
            parts in 1_u8..,
            (epoch, sequence) in any::<(u32, u32)>(),
            rows in prop::collection::vec(any_row(), 0..=ROWS_MAX),
        ) {
            let report = ReportPart { board, appliance, part: parts - 1, parts, epoch, sequence };
            survives_a_round_trip(report, &rows);
        }
    }
}
