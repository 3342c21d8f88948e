//! The appliance's commands as an operator gives them, and its configuration file as one edits it.

use std::process::{Command, Output};

use serde_json::Value;

use crate::Lab;
use crate::lab::{ROOT, binary, said};

/// `ipos-appliance` with these arguments.
pub fn appliance(arguments: &[&str]) -> Output {
    let socket = format!("{ROOT}/appliance/admin.sock");
    Command::new(binary("ipos-appliance"))
        .args(arguments)
        .args(["--socket", &socket])
        .output()
        .expect("the appliance's program can be run")
}

/// What it said; it must have done it.
#[track_caller]
pub fn done(arguments: &[&str]) -> String {
    let output = appliance(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// What it said against it.
#[track_caller]
pub fn refused(arguments: &[&str]) -> String {
    let output = appliance(arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// The row of a board in the Server State Table.
pub fn row(lab: &Lab, board: &str) -> Value {
    let servers = lab.status("servers");
    let rows = servers.as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["name"] == board).unwrap_or(Value::Null)
}

/// Replaces something in the appliance's configuration, and puts the old text back in the end.
pub struct Edited {
    before: String,
}

impl Default for Edited {
    fn default() -> Self {
        Self::new()
    }
}

impl Edited {
    fn path() -> String {
        format!("{ROOT}/appliance/appliance.toml")
    }

    /// The file as it is now.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn new() -> Self {
        Self { before: std::fs::read_to_string(Self::path()).expect("the lab's configuration can be read") }
    }

    /// The file as it was.
    pub fn before(&self) -> &str {
        &self.before
    }

    /// The file is as before, but for this.
    pub fn write(&self, changes: &[(&str, &str)]) {
        let text = changes.iter().fold(self.before.clone(), |text, (what, by)| {
            assert!(text.contains(what), "{what}");
            text.replacen(what, by, 1)
        });
        std::fs::write(Self::path(), text).expect("the lab's configuration can be written");
    }
}

impl Drop for Edited {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::path(), &self.before);
    }
}
