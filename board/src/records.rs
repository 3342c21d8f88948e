//! What the agent and the BPF programs say to each other: layouts of `bpf/tables.h`, as octets.

use std::net::Ipv4Addr;

use ipos_wire::{flow::Flow, ipos::Order};

/// Grows with every change of a map's key or value in `bpf/tables.h`; maps of another version are not adopted.
pub const LAYOUT_VERSION: u32 = 5;

fn array<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// What a program asks of the agent, or tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The socket of a taken-over endpoint closed.
    Closed,
    /// An old socket is in the way of a new endpoint.
    Clear,
    /// The endpoint is to be given up by force.
    Detach,
    /// The endpoint was given up for another board, which the appliance knows already.
    Moved,
    /// Connections of the appliance that are idle are to be closed; the event has no flow.
    CloseIdle,
}

/// `struct event`, from the ring buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What happened, or what shall be done.
    pub kind: EventKind,
    /// The farm address of the appliance concerned.
    pub appliance: Ipv4Addr,
    /// The endpoint concerned.
    pub flow: Flow,
    /// The record's migration id.
    pub migration_id: u64,
    /// Of [`EventKind::CloseIdle`]: how long a connection must have been quiet, milliseconds.
    pub idle_ms: u32,
}

impl Event {
    /// `None` for what no program of this version writes.
    pub fn parse(octets: &[u8]) -> Option<Event> {
        let kind = match u32::from_ne_bytes(array(octets, 0)?) {
            1 => EventKind::Closed,
            2 => EventKind::Clear,
            3 => EventKind::Detach,
            5 => EventKind::CloseIdle,
            6 => EventKind::Moved,
            _ => return None,
        };
        Some(Event {
            kind,
            appliance: Ipv4Addr::from(array::<4>(octets, 4)?),
            flow: Flow::from_octets(array(octets, 8)?),
            migration_id: u64::from_be_bytes(array(octets, 24)?),
            idle_ms: u32::from_ne_bytes(array(octets, 20)?),
        })
    }
}

/// What a program passes on to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// About an endpoint.
    Event(Event),
    /// `struct order_event`: an order (0x20) of the appliance with this farm address, from its ipOS header on.
    Order(Ipv4Addr, [u8; Order::LEN]),
}

impl Notice {
    /// `None` for what no program of this version writes.
    pub fn parse(octets: &[u8]) -> Option<Notice> {
        if u32::from_ne_bytes(array(octets, 0)?) == 4 {
            return Some(Notice::Order(Ipv4Addr::from(array::<4>(octets, 4)?), array(octets, 8)?));
        }
        Event::parse(octets).map(Notice::Event)
    }
}

/// `struct listener`: the argument of the `held_on` program; 0.0.0.0 stands for every address.
pub fn listener(address: Ipv4Addr, port: u16) -> [u8; 8] {
    let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
    [a, b, c, d, high, low, 0, 0]
}

/// `struct settlement`: the argument of the `settle` program.
pub fn settlement(flow: &Flow, migration_id: u64, destroyed: bool) -> [u8; 24] {
    let mut out = [0; 24];
    let (name, rest) = out.split_at_mut(12);
    name.copy_from_slice(&flow.to_octets());
    let (flag, id) = rest.split_at_mut(4);
    flag.copy_from_slice(&u32::from(destroyed).to_ne_bytes());
    id.copy_from_slice(&migration_id.to_be_bytes());
    out
}

/// What an operator is shown of a `struct endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The attempt that made it.
    pub migration_id: u64,
    /// When it came into its state, nanoseconds of CLOCK_MONOTONIC; a live one: when it was stored.
    pub changed_ns: u64,
    /// See [`endpoint_state`].
    pub state: &'static str,
    /// The farm address of the appliance that it came from.
    pub appliance: Ipv4Addr,
}

impl Record {
    /// `None` for what no program of this version writes.
    pub fn parse(octets: &[u8]) -> Option<Record> {
        Some(Record {
            migration_id: migration_id(octets)?,
            changed_ns: u64::from_ne_bytes(array(octets, 8)?),
            state: endpoint_state(octets)?,
            appliance: Ipv4Addr::from(array::<4>(octets, 36)?),
        })
    }
}

/// `enum endpoint_state`, by the record's octets; `None` when they are no record.
pub fn endpoint_state(record: &[u8]) -> Option<&'static str> {
    Some(match u32::from_ne_bytes(array(record, 32)?) {
        1 => "busy",
        2 => "pending",
        3 => "live",
        4 => "gone",
        5 => "clearing",
        6 => "detaching",
        _ => return None,
    })
}

/// Whether a record is of a live endpoint of this appliance on which the board has sent data last: between two requests.
pub fn is_between_requests(record: &[u8], appliance: Ipv4Addr) -> bool {
    const APPLIANCE: usize = 36;
    const LAST_WORD: usize = 68;
    const WORD_OF_BOARD: u8 = 2;
    endpoint_state(record) == Some("live")
        && array::<4>(record, APPLIANCE).map(Ipv4Addr::from) == Some(appliance)
        && record.get(LAST_WORD) == Some(&WORD_OF_BOARD)
}

/// The migration id of a record; `None` when the octets are too few.
pub fn migration_id(record: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(array(record, 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: Flow = Flow {
        client: Ipv4Addr::new(203, 0, 113, 9),
        client_port: 0x1234,
        endpoint: Ipv4Addr::new(198, 51, 100, 1),
        endpoint_port: 80,
    };

    #[test]
    fn an_event_is_read_and_anything_shorter_or_unknown_is_not() {
        let mut octets = Vec::new();
        octets.extend(2u32.to_ne_bytes());
        octets.extend([192, 0, 2, 2]);
        octets.extend(FLOW.to_octets());
        octets.extend(3u32.to_ne_bytes());
        octets.extend(0x0102_0304_0506_0708u64.to_be_bytes());
        let event = Event::parse(&octets).expect("an event");
        assert_eq!(event.kind, EventKind::Clear);
        assert_eq!(event.appliance, Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!((event.flow, event.migration_id), (FLOW, 0x0102_0304_0506_0708));
        for length in 0..octets.len() {
            assert_eq!(Event::parse(&octets[..length]), None, "{length} octets");
        }
        octets[..4].copy_from_slice(&9u32.to_ne_bytes());
        assert_eq!(Event::parse(&octets), None);
    }

    #[test]
    fn an_order_is_passed_on_whole_and_an_event_as_an_event() {
        let mut octets = Vec::new();
        octets.extend(4u32.to_ne_bytes());
        octets.extend([192, 0, 2, 2]);
        octets.extend((0..Order::LEN).map(|at| at as u8));
        let message = std::array::from_fn(|at| at as u8);
        assert_eq!(Notice::parse(&octets), Some(Notice::Order(Ipv4Addr::new(192, 0, 2, 2), message)));
        assert_eq!(Notice::parse(&octets[..95]), None);
        octets[..4].copy_from_slice(&1u32.to_ne_bytes());
        assert!(
            matches!(Notice::parse(&octets), Some(Notice::Event(event)) if event.kind == EventKind::Closed)
        );
    }

    #[test]
    fn a_listener_is_named_in_network_order() {
        assert_eq!(listener(Ipv4Addr::new(198, 51, 100, 1), 0x1f90), [198, 51, 100, 1, 0x1f, 0x90, 0, 0]);
    }

    #[test]
    fn a_settlement_is_24_octets_with_the_id_in_network_order() {
        let octets = settlement(&FLOW, 7, true);
        assert_eq!(octets[..12], FLOW.to_octets());
        assert_eq!(octets[12..16], 1u32.to_ne_bytes());
        assert_eq!(octets[16..], [0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn a_record_tells_its_state_and_id() {
        let mut record = [0u8; 80];
        record[7] = 5;
        record[32..36].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!((migration_id(&record), endpoint_state(&record)), (Some(5), Some("live")));
        record[8..16].copy_from_slice(&9u64.to_ne_bytes());
        record[36..40].copy_from_slice(&[192, 0, 2, 2]);
        let appliance = Ipv4Addr::new(192, 0, 2, 2);
        let whole = Record { migration_id: 5, changed_ns: 9, state: "live", appliance };
        assert_eq!(Record::parse(&record), Some(whole));
        assert_eq!(Record::parse(&record[..39]), None);
        record[32..36].copy_from_slice(&77u32.to_ne_bytes());
        assert_eq!((endpoint_state(&record), Record::parse(&record)), (None, None));
    }

    #[test]
    fn a_record_tells_whether_its_connection_is_between_requests() {
        let appliance = Ipv4Addr::new(192, 0, 2, 2);
        let mut record = [0u8; 80];
        record[32..36].copy_from_slice(&3u32.to_ne_bytes());
        record[36..40].copy_from_slice(&appliance.octets());
        for (last_word, expected) in [(0, false), (1, false), (2, true)] {
            record[68] = last_word;
            assert_eq!(is_between_requests(&record, appliance), expected, "{last_word}");
        }
        assert!(!is_between_requests(&record, Ipv4Addr::new(192, 0, 2, 3)), "another appliance's");
        record[32..36].copy_from_slice(&4u32.to_ne_bytes());
        assert!(!is_between_requests(&record, appliance), "gone");
        assert!(!is_between_requests(&record[..60], appliance));
    }
}
