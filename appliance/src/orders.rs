//! `ipos-appliance board` and `reload`: tells the running appliance, and prints what became of it.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::admin::commands::Do;
use crate::admin::socket::{Query, What};
use crate::cli::{Appliance, BoardCommand};
use crate::client::{ClientError, Connection, ended};

/// Between two looks at what is left of a board.
const LOOK: Duration = Duration::from_millis(200);

/// Does it.
pub fn board(command: BoardCommand) -> ExitCode {
    ended(match command {
        BoardCommand::Add { name, address, mac, port, weight, services, maps, appliance } => {
            tell(&appliance, &Do::Add { board: name, address, mac, port, weight, services, maps })
        }
        BoardCommand::Remove { name, force, appliance } => {
            tell(&appliance, &Do::Remove { board: name, force })
        }
        BoardCommand::Weight { name, weight, appliance } => {
            tell(&appliance, &Do::Weight { board: name, weight })
        }
        BoardCommand::Drain { name, deadline, wait, appliance } => {
            let command = Do::Drain { board: name.clone(), deadline_s: deadline };
            tell(&appliance, &command)
                .and_then(|()| if wait { wait_until_drained(&appliance, &name) } else { Ok(()) })
        }
        BoardCommand::Undrain { name, appliance } => tell(&appliance, &Do::Undrain { board: name }),
    })
}

/// Has the configuration read again.
pub fn reload(appliance: &Appliance) -> ExitCode {
    ended(tell(appliance, &Do::Reload))
}

fn tell(appliance: &Appliance, command: &Do) -> Result<(), ClientError> {
    let answer = Connection::open(appliance)?.ask(command)?;
    for line in answer["done"].as_array().into_iter().flatten() {
        print(line.as_str().unwrap_or_default())?;
    }
    Ok(())
}

fn print(line: &str) -> Result<(), ClientError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(ClientError::Print)
}

/// Says how many connections are left, whenever that changes, until none is.
fn wait_until_drained(appliance: &Appliance, name: &str) -> Result<(), ClientError> {
    let mut connection = Connection::open(appliance)?;
    let mut said = Value::Null;
    loop {
        let servers = connection.ask(&Query::table(What::Servers))?;
        let rows = servers["rows"].as_array();
        let row = rows.into_iter().flatten().find(|row| row["name"] == name);
        let drain = row.and_then(|row| row["drain"].as_str());
        match (row, drain) {
            (Some(row), Some("draining" | "leaving")) => {
                if said != row["left"] {
                    said = row["left"].clone();
                    print(&format!("{said} left"))?;
                }
            }
            (Some(_), None) => {
                return Err(ClientError::Appliance(format!("board \"{name}\" does not drain any more")));
            }
            // Drained, or gone.
            _ => return print(&format!("board \"{name}\" is drained")),
        }
        std::thread::sleep(LOOK);
    }
}
