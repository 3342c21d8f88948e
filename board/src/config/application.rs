//! `[[application]]`: what the agent may start when an appliance asks for it (docs/board.md).

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use ipos_wire::ipos::ApplicationName;
use toml::de::{DeTable, DeValue};

use super::{Reader, Value};

/// Most applications of one board.
pub const APPLICATIONS_MAX: usize = 64;

/// Where an application's standard output and error go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To the agent's own standard error: the journal, under systemd.
    Journal,
    /// Appended to a file.
    File(PathBuf),
}

/// What the kernel holds an instance to, where cgroups can be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, MiB.
    pub memory_mb: Option<u32>,
    /// CPU time, percent of one core.
    pub cpu_percent: Option<u32>,
}

/// One application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// What appliances call it.
    pub name: ApplicationName,
    /// Program, by its whole path, and its arguments. No shell reads it.
    pub command: Vec<String>,
    /// Whose rights it runs with.
    pub user: String,
    /// Its environment, besides HOME, LOGNAME, PATH, USER and IPOS_INSTANCE.
    pub environment: Vec<(String, String)>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Where it listens once it is ready.
    pub listen: SocketAddrV4,
    /// Memory that an instance needs, MiB; 0 unknown.
    pub memory_mb: u32,
    /// CPU that an instance needs, percent of one core; 0 unknown.
    pub cpu_percent: u16,
    /// Most instances at once.
    pub instances_max: u16,
    /// From its start until it must listen.
    pub start_timeout: Duration,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
    /// Where its output goes.
    pub output: Output,
    /// What the kernel holds it to.
    pub limits: Limits,
}

const KEYS: [&str; 13] = [
    "name",
    "command",
    "user",
    "environment",
    "directory",
    "listen",
    "memory_mb",
    "cpu_percent",
    "instances_max",
    "start_timeout_ms",
    "stop_timeout_ms",
    "output",
    "limits",
];

const MEMORY_MB: std::ops::Range<u32> = 1..(1 << 24) + 1;
const CPU_PERCENT: std::ops::Range<u32> = 1..65_001;
const TIMEOUT_MS: std::ops::Range<u32> = 10..3_600_001;

impl Reader<'_> {
    /// Every `[[application]]`.
    pub(super) fn applications(&mut self, table: &DeTable<'_>) -> Option<Vec<Application>> {
        let Some(value) = table.get("application") else { return Some(Vec::new()) };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong("application", value, "a list of tables: write [[application]]");
            return None;
        };
        if items.len() > APPLICATIONS_MAX {
            self.problem(value.span(), format!("more than {APPLICATIONS_MAX} applications"));
        }
        let read: Vec<_> = items.iter().map(|item| self.application(item)).collect();
        let applications: Vec<Application> = read.into_iter().collect::<Option<_>>()?;
        for (index, (application, item)) in applications.iter().zip(items).enumerate() {
            let mut earlier = applications.iter().take(index);
            if earlier.any(|earlier| earlier.name == application.name) {
                let message = format!("a second application named {:?}", application.name.as_str());
                self.problem(item.span(), message);
            }
        }
        Some(applications)
    }

    fn application(&mut self, item: Value<'_, '_>) -> Option<Application> {
        let DeValue::Table(table) = item.get_ref() else {
            self.wrong("application", item, "a table: write [[application]]");
            return None;
        };
        self.unknown_keys(table, &KEYS);
        let name = self.name(item, table);
        let command = self.command(item, table);
        let user = self.needed(item, table, "user", "the name of the user whose rights it runs with");
        let listen = self.listen(item, table);
        let environment = self.environment(table);
        let directory = self.path_or(table, "directory", "/");
        let memory_mb = self.number_or(table, "memory_mb", 0, 0..MEMORY_MB.end);
        let cpu_percent = self.number_or(table, "cpu_percent", 0, 0..CPU_PERCENT.end);
        let instances_max = self.number_or(table, "instances_max", 1, 1..65);
        let start_ms = self.number_or(table, "start_timeout_ms", 5_000, TIMEOUT_MS);
        let stop_ms = self.number_or(table, "stop_timeout_ms", 5_000, TIMEOUT_MS);
        let output = self.output(table);
        let limits = self.limits(table);
        Some(Application {
            name: name?,
            command: command?,
            user: user?,
            environment: environment?,
            directory: directory?,
            listen: listen?,
            memory_mb: memory_mb?,
            cpu_percent: cpu_percent? as u16,
            instances_max: instances_max? as u16,
            start_timeout: Duration::from_millis(start_ms?.into()),
            stop_timeout: Duration::from_millis(stop_ms?.into()),
            output: output?,
            limits: limits?,
        })
    }

    /// A string that the application must have.
    fn needed(
        &mut self,
        item: Value<'_, '_>,
        table: &DeTable<'_>,
        key: &str,
        expected: &str,
    ) -> Option<String> {
        match table.get(key) {
            Some(value) => self.text_value(value, key, expected),
            None => {
                self.problem(item.span(), format!("an application lacks `{key}`; expected {expected}"));
                None
            }
        }
    }

    fn name(&mut self, item: Value<'_, '_>, table: &DeTable<'_>) -> Option<ApplicationName> {
        const EXPECTED: &str = "1 to 32 letters, digits, dots, dashes and underlines";
        let text = self.needed(item, table, "name", EXPECTED)?;
        // A name that begins with a dot would hide its record, or be a folder's.
        let name = ApplicationName::new(&text).filter(|_| !text.starts_with('.'));
        if name.is_none() {
            let span = table.get("name").map_or(item.span(), |value| value.span());
            self.problem(span, format!("`name` is {text:?}; expected {EXPECTED}, not starting with a dot"));
        }
        name
    }

    fn command(&mut self, item: Value<'_, '_>, table: &DeTable<'_>) -> Option<Vec<String>> {
        const EXPECTED: &str = "a list of strings, the program's whole path first, as [\"/usr/sbin/nginx\", \"-g\", \"daemon off;\"]";
        let Some(value) = table.get("command") else {
            self.problem(item.span(), format!("an application lacks `command`; expected {EXPECTED}"));
            return None;
        };
        let words: Option<Vec<String>> = match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        let words = words.filter(|words| {
            words.first().is_some_and(|program| program.starts_with('/'))
                && words.iter().all(|word| !word.contains('\0'))
        });
        if words.is_none() {
            self.wrong("command", value, EXPECTED);
        }
        words
    }

    fn listen(&mut self, item: Value<'_, '_>, table: &DeTable<'_>) -> Option<SocketAddrV4> {
        const EXPECTED: &str = "address:port, as \"0.0.0.0:80\"";
        let text = self.needed(item, table, "listen", EXPECTED)?;
        let listen = text.parse::<SocketAddrV4>().ok();
        let listen =
            listen.filter(|at| at.port() != 0 && !at.ip().is_multicast() && *at.ip() != Ipv4Addr::BROADCAST);
        if listen.is_none()
            && let Some(value) = table.get("listen")
        {
            self.wrong("listen", value, EXPECTED);
        }
        listen
    }

    fn environment(&mut self, table: &DeTable<'_>) -> Option<Vec<(String, String)>> {
        const EXPECTED: &str = "a table of strings, as { LANG = \"C\" }";
        let Some(value) = table.get("environment") else { return Some(Vec::new()) };
        let DeValue::Table(variables) = value.get_ref() else {
            self.wrong("environment", value, EXPECTED);
            return None;
        };
        let mut read = Vec::new();
        for (key, value) in variables.iter() {
            let name = key.get_ref().as_ref();
            match value.get_ref().as_str() {
                Some(text) if !name.is_empty() && !name.contains(['=', '\0']) && !text.contains('\0') => {
                    read.push((name.to_owned(), text.to_owned()));
                }
                _ => {
                    self.wrong("environment", value, EXPECTED);
                    return None;
                }
            }
        }
        Some(read)
    }

    /// A whole path, or its default.
    pub(super) fn path_or(&mut self, table: &DeTable<'_>, key: &str, default: &str) -> Option<PathBuf> {
        const EXPECTED: &str = "a whole path, beginning with /";
        let Some(value) = table.get(key) else { return Some(default.into()) };
        let text = self.text_value(value, key, EXPECTED)?;
        if !text.starts_with('/') {
            self.wrong(key, value, EXPECTED);
            return None;
        }
        Some(text.into())
    }

    fn output(&mut self, table: &DeTable<'_>) -> Option<Output> {
        const EXPECTED: &str = "\"journal\", or the whole path of a file";
        let Some(value) = table.get("output") else { return Some(Output::Journal) };
        match self.text_value(value, "output", EXPECTED)?.as_str() {
            "journal" => Some(Output::Journal),
            path if path.starts_with('/') => Some(Output::File(path.into())),
            _ => {
                self.wrong("output", value, EXPECTED);
                None
            }
        }
    }

    fn limits(&mut self, table: &DeTable<'_>) -> Option<Limits> {
        let Some(value) = table.get("limits") else { return Some(Limits::default()) };
        let DeValue::Table(limits) = value.get_ref() else {
            self.wrong("limits", value, "a table: write [application.limits]");
            return None;
        };
        self.unknown_keys(limits, &["memory_mb", "cpu_percent"]);
        let mut read = |key: &str, range| match limits.get(key) {
            Some(value) => self.number(value, key, range).map(Some),
            None => Some(None),
        };
        let (memory_mb, cpu_percent) = (read("memory_mb", MEMORY_MB), read("cpu_percent", CPU_PERCENT));
        Some(Limits { memory_mb: memory_mb?, cpu_percent: cpu_percent? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Problem, parse};
    use super::*;

    const BOARD: &str = r#"
interface = "eth0"
address = "192.0.2.11"
appliances = ["192.0.2.2"]
services = [{ address = "198.51.100.1", kind = "http" }]
[[application]]
name = "web"
command = ["/usr/sbin/nginx", "-g", "daemon off;"]
user = "www-data"
listen = "0.0.0.0:80"
"#;

    fn read(text: &str) -> Result<Config, Vec<Problem>> {
        parse(text)
    }

    #[test]
    fn what_is_left_out_has_the_documented_defaults() {
        let config = read(BOARD).expect("valid");
        let [web] = &config.applications[..] else { panic!("one application") };
        assert_eq!((web.name.as_str(), web.user.as_str()), ("web", "www-data"));
        assert_eq!(web.command, ["/usr/sbin/nginx", "-g", "daemon off;"]);
        assert_eq!((web.memory_mb, web.cpu_percent, web.instances_max), (0, 0, 1));
        assert_eq!((web.start_timeout, web.stop_timeout), (Duration::from_secs(5), Duration::from_secs(5)));
        assert_eq!((&web.output, web.limits), (&Output::Journal, Limits::default()));
        assert_eq!((web.environment.len(), web.directory.to_str()), (0, Some("/")));
        assert_eq!(config.run_directory.to_str(), Some("/run/ipos"));
        assert_eq!(config.cgroup, None);
    }

    #[test]
    fn what_is_given_is_taken() {
        let text = BOARD
            .replace("interface", "cgroup = \"/sys/fs/cgroup/x\"\nrun_directory = \"/run/y\"\ninterface");
        let text = format!(
            "{text}environment = {{ A = \"1\" }}\ndirectory = \"/srv\"\nmemory_mb = 64\ncpu_percent = 150\n\
             instances_max = 3\nstart_timeout_ms = 100\nstop_timeout_ms = 200\noutput = \"/var/log/web\"\n\
             [application.limits]\nmemory_mb = 128\ncpu_percent = 50\n"
        );
        let config = read(&text).expect("valid");
        let [web] = &config.applications[..] else { panic!("one application") };
        assert_eq!(web.environment, [("A".to_owned(), "1".to_owned())]);
        assert_eq!((web.memory_mb, web.cpu_percent, web.instances_max), (64, 150, 3));
        assert_eq!(web.limits, Limits { memory_mb: Some(128), cpu_percent: Some(50) });
        assert_eq!(web.output, Output::File("/var/log/web".into()));
        assert_eq!(config.cgroup.as_deref().and_then(std::path::Path::to_str), Some("/sys/fs/cgroup/x"));
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        for (what, by, line, expected) in [
            ("\"web\"", "\"we b\"", 7, "`name` is \"we b\""),
            ("\"web\"", "\".web\"", 7, "dot"),
            ("[\"/usr/sbin/nginx\", \"-g\", \"daemon off;\"]", "\"nginx\"", 8, "whole path first"),
            ("\"/usr/sbin/nginx\"", "\"nginx\"", 8, "whole path first"),
            ("\"0.0.0.0:80\"", "\"0.0.0.0\"", 10, "address:port"),
            ("\"0.0.0.0:80\"", "\"0.0.0.0:0\"", 10, "address:port"),
            ("user = \"www-data\"", "", 6, "lacks `user`"),
            ("user =", "usr =", 9, "unknown key `usr`"),
            ("user =", "output = \"log\"\nuser =", 9, "\"journal\""),
            ("user =", "environment = { A = 1 }\nuser =", 9, "table of strings"),
            ("user =", "instances_max = 0\nuser =", 9, "from 1 to 64"),
            ("user =", "limits = { memory = 1 }\nuser =", 9, "unknown key `memory`"),
        ] {
            assert!(BOARD.contains(what), "{what}");
            let problems = read(&BOARD.replacen(what, by, 1)).expect_err(by);
            let found = problems.iter().any(|p| p.line == line && p.message.contains(expected));
            assert!(found, "line {line}, {expected}: {problems:?}");
        }
    }

    #[test]
    fn a_name_may_be_given_once() {
        let application = BOARD.split_once("[[application]]").map_or("", |(_, rest)| rest);
        let text = format!("{BOARD}[[application]]{application}");
        let problems = read(&text).expect_err("twice");
        assert!(problems.iter().any(|p| p.message.contains("a second application")), "{problems:?}");
    }
}
