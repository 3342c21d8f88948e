//! Closes connections that are idle, when an appliance asks for it (0x13): a drain's deadline is over.
//!
//! A connection is idle when the board has sent data last (the programs see which way it went), all of it is acknowledged, nothing is
//! unread, and it has been quiet for as long as the appliance says. Then its reading side is shut down, through a copy of the
//! application's own descriptor: the application reads the end, as if the client had closed, and closes the connection in its own way.
//! A request that arrives in that very moment is still read first, so none is cut off.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;
use procfs::process::{self, FDTarget};
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tracing::{debug, info, warn};

use crate::sockets::{Established, SockDiag};

/// What came of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    /// Connections that were idle, and closed.
    pub closed: usize,
    /// Those that were idle, and whose process could not be reached.
    pub unreachable: usize,
}

fn is_idle(socket: &Established, idle_ms: u32) -> bool {
    socket.waiting == 0 && socket.quiet_ms >= idle_ms
}

/// Closes the idle connections among those that `is_between_requests` knows as the appliance's own, between two requests.
///
/// # Errors
/// When the kernel refuses to list sockets. A process that cannot be reached is logged.
pub fn close(
    diag: &mut SockDiag,
    appliance: Ipv4Addr,
    idle_ms: u32,
    is_between_requests: impl Fn(&Flow) -> bool,
) -> io::Result<Closed> {
    let mut idle: HashMap<u64, Flow> = HashMap::new();
    for socket in diag.established()? {
        if is_idle(&socket, idle_ms) && is_between_requests(&socket.flow) {
            idle.insert(u64::from(socket.inode), socket.flow);
        }
    }
    let mut outcome = Closed::default();
    if idle.is_empty() {
        return Ok(outcome);
    }
    let Ok(all) = process::all_processes() else { return Ok(outcome) };
    for process in all.flatten() {
        // A process may end meanwhile, or belong to somebody else.
        let Ok(descriptors) = process.fd() else { continue };
        for descriptor in descriptors.flatten() {
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            let Some(flow) = idle.get(&inode).copied() else { continue };
            // Again, in case a request has come since the list was made.
            let now = diag.established_of(&flow)?;
            if !now.is_some_and(|now| is_idle(&now, idle_ms)) || !is_between_requests(&flow) {
                idle.remove(&inode);
                continue;
            }
            match end_reading(process.pid, descriptor.fd) {
                Ok(()) => {
                    debug!(%flow, pid = process.pid, "idle connection closed");
                    outcome.closed += 1;
                    idle.remove(&inode);
                }
                Err(error) => debug!(%flow, pid = process.pid, %error, "idle connection not closed"),
            }
        }
    }
    outcome.unreachable = idle.len();
    if outcome.unreachable > 0 {
        warn!(
            %appliance,
            unreachable = outcome.unreachable,
            "idle connections whose process cannot be reached; the agent needs CAP_SYS_PTRACE"
        );
    }
    info!(%appliance, closed = outcome.closed, "closed idle connections");
    Ok(outcome)
}

/// Ends the reading of another process's socket.
fn end_reading(pid: i32, descriptor: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let socket = pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty())?;
    Ok(shutdown(socket, Shutdown::Read)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream, Flow) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let (server, _) = listener.accept().expect("accept");
        let v4 = |address: io::Result<SocketAddr>| match address.expect("address") {
            SocketAddr::V4(v4) => v4,
            SocketAddr::V6(v6) => panic!("{v6}"),
        };
        let (near, far) = (v4(client.local_addr()), v4(server.local_addr()));
        let flow = Flow {
            client: *near.ip(),
            client_port: near.port(),
            endpoint: *far.ip(),
            endpoint_port: far.port(),
        };
        (client, server, flow)
    }

    #[test]
    fn an_idle_connection_reads_its_end_and_can_still_answer() {
        let (mut client, mut server, flow) = pair();
        let mut diag = SockDiag::open().expect("sock_diag");
        let none = close(&mut diag, Ipv4Addr::LOCALHOST, 60_000, |other| *other == flow).expect("sockets");
        assert_eq!(none, Closed::default(), "it has not been quiet for so long");
        // What the client sends is unread: no idle connection.
        client.write_all(b"request").expect("written");
        let none = close(&mut diag, Ipv4Addr::LOCALHOST, 0, |other| *other == flow).expect("sockets");
        assert_eq!(none, Closed::default(), "a request waits");
        let mut octets = [0; 16];
        assert_eq!(server.read(&mut octets).expect("the request"), 7);
        let none = close(&mut diag, Ipv4Addr::LOCALHOST, 0, |_| false).expect("sockets");
        assert_eq!(none, Closed::default(), "not between requests");
        let one = close(&mut diag, Ipv4Addr::LOCALHOST, 0, |other| *other == flow).expect("sockets");
        assert_eq!(one, Closed { closed: 1, unreachable: 0 });
        assert_eq!(server.read(&mut octets).expect("the end"), 0);
        server.write_all(b"answer").expect("the other way is open");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("a clean end");
        assert_eq!(answer, "answer");
    }
}
