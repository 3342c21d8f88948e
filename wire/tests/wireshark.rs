//! The Wireshark dissector docs/ipos.lua over a capture with every message, by the real tshark.

#[allow(dead_code, reason = "the example's main is not used here")]
#[path = "../examples/sample_capture.rs"]
mod sample_capture;

use std::path::{Path, PathBuf};
use std::process::Command;

use sample_capture::{ETHERTYPES, capture, frames};

/// A capture and an empty Wireshark profile that go away with it, so that no plug-in of the user's is in the way.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, frames: &[Vec<u8>]) -> Scratch {
        let folder = std::env::temp_dir().join(format!("ipos-wireshark-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        std::fs::write(folder.join("sample.pcap"), capture(frames)).expect("and has room");
        Scratch(folder)
    }

    /// What tshark prints about the capture.
    fn tshark(&self, arguments: &[&str]) -> String {
        let dissector = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ipos.lua");
        let mut script = std::ffi::OsString::from("lua_script:");
        script.push(dissector);
        let output = Command::new("tshark")
            .env("WIRESHARK_CONFIG_DIR", &self.0)
            .arg("-X")
            .arg(script)
            .arg("-n")
            .arg("-r")
            .arg(self.0.join("sample.pcap"))
            .args(arguments)
            .output()
            .unwrap_or_else(|error| {
                panic!("cannot run tshark: {error}; install it (Debian: apt-get install tshark)")
            });
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tshark {arguments:?}: {complaints}");
        assert!(!complaints.contains("Lua"), "{complaints}");
        String::from_utf8(output.stdout).expect("tshark prints UTF-8")
    }

    /// One line per frame with the values of `fields`, a `|` between them.
    fn fields(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let mut arguments = vec!["-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-Y", filter];
        for field in fields {
            arguments.extend(["-e", field]);
        }
        self.tshark(&arguments).lines().map(str::to_owned).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder that stays behind harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What every frame of one EtherType must show: type, protocol, client and endpoint ports, checksum, Info column.
const MESSAGES: [(&str, &str); 22] = [
    ("0x01|1|49152|80|1", "Connection 192.0.2.10:49152 > 198.51.100.1:80 to 10.0.0.21:8080"),
    ("0x01|2|49153|9000|1", "Connection 192.0.2.10:49153 > 198.51.100.1:9000 to 10.0.0.21:9001"),
    ("0x02|1|49152|80|1", "Packet: "),
    ("0x02|2|49153|9000|1", "Packet: "),
    ("0x03|1|49152|80|1", "Migration acknowledgement 192.0.2.10:49152 > 198.51.100.1:80"),
    ("0x03|1|49152|80|1", "Migration acknowledgement 192.0.2.10:49152 > 198.51.100.1:80 (bare)"),
    ("0x04|1|49152|80|1", "Migration refused 192.0.2.10:49152 > 198.51.100.1:80: accept queue full"),
    ("0x05|1|49152|80|1", "Detach 192.0.2.10:49152 > 198.51.100.1:80, by force"),
    (
        "0x05|1|49152|80|1",
        "Detach 192.0.2.10:49152 > 198.51.100.1:80, if the request at 1001 shows it quiescent",
    ),
    ("0x06|1|49152|80|1", "Detached / still busy 192.0.2.10:49152 > 198.51.100.1:80: still busy"),
    ("0x07|1|49152|80|1", "Endpoint closed 192.0.2.10:49152 > 198.51.100.1:80: given up by force"),
    ("0x08|1|49152|80|1", "Who holds this endpoint? 192.0.2.10:49152 > 198.51.100.1:80"),
    ("0x09|1|49152|80|1", "I hold this endpoint 192.0.2.10:49152 > 198.51.100.1:80: live"),
    ("0x10|0|0|0|1", "Server state 10.0.0.21:0 > 10.0.0.1:0, sequence 7"),
    ("0x11|0|0|0|1", "Listening sockets 10.0.0.21:0 > 10.0.0.1:0, part 0 of 1, 2 rows"),
    ("0x12|0|0|0|1", "Application information 10.0.0.21:0 > 10.0.0.1:0, part 0 of 1, 1 rows"),
    ("0x13|0|0|0|1", "Close idle connections 10.0.0.21:0 > 10.0.0.1:0, quiet for 1000 ms"),
    ("0x20|0|0|0|1", "Order 10.0.0.21:0 > 10.0.0.1:0: start web"),
    ("0x21|0|0|0|1", "Outcome 10.0.0.21:0 > 10.0.0.1:0: web exited"),
    ("0x22|0|0|0|1", "Offers 10.0.0.21:0 > 10.0.0.1:0, part 0 of 1, 1 rows"),
    ("0x55|1|49152|80|", "Unknown type 0x55 192.0.2.10:49152 > 198.51.100.1:80"),
    ("0x04|1|49152|80|0", "Migration refused 192.0.2.10:49152 > 198.51.100.1:80: unknown code 77"),
];

#[test]
fn every_message_is_dissected_with_either_ethertype() {
    let scratch = Scratch::new("messages", &frames());
    let columns = [
        "ipos_farm.type",
        "ipos_farm.protocol",
        "ipos_farm.client_port",
        "ipos_farm.endpoint_port",
        "ipos_farm.checksum.good",
        "_ws.col.Info",
    ];
    let lines = scratch.fields("ipos_farm", &columns);
    assert_eq!(lines.len(), ETHERTYPES.len() * MESSAGES.len(), "{lines:#?}");
    for (line, (header, info)) in lines.iter().zip(MESSAGES.iter().cycle()) {
        let (found_header, found_info) = line.rsplit_once('|').expect("a separator");
        // tshark 4.2 and later write True and False for the 1 and 0 of older ones.
        let found_header = found_header.replace("|True", "|1").replace("|False", "|0");
        assert_eq!(found_header, *header);
        if info.ends_with(": ") {
            assert!(found_info.starts_with(info), "{found_info}");
        } else {
            assert_eq!(found_info, *info);
        }
    }
}

#[test]
fn every_field_of_the_control_block_is_shown() {
    let scratch = Scratch::new("tcb", &frames());
    let expected = [
        ("version", "1"),
        ("state", "4"),
        ("client_mss", "1460"),
        ("our_mss", "1440"),
        ("client_window_scale", "7"),
        ("our_window_scale", "9"),
        ("iss", "1000"),
        ("irs", "2000"),
        ("snd_una", "1001"),
        ("snd_nxt", "1001"),
        ("snd_wnd", "64000"),
        ("snd_wl1", "2001"),
        ("snd_wl2", "1001"),
        ("rcv_nxt", "2001"),
        ("rcv_wnd", "16384"),
        ("ts_recent", "3000"),
        ("last_tsval", "4000"),
        ("srtt_us", "1500"),
        ("rttvar_us", "750"),
        ("cwnd", "14400"),
        ("ssthresh", "4294967295"),
        ("established_at_us", "1700000000000000"),
        ("service_id", "7"),
        ("octets_following", "51"),
        ("appliance_id", "1"),
        ("epoch", "12"),
    ];
    let names = expected.map(|(name, _)| format!("ipos_farm.tcb.{name}"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let values = expected.map(|(_, value)| value).join("|");
    assert_eq!(scratch.fields("ipos_farm.tcb", &names), [values.clone(), values]);

    let shared = ["ipos_farm.options", "ipos_farm.migration_id", "ipos_farm.tag", "ipos_farm.server"];
    let values = format!("0x0007|0x5152535455565758|{}|10.0.0.21", "0".repeat(32));
    assert_eq!(scratch.fields("ipos_farm.tcb", &shared), [values.clone(), values]);
}

#[test]
fn inner_packets_are_dissected_as_what_they_are() {
    let scratch = Scratch::new("inner", &frames());
    let tcp = scratch
        .fields("tcp", &["ipos_farm.type", "ip.src", "ip.dst", "tcp.srcport", "tcp.options.timestamp.tsval"]);
    assert_eq!(tcp, ["0x02|192.0.2.10|198.51.100.1|49152|3000"; 2]);
    // The padding of the short frame is not taken for data of the datagram's.
    assert_eq!(scratch.fields("udp", &["udp.dstport", "udp.length", "data.data"]), ["9000|9|00"; 2]);
    assert_eq!(scratch.fields("http.request.uri == \"/index.html\"", &["http.host"]), ["www.example.com"]);
}

#[test]
fn bodies_and_reports_are_shown() {
    let scratch = Scratch::new("bodies", &frames());
    let one = |filter: &str, fields: &[&str], values: &str| {
        assert_eq!(scratch.fields(filter, fields), [values, values], "{filter}");
    };
    one("ipos_farm.refusal == 3", &["ipos_farm.migration_id"], "0x5152535455565758");
    one("ipos_farm.closed == 3", &["ipos_farm.migration_id"], "0x5152535455565758");
    one("ipos_farm.held == 2", &["ipos_farm.migration_id"], "0x5152535455565758");
    one("ipos_farm.force == 1", &["ipos_farm.migration_id"], "0x5152535455565758");
    one("ipos_farm.type == 8", &["ipos_farm.migration_id"], "0x0000000000000063");
    // A bare acknowledgement has no id: its zeros are padding.
    assert_eq!(scratch.fields("ipos_farm.type == 3 && !ipos_farm.migration_id", &["frame.len"]), ["60"; 2]);
    let state = [
        "ipos_farm.state.interval_ms",
        "ipos_farm.sequence",
        "ipos_farm.options",
        "ipos_farm.state.cpu_cores",
        "ipos_farm.state.cpu_utilisation",
        "ipos_farm.state.established",
        "ipos_farm.state.memory",
        "ipos_farm.state.memory_available",
        "ipos_farm.state.link_speed_bps",
        "ipos_farm.state.bandwidth_available_bps",
        "ipos_farm.state.endpoints_held",
        "ipos_farm.state.cpu_pressure",
        "ipos_farm.state.memory_pressure",
    ];
    let values = "500|7|0x000f|8|4321|1234|17179869184|6442450944|10000000000|9000000000|99|1234|7";
    one("ipos_farm.state.draining == 1", &state, values);
    let row = [
        "ipos_farm.listening.address",
        "ipos_farm.listening.port",
        "ipos_farm.listening.queue_len",
        "ipos_farm.listening.queue_max",
        "ipos_farm.listening.pid",
        "ipos_farm.listening.name",
    ];
    let values = "0.0.0.0,10.0.0.21|80,8080|3,3|511,511|4242,4242|nginx,nginx";
    one("ipos_farm.list.rows == 2 && ipos_farm.listening.mptcp == 1", &row, values);
    let row = [
        "ipos_farm.application.pid",
        "ipos_farm.application.processes",
        "ipos_farm.application.interval_ms",
        "ipos_farm.application.memory",
        "ipos_farm.application.cpu",
        "ipos_farm.application.name",
    ];
    one("ipos_farm.type == 0x12", &row, "4242|5|1000|5368709120|15000|nginx");
}

#[test]
fn orders_outcomes_and_offers_are_shown() {
    let scratch = Scratch::new("spawning", &frames());
    let one = |filter: &str, fields: &[&str], values: &str| {
        assert_eq!(scratch.fields(filter, fields), [values, values], "{filter}");
    };
    one(
        "ipos_farm.order.action == 1",
        &["ipos_farm.order.id", "ipos_farm.application"],
        "0x5152535455565758|web",
    );
    let outcome =
        ["ipos_farm.retry_ms", "ipos_farm.outcome.pid", "ipos_farm.outcome.detail", "ipos_farm.application"];
    one("ipos_farm.outcome.progress == 17", &outcome, "1500|4242|1|web");
    let offer = [
        "ipos_farm.application",
        "ipos_farm.offer.memory",
        "ipos_farm.offer.cpu",
        "ipos_farm.offer.instances_max",
        "ipos_farm.offer.listening",
        "ipos_farm.offer.starting",
        "ipos_farm.offer.failures",
        "ipos_farm.retry_ms",
        "ipos_farm.offer.address",
        "ipos_farm.offer.port",
    ];
    one("ipos_farm.offer.draining == 1", &offer, "web|67108864|50|2|1|1|3|1500|198.51.100.1|80");
}

#[test]
fn only_the_damaged_messages_have_a_wrong_checksum() {
    let scratch = Scratch::new("checksum", &frames());
    let numbers = [MESSAGES.len(), 2 * MESSAGES.len()].map(|number| number.to_string());
    assert_eq!(scratch.fields("ipos_farm.checksum.bad", &["frame.number"]), numbers);
    assert_eq!(scratch.fields("_ws.malformed || _ws.lua.error", &["frame.number"]), [""; 0]);
}

#[test]
fn frames_cut_anywhere_are_survived() {
    let cut: Vec<Vec<u8>> =
        frames().iter().flat_map(|frame| (14..frame.len()).map(|len| frame[..len].to_vec())).collect();
    let scratch = Scratch::new("cut", &cut);
    let shown = scratch.tshark(&["-V"]);
    assert_eq!(shown.matches("\nFrame ").count() + 1, cut.len());
    assert!(
        !shown.contains("Lua Error"),
        "{}",
        shown.lines().find(|line| line.contains("Lua Error")).unwrap_or("")
    );
    assert!(shown.contains("the frame ends before the message does"));
}

#[test]
fn real_8023_frames_of_seven_octets_are_left_alone() {
    // Spanning-tree-like LLC: a length of seven, then padding of zeros.
    let mut frame = vec![0x01, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 7, 0x42, 0x42, 0x03, 0, 0, 0, 0];
    frame.resize(60, 0);
    let scratch = Scratch::new("llc", &[frame]);
    assert_eq!(scratch.fields("ipos_farm", &["frame.number"]), [""; 0]);
    assert_eq!(scratch.fields("llc", &["llc.dsap"]), ["0x42"]);
}
