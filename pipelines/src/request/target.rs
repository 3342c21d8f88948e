//! The request target (RFC 9112 section 3.2) as far as placement needs it, and the host that it and the Host field name.
//!
//! - Origin form: a path, and perhaps a query. A fragment is no part of a target (section 3.2): refused.
//! - Absolute form, `http` and `https` alone. Its authority is the request's host (section 3.2.2). Not every server ignores Host
//!   then, as that section asks, so one that names another host is refused.
//! - Authority form for CONNECT alone, with its port (section 3.2.3); `*` for OPTIONS alone (section 3.2.4).
//! - Escapes in the path are two hexadecimal digits, and none is NUL; a query is nobody's business here.

use super::path::{self, PathFault};
use crate::counters::BadReason;

/// Longest host that is accepted, octets (RFC 1035 section 2.3.4).
pub const MAX_HOST_OCTETS: usize = 255;

/// A target in parts, as sent.
pub(super) struct Target<'a> {
    authority: Option<&'a [u8]>,
    /// See [`super::head::Request::path`].
    pub(super) path: &'a [u8],
    /// See [`super::head::Request::resource`].
    pub(super) resource: &'a [u8],
}

impl<'a> Target<'a> {
    /// Takes a target apart.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(method: &[u8], target: &'a [u8]) -> Result<Self, BadReason> {
        if method == b"CONNECT" {
            return match target.iter().rposition(|octet| *octet == b':') {
                Some(colon) if colon + 1 < target.len() => {
                    Ok(Self { authority: Some(target), path: b"/", resource: b"" })
                }
                _ => Err(BadReason::Host),
            };
        }
        if target == b"*" && method == b"OPTIONS" {
            return Ok(Self { authority: None, path: target, resource: b"" });
        }
        if target.starts_with(b"/") && is_plain(target) {
            return Ok(Self { authority: None, path: target, resource: target });
        }
        if memchr::memchr(b'#', target).is_some() {
            return Err(BadReason::Fragment);
        }
        let (authority, resource) = if target.starts_with(b"/") {
            (None, target)
        } else {
            let rest = strip_scheme(target).ok_or(BadReason::RequestLine)?;
            let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, resource) = rest.split_at_checked(end).ok_or(BadReason::RequestLine)?;
            if authority.is_empty() {
                return Err(BadReason::Host);
            }
            (Some(authority), resource)
        };
        let end = memchr::memchr(b'?', resource).unwrap_or(resource.len());
        let path = resource.get(..end).unwrap_or(resource);
        path::check(path).map_err(|fault| match fault {
            PathFault::Escape => BadReason::Escape,
            PathFault::Nul => BadReason::Nul,
        })?;
        Ok(Self { authority, path: if path.is_empty() { b"/" } else { path }, resource })
    }

    /// The request's host, with the value of its Host field.
    ///
    /// # Errors
    /// A host that is none, or another one in each place.
    pub(super) fn host(&self, field: Option<&'a [u8]>) -> Result<Option<&'a [u8]>, BadReason> {
        let by_field = field.map(host_of).transpose()?;
        let Some(authority) = self.authority else { return Ok(by_field.flatten()) };
        let host = host_of(authority)?;
        match by_field {
            // HTTP/1.0 may do without the field.
            None => Ok(host),
            Some(field) if is_same(host, field) => Ok(host),
            Some(_) => Err(BadReason::OtherHost),
        }
    }
}

/// Whether a target has neither query nor fragment nor escape, as most have. Every octet is looked at, which vectorises.
fn is_plain(target: &[u8]) -> bool {
    let marks = target.iter().fold(0, |marks, octet| {
        marks | u8::from(*octet == b'?') | u8::from(*octet == b'#') | u8::from(*octet == b'%')
    });
    marks == 0
}

fn is_same(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    a.unwrap_or_default().eq_ignore_ascii_case(b.unwrap_or_default())
}

/// Cuts `http://` or `https://` off, in any case.
fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

/// The host of `host [":" port]` without trailing dot; `None` when it is empty.
fn host_of(authority: &[u8]) -> Result<Option<&[u8]>, BadReason> {
    // A name and nothing else, as most are, needs one look.
    if let ([first, .., last], 2..=MAX_HOST_OCTETS) = (authority, authority.len())
        && *first != b'.'
        && *last != b'.'
        && authority.iter().all(|octet| is_host(*octet))
    {
        return Ok(Some(authority));
    }
    let colon_from = match authority.first() {
        // The colons of an IPv6 address are inside brackets.
        Some(b'[') => authority.iter().position(|octet| *octet == b']').ok_or(BadReason::Host)?,
        _ => 0,
    };
    let after = authority.get(colon_from..).unwrap_or_default();
    let (host, port) = match after.iter().position(|octet| *octet == b':') {
        Some(at) => authority.split_at_checked(colon_from + at).ok_or(BadReason::Host)?,
        None => (authority, b"".as_slice()),
    };
    let port_is_number = port.iter().skip(1).all(u8::is_ascii_digit);
    let host = host.strip_suffix(b".").unwrap_or(host);
    let host_is_name = match host {
        [b'[', address @ .., b']'] => {
            address.iter().all(|octet| octet.is_ascii_hexdigit() || b":.".contains(octet))
        }
        _ => host.iter().all(|octet| is_host(*octet)) && !host.starts_with(b".") && !host.ends_with(b"."),
    };
    if !port_is_number || !host_is_name || host.len() > MAX_HOST_OCTETS {
        return Err(BadReason::Host);
    }
    Ok((!host.is_empty()).then_some(host))
}

/// An octet of a registered name (RFC 3986 section 3.2.2).
fn is_host(octet: u8) -> bool {
    HOST_OCTETS[usize::from(octet)]
}

const HOST_OCTETS: [bool; 256] = {
    let mut octets = [false; 256];
    let mut octet = 0_u8;
    while octet < 128 {
        octets[octet as usize] = octet.is_ascii_alphanumeric();
        octet += 1;
    }
    let mut rest: &[u8] = b"-._~%!$&'()*+,;=";
    while let [octet, after @ ..] = rest {
        octets[*octet as usize] = true;
        rest = after;
    }
    octets
};
