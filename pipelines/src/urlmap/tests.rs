//! Tests of the URL Map.

use proptest::prelude::*;

use super::condition::{CONDITIONS_MAX, HeaderTest};
use super::*;
use crate::request::path;

fn map(rules: &[(Option<&str>, &str, u16)]) -> UrlMap {
    let rules: Vec<Rule> =
        rules.iter().map(|(host, prefix, value)| Rule::prefix(*host, prefix, *value)).collect();
    UrlMap::build(&rules).unwrap()
}

/// A rule as the configuration writes it.
fn rule(
    host: Option<&str>,
    path: &str,
    method: Option<&str>,
    header: Option<(&str, HeaderTest)>,
    pool: u16,
) -> Rule {
    Rule {
        host: host.map(str::to_owned),
        path: PathRule::parse(path),
        method: method.map(str::to_owned),
        header: header.map(|(name, test)| HeaderRule { name: name.to_owned(), test }),
        action: Action::Pool(pool),
    }
}

/// The pool of a GET.
fn find(map: &UrlMap, host: Option<&str>, path: &str) -> Option<u16> {
    ask(map, host, path, "GET", "")
}

fn ask(map: &UrlMap, host: Option<&str>, path: &str, method: &str, fields: &str) -> Option<u16> {
    let head = format!("{method} {path} HTTP/1.1\r\n{fields}\r\n");
    let asked = Asked {
        host: host.map(str::as_bytes),
        path: path.as_bytes(),
        method: method.as_bytes(),
        head: head.as_bytes(),
    };
    map.lookup(&asked).map(|action| match action {
        Action::Pool(pool) => pool,
        Action::Answer(answer) => panic!("{answer:?}"),
    })
}

fn fault(rule: Rule) -> RuleFault {
    let mut errors = UrlMap::build(&[rule]).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0).fault
}

fn fault_of(host: Option<&str>, path: &str) -> RuleFault {
    fault(rule(host, path, None, None, 1))
}

#[test]
fn the_longest_prefix_wins() {
    let map = map(&[(None, "/", 1), (None, "/a/", 2), (None, "/a/b/", 3), (None, "/a/bc", 4)]);
    let cases: [(&str, u16); 8] =
        [("/", 1), ("/a", 1), ("/a/", 2), ("/a/b", 2), ("/a/b/x", 3), ("/a/bcd", 4), ("/a/bb", 2), ("/z", 1)];
    for (path, value) in cases {
        assert_eq!(find(&map, None, path), Some(value), "{path}");
    }
}

#[test]
fn a_prefix_is_plain_text_without_segment_boundaries() {
    let map = map(&[(None, "/a", 1), (None, "/b/", 2)]);
    assert_eq!(find(&map, None, "/ab"), Some(1));
    assert_eq!(find(&map, None, "/b"), None);
    assert_eq!(find(&map, None, "/A"), None, "paths have a case");
}

#[test]
fn the_very_path_comes_before_every_prefix() {
    let rules = [
        rule(None, "/a/", None, None, 1),
        rule(None, "=/a/", None, None, 2),
        rule(None, "=/a/b", None, None, 3),
        rule(None, "/a/b", Some("POST"), None, 4),
        rule(None, "=/c", None, None, 5),
    ];
    let map = UrlMap::build(&rules).unwrap();
    for (path, method, value) in [
        ("/a/", "GET", Some(2)),
        ("/a/x", "GET", Some(1)),
        ("/a/b", "GET", Some(3)),
        ("/a/b", "POST", Some(3)),
        ("/a/bc", "POST", Some(4)),
        ("/a/bc", "GET", Some(1)),
        ("/c", "GET", Some(5)),
        ("/c/", "GET", None),
        ("/", "GET", None),
    ] {
        assert_eq!(ask(&map, None, path, method, ""), value, "{method} {path}");
    }
}

#[test]
fn the_very_host_comes_before_any_host() {
    let map =
        map(&[(None, "/a/long/prefix/", 1), (Some("one.example"), "/", 2), (Some("two.example"), "/x/", 3)]);
    assert_eq!(find(&map, Some("one.example"), "/a/long/prefix/"), Some(2));
    assert_eq!(find(&map, Some("two.example"), "/a/long/prefix/"), Some(1), "nothing under the host matches");
    assert_eq!(find(&map, Some("two.example"), "/x/"), Some(3));
    assert_eq!(find(&map, Some("six.example"), "/a/long/prefix/"), Some(1));
    assert_eq!(find(&map, None, "/x/"), None);
}

#[test]
fn a_wildcard_is_for_all_that_ends_with_it_and_the_longest_wins() {
    let map = map(&[
        (Some("*.example.org"), "/", 1),
        (Some("*.b.example.org"), "/x/", 2),
        (Some("a.b.example.org"), "/y/", 3),
        (Some("*.org"), "/z/", 4),
        (None, "/", 5),
    ]);
    for (host, path, value) in [
        ("www.example.org", "/", 1),
        ("WWW.Example.ORG", "/", 1),
        ("deep.er.example.org", "/", 1),
        ("example.org", "/", 5),
        ("example.org", "/z/", 4),
        ("badexample.org", "/", 5),
        ("www.example.org.evil.com", "/", 5),
        ("c.b.example.org", "/x/1", 2),
        ("c.b.example.org", "/w", 1),
        ("b.example.org", "/x/", 1),
        ("a.b.example.org", "/y/", 3),
        ("a.b.example.org", "/x/", 2),
        ("a.b.example.org", "/w", 1),
        ("x.net", "/z/", 5),
        ("org", "/z/", 5),
    ] {
        assert_eq!(find(&map, Some(host), path), Some(value), "{host}{path}");
    }
    let longest = format!("{}example.org", "a.".repeat(121));
    assert_eq!((longest.len(), find(&map, Some(&longest), "/")), (MAX_HOST_OCTETS, Some(1)));
    assert_eq!(find(&map, Some(&"a".repeat(255)), "/"), Some(5), "longer than any rule's host");
}

#[test]
fn methods_and_headers_choose_among_the_rules_of_a_path() {
    let beta = || Some(("X-Beta", HeaderTest::Equals("yes".to_owned())));
    let rules = [
        rule(None, "/a/", None, None, 1),
        rule(None, "/a/", Some("POST"), None, 2),
        rule(None, "/a/", None, beta(), 3),
        rule(None, "/a/", Some("POST"), beta(), 4),
        rule(None, "/a/", None, Some(("x-beta", HeaderTest::Prefix("y".to_owned()))), 5),
        rule(None, "/", None, Some(("Cookie", HeaderTest::Present)), 6),
        rule(None, "/a/b/", Some("PUT"), None, 7),
    ];
    let map = UrlMap::build(&rules).unwrap();
    for (path, method, fields, value) in [
        ("/a/x", "GET", "", Some(1)),
        ("/a/x", "get", "", Some(1)),
        ("/a/x", "POST", "", Some(2)),
        ("/a/x", "post", "", Some(1)),
        ("/a/x", "GET", "x-BETA: \t yes \r\n", Some(3)),
        ("/a/x", "POST", "X-Beta: yes\r\n", Some(4)),
        ("/a/x", "GET", "X-Beta: yesterday\r\n", Some(5)),
        ("/a/x", "POST", "X-Beta: yesterday\r\n", Some(2)),
        ("/a/x", "GET", "X-Beta: no\r\nX-Beta: yes\r\n", Some(3)),
        ("/a/x", "GET", "X-Beta: Yes\r\n", Some(1)),
        ("/a/x", "GET", "X-Betas: yes\r\nA: X-Beta: yes\r\n", Some(1)),
        ("/a/b/", "PUT", "", Some(7)),
        ("/a/b/", "GET", "", Some(1)),
        ("/c", "GET", "Cookie:\r\n", Some(6)),
        ("/c", "GET", "Cookies: x\r\n", None),
        ("/c", "GET", "", None),
    ] {
        assert_eq!(ask(&map, None, path, method, fields), value, "{method} {path} {fields:?}");
    }
}

#[test]
fn a_rule_that_does_not_fit_gives_way_to_a_less_specific_host() {
    let rules = [
        rule(Some("a.example"), "/", Some("PUT"), None, 1),
        rule(Some("*.example"), "/", Some("POST"), None, 2),
        rule(None, "/", None, None, 3),
    ];
    let map = UrlMap::build(&rules).unwrap();
    for (method, value) in [("PUT", 1), ("POST", 2), ("GET", 3)] {
        assert_eq!(ask(&map, Some("a.example"), "/x", method, ""), Some(value), "{method}");
    }
}

#[test]
fn equals_are_tried_in_the_order_of_the_file() {
    let header = |name| rule(None, "/", None, Some((name, HeaderTest::Present)), u16::from(name == "B"));
    let both = "A: 1\r\nB: 1\r\n";
    for (rules, value) in [([header("A"), header("B")], 0), ([header("B"), header("A")], 1)] {
        assert_eq!(ask(&UrlMap::build(&rules).unwrap(), None, "/", "GET", both), Some(value));
    }
}

#[test]
fn hosts_have_no_case() {
    let map = map(&[(Some("WWW.Example"), "/", 1), (Some("www.example.org"), "/", 2)]);
    for host in ["www.example", "WWW.EXAMPLE", "Www.Example"] {
        assert_eq!(find(&map, Some(host), "/"), Some(1), "{host}");
    }
    assert_eq!(find(&map, Some("www.exampl"), "/"), None);
    assert_eq!(find(&map, Some(""), "/"), None);
}

#[test]
fn what_is_no_path_is_looked_up_as_the_root() {
    let map = map(&[(None, "/", 1), (None, "/*", 2)]);
    assert_eq!(find(&map, None, "*"), Some(1));
    assert_eq!(find(&map, None, ""), Some(1));
}

#[test]
fn an_empty_map_matches_nothing() {
    let map = UrlMap::build(&[]).unwrap();
    assert!(map.is_empty());
    assert_eq!(find(&map, Some("a.example"), "/"), None);
}

#[test]
fn bad_paths_are_named() {
    assert_eq!(fault_of(None, ""), RuleFault::EmptyPath);
    assert_eq!(fault_of(None, "="), RuleFault::EmptyPath);
    assert_eq!(fault_of(None, "a/"), RuleFault::NoSlash("a/".into()));
    for path in ["/a?b", "/a b", "/a#", "/%", "/%zz"] {
        assert_eq!(fault_of(None, path), RuleFault::NotAPath(path.into()));
    }
    assert_eq!(fault_of(None, &format!("/{}", "a".repeat(MAX_PATH_OCTETS))), RuleFault::PathTooLong(4097));
    for (path, normal) in
        [("/a/../b/", "/b/"), ("/a//b", "/a/b"), ("/%61", "/a"), ("/%2f", "/%2F"), ("/%40", "/@")]
    {
        assert_eq!(fault_of(None, path), RuleFault::NotNormal { path: path.into(), normal: normal.into() });
    }
}

#[test]
fn bad_hosts_methods_and_headers_are_named() {
    let long_label = format!("{}.example", "a".repeat(64));
    let long_name = ["abcdefg"; 32].join(".");
    for host in [
        "",
        ".",
        "*",
        "*.",
        "a..b",
        "a.example.",
        "a.example:80",
        "a.*.example",
        "*a.example",
        "**.example",
        "a b",
        "ä.example",
        &long_label,
        &long_name,
    ] {
        assert_eq!(fault_of(Some(host), "/"), RuleFault::BadHost(host.into()));
    }
    for method in ["", "GET ", "G(T", &"A".repeat(33)] {
        assert_eq!(fault(rule(None, "/", Some(method), None, 1)), RuleFault::BadMethod(method.into()));
    }
    let equals = |value: &str| HeaderTest::Equals(value.to_owned());
    let prefix = |value: &str| HeaderTest::Prefix(value.to_owned());
    for (name, test, bad) in [
        ("", HeaderTest::Present, ""),
        ("X:", HeaderTest::Present, "X:"),
        ("X", equals("a\r\nb"), "a\r\nb"),
        ("X", equals(" a"), " a"),
        ("X", equals("a "), "a "),
        ("X", prefix(""), ""),
        ("X", prefix("\u{7f}"), "\u{7f}"),
    ] {
        let found = fault(rule(None, "/", None, Some((name, test)), 1));
        assert_eq!(found, RuleFault::BadHeader(bad.into()));
    }
    assert!(UrlMap::build(&[rule(None, "/", None, Some(("X", prefix("a "))), 1)]).is_ok());
}

#[test]
fn all_errors_are_reported_in_the_order_of_the_rules() {
    let rules = [
        rule(Some("a.example"), "/x/", None, None, 1),
        rule(Some("a:80"), "y", None, None, 2),
        rule(None, "/x/", None, None, 3),
        rule(Some("A.EXAMPLE"), "/x/", None, None, 4),
        rule(None, "", None, None, 5),
        rule(Some("a.example"), "=/x/", None, None, 6),
        rule(Some("a.example"), "/x/", Some("GET"), None, 7),
        rule(Some("a.example"), "/x/", Some("GET"), None, 8),
    ];
    let errors = UrlMap::build(&rules).unwrap_err();
    let expected = [
        RuleError { rule: 1, fault: RuleFault::BadHost("a:80".into()) },
        RuleError { rule: 1, fault: RuleFault::NoSlash("y".into()) },
        RuleError { rule: 3, fault: RuleFault::Duplicate { first: 0 } },
        RuleError { rule: 4, fault: RuleFault::EmptyPath },
        RuleError { rule: 7, fault: RuleFault::Duplicate { first: 6 } },
    ];
    assert_eq!(errors, expected);
    assert_eq!(errors[2].to_string(), "rule 3: same host, path, method and header as rule 0; remove one");
}

#[test]
fn so_many_headers_and_no_more() {
    let rule = |n: usize| {
        rule(
            None,
            &format!("/{n}"),
            None,
            Some((&format!("X-{}", n % (CONDITIONS_MAX + 1)), HeaderTest::Present)),
            1,
        )
    };
    let rules: Vec<Rule> =
        (0..CONDITIONS_MAX).chain(CONDITIONS_MAX + 1..2 * CONDITIONS_MAX).map(rule).collect();
    assert!(UrlMap::build(&rules).is_ok(), "each again");
    let rules: Vec<Rule> = (0..=CONDITIONS_MAX).map(rule).collect();
    let errors = UrlMap::build(&rules).unwrap_err();
    assert_eq!(errors, [RuleError { rule: CONDITIONS_MAX, fault: RuleFault::TooManyHeaders }]);
}

#[test]
fn a_hundred_thousand_rules_are_each_found() {
    let rules: Vec<Rule> = (0..100_000_u32)
        .map(|n| {
            Rule::prefix(Some(&format!("h{}.example", n % 1000)), &format!("/{n}/"), (n % 60_000) as u16)
        })
        .collect();
    let map = UrlMap::build(&rules).unwrap();
    assert_eq!(map.len(), 100_000);
    for n in (0..100_000_u32).step_by(77) {
        let host = format!("H{}.example", n % 1000);
        assert_eq!(find(&map, Some(&host), &format!("/{n}/index.html")), Some((n % 60_000) as u16));
    }
}

fn names() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!['a', 'b', '/']), 0..5)
        .prop_map(|tail| tail.into_iter().fold(String::from("/"), |path, letter| path + &letter.to_string()))
        .prop_map(|path| {
            String::from_utf8(path::normalise(path.as_bytes(), &mut [0; 8]).unwrap().to_vec()).unwrap()
        })
}

fn hosts() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop::sample::select(vec![
        "a".to_owned(),
        "B".to_owned(),
        "b.a".to_owned(),
        "c.b.a".to_owned(),
    ]))
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let host = prop_oneof![3 => hosts(), 1 => prop::sample::select(vec![Some("*.a".to_owned()), Some("*.b.a".to_owned())])];
    let path = (names(), any::<bool>())
        .prop_map(|(path, exact)| if exact { PathRule::Exact(path) } else { PathRule::Prefix(path) });
    let method = prop::option::of(prop::sample::select(vec!["GET".to_owned(), "PUT".to_owned()]));
    let header = prop::option::of(prop::sample::select(vec!["x".to_owned(), "y".to_owned()]));
    let header = header.prop_map(|name| name.map(|name| HeaderRule { name, test: HeaderTest::Present }));
    let content = (host, path, method, header).prop_map(|(host, path, method, header)| Rule {
        host,
        path,
        method,
        header,
        action: Action::Pool(0),
    });
    prop::collection::vec(content, 0..60).prop_map(|mut rules| {
        let mut known = std::collections::HashSet::new();
        rules.retain(|rule| known.insert(format!("{rule:?}").to_ascii_lowercase()));
        rules.iter_mut().zip(0..).for_each(|(rule, number)| rule.action = Action::Pool(number));
        rules
    })
}

/// The module's three points, word by word: of the rules that fit, the one that comes first.
fn first_by_the_book(
    rules: &[Rule],
    host: Option<&str>,
    path: &str,
    method: &str,
    fields: &str,
) -> Option<u16> {
    let rank = |(number, rule): (usize, &Rule)| {
        let of_host = match (&rule.host, host) {
            (None, _) => Some((2, 0)),
            (Some(name), Some(host)) if name.eq_ignore_ascii_case(host) => Some((0, 0)),
            (Some(name), Some(host)) => {
                let ends = name.strip_prefix('*')?;
                host.to_ascii_lowercase().ends_with(ends).then_some((1, usize::MAX - ends.len()))
            }
            (Some(_), None) => None,
        }?;
        let of_path = match &rule.path {
            PathRule::Exact(exact) => (path == exact).then_some((0, 0)),
            PathRule::Prefix(prefix) => {
                path.starts_with(prefix.as_str()).then_some((1, usize::MAX - prefix.len()))
            }
        }?;
        let fits = rule.method.as_ref().is_none_or(|wanted| wanted == method)
            && rule.header.as_ref().is_none_or(|header| fields.contains(&format!("{}:", header.name)));
        let conditions = usize::from(rule.method.is_some()) + usize::from(rule.header.is_some());
        fits.then_some((of_host, of_path, 2 - conditions, number))
    };
    rules.iter().enumerate().filter_map(rank).min().map(|(.., number)| number as u16)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn lookup_is_the_linear_search(
        rules in rules(),
        asked in prop::collection::vec(
            (
                hosts(),
                names(),
                prop::sample::select(vec!["GET", "PUT", "POST"]),
                prop::sample::select(vec!["", "x: 1\r\n", "y: 1\r\n", "y: 1\r\nx: 1\r\n"]),
            ),
            1..20,
        ),
    ) {
        let map = UrlMap::build(&rules).unwrap();
        for (host, path, method, fields) in asked {
            let expected = first_by_the_book(&rules, host.as_deref(), &path, method, fields);
            prop_assert_eq!(ask(&map, host.as_deref(), &path, method, fields), expected);
        }
    }
}
