//! From text to tables: ports, services with their URL maps, boards.

use std::net::Ipv4Addr;

use ipos_pipelines::answers::{Page, RedirectError};
use ipos_pipelines::config::Role;
use ipos_pipelines::handoff::Answer;
use ipos_pipelines::maglev::{HashBy, SLOTS_DEFAULT, is_prime};
use ipos_pipelines::services::{Kind, UDP_IDLE_MS};
use ipos_pipelines::tlsmap::Otherwise;
use ipos_pipelines::urlmap::HeaderRule;
use ipos_pipelines::urlmap::condition::HeaderTest;
use ipos_wire::ipos::ApplicationName;

use super::cookie::{self, CookieDraft, Mode as CookieMode};
use super::kinds;
use super::model::{
    Check, CheckHost, CheckPath, ContentType, Datagrams, Device, FlowMode, MacText, Port, RowAnswer, Start,
    Subnet, Table,
};
use super::quic::{self, QuicDraft};
use super::read::{At, Section};
use crate::control::admission::{Admit, Rate};
use crate::control::placement::{Limits, Policy};
use crate::control::standing::{WEIGHT_DEFAULT, WEIGHT_MAX};

/// What the farm's sections say, with names where [`super::model`] has places.
pub struct Farm {
    /// `[[port]]`, those that could be read.
    pub ports: Vec<Port>,
    /// Whether all could be.
    pub ports_complete: bool,
    /// `[[service]]`
    pub services: Vec<ServiceDraft>,
    /// Whether there is any `[[service]]`, readable or not.
    pub any_service: bool,
    /// `[[board]]`
    pub boards: Vec<BoardDraft>,
    /// Whether all could be read.
    pub boards_complete: bool,
}

/// A service that names its boards.
pub struct ServiceDraft {
    /// Its name.
    pub name: At<String>,
    /// The address that clients connect to.
    pub address: At<Ipv4Addr>,
    /// The port that clients connect to.
    pub port: At<u16>,
    /// How its connections are handled.
    pub kind: Kind,
    /// How flows of datagrams are handled, of kind `udp`.
    pub datagrams: Datagrams,
    /// How a table of boards is made, where one is.
    pub table: Table,
    /// Names of boards; `None` for all.
    pub boards: Option<At<Vec<At<String>>>>,
    /// Their weights here.
    pub weights: Option<Weights>,
    /// The URL map.
    pub maps: Vec<MapDraft>,
    /// The TLS map.
    pub tls: TlsDraft,
    /// Whether a connection may begin with HTTP/2.
    pub h2c: bool,
    /// Whether each request is moved where it belongs.
    pub migrates_requests: bool,
    /// How its boards are checked, if they are.
    pub check: Option<Check>,
    /// How a board is chosen.
    pub policy: Policy,
    /// The name of the home board.
    pub home: Option<At<String>>,
    /// What a board may have at most.
    pub limits: Limits,
    /// How many connections it takes.
    pub admit: Admit,
    /// Where QUIC connection ids name boards.
    pub quic: Option<QuicDraft>,
    /// Over so long a board that joins gets its whole weight, seconds.
    pub slow_start_s: u32,
    /// How its application is started and stopped.
    pub start: Start,
    /// Its own pages.
    pub pages: PagesDraft,
    /// The cookie that keeps clients at their boards.
    pub cookie: Option<CookieDraft>,
}

/// Weights of the boards of a list, in its order.
pub type Weights = At<Vec<At<u16>>>;

/// A row of the URL map that names its boards.
pub struct MapDraft {
    /// Where the row starts.
    pub offset: usize,
    /// The host; `None` for every host.
    pub host: Option<At<String>>,
    /// What the path starts with, or after `=` is.
    pub path: At<String>,
    /// The method; `None` for every one.
    pub method: Option<String>,
    /// What a header has to say.
    pub header: Option<HeaderRule>,
    /// Names of boards; none where the appliance answers.
    pub boards: Option<At<Vec<At<String>>>>,
    /// Their weights here.
    pub weights: Option<Weights>,
    /// What the appliance itself answers, instead.
    pub answer: Option<RowAnswer>,
}

/// The pages of a service, as files.
#[derive(Default)]
pub struct PagesDraft {
    /// Status and path.
    pub files: Vec<(u16, At<String>)>,
    /// What they are.
    pub content_type: String,
}

/// What a service of kind `tls` says about ClientHellos.
#[derive(Default)]
pub struct TlsDraft {
    /// The rows.
    pub rows: Vec<TlsRowDraft>,
    /// Server names that no row has.
    pub unknown_name: Option<At<Otherwise>>,
    /// No server name.
    pub no_name: Option<At<Otherwise>>,
}

/// A row of the TLS map that names its boards.
pub struct TlsRowDraft {
    /// Where the row starts.
    pub offset: usize,
    /// The server name; `None` for every name.
    pub sni: Option<At<String>>,
    /// Protocols, one of which the client must offer.
    pub alpn: Option<At<Vec<At<String>>>>,
    /// Names of boards.
    pub boards: At<Vec<At<String>>>,
    /// Their weights here.
    pub weights: Option<Weights>,
}

/// A board.
pub struct BoardDraft {
    /// Its name.
    pub name: At<String>,
    /// Its address on the farm network.
    pub address: At<Ipv4Addr>,
    /// Its MAC address, when it shall not be learned.
    pub mac: Option<At<MacText>>,
    /// Its share of new connections.
    pub weight: u16,
}

/// Reads the farm's sections.
pub fn read(root: &Section<'_>) -> Farm {
    let ports = root.sections("port", "port");
    let services = root.sections("service", "service");
    let boards = root.sections("board", "board");
    let read_ports: Vec<Port> = ports.iter().filter_map(port).collect();
    let read_boards: Vec<BoardDraft> = boards.iter().filter_map(board).collect();
    Farm {
        ports_complete: read_ports.len() == ports.len(),
        ports: read_ports,
        any_service: !services.is_empty(),
        services: services.iter().filter_map(service).collect(),
        boards_complete: read_boards.len() == boards.len(),
        boards: read_boards,
    }
}

fn name(section: &Section<'_>) -> Option<At<String>> {
    section.required_string("name", "a name that tells it from the others")
}

fn port(section: &Section<'_>) -> Option<Port> {
    let name = name(section);
    let device = section.required::<Device>(
        "device",
        "a virtual device such as \"net_af_packet0,iface=wan0\", or a PCI address such as \"0000:81:00.0\"",
    );
    let role =
        section.required_choice("role", &[("wan", Role::Wan), ("farm", Role::Farm), ("both", Role::Both)]);
    let address =
        section.required::<Subnet>("address", "a host's address with its prefix, such as \"192.0.2.130/25\"");
    let mtu = section.integer("mtu", 576u16..=9000, 1500);
    let rx_descriptors = section.integer("rx_descriptors", 64u16..=8192, 1024).value;
    let tx_descriptors = section.integer("tx_descriptors", 64u16..=8192, 1024).value;
    section.finish();
    let (name, device, role, address) = (name?, device?, role?.value, address?);
    Some(Port { name, device, role, address, mtu, rx_descriptors, tx_descriptors })
}

fn board(section: &Section<'_>) -> Option<BoardDraft> {
    let name = name(section);
    let address = section.required::<Ipv4Addr>("address", "the board's IPv4 address, such as \"192.0.2.11\"");
    let mac = section.parsed::<MacText>("mac", "a station's MAC address, such as \"02:00:00:00:00:0b\"");
    let weight = section.integer("weight", 0..=WEIGHT_MAX, WEIGHT_DEFAULT).value;
    section.finish();
    Some(BoardDraft { name: name?, address: address?, mac, weight })
}

/// The words for a service's kind.
const KINDS: [(&str, Kind); 5] =
    [("http", Kind::Http), ("tcp", Kind::Tcp), ("tls", Kind::Tls), ("l4", Kind::L4), ("udp", Kind::Udp)];

fn service(section: &Section<'_>) -> Option<ServiceDraft> {
    let name = name(section);
    let address = section.required::<Ipv4Addr>("address", "an IPv4 address, such as \"198.51.100.1\"");
    let port = section.required_integer("port", 1u16..=65535);
    let known = section.choice("kind", &KINDS).map(|kind| kind.value);
    let kind = known.unwrap_or(Kind::Http);
    let table = table(section);
    let datagrams = datagrams(section);
    let boards = section.strings("boards", "all boards");
    let weights = weights(section);
    let policy = section.choice("policy", &Policy::NAMES).map_or_else(Policy::default, |policy| policy.value);
    // Boards do not count flows of datagrams among their connections.
    let is_default = section.offset_of("policy").is_none();
    let is_udp = kind.is_udp();
    let policy = if is_default && is_udp { Policy::ConsistentHash } else { policy };
    let home = section.parsed::<String>("home", "the name of one of the service's boards");
    let slow_start_s = section.integer("slow_start_s", 0u32..=86_400, 0).value;
    let limits = limits(&section.subsection("limits", "service.limits"));
    let admit = admit(&section.subsection("admit", "service.admit"), kind);
    let (mut maps, mut checked, mut h2c, mut tls) = (Vec::new(), None, false, TlsDraft::default());
    let (mut own, mut quic_ids, mut sticky) = (PagesDraft::default(), None, None);
    let mut migrates_requests = false;
    match kind {
        Kind::Http => {
            maps = section.sections("map", "service.map").iter().filter_map(map).collect();
            let of_check = section.optional_section("check", "service.check");
            checked = of_check.and_then(|section| check(&section));
            h2c = section.boolean("h2c", false);
            migrates_requests = section.choice("migrate", &MIGRATE).is_some_and(|migrate| migrate.value);
            own = pages(&section.subsection("pages", "service.pages"));
            let of_cookie = section.optional_section("cookie", "service.cookie");
            sticky = of_cookie.and_then(|section| cookie::read(&section));
        }
        Kind::Tls => tls = tls_rows(section),
        Kind::Udp => {
            let section = section.optional_section("quic", "service.quic");
            quic_ids = section.and_then(|section| quic::read(&section));
        }
        Kind::Tcp | Kind::L4 => {}
    }
    let policy = learning(section, policy, sticky.as_ref());
    let start = start(section);
    // Of a kind that is none nothing can be said.
    if let Some(kind) = known {
        kinds::check(section, kind, datagrams.flow);
    }
    section.finish();
    let (name, address, port) = (name?, address?, port?);
    Some(ServiceDraft {
        name,
        address,
        port,
        kind,
        datagrams,
        table,
        boards,
        weights,
        maps,
        tls,
        h2c,
        migrates_requests,
        policy,
        home,
        limits,
        admit,
        quic: quic_ids,
        slow_start_s,
        check: checked,
        start,
        pages: own,
        cookie: sticky,
    })
}

/// The policy where a cookie is learned. Replies are not seen: the board that set the cookie is found again only when the request
/// that first shows it is placed as the one before it was, by the client's address.
fn learning(section: &Section<'_>, policy: Policy, cookie: Option<&CookieDraft>) -> Policy {
    if !cookie.is_some_and(|cookie| cookie.mode == CookieMode::Learn) {
        return policy;
    }
    if let Some(offset) = section.offset_of("policy").filter(|_| policy != Policy::ConsistentHash) {
        let what = format!(
            "`policy` is \"{}\" with a cookie of mode \"learn\"; expected \"consistent-hash\", or left out: a new session is found \
             again by its client's address alone",
            policy.name()
        );
        section.problem(offset, what);
    }
    Policy::ConsistentHash
}

/// What moves an endpoint: the connection's first request alone, or each that belongs elsewhere.
const MIGRATE: [(&str, bool); 2] = [("connection", false), ("request", true)];

/// The words for what becomes of a hello that no row names.
const OTHERWISE: [(&str, Otherwise); 2] = [("default", Otherwise::Default), ("reject", Otherwise::Reject)];

fn tls_rows(section: &Section<'_>) -> TlsDraft {
    let rows = section.sections("map", "service.map");
    TlsDraft {
        rows: rows.iter().filter_map(tls_row).collect(),
        unknown_name: section.choice("unknown_name", &OTHERWISE),
        no_name: section.choice("no_name", &OTHERWISE),
    }
}

fn tls_row(section: &Section<'_>) -> Option<TlsRowDraft> {
    let sni = section.parsed::<String>("sni", "a host name, or \"*.\" and a host name");
    let alpn = section.strings("alpn", "any");
    let boards = section.required_strings("boards", "the names of boards");
    let weights = weights(section);
    section.finish();
    Some(TlsRowDraft { offset: section.offset, sni, alpn, boards: boards?, weights })
}

/// Statuses that a service may have its own page for, as the keys that name them.
const PAGES: [(u16, &str); 4] = [(403, "403"), (404, "404"), (429, "429"), (503, "503")];

fn pages(section: &Section<'_>) -> PagesDraft {
    let files = PAGES
        .iter()
        .filter_map(|(status, key)| Some((*status, section.parsed::<String>(key, "the path of a file")?)));
    let files = files.collect();
    let content_type = section.text_as::<ContentType>(
        "type",
        "text/html; charset=utf-8",
        "a content type such as \"text/html\"",
    );
    section.finish();
    PagesDraft { files, content_type }
}

fn datagrams(section: &Section<'_>) -> Datagrams {
    let modes = [("connection", FlowMode::Connection), ("datagram", FlowMode::Datagram)];
    let flow = section.choice("flow", &modes).map_or_else(FlowMode::default, |flow| flow.value);
    Datagrams { flow, idle_ms: section.integer("idle_ms", 1000u32..=86_400_000, UDP_IDLE_MS).value }
}

fn table(section: &Section<'_>) -> Table {
    let by = section.choice("hash", &[("flow", HashBy::Flow), ("client", HashBy::Client)]);
    let slots = section.integer("table_size", 1021u32..=1_048_573, SLOTS_DEFAULT);
    if !is_prime(slots.value) {
        let what =
            format!("`table_size` is {}; expected a prime number, such as {SLOTS_DEFAULT}", slots.value);
        section.problem(slots.offset, what);
    }
    Table { by: by.map_or_else(HashBy::default, |by| by.value), slots: slots.value }
}

fn start(section: &Section<'_>) -> Start {
    let application = section.parsed::<ApplicationName>(
        "application",
        "a name as the boards' [[application]] have it: 1 to 32 letters, digits, dots, dashes and underlines",
    );
    Start {
        application: application.map(|application| application.value),
        queue: section.integer("start_queue", 1u32..=1_048_576, 1024).value,
        wait_s: section.integer("start_wait_s", 1u32..=3600, 10).value,
        idle_stop_s: section.integer("idle_stop_s", 0u32..=86_400, 0).value,
        instances_max: section.integer("instances_max", 1u32..=65_536, 1024).value,
    }
}

fn check(section: &Section<'_>) -> Option<Check> {
    let path = section.required::<CheckPath>("http", "the path of a request, such as \"/health\"");
    let host =
        section.parsed::<CheckHost>("host", "a host name for the request, such as \"www.example.org\"");
    let check = Check {
        path: path?.value.0,
        host: host.map(|host| host.value.0),
        expect: section.integer("expect", 100u16..=599, 200).value,
        interval_ms: section.integer("interval_ms", 100u32..=3_600_000, 1000).value,
        timeout_ms: section.integer("timeout_ms", 10u32..=600_000, 1000).value,
        fall: section.integer("fall", 1u32..=1000, 3).value,
        rise: section.integer("rise", 1u32..=1000, 2).value,
    };
    section.finish();
    Some(check)
}

fn weights(section: &Section<'_>) -> Option<Weights> {
    section.integers("weights", 0..=WEIGHT_MAX, "100 each")
}

fn limits(section: &Section<'_>) -> Limits {
    let limits = Limits {
        connections: section.optional_integer("connections", 1u32..=1_000_000_000).map(|at| at.value),
        cpu_percent: section.optional_integer("cpu_percent", 1u8..=100).map(|at| at.value),
        memory_free_mb: section.optional_integer("memory_free_mb", 1u32..=1_000_000_000).map(|at| at.value),
        bandwidth_free_mbps: section
            .optional_integer("bandwidth_free_mbps", 1u32..=10_000_000)
            .map(|at| at.value),
        accept_queue_percent: section.optional_integer("accept_queue_percent", 1u8..=100).map(|at| at.value),
    };
    section.finish();
    limits
}

/// Limits for clients.
fn admit(section: &Section<'_>, kind: Kind) -> Admit {
    let many = 1u32..=1_000_000_000;
    let [per_second, burst] = rate(section, ["per_second", "burst"]);
    let [client_per_second, client_burst] = rate(section, ["client_per_second", "client_burst"]);
    let admit = Admit {
        connections: section.optional_integer("connections", many.clone()).map(|at| at.value),
        rate: whole(section, per_second, burst, ["per_second", "burst"]),
        client_connections: section.optional_integer("client_connections", many).map(|at| at.value),
        client_rate: whole(section, client_per_second, client_burst, ["client_per_second", "client_burst"]),
    };
    if kind.is_udp() {
        let of_clients = &["client_connections", "client_per_second", "client_burst"];
        section.does_not_apply(of_clients, "kind = \"udp\": a datagram does not prove whose it is");
    }
    section.finish();
    admit
}

fn rate(section: &Section<'_>, keys: [&'static str; 2]) -> [Option<At<u32>>; 2] {
    keys.map(|key| section.optional_integer(key, 1u32..=1_000_000))
}

/// A rate; its burst is as much as comes in a second unless it is written.
fn whole(
    section: &Section<'_>,
    per_second: Option<At<u32>>,
    burst: Option<At<u32>>,
    [rate_key, burst_key]: [&str; 2],
) -> Option<Rate> {
    if let (None, Some(burst)) = (&per_second, &burst)
        && !section.holds(rate_key)
    {
        section.problem(burst.offset, format!("`{burst_key}` without `{rate_key}`; expected both"));
    }
    let per_second = per_second?.value;
    Some(Rate { per_second, burst: burst.map_or(per_second, |burst| burst.value) })
}

fn map(section: &Section<'_>) -> Option<MapDraft> {
    let host = section.parsed::<String>("host", "a host name, or \"*.\" and what it ends with");
    let path =
        section.required_string("path", "what the path starts with, such as \"/a/\", or \"=\" and the path");
    let method = section.parsed::<String>("method", "a method, such as \"GET\"").map(|at| at.value);
    let header = section.optional_section("header", "service.map.header").map(|section| header(&section));
    let answer = answer(section);
    let boards = match answer {
        None => section.required_strings("boards", "the names of boards, `redirect` or `answer`"),
        Some(_) => section.strings("boards", "required"),
    };
    let weights = weights(section);
    section.finish();
    if answer.is_some() && (boards.is_some() || weights.is_some()) {
        section.wants("`boards` or `weights` beside `redirect` or `answer`; expected one of them: the appliance answers itself");
        return None;
    }
    let answer = answer.flatten();
    let header = match header {
        Some(header) => Some(header?),
        None => None,
    };
    if answer.is_none() && boards.is_none() {
        // What is missing or wrong has been noted.
        return None;
    }
    Some(MapDraft { offset: section.offset, host, path: path?, method, header, boards, weights, answer })
}

/// What the appliance answers itself: `None` where the row does not say so, `Some(None)` where it says so wrongly.
fn answer(section: &Section<'_>) -> Option<Option<RowAnswer>> {
    let status = section.optional_integer("answer", 403u16..=503);
    let redirect =
        section.optional_section("redirect", "service.map.redirect").map(|section| redirect(&section));
    if section.holds("answer") && redirect.is_some() {
        section.wants("`answer` and `redirect`; expected one of them");
        return Some(None);
    }
    if section.holds("redirect") {
        return Some(redirect.flatten());
    }
    if !section.holds("answer") {
        return None;
    }
    let Some(status) = status.map(|status| status.value) else { return Some(None) };
    if Answer::of_row(status).is_none() {
        section.wants(&format!("`answer` is {status}; expected 403, 404, 429 or 503"));
        return Some(None);
    }
    Some(Some(RowAnswer::Page(status)))
}

fn redirect(section: &Section<'_>) -> Option<RowAnswer> {
    let status = section.integer("status", 301u16..=308, 302).value;
    let to = section.required_string("to", "where to, such as \"https://example.org\"");
    section.finish();
    let to = to?.value;
    if let Err(error) = Page::redirect(status, &to) {
        let (key, value) = match error {
            RedirectError::Status => ("status", status.to_string()),
            _ => ("to", format!("\"{to}\"")),
        };
        section.wants(&format!("`{key}` is {value}; {error}"));
        return None;
    }
    Some(RowAnswer::Redirect { status, to })
}

/// What a header has to say: exactly one of three keys.
fn header(section: &Section<'_>) -> Option<HeaderRule> {
    let name = section.required_string("name", "the name of a header, such as \"X-Beta\"");
    let equals = section.parsed::<String>("equals", "what the header says");
    let prefix = section.parsed::<String>("prefix", "what the header starts with");
    let present = section.boolean("present", false);
    section.finish();
    let test = match (equals, prefix, present) {
        (Some(value), None, false) => HeaderTest::Equals(value.value),
        (None, Some(value), false) => HeaderTest::Prefix(value.value),
        (None, None, true) => HeaderTest::Present,
        _ => {
            section.wants("`header` needs exactly one of `equals`, `prefix` and `present = true`");
            return None;
        }
    };
    Some(HeaderRule { name: name?.value, test })
}
