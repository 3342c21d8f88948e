//! Tests of the one spelling per path.

use proptest::prelude::*;

use super::*;

fn normal(path: &[u8]) -> Vec<u8> {
    let mut buffer = [0xa5; 64];
    normalise(path, &mut buffer).unwrap().to_vec()
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let mut buffer = [0xa5; 64];
    normalise_as(path, Slash::Decoded, &mut buffer).unwrap().to_vec()
}

/// Path as sent, normal form, and the reading that takes an encoded slash for one.
const CASES: [(&str, &str, &str); 72] = [
    // What is normal stays.
    ("/", "/", "/"),
    ("/a", "/a", "/a"),
    ("/a/", "/a/", "/a/"),
    ("/a/b.html", "/a/b.html", "/a/b.html"),
    ("/..a/.b/c..", "/..a/.b/c..", "/..a/.b/c.."),
    ("/...", "/...", "/..."),
    ("/a/.../b", "/a/.../b", "/a/.../b"),
    ("/a;x=1/b,c", "/a;x=1/b,c", "/a;x=1/b,c"),
    ("/a:b@c!$&'()*+=", "/a:b@c!$&'()*+=", "/a:b@c!$&'()*+="),
    ("*", "*", "*"),
    ("", "", ""),
    // RFC 3986 section 5.2.4, its own examples among them.
    ("/a/b/c/./../../g", "/a/g", "/a/g"),
    ("/mid/content=5/../6", "/mid/6", "/mid/6"),
    ("/a/../b/", "/b/", "/b/"),
    ("/a/./b", "/a/b", "/a/b"),
    ("/a/.", "/a/", "/a/"),
    ("/a/..", "/", "/"),
    ("/a/b/..", "/a/", "/a/"),
    ("/a/b/.", "/a/b/", "/a/b/"),
    ("/..", "/", "/"),
    ("/../", "/", "/"),
    ("/../../a", "/a", "/a"),
    ("/./", "/", "/"),
    ("/./a", "/a", "/a"),
    ("/a/../../../b", "/b", "/b"),
    // Slashes merge, before dot segments go.
    ("//", "/", "/"),
    ("///", "/", "/"),
    ("/a//b///c", "/a/b/c", "/a/b/c"),
    ("/a//../b", "/b", "/b"),
    ("/a//", "/a/", "/a/"),
    ("//b/x", "/b/x", "/b/x"),
    ("/a/.//../b", "/b", "/b"),
    // Section 6.2.2.1 and 6.2.2.2: unreserved characters are decoded, once.
    ("/%61", "/a", "/a"),
    ("/%41%5A%5a", "/AZZ", "/AZZ"),
    ("/%2D%2E%5F%7E%30", "/-._~0", "/-._~0"),
    ("/%62/x", "/b/x", "/b/x"),
    ("/a/%2e%2e/b", "/b", "/b"),
    ("/a/%2E%2E/b", "/b", "/b"),
    ("/a/.%2e/b", "/b", "/b"),
    ("/a/%2e./b", "/b", "/b"),
    ("/a/%2e/b", "/a/b", "/a/b"),
    ("/%2e%2e/%2e%2e/b", "/b", "/b"),
    ("/a/b/%2e%2e", "/a/", "/a/"),
    ("/%252e%252e/b", "/%252e%252e/b", "/%252e%252e/b"),
    ("/%2561", "/%2561", "/%2561"),
    ("/%25%32%65", "/%252e", "/%252e"),
    // Other printable characters, and what is above 0x7f, as servers decode them.
    ("/%40user/", "/@user/", "/@user/"),
    ("/a%3Bx", "/a;x", "/a;x"),
    ("/a%21%24%26%27%28%29%2A%2B%2C%3A%3D", "/a!$&'()*+,:=", "/a!$&'()*+,:="),
    ("/a%5Cb", "/a\\b", "/a\\b"),
    ("/a\\..\\b", "/a\\..\\b", "/a\\..\\b"),
    ("/%C3%A9", "/é", "/é"),
    ("/é", "/é", "/é"),
    ("/%7Bx%7D%7C%22%3C%3E%5E%60", "/{x}|\"<>^`", "/{x}|\"<>^`"),
    // What would get a meaning stays encoded, in capitals.
    ("/a%3fb", "/a%3Fb", "/a%3Fb"),
    ("/a%23b", "/a%23b", "/a%23b"),
    ("/a%20b", "/a%20b", "/a%20b"),
    ("/a%0d%0ab", "/a%0D%0Ab", "/a%0D%0Ab"),
    ("/a%7f", "/a%7F", "/a%7F"),
    ("/%00", "/%00", "/%00"),
    ("/%25", "/%25", "/%25"),
    // The encoded slash, in both readings.
    ("/a%2fb", "/a%2Fb", "/a/b"),
    ("/%2f", "/%2F", "/"),
    ("/b%2Fx", "/b%2Fx", "/b/x"),
    ("/a%2F..%2Fb/x", "/a%2F..%2Fb/x", "/b/x"),
    ("/a%2F../b/x", "/a%2F../b/x", "/b/x"),
    ("/a/..%2Fb", "/a/..%2Fb", "/b"),
    ("/a/%2f../b", "/a/%2F../b", "/b"),
    ("/a/%2e%2e%2fb", "/a/..%2Fb", "/b"),
    ("/%2f%2fb/x", "/%2F%2Fb/x", "/b/x"),
    ("/a/b%2f..", "/a/b%2F..", "/a/"),
    ("/a%252fb", "/a%252fb", "/a%252fb"),
];

#[test]
fn every_spelling_has_its_normal_form() {
    for (path, expected, as_slash) in CASES {
        assert_eq!(String::from_utf8_lossy(&normal(path.as_bytes())), expected, "of {path}");
        assert_eq!(String::from_utf8_lossy(&decoded(path.as_bytes())), as_slash, "of {path}, decoded");
        let differs = has_encoded_slash(path.as_bytes());
        assert!(differs || expected == as_slash, "{path} has two readings");
        assert_eq!(differs, path.to_ascii_lowercase().contains("%2f"), "{path}");
    }
}

#[test]
fn escapes_that_are_none_and_nul_are_faults() {
    for broken in ["/%", "/a%", "/%4", "/%zz", "/%4gg%41", "/%%41", "/%2%65./b", "/%u0041", "/a/%-1", "/%+1"]
    {
        assert_eq!(check(broken.as_bytes()), Err(PathFault::Escape), "{broken}");
        assert_eq!(normalise(broken.as_bytes(), &mut [0; 64]), None, "{broken}");
    }
    for nul in ["/%00", "/a%00/../b", "/a/..%00"] {
        assert_eq!(check(nul.as_bytes()), Err(PathFault::Nul), "{nul}");
    }
    for (path, ..) in CASES.iter().filter(|(path, ..)| !path.contains("%00")) {
        assert_eq!(check(path.as_bytes()), Ok(()), "{path}");
    }
}

#[test]
fn a_buffer_that_is_too_short_gives_nothing_rather_than_the_raw_path() {
    let mut buffer = [0; 5];
    assert_eq!(normalise(b"/abcde", &mut buffer), None);
    assert_eq!(normalise(b"/abcd", &mut buffer), Some(b"/abcd".as_slice()));
    assert_eq!(normalise(b"/", &mut []), None);
}

/// Paths made of what matters here.
fn paths() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "/", "//", ".", "..", "%2e", "%2E", "%2f", "%2F", "%25", "%41", "a", "%c3%a9", "%20", "%5c", "\\",
        ";",
    ]);
    prop::collection::vec(piece, 0..16).prop_map(|pieces| format!("/{}", pieces.concat()).into_bytes())
}

/// The same by the RFC's words: decode, then split into segments and walk them.
fn model(path: &[u8], slash: Slash) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some(octet) = rest.first() {
        if *octet != b'%' {
            decoded.push(*octet);
            rest = &rest[1..];
            continue;
        }
        let value = u8::from_str_radix(core::str::from_utf8(&rest[1..3]).unwrap(), 16).unwrap();
        rest = &rest[3..];
        let stays = value <= b' ' || value == 0x7f || b"%/?#".contains(&value);
        if (value == b'/' && slash == Slash::Decoded) || !stays {
            decoded.push(value);
        } else {
            decoded.extend(format!("%{value:02X}").bytes());
        }
    }
    let segments: Vec<&[u8]> = decoded.split(|octet| *octet == b'/').skip(1).collect();
    let directory = matches!(segments.last(), Some(&b"" | &b"." | &b".."));
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in segments {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let mut normal = b"/".to_vec();
    normal.extend(kept.join(&b'/'));
    if directory && !kept.is_empty() {
        normal.push(b'/');
    }
    normal
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_normal_form_is_the_models_and_final(path in paths()) {
        for slash in [Slash::Encoded, Slash::Decoded] {
            let mut buffer = [0xa5; 128];
            let once = normalise_as(&path, slash, &mut buffer).unwrap().to_vec();
            prop_assert_eq!(&once, &model(&path, slash));
            prop_assert!(once.len() <= path.len());
            let mut buffer = [0xa5; 128];
            prop_assert_eq!(normalise_as(&once, slash, &mut buffer), Some(&once[..]));
        }
    }

    #[test]
    fn no_octets_make_it_panic(path in prop::collection::vec(any::<u8>(), 0..64), room in 0..64_usize) {
        let mut buffer = [0; 64];
        for slash in [Slash::Encoded, Slash::Decoded] {
            let written = normalise_as(&path, slash, &mut buffer[..room]).map(<[u8]>::len);
            prop_assert!(written.is_none_or(|len| len <= path.len()));
            let is_broken = path.starts_with(b"/") && check(&path) == Err(PathFault::Escape);
            prop_assert!(written.is_some() || room < path.len() || is_broken);
        }
    }
}
