//! Whether the machine was left alone: what other programs do on the balancer's CPU would be billed to the balancer.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Others may take so much of one CPU during a run.
const SHARE_MAX: f64 = 0.03;

/// The unit of a process's times, seconds (USER_HZ).
const TICK_SECONDS: f64 = 0.01;

/// CPU time so far of the processes that do not belong to the lab: those in our own network namespace.
#[derive(Clone, Debug, Default)]
pub struct Others(BTreeMap<u32, u64>);

impl Others {
    /// Now.
    pub fn now() -> Self {
        let Some(ours) = namespace("self") else { return Self::default() };
        let mut ticks = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid == std::process::id() || namespace(&pid.to_string()) != Some(ours) {
                continue;
            }
            // One that ended meanwhile is in its parent's account.
            let time = fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(cpu_ticks);
            ticks.extend(time.map(|time| (pid, time)));
        }
        Self(ticks)
    }

    /// Seconds of CPU time that they took since `before`.
    pub fn since(&self, before: &Self) -> f64 {
        let ticks =
            self.0.iter().map(|(pid, ticks)| ticks.saturating_sub(before.0.get(pid).copied().unwrap_or(0)));
        ticks.sum::<u64>() as f64 * TICK_SECONDS
    }
}

/// A process's network namespace, if it can be seen. Threads of the kernel are in the first one, and work for everybody.
fn namespace(pid: &str) -> Option<u64> {
    fs::metadata(Path::new("/proc").join(pid).join("ns/net")).ok().map(|meta| meta.ino())
}

/// A program's ticks, with those of its children that have ended; nothing for threads of the kernel.
fn cpu_ticks(stat: &str) -> Option<u64> {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    // proc(5): flags is the 9th, utime, stime, cutime, cstime the 14th to 17th.
    if field(9)? & KERNEL_THREAD != 0 {
        return None;
    }
    (14..=17).map(field).sum()
}

/// Repeats runs that others disturbed, until its time is up: then a disturbed figure is better than none.
pub struct Patience {
    until: Instant,
    runs: u32,
    disturbed: u32,
}

impl Patience {
    /// So much time for repetitions.
    pub fn new(time: Duration) -> Self {
        Self { until: Instant::now() + time, runs: 0, disturbed: 0 }
    }

    /// The figure of a run.
    ///
    /// # Errors
    /// Those of the run.
    pub fn run<R>(&mut self, mut run: impl FnMut() -> anyhow::Result<R>) -> anyhow::Result<R> {
        loop {
            let (start, before) = (Instant::now(), Others::now());
            let figure = run()?;
            let share = Others::now().since(&before) / start.elapsed().as_secs_f64();
            if share > SHARE_MAX && Instant::now() < self.until {
                continue;
            }
            self.runs += 1;
            self.disturbed += u32::from(share > SHARE_MAX);
            return Ok(figure);
        }
    }

    /// What the figures since the last remark have to say of it: nothing where the machine was left alone.
    pub fn remark(&mut self) -> String {
        let (runs, disturbed) = (std::mem::take(&mut self.runs), std::mem::take(&mut self.disturbed));
        if disturbed == 0 {
            String::new()
        } else {
            format!(", {disturbed} of {runs} runs beside other programs")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name_and_not_for_the_kernel() {
        let stat = "42 (a ) b) R 1 42 42 0 -1 4194304 100 0 0 0 5 6 70 800 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(881));
        let kernel = "42 (ksoftirqd/1) S 2 0 0 0 -1 69238848 0 0 0 0 5 6 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(kernel), None);
        assert_eq!(cpu_ticks("42 (short) R 1"), None);
    }

    #[test]
    fn only_what_came_since_counts() {
        let before = Others(BTreeMap::from([(1, 100), (2, 50)]));
        let after = Others(BTreeMap::from([(1, 130), (3, 20)]));
        assert!((after.since(&before) - 0.5).abs() < 1e-9);
        assert!(!Others::now().0.contains_key(&std::process::id()));
    }

    #[test]
    fn an_error_ends_the_patience() {
        let mut patience = Patience::new(Duration::from_secs(3600));
        assert!(patience.run(|| -> anyhow::Result<()> { anyhow::bail!("broken") }).is_err());
        assert_eq!(Patience::new(Duration::ZERO).run(|| Ok(7)).expect("a figure"), 7);
        let mut disturbed = Patience { until: Instant::now(), runs: 5, disturbed: 2 };
        assert_eq!(disturbed.remark(), ", 2 of 5 runs beside other programs");
        assert_eq!(disturbed.remark(), "", "said once");
    }
}
