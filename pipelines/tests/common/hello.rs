//! How clients begin that speak TLS, or HTTP/2 in the clear.

/// How HTTP/2 begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn vector16(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
}

/// A ClientHello message with this name, these protocols, and so many octets of padding.
pub fn hello(name: Option<&[u8]>, protocols: &[&str], padding: usize) -> Vec<u8> {
    let mut extensions = Vec::new();
    if padding > 0 {
        extensions.extend([&[0, 21][..], &vector16(&vec![0; padding])].concat());
    }
    if let Some(name) = name {
        let list = vector16(&[&[0][..], &vector16(name)].concat());
        extensions.extend([&[0, 0][..], &vector16(&list)].concat());
    }
    if !protocols.is_empty() {
        let list: Vec<u8> =
            protocols.iter().flat_map(|name| [&[name.len() as u8][..], name.as_bytes()].concat()).collect();
        extensions.extend([&[0, 16][..], &vector16(&vector16(&list))].concat());
    }
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector16(&extensions)].concat();
    [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

/// A message in records of at most so many octets.
pub fn records(message: &[u8], fragment_octets: usize) -> Vec<u8> {
    message.chunks(fragment_octets).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

/// The same in one record.
pub fn stream(name: Option<&[u8]>, protocols: &[&str]) -> Vec<u8> {
    records(&hello(name, protocols, 0), 16_384)
}
