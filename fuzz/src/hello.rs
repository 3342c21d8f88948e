//! Target for the TLS ClientHello: its end, its parts, and the choice by it.

use ipos_pipelines::tlsmap::{Found, Rule, TlsMap};
use ipos_wire::tls::{
    ClientHello, HelloError, MESSAGE_MAX_OCTETS, NAME_MAX_OCTETS, PROTOCOLS_MAX, RECORD_HEADER_LEN,
    RecordScan, message,
};

/// Hellos: what came in pieces is judged as what came at once, a verdict never changes with later octets, and the message is what the
/// records carry. What was read of it lies in it, and is within its bounds.
pub fn hello(octets: &[u8]) {
    let whole = RecordScan::new().advance(octets);
    // Single octets at first, where the headers are; then ever longer pieces, so that long inputs stay cheap.
    let mut scan = RecordScan::new();
    let mut len = 0;
    while len < octets.len() {
        let verdict = scan.advance(&octets[..len]);
        if verdict != Ok(None) {
            assert_eq!(verdict, whole, "the verdict after {len} octets");
            break;
        }
        len += 1 + len / 64;
    }
    assert_eq!(scan.advance(octets), whole);
    let _ = ClientHello::parse(octets);
    let Ok(Some(len)) = whole else { return };
    assert!(len <= MESSAGE_MAX_OCTETS && len + RECORD_HEADER_LEN <= octets.len());
    let carried = carried(octets);
    let mut buffer = [0xa5; MESSAGE_MAX_OCTETS];
    let message = message(octets, len, &mut buffer).expect("the scan has seen all of it");
    assert_eq!(message, &carried[..len]);
    match ClientHello::parse(message) {
        Ok(hello) => read(&hello, message),
        Err(error) => {
            assert!(matches!(error, HelloError::Hello | HelloError::ServerName | HelloError::Protocols))
        }
    }
}

/// What the handshake records at the beginning carry, one octet after the other.
fn carried(octets: &[u8]) -> Vec<u8> {
    let mut carried = Vec::new();
    let mut at = 0;
    while octets.len() >= at + RECORD_HEADER_LEN && octets[at] == 22 {
        let len = usize::from(octets[at + 3]) << 8 | usize::from(octets[at + 4]);
        at += RECORD_HEADER_LEN;
        carried.extend(octets.iter().skip(at).take(len));
        at += len;
    }
    carried
}

fn read(hello: &ClientHello<'_>, message: &[u8]) {
    let lies_within = |part: &[u8]| message.windows(part.len().max(1)).any(|window| window == part);
    assert!(hello.protocols().count() <= PROTOCOLS_MAX);
    assert!(hello.protocols().all(|protocol| !protocol.is_empty() && lies_within(protocol)));
    let map = |sni: Option<String>, alpn: Option<&[u8]>| {
        let alpn = alpn.map(|protocol| String::from_utf8(protocol.to_vec())).transpose().ok()?;
        TlsMap::build(&[Rule { sni, alpn: alpn.into_iter().collect(), value: 7 }]).ok()
    };
    if let Some(protocol) = hello.protocols().last()
        && let Some(map) = map(None, Some(protocol))
    {
        assert_eq!(map.look_up(hello), Found::Pool(7));
    }
    let Some(name) = hello.server_name else { return };
    assert!((1..=NAME_MAX_OCTETS).contains(&name.len()) && !name.contains(&0) && lies_within(name));
    let name = std::str::from_utf8(name).expect("ASCII");
    // Many names are none that a row could have.
    if let Some(map) = map(Some(name.to_ascii_uppercase()), None) {
        assert_eq!(map.look_up(hello), Found::Pool(7));
    }
    if let Some((_, parent)) = name.split_once('.')
        && let Some(map) = map(Some(format!("*.{parent}")), None)
        && !name.starts_with('.')
    {
        assert_eq!(map.look_up(hello), Found::Pool(7));
    }
}
