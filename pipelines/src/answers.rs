//! Answers that a service's configuration makes: its own pages, and where rows of its URL map redirect to.
//!
//! Made when the configuration is read and kept in its snapshot; [`crate::local`] sends them from their parts, so that the packet
//! path copies octets and allocates nothing. An entry that is being answered keeps its answer through a reload: what is sent
//! again must be what was sent.

use std::sync::Arc;

use crate::handoff::Answer;

/// Longest page, octets: with its head it is smaller than any initial window of today (RFC 6928).
pub const PAGE_OCTETS_MAX: usize = 8192;
/// Longest text of a redirect's target, octets.
pub const TARGET_OCTETS_MAX: usize = 1024;
/// Longest `Location` that is sent, octets; a request whose own path would make it longer is answered 414.
pub const LOCATION_OCTETS_MAX: usize = 4096;

/// Stands at the end of a redirect's target for the request's path and query.
pub const RESOURCE: &str = "{path}";

/// A response in parts. What depends on the request stands between `start` and `end`.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// From the status line on.
    pub(crate) start: Box<[u8]>,
    /// To the blank line.
    pub(crate) end: Box<[u8]>,
    /// The body.
    pub(crate) body: Box<[u8]>,
    /// Whether the request's path and query belong between them.
    pub(crate) takes_resource: bool,
}

impl Page {
    /// A page of a service's own; `None` for an answer that has no text.
    pub fn own(answer: Answer, content_type: &str, body: &[u8]) -> Option<Self> {
        let (status, reason) = answer.status()?;
        let end = format!(
            "Content-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        Some(Self {
            start: format!("HTTP/1.1 {status} {reason}\r\n").into_bytes().into(),
            end: end.into_bytes().into(),
            body: body.into(),
            takes_resource: false,
        })
    }

    /// A redirect.
    ///
    /// # Errors
    /// What is wrong with status or target.
    pub fn redirect(status: u16, to: &str) -> Result<Self, RedirectError> {
        let reason = match status {
            301 => "Moved Permanently",
            302 => "Found",
            307 => "Temporary Redirect",
            308 => "Permanent Redirect",
            _ => return Err(RedirectError::Status),
        };
        let target = Target::parse(to)?;
        Ok(Self {
            start: format!("HTTP/1.1 {status} {reason}\r\nLocation: {}", target.text).into_bytes().into(),
            end: (*b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into(),
            body: Box::default(),
            takes_resource: target.takes_resource,
        })
    }

    /// A redirect to the same path and query that gives the client a cookie, as it stands behind `Set-Cookie:`.
    pub fn assign(cookie: &str) -> Self {
        let end = format!(
            "\r\nSet-Cookie: {cookie}\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        Self {
            start: (*b"HTTP/1.1 307 Temporary Redirect\r\nLocation: ").into(),
            end: end.into_bytes().into(),
            body: Box::default(),
            takes_resource: true,
        }
    }
}

/// Why there is no such redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// Another status.
    #[error("expected 301, 302, 307 or 308")]
    Status,
    /// Not a target.
    #[error(
        "expected \"http://\" or \"https://\" with a host, or a path that starts with one \"/\"; printable, without spaces, at \
         most {TARGET_OCTETS_MAX} octets"
    )]
    Target,
    /// The request's path where it must not stand.
    #[error("expected `{RESOURCE}` once, at the end, and behind \"http://\" or \"https://\" with a host")]
    Resource,
}

struct Target<'a> {
    text: &'a str,
    takes_resource: bool,
}

impl<'a> Target<'a> {
    fn parse(to: &'a str) -> Result<Self, RedirectError> {
        let (text, named) = match to.strip_suffix(RESOURCE) {
            Some(text) => (text, true),
            None => (to, false),
        };
        if text.contains(['{', '}']) {
            return Err(RedirectError::Resource);
        }
        let is_plain = text.bytes().all(|octet| octet.is_ascii_graphic() && !b"\"<>\\^`|".contains(&octet));
        if !is_plain || to.len() > TARGET_OCTETS_MAX {
            return Err(RedirectError::Target);
        }
        let after_scheme = ["http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let Some(rest) = after_scheme else {
            // Behind a path alone the request's own could make a host of another: "/" and "/evil.example".
            if named {
                return Err(RedirectError::Resource);
            }
            let is_path = text.starts_with('/') && !text.starts_with("//");
            return if is_path {
                Ok(Self { text, takes_resource: false })
            } else {
                Err(RedirectError::Target)
            };
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() || authority.contains('@') {
            return Err(RedirectError::Target);
        }
        // An origin alone: the request's path follows it.
        Ok(Self { text, takes_resource: named || authority.len() == rest.len() })
    }
}

/// What a service's configuration says of answers.
#[derive(Debug, Default)]
pub struct Answers {
    /// Pages of its own.
    pub pages: Vec<(Answer, Arc<Page>)>,
    /// Redirects, by the number of [`Answer::Redirect`].
    pub redirects: Vec<Arc<Page>>,
}

impl Answers {
    /// The service's own text for an answer, if it has one.
    pub fn page(&self, answer: Answer) -> Option<&Arc<Page>> {
        if let Answer::Redirect(number) = answer {
            return self.redirects.get(usize::from(number));
        }
        let status = answer.status()?;
        self.pages.iter().find(|(known, _)| known.status() == Some(status)).map(|(_, page)| page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_and_a_named_place_take_the_requests_path() {
        for (to, text, takes) in [
            ("https://example.org", "https://example.org", true),
            ("http://example.org:8080", "http://example.org:8080", true),
            ("https://example.org/", "https://example.org/", false),
            ("https://example.org/new{path}", "https://example.org/new", true),
            ("https://example.org{path}", "https://example.org", true),
            ("https://example.org?from=", "https://example.org?from=", false),
            ("/login?x=%20", "/login?x=%20", false),
            ("/", "/", false),
        ] {
            let target = Target::parse(to).unwrap();
            assert_eq!((target.text, target.takes_resource), (text, takes), "{to}");
        }
    }

    #[test]
    fn targets_that_could_lead_elsewhere_are_refused() {
        let long = format!("/{}", "a".repeat(TARGET_OCTETS_MAX));
        for to in [
            "",
            "example.org",
            "//example.org",
            "ftp://a",
            "http://",
            "https:///x",
            "javascript:alert(1)",
            "/a b",
            "/a\r\nSet-Cookie: x",
            "https://a\u{e4}",
            "https://u@a/",
            "/\\evil",
            &long,
        ] {
            assert_eq!(Page::redirect(302, to).err(), Some(RedirectError::Target), "{to}");
        }
        for to in ["{path}", "/x{path}", "https://a/{path}x", "https://a/{rest}", "https://a/{path}{path}"] {
            assert_eq!(Page::redirect(302, to).err(), Some(RedirectError::Resource), "{to}");
        }
        for status in [200, 300, 303, 304, 305, 306, 309] {
            assert_eq!(Page::redirect(status, "/").err(), Some(RedirectError::Status), "{status}");
        }
    }
}
