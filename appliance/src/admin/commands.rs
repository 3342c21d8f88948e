//! The commands of the admin socket: what changes the farm while the appliance runs.
//!
//! Request: `{"do": "drain", "board": "board1", "deadline_s": 30}`. Response: `{"done": ["..."]}`, with `"left"` where connections
//! are waited for; or `{"error": "..."}`, and nothing has changed.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::collector::Collector;
use super::live::{self, LiveError, NewBoard};
use crate::config::model::MacText;
use crate::control::operate::{Left, Obeyed, Order, OrderError};
use crate::control::standing::{WEIGHT_DEFAULT, WEIGHT_MAX};
use crate::control::turn::Request;

/// Seconds of the longest deadline: a year.
const DEADLINE_MAX_S: u64 = 31_536_000;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub enum Do {
    /// Adds a board.
    Add {
        /// Its name.
        board: String,
        /// Its address on the farm network.
        address: Ipv4Addr,
        /// Its MAC address, when it shall not be learned.
        #[serde(default)]
        mac: Option<String>,
        /// The farm port that it is behind.
        #[serde(default)]
        port: Option<String>,
        /// Its share of new connections.
        #[serde(default)]
        weight: Option<u16>,
        /// Services that it serves what no row of the URL map names.
        #[serde(default)]
        services: Vec<String>,
        /// Rows of the URL map that it serves.
        #[serde(default)]
        maps: Vec<String>,
    },
    /// Takes a board out.
    Remove {
        /// Its name.
        board: String,
        /// With its connections.
        #[serde(default)]
        force: bool,
    },
    /// Gives a board another share of new connections.
    Weight {
        /// Its name.
        board: String,
        /// The share.
        weight: u16,
    },
    /// Gives a board no new connections.
    Drain {
        /// Its name.
        board: String,
        /// Seconds until its idle connections are closed.
        #[serde(default)]
        deadline_s: Option<u64>,
    },
    /// Gives a board new connections again.
    Undrain {
        /// Its name.
        board: String,
    },
    /// Reads the configuration again.
    Reload,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("{0}")]
    Value(String),
}

impl From<super::collector::NoAnswer> for CommandError {
    fn from(error: super::collector::NoAnswer) -> Self {
        CommandError::Live(error.into())
    }
}

/// Carries a command out and says what became of it.
pub async fn carry_out(command: Do, collector: &mut Collector) -> Value {
    let name = serde_json::to_string(&command).unwrap_or_default();
    match obey(command, collector).await {
        Ok(answer) => {
            tracing::info!(command = name, "done");
            answer
        }
        Err(error) => {
            tracing::warn!(command = name, %error, "not done");
            json!({ "error": error.to_string() })
        }
    }
}

fn done(line: String) -> Value {
    json!({ "done": [line] })
}

async fn obey(command: Do, collector: &mut Collector) -> Result<Value, CommandError> {
    match command {
        Do::Add { board, address, mac, port, weight, services, maps } => {
            let mac = mac.map(|text| {
                let what = || {
                    CommandError::Value(format!("\"{text}\" is no MAC address such as \"02:00:00:00:00:0b\""))
                };
                text.parse::<MacText>().map_err(|()| what())
            });
            let weight = checked_weight(weight.unwrap_or(WEIGHT_DEFAULT))?;
            let new = NewBoard {
                name: board.clone(),
                address,
                mac: mac.transpose()?,
                port,
                weight,
                services,
                maps,
            };
            live::add(collector, new).await?;
            Ok(done(format!("board \"{board}\" added; it gets connections once it reports")))
        }
        Do::Remove { board, force } => {
            live::remove(collector, &board, force).await?;
            Ok(done(format!("board \"{board}\" leaves")))
        }
        Do::Weight { board, weight } => {
            let weight = checked_weight(weight)?;
            let obeyed = order(collector, &board, Order::Weight(weight)).await?;
            live::set_weight(collector, &board, weight).await?;
            Ok(done(format!("board \"{board}\": weight {} -> {weight}", obeyed.weight_before)))
        }
        Do::Drain { board, deadline_s } => {
            if let Some(seconds) = deadline_s.filter(|seconds| *seconds > DEADLINE_MAX_S) {
                return Err(CommandError::Value(format!("a deadline of {seconds} s is more than a year")));
            }
            let within_ns = deadline_s.map(|seconds| seconds * 1_000_000_000);
            let obeyed = order(collector, &board, Order::Drain(within_ns)).await?;
            let verb = if obeyed.again { "drains already" } else { "drains" };
            let limit = deadline_s
                .map_or(String::new(), |s| format!("; its idle connections are closed after {s} s"));
            let line = format!("board \"{board}\" {verb}: {}{limit}", left(&obeyed.left));
            Ok(json!({ "done": [line], "left": obeyed.left.connections() }))
        }
        Do::Undrain { board } => {
            order(collector, &board, Order::Undrain).await?;
            Ok(done(format!("board \"{board}\" gets new connections again")))
        }
        Do::Reload => {
            let mut said = live::reload(collector).await?;
            if said.is_empty() {
                said.push("nothing has changed".to_owned());
            }
            Ok(json!({ "done": said }))
        }
    }
}

async fn order(collector: &Collector, board: &str, order: Order) -> Result<Obeyed, CommandError> {
    let board = board.to_owned();
    Ok(collector.ask(|reply| Request::Order { board, order, reply }).await??)
}

fn checked_weight(weight: u16) -> Result<u16, CommandError> {
    if weight <= WEIGHT_MAX {
        return Ok(weight);
    }
    Err(CommandError::Value(format!("a weight of {weight}; expected 0 to {WEIGHT_MAX}")))
}

/// How many connections are left, and who says so.
fn left(left: &Left) -> String {
    let endpoints =
        left.endpoints.map_or("no report of the board".to_owned(), |n| format!("{n} endpoints on the board"));
    format!("{} left ({} flows, {} attempts, {endpoints})", left.connections(), left.flows, left.in_flight)
}
