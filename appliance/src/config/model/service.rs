//! `[[service]]` and its tables, checked.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipos_pipelines::maglev::HashBy;
use ipos_pipelines::services::Kind;
use ipos_pipelines::tlsmap::Otherwise;
use ipos_pipelines::urlmap::{HeaderRule, PathRule};
use ipos_wire::ipos::ApplicationName;

use super::cookie::Cookie;
use crate::config::quic::Quic;
use crate::config::read::At;
use crate::control::admission::Admit;
use crate::control::placement::{Limits, Policy};

/// `[[service]]`
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name in messages.
    pub name: At<String>,
    /// The address that clients connect to.
    pub address: At<Ipv4Addr>,
    /// The port that clients connect to.
    pub port: u16,
    /// How its connections are handled.
    pub kind: Kind,
    /// How flows of datagrams are handled, of kind `udp`.
    pub datagrams: Datagrams,
    /// How a table of boards is made, where one is.
    pub table: Table,
    /// Who serves what no row of `maps` names: places in [`Config::boards`].
    pub boards: Vec<u16>,
    /// The weights of `boards` here.
    pub weights: Vec<u16>,
    /// The URL map.
    pub maps: Vec<Map>,
    /// The TLS map.
    pub tls: Tls,
    /// Whether a connection may begin with HTTP/2.
    pub h2c: bool,
    /// Whether each request is moved where it belongs.
    pub migrates_requests: bool,
    /// How a board is chosen.
    pub policy: Policy,
    /// The board that keeps what it can take: a place in [`Config::boards`].
    pub home: Option<u16>,
    /// What a board may have at most.
    pub limits: Limits,
    /// How many connections it takes, in all and of each client.
    pub admit: Admit,
    /// Where QUIC connection ids name boards.
    pub quic: Option<Quic>,
    /// Over so long a board that joins gets its whole weight, seconds.
    pub slow_start_s: u32,
    /// How its boards are checked, if they are.
    pub check: Option<Check>,
    /// What boards may start when nothing serves it.
    pub start: Start,
    /// Its own pages.
    pub pages: Pages,
    /// The cookie that keeps clients at their boards.
    pub cookie: Option<Cookie>,
}

/// What becomes of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowMode {
    /// The first of a flow has a board chosen, the others go there.
    #[default]
    Connection,
    /// Each goes by hash.
    Datagram,
}

/// How a service's datagrams are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// What becomes of them.
    pub flow: FlowMode,
    /// A flow ends after so long without one, milliseconds.
    pub idle_ms: u32,
}

impl Service {
    /// Whether its boards are chosen by hash, without the control core.
    pub fn is_hashed(&self) -> bool {
        self.kind == Kind::L4 || (self.kind == Kind::Udp && self.datagrams.flow == FlowMode::Datagram)
    }
}

/// How a service's boards are chosen by hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// What of a flow is hashed.
    pub by: HashBy,
    /// Slots of the table: a prime.
    pub slots: u32,
}

/// How a service's application is started and stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The application; `None` when boards may start none.
    pub application: Option<ApplicationName>,
    /// Requests that may wait.
    pub queue: u32,
    /// How long each may wait, seconds.
    pub wait_s: u32,
    /// An instance without a connection for so long is stopped, seconds; 0 never.
    pub idle_stop_s: u32,
    /// Most instances on all boards together.
    pub instances_max: u32,
}

/// `[service.check]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The path that is requested.
    pub path: String,
    /// The host that is requested; `None` for the service's address.
    pub host: Option<String>,
    /// The status of a good answer.
    pub expect: u16,
    /// From the start of one check to that of the next, milliseconds.
    pub interval_ms: u32,
    /// How long an answer may take, milliseconds.
    pub timeout_ms: u32,
    /// Failed checks in a row until a board gets no connections.
    pub fall: u32,
    /// Passed checks in a row until it gets them again.
    pub rise: u32,
}

/// The longest path and the longest host name of a check, octets: with both, the request is one segment of the least MSS.
const CHECK_TEXT_MAX: usize = 200;

/// Whether text can stand in a request's head as it is.
fn is_plain(text: &str) -> bool {
    (1..=CHECK_TEXT_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// A path for a check: printable, without spaces, at most 200 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPath(pub String);

impl FromStr for CheckPath {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text.starts_with('/') && is_plain(text) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// A host name for a check, with or without port: printable, without spaces, at most 200 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckHost(pub String);

impl FromStr for CheckHost {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if is_plain(text) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// `[[service.map]]`
#[derive(Clone, Debug)]
pub struct Map {
    /// The host; `None` for every host.
    pub host: Option<String>,
    /// The paths.
    pub path: PathRule,
    /// The method; `None` for every one.
    pub method: Option<String>,
    /// What a header has to say.
    pub header: Option<HeaderRule>,
    /// Who serves it: places in [`Config::boards`]; empty where the appliance answers.
    pub boards: Vec<u16>,
    /// The weights of `boards` here.
    pub weights: Vec<u16>,
    /// What the appliance itself answers, instead.
    pub answer: Option<RowAnswer>,
}

/// What the appliance answers for a row of the URL map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowAnswer {
    /// A page of this status.
    Page(u16),
    /// A redirect.
    Redirect {
        /// Its status.
        status: u16,
        /// Where to, as written.
        to: String,
    },
}

impl fmt::Display for RowAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(status) => write!(f, "{status}"),
            Self::Redirect { status, to } => write!(f, "{status} {to}"),
        }
    }
}

impl Map {
    /// How the row is named at run time: host and path, then method and header where it has them.
    pub fn name(&self) -> String {
        let host = self.host.as_deref().unwrap_or_default();
        let method = self.method.as_ref().map_or(String::new(), |method| format!(" {method}"));
        let header = self.header.as_ref().map_or(String::new(), |header| format!(" [{header}]"));
        format!("{host}{}{method}{header}", self.path)
    }
}

/// The service's own page for a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// Its octets, as they were when the configuration was read.
    pub body: Vec<u8>,
}

/// `[service.pages]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// The pages that it has.
    pub pages: Vec<Page>,
    /// What they are.
    pub content_type: String,
}

/// A content type: printable, at most 100 octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType(pub String);

impl FromStr for ContentType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_plain = text.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ');
        let is_one = text.split_once('/').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
        if is_plain && is_one && text.len() <= 100 { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

/// What a service of kind `tls` says about ClientHellos.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The rows of its `[[service.map]]`.
    pub rows: Vec<TlsRow>,
    /// Server names that no row has.
    pub unknown_name: Otherwise,
    /// No server name.
    pub no_name: Otherwise,
}

/// `[[service.map]]` of kind `tls`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRow {
    /// The server name; `None` for every name.
    pub sni: Option<String>,
    /// Protocols, one of which the client must offer; empty for any client.
    pub alpn: Vec<String>,
    /// Who serves it: places in [`Config::boards`].
    pub boards: Vec<u16>,
    /// The weights of `boards` here.
    pub weights: Vec<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_requests_cannot_carry_a_second_request() {
        assert!(
            "/health?deep=1".parse::<CheckPath>().is_ok()
                && "www.example.org:8080".parse::<CheckHost>().is_ok()
        );
        let long = format!("/{}", "a".repeat(200));
        for wrong in ["", "health", "/a b", "/a\r\nX: y", "/\u{e4}", &long] {
            assert_eq!(wrong.parse::<CheckPath>(), Err(()), "{wrong}");
        }
        for wrong in ["", "a b", "a\r\nX: y", &long] {
            assert_eq!(wrong.parse::<CheckHost>(), Err(()), "{wrong}");
        }
    }
}
