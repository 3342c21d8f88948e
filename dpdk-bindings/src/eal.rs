//! The environment abstraction layer: started once per process, cleaned up when the last handle that needs it goes.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dpdk_sys as sys;
use thiserror::Error;

use crate::eal_check;

/// Where the EAL takes its memory from (design: dependencies.md, "DPDK facts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages: what production uses.
    Hugepages {
        /// How much to take at the start, in MiB.
        mb: u32,
        /// Anonymous: no files in hugetlbfs, nothing left behind after a crash, no secondary processes.
        in_memory: bool,
    },
    /// Ordinary pages, for machines without hugepages and for tests: about half as fast.
    NoHuge {
        /// All there will be, in MiB: this heap cannot grow. Pages that are never touched cost nothing.
        mb: u32,
    },
}

/// How much DPDK's own log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    #[default]
    Warning,
    /// And what is normal but worth a line.
    Notice,
    /// And what is informative.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// What the EAL is started with; each field becomes the EAL option of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EalConfig {
    /// Name of the program in DPDK's log.
    pub program: String,
    /// Map of lcores to CPUs in the syntax of `--lcores`: `0@0,1@1`, or `(0-3)@(0-1)` for lcores that float.
    pub lcores: String,
    /// The lcore that the thread which calls [`Eal::init`] becomes.
    pub main_lcore: u32,
    /// Where memory comes from.
    pub memory: Memory,
    /// Look for no PCI device at all.
    pub no_pci: bool,
    /// PCI devices to use, as `0000:03:00.0` or with driver arguments after a comma; empty for all that are bound.
    pub allow: Vec<String>,
    /// Virtual devices with their arguments, such as `net_af_packet0,iface=eth0`.
    pub vdevs: Vec<String>,
    /// Sets the files of this process apart from those of others; processes that run at once need different ones.
    pub file_prefix: String,
    /// How much DPDK's own log says.
    pub log_level: LogLevel,
    /// Further EAL options, after all others: of two that contradict each other the last wins.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    /// One lcore on CPU 0, 512 MiB of anonymous hugepages, all bound PCI devices, a prefix with the process id.
    fn default() -> Self {
        Self {
            program: "ipos".to_owned(),
            lcores: "0@0".to_owned(),
            main_lcore: 0,
            memory: Memory::Hugepages { mb: 512, in_memory: true },
            no_pci: false,
            allow: Vec::new(),
            vdevs: Vec::new(),
            file_prefix: format!("ipos-{}", std::process::id()),
            log_level: LogLevel::default(),
            extra: Vec::new(),
        }
    }
}

/// Why the EAL did not start, and what mends it.
#[derive(Debug, Error)]
pub enum EalError {
    /// DPDK's own rule: one start per process, even after a clean-up.
    #[error("the EAL was already started in this process; DPDK allows one start per process")]
    AlreadyInitialised,
    /// An argument with a zero octet.
    #[error("EAL option {option:?} holds a zero octet: remove it")]
    ZeroOctet {
        /// The option.
        option: String,
    },
    /// The lcore map cannot be read.
    #[error("lcore map {lcores:?} cannot be read at {at:?}: write it like `0@0,1@1` or `(0-3)@(0-1)`")]
    LcoreMap {
        /// The map.
        lcores: String,
        /// The part that is wrong.
        at: String,
    },
    /// A lcore number above what DPDK was built for.
    #[error("lcore map {lcores:?} names lcore {lcore}, but the installed DPDK has lcores 0 to {last}")]
    NoSuchLcore {
        /// The map.
        lcores: String,
        /// The lcore.
        lcore: u32,
        /// The highest lcore number.
        last: u32,
    },
    /// A CPU that the machine does not have, or has switched off.
    #[error("lcore map {lcores:?} names CPU {cpu}, which is not online here: online are {online}")]
    NoSuchCpu {
        /// The map.
        lcores: String,
        /// The CPU.
        cpu: u32,
        /// CPUs that are online, as the kernel lists them.
        online: String,
    },
    /// The main lcore is not in the map.
    #[error(
        "main lcore {main_lcore} is not in the lcore map {lcores:?}: add it there, or choose one that is"
    )]
    MainLcore {
        /// The main lcore.
        main_lcore: u32,
        /// The map.
        lcores: String,
    },
    /// Not enough free hugepages.
    #[error(
        "{wanted_mb} MiB of hugepages are wanted and {free_mb} MiB are free: run `sysctl -w \
         vm.nr_hugepages={pages}`, stop what holds them, or run without hugepages"
    )]
    Hugepages {
        /// Asked for, in MiB.
        wanted_mb: u64,
        /// Free in all sizes, in MiB.
        free_mb: u64,
        /// Number of pages of the default size that would do.
        pages: u64,
    },
    /// A PCI device that the machine does not have.
    #[error("PCI device {address} does not exist here (network devices: {present}): correct the address")]
    NoSuchPciDevice {
        /// The address.
        address: String,
        /// Network devices that exist.
        present: String,
    },
    /// A PCI device that no DPDK driver took.
    #[error(
        "PCI device {address} gave no port; the kernel has it bound to {driver}. Run `dpdk-devbind.py \
         --bind=vfio-pci {address}` (mlx4 and mlx5 devices keep their kernel driver). DPDK said: {said}"
    )]
    PciNotProbed {
        /// The address.
        address: String,
        /// Kernel driver that the device is bound to.
        driver: String,
        /// What DPDK logged.
        said: String,
    },
    /// A virtual device that could not be made.
    #[error(
        "virtual device {vdev:?} could not be made: check its driver's name, its arguments, that its interface \
         exists, and that this process may use it (CAP_NET_RAW and CAP_NET_ADMIN; af_xdp also CAP_SYS_ADMIN, \
         CAP_BPF and CAP_IPC_LOCK). DPDK said: {said}"
    )]
    Vdev {
        /// The device with its arguments.
        vdev: String,
        /// What DPDK logged.
        said: String,
    },
    /// The kernel refused something.
    #[error(
        "the EAL may not start as this user: run as root, or give CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_NET_ADMIN and \
         CAP_NET_RAW. DPDK said: {said}"
    )]
    Permission {
        /// What DPDK logged.
        said: String,
    },
    /// Anything else.
    #[error("the EAL did not start: {reason}. DPDK said: {said}. Options: {options}")]
    Init {
        /// DPDK's error in words.
        reason: String,
        /// What DPDK logged.
        said: String,
        /// The command line it was given.
        options: String,
    },
}

/// Something was asked for that needs a running EAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the EAL is not running: call Eal::init first, and keep what it returns")]
pub struct NotInitialised;

/// The running EAL. Dropping it cleans up as soon as nothing else (port, queue, mempool, lcore handle) needs it.
#[derive(Debug)]
pub struct Eal {
    runtime: Arc<Runtime>,
}

/// What every owner in this crate keeps a share of, so that the EAL goes last.
#[derive(Debug)]
pub(crate) struct Runtime {
    init_log: String,
    runtime_dir: PathBuf,
}

/// DPDK's `rte_eal_init` works once per process, even if it fails.
static STARTED: AtomicBool = AtomicBool::new(false);
static RUNNING: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

impl Eal {
    /// Starts the EAL. The calling thread becomes the main lcore, **and is bound to its CPUs**, as are threads that it
    /// starts later.
    ///
    /// Virtual devices and allowed PCI devices are checked: each must have become a port.
    ///
    /// # Errors
    /// [`EalError`] names the cause and the cure. What can be checked beforehand is, and may then be tried again;
    /// after an error from DPDK itself the process cannot start the EAL any more.
    pub fn init(config: &EalConfig) -> Result<Self, EalError> {
        let arguments = arguments(config)?;
        if STARTED.load(Ordering::Acquire) {
            return Err(EalError::AlreadyInitialised);
        }
        eal_check::before(config)?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyInitialised);
        }
        let options = arguments.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let log = LogCapture::start();
        let outcome = eal_init(arguments);
        let init_log = log.finish();
        let runtime_dir = runtime_dir();
        if let Err(errno) = outcome {
            // Empty unless another process shares the prefix; then it is not ours to remove.
            let _ = std::fs::remove_dir(&runtime_dir);
            return Err(init_error(errno, &init_log, options));
        }
        let runtime = Arc::new(Runtime { init_log, runtime_dir });
        // Without shared configuration nothing is kept in there: gone now, it cannot be left behind by SIGKILL.
        let _ = std::fs::remove_dir(&runtime.runtime_dir);
        *running() = Arc::downgrade(&runtime);
        let eal = Self { runtime };
        eal_check::after(config, eal.init_log())?;
        Ok(eal)
    }

    /// What DPDK logged while it started, as far as [`EalConfig::log_level`] lets it through.
    #[must_use]
    pub fn init_log(&self) -> &str {
        &self.runtime.init_log
    }

    /// Version of the library that is loaded, such as `DPDK 22.11.11`.
    #[must_use]
    pub fn version(&self) -> String {
        // SAFETY: returns a zero-terminated string that is never freed.
        unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
    }

    /// Whether memory comes from hugepages.
    #[must_use]
    pub fn has_hugepages(&self) -> bool {
        // SAFETY: reads the configuration of the EAL, which runs while `self` lives.
        unsafe { sys::rte_eal_has_hugepages() != 0 }
    }
}

impl Runtime {
    /// The running EAL.
    pub(crate) fn current() -> Result<Arc<Self>, NotInitialised> {
        running().upgrade().ok_or(NotInitialised)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A worker cannot wait for itself: if a worker's closure held the last share, the kernel cleans up at exit.
        if crate::lcore::is_worker() {
            return;
        }
        // SAFETY: this was the last share, so no owner is left that could use the EAL afterwards; workers have
        // returned, because the first call waits for each of them.
        unsafe {
            sys::rte_eal_mp_wait_lcore();
            sys::rte_eal_cleanup();
        }
        let _ = std::fs::remove_dir(&self.runtime_dir);
    }
}

fn running() -> MutexGuard<'static, Weak<Runtime>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// DPDK's words for an error number.
pub(crate) fn strerror(errno: i32) -> String {
    // SAFETY: returns a zero-terminated string in thread-local or static memory, copied at once.
    unsafe { CStr::from_ptr(sys::rte_strerror(errno.abs())) }.to_string_lossy().into_owned()
}

fn runtime_dir() -> PathBuf {
    // SAFETY: returns the address of a static, zero-terminated buffer.
    let directory = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
    PathBuf::from(directory.to_string_lossy().into_owned())
}

/// The EAL's command line.
fn arguments(config: &EalConfig) -> Result<Vec<CString>, EalError> {
    let mut options = vec![
        config.program.clone(),
        format!("--lcores={}", config.lcores),
        format!("--main-lcore={}", config.main_lcore),
        format!("--file-prefix={}", config.file_prefix),
        format!("--log-level={}", config.log_level.as_str()),
        "--no-telemetry".to_owned(),
    ];
    match config.memory {
        Memory::Hugepages { mb, in_memory } => {
            options.extend(["-m".to_owned(), mb.to_string()]);
            options.extend(in_memory.then(|| "--in-memory".to_owned()));
        }
        // `--in-memory` is excluded here; what it would bring, no files, is `--no-shconf`.
        Memory::NoHuge { mb } => {
            options.extend([
                "-m".to_owned(),
                mb.to_string(),
                "--no-huge".to_owned(),
                "--no-shconf".to_owned(),
            ]);
        }
    }
    if config.no_pci {
        options.push("--no-pci".to_owned());
    }
    options.extend(config.allow.iter().map(|device| format!("--allow={device}")));
    options.extend(config.vdevs.iter().map(|device| format!("--vdev={device}")));
    options.extend(config.extra.iter().cloned());
    options
        .into_iter()
        .map(|option| CString::new(option.clone()).map_err(|_| EalError::ZeroOctet { option }))
        .collect()
}

/// Calls `rte_eal_init`; the error is `rte_errno`.
fn eal_init(arguments: Vec<CString>) -> Result<(), i32> {
    // Leaked, once per process: the EAL keeps addresses into its command line.
    let mut argv: Vec<*mut c_char> = arguments.into_iter().map(CString::into_raw).collect();
    let Ok(argc) = c_int::try_from(argv.len()) else { return Err(libc::E2BIG) };
    argv.push(ptr::null_mut());
    let argv = argv.leak();
    // SAFETY: argv has argc zero-terminated, writable strings and a null after them, and lives as long as the process.
    if unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) } >= 0 {
        return Ok(());
    }
    // SAFETY: reads a thread-local.
    Err(unsafe { sys::dpdk_sys_rte_errno() })
}

fn init_error(errno: i32, log: &str, options: String) -> EalError {
    let said = eal_check::last_words(log);
    match errno {
        libc::EACCES | libc::EPERM => EalError::Permission { said },
        _ => EalError::Init { reason: strerror(errno), said, options },
    }
}

/// Collects what DPDK logs, so that errors can quote it.
struct LogCapture {
    stream: *mut libc::FILE,
    /// Where the C library keeps the text: it writes through these addresses as long as the stream lives.
    text: &'static mut (*mut c_char, usize),
}

impl LogCapture {
    fn start() -> Self {
        let text: &'static mut (*mut c_char, usize) = Box::leak(Box::new((ptr::null_mut(), 0)));
        // SAFETY: both addresses stay valid for ever.
        let stream = unsafe { libc::open_memstream(&raw mut text.0, &raw mut text.1) };
        if !stream.is_null() {
            // SAFETY: an open stream, which is never closed.
            unsafe { sys::rte_openlog_stream(stream.cast()) };
        }
        Self { stream, text }
    }

    /// Gives the log back to DPDK. The stream is not closed, once per process: one of DPDK's threads may be in the
    /// middle of a line.
    fn finish(self) -> String {
        if self.stream.is_null() {
            return String::new();
        }
        // SAFETY: a null stream means DPDK's default; the stream is open, so it may be flushed.
        let flushed = unsafe {
            sys::rte_openlog_stream(ptr::null_mut());
            libc::fflush(self.stream) == 0
        };
        let (text, octets) = (self.text.0, self.text.1);
        if !flushed || text.is_null() {
            return String::new();
        }
        // SAFETY: after a flush the address and the length describe the text written so far. A line that a DPDK thread
        // is still writing could move the buffer; all threads that log during the start have by then reached their
        // waiting state.
        let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), octets) };
        String::from_utf8_lossy(bytes).into_owned()
    }
}
