//! The TLS map: from the server name and the ALPN protocols of a ClientHello to the pool that serves them.
//!
//! An immutable snapshot of one service's rows, built when the configuration is read and then only looked up in. Look-up: binary
//! searches among the names, one for the name itself and one for each of its dots, then the rows of what was found, in their order. It
//! neither allocates nor grows linearly with the number of names. What a client can make it cost is bounded by the name's 253 octets and
//! the list's 256 protocols.
//!
//! Matching: rows for the very name come before rows for a wildcard, a longer wildcard before a shorter one, and rows without a name last. Among
//! the rows of one name the first in the file fits whose protocols the client offers one of, or that names none. `*.example.org` stands
//! for any number of labels before `.example.org`, and not for `example.org` itself. Names are compared without regard to case.

use core::cmp::Ordering;
use core::ops::Range;

use ipos_wire::tls::{ClientHello, NAME_MAX_OCTETS};

/// Most protocols that a row may name.
pub const ROW_PROTOCOLS_MAX: usize = 8;
/// Longest protocol, octets (RFC 7301, section 3.1).
pub const PROTOCOL_MAX_OCTETS: usize = 255;

/// One row of the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The server name in any case, or a wildcard: `*.example.org`; `None` for every name, and for none.
    pub sni: Option<String>,
    /// The client must offer one of these; empty for any client.
    pub alpn: Vec<String>,
    /// What a matching hello is given: the number of a pool.
    pub value: u16,
}

/// A row that cannot be used: its number in the list (from 0), and what to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {rule}: {fault}")]
pub struct RuleError {
    /// Position in the list that was given, from 0.
    pub rule: usize,
    /// What is wrong.
    pub fault: RuleFault,
}

/// What can be wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    /// The row says nothing.
    #[error("neither `sni` nor `alpn`: such a row is what the service's own `boards` are for")]
    Empty,
    /// The name is none.
    #[error(
        "`sni` is \"{0}\"; expected a host name of at most 253 letters, digits, \"-\", \"_\" and \".\", or one with \"*.\" before it"
    )]
    BadName(String),
    /// The protocol is none.
    #[error("`alpn` has a protocol of {0} octets; expected 1 to 255")]
    BadProtocol(usize),
    /// Too many protocols.
    #[error("`alpn` has {0} protocols; expected at most 8")]
    TooManyProtocols(usize),
    /// An earlier row takes all that this one could.
    #[error("never reached: row {} of this name fits every client that this one fits", first + 1)]
    Unreachable {
        /// Position of the earlier row, from 0.
        first: usize,
    },
}

/// An immutable snapshot of one service's rows.
#[derive(Debug, Clone, Default)]
pub struct TlsMap {
    /// Sorted by name, in small letters.
    exact: Box<[Named]>,
    /// Sorted by name; what stands behind the `*`, the dot included.
    wildcards: Box<[Named]>,
    /// Rows without a name.
    any: Range<usize>,
    /// Those of one name side by side, in the order of the list.
    rows: Box<[Row]>,
}

#[derive(Debug, Clone)]
struct Named {
    name: Box<[u8]>,
    rows: Range<usize>,
}

#[derive(Debug, Clone)]
struct Row {
    alpn: Box<[Box<[u8]>]>,
    value: u16,
}

/// What becomes of a hello that no row names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// The service's own boards serve it.
    #[default]
    Default,
    /// It is answered by an alert.
    Reject,
}

/// Why a hello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No row has its server name.
    UnknownName,
    /// It has no server name.
    NoName,
}

/// What a service of kind `tls` says about hellos.
#[derive(Debug, Clone, Default)]
pub struct TlsRules {
    /// The map; its values are pools, see [`crate::handoff::Place::pool`].
    pub map: TlsMap,
    /// Server names that no row has.
    pub unknown_name: Otherwise,
    /// No server name.
    pub no_name: Otherwise,
}

impl TlsRules {
    /// The pool for a hello.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn pool(&self, hello: &ClientHello<'_>, default_pool: u16) -> Result<u16, Refusal> {
        let (otherwise, refusal) = match self.map.look_up(hello) {
            Found::Pool(pool) => return Ok(pool),
            Found::NameOnly => return Ok(default_pool),
            Found::Nothing if hello.server_name.is_some() => (self.unknown_name, Refusal::UnknownName),
            Found::Nothing => (self.no_name, Refusal::NoName),
        };
        if otherwise == Otherwise::Reject { Err(refusal) } else { Ok(default_pool) }
    }
}

/// What the map has for a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A row fits.
    Pool(u16),
    /// Rows have the name, but want other protocols.
    NameOnly,
    /// No row fits, and none has the name.
    Nothing,
}

impl TlsMap {
    /// Builds the map.
    ///
    /// # Errors
    /// Every row that cannot be used, in the order of the list.
    pub fn build(rules: &[Rule]) -> Result<Self, Vec<RuleError>> {
        let mut errors: Vec<RuleError> = Vec::new();
        let mut sorted: Vec<(usize, Option<Vec<u8>>, &Rule)> = Vec::with_capacity(rules.len());
        for (rule, content) in rules.iter().enumerate() {
            errors.extend(fault(content).map(|fault| RuleError { rule, fault }));
            sorted.push((
                rule,
                content.sni.as_ref().map(|sni| sni.to_ascii_lowercase().into_bytes()),
                content,
            ));
        }
        // Stable: rows of one name keep their order.
        sorted.sort_by(|a, b| a.1.cmp(&b.1));
        let mut map = Self::default();
        let (mut exact, mut wildcards, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for group in sorted.chunk_by(|a, b| a.1 == b.1) {
            errors.extend(unreachable(group));
            let start = rows.len();
            rows.extend(group.iter().map(|(_, _, rule)| Row {
                alpn: rule.alpn.iter().map(|protocol| protocol.as_bytes().into()).collect(),
                value: rule.value,
            }));
            let of_group = start..rows.len();
            let Some((_, name, _)) = group.first() else { continue };
            match name.as_deref() {
                None => map.any = of_group,
                Some([b'*', suffix @ ..]) => wildcards.push(Named { name: suffix.into(), rows: of_group }),
                Some(name) => exact.push(Named { name: name.into(), rows: of_group }),
            }
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.rule);
            return Err(errors);
        }
        (map.exact, map.wildcards, map.rows) = (exact.into(), wildcards.into(), rows.into());
        Ok(map)
    }

    /// Rows in the map.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// No rows at all: nothing is found.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row that fits a hello best.
    pub fn look_up(&self, hello: &ClientHello<'_>) -> Found {
        let mut has_name = false;
        if let Some(name) = hello.server_name {
            // Behind each dot a shorter suffix: the longest comes first.
            let dots = name.iter().enumerate().skip(1).filter(|(_, octet)| **octet == b'.');
            let suffixes = dots.filter_map(|(at, _)| find(&self.wildcards, name.get(at..)?));
            for rows in find(&self.exact, name).into_iter().chain(suffixes) {
                has_name = true;
                if let Some(pool) = self.first_fit(rows, hello) {
                    return Found::Pool(pool);
                }
            }
        }
        match self.first_fit(&self.any, hello) {
            Some(pool) => Found::Pool(pool),
            None if has_name => Found::NameOnly,
            None => Found::Nothing,
        }
    }

    fn first_fit(&self, rows: &Range<usize>, hello: &ClientHello<'_>) -> Option<u16> {
        let fits = |row: &&Row| {
            row.alpn.is_empty()
                || hello.protocols().any(|offer| row.alpn.iter().any(|wanted| **wanted == *offer))
        };
        self.rows.get(rows.clone())?.iter().find(fits).map(|row| row.value)
    }
}

/// The rows of a name, which is compared without regard to case.
fn find<'a>(named: &'a [Named], name: &[u8]) -> Option<&'a Range<usize>> {
    let order = |held: &Named| -> Ordering {
        held.name.iter().copied().cmp(name.iter().map(|octet| octet.to_ascii_lowercase()))
    };
    let at = named.binary_search_by(order).ok()?;
    named.get(at).map(|named| &named.rows)
}

/// What is wrong with a row by itself.
fn fault(rule: &Rule) -> Option<RuleFault> {
    if rule.sni.is_none() && rule.alpn.is_empty() {
        return Some(RuleFault::Empty);
    }
    if let Some(sni) = rule.sni.as_ref().filter(|sni| !is_name(sni.strip_prefix("*.").unwrap_or(sni))) {
        return Some(RuleFault::BadName(sni.clone()));
    }
    if rule.alpn.len() > ROW_PROTOCOLS_MAX {
        return Some(RuleFault::TooManyProtocols(rule.alpn.len()));
    }
    let wrong = rule.alpn.iter().map(String::len).find(|len| !(1..=PROTOCOL_MAX_OCTETS).contains(len));
    wrong.map(RuleFault::BadProtocol)
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    name.len() <= NAME_MAX_OCTETS && name.split('.').all(is_label)
}

/// Rows of one name that an earlier one leaves nothing for: it names no protocol, or all that they do.
fn unreachable<'a>(
    group: &'a [(usize, Option<Vec<u8>>, &Rule)],
) -> impl Iterator<Item = RuleError> + use<'a> {
    group.iter().enumerate().filter_map(|(place, (rule, _, content))| {
        let takes_all = |earlier: &Rule| {
            earlier.alpn.is_empty()
                || !content.alpn.is_empty()
                    && content.alpn.iter().all(|protocol| earlier.alpn.contains(protocol))
        };
        let earlier = group.get(..place)?.iter().find(|(_, _, earlier)| takes_all(earlier))?;
        Some(RuleError { rule: *rule, fault: RuleFault::Unreachable { first: earlier.0 } })
    })
}

#[cfg(test)]
#[path = "tlsmap_tests.rs"]
mod tests;
