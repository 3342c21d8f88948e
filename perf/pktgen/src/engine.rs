//! The generator's loop: what is due goes out, what comes in is told apart, answers go out.

use std::net::Ipv4Addr;

use ipos_wire::ethernet;
use ipos_wire::mac::Mac;
use ipos_wire::{arp, ethernet::ETHERTYPE_ARP, ethernet::ETHERTYPE_IPV4};

use crate::addressing::Clients;
use crate::boards::{Arrived, Boards};
use crate::client::Io;
use crate::frame::{ARP_OCTETS, Received, Way, parse_arp, write_arp};
use crate::lane::Lane;
use crate::profiles::Profile;
use crate::schedule::Schedule;

/// Units that one poll starts at most, so that receiving is never starved.
const STARTS_PER_POLL: u32 = 64;

/// Polls in a row that only receive: enough for the largest memory ring (2^14 packets), and bounded, so that a target that
/// never stops talking is loaded all the same.
const RECEIVING_POLLS: u32 = 256;

/// What lies in a port after a pause of ours is taken out before more is sent. Else the port would stay as full as it is, and
/// what the target cannot put into it would be lost by the generator, not by the target.
#[derive(Debug, Default)]
struct Backlog {
    /// Polls in a row that left something behind.
    polls: u32,
}

impl Backlog {
    fn may_start(&self) -> bool {
        self.polls == 0
    }

    fn after_poll(&mut self, leaves_some: bool) {
        self.polls = if leaves_some && self.polls < RECEIVING_POLLS { self.polls + 1 } else { 0 };
    }
}

/// What stands between the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// An ipOS appliance: clients on the one side, pretended boards on the other
    Appliance,
    /// A cable, a memory ring or a plain forwarder: what is sent comes back as it was, on either port
    Loop,
}

/// The ports, and everything that talks through them.
#[derive(Debug)]
pub struct Engine {
    target: Target,
    clients: Clients,
    client_lane: Lane,
    farm_lane: Option<Lane>,
    boards: Boards,
    profile: Box<dyn Profile>,
    next_hop: Option<Mac>,
    schedule: Schedule,
    backlog: Backlog,
}

impl Engine {
    /// Nothing scheduled. `next_hop` is where client frames go; without it ARP asks for the service's address.
    #[must_use]
    pub fn new(
        target: Target,
        clients: Clients,
        lanes: (Lane, Option<Lane>),
        boards: Boards,
        profile: Box<dyn Profile>,
        next_hop: Option<Mac>,
    ) -> Self {
        let (client_lane, farm_lane) = lanes;
        let schedule = Schedule::new(0, 1.0, 0, 0);
        let backlog = Backlog::default();
        Self { target, clients, client_lane, farm_lane, boards, profile, next_hop, schedule, backlog }
    }

    /// The traffic.
    #[must_use]
    pub fn profile(&self) -> &dyn Profile {
        self.profile.as_ref()
    }

    /// The traffic, to change its phase.
    pub fn profile_mut(&mut self) -> &mut dyn Profile {
        self.profile.as_mut()
    }

    /// The boards.
    #[must_use]
    pub fn boards(&self) -> &Boards {
        &self.boards
    }

    /// The clients' port.
    #[must_use]
    pub fn client_lane(&self) -> &Lane {
        &self.client_lane
    }

    /// The boards' port.
    #[must_use]
    pub fn farm_lane(&self) -> Option<&Lane> {
        self.farm_lane.as_ref()
    }

    /// How the schedule is kept.
    #[must_use]
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Replaces the schedule; the profile counts from zero.
    pub fn begin(&mut self, schedule: Schedule) {
        self.schedule = schedule;
        self.profile.next_trial();
    }

    /// Plans no more starts; what is under way goes on.
    pub fn end_starts(&mut self) {
        self.schedule.stop();
    }

    /// Whether ARP has told where client frames go.
    #[must_use]
    pub fn knows_next_hop(&self) -> bool {
        self.next_hop.is_some()
    }

    /// Asks for the service's MAC address.
    pub fn ask_next_hop(&mut self) {
        let src = self.client_lane.mac();
        let ask = arp::Repr {
            operation: arp::Operation::Request,
            sender_mac: src,
            sender_ip: self.clients.first(),
            target_mac: Mac::default(),
            target_ip: self.clients.service(),
        };
        let way = Way { src, dst: Mac::BROADCAST };
        self.client_lane.send(ARP_OCTETS, |frame| write_arp(way, &ask, frame));
    }

    /// One round at time `now_ns`; whether there was anything to do.
    pub fn poll(&mut self, now_ns: u64) -> bool {
        if self.target == Target::Appliance
            && let Some(farm) = &mut self.farm_lane
        {
            self.boards.tick(now_ns, farm);
        }
        let mut busy = self.backlog.may_start() && self.start_due(now_ns);
        let received = self.client_lane.receive();
        let mut leaves_some = received.is_full();
        for mbuf in &received {
            busy = true;
            self.client_frame(mbuf.data(), now_ns);
        }
        drop(received);
        if let Some(mut farm) = self.farm_lane.take() {
            let received = farm.receive();
            leaves_some |= received.is_full();
            for mbuf in &received {
                busy = true;
                self.farm_frame(mbuf.data(), now_ns, &mut farm);
            }
            drop(received);
            farm.flush();
            self.farm_lane = Some(farm);
        }
        self.backlog.after_poll(leaves_some);
        let way = self.way();
        self.profile.tick(&mut Io { now_ns, lane: &mut self.client_lane, way });
        self.client_lane.flush();
        busy
    }

    /// From the clients' port to the next hop.
    fn way(&self) -> Way {
        Way { src: self.client_lane.mac(), dst: self.next_hop.unwrap_or(Mac::BROADCAST) }
    }

    fn start_due(&mut self, now_ns: u64) -> bool {
        let way = self.way();
        let mut io = Io { now_ns, lane: &mut self.client_lane, way };
        let mut started = false;
        for _ in 0..STARTS_PER_POLL {
            let Some(number) = self.schedule.due(now_ns).filter(|_| io.lane.has_room()) else { break };
            if !self.profile.start(number, self.schedule.intended_ns(number), &mut io) {
                break;
            }
            self.schedule.started(now_ns);
            started = true;
        }
        started
    }

    fn client_frame(&mut self, frame: &[u8], now_ns: u64) {
        let Some((header, body)) = frame.split_at_checked(ethernet::HEADER_LEN) else { return };
        let Ok(header) = ethernet::Frame::new_checked(header) else { return };
        match header.ethertype() {
            ETHERTYPE_ARP => self.client_arp(body),
            ETHERTYPE_IPV4 => {
                let Some(packet) = Received::parse(body) else { return };
                if self.target == Target::Loop {
                    return self.looped(&packet, now_ns);
                }
                let way = self.way();
                let mut io = Io { now_ns, lane: &mut self.client_lane, way };
                self.profile.client_packet(&packet, &self.schedule, &mut io);
            }
            _ => {}
        }
    }

    /// Learns the next hop, and answers routers that look for a client.
    fn client_arp(&mut self, body: &[u8]) {
        let Some(repr) = parse_arp(body) else { return };
        // A cable brings our own question back.
        if repr.sender_mac == self.client_lane.mac() {
            return;
        }
        if self.next_hop.is_none() && repr.sender_ip == self.clients.service() {
            self.next_hop = Some(repr.sender_mac);
        }
        if repr.operation == arp::Operation::Request && self.clients.has(repr.target_ip) {
            self.answer_arp(&repr, repr.target_ip);
        }
    }

    fn answer_arp(&mut self, request: &arp::Repr, ours: Ipv4Addr) {
        let src = self.client_lane.mac();
        let reply = arp::Repr {
            operation: arp::Operation::Reply,
            sender_mac: src,
            sender_ip: ours,
            target_mac: request.sender_mac,
            target_ip: request.sender_ip,
        };
        let way = Way { src, dst: request.sender_mac };
        self.client_lane.send(ARP_OCTETS, |frame| write_arp(way, &reply, frame));
    }

    fn farm_frame(&mut self, frame: &[u8], now_ns: u64, farm: &mut Lane) {
        if self.target == Target::Loop {
            if let Some(packet) = frame.get(ethernet::HEADER_LEN..).and_then(Received::parse) {
                self.looped(&packet, now_ns);
            }
            return;
        }
        let Some(arrived) = self.boards.frame(frame, farm) else { return };
        self.arrived(&arrived, now_ns, farm);
    }

    /// A client's packet that came back as it was.
    fn looped(&mut self, packet: &Received<'_>, now_ns: u64) {
        let slot = self.clients.slot(&packet.from_client()).and_then(|slot| u32::try_from(slot).ok());
        let Some(slot) = slot else { return };
        let arrived = Arrived { slot, packet: *packet };
        let way = self.way();
        let mut io = Io { now_ns, lane: &mut self.client_lane, way };
        if self.profile.arrived(&arrived, &self.schedule, &mut io) {
            return;
        }
        if let Some(reply) = self.boards.serve_directly(&arrived, io.lane) {
            self.profile.replied(slot, &reply, &mut io);
        }
    }

    /// A client's packet that a board got from the appliance.
    fn arrived(&mut self, arrived: &Arrived<'_>, now_ns: u64, farm: &mut Lane) {
        let way = self.way();
        let mut io = Io { now_ns, lane: &mut self.client_lane, way };
        if self.profile.arrived(arrived, &self.schedule, &mut io) {
            return;
        }
        if let Some(reply) = self.boards.serve(arrived, farm) {
            self.profile.replied(arrived.slot, &reply, &mut io);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boards::Farm;
    use crate::lane::{RX_BURST, testing::lane};
    use crate::profiles::Udp;

    #[test]
    fn what_waits_in_a_port_is_received_before_more_is_sent() {
        let mut client_lane = lane();
        // What is still there after a pause: three bursts and a bit, of no interest to anybody.
        for _ in 0..3 * RX_BURST + 8 {
            assert!(client_lane.send(60, |frame| frame.fill(0)));
        }
        client_lane.flush();
        let clients = Clients::new(Ipv4Addr::new(198, 18, 0, 1), 1, Ipv4Addr::new(198, 51, 100, 1), 80);
        let farm = Farm {
            ethertype: 0x88b5,
            boards: 1,
            first_address: Ipv4Addr::new(192, 0, 2, 11),
            appliance: Ipv4Addr::new(192, 0, 2, 2),
            report_ms: 100,
            response_octets: 1,
        };
        let boards = Boards::new(farm, clients, 1, 0);
        let udp = Box::new(Udp::new(clients, 1, "64".parse().expect("a size")));
        let mut engine = Engine::new(Target::Loop, clients, (client_lane, None), boards, udp, None);
        // All of it is due at once.
        engine.begin(Schedule::new(1, 1e9, 10_000, 0));
        let mut starts = Vec::new();
        for _ in 0..6 {
            engine.poll(1_000_000);
            starts.push(engine.schedule().starts());
        }
        // The first poll cannot know. It adds as much as it takes; the ring is empty in the fifth.
        assert_eq!(starts, [64, 64, 64, 64, 64, 128]);
    }

    #[test]
    fn a_target_that_never_stops_talking_is_loaded_all_the_same() {
        let mut backlog = Backlog::default();
        let starts = (0..10 * (RECEIVING_POLLS + 1)).filter(|_| {
            let may_start = backlog.may_start();
            backlog.after_poll(true);
            may_start
        });
        assert_eq!(starts.count(), 10);
    }
}
