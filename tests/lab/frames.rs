//! Random and mutated frames on every port role: nothing crashes, nothing stops, and every packet is accounted for.

use std::time::{Duration, Instant};

use ipos_tests::{Curl, Lab, Script, wait_until};

use crate::Test;

/// Run where the ports are apart.
pub const TESTS: &[Test] = &[
    ("a_hundred_thousand_frames_on_the_wan_port", |lab| hostile(lab, "wan", 100_000, 1)),
    ("a_hundred_thousand_frames_on_the_farm_port", |lab| hostile(lab, "farm", 100_000, 2)),
];

/// Fewer, for another driver.
pub const CORE: &[Test] = &[
    ("twenty_thousand_frames_on_the_wan_port", |lab| hostile(lab, "wan", 20_000, 3)),
    ("twenty_thousand_frames_on_the_farm_port", |lab| hostile(lab, "farm", 20_000, 4)),
];

/// Run where one port has both roles.
pub const BOTH: &[Test] =
    &[("a_hundred_thousand_frames_on_a_port_of_both", |lab| hostile(lab, "farm", 100_000, 5))];

/// How long packets may be on their way through the appliance.
const SETTLED: Duration = Duration::from_secs(5);

/// What came in, and what became of it.
struct Account {
    received: u64,
    settled: u64,
    text: String,
}

fn account(lab: &Lab) -> Account {
    let packets = lab.status("packets");
    let number = |key: &str| {
        packets[key].as_u64().unwrap_or_else(|| panic!("status packets has no `{key}`: {packets}"))
    };
    let outcomes = ["forwarded", "answered", "held", "control", "check", "steered", "dropped"];
    let drops = packets["drops"].as_object().expect("drops are listed by reason");
    let dropped: u64 = drops.values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(dropped, number("dropped"), "drops by reason do not add up: {packets}");
    Account {
        received: number("received"),
        settled: outcomes.iter().map(|key| number(key)).sum(),
        text: packets.to_string(),
    }
}

fn hostile(lab: &Lab, port: &str, count: u64, seed: u64) {
    let before = account(lab);
    let mac = lab.exec("appliance", &["cat", &format!("/sys/class/net/{port}/address")]);
    let board_mac = lab.exec("board1", &["cat", "/sys/class/net/eth0/address"]);
    let ethertype = if lab.shape().options.contains(&"0x0007") { "0x0007" } else { "0x88b5" };
    let arguments = [
        &format!("appl-{port}"),
        mac.trim(),
        &count.to_string(),
        &seed.to_string(),
        ethertype,
        board_mac.trim(),
    ];
    let told = Script::start(lab, "switch", "frames.py", &arguments).hear();
    assert_eq!(told["sent"].as_u64(), Some(count), "{told}");

    // A packet socket's kernel keeps fragments to itself (the driver's fanout reassembles) and drops cut VLAN tags.
    let least = if lab.shape().options.contains(&"af_xdp") { count } else { count * 95 / 100 };
    // The account is settled between two polls; boards' reports keep coming, so equality is what is waited for.
    let begin = Instant::now();
    loop {
        let after = account(lab);
        if after.received == after.settled && after.received >= before.received + least {
            break;
        }
        let (received, settled) = (after.received - before.received, after.settled - before.settled);
        let text = &after.text;
        assert!(
            begin.elapsed() < SETTLED,
            "of {count} frames {received} came in and {settled} are settled: {text}"
        );
    }
    // What was forged in a board's name is believed at most until its next reports.
    for (path, board) in [("/a/1k", "board1"), ("/b/1k", "board2")] {
        wait_until(&format!("{board} serves {path} again"), Duration::from_secs(5), || {
            let answer = Curl::get(lab, path, &[]);
            (answer.status == 200 && answer.board == board).then_some(())
        });
    }
    let log = lab.appliance_log();
    assert!(!log.contains("panicked") && !log.contains("ERROR"), "{log}");
}
