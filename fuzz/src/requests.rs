//! Targets for the client's request: assembly of its stream, its head, its path, its cookie.

use ipos_pipelines::request::assembly::{Assembly, AssemblyError, MAX_RANGES, OffsetRange, WINDOW};
use ipos_pipelines::request::cookie;
use ipos_pipelines::request::fields::fields;
use ipos_pipelines::request::head::{self, Head, HeadScan, MAX_HEAD_OCTETS};
use ipos_pipelines::request::path::{self, PATH_OCTETS, PathFault, Slash, normalise_as};
use ipos_pipelines::sessions::Value;

/// Most operations of one assembly input; more would only make it slower.
const OPERATIONS_MAX: usize = 64;
/// Octets of one operation: kind, offset, length.
const OPERATION_LEN: usize = 7;

/// Request heads: what came in pieces is judged as what came at once, and a verdict never changes with later octets.
pub fn head(octets: &[u8]) {
    let whole = head::parse(octets);
    if let Head::Complete(request) = whole {
        assert!(request.len <= octets.len().min(MAX_HEAD_OCTETS));
        assert!(!request.method.is_empty() && !request.path.is_empty());
        assert!(request.host.is_none_or(|host| !host.is_empty()));
        assert_eq!(head::parse(&octets[..request.len]), whole, "the head ends where it says");
        assert_eq!(path::check(request.path), Ok(()), "its path has whole escapes");
        assert!(request.head.ends_with(b"\r\n\r\n") && request.head.starts_with(request.method));
        assert!(
            request.resource.is_empty() || request.resource.starts_with(request.path) || request.path == b"/"
        );
        fields(request.head).for_each(|(name, _)| assert!(!name.is_empty() && !name.contains(&b' ')));
    }
    // Single octets at first, where the phases change; then ever longer pieces, so that long inputs stay cheap.
    let mut scan = HeadScan::new();
    let mut len = 0;
    while len < octets.len() {
        let verdict = scan.advance(&octets[..len]);
        if verdict != Head::Incomplete {
            assert_eq!(verdict, whole, "the verdict after {len} octets");
        }
        len += 1 + len / 64;
    }
    assert_eq!(scan.advance(octets), whole);
}

/// Cookies: what is found in any octets is what a slow reading of them finds; a value that names a board has one spelling.
pub fn cookie(octets: &[u8]) {
    let found = cookie::find(octets, b"sid");
    assert_eq!(found.value, slowly(octets), "by a slow reading");
    let value = found.value.unwrap_or(octets);
    if let Some(read) = Value::parse(value) {
        assert_eq!(read.to_string().as_bytes(), value);
    }
}

/// The first cookie `sid` of all fields that are called Cookie.
fn slowly(head: &[u8]) -> Option<&[u8]> {
    fn trimmed(text: &[u8]) -> &[u8] {
        let is_blank = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r');
        let text = text.iter().position(|octet| !is_blank(octet)).map_or(&[][..], |start| &text[start..]);
        text.iter().rposition(|octet| !is_blank(octet)).map_or(&[][..], |end| &text[..=end])
    }
    let whole = &head[..head.iter().rposition(|octet| *octet == b'\n')?];
    let lines = whole.split(|octet| *octet == b'\n').skip(1);
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|octet| *octet == b':')?;
        line[..colon].eq_ignore_ascii_case(b"cookie").then_some(&line[colon + 1..])
    });
    let mut pairs = fields.flat_map(|field| field.split(|octet| *octet == b';')).filter_map(|pair| {
        let equals = pair.iter().position(|octet| *octet == b'=')?;
        (trimmed(&pair[..equals]) == b"sid").then_some(trimmed(&pair[equals + 1..]))
    });
    let value = pairs.next()?;
    let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(inner.unwrap_or(value)).filter(|value| !value.is_empty())
}

/// Paths: the normal form is no longer than the path, has neither empty nor dot segments, and is its own normal form, in both
/// readings of an encoded slash. There is none where an escape is broken.
pub fn path(octets: &[u8]) {
    let octets = &octets[..octets.len().min(PATH_OCTETS)];
    for slash in [Slash::Encoded, Slash::Decoded] {
        let mut buffer = [0xa5; PATH_OCTETS];
        let Some(normal) = normalise_as(octets, slash, &mut buffer) else {
            assert!(octets.starts_with(b"/") && path::check(octets) != Ok(()));
            continue;
        };
        assert!(path::check(octets) != Err(PathFault::Escape) || !octets.starts_with(b"/"));
        let normal = normal.to_vec();
        assert!(normal.len() <= octets.len());
        let mut buffer = [0xa5; PATH_OCTETS];
        assert_eq!(normalise_as(&normal, slash, &mut buffer), Some(&normal[..]));
        let Some(segments) = normal.strip_prefix(b"/") else {
            assert_eq!(normal, octets, "what is no path stays as it is");
            continue;
        };
        let mut segments = segments.split(|&octet| octet == b'/').peekable();
        while let Some(segment) = segments.next() {
            assert!(!matches!(segment, b"." | b".."), "a dot segment is left");
            assert!(!segment.is_empty() || segments.peek().is_none(), "an empty segment is left");
        }
        let mut exact = vec![0xa5; octets.len()];
        let again = normalise_as(octets, slash, &mut exact);
        assert_eq!(again, Some(&normal[..]), "a buffer as long as the path is enough");
    }
}

/// Assembly: a script of inserts and FINs, of seven octets each, gives what a plain array of octets gives.
pub fn assembly(octets: &[u8]) {
    let mut assembly = Box::new(Assembly::new());
    let mut model = Model { held: vec![None; WINDOW], fin_at: None };
    let (operations, _) = octets.as_chunks::<OPERATION_LEN>();
    for (number, &[kind, a, b, c, d, e, f]) in operations.iter().take(OPERATIONS_MAX).enumerate() {
        let offset = u32::from_be_bytes([a, b, c, d]);
        // Most offsets of 32 bits lie beyond the window; two kinds of three stay near it.
        let offset = if kind % 3 == 0 { offset } else { offset % (WINDOW as u32 + 64) };
        if kind & 0x80 != 0 {
            model.note_fin(&mut assembly, offset);
        } else {
            let len = usize::from(u16::from_be_bytes([e, f])) % 2048;
            let payload = vec![number as u8; len];
            model.insert(&mut assembly, offset, &payload);
        }
        let contiguous_len = model.contiguous_len();
        assert_eq!(assembly.contiguous_len(), contiguous_len);
        assert_eq!(assembly.fin_reached(), model.fin_at == Some(contiguous_len));
    }
    let contiguous = assembly.contiguous().iter().copied().map(Some);
    assert!(contiguous.eq(model.held[..model.contiguous_len()].iter().copied()));
    assert_eq!(assembly.ranges(), model.ranges());
}

/// The second opinion on an assembly: who sent each octet first.
struct Model {
    held: Vec<Option<u8>>,
    fin_at: Option<usize>,
}

impl Model {
    fn insert(&mut self, assembly: &mut Assembly, offset: u32, payload: &[u8]) {
        let outcome = assembly.insert(offset, payload);
        let (start, end) = (offset as usize, offset as usize + payload.len());
        if end > WINDOW {
            assert_eq!(outcome, Err(AssemblyError::Beyond));
            return;
        }
        if !payload.is_empty() && self.fin_at.is_some_and(|fin| end > fin) {
            assert_eq!(outcome, Err(AssemblyError::PastFin));
            return;
        }
        if outcome == Err(AssemblyError::TooManyRanges) {
            assert_eq!(self.ranges().len(), MAX_RANGES);
            return;
        }
        let mut new_octets = 0;
        for (slot, &octet) in self.held[start..end].iter_mut().zip(payload) {
            if slot.is_none() {
                *slot = Some(octet);
                new_octets += 1;
            }
        }
        let inserted = outcome.expect("nothing speaks against it");
        assert_eq!(inserted.new_octets, new_octets);
        assert_eq!(inserted.duplicate, new_octets == 0 && !payload.is_empty());
        assert_eq!(inserted.contiguous_len, assembly.contiguous_len());
        assert!(self.ranges().len() <= MAX_RANGES, "a 17th range was opened");
    }

    fn note_fin(&mut self, assembly: &mut Assembly, offset: u32) {
        let outcome = assembly.note_fin(offset);
        let fin = offset as usize;
        if fin > WINDOW {
            assert_eq!(outcome, Err(AssemblyError::Beyond));
        } else if self.held[fin..].iter().any(Option::is_some)
            || self.fin_at.is_some_and(|known| known != fin)
        {
            assert_eq!(outcome, Err(AssemblyError::PastFin));
        } else {
            assert_eq!(outcome, Ok(()));
            self.fin_at = Some(fin);
        }
    }

    fn contiguous_len(&self) -> usize {
        self.held.iter().position(Option::is_none).unwrap_or(WINDOW)
    }

    /// The ranges past the first gap.
    fn ranges(&self) -> Vec<OffsetRange> {
        let mut ranges: Vec<OffsetRange> = Vec::new();
        for at in (self.contiguous_len()..WINDOW).filter(|&at| self.held[at].is_some()) {
            // WINDOW fits into 16 bits, which the assembly asserts.
            let at = at as u16;
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end = at + 1,
                _ => ranges.push(OffsetRange { start: at, end: at + 1 }),
            }
        }
        ranges
    }
}
