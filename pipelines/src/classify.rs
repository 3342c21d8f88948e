//! Classify: which way a TCP packet takes that the fast path has left. One look-up in the worker's shard; a cookie is
//! checked only where there is no entry, or for the packet after a SYN that was answered since the entry was made.
//!
//! Input: a parsed TCP packet. Output: [`Route`]. Owner: the worker. Changes nothing but an entry's note of the last
//! SYN.

use ipos_wire::seq::Seq;
use ipos_wire::tcp::Flags;

use crate::core::Core;
use crate::counters::{Drop, Happening};
use crate::entry::{Entry, State};
use crate::handshake::cookie::Cookie;
use crate::parse::TcpPacket;
use crate::services::Kind;
use crate::table::slab::EntryRef;

/// The way of a TCP packet.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// Migrated and settled: to its board.
    Forward(EntryRef),
    /// Migrated, but the client has not shown yet that the board has the request.
    Unsettled(EntryRef),
    /// Migrated, and each request is looked at.
    Watched(EntryRef),
    /// The request is incomplete, or being placed.
    Request(EntryRef),
    /// The same of a later request.
    Held(EntryRef),
    /// The appliance answers this connection itself.
    Local(EntryRef),
    /// Its board is gone, and its endpoint with it.
    GivenUp(EntryRef),
    /// Of a service whose connections are not terminated here.
    Layer4 {
        /// The service addressed.
        service: u16,
        /// The flow's entry, if there is one.
        entry: Option<EntryRef>,
    },
    /// A SYN to a service.
    Handshake,
    /// The packet that begins a connection, whose cookie holds: first data, or the handshake's ACK where the server may
    /// speak first.
    First {
        /// What the cookie says.
        cookie: Cookie,
        /// The client's initial sequence number.
        irs: Seq,
        /// The service addressed.
        service: u16,
        /// Its kind.
        kind: Kind,
        /// The entry of an older connection (or of a question) that this one replaces.
        replaces: Option<EntryRef>,
    },
    /// FIN right after the handshake.
    ProbeFin,
    /// Nobody here knows the connection: the farm is asked.
    Unknown,
    /// No service on that port.
    Refuse,
    /// Nowhere.
    Drop(Drop),
}

/// Finds a packet's way.
#[inline]
pub fn classify(core: &mut Core, packet: &TcpPacket) -> Route {
    let entry = core.shard.lookup(&packet.flow);
    if let Some(entry) = entry
        && !packet.flags.contains(Flags::SYN)
        && let Some(found) = core.shard.get(entry)
        && !found.may_be_replaced_by(packet.seq)
    {
        match found.state {
            State::Forward if found.pending.is_none() => return Route::Forward(entry),
            State::Forward => return Route::Unsettled(entry),
            State::Watched => return Route::Watched(entry),
            State::ForwardConnect if found.migration_id != 0 => return Route::Held(entry),
            State::Temporary | State::ForwardConnect => return Route::Request(entry),
            State::Local if !found.closing => return Route::Local(entry),
            State::Local | State::Asking | State::GivenUp | State::Layer4 | State::Admitting => {}
        }
    }
    slow(core, packet, entry)
}

/// SYNs, and packets whose entry is missing, in doubt or over.
fn slow(core: &mut Core, packet: &TcpPacket, entry: Option<EntryRef>) -> Route {
    let Some(service) = core.services.find(packet.flow.endpoint, packet.flow.endpoint_port) else {
        // Where all services were removed, the connections that are left go on and nobody else is answered.
        let is_open = core.services.has_address(packet.flow.endpoint);
        let other = if is_open { Route::Refuse } else { Route::Drop(Drop::OtherAddress) };
        // A SYN begins a connection: behind an entry that lingers, the board itself would answer it.
        let entry = entry.filter(|_| !packet.flags.contains(Flags::SYN));
        return entry.and_then(|entry| known(core, entry)).unwrap_or(other);
    };
    if core.services.table(service).is_some() {
        return layer4(core, packet, service, entry);
    }
    if packet.flags.contains(Flags::SYN) {
        if let Some(mut found) = entry.and_then(|entry| core.shard.get_mut(entry)) {
            found.note_syn(packet.seq, core.now.cookie_slot);
        }
        return Route::Handshake;
    }
    let kind = core.services.service(service).map_or(Kind::Http, |service| service.kind);
    let proven = if packet.flags.contains(Flags::RST) { None } else { prove(core, packet, kind) };
    if let Some((cookie, irs)) = proven
        && !entry.is_some_and(|entry| is_of(core, entry, packet, irs))
    {
        if packet.payload_len() > 0 || kind.is_server_first() {
            return Route::First { cookie, irs, service, kind, replaces: entry };
        }
        if packet.flags.contains(Flags::FIN) {
            return Route::ProbeFin;
        }
        return Route::Drop(Drop::NoRequest);
    }
    match entry {
        Some(entry) => known(core, entry).unwrap_or(Route::Drop(Drop::AwaitingHolder)),
        None if is_end_of_probe(core, packet) => Route::Drop(Drop::ClosedProbe),
        None => {
            core.happened(Happening::CookieFailed);
            Route::Unknown
        }
    }
}

/// The way of a packet to a service whose connections are not terminated here. Those that were before a reload go on.
fn layer4(core: &Core, packet: &TcpPacket, service: u16, entry: Option<EntryRef>) -> Route {
    let other = entry
        .filter(|_| !packet.flags.contains(Flags::SYN))
        .filter(|entry| core.shard.get(*entry).is_some_and(|found| found.state != State::Layer4))
        .and_then(|entry| known(core, entry));
    other.unwrap_or(Route::Layer4 { service, entry })
}

/// The way of a packet that belongs to its entry; `None` while the farm, or the control core, is being asked.
fn known(core: &Core, entry: EntryRef) -> Option<Route> {
    let found = core.shard.get(entry)?;
    Some(match found.state {
        State::Forward if found.pending.is_none() => Route::Forward(entry),
        State::Layer4 => Route::Forward(entry),
        State::Forward => Route::Unsettled(entry),
        State::Watched => Route::Watched(entry),
        State::ForwardConnect if found.migration_id != 0 => Route::Held(entry),
        State::Temporary | State::ForwardConnect => Route::Request(entry),
        State::Local => Route::Local(entry),
        State::GivenUp => Route::GivenUp(entry),
        State::Asking | State::Admitting => return None,
    })
}

/// The cookie that a packet right after the handshake proves, and the client's initial sequence number: its first octet is
/// IRS+1, and it acknowledges ISS+1. Where the server speaks first and the handshake's ACK was lost, the client has nothing to
/// send again, and its keep-alive probe is the first to come: its sequence number is IRS (RFC 9293, section 3.8.4).
fn prove(core: &Core, packet: &TcpPacket, kind: Kind) -> Option<(Cookie, Seq)> {
    let check = |irs: Seq| {
        let keys = &core.config.cookie_keys;
        keys.check(&packet.flow, irs, packet.ack - 1, core.now.cookie_slot).map(|cookie| (cookie, irs))
    };
    let is_probe = kind.is_server_first() && packet.payload_len() <= 1 && !packet.flags.contains(Flags::FIN);
    check(packet.seq - 1).or_else(|| is_probe.then(|| check(packet.seq)).flatten())
}

/// Whether a packet that proves a cookie belongs to the very connection that the entry is of, rather than to a new one on
/// the same addresses and ports.
fn is_of(core: &Core, entry: EntryRef, packet: &TcpPacket, irs: Seq) -> bool {
    core.shard
        .get(entry)
        .and_then(Entry::held)
        .and_then(|hanging| core.pending.get(hanging))
        .is_some_and(|pending| pending.irs == irs && pending.iss + 1 == packet.ack)
}

/// The client's last ACK after our FIN-ACK to a connection without a request: both sides have moved on by one.
fn is_end_of_probe(core: &Core, packet: &TcpPacket) -> bool {
    packet.payload_len() == 0
        && !packet.flags.intersects(Flags::FIN | Flags::RST)
        && core
            .config
            .cookie_keys
            .check(&packet.flow, packet.seq - 2, packet.ack - 2, core.now.cookie_slot)
            .is_some()
}
