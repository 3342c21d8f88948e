//! Forward: a client's packet goes to the board that holds the endpoint, as an ipOS packet (0x02, Fig. 11G).
//!
//! Input: a TCP packet of a Forward entry. Output: the same packet with 16 octets of ipOS header between Ethernet and
//! IPv4, written into the mbuf's headroom; the packet itself is neither copied nor changed. Owner: the worker. Cost: one
//! look-up, one header, no allocation. Packets of settled entries come from the fast path, which has looked up.

use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::tcp::Flags;
use ipos_wire::{ethernet, ipos, ipv4};

use crate::core::{BoardPlace, Core};
use crate::counters::{Drop, Happening};
use crate::ended;
use crate::entry::{Entry, Stage, State};
use crate::handoff::BoardId;
use crate::migrate::{self, ACK_REPEATS_MAX};
use crate::parse::TcpPacket;
use crate::request::assembly::WINDOW;
use crate::table::slab::EntryRef;
use crate::too_big;
use crate::verdict::Verdict;
use crate::watch;

/// A packet of a migrated connection that the fast path has left: it may be the last, or the first after a SYN.
pub fn packet(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    core.shard.see(entry, core.now.ms);
    let cookie_slot = core.now.cookie_slot;
    let board = core.shard.get_mut(entry).map(|mut found| {
        found.forget_old_syn(cookie_slot);
        found.board
    });
    let Some(board) = board else { return Verdict::Drop(Drop::OldSegment) };
    if packet.flags.intersects(Flags::FIN | Flags::RST) {
        note_end(core, entry, packet.flags);
    }
    encapsulate(core, board, &packet.flow, usize::from(packet.frame_len), mbuf)
}

/// A packet of a migrated connection whose octets are still held, because the client has not shown yet that the board has
/// them (system.md, step 9).
pub fn unsettled(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: Mbuf) -> Verdict {
    match settles(core, entry, packet) {
        Some(Settling::Proven) => {
            core.happened(Happening::Proven);
            settle(core, entry);
            if core.shard.get(entry).is_some_and(|found| found.state == State::Watched) {
                return watch::segment(core, entry, packet, mbuf);
            }
        }
        Some(Settling::Retransmission) => {
            sent_again(core, entry, packet, &mbuf);
            return migrate::repeat(core, entry);
        }
        Some(Settling::Open) => watch::see_unsettled(core, entry, packet, &mbuf),
        None => {}
    }
    self::packet(core, entry, packet, mbuf)
}

/// The replay carries the time stamp of the retransmission: an old one would make the client believe in a round trip as long
/// as all its waiting, and wait for longer than that from then on.
fn sent_again(core: &mut Core, entry: EntryRef, packet: &TcpPacket, mbuf: &Mbuf) {
    let theirs = packet.options(mbuf).ok().and_then(|options| options.timestamps);
    let ours = core.pending_of(entry).and_then(|pending| pending.timestamps.as_mut());
    if let (Some(ours), Some(theirs)) = (ours, theirs) {
        ours.sent_again(theirs.tsval);
    }
}

enum Settling {
    /// The board has the request: the client has seen its answer, or was allowed to send past our window.
    Proven,
    /// The client sends again what the board should have.
    Retransmission,
    /// Neither.
    Open,
}

fn settles(core: &mut Core, entry: EntryRef, packet: &TcpPacket) -> Option<Settling> {
    let hanging = core.shard.get(entry)?.pending?;
    let pending = core.pending.get_mut(hanging)?;
    let len = packet.payload_len() as i32;
    let offset = pending.offset_of(packet.seq);
    // What a later request may send was for its board before to say.
    let is_first = pending.stage == Stage::First;
    if packet.ack.gt(pending.iss + 1) || (is_first && offset.checked_add(len)? > WINDOW as i32) {
        return Some(Settling::Proven);
    }
    if offset + len > 0 || packet.flags.contains(Flags::FIN) {
        // From now on the client has something to send again; one octet before its first is a keep-alive probe's.
        pending.ack_repeats = ACK_REPEATS_MAX;
    }
    let assembly = core.assemblies.at(&pending.assembly);
    let held = assembly.contiguous_len() as i32;
    let again = len > 0 && offset < held && offset + len > 0;
    let fin_again = packet.flags.contains(Flags::FIN) && offset + len <= held && assembly.fin_reached();
    Some(if again || fin_again { Settling::Retransmission } else { Settling::Open })
}

/// Lets go of what was held; from now on the entry is one of the many, or watched.
pub fn settle(core: &mut Core, entry: EntryRef) {
    watch::settled(core, entry);
    let Some(found) = core.shard.get(entry) else { return };
    if !found.closing {
        core.schedule_in(entry, found.idle_limit_ms(&core.config.timeouts));
    }
}

/// The client ends the connection; its board decides what that means, so the packet is forwarded all the same.
#[cold]
fn note_end(core: &mut Core, entry: EntryRef, flags: Flags) {
    let timeouts = core.config.timeouts;
    let Some(mut found) = core.shard.get_mut(entry) else { return };
    let Entry { closing, client_fin, pending, board, state, .. } = *found;
    if flags.contains(Flags::RST) {
        found.closing = true;
        std::mem::drop(found);
        if !closing {
            ended::entry(core, entry);
            core.by_board.left(board);
            core.happened(Happening::ClosedByReset);
            core.schedule_in(entry, timeouts.linger_ms);
        }
    } else {
        found.client_fin = true;
        std::mem::drop(found);
        if state == State::Layer4 {
            // Its board tells nobody of its end: it counts no more from here on.
            ended::entry(core, entry);
        }
        if !client_fin && !closing && (pending.is_none() || state == State::Watched) {
            core.schedule_in(entry, timeouts.half_closed_ms);
        }
    }
}

/// An ICMP error about a migrated connection goes to the board that holds it: only its kernel can act on it.
pub fn icmp_error(core: &mut Core, flow: &Flow, mbuf: Mbuf) -> Verdict {
    let Some(found) = core.shard.lookup(flow).and_then(|entry| core.shard.get(entry)) else {
        return Verdict::Drop(Drop::OtherIcmp);
    };
    if !found.state.is_at_board() {
        return Verdict::Drop(Drop::OtherIcmp);
    }
    let board = found.board;
    let packet = mbuf.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
    let Ok(packet) = ipv4::Packet::new_checked(packet) else { return Verdict::Drop(Drop::BadIpv4) };
    let frame_len = ethernet::HEADER_LEN + packet.total_len();
    encapsulate(core, board, flow, frame_len, mbuf)
}

/// Puts the ipOS header between Ethernet and IPv4, and sends the frame to the board.
#[inline(always)]
pub fn encapsulate(core: &mut Core, board: BoardId, flow: &Flow, frame_len: usize, mbuf: Mbuf) -> Verdict {
    encapsulate_as(core, ipos::Protocol::Tcp, board, flow, frame_len, mbuf)
}

/// The same, for a packet of either protocol.
#[inline(always)]
pub fn encapsulate_as(
    core: &mut Core,
    protocol: ipos::Protocol,
    board: BoardId,
    flow: &Flow,
    frame_len: usize,
    mut mbuf: Mbuf,
) -> Verdict {
    // By reference: a copy of the header in between would be read as other words than it was written.
    let Some(BoardPlace { port, frame_max, ethernet, .. }) = core.place_of(board) else {
        return Verdict::Drop(Drop::NoBoardMac);
    };
    if frame_len > usize::from(*frame_max) {
        return too_big::answer(core, mbuf);
    }
    let port = *port;
    let Some(front) = mbuf
        .reframe(frame_len, ipos::HEADER_LEN)
        .and_then(|frame| frame.first_chunk_mut::<{ ethernet::HEADER_LEN + ipos::HEADER_LEN }>())
    else {
        return Verdict::Drop(Drop::NoHeadroom);
    };
    let (link, header) = front.split_at_mut(ethernet::HEADER_LEN);
    link.copy_from_slice(ethernet);
    ipos::encapsulate(*flow, protocol, header);
    core.transmit(port, mbuf);
    Verdict::Forwarded
}
