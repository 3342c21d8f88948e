//! The board's configuration, checked whole: every error at once, with line and what was expected (docs/board.md).

mod application;

use std::{
    fmt, fs,
    net::Ipv4Addr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

pub use application::{Application, Limits, Output};

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/ipos/board.toml";

/// EtherTypes that a farm may use (docs/wire.md).
const ETHERTYPES: [u16; 2] = [0x88b5, 0x0007];

/// A board's settings, all within their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The farm interface.
    pub interface: String,
    /// This board's address on it: "server IP" in every message.
    pub address: Ipv4Addr,
    /// Of ipOS frames.
    pub ethertype: u16,
    /// Farm addresses of the appliances.
    pub appliances: Vec<Ipv4Addr>,
    /// The service addresses on this board's loopback.
    pub services: Vec<Service>,
    /// Folder in a BPF file system, one per board.
    pub pin_directory: PathBuf,
    /// How XDP is attached.
    pub xdp_mode: XdpMode,
    /// Between two reports to each appliance.
    pub report_interval: Duration,
    /// Rows in the endpoint table.
    pub endpoints_max: u32,
    /// How long an endpoint waits for its first packet.
    pub pending: Duration,
    /// How long a closed endpoint is remembered, so that no request runs twice.
    pub tombstone: Duration,
    /// What appliances may have started here.
    pub applications: Vec<Application>,
    /// Where it is kept which of them run.
    pub run_directory: PathBuf,
    /// The cgroup (version 2) in which each instance gets one of its own; `None` for one beside the agent's.
    pub cgroup: Option<PathBuf>,
}

/// One service address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// On the loopback.
    pub address: Ipv4Addr,
    /// The port that this entry is about; `None`: all that no other entry is about.
    pub port: Option<u16>,
    /// What the appliance does with its connections.
    pub kind: ServiceKind,
}

/// Service kinds (design: system.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    /// The request is read before the endpoint moves.
    Http,
    /// The endpoint moves on the handshake's ACK.
    Tcp,
    /// The ClientHello is read before the endpoint moves.
    Tls,
    /// Every packet is forwarded, the board does its own handshake.
    L4,
    /// Datagrams.
    Udp,
}

impl ServiceKind {
    /// Whether endpoints of this kind are taken over, and so guarded. The board's own SYN cookies of an `l4` service would
    /// not pass the guard.
    pub fn is_taken_over(self) -> bool {
        matches!(self, ServiceKind::Http | ServiceKind::Tcp | ServiceKind::Tls)
    }
}

/// How XDP is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, or generic where the driver has no XDP.
    Auto,
    /// In the driver.
    Native,
    /// On the skb.
    Generic,
}

/// Everything that is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub struct Errors {
    path: PathBuf,
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; 0 when it concerns the whole file.
    pub line: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl Errors {
    /// The problems in the order of their lines.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            match problem.line {
                0 => write!(f, "{newline}{}: {}", self.path.display(), problem.message)?,
                line => write!(f, "{newline}{}:{line}: {}", self.path.display(), problem.message)?,
            }
        }
        Ok(())
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Errors> {
    let problem = |message| Errors { path: path.into(), problems: vec![Problem { line: 0, message }] };
    let text = fs::read_to_string(path).map_err(|error| problem(format!("cannot read it: {error}")))?;
    parse(&text).map_err(|problems| Errors { path: path.into(), problems })
}

/// Checks the text of a configuration.
///
/// # Errors
/// Everything that is wrong with it, by line.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader { text, problems: Vec::new() };
    for error in syntax {
        reader.problem(error.span().unwrap_or_default(), error.message().trim().to_string());
    }
    let config = reader.config(table.get_ref());
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| problem.line);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

type Value<'t, 'i> = &'t Spanned<DeValue<'i>>;

struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

const KEYS: [&str; 14] = [
    "interface",
    "address",
    "ethertype",
    "appliances",
    "services",
    "pin_directory",
    "xdp_mode",
    "report_interval_ms",
    "endpoints_max",
    "pending_s",
    "tombstone_s",
    "application",
    "run_directory",
    "cgroup",
];

impl Reader<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        self.problems.push(Problem { line, message: message.into() });
    }

    fn missing(&mut self, key: &str, expected: &str) {
        let message = format!("`{key}` is missing; expected {expected}");
        self.problems.push(Problem { line: 0, message });
    }

    fn wrong(&mut self, key: &str, value: Value<'_, '_>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        self.problem(value.span(), format!("`{key}` is {found}; expected {expected}"));
    }

    fn unknown_keys<'i>(&mut self, table: &DeTable<'i>, known: &[&str]) {
        let unknown: Vec<&Spanned<DeString<'i>>> =
            table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())).collect();
        for key in unknown {
            self.problem(
                key.span(),
                format!("unknown key `{}`; expected one of {}", key.get_ref(), known.join(", ")),
            );
        }
    }

    fn text(&mut self, table: &DeTable<'_>, key: &str, expected: &str) -> Option<String> {
        let Some(value) = table.get(key) else {
            self.missing(key, expected);
            return None;
        };
        self.text_value(value, key, expected)
    }

    fn text_value(&mut self, value: Value<'_, '_>, key: &str, expected: &str) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => Some(text.to_string()),
            _ => {
                self.wrong(key, value, expected);
                None
            }
        }
    }

    fn ipv4(&mut self, value: Value<'_, '_>, key: &str) -> Option<Ipv4Addr> {
        const EXPECTED: &str = "an IPv4 address of one machine, as \"192.0.2.11\"";
        let address = match value.get_ref() {
            DeValue::String(text) => text.parse::<Ipv4Addr>().ok(),
            _ => None,
        };
        let address =
            address.filter(|ip| !ip.is_unspecified() && !ip.is_multicast() && *ip != Ipv4Addr::BROADCAST);
        if address.is_none() {
            self.wrong(key, value, EXPECTED);
        }
        address
    }

    fn number(&mut self, value: Value<'_, '_>, key: &str, range: Range<u32>) -> Option<u32> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(key, value, &format!("a number from {} to {}", range.start, range.end - 1));
        }
        number
    }

    fn number_or(&mut self, table: &DeTable<'_>, key: &str, default: u32, range: Range<u32>) -> Option<u32> {
        match table.get(key) {
            Some(value) => self.number(value, key, range),
            None => Some(default),
        }
    }

    fn config(&mut self, table: &DeTable<'_>) -> Option<Config> {
        self.unknown_keys(table, &KEYS);
        let interface = self.text(table, "interface", "the farm interface's name, as \"eth0\"");
        let address = match table.get("address") {
            Some(value) => self.ipv4(value, "address"),
            None => {
                self.missing("address", "this board's IPv4 address on the farm interface");
                None
            }
        };
        let ethertype = self.ethertype(table);
        let appliances = self.appliances(table);
        let services = self.services(table);
        let pin_directory = match table.get("pin_directory") {
            Some(value) => self.text_value(value, "pin_directory", "a folder in a BPF file system"),
            None => Some("/sys/fs/bpf/ipos".into()),
        };
        let xdp_mode = self.xdp_mode(table);
        let report_interval_ms = self.number_or(table, "report_interval_ms", 100, 10..60_001);
        let endpoints_max = self.number_or(table, "endpoints_max", 1 << 20, 16..(1 << 26) + 1);
        let pending_s = self.number_or(table, "pending_s", 30, 1..3601);
        let tombstone_s = self.number_or(table, "tombstone_s", 60, 1..3601);
        let applications = self.applications(table);
        let run_directory = self.path_or(table, "run_directory", "/run/ipos");
        let cgroup = match table.get("cgroup") {
            Some(_) => self.path_or(table, "cgroup", "/").map(Some),
            None => Some(None),
        };
        Some(Config {
            interface: interface?,
            address: address?,
            ethertype: ethertype?,
            appliances: appliances?,
            services: services?,
            pin_directory: pin_directory?.into(),
            xdp_mode: xdp_mode?,
            report_interval: Duration::from_millis(report_interval_ms?.into()),
            endpoints_max: endpoints_max?,
            pending: Duration::from_secs(pending_s?.into()),
            tombstone: Duration::from_secs(tombstone_s?.into()),
            applications: applications?,
            run_directory: run_directory?,
            cgroup: cgroup?,
        })
    }

    fn ethertype(&mut self, table: &DeTable<'_>) -> Option<u16> {
        let Some(value) = table.get("ethertype") else { return Some(ETHERTYPES[0]) };
        let number = match value.get_ref() {
            DeValue::Integer(number) => u16::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let known = number.filter(|number| ETHERTYPES.contains(number));
        if known.is_none() {
            self.wrong("ethertype", value, "0x88b5 or 0x0007, the same in the whole farm");
        }
        known
    }

    fn appliances(&mut self, table: &DeTable<'_>) -> Option<Vec<Ipv4Addr>> {
        const EXPECTED: &str = "a list of the appliances' farm addresses, as [\"192.0.2.2\"], up to 32";
        let Some(value) = table.get("appliances") else {
            self.missing("appliances", EXPECTED);
            return None;
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong("appliances", value, EXPECTED);
            return None;
        };
        if items.is_empty() || items.len() > 32 {
            self.problem(
                value.span(),
                format!("`appliances` has {} entries; expected {EXPECTED}", items.len()),
            );
        }
        let addresses: Vec<_> = items.iter().map(|item| self.ipv4(item, "appliances")).collect();
        addresses.into_iter().collect()
    }

    fn services(&mut self, table: &DeTable<'_>) -> Option<Vec<Service>> {
        const EXPECTED: &str =
            "a list of tables, as [{ address = \"198.51.100.1\", kind = \"http\" }], up to 4096";
        let Some(value) = table.get("services") else {
            self.missing("services", EXPECTED);
            return None;
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong("services", value, EXPECTED);
            return None;
        };
        if items.is_empty() || items.len() > 4096 {
            self.problem(
                value.span(),
                format!("`services` has {} entries; expected {EXPECTED}", items.len()),
            );
        }
        let services: Vec<_> = items.iter().map(|item| self.service(item)).collect();
        let services: Vec<Service> = services.into_iter().collect::<Option<_>>()?;
        for (index, service) in services.iter().enumerate() {
            let same = |other: &Service| (other.address, other.port) == (service.address, service.port);
            // UDP and TCP may share a port.
            let is_udp = |service: &Service| service.kind == ServiceKind::Udp;
            if services.iter().take(index).any(|earlier| same(earlier) && is_udp(earlier) == is_udp(service))
            {
                let port = service.port.map_or(String::new(), |port| format!(":{port}"));
                self.problem(value.span(), format!("`services` names {}{port} twice", service.address));
            }
            let beside = |other: &Service| other.address == service.address && other.kind.is_taken_over();
            if service.kind == ServiceKind::L4 && service.port.is_none() && services.iter().any(beside) {
                let what = format!(
                    "{} has services whose endpoints are taken over as well; expected `port` beside kind = \"l4\"",
                    service.address
                );
                self.problem(value.span(), what);
            }
        }
        Some(services)
    }

    fn service(&mut self, item: Value<'_, '_>) -> Option<Service> {
        const KINDS: &str = "one of \"http\", \"tcp\", \"tls\", \"l4\", \"udp\"";
        let DeValue::Table(table) = item.get_ref() else {
            self.wrong("services", item, "a table with `address` and `kind`");
            return None;
        };
        self.unknown_keys(table, &["address", "port", "kind"]);
        let port = table.get("port").map(|value| self.number(value, "port", 1..65_536));
        let address = match table.get("address") {
            Some(value) => self.ipv4(value, "address"),
            None => {
                self.problem(item.span(), "a service lacks `address`; expected its IPv4 address");
                None
            }
        };
        let kind = match table.get("kind") {
            Some(value) => self.text_value(value, "kind", KINDS).and_then(|kind| match kind.as_str() {
                "http" => Some(ServiceKind::Http),
                "tcp" => Some(ServiceKind::Tcp),
                "tls" => Some(ServiceKind::Tls),
                "l4" => Some(ServiceKind::L4),
                "udp" => Some(ServiceKind::Udp),
                _ => {
                    self.wrong("kind", value, KINDS);
                    None
                }
            }),
            None => {
                self.problem(item.span(), format!("a service lacks `kind`; expected {KINDS}"));
                None
            }
        };
        let port = match port {
            Some(port) => Some(port? as u16),
            None => None,
        };
        Some(Service { address: address?, port, kind: kind? })
    }

    fn xdp_mode(&mut self, table: &DeTable<'_>) -> Option<XdpMode> {
        const EXPECTED: &str = "\"auto\", \"native\" or \"generic\"";
        let Some(value) = table.get("xdp_mode") else { return Some(XdpMode::Auto) };
        match self.text_value(value, "xdp_mode", EXPECTED)?.as_str() {
            "auto" => Some(XdpMode::Auto),
            "native" => Some(XdpMode::Native),
            "generic" => Some(XdpMode::Generic),
            _ => {
                self.wrong("xdp_mode", value, EXPECTED);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = r#"
interface = "eth0"
address = "192.0.2.11"
appliances = ["192.0.2.2"]
services = [{ address = "198.51.100.1", kind = "http" }]
"#;

    #[test]
    fn what_is_left_out_has_the_documented_defaults() {
        let config = parse(LEAST).expect("valid");
        assert_eq!(config.ethertype, 0x88b5);
        assert_eq!(config.pin_directory, Path::new("/sys/fs/bpf/ipos"));
        assert_eq!(config.xdp_mode, XdpMode::Auto);
        assert_eq!(config.report_interval, Duration::from_millis(100));
        assert_eq!(config.endpoints_max, 1_048_576);
        assert_eq!((config.pending, config.tombstone), (Duration::from_secs(30), Duration::from_secs(60)));
        assert_eq!(
            config.services,
            [Service { address: Ipv4Addr::new(198, 51, 100, 1), port: None, kind: ServiceKind::Http }]
        );
    }

    #[test]
    fn what_is_given_is_taken() {
        let text = format!(
            "{LEAST}ethertype = 0x0007\nxdp_mode = \"generic\"\nreport_interval_ms = 50\nendpoints_max = 4096\n\
             pin_directory = \"/run/x\"\n"
        );
        let config = parse(&text).expect("valid");
        assert_eq!((config.ethertype, config.xdp_mode), (7, XdpMode::Generic));
        assert_eq!((config.report_interval, config.endpoints_max), (Duration::from_millis(50), 4096));
        assert_eq!(config.pin_directory, Path::new("/run/x"));
    }

    #[test]
    fn services_may_be_written_as_an_array_of_tables() {
        let text = LEAST.replace(
            "services = [{ address = \"198.51.100.1\", kind = \"http\" }]",
            "[[services]]\naddress = \"198.51.100.1\"\nkind = \"http\"\n[[services]]\naddress = \"198.51.100.2\"\nkind = \"udp\"",
        );
        let kinds: Vec<ServiceKind> = parse(&text).expect("valid").services.iter().map(|s| s.kind).collect();
        assert_eq!(kinds, [ServiceKind::Http, ServiceKind::Udp]);
        let problems = parse(&text.replace("udp", "upd")).expect_err("misspelt");
        assert_eq!(problems.iter().map(|p| p.line).collect::<Vec<_>>(), [10]);
    }

    #[test]
    fn every_error_is_told_at_once_with_its_line() {
        let text = r#"interface = 5
adress = "192.0.2.11"
ethertype = 0x0800
appliances = ["192.0.2.2", "300.1.1.1"]
services = [
  { address = "198.51.100.1", kind = "htpp" },
  { kind = "http", colour = 1 },
]
xdp_mode = "fast"
report_interval_ms = 1
endpoints_max = "many"
"#;
        let problems = parse(text).expect_err("all wrong");
        let lines: Vec<usize> = problems.iter().map(|p| p.line).collect();
        assert_eq!(lines, [0, 1, 2, 3, 4, 6, 7, 7, 9, 10, 11], "{problems:#?}");
        let all = problems.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("\n");
        for part in [
            "`address` is missing",
            "unknown key `adress`",
            "`ethertype` is 0x0800",
            "300.1.1.1",
            "htpp",
            "lacks `address`",
            "unknown key `colour`",
            "from 10 to 60000",
        ] {
            assert!(all.contains(part), "no {part:?} in:\n{all}");
        }
    }

    #[test]
    fn a_syntax_error_is_told_with_its_line_and_hides_no_other() {
        let problems = parse("interface = \"eth0\"\naddress = \nxdp_mode = \"x\"\n").expect_err("wrong");
        assert!(problems.iter().any(|p| p.line == 2), "{problems:?}");
        assert!(problems.iter().any(|p| p.line == 3), "{problems:?}");
    }

    #[test]
    fn a_service_address_may_be_named_once() {
        let text =
            LEAST.replace("services = [", "services = [{ address = \"198.51.100.1\", kind = \"l4\" }, ");
        let problems = parse(&text).expect_err("twice");
        assert!(problems.iter().any(|p| p.message.contains("expected `port`")), "{problems:?}");
        let problems = parse(&text.replace("\"l4\"", "\"tcp\"")).expect_err("twice");
        assert!(problems.iter().any(|p| p.message.contains("twice")), "{problems:?}");
    }

    #[test]
    fn an_address_may_have_an_l4_port_beside_its_other_services() {
        let with = |entry: &str| LEAST.replace("services = [", &format!("services = [{entry}, "));
        let text = with("{ address = \"198.51.100.1\", port = 5201, kind = \"l4\" }");
        let ports: Vec<_> = parse(&text).expect("valid").services.iter().map(|s| s.port).collect();
        assert_eq!(ports, [Some(5201), None]);
        let problems = parse(&with("{ address = \"198.51.100.1\", port = 70000, kind = \"l4\" }"));
        assert!(problems.expect_err("no port").iter().any(|p| p.message.contains("1 to 65535")));
        let twice = text
            .replace("[{ address", "[{ address = \"198.51.100.1\", port = 5201, kind = \"tcp\" }, { address");
        assert!(
            parse(&twice).expect_err("twice").iter().any(|p| p.message.contains("198.51.100.1:5201 twice"))
        );
        let dns = "{ address = \"192.0.2.9\", port = 53, kind = \"udp\" }, { address = \"192.0.2.9\", port = 53, kind = \"l4\" }";
        assert!(parse(&with(dns)).is_ok(), "UDP and TCP share a port");
        let bare = with(
            "{ address = \"198.51.100.1\", port = 1, kind = \"http\" }, { address = \"198.51.100.1\", port = 2, kind = \"l4\" }",
        );
        assert!(parse(&bare).is_ok());
    }

    #[test]
    fn only_kinds_whose_endpoints_move_are_guarded() {
        let taken =
            [ServiceKind::Http, ServiceKind::Tcp, ServiceKind::Tls, ServiceKind::L4, ServiceKind::Udp]
                .map(ServiceKind::is_taken_over);
        assert_eq!(taken, [true, true, true, false, false]);
    }

    #[test]
    fn the_file_is_named_when_it_cannot_be_read() {
        let errors = load(Path::new("/nonexistent/board.toml")).expect_err("not there");
        assert!(errors.to_string().starts_with("/nonexistent/board.toml: cannot read it"), "{errors}");
    }
}
