//! Building a map: rules are checked, sorted into the order in which they are tried, and laid out.
//!
//! Owner: whoever reads the configuration. Cost: a sort; 100,000 rules take well below a second, and nothing on the packet path.

use std::collections::HashMap;

use super::condition::{Conditions, HeaderRule, NO_CONDITION};
use super::rule::faults;
use super::{
    Action, HostNode, NONE, PathNode, PathRule, Row, Rule, RuleError, RuleFault, Span, UrlMap, first_octets,
};

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
        let mut conditions = Conditions::default();
        let mut sorted: Vec<Keyed<'_>> = Vec::with_capacity(rules.len());
        let mut first_of: HashMap<Identity<'_>, usize> = HashMap::with_capacity(rules.len());
        for (number, rule) in rules.iter().enumerate() {
            let condition = match rule.header.as_ref().map(|header| conditions.number(header)) {
                None => NO_CONDITION,
                Some(Some(condition)) => condition,
                Some(None) => {
                    errors.push(RuleError { rule: number, fault: RuleFault::TooManyHeaders });
                    continue;
                }
            };
            let keyed = Keyed::new(number, rule, condition);
            match first_of.get(&keyed.identity()) {
                Some(first) => {
                    let fault = RuleFault::Duplicate { first: *first };
                    errors.push(RuleError { rule: number, fault });
                }
                None => drop(first_of.insert(keyed.identity(), number)),
            }
            sorted.push(keyed);
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.rule);
            return Err(errors);
        }
        sorted.sort_by(|a, b| a.order().cmp(&b.order()));
        lay_out(&sorted, conditions).ok_or_else(|| vec![RuleError { rule: 0, fault: RuleFault::TooMuchText }])
    }
}

/// A host as it is looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum HostKey {
    Any,
    /// What it ends with, backwards: `gro.elpmaxe.`.
    Wildcard(Vec<u8>),
    Exact(Vec<u8>),
}

impl HostKey {
    fn new(host: Option<&str>) -> Self {
        let Some(host) = host else { return Self::Any };
        let mut name = host.to_ascii_lowercase().into_bytes();
        if name.starts_with(b"*.") {
            name.reverse();
            name.pop();
            return Self::Wildcard(name);
        }
        Self::Exact(name)
    }
}

/// What makes a rule the same as another.
type Identity<'a> = (HostKey, &'a PathRule, Option<&'a str>, u8);

/// A rule with what it is sorted by.
struct Keyed<'a> {
    host: HostKey,
    path: &'a PathRule,
    method: Option<&'a str>,
    condition: u8,
    action: Action,
    number: usize,
}

impl<'a> Keyed<'a> {
    fn new(number: usize, rule: &'a Rule, condition: u8) -> Self {
        Self {
            host: HostKey::new(rule.host.as_deref()),
            path: &rule.path,
            method: rule.method.as_deref(),
            condition,
            action: rule.action,
            number,
        }
    }

    fn identity(&self) -> Identity<'a> {
        (self.host.clone(), self.path, self.method, self.condition)
    }

    fn is_prefix(&self) -> bool {
        matches!(self.path, PathRule::Prefix(_))
    }

    /// Host and path, then the order in which the rules of one path are tried.
    fn order(&self) -> (&HostKey, &[u8], bool, u8, usize) {
        let conditions = u8::from(self.method.is_some()) + u8::from(self.condition != NO_CONDITION);
        (&self.host, self.path.text().as_bytes(), self.is_prefix(), 2 - conditions, self.number)
    }
}

fn lay_out(sorted: &[Keyed<'_>], conditions: Conditions) -> Option<UrlMap> {
    let mut text = Text(Vec::new());
    let mut hosts = Vec::new();
    let mut wildcards: Vec<HostNode> = Vec::new();
    let mut paths = Vec::new();
    let mut rows = Vec::with_capacity(sorted.len());
    let mut any_host = Span::default();
    let mut open = Vec::new();
    for of_host in sorted.chunk_by(|a, b| a.host == b.host) {
        let span = lay_out_paths(of_host, &mut text, &mut paths, &mut rows)?;
        match &of_host.first()?.host {
            HostKey::Any => any_host = span,
            HostKey::Exact(name) => hosts.push(HostNode {
                first: first_octets(name),
                name: text.append(name)?,
                paths: span,
                parent: NONE,
            }),
            HostKey::Wildcard(name) => {
                let parent = nest(&mut open, wildcards.len(), |at| {
                    wildcards.get(at).is_some_and(|node| name.starts_with(text.at(node.name)))
                })?;
                wildcards.push(HostNode {
                    first: first_octets(name),
                    name: text.append(name)?,
                    paths: span,
                    parent,
                });
            }
        }
    }
    Some(UrlMap {
        text: text.0.into(),
        hosts: hosts.into(),
        wildcards: wildcards.into(),
        any_host,
        paths: paths.into(),
        rows: rows.into(),
        conditions,
    })
}

/// The paths of one host, with their rows.
fn lay_out_paths(
    of_host: &[Keyed<'_>],
    text: &mut Text,
    paths: &mut Vec<PathNode>,
    rows: &mut Vec<Row>,
) -> Option<Span> {
    let start = u32::try_from(paths.len()).ok()?;
    let mut open = Vec::new();
    for of_path in of_host.chunk_by(|a, b| a.path.text() == b.path.text()) {
        let path = of_path.first()?.path.text().as_bytes();
        let parent = nest(&mut open, paths.len(), |at| {
            paths.get(at).is_some_and(|node: &PathNode| path.starts_with(text.at(node.path)))
        })?;
        let exact = of_path.partition_point(|keyed| !keyed.is_prefix());
        let (first, first_row) = (first_octets(path), u32::try_from(rows.len()).ok()?);
        let path = text.append(path)?;
        for keyed in of_path {
            let method = match keyed.method {
                Some(method) => text.append(method.as_bytes())?,
                None => Span::default(),
            };
            rows.push(Row { method, condition: keyed.condition, action: keyed.action });
        }
        let end = u32::try_from(rows.len()).ok()?;
        let prefixes = first_row + exact as u32;
        paths.push(PathNode { first, path, parent, rows: first_row, prefixes, end });
    }
    Some(Span { start, end: u32::try_from(paths.len()).ok()? })
}

/// The parent of the node that comes next: the nearest of those open that it starts with. Sorted order visits nodes in nested
/// order, so those that it does not start with are done with.
fn nest(open: &mut Vec<u32>, next: usize, starts_with: impl Fn(usize) -> bool) -> Option<u32> {
    while open.last().is_some_and(|at| !starts_with(*at as usize)) {
        open.pop();
    }
    let parent = open.last().copied().unwrap_or(NONE);
    open.push(u32::try_from(next).ok()?);
    Some(parent)
}

/// Names end to end.
struct Text(Vec<u8>);

impl Text {
    fn append(&mut self, piece: &[u8]) -> Option<Span> {
        let start = u32::try_from(self.0.len()).ok()?;
        self.0.extend_from_slice(piece);
        Some(Span { start, end: u32::try_from(self.0.len()).ok()? })
    }

    fn at(&self, span: Span) -> &[u8] {
        self.0.get(span.range()).unwrap_or_default()
    }
}

/// The condition that a rule asks for, in words.
impl core::fmt::Display for HeaderRule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use super::condition::HeaderTest;
        match &self.test {
            HeaderTest::Present => write!(f, "{}", self.name),
            HeaderTest::Equals(value) => write!(f, "{}: {value}", self.name),
            HeaderTest::Prefix(value) => write!(f, "{}: {value}*", self.name),
        }
    }
}
