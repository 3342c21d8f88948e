//! Lcores: the EAL's threads, one job at a time each.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use dpdk_sys as sys;
use thiserror::Error;

use crate::eal::{NotInitialised, Runtime, strerror};

/// Number of an lcore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LcoreId(u32);

impl LcoreId {
    /// The lcore of this number, which may not exist: [`launch`] says so.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// Its number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// NUMA socket that it runs on.
    #[must_use]
    pub fn socket(self) -> u32 {
        // SAFETY: reads a static table, whose bounds DPDK does not check but the condition does.
        if self.0 < sys::DPDK_SYS_MAX_LCORE { unsafe { sys::rte_lcore_to_socket_id(self.0) } } else { 0 }
    }
}

impl fmt::Display for LcoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why something could not be run on an lcore.
#[derive(Debug, Error)]
pub enum LcoreError {
    /// No EAL.
    #[error(transparent)]
    NotInitialised(#[from] NotInitialised),
    /// Not a worker lcore.
    #[error(
        "lcore {lcore} is not a worker: the workers are {workers} (the EAL's lcore map without its main lcore)"
    )]
    NotAWorker {
        /// The lcore.
        lcore: LcoreId,
        /// Worker lcores, in words.
        workers: String,
    },
    /// It has a job.
    #[error("lcore {lcore} is busy: join what was launched there first")]
    Busy {
        /// The lcore.
        lcore: LcoreId,
    },
    /// The EAL did not take the job.
    #[error("lcore {lcore} did not take the job: {reason}")]
    Launch {
        /// The lcore.
        lcore: LcoreId,
        /// DPDK's error in words.
        reason: String,
    },
    /// The job panicked (where panics unwind: a release build aborts).
    #[error("the job on lcore {lcore} panicked: {message}")]
    Panicked {
        /// The lcore.
        lcore: LcoreId,
        /// What it panicked with.
        message: String,
    },
    /// The thread is an lcore already.
    #[error("this thread is lcore {lcore} already: register a thread once, and no EAL thread")]
    AlreadyRegistered {
        /// The lcore.
        lcore: LcoreId,
    },
    /// No lcore number is left, or secondary processes are attached.
    #[error(
        "this thread cannot be registered: {reason} (there are {max} lcore numbers in all, and none to give away \
         while a secondary process is attached)",
        max = sys::DPDK_SYS_MAX_LCORE
    )]
    Register {
        /// DPDK's error in words.
        reason: String,
    },
}

/// The lcore that the calling thread is, if it is one.
#[inline]
#[must_use]
pub fn current() -> Option<LcoreId> {
    // SAFETY: reads a thread-local.
    let id = unsafe { sys::dpdk_sys_rte_lcore_id() };
    (id != sys::DPDK_SYS_LCORE_ID_ANY).then_some(LcoreId(id))
}

/// The EAL's lcores other than the main one, in order; none without an EAL.
#[must_use]
pub fn workers() -> Vec<LcoreId> {
    let Ok(_runtime) = Runtime::current() else { return Vec::new() };
    let mut workers = Vec::new();
    let mut id = u32::MAX;
    loop {
        // SAFETY: reads static tables of the EAL, which runs; starts at 0 after u32::MAX, skips the main lcore, does
        // not wrap.
        id = unsafe { sys::rte_get_next_lcore(id, 1, 0) };
        if id >= sys::DPDK_SYS_MAX_LCORE {
            return workers;
        }
        workers.push(LcoreId(id));
    }
}

/// The main lcore.
///
/// # Errors
/// [`NotInitialised`] without a running EAL.
pub fn main() -> Result<LcoreId, NotInitialised> {
    let _runtime = Runtime::current()?;
    // SAFETY: reads the configuration of the EAL, which runs.
    Ok(LcoreId(unsafe { sys::rte_get_main_lcore() }))
}

/// Whether the calling thread is a worker lcore of the EAL (not the main lcore, not a registered thread).
pub(crate) fn is_worker() -> bool {
    current().is_some_and(|lcore| workers_raw(lcore.0))
}

/// Without the check that the EAL runs, for the moment in which it stops.
fn workers_raw(id: u32) -> bool {
    // SAFETY: reads static tables, which stay after the EAL's end. The lcore after `id - 1` is `id` only if it is one
    // of the EAL's and not the main lcore.
    unsafe { sys::rte_get_next_lcore(id.wrapping_sub(1), 1, 0) == id }
}

/// Where a job leaves its result.
type Slot<R> = Arc<Mutex<Option<Result<R, String>>>>;

/// A job and where its result goes; travels to the lcore as one address.
struct Job<F, R> {
    run: F,
    slot: Slot<R>,
}

/// A job on a worker lcore. Dropping the handle lets it run on; the lcore is free again when it ends.
#[derive(Debug)]
pub struct LcoreHandle<R> {
    lcore: LcoreId,
    slot: Slot<R>,
    _runtime: Arc<Runtime>,
}

/// Runs a closure on a worker lcore, which the EAL has bound to its CPUs. The closure is moved there and dropped there.
///
/// A panic does not cross into DPDK: it is caught and [`LcoreHandle::join`] reports it. (With `panic = "abort"`, as in
/// release builds, it ends the process.)
///
/// # Errors
/// [`LcoreError`] if it is no worker, or is busy.
pub fn launch<F, R>(lcore: LcoreId, run: F) -> Result<LcoreHandle<R>, LcoreError>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    let runtime = Runtime::current()?;
    let workers = workers();
    if !workers.contains(&lcore) {
        let words = workers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let workers = if words.is_empty() { "none".to_owned() } else { words };
        return Err(LcoreError::NotAWorker { lcore, workers });
    }
    let slot: Slot<R> = Arc::new(Mutex::new(None));
    let job = Box::into_raw(Box::new(Job { run, slot: Arc::clone(&slot) }));
    // SAFETY: the EAL runs and `lcore` is one of its workers; the trampoline is the one for this type of job, and takes
    // the job over.
    match unsafe { sys::rte_eal_remote_launch(Some(trampoline::<F, R>), job.cast::<c_void>(), lcore.0) } {
        0 => Ok(LcoreHandle { lcore, slot, _runtime: runtime }),
        error => {
            // SAFETY: the job was not taken, so the box is still ours alone.
            drop(unsafe { Box::from_raw(job) });
            match -error {
                libc::EBUSY => Err(LcoreError::Busy { lcore }),
                errno => Err(LcoreError::Launch { lcore, reason: strerror(errno) }),
            }
        }
    }
}

/// What the EAL calls on the lcore.
///
/// # Safety
/// `job` comes from `Box::into_raw` of a `Job<F, R>`, and is passed once.
unsafe extern "C" fn trampoline<F: FnOnce() -> R, R>(job: *mut c_void) -> c_int {
    // SAFETY: the caller's contract.
    let Job { run, slot } = *unsafe { Box::from_raw(job.cast::<Job<F, R>>()) };
    // Unwinding out of here would be undefined, and nobody sees what the closure left half done: it is gone.
    let outcome = catch_unwind(AssertUnwindSafe(run)).map_err(panic_message);
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    0
}

fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| payload.downcast_ref::<String>().cloned());
    // Dropping a payload may panic again; it is small and this is rare.
    std::mem::forget(payload);
    message.unwrap_or_else(|| "(no message)".to_owned())
}

impl<R> LcoreHandle<R> {
    /// The lcore.
    #[must_use]
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }

    /// Whether the job is done, so that [`LcoreHandle::join`] does not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Waits until the lcore is idle again, spinning as DPDK does, and returns the job's result. It waits for a later
    /// job on the same lcore too, and for ever in the job itself.
    ///
    /// # Errors
    /// [`LcoreError::Panicked`] where panics unwind.
    pub fn join(self) -> Result<R, LcoreError> {
        loop {
            // SAFETY: the lcore is one of the EAL's, which `self` keeps running.
            unsafe { sys::rte_eal_wait_lcore(self.lcore.0) };
            let outcome = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(outcome) = outcome {
                return outcome.map_err(|message| LcoreError::Panicked { lcore: self.lcore, message });
            }
            crate::clock::pause();
        }
    }
}

/// A registered thread: has an lcore number, hence mempool caches of its own, until the guard is dropped.
#[derive(Debug)]
pub struct ThreadRegistration {
    lcore: LcoreId,
    _runtime: Arc<Runtime>,
    /// The number belongs to the thread: the guard must not leave it.
    _not_send: PhantomData<*const ()>,
}

/// Registers the calling thread, which the EAL did not start.
///
/// # Errors
/// [`LcoreError::AlreadyRegistered`] on an lcore, [`LcoreError::Register`] if no number is left.
pub fn register_thread() -> Result<ThreadRegistration, LcoreError> {
    let runtime = Runtime::current()?;
    if let Some(lcore) = current() {
        return Err(LcoreError::AlreadyRegistered { lcore });
    }
    // SAFETY: the EAL runs, and this thread has no lcore number.
    let error = unsafe { sys::rte_thread_register() };
    match current() {
        Some(lcore) if error == 0 => {
            Ok(ThreadRegistration { lcore, _runtime: runtime, _not_send: PhantomData })
        }
        // SAFETY: reads a thread-local.
        _ => Err(LcoreError::Register { reason: strerror(unsafe { sys::dpdk_sys_rte_errno() }) }),
    }
}

impl ThreadRegistration {
    /// The thread's lcore number.
    #[must_use]
    pub fn lcore(&self) -> LcoreId {
        self.lcore
    }
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        // SAFETY: the guard is not Send, so this is the registered thread; the EAL runs as long as the guard lives.
        unsafe { sys::rte_thread_unregister() };
    }
}
