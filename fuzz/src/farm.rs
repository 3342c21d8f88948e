//! Targets for what appliance and boards say to each other.

use ipos_wire::checksum;
use ipos_wire::ipos::{
    Ack, Detach, Detached, HEADER_LEN, List, Listening, Message, Offers, Protocol, Row, TYPE_ACK,
    TYPE_APPLICATIONS, TYPE_CLOSE_IDLE, TYPE_CONNECTION, TYPE_DETACH, TYPE_DETACHED, TYPE_LISTENING,
    TYPE_OFFERS, TYPE_ORDER, TYPE_OUTCOME, TYPE_PACKET, TYPE_SERVER_STATE, TYPE_WHO_HOLDS, TcpConnection,
    UdpConnection, encapsulate,
};
use ipos_wire::tcb::Tcb;

/// Octets of the longest message that is not a packet.
const MESSAGE_MAX: usize = 1500;

/// ipOS messages: what parses survives writing, both as it came and with its checksum made right, since no mutation
/// finds a right checksum by chance.
pub fn message(octets: &[u8]) {
    survives(octets);
    let mut sealed = octets.to_vec();
    if seal(&mut sealed) {
        survives(&sealed);
    }
}

/// Control blocks: what parses survives writing.
pub fn tcb(octets: &[u8]) {
    if let Ok(tcb) = Tcb::parse(octets) {
        let mut again = [0xa5; Tcb::LEN];
        tcb.emit(&mut again);
        assert_eq!(Tcb::parse(&again), Ok(tcb));
    }
}

fn survives(octets: &[u8]) {
    let Ok(Some(message)) = Message::parse(octets) else { return };
    let again = written(&message);
    assert!(again.len() <= octets.len(), "a message was read beyond its buffer");
    assert_eq!(Message::parse(&again), Ok(Some(message)));
    match message {
        Message::Listening(listening) => {
            listening.rows().for_each(|row| assert!(row.name.starts_with(row.name_str().as_bytes())));
        }
        Message::Applications(applications) => {
            applications.rows().for_each(|row| assert!(row.name.starts_with(row.name_str().as_bytes())));
        }
        _ => {}
    }
    if let Message::Offers(offers) = message {
        for row in offers.rows() {
            assert!(row.name.0.starts_with(row.name.as_str().as_bytes()));
        }
    }
}

/// The message as this crate's user would write it.
fn written(message: &Message<'_>) -> Vec<u8> {
    let mut buffer = [0xa5; MESSAGE_MAX];
    let len = match message {
        Message::TcpConnection(connection) => {
            connection.emit(&mut buffer);
            TcpConnection::LEN
        }
        Message::UdpConnection(connection) => {
            connection.emit(&mut buffer);
            UdpConnection::LEN
        }
        Message::Packet { header, packet } => {
            encapsulate(header.flow, header.protocol, &mut buffer);
            return [&buffer[..HEADER_LEN], packet].concat();
        }
        Message::Ack(ack) => {
            ack.emit(&mut buffer);
            Ack::buffer_len(ack)
        }
        Message::Refused(refused) => {
            refused.emit(&mut buffer);
            44
        }
        Message::Detach(detach) => {
            detach.emit(&mut buffer);
            Detach::LEN
        }
        Message::Detached(detached) => {
            detached.emit(&mut buffer);
            Detached::LEN
        }
        Message::Closed(closed) => {
            closed.emit(&mut buffer);
            44
        }
        Message::WhoHolds(who_holds) => {
            who_holds.emit(&mut buffer);
            40
        }
        Message::Holds(holds) => {
            holds.emit(&mut buffer);
            44
        }
        Message::ServerState(state) => {
            state.emit(&mut buffer);
            96
        }
        Message::CloseIdle(idle) => {
            idle.emit(&mut buffer);
            36
        }
        Message::Listening(listening) => return written_list(listening),
        Message::Applications(applications) => return written_list(applications),
        Message::Order(order) => {
            order.emit(&mut buffer);
            88
        }
        Message::Outcome(outcome) => {
            outcome.emit(&mut buffer);
            88
        }
        Message::Offers(offers) => return written_offers(offers),
    };
    buffer[..len].to_vec()
}

/// A list as read. `emit` writes the zero tag of an open farm, so the tag is put back.
fn written_list<R: Row>(list: &List<'_, R>) -> Vec<u8> {
    let rows: Vec<_> = list.rows().collect();
    let mut buffer = [0xa5; MESSAGE_MAX];
    let len = List::emit(&list.report, &rows, &mut buffer);
    tagged(&buffer[..len], &list.tag)
}

/// The same for what a board may start.
fn written_offers(offers: &Offers<'_>) -> Vec<u8> {
    let rows: Vec<_> = offers.rows().collect();
    let mut buffer = [0xa5; MESSAGE_MAX];
    let len = Offers::emit(&offers.report, &rows, &mut buffer);
    tagged(&buffer[..len], &offers.tag)
}

fn tagged(message: &[u8], tag: &[u8; 16]) -> Vec<u8> {
    let mut message = message.to_vec();
    let at = message.len() - tag.len();
    message[at..].copy_from_slice(tag);
    // The reader passes over reserved bits and ports; only what it keeps can be compared.
    assert!(seal(&mut message));
    message
}

/// Sets the checksum of a message by its type (docs/wire.md); false when the type is unknown or the message too short.
fn seal(message: &mut [u8]) -> bool {
    let Some(header) = message.first_chunk::<HEADER_LEN>() else { return false };
    let covered = match header[12] {
        TYPE_CONNECTION if header[13] == Protocol::Udp.code() => UdpConnection::LEN,
        TYPE_CONNECTION => TcpConnection::LEN,
        TYPE_PACKET => HEADER_LEN,
        TYPE_ACK if message.len() < 40 => HEADER_LEN,
        TYPE_ACK | TYPE_WHO_HOLDS => 40,
        TYPE_DETACH | TYPE_DETACHED => Detach::LEN,
        0x04..=0x09 => 44,
        TYPE_SERVER_STATE => 96,
        TYPE_CLOSE_IDLE => 36,
        TYPE_LISTENING | TYPE_APPLICATIONS => {
            Listening::buffer_len(message.get(19).copied().unwrap_or_default().into())
        }
        TYPE_ORDER | TYPE_OUTCOME => 88,
        TYPE_OFFERS => Offers::buffer_len(message.get(19).copied().unwrap_or_default().into()),
        _ => return false,
    };
    let Some(covered) = message.get_mut(..covered) else { return false };
    covered[14..16].fill(0);
    let sum = checksum::of(covered);
    covered[14..16].copy_from_slice(&sum.to_be_bytes());
    true
}
