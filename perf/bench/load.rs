//! Clients: `wrk` for many connections at once, and one of our own that makes one connection after the other and takes the
//! time to the first octet of the answer.

use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::billing::Polls;

/// How long anything may take that answers at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `wrk` is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The file of every request.
    pub path: &'static str,
    /// Connections at a time.
    pub connections: u32,
    /// Whether every request has a connection of its own.
    pub is_new: bool,
}

/// What it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// Requests that were answered.
    pub requests: f64,
    /// Octets of the answers.
    pub octets: f64,
}

impl Load {
    /// Runs it against `address` for `window`.
    ///
    /// # Errors
    /// When `wrk` is not installed, or an answer was missing or bad.
    pub fn run(&self, address: &str, cpu: u32, window: Duration) -> anyhow::Result<Done> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", "ipos-client", "taskset", "--cpu-list", &cpu.to_string()]);
        // wrk itself knows whole seconds only; interrupted, it tells what it did so far.
        command.args([
            "timeout",
            "--signal=INT",
            "--kill-after=5",
            &window.as_secs_f64().to_string(),
            "wrk",
            "-d60s",
            "-t1",
        ]);
        command.arg(format!("-c{}", self.connections));
        if self.is_new {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(format!("http://{address}{}", self.path)).stdin(Stdio::null());
        let output = command.output().context("starting ip (install iproute2)")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let done = parse(&said).with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("wrk does not report (Debian: apt-get install wrk): {}{}", said.trim(), error.trim())
        })?;
        if let Some(line) = said.lines().map(str::trim).find(|line| is_failure(line)) {
            bail!("{address}: {line}");
        }
        ensure!(done.requests > 0.0, "{address} answered no request");
        Ok(done)
    }
}

fn is_failure(line: &str) -> bool {
    line.starts_with("Socket errors:") || line.starts_with("Non-2xx or 3xx responses:")
}

/// Its line `12345 requests in 2.00s, 5.61MB read`.
fn parse(said: &str) -> Option<Done> {
    let (requests, rest) = said.lines().find_map(|line| line.trim().split_once(" requests in "))?;
    let size = rest.split_once(", ")?.1.strip_suffix("B read")?;
    let (number, unit) = match size.chars().next_back()? {
        'K' => (&size[..size.len() - 1], f64::from(1 << 10)),
        'M' => (&size[..size.len() - 1], f64::from(1 << 20)),
        'G' => (&size[..size.len() - 1], f64::from(1 << 30)),
        _ => (size, 1.0),
    };
    Some(Done { requests: requests.parse().ok()?, octets: number.parse::<f64>().ok()? * unit })
}

/// How long requests took under load, as `wrk --latency` has it: from the request's last octet sent to the answer, which
/// is one segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Took {
    /// The median, milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were as fast.
    pub p99_ms: f64,
}

/// Lets so many clients ask one request after the other, each on a connection of its own, for whole seconds.
///
/// # Errors
/// When `wrk` is not installed, or an answer was missing or bad.
pub fn crowd(address: &str, clients: u32, seconds: u64) -> anyhow::Result<Took> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "ipos-client", "wrk", "--latency", "-t1", "-H", "Connection: close"]);
    command.args([format!("-c{clients}"), format!("-d{seconds}s"), format!("http://{address}/")]);
    let output = command.stdin(Stdio::null()).output().context("starting ip (install iproute2)")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let took = latencies(&said).with_context(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        format!("wrk does not report (Debian: apt-get install wrk): {}{}", said.trim(), error.trim())
    })?;
    match said.lines().map(str::trim).find(|line| is_failure(line)) {
        Some(line) => bail!("{address}: {line}"),
        None => Ok(took),
    }
}

/// Its lines `50%   12.34ms` and `99%    1.20s`.
fn latencies(said: &str) -> Option<Took> {
    let at = |percent: &str| {
        let text = said.lines().find_map(|line| line.trim().strip_prefix(percent))?.trim();
        let (number, unit) = match text {
            text if text.ends_with("us") => (text.strip_suffix("us")?, 1e-3),
            text if text.ends_with("ms") => (text.strip_suffix("ms")?, 1.0),
            text => (text.strip_suffix('s')?, 1e3),
        };
        Some(number.parse::<f64>().ok()? * unit)
    };
    Some(Took { p50_ms: at("50%")?, p99_ms: at("99%")? })
}

/// What the process of our own client is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VisitSpec {
    /// Whom to visit.
    pub address: SocketAddr,
    /// Visits that are not counted, to begin with.
    pub warm_up: u32,
    /// Visits that are.
    pub visits: u32,
}

/// What it says: microseconds from before `connect` to the first octet of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Visited {
    /// The median.
    pub p50_us: f64,
    /// 99 of 100 were as fast.
    pub p99_us: f64,
}

/// The client's process.
///
/// # Errors
/// When a visit fails.
pub fn visitor(spec: &VisitSpec) -> anyhow::Result<()> {
    for _ in 0..spec.warm_up {
        visit(spec.address).with_context(|| format!("visiting {}", spec.address))?;
    }
    let mut times = Histogram::<u64>::new(3).context("a histogram")?;
    for _ in 0..spec.visits {
        let time = visit(spec.address).with_context(|| format!("visiting {}", spec.address))?;
        times.record(time.as_nanos() as u64).context("a time")?;
    }
    println!("{}", serde_json::to_string(&percentiles(&times))?);
    Ok(())
}

fn percentiles(times: &Histogram<u64>) -> Visited {
    let us = |percent: f64| times.value_at_percentile(percent) as f64 / 1000.0;
    Visited { p50_us: us(50.0), p99_us: us(99.0) }
}

/// One connection, one request, the whole answer.
fn visit(address: SocketAddr) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /1k HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer)?;
    let time = start.elapsed();
    ensure!(answer[..count].starts_with(b"HTTP/1.1 200 "), "the answer is not 200");
    while stream.read(&mut answer)? > 0 {}
    Ok(time)
}

/// A process beside the appliance that reads its counters as soon as it is asked: a new process would take longer.
///
/// # Errors
/// When the appliance does not answer.
pub fn meter(metrics: SocketAddr) -> anyhow::Result<()> {
    for line in io::stdin().lock().lines() {
        line?;
        let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        println!("{}", serde_json::to_string(&Polls::parse(&text)?)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_wrk_did_is_read_from_its_own_words() {
        let said = "Running 1m test @ http://198.51.100.1/1k\n  1 threads and 64 connections\n  \
                    Thread Stats   Avg      Stdev     Max   +/- Stdev\n  11703 requests in 3.06s, 14.50MB read\n\
                    Requests/sec:   3565.26\n";
        let done = parse(said).expect("a report");
        assert_eq!((done.requests, done.octets), (11_703.0, 14.5 * 1_048_576.0));
        assert_eq!(parse("2 requests in 1.00s, 600B read").map(|done| done.octets), Some(600.0));
        assert_eq!(
            parse("2 requests in 1.00s, 1.50GB read").map(|done| done.octets),
            Some(1.5 * 1_073_741_824.0)
        );
        assert_eq!(parse("unable to connect to 198.51.100.1:80 Connection refused"), None);
        assert!(is_failure("Socket errors: connect 0, read 3, write 0, timeout 0"));
        assert!(is_failure("Non-2xx or 3xx responses: 5") && !is_failure("Requests/sec: 5"));
    }

    #[test]
    fn how_long_requests_took_is_read_in_its_own_unit() {
        let said = "  Latency Distribution\n     50%  812.00us\n     75%    4.05ms\n     90%    4.62ms\n     99%    1.20s \n";
        assert_eq!(latencies(said), Some(Took { p50_ms: 0.812, p99_ms: 1200.0 }));
        assert_eq!(latencies("unable to connect"), None);
    }

    #[test]
    fn percentiles_are_microseconds() {
        let mut times = Histogram::new(3).expect("three digits");
        for us in 1..=100_u64 {
            times.record(us * 1000).expect("it grows");
        }
        let Visited { p50_us, p99_us } = percentiles(&times);
        assert!((p50_us - 50.0).abs() < 0.1 && (p99_us - 99.0).abs() < 0.1, "{p50_us} {p99_us}");
    }

    #[test]
    fn a_visit_takes_the_whole_answer_and_only_a_good_one() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.1 503 Busy\r\n\r\n"] {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut request = [0; 256];
                assert!(stream.read(&mut request).expect("a request") > 0);
                stream.write_all(answer.as_bytes()).expect("a client that listens");
            }
        });
        assert!(visit(address).expect("an answer") > Duration::ZERO);
        assert!(visit(address).expect_err("503").to_string().contains("not 200"));
        server.join().expect("no panic");
    }
}
