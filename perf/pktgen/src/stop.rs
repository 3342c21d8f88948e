//! Ctrl-C and SIGTERM: the first asks for an orderly end with a report, the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Set when the run shall end.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

/// Exit status after the second signal: as a shell has it for SIGINT.
const INTERRUPTED: i32 = 130;

impl Stop {
    /// Takes the signals over. To be called before any other thread is started, because threads inherit who is deaf to
    /// signals: only the thread started here hears them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn on_signals() -> nix::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let stop = Self::default();
        let flag = stop.clone();
        thread::spawn(move || {
            while signals.wait().is_ok() {
                if flag.is_set() {
                    std::process::exit(INTERRUPTED);
                }
                flag.set();
            }
        });
        Ok(stop)
    }

    /// Asks for the end.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
