//! The messages between a worker and the control core, and the queues that carry them.
//!
//! This is the only place where `pipelines` and the appliance's control core meet (design: style.md, layout). Each queue
//! is a bounded ring with one producer and one consumer; its ends are different types, each with only its own side's
//! operations. A full queue is counted by the side that found it full and is never waited on (design: system.md, roles).

mod answer;
mod flows;
mod session;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use ipos_dpdk::mbuf::Mbuf;
use ipos_wire::flow::Flow;
use ipos_wire::ipos::Protocol;
use ipos_wire::mac::Mac;
use ipos_wire::seq::Seq;
use ipos_wire::tcb::{OptionBits, STATE_ESTABLISHED, Tcb};

use crate::config::Timeouts;
use crate::handshake::cookie::CookieKeys;
use crate::request::assembly::WINDOW;
use crate::services::Services;
use crate::table::slab::EntryRef;

pub use answer::{Admission, Alert, Answer, RetryAfter};
pub use flows::{FLOW_PAGE_ROWS, FlowCount, FlowFilter, FlowPage, FlowRow, Table};
pub use session::{Session, SessionKey};

/// A worker's number, from 0: which shard owns a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

/// A board's place in the configuration, from 0. Workers keep a table of as many boards, see [`BOARDS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BoardId(pub u16);

/// A port's place in the configuration, from 0: the same number in every worker and in the control core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortIndex(pub u8);

/// The most boards that a farm may have.
pub const BOARDS_MAX: usize = 1024;

/// The appliance's own TCP ports, from which the control core checks whether boards serve. What comes back to them goes to it.
pub const CHECK_PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// The most ports that an appliance may have.
pub const PORTS_MAX: usize = 8;

/// What a worker tells the control core.
#[derive(Debug)]
pub enum Event {
    /// A request head is complete: choose a board and migrate the endpoint to it (system.md, step 5). The entry is in
    /// Forward-Connect until [`Command::Migrated`] or [`Command::Answer`] comes.
    Place(Place, Session),
    /// The client retransmits what the board should have: send the Connection Packet of the same attempt again, to the
    /// same board and to no other (system.md, step 9). Answered like [`Event::Place`]; failure means [`Answer::Reset`].
    Repeat {
        /// The entry, its flow and endpoint, as in [`Place`].
        place: Place,
        /// The board that acknowledged the attempt.
        board: BoardId,
        /// The id of the attempt that is repeated.
        migration_id: u64,
    },
    /// A later request of a migrated connection belongs to another board: ask the one that has it to give it up (0x05), and migrate it.
    /// The entry is in Forward-Connect until [`Command::Stay`], [`Command::Migrated`], [`Command::Answer`] or
    /// [`Command::Detached`] comes.
    Move {
        /// As for [`Event::Place`]; the endpoint's IRS and ISS are the numbers before the request's first octet and before the
        /// next one of the server's. Its pool is [`NO_POOL`] where the appliance will answer itself.
        place: Place,
        /// The session that the request belongs to; it is not asked to come again.
        session: Session,
        /// The board that holds the endpoint.
        board: BoardId,
        /// The attempt by which it has it.
        migration_id: u64,
    },
    /// The endpoint is not wanted any more: give up an attempt that is under way for this entry, or detach a migrated
    /// endpoint by force (client RST while Forward-Connect, port reuse, deadline). Nothing is answered.
    Abandon {
        /// The entry as it was; already gone in the worker.
        entry: EntryRef,
        /// The connection.
        flow: Flow,
        /// Where the endpoint lives, when it was migrated; `None` while an attempt is under way.
        migrated: Option<(BoardId, u64)>,
    },
    /// Who holds this endpoint (0x08)? With `board`, only that one is asked (idle expiry). Answered by
    /// [`Command::Holder`], always.
    WhoHolds {
        /// The entry that waits for the answer.
        entry: EntryRef,
        /// The connection.
        flow: Flow,
        /// The board to ask; `None` asks every live board.
        board: Option<BoardId>,
    },
    /// The first datagram of a flow: choose a board and have it acknowledge the flow. Answered by [`Command::Datagrams`], always.
    PlaceDatagrams {
        /// The entry that waits.
        entry: EntryRef,
        /// Client and endpoint.
        flow: Flow,
        /// Row of [`Services`] that the client addressed.
        service: u16,
        /// The pool of boards.
        pool: u16,
        /// It had a board before, which is dead or gone: it is no new one.
        moved: bool,
    },
    /// The first packet of a connection that is not terminated here, to a service with limits for clients: may it have a board?
    /// Answered by [`Command::Admitted`], always.
    Admit {
        /// The entry that waits.
        entry: EntryRef,
        /// Client and endpoint.
        flow: Flow,
        /// Row of [`Services`] that the client addressed.
        service: u16,
    },
    /// Connections that counted against limits of their service have ended.
    Ended(ArrayVec<EndedFlow, ENDED_EACH>),
    /// A frame from a farm port that is the control core's business: an ipOS message of any type but 0x02, ARP, or a
    /// board's answer to a health check. It starts at its Ethernet header.
    Frame {
        /// Where it came in.
        port: PortIndex,
        /// The frame, in one segment.
        frame: Mbuf,
    },
    /// The answer to [`Command::ListFlows`].
    Flows(Box<FlowPage>),
    /// The answer to [`Command::Count`].
    Counted(Box<FlowCount>),
}

/// Connections in one [`Event::Ended`], at most: as many as its size has room for.
pub const ENDED_EACH: usize = 4;

/// What a connection counts against while it lasts (`[service.admit]`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counted {
    /// Nothing.
    #[default]
    No,
    /// Its service's limits.
    Service,
    /// Those, and its client's.
    Client,
}

/// A connection that counted, and has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedFlow {
    /// The connection.
    pub flow: Flow,
    /// Its protocol.
    pub protocol: Protocol,
    /// What it counted against.
    pub counted: Counted,
}

/// No board at all, in [`Place::pool`].
pub const NO_POOL: u16 = u16::MAX;

/// Why a later request stays with the board that has its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// That board is one of those that the request's row names.
    Shared,
    /// It has something under way.
    Busy,
    /// It says that it does not hold the endpoint.
    NotHeld,
    /// It did not answer.
    Silent,
    /// No board that the row names is fit.
    NoBoard,
    /// Too many moves at once.
    NoRoom,
}

/// A request whose head is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry that waits.
    pub entry: EntryRef,
    /// The connection.
    pub flow: Flow,
    /// Row of [`Services`] that the client addressed.
    pub service: u16,
    /// The pool of boards that the URL map names for this request.
    pub pool: u16,
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// What a TCP control block says of one endpoint and not of every one: a third of its octets. All messages are copied into
/// their queue and out of it whole, and queues are longer than the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// When the handshake was completed, Unix microseconds.
    pub established_at_us: u64,
    /// Our initial send sequence number.
    pub iss: Seq,
    /// The client's.
    pub irs: Seq,
    /// SND.WND, octets (already scaled).
    pub snd_wnd: u32,
    /// TSval of the first packet that will follow.
    pub ts_recent: u32,
    /// The last TSval sent to the client, or a later one.
    pub last_tsval: u32,
    /// Octets of client data in the packets that follow.
    pub octets_following: u32,
    /// Options in force.
    pub options: OptionBits,
    /// The MSS that the client announced, octets.
    pub client_mss: u16,
    /// The MSS that the appliance announced, octets.
    pub our_mss: u16,
    /// Shift of the windows that the client announces.
    pub client_window_scale: u8,
    /// Shift of the windows that the appliance announced.
    pub our_window_scale: u8,
}

const _: () = assert!(size_of::<Event>() <= 88 && size_of::<Command>() <= 40, "messages are copied often");

impl Place {
    /// The TCP control block of docs/wire.md, but for migration id, appliance id and epoch. What is replayed starts at IRS+1,
    /// so that is RCV.NXT; of ours, nothing but the SYN has been sent.
    #[inline]
    pub fn tcb(&self) -> Tcb {
        let Endpoint { iss, irs, .. } = self.endpoint;
        Tcb {
            state: STATE_ESTABLISHED,
            options: self.endpoint.options,
            client_mss: self.endpoint.client_mss,
            our_mss: self.endpoint.our_mss,
            client_window_scale: self.endpoint.client_window_scale,
            our_window_scale: self.endpoint.our_window_scale,
            iss,
            irs,
            snd_una: iss + 1,
            snd_nxt: iss + 1,
            snd_wnd: self.endpoint.snd_wnd,
            snd_wl1: irs + 1,
            snd_wl2: iss + 1,
            rcv_nxt: irs + 1,
            rcv_wnd: WINDOW as u32,
            ts_recent: self.endpoint.ts_recent,
            last_tsval: self.endpoint.last_tsval,
            established_at_us: self.endpoint.established_at_us,
            service_id: u32::from(self.service),
            octets_following: self.endpoint.octets_following,
            ..Tcb::default()
        }
    }
}

/// What the control core tells a worker.
#[derive(Debug)]
pub enum Command {
    /// The board acknowledged: flush what is held and forward from now on (system.md, step 7).
    Migrated {
        /// The entry that waits. If it is gone by then, the worker sends [`Event::Abandon`] with `migrated`.
        entry: EntryRef,
        /// The connection.
        flow: Flow,
        /// The board that holds the endpoint now.
        board: BoardId,
        /// The attempt that it acknowledged.
        migration_id: u64,
        /// What it counts against from now on; its end is told with [`Event::Ended`].
        counted: Counted,
    },
    /// The answer to [`Event::PlaceDatagrams`].
    Datagrams {
        /// The entry that waits.
        entry: EntryRef,
        /// Client and endpoint.
        flow: Flow,
        /// Which board has taken the flow, or why none.
        placed: DatagramsPlaced,
    },
    /// The answer to [`Event::Admit`].
    Admitted {
        /// The entry that waits.
        entry: EntryRef,
        /// Client and endpoint.
        flow: Flow,
        /// Whether it is within the limits.
        admission: Admission,
    },
    /// No board takes the endpoint: answer the client.
    Answer {
        /// The entry that waits.
        entry: EntryRef,
        /// What to say.
        answer: Answer,
    },
    /// The answer to [`Event::Move`]: what is held goes to the board that has the connection.
    Stay {
        /// The entry that waits.
        entry: EntryRef,
        /// Why.
        why: Stay,
    },
    /// The answer to [`Event::Move`] without a pool: the board has given the endpoint up, and the appliance answers.
    Detached {
        /// The entry that waits.
        entry: EntryRef,
    },
    /// The answer to [`Event::WhoHolds`].
    Holder {
        /// The entry that waits.
        entry: EntryRef,
        /// What the farm said.
        holder: Holder,
    },
    /// A board says that the endpoint closed (0x07), or that it does not hold it.
    Closed {
        /// The connection.
        flow: Flow,
        /// The board that says so; an entry that names another board is left alone.
        board: BoardId,
        /// The attempt that ended; 0 where the board has no record (a stray packet): the entry goes at once, so that the
        /// client's next packet asks the farm.
        migration_id: u64,
    },
    /// A board says (0x06) that it has given the endpoint up for a later request, when nobody waits for that word any more: it comes
    /// again, or too late. A worker that holds the request asks once more ([`Event::Move`]); else it is the endpoint's end.
    Left {
        /// The connection.
        flow: Flow,
        /// The board that says so.
        board: BoardId,
        /// The attempt by which it had the endpoint.
        migration_id: u64,
    },
    /// Send this frame as it is.
    Transmit {
        /// Where.
        port: PortIndex,
        /// The whole frame.
        frame: Mbuf,
    },
    /// Where a board is reached from now on. Sent once its MAC address is known, and when it changes.
    Board {
        /// Which board.
        board: BoardId,
        /// Its MAC address.
        mac: Mac,
        /// The farm port that it is behind.
        port: PortIndex,
    },
    /// New secrets for the SYN cookies: the one before stays valid (system.md, step 1).
    CookieKeys(CookieKeys),
    /// A new configuration of services and maps.
    Services(Arc<Services>),
    /// New deadlines. Timers that run keep their time.
    Timeouts(Timeouts),
    /// Fill this page with flows and send it back as [`Event::Flows`].
    ListFlows(Box<FlowPage>),
    /// Fill in how many flows each board has and send it back as [`Event::Counted`]. Commands keep their order, so that what was
    /// migrated before is counted.
    Count(Box<FlowCount>),
    /// Whether a board takes flows of a service that chooses boards by hash, from now on.
    Standing {
        /// The service's number.
        service: u16,
        /// Which board.
        board: BoardId,
        /// What it takes.
        takes: Takes,
    },
    /// A board is gone: nothing is sent there any more, and each flow that it still has is taken out with [`Event::Abandon`].
    Forget {
        /// Which board.
        board: BoardId,
    },
    /// Leave the loop after what is queued has been sent.
    Stop,
}

/// What became of a flow of datagrams that asked for a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramsPlaced {
    /// This board has taken it; what it counts against from now on.
    At(BoardId, Counted),
    /// No board takes it.
    Nowhere,
    /// Its service is beyond a limit of its own.
    OverLimit,
}

/// What a board takes of a service that chooses boards by hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// New flows, and those that it has.
    New,
    /// Those that it has, if any: it drains, is beyond a limit, has not been heard of, ...
    Known,
    /// None: it is dead.
    None,
}

/// Who holds an endpoint, as the farm answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This board, under this migration id.
    Board(BoardId, u64),
    /// This board, of whose socket only the TIME-WAIT is left: nothing but the client's last segments are for it.
    TimeWait(BoardId),
    /// Every live board denied.
    Nobody,
    /// Not every live board answered in time (or none is alive): nothing may be concluded.
    Unknown,
}

/// Makes a queue of at least `capacity` messages.
pub fn queue<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    let overflows = Arc::new(AtomicU64::new(0));
    (Sender { ring: producer, overflows: overflows.clone() }, Receiver { ring: consumer, overflows })
}

/// The sending end of a queue.
pub struct Sender<T> {
    ring: rtrb::Producer<T>,
    overflows: Arc<AtomicU64>,
}

impl<T> Sender<T> {
    /// Sends, or gives the message back when the queue is full, and counts that.
    #[inline]
    pub fn send(&mut self, message: T) -> Result<(), T> {
        self.ring.push(message).map_err(|rtrb::PushError::Full(message)| {
            // The sender is the only writer, so a load and a store do.
            self.overflows.store(self.overflows.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            message
        })
    }

    /// Room for this many messages, at least.
    #[inline]
    pub fn room(&self) -> usize {
        self.ring.slots()
    }
}

/// The receiving end of a queue.
pub struct Receiver<T> {
    ring: rtrb::Consumer<T>,
    overflows: Arc<AtomicU64>,
}

impl<T> Receiver<T> {
    /// The next message, if there is one.
    #[inline]
    pub fn receive(&mut self) -> Option<T> {
        self.ring.pop().ok()
    }

    /// How many messages wait.
    #[inline]
    pub fn depth(&self) -> usize {
        self.ring.slots()
    }

    /// How many messages the sender could not queue since the start.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_message_back_and_counts_it() {
        let (mut tx, mut rx) = queue::<u32>(2);
        assert_eq!(tx.send(1), Ok(()));
        assert_eq!(tx.send(2), Ok(()));
        assert_eq!(tx.send(3), Err(3));
        assert_eq!((rx.depth(), rx.overflows(), tx.room()), (2, 1, 0));
        assert_eq!(rx.receive(), Some(1));
        assert_eq!(tx.send(3), Ok(()));
        assert_eq!((rx.receive(), rx.receive(), rx.receive()), (Some(2), Some(3), None));
    }
}
