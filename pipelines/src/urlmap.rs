//! The URL Map (Fig. 12): from host and path to the pool that serves them.
//!
//! A map is an immutable snapshot of one service's rules, built when the configuration is read and then only looked up
//! in, by any number of threads. Look-up: two binary searches (host, then prefix) and a walk up at most the
//! matched rule's own nesting; it neither allocates nor grows linearly with the number of rules.
//!
//! Matching: rules for the very host come before rules for any host; among the rules of one kind the longest prefix wins;
//! when no prefix under the host matches, the rules for any host are asked. Prefixes are compared octet by octet, as
//! written: `/a/` does not match `/a`, and `/a` matches `/ab`.

use core::cmp::Ordering;
use core::ops::Range;

use crate::request::path;

/// Longest prefix that a rule may have, octets.
pub const MAX_PREFIX_OCTETS: usize = 4096;
/// Longest host that a rule may have, octets (RFC 1035 section 2.3.4, as text without trailing dot).
pub const MAX_HOST_OCTETS: usize = 253;

/// One line of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The host, in any case, without port; `None` for any.
    pub host: Option<String>,
    /// What the path must start with.
    pub path_prefix: String,
    /// What a matching request is given: the number of a pool.
    pub value: u16,
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
    /// The prefix is empty.
    #[error("the path prefix is empty; write \"/\" for every path")]
    EmptyPrefix,
    /// The prefix does not start with a slash.
    #[error("the path prefix \"{0}\" does not start with \"/\"")]
    NoSlash(String),
    /// The prefix is too long.
    #[error("the path prefix has {0} octets; at most 4096 are possible")]
    PrefixTooLong(usize),
    /// The prefix holds what no path can.
    #[error("the path prefix \"{0}\" holds a space, a control character, \"?\" or \"#\", which no path does")]
    NotAPath(String),
    /// No path is ever looked up in this spelling.
    #[error(
        "the path prefix \"{prefix}\" can never match; paths are looked up in normal form: write \"{normal}\""
    )]
    NotNormal {
        /// As written.
        prefix: String,
        /// As it must be written.
        normal: String,
    },
    /// The host is not a host name.
    #[error(
        "\"{0}\" is not a host name: letters, digits, \"-\", \"_\" and \".\" only, at most 253, without port, \
         wildcard or trailing dot"
    )]
    BadHost(String),
    /// The same host and prefix twice.
    #[error("same host and path prefix as rule {first}; remove one")]
    Duplicate {
        /// Position of the earlier rule, from 0.
        first: usize,
    },
    /// The list is longer than the map's 32-bit offsets can hold.
    #[error("the rules' text exceeds 4 GiB")]
    TooMuchText,
}

/// An immutable snapshot of one service's rules.
#[derive(Debug, Clone, Default)]
pub struct UrlMap {
    /// Hosts (small letters) and prefixes, end to end.
    text: Box<[u8]>,
    /// Sorted by host.
    hosts: Box<[HostRules]>,
    /// Rules of one host side by side, sorted by prefix.
    prefixes: Box<[PrefixRule]>,
    any_host: Span,
}

/// A half-open range of positions.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug, Clone)]
struct HostRules {
    host: Span,
    prefixes: Span,
}

#[derive(Debug, Clone)]
struct PrefixRule {
    prefix: Span,
    /// Position of the same host's longest rule that is a proper prefix of this one; `NO_PARENT` for none.
    parent: u32,
    value: u16,
}

const NO_PARENT: u32 = u32::MAX;

impl UrlMap {
    /// Builds the map.
    ///
    /// # Errors
    /// Every rule that cannot be used, in the order of the list.
    pub fn build(rules: &[Rule]) -> Result<Self, Vec<RuleError>> {
        let mut errors: Vec<RuleError> = rules
            .iter()
            .enumerate()
            .flat_map(|(rule, content)| {
                faults(content).into_iter().map(move |fault| RuleError { rule, fault })
            })
            .collect();
        let mut sorted: Vec<Keyed<'_>> = rules.iter().enumerate().map(Keyed::new).collect();
        sorted.sort_by(|a, b| a.key().cmp(&b.key()).then(a.rule.cmp(&b.rule)));
        let mut first = 0;
        for (at, keyed) in sorted.iter().enumerate().skip(1) {
            if keyed.key() == sorted[first].key() {
                let fault = RuleFault::Duplicate { first: sorted[first].rule };
                errors.push(RuleError { rule: keyed.rule, fault });
            } else {
                first = at;
            }
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.rule);
            return Err(errors);
        }
        Self::lay_out(&sorted).ok_or_else(|| vec![RuleError { rule: 0, fault: RuleFault::TooMuchText }])
    }

    /// The value of the rule that matches best. `path` is in normal form ([`path::normalise`]); a path that does not
    /// start with a slash (`*`) is looked up as `/`. `host` may be in any case.
    pub fn lookup(&self, host: Option<&[u8]>, path: &[u8]) -> Option<u16> {
        let path = if path.starts_with(b"/") { path } else { b"/" };
        let by_host = host.and_then(|host| self.rules_of(host)).and_then(|rules| self.longest(rules, path));
        by_host.or_else(|| self.longest(self.any_host, path))
    }

    /// Rules in the map.
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// No rules at all: every look-up is `None`.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    fn lay_out(sorted: &[Keyed<'_>]) -> Option<Self> {
        let mut text = Vec::new();
        let mut hosts: Vec<HostRules> = Vec::new();
        let mut prefixes: Vec<PrefixRule> = Vec::with_capacity(sorted.len());
        let mut any_host = Span::default();
        for group in sorted.chunk_by(|a, b| a.host == b.host) {
            let start = u32::try_from(prefixes.len()).ok()?;
            // Rules that are prefixes of the current one, shortest first: sorted order visits them in nested order.
            let mut open: Vec<u32> = Vec::new();
            for keyed in group {
                let holds = |at: &u32| {
                    let rule = &prefixes[*at as usize];
                    keyed.prefix.starts_with(&text[rule.prefix.range()])
                };
                while open.last().is_some_and(|at| !holds(at)) {
                    open.pop();
                }
                let parent = open.last().copied().unwrap_or(NO_PARENT);
                open.push(u32::try_from(prefixes.len()).ok()?);
                let prefix = append(&mut text, keyed.prefix)?;
                prefixes.push(PrefixRule { prefix, parent, value: keyed.value });
            }
            let span = Span { start, end: u32::try_from(prefixes.len()).ok()? };
            match group.first().and_then(|keyed| keyed.host.as_deref()) {
                Some(host) => {
                    hosts.push(HostRules { host: append(&mut text, host.as_bytes())?, prefixes: span })
                }
                None => any_host = span,
            }
        }
        Some(Self { text: text.into(), hosts: hosts.into(), prefixes: prefixes.into(), any_host })
    }

    fn rules_of(&self, host: &[u8]) -> Option<Span> {
        let at = self.hosts.binary_search_by(|rules| cmp_host(self.text_at(rules.host), host)).ok()?;
        self.hosts.get(at).map(|rules| rules.prefixes)
    }

    /// The longest prefix of `path` among the rules of one host: the last rule that sorts at or before the path, or the
    /// nearest of its parents that is a prefix. (All prefixes of a path sort at or before it, the longest last; rules
    /// between that one and the path start with it, hence have it among their parents.)
    fn longest(&self, rules: Span, path: &[u8]) -> Option<u16> {
        let held = self.prefixes.get(rules.range())?;
        let after = held.partition_point(|rule| self.text_at(rule.prefix) <= path);
        let mut rule = held.get(after.checked_sub(1)?)?;
        let common = common_len(self.text_at(rule.prefix), path);
        while self.text_at(rule.prefix).len() > common {
            rule = self.prefixes.get(rule.parent as usize)?;
        }
        Some(rule.value)
    }

    fn text_at(&self, span: Span) -> &[u8] {
        self.text.get(span.range()).unwrap_or_default()
    }
}

/// A rule with what it is sorted by.
struct Keyed<'a> {
    host: Option<String>,
    prefix: &'a [u8],
    value: u16,
    rule: usize,
}

impl<'a> Keyed<'a> {
    fn new((rule, content): (usize, &'a Rule)) -> Self {
        Self {
            host: content.host.as_ref().map(|host| host.to_ascii_lowercase()),
            prefix: content.path_prefix.as_bytes(),
            value: content.value,
            rule,
        }
    }

    fn key(&self) -> (Option<&str>, &[u8]) {
        (self.host.as_deref(), self.prefix)
    }
}

fn append(text: &mut Vec<u8>, piece: &[u8]) -> Option<Span> {
    let start = u32::try_from(text.len()).ok()?;
    text.extend_from_slice(piece);
    Some(Span { start, end: u32::try_from(text.len()).ok()? })
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Compares a host of the map, in small letters, with one in any case.
fn cmp_host(small: &[u8], any: &[u8]) -> Ordering {
    small.iter().copied().cmp(any.iter().map(u8::to_ascii_lowercase))
}

/// Everything that is wrong with one rule by itself.
fn faults(rule: &Rule) -> Vec<RuleFault> {
    let host = rule.host.as_ref().filter(|host| !is_host_name(host.as_bytes()));
    let host_fault = host.map(|host| RuleFault::BadHost(host.clone()));
    host_fault.into_iter().chain(prefix_fault(&rule.path_prefix)).collect()
}

fn prefix_fault(prefix: &str) -> Option<RuleFault> {
    if prefix.is_empty() {
        return Some(RuleFault::EmptyPrefix);
    }
    if !prefix.starts_with('/') {
        return Some(RuleFault::NoSlash(prefix.to_owned()));
    }
    if prefix.len() > MAX_PREFIX_OCTETS {
        return Some(RuleFault::PrefixTooLong(prefix.len()));
    }
    if prefix.bytes().any(|octet| octet <= b' ' || matches!(octet, 0x7f | b'?' | b'#')) {
        return Some(RuleFault::NotAPath(prefix.to_owned()));
    }
    let mut buffer = vec![0; prefix.len()];
    let normal = path::normalise(prefix.as_bytes(), &mut buffer).unwrap_or_default();
    (normal != prefix.as_bytes()).then(|| RuleFault::NotNormal {
        prefix: prefix.to_owned(),
        normal: String::from_utf8_lossy(normal).into_owned(),
    })
}

fn is_host_name(host: &[u8]) -> bool {
    let is_label = |label: &[u8]| {
        !label.is_empty()
            && label.len() <= 63
            && label.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    host.len() <= MAX_HOST_OCTETS && host.split(|octet| *octet == b'.').all(is_label)
}
