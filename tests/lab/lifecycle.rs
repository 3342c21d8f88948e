//! Coming up and going down: what is refused, what is said, and that nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ipos_tests::lab::{ROOT, binary, deploy_lab, repository, said};
use ipos_tests::{Lab, Script, wait_until};

use crate::PLAIN;

/// Tests that build their own labs.
pub const TESTS: &[(&str, fn())] = &[
    ("sigterm_under_load", sigterm_under_load),
    ("down_leaves_nothing_behind", down_leaves_nothing_behind),
    ("a_failed_up_leaves_nothing_and_says_why", a_failed_up_leaves_nothing_and_says_why),
    ("a_second_up_is_refused", a_second_up_is_refused),
    ("down_twice", down_twice),
    ("the_demo_ends_well", the_demo_ends_well),
];

fn sigterm_under_load() {
    let lab = Lab::up(PLAIN);
    let mut load = Script::start(&lab, "client", "stream.py", &["/", "30"]);
    load.hear();
    let url = format!("{}/100k", ipos_tests::lab::URL);
    let mut wrk =
        lab.command("client", &["wrk", "-t1", "-c64", "-d10", &url]).spawn().expect("wrk can be run");
    wait_until("64 flows are migrated", Duration::from_secs(5), || {
        (lab.status("flows").as_array().map_or(0, Vec::len) >= 64).then_some(())
    });
    // Fails when it takes longer than two seconds.
    let told = lab.verb(&["stop-appliance"]);
    let log = lab.appliance_log();
    wrk.kill().expect("wrk still runs");
    wrk.wait().expect("wrk ends");
    drop(load);
    assert!(told.contains("ms after SIGTERM"), "{told}");
    for word in ["ERROR", "panicked"] {
        assert!(!log.contains(word), "{log}");
    }
    // Agents end as orderly.
    for board in ["1", "2"] {
        lab.verb(&["stop-agent", board]);
        let log = fs::read_to_string(format!("{ROOT}/board{board}/agent.log")).unwrap_or_default();
        assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    }
    lab.down();
}

/// What a lab may leave behind: namespaces, mounts, files, BPF programs and links.
fn traces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for command in [
        &["ip", "netns", "list"][..],
        &["bpftool", "prog", "list"],
        &["bpftool", "link", "list"],
        &["ip", "-o", "link"],
    ] {
        let output = Command::new(command[0]).args(&command[1..]).output().expect("the tool can be run");
        for line in said(&output).lines().filter(|line| !line.starts_with(['\t', ' '])) {
            // Programs of others come and go on a machine in use; ours carry these names.
            let ours = ["name farm_", "name socket_state", "name reap", "name settle"]
                .iter()
                .any(|name| line.contains(name));
            if command[0] == "bpftool" && !ours {
                continue;
            }
            found.insert(format!("{}: {line}", command.join(" ")));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    found.extend(mounts.lines().filter(|line| line.contains("ipos")).map(str::to_owned));
    if Path::new(ROOT).exists() {
        found.insert(ROOT.to_owned());
    }
    let pages = fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    found.insert(format!("nr_hugepages {}", pages.trim()));
    found
}

/// Waits until nothing is there that was not there before. What was there may go: the kernel frees the programs and namespaces
/// of the lab before this one a moment after its end.
fn wait_until_nothing_is_left_since(before: &BTreeSet<String>) {
    let left = || -> Vec<String> { traces().difference(before).cloned().collect() };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:#?}", left());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn down_leaves_nothing_behind() {
    let before = traces();
    let lab = Lab::up(PLAIN);
    assert!(traces().len() > before.len(), "the traces of a lab are not seen: {before:?}");
    // Something that a user left running.
    let mut left = lab.command("client", &["sleep", "1000"]).spawn().expect("sleep can be run");
    lab.down();
    assert!(left.wait().expect("it ended").code().is_none(), "it was not ended by a signal");
    wait_until_nothing_is_left_since(&before);
}

fn a_failed_up_leaves_nothing_and_says_why() {
    let before = traces();
    let broken = Path::new("/tmp").join(format!("ipos-tests-{}", std::process::id()));
    fs::create_dir_all(&broken).expect("a directory can be made");
    fs::copy("/bin/false", broken.join("ipos-appliance")).expect("a program can be copied");
    fs::copy(binary("ipos-board"), broken.join("ipos-board")).expect("a program can be copied");
    let output =
        Command::new(repository().join("deploy/lab")).arg("up").env("IPOS_BIN_DIR", &broken).output();
    fs::remove_dir_all(&broken).expect("the directory can be removed");
    let output = output.expect("deploy/lab can be run");
    assert!(!output.status.success());
    assert!(said(&output).contains("appliance ended"), "{}", said(&output));
    wait_until_nothing_is_left_since(&before);
}

fn a_second_up_is_refused() {
    let lab = Lab::up(PLAIN);
    let output = deploy_lab(&["up", "--boards", "3"]);
    assert!(!output.status.success());
    assert!(said(&output).contains("a lab is up already"), "{}", said(&output));
    let output = deploy_lab(&["stop-nginx", "7"]);
    assert!(!output.status.success() && said(&output).contains("there is no board 7"), "{}", said(&output));
    lab.down();
}

fn down_twice() {
    Lab::up(PLAIN).down();
    let output = deploy_lab(&["down"]);
    assert!(output.status.success() && said(&output).contains("no lab is up"), "{}", said(&output));
}

fn the_demo_ends_well() {
    let before = traces();
    let output = Command::new(repository().join("deploy/demo")).output().expect("the demo can be run");
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some("demo: ok"), "{text}");
    wait_until_nothing_is_left_since(&before);
}
