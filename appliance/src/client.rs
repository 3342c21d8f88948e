//! The command line's side of the admin socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::cli::Appliance;
use crate::config;

/// How long the appliance may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("cannot talk to the appliance on {}: {source}; is it running, and may this user (see `admin_socket_mode`)?", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It answers something else.
    #[error("the appliance answered what is no answer: {0}; is it of another version?")]
    Answer(#[from] serde_json::Error),
    /// It says no.
    #[error("{0}")]
    Appliance(String),
    /// The configuration does not name the socket.
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    /// Standard output is gone.
    #[error("cannot print: {0}")]
    Print(std::io::Error),
}

/// What the process ends with; an error is said.
pub fn ended(outcome: Result<(), ClientError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads (`head`) has seen enough.
        Err(ClientError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipos-appliance: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A conversation with the appliance.
pub struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Socket`] and [`ClientError::Config`].
    pub fn open(appliance: &Appliance) -> Result<Self, ClientError> {
        let path = match &appliance.socket {
            Some(path) => path.clone(),
            None => config::admin_socket(&appliance.config)?,
        };
        let stream = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(source) => Err(ClientError::Socket { path, source }),
        }
    }

    /// Asks for something, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`]; what the appliance says against it is one as well.
    pub fn ask(&mut self, request: &impl Serialize) -> Result<Value, ClientError> {
        let request = serde_json::to_string(request)?;
        let mut line = String::new();
        let talked =
            writeln!(self.stream.get_mut(), "{request}").and_then(|()| self.stream.read_line(&mut line));
        talked.map_err(|source| ClientError::Socket { path: self.path.clone(), source })?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer["error"].as_str() {
            Some(error) => Err(ClientError::Appliance(error.to_owned())),
            None => Ok(answer),
        }
    }
}
