//! `[service.cookie]`: from text to what it means, its keys read.

use std::path::Path;

use ipos_pipelines::sessions::Key;

use super::host::Host;
use super::model::{Attributes, Cookie, CookieMode, CookieName, CookiePath, KeyText, SameSite};
use super::read::{At, Notes, Section};

/// Octets of the longest file of keys: two lines.
const KEY_FILE_OCTETS: usize = 128;

/// The words for who makes the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The application.
    Learn,
    /// The application's servers, as the operator tells them.
    Encoded,
    /// The appliance.
    Insert,
}

/// Keys, as they are written.
pub enum KeysDraft {
    /// In the text.
    Here(Vec<Key>),
    /// In a file.
    File(At<String>),
}

/// A cookie whose keys have not been read.
pub struct CookieDraft {
    /// The cookie's name.
    pub name: String,
    /// Who makes its values.
    pub mode: Mode,
    entries: u32,
    idle_s: u32,
    keys: Option<KeysDraft>,
    attributes: Attributes,
}

/// Keys of a learned cookie.
const OF_LEARNED: &[&str] = &["entries", "idle_s"];

/// Keys of one whose values name boards.
const OF_NAMED: &[&str] =
    &["key", "previous_key", "key_file", "path", "secure", "http_only", "same_site", "max_age_s"];

/// Reads the section.
pub fn read(section: &Section<'_>) -> Option<CookieDraft> {
    let words = [("learn", Mode::Learn), ("encoded", Mode::Encoded), ("insert", Mode::Insert)];
    let mode = section.required_choice("mode", &words).map(|mode| mode.value);
    let name = section
        .required::<CookieName>("name", "the name of a cookie, such as \"JSESSIONID\", of at most 64 octets");
    let name = name.map(|name| At::new(name.value.0, name.offset));
    let entries = section.integer("entries", 16u32..=1_048_576, 65_536).value;
    let idle_s = section.integer("idle_s", 1u32..=31_536_000, 3600).value;
    let named = name.as_ref().filter(|_| mode != Some(Mode::Learn));
    let attributes = attributes(section, named);
    let written = keys(section);
    match mode {
        Some(Mode::Learn) => section.does_not_apply(OF_NAMED, "mode = \"learn\""),
        Some(Mode::Encoded) => section.does_not_apply(OF_LEARNED, "mode = \"encoded\""),
        Some(Mode::Insert) => section.does_not_apply(OF_LEARNED, "mode = \"insert\""),
        None => {}
    }
    let has_any = ["key", "key_file"].iter().any(|key| section.holds(key));
    if mode.is_some_and(|mode| mode != Mode::Learn) && !has_any {
        section.wants("`key` or `key_file` is missing in [service.cookie]; expected 32 hexadecimal digits (openssl rand -hex 16)");
    }
    section.finish();
    Some(CookieDraft { name: name?.value, mode: mode?, entries, idle_s, keys: written, attributes })
}

fn keys(section: &Section<'_>) -> Option<KeysDraft> {
    const EXPECTED: &str = "32 hexadecimal digits (openssl rand -hex 16)";
    // A key is not repeated in a message, not even a wrong one.
    let key = section.secret::<KeyText>("key", EXPECTED);
    let previous = section.secret::<KeyText>("previous_key", EXPECTED);
    let file = section.parsed::<String>("key_file", "the path of a file");
    if let Some(file) = file {
        if section.holds("key") || section.holds("previous_key") {
            let what = "`key_file` beside `key` or `previous_key`; expected one of them: the file's second line is the previous key";
            section.problem(file.offset, what);
        }
        return Some(KeysDraft::File(file));
    }
    if let Some(previous) = previous.as_ref().filter(|_| !section.holds("key")) {
        section
            .problem(previous.offset, "`previous_key` without `key`; expected the one that makes values now");
    }
    Some(KeysDraft::Here([key, previous].into_iter().flatten().map(|key| key.value.0).collect()))
}

fn attributes(section: &Section<'_>, name: Option<&At<String>>) -> Attributes {
    let attributes = Attributes {
        path: section.text_as::<CookiePath>("path", "/", "a path such as \"/shop\", without \";\""),
        secure: section.boolean("secure", false),
        http_only: section.boolean("http_only", true),
        same_site: section.choice("same_site", &SameSite::WORDS).map_or(SameSite::Lax, |word| word.value),
        max_age_s: section.optional_integer("max_age_s", 1u32..=31_536_000).map(|at| at.value),
    };
    if attributes.same_site == SameSite::None && !attributes.secure {
        section.problem(
            section.offset_of("same_site").unwrap_or(section.offset),
            "`same_site` is \"none\" without `secure = true`; browsers throw such a cookie away",
        );
    }
    // RFC 6265bis, section 4.1.3.
    if let Some(name) = name {
        let lower = name.value.to_ascii_lowercase();
        let host = lower.starts_with("__host-");
        if (host || lower.starts_with("__secure-")) && !attributes.secure {
            section.problem(
                name.offset,
                format!(
                    "`name` is \"{}\" without `secure = true`; browsers throw such a cookie away",
                    name.value
                ),
            );
        } else if host && attributes.path != "/" {
            section.problem(
                name.offset,
                format!(
                    "`name` is \"{}\" with another `path` than \"/\"; browsers throw such a cookie away",
                    name.value
                ),
            );
        }
    }
    attributes
}

/// The cookie with its keys. What is wrong with them goes to the notes.
pub fn resolve(draft: &CookieDraft, host: &impl Host, notes: &Notes) -> Cookie {
    let attributes = draft.attributes.clone();
    let mode = match draft.mode {
        Mode::Learn => CookieMode::Learn { entries: draft.entries, idle_s: draft.idle_s },
        Mode::Encoded => CookieMode::Encoded { keys: all_keys(draft, host, notes), attributes },
        Mode::Insert => CookieMode::Insert { keys: all_keys(draft, host, notes), attributes },
    };
    Cookie { name: draft.name.clone(), mode }
}

fn all_keys(draft: &CookieDraft, host: &impl Host, notes: &Notes) -> Vec<Key> {
    match &draft.keys {
        None => Vec::new(),
        Some(KeysDraft::Here(keys)) => keys.clone(),
        Some(KeysDraft::File(path)) => match keys_of(&path.value, host) {
            Ok(keys) => keys,
            Err(found) => {
                let what = format!(
                    "`key_file` is \"{}\": {found}; expected a file of one or two lines with 32 hexadecimal digits, the key and the previous one",
                    path.value
                );
                notes.problem(path.offset, what);
                Vec::new()
            }
        },
    }
}

fn keys_of(path: &str, host: &impl Host) -> Result<Vec<Key>, String> {
    let octets = host.file(Path::new(path), KEY_FILE_OCTETS).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&octets).map_err(|_| "it is no text".to_owned())?;
    let keys: Result<Vec<Key>, ()> =
        text.lines().map(|line| line.trim().parse::<KeyText>().map(|key| key.0)).collect();
    let keys = keys.map_err(|()| "a line of it is no key".to_owned())?;
    if (1..=2).contains(&keys.len()) { Ok(keys) } else { Err(format!("it has {} lines", keys.len())) }
}
