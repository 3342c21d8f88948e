//! Recover: a packet of a connection that this worker does not know. The farm is asked who holds it (0x08), and nobody
//! resets anything on a guess (design: system.md, table of corners).
//!
//! Input: non-SYN packets without entry and without valid cookie; the control core's answers. Output: a rebuilt Forward
//! entry and the packet on its way; or, once every live board has denied, a RST. Owner: the worker. Cost: one entry and
//! one held packet per flow, both bounded; questions are bounded per second.

use ipos_dpdk::mbuf::Mbuf;

use crate::core::{Core, WAITING_MAX};
use crate::counters::{Drop, Happening};
use crate::entry::{Asked, State};
use crate::forward;
use crate::handoff::{BoardId, Event, Holder};
use crate::layer4;
use crate::local;
use crate::migrate;
use crate::parse::TcpPacket;
use crate::table::slab::EntryRef;
use crate::verdict::Verdict;
use crate::watch;

/// How long a denied packet waits for its RST, milliseconds. A request's second segment can overtake its first, whose
/// cookie alone can prove the connection; the client sends the first again within this time.
const GRACE_MS: u32 = 1_000;

/// Flows that may wait at once for denied packets to have their grace too: with more, a denied packet is answered right
/// away. Otherwise a thousand made-up packets a second would take all places from connections that a board holds.
const GRACE_WAITING_MAX: u32 = WAITING_MAX / 2;

/// An idle connection whose board has not answered so many questions in a row is forgotten: its board may be gone for good.
pub const UNANSWERED_MAX: u8 = 5;

/// How long after a question without an answer the next one is asked, milliseconds; where less idle time is enough, after that.
pub const ASK_AGAIN_MS: u32 = 30_000;

/// The control core always answers; after this long the question is given up all the same, milliseconds.
const ANSWER_MS: u32 = 5_000;

/// A packet that waits for the farm's answer.
#[derive(Debug)]
pub struct Waiting {
    /// The packet's headers.
    pub packet: TcpPacket,
    /// The frame.
    pub frame: Mbuf,
    /// Every live board has denied.
    pub denied: bool,
}

/// A packet of an unknown connection: the farm is asked, the packet waits.
pub fn unknown(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    match ask(core, packet, mbuf) {
        Ok(()) => Verdict::Held,
        Err((reason, _)) => Verdict::Drop(reason),
    }
}

/// Asks the farm who holds a packet's connection; the packet waits.
///
/// # Errors
/// Why it cannot be asked now, with the packet.
pub fn ask(core: &mut Core, packet: &TcpPacket, mbuf: Mbuf) -> Result<(), (Drop, Mbuf)> {
    if core.waiting.is_full() || !core.questions.take(core.now.ms) {
        return Err((Drop::AskLimit, mbuf));
    }
    let entry = match core.enter(&packet.flow, State::Asking, None) {
        Ok(entry) => entry,
        Err(reason) => return Err((reason, mbuf)),
    };
    if !core.tell(Event::WhoHolds { entry, flow: packet.flow, board: None }) {
        core.remove(entry);
        return Err((Drop::ControlFull, mbuf));
    }
    // There is room, as was seen above.
    let waiting = core.waiting.insert(Waiting { packet: *packet, frame: mbuf, denied: false }).ok();
    if let Some(mut entry) = core.shard.get_mut(entry) {
        entry.pending = waiting;
    }
    core.happened(Happening::HolderAsked);
    core.schedule_in(entry, ANSWER_MS);
    Ok(())
}

/// The control core says who holds an endpoint.
pub fn holder(core: &mut Core, entry: EntryRef, holder: Holder) {
    let Some(found) = core.shard.get(entry) else { return };
    match found.state {
        State::Asking => asked(core, entry, holder),
        State::Forward | State::Watched => still_held(core, entry, holder),
        // The connection proved itself while the farm was being asked.
        _ => {}
    }
}

fn asked(core: &mut Core, entry: EntryRef, holder: Holder) {
    let Some((flow, hanging)) =
        core.shard.flow(entry).zip(core.shard.get(entry).and_then(|entry| entry.pending))
    else {
        return core.remove(entry);
    };
    match holder {
        Holder::Board(board, migration_id) => found(core, entry, (board, migration_id), false),
        Holder::TimeWait(board) => found(core, entry, (board, 0), true),
        Holder::Nobody => {
            core.happened(Happening::HolderDenied);
            if let Some(service) = layer4::service_of(core, &flow) {
                return layer4::unclaimed(core, entry, service);
            }
            if let Some(waiting) = core.waiting.get_mut(hanging) {
                waiting.denied = true;
            }
            if core.waiting.len() > GRACE_WAITING_MAX {
                return give_up(core, entry);
            }
            core.schedule_in(entry, GRACE_MS);
        }
        Holder::Unknown => {
            core.happened(Happening::HolderUnknown);
            core.remove(entry);
        }
    }
}

/// A board holds the endpoint, or its TIME-WAIT: what waited goes there.
fn found(core: &mut Core, entry: EntryRef, (board, migration_id): (BoardId, u64), is_closing: bool) {
    core.happened(Happening::HolderFound);
    let Some(flow) = core.shard.flow(entry) else { return };
    // By a migration id a reload may have given the endpoint to that kind.
    let is_layer4 = migration_id == 0 && layer4::service_of(core, &flow).is_some();
    let mut waiting = None;
    if let Some(mut found) = core.shard.get_mut(entry) {
        waiting = found.pending.take().and_then(|hanging| core.waiting.remove(hanging));
        (found.board, found.migration_id, found.closing) = (board, migration_id, is_closing);
    }
    core.shard.see(entry, core.now.ms);
    core.change_state(entry, if is_layer4 { State::Layer4 } else { State::Forward });
    let timeouts = core.config.timeouts;
    core.schedule_in(entry, if is_closing { timeouts.linger_ms } else { timeouts.idle_ms });
    if let Some(Waiting { packet, frame, .. }) = waiting {
        let verdict = forward::packet(core, entry, &packet, frame);
        core.went_on(verdict);
    }
}

/// The answer to an idle connection's question. An entry that is removed wrongly is rebuilt by its next packet, but what was known of its
/// requests and of its session is gone: a board that is cut off for a moment is asked again.
fn still_held(core: &mut Core, entry: EntryRef, holder: Holder) {
    let idle_ms = core.config.timeouts.idle_ms;
    let since_ms = core.shard.idle_ms(entry, core.now.ms).unwrap_or(0);
    let Some(mut found) = core.shard.get_mut(entry) else { return };
    if !found.asked.is_open() {
        return;
    }
    let limit_ms = found.idle_limit_ms(&core.config.timeouts);
    if holder == Holder::Unknown && (found.asked.unanswered() < UNANSWERED_MAX || since_ms < limit_ms) {
        std::mem::drop(found);
        return core.schedule_in(entry, limit_ms.min(ASK_AGAIN_MS));
    }
    found.asked = Asked::default();
    match holder {
        Holder::Board(board, migration_id) => {
            let (before, is_closing) = (std::mem::replace(&mut found.board, board), found.closing);
            let id_before = std::mem::replace(&mut found.migration_id, migration_id);
            let is_watched = found.state == State::Watched;
            std::mem::drop(found);
            if !is_closing {
                core.by_board.left(before);
                core.by_board.joined(board);
            }
            if is_watched && (before, id_before) != (board, migration_id) {
                watch::relearned(core, entry);
            }
            core.shard.see(entry, core.now.ms);
            core.schedule_in(entry, idle_ms);
        }
        // Its notice was lost.
        Holder::TimeWait(board) if found.board == board && !found.closing => {
            std::mem::drop(found);
            migrate::linger(core, entry);
        }
        Holder::TimeWait(_) | Holder::Nobody | Holder::Unknown => {
            std::mem::drop(found);
            core.happened(Happening::ExpiredIdle);
            core.remove(entry);
        }
    }
}

/// Asks the board of a connection that has been idle whether it still holds it.
pub fn ask_if_held(core: &mut Core, entry: EntryRef, board: BoardId) {
    let Some(flow) = core.shard.flow(entry) else { return };
    let told = core.tell(Event::WhoHolds { entry, flow, board: Some(board) });
    if told {
        if let Some(mut found) = core.shard.get_mut(entry) {
            found.asked.open();
        }
        core.happened(Happening::HolderAsked);
    }
    core.schedule_in(entry, ANSWER_MS);
}

/// An entry has waited long enough: a denied packet is answered by RST, any other is forgotten.
pub fn give_up(core: &mut Core, entry: EntryRef) {
    let hanging = core.shard.get_mut(entry).and_then(|mut entry| entry.pending.take());
    let waiting = hanging.and_then(|hanging| core.waiting.remove(hanging));
    core.remove(entry);
    if let Some(Waiting { packet, frame, denied: true }) = waiting {
        // Counted as held when it came; `refuse` counts the RST itself.
        let _ = local::refuse(core, &packet, frame);
    }
}

/// The connection has proven itself by its cookie while the farm was being asked: the packet that waited is handed back.
pub fn withdraw(core: &mut Core, entry: EntryRef) -> Option<Waiting> {
    let hanging = core.shard.get_mut(entry)?.pending.take()?;
    let waiting = core.waiting.remove(hanging);
    core.remove(entry);
    waiting
}
