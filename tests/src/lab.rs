//! A lab, as `deploy/lab` builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::wait::wait_until;

/// Where a running lab keeps its files.
pub const ROOT: &str = "/run/ipos-lab";

/// Python with what Debian has no package of; `make setup` makes it.
pub const PYTHON: &str = "/usr/local/lib/ipos-lab/bin/python3";

/// The service's URL.
pub const URL: &str = "http://198.51.100.1";

/// The options of `deploy/lab up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Names it in test names.
    pub name: &'static str,
    /// What `deploy/lab up` is given.
    pub options: &'static [&'static str],
}

/// A lab that is up; dropping it takes it down.
pub struct Lab {
    shape: Shape,
    down: bool,
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
}

/// `deploy/lab` with these arguments, run to its end.
pub fn deploy_lab(arguments: &[&str]) -> Output {
    Command::new(repository().join("deploy/lab")).args(arguments).output().expect("deploy/lab can be run")
}

/// Both outputs of a program as text.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The path of one of the project's programs.
pub fn binary(name: &str) -> PathBuf {
    let directory = std::env::var_os("IPOS_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        target.unwrap_or_else(|| repository().join("target")).join("release")
    });
    directory.join(name)
}

impl Lab {
    /// Brings a lab of this shape up.
    ///
    /// # Panics
    /// When it does not come up; the message is what `deploy/lab` said.
    pub fn up(shape: Shape) -> Self {
        let arguments: Vec<&str> = ["up"].iter().chain(shape.options).copied().collect();
        let output = deploy_lab(&arguments);
        assert!(output.status.success(), "{}", said(&output));
        Self { shape, down: false }
    }

    /// The shape it has.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Takes it down.
    ///
    /// # Panics
    /// When something is left.
    pub fn down(mut self) {
        self.down = true;
        let output = deploy_lab(&["down"]);
        assert!(output.status.success(), "{}", said(&output));
    }

    /// Runs a verb of `deploy/lab`, such as `stop-nginx 1`, and returns what it said.
    ///
    /// # Panics
    /// When it fails.
    pub fn verb(&self, arguments: &[&str]) -> String {
        let output = deploy_lab(arguments);
        assert!(output.status.success(), "deploy/lab {}: {}", arguments.join(" "), said(&output));
        said(&output)
    }

    /// A command that will run inside a namespace.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("ipos-{name}")]).args(arguments);
        command
    }

    /// Runs a command inside a namespace.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Output {
        self.command(name, arguments).output().expect("`ip netns exec` can be run")
    }

    /// Runs a command inside a namespace and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn exec(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.run(name, arguments);
        assert!(output.status.success(), "{}: {}: {}", name, arguments.join(" "), said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sets kernel settings in a namespace until the guard is dropped.
    pub fn sysctls(&self, name: &str, settings: &[(&str, &str)]) -> Settings<'_> {
        let mut before = Vec::new();
        for (key, value) in settings {
            before.push(format!("{key}={}", self.exec(name, &["sysctl", "-n", key]).trim()));
            self.exec(name, &["sysctl", "-qw", &format!("{key}={value}")]);
        }
        Settings { lab: self, name: name.to_owned(), before }
    }

    /// What `ipos-appliance status WHAT --json` says, when the appliance answers.
    pub fn try_status(&self, what: &str) -> Option<Value> {
        let socket = format!("{ROOT}/appliance/admin.sock");
        let output = Command::new(binary("ipos-appliance"))
            .args(["status", what, "--json", "--socket", &socket])
            .output()
            .expect("the appliance's program can be run");
        output.status.success().then(|| {
            serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|error| panic!("status {what}: {error}: {}", said(&output)))
        })
    }

    /// What `ipos-appliance status WHAT --json` says.
    ///
    /// # Panics
    /// When the appliance does not answer.
    pub fn status(&self, what: &str) -> Value {
        self.try_status(what)
            .unwrap_or_else(|| panic!("the appliance does not answer `status {what}`:\n{}", self.logs()))
    }

    /// The names of the boards that the appliance believes alive.
    pub fn alive_boards(&self) -> Vec<String> {
        let servers = self.try_status("servers").unwrap_or_default();
        let rows = servers.as_array().cloned().unwrap_or_default();
        let alive = rows.iter().filter(|row| row["alive"] == true);
        alive.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until exactly these boards are alive for the appliance.
    ///
    /// # Panics
    /// When that does not come true in time.
    pub fn wait_alive(&self, boards: &[&str]) {
        wait_until(&format!("boards alive: {boards:?}"), Duration::from_secs(10), || {
            (self.alive_boards() == boards).then_some(())
        });
    }

    /// The value of a metric: the sum over all its lines that contain every one of `labels`.
    ///
    /// # Panics
    /// When there is no such line.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        assert!(!values.is_empty(), "/metrics has no {name} with {labels:?}:\n{text}");
        values.iter().sum()
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        self.exec("appliance", &["curl", "-sS", "-m", "5", "http://127.0.0.1:9464/metrics"])
    }

    /// The appliance's log.
    pub fn appliance_log(&self) -> String {
        fs::read_to_string(format!("{ROOT}/appliance/appliance.log")).unwrap_or_default()
    }

    /// The board's nginx's requests: one line each, see `log_format` in `deploy/lab.d/ipos_lab/board.py`.
    pub fn nginx_log(&self, board: u32) -> String {
        fs::read_to_string(format!("{ROOT}/board{board}/nginx-access.log")).unwrap_or_default()
    }

    /// The end of every log and the appliance's tables, for the message of a test that failed.
    pub fn logs(&self) -> String {
        let mut paths = vec![format!("{ROOT}/appliance/appliance.log")];
        for number in 1.. {
            let path = format!("{ROOT}/board{number}/agent.log");
            if !Path::new(&path).exists() {
                break;
            }
            paths.push(path);
        }
        let mut text = String::new();
        for path in paths {
            let content = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = content.lines().filter(|line| !line.starts_with("lib")).collect();
            let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
            text += &format!("--- {path}\n{}\n", tail.join("\n"));
        }
        for what in ["servers", "packets", "migrations", "flows"] {
            let socket = format!("{ROOT}/appliance/admin.sock");
            let shown =
                Command::new(binary("ipos-appliance")).args(["status", what, "--socket", &socket]).output();
            let shown = shown.map_or_else(|error| error.to_string(), |output| said(&output));
            let head: Vec<&str> = shown.lines().take(40).collect();
            text += &format!("--- status {what}\n{}\n", head.join("\n"));
        }
        for name in ["client", "board1", "board2"] {
            let sockets = said(&self.run(name, &["ss", "-Htno", "( sport = :80 or dport = :80 )"]));
            let head: Vec<&str> =
                sockets.lines().filter(|line| !line.starts_with("TIME-WAIT")).take(20).collect();
            text += &format!("--- sockets of {name}\n{}\n", head.join("\n"));
        }
        text
    }

    /// The SHA-256 of one of the test files: `1k`, `100k`, `10m`.
    pub fn sha256_of(&self, file: &str) -> String {
        let sums = fs::read_to_string(format!("{ROOT}/files/SHA256SUMS")).expect("the lab lists its files");
        let line =
            sums.lines().find(|line| line.ends_with(&format!("  {file}"))).expect("the lab has this file");
        line.split(' ').next().unwrap_or_default().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.down {
            let output = deploy_lab(&["down"]);
            if !output.status.success() {
                eprintln!("the lab did not come down: {}", said(&output));
            }
        }
    }
}

/// Kernel settings that were changed; dropping restores them.
pub struct Settings<'lab> {
    lab: &'lab Lab,
    name: String,
    before: Vec<String>,
}

impl Drop for Settings<'_> {
    fn drop(&mut self) {
        for setting in &self.before {
            self.lab.run(&self.name, &["sysctl", "-qw", setting]);
        }
    }
}
