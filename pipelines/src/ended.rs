//! Ended: connections that count against limits of `[service.admit]`, on their way to the control core that counts them.
//!
//! Input: a counted entry that ends. Output: [`Event::Ended`], several at a time. Owner: the worker. Cost: one push for each counted
//! connection, one message for [`ENDED_EACH`] of them; nothing where no service has such limits. What does not fit the queue waits
//! here, in memory that was taken at the start: every counted connection has an entry, so there are never more than entries.

use arrayvec::ArrayVec;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;

use crate::core::Core;
use crate::handoff::{Counted, ENDED_EACH, EndedFlow, Event};
use crate::table::OutOfMemory;
use crate::table::slab::EntryRef;

/// Messages told in one poll, at most.
const MESSAGES: usize = 16;

/// Ended connections that the control core has not been told of.
pub struct Ended {
    owed: Vec<EndedFlow>,
}

impl Ended {
    /// Room for so many; takes all memory that it will ever use. It is touched as far as it is used.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(entries: usize) -> Result<Self, OutOfMemory> {
        let mut owed = Vec::new();
        let octets = entries.saturating_mul(size_of::<EndedFlow>());
        owed.try_reserve_exact(entries).map_err(|_| OutOfMemory { octets })?;
        Ok(Self { owed })
    }

    /// A connection that counted here has ended.
    #[inline]
    pub fn owe(&mut self, flow: Flow, protocol: Protocol, counted: Counted) {
        if counted != Counted::No && self.owed.len() < self.owed.capacity() {
            self.owed.push(EndedFlow { flow, protocol, counted });
        }
    }

    /// How many the control core has not been told of.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }
}

/// An entry ends, or begins to linger: it counts no more.
#[inline]
pub fn entry(core: &mut Core, entry: EntryRef) {
    let Some(mut found) = core.shard.get_mut(entry) else { return };
    let counted = std::mem::take(&mut found.counted);
    std::mem::drop(found);
    if counted != Counted::No
        && let Some(flow) = core.shard.flow(entry)
    {
        core.ended.owe(flow, Protocol::Tcp, counted);
    }
}

/// Tells the control core of what has ended. Returns how many connections that were.
pub fn tell(core: &mut Core) -> usize {
    let mut told = 0;
    for _ in 0..MESSAGES {
        let owed = &mut core.ended.owed;
        // Requests of clients go first: this can wait.
        if owed.is_empty() || core.events.room() == 0 {
            break;
        }
        let flows: ArrayVec<EndedFlow, ENDED_EACH> =
            owed.drain(owed.len().saturating_sub(ENDED_EACH)..).collect();
        told += flows.len();
        core.tell(Event::Ended(flows));
    }
    told
}
