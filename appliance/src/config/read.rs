//! Reading TOML with every mistake in it: typed access to tables that notes each wrong, missing or unknown key with its
//! place, and goes on.
//!
//! serde stops at the first mistake; `check` has to show all of them at once (design: system.md, configuration).

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake: where it starts in the text, and what was found and expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Octets from the start of the text.
    pub offset: usize,
    /// What was found, what was expected.
    pub what: String,
}

/// Where every reader leaves what it found.
#[derive(Debug, Default)]
pub struct Notes {
    problems: RefCell<Vec<Problem>>,
    defaults: RefCell<Vec<(String, String)>>,
}

impl Notes {
    /// Notes a mistake.
    pub fn problem(&self, offset: usize, what: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { offset, what: what.into() });
    }

    /// The mistakes, in the order of the text.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.offset);
        problems.dedup();
        problems
    }

    /// Every key that was asked for, with its default as the documentation states it. The test that holds
    /// `docs/configuration.md` against the program reads it.
    #[cfg(test)]
    pub fn defaults(&self) -> Vec<(String, String)> {
        self.defaults.borrow().clone()
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Octets from the start of the text.
    pub offset: usize,
}

impl<T> At<T> {
    /// A value at a place.
    pub fn new(value: T, offset: usize) -> Self {
        Self { value, offset }
    }
}

/// Where a table stands that the text may leave out.
static EMPTY: std::sync::LazyLock<DeTable<'static>> = std::sync::LazyLock::new(DeTable::new);

/// One table of the text.
pub struct Section<'a> {
    notes: &'a Notes,
    /// As the documentation names it: `migration`, `service.map`.
    path: &'static str,
    table: &'a DeTable<'a>,
    /// Where the table starts.
    pub offset: usize,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole document.
    pub fn root(notes: &'a Notes, table: &'a DeTable<'a>) -> Self {
        Self { notes, path: "", table, offset: 0, asked: RefCell::default() }
    }

    fn note_default(&self, key: &str, default: String) {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let mut defaults = self.notes.defaults.borrow_mut();
        if !defaults.iter().any(|(known, _)| *known == path) {
            defaults.push((path, default));
        }
    }

    fn find(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().push(key);
        self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key).map(|(_, value)| value)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        self.notes.problem(
            value.span().start,
            format!("`{key}` is {}; expected {expected}", show(value.get_ref())),
        );
    }

    fn missing(&self, key: &str, expected: &str) {
        let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
        self.notes.problem(self.offset, format!("`{key}` is missing{place}; expected {expected}"));
    }

    /// Notes what is wrong with the table as a whole.
    pub fn wants(&self, what: &str) {
        self.notes.problem(self.offset, what);
    }

    /// A table of the document; empty when the text leaves it out.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        self.subsection(key, key)
    }

    /// A table of this table; empty when the text leaves it out. `path` is its name from the root.
    pub fn subsection(&self, key: &'static str, path: &'static str) -> Section<'a> {
        let (table, offset): (&'a DeTable<'a>, usize) = match self.find(key) {
            None => (empty(), self.offset),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => (table, value.span().start),
                _ => {
                    self.wrong(key, value, &format!("a table: write [{path}]"));
                    (empty(), value.span().start)
                }
            },
        };
        Section { notes: self.notes, path, table, offset, asked: RefCell::default() }
    }

    /// A table of this table, when the text has it. `path` is its name from the root.
    pub fn optional_section(&self, key: &'static str, path: &'static str) -> Option<Section<'a>> {
        let value = self.find(key)?;
        if !matches!(value.get_ref(), DeValue::Table(_)) {
            self.wrong(key, value, &format!("a table: write [{path}]"));
            return None;
        }
        Some(self.subsection(key, path))
    }

    /// The tables of an array of tables. `path` is its name from the root.
    pub fn sections(&self, key: &'static str, path: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.find(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong(key, value, &format!("a list of tables: write [[{path}]]"));
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| match item.get_ref() {
                DeValue::Table(table) => Some(Section {
                    notes: self.notes,
                    path,
                    table,
                    offset: item.span().start,
                    asked: RefCell::default(),
                }),
                _ => {
                    self.wrong(key, item, &format!("a table: write [[{path}]]"));
                    None
                }
            })
            .collect()
    }

    /// An integer within bounds, or its default.
    pub fn integer<T>(&self, key: &'static str, bounds: RangeInclusive<T>, default: T) -> At<T>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        self.note_default(key, default.to_string());
        self.bounded(key, bounds).unwrap_or(At::new(default, self.offset))
    }

    /// An integer within bounds, or `None` when it is left out.
    pub fn optional_integer<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Option<At<T>>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        self.note_default(key, "none".to_owned());
        self.bounded(key, bounds)
    }

    fn bounded<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Option<At<T>>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        let value = self.find(key)?;
        let number = integer_of(value.get_ref()).and_then(|number| T::try_from(number).ok());
        let number = number.filter(|number| bounds.contains(number));
        if number.is_none() {
            self.wrong(key, value, &format!("an integer {}..={}", bounds.start(), bounds.end()));
        }
        number.map(|number| At::new(number, value.span().start))
    }

    /// True or false, or its default.
    pub fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.note_default(key, default.to_string());
        match self.find(key) {
            None => default,
            Some(value) => value.get_ref().as_bool().unwrap_or_else(|| {
                self.wrong(key, value, "true or false");
                default
            }),
        }
    }

    /// A string, or its default.
    pub fn string(&self, key: &'static str, default: &str) -> At<String> {
        self.note_default(key, format!("\"{default}\""));
        self.text(key, "a string").unwrap_or_else(|| At::new(default.to_owned(), self.offset))
    }

    /// A string that may not be left out or empty.
    pub fn required_string(&self, key: &'static str, expected: &str) -> Option<At<String>> {
        self.note_default(key, "required".to_owned());
        if !self.has(key) {
            self.missing(key, expected);
        }
        let text = self.text(key, expected)?;
        if text.value.is_empty() {
            self.notes.problem(text.offset, format!("`{key}` is empty; expected {expected}"));
            return None;
        }
        Some(text)
    }

    /// One of a few words, or its default (the first).
    pub fn choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        let &(first, default) = words.first()?;
        self.note_default(key, format!("\"{first}\""));
        self.word(key, words, Some(At::new(default, self.offset)))
    }

    /// One of a few words, which may not be left out.
    pub fn required_choice<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        self.note_default(key, "required".to_owned());
        if !self.has(key) {
            self.missing(key, &alternatives(words));
        }
        self.word(key, words, None)
    }

    fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)], missing: Option<At<T>>) -> Option<At<T>> {
        let Some(value) = self.find(key) else { return missing };
        let found = value.get_ref().as_str();
        match words.iter().find(|(word, _)| Some(*word) == found) {
            Some((_, choice)) => Some(At::new(*choice, value.span().start)),
            None => {
                self.wrong(key, value, &alternatives(words));
                None
            }
        }
    }

    /// A string that has to read as a `T` (an address, say), or `None` when it is left out.
    pub fn parsed<T: FromStr>(&self, key: &'static str, expected: &str) -> Option<At<T>> {
        self.note_default(key, "none".to_owned());
        self.parse(key, expected)
    }

    /// The same of a secret: what is wrong with it is said without it.
    pub fn secret<T: FromStr>(&self, key: &'static str, expected: &str) -> Option<At<T>> {
        self.note_default(key, "none".to_owned());
        let value = self.find(key)?;
        let parsed = value.get_ref().as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.notes.problem(value.span().start, format!("`{key}` is no such thing; expected {expected}"));
        }
        parsed.map(|parsed| At::new(parsed, value.span().start))
    }

    /// The same, and it may not be left out.
    pub fn required<T: FromStr>(&self, key: &'static str, expected: &str) -> Option<At<T>> {
        self.note_default(key, "required".to_owned());
        if !self.has(key) {
            self.missing(key, expected);
        }
        self.parse(key, expected)
    }

    fn parse<T: FromStr>(&self, key: &'static str, expected: &str) -> Option<At<T>> {
        let value = self.find(key)?;
        match value.get_ref().as_str().and_then(|text| text.parse().ok()) {
            Some(parsed) => Some(At::new(parsed, value.span().start)),
            None => {
                self.wrong(key, value, expected);
                None
            }
        }
    }

    /// An integer that may not be left out.
    pub fn required_integer<T>(&self, key: &'static str, bounds: RangeInclusive<T>) -> Option<At<T>>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        self.note_default(key, "required".to_owned());
        let expected = format!("an integer {}..={}", bounds.start(), bounds.end());
        if !self.has(key) {
            self.missing(key, &expected);
        }
        self.bounded(key, bounds)
    }

    /// A list of strings; `None` when it is left out.
    pub fn strings(&self, key: &'static str, default: &str) -> Option<At<Vec<At<String>>>> {
        self.note_default(key, default.to_owned());
        self.list(key, "a list of strings", |value| value.as_str().map(str::to_owned))
    }

    /// A list of strings that may not be left out.
    pub fn required_strings(&self, key: &'static str, expected: &str) -> Option<At<Vec<At<String>>>> {
        if !self.has(key) {
            self.missing(key, expected);
        }
        self.strings(key, "required")
    }

    /// A list of integers within bounds; `None` when it is left out, or one of them is wrong.
    pub fn integers<T>(
        &self,
        key: &'static str,
        bounds: RangeInclusive<T>,
        default: &str,
    ) -> Option<At<Vec<At<T>>>>
    where
        T: Copy + Display + PartialOrd + TryFrom<i64>,
    {
        self.note_default(key, default.to_owned());
        let expected = format!("a list of integers {}..={}", bounds.start(), bounds.end());
        let read = self.list(key, &expected, |value| {
            integer_of(value)
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| bounds.contains(number))
        });
        let written = self.find(key)?.get_ref().as_array().map(|array| array.len());
        read.filter(|read| Some(read.value.len()) == written)
    }

    fn list<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Option<At<Vec<At<T>>>> {
        let value = self.find(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong(key, value, expected);
            return None;
        };
        let items = array.iter().filter_map(|item| {
            let read = read(item.get_ref());
            if read.is_none() {
                self.wrong(key, item, expected);
            }
            read.map(|read| At::new(read, item.span().start))
        });
        Some(At::new(items.collect(), value.span().start))
    }

    fn text(&self, key: &'static str, expected: &str) -> Option<At<String>> {
        let value = self.find(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At::new(text.to_owned(), value.span().start)),
            None => {
                self.wrong(key, value, expected);
                None
            }
        }
    }

    /// Notes each of these keys that the text has: they mean nothing with `to`, such as `kind = "tcp"`.
    pub fn does_not_apply(&self, keys: &[&'static str], to: &str) {
        self.asked.borrow_mut().extend_from_slice(keys);
        for (name, _) in self.table.iter() {
            let key = name.get_ref().as_ref();
            if keys.contains(&key) {
                self.notes.problem(
                    name.span().start,
                    format!("`{key}` does not apply to {to}; expected it left out"),
                );
            }
        }
    }

    /// Whether the text has the key, with whatever value.
    pub fn holds(&self, key: &str) -> bool {
        self.has(key)
    }

    /// A string that has to read as a `T`, or its default; as it is written.
    pub fn text_as<T: FromStr>(&self, key: &'static str, default: &str, expected: &str) -> String {
        self.note_default(key, format!("\"{default}\""));
        let written = self.find(key).and_then(|value| value.get_ref().as_str()).map(str::to_owned);
        match self.parse::<T>(key, expected) {
            Some(_) => written.unwrap_or_default(),
            None => default.to_owned(),
        }
    }

    /// Where a key stands, if it does.
    pub fn offset_of(&self, key: &str) -> Option<usize> {
        let found = self.table.iter().find(|(name, _)| name.get_ref().as_ref() == key);
        found.map(|(name, _)| name.span().start)
    }

    /// Notes a mistake of the section.
    pub fn problem(&self, offset: usize, what: impl Into<String>) {
        self.notes.problem(offset, what);
    }

    fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref().as_ref() == key)
    }

    /// Notes the keys that nothing asked for. Call it when the section has been read.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for (name, _) in self.table.iter() {
            let key = name.get_ref().as_ref();
            if !asked.contains(&key) {
                let mut known: Vec<&str> = asked.clone();
                known.sort_unstable();
                known.dedup();
                let place = if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path) };
                let expected = known.join(", ");
                self.notes.problem(
                    name.span().start,
                    format!("unknown key `{key}`{place}; expected one of {expected}"),
                );
            }
        }
    }
}

fn empty<'a>() -> &'a DeTable<'a> {
    &EMPTY
}

fn alternatives<T>(words: &[(&str, T)]) -> String {
    words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
}

fn integer_of(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The value as the text has it, cut to what fits a line.
fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.chars().count() <= 60 => format!("\"{text}\""),
        DeValue::String(text) => format!("\"{}…\"", text.chars().take(60).collect::<String>()),
        DeValue::Integer(integer) => match integer.radix() {
            16 => format!("0x{}", integer.as_str()),
            8 => format!("0o{}", integer.as_str()),
            2 => format!("0b{}", integer.as_str()),
            _ => integer.as_str().to_owned(),
        },
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Line and column, from 1, of an offset; columns count characters.
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    (line, before.get(line_start..).unwrap_or("").chars().count() + 1)
}

/// The start of what a syntax error is about.
pub fn start_of(span: Option<Range<usize>>) -> usize {
    span.map_or(0, |span| span.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, with: impl Fn(&Section<'_>) -> T) -> (T, Vec<Problem>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        assert!(errors.is_empty(), "{errors:?}");
        let notes = Notes::default();
        let value = {
            let root = Section::root(&notes, table.get_ref());
            with(&root)
        };
        (value, notes.into_problems())
    }

    #[test]
    fn integers_are_bounded_and_may_be_hexadecimal() {
        let (value, problems) = read("a = 0x10\nb = 70\nc = \"x\"\n", |root| {
            let all = [root.integer("a", 0u16..=64, 1).value, root.integer("b", 0u16..=64, 2).value];
            (all, root.integer("c", 0u8..=9, 3).value, root.integer("d", 0u8..=9, 4).value)
        });
        assert_eq!(value, ([16, 2], 3, 4));
        let whats: Vec<&str> = problems.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(
            whats,
            ["`b` is 70; expected an integer 0..=64", "`c` is \"x\"; expected an integer 0..=9"]
        );
    }

    #[test]
    fn unknown_keys_are_named_with_those_that_are_known() {
        let ((), problems) = read("ab = 1\nac = 2\n", |root| {
            root.integer("ab", 0u8..=9, 0);
            root.finish();
        });
        assert_eq!(
            problems,
            [Problem { offset: 7, what: "unknown key `ac`; expected one of ab".to_owned() }]
        );
    }

    #[test]
    fn lines_and_columns_count_from_one() {
        let text = "ä = 1\nb = 2\n";
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, text.find("= 1").unwrap_or(0)), (1, 3));
        assert_eq!(line_and_column(text, text.find("2").unwrap_or(0)), (2, 5));
    }
}
