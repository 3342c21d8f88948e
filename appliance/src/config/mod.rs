//! The configuration: one TOML file, checked whole before anything starts (design: system.md, configuration).
//!
//! The road: text -> [`read`] (typed access that notes mistakes) -> [`parse`] and [`farm`] (sections) -> [`check`]
//! (sections against each other and the machine) -> [`model::Config`].

pub mod changes;
pub mod check;
pub mod cookie;
pub mod farm;
pub mod host;
pub mod kinds;
pub mod model;
pub mod parse;
pub mod quic;
pub mod read;
pub mod size;
pub mod snapshot;
#[cfg(test)]
pub mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use host::Host;
use model::Config;
use read::{Notes, Problem};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; expected a file as in deploy/appliance.example.toml", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There are mistakes in it.
    #[error("{0}")]
    Wrong(Mistakes),
}

/// Every mistake of a file.
#[derive(Debug)]
pub struct Mistakes {
    path: PathBuf,
    text: String,
    problems: Vec<Problem>,
}

impl fmt::Display for Mistakes {
    /// One line per mistake: `file:line:column: what was found; what was expected`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            let (line, column) = read::line_and_column(&self.text, problem.offset);
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{line}:{column}: {}", self.path.display(), problem.what)?;
        }
        Ok(())
    }
}

/// Reads and checks a file against this machine.
///
/// # Errors
/// [`ConfigError`] with every mistake.
pub fn load(path: &Path, host: &impl Host) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    from_text(path, text, host)
}

/// Checks a text that came from a file.
///
/// # Errors
/// [`ConfigError::Wrong`] with every mistake.
pub fn from_text(path: &Path, text: String, host: &impl Host) -> Result<Config, ConfigError> {
    let notes = Notes::default();
    let config = parse::parse(&text, &notes).map(|draft| check::check(draft, host, &notes));
    let problems = notes.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Wrong(Mistakes { path: path.to_owned(), text, problems })),
    }
}

/// The admin socket that a file names, for `status`: the rest of the file is not checked, and the file may be missing.
///
/// # Errors
/// [`ConfigError`] when the file is there and cannot be read, or is not TOML.
pub fn admin_socket(path: &Path) -> Result<PathBuf, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?,
    };
    let notes = Notes::default();
    match parse::parse(&text, &notes) {
        Some(draft) => Ok(draft.appliance.admin_socket),
        None => {
            Err(ConfigError::Wrong(Mistakes { path: path.to_owned(), text, problems: notes.into_problems() }))
        }
    }
}
