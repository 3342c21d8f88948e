//! The URL Map alone: a look-up of a request's host and path, beside a router of paths and a set of regular expressions, the same
//! rows in all of them.
//!
//! - Requests are in random order, each row asked for as often as the others: more rows than the caches like.
//! - `matchit` is the router of `axum`: a radix tree over whole paths. Hosts are the first segment of its routes; it has no methods,
//!   headers, or prefixes that end within a segment.
//! - `regex::RegexSet` says which of all expressions fit, and the longest is taken. It cannot be built for 100,000 rows within any
//!   memory that one would give it, so that it is compared at fewer.

use std::hint::black_box;

use anyhow::{Context as _, ensure};
use ipos_pipelines::urlmap::condition::HeaderTest;
use ipos_pipelines::urlmap::{Action, Asked, HeaderRule, Rule, UrlMap};
use regex::{RegexSet, RegexSetBuilder};

use crate::cputime::thread_ns;
use crate::report::{Row, Target};
use crate::stats::{Runs, paired};
use crate::targets::Desk;

/// Rows that a look-up is held to a microsecond with.
const ROWS: u32 = 100_000;
/// Rows of the set of regular expressions.
const REGEX_ROWS: u32 = 1_000;
/// Most memory that the set of regular expressions may take, octets.
const REGEX_OCTETS: usize = 1 << 28;
/// Requests that are looked up in turns.
const REQUESTS: u32 = 1 << 17;
/// A look-up takes at most this, nanoseconds.
const TARGET_NS: f64 = 1000.0;

/// How rows are spread over hosts.
#[derive(Clone, Copy)]
enum Spread {
    OneHost,
    ThousandHosts,
    HostEach,
}

impl Spread {
    fn words(self) -> &'static str {
        match self {
            Self::OneHost => "one host",
            Self::ThousandHosts => "1000 hosts",
            Self::HostEach => "a host each",
        }
    }

    /// Host and prefix of a row.
    fn row(self, n: u32) -> (String, String) {
        match self {
            Self::OneHost => ("www.example.org".to_owned(), format!("/shop/{n}/items/")),
            Self::ThousandHosts => (format!("h{}.example.org", n % 1000), format!("/shop/{n}/")),
            Self::HostEach => (format!("h{n}.example.org"), "/shop/".to_owned()),
        }
    }
}

/// Requests for rows, and the row of each.
struct Requests(Vec<(String, String, u16)>);

impl Requests {
    /// In an order that no cache foresees.
    fn new(spread: Spread, rows: u32, requests: u32) -> Self {
        let request = |n: u32| {
            // Knuth's multiplicative hash: every row, in a scattered order.
            let row = (u64::from(n).wrapping_mul(2_654_435_761) % u64::from(rows)) as u32;
            let (host, prefix) = spread.row(row);
            (host, format!("{prefix}index.html"), value(row))
        };
        Self((0..requests).map(request).collect())
    }
}

fn value(row: u32) -> u16 {
    (row % 60_000) as u16
}

/// Measures all of it.
///
/// # Errors
/// When a map answers wrongly.
pub fn urls(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let (rows, requests) = if desk.options.quick { (1_000, 1 << 12) } else { (ROWS, REQUESTS) };
    let runs = desk.options.runs;
    for spread in [Spread::OneHost, Spread::ThousandHosts, Spread::HostEach] {
        let asked = Requests::new(spread, rows, requests);
        let what = format!("URL map, look-up, {rows} rows, {}", spread.words());
        let map = map(spread, rows, |rule| rule)?;
        let router = router(spread, rows)?;
        let pair = measure(runs, || by_map(&map, &asked), || by_router(&router, &asked))?;
        desk.rows
            .push(row(format!("{what}; baseline matchit"), pair)?.held_to(Target::ValueAtMost(TARGET_NS)));
    }
    let spread = Spread::OneHost;
    let asked = Requests::new(spread, rows, requests);
    let plain = map(spread, rows, |rule| rule)?;
    let with_header = map(spread, rows, |rule| Rule {
        header: Some(HeaderRule { name: "X-Beta".to_owned(), test: HeaderTest::Present }),
        ..rule
    })?;
    let pair = measure(runs, || by_map(&with_header, &asked), || by_map(&plain, &asked))?;
    let what = format!("URL map, look-up, {rows} rows with a header each; baseline without");
    desk.rows.push(row(what, pair)?.held_to(Target::ValueAtMost(TARGET_NS)));
    let rows = if desk.options.quick { 50 } else { REGEX_ROWS };
    let asked = Requests::new(spread, rows, requests >> 6);
    let (map, set) = (map(spread, rows, |rule| rule)?, set(spread, rows)?);
    let pair = measure(runs, || by_map(&map, &asked), || by_set(&set, &asked))?;
    desk.rows.push(row(format!("URL map, look-up, {rows} rows, one host; baseline regex::RegexSet"), pair)?);
    Ok(())
}

/// Nanoseconds per look-up of ours and of the baseline, run by run.
pub type Pair = (Vec<f64>, Vec<f64>);

/// Both in turns; the first round does not count. Each pass returns how many look-ups it made.
pub fn measure(
    runs: u32,
    ours: impl Fn() -> anyhow::Result<usize>,
    theirs: impl Fn() -> anyhow::Result<usize>,
) -> anyhow::Result<Pair> {
    let time = |pass: &dyn Fn() -> anyhow::Result<usize>| {
        let before = thread_ns()?;
        let count = pass()?;
        anyhow::Ok((thread_ns()? - before) as f64 / count as f64)
    };
    let mut pair = Pair::default();
    for run in 0..=runs {
        let (ours, theirs) = (time(&ours)?, time(&theirs)?);
        if run > 0 {
            pair.0.push(ours);
            pair.1.push(theirs);
        }
    }
    Ok(pair)
}

/// A row; the ratio is how many times as fast ours is.
fn row(what: String, (ours, theirs): Pair) -> anyhow::Result<Row> {
    let times = paired(&ours, &theirs, |ours, theirs| theirs / ours).context("no run")?;
    let (ours, theirs) = (Runs::new(ours).context("no run")?, Runs::new(theirs).context("no run")?);
    Ok(Row::new("urls", what, "ns", &ours).against(theirs.median(), times.median()))
}

fn map(spread: Spread, rows: u32, change: impl Fn(Rule) -> Rule) -> anyhow::Result<UrlMap> {
    let rule = |n: u32| {
        let (host, prefix) = spread.row(n);
        change(Rule::prefix(Some(&host), &prefix, value(n)))
    };
    let rules: Vec<Rule> = (0..rows).map(rule).collect();
    UrlMap::build(&rules).map_err(|errors| anyhow::anyhow!("the rows: {:?}", errors.first()))
}

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Beta: yes\r\n\r\n";

#[inline(never)]
fn by_map(map: &UrlMap, requests: &Requests) -> anyhow::Result<usize> {
    for (host, path, value) in &requests.0 {
        let asked = Asked { host: Some(host.as_bytes()), path: path.as_bytes(), method: b"GET", head: HEAD };
        let found = black_box(map.lookup(black_box(&asked)));
        ensure!(found == Some(Action::Pool(*value)), "{host}{path} is {found:?}, not {value}");
    }
    Ok(requests.0.len())
}

fn router(spread: Spread, rows: u32) -> anyhow::Result<matchit::Router<u16>> {
    let mut router = matchit::Router::new();
    for n in 0..rows {
        let (host, prefix) = spread.row(n);
        router.insert(format!("/{host}{prefix}{{*rest}}"), value(n)).with_context(|| format!("route {n}"))?;
    }
    Ok(router)
}

#[inline(never)]
fn by_router(router: &matchit::Router<u16>, requests: &Requests) -> anyhow::Result<usize> {
    // Host and path as one text, without allocating.
    let mut whole = String::with_capacity(256);
    for (host, path, value) in &requests.0 {
        whole.clear();
        whole.push('/');
        whole.push_str(host);
        whole.push_str(path);
        let found = black_box(router.at(black_box(&whole))).map(|found| *found.value);
        ensure!(found.as_ref().ok() == Some(value), "{whole} is {found:?}, not {value}");
    }
    Ok(requests.0.len())
}

fn set(spread: Spread, rows: u32) -> anyhow::Result<RegexSet> {
    let expressions = (0..rows).map(|n| format!("^{}", regex::escape(&spread.row(n).1)));
    RegexSetBuilder::new(expressions).size_limit(REGEX_OCTETS).build().context("the expressions")
}

#[inline(never)]
fn by_set(set: &RegexSet, requests: &Requests) -> anyhow::Result<usize> {
    for (_, path, value) in &requests.0 {
        let found = black_box(set.matches(black_box(path)));
        // No two of these rows fit one path, so that any is the longest.
        let longest = found.iter().next();
        ensure!(longest.map(|row| row as u16) == Some(*value), "{path} is {longest:?}, not {value}");
    }
    Ok(requests.0.len())
}
