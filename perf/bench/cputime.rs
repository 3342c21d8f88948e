//! CPU time.
//!
//! Rates are per second that a process had the CPU, of which the polling thread takes all but a thousandth: on a machine of
//! its own that is the time on the wall, and where something else runs for a while, neither side is billed for it.

use anyhow::Context as _;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time of a process, nanoseconds.
///
/// # Errors
/// When it is gone.
pub fn process_ns(pid: u32) -> anyhow::Result<u64> {
    read(clock_getcpuclockid(Pid::from_raw(pid as i32)).context("the process's CPU clock")?)
}

/// CPU time of the calling thread, nanoseconds.
///
/// # Errors
/// Never: every thread has one.
pub fn thread_ns() -> anyhow::Result<u64> {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> anyhow::Result<u64> {
    let time = clock_gettime(clock).context("reading a CPU clock")?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn spinning_takes_cpu_time_and_never_more_than_there_is() {
        let (thread, process) =
            (thread_ns().expect("a clock"), process_ns(std::process::id()).expect("a clock"));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(20) {}
        let ran = thread_ns().expect("a clock") - thread;
        assert!((1..=start.elapsed().as_nanos() as u64).contains(&ran), "{ran} ns");
        assert!(process_ns(std::process::id()).expect("a clock") - process >= ran);
    }

    #[test]
    fn a_process_that_is_not_there_has_no_clock() {
        // Just above the kernel's highest process id (PID_MAX_LIMIT), so that it can be nobody's.
        assert!(process_ns(4_194_305).is_err());
    }
}
