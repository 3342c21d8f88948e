//! The Cookie Map as `status cookies` shows it, page by page.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::super::boards::MS_NS;
use super::super::core::Core;
use super::super::snapshot::ServiceName;
use super::Entry;

/// A row of the Cookie Map: the figure's columns, then ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CookieRow {
    /// Cookie id: the hash of its value.
    pub cookie: String,
    /// Server IP.
    pub server: Ipv4Addr,
    /// The service.
    pub service: String,
    /// The board's name; `None` when it is not in the farm any more.
    pub board: Option<String>,
    /// Since it was first seen, milliseconds.
    pub age_ms: u64,
    /// Since a request last asked for it, milliseconds.
    pub idle_ms: u64,
    /// How many requests did.
    pub hits: u32,
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// The service's name; `None` for all.
    pub service: Option<String>,
    /// The board's name; `None` for all.
    pub board: Option<String>,
}

/// A page of the listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CookiePage {
    /// The rows.
    pub rows: Vec<CookieRow>,
    /// Where the listing goes on, if it does.
    pub next: Option<u32>,
}

/// A page, from a place on.
///
/// # Errors
/// What is wrong with `only`.
pub fn page(
    core: &Core,
    now_ns: u64,
    services: &[ServiceName],
    from: u32,
    only: &Only,
) -> Result<CookiePage, String> {
    let service = only.service.as_ref().map(|name| {
        let found = services.iter().find(|service| service.name == *name);
        found.map(|service| service.number).ok_or_else(|| {
            let known: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
            format!("no service named \"{name}\"; the services are {}", known.join(", "))
        })
    });
    let service = service.transpose()?;
    let board = only.board.as_ref().map(|name| {
        let found = core.boards.find(name).and_then(|id| core.boards.board(id));
        found.map(|board| board.settings.address).ok_or_else(|| {
            let known: Vec<&str> =
                core.boards.iter().map(|(_, board)| board.settings.name.as_str()).collect();
            format!("no board named \"{name}\"; the boards are {}", known.join(", "))
        })
    });
    let board = board.transpose()?;
    let wanted = |entry: &Entry| board.is_none_or(|address| entry.place.address == address);
    let page = core.attempts.sessions.page(from, service, wanted);
    let row = |(number, entry): &(u16, Entry)| {
        let name = services.iter().find(|service| service.number == *number);
        let board = core.boards.board(entry.place.board);
        let board = board.filter(|board| board.settings.address == entry.place.address);
        CookieRow {
            cookie: format!("{:016x}", entry.key.bits()),
            server: entry.place.address,
            service: name.map(|service| service.name.clone()).unwrap_or_default(),
            board: board.map(|board| board.settings.name.clone()),
            age_ms: now_ns.saturating_sub(entry.since_ns) / MS_NS,
            idle_ms: now_ns.saturating_sub(entry.used_ns) / MS_NS,
            hits: entry.hits,
        }
    };
    Ok(CookiePage { rows: page.rows.iter().map(row).collect(), next: page.next })
}
