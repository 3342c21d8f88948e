//! Sessions by cookie: the Cookie Map's look-up, and what a worker does with a request's cookie, beside what else can do the job.
//!
//! - The Cookie Map is held against a `hashbrown` table of the same hashes, which keeps no order of use and forgets nothing. A look-up that
//!   hits also moves the session to the front of the list of uses.
//! - The cookie of a head is held against a regular expression (`regex::bytes`) that finds it; ours hashes the value as well.
//! - An encoded value is held against a `HashMap` from text to board.

use std::collections::HashMap;
use std::hint::black_box;
use std::net::Ipv4Addr;

use anyhow::{Context as _, ensure};
use hashbrown::HashTable;
use ipos_appliance::control::sessions::table::{Place, Table};
use ipos_pipelines::handoff::{BoardId, Session, SessionKey};
use ipos_pipelines::request::head::{Head, Request, parse};
use ipos_pipelines::sessions::{Cookie, Key, Value};
use regex::bytes::Regex;

use crate::report::{Row, Target};
use crate::stats::{Runs, paired};
use crate::targets::Desk;
use crate::urls::{Pair, measure};

/// Sessions in the map.
const SESSIONS: u64 = 100_000;
/// Look-ups of a pass.
const LOOKUPS: u64 = 1 << 17;
/// Boards that values can name.
const BOARDS: u16 = 1024;
/// A look-up takes at most this, nanoseconds.
const TARGET_NS: f64 = 1000.0;
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const SECRET: Key = Key([7; 16]);

/// A hash, as scattered as those of cookies are (SplitMix64's finalizer).
fn hash(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Measures all of it.
///
/// # Errors
/// When something is not found, or found where it is not.
pub fn cookies(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let (sessions, lookups) = if desk.options.quick { (1_000, 1 << 12) } else { (SESSIONS, LOOKUPS) };
    let runs = desk.options.runs;
    let mut table = Table::new(sessions as usize);
    let mut plain = HashTable::with_capacity(sessions as usize);
    for number in 0..sessions {
        let board = BoardId((number % 60_000) as u16);
        table.put(SessionKey::of(hash(number)), Place { board, address: CLIENT }, number);
        let entry = (SessionKey::of(hash(number)), board);
        plain.insert_unique(entry.0.bits(), entry, |entry| entry.0.bits());
    }
    let table = std::cell::RefCell::new(table);
    for (what, from) in [("hit", 0), ("miss", sessions)] {
        // Knuth's multiplicative hash: every session, in an order that no cache foresees.
        let key = |n: u64| SessionKey::of(hash(from + n.wrapping_mul(2_654_435_761) % sessions));
        let pair = measure(
            runs,
            || by_table(&mut table.borrow_mut(), lookups, key, from == 0),
            || by_hashbrown(&plain, lookups, key, from == 0),
        )?;
        let what = format!("Cookie Map, look-up, {sessions} sessions, {what}; baseline hashbrown");
        desk.rows.push(row(what, pair)?.held_to(Target::ValueAtMost(TARGET_NS)));
    }
    extraction(desk, lookups)
}

/// A browser's request, with its cookies.
fn head(cookies: &str) -> String {
    format!(
        "GET /shop/items?page=2 HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) \
         Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
         Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n\
         Cookie: {cookies}\r\nUpgrade-Insecure-Requests: 1\r\n\r\n"
    )
}

fn extraction(desk: &mut Desk<'_>, lookups: u64) -> anyhow::Result<()> {
    let runs = desk.options.runs;
    let learned = Cookie::learned("sid", 0, SECRET);
    let many: String = (0..300).map(|n| format!("preference{n}=value{n}; ")).collect();
    let found = Regex::new(r"(?i-u)\r\ncookie:(?:[^\r\n]*;)?[ \t]*(?-i:sid)=([^;\r\n]*)")
        .context("the expression")?;
    for (what, before, lookups) in [
        ("1 cookie", "", lookups),
        ("8 cookies", &many[..200], lookups),
        ("300 cookies", &many[..], lookups >> 4),
    ] {
        let text = head(&format!("{before}sid=Lw3MZ0a9Wd7tqX2vKc1nRfB8eYhGjU4s"));
        let request = request(&text)?;
        let pair = measure(
            runs,
            || by_session(&learned, &request, lookups),
            || by_regex(&found, request.head, lookups),
        )?;
        let octets = text.len();
        let what =
            format!("cookie of a head of {octets} octets, {what}, found and hashed; baseline regex, found");
        desk.rows.push(row(what, pair)?);
    }
    let address = |board: u16| Ipv4Addr::from_bits(0xc000_0200 + u32::from(board));
    let values: Vec<(Value, BoardId)> =
        (0..BOARDS).map(|board| (Value::of(&SECRET, "web", address(board)), BoardId(board))).collect();
    let by_text: HashMap<Vec<u8>, BoardId> =
        values.iter().map(|(value, board)| (value.to_string().into_bytes(), *board)).collect();
    let (value, board) = values.get(700).context("a value")?;
    let value = value.to_string();
    let text = head(&format!("srv={value}"));
    let request = request(&text)?;
    let board = *board;
    let encoded = Cookie::encoded("srv", 0, SECRET, values);
    let pair = measure(
        runs,
        || {
            for _ in 0..lookups {
                let told = black_box(&encoded).session(black_box(&request), CLIENT).0;
                ensure!(told == Session::Named { board, again: None }, "it names {told:?}");
            }
            Ok(lookups as usize)
        },
        || {
            for _ in 0..lookups {
                ensure!(
                    black_box(&by_text).get(black_box(value.as_bytes())) == Some(&board),
                    "another board"
                );
            }
            Ok(lookups as usize)
        },
    )?;
    let what = format!(
        "encoded cookie, found in a head and read, {BOARDS} boards; baseline HashMap by text, found already"
    );
    desk.rows.push(row(what, pair)?);
    Ok(())
}

fn request(text: &str) -> anyhow::Result<Request<'_>> {
    match parse(text.as_bytes()) {
        Head::Complete(request) => Ok(request),
        other => anyhow::bail!("the head is {other:?}"),
    }
}

/// A row; the ratio is how many times as fast ours is.
fn row(what: String, (ours, theirs): Pair) -> anyhow::Result<Row> {
    let times = paired(&ours, &theirs, |ours, theirs| theirs / ours).context("no run")?;
    let (ours, theirs) = (Runs::new(ours).context("no run")?, Runs::new(theirs).context("no run")?);
    Ok(Row::new("cookies", what, "ns", &ours).against(theirs.median(), times.median()))
}

#[inline(never)]
fn by_table(
    table: &mut Table,
    lookups: u64,
    key: impl Fn(u64) -> SessionKey,
    hits: bool,
) -> anyhow::Result<usize> {
    for n in 0..lookups {
        let found = black_box(table.use_(black_box(key(n)), n)).is_some();
        ensure!(found == hits, "look-up {n} is {found}");
    }
    Ok(lookups as usize)
}

#[inline(never)]
fn by_hashbrown(
    table: &HashTable<(SessionKey, BoardId)>,
    lookups: u64,
    key: impl Fn(u64) -> SessionKey,
    hits: bool,
) -> anyhow::Result<usize> {
    for n in 0..lookups {
        let key = black_box(key(n));
        let found = black_box(table.find(key.bits(), |entry| entry.0 == key)).is_some();
        ensure!(found == hits, "look-up {n} is {found}");
    }
    Ok(lookups as usize)
}

#[inline(never)]
fn by_session(cookie: &Cookie, request: &Request<'_>, lookups: u64) -> anyhow::Result<usize> {
    for _ in 0..lookups {
        let told = black_box(cookie.session(black_box(request), CLIENT)).0;
        ensure!(matches!(told, Session::Learned(_)), "it is {told:?}");
    }
    Ok(lookups as usize)
}

#[inline(never)]
fn by_regex(found: &Regex, head: &[u8], lookups: u64) -> anyhow::Result<usize> {
    for _ in 0..lookups {
        let value = black_box(found.captures(black_box(head))).and_then(|all| all.get(1));
        ensure!(value.is_some(), "nothing is found");
    }
    Ok(lookups as usize)
}
