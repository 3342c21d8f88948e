//! Lets things happen to the farm, and waits until all is well again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use ipos_tests::command::{Edited, appliance};
use ipos_tests::lab::{ROOT, said};
use ipos_tests::{Lab, wait_until};
use serde_json::Value;

use crate::plan::{BOARDS, Event, SPARE};

/// Until a board is fit again after what happened to it: one that died several times is kept back for half a minute and more.
const FIT: Duration = Duration::from_secs(90);
/// Until a board is drained: a session lasts for half a minute, and where the notice of its end was lost the board's TIME-WAIT holds the
/// entry for one more.
const DRAINED: Duration = Duration::from_secs(180);
/// Until nginx's old workers have served what they had.
const SERVED: Duration = Duration::from_secs(90);
/// Short, so that idle connections are asked for within a soak, and what is left behind goes.
const TIMEOUTS: &str = "request_ms = 3000\nidle_ms = 15000\nhalf_closed_ms = 10000\n";
/// docs/services.md, "Requests on one connection": the lab's own service and its rows, but for the moves.
const WEB: &str = "port = 80\nkind = \"http\"\n";
const WEB_MOVES: &str = "port = 80\nkind = \"http\"\nmigrate = \"request\"\n";
const ROW: &str = "[[service.map]]\npath = \"/b/\"";
const ANOTHER_ROW: &str =
    "[[service.map]]\npath = \"/c/\"\nboards = [\"board1\"]\n\n[[service.map]]\npath = \"/b/\"";
/// What the spare board serves.
const SERVICES: &[&str] = &[
    "web",
    "ssh",
    "websocket",
    "web-l4",
    "iperf3",
    "dns",
    "dns-datagram",
    "dns-tcp",
    "learned",
    "encoded",
    "inserted",
];

/// What the appliance's program says when its control core has not answered within a second.
const UNANSWERED: &str = "does not answer";
/// How often it is asked again then: on a machine that does more than it can, a second is not always enough.
const ASKED: usize = 5;

/// Gives the appliance a command, which it must do. Where it may have done it without saying so, and is told once more, it may refuse.
///
/// # Panics
/// When it does not do it.
fn order(arguments: &[&str]) {
    let mut is_repeated = false;
    for _ in 0..ASKED {
        let output = appliance(arguments);
        if output.status.success() {
            return;
        }
        let words = said(&output);
        if !words.contains(UNANSWERED) {
            assert!(is_repeated, "{arguments:?}: {words}");
            return;
        }
        println!("soak: {arguments:?}: {}", words.trim());
        is_repeated = true;
    }
    panic!("{arguments:?}: the appliance does not answer");
}

/// The farm of a lab.
pub struct Farm<'lab> {
    lab: &'lab Lab,
    edited: Edited,
    is_changed: bool,
}

impl<'lab> Farm<'lab> {
    /// Sets the soak's time-outs, and lets the lab's first service move connections with their requests.
    ///
    /// # Panics
    /// When the appliance does not take them.
    pub fn new(lab: &'lab Lab) -> Self {
        let path = format!("{ROOT}/appliance/appliance.toml");
        let text = fs::read_to_string(&path).expect("the lab's configuration can be read");
        assert!(text.contains("request_ms = 3000\n"), "the lab's time-outs are others: {text}");
        assert!(text.contains(WEB), "the lab's first service is another: {text}");
        let text = text.replacen("request_ms = 3000\n", TIMEOUTS, 1).replacen(WEB, WEB_MOVES, 1);
        fs::write(&path, text).expect("it can be written");
        order(&["reload"]);
        let farm = Self { lab, edited: Edited::new(), is_changed: false };
        farm.wait_fit();
        farm
    }

    /// Lets something happen, and waits until all is well. Returns how long what was taken away was away.
    ///
    /// # Panics
    /// When something does not come back.
    pub fn happen(&mut self, event: Event) -> Duration {
        let away = match event {
            Event::AgentRestart(board) => self.agent(board, "stop-agent", Duration::ZERO),
            Event::AgentKill(board, away) => self.agent(board, "kill-agent", away),
            Event::NginxKill(board, away) => {
                self.between(away, &["kill-nginx", &board.to_string()], &["start-nginx", &board.to_string()])
            }
            Event::NginxReload(board) => reload_nginx(board),
            Event::Drain(board, time) => drain(board, time, &[]),
            Event::DrainByDeadline(board, time) => drain(board, time, &["--deadline", "0"]),
            Event::Remove => self.remove(&[]),
            Event::RemoveByForce => self.remove(&["--force"]),
            Event::Reload => self.reload(),
            Event::ApplianceStop(away) => self.between(away, &["stop-appliance"], &["start-appliance"]),
            Event::ApplianceKill(away) => self.between(away, &["kill-appliance"], &["start-appliance"]),
            Event::Link(board, away) => {
                let board = board.to_string();
                self.between(away, &["link", &board, "down"], &["link", &board, "up"])
            }
            Event::Loss(percent, time) => self.between(time, &["loss", &percent.to_string()], &["loss", "0"]),
        };
        self.wait_fit();
        away
    }

    /// Two verbs of the lab's, with so much time between them.
    fn between(&self, time: Duration, first: &[&str], then: &[&str]) -> Duration {
        let begin = Instant::now();
        self.lab.verb(first);
        sleep(time);
        self.lab.verb(then);
        begin.elapsed()
    }

    fn agent(&self, board: u32, verb: &str, away: Duration) -> Duration {
        let begin = Instant::now();
        let log = format!("{ROOT}/board{board}/agent.log");
        let starts = || fs::read_to_string(&log).unwrap_or_default().matches("programs in place").count();
        let before = starts();
        self.between(away, &[verb, &board.to_string()], &["start-agent", &board.to_string()]);
        wait_until("the new agent has its programs in place", FIT, || (starts() > before).then_some(()));
        self.wait_fit();
        begin.elapsed()
    }

    fn remove(&self, force: &[&str]) -> Duration {
        let begin = Instant::now();
        let name = format!("board{SPARE}");
        if force.is_empty() {
            order(&["board", "drain", &name, "--deadline", "0"]);
            wait_until("the board is drained", DRAINED, || {
                self.row(&name).filter(|row| row["drain"] == "drained").map(drop)
            });
        }
        order(&[&["board", "remove", &name][..], force].concat());
        wait_until("the board is gone", FIT, || self.row(&name).filter(Value::is_null).map(drop));
        let address = format!("192.0.2.{}", 10 + SPARE);
        let mut add = vec!["board", "add", &name, "--address", &address];
        for service in SERVICES {
            add.extend(["--service", service]);
        }
        order(&add);
        begin.elapsed()
    }

    /// The row of a board in the Server State Table, null when there is none; none when the appliance does not answer.
    fn row(&self, board: &str) -> Option<Value> {
        let servers = self.lab.try_status("servers")?;
        let row = servers.as_array()?.iter().find(|row| row["name"] == board).cloned();
        Some(row.unwrap_or_default())
    }

    fn reload(&mut self) -> Duration {
        let begin = Instant::now();
        self.is_changed = !self.is_changed;
        let changes = [("request_ms = 3000", "request_ms = 3500"), (ROW, ANOTHER_ROW)];
        self.edited.write(if self.is_changed { &changes } else { &[] });
        order(&["reload"]);
        begin.elapsed()
    }

    /// Waits until every board has reported again, so that nothing older is believed, and may have new connections of every service.
    fn wait_fit(&self) {
        let mut seen = String::new();
        let mut reports = Reports::default();
        let deadline = Instant::now() + FIT;
        while Instant::now() < deadline {
            match self.unfit(&mut reports) {
                Some(unfit) if unfit.is_empty() => return,
                Some(unfit) => seen = unfit.join("; "),
                None => "the appliance does not answer".clone_into(&mut seen),
            }
            sleep(Duration::from_millis(50));
        }
        panic!("not well again within {FIT:?}: {seen}");
    }

    /// Why boards may not have connections; none when the appliance does not answer.
    fn unfit(&self, reports: &mut Reports) -> Option<Vec<String>> {
        let servers = self.lab.try_status("servers")?;
        let mut unfit = reports.missing(servers.as_array()?);
        let services = self.lab.try_status("services")?;
        for service in services.as_array()? {
            for row in service["boards"].as_array().into_iter().flatten() {
                if let Some(why) = row["unfit"].as_str() {
                    unfit.push(format!("{} of {}: {why}", row["board"], service["name"]));
                }
            }
        }
        Some(unfit)
    }
}

/// The boards' reports since somebody began to wait for them.
#[derive(Default)]
struct Reports {
    /// By board: the number of the report that was seen last, and how many new ones were.
    seen: BTreeMap<String, (Value, usize)>,
}

impl Reports {
    /// Takes the rows of the Server State Table; what is missing in them.
    fn missing(&mut self, rows: &[Value]) -> Vec<String> {
        let mut missing = Vec::new();
        if rows.len() != BOARDS as usize {
            missing.push(format!("{} boards instead of {BOARDS}", rows.len()));
        }
        for row in rows {
            let board = row["name"].as_str().unwrap_or_default();
            let number = &row["sequence"];
            let (last, new) = self.seen.entry(board.to_owned()).or_insert_with(|| (number.clone(), 0));
            if last != number {
                (*last, *new) = (number.clone(), *new + 1);
            }
            // The first may have been on its way.
            if row["alive"] != true || *new < 2 {
                missing.push(format!("{board} is not alive, or has not reported again"));
            }
        }
        missing
    }
}

fn drain(board: u32, time: Duration, deadline: &[&str]) -> Duration {
    let begin = Instant::now();
    let name = format!("board{board}");
    order(&[&["board", "drain", &name][..], deadline].concat());
    sleep(time);
    order(&["board", "undrain", &name]);
    if !deadline.is_empty() {
        // What the board was asked to close last, it may close now.
        sleep(Duration::from_secs(1));
    }
    begin.elapsed()
}

/// SIGHUP to a board's nginx; returns once its old workers have served what they had.
fn reload_nginx(board: u32) -> Duration {
    let begin = Instant::now();
    let file = fs::read_to_string(format!("{ROOT}/pids/nginx{board}.pid")).expect("nginx has a pid file");
    let master = file.split(' ').next().unwrap_or_default().to_owned();
    let output = Command::new("pgrep").args(["-P", &master]).output().expect("pgrep can be run");
    let workers: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    assert!(!workers.is_empty(), "nginx of board {board} has no workers");
    let sent = Command::new("kill").args(["-HUP", &master]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -HUP {master}");
    wait_until("nginx's old workers are gone", SERVED, || {
        workers.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    begin.elapsed()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_board_said_before_is_not_believed() {
        let rows = |sequence: u64, is_alive: bool| -> Vec<Value> {
            let row =
                |board| json!({"name": format!("board{board}"), "alive": is_alive, "sequence": sequence});
            (1..=BOARDS).map(row).collect()
        };
        let mut reports = Reports::default();
        assert_eq!(reports.missing(&rows(7, true)).len(), 3);
        assert_eq!(reports.missing(&rows(7, true)).len(), 3);
        assert_eq!(reports.missing(&rows(8, true)).len(), 3, "it may have been on its way");
        assert!(reports.missing(&rows(1, true)).is_empty(), "a new agent counts from the start");
        assert_eq!(reports.missing(&rows(2, false)).len(), 3);
        assert_eq!(reports.missing(&[]).len(), 1);
    }
}
