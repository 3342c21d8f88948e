//! Admit: the first packet of a connection that is not terminated here, to a service that has limits for clients
//! (`[service.admit]`). It waits while the control core, which counts for all workers, is asked.
//!
//! Input: SYNs to such services of kind `l4` that have no entry which counts; the control core's answers. Output: [`Event::Admit`];
//! then the SYN on its way to its board, and an entry that counts until its end, or a RST. Owner: the worker. Cost: a message each
//! way for each connection; services without limits pay for one look at their row. Bounded: [`HELD_MAX`] SYNs wait, no more than
//! `ASKED_PER_SECOND` are asked about, and half of the queue to the control core at most is for them, so that a flood leaves
//! it to the requests of others. A SYN too many is dropped; its client sends it again.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;

use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::ended;
use crate::entry::State;
use crate::handoff::{Admission, Counted, Event};
use crate::layer4;
use crate::limit::Limit;
use crate::local;
use crate::parse::TcpPacket;
use crate::table::OutOfMemory;
use crate::table::slab::{EntryRef, Slab};
use crate::verdict::Verdict;

/// SYNs of one worker that wait at once.
pub const HELD_MAX: u32 = 512;

/// SYNs that one worker asks about in a second, at most.
const ASKED_PER_SECOND: u32 = 20_000;

/// The control core always answers; after this long the SYN is forgotten all the same, milliseconds. The client has sent it
/// again by then, more than once.
pub const ANSWER_MS: u32 = 10_000;

/// A SYN that waits.
#[derive(Debug)]
pub struct Held {
    /// Its headers.
    packet: TcpPacket,
    /// The service addressed.
    service: u16,
    /// The entry is of a flow that a board has, and that does not count: the SYN may be a forged one.
    known: bool,
    frame: Mbuf,
}

/// All SYNs of one worker that wait.
pub struct Admitting {
    held: Slab<Held>,
    asked: Limit,
}

impl Admitting {
    /// None; takes all memory that it will ever use.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Self, OutOfMemory> {
        Ok(Self { held: Slab::new(HELD_MAX)?, asked: Limit::per_second(ASKED_PER_SECOND) })
    }

    /// SYNs that wait.
    pub fn holding(&self) -> u32 {
        self.held.len()
    }

    /// Whether the SYN that hangs on an entry waits on a flow that a board has.
    pub fn is_known(&self, hanging: EntryRef) -> bool {
        self.held.get(hanging).is_some_and(|held| held.known)
    }

    /// Lets go of what hangs on an entry.
    pub fn release(&mut self, hanging: EntryRef) {
        self.held.remove(hanging);
    }
}

/// A SYN of a service with limits: the control core is asked, the SYN waits in an entry of its own, or in that of a flow which does not
/// count and goes on meanwhile.
pub fn ask(
    core: &mut Core,
    service: u16,
    known: Option<EntryRef>,
    packet: &TcpPacket,
    mbuf: Mbuf,
) -> Verdict {
    // What its board would not take shall not count.
    if !packet.checksum_ok(&mbuf) {
        return Verdict::Drop(Drop::BadTcpChecksum);
    }
    let has_room = core.events.room() > core.events_room / 2 && (known.is_some() || layer4::has_room(core));
    if !has_room || !core.admitting.asked.take(core.now.ms) {
        return Verdict::Drop(Drop::AdmitFull);
    }
    // It may be within its limits only because another one has ended.
    ended::tell(core);
    let held = Held { packet: *packet, service, known: known.is_some(), frame: mbuf };
    let Ok(hanging) = core.admitting.held.insert(held) else { return Verdict::Drop(Drop::AdmitFull) };
    let entered = match known {
        Some(entry) => Ok(entry),
        None => core.enter(&packet.flow, State::Admitting, Some(hanging)),
    };
    let entry = match entered {
        Ok(entry) => entry,
        Err(reason) => {
            core.admitting.release(hanging);
            return Verdict::Drop(reason);
        }
    };
    if known.is_some() {
        core.change_state(entry, State::Admitting);
        if let Some(mut found) = core.shard.get_mut(entry) {
            found.pending = Some(hanging);
        }
    }
    if !core.tell(Event::Admit { entry, flow: packet.flow, service }) {
        give_back(core, entry);
        return Verdict::Drop(Drop::ControlFull);
    }
    core.schedule_in(entry, ANSWER_MS);
    Verdict::Held
}

/// The control core has decided. Counted as held when it came: that the SYN goes on now is an originated packet.
pub fn decided(core: &mut Core, entry: EntryRef, flow: Flow, admission: Admission) {
    let counted = match admission {
        Admission::Admitted(counted) => counted,
        Admission::OverLimit => Counted::No,
    };
    let Some(Held { packet, service, known, frame }) = withdraw(core, entry, counted) else {
        // Forgotten meanwhile.
        return core.ended.owe(flow, Protocol::Tcp, counted);
    };
    if admission == Admission::OverLimit {
        core.happened(Happening::ResetOverLimit);
        undo(core, entry, known);
        // It counts the RST itself. To who has a connection there, and has sent no SYN, it says nothing (RFC 5961, section 3.2).
        let _ = local::refuse(core, &packet, frame);
        return;
    }
    let verdict = match layer4::board_of_admitted(core, service, entry, known, &packet) {
        Ok(board) => layer4::admitted(core, entry, board, &packet, frame),
        Err(is_ours) => {
            undo(core, entry, known);
            // A reload may have given the endpoint to another kind, which the client's next SYN finds.
            if is_ours { layer4::no_board(core, &packet, frame) } else { Verdict::Drop(Drop::OldSegment) }
        }
    };
    core.went_on(verdict);
}

/// The SYN begins no connection: a flow that was there goes on as it was.
fn undo(core: &mut Core, entry: EntryRef, known: bool) {
    ended::entry(core, entry);
    if known {
        core.change_state(entry, State::Layer4);
        layer4::idle(core, entry);
    } else {
        core.remove(entry);
    }
}

/// The same, with the SYN that hangs on the entry.
fn give_back(core: &mut Core, entry: EntryRef) {
    if let Some(held) = withdraw(core, entry, Counted::No) {
        undo(core, entry, held.known);
    }
}

/// Takes the SYN out of its entry, which counts from now on.
fn withdraw(core: &mut Core, entry: EntryRef, counted: Counted) -> Option<Held> {
    let mut found = core.shard.get_mut(entry)?;
    if found.state != State::Admitting {
        return None;
    }
    let hanging = found.pending.take()?;
    found.counted = counted;
    std::mem::drop(found);
    core.admitting.held.remove(hanging)
}

/// The control core has not answered.
pub fn give_up(core: &mut Core, entry: EntryRef) {
    core.happened(Happening::ExpiredPending);
    give_back(core, entry);
}
