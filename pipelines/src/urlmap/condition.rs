//! What rules ask of header fields: each distinct condition once, so that one look through a head answers for all rules.
//!
//! Cost: nothing for a map that asks for no header; else one pass over the head's fields, each compared with at most
//! [`CONDITIONS_MAX`] names, by length first.

use crate::request::fields::fields;
use crate::request::head::is_token;

/// Different conditions in one map, at most: as many as a word has bits.
pub const CONDITIONS_MAX: usize = 64;

/// The number of no condition.
pub(super) const NO_CONDITION: u8 = u8::MAX;

/// Longest name and longest value that a condition may have, octets.
pub const CONDITION_TEXT_MAX: usize = 1024;

/// What a header has to say. Where a request has several fields of the name, one that fits is enough. Names have no case,
/// values have; white space around a value does not count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderRule {
    /// The field's name, in any case.
    pub name: String,
    /// What its value is held against.
    pub test: HeaderTest,
}

/// What a header's value is held against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderTest {
    /// The field is there, whatever it says.
    Present,
    /// It says this.
    Equals(String),
    /// It starts with this.
    Prefix(String),
}

impl HeaderRule {
    /// The name or value that can be in no request, if one of them cannot.
    pub(super) fn fault(&self) -> Option<String> {
        let name_is_one = !self.name.is_empty() && self.name.bytes().all(is_token);
        if !name_is_one || self.name.len() > CONDITION_TEXT_MAX {
            return Some(self.name.clone());
        }
        let (HeaderTest::Equals(value) | HeaderTest::Prefix(value)) = &self.test else { return None };
        let is_plain = value.bytes().all(|octet| octet == b'\t' || (octet >= b' ' && octet != 0x7f));
        let cannot_start = value.starts_with([' ', '\t']);
        let cannot_end = matches!(self.test, HeaderTest::Equals(_)) && value.ends_with([' ', '\t']);
        let is_empty_prefix = value.is_empty() && matches!(self.test, HeaderTest::Prefix(_));
        let is_bad = !is_plain || cannot_start || cannot_end || is_empty_prefix;
        (is_bad || value.len() > CONDITION_TEXT_MAX).then(|| value.clone())
    }

    fn holds(&self, name: &[u8], value: &[u8]) -> bool {
        name.len() == self.name.len()
            && name.eq_ignore_ascii_case(self.name.as_bytes())
            && match &self.test {
                HeaderTest::Present => true,
                HeaderTest::Equals(wanted) => value == wanted.as_bytes(),
                HeaderTest::Prefix(wanted) => value.starts_with(wanted.as_bytes()),
            }
    }
}

/// The conditions of a map, each once.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions(Vec<HeaderRule>);

impl Conditions {
    /// The number of a condition, which is added when it is new; `None` when there are too many.
    pub(super) fn number(&mut self, condition: &HeaderRule) -> Option<u8> {
        let condition = HeaderRule { name: condition.name.to_ascii_lowercase(), ..condition.clone() };
        if let Some(known) = self.0.iter().position(|known| *known == condition) {
            return Some(known as u8);
        }
        if self.0.len() == CONDITIONS_MAX {
            return None;
        }
        self.0.push(condition);
        Some((self.0.len() - 1) as u8)
    }

    /// A bit for each condition that a head fulfils.
    #[cold]
    pub(super) fn holding(&self, head: &[u8]) -> u64 {
        let mut holding = 0;
        for (name, value) in fields(head) {
            for (number, condition) in self.0.iter().enumerate() {
                holding |= u64::from(condition.holds(name, value)) << number;
            }
        }
        holding
    }
}
