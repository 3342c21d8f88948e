//! Rows that fit, rows that cannot be used, and the order between them.

use super::*;

fn rule(sni: Option<&str>, alpn: &[&str], value: u16) -> Rule {
    Rule {
        sni: sni.map(str::to_owned),
        alpn: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
        value,
    }
}

fn faults(rules: &[Rule]) -> Vec<(usize, RuleFault)> {
    TlsMap::build(rules).expect_err("faults").into_iter().map(|error| (error.rule, error.fault)).collect()
}

/// A ClientHello with this name and these protocols.
pub fn hello(name: Option<&str>, protocols: &[&str]) -> Vec<u8> {
    let vector16 = |octets: &[u8]| [&(octets.len() as u16).to_be_bytes()[..], octets].concat();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let list = vector16(&[&[0][..], &vector16(name.as_bytes())].concat());
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

fn found(map: &TlsMap, name: Option<&str>, protocols: &[&str]) -> Found {
    map.look_up(&ClientHello::parse(&hello(name, protocols)).expect("a hello"))
}

#[test]
fn the_very_name_comes_before_wildcards_and_the_longest_of_them_first() {
    let map = TlsMap::build(&[
        rule(Some("*.example.org"), &[], 1),
        rule(Some("*.b.Example.org"), &[], 2),
        rule(Some("WWW.example.org"), &[], 3),
        rule(Some("*.org"), &["h2"], 4),
    ])
    .expect("good rows");
    for (name, expected) in [
        ("www.example.org", Found::Pool(3)),
        ("wWw.eXample.ORG", Found::Pool(3)),
        ("w.example.org", Found::Pool(1)),
        ("a.b.example.org", Found::Pool(2)),
        ("x.a.b.EXAMPLE.org", Found::Pool(2)),
        ("b.example.org", Found::Pool(1)),
        ("example.org", Found::NameOnly),
        ("notexample.org", Found::NameOnly),
        ("org", Found::Nothing),
        ("www.example.com", Found::Nothing),
        (".example.org", Found::NameOnly),
        ("*.example.org", Found::Pool(1)),
        ("....................", Found::Nothing),
    ] {
        assert_eq!(found(&map, Some(name), &[]), expected, "{name}");
    }
    assert_eq!(found(&map, Some("example.org"), &["h2"]), Found::Pool(4));
    assert_eq!(found(&map, None, &["h2"]), Found::Nothing);
}

#[test]
fn the_first_row_of_a_name_that_fits_the_protocols_is_taken() {
    let map = TlsMap::build(&[
        rule(Some("a.example"), &["acme-tls/1"], 1),
        rule(None, &["imap", "h3"], 5),
        rule(Some("a.example"), &["h2", "http/1.1"], 2),
        rule(Some("a.example"), &[], 3),
        rule(Some("b.example"), &["h2"], 4),
    ])
    .expect("good rows");
    for (name, protocols, expected) in [
        (Some("a.example"), &["h2", "acme-tls/1"][..], Found::Pool(1)),
        (Some("a.example"), &["http/1.1"], Found::Pool(2)),
        (Some("a.example"), &["H2"], Found::Pool(3)),
        (Some("a.example"), &[], Found::Pool(3)),
        (Some("b.example"), &["h2"], Found::Pool(4)),
        (Some("b.example"), &["h3"], Found::Pool(5)),
        (Some("b.example"), &[], Found::NameOnly),
        (Some("c.example"), &["imap"], Found::Pool(5)),
        (None, &["imap"], Found::Pool(5)),
        (None, &[], Found::Nothing),
    ] {
        assert_eq!(found(&map, name, protocols), expected, "{name:?} {protocols:?}");
    }
}

#[test]
fn names_that_no_row_has_and_hellos_without_one_are_refused_where_the_service_says_so() {
    let map = TlsMap::build(&[rule(Some("a.example"), &["h2"], 1)]).expect("a good row");
    let pool = |rules: &TlsRules, name, protocols: &[&str]| {
        rules.pool(&ClientHello::parse(&hello(name, protocols)).expect("a hello"), 9)
    };
    let kind = TlsRules { map: map.clone(), ..TlsRules::default() };
    assert_eq!((pool(&kind, None, &[]), pool(&kind, Some("b.example"), &[])), (Ok(9), Ok(9)));
    let strict = TlsRules { map, unknown_name: Otherwise::Reject, no_name: Otherwise::Reject };
    assert_eq!(pool(&strict, None, &[]), Err(Refusal::NoName));
    assert_eq!(pool(&strict, Some("b.example"), &["h2"]), Err(Refusal::UnknownName));
    assert_eq!(pool(&strict, Some("a.example"), &["h2"]), Ok(1));
    assert_eq!(pool(&strict, Some("a.example"), &[]), Ok(9), "the name is known");
}

#[test]
fn rows_that_cannot_be_used_are_named() {
    for name in
        ["", ".", "a.", ".a", "a..b", "*", "*.", "*a.example", "a.*.example", "a b", "a:443", "b\u{fc}cher"]
    {
        assert_eq!(faults(&[rule(Some(name), &[], 1)]), [(0, RuleFault::BadName(name.to_owned()))]);
    }
    let long = "a".repeat(254);
    assert_eq!(faults(&[rule(Some(&long), &[], 1)]), [(0, RuleFault::BadName(long.clone()))]);
    assert_eq!(faults(&[rule(None, &[], 1)]), [(0, RuleFault::Empty)]);
    assert_eq!(faults(&[rule(None, &["h2", ""], 1)]), [(0, RuleFault::BadProtocol(0))]);
    assert_eq!(faults(&[rule(None, &[&"x".repeat(256)], 1)]), [(0, RuleFault::BadProtocol(256))]);
    assert_eq!(faults(&[rule(None, &["x"; 9], 1)]), [(0, RuleFault::TooManyProtocols(9))]);
    let rules = [
        rule(Some("a.example"), &["h2", "h3"], 1),
        rule(Some("b.example"), &[], 1),
        rule(Some("A.example"), &["h3"], 2),
        rule(Some("b.example"), &["h2"], 2),
        rule(Some("a.example"), &["h3", "x"], 2),
    ];
    let unreachable = |first| RuleFault::Unreachable { first };
    assert_eq!(faults(&rules), [(2, unreachable(0)), (3, unreachable(1))]);
}

#[test]
fn a_hundred_thousand_names_are_told_apart() {
    let rules: Vec<Rule> =
        (0..100_000).map(|n| rule(Some(&format!("h{n}.example")), &[], (n % 60_000) as u16)).collect();
    let map = TlsMap::build(&rules).expect("good rows");
    for n in [0, 1, 999, 59_999, 77_777, 99_999] {
        assert_eq!(found(&map, Some(&format!("H{n}.example")), &["h2"]), Found::Pool((n % 60_000) as u16));
    }
    assert_eq!(found(&map, Some("h100000.example"), &[]), Found::Nothing);
}
