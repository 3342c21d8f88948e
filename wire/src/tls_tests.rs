//! Whole hellos, every impossible one, and any cut into segments and records.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn vector8(octets: &[u8]) -> Vec<u8> {
    [&[octets.len() as u8], octets].concat()
}

fn vector16(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(data)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0][..], &vector16(name)].concat()))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|protocol| vector8(protocol)).collect();
    extension(16, &vector16(&list))
}

/// A message with these extensions.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let body =
        [&[3, 3][..], &[7; 32], &vector8(&[9; 32]), &vector16(&[0x13, 1, 0x13, 2]), &vector8(&[0])].concat();
    of_body(&[body, vector16(extensions)].concat())
}

fn of_body(body: &[u8]) -> Vec<u8> {
    [&[1][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// The message in records of these lengths, the last one taking what is left.
fn records(message: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut rest = message;
    let mut stream = Vec::new();
    for len in lengths.iter().copied().chain([FRAGMENT_MAX_OCTETS]) {
        let (fragment, behind) = rest.split_at(len.min(rest.len()));
        if !fragment.is_empty() {
            stream.extend([&[22, 3, 1][..], &vector16(fragment)].concat());
        }
        rest = behind;
    }
    stream
}

/// What a hello was found to say.
type NameAndProtocols = (Option<Vec<u8>>, Vec<Vec<u8>>);

/// Scan, put together and read a stream that comes in one go.
fn read(stream: &[u8]) -> Result<Option<NameAndProtocols>, HelloError> {
    let Some(len) = RecordScan::new().advance(stream)? else { return Ok(None) };
    let mut buffer = [0xa5; MESSAGE_MAX_OCTETS];
    let message = message(stream, len, &mut buffer).expect("the scan has seen all of it");
    let hello = ClientHello::parse(message)?;
    Ok(Some((hello.server_name.map(<[u8]>::to_vec), hello.protocols().map(<[u8]>::to_vec).collect())))
}

fn read_message(message: &[u8]) -> Result<Option<NameAndProtocols>, HelloError> {
    read(&records(message, &[]))
}

#[test]
fn name_and_protocols_are_found_among_other_extensions() {
    let other = extension(43, &[2, 3, 4]);
    let all = [
        &other[..],
        &server_name(b"www.Example.org"),
        &alpn(&[b"h2", b"http/1.1"]),
        &extension(21, &[0; 200]),
    ];
    let found = read_message(&hello(&all.concat())).unwrap().unwrap();
    assert_eq!(found, (Some(b"www.Example.org".to_vec()), [b"h2".to_vec(), b"http/1.1".to_vec()].to_vec()));
    let found = read_message(&hello(&server_name(b"a.example."))).unwrap().unwrap();
    assert_eq!(found.0, Some(b"a.example".to_vec()), "a dot at the end does not count");
}

#[test]
fn a_hello_may_have_no_extensions_at_all() {
    let without = hello(&[]);
    assert_eq!(read_message(&without), Ok(Some((None, Vec::new()))));
    let body = &without[MESSAGE_HEADER_LEN..without.len() - 2];
    assert_eq!(read_message(&of_body(body)), Ok(Some((None, Vec::new()))));
}

#[test]
fn what_is_no_tls_is_told_by_its_first_octets() {
    for stream in [&b"GET / HTTP/1.1\r\n"[..], b"S", b"\0", b"\x16\x02\x01", b"\x17\x03\x03\0\x01\0"] {
        assert_eq!(RecordScan::new().advance(stream), Err(HelloError::NotTls), "{stream:?}");
    }
    assert_eq!(RecordScan::new().advance(b"\x80\x2e\x01\x03\x01"), Err(HelloError::Ssl2));
    assert_eq!(RecordScan::new().advance(b"\x80\x2e\x02"), Err(HelloError::NotTls));
    for incomplete in [&b""[..], b"\x80", b"\x80\x2e", b"\x16", b"\x16\x03", b"\x16\x03\x01\0"] {
        assert_eq!(RecordScan::new().advance(incomplete), Ok(None), "{incomplete:?}");
    }
}

#[test]
fn records_and_messages_that_cannot_be_are_refused() {
    let good = hello(&[]);
    let mut stream = records(&good, &[10]);
    stream[15] = 23;
    assert_eq!(read(&stream), Err(HelloError::Record), "another type in between");
    stream[15] = 22;
    assert!(read(&stream).is_ok());
    (stream[18], stream[19]) = (0, 0);
    assert_eq!(read(&stream), Err(HelloError::Record), "an empty one");
    (stream[18], stream[19]) = (0x40, 1);
    assert_eq!(read(&stream), Err(HelloError::Record), "one of 16,385 octets");
    assert_eq!(read(&records(&[2, 0, 0, 1, 0], &[])), Err(HelloError::Hello), "a ServerHello");
    let longest = MESSAGE_MAX_OCTETS - MESSAGE_HEADER_LEN;
    let header = |len: usize| records(&[&[1][..], &(len as u32).to_be_bytes()[1..]].concat(), &[]);
    assert_eq!(read(&header(longest)), Ok(None));
    assert_eq!(read(&header(longest + 1)), Err(HelloError::TooLong));
    assert_eq!(read(&header(0)), Err(HelloError::Hello));
}

#[test]
fn bodies_whose_lengths_contradict_each_other_are_refused() {
    let good = hello(&[server_name(b"a.example"), alpn(&[b"h2"])].concat());
    let body = &good[MESSAGE_HEADER_LEN..];
    for len in 0..body.len() {
        let read = read_message(&of_body(&body[..len]));
        // Cut where the extensions would begin, it is an old client's.
        let is_old = len == 2 + 32 + 33 + 6 + 2;
        assert_eq!(read.is_ok(), is_old, "{len}: {read:?}");
    }
    let mut longer = body.to_vec();
    longer.push(0);
    assert_eq!(read_message(&of_body(&longer)), Err(HelloError::Hello));
    for (at, value) in [(0, 2), (34, 33), (68, 0), (68, 3), (73, 0)] {
        let mut wrong = body.to_vec();
        wrong[at] = value;
        assert_eq!(read_message(&of_body(&wrong)), Err(HelloError::Hello), "{at}: {value}");
    }
    for twice in [server_name(b"a.example"), alpn(&[b"h2"])] {
        assert_eq!(read_message(&hello(&[twice.clone(), twice].concat())), Err(HelloError::Hello));
    }
}

#[test]
fn names_that_are_none_are_refused() {
    let longest = [b'a'; NAME_MAX_OCTETS];
    assert!(read_message(&hello(&server_name(&longest))).is_ok());
    let names: [&[u8]; 8] = [
        b"",
        b".",
        &[b'a'; 254],
        &[b'a'; 300],
        b"a\0.example",
        b"a b",
        "b\u{fc}cher.example".as_bytes(),
        b"a\x7f",
    ];
    for name in names {
        assert_eq!(read_message(&hello(&server_name(name))), Err(HelloError::ServerName), "{name:?}");
    }
    let two = [&[0][..], &vector16(b"a.example"), &[0], &vector16(b"b.example")].concat();
    let lists: [Vec<u8>; 5] = [
        Vec::new(),
        vector16(&[]),
        vector16(&two),
        vector16(&[&[1][..], &vector16(b"a.example")].concat()),
        [vector16(&[&[0][..], &vector16(b"a")].concat()), [0].to_vec()].concat(),
    ];
    for list in lists {
        assert_eq!(read_message(&hello(&extension(0, &list))), Err(HelloError::ServerName), "{list:?}");
    }
}

#[test]
fn lists_of_protocols_that_are_none_are_refused() {
    let many: Vec<&[u8]> = std::vec![&b"x"[..]; PROTOCOLS_MAX + 1];
    assert!(read_message(&hello(&alpn(&many[1..]))).is_ok());
    assert_eq!(read_message(&hello(&alpn(&many))), Err(HelloError::Protocols));
    for list in [&[][..], &[0, 0], &[0, 1, 0], &[0, 2, 2, b'h'], &[0, 3, 2, b'h', b'2', 0]] {
        assert_eq!(read_message(&hello(&extension(16, list))), Err(HelloError::Protocols), "{list:?}");
    }
}

#[test]
fn what_follows_the_message_is_not_looked_at() {
    let good = hello(&server_name(b"a.example"));
    let mut stream = records(&good, &[40]);
    stream.extend([23, 9, 9, 0, 0, 0xff]);
    assert_eq!(read(&stream).unwrap().unwrap().0, Some(b"a.example".to_vec()));
    let shared = records(&[&good[..], b"\x01\0\0"].concat(), &[]);
    assert_eq!(read(&shared).unwrap().unwrap().0, Some(b"a.example".to_vec()), "in the same record");
}

#[test]
fn a_buffer_or_a_stream_that_is_too_short_gives_nothing() {
    let good = hello(&[]);
    let stream = records(&good, &[10]);
    assert_eq!(message(&stream, good.len(), &mut [0; 20]), None);
    let mut buffer = [0; 1024];
    assert_eq!(message(&stream[..30], good.len(), &mut buffer), None);
    assert_eq!(message(&[22, 3, 1, 0, 0], 1, &mut buffer), None);
    assert_eq!(message(&stream, good.len(), &mut buffer), Some(&good[..]));
}

fn any_hello() -> impl Strategy<Value = Vec<u8>> {
    let name = proptest::option::of("[a-z]{1,20}(\\.[a-z]{1,20}){0,3}");
    let protocols = proptest::collection::vec("[a-z0-9/.]{1,12}", 0..6);
    let padding = 0..4_000_usize;
    (name, protocols, padding).prop_map(|(name, protocols, padding)| {
        let protocols: Vec<&[u8]> = protocols.iter().map(|protocol| protocol.as_bytes()).collect();
        let mut all = extension(21, &std::vec![0; padding]);
        all.extend(name.map(|name| server_name(name.as_bytes())).unwrap_or_default());
        if !protocols.is_empty() {
            all.extend(alpn(&protocols));
        }
        hello(&all)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_into_records_and_segments_gives_the_same(
        message in any_hello(),
        fragments in proptest::collection::vec(1..600_usize, 0..12),
        segments in proptest::collection::vec(1..700_usize, 0..12),
    ) {
        let expected = read_message(&message);
        prop_assert!(matches!(expected, Ok(Some(_))));
        let stream = records(&message, &fragments);
        let mut scan = RecordScan::new();
        let mut end = 0;
        let mut found = None;
        for len in segments.into_iter().chain([stream.len()]) {
            end = stream.len().min(end + len);
            found = scan.advance(&stream[..end]).expect("nothing is wrong with it");
            prop_assert_eq!(found.is_some(), end == stream.len());
        }
        prop_assert_eq!(found, Some(message.len()));
        prop_assert_eq!(read(&stream), expected);
    }

    #[test]
    fn one_octet_at_a_time_is_as_good_as_all_at_once(stream in proptest::collection::vec(any::<u8>(), 0..80)) {
        // Mostly no hello: begin as one does.
        let stream = [&[22, 3, 1][..], &stream].concat();
        let mut scan = RecordScan::new();
        let mut last = Ok(None);
        for end in 0..=stream.len() {
            last = scan.advance(&stream[..end]);
            if last != Ok(None) {
                break;
            }
        }
        prop_assert_eq!(RecordScan::new().advance(&stream), last);
    }

    #[test]
    fn no_octets_panic(mut message in any_hello(), places in proptest::collection::vec((0..5_000_usize, any::<u8>()), 0..8), noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (at, value) in places {
            if let Some(octet) = message.get_mut(at) {
                *octet = value;
            }
        }
        let _ = read_message(&message);
        let _ = ClientHello::parse(&message);
        let _ = read(&noise);
        let _ = ClientHello::parse(&noise);
        let _ = super::message(&noise, 100, &mut [0; 64]);
    }
}
