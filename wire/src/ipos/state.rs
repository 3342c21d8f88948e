//! Server state, type 0x10: what a board tells about itself (docs/wire.md). Lists that go with it are in [`super::list`].

use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_SERVER_STATE, seal, verify};
use super::octets::{first, first_mut, put, take, u8_at, u16_at, u32_at, u64_at};
use crate::error::Layer;
use crate::flow::Flow;
use crate::tcb::OptionBits;

/// The version of the bodies of reports that this crate reads and writes.
pub(super) const VERSION: u8 = 1;
/// Size of an authentication tag, octets.
pub(super) const TAG_LEN: usize = 16;

const FLAG_DRAINING: u8 = 1 << 0;
const FLAG_PRESSURE: u8 = 1 << 1;

/// The flow of a message between a board and an appliance: no ports, because it speaks of no connection.
pub(super) const fn report_flow(board: Ipv4Addr, appliance: Ipv4Addr) -> Flow {
    Flow { client: board, client_port: 0, endpoint: appliance, endpoint_port: 0 }
}

/// Refuses another version of the body than this crate's.
pub(super) fn check_version(kind: u8, version: u8) -> Result<(), Error> {
    if version == VERSION { Ok(()) } else { Err(Error::Version { kind, version }) }
}

/// Pressure stall information (PSI, Linux `Documentation/accounting/psi.rst`): the share of the last ten seconds in which
/// some task waited, hundredths of a percent (0..=10000). Utilisation ends at 100 %; this tells how far demand goes past it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// Waited for a CPU.
    pub cpu: u16,
    /// Waited for memory: reclaim, swap, refaults.
    pub memory: u16,
}

/// Hello and server state, type 0x10: one row of the Server State Table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerState {
    /// The board that reports.
    pub board: Ipv4Addr,
    /// The appliance it reports to.
    pub appliance: Ipv4Addr,
    /// The board wants no new connections.
    pub draining: bool,
    /// Time between two reports, milliseconds.
    pub interval_ms: u16,
    /// When the agent started, Unix seconds.
    pub epoch: u32,
    /// Grows by 1 with every report; restarts at 1 with a new epoch.
    pub sequence: u32,
    /// TCP options that the board's kernel supports.
    pub options: OptionBits,
    /// CPU cores.
    pub cpu_cores: u16,
    /// CPU utilisation of all cores, hundredths of a percent (0..=10000).
    pub cpu_utilisation: u16,
    /// Established TCP connections.
    pub established: u32,
    /// Memory, octets.
    pub memory: u64,
    /// Available memory, octets.
    pub memory_available: u64,
    /// Link speed, bits per second; 0 unknown.
    pub link_speed_bps: u64,
    /// Available bandwidth, bits per second; 0 when the speed is unknown.
    pub bandwidth_available_bps: u64,
    /// Endpoints held, pending or live.
    pub endpoints_held: u32,
    /// Pressure, where the board's kernel tells it.
    pub pressure: Option<Pressure>,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; 16],
}

impl ServerState {
    /// Size of the message, octets.
    pub const LEN: usize = HEADER_LEN + 64 + TAG_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding. Unknown flags are ignored.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not none), [`Error::Checksum`] and [`Error::Version`].
    pub fn parse(buffer: &[u8]) -> Result<ServerState, Error> {
        let header = Header::of(TYPE_SERVER_STATE, Protocol::None, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposBody, buffer)?;
        verify(message)?;
        check_version(TYPE_SERVER_STATE, u8_at::<16, _>(message))?;
        let flags = u8_at::<17, _>(message);
        let pressure = Pressure { cpu: u16_at::<34, _>(message), memory: u16_at::<76, _>(message) };
        Ok(ServerState {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            draining: flags & FLAG_DRAINING != 0,
            interval_ms: u16_at::<18, _>(message),
            epoch: u32_at::<20, _>(message),
            sequence: u32_at::<24, _>(message),
            options: OptionBits(u16_at::<28, _>(message)),
            cpu_cores: u16_at::<30, _>(message),
            cpu_utilisation: u16_at::<32, _>(message),
            established: u32_at::<36, _>(message),
            memory: u64_at::<40, _>(message),
            memory_available: u64_at::<48, _>(message),
            link_speed_bps: u64_at::<56, _>(message),
            bandwidth_available_bps: u64_at::<64, _>(message),
            endpoints_held: u32_at::<72, _>(message),
            pressure: (flags & FLAG_PRESSURE != 0).then_some(pressure),
            tag: take::<80, TAG_LEN, _>(message),
        })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        let flow = report_flow(self.board, self.appliance);
        Header { flow, kind: TYPE_SERVER_STATE, protocol: Protocol::None }.emit(message);
        put::<16, 1, _>(message, [VERSION]);
        let draining = if self.draining { FLAG_DRAINING } else { 0 };
        let told = if self.pressure.is_some() { FLAG_PRESSURE } else { 0 };
        let pressure = self.pressure.unwrap_or(Pressure { cpu: 0, memory: 0 });
        put::<17, 1, _>(message, [draining | told]);
        put::<18, 2, _>(message, self.interval_ms.to_be_bytes());
        put::<20, 4, _>(message, self.epoch.to_be_bytes());
        put::<24, 4, _>(message, self.sequence.to_be_bytes());
        put::<28, 2, _>(message, self.options.0.to_be_bytes());
        put::<30, 2, _>(message, self.cpu_cores.to_be_bytes());
        put::<32, 2, _>(message, self.cpu_utilisation.to_be_bytes());
        put::<34, 2, _>(message, pressure.cpu.to_be_bytes());
        put::<36, 4, _>(message, self.established.to_be_bytes());
        put::<40, 8, _>(message, self.memory.to_be_bytes());
        put::<48, 8, _>(message, self.memory_available.to_be_bytes());
        put::<56, 8, _>(message, self.link_speed_bps.to_be_bytes());
        put::<64, 8, _>(message, self.bandwidth_available_bps.to_be_bytes());
        put::<72, 4, _>(message, self.endpoints_held.to_be_bytes());
        put::<76, 2, _>(message, pressure.memory.to_be_bytes());
        put::<78, 2, _>(message, [0; 2]);
        put::<80, TAG_LEN, _>(message, self.tag);
        seal(message);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;
    use crate::ipos::testing::{
        APPLIANCE, BOARD, assert_covered, assert_emit_needs, assert_length, emitted, reseal,
    };

    const STATE: [u8; 96] = [
        // source: the board 10.0.0.21, port 0
        0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
        0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
        0x10, 0x00, // checksum
        0xcb, 0xbb, // version, flags: draining, pressure; interval 500 ms
        0x01, 0x03, 0x01, 0xf4, // epoch, sequence 7
        0x65, 0xf0, 0xa1, 0xb2, 0x00, 0x00, 0x00, 0x07, // options: all four; 8 cores
        0x00, 0x0f, 0x00, 0x08, // utilisation 43.21 %, CPU pressure 12.34 %
        0x10, 0xe1, 0x04, 0xd2, // 1234 established
        0x00, 0x00, 0x04, 0xd2, // 16 GiB memory, 6 GiB available
        0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x80, 0x00, 0x00, 0x00,
        // 10 Gbit/s link, 9 Gbit/s available
        0x00, 0x00, 0x00, 0x02, 0x54, 0x0b, 0xe4, 0x00, 0x00, 0x00, 0x00, 0x02, 0x18, 0x71, 0x1a, 0x00,
        // 99 endpoints held, memory pressure 0.07 %, zero
        0x00, 0x00, 0x00, 0x63, 0x00, 0x07, 0x00, 0x00, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const EPOCH: u32 = 0x65f0_a1b2;

    fn golden_state() -> ServerState {
        ServerState {
            board: BOARD,
            appliance: APPLIANCE,
            draining: true,
            interval_ms: 500,
            epoch: EPOCH,
            sequence: 7,
            options: OptionBits(0xf),
            cpu_cores: 8,
            cpu_utilisation: 4321,
            established: 1234,
            memory: 16 << 30,
            memory_available: 6 << 30,
            link_speed_bps: 10_000_000_000,
            bandwidth_available_bps: 9_000_000_000,
            endpoints_held: 99,
            pressure: Some(Pressure { cpu: 1234, memory: 7 }),
            tag: [0; 16],
        }
    }

    #[test]
    fn deconstructs_the_golden_state() {
        assert_eq!(ServerState::parse(&STATE), Ok(golden_state()));
    }

    #[test]
    fn constructs_the_golden_state_over_old_octets() {
        assert_eq!(ServerState::LEN, 96);
        assert_eq!(emitted(96, |buffer| golden_state().emit(buffer)), STATE);
    }

    #[test]
    fn every_field_of_the_state_lies_where_the_table_says() {
        let mut message: [u8; 96] = core::array::from_fn(|at| at as u8);
        message[..16].copy_from_slice(&STATE[..16]);
        message[16] = 1;
        reseal(&mut message, 96);
        let state = ServerState::parse(&message).expect("version 1");
        assert_eq!((state.board, state.appliance), (BOARD, APPLIANCE));
        assert_eq!((state.draining, state.interval_ms), (true, 0x1213));
        assert_eq!((state.epoch, state.sequence), (0x1415_1617, 0x1819_1a1b));
        assert_eq!((state.options, state.cpu_cores), (OptionBits(0x1c1d), 0x1e1f));
        assert_eq!((state.cpu_utilisation, state.established), (0x2021, 0x2425_2627));
        assert_eq!((state.memory, state.memory_available), (0x2829_2a2b_2c2d_2e2f, 0x3031_3233_3435_3637));
        assert_eq!(state.link_speed_bps, 0x3839_3a3b_3c3d_3e3f);
        assert_eq!(state.bandwidth_available_bps, 0x4041_4243_4445_4647);
        assert_eq!(
            (state.endpoints_held, state.tag),
            (0x4849_4a4b, core::array::from_fn(|at| 80 + at as u8))
        );
        // 17 is 0x11: no pressure is told.
        assert_eq!(state.pressure, None);
        message[17] = 0x02;
        reseal(&mut message, 96);
        let state = ServerState::parse(&message).expect("version 1");
        assert_eq!(state.pressure, Some(Pressure { cpu: 0x2223, memory: 0x4c4d }));
    }

    #[test]
    fn an_agent_without_pressure_writes_what_older_ones_wrote() {
        let state = ServerState { pressure: None, ..golden_state() };
        let message = emitted(96, |buffer| state.emit(buffer));
        assert_eq!((message[17], &message[34..36], &message[76..80]), (1, &[0; 2][..], &[0; 4][..]));
        assert_eq!(ServerState::parse(&message), Ok(state));
    }

    #[test]
    fn every_shorter_buffer_is_refused_and_padding_ignored() {
        assert_length(&STATE, ServerState::parse);
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(96, |buffer| golden_state().emit(buffer));
    }

    #[test]
    fn the_checksum_covers_the_whole_message() {
        assert_covered(&STATE, 96, ServerState::parse);
    }

    #[test]
    fn another_version_is_refused() {
        let mut message = STATE;
        message[16] = 2;
        reseal(&mut message, 96);
        assert_eq!(ServerState::parse(&message), Err(Error::Version { kind: 0x10, version: 2 }));
    }

    #[test]
    fn reports_speak_of_no_connection() {
        let mut message = STATE;
        message[13] = 2;
        reseal(&mut message, 96);
        assert_eq!(ServerState::parse(&message), Err(Error::Protocol { kind: 0x10, protocol: 2 }));
    }

    proptest! {
        #[test]
        fn states_survive_a_round_trip(mut message in prop::collection::vec(any::<u8>(), 96)) {
            message[12..14].copy_from_slice(&STATE[12..14]);
            message[16] = 1;
            reseal(&mut message, 96);
            let state = ServerState::parse(&message).expect("version 1");
            let again = emitted(96, |buffer| state.emit(buffer));
            prop_assert_eq!(ServerState::parse(&again), Ok(state));
        }
    }
}
