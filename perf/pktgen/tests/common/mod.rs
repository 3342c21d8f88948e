//! Running the program, and places for its files.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything in these tests may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A directory of a test's own, removed with it.
pub struct Scratch(PathBuf);

/// A new directory.
pub fn scratch() -> Scratch {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("ipos-pktgen-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).expect("a directory for the test");
    Scratch(path)
}

impl Scratch {
    /// A file in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that has ended.
pub struct Done {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A program that runs; killed when the test fails.
pub struct Running(Child);

/// Starts a program.
pub fn spawn(mut command: Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(command.spawn().expect("a program that starts"))
}

/// Starts the generator without hugepages, polite to who shares its CPU, and with time to send everything on a machine
/// that takes the CPU away for a while: these tests count packets, they do not time them.
pub fn start(options: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipos-pktgen"));
    command.args(options).args(["--memory", "no-huge", "--idle", "yield", "--overtime-ms", "20000"]);
    spawn(command)
}

/// Runs the generator to its end.
pub fn pktgen(options: &[&str]) -> Done {
    start(options).wait()
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn interrupt(&self) {
        self.signal("-INT");
    }

    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// The generator has started its ports once its thread is bound to one CPU and busy.
    pub fn wait_until_it_sends(&self) {
        let stat = format!("/proc/{}/stat", self.pid());
        wait("the generator polls", || {
            let text = fs::read_to_string(&stat).unwrap_or_default();
            let behind_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
            let ticks = behind_name.split(' ').nth(11).and_then(|ticks| ticks.parse::<u64>().ok());
            ticks.is_some_and(|ticks| ticks > 30)
        });
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Done {
        let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
            thread::spawn(move || {
                let mut text = String::new();
                pipe.map(|mut pipe| pipe.read_to_string(&mut text));
                text
            })
        };
        let stdout = read(self.0.stdout.take().map(|pipe| Box::new(pipe) as _));
        let stderr = read(self.0.stderr.take().map(|pipe| Box::new(pipe) as _));
        let mut status = None;
        wait("the program ends", || {
            status = self.0.try_wait().expect("a child of ours");
            status.is_some()
        });
        Done {
            status: status.and_then(|status| status.code()).unwrap_or(-1),
            stdout: stdout.join().expect("its output"),
            stderr: stderr.join().expect("its errors"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Waits for something that tells nobody when it happens.
#[track_caller]
pub fn wait(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !happened() {
        assert!(Instant::now() < end, "{what}: not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A report.
pub fn report(path: &str) -> serde_json::Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).expect("a report in JSON")
}
