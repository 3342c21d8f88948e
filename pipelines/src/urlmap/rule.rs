//! Rules of the URL Map as they are written, and what can be wrong with one.

use super::condition::{CONDITIONS_MAX, HeaderRule};
use super::{MAX_HOST_OCTETS, MAX_PATH_OCTETS};
use crate::handoff::Answer;
use crate::request::head::{MAX_METHOD_OCTETS, is_token};
use crate::request::path;

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A board of this pool serves it ([`crate::handoff::Place::pool`]).
    Pool(u16),
    /// The appliance itself answers.
    Answer(Answer),
}

/// Which paths a rule is for, in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathRule {
    /// This path alone.
    Exact(String),
    /// Those that start with this.
    Prefix(String),
}

impl PathRule {
    /// The path without its kind.
    pub fn text(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
        }
    }

    /// Text of a configuration: a leading `=` stands for the very path.
    pub fn parse(text: &str) -> Self {
        match text.strip_prefix('=') {
            Some(exact) => Self::Exact(exact.to_owned()),
            None => Self::Prefix(text.to_owned()),
        }
    }
}

impl core::fmt::Display for PathRule {
    /// As [`Self::parse`] reads it.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kind = if matches!(self, Self::Exact(_)) { "=" } else { "" };
        write!(f, "{kind}{}", self.text())
    }
}

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The host in any case, without port, or `*.` and what it ends with; `None` for any.
    pub host: Option<String>,
    /// The paths.
    pub path: PathRule,
    /// The method, which has a case; `None` for any.
    pub method: Option<String>,
    /// What a header has to say, if anything.
    pub header: Option<HeaderRule>,
    /// What is done with a request that fits.
    pub action: Action,
}

impl Rule {
    /// A rule for the paths that start with a prefix, all methods, all headers.
    pub fn prefix(host: Option<&str>, prefix: &str, pool: u16) -> Self {
        Self {
            host: host.map(str::to_owned),
            path: PathRule::Prefix(prefix.to_owned()),
            method: None,
            header: None,
            action: Action::Pool(pool),
        }
    }
}

/// A rule that cannot be used: its number in the list (from 0), and what to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule}: {fault}")]
pub struct RuleError {
    /// Position in the list that was given, from 0.
    pub rule: usize,
    /// What is wrong.
    pub fault: RuleFault,
}

/// What can be wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// The path is empty.
    #[error("the path is empty; write \"/\" for every path")]
    EmptyPath,
    /// The path does not start with a slash.
    #[error("the path \"{0}\" does not start with \"/\"")]
    NoSlash(String),
    /// The path is too long.
    #[error("the path has {0} octets; at most {MAX_PATH_OCTETS} are possible")]
    PathTooLong(usize),
    /// The path holds what no path can.
    #[error(
        "the path \"{0}\" holds a space, a control character, \"?\", \"#\" or a \"%\" without two hexadecimal digits, which \
         no path does"
    )]
    NotAPath(String),
    /// No path is ever looked up in this spelling.
    #[error("the path \"{path}\" can never match; paths are looked up in normal form: write \"{normal}\"")]
    NotNormal {
        /// As written.
        path: String,
        /// As it must be written.
        normal: String,
    },
    /// The host is not a host name.
    #[error(
        "\"{0}\" is not a host name: letters, digits, \"-\", \"_\" and \".\" only, at most 253, without port or trailing dot; \
         \"*.\" may stand before it for everything that ends with it"
    )]
    BadHost(String),
    /// The method is none.
    #[error("\"{0}\" is no method; expected one such as \"GET\", at most {MAX_METHOD_OCTETS} octets")]
    BadMethod(String),
    /// The header's name is none, or its value cannot be in a header.
    #[error("\"{0}\" can be in no header")]
    BadHeader(String),
    /// More headers asked for than a look-up keeps apart.
    #[error("more than {CONDITIONS_MAX} different headers are asked for in this service")]
    TooManyHeaders,
    /// The same rule twice.
    #[error("same host, path, method and header as rule {first}; remove one")]
    Duplicate {
        /// Position of the earlier rule, from 0.
        first: usize,
    },
    /// The list is longer than the map's 32-bit offsets can hold.
    #[error("the rules' text exceeds 4 GiB")]
    TooMuchText,
}

/// Everything that is wrong with one rule by itself.
pub(super) fn faults(rule: &Rule) -> Vec<RuleFault> {
    let host = rule.host.as_ref().filter(|host| {
        let name = host.strip_prefix("*.").unwrap_or(host);
        !is_host_name(name.as_bytes()) || host.len() > MAX_HOST_OCTETS
    });
    let host = host.map(|host| RuleFault::BadHost(host.clone()));
    let method = rule.method.as_ref().filter(|method| !is_method(method.as_bytes()));
    let method = method.map(|method| RuleFault::BadMethod(method.clone()));
    let header = rule.header.as_ref().and_then(HeaderRule::fault).map(RuleFault::BadHeader);
    host.into_iter().chain(path_fault(rule.path.text())).chain(method).chain(header).collect()
}

fn path_fault(text: &str) -> Option<RuleFault> {
    if text.is_empty() {
        return Some(RuleFault::EmptyPath);
    }
    if !text.starts_with('/') {
        return Some(RuleFault::NoSlash(text.to_owned()));
    }
    if text.len() > MAX_PATH_OCTETS {
        return Some(RuleFault::PathTooLong(text.len()));
    }
    if text.bytes().any(|octet| octet <= b' ' || matches!(octet, 0x7f | b'?' | b'#')) {
        return Some(RuleFault::NotAPath(text.to_owned()));
    }
    let mut buffer = vec![0; text.len()];
    let Some(normal) = path::normalise(text.as_bytes(), &mut buffer) else {
        return Some(RuleFault::NotAPath(text.to_owned()));
    };
    (normal != text.as_bytes()).then(|| RuleFault::NotNormal {
        path: text.to_owned(),
        normal: String::from_utf8_lossy(normal).into_owned(),
    })
}

fn is_method(method: &[u8]) -> bool {
    (1..=MAX_METHOD_OCTETS).contains(&method.len()) && method.iter().all(|octet| is_token(*octet))
}

fn is_host_name(host: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= 63
            && label.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    host.len() <= MAX_HOST_OCTETS && host.split(|octet| *octet == b'.').all(is_label)
}
