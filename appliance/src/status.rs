//! `ipos-appliance status`: asks the running appliance and prints its tables.

use std::io::{IsTerminal, Write};
use std::net::SocketAddrV4;
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::socket::{Next, Only, Query, What};
use crate::cli::Appliance;
use crate::client::{ClientError, Connection, ended};

mod tables;

/// Between two looks of `--watch`.
const WATCH: Duration = Duration::from_secs(1);

/// Flows that `--watch` shows, at most.
const WATCH_FLOWS: usize = 1000;

/// Clears the screen of a terminal, and goes to its first place (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// What is to be shown.
#[derive(Debug)]
pub struct Wish {
    /// Which table.
    pub what: What,
    /// Client and endpoint of the connection to show, with `flow`.
    pub flow: Vec<SocketAddrV4>,
    /// As JSON.
    pub json: bool,
    /// Again every second.
    pub watch: bool,
    /// Which flows, or sessions.
    pub only: Only,
    /// How many rows of them.
    pub limit: Option<usize>,
}

/// Asks and prints.
pub fn main(wish: &Wish, appliance: &Appliance) -> ExitCode {
    ended(show(wish, appliance))
}

fn show(wish: &Wish, appliance: &Appliance) -> Result<(), ClientError> {
    let is_paged = matches!(wish.what, What::Flows | What::Cookies);
    if !is_paged && (wish.only != Only::default() || wish.limit.is_some()) {
        let what = "--client, --service, --board, --state and --limit are for `status flows`, and some for `status cookies`";
        return Err(ClientError::Appliance(what.to_owned()));
    }
    if wish.what != What::Flow && !wish.flow.is_empty() {
        let what =
            "addresses are for `status flow CLIENT:PORT ENDPOINT:PORT` alone; leave them out, or write flow";
        return Err(ClientError::Appliance(what.to_owned()));
    }
    let mut connection = Connection::open(appliance)?;
    let mut out = std::io::stdout().lock();
    if !wish.watch {
        return once(wish, &mut connection, &mut out, wish.limit.unwrap_or(usize::MAX));
    }
    let clears = out.is_terminal() && !wish.json;
    loop {
        if clears {
            out.write_all(CLEAR.as_bytes()).map_err(ClientError::Print)?;
        }
        once(wish, &mut connection, &mut out, wish.limit.unwrap_or(WATCH_FLOWS))?;
        std::thread::sleep(WATCH);
    }
}

fn once(
    wish: &Wish,
    connection: &mut Connection,
    out: &mut impl Write,
    most: usize,
) -> Result<(), ClientError> {
    if matches!(wish.what, What::Flows | What::Cookies) {
        return pages(wish, connection, out, most);
    }
    let flow = wish.flow.first_chunk().copied();
    let rows = connection.ask(&Query { flow, ..Query::table(wish.what) })?["rows"].take();
    let text = match flow {
        _ if wish.json => format!("{rows}\n"),
        Some([client, endpoint]) => tables::trace(client, endpoint, &rows),
        None => tables::render(wish.what, &rows),
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ClientError::Print)
}

/// Flows and sessions come page by page, and are printed as they come: there may be millions.
fn pages(
    wish: &Wish,
    connection: &mut Connection,
    out: &mut impl Write,
    most: usize,
) -> Result<(), ClientError> {
    let mut next = Some(Next { worker: 0, cursor: 0 });
    let mut print = |text: &str| out.write_all(text.as_bytes()).map_err(ClientError::Print);
    print(&if wish.json { "[".to_owned() } else { tables::paged_titles(wish.what) })?;
    let mut printed = 0;
    while let Some(Next { worker, cursor }) = next {
        let query = Query { worker, cursor, only: wish.only.clone(), ..Query::table(wish.what) };
        let mut answer = connection.ask(&query)?;
        next = serde_json::from_value(answer["next"].take())?;
        let rows = answer["rows"].as_array().map_or(&[][..], Vec::as_slice);
        for row in rows.iter().take(most - printed) {
            if wish.json {
                let separator = if printed > 0 { "," } else { "" };
                print(&format!("{separator}{row}"))?;
            } else {
                print(&tables::paged(wish.what, row))?;
            }
            printed += 1;
        }
        if printed >= most {
            next = None;
        }
    }
    if wish.json {
        print("]\n")?;
    }
    out.flush().map_err(ClientError::Print)
}
