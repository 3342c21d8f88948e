//! Where a request belongs: its path in the one spelling, and the URL map's word on it.
//!
//! Input: a parsed head and a service's map. Output: what is done with it, or a refusal. Owner: the worker. Cost: one copy of the
//! path where it is not in normal form already, and one look-up; twice where a slash is encoded.

use super::head::Request;
use super::path::{Slash, has_encoded_slash, is_normal, normalise_as};
use crate::counters::BadReason;
use crate::urlmap::{Action, Asked, UrlMap};

/// What the map says of a request; `None` when no row of it fits. `buffer` has room for every path
/// ([`super::path::PATH_OCTETS`]).
///
/// # Errors
/// [`BadReason::TwoReadings`] when servers that read an encoded slash differently would look for content of different rows.
pub fn route(urls: &UrlMap, request: &Request<'_>, buffer: &mut [u8]) -> Result<Option<Action>, BadReason> {
    if is_normal(request.path) {
        // Nothing is encoded, so there is one reading.
        return Ok(look_up(urls, request, request.path));
    }
    let mut reading = |slash| {
        // A path that does not fit cannot come from a head that fits its window; it matches nothing then.
        let path = normalise_as(request.path, slash, buffer)?;
        look_up(urls, request, path)
    };
    let strict = reading(Slash::Encoded);
    if has_encoded_slash(request.path) && reading(Slash::Decoded) != strict {
        return Err(BadReason::TwoReadings);
    }
    Ok(strict)
}

fn look_up(urls: &UrlMap, request: &Request<'_>, path: &[u8]) -> Option<Action> {
    urls.lookup(&Asked { host: request.host, path, method: request.method, head: request.head })
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
