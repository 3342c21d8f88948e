//! The admin thread: signals, `/metrics` and `/healthz`, and the Unix socket that `status` talks to.
//!
//! An ordinary thread, never on a worker's core by its own will. It reads the workers' counters and asks the control core
//! for everything else by message (design: system.md, roles).

pub mod collector;
pub mod commands;
pub mod http;
pub mod live;
pub mod metrics;
pub mod rows;
pub mod socket;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use collector::Collector;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

/// Between two looks at the counters when nobody scrapes.
const TICK: Duration = Duration::from_secs(1);

/// Why the admin thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address of `/metrics` cannot be had.
    #[error(
        "cannot serve metrics on {address}: {source}; choose another `metrics` address, or \"\" for none"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The socket of `status` cannot be had.
    #[error("cannot listen on {}: {source}; its directory must exist and be writable, see `admin_socket`", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another appliance answers on the socket.
    #[error("another appliance runs here: it answers on {}; stop it, or choose another `admin_socket`", path.display())]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// The thread or its runtime.
    #[error("cannot start the admin thread: {0}")]
    Thread(std::io::Error),
}

/// What the admin thread serves, bound and not served yet.
pub struct Listeners {
    http: Option<TcpListener>,
    socket: UnixListener,
}

/// Binds the addresses, so that what is wrong with them is said before anything else starts.
///
/// # Errors
/// [`AdminError`] says which, and how to mend it.
pub fn bind(metrics: Option<SocketAddr>, socket: &Path, mode: u32) -> Result<Listeners, AdminError> {
    let http = metrics
        .map(|address| {
            let listener =
                TcpListener::bind(address).and_then(|http| http.set_nonblocking(true).map(|()| http));
            listener.map_err(|source| AdminError::Metrics { address, source })
        })
        .transpose()?;
    let path = socket.to_owned();
    if UnixStream::connect(socket).is_ok() {
        return Err(AdminError::Running { path });
    }
    let bound = || -> std::io::Result<UnixListener> {
        if let Some(directory) = socket.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // What nobody answers on was left by an appliance that was killed.
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bound().map(|socket| Listeners { http, socket }).map_err(|source| AdminError::Socket { path, source })
}

/// Starts the thread. `stop` is set when a signal asks for the end.
///
/// # Errors
/// [`AdminError::Thread`].
pub fn spawn(listeners: Listeners, collector: Collector, stop: Arc<AtomicBool>) -> Result<(), AdminError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::Thread)?;
    let signals = {
        let _inside = runtime.enter();
        let catch = |kind| signal(kind).map_err(AdminError::Thread);
        Signals {
            term: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hang_up: catch(SignalKind::hangup())?,
        }
    };
    let collector = Arc::new(Mutex::new(collector));
    let serve = move || {
        if let Err(error) = runtime.block_on(serve(listeners, collector, signals, stop)) {
            tracing::error!(%error, "the admin thread ends");
        }
    };
    std::thread::Builder::new().name("ipos-admin".to_owned()).spawn(serve).map_err(AdminError::Thread)?;
    Ok(())
}

/// What the appliance listens to.
struct Signals {
    term: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

async fn serve(
    listeners: Listeners,
    collector: Arc<Mutex<Collector>>,
    mut signals: Signals,
    stop: Arc<AtomicBool>,
) -> std::io::Result<()> {
    if let Some(listener) = listeners.http {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let routes = http::routes(Arc::clone(&collector));
        tokio::spawn(async move { axum::serve(listener, routes).await });
    }
    let listener = tokio::net::UnixListener::from_std(listeners.socket)?;
    tokio::spawn(socket::serve(listener, Arc::clone(&collector)));
    tokio::spawn(keep_looking(Arc::clone(&collector)));
    // Nothing else on this task: a signal must not wait for a control core that does not answer, or behind others who do.
    loop {
        tokio::select! {
            _ = signals.term.recv() => ask_to_stop(&stop, "SIGTERM"),
            _ = signals.interrupt.recv() => ask_to_stop(&stop, "SIGINT"),
            _ = signals.hang_up.recv() => drop(tokio::spawn(reload(Arc::clone(&collector)))),
        }
    }
}

/// SIGHUP: what became of it is in the log.
async fn reload(collector: Arc<Mutex<Collector>>) {
    let answer = commands::carry_out(commands::Do::Reload, &mut *collector.lock().await).await;
    for line in answer["done"].as_array().into_iter().flatten() {
        tracing::info!(what = line.as_str().unwrap_or_default(), "reloaded");
    }
}

async fn keep_looking(collector: Arc<Mutex<Collector>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        collector.lock().await.tick().await;
    }
}

fn ask_to_stop(stop: &AtomicBool, signal: &str) {
    tracing::info!(signal, "stopping");
    stop.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_heard_while_others_wait_for_the_control_core() {
        let directory = std::env::temp_dir().join(format!("ipos-admin-signal-{}", std::process::id()));
        let listeners = bind(None, &directory.join("admin.sock"), 0o600).expect("a temporary directory");
        let (ask, _requests) = crossbeam_channel::bounded(1);
        let about = collector::About {
            id: 1,
            epoch: 1,
            started_s: 0.0,
            ports: Vec::new(),
            boards: Vec::new(),
            urls: Vec::new(),
        };
        let collector = Arc::new(Mutex::new(Collector::new(about, Vec::new(), ask, live::tests::live())));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let heard = runtime.block_on(async {
            // Somebody is being answered, as long as it takes.
            let _busy = collector.lock().await;
            let kinds =
                [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::window_change()];
            let [Ok(term), Ok(interrupt), Ok(hang_up)] = kinds.map(signal) else {
                panic!("signals cannot be caught")
            };
            let signals = Signals { term, interrupt, hang_up };
            tokio::spawn(serve(listeners, Arc::clone(&collector), signals, Arc::clone(&stop)));
            let pid = std::process::id().to_string();
            let sent = std::process::Command::new("kill").args(["-USR1", &pid]).status();
            assert!(sent.is_ok_and(|status| status.success()));
            let asked = async {
                while !stop.load(Ordering::Relaxed) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), asked).await
        });
        let _ = std::fs::remove_dir_all(&directory);
        assert!(heard.is_ok(), "no stop within 10 s");
    }
}
