//! Every profile through a memory ring and into nothing, and what the program says to bad input: the program itself, as
//! users run it.

mod common;

use common::{pktgen, report, scratch};

/// Packets that go into a ring and come out of it; rings hold 1023 and lose nothing at these rates.
fn through_a_ring(profile: &str, extra: &[&str]) -> serde_json::Value {
    let scratch = scratch();
    let json = scratch.path("report.json");
    let ring = ["--client-port", "net_ring0", "--target", "loop", "--rate", "5000", "--duration", "0.4"];
    let done = pktgen(&[&[profile][..], &ring, &["--json", &json], extra].concat());
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    report(&json)
}

#[test]
fn packets_through_a_ring_come_back_once_each() {
    for (profile, extra) in [
        ("udp", &["--size", "imix", "--flows", "100"][..]),
        ("established", &["--size", "64,1518"]),
        ("syn-flood", &["--client-count", "3"]),
    ] {
        let report = through_a_ring(profile, extra);
        let trial = &report["trial"];
        assert_eq!(trial["planned"], 2000, "{profile}");
        for (field, count) in
            [("sent", 2000), ("returned", 2000), ("lost", 0), ("duplicates", 0), ("unknown", 0)]
        {
            assert_eq!(trial[field], count, "{profile}: {field} in {trial}");
        }
        assert_eq!(report["latency"]["from_intended"]["count"], 2000, "{profile}");
        assert_eq!(trial["client_port"]["sent_packets"], 2000, "{profile}");
    }
}

#[test]
fn frames_have_the_sizes_asked_for() {
    let report = through_a_ring("udp", &["--size", "64,1518"]);
    // Without frame check sequences.
    assert_eq!(report["trial"]["client_port"]["sent_octets"], 1000 * (60 + 1514));
}

#[test]
fn whole_connections_run_through_a_ring() {
    let report = through_a_ring("connections", &["--flows", "700", "--response-octets", "5000"]);
    let connections = &report["connections"];
    assert_eq!(connections["completed"], 2000, "{connections}");
    for field in ["failed_timeout", "failed_reset", "failed_answered", "retransmitted"] {
        assert_eq!(connections[field], 0, "{field}");
    }
    // SYN, ACK, request, two ACKs for 5000 octets, FIN, ACK.
    assert_eq!(report["trial"]["client_port"]["sent_packets"], 2000 * 7);
    assert_eq!(report["boards"]["closed"], 2000, "every endpoint closed");
}

#[test]
fn a_port_that_swallows_everything_gives_nothing_back_and_the_status_tells() {
    for profile in ["udp", "established", "syn-flood"] {
        let options = ["--client-port", "net_null0,no-rx=1", "--target", "loop", "--rate", "20000"];
        let bound = ["--duration", "60", "--packets", "3000", "--drain-ms", "50"];
        let done = pktgen(&[&[profile][..], &options, &bound].concat());
        assert_eq!(done.status, 4, "{}", done.stderr);
        assert!(done.stdout.contains("3000 packets") && done.stdout.contains("lost 3000"), "{}", done.stdout);
    }
}

#[test]
fn connections_into_nothing_fail_by_their_time_out() {
    let options =
        ["--client-port", "net_null0,no-rx=1", "--target", "loop", "--rate", "1000", "--packets", "50"];
    let patience = ["--rto-ms", "50", "--timeout-ms", "120"];
    let done = pktgen(&[&["connections"][..], &options, &patience].concat());
    assert_eq!(done.status, 4, "{}", done.stderr);
    assert!(done.stdout.contains("failed 50 (time-out 50"), "{}", done.stdout);
}

#[test]
fn a_search_over_a_ring_finds_a_rate_and_reports_its_trials() {
    let scratch = scratch();
    let json = scratch.path("search.json");
    let options = ["--client-port", "net_ring0", "--target", "loop", "--search", "--rate", "2000"];
    // Nothing is lost at 2000/s: the first trial passes (unless the machine stalls), and the search is over.
    let patient = ["--duration", "0.2", "--attempts", "10", "--json", &json];
    let done = pktgen(&[&["udp"][..], &options, &patient].concat());
    assert_eq!(done.status, 0, "{}{}", done.stdout, done.stderr);
    let found = &report(&json)["search"];
    assert_eq!(found["best_rate"], 2000.0);
    assert_eq!(found["converged"], true);
    let trials = found["trials"].as_array().expect("trials");
    assert!(trials.iter().all(|trial| trial["rate"] == 2000.0), "{found}");
    assert_eq!(trials.last().map(|trial| &trial["passed"]), Some(&serde_json::Value::Bool(true)));
}

#[test]
fn a_search_that_nothing_passes_fails_after_a_bounded_number_of_trials() {
    let options = ["--client-port", "net_null0,no-rx=1", "--target", "loop", "--search", "--rate", "1000"];
    let bound = ["--duration", "0.02", "--drain-ms", "1", "--trials", "5"];
    let done = pktgen(&[&["udp"][..], &options, &bound].concat());
    assert_eq!(done.status, 4, "{}", done.stderr);
    assert!(done.stdout.contains("5 trials, 5 of them failed; did not converge"), "{}", done.stdout);
}

#[test]
fn ctrl_c_ends_in_order_with_the_report_so_far() {
    let scratch = scratch();
    let (json, svg) = (scratch.path("stopped.json"), scratch.path("stopped.svg"));
    let options = ["--client-port", "net_ring0", "--target", "loop", "--rate", "1000", "--duration", "600"];
    let running = common::start(&[&["udp"][..], &options, &["--json", &json, "--svg", &svg]].concat());
    running.wait_until_it_sends();
    running.interrupt();
    let done = running.wait();
    assert_eq!(done.status, 1, "{}", done.stderr);
    let report = report(&json);
    assert_eq!(report["ending"], "stopped");
    assert_eq!(report["trial"]["stopped"], true);
    assert_eq!(report["trial"]["lost"], 0, "the last packets were waited for");
    let svg = std::fs::read_to_string(svg).expect("a plot");
    assert!(roxmltree::Document::parse(&svg).is_ok());
}

#[test]
fn bad_input_is_one_line_that_says_what_and_how_to_mend_it() {
    let null = "net_null0,no-rx=1";
    for (options, status, words) in [
        (
            &["udp", "--client-port", "eth0", "--rate", "1"][..],
            1,
            &["\"eth0\" is no port", "PCI address"][..],
        ),
        (
            &["udp", "--client-port", "net_nonsense0", "--rate", "1"],
            1,
            &["net_nonsense0", "no driver", "name one"],
        ),
        (&["udp", "--client-port", "0000:ff:1f.7", "--rate", "1"], 1, &["0000:ff:1f.7", "does not exist"]),
        (&["udp", "--client-port", null, "--rate", "2e7"], 1, &["at most 14.881 M fit", "lower --rate"]),
        (&["udp", "--client-port", null, "--rate", "1", "--mbufs", "1000000"], 1, &["MiB", "more memory"]),
        (&["udp", "--client-port", null, "--rate", "1", "--cpu", "4095"], 1, &["CPU 4095", "not online"]),
        (&["udp", "--client-port", null], 1, &["no rate", "--search"]),
        (&["udp", "--client-port", null, "--rate", "x"], 2, &["--rate"]),
    ] {
        let done = pktgen(&[options, &["--target", "loop"]].concat());
        assert_eq!(done.status, status, "{options:?}: {}", done.stderr);
        assert!(words.iter().all(|word| done.stderr.contains(word)), "{options:?}: {}", done.stderr);
        let said = done.stderr.lines().filter(|line| line.starts_with("ipos-pktgen: ")).count();
        assert!(status == 2 || said == 1, "{options:?}: {}", done.stderr);
    }
}

#[test]
fn a_link_that_stays_down_is_named() {
    let scratch = scratch();
    let socket = scratch.path("wan.sock");
    for (role, words) in
        [("server", "link is still down after 0 s"), ("client", "nobody serves this net_memif socket")]
    {
        let memif = format!("net_memif0,role={role},id=0,socket-abstract=no,socket={socket}");
        let options = ["--target", "loop", "--rate", "1", "--link-wait", "0"];
        let done = pktgen(&[&["udp", "--client-port", &memif][..], &options].concat());
        assert_eq!(done.status, 1);
        assert!(done.stderr.contains(words), "{}", done.stderr);
    }
}
