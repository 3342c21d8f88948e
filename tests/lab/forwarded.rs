//! Services that are merely forwarded: the boards' own kernels shake hands, and a flow keeps its board.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use ipos_tests::lab::{ROOT, binary, said};
use ipos_tests::{Curl, Lab, Script};
use serde_json::{Value, json};

use crate::Test;

/// Run in every shape of lab that has such services.
pub const CORE: &[Test] = &[
    ("l4_flows_spread_over_the_boards", l4_flows_spread),
    ("iperf3_in_both_directions", iperf3_in_both_directions),
    ("an_l4_download_outlives_the_appliance", an_l4_download_outlives_the_appliance),
    ("an_l4_upload_outlives_the_appliance", an_l4_upload_outlives_the_appliance),
    ("dns_in_both_flow_modes", dns_in_both_flow_modes),
    ("dns_of_many_queries_on_one_flow", dns_of_many_queries_on_one_flow),
];

/// Run in one.
pub const TESTS: &[Test] = &[
    ("l4_flows_spread_over_the_boards", l4_flows_spread),
    ("iperf3_in_both_directions", iperf3_in_both_directions),
    ("an_l4_download_outlives_the_appliance", an_l4_download_outlives_the_appliance),
    ("an_l4_upload_outlives_the_appliance", an_l4_upload_outlives_the_appliance),
    ("l4_flows_keep_their_board_when_its_agent_dies", l4_flows_keep_their_board),
    ("a_drained_board_gets_no_new_l4_flows", a_drained_board_gets_no_new_flows),
    ("l4_flows_beside_the_table_outlive_the_appliance", l4_flows_beside_the_table_outlive_the_appliance),
    ("no_board_is_said_by_rst", no_board_is_said_by_rst),
    ("dns_in_both_flow_modes", dns_in_both_flow_modes),
    ("dns_of_many_queries_on_one_flow", dns_of_many_queries_on_one_flow),
    ("dns_flows_of_a_dead_board_are_placed_anew", dns_flows_of_a_dead_board),
    ("a_board_without_the_socket_refuses_and_the_next_is_asked", a_board_without_the_socket_refuses),
    ("the_same_address_serves_http_as_before", the_same_address_serves_http),
];

/// nginx behind kind `l4`.
const WEB: &str = ":84";
/// Octets per second that transfers are held to: 10 MB then take four seconds.
const RATE: &str = "2600000";

/// Which boards answered so many connections of their own.
#[track_caller]
fn boards(lab: &Lab, connections: usize) -> BTreeMap<String, usize> {
    let mut boards = BTreeMap::new();
    for _ in 0..connections {
        let answer = Curl::get(lab, &format!("{WEB}/1k"), &[]);
        assert_eq!((answer.status, answer.sha256), (200, lab.sha256_of("1k")));
        *boards.entry(answer.board).or_insert(0) += 1;
    }
    boards
}

fn appliance(arguments: &[&str]) {
    let socket = format!("{ROOT}/appliance/admin.sock");
    let mut command = Command::new(binary("ipos-appliance"));
    let output = command.args(arguments).args(["--socket", &socket]).output().expect("it can be run");
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
}

fn restart(lab: &Lab) {
    lab.verb(&["kill-appliance"]);
    lab.verb(&["start-appliance"]);
}

fn l4_flows_spread(lab: &Lab) {
    let boards = boards(lab, 40);
    assert_eq!(boards.len(), 2, "{boards:?}");
    assert!(boards.values().all(|count| *count >= 8), "{boards:?}");
    let flows = lab.status("flows");
    let rows = flows.as_array().cloned().unwrap_or_default();
    let of_web = rows.iter().filter(|row| row["endpoint_port"] == 84 && row["table"] == "forward");
    assert!(of_web.clone().count() > 0, "{flows}");
    assert!(of_web.clone().all(|row| row["board"].is_string()), "{flows}");
}

fn iperf3_in_both_directions(lab: &Lab) {
    for direction in [&[][..], &["--reverse"], &["--parallel", "4"]] {
        let base =
            ["iperf3", "--client", "198.51.100.1", "--time", "2", "--json", "--connect-timeout", "5000"];
        // Between two tests the server closes its listening socket for a moment, and what waits in its queue is reset; before that
        // it may still be busy with the test before.
        let told =
            ipos_tests::wait_until("iperf3's server is ready", std::time::Duration::from_secs(10), || {
                let output = lab.run("client", &[&base[..], direction].concat());
                let told: Value =
                    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
                let began = told["start"]["connected"].as_array().is_some_and(|streams| !streams.is_empty());
                let is_early = !began
                    && told["error"].as_str().is_some_and(|error| {
                        ["unable to connect", "busy running a test", "Connection reset"]
                            .iter()
                            .any(|early| error.contains(early))
                    });
                (!is_early).then_some(told)
            });
        let octets = told["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
        assert_eq!(told["error"], Value::Null, "{direction:?}: {told}");
        assert!(octets > 1_000_000, "{direction:?}: {octets} octets");
    }
    // The boards' kernels announce an MSS that does not fit behind the ipOS header: the client was told.
    assert!(lab.metric("ipos_happenings_total", &["event=\"too_big_told\""]) > 0.0);
}

fn an_l4_download_outlives_the_appliance(lab: &Lab) {
    let mut transfer = Script::start(lab, "client", "transfer.py", &["download", "/10m", RATE, "84"]);
    assert_eq!(transfer.hear()["quarter"], true);
    restart(lab);
    assert!(transfer.running(), "the transfer ended before the appliance was back");
    let told = transfer.hear();
    let sum = lab.sha256_of("10m");
    assert_eq!((told["octets"].as_u64(), told["sha256"].as_str()), (Some(10_485_760), Some(sum.as_str())));
}

fn an_l4_upload_outlives_the_appliance(lab: &Lab) {
    let mut transfer = Script::start(lab, "client", "transfer.py", &["upload", "10485760", RATE, "84"]);
    assert_eq!(transfer.hear()["quarter"], true);
    restart(lab);
    assert!(transfer.running(), "the transfer ended before the appliance was back");
    let told = transfer.hear();
    assert_eq!((&told["status"], told["octets"].as_u64()), (&json!(200), Some(10_485_760)), "{told}");
    assert_eq!(told["sha256"], told["sent"], "{told}");
}

/// Downloads until one is at this board.
fn download_from(lab: &Lab, wanted: &str) -> Script {
    for _ in 0..20 {
        let mut transfer = Script::start(lab, "client", "transfer.py", &["download", "/10m", RATE, "84"]);
        if transfer.hear()["board"] == wanted {
            return transfer;
        }
    }
    panic!("none of 20 flows is at {wanted}");
}

fn l4_flows_keep_their_board(lab: &Lab) {
    let mut transfer = download_from(lab, "board1");
    lab.verb(&["kill-agent", "1"]);
    lab.wait_alive(&["board2"]);
    assert!(transfer.running(), "the transfer ended before the board was dead for the appliance");
    assert_eq!(boards(lab, 20), BTreeMap::from([("board2".to_owned(), 20)]));
    let told = transfer.hear();
    assert_eq!(told["sha256"].as_str(), Some(lab.sha256_of("10m").as_str()), "{told}");
    lab.verb(&["start-agent", "1"]);
    lab.wait_alive(&["board1", "board2"]);
    ipos_tests::wait_until("board 1 gets flows again", std::time::Duration::from_secs(30), || {
        boards(lab, 8).contains_key("board1").then_some(())
    });
}

fn drain_board2(lab: &Lab) {
    appliance(&["board", "drain", "board2"]);
    ipos_tests::wait_until("board 2 gets no flows", std::time::Duration::from_secs(5), || {
        (!boards(lab, 10).contains_key("board2")).then_some(())
    });
}

fn a_drained_board_gets_no_new_flows(lab: &Lab) {
    let mut transfer = download_from(lab, "board2");
    drain_board2(lab);
    let told = transfer.hear();
    assert_eq!(told["sha256"].as_str(), Some(lab.sha256_of("10m").as_str()), "{told}");
    appliance(&["board", "undrain", "board2"]);
    ipos_tests::wait_until("board 2 gets flows again", std::time::Duration::from_secs(5), || {
        boards(lab, 10).contains_key("board2").then_some(())
    });
}

/// The table names the flows' own board while another one is drained, and that other one for half of them again afterwards.
fn l4_flows_beside_the_table_outlive_the_appliance(lab: &Lab) {
    const FLOWS: usize = 8;
    const SLOW: &str = "800000";
    drain_board2(lab);
    let mut transfers: Vec<Script> = (0..FLOWS)
        .map(|_| Script::start(lab, "client", "transfer.py", &["download", "/10m", SLOW, "84"]))
        .collect();
    for transfer in &mut transfers {
        assert_eq!(transfer.hear()["board"], "board1");
    }
    appliance(&["board", "undrain", "board2"]);
    restart(lab);
    assert!(transfers.iter_mut().all(Script::running), "a transfer ended before the appliance was back");
    for transfer in &mut transfers {
        let told = transfer.hear();
        assert_eq!(told["sha256"].as_str(), Some(lab.sha256_of("10m").as_str()), "{told}");
    }
    let found = lab.metric("ipos_happenings_total", &["event=\"holder_found\""]);
    assert!(found >= FLOWS as f64, "{found} were asked about and found");
}

fn no_board_is_said_by_rst(lab: &Lab) {
    for board in ["board1", "board2"] {
        appliance(&["board", "drain", board]);
    }
    ipos_tests::wait_until("nobody takes flows", std::time::Duration::from_secs(5), || {
        Curl::attempt(lab, &format!("{WEB}/1k"), &["--connect-timeout", "2"])
            .err()
            .filter(|said| said.contains("refused") || said.contains("reset") || said.contains("(7)"))
    });
    assert!(lab.metric("ipos_happenings_total", &["event=\"layer4_no_board\""]) > 0.0);
    for board in ["board1", "board2"] {
        appliance(&["board", "undrain", board]);
    }
    ipos_tests::wait_until("flows are taken again", std::time::Duration::from_secs(5), || {
        Curl::attempt(lab, &format!("{WEB}/1k"), &["--connect-timeout", "2"]).ok()
    });
}

fn the_same_address_serves_http(lab: &Lab) {
    for (path, board) in [("/a/1k", "board1"), ("/b/1k", "board2")] {
        let answer = Curl::get(lab, path, &[]);
        assert_eq!((answer.status, answer.board.as_str()), (200, board));
    }
}

/// What dig gets, with these further arguments: the board that answered.
fn dig(lab: &Lab, arguments: &[&str]) -> Result<String, String> {
    let base = ["dig", "+short", "+tries=3", "+time=2", "@198.51.100.1", "board.lab", "TXT"];
    let output = lab.run("client", &[&base[..], arguments].concat());
    let told = said(&output).trim().trim_matches('"').to_owned();
    if output.status.success() && told.starts_with("board") { Ok(told) } else { Err(told) }
}

/// Which boards answered so many queries, each from a port of its own.
#[track_caller]
fn answered(lab: &Lab, queries: usize, arguments: &[&str]) -> BTreeMap<String, usize> {
    // Below the ports that the client's kernel chooses from: now and then it takes one twice in a few seconds.
    static PORTS: AtomicU16 = AtomicU16::new(20_000);
    let mut boards = BTreeMap::new();
    for _ in 0..queries {
        let from = format!("0.0.0.0#{}", PORTS.fetch_add(1, Ordering::Relaxed));
        let board = dig(lab, &[arguments, &["-b", &from]].concat())
            .unwrap_or_else(|told| panic!("{arguments:?}: {told}\n{}", lab.logs()));
        *boards.entry(board).or_insert(0) += 1;
    }
    boards
}

fn dns_in_both_flow_modes(lab: &Lab) {
    let before = lab.metric("ipos_happenings_total", &["event=\"datagrams_placed\""]);
    for arguments in [&["-p", "53"][..], &["-p", "5353"], &["-p", "53", "+tcp"]] {
        let boards = answered(lab, 30, arguments);
        assert_eq!(boards.len(), 2, "{arguments:?}: {boards:?}");
    }
    let placed = lab.metric("ipos_happenings_total", &["event=\"datagrams_placed\""]) - before;
    assert_eq!(placed, 30.0, "a flow for each query of the one mode, and none for those of the other");
    answered(lab, 1, &["-p", "5353"]);
    answered(lab, 1, &["-p", "53"]);
    let flows = lab.status("flows");
    let rows = flows.as_array().cloned().unwrap_or_default();
    let of_dns = rows.iter().filter(|row| row["protocol"] == "udp" && row["table"] == "forward");
    assert!(of_dns.clone().count() > 0, "{flows}");
    assert!(of_dns.clone().all(|row| row["endpoint_port"] == 53 && row["board"].is_string()), "{flows}");
    // They end by themselves, two seconds after their only datagram.
    ipos_tests::wait_until("the flows are gone", std::time::Duration::from_secs(15), || {
        (lab.metric("ipos_datagram_flows", &[]) == 0.0).then_some(())
    });
}

/// Queries from one port, one after the other: who answered, in order.
struct Queries(Script);

impl Queries {
    fn start(lab: &Lab, port: u16) -> Self {
        Self(Script::start(lab, "client", "queries.py", &[&port.to_string()]))
    }

    /// The next query's answer.
    fn next(&mut self) -> Value {
        self.0.go_on();
        self.0.hear()["board"].clone()
    }
}

fn dns_of_many_queries_on_one_flow(lab: &Lab) {
    let mut queries = Queries::start(lab, 53);
    let first = queries.next();
    assert!(first.is_string(), "{first}");
    assert!((0..50).all(|_| queries.next() == first));
    restart(lab);
    // UDP has no state to lose: whoever takes it now keeps it.
    ipos_tests::wait_until("an answer after the restart", std::time::Duration::from_secs(10), || {
        queries.next().is_string().then_some(())
    });
    lab.wait_alive(&["board1", "board2"]);
}

fn dns_flows_of_a_dead_board(lab: &Lab) {
    let mut queries: Vec<Queries> = (0..8).map(|_| Queries::start(lab, 53)).collect();
    let boards: Vec<Value> = queries.iter_mut().map(Queries::next).collect();
    assert!(boards.contains(&json!("board1")) && boards.contains(&json!("board2")), "{boards:?}");
    lab.verb(&["kill-agent", "1"]);
    lab.wait_alive(&["board2"]);
    for flow in &mut queries {
        ipos_tests::wait_until("board 2 answers", std::time::Duration::from_secs(5), || {
            (flow.next() == "board2").then_some(())
        });
    }
    assert_eq!(answered(lab, 10, &["-p", "5353"]), BTreeMap::from([("board2".to_owned(), 10)]));
    assert!(lab.metric("ipos_happenings_total", &["event=\"datagrams_moved\""]) >= 1.0);
    lab.verb(&["start-agent", "1"]);
    lab.wait_alive(&["board1", "board2"]);
}

fn a_board_without_the_socket_refuses(lab: &Lab) {
    lab.verb(&["stop-dnsmasq", "1"]);
    let boards = answered(lab, 10, &["-p", "53"]);
    assert_eq!(boards, BTreeMap::from([("board2".to_owned(), 10)]));
    lab.verb(&["start-dnsmasq", "1"]);
    ipos_tests::wait_until("board 1 answers again", std::time::Duration::from_secs(10), || {
        answered(lab, 4, &["-p", "53"]).contains_key("board1").then_some(())
    });
}
