//! The Local Table (Fig. 12): the endpoints that this board holds, each with the process that serves it. Made of the pinned
//! records, sock_diag and `/proc`, so it needs no running agent.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::Ipv4Addr,
};

use ipos_wire::flow::Flow;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{procs, records::Record, sockets::SockDiag};

/// A row: the figure's columns, then ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Client IP.
    pub client: Ipv4Addr,
    /// Client port.
    pub client_port: u16,
    /// Endpoint IP.
    pub endpoint: Ipv4Addr,
    /// Endpoint port.
    pub endpoint_port: u16,
    /// `pending`, `live`, `gone`, `clearing`, `detaching` or `busy` (docs/board.md "An endpoint's life").
    pub state: &'static str,
    /// The process that holds the accepted socket; none while the endpoint waits to be accepted, or has no socket.
    pub process_id: Option<u32>,
    /// Its name.
    pub process: Option<String>,
    /// The attempt that made it, hexadecimal as in captures.
    pub migration_id: String,
    /// The farm address of the appliance that it came from.
    pub appliance: Ipv4Addr,
    /// Since it was taken up; for those gone, clearing or detaching, since they came into that state. Milliseconds.
    pub age_ms: u64,
}

/// The table now.
///
/// # Errors
/// When the kernel has no sock_diag.
pub fn table(records: &BTreeMap<Flow, Record>) -> io::Result<Vec<Row>> {
    let connections = SockDiag::open()?.connections()?;
    // 0 is a socket that still waits to be accepted.
    let inode = |flow: &Flow| connections.get(flow).copied().filter(|inode| *inode != 0);
    let inodes: HashSet<u32> = records.keys().filter_map(inode).collect();
    let holders = if inodes.is_empty() { Default::default() } else { procs::holders(&inodes) };
    let now_ns = monotonic_ns()?;
    let row = |(flow, record): (&Flow, &Record)| {
        // A tombstone's flow may be in use again, by a connection that is not its own.
        let owner = inode(flow).filter(|_| record.state != "gone").and_then(|inode| holders.get(&inode));
        Row {
            client: flow.client,
            client_port: flow.client_port,
            endpoint: flow.endpoint,
            endpoint_port: flow.endpoint_port,
            state: record.state,
            process_id: owner.map(|owner| owner.pid),
            process: owner.map(|owner| owner.name.clone()),
            migration_id: format!("{:#018x}", record.migration_id),
            appliance: record.appliance,
            age_ms: now_ns.saturating_sub(record.changed_ns) / 1_000_000,
        }
    };
    Ok(records.iter().map(row).collect())
}

/// As the programs tell the time (`bpf_ktime_get_ns`).
fn monotonic_ns() -> io::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let (s, ns) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
    Ok(s.unwrap_or(0) * 1_000_000_000 + ns.unwrap_or(0))
}

const TITLES: [&str; 10] = [
    "CLIENT IP",
    "CLIENT PORT",
    "ENDPOINT IP",
    "ENDPOINT PORT",
    "STATE",
    "PID",
    "PROCESS",
    "MIGRATION ID",
    "APPLIANCE",
    "AGE",
];
/// Enough for any address, port and state.
const WIDTHS: [usize; 10] = [15, 11, 15, 13, 9, 7, 15, 18, 15, 0];

/// The table for people.
pub fn text(rows: &[Row]) -> String {
    let line = |cells: [String; 10]| {
        let padded: Vec<String> =
            cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let cells = |row: &Row| {
        [
            row.client.to_string(),
            row.client_port.to_string(),
            row.endpoint.to_string(),
            row.endpoint_port.to_string(),
            row.state.to_owned(),
            row.process_id.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            row.process.clone().unwrap_or_else(|| "-".to_owned()),
            row.migration_id.clone(),
            row.appliance.to_string(),
            format!("{} ms", row.age_ms),
        ]
    };
    rows.iter().fold(line(TITLES.map(str::to_owned)), |text, row| text + &line(cells(row)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_row_names_the_process_once_the_socket_is_accepted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let port = listener.local_addr().expect("address").port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        let flow = Flow {
            client: Ipv4Addr::LOCALHOST,
            client_port: client.local_addr().expect("address").port(),
            endpoint: Ipv4Addr::LOCALHOST,
            endpoint_port: port,
        };
        let record = |state| Record {
            migration_id: 0x0005_0200_0000_0001,
            changed_ns: monotonic_ns().expect("a clock") - 3_000_000,
            state,
            appliance: Ipv4Addr::new(192, 0, 2, 2),
        };
        let one = |state| table(&BTreeMap::from([(flow, record(state))])).expect("a table").remove(0);
        assert_eq!(one("live").process_id, None, "still in the accept queue");
        let (_server, _) = listener.accept().expect("accept");
        let row = one("live");
        assert_eq!(row.process_id, Some(std::process::id()));
        assert_eq!((row.migration_id.as_str(), row.client_port), ("0x0005020000000001", flow.client_port));
        assert!((3..1000).contains(&row.age_ms), "{row:?}");
        assert_eq!(one("gone").process_id, None);
    }

    #[test]
    fn the_figures_columns_come_first() {
        let row = Row {
            client: Ipv4Addr::new(203, 0, 113, 10),
            client_port: 40_001,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 80,
            state: "live",
            process_id: Some(4243),
            process: Some("nginx".to_owned()),
            migration_id: "0x0001000000000001".to_owned(),
            appliance: Ipv4Addr::new(192, 0, 2, 2),
            age_ms: 17,
        };
        let text = text(&[row]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..4], ["CLIENT", "IP", "CLIENT", "PORT"]);
        assert_eq!(lines[1][..7], ["203.0.113.10", "40001", "198.51.100.1", "80", "live", "4243", "nginx"]);
        assert_eq!(lines[1][7..], ["0x0001000000000001", "192.0.2.2", "17", "ms"]);
    }
}
