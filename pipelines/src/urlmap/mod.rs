//! The URL Map (Fig. 12): from host, path, method and header fields to what is done with a request.
//!
//! A map is an immutable snapshot of one service's rules, built when the configuration is read ([`build`]) and then only
//! looked up in, by any number of threads. Look-up: a binary search for the host, one for the path, and a walk up at most the
//! matched rule's own nesting; it neither allocates nor grows linearly with the number of paths. `ipos-bench urls` shows
//! the cost.
//!
//! Matching, in this order; the first rule that fits is the one:
//!
//! 1. Rules for the very host; then those for a wildcard, the longest first; then those for any host. `*.example.org` fits every
//!    host that ends with `.example.org`, however many labels stand before it, and not `example.org` itself.
//! 2. Among the rules of one host: those for the very path; then prefixes, the longest first. Prefixes are compared octet by
//!    octet, as written: `/a/` does not fit `/a`, and `/a` fits `/ab`.
//! 3. Among the rules of one path: those with method and header, then those with one of them, then those with neither; equals
//!    in the order of the file.
//!
//! A rule whose method or header does not fit is passed over, and the next in this order is looked at: a shorter prefix, then a
//! less specific host.

pub mod build;
pub mod condition;
pub mod rule;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::ops::Range;

pub use condition::HeaderRule;
use condition::{Conditions, NO_CONDITION};
pub use rule::{Action, PathRule, Rule, RuleError, RuleFault};

/// Longest path that a rule may have, octets.
pub const MAX_PATH_OCTETS: usize = 4096;
/// Longest host that a rule may have, octets (RFC 1035 section 2.3.4, as text without trailing dot).
pub const MAX_HOST_OCTETS: usize = 253;

/// What a request is looked up by.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The host in any case, without port and trailing dot.
    pub host: Option<&'a [u8]>,
    /// The path in normal form ([`crate::request::path::normalise`]); one that does not start with a slash (`*`) is looked up
    /// as `/`.
    pub path: &'a [u8],
    /// The method.
    pub method: &'a [u8],
    /// The request's head, from the request line to the blank line; looked through only where a rule asks for a header.
    pub head: &'a [u8],
}

/// An immutable snapshot of one service's rules.
#[derive(Debug, Clone, Default)]
pub struct UrlMap {
    /// Hosts, paths and methods, end to end.
    text: Box<[u8]>,
    /// Hosts in small letters, sorted.
    hosts: Box<[HostNode]>,
    /// Wildcards: what a host ends with, backwards and in small letters, sorted.
    wildcards: Box<[HostNode]>,
    any_host: Span,
    /// Paths of one host side by side, sorted.
    paths: Box<[PathNode]>,
    /// Rules of one path side by side, in the order in which they are tried.
    rows: Box<[Row]>,
    conditions: Conditions,
}

/// A half-open range of positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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
struct HostNode {
    /// [`first_octets`] of the name: most comparisons of a search need no more, and no further cache line.
    first: u64,
    name: Span,
    paths: Span,
    /// Position of the longest wildcard that is a proper beginning of this one; `NONE` for none, and for hosts.
    parent: u32,
}

#[derive(Debug, Clone)]
struct PathNode {
    /// [`first_octets`] of the path, as in [`HostNode`].
    first: u64,
    path: Span,
    /// Position of the same host's longest path that is a proper beginning of this one; `NONE` for none.
    parent: u32,
    /// Where its rows start: those for the very path first.
    rows: u32,
    /// Where those for paths that start with it follow.
    prefixes: u32,
    /// Where they end.
    end: u32,
}

#[derive(Debug, Clone)]
struct Row {
    /// Empty for every method.
    method: Span,
    /// Position of its condition; `NO_CONDITION` for none.
    condition: u8,
    action: Action,
}

const NONE: u32 = u32::MAX;

/// What one look-up knows of its request; header fields are looked at once, and only when a row asks for them.
struct Facts<'a> {
    asked: &'a Asked<'a>,
    holding: Option<u64>,
}

impl UrlMap {
    /// What is done with a request; `None` when no rule fits.
    pub fn lookup(&self, asked: &Asked<'_>) -> Option<Action> {
        let mut facts = Facts { asked, holding: None };
        let path = if asked.path.starts_with(b"/") { asked.path } else { b"/" };
        let mut buffer = [0; MAX_HOST_OCTETS];
        let host = asked.host.and_then(|host| small_letters(host, &mut buffer));
        let by_host = host.and_then(|host| self.by_host(host, path, &mut facts));
        by_host.or_else(|| self.by_path(self.any_host, path, &mut facts))
    }

    /// Rules in the map.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// No rules at all: every look-up is `None`.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rules of the very host, then those of its wildcards. `host` is in small letters.
    fn by_host(&self, host: &mut [u8], path: &[u8], facts: &mut Facts<'_>) -> Option<Action> {
        if let Ok(at) = self.hosts.binary_search_by(|node| self.compare(node, first_octets(host), host))
            && let Some(node) = self.hosts.get(at)
            && let Some(action) = self.by_path(node.paths, path, facts)
        {
            return Some(action);
        }
        if self.wildcards.is_empty() {
            return None;
        }
        host.reverse();
        // As with paths, see there.
        let mut at = self
            .wildcards
            .partition_point(|node| self.compare(node, first_octets(host), host).is_le())
            .checked_sub(1)?;
        loop {
            let node = self.wildcards.get(at)?;
            let name = self.text_at(node.name);
            // It ends with a dot: something stands before it in every host that a request may name.
            if host.starts_with(name)
                && let Some(action) = self.by_path(node.paths, path, facts)
            {
                return Some(action);
            }
            at = node.parent as usize;
        }
    }

    /// The rules of one host: the very path, then its beginnings from the longest on. The longest is the last that sorts at or
    /// before the path, or the nearest of its parents. (All beginnings of a path sort at or before it, the longest last;
    /// those between that one and the path start with it, hence have it among their parents.)
    fn by_path(&self, paths: Span, path: &[u8], facts: &mut Facts<'_>) -> Option<Action> {
        let held = self.paths.get(paths.range())?;
        let first = first_octets(path);
        let is_at_or_before = |node: &PathNode| match node.first.cmp(&first) {
            Ordering::Equal => self.text_at(node.path) <= path,
            order => order.is_lt(),
        };
        let after = held.partition_point(is_at_or_before);
        let mut node = held.get(after.checked_sub(1)?)?;
        let text = self.text_at(node.path);
        if text == path
            && let Some(action) = self.first_fit(node.rows..node.prefixes, facts)
        {
            return Some(action);
        }
        let common = common_len(text, path);
        loop {
            if (node.path.end - node.path.start) as usize <= common
                && let Some(action) = self.first_fit(node.prefixes..node.end, facts)
            {
                return Some(action);
            }
            node = self.paths.get(node.parent as usize)?;
        }
    }

    fn first_fit(&self, rows: Range<u32>, facts: &mut Facts<'_>) -> Option<Action> {
        let rows = self.rows.get(rows.start as usize..rows.end as usize)?;
        rows.iter().find(|row| self.fits(row, facts)).map(|row| row.action)
    }

    fn fits(&self, row: &Row, facts: &mut Facts<'_>) -> bool {
        let method = self.text_at(row.method);
        if !method.is_empty() && method != facts.asked.method {
            return false;
        }
        if row.condition == NO_CONDITION {
            return true;
        }
        let head = facts.asked.head;
        let holding = *facts.holding.get_or_insert_with(|| self.conditions.holding(head));
        holding & 1 << row.condition != 0
    }

    #[inline]
    fn compare(&self, node: &HostNode, first: u64, host: &[u8]) -> Ordering {
        node.first.cmp(&first).then_with(|| self.text_at(node.name).cmp(host))
    }

    fn text_at(&self, span: Span) -> &[u8] {
        self.text.get(span.range()).unwrap_or_default()
    }
}

/// The host in small letters, so that names are compared octet by octet. `None` when it is longer than any that a rule has.
fn small_letters<'a>(host: &[u8], buffer: &'a mut [u8; MAX_HOST_OCTETS]) -> Option<&'a mut [u8]> {
    let target = buffer.get_mut(..host.len())?;
    target.copy_from_slice(host);
    target.make_ascii_lowercase();
    Some(target)
}

/// The first eight octets as a number that sorts as they do; a shorter text is filled up with what no name holds.
#[inline]
fn first_octets(text: &[u8]) -> u64 {
    if let Some(first) = text.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut first = [0; 8];
    first.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

fn common_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
