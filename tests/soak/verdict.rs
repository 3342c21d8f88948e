//! What may fail, and why: the soak's clients say what became of each operation, and whatever was not right needs an excuse.
//!
//! Wrong octets have none. A restart of an agent excuses nothing, nor does one of the appliance, but for connections that no board
//! had yet: their handshake was the appliance's own, and its secrets died with it (pipelines/src/handshake/cookie.rs). All else needs an
//! event that took the very board away that had the connection, or the only one that could have it, while the operation was under way.

use serde_json::Value;

use crate::plan::Event;

/// A board is dead after ten report intervals of 100 ms, one of which may have been over when its agent ended (wire.md, 0x10): one whose
/// agent was away for less was not missed, seconds.
const AGENT_MISSED_S: f64 = 0.9;

/// What became of an operation (tests/clients/soak_connection.py).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every octet was right.
    Right,
    /// The server had closed a kept connection before the request came.
    Stale,
    /// The appliance said that nobody takes it.
    Refused,
    /// The connection ended or fell silent before its time.
    Lost,
    /// Every octet was right, but another board served it than the one that had to.
    Strayed,
    /// Something came that may not come.
    Wrong,
}

/// An operation of a client's. Times are seconds of the client's clock.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Kind of service and of use.
    pub kind: String,
    /// The boards that may serve it.
    pub boards: Vec<u32>,
    /// The board that is known to have served on this connection.
    pub board: Option<u32>,
    /// The client's port.
    pub port: u16,
    /// When the connection was last known to be well, or the operation began.
    pub since_s: f64,
    /// When it ended.
    pub until_s: f64,
    /// How long it took, seconds.
    pub took_s: f64,
    /// Octets of content that came and were right.
    pub octets: u64,
    /// How often it was asked.
    pub tries: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// The board that had its session, or the connection that moves, before.
    pub before: Option<u32>,
    /// When nothing had happened yet to that: the session was last known to be well, or the connection was opened.
    pub before_s: f64,
    /// When the request began and ended with which the appliance gave its session the cookie.
    pub given_s: Option<(f64, f64)>,
    /// The line as it was said.
    pub line: Value,
    /// The boards whose Local Tables have the connection; looked up when it was not right.
    pub accepted_by: Vec<u32>,
}

impl Operation {
    /// Reads a client's line.
    ///
    /// # Errors
    /// What is missing in it.
    pub fn read(line: Value) -> Result<Self, String> {
        let number = |key: &str| line[key].as_f64().ok_or_else(|| format!("no number `{key}` in {line}"));
        let whole =
            |key: &str| line[key].as_u64().ok_or_else(|| format!("no whole number `{key}` in {line}"));
        let span = |key: &str| line[key][0].as_f64().zip(line[key][1].as_f64());
        let outcome = match line["outcome"].as_str() {
            Some("right") => Outcome::Right,
            Some("stale") => Outcome::Stale,
            Some("refused") => Outcome::Refused,
            Some("lost") => Outcome::Lost,
            Some("strayed") => Outcome::Strayed,
            Some("wrong") => Outcome::Wrong,
            _ => return Err(format!("no outcome in {line}")),
        };
        let boards = line["boards"].as_array().into_iter().flatten();
        Ok(Self {
            kind: line["kind"].as_str().unwrap_or_default().to_owned(),
            boards: boards.filter_map(|board| board.as_u64().map(|board| board as u32)).collect(),
            board: line["board"].as_u64().map(|board| board as u32),
            port: whole("port")? as u16,
            since_s: number("since")?,
            until_s: number("until")?,
            took_s: number("until")? - number("begin")?,
            octets: whole("octets")?,
            tries: whole("tries")?,
            outcome,
            accepted_by: Vec::new(),
            before: line["before"].as_u64().map(|board| board as u32),
            before_s: line["before_since"].as_f64().unwrap_or(number("since")?),
            given_s: span("given"),
            line,
        })
    }

    /// Whether boards take the connection over, so that their Local Tables tell who had it.
    fn is_taken_over(&self) -> bool {
        !self.kind.starts_with("l4") && !self.kind.starts_with("udp")
    }

    fn moves(&self) -> bool {
        self.kind == "moves"
    }

    /// Whether it was to go on at another board.
    fn had_to_move(&self) -> bool {
        self.moves() && self.before.is_some_and(|board| !self.boards.contains(&board))
    }

    fn is_of_nginx(&self) -> bool {
        !self.kind.starts_with("udp")
            && !matches!(self.kind.as_str(), "tcp" | "websocket" | "session-learned")
    }

    /// Whether this board had the connection: known for one that was taken over, possible for one that was merely forwarded. One that
    /// moves is in the Local Table of each board that it ever was at: here the one that had it counts, and the only one that was to get it.
    fn was_at(&self, board: u32) -> bool {
        if self.moves() && self.before.is_some() {
            self.before == Some(board) || self.boards == [board]
        } else if self.is_taken_over() {
            self.accepted_by.contains(&board)
        } else {
            self.board.map_or(self.boards.contains(&board), |own| own == board)
        }
    }
}

/// Something that happened, and when by the client's clock, seconds.
#[derive(Clone, Copy, Debug)]
pub struct Happened {
    /// What.
    pub event: Event,
    /// Right before it.
    pub from_s: f64,
    /// When all was well again.
    pub until_s: f64,
    /// How long what it took away was away.
    pub away_s: f64,
}

/// Why an operation may have failed; none: it may not.
pub fn excuse(operation: &Operation, happened: &[Happened]) -> Option<&'static str> {
    let overlaps = |one: &&Happened| operation.since_s <= one.until_s && operation.until_s >= one.from_s;
    let first = |excused_by: fn(&Operation, &Happened) -> Option<&'static str>| {
        happened.iter().filter(overlaps).find_map(|one| excused_by(operation, one))
    };
    match operation.outcome {
        Outcome::Right => Some("none needed"),
        Outcome::Wrong => None,
        Outcome::Strayed if operation.moves() => stayed(operation, happened),
        Outcome::Strayed => happened.iter().find_map(|one| anew(operation, one)),
        Outcome::Refused => first(refused),
        Outcome::Stale => first(stale).or_else(|| first(lost)),
        Outcome::Lost => first(lost),
    }
}

/// The only board that could have it was out.
fn refused(operation: &Operation, one: &Happened) -> Option<&'static str> {
    let board = one.event.board()?;
    if operation.boards != [board] {
        return None;
    }
    match one.event {
        Event::NginxKill(..) if operation.is_of_nginx() => {
            Some("refused: nginx of its only board was killed")
        }
        Event::Drain(..) | Event::DrainByDeadline(..) => Some("refused: its only board was drained"),
        Event::Link(..) => Some("refused: the link of its only board was down"),
        Event::AgentRestart(_) | Event::AgentKill(..) if one.away_s > AGENT_MISSED_S => {
            Some("refused: the agent of its only board was away for long")
        }
        _ => None,
    }
}

/// A session is placed anew when its board could not serve it since it was last known to be well; one of the application's own cookie
/// also by a new appliance, which knows none (docs/services.md, "Sessions by cookie"). A drain whose deadline is not over is no reason.
/// Where the appliance gave the cookie, it may name another board than the one that served the first request: one that was out just then,
/// so that others serve the session until it is back, or until the appliance knows and gives another cookie.
fn anew(operation: &Operation, one: &Happened) -> Option<&'static str> {
    let during = |since_s: f64, until_s: f64| since_s <= one.until_s && until_s >= one.from_s;
    let is_since = during(operation.before_s, operation.until_s);
    let is_of_its_board = is_since && one.event.board() == operation.before;
    let is_of_its_cookies = operation.given_s.is_some_and(|(since_s, until_s)| during(since_s, until_s));
    if !is_since && !is_of_its_cookies {
        return None;
    }
    let is_learned = operation.kind == "session-learned";
    match one.event {
        Event::ApplianceStop(_) | Event::ApplianceKill(_) if is_learned => {
            Some("strayed: the appliance that knew it ended")
        }
        // Until then it is found by the client's address, and where that leads depends on which boards there are.
        Event::Drain(..)
        | Event::DrainByDeadline(..)
        | Event::Remove
        | Event::RemoveByForce
        | Event::Link(..)
        | Event::AgentRestart(_)
        | Event::AgentKill(..)
            if is_learned
                && operation.line["shown"] != true
                && (!one.event.is_restart() || one.away_s > AGENT_MISSED_S) =>
        {
            Some("strayed: the set of boards changed before its cookie was shown")
        }
        _ if !is_of_its_board && !is_of_its_cookies => None,
        Event::NginxKill(..) if operation.is_of_nginx() => Some("strayed: nginx of its board was killed"),
        Event::DrainByDeadline(..) | Event::Remove => Some("strayed: its board was drained"),
        Event::RemoveByForce => Some("strayed: its board was removed by force"),
        Event::Link(..) => Some("strayed: the link of its board was down"),
        Event::AgentRestart(_) | Event::AgentKill(..) if one.away_s > AGENT_MISSED_S => {
            Some("strayed: the agent of its board was away for long")
        }
        _ => None,
    }
}

/// A connection stays with its board when the one that its request is for can have none, and for good once a new appliance has found it
/// again: it does not know where its next request begins (docs/services.md, "Requests on one connection").
fn stayed(operation: &Operation, happened: &[Happened]) -> Option<&'static str> {
    for one in happened {
        let ends_after = |begin_s: f64| begin_s <= one.until_s && operation.until_s >= one.from_s;
        if matches!(one.event, Event::ApplianceStop(_) | Event::ApplianceKill(_))
            && ends_after(operation.before_s)
        {
            return Some("stayed: the appliance ended while it was open");
        }
        if !ends_after(operation.since_s) {
            continue;
        }
        if refused(operation, one).is_some() {
            return Some("stayed: the board of its row was out");
        }
        if matches!(one.event, Event::Link(board, _) if operation.before == Some(board)) {
            return Some("stayed: the link of its board was down");
        }
        // Its board is busy until it has heard that the client has all of the answer before (`stayed_busy`).
        if matches!(one.event, Event::Loss(..)) {
            return Some("stayed: frames were lost on the way to its board");
        }
    }
    None
}

/// A server may close what is idle.
fn stale(operation: &Operation, one: &Happened) -> Option<&'static str> {
    match one.event {
        Event::NginxReload(board) if operation.is_of_nginx() && operation.was_at(board) => {
            Some("stale: nginx was reloaded")
        }
        Event::DrainByDeadline(board, _) if operation.was_at(board) => Some("stale: its board was drained"),
        Event::Remove if operation.was_at(crate::plan::SPARE) => Some("stale: its board was drained"),
        _ => None,
    }
}

fn lost(operation: &Operation, one: &Happened) -> Option<&'static str> {
    // A query is asked five times over ten seconds: by then its flow has another board.
    if operation.kind.starts_with("udp") {
        return None;
    }
    match one.event {
        Event::NginxKill(board, _) if operation.is_of_nginx() && operation.was_at(board) => {
            Some("lost: nginx was killed")
        }
        Event::RemoveByForce if operation.was_at(crate::plan::SPARE) => {
            Some("lost: its board was removed by force")
        }
        Event::Link(board, _) if operation.was_at(board) => Some("lost: the link of its board was down"),
        Event::ApplianceStop(_) | Event::ApplianceKill(_)
            if operation.is_taken_over() && operation.accepted_by.is_empty() =>
        {
            Some("lost: no board had it when the appliance ended")
        }
        // Its old board had given it up, and what its new one has to know was the appliance's alone. One that was merely open then is
        // its board's.
        Event::ApplianceStop(_) | Event::ApplianceKill(_)
            if operation.had_to_move() && operation.until_s - operation.took_s <= one.until_s =>
        {
            Some("lost: it was being moved when the appliance ended")
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
