//! `ipos-appliance status`: asks the running appliance and prints its tables.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::admin::socket::{Next, Query, What};
use crate::config;

mod tables;

/// How long the appliance may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error("cannot talk to the appliance on {}: {source}; is it running, and may this user (see `admin_socket_mode`)?", path.display())]
    Socket { path: PathBuf, source: std::io::Error },
    #[error("the appliance answered what is no answer: {0}; is it of another version?")]
    Answer(#[from] serde_json::Error),
    #[error("{0}")]
    Appliance(String),
    #[error("{0}")]
    Config(#[from] config::ConfigError),
    #[error("cannot print: {0}")]
    Print(std::io::Error),
}

/// Asks and prints.
pub fn main(what: What, json: bool, socket: Option<PathBuf>, config: &Path) -> ExitCode {
    match show(what, json, socket, config) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads (`head`) has seen enough.
        Err(StatusError::Print(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipos-appliance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(what: What, json: bool, socket: Option<PathBuf>, config: &Path) -> Result<(), StatusError> {
    let path = match socket {
        Some(path) => path,
        None => config::admin_socket(config)?,
    };
    let mut connection = Connection::open(path)?;
    let mut out = std::io::stdout().lock();
    if what == What::Flows {
        return flows(&mut connection, json, &mut out);
    }
    let rows = connection.ask(Query { what, worker: 0, cursor: 0 })?["rows"].take();
    let text = if json { format!("{rows}\n") } else { tables::render(what, &rows) };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(StatusError::Print)
}

/// Flows come page by page, and are printed as they come: there may be millions.
fn flows(connection: &mut Connection, json: bool, out: &mut impl Write) -> Result<(), StatusError> {
    let mut next = Some(Next { worker: 0, cursor: 0 });
    let mut print = |text: &str| out.write_all(text.as_bytes()).map_err(StatusError::Print);
    print(&if json { "[".to_owned() } else { tables::flow_titles() })?;
    let mut separator = "";
    while let Some(Next { worker, cursor }) = next {
        let mut answer = connection.ask(Query { what: What::Flows, worker, cursor })?;
        next = serde_json::from_value(answer["next"].take())?;
        for row in answer["rows"].as_array().map_or(&[][..], Vec::as_slice) {
            if json {
                print(&format!("{separator}{row}"))?;
                separator = ",";
            } else {
                print(&tables::flow(row))?;
            }
        }
    }
    if json {
        print("]\n")?;
    }
    out.flush().map_err(StatusError::Print)
}

/// A conversation with the appliance.
struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Connection {
    fn open(path: PathBuf) -> Result<Self, StatusError> {
        let stream = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream) }),
            Err(source) => Err(StatusError::Socket { path, source }),
        }
    }

    fn ask(&mut self, query: Query) -> Result<Value, StatusError> {
        let request = serde_json::to_string(&query)?;
        let mut line = String::new();
        let talked =
            writeln!(self.stream.get_mut(), "{request}").and_then(|()| self.stream.read_line(&mut line));
        talked.map_err(|source| StatusError::Socket { path: self.path.clone(), source })?;
        let answer: Value = serde_json::from_str(&line)?;
        match answer["error"].as_str() {
            Some(error) => Err(StatusError::Appliance(error.to_owned())),
            None => Ok(answer),
        }
    }
}
