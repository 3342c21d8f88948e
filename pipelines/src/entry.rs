//! An entry of the worker's shard, and what hangs on it while a connection is not settled.
//!
//! Temporary, Forward-Connect, Forward and Local (Fig. 12) are states of one entry, so that a connection moves between the
//! tables without being looked up, removed or inserted again.

use std::sync::Arc;

use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tls::RecordScan;

use crate::answers::Page;
use crate::config::{Timeouts, WINDOW_SCALE};
use crate::handoff::{Answer, BoardId, Counted, PortIndex, Session, Table};
use crate::handshake::cookie::{COOKIE_AGE_MAX_SLOTS, Cookie};
use crate::request::assembly::{Handle, OffsetRange, WINDOW};
use crate::request::head::HeadScan;
use crate::services::Kind;
use crate::table::shard::Settled;
use crate::table::slab::EntryRef;

/// Where a connection stands.
///
/// ```text
///            first data proves the cookie        head complete            acknowledged
///   (none) ------------------------------> Temporary --------> ForwardConnect --------> Forward
///      |                                      |                      |                     ^
///      |                                      | 400 408 431 alert    | 503 alert           |
///      |                                      +--------> Local <-----+                     |
///      | unknown packet                                                                    |
///      +----------------> Asking ------------- a board holds it ---------------------------+
///      | a SYN to a service of kind `l4`               (or Layer4, of kind `l4`, which a denial leads to as well)
///      +----------------> Layer4
///      | a SYN to one that has limits                  ^ admitted
///      +----------------> Admitting ------------------+
/// ```
///
/// For Watched see [`crate::watch`]. Where the server may speak first, the handshake's ACK leads to ForwardConnect, and what would be 503 is a RST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The request head is not complete.
    Temporary,
    /// The head is complete; the control core places it.
    ForwardConnect,
    /// A board holds the endpoint.
    Forward,
    /// The appliance answers.
    Local,
    /// The farm is being asked who holds the endpoint.
    Asking,
    /// Its board was removed by force: what its client still sends is answered by RST.
    GivenUp,
    /// As [`State::Forward`], and each request is looked at: another board may have to serve it ([`crate::watch`]). Its record
    /// hangs on it.
    Watched,
    /// A board has had the connection from its first packet on ([`crate::layer4`]). Until the handshake's second packet has
    /// come from the client, [`Entry::syn_irs`] is set.
    Layer4,
    /// Its first packet waits for the control core to say whether it is within the limits of its service, which is of kind `l4`
    /// ([`crate::admit`]). The packet hangs on it.
    Admitting,
}

impl State {
    /// Its place in [`crate::counters::WorkerCounters::entries`].
    #[inline]
    pub const fn index(self) -> usize {
        match self {
            State::Temporary => 0,
            State::ForwardConnect => 1,
            State::Forward => 2,
            State::Local => 3,
            State::Asking => 4,
            State::GivenUp => 5,
            State::Layer4 => 6,
            State::Watched => 7,
            State::Admitting => 8,
        }
    }

    /// Whether what the client sends goes to [`Entry::board`].
    #[inline]
    pub const fn is_at_board(self) -> bool {
        matches!(self, State::Forward | State::Watched | State::Layer4)
    }

    /// The table of Fig. 12 that shows it; an entry that waits for the farm's answer, or the control core's, is on its way to
    /// Forward.
    pub const fn table(self) -> Table {
        match self {
            State::Temporary => Table::Temporary,
            State::ForwardConnect | State::Asking | State::Admitting => Table::ForwardConnect,
            State::Forward | State::Watched | State::Layer4 => Table::Forward,
            State::Local | State::GivenUp => Table::Local,
        }
    }
}

/// Whether the board of an idle connection is being asked if it still holds the endpoint, and how often it did not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked(u8);

impl Asked {
    /// A question is open.
    const OPEN: u8 = 0x80;

    /// Whether a question is open.
    pub const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    /// A question is open from now on.
    pub fn open(&mut self) {
        self.0 |= Self::OPEN;
    }

    /// The question has ended without an answer; how many have by now, one after the other.
    pub fn unanswered(&mut self) -> u8 {
        self.0 = (self.0 & !Self::OPEN).saturating_add(1).min(!Self::OPEN);
        self.0
    }
}

/// One connection.
#[derive(Debug)]
pub struct Entry {
    /// The attempt that the board acknowledged; 0 before.
    pub migration_id: u64,
    /// What hangs on it until the client has proof that the board has the request; in Watched, its [`crate::watch::Watch`].
    pub pending: Option<EntryRef>,
    /// The board that holds it, in Forward and Layer4.
    pub board: BoardId,
    /// Where it stands.
    pub state: State,
    /// The initial sequence number of the last SYN with these addresses and ports that was answered since: the packet after
    /// it may prove a new connection. No other may: a cookie has 22 bits, and a long upload as many packets.
    pub syn_irs: Option<Seq>,
    /// The cookies' time slot of that SYN, its lower 8 bits: a note that is 4.5 hours old may pass for a new one, and is then kept
    /// for a slot longer.
    pub syn_slot: u8,
    /// The client has sent FIN.
    pub client_fin: bool,
    /// The end was seen (RST, or the board's notice): the entry lingers.
    pub closing: bool,
    /// What its board was asked since it was heard of.
    pub asked: Asked,
    /// What it counts against ([`crate::ended`]).
    pub counted: Counted,
}

const _: () = assert!(size_of::<Entry>() <= 32, "what a shard has room for");

impl Settled for Entry {
    #[inline]
    fn settled_board(&self) -> Option<BoardId> {
        let is_settled = self.state.is_at_board() && self.pending.is_none() && self.syn_irs.is_none();
        is_settled.then_some(self.board)
    }
}

impl Entry {
    /// Whether a packet with this sequence number may be the first of a new connection on the same addresses and ports.
    #[inline]
    pub fn may_be_replaced_by(&self, seq: Seq) -> bool {
        self.syn_irs.is_some_and(|irs| irs + 1 == seq)
    }

    /// Takes note of a SYN that was answered.
    pub fn note_syn(&mut self, irs: Seq, cookie_slot: u32) {
        self.syn_irs = Some(irs);
        self.syn_slot = cookie_slot as u8;
    }

    /// Forgets the last SYN once no cookie that answered it can be valid any more, so that one forged SYN does not keep
    /// the flow's packets from the fast path for life.
    pub fn forget_old_syn(&mut self, cookie_slot: u32) {
        if u16::from((cookie_slot as u8).wrapping_sub(self.syn_slot)) > COOKIE_AGE_MAX_SLOTS {
            self.syn_irs = None;
        }
    }

    /// The board that holds the endpoint, or did until it was asked to give it up, and the attempt by which it has it.
    pub fn holder(&self) -> Option<(BoardId, u64)> {
        let may_hold = matches!(self.state, State::Forward | State::Watched | State::ForwardConnect);
        (may_hold && self.migration_id != 0).then_some((self.board, self.migration_id))
    }

    /// Whether a board holds the endpoint, and its end has not been seen.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.state.is_at_board() && !self.closing
    }

    /// How long its client may be silent before its board is asked, milliseconds.
    #[inline]
    pub fn idle_limit_ms(&self, timeouts: &Timeouts) -> u32 {
        if self.client_fin { timeouts.half_closed_ms } else { timeouts.idle_ms }
    }

    /// Its [`Pending`], if it has one: in some states what hangs on it is something else.
    #[inline]
    pub fn held(&self) -> Option<EntryRef> {
        let is_other = matches!(self.state, State::Asking | State::Watched | State::Admitting);
        self.pending.filter(|_| !is_other)
    }

    /// A new entry.
    pub fn new(state: State, pending: Option<EntryRef>) -> Self {
        Self {
            migration_id: 0,
            pending,
            board: BoardId(0),
            state,
            syn_irs: None,
            syn_slot: 0,
            client_fin: false,
            closing: false,
            asked: Asked::default(),
            counted: Counted::No,
        }
    }
}

/// What the appliance knows of a connection between the cookie's proof and the client's proof that the board has the
/// request: its end of the TCP connection, and the client's octets.
#[derive(Debug)]
pub struct Pending {
    /// The client's octets from IRS+1 on, at their place; none where the server speaks first.
    pub assembly: Handle,
    /// How far the request head has been looked through.
    pub scan: HeadScan,
    /// The same of a ClientHello.
    pub hello: RecordScan,
    /// Our initial send sequence number.
    pub iss: Seq,
    /// The client's.
    pub irs: Seq,
    /// What the handshake agreed on.
    pub cookie: Cookie,
    /// The client's time stamps, when both sides use them.
    pub timestamps: Option<Timestamps>,
    /// ECN was agreed on.
    pub ecn: bool,
    /// SEG.WND of the client's last packet, unscaled.
    pub window: u16,
    /// Octets from IRS+1 on that we have acknowledged.
    pub acked: u32,
    /// Who sent the client's frames.
    pub peer_mac: Mac,
    /// The port they came in by.
    pub port: PortIndex,
    /// The service that the client addressed.
    pub service: u16,
    /// The service's kind as it was then: a reload may give the endpoint to another one.
    pub kind: Kind,
    /// Times that the handshake's ACK was sent to the board again because nothing was heard.
    pub ack_repeats: u8,
    /// The pool that the URL map named.
    pub pool: u16,
    /// The session that the request belongs to.
    pub session: Session,
    /// Where its path and query lie in the client's stream, where it may be redirected.
    pub resource: OffsetRange,
    /// When the cookie was proven, Unix microseconds.
    pub established_us: u64,
    /// When the present state began, [`crate::clock::Now::ms`].
    pub since_ms: u32,
    /// When the request's head was complete, Unix microseconds.
    pub complete_us: u64,
    /// The control core has not got the event yet: its queue was full.
    pub event_owed: bool,
    /// The control core repeats the attempt.
    pub repeating: bool,
    /// What the appliance said, in Local.
    pub local: Option<Local>,
    /// Its service moves requests, so that the connection is watched once it is migrated.
    pub migrates_requests: bool,
    /// Which request it is, and how far it has come.
    pub stage: Stage,
    /// The watch over the connection, if there is one.
    pub watch: Option<EntryRef>,
    /// What the appliance will say once the board has given the connection up.
    pub answer: Option<Answer>,
}

/// Which request a [`Pending`] is of. Of a later one, `irs` and `iss` are the numbers before its first octet and before the next one of
/// its answer: what is said about the first request holds for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connection's first.
    First,
    /// A later one, whose head is incomplete: [`Entry::board`] has the connection.
    Collecting,
    /// A later one, that another board shall have: [`Entry::board`] is asked to give the connection up, or has done so.
    Asked,
    /// The same, and [`Entry::board`] was silent about an earlier question, so that the request was sent there.
    AskedAgain,
    /// A later one, which was sent to [`Entry::board`] because that was silent when it was asked to give the connection up. It may
    /// have done so all the same: then the request is lost there, and the board is asked again ([`crate::watch::held`]).
    Unanswered,
    /// A later one, that another board has.
    Moved,
}

impl Stage {
    /// Whether a board is asked to give the connection up, or has done so.
    pub const fn is_asked(self) -> bool {
        matches!(self, Stage::Asked | Stage::AskedAgain)
    }
}

/// The time stamps of a connection (RFC 7323).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamps {
    /// TSval of the client's first packet with data, the last time that it was sent: what replayed segments carry. The board
    /// echoes it, and the client takes the time since for the round trip.
    pub first: u32,
    /// TS.Recent: what our answers echo.
    pub recent: u32,
    /// The client's last TSecr: what replayed segments carry.
    pub echoed: u32,
}

impl Timestamps {
    /// A segment has come that is not ahead of what was acknowledged: its time stamp is TS.Recent, unless a later one was (RFC 7323,
    /// section 4.3).
    pub fn saw(&mut self, tsval: u32) {
        if tsval.wrapping_sub(self.recent) < 1 << 31 {
            self.recent = tsval;
        }
    }

    /// The client has sent its first packet again.
    pub fn sent_again(&mut self, tsval: u32) {
        // RFC 7323, section 5.2: later, modulo 2^32.
        if tsval.wrapping_sub(self.first) < 1 << 31 {
            self.first = tsval;
        }
    }
}

/// An answer of the appliance's own that is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// What was said.
    pub answer: Answer,
    /// The service's own text for it, as it was when it was first said.
    pub page: Option<Arc<Page>>,
    /// Where path and query of the request lie in the client's stream, offsets from IRS+1.
    pub resource: OffsetRange,
    /// Octets of it.
    pub len: u32,
    /// The client has acknowledged our FIN.
    pub fin_acked: bool,
    /// The client's own has come.
    pub client_fin: bool,
    /// Times it was sent.
    pub sent: u8,
}

impl Pending {
    /// RCV.NXT, as far as acknowledged.
    #[inline]
    pub fn rcv_nxt(&self) -> Seq {
        self.irs + 1 + self.acked
    }

    /// Where a sequence number lies in the client's stream; negative before its first octet.
    #[inline]
    pub fn offset_of(&self, seq: Seq) -> i32 {
        seq.diff(self.irs + 1)
    }

    /// What our segments acknowledge: RCV.NXT, and past the client's FIN once the appliance answers.
    pub fn ack_number(&self) -> Seq {
        self.rcv_nxt() + u32::from(self.local.as_ref().is_some_and(|local| local.client_fin))
    }

    /// The window field of our segments: what is left up to IRS+1+16384 (system.md, step 2). Once the appliance answers it keeps nothing,
    /// and there is always room.
    #[inline]
    pub fn window_field(&self) -> u16 {
        if self.local.is_some() { u16::MAX } else { self.window_after(self.acked) }
    }

    /// The same in octets.
    pub fn window_octets(&self) -> i64 {
        i64::from(self.window_field()) << self.window_shift()
    }

    /// How far our window fields are shifted.
    #[inline]
    fn window_shift(&self) -> u8 {
        if self.cookie.window_scale.is_some() { WINDOW_SCALE } else { 0 }
    }

    /// The window field once so many octets are acknowledged. Scaling rounds down, so that the window closes a few
    /// octets before the last one that the buffer could hold: a head that is incomplete then will stay so.
    #[inline]
    pub fn window_after(&self, acked: u32) -> u16 {
        let left = (WINDOW as u32).saturating_sub(acked);
        // At most 16384, so it fits unscaled as well.
        (left >> self.window_shift()) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_counter_and_a_table() {
        let states = [
            State::Temporary,
            State::ForwardConnect,
            State::Forward,
            State::Local,
            State::Asking,
            State::GivenUp,
            State::Layer4,
            State::Watched,
            State::Admitting,
        ];
        for (place, state) in states.into_iter().enumerate() {
            assert_eq!(state.index(), place);
        }
        assert_eq!(State::Asking.table(), Table::ForwardConnect);
    }
}
