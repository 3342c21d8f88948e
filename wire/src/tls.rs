//! The TLS ClientHello (RFC 8446, section 4.1.2), as far as a board is chosen by it: server name and ALPN protocols.
//!
//! ```text
//! record    type 1 (22 handshake), version 2 (0x03xx), length 2, fragment                  RFC 8446, section 5.1
//! message   type 1 (1 client_hello), length 3, body; may be spread over several records     section 4
//! body      version 2, random 32, session id 1 + n, cipher suites 2 + n, compression 1 + n,
//!           extensions 2 + n (left out by old clients): type 2, length 2, data              section 4.1.2
//! name (0)  list length 2: type 1 (0 host_name), length 2, name                             RFC 6066, section 3
//! ALPN (16) list length 2: length 1, protocol ...                                           RFC 7301, section 3.1
//! ```
//!
//! [`RecordScan`] finds the message's end as octets arrive, and looks at each record's header once. [`message`] takes the headers out,
//! and [`ClientHello::parse`] reads the message once. Nothing is decrypted, and nothing here says that a server will accept the hello: the
//! board's server reads the same octets. Fixed readings:
//!
//! - Whatever the versions say is passed on, as long as their first octet is 3.
//! - An empty record, or one of another type before the message's end, is malformed (RFC 8446, section 5.1). What follows the message,
//!   early data for instance, is not looked at.
//! - The server name is the only one in its list, and has 1 to 253 octets of printable ASCII, one dot at its end not counted. Anything
//!   else, a NUL above all, is refused: what a server would make of it cannot be known.
//! - With Encrypted Client Hello the name is that of the outer hello.
//!
//! Errors: [`HelloError`].

/// Octets of a record's header.
pub const RECORD_HEADER_LEN: usize = 5;
/// Octets of a handshake message's header.
pub const MESSAGE_HEADER_LEN: usize = 4;
/// Longest message that is waited for, octets, its header included: what an endpoint's first window holds.
pub const MESSAGE_MAX_OCTETS: usize = 16_384 - RECORD_HEADER_LEN;
/// Longest fragment of a record, octets (RFC 8446, section 5.1).
pub const FRAGMENT_MAX_OCTETS: usize = 16_384;
/// Longest server name, octets (RFC 1035, section 2.3.4, as text without trailing dot).
pub const NAME_MAX_OCTETS: usize = 253;
/// Most protocols in an ALPN list. Browsers offer two or three.
pub const PROTOCOLS_MAX: usize = 256;

const TYPE_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const VERSION_MAJOR: u8 = 3;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const HOST_NAME: u8 = 0;

/// Why a stream's beginning is no ClientHello that a board could be chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first octets are no record of a handshake: HTTP, SSH, noise.
    #[error("not TLS")]
    NotTls,
    /// An SSL 2.0 hello (RFC 6101, appendix E).
    #[error("SSL 2.0")]
    Ssl2,
    /// A record that is empty, too long, or of another type than those before it.
    #[error("bad record")]
    Record,
    /// Another message than a ClientHello, or one whose lengths contradict each other.
    #[error("bad ClientHello")]
    Hello,
    /// The message is longer than [`MESSAGE_MAX_OCTETS`].
    #[error("ClientHello too long")]
    TooLong,
    /// The server name is none.
    #[error("bad server name")]
    ServerName,
    /// The ALPN list is none, or has more than [`PROTOCOLS_MAX`] protocols.
    #[error("bad list of protocols")]
    Protocols,
}

/// How far a stream has been looked at for the end of its first handshake message: 16 octets, so that a hello that comes one
/// octet at a time costs no more than one that comes whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordScan {
    /// Octets of the stream that were looked at.
    at: u32,
    /// Octets of the message among them.
    got: u32,
    /// Octets of the present record that are still to come.
    left: u16,
    /// The message's header.
    head: [u8; MESSAGE_HEADER_LEN],
}

impl RecordScan {
    /// Nothing looked at.
    pub const fn new() -> Self {
        Self { at: 0, got: 0, left: 0, head: [0; MESSAGE_HEADER_LEN] }
    }

    /// Looks at what is new of the stream, which must go on from what it was at the last call. Returns the message's length once all
    /// of it is there.
    ///
    /// # Errors
    /// All but [`HelloError::ServerName`] and [`HelloError::Protocols`]. The same again, when called again.
    pub fn advance(&mut self, stream: &[u8]) -> Result<Option<usize>, HelloError> {
        loop {
            if let Some(len) = self.complete()? {
                return Ok(Some(len));
            }
            let rest = stream.get(self.at as usize..).unwrap_or_default();
            if self.left == 0 {
                let Some(len) = record(rest, self.at == 0)? else { return Ok(None) };
                self.at += RECORD_HEADER_LEN as u32;
                self.left = len;
                continue;
            }
            let fragment = rest.get(..usize::from(self.left)).unwrap_or(rest);
            if fragment.is_empty() {
                return Ok(None);
            }
            let wanting = self.head.get_mut(self.got as usize..).unwrap_or_default();
            wanting.iter_mut().zip(fragment).for_each(|(wanting, octet)| *wanting = *octet);
            // At most as long as `left`, which has 16 bits.
            self.left -= fragment.len() as u16;
            self.at += fragment.len() as u32;
            self.got += fragment.len() as u32;
        }
    }

    /// The message's length, when all of it has been seen.
    fn complete(&self) -> Result<Option<usize>, HelloError> {
        let [kind, length @ ..] = self.head;
        if self.got > 0 && kind != CLIENT_HELLO {
            return Err(HelloError::Hello);
        }
        if (self.got as usize) < MESSAGE_HEADER_LEN {
            return Ok(None);
        }
        let len = MESSAGE_HEADER_LEN + u24(length);
        if len > MESSAGE_MAX_OCTETS {
            return Err(HelloError::TooLong);
        }
        Ok((self.got as usize >= len).then_some(len))
    }
}

fn u24([high, middle, low]: [u8; 3]) -> usize {
    u32::from_be_bytes([0, high, middle, low]) as usize
}

/// The length of the fragment behind a record's header; `None` while the header is incomplete. What is there of it is looked at
/// all the same: a client of another protocol may wait for an answer before it sends five octets.
fn record(rest: &[u8], is_first: bool) -> Result<Option<u16>, HelloError> {
    let wrong = if is_first { HelloError::NotTls } else { HelloError::Record };
    match *rest {
        // RFC 6101, appendix E: two octets of length with the highest bit set, then CLIENT-HELLO.
        [first, _, CLIENT_HELLO, ..] if is_first && first & 0x80 != 0 => return Err(HelloError::Ssl2),
        [first] | [first, _] if is_first && first & 0x80 != 0 => return Ok(None),
        [kind, ..] if kind != TYPE_HANDSHAKE => return Err(wrong),
        [_, major, ..] if major != VERSION_MAJOR => return Err(wrong),
        _ => {}
    }
    let Some([_, _, _, high, low]) = rest.first_chunk::<RECORD_HEADER_LEN>() else { return Ok(None) };
    let len = u16::from_be_bytes([*high, *low]);
    if len == 0 || usize::from(len) > FRAGMENT_MAX_OCTETS {
        return Err(HelloError::Record);
    }
    Ok(Some(len))
}

/// The message of `len` octets at the beginning of a stream, without the records' headers: where it lies when it is in one record, else
/// put together in `buffer`. `None` when the stream or the buffer is too short; a [`RecordScan`] that said `len` has seen to the stream.
pub fn message<'a>(stream: &'a [u8], len: usize, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut rest = stream;
    let mut got = 0;
    while got < len {
        let (header, behind) = rest.split_first_chunk::<RECORD_HEADER_LEN>()?;
        let [_, _, _, high, low] = *header;
        let fragment_len = usize::from(u16::from_be_bytes([high, low])).min(len - got);
        let fragment = behind.get(..fragment_len).filter(|fragment| !fragment.is_empty())?;
        if fragment.len() == len {
            return Some(fragment);
        }
        buffer.get_mut(got..got + fragment_len)?.copy_from_slice(fragment);
        got += fragment_len;
        rest = behind.get(fragment_len..)?;
    }
    buffer.get(..len)
}

/// What a board is chosen by. The slices point into the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The server name in the client's spelling, without a dot at its end: compare without regard to case. `None` when there is none.
    pub server_name: Option<&'a [u8]>,
    /// The ALPN list, checked.
    protocols: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// Reads a whole message, its header included.
    ///
    /// # Errors
    /// [`HelloError::Hello`], [`HelloError::ServerName`], [`HelloError::Protocols`].
    pub fn parse(message: &'a [u8]) -> Result<Self, HelloError> {
        let (header, body) = message.split_first_chunk().ok_or(HelloError::Hello)?;
        let [kind, length @ ..]: [u8; MESSAGE_HEADER_LEN] = *header;
        if kind != CLIENT_HELLO || u24(length) != body.len() {
            return Err(HelloError::Hello);
        }
        let extensions = extensions(body).ok_or(HelloError::Hello)?;
        let mut reader = Reader(extensions);
        let (mut server_name, mut protocols) = (None, None);
        while !reader.is_empty() {
            let extension = reader.u16().zip(reader.vector16());
            let (kind, data) = extension.ok_or(HelloError::Hello)?;
            // RFC 8446, section 4.2: at most one of each type.
            let seen_before = match kind {
                EXTENSION_SERVER_NAME => {
                    server_name.replace(host_name(data).ok_or(HelloError::ServerName)?).is_some()
                }
                EXTENSION_ALPN => {
                    protocols.replace(protocol_list(data).ok_or(HelloError::Protocols)?).is_some()
                }
                _ => false,
            };
            if seen_before {
                return Err(HelloError::Hello);
            }
        }
        Ok(Self { server_name, protocols: protocols.unwrap_or_default() })
    }

    /// The protocols that the client offers, in its order of preference; at most [`PROTOCOLS_MAX`].
    pub fn protocols(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let mut reader = Reader(self.protocols);
        core::iter::from_fn(move || reader.vector8())
    }
}

/// The extensions of a ClientHello's body; empty where it ends before them.
fn extensions(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(body);
    let [major, _] = *reader.take(2)?.first_chunk()?;
    reader.take(32)?;
    let session_id = reader.vector8()?;
    let suites = reader.vector16()?;
    let compression = reader.vector8()?;
    let is_sound = major == VERSION_MAJOR
        && session_id.len() <= 32
        && !suites.is_empty()
        && suites.len().is_multiple_of(2)
        && !compression.is_empty();
    if !is_sound {
        return None;
    }
    if reader.is_empty() {
        return Some(&[]);
    }
    reader.vector16().filter(|_| reader.is_empty())
}

/// The one name of a server_name extension.
fn host_name(data: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader(data);
    let mut list = Reader(outer.vector16()?);
    let (kind, name) = (list.u8()?, list.vector16()?);
    if kind != HOST_NAME || !list.is_empty() || !outer.is_empty() {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_sound = (1..=NAME_MAX_OCTETS).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
    is_sound.then_some(name)
}

/// The list of an ALPN extension: protocols of at least one octet each, and at least one of them.
fn protocol_list(data: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader(data);
    let list = outer.vector16().filter(|list| outer.is_empty() && !list.is_empty())?;
    let mut reader = Reader(list);
    let mut count = 0;
    while !reader.is_empty() {
        reader.vector8().filter(|protocol| !protocol.is_empty())?;
        count += 1;
    }
    (count <= PROTOCOLS_MAX).then_some(list)
}

/// Octets that are read from the front.
#[derive(Debug, Clone)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|octets| u16::from_be_bytes(*octets))
    }

    /// Octets behind their count of one octet.
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(len.into())
    }

    /// Octets behind their count of two octets.
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
