//! Processes that are measured in turns: each is stopped while another runs, so that all of them use the same CPU, one at a
//! time, within one run.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Lines of a process's output that an error quotes.
const QUOTED_LINES: usize = 4;

/// A process that is spoken with in lines.
pub struct Process {
    name: String,
    child: std::process::Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    last: Vec<String>,
}

impl Process {
    /// Starts one. It dies with this process.
    ///
    /// # Errors
    /// When it is not installed, or cannot be started.
    pub fn spawn(name: &str, program: &str, arguments: &[String]) -> anyhow::Result<Self> {
        // A stopped process would stay for ever if this one were killed; and C programs keep back what they write into a
        // pipe unless they are told to end it with every line.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "stdbuf", "-oL", program]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting setpriv (install util-linux)")?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            bail!("{name}: no pipes");
        };
        let (tell, lines) = mpsc::channel();
        read_lines(stdout, tell.clone());
        read_lines(stderr, tell);
        Ok(Self { name: name.to_owned(), child, stdin, lines, last: Vec::new() })
    }

    /// Says a line.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let said = writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush());
        said.map_err(|_| self.failure("ended early"))
    }

    /// Waits for a line that `wanted` takes.
    ///
    /// # Errors
    /// When it ends, or time is up, before there is one.
    pub fn hear<R>(&mut self, patience: Duration, wanted: impl Fn(&str) -> Option<R>) -> anyhow::Result<R> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return Ok(found);
                    }
                    if !line.trim().is_empty() {
                        self.last.push(line);
                        let surplus = self.last.len().saturating_sub(QUOTED_LINES);
                        self.last.drain(..surplus);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.failure("ended early")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.failure(&format!("said nothing of use for {} s", patience.as_secs())));
                }
            }
        }
    }

    fn failure(&self, what: &str) -> anyhow::Error {
        let words: Vec<&str> = self.last.iter().map(|line| line.trim()).collect();
        anyhow::anyhow!("{} {what}; its last words: {}", self.name, words.join(" | "))
    }

    /// What it is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it where it is.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal)
            .with_context(|| format!("{}: {signal}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(from: impl Read + Send + 'static, tell: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn spawn(program: &str) -> Process {
        Process::spawn(program, program, &[]).expect("a process")
    }

    #[test]
    fn what_is_said_to_cat_is_heard_from_it_and_a_stopped_process_is_silent() {
        let mut cat = spawn("cat");
        cat.say("one").expect("cat listens");
        assert_eq!(cat.hear(PATIENCE, |line| (line == "one").then_some(1)).expect("an echo"), 1);
        cat.pause().expect("cat runs");
        cat.say("two").expect("the pipe has room");
        assert!(cat.hear(Duration::from_millis(50), |line| Some(line.to_owned())).is_err());
        cat.resume().expect("cat is there");
        assert_eq!(cat.hear(PATIENCE, |line| Some(line.to_owned())).expect("an echo"), "two");
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let mut missing = spawn("no-such-program");
        let error = missing.hear(PATIENCE, |_| None::<()>).expect_err("it does not run").to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }
}
