use proptest::prelude::*;

use super::super::head::{Head, parse};
use super::*;

const START: Seq = Seq(0xffff_ff00);

fn framing_of(head: &str) -> Result<Framing, Unsure> {
    match parse(head.as_bytes()) {
        Head::Complete(request) => Framing::of(&request, START + request.len as u32),
        other => panic!("a head, not {other:?}"),
    }
}

/// Octets of the body behind the head, when it is known at once.
fn body_len(fields: &str) -> Result<u32, Unsure> {
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let framing = framing_of(&head)?;
    Ok(framing.boundary().expect("a length").diff(START + head.len() as u32) as u32)
}

/// Where a chunked body ends, when it comes in one piece.
fn chunked(body: &str) -> Result<Option<i32>, Unsure> {
    let mut framing = framing_of("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let body_at = framing.at;
    framing.see(body_at, body.as_bytes())?;
    Ok(framing.boundary().map(|end| end.diff(body_at)))
}

#[test]
fn a_length_says_where_the_next_request_begins() {
    assert_eq!(body_len(""), Ok(0));
    assert_eq!(body_len("Content-Length: 0\r\n"), Ok(0));
    assert_eq!(body_len("content-length:\t1073741823 \r\n"), Ok((1 << 30) - 1));
    assert_eq!(body_len("Content-Length: 1073741824\r\n"), Err(Unsure::Long));
    assert_eq!(body_len("Content-Length: 999999999999999999\r\n"), Err(Unsure::Long));
    assert_eq!(body_len("Connection: keep-alive, x\r\nContent-Length: 7\r\n"), Ok(7));
}

#[test]
fn what_may_be_another_protocol_or_the_last_request_is_not_followed() {
    assert_eq!(body_len("Upgrade: websocket\r\nConnection: Upgrade\r\n"), Err(Unsure::Upgrade));
    assert_eq!(body_len("Connection: x , UPGRADE\r\n"), Err(Unsure::Upgrade));
    assert_eq!(body_len("Connection: keep-alive, Close\r\n"), Err(Unsure::Last));
    assert_eq!(framing_of("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"), Err(Unsure::Upgrade));
    assert_eq!(framing_of("GET / HTTP/1.0\r\n\r\n"), Err(Unsure::Last));
    assert!(framing_of("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").is_ok());
}

#[test]
fn chunks_end_with_the_last_one_and_its_trailers() {
    assert_eq!(chunked("0\r\n\r\n"), Ok(Some(5)));
    assert_eq!(chunked("3\r\nabc\r\n0\r\n\r\n"), Ok(Some(13)));
    assert_eq!(chunked("3;a=\"b\"\r\n\r\n0\r\n00\r\nX: y\r\nZ:\r\n\r\n"), Ok(Some(30)));
    assert_eq!(chunked("5\r\n0\r\n\r\n\r\n"), Ok(None), "data may look like the end");
    for wrong in [
        "\r\n",
        "x\r\n",
        " 3\r\n",
        "3 \r\nabc\r\n",
        "0x3\r\n",
        "3\nabc",
        "3;a\nabc",
        "3\r\nabcd\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\n\n",
        "000000003\r\n",
        "-1\r\n",
        "3\rabc",
    ] {
        assert_eq!(chunked(wrong), Err(Unsure::Chunks), "{wrong:?}");
    }
    assert_eq!(chunked("40000000\r\n"), Err(Unsure::Long));
    assert_eq!(chunked("ffffffff\r\n"), Err(Unsure::Long));
    assert_eq!(chunked("0\r\n\r\nG"), Err(Unsure::Pipelined));
}

#[test]
fn a_segment_that_ends_a_body_and_begins_a_request_is_pipelining() {
    let mut framing = framing_of("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").expect("sure");
    let end = framing.boundary().expect("a length");
    assert_eq!(framing.see(end - 10, b"0123456789"), Ok(Seen::Body));
    assert_eq!(framing.see(end - 1, b"x"), Ok(Seen::Body), "a probe, or sent again");
    assert_eq!(framing.see(end, b""), Ok(Seen::Body));
    assert_eq!(framing.see(end, b"GET"), Ok(Seen::Next));
    assert_eq!(framing.see(end + 100, b"later"), Ok(Seen::Next));
    assert_eq!(framing.see(end - 1, b"xG"), Err(Unsure::Pipelined));
}

#[test]
fn a_chunk_header_that_was_gone_past_is_missed_and_chunk_data_is_not() {
    let mut framing =
        framing_of("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").expect("sure");
    let body_at = framing.at;
    assert_eq!(framing.see(body_at, b"64\r\n0123"), Ok(Seen::Body));
    // 100 octets of data: their order does not matter.
    assert_eq!(framing.see(body_at + 60, &[b'x'; 44]), Ok(Seen::Body));
    assert_eq!(framing.see(body_at + 8, &[b'y'; 52]), Ok(Seen::Body));
    assert_eq!(
        framing.see(body_at + 106, b"0\r\n\r\n"),
        Err(Unsure::Chunks),
        "CR LF behind the data is missing"
    );
    assert_eq!(framing.see(body_at + 100, b"0123\r\n0\r\n\r\n"), Ok(Seen::Body));
    assert_eq!(framing.boundary(), Some(body_at + 111));
}

/// A request's head and body.
fn any_request() -> impl Strategy<Value = (String, Vec<u8>)> {
    let length = prop::collection::vec(any::<u8>(), 0..3_000)
        .prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body));
    let chunk = prop::collection::vec(any::<u8>(), 1..600);
    let chunked = (prop::collection::vec(chunk, 0..6), any::<bool>()).prop_map(|(chunks, trailer)| {
        let mut body = Vec::new();
        for chunk in chunks {
            body.extend(format!("{:x}\r\n", chunk.len()).bytes());
            body.extend(chunk);
            body.extend(b"\r\n");
        }
        body.extend(if trailer { &b"0\r\nX: y\r\n\r\n"[..] } else { b"0\r\n\r\n" });
        ("Transfer-Encoding: chunked\r\n".to_owned(), body)
    });
    let none = Just((String::new(), Vec::new()));
    prop_oneof![none, length, chunked]
        .prop_map(|(field, body)| (format!("POST /a HTTP/1.1\r\nHost: a\r\n{field}\r\n"), body))
}

proptest! {
    /// However a request is cut, and whatever of it comes again: it ends where it ends. Out of order, it does or nobody knows.
    #[test]
    fn any_segments_of_a_request_lead_to_the_same_boundary_or_to_none(
        (head, body) in any_request(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        again in any::<prop::sample::Index>(),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
    ) {
        let mut framing = framing_of(&head).expect("sure");
        let body_at = START + head.len() as u32;
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        places.extend([0, body.len()]);
        places.sort_unstable();
        let mut segments: Vec<(usize, usize)> = places.windows(2).map(|pair| (pair[0], pair[1])).collect();
        segments.push(segments[again.index(segments.len())]);
        let in_order = swaps.is_empty();
        for (one, other) in swaps {
            let (one, other) = (one.index(segments.len()), other.index(segments.len()));
            segments.swap(one, other);
        }
        let mut outcome = Ok(Seen::Body);
        for (start, end) in segments {
            outcome = outcome.and_then(|_| framing.see(body_at + start as u32, &body[start..end]));
            prop_assert_ne!(outcome, Ok(Seen::Next));
        }
        match outcome {
            Ok(_) => prop_assert_eq!(framing.boundary(), Some(body_at + body.len() as u32)),
            Err(why) => prop_assert!(!in_order && why == Unsure::Chunks, "{:?}", why),
        }
    }

    /// Noise in a chunked body: never a panic, and never a boundary beyond what was seen.
    #[test]
    fn noise_ends_somewhere(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
        let mut framing = Framing { at: START, phase: SIZE };
        let mut at = START;
        for piece in &pieces {
            if framing.see(at, piece).is_err() {
                return Ok(());
            }
            at = at + piece.len() as u32;
            if let Some(boundary) = framing.boundary() {
                prop_assert!(boundary.diff(at) <= 0);
                return Ok(());
            }
        }
    }
}
