//! Where the control core's decisions go: commands to workers, messages to boards.
//!
//! The state machines know only this trait; the queues and packet buffers behind it are in [`super::outlet`], a recorder in
//! tests.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipos_pipelines::handoff::{Command, PortIndex, WorkerId};
use ipos_wire::flow::Flow;
use ipos_wire::ipos::{Action, ApplicationName, NextRequest};
use ipos_wire::mac::Mac;
use ipos_wire::tcb::Tcb;

use super::check_client::Segment;

/// Where decisions go.
pub trait Sink {
    /// Tells a worker something. What an entry waits for is never lost, however full the queue is.
    fn tell(&mut self, worker: WorkerId, command: Command);

    /// Sends a message to a board, through the worker that owns the flow it is about. Under pressure it is lost, and
    /// counted: whoever sends repeats by its own timer.
    fn send(&mut self, way: Way, message: &Message);
}

/// How a board is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The farm port that it is behind.
    pub port: PortIndex,
    /// Its MAC address.
    pub to: Mac,
}

/// What boards are told and asked (docs/wire.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// 0x01: take this endpoint over.
    Connection {
        /// The connection.
        flow: Flow,
        /// The board's address, and the listening socket's port.
        server: (Ipv4Addr, u16),
        /// The endpoint.
        tcb: Tcb,
    },
    /// 0x01, UDP (Fig. 11F): take this flow of datagrams.
    UdpConnection {
        /// Client and endpoint.
        flow: Flow,
        /// The board's address, and the socket's port.
        server: (Ipv4Addr, u16),
    },
    /// 0x05: give this endpoint up by force.
    Detach {
        /// The connection.
        flow: Flow,
        /// The attempt to give up.
        id: u64,
    },
    /// 0x05 without force: give this endpoint up if the client's next request shows it quiescent.
    GiveUp {
        /// The connection.
        flow: Flow,
        /// The attempt by which the board has it.
        id: u64,
        /// The request.
        next: NextRequest,
    },
    /// 0x08: do you hold this endpoint?
    Question {
        /// The connection.
        flow: Flow,
        /// The question's own id.
        id: u64,
    },
    /// 0x02: a segment of a health check's.
    Segment {
        /// The connection.
        flow: Flow,
        /// The segment.
        segment: Segment,
        /// Its payload.
        payload: Option<Arc<[u8]>>,
    },
    /// 0x20: start or stop this application.
    Order {
        /// The board's address.
        server: Ipv4Addr,
        /// What to do.
        action: Action,
        /// Names the order.
        id: u64,
        /// The application.
        name: ApplicationName,
    },
    /// 0x13: close the connections of ours that are idle.
    CloseIdle {
        /// The board's address.
        board: Ipv4Addr,
        /// How long a connection must have been quiet, milliseconds.
        idle_ms: u16,
    },
    /// ARP: who has this address?
    WhoHas(Ipv4Addr),
}
