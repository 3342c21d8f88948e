//! The beginnings that many scripts share.

use ipos_pipelines::entry::State;
use ipos_pipelines::handoff::{Command, Counted, Event, Place};
use ipos_pipelines::table::slab::EntryRef;
use ipos_pipelines::verdict::Verdict;
use ipos_wire::flow::Flow;

use super::{BOARD, Client, Encapsulated, MIGRATION, Node, Seg};

/// A request whose head is whole.
pub const REQUEST: &[u8] = b"GET /a/index.html HTTP/1.1\r\nHost: a.example\r\n\r\n";
/// Its length.
pub const REQUEST_LEN: u32 = REQUEST.len() as u32;

impl Node {
    /// SYN and SYN-ACK; the client then knows our ISS.
    #[track_caller]
    pub fn shake(&mut self, client: &mut Client) {
        assert_eq!(self.client(&client.syn()), Verdict::Answered);
        let syn_ack = self.answer();
        client.hears(&syn_ack);
    }

    /// A handshake, and the request in one segment: Forward-Connect.
    #[track_caller]
    pub fn request(&mut self, client: &mut Client, octets: &[u8]) -> Place {
        self.shake(client);
        assert_eq!(self.client(&client.data(0, octets)), Verdict::Held);
        let place = self.placed();
        assert_eq!(self.state(&client.flow), Some(State::ForwardConnect));
        place
    }

    /// A handshake with a service whose server may speak first: Forward-Connect.
    #[track_caller]
    pub fn shake_and_place(&mut self, client: &mut Client) -> Place {
        self.shake(client);
        assert_eq!(self.client(&client.ack(0)), Verdict::Held);
        let place = self.placed();
        assert_eq!(self.state(&client.flow), Some(State::ForwardConnect));
        place
    }

    /// A handshake, and the first octets of the request: Temporary.
    #[track_caller]
    pub fn shake_and_hold(&mut self, client: &mut Client) {
        self.shake(client);
        assert_eq!(self.client(&client.data(0, &REQUEST[..9])), Verdict::Held);
        self.answer();
        assert_eq!(self.state(&client.flow), Some(State::Temporary));
    }

    /// The control core says that the board has acknowledged.
    pub fn migrated(&mut self, place: &Place) {
        self.migrated_as(place.entry, place.flow, MIGRATION);
    }

    /// The same under another attempt.
    pub fn migrated_as(&mut self, entry: EntryRef, flow: Flow, migration_id: u64) {
        self.command(Command::Migrated { entry, flow, board: BOARD, migration_id, counted: Counted::No });
    }

    /// Up to the replay: Forward, but the client has not shown yet that the board has the request.
    #[track_caller]
    pub fn migrate(&mut self, client: &mut Client, octets: &[u8]) -> (Place, Vec<Encapsulated>) {
        let place = self.request(client, octets);
        self.migrated(&place);
        assert_eq!(self.state(&client.flow), Some(State::Forward));
        (place, self.packets_out())
    }

    /// Up to a settled Forward entry: the client has acknowledged 100 octets of the answer.
    #[track_caller]
    pub fn settle(&mut self, client: &mut Client) -> Place {
        let (place, _) = self.migrate(client, REQUEST);
        assert_eq!(self.client(&client.acks(REQUEST_LEN, 100)), Verdict::Forwarded);
        assert!(self.entry(&client.flow).is_some_and(|entry| entry.pending.is_none()), "settled");
        self.forwarded();
        place
    }

    /// Up to an entry for which the farm is asked.
    #[track_caller]
    pub fn ask(&mut self, stranger: &Client) -> EntryRef {
        self.ask_about(&stranger.data(0, b"x"))
    }

    /// The farm is asked who holds the flow of a segment, which waits.
    #[track_caller]
    pub fn ask_about(&mut self, segment: &Seg) -> EntryRef {
        assert_eq!(self.client(segment), Verdict::Held);
        match super::only(self.told()) {
            Event::WhoHolds { entry, flow, board: None } => {
                assert_eq!(flow, segment.flow);
                entry
            }
            other => panic!("a question to the farm, not {other:?}"),
        }
    }
}
