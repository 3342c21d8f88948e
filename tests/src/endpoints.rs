//! What a board itself says of the endpoints that it holds: its Local Table, and its kernel's sockets.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::lab::{Lab, ROOT};

/// A record of a board's Local Table (docs/board.md, an endpoint's life).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// Being rewritten.
    Busy,
    /// Acknowledged; no packet of the client's has come, so there is no socket.
    Pending,
    /// The socket exists.
    Live,
    /// The socket has closed.
    Gone,
    /// An older socket is being cleared away.
    Clearing,
    /// Being given up.
    Detaching,
}

impl Record {
    /// Whether a socket of this connection exists, or may at any moment.
    pub fn is_alive(self) -> bool {
        matches!(self, Record::Live | Record::Detaching)
    }
}

impl Lab {
    /// A board's Local Table, from its pinned map: the client's port and what the record says.
    ///
    /// # Panics
    /// When the map cannot be read.
    pub fn local_table(&self, board: u32) -> BTreeMap<u16, Record> {
        let path = format!("{ROOT}/board{board}/bpf/endpoints");
        let text = self.exec(&format!("board{board}"), &["bpftool", "-j", "map", "dump", "pinned", &path]);
        let rows: Value = serde_json::from_str(&text).expect("bpftool speaks JSON");
        rows.as_array().expect("a map is a list").iter().map(record).collect()
    }

    /// The client's ports of the established connections in a board's kernel.
    ///
    /// # Panics
    /// When `ss` fails.
    pub fn established(&self, board: u32) -> BTreeSet<u16> {
        let filter = ["ss", "-Htn", "state", "established", "sport = :80"];
        let text = self.exec(&format!("board{board}"), &filter);
        let peers = text.lines().filter_map(|line| line.split_whitespace().nth(3));
        peers.filter_map(|peer| peer.rsplit(':').next()?.parse().ok()).collect()
    }
}

fn octets(value: &Value) -> Vec<u8> {
    let octets = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    octets.filter_map(|text| u8::from_str_radix(text.trim_start_matches("0x"), 16).ok()).collect()
}

/// `struct flow` and `struct endpoint` of board/bpf/tables.h.
fn record(row: &Value) -> (u16, Record) {
    let (key, value) = (octets(&row["key"]), octets(&row["value"]));
    assert_eq!((key.len(), value.len()), (12, 80), "board/bpf/tables.h has another layout: {row}");
    let record = match value[32] {
        1 => Record::Busy,
        2 => Record::Pending,
        3 => Record::Live,
        4 => Record::Gone,
        5 => Record::Clearing,
        6 => Record::Detaching,
        other => panic!("a record of state {other}: {row}"),
    };
    (u16::from_be_bytes([key[4], key[5]]), record)
}
