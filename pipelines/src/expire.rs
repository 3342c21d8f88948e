//! Expire: what is due in the worker's timing wheel, a bounded number each poll.
//!
//! Input: entries whose time has come. Output: 408, 503, retransmissions, questions to boards, removals. Owner: the worker.
//! Cost: at most [`BUDGET`] entries a poll, whatever the shard holds.

use arrayvec::ArrayVec;

use crate::admit;
use crate::core::Core;
use crate::counters::Happening;
use crate::entry::{Asked, Stage, State};
use crate::forward;
use crate::handoff::{Answer, Event, Holder};
use crate::layer4;
use crate::local;
use crate::migrate::{self, SETTLE_MS};
use crate::recover;
use crate::request::stage::{OWED_RETRY_MS, place_if_owed};
use crate::table::slab::EntryRef;
use crate::table::wheel::Due;
use crate::watch::held;

/// Entries handled per poll.
pub const BUDGET: usize = 64;

/// Handles what is due. Returns how many entries the wheel touched, those included that it only moved nearer.
pub fn expire(core: &mut Core) -> usize {
    let mut due: ArrayVec<EntryRef, BUDGET> = ArrayVec::new();
    let now_ms = core.now.ms;
    let work = core.shard.expire(now_ms, BUDGET, |entry, _, _| {
        let _ = due.try_push(entry);
        // Whoever handles the entry sets its next time; should nobody, it comes again.
        Due::Again(now_ms.wrapping_add(1_000))
    });
    for entry in due {
        act(core, entry);
    }
    work.total()
}

fn act(core: &mut Core, entry: EntryRef) {
    let Some(found) = core.shard.get(entry) else { return };
    match found.state {
        State::Temporary => {
            core.happened(Happening::ExpiredPending);
            local::answer(core, entry, Answer::RequestTimeout);
        }
        State::ForwardConnect => placing(core, entry),
        State::Local if found.closing => core.remove(entry),
        State::Local => local::send(core, entry),
        State::Asking => recover::give_up(core, entry),
        State::Admitting => admit::give_up(core, entry),
        State::GivenUp => core.remove(entry),
        State::Forward | State::Watched | State::Layer4 if found.closing => core.remove(entry),
        State::Layer4 => layer4::idle(core, entry),
        State::Forward | State::Watched => idle(core, entry),
    }
}

/// The control core has not decided yet, or has not even been told.
fn placing(core: &mut Core, entry: EntryRef) {
    if core.pending_of(entry).is_some_and(|pending| pending.stage == Stage::Collecting) {
        return held::expired(core, entry);
    }
    let place_ms = core.config.timeouts.place_ms;
    let now_ms = core.now.ms;
    let Some((waited_ms, owed)) =
        core.pending_of(entry).map(|pending| (now_ms.wrapping_sub(pending.since_ms), pending.event_owed))
    else {
        return core.remove(entry);
    };
    if waited_ms < place_ms {
        core.schedule_in(entry, if owed { OWED_RETRY_MS } else { place_ms - waited_ms });
        return place_if_owed(core, entry);
    }
    if core.pending_of(entry).is_some_and(|pending| pending.stage == Stage::AskedAgain) {
        return held::undecided(core, entry);
    }
    core.happened(Happening::ExpiredPending);
    if let Some(flow) = core.shard.flow(entry) {
        // Should the queue be full, the verdict that still comes finds the entry gone, and is abandoned then.
        let migrated = core.shard.get(entry).and_then(|found| found.holder());
        core.tell(Event::Abandon { entry, flow, migrated });
    }
    local::answer(core, entry, Answer::Unavailable);
}

/// A migrated connection whose time has come: most have been active since and are put off.
fn idle(core: &mut Core, entry: EntryRef) {
    if let Some(wait_ms) = migrate::repeat_ack(core, entry) {
        return core.schedule_in(entry, wait_ms);
    }
    let now_ms = core.now.ms;
    if let Some(pending) = core.pending_of(entry)
        && now_ms.wrapping_sub(pending.since_ms) >= SETTLE_MS
    {
        forward::settle(core, entry);
    }
    let Some(found) = core.shard.get(entry) else { return };
    let limit_ms = found.idle_limit_ms(&core.config.timeouts);
    let idle_ms = core.shard.idle_ms(entry, now_ms).unwrap_or(0);
    if idle_ms < limit_ms {
        let left_ms = limit_ms - idle_ms;
        let wait_ms = if found.pending.is_some() && found.state == State::Forward {
            left_ms.min(SETTLE_MS)
        } else {
            left_ms
        };
        if found.asked != Asked::default()
            && let Some(mut found) = core.shard.get_mut(entry)
        {
            // Its client has been heard since.
            found.asked = Asked::default();
        }
        return core.schedule_in(entry, wait_ms);
    }
    if found.asked.is_open() {
        // The control core owes an answer and has not given it.
        return recover::holder(core, entry, Holder::Unknown);
    }
    recover::ask_if_held(core, entry, found.board);
}
