//! Flows for whoever looks at them: listed page by page, and counted by board.

use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;

use super::{BOARDS_MAX, BoardId, WorkerId};

/// The table that an entry is in (Fig. 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// The request is not complete.
    Temporary,
    /// A board has been asked.
    ForwardConnect,
    /// Migrated.
    Forward,
    /// The appliance itself answers.
    Local,
}

/// One row of a flow listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// The connection.
    pub flow: Flow,
    /// Its protocol.
    pub protocol: Protocol,
    /// The table that it is in.
    pub table: Table,
    /// The board that holds it, once there is one.
    pub board: Option<BoardId>,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
}

/// Rows per [`FlowPage`].
pub const FLOW_PAGE_ROWS: usize = 256;

/// A page of a flow listing: made by who asks, filled by the worker, so that the worker allocates nothing.
#[derive(Debug)]
pub struct FlowPage {
    /// Names the listing to who asked.
    pub request: u64,
    /// The worker that filled it.
    pub worker: WorkerId,
    /// Where the listing goes on; `None` at its end. Starts at `Some(0)`.
    pub cursor: Option<u32>,
    /// Which flows.
    pub filter: FlowFilter,
    /// The rows; capacity [`FLOW_PAGE_ROWS`] is reserved by who asks, and never exceeded. A page with fewer, or none, need not be
    /// the last: the worker looks at a bounded number of entries.
    pub rows: Vec<FlowRow>,
}

/// Which flows are listed: those that fit all that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Clients of this network: its address, and the mask of its prefix.
    pub client: Option<(u32, u32)>,
    /// Flows of this service.
    pub endpoint: Option<(Ipv4Addr, u16)>,
    /// Flows that this board holds.
    pub board: Option<BoardId>,
    /// Flows in this table.
    pub table: Option<Table>,
    /// This one alone: it is looked up, and the rest of the filter does not count.
    pub flow: Option<Flow>,
}

impl FlowFilter {
    /// Whether such a flow is listed.
    #[inline]
    pub fn matches(&self, flow: &Flow, table: Table, board: Option<BoardId>) -> bool {
        self.client.is_none_or(|(network, mask)| flow.client.to_bits() & mask == network & mask)
            && self.endpoint.is_none_or(|endpoint| endpoint == (flow.endpoint, flow.endpoint_port))
            && self.board.is_none_or(|wanted| board == Some(wanted))
            && self.table.is_none_or(|wanted| wanted == table)
    }
}

/// How many flows a worker forwards to each board: made by who asks, filled by the worker.
pub struct FlowCount {
    /// The worker that filled it.
    pub worker: WorkerId,
    /// When it was asked for, on the clock of who asks.
    pub asked_at_ns: u64,
    /// By [`BoardId`].
    pub by_board: Box<[u32; BOARDS_MAX]>,
}

impl FlowCount {
    /// An empty page.
    pub fn new() -> Self {
        Self { worker: WorkerId(0), asked_at_ns: 0, by_board: Box::new([0; BOARDS_MAX]) }
    }
}

impl std::fmt::Debug for FlowCount {
    /// Without the thousand numbers.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FlowCount({:?}, {})", self.worker, self.asked_at_ns)
    }
}

impl Default for FlowCount {
    fn default() -> Self {
        Self::new()
    }
}
