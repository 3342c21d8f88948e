//! Frames get lost between appliance and boards: every connection is served, none lives on two boards.

use std::collections::BTreeMap;
use std::time::Duration;

use ipos_tests::{Lab, Lossy, Record, Script, wait_until};
use serde_json::{Value, json};

use crate::Test;

/// Run in one shape of lab.
pub const TESTS: &[Test] = &[
    ("a_thousand_connections_under_loss", a_thousand_connections_under_loss),
    ("short_connections_under_loss", short_connections_under_loss),
];

const COUNT: usize = 1000;

/// Frames that the farm's cable has lost since it began to.
fn lost(lab: &Lab) -> u64 {
    let text = lab.exec("switch", &["tc", "-s", "qdisc", "show", "dev", "appl-farm", "clsact"]);
    let number = text.split("(dropped ").nth(1).and_then(|rest| rest.split(',').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no such count: {text}"))
}

fn ports(told: &Value) -> Vec<u16> {
    let ports = told["ports"].as_array().expect("crowd.py lists its ports");
    ports.iter().filter_map(|port| u16::try_from(port.as_u64()?).ok()).collect()
}

/// How many requests the two boards' nginx have served, by client port, from these lines of their logs on.
fn served(lab: &Lab, from: [usize; 2]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for (board, from) in (1..).zip(from) {
        for line in lab.nginx_log(board).lines().skip(from) {
            let client = line.split(' ').nth(1).and_then(|client| client.rsplit(':').next());
            let port = client.and_then(|port| port.parse().ok());
            *counts.entry(port.unwrap_or_else(|| panic!("no client in {line:?}"))).or_default() += 1;
        }
    }
    counts
}

/// A crowd's connections while they are open: each has a socket on one board and on no other, in the board's Local Table as
/// well as in its kernel, and neither table nor kernel of the other knows of one.
#[track_caller]
fn each_lives_on_one_board(lab: &Lab, ports: &[u16]) {
    let tables = [1, 2].map(|board| lab.local_table(board));
    let kernels = [1, 2].map(|board| lab.established(board));
    for port in ports {
        let records = tables.each_ref().map(|table| table.get(port).copied());
        let sockets = kernels.each_ref().map(|kernel| kernel.contains(port));
        let alive = records.map(|record| record.is_some_and(Record::is_alive));
        assert!(
            alive == sockets && alive.iter().filter(|alive| **alive).count() == 1,
            "port {port}: Local Tables {records:?}, sockets {sockets:?} (of {} and {})",
            kernels[0].len(),
            kernels[1].len()
        );
    }
}

fn a_thousand_connections_under_loss(lab: &Lab) {
    let from = [1, 2].map(|board| lab.nginx_log(board).lines().count());
    let silent_before = lab.metric("ipos_migrations_total", &["outcome=\"silent\""]);
    let lossy = Lossy::farm(lab, 20);
    let mut crowd = Script::start(lab, "client", "crowd.py", &[&COUNT.to_string(), "/1k", "reuse"]);
    let first = crowd.hear();
    assert_eq!((&first["connections"], &first["failures"]), (&json!(COUNT), &json!([])), "{first}");
    let ports = ports(&first);
    each_lives_on_one_board(lab, &ports);
    crowd.go_on();
    let second = crowd.hear();
    assert_eq!((&second["failures"], &second["boards"]), (&json!([]), &first["boards"]), "{second}");

    let served = served(lab, from);
    let twice: Vec<_> = ports.iter().filter(|port| served.get(port) != Some(&2)).collect();
    assert!(twice.is_empty(), "two requests each, and no request ran twice, but for {twice:?}");
    let silent = lab.metric("ipos_migrations_total", &["outcome=\"silent\""]) - silent_before;
    let frames = lost(lab);
    println!("{COUNT} of {COUNT} served with {frames} frames lost; attempts given up for silence: {silent}");
    assert!(frames > 1000 && silent > 0.0, "lost {frames}, silent {silent}: the test has tested little");

    drop((crowd, lossy));
    wait_until("every connection has ended on its board", Duration::from_secs(20), || {
        let alive =
            |board| lab.local_table(board).into_iter().filter(|(_, record)| record.is_alive()).count();
        (alive(1) + alive(2) == 0).then_some(())
    });
}

/// New connections one after the other: SYN, request, answer and both FINs under loss.
fn short_connections_under_loss(lab: &Lab) {
    let lossy = Lossy::farm(lab, 20);
    let told = Script::once(lab, "crowd.py", &["300", "/close/1k"]);
    assert_eq!((&told["connections"], &told["failures"]), (&json!(300), &json!([])), "{told}");
    assert!(lost(lab) > 100);
    drop(lossy);
    wait_until("every connection has ended on its board", Duration::from_secs(20), || {
        let alive =
            |board| lab.local_table(board).into_iter().filter(|(_, record)| record.is_alive()).count();
        (alive(1) + alive(2) == 0).then_some(())
    });
}
