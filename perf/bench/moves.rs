//! Moves between requests: what one adds to a request, as the client of one connection sees it, in the lab.
//!
//! The service has `migrate = "request"`; requests for `/a/` belong to one board, those for `/b/` to the other. One walk asks for
//! both in turn, so that each request moves the connection; the other asks one board only. Both go over one connection, one
//! request after the other's answer, and take turns in the same lab.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::child::{self, Spec};
use crate::compare::{SLEEP, SPIN};
use crate::lab::{Lab, Spread};
use crate::quiet::Patience;
use crate::report::Row;
use crate::stats::{Runs, paired};
use crate::targets::Desk;

/// The service of the lab.
const ADDRESS: &str = "198.51.100.1:80";

/// What belongs to which board (`deploy/lab up --moves`).
const ROWS: [(&str, &str); 2] = [("/a/1k", "board1"), ("/b/1k", "board2")];

/// A migration of Capybara, end to end (design: targets.md, reference points).
const CAPYBARA_US: f64 = 11.3;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time for repeating runs that others disturbed.
const REPEAT: Duration = Duration::from_secs(60);

/// What the client's process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WalkSpec {
    /// Whom to ask.
    pub address: SocketAddr,
    /// What to ask for, in turn, and which board answers.
    pub rows: Vec<(String, String)>,
    /// Requests that are not counted, to begin with.
    pub warm_up: u32,
    /// Requests that are.
    pub requests: u32,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Walked {
    /// Microseconds from before a request was sent to the first octet of its answer: the median.
    pub p50_us: f64,
    /// 99 of 100 were as fast.
    pub p99_us: f64,
    /// Requests in a second.
    pub per_second: f64,
}

/// The client's process.
///
/// # Errors
/// When an answer is missing, bad, or another board's.
pub fn walker(spec: &WalkSpec) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&spec.address, PATIENCE).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut rows = spec.rows.iter().cycle();
    let mut ask = |stream: &mut TcpStream| {
        let (path, board) = rows.next().context("nothing to ask for")?;
        ask(stream, path, board).with_context(|| format!("{path} at {board}"))
    };
    for _ in 0..spec.warm_up {
        ask(&mut stream)?;
    }
    let mut times = Histogram::<u64>::new(3).context("a histogram")?;
    let begun = Instant::now();
    for _ in 0..spec.requests {
        times.record(ask(&mut stream)?.as_nanos() as u64).context("a time")?;
    }
    let per_second = f64::from(spec.requests) / begun.elapsed().as_secs_f64();
    let us = |percent: f64| times.value_at_percentile(percent) as f64 / 1000.0;
    let walked = Walked { p50_us: us(50.0), p99_us: us(99.0), per_second };
    println!("{}", serde_json::to_string(&walked)?);
    Ok(())
}

/// One request and its whole answer. Returns the time to the answer's first octet.
fn ask(stream: &mut TcpStream, path: &str, board: &str) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n").as_bytes())?;
    let (mut answer, mut buffer, mut first) = (Vec::new(), [0; 4096], None);
    loop {
        let count = stream.read(&mut buffer)?;
        first.get_or_insert_with(|| begun.elapsed());
        ensure!(count > 0, "the connection has ended");
        answer.extend_from_slice(&buffer[..count]);
        if let Some(len) = whole_len(&answer, board)?
            && answer.len() >= len
        {
            ensure!(answer.len() == len, "more came than the answer");
            return first.context("an answer without an octet");
        }
    }
}

/// How long the answer is as a whole, once its head is there.
fn whole_len(answer: &[u8], board: &str) -> anyhow::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer)? else { return Ok(None) };
    ensure!(response.code == Some(200), "the answer is {:?}", response.code);
    let field = |name: &str| {
        let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    };
    match field("x-board") {
        Some(by) if by == board => {}
        other => bail!("the answer is of {other:?}"),
    }
    let body: usize = field("content-length").context("no length")?.parse()?;
    Ok(Some(head + body))
}

/// Requests that move their connection beside those that do not.
pub fn moves(desk: &mut Desk<'_>) -> anyhow::Result<()> {
    let (machine, is_quick, runs) = (desk.options.machine, desk.options.quick, desk.options.runs);
    let (warm_up, requests) = if is_quick { (5, 50) } else { (100, 2000) };
    for (spread, rest, how) in [
        (Spread::OwnCpu, SPIN, "the appliance on its own CPU, its worker spins"),
        (Spread::OneCpu, SLEEP, "all on one CPU, the worker sleeps"),
    ] {
        let lab = Lab::moving(machine, rest)?;
        lab.spread(spread)?;
        let mut patience = Patience::new(if is_quick { Duration::ZERO } else { REPEAT });
        let mut walked: [Vec<Walked>; 2] = Default::default();
        for _ in 0..runs {
            for (rows, walked) in [&ROWS[..], &ROWS[..1]].into_iter().zip(&mut walked) {
                walked.push(patience.run(|| walk(&lab, spread, rows, (warm_up, requests)))?);
            }
        }
        let how = format!("{how}{}", patience.remark());
        desk.rows.extend(rows(&walked, &how)?);
    }
    Ok(())
}

fn walk(
    lab: &Lab,
    spread: Spread,
    rows: &[(&str, &str)],
    (warm_up, requests): (u32, u32),
) -> anyhow::Result<Walked> {
    let program = std::env::current_exe().context("finding this program")?;
    let rows = rows.iter().map(|(path, board)| ((*path).to_owned(), (*board).to_owned())).collect();
    let spec = WalkSpec { address: ADDRESS.parse().context("an address")?, rows, warm_up, requests };
    let arguments = child::arguments(&Spec::Walk(spec))?;
    let mut process = lab.spawn("client", lab.client_cpu(spread), &program.to_string_lossy(), &arguments)?;
    child::hear(&mut process, Duration::from_secs(60))
}

/// The rows: requests with a move beside those without, and what the move itself takes.
fn rows([with, without]: &[Vec<Walked>; 2], how: &str) -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    type Figure = fn(&Walked) -> f64;
    let each = |walked: &[Walked], figure: Figure| walked.iter().map(figure).collect::<Vec<_>>();
    let figures: [(&str, &str, Figure); 3] = [
        ("time to first byte with a move before it, p50", "us", |walked| walked.p50_us),
        ("time to first byte with a move before it, p99", "us", |walked| walked.p99_us),
        ("requests a second on one connection, a move before each", "1/s", |walked| walked.per_second),
    ];
    for (what, unit, figure) in figures {
        let (ours, theirs) = (each(with, figure), each(without, figure));
        let row = Row::new("moves", format!("{what}, {how}; baseline without"), unit, &runs(&ours)?);
        let ratio = paired(&ours, &theirs, |ours, theirs| ours / theirs).context("no run")?;
        all.push(row.against(runs(&theirs)?.median(), ratio.median()));
        if unit == "us" {
            let share = paired(&ours, &theirs, |ours, theirs| ours - theirs).context("no run")?;
            let what =
                format!("the move's share of it, {how}; baseline a migration of Capybara's, on its NICs");
            let ratio = share.median() / CAPYBARA_US;
            all.push(Row::new("moves", what, unit, &share).against(CAPYBARA_US, ratio));
        }
    }
    Ok(all)
}

fn runs(figures: &[f64]) -> anyhow::Result<Runs> {
    Runs::new(figures.to_vec()).context("no run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body_and_only_of_its_board() {
        let head = "HTTP/1.1 200 OK\r\nX-Board: board1\r\nContent-Length: 3\r\n\r\n";
        let whole = format!("{head}abc");
        assert_eq!(whole_len(whole.as_bytes(), "board1").expect("an answer"), Some(whole.len()));
        assert_eq!(whole_len(&head.as_bytes()[..20], "board1").expect("a beginning"), None);
        assert!(whole_len(whole.as_bytes(), "board2").is_err());
        let busy = whole.replace("200 OK", "503 No");
        assert!(whole_len(busy.as_bytes(), "board1").is_err());
    }

    #[test]
    fn a_moves_share_is_what_the_request_takes_longer() {
        let walked = |p50_us, p99_us, per_second| vec![Walked { p50_us, p99_us, per_second }];
        let rows =
            rows(&[walked(300.0, 500.0, 2000.0), walked(187.0, 387.0, 4000.0)], "here").expect("figures");
        let told: Vec<_> = rows.iter().map(|row| (row.value, row.baseline, row.ratio)).collect();
        assert_eq!(told[0], (300.0, Some(187.0), Some(300.0 / 187.0)));
        assert_eq!(told[1], (113.0, Some(11.3), Some(113.0 / 11.3)));
        assert_eq!(told[4], (2000.0, Some(4000.0), Some(0.5)));
    }
}
