//! Who pays: the time of the balancer's CPU, and what of it the appliance's polling spent on nothing.
//!
//! On veth a process's own CPU time bills the wrong party: receive work is done in interrupts, which the kernel books on
//! whoever happens to run. So all time of the balancer's CPU is billed in which it was not idle. An appliance that polls is
//! never idle; what its empty polls took is subtracted, at the price that they have in an idle lab. The cycles that the
//! worker counts as not busy would be too much: the interrupts that fall into an empty poll are in them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

/// The unit of `/proc/stat`, seconds: USER_HZ is 100 on every machine that DPDK knows.
const TICK_SECONDS: f64 = 0.01;

/// How the appliance's own CPU use is called there: threads that poll.
const WORKER_THREADS: [&str; 2] = ["rte-worker", "lcore-worker"];

/// A moment of a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    idle_s: f64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// When `/proc/stat` does not know the CPU.
    pub fn now(cpu: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let at = Instant::now();
        let ticks = idle_ticks(&stat, cpu).with_context(|| format!("no CPU {cpu} in /proc/stat"))?;
        Ok(Self { at, idle_s: ticks as f64 * TICK_SECONDS })
    }

    /// Seconds since `before` in which the CPU was not idle.
    pub fn billed_since(&self, before: &Self) -> f64 {
        let elapsed = self.at.duration_since(before.at).as_secs_f64();
        (elapsed - (self.idle_s - before.idle_s)).max(0.0)
    }
}

/// Ticks that a CPU had nothing to do, or was not there: idle, waiting for a disk, stolen by the hypervisor. The kernel
/// measures these, while it only samples what the others are spent on.
fn idle_ticks(stat: &str, cpu: u32) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    Some(ticks.get(3)? + ticks.get(4)? + ticks.get(7)?)
}

/// What the appliance's polling threads counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Polls {
    /// Polls of the worker that found nothing.
    pub worker_empty: f64,
    /// Turns of the control core that found nothing.
    pub control_empty: f64,
}

impl Polls {
    /// Out of the appliance's `/metrics`.
    ///
    /// # Errors
    /// When a metric is missing.
    pub fn parse(metrics: &str) -> anyhow::Result<Self> {
        let value = |name: &str| {
            let line = metrics
                .lines()
                .find(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            value.with_context(|| format!("/metrics has no {name}"))
        };
        Ok(Self {
            worker_empty: value("ipos_worker_polls_total")? - value("ipos_worker_busy_polls_total")?,
            control_empty: value("ipos_control_turns_total{work=\"no\"}")?,
        })
    }

    fn since(self, before: Self) -> Self {
        Self {
            worker_empty: self.worker_empty - before.worker_empty,
            control_empty: self.control_empty - before.control_empty,
        }
    }
}

/// CPU time of the appliance's polling threads so far, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ThreadTimes {
    worker_ns: f64,
    control_ns: f64,
}

impl ThreadTimes {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let mut times = Self::default();
        let threads = format!("/proc/{pid}/task");
        for thread in fs::read_dir(&threads).with_context(|| format!("reading {threads}"))? {
            let thread = thread?;
            let name = fs::read_to_string(thread.path().join("comm"))?;
            let time = fs::read_to_string(thread.path().join("schedstat"))?;
            let ns: f64 =
                time.split(' ').next().and_then(|word| word.parse().ok()).context("no time in schedstat")?;
            if WORKER_THREADS.iter().any(|worker| name.starts_with(worker)) {
                times.worker_ns += ns;
            } else if thread.file_name().to_str() == Some(&pid.to_string()) {
                times.control_ns += ns;
            }
        }
        ensure!(times.worker_ns > 0.0, "the appliance has no thread named {}", WORKER_THREADS.join(" or "));
        Ok(times)
    }
}

/// What polls cost that find nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmptyPrice {
    worker_ns: f64,
    control_ns: f64,
}

impl EmptyPrice {
    /// Measured on an appliance that nobody talks to, over `window`; `polls` reads its counters.
    ///
    /// # Errors
    /// When it does not poll, or cannot be read.
    pub fn measure(
        pid: u32,
        window: Duration,
        mut polls: impl FnMut() -> anyhow::Result<Polls>,
    ) -> anyhow::Result<Self> {
        let (times, counted) = (ThreadTimes::of(pid)?, polls()?);
        std::thread::sleep(window);
        let (times_after, counted) = (ThreadTimes::of(pid)?, polls()?.since(counted));
        ensure!(counted.worker_empty > 0.0 && counted.control_empty > 0.0, "the appliance does not poll");
        Ok(Self {
            worker_ns: (times_after.worker_ns - times.worker_ns) / counted.worker_empty,
            control_ns: (times_after.control_ns - times.control_ns) / counted.control_empty,
        })
    }

    /// Seconds that the empty polls between two readings took.
    pub fn of(&self, before: Polls, after: Polls) -> f64 {
        let polls = after.since(before);
        (polls.worker_empty * self.worker_ns + polls.control_empty * self.control_ns) / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  30 0 30 300 3 0 3 30 0 0\n\
                        cpu0 10 0 10 100 1 0 1 10 0 0\n\
                        cpu1 20 0 20 200 2 0 2 20 0 0\n\
                        cpu11 1 1 1 7 1 1 1 1 0 0\n\
                        intr 12345\n";

    #[test]
    fn a_cpu_is_idle_when_it_has_nothing_to_run_or_is_stolen() {
        assert_eq!(idle_ticks(STAT, 0), Some(111));
        assert_eq!(idle_ticks(STAT, 1), Some(222), "and not that of CPU 11");
        assert_eq!(idle_ticks(STAT, 2), None);
        assert_eq!(idle_ticks("cpu0 1 2 3\n", 0), None);
    }

    #[test]
    fn a_moment_of_this_machine_bills_no_more_than_what_passed() {
        let cpu = crate::machine::Machine::detect().expect("CPUs").cpu;
        let before = Moment::now(cpu).expect("a CPU");
        std::thread::sleep(Duration::from_millis(30));
        let after = Moment::now(cpu).expect("a CPU");
        let billed = after.billed_since(&before);
        assert!(
            (0.0..=after.at.duration_since(before.at).as_secs_f64() + TICK_SECONDS).contains(&billed),
            "{billed}"
        );
    }

    #[test]
    fn empty_polls_are_read_from_the_metrics_and_priced() {
        let metrics = "# HELP ipos_worker_polls_total Polls of a worker.\n\
                       ipos_worker_polls_total{worker=\"0\"} 1000\n\
                       ipos_worker_busy_polls_total{worker=\"0\"} 400\n\
                       ipos_control_turns_total{work=\"yes\"} 7\n\
                       ipos_control_turns_total{work=\"no\"} 50\n";
        let polls = Polls::parse(metrics).expect("all metrics");
        assert_eq!(polls, Polls { worker_empty: 600.0, control_empty: 50.0 });
        let price = EmptyPrice { worker_ns: 100.0, control_ns: 2000.0 };
        assert!((price.of(Polls::default(), polls) - 160e-6).abs() < 1e-12);
        let error = Polls::parse("ipos_worker_polls_total_more 1\n").expect_err("none").to_string();
        assert!(error.contains("ipos_worker_polls_total"), "{error}");
    }
}
