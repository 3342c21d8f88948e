//! Listening sockets, type 0x11: a board's rows of the Listening Sockets Table (Fig. 12; docs/wire.md).

use core::net::Ipv4Addr;

use super::header::TYPE_LISTENING;
use super::list::{List, NAME_LEN, ROW_LEN, Row, name_from, name_str};
use super::octets::{ipv4_at, put, take, u16_at, u32_at};

const FLAG_IPV6: u16 = 1 << 0;
const FLAG_MPTCP: u16 = 1 << 1;

/// Listening sockets, type 0x11.
pub type Listening<'a> = List<'a, ListeningRow>;

/// One listening TCP socket of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListeningRow {
    /// The address bound; 0.0.0.0 also for a dual-stack `[::]`.
    pub address: Ipv4Addr,
    /// The port bound.
    pub port: u16,
    /// Bound to `[::]`.
    pub ipv6: bool,
    /// Speaks MPTCP.
    pub mptcp: bool,
    /// Connections in the accept queue.
    pub queue_len: u32,
    /// Most connections that the accept queue takes.
    pub queue_max: u32,
    /// Process that owns the socket.
    pub pid: u32,
    /// The process's name, cut, padded with zeros.
    pub name: [u8; NAME_LEN],
}

impl ListeningRow {
    /// A process name as a row carries it: cut at 12 octets, padded with zeros.
    #[must_use]
    pub fn name_from(comm: &str) -> [u8; NAME_LEN] {
        name_from(comm)
    }

    /// The name, as far as it can be read.
    #[must_use]
    pub fn name_str(&self) -> &str {
        name_str(&self.name)
    }
}

impl Row for ListeningRow {
    const KIND: u8 = TYPE_LISTENING;

    fn parse(row: &[u8; ROW_LEN]) -> ListeningRow {
        let flags = u16_at::<6, _>(row);
        ListeningRow {
            address: ipv4_at::<0, _>(row),
            port: u16_at::<4, _>(row),
            ipv6: flags & FLAG_IPV6 != 0,
            mptcp: flags & FLAG_MPTCP != 0,
            queue_len: u32_at::<8, _>(row),
            queue_max: u32_at::<12, _>(row),
            pid: u32_at::<16, _>(row),
            name: take::<20, 12, _>(row),
        }
    }

    fn emit(&self, row: &mut [u8; ROW_LEN]) {
        let ipv6 = if self.ipv6 { FLAG_IPV6 } else { 0 };
        let mptcp = if self.mptcp { FLAG_MPTCP } else { 0 };
        put::<0, 4, _>(row, self.address.octets());
        put::<4, 2, _>(row, self.port.to_be_bytes());
        put::<6, 2, _>(row, (ipv6 | mptcp).to_be_bytes());
        put::<8, 4, _>(row, self.queue_len.to_be_bytes());
        put::<12, 4, _>(row, self.queue_max.to_be_bytes());
        put::<16, 4, _>(row, self.pid.to_be_bytes());
        put::<20, 12, _>(row, self.name);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;
    use crate::ipos::ROWS_MAX;
    use crate::ipos::list::ReportPart;
    use crate::ipos::list::testing::{changed, stands_its_tests, survives_a_round_trip};
    use crate::ipos::testing::{BOARD, any_address};

    const LISTENING: [u8; 112] = [
        // source: the board 10.0.0.21, port 0
        0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
        0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
        0x11, 0x00, // checksum
        0xa1, 0xbe, // version, part 0 of 1, 2 rows
        0x01, 0x00, 0x01, 0x02, // epoch, sequence 7, zero
        0x65, 0xf0, 0xa1, 0xb2, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00,
        // address, port, flags
        0x00, 0x00, 0x00, 0x00, 0x00, 0x50, 0x00, 0x01,
        // accept queue length and limit, process id
        0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x01, 0xff, 0x00, 0x00, 0x10, 0x92, // process name
        0x6e, 0x67, 0x69, 0x6e, 0x78, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        // address, port, flags
        0x0a, 0x00, 0x00, 0x15, 0x1f, 0x90, 0x00, 0x02,
        // accept queue length and limit, process id
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x00, 0x00, 0x4d, // process name
        0x68, 0x61, 0x70, 0x72, 0x6f, 0x78, 0x79, 0x2d, 0x6d, 0x61, 0x73, 0x74, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    fn golden_rows() -> [ListeningRow; 2] {
        [
            ListeningRow {
                address: Ipv4Addr::UNSPECIFIED,
                port: 80,
                ipv6: true,
                mptcp: false,
                queue_len: 3,
                queue_max: 511,
                pid: 4242,
                name: ListeningRow::name_from("nginx"),
            },
            ListeningRow {
                address: BOARD,
                port: 8080,
                ipv6: false,
                mptcp: true,
                queue_len: 0,
                queue_max: 128,
                pid: 77,
                name: ListeningRow::name_from("haproxy-master"),
            },
        ]
    }

    #[test]
    fn the_golden_list_stands_its_tests() {
        stands_its_tests(&LISTENING, &golden_rows());
        assert_eq!(golden_rows()[1].name_str(), "haproxy-mast");
    }

    #[test]
    fn reserved_bits_do_not_make_two_lists_differ() {
        let reserved = changed(&LISTENING, 38, 0x80);
        assert_eq!(Listening::parse(&reserved), Listening::parse(&LISTENING));
        let other_pid = changed(&LISTENING, 48, 1);
        assert_ne!(Listening::parse(&other_pid), Listening::parse(&LISTENING));
    }

    prop_compose! {
        fn any_row()(
            address in any_address(),
            (port, ipv6, mptcp) in any::<(u16, bool, bool)>(),
            (queue_len, queue_max, pid) in any::<(u32, u32, u32)>(),
            name in any::<[u8; 12]>(),
        ) -> ListeningRow {
            ListeningRow { address, port, ipv6, mptcp, queue_len, queue_max, pid, name }
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
