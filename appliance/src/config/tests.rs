//! Tests of the whole way from text to configuration: every class of mistake with its line, and the documentation.

use std::path::Path;

use ipos_pipelines::handoff::{Answer, BoardId};
use ipos_pipelines::maglev::HashBy;
use ipos_pipelines::services::{Kind, Service as WorkerService};
use ipos_pipelines::table::ENDPOINTS_MAX;
use ipos_pipelines::tlsmap::Otherwise;
use ipos_pipelines::urlmap::{Action, Asked};

use super::host::Host;
use super::model::{Config, Cookie, CookieMode, FlowMode, Memory, TlsRow};
use super::parse;
use super::read::Notes;
use super::*;
use crate::control::admission::{Admit, Rate};
use crate::control::placement::{Limits, Policy};

/// A machine with CPUs 0 and 1, the interfaces wan0 and farm0, one PCI device and 4 GiB.
pub struct Machine;

impl Host for Machine {
    fn has_cpu(&self, cpu: u16) -> bool {
        cpu < 2
    }

    fn cpus(&self) -> String {
        "0-1".to_owned()
    }

    fn has_interface(&self, name: &str) -> bool {
        matches!(name, "wan0" | "farm0")
    }

    fn has_pci(&self, address: &str) -> bool {
        matches!(address, "0000:81:00.0" | "0000:81:00.1")
    }

    fn memory_octets(&self) -> u64 {
        4 << 30
    }

    fn hugepage_octets(&self) -> u64 {
        1 << 30
    }

    fn file(&self, path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
        match path.to_string_lossy() {
            name if name.contains("nowhere") => Err(std::io::ErrorKind::NotFound.into()),
            name if name.contains("cookie") => Ok(b"000102030405060708090a0b0c0d0e0f\n".to_vec()),
            name if name.contains("long") => Ok(vec![b'x'; most + 1]),
            name => Ok(format!("the page {name}").into_bytes()),
        }
    }
}

/// The shortest configuration that says everything that has to be said.
pub const SHORT: &str = r#"
[[port]]
name = "wan"
device = "net_af_packet0,iface=wan0"
role = "wan"
address = "192.0.2.130/25"
[[port]]
name = "farm"
device = "net_af_packet1,iface=farm0"
role = "farm"
address = "192.0.2.2/25"
[[service]]
name = "web"
address = "198.51.100.1"
port = 80
[[service.map]]
path = "/a/"
boards = ["board1"]
[[board]]
name = "board1"
address = "192.0.2.11"
[[board]]
name = "board2"
address = "192.0.2.12"
"#;

const EXAMPLE: &str = include_str!("../../../deploy/appliance.example.toml");
const SERVICES: &str = include_str!("../../../docs/services.md");
const LAB_SERVICES: &str = include_str!("../../../deploy/lab.d/services.toml");
const DOCS: &str = include_str!("../../../docs/configuration.md");

fn load(text: &str) -> Result<Config, ConfigError> {
    from_text(Path::new("a.toml"), text.to_owned(), &Machine)
}

/// A good configuration.
pub fn good(text: &str) -> Config {
    load(text).unwrap_or_else(|error| panic!("{error}"))
}

/// The lines that are said about a text.
fn mistakes(text: &str) -> Vec<String> {
    match load(text) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

/// Replaces in [`SHORT`] what must be there once at least.
fn with(what: &str, by: &str) -> String {
    assert!(SHORT.contains(what), "{what}");
    SHORT.replacen(what, by, 1)
}

/// The only mistake of a text stands in this line and says this.
#[track_caller]
fn says(text: &str, wrong: &str, expected: &str) {
    let line = text.lines().position(|line| line.contains(wrong)).map(|line| line + 1);
    let mistakes = mistakes(text);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    let place = format!("a.toml:{}:", line.unwrap_or(1));
    assert!(
        mistakes[0].starts_with(&place) && mistakes[0].contains(expected),
        "{place} {expected}: {mistakes:?}"
    );
}

#[test]
fn rows_that_the_appliance_answers_name_no_boards() {
    let row = |text: &str| with("boards = [\"board1\"]", text);
    let pages = "pages = { 404 = \"/etc/404.html\", type = \"text/plain\" }\n";
    let config = good(&row("answer = 404").replace("port = 80\n", &format!("port = 80\n{pages}")));
    let ids: Vec<_> = (0..2).map(ipos_pipelines::handoff::BoardId).collect();
    let snapshot = |config| snapshot::Numbers::default().snapshot(config, &ids, std::time::Instant::now());
    let told = snapshot(&config).expect("a checked configuration");
    let service = told.services.service(0).expect("the service");
    assert_eq!(asked(service, "/a/", "GET"), Some(Action::Answer(Answer::NotFound)));
    let own = ipos_pipelines::answers::Page::own(Answer::NotFound, "text/plain", b"the page /etc/404.html");
    assert_eq!(service.answers.page(Answer::NotFound).map(|page| &**page), own.as_ref());
    assert_eq!(service.answers.page(Answer::Unavailable), None);
    let config = good(&row("redirect = { status = 301, to = \"https://a.example\" }"));
    let told = snapshot(&config).expect("a checked configuration");
    let service = told.services.service(0).expect("the service");
    assert_eq!(asked(service, "/a/", "GET"), Some(Action::Answer(Answer::Redirect(0))));
    let redirect = ipos_pipelines::answers::Page::redirect(301, "https://a.example").ok();
    assert_eq!(service.answers.page(Answer::Redirect(0)).map(|page| &**page), redirect.as_ref());
    says(&row("answer = 200"), "answer", "`answer` is 200; expected an integer 403..=503");
    says(&row("answer = 418"), "[[service.map]]", "`answer` is 418; expected 403, 404, 429 or 503");
    says(&row("answer = 404\nboards = [\"board1\"]"), "[[service.map]]", "`boards` or `weights` beside");
    says(
        &row("answer = 404\nredirect = { to = \"/\" }"),
        "[[service.map]]",
        "`answer` and `redirect`; expected one of them",
    );
    says(&row("redirect = \"/\""), "redirect", "expected a table: write [service.map.redirect]");
    says(&row("redirect = { status = 301 }"), "redirect", "`to` is missing in [service.map.redirect]");
    says(
        &row("redirect = { to = \"/\", status = 303 }"),
        "redirect",
        "`status` is 303; expected 301, 302, 307 or 308",
    );
    says(&row("redirect = { to = \"ftp://a\" }"), "redirect", "`to` is \"ftp://a\"; expected \"http://\" or");
    let page = |text: &str| with("port = 80\n", &format!("port = 80\npages = {{ {text} }}\n"));
    says(
        &page("404 = \"/nowhere\""),
        "nowhere",
        "page 404 is \"/nowhere\": entity not found; expected a file",
    );
    says(&page("503 = \"/long\""), "long", "it is longer than that; expected a file of at most 8192 octets");
    says(
        &page("400 = \"/x\""),
        "400",
        "unknown key `400` in [service.pages]; expected one of 403, 404, 429, 503, type",
    );
    says(&page("type = \"html\""), "type", "expected a content type such as \"text/html\"");
}

/// What a service's URL map says of a request for its own host.
fn asked(service: &WorkerService, path: &str, method: &str) -> Option<Action> {
    let head = format!("{method} {path} HTTP/1.1\r\nX-Beta: yes\r\n\r\n");
    let (path, method) = (path.as_bytes(), method.as_bytes());
    service.urls.lookup(&Asked { host: Some(b"www.example.org"), path, method, head: head.as_bytes() })
}

#[test]
fn the_short_configuration_is_good_and_takes_the_defaults() {
    let config = good(SHORT);
    assert_eq!((config.appliance.ethertype.value, config.dpdk.memory), (0x88b5, Memory::Hugepages));
    assert_eq!(config.services[0].boards, [0, 1]);
    assert_eq!(config.services[0].maps[0].boards, [0]);
    assert_eq!(config.boards[1].port, 1);
    let ids: Vec<_> = (0..2).map(ipos_pipelines::handoff::BoardId).collect();
    let snapshot = snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now());
    let snapshot = snapshot.expect("a checked configuration");
    assert_eq!(snapshot.pools.len(), 2);
    let service = snapshot.services.service(0).expect("the service");
    assert_eq!(asked(service, "/a/x", "GET"), Some(Action::Pool(1)));
    assert_eq!((asked(service, "/b", "GET"), service.default_pool), (None, 0));
}

#[test]
fn the_example_is_good_and_writes_the_defaults_out() {
    let example = format!("{:?}", {
        let c = good(EXAMPLE);
        (c.dpdk.control_idle, c.worker.idle, c.timeouts, c.tcp.mss.value)
    });
    let short = format!("{:?}", {
        let c = good(SHORT);
        (c.dpdk.control_idle, c.worker.idle, c.timeouts, c.tcp.mss.value)
    });
    assert_eq!(example, short);
}

#[test]
fn wrong_types_ranges_and_words_are_named_with_their_line() {
    says(&with("port = 80", "port = 80000"), "80000", "`port` is 80000; expected an integer 1..=65535");
    says(&with("port = 80", "port = \"80\""), "\"80\"", "`port` is \"80\"; expected an integer");
    says(&with("role = \"wan\"", "role = \"lan\""), "lan", "expected \"wan\" or \"farm\" or \"both\"");
    says(
        &with("\"192.0.2.130/25\"", "\"192.0.2.130\""),
        "2.130",
        "expected a host's address with its prefix",
    );
    says(&with("\"192.0.2.11\"", "\"192.0.2\""), "\"192.0.2\"", "expected the board's IPv4 address");
    says(
        &with("[\"board1\"]", "\"board1\""),
        "boards = \"board1\"",
        "`boards` is \"board1\"; expected a list of strings",
    );
    says(&format!("{SHORT}[worker]\nidle = \"nap\"\n"), "nap", "expected \"sleep\" or \"spin\"");
    says(&format!("{SHORT}[appliance]\nethertype = 0x0800\n"), "0x0800", "expected 0x88b5 or 0x0007");
    says(&format!("{SHORT}[appliance]\nmetrics = \"here\"\n"), "here", "expected address:port");
    says(&format!("{SHORT}[dpdk]\nworker_cpus = []\n"), "worker_cpus", "names 0 CPUs; expected 1..=64");
    says(&format!("{SHORT}[tcp]\necn = 1\n"), "ecn", "expected true or false");
    says(&format!("tcp = 5\n{SHORT}"), "tcp", "expected a table: write [tcp]");
}

#[test]
fn unknown_and_missing_keys_are_named() {
    says(
        &with("port = 80", "port = 80\nprot = 1"),
        "prot",
        "unknown key `prot` in [service]; expected one of",
    );
    says(&format!("{SHORT}[wroker]\n"), "wroker", "unknown key `wroker`");
    says(&with("role = \"wan\"\n", ""), "[[port]]", "`role` is missing in [port]; expected \"wan\"");
    says(&with("port = 80\n", ""), "[[service]]", "`port` is missing in [service]");
    says(&with("path = \"/a/\"\n", ""), "[[service.map]]", "`path` is missing in [service.map]");
    says(&with("boards = [\"board1\"]\n", ""), "[[service.map]]", "`boards` is missing in [service.map]");
    says(&with("name = \"wan\"", "name = \"\""), "name = \"\"", "`name` is empty");
}

#[test]
fn what_is_not_toml_is_said_with_its_line() {
    let text = with("port = 80", "port = = 80");
    let said = mistakes(&text);
    assert!(!said.is_empty() && said.iter().all(|line| line.contains("not TOML")), "{said:?}");
    let line = text.lines().position(|line| line.contains("= =")).expect("the mistake") + 1;
    assert!(said[0].starts_with(&format!("a.toml:{line}:")), "{said:?}");
    assert!(mistakes(&with("port = 80", "port = 80\nport = 81"))[0].contains("not TOML"), "a key twice");
}

#[test]
fn cpus_interfaces_and_devices_must_exist() {
    says(&format!("{SHORT}[dpdk]\ncontrol_cpu = 7\n"), "control_cpu", "no CPU 7 here; expected one of 0-1");
    says(&format!("{SHORT}[dpdk]\nworker_cpus = [1, 9]\n"), "worker_cpus", "no CPU 9 here");
    says(&with("iface=wan0", "iface=wan9"), "wan9", "no interface wan9 here");
    says(
        &with("net_af_packet0,iface=wan0", "0000:82:00.0"),
        "0000:82",
        "no device 0000:82:00.0 on the PCI bus",
    );
    says(&with("net_af_packet0,iface=wan0", "eth0"), "eth0", "expected a virtual device such as");
}

#[test]
fn nothing_may_be_there_twice() {
    says(&with("name = \"farm\"", "name = \"wan\" # again"), "again", "a second port named \"wan\"");
    says(
        &with("net_af_packet1,iface=farm0", "net_af_packet0,iface=farm0"),
        "0,iface=farm0",
        "a second port on device",
    );
    says(&with("iface=farm0", "iface=wan0,qpairs=1"), "qpairs", "a second port on interface wan0");
    says(&with("\"192.0.2.2/25\"", "\"192.0.2.2/24\""), "2.2/24", "the network of port \"wan\" again");
    says(&with("name = \"board2\"", "name = \"board1\" # again"), "again", "a second board named \"board1\"");
    says(&with("192.0.2.12", "192.0.2.11\" # again\n#\""), "again", "a second board at 192.0.2.11");
    says(&with("[\"board1\"]", "[\"board1\", \"board1\"]"), "\"board1\", ", "board \"board1\" a second time");
    let again = "[[service]]\nname = \"web2\"\naddress = \"198.51.100.1\" # again\nport = 80\n";
    says(&format!("{SHORT}{again}"), "again", "a second service at 198.51.100.1:80");
    let map = "[[service.map]]\npath = \"/a/\" # again\nboards = [\"board2\"]\n[[board]]\nname = \"board1\"";
    says(&with("[[board]]\nname = \"board1\"", map), "again", "same host, path, method and header");
    let mac = "address = \"192.0.2.12\"\nmac = \"02:00:00:00:00:01\" # again";
    let macs = with("address = \"192.0.2.12\"", mac)
        .replace("address = \"192.0.2.11\"", "address = \"192.0.2.11\"\nmac = \"02:00:00:00:00:01\"");
    says(&macs, "again", "a second board with this MAC address");
}

#[test]
fn boards_must_be_named_and_on_a_farm_ports_network() {
    says(
        &with("[\"board1\"]", "[\"board9\"]"),
        "board9",
        "no board named \"board9\"; expected one of board1, board2",
    );
    says(&with("[\"board1\"]", "[]"), "boards = []", "`boards` names no board");
    says(
        &with("192.0.2.12", "192.0.2.140"),
        "2.140",
        "is on no farm port's network; expected an address in one of: 192.0.2.2/25",
    );
    says(&with("192.0.2.12", "192.0.2.2"), "\"192.0.2.2\"", "is the appliance's own address");
    says(&with("192.0.2.12", "192.0.2.127"), "2.127", "network or broadcast address");
    says(
        &with("198.51.100.1", "192.0.2.12"),
        "address = \"192.0.2.12\"",
        "is the address of board \"board2\"",
    );
    says(
        &with("198.51.100.1", "192.0.2.130"),
        "address = \"192.0.2.130\"",
        "is the appliance's own address on port \"wan\"",
    );
    says(&with("198.51.100.1", "224.0.0.1"), "224", "no address that clients can connect to");
}

#[test]
fn a_shard_tells_so_many_endpoints_apart_and_no_more() {
    let services = |count: usize| -> String {
        let service = |n: usize| {
            format!("[[service]]\nname = \"s{n}\"\naddress = \"198.51.100.9\"\nport = {}\n", n + 1)
        };
        (0..count).map(service).collect()
    };
    assert_eq!(mistakes(&format!("{SHORT}{}", services(ENDPOINTS_MAX - 1))), [""; 0]);
    let text = format!("{SHORT}{}", services(ENDPOINTS_MAX));
    says(&text, &format!("\"s{}\"", ENDPOINTS_MAX - 1), "more than 4096 services");
}

#[test]
fn both_sides_a_service_and_a_board_are_needed() {
    says(&SHORT.replace("role = \"wan\"", "role = \"farm\""), "\u{0}", "no port faces the clients");
    let text = SHORT.replace("role = \"farm\"", "role = \"wan\"");
    let said = mistakes(&text);
    assert!(said.iter().any(|line| line.contains("no port faces the boards")), "{said:?}");
    let said = mistakes("");
    for what in ["no [[port]]", "no [[board]]", "no [[service]]"] {
        assert!(said.iter().any(|line| line.contains(what)), "{what}: {said:?}");
    }
    let both =
        SHORT.replace("role = \"farm\"", "role = \"both\"").replace("role = \"wan\"", "role = \"farm\"");
    assert_eq!(mistakes(&both), [""; 0]);
}

#[test]
fn url_rows_must_be_of_use() {
    says(&with("\"/a/\"", "\"a/\""), "\"a/\"", "does not start with \"/\"");
    says(&with("path = \"/a/\"", "path = \"/a/\"\nhost = \"a b\""), "path", "is not a host name");
    let row = |text: &str| with("path = \"/a/\"", &format!("path = \"=/a\"\n{text}"));
    says(&row("method = \"G T\""), "=/a", "\"G T\" is no method");
    says(&row("method = 7"), "method", "`method` is 7; expected a method, such as \"GET\"");
    says(&row("header = \"X\""), "header", "`header` is \"X\"; expected a table");
    says(&row("header = { equals = \"y\" }"), "header", "`name` is missing in [service.map.header]");
    for wrong in
        ["", ", present = false", ", equals = \"a\", prefix = \"b\"", ", equals = \"a\", present = true"]
    {
        let text = row(&format!("header = {{ name = \"X-Beta\"{wrong} }}"));
        says(&text, "header", "needs exactly one of `equals`, `prefix` and `present = true`");
    }
    says(&row("header = { name = \"X-Beta:\", present = true }"), "=/a", "can be in no header");
    says(
        &row("header = { name = \"X\", value = \"a\", present = true }"),
        "value",
        "unknown key `value` in [service.map.header]",
    );
    let config = good(&row(
        "host = \"*.example.org\"\nmethod = \"PUT\"\nheader = { name = \"x-beta\", prefix = \"y\" }",
    ));
    let ids: Vec<_> = (0..2).map(ipos_pipelines::handoff::BoardId).collect();
    let snapshot = snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now());
    let snapshot = snapshot.expect("a checked configuration");
    let service = snapshot.services.service(0).expect("the service");
    assert_eq!(asked(service, "/a", "PUT"), Some(Action::Pool(1)));
    assert_eq!((asked(service, "/a", "GET"), asked(service, "/a/", "PUT")), (None, None));
}

#[test]
fn what_a_service_says_of_placement_is_taken_and_its_mistakes_are_named() {
    let service = |text: &str| with("port = 80\n", &format!("port = 80\n{text}\n"));
    let placed = "policy = \"least-load\"\nhome = \"board2\"\nslow_start_s = 30\nboards = [\"board1\", \"board2\"]\n\
                  weights = [0, 70]\n[service.limits]\nconnections = 10\ncpu_percent = 90";
    let config = good(&service(placed).replace("name = \"board2\"", "name = \"board2\"\nweight = 1000"));
    let web = &config.services[0];
    assert_eq!((web.policy, web.home, web.slow_start_s), (Policy::LeastLoad, Some(1), 30));
    assert_eq!((&web.weights[..], &web.maps[0].weights[..]), (&[0, 70][..], &[100][..]));
    let limits = Limits { connections: Some(10), cpu_percent: Some(90), ..Limits::default() };
    assert_eq!((web.limits, config.boards[0].weight, config.boards[1].weight), (limits, 100, 1000));
    let ids: Vec<_> = (0..2).map(ipos_pipelines::handoff::BoardId).collect();
    let snapshot = snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now());
    let snapshot = snapshot.expect("a checked configuration");
    assert_eq!(snapshot.pools[0].members[1].weight, 70);
    let plain = good(SHORT);
    assert_eq!((plain.services[0].policy, plain.services[0].home), (Policy::LeastConnections, None));

    says(
        &service("policy = \"best\""),
        "best",
        "expected \"least-connections\" or \"least-load\" or \"round-robin\"",
    );
    says(
        &service("home = \"board9\""),
        "board9",
        "none of the service's boards; expected one of board1, board2",
    );
    says(
        &service("boards = [\"board1\"]\nhome = \"board2\""),
        "home",
        "`home` is \"board2\", which is none of the service's boards; expected one of board1",
    );
    says(&service("slow_start_s = -1"), "slow_start_s", "expected an integer 0..=86400");
    says(&service("weights = [1, 2]"), "weights", "`weights` without `boards`");
    says(
        &service("boards = [\"board1\", \"board2\"]\nweights = [1]"),
        "weights",
        "`weights` has 1 numbers for 2 boards; expected one for each",
    );
    says(&service("boards = [\"board1\"]\nweights = [0]"), "weights", "all 0: nobody would serve");
    says(
        &service("boards = [\"board1\"]\nweights = [1001]"),
        "weights",
        "expected a list of integers 0..=1000",
    );
    says(&with("192.0.2.12\"", "192.0.2.12\"\nweight = 1001"), "1001", "expected an integer 0..=1000");
    let limited = |text: &str| service(&format!("[service.limits]\n{text}"));
    says(&limited("cpu_percent = 101"), "cpu_percent", "`cpu_percent` is 101; expected an integer 1..=100");
    says(&limited("connections = 0"), "connections", "expected an integer 1..=1000000000");
    says(
        &limited("cpu = 1"),
        "cpu",
        "unknown key `cpu` in [service.limits]; expected one of accept_queue_percent",
    );
    says(&service("limits = 3"), "limits", "expected a table: write [service.limits]");
}

#[test]
fn a_kind_takes_the_keys_that_mean_something_to_it() {
    let tcp = with("[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]\n", "kind = \"tcp\"\n");
    assert_eq!((good(&tcp).services[0].kind, good(SHORT).services[0].kind), (Kind::Tcp, Kind::Http));
    says(&with("port = 80", "port = 80\nkind = \"smtp\""), "smtp", "expected \"http\" or \"tcp\" or \"tls\"");
    let service = |text: &str| tcp.replace("kind = \"tcp\"\n", &format!("kind = \"tcp\"\n{text}\n"));
    says(
        &service("check = { http = \"/health\" }"),
        "check",
        "`check` does not apply to kind = \"tcp\"; expected it left out",
    );
    says(
        &service("[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]"),
        "[[service.map]]",
        "`map` does not apply to kind = \"tcp\"",
    );
    let placed = "policy = \"consistent-hash\"\nhome = \"board2\"\napplication = \"sshd\"\n[service.limits]\nconnections = 5";
    let config = good(&service(placed));
    assert_eq!((config.services[0].home, config.services[0].limits.connections), (Some(1), Some(5)));
    let (before, after) = (good(SHORT), good(&tcp));
    assert_eq!(changes::applied(&before, &after), ["service \"web\" changed"], "a reload says so");
}

#[test]
fn rows_of_tls_name_servers_and_protocols() {
    let tls = |rows: &str| {
        let kind = format!("kind = \"tls\"\n{rows}\n");
        with("[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]\n", &kind)
    };
    let row = |text: &str| tls(&format!("[[service.map]]\n{text}\nboards = [\"board1\"]"));
    let config = good(&tls(
        "unknown_name = \"reject\"\nno_name = \"default\"\nboards = [\"board2\"]\nhome = \"board1\"\n\
         [[service.map]]\nsni = \"*.Example.org\"\nalpn = [\"h2\"]\nboards = [\"board1\"]\nweights = [7]",
    ));
    let (service, expected) = (
        &config.services[0],
        [TlsRow {
            sni: Some("*.Example.org".to_owned()),
            alpn: vec!["h2".to_owned()],
            boards: vec![0],
            weights: vec![7],
        }],
    );
    assert_eq!((&service.tls.rows[..], service.home), (&expected[..], Some(0)));
    assert_eq!((service.tls.unknown_name, service.tls.no_name), (Otherwise::Reject, Otherwise::Default));
    let ids: Vec<_> = (0..2).map(ipos_pipelines::handoff::BoardId).collect();
    let snapshot = snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now());
    let snapshot = snapshot.expect("a checked configuration");
    let worker = snapshot.services.service(0).expect("the service");
    assert_eq!(
        (worker.kind, worker.tls.map.len(), worker.tls.unknown_name),
        (Kind::Tls, 1, Otherwise::Reject)
    );
    assert_eq!(snapshot.pools[1].members[0].weight, 7);
    let mut changed = config.clone();
    changed.services[0].tls.no_name = Otherwise::Reject;
    assert_eq!(changes::applied(&config, &changed), ["service \"web\" changed"]);

    says(&row("sni = \"a b\""), "a b", "`sni` is \"a b\"; expected a host name");
    says(&row("path = \"/\"\nsni = \"a\""), "path", "unknown key `path` in [service.map]");
    says(&row("alpn = []"), "[[service.map]]", "neither `sni` nor `alpn`");
    says(&row("sni = \"a\"\nalpn = \"h2\""), "alpn", "expected a list of strings");
    says(&tls("unknown_name = \"reject\""), "unknown_name", "every name would be refused");
    says(&tls("no_name = \"close\""), "no_name", "expected \"default\" or \"reject\"");
    says(&tls("h2c = true"), "h2c", "`h2c` does not apply to kind = \"tls\"");
    says(
        &with("port = 80", "port = 80\nno_name = \"reject\""),
        "no_name",
        "`no_name` does not apply to kind = \"http\"",
    );
    assert!(good(&with("port = 80", "port = 80\nh2c = true")).services[0].h2c);
    let two = "[[service.map]]\nsni = \"a\"\nboards = [\"board1\"]\n[[service.map]]\nsni = \"A\"\nboards = [\"board1\"]";
    says(&tls(two), "\"A\"", "never reached: row 1 of this name");
}

#[test]
fn the_services_of_the_lab_are_good_and_the_documentation_quotes_them() {
    let services = good(&format!("{SHORT}{LAB_SERVICES}")).services;
    let sections: Vec<&str> = LAB_SERVICES.split("\n[[service]]\n").skip(1).collect();
    assert_eq!(services.len(), 1 + sections.len());
    for section in sections {
        let section = format!("```toml\n[[service]]\n{}\n```", section.trim());
        assert!(SERVICES.contains(&section), "docs/services.md lacks {section}");
    }
}

#[test]
fn times_sizes_and_memory_must_fit_each_other() {
    let section = |text: &str| format!("{SHORT}{text}\n");
    says(
        &section("[migration]\ndeadline_ms = 10000"),
        "deadline_ms",
        "expected less than timeouts.place_ms (10000)",
    );
    says(&section("[timeouts]\nidle_ms = 2000"), "[timeouts]", "expected at most idle_ms (2000)");
    says(&section("[tcp]\nmss = 1460"), "mss", "expected at most 1444: port \"farm\" has MTU 1500");
    says(&section("[dpdk]\nmemory_mb = 64"), "memory_mb", "expected at least");
    says(&section("[dpdk]\nmemory_mb = 2048"), "memory_mb", "there are 1024 MiB of hugepages");
    says(&section("[worker]\nentries = 67108864"), "entries", "this machine has 4096 MiB");
    assert_eq!(mistakes(&section("[dpdk]\nmemory = \"no-huge\"\nmemory_mb = 2048")), [""; 0]);
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = with("port = 80", "port = 0")
        .replace("iface=wan0", "iface=nowhere")
        .replace("[\"board1\"]", "[\"board9\"]")
        + "[dpdk]\ncontrol_cpu = 1000\nx = 1\n";
    let said = mistakes(&text);
    let order = ["nowhere", "`port` is 0", "board9", "no CPU 1000", "unknown key `x`"];
    // The service that could not be read is not held against anything else.
    let found: Vec<&str> =
        said.iter().filter_map(|line| order.iter().find(|what| line.contains(**what)).copied()).collect();
    assert_eq!(found, ["nowhere", "`port` is 0", "no CPU 1000", "unknown key `x`"], "{said:?}");
    assert_eq!(said.len(), 4, "{said:?}");
}

#[test]
fn a_missing_file_is_named() {
    let error = super::load(Path::new("/nowhere/a.toml"), &Machine).expect_err("no such file");
    assert!(error.to_string().contains("/nowhere/a.toml"), "{error}");
}

/// Rows of the documentation's tables: key with its section, default.
fn documented() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in DOCS.lines() {
        if let Some(title) = line.strip_prefix("## `[") {
            section = title.trim_end_matches(['`', ']']).trim_start_matches('[').to_owned();
        } else if line.starts_with("## ") {
            section.clear();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let key = cells[0].trim_end_matches('`');
            rows.push((format!("{section}.{key}"), cells[2].trim_matches('`').to_owned()));
        }
    }
    rows
}

#[test]
fn the_documentation_names_every_key_and_states_its_default() {
    let notes = Notes::default();
    for text in [SHORT, EXAMPLE] {
        parse::parse(text, &notes).expect("a good text");
    }
    let mut program = notes.defaults();
    let mut documentation = documented();
    program.sort();
    documentation.sort();
    assert_eq!(documentation, program);
}

#[test]
fn the_example_writes_every_key() {
    for (key, _) in documented() {
        let key = key.rsplit('.').next().unwrap_or_default();
        assert!(EXAMPLE.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key}");
    }
}

#[test]
fn a_service_of_kind_l4_takes_its_own_keys_and_no_others() {
    let service = "[[service]]\nname = \"raw\"\naddress = \"198.51.100.1\"\nport = 5201\nkind = \"l4\"\n";
    let text =
        format!("{SHORT}{service}hash = \"client\"\ntable_size = 1021\nlimits = {{ connections = 9 }}\n");
    let config = good(&text);
    let raw = &config.services[1];
    assert_eq!((raw.kind, raw.table.by, raw.table.slots), (Kind::L4, HashBy::Client, 1021));
    assert_eq!(raw.limits.connections, Some(9));
    assert_eq!((config.services[0].kind, config.services[0].table.slots), (Kind::Http, 65_537));
    says(&text.replace("1021", "1024"), "table_size", "a prime number");
    says(&text.replace("\"l4\"", "\"l3\""), "\"l3\"", "or \"l4\" or");
    for key in [
        "policy = \"round-robin\"",
        "home = \"board1\"",
        "slow_start_s = 1",
        "check = { http = \"/\" }",
        "application = \"web\"",
        "start_queue = 1",
        "idle_stop_s = 1",
    ] {
        says(&format!("{text}{key}\n"), key, "does not apply to kind = \"l4\"");
    }
    for key in ["hash = \"flow\"", "table_size = 1021"] {
        says(&with("port = 80", &format!("port = 80\n{key}")), key, "does not apply to kind = \"http\"");
    }
}

#[test]
fn a_service_of_kind_udp_may_share_address_and_port_and_takes_the_keys_of_its_mode() {
    let service = "[[service]]\nname = \"dns\"\naddress = \"198.51.100.1\"\nport = 80\nkind = \"udp\"\n";
    let flows = format!("{SHORT}{service}idle_ms = 2000\n");
    let config = good(&flows);
    let dns = &config.services[1];
    assert_eq!(
        (dns.kind, dns.datagrams.flow, dns.datagrams.idle_ms),
        (Kind::Udp, FlowMode::Connection, 2000)
    );
    assert_eq!(dns.policy, Policy::ConsistentHash, "unless it is written");
    assert_eq!(good(&format!("{flows}policy = \"round-robin\"\n")).services[1].policy, Policy::RoundRobin);
    says(&format!("{flows}hash = \"client\"\n"), "hash = ", "does not apply to kind = \"udp\"");
    let alone = format!("{SHORT}{service}flow = \"datagram\"\nhash = \"client\"\n");
    assert!(good(&alone).services[1].is_hashed() && !dns.is_hashed());
    says(&format!("{alone}idle_ms = 2000\n"), "idle_ms", "does not apply to flow = \"datagram\"");
    let twice =
        format!("{flows}{}", service.replace("\"dns\"", "\"dns2\"").replace("udp\"\n", "udp\" # 2\n"));
    let mistakes = mistakes(&twice);
    assert!(
        mistakes.len() == 1 && mistakes[0].contains("a second service at 198.51.100.1:80"),
        "{mistakes:?}"
    );
    let ids: Vec<_> = (0..2).map(ipos_pipelines::handoff::BoardId).collect();
    let mut numbers = snapshot::Numbers::default();
    let snapshot =
        numbers.snapshot(&config, &ids, std::time::Instant::now()).expect("a checked configuration");
    let (address, services) = (dns.address.value, snapshot.services);
    assert_eq!((services.find(address, 80), services.find_udp(address, 80)), (Some(0), Some(1)));
    assert_eq!((services.idle_ms(0), services.idle_ms(1)), (None, Some(2000)));
    assert!(services.table(1).is_none());
}

#[test]
fn limits_for_clients_are_taken_and_their_mistakes_are_named() {
    let with_admit = |kind: &str, text: &str| {
        let service = format!("kind = \"{kind}\"\n[service.admit]\n{text}\n");
        with("[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]\n", &service)
    };
    let http = |text: &str| with_admit("http", text);
    let config = good(&http("connections = 100\nper_second = 50\nclient_per_second = 5\nclient_burst = 9"));
    let expected = Admit {
        connections: Some(100),
        rate: Some(Rate { per_second: 50, burst: 50 }),
        client_connections: None,
        client_rate: Some(Rate { per_second: 5, burst: 9 }),
    };
    assert_eq!(config.services[0].admit, expected);
    assert!(!good(SHORT).services[0].admit.limits_anything());
    let before = good(&http("connections = 100"));
    assert_eq!(changes::applied(&before, &config), ["service \"web\" changed"], "a reload says so");
    says(&http("connections = 0"), "connections", "expected an integer 1..=1000000000");
    says(&http("client_per_second = 1000001"), "client_per_second", "expected an integer 1..=1000000");
    says(&http("burst = 3"), "burst", "`burst` without `per_second`; expected both");
    says(&http("client_burst = 3"), "client_burst", "`client_burst` without `client_per_second`");
    says(&http("rate = 3"), "rate", "unknown key `rate` in [service.admit]");
    assert!(good(&with_admit("udp", "connections = 5\nper_second = 7")).services[0].admit.rate.is_some());
    says(
        &with_admit("udp", "client_connections = 5"),
        "client_connections",
        "`client_connections` does not apply to kind = \"udp\": a datagram does not prove whose it is",
    );
    // Of kind `l4`, workers have to know as well that they have to ask.
    let of_kind = |kind: &str, text: &str| {
        let service = format!("kind = \"{kind}\"\n[service.admit]\n{text}\n");
        good(&with("[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]\n", &service))
    };
    for (kind, text, is_limited) in [
        ("l4", "client_connections = 5\nper_second = 7", true),
        ("l4", "", false),
        ("tcp", "connections = 5", false),
    ] {
        let config = of_kind(kind, text);
        let ids: Vec<BoardId> = (0..config.boards.len() as u16).map(BoardId).collect();
        let snapshot = snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now());
        let snapshot = snapshot.expect("a checked configuration");
        assert_eq!(snapshot.services.is_limited(0), is_limited, "{kind}: {text}");
    }
    says(
        &with_admit("udp\"\nflow = \"datagram", "connections = 5"),
        "[service.admit]",
        "`admit` does not apply to flow = \"datagram\", where nothing is kept of a datagram that could count: use flow = \
         \"connection\", or [service.limits] for what each board takes",
    );
}

#[test]
fn server_ids_of_quic_are_taken_and_their_mistakes_are_named() {
    let with_quic = |service: &str, quic: &str| {
        let text = format!("kind = \"udp\"\n{service}\n[service.quic]\n{quic}\n");
        with("[[service.map]]\npath = \"/a/\"\nboards = [\"board1\"]\n", &text)
    };
    let both = |quic: &str| with_quic("boards = [\"board2\", \"board1\"]", quic);
    let config = good(&both("server_ids = [\"0A01\", \"0a02\"]"));
    let expected = quic::Quic { offset: 1, len: 2, ids: vec![(0x0a01, 1), (0x0a02, 0)] };
    assert_eq!(config.services[0].quic, Some(expected));
    let ids: Vec<_> = (5..7).map(ipos_pipelines::handoff::BoardId).collect();
    let snapshot = snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now());
    let services = snapshot.expect("a checked configuration").services;
    let named = services.server_ids(0).expect("server ids").read(&[0x40, 9, 0x0a, 1]);
    assert_eq!(named, ipos_pipelines::quic::Named::Board(ids[1]));
    let before = good(&both("server_ids = [\"0a03\", \"0a02\"]"));
    assert_eq!(changes::applied(&before, &config), ["service \"web\" changed"], "a reload says so");
    says(&both("server_id_offset = 1"), "[service.quic]", "`server_ids` is missing in [service.quic]");
    says(
        &both("server_ids = [\"0a01\"]"),
        "server_ids",
        "`server_ids` has 1 for 2 boards; expected one for each",
    );
    says(&both("server_ids = [\"0a01\", \"0A01\"]"), "0A01", "server id \"0A01\" again");
    says(&both("server_ids = [\"0a01\", \"0a\"]"), "\"0a\"", "server ids of different lengths");
    for wrong in ["", "0", "0x01", "zz", "+1", "010203040506070809"] {
        let text = both(&format!("server_ids = [\"{wrong}\", \"02\"]"));
        says(&text, "server_ids", "expected 1 to 8 octets");
    }
    says(
        &both("server_id_offset = 19\nserver_ids = [\"0a01\", \"0a02\"]"),
        "server_id_offset",
        "expected at most 20 together, as connection ids have",
    );
    says(&with_quic("", "server_ids = [\"01\"]"), "server_ids", "`server_ids` without `boards`");
    let datagram = with_quic("flow = \"datagram\"\nboards = [\"board1\"]", "server_ids = [\"01\"]");
    says(&datagram, "[service.quic]", "`quic` does not apply to flow = \"datagram\"");
}

#[test]
fn a_cookie_is_learned_or_names_boards_and_each_mistake_is_told() {
    let with_cookie = |text: &str| {
        with("port = 80\n", &format!("port = 80\n\n[service.cookie]\n{text}\n"))
            .replace("[[service.map]]", "\n[[service.map]]")
    };
    let key = "key = \"000102030405060708090a0b0c0d0e0f\"";
    let learned = good(&with_cookie("mode = \"learn\"\nname = \"sid\""));
    let service = &learned.services[0];
    let mode = CookieMode::Learn { entries: 65_536, idle_s: 3600 };
    assert_eq!(service.cookie, Some(Cookie { name: "sid".to_owned(), mode }));
    assert_eq!(service.policy, Policy::ConsistentHash, "replies are not seen");
    let encoded = good(&with_cookie(&format!("mode = \"encoded\"\nname = \"srv\"\n{key}\npath = \"/a\"")));
    let Some(Cookie { mode: CookieMode::Encoded { keys, attributes }, .. }) = &encoded.services[0].cookie
    else {
        panic!("{:?}", encoded.services[0].cookie)
    };
    assert_eq!((keys.len(), attributes.to_string()), (1, "; Path=/a; HttpOnly; SameSite=Lax".to_owned()));
    assert_eq!(encoded.services[0].policy, Policy::LeastConnections);
    let file = good(&with_cookie("mode = \"encoded\"\nname = \"srv\"\nkey_file = \"/etc/cookie.key\""));
    assert_eq!(file.services[0].cookie.as_ref().map(|cookie| cookie.keys().to_vec()), Some(keys.clone()));
    let printed = format!("{:?}", encoded.services[0]);
    assert!(
        !printed.contains("000102") && !printed.contains("[0, 1, 2"),
        "no key is ever printed: {printed}"
    );
    for (text, wrong, expected) in [
        ("mode = \"learn\"", "[service.cookie]", "`name` is missing"),
        ("name = \"a\"", "[service.cookie]", "`mode` is missing"),
        ("mode = \"sticky\"\nname = \"a\"", "sticky", "expected \"learn\""),
        ("mode = \"learn\"\nname = \"a b\"", "a b", "the name of a cookie"),
        (
            "mode = \"learn\"\nname = \"a\"\nkey = \"000102030405060708090a0b0c0d0e0f\"",
            "key =",
            "does not apply to mode = \"learn\"",
        ),
        ("mode = \"learn\"\nname = \"a\"\nentries = 1", "entries", "16..=1048576"),
        ("mode = \"encoded\"\nname = \"a\"", "[service.cookie]", "`key` or `key_file` is missing"),
        ("mode = \"encoded\"\nname = \"a\"\nkey = \"tell nobody\"", "key =", "32 hexadecimal digits"),
        ("mode = \"encoded\"\nname = \"a\"\nkey_file = \"/nowhere\"", "key_file", "one or two lines"),
        ("mode = \"encoded\"\nname = \"a\"\nkey_file = \"/etc/page\"", "key_file", "a line of it is no key"),
    ] {
        says(&with_cookie(text), wrong, expected);
        assert!(!mistakes(&with_cookie(text)).concat().contains("tell nobody"));
    }
    for (more, wrong, expected) in [
        ("entries = 99", "entries", "does not apply to mode = \"encoded\""),
        ("key_file = \"/etc/cookie.key\"", "key_file", "expected one of them"),
        ("same_site = \"none\"", "same_site", "without `secure = true`"),
        ("path = \"a\"", "path = \"a\"", "a path such as"),
    ] {
        says(&with_cookie(&format!("mode = \"encoded\"\nname = \"a\"\n{key}\n{more}")), wrong, expected);
    }
    for (name, more, expected) in [
        ("__Secure-a", "", "without `secure = true`"),
        ("__Host-a", "secure = true\npath = \"/a\"", "another `path`"),
    ] {
        says(
            &with_cookie(&format!("mode = \"encoded\"\nname = \"{name}\"\n{key}\n{more}")),
            "name = \"__",
            expected,
        );
    }
    says(
        &with_cookie(&format!(
            "mode = \"encoded\"\nname = \"a\"\nprevious_{key}\nkey_file = \"/etc/cookie.key\""
        )),
        "key_file",
        "beside",
    );
    let inserted = with_cookie(&format!("mode = \"insert\"\nname = \"srv\"\n{key}\nmax_age_s = 5"));
    let mode = good(&inserted).services[0].cookie.clone().map(|cookie| cookie.mode);
    assert!(matches!(mode, Some(CookieMode::Insert { attributes, .. }) if attributes.max_age_s == Some(5)));
    says(&inserted.replace("max_age_s", "idle_s"), "idle_s", "does not apply to mode = \"insert\"");
    let policy = with_cookie("mode = \"learn\"\nname = \"a\"").replacen(
        "port = 80\n",
        "port = 80\npolicy = \"least-load\"\n",
        1,
    );
    says(&policy, "least-load", "found again by its client's address alone");
    let tls = "[[service]]\nname = \"t\"\naddress = \"198.51.100.1\"\nport = 443\nkind = \"tls\"\ncookie = { mode = \"learn\", name = \"a\" }\n";
    says(&format!("{SHORT}{tls}"), "cookie =", "does not apply to kind = \"tls\"");
}

#[test]
fn every_board_of_the_farm_has_a_value_for_each_key() {
    use ipos_pipelines::handoff::{BoardId, Session};
    use ipos_pipelines::request::head::{Head, parse};
    use ipos_pipelines::sessions::{Key, Value};
    let keys =
        "key = \"000102030405060708090a0b0c0d0e0f\"\nprevious_key = \"ffffffffffffffffffffffffffffffff\"";
    let text = with(
        "port = 80\n",
        &format!("port = 80\n\n[service.cookie]\nmode = \"encoded\"\nname = \"srv\"\n{keys}\n"),
    );
    let config = good(&text);
    let ids = [BoardId(5), BoardId(3)];
    let snapshot =
        snapshot::Numbers::default().snapshot(&config, &ids, std::time::Instant::now()).expect("one");
    let service = snapshot.services.service(0).expect("the service");
    let cookie = service.cookie.as_ref().expect("its cookie");
    for key in [Key(std::array::from_fn(|place| place as u8)), Key([0xff; 16])] {
        for (board, id) in config.boards.iter().zip(ids) {
            let value = Value::of(&key, "web", board.address.value);
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: srv={value}\r\n\r\n");
            let Head::Complete(request) = parse(head.as_bytes()) else { panic!("a good head") };
            assert_eq!(
                cookie.session(&request, [203, 0, 113, 7].into()).0,
                Session::Named { board: id, again: None }
            );
        }
    }
}

#[test]
fn the_cookie_maps_count_into_the_memory() {
    let learn = |entries: u32| {
        good(&with(
            "port = 80\n",
            &format!("port = 80\ncookie = {{ mode = \"learn\", name = \"a\", entries = {entries} }}\n"),
        ))
    };
    let octets = |config: &Config| super::size::of(config).tables_octets;
    assert_eq!(octets(&learn(1016)) - octets(&learn(16)), 1000 * 72);
}
