//! Listing: a page of the worker's flows for whoever asks, in pieces that a worker can afford.
//!
//! Input: [`Command::ListFlows`](crate::handoff::Command::ListFlows). Output: [`Event::Flows`]. Owner: the worker. Cost: at most
//! [`FLOW_PAGE_ROWS`] rows of two cache lines each, and [`SLOTS_MAX`] slots in order.

use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;

use crate::core::Core;
use crate::entry::State;
use crate::handoff::{BoardId, Event, FLOW_PAGE_ROWS, FlowPage, FlowRow, Table};

/// Slots that are looked at for one page. What a filter leaves out costs the slot alone, which lies in order in memory.
pub const SLOTS_MAX: u32 = 2048;

/// The bit of a cursor that says that it counts flows of datagrams: a shard has fewer slots.
const DATAGRAMS: u32 = 1 << 31;

const fn table_of(board: Option<BoardId>) -> Table {
    if board.is_some() { Table::Forward } else { Table::ForwardConnect }
}

fn datagram_row(flow: &Flow, board: Option<BoardId>, idle_ms: u32) -> FlowRow {
    FlowRow { flow: *flow, protocol: Protocol::Udp, table: table_of(board), board, idle_ms }
}

/// Fills a page with the flows that it asks for, and sends it back.
pub fn list_flows(core: &mut Core, mut page: Box<FlowPage>) {
    let now_ms = core.now.ms;
    page.worker = core.config.id;
    page.rows.clear();
    let room = page.rows.capacity().min(FLOW_PAGE_ROWS);
    let FlowPage { rows, cursor, filter, .. } = &mut *page;
    let board = |state: State, board| state.is_at_board().then_some(board);
    if let Some(flow) = filter.flow {
        let shard = &core.shard;
        let found = shard.lookup(&flow).and_then(|at| Some((shard.get(at)?, shard.idle_ms(at, now_ms)?)));
        rows.extend(found.filter(|_| room > 0).map(|(entry, idle_ms)| {
            let (table, board) = (entry.state.table(), board(entry.state, entry.board));
            FlowRow { flow, protocol: Protocol::Tcp, table, board, idle_ms }
        }));
        let flows = &core.datagrams.flows;
        let found = flows.lookup(&flow).and_then(|at| Some((flows.get(at)?, flows.idle_ms(at, now_ms)?)));
        let more = found.filter(|_| rows.len() < room);
        rows.extend(more.map(|(found, idle_ms)| datagram_row(&flow, found.board(), idle_ms)));
        *cursor = None;
    }
    let mut slots_left = SLOTS_MAX;
    while let Some(start) = *cursor
        && rows.len() < room
        && slots_left > 0
    {
        // Each slot gives one row at most, so the page cannot overflow.
        let slots = slots_left.min((room - rows.len()) as u32);
        slots_left -= slots;
        if start & DATAGRAMS != 0 {
            *cursor = core.datagrams.flows.visit_chunk(
                start & !DATAGRAMS,
                slots,
                now_ms,
                |flow, found| filter.matches(flow, table_of(found.board()), found.board()),
                |_, flow, found, idle_ms| rows.push(datagram_row(flow, found.board(), idle_ms)),
            );
            *cursor = cursor.map(|next| next | DATAGRAMS);
            continue;
        }
        *cursor = core.shard.visit_chunk(
            start,
            slots,
            now_ms,
            |flow, entry| filter.matches(flow, entry.state.table(), board(entry.state, entry.board)),
            |_, flow, entry, idle_ms| {
                let (table, board) = (entry.state.table(), board(entry.state, entry.board));
                rows.push(FlowRow { flow: *flow, protocol: Protocol::Tcp, table, board, idle_ms });
            },
        );
        // Behind the last connection come the flows of datagrams.
        *cursor = Some(cursor.unwrap_or(DATAGRAMS));
    }
    // A full queue loses the page: who asked asks again.
    core.tell(Event::Flows(page));
}
