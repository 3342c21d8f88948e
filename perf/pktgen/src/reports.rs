//! A board's reports: 0x10 and 0x11, as a board without load sends them (docs/wire.md).

use std::net::Ipv4Addr;

use ipos_wire::ethernet;
use ipos_wire::ipos::{Listening, ListeningRow, ReportPart, ServerState};
use ipos_wire::tcb::OptionBits;

use crate::boards::Farm;
use crate::frame::Way;
use crate::lane::Lane;

/// Memory that a board claims to have, octets.
const MEMORY: u64 = 64 << 30;
/// Speed that a board claims its link has, bits per second.
const LINK_BPS: u64 = 100_000_000_000;
/// Most connections that the accept queue is said to take.
const QUEUE_MAX: u32 = 4096;

/// Makes the reports of all boards.
#[derive(Debug)]
pub struct Reporter {
    ethertype: u16,
    appliance: Ipv4Addr,
    interval_ms: u16,
    service_port: u16,
    epoch_s: u32,
    sequence: u32,
    next_ns: u64,
}

impl Reporter {
    /// Reports about one listener, on every address, on `service_port`.
    #[must_use]
    pub fn new(farm: &Farm, service_port: u16, epoch_s: u32) -> Self {
        Self {
            ethertype: farm.ethertype,
            appliance: farm.appliance,
            interval_ms: farm.report_ms,
            service_port,
            epoch_s,
            sequence: 0,
            next_ns: 0,
        }
    }

    /// Whether it is time for a report of every board; the next is then due an interval from now.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns >= self.next_ns;
        if due {
            self.next_ns = now_ns + u64::from(self.interval_ms) * 1_000_000;
            self.sequence = self.sequence.wrapping_add(1);
        }
        due
    }

    /// Sends one board's report.
    pub fn send(&self, way: Way, board: Ipv4Addr, held: u32, lane: &mut Lane) {
        let state = ServerState {
            board,
            appliance: self.appliance,
            draining: false,
            interval_ms: self.interval_ms,
            epoch: self.epoch_s,
            sequence: self.sequence,
            options: OptionBits::TIMESTAMPS | OptionBits::SACK | OptionBits::WINDOW_SCALE | OptionBits::ECN,
            cpu_cores: 64,
            cpu_utilisation: 0,
            established: held,
            memory: MEMORY,
            memory_available: MEMORY,
            link_speed_bps: LINK_BPS,
            bandwidth_available_bps: LINK_BPS,
            endpoints_held: held,
            pressure: None,
            tag: [0; 16],
        };
        self.frame(way, ServerState::LEN, lane, |body| state.emit(body));
        let rows = [ListeningRow {
            address: Ipv4Addr::UNSPECIFIED,
            port: self.service_port,
            ipv6: false,
            mptcp: false,
            queue_len: 0,
            queue_max: QUEUE_MAX,
            pid: std::process::id(),
            name: ListeningRow::name_from("ipos-pktgen"),
        }];
        let report = ReportPart {
            board,
            appliance: self.appliance,
            part: 0,
            parts: 1,
            epoch: self.epoch_s,
            sequence: self.sequence,
        };
        self.frame(way, Listening::buffer_len(rows.len()), lane, |body| {
            Listening::emit(&report, &rows, body);
        });
    }

    fn frame(&self, way: Way, octets: usize, lane: &mut Lane, emit: impl FnOnce(&mut [u8])) {
        lane.send(ethernet::HEADER_LEN + octets, |frame| {
            if let Some((front, body)) = frame.split_at_mut_checked(ethernet::HEADER_LEN) {
                ethernet::Repr { dst: way.dst, src: way.src, ethertype: self.ethertype }.emit(front);
                emit(body);
            }
        });
    }
}
