//! Listing: a page of the worker's flows for whoever asks, in pieces that a worker can afford.
//!
//! Input: [`Command::ListFlows`](crate::handoff::Command::ListFlows). Output: [`Event::Flows`]. Owner: the worker. Cost: at most
//! [`FLOW_PAGE_ROWS`] rows of two cache lines each, and [`SLOTS_MAX`] slots in order.

use crate::core::Core;
use crate::entry::State;
use crate::handoff::{Event, FLOW_PAGE_ROWS, FlowPage, FlowRow};

/// Slots that are looked at for one page. What a filter leaves out costs the slot alone, which lies in order in memory.
pub const SLOTS_MAX: u32 = 2048;

/// Fills a page with the flows that it asks for, and sends it back.
pub fn list_flows(core: &mut Core, mut page: Box<FlowPage>) {
    let now_ms = core.now.ms;
    page.worker = core.config.id;
    page.rows.clear();
    let room = page.rows.capacity().min(FLOW_PAGE_ROWS);
    let FlowPage { rows, cursor, filter, .. } = &mut *page;
    let board = |state, board| (state == State::Forward).then_some(board);
    if let Some(flow) = filter.flow {
        let shard = &core.shard;
        let found = shard.lookup(&flow).and_then(|at| Some((shard.get(at)?, shard.idle_ms(at, now_ms)?)));
        rows.extend(found.filter(|_| room > 0).map(|(entry, idle_ms)| {
            let (table, board) = (entry.state.table(), board(entry.state, entry.board));
            FlowRow { flow, table, board, idle_ms }
        }));
        *cursor = None;
    }
    let mut slots_left = SLOTS_MAX;
    while let Some(start) = *cursor
        && rows.len() < room
        && slots_left > 0
    {
        // Each slot gives one row at most, so the page cannot overflow.
        let slots = slots_left.min((room - rows.len()) as u32);
        *cursor = core.shard.visit_chunk(
            start,
            slots,
            now_ms,
            |flow, entry| filter.matches(flow, entry.state.table(), board(entry.state, entry.board)),
            |_, flow, entry, idle_ms| {
                let (table, board) = (entry.state.table(), board(entry.state, entry.board));
                rows.push(FlowRow { flow: *flow, table, board, idle_ms });
            },
        );
        slots_left -= slots;
    }
    // A full queue loses the page: who asked asks again.
    core.tell(Event::Flows(page));
}
