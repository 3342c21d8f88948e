//! Two configurations side by side: what a reload would change, and what it cannot.

use std::net::Ipv4Addr;
use std::path::Path;

use ipos_pipelines::sessions::Value;

use super::model::{Board, Config, Cookie, Map, Service};

/// A key that cannot change while the appliance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// Its section.
    pub section: &'static str,
    /// Its name; empty for the section as a whole.
    pub key: &'static str,
}

/// The keys that differ and cannot change without a restart.
pub fn fixed(old: &Config, new: &Config) -> Vec<Fixed> {
    let mut found = Vec::new();
    let mut see = |section, key, differs: bool| {
        if differs {
            found.push(Fixed { section, key });
        }
    };
    let (a, b) = (&old.appliance, &new.appliance);
    see("appliance", "id", a.id != b.id);
    see("appliance", "ethertype", a.ethertype.value != b.ethertype.value);
    see("appliance", "admin_socket", a.admin_socket != b.admin_socket);
    see("appliance", "admin_socket_mode", a.admin_socket_mode != b.admin_socket_mode);
    see("appliance", "metrics", a.metrics != b.metrics);
    see("appliance", "state_directory", a.state_directory != b.state_directory);
    see("appliance", "log", a.log != b.log);
    let (a, b) = (&old.dpdk, &new.dpdk);
    let cpus = |dpdk: &super::model::Dpdk| dpdk.worker_cpus.iter().map(|cpu| cpu.value).collect::<Vec<_>>();
    see("dpdk", "memory", a.memory != b.memory);
    see("dpdk", "memory_mb", a.memory_mb.value != b.memory_mb.value);
    see("dpdk", "mbufs", a.mbufs.value != b.mbufs.value);
    see("dpdk", "control_cpu", a.control_cpu.value != b.control_cpu.value);
    see("dpdk", "control_idle", a.control_idle != b.control_idle);
    see("dpdk", "worker_cpus", cpus(a) != cpus(b));
    see("dpdk", "file_prefix", a.file_prefix != b.file_prefix);
    see("dpdk", "extra", a.extra != b.extra);
    let (a, b) = (&old.worker, &new.worker);
    see("worker", "entries", a.entries.value != b.entries.value);
    see("worker", "datagram_flows", a.datagram_flows != b.datagram_flows);
    see("worker", "pending", a.pending.value != b.pending.value);
    see("worker", "idle", a.idle != b.idle);
    see("worker", "event_queue", a.event_queue != b.event_queue);
    see("worker", "command_queue", a.command_queue != b.command_queue);
    let (a, b) = (&old.tcp, &new.tcp);
    see("tcp", "timestamps", a.timestamps != b.timestamps);
    see("tcp", "sack", a.sack != b.sack);
    see("tcp", "window_scale", a.window_scale != b.window_scale);
    see("tcp", "ecn", a.ecn != b.ecn);
    see("tcp", "mss", a.mss.value != b.mss.value);
    let (a, b) = (&old.migration, &new.migration);
    see("migration", "retry_ms", a.retry_ms != b.retry_ms);
    see("migration", "tries", a.tries != b.tries);
    see("migration", "attempts", a.attempts != b.attempts);
    let (a, b) = (&old.ask, &new.ask);
    see("ask", "retry_ms", a.retry_ms != b.retry_ms);
    see("ask", "tries", a.tries != b.tries);
    see("ask", "outstanding", a.outstanding != b.outstanding);
    see("port", "", ports(old) != ports(new));
    found
}

fn ports(config: &Config) -> Vec<String> {
    let ports = config.ports.iter().map(|port| {
        let (rx, tx) = (port.rx_descriptors, port.tx_descriptors);
        let (name, device, address) = (&port.name.value, &port.device.value, port.address.value);
        format!("{name} {device:?} {:?} {address:?} {} {rx} {tx}", port.role, port.mtu.value)
    });
    ports.collect()
}

/// One line for each fixed key that differs, as `check` prints mistakes.
pub fn refusal(path: &Path, text: &str, fixed: &[Fixed]) -> String {
    let lines = fixed.iter().map(|Fixed { section, key }| {
        let place = line_of(text, section, key).map_or(String::new(), |line| format!(":{line}"));
        let what = if key.is_empty() { format!("[[{section}]]") } else { format!("`{key}` in [{section}]") };
        format!(
            "{}{place}: {what} cannot change while the appliance runs; restart it, or put the old value back",
            path.display()
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The line of a key, or of its section where the key is left out.
fn line_of(text: &str, section: &str, key: &str) -> Option<usize> {
    let (mut inside, mut head) = (false, None);
    for (place, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            let name = line.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
            inside = name == section;
            head = head.or(inside.then_some(place + 1));
        } else if inside && !key.is_empty() && line.split('=').next().is_some_and(|name| name.trim() == key) {
            return Some(place + 1);
        }
    }
    head
}

/// What differs of what a reload applies, a line each.
pub fn applied(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    boards(old, new, &mut lines);
    services(old, new, &mut lines);
    let (a, b) = (&old.migration, &new.migration);
    let times = [
        ("timeouts", "request_ms", old.timeouts.request_ms, new.timeouts.request_ms),
        ("timeouts", "place_ms", old.timeouts.place_ms, new.timeouts.place_ms),
        ("timeouts", "idle_ms", old.timeouts.idle_ms, new.timeouts.idle_ms),
        ("timeouts", "half_closed_ms", old.timeouts.half_closed_ms, new.timeouts.half_closed_ms),
        ("timeouts", "linger_ms", old.timeouts.linger_ms, new.timeouts.linger_ms),
        ("timeouts", "answer_rto_ms", old.timeouts.answer_rto_ms, new.timeouts.answer_rto_ms),
        ("migration", "deadline_ms", a.deadline_ms.value, b.deadline_ms.value),
    ];
    for (section, key, before, after) in times.into_iter().filter(|(_, _, before, after)| before != after) {
        lines.push(format!("[{section}] {key}: {before} -> {after}"));
    }
    lines
}

fn boards(old: &Config, new: &Config, lines: &mut Vec<String>) {
    let same = |a: &Board, b: &Board| a.address.value == b.address.value;
    for board in &old.boards {
        if !new.boards.iter().any(|other| same(board, other)) {
            lines.push(format!("board \"{}\" leaves when its last connection ends", board.name.value));
        }
    }
    for board in &new.boards {
        let (name, address) = (&board.name.value, board.address.value);
        let Some(before) = old.boards.iter().find(|other| same(board, other)) else {
            lines.push(format!("board \"{name}\" at {address} added, weight {}", board.weight));
            continue;
        };
        if before.name.value != *name {
            lines.push(format!("board \"{}\" is called \"{name}\"", before.name.value));
        }
        if before.weight != board.weight {
            lines.push(format!("board \"{name}\": weight {} -> {}", before.weight, board.weight));
        }
        if before.mac != board.mac {
            lines.push(format!("board \"{name}\": another MAC address"));
        }
    }
}

fn services(old: &Config, new: &Config, lines: &mut Vec<String>) {
    let endpoint = |service: &Service| (service.address.value, service.port, service.kind.is_udp());
    let same = |a: &Service, b: &Service| endpoint(a) == endpoint(b);
    for service in &old.services {
        if !new.services.iter().any(|other| same(service, other)) {
            let name = &service.name.value;
            lines.push(format!("service \"{name}\" closed: no new connections, those that it has go on"));
        }
    }
    for service in &new.services {
        let (name, endpoint) = (&service.name.value, (service.address.value, service.port));
        match old.services.iter().find(|other| same(service, other)) {
            None => lines.push(format!("service \"{name}\" at {}:{} opened", endpoint.0, endpoint.1)),
            Some(before) if told(before, old) != told(service, new) => {
                lines.push(format!("service \"{name}\" changed"));
            }
            Some(_) => {}
        }
    }
}

/// All that a service says, with its boards by address.
fn told(service: &Service, config: &Config) -> String {
    let addresses = |places: &[u16]| {
        let boards = places.iter().filter_map(|place| config.boards.get(usize::from(*place)));
        boards.map(|board| board.address.value.to_string()).collect::<Vec<_>>()
    };
    let maps = service.maps.iter();
    let fits = |map: &Map| {
        format!("{:?} {:?} {:?} {:?} {:?}", map.host, map.path, map.method, map.header, map.answer)
    };
    let maps: Vec<_> = maps.map(|map| (fits(map), addresses(&map.boards), &map.weights)).collect();
    let tls = service.tls.rows.iter();
    let tls: Vec<_> = tls.map(|row| (&row.sni, &row.alpn, addresses(&row.boards), &row.weights)).collect();
    let tls = (tls, service.tls.unknown_name, service.tls.no_name, service.h2c, service.migrates_requests);
    let boards = (addresses(&service.boards), &service.weights, service.home.map(|home| addresses(&[home])));
    let placement = (service.policy, service.limits, service.admit, service.slow_start_s);
    let (check, start, pages) = (&service.check, &service.start, &service.pages);
    // By the boards' addresses, as everywhere: their places may have changed.
    let quic = service.quic.as_ref().map(|quic| {
        let ids = quic.ids.iter().map(|(id, board)| (*id, addresses(&[*board])));
        (quic.offset, quic.len, ids.collect::<Vec<_>>())
    });
    let kind = (service.kind, service.datagrams, service.table, quic);
    let (name, cookie) = (&service.name.value, &service.cookie);
    // Keys do not show what they are: they are told apart by what they make of something.
    let keys = cookie.as_ref().map_or(&[][..], Cookie::keys);
    let keys: Vec<Value> = keys.iter().map(|key| Value::of(key, name, Ipv4Addr::UNSPECIFIED)).collect();
    format!(
        "{name} {kind:?} {boards:?} {placement:?} {maps:?} {tls:?} {check:?} {start:?} {pages:?} {cookie:?} {keys:?}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SHORT, good as config};
    use super::*;

    #[test]
    fn what_cannot_change_is_named_with_its_line() {
        let text = format!("{SHORT}\n[worker]\nentries = 4096\n[migration]\ntries = 7\n");
        let found = fixed(&config(SHORT), &config(&text));
        let names: Vec<_> = found.iter().map(|fixed| (fixed.section, fixed.key)).collect();
        assert_eq!(names, [("worker", "entries"), ("migration", "tries")]);
        let told = refusal(Path::new("a.toml"), &text, &found);
        let line = text.lines().position(|line| line.starts_with("entries")).expect("a line") + 1;
        assert!(told.starts_with(&format!("a.toml:{line}: `entries` in [worker] cannot change")), "{told}");
        assert_eq!(told.lines().count(), 2);
        assert_eq!(fixed(&config(SHORT), &config(SHORT)), []);
    }

    #[test]
    fn each_part_of_a_row_counts_as_a_change() {
        let row = |text: &str| {
            config(&SHORT.replace("path = \"/a/\"", &format!("path = \"/a/\"\nhost = \"a.example\"\n{text}")))
        };
        let cookie = |text: &str| {
            let line = format!("port = 80\ncookie = {{ name = \"a\", mode = \"{text} }}\n");
            config(
                &SHORT
                    .replacen("port = 80\n", &line, 1)
                    .replace("path = \"/a/\"", "path = \"/a/\"\nhost = \"a.example\""),
            )
        };
        let before = row("");
        let others = [
            row("method = \"GET\""),
            row("header = { name = \"X\", present = true }"),
            row("header = { name = \"X\", equals = \"a\" }"),
            row("header = { name = \"X\", prefix = \"a\" }"),
            config(
                &SHORT
                    .replace("port = 80\n", "port = 80\npages = { 403 = \"/page\" }\n")
                    .replace("path = \"/a/\"", "path = \"/a/\"\nhost = \"a.example\""),
            ),
            config(
                &SHORT
                    .replace("boards = [\"board1\"]", "answer = 404")
                    .replace("path = \"/a/\"", "path = \"/a/\"\nhost = \"a.example\""),
            ),
            config(
                &SHORT
                    .replace("boards = [\"board1\"]", "redirect = { to = \"/\" }")
                    .replace("path = \"/a/\"", "path = \"/a/\"\nhost = \"a.example\""),
            ),
            cookie("learn\", entries = 99"),
            cookie("learn\", entries = 98"),
            cookie("encoded\", key = \"00000000000000000000000000000000\""),
            cookie("encoded\", key = \"00000000000000000000000000000001\""),
            config(&SHORT.replace("path = \"/a/\"", "path = \"=/a/\"\nhost = \"a.example\"")),
            config(&SHORT.replace("path = \"/a/\"", "path = \"/a/\"\nhost = \"*.a.example\"")),
        ];
        assert_eq!(applied(&before, &before), [""; 0]);
        for (place, other) in others.iter().enumerate() {
            assert_eq!(applied(&before, other), ["service \"web\" changed"], "{place}");
            for another in &others[place + 1..] {
                assert_eq!(applied(other, another), ["service \"web\" changed"], "{place}");
            }
        }
    }

    #[test]
    fn what_is_applied_is_said_line_by_line() {
        let old = config(SHORT);
        assert_eq!(applied(&old, &old), [""; 0]);
        let mut new = old.clone();
        new.boards[0].weight = 7;
        new.timeouts.idle_ms += 1;
        new.services[0].port = 8089;
        let told = applied(&old, &new).join("\n");
        for part in ["weight 100 -> 7", "[timeouts] idle_ms: ", "closed", ":8089 opened"] {
            assert!(told.contains(part), "no {part} in {told}");
        }
    }
}
