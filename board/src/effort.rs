//! Bounds what work costs whose size is not known beforehand, such as looking through all processes.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Work under way, measured by the CPU that this thread takes for it: others' work does not count.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    begin: Duration,
}

impl Work {
    /// It begins now.
    pub fn begin() -> Work {
        Work { begin: thread_cpu() }
    }
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// When it may be done again.
#[derive(Debug, Default)]
pub struct Effort {
    next: Option<Instant>,
}

impl Effort {
    /// What was done rests for so many times as long as it took: it never takes more than a quarter of a percent of a core.
    const REST: u32 = 400;

    /// Whether it may be done now.
    pub fn is_allowed(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// It is done; it rests `times` as long as it must.
    pub fn rest(&mut self, work: Work, times: u32) {
        let took = thread_cpu().saturating_sub(work.begin);
        self.next = Some(Instant::now() + took * Self::REST * times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_rests_long() {
        let mut effort = Effort::default();
        let now = Instant::now();
        assert!(effort.is_allowed(now));
        effort.rest(Work { begin: thread_cpu().saturating_sub(Duration::from_millis(10)) }, 1);
        let mut twice = Effort::default();
        twice.rest(Work { begin: thread_cpu().saturating_sub(Duration::from_millis(10)) }, 2);
        // A thread that has not had ten milliseconds yet has had more than nothing.
        assert!(!twice.is_allowed(now) && twice.next > effort.next);
        assert!(effort.is_allowed(now + Duration::from_secs(3600)));
    }

    #[test]
    fn sleep_is_no_work() {
        let work = Work::begin();
        std::thread::park_timeout(Duration::from_millis(50));
        let mut effort = Effort::default();
        effort.rest(work, 1);
        assert!(effort.is_allowed(Instant::now() + Duration::from_secs(10)), "50 ms of work would rest 20 s");
    }
}
