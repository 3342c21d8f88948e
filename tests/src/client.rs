//! Clients in the lab's client namespace: curl, and the Python programs of `clients/`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::Value;

use crate::lab::{Lab, URL, repository, said};

/// What curl got.
#[derive(Debug)]
pub struct Curl {
    /// The status of the last response.
    pub status: u16,
    /// The board that answered; empty when the appliance itself did.
    pub board: String,
    /// Octets of the body.
    pub octets: u64,
    /// New connections that curl made.
    pub connects: u32,
    /// SHA-256 of the body.
    pub sha256: String,
    /// The body, as text.
    pub body: String,
}

impl Curl {
    /// Requests a path with these further arguments of curl's.
    ///
    /// # Errors
    /// What curl said, when it failed.
    pub fn attempt(lab: &Lab, path: &str, arguments: &[&str]) -> Result<Self, String> {
        let url = format!("{URL}{path}");
        let format = "\n%{http_code} %{size_download} %{num_connects} %header{x-board}";
        let mut all = vec!["curl", "-sS", "-m", "30", "-w", format];
        all.extend(arguments);
        all.push(&url);
        let output = lab.run("client", &all);
        if !output.status.success() {
            return Err(format!("curl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)));
        }
        let end =
            output.stdout.iter().rposition(|octet| *octet == b'\n').ok_or("curl wrote no result line")?;
        let (body, last) = output.stdout.split_at(end);
        let words: Vec<String> =
            String::from_utf8_lossy(last).split_whitespace().map(str::to_owned).collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        Ok(Self {
            status: number(0) as u16,
            octets: number(1),
            connects: number(2) as u32,
            board: words.get(3).cloned().unwrap_or_default(),
            sha256: sha256(body),
            body: String::from_utf8_lossy(body).into_owned(),
        })
    }

    /// Requests a path with these further arguments of curl's.
    ///
    /// # Panics
    /// When curl fails.
    pub fn get(lab: &Lab, path: &str, arguments: &[&str]) -> Self {
        Self::attempt(lab, path, arguments).unwrap_or_else(|error| panic!("{path}: {error}\n{}", lab.logs()))
    }
}

/// SHA-256 of these octets, by coreutils.
pub fn sha256(octets: &[u8]) -> String {
    let mut child = std::process::Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum can be run");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    stdin.write_all(octets).expect("sha256sum reads all of it");
    drop(stdin);
    let output = child.wait_with_output().expect("sha256sum ends");
    said(&output).split(" ").next().unwrap_or_default().to_owned()
}

/// One of the programs of `clients/`, running: it speaks in JSON lines.
pub struct Script {
    name: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Script {
    /// Starts a program in a namespace.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(lab: &Lab, namespace: &str, name: &str, arguments: &[&str]) -> Self {
        Self::start_by("/usr/bin/python3", lab, namespace, name, arguments)
    }

    /// The same by a Python of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_by(python: &str, lab: &Lab, namespace: &str, name: &str, arguments: &[&str]) -> Self {
        let path = repository().join("tests/clients").join(name);
        let path = path.to_string_lossy();
        let all: Vec<&str> = [python, "-B", &path].into_iter().chain(arguments.iter().copied()).collect();
        let mut child = lab
            .command(namespace, &all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 can be run");
        let stdin = child.stdin.take().expect("its input is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("its output is a pipe"));
        Self { name: format!("{name} {}", arguments.join(" ")), child, stdin, stdout }
    }

    /// The next line that it says.
    ///
    /// # Panics
    /// When it ends instead; its own error is on standard error.
    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("its output can be read");
        serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{} ended instead of saying something: {line:?}", self.name))
    }

    /// Tells it to go on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn go_on(&mut self) {
        writeln!(self.stdin, "go on").unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
    }

    /// Tells it something, on a line.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap_or_else(|error| panic!("{} has ended: {error}", self.name));
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Runs a program to its end and returns the one line that it says.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn once(lab: &Lab, name: &str, arguments: &[&str]) -> Value {
        Self::start(lab, "client", name, arguments).hear()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
