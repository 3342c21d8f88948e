//! Any ipOS message, told apart by its type.

use super::header::{
    HEADER_LEN, Header, Protocol, TYPE_ACK, TYPE_APPLICATIONS, TYPE_CLOSE_IDLE, TYPE_CLOSED, TYPE_CONNECTION,
    TYPE_DETACH, TYPE_DETACHED, TYPE_HOLDS, TYPE_LISTENING, TYPE_OFFERS, TYPE_ORDER, TYPE_OUTCOME,
    TYPE_PACKET, TYPE_REFUSED, TYPE_SERVER_STATE, TYPE_WHO_HOLDS,
};
use super::octets::{first, u8_at};
use super::{
    Ack, Applications, CloseIdle, Closed, Detach, Detached, Error, Holds, Listening, Offers, Order, Outcome,
    Refused, ServerState, TcpConnection, UdpConnection, WhoHolds, decapsulate,
};
use crate::error::Layer;

/// One message of the farm (docs/wire.md "Messages").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// 0x01, protocol TCP.
    TcpConnection(TcpConnection),
    /// 0x01, protocol UDP.
    UdpConnection(UdpConnection),
    /// 0x02.
    Packet {
        /// The connection that the packet belongs to.
        header: Header,
        /// The client's IPv4 packet, without Ethernet padding.
        packet: &'a [u8],
    },
    /// 0x03.
    Ack(Ack),
    /// 0x04.
    Refused(Refused),
    /// 0x05.
    Detach(Detach),
    /// 0x06.
    Detached(Detached),
    /// 0x07.
    Closed(Closed),
    /// 0x08.
    WhoHolds(WhoHolds),
    /// 0x09.
    Holds(Holds),
    /// 0x10.
    ServerState(ServerState),
    /// 0x11.
    Listening(Listening<'a>),
    /// 0x12.
    Applications(Applications<'a>),
    /// 0x13.
    CloseIdle(CloseIdle),
    /// 0x20.
    Order(Order),
    /// 0x21.
    Outcome(Outcome),
    /// 0x22.
    Offers(Offers<'a>),
}

impl<'a> Message<'a> {
    /// Reads the message that starts with the ipOS header at the start of `buffer`; Ethernet padding may follow it.
    /// `Ok(None)` is a type that this version does not know, to be counted and ignored.
    ///
    /// # Errors
    /// Whatever makes a message of a known type malformed; see [`Error`].
    pub fn parse(buffer: &'a [u8]) -> Result<Option<Message<'a>>, Error> {
        let header = first::<0, HEADER_LEN>(Layer::IposHeader, buffer)?;
        let (kind, protocol) = (u8_at::<12, _>(header), u8_at::<13, _>(header));
        Ok(Some(match kind {
            TYPE_CONNECTION if protocol == Protocol::Udp.code() => {
                Message::UdpConnection(UdpConnection::parse(buffer)?)
            }
            TYPE_CONNECTION => Message::TcpConnection(TcpConnection::parse(buffer)?),
            TYPE_PACKET => {
                let (header, packet) = decapsulate(buffer)?;
                Message::Packet { header, packet }
            }
            TYPE_ACK => Message::Ack(Ack::parse(buffer)?),
            TYPE_REFUSED => Message::Refused(Refused::parse(buffer)?),
            TYPE_DETACH => Message::Detach(Detach::parse(buffer)?),
            TYPE_DETACHED => Message::Detached(Detached::parse(buffer)?),
            TYPE_CLOSED => Message::Closed(Closed::parse(buffer)?),
            TYPE_WHO_HOLDS => Message::WhoHolds(WhoHolds::parse(buffer)?),
            TYPE_HOLDS => Message::Holds(Holds::parse(buffer)?),
            TYPE_SERVER_STATE => Message::ServerState(ServerState::parse(buffer)?),
            TYPE_LISTENING => Message::Listening(Listening::parse(buffer)?),
            TYPE_APPLICATIONS => Message::Applications(Applications::parse(buffer)?),
            TYPE_ORDER => Message::Order(Order::parse(buffer)?),
            TYPE_OUTCOME => Message::Outcome(Outcome::parse(buffer)?),
            TYPE_OFFERS => Message::Offers(Offers::parse(buffer)?),
            TYPE_CLOSE_IDLE => Message::CloseIdle(CloseIdle::parse(buffer)?),
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::ipos::list::Row as _;
    use crate::ipos::testing::{APPLIANCE, BOARD, FLOW, TRAILER, reseal};
    use crate::ipos::{
        Action, ApplicationName, ApplicationRow, ClosedReason, DetachOutcome, HeldState, NextRequest,
        Progress, RefusalReason, ReportPart, encapsulate,
    };
    use crate::seq::Seq;
    use crate::tcb::OptionBits;
    use crate::tcb::tests::golden as golden_tcb;

    const PACKET: [u8; 20] = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 10, 198, 51, 100, 1];

    fn written(len: usize, emit: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut octets = [0xa5; 256];
        emit(&mut octets);
        octets[..len].to_vec()
    }

    fn server_state() -> ServerState {
        ServerState {
            board: BOARD,
            appliance: APPLIANCE,
            draining: false,
            interval_ms: 500,
            epoch: 1,
            sequence: 2,
            options: OptionBits(7),
            cpu_cores: 2,
            cpu_utilisation: 100,
            established: 3,
            memory: 4,
            memory_available: 5,
            link_speed_bps: 6,
            bandwidth_available_bps: 7,
            endpoints_held: 8,
            pressure: None,
            tag: [0; 16],
        }
    }

    /// One message of every type, and how many of its octets the checksum covers.
    fn one_of_each() -> Vec<(Message<'static>, Vec<u8>, usize)> {
        let (flow, protocol, trailer) = (FLOW, Protocol::Tcp, TRAILER);
        let tcp = TcpConnection { flow, server: BOARD, server_port: 8080, tcb: golden_tcb() };
        let udp = UdpConnection { flow, server: BOARD, server_port: 8080 };
        let ack = Ack { flow, protocol, trailer: Some(trailer) };
        let refused = Refused { flow, protocol, reason: RefusalReason::Mptcp, trailer };
        let next = NextRequest { seq: Seq(7), ack: Seq(8) };
        let detach = Detach { flow, protocol, force: false, next, trailer };
        let detached = Detached { flow, protocol, outcome: DetachOutcome::Busy, next, trailer };
        let closed = Closed { flow, protocol, reason: ClosedReason::NotHeld, trailer };
        let who_holds = WhoHolds { flow, protocol, trailer };
        let holds = Holds { flow, protocol, state: HeldState::Pending, trailer };
        let state = server_state();
        let mut packet = written(16, |buffer| encapsulate(flow, protocol, buffer));
        packet.extend(PACKET);
        let report =
            ReportPart { board: BOARD, appliance: APPLIANCE, part: 2, parts: 3, epoch: 4, sequence: 5 };
        let list = written(48, |buffer| {
            Listening::emit(&report, &[], buffer);
        });
        let close_idle = CloseIdle { board: BOARD, appliance: APPLIANCE, idle_ms: 9, tag: [0; 16] };
        let listening = Listening::parse(list.clone().leak()).expect("just emitted");
        let row = ApplicationRow::parse(&[1; 32]);
        let programs = written(80, |buffer| {
            Applications::emit(&report, &[row], buffer);
        });
        let applications = Applications::parse(programs.clone().leak()).expect("just emitted");
        let header = Header { flow, kind: TYPE_PACKET, protocol };
        let (board, appliance, tag) = (BOARD, APPLIANCE, [0; 16]);
        let name = ApplicationName::new("web").expect("a name");
        let order = Order { board, appliance, action: Action::Stop, id: 6, name, tag };
        let progress = Progress::Busy;
        let outcome =
            Outcome { board, appliance, progress, retry_ms: 1, id: 6, pid: 2, detail: 0, name, tag };
        let head = ReportPart { board, appliance, part: 0, parts: 1, epoch: 1, sequence: 2 };
        let offered = written(48, |buffer| {
            Offers::emit(&head, &[], buffer);
        });
        let offers = Offers::parse(offered.clone().leak()).expect("just emitted");
        [
            (Message::TcpConnection(tcp), written(162, |buffer| tcp.emit(buffer)), 162),
            (Message::UdpConnection(udp), written(22, |buffer| udp.emit(buffer)), 22),
            (Message::Packet { header, packet: &PACKET }, packet, 16),
            (Message::Ack(ack), written(40, |buffer| ack.emit(buffer)), 40),
            (Message::Refused(refused), written(44, |buffer| refused.emit(buffer)), 44),
            (Message::Detach(detach), written(52, |buffer| detach.emit(buffer)), 52),
            (Message::Detached(detached), written(52, |buffer| detached.emit(buffer)), 52),
            (Message::Closed(closed), written(44, |buffer| closed.emit(buffer)), 44),
            (Message::WhoHolds(who_holds), written(40, |buffer| who_holds.emit(buffer)), 40),
            (Message::Holds(holds), written(44, |buffer| holds.emit(buffer)), 44),
            (Message::ServerState(state), written(96, |buffer| state.emit(buffer)), 96),
            (Message::Listening(listening), list, 48),
            (Message::CloseIdle(close_idle), written(36, |buffer| close_idle.emit(buffer)), 36),
            (Message::Applications(applications), programs, 80),
            (Message::Order(order), written(88, |buffer| order.emit(buffer)), 88),
            (Message::Outcome(outcome), written(88, |buffer| outcome.emit(buffer)), 88),
            (Message::Offers(offers), offered, 48),
        ]
        .into()
    }

    #[test]
    fn every_type_is_told_apart() {
        for (message, octets, _) in one_of_each() {
            assert_eq!(Message::parse(&octets), Ok(Some(message)));
        }
    }

    #[test]
    fn padding_changes_nothing() {
        for (message, mut octets, _) in one_of_each() {
            octets.resize(octets.len() + 30, 0);
            assert_eq!(Message::parse(&octets), Ok(Some(message)));
        }
    }

    #[test]
    fn every_shorter_message_is_malformed() {
        for (message, octets, _) in one_of_each() {
            for len in 0..octets.len() {
                assert!(Message::parse(&octets[..len]).is_err(), "{len} octets of {message:?}");
            }
        }
    }

    #[test]
    fn unknown_types_are_none_whatever_they_hold() {
        let known: Vec<u8> = one_of_each().iter().map(|(_, octets, _)| octets[12]).collect();
        for kind in (0..=u8::MAX).filter(|kind| !known.contains(kind)) {
            let mut octets = [0xa5; HEADER_LEN];
            octets[12] = kind;
            assert_eq!(Message::parse(&octets), Ok(None), "type {kind:#04x}");
            assert!(Message::parse(&octets[..15]).is_err(), "type {kind:#04x}");
        }
    }

    #[test]
    fn every_protocol_that_a_type_cannot_speak_of_is_malformed() {
        for (message, octets, covered) in one_of_each() {
            for protocol in 0..=u8::MAX {
                let mut octets = octets.clone();
                octets[13] = protocol;
                reseal(&mut octets, covered);
                let allowed: &[u8] = match message {
                    Message::TcpConnection(_) => &[1, 2],
                    Message::UdpConnection(_) => &[2],
                    Message::ServerState(_) | Message::Listening(_) | Message::Applications(_) => &[0],
                    Message::CloseIdle(_) | Message::Order(_) | Message::Outcome(_) | Message::Offers(_) => {
                        &[0]
                    }
                    _ => &[1, 2],
                };
                // A TCP connection renamed UDP is a shorter message whose checksum is not this one.
                let shorter = matches!(message, Message::TcpConnection(_)) && protocol == 2;
                let fine = allowed.contains(&protocol) && !shorter;
                assert_eq!(Message::parse(&octets).is_ok(), fine, "{protocol} in {message:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..256)) {
            let first = Message::parse(&octets);
            prop_assert_eq!(first, Message::parse(&octets));
        }

        /// Random octets almost never get past the checksum; these do.
        #[test]
        fn no_well_summed_octets_make_it_panic(
            which in 0_usize..16,
            changes in prop::collection::vec((0_usize..200, any::<u8>()), 1..8),
            cut in 0_usize..220,
        ) {
            let (_, mut octets, covered) = one_of_each().swap_remove(which);
            for (at, octet) in changes {
                // The type stays, so that the message gets to its parser.
                if let Some(slot) = octets.get_mut(at).filter(|_| at != 12) {
                    *slot = octet;
                }
            }
            reseal(&mut octets, covered);
            octets.truncate(cut);
            match Message::parse(&octets) {
                Ok(Some(Message::Listening(list))) => {
                    prop_assert!(list.rows().all(|row| row.name_str().len() <= 12));
                }
                Ok(Some(Message::Applications(list))) => {
                    prop_assert!(list.rows().all(|row| row.name_str().len() <= 12));
                }
                _ => {}
            }
        }
    }
}
