//! Another baseline of packet rates: the published crate `capsule`, which only forwards. `perf/capsule-baseline` is its
//! program and says more; it is built apart from everything else, and may be missing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::machine::{self, Machine, Pages};
use crate::process::Process;
use crate::testpmd::{self, ANSWER_PATIENCE, Pool, START_PATIENCE};

/// Its program, which is built into the folder of this one.
const PROGRAM: &str = "capsule-baseline";

/// Running, or paused.
pub struct Capsule {
    process: Process,
}

impl Capsule {
    /// Starts it, paused: in by the first port, out by the second.
    ///
    /// # Errors
    /// When it is not built or does not start.
    pub fn start(machine: &Machine, pages: Pages, pool: Pool, capture: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?.with_file_name(PROGRAM);
        ensure!(program.exists(), "the baseline capsule is not built: `make baseline` builds it");
        // A process that finds too few says so in several lines of DPDK's.
        let free_mb = machine::free_huge_mb();
        ensure!(
            pages == Pages::Ordinary || free_mb >= pool.mb.into(),
            "the baseline capsule needs {} MiB of hugepages besides, {free_mb} are free (`sysctl vm.nr_hugepages`)",
            pool.mb
        );
        let mut arguments =
            vec![machine.main_cpu.to_string(), machine.cpu.to_string(), pool.mbufs.to_string()];
        arguments.extend(testpmd::devices(capture));
        arguments.extend(testpmd::eal_options(pages, pool.mb));
        let mut process = Process::spawn(PROGRAM, &program.to_string_lossy(), &arguments)?;
        forwarded(&mut process, START_PATIENCE).context("the baseline capsule does not run")?;
        process.pause()?;
        Ok(Self { process })
    }

    /// The rate at which it forwards, packets per second of its CPU time, over `window`. Paused again then.
    ///
    /// # Errors
    /// When it does not answer, or forwards nothing.
    pub fn rate(&mut self, window: Duration) -> anyhow::Result<f64> {
        self.process.resume()?;
        let rate =
            testpmd::rate_over(&mut self.process, window, |process| forwarded(process, ANSWER_PATIENCE))?;
        self.process.pause()?;
        Ok(rate)
    }
}

/// Packets forwarded so far.
fn forwarded(process: &mut Process, patience: Duration) -> anyhow::Result<u64> {
    process.say("how many?")?;
    process.hear(patience, packets)
}

fn packets(line: &str) -> Option<u64> {
    line.strip_prefix("forwarded: ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_packets_are_read_from_its_own_words() {
        assert_eq!(packets("forwarded: 61234567"), Some(61_234_567));
        assert_eq!(packets("EAL: forwarded: 1"), None);
    }

    #[test]
    fn where_it_is_not_built_one_line_says_how_to() {
        // Tests run beside libraries, not beside programs.
        let machine = Machine { main_cpu: 0, cpu: 0 };
        let pool = Pool { mbufs: 1, data_room_octets: 2176, mb: 1 };
        let missing = Capsule::start(&machine, Pages::Ordinary, pool, Path::new("none.pcap"));
        let error = missing.err().expect("no program").to_string();
        assert!(error.contains("`make baseline`") && !error.contains('\n'), "{error}");
    }
}
