//! State messages, types 0x10 and 0x11: what a board tells about itself and its listening sockets (docs/wire.md).

use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_LISTENING, TYPE_SERVER_STATE, seal, verify};
use super::octets::{first, first_mut, ipv4_at, put, take, u8_at, u16_at, u32_at, u64_at};
use crate::error::{Layer, LengthError};
use crate::flow::Flow;
use crate::tcb::OptionBits;

/// Most rows in one listening message.
pub const ROWS_MAX: usize = 40;
/// Size of one row of a listening message, octets.
pub const ROW_LEN: usize = 32;

/// The version of both layouts that this crate reads and writes.
const VERSION: u8 = 1;
/// Size of a listening message before its rows, octets.
const LISTENING_FIXED_LEN: usize = 32;
/// Size of an authentication tag, octets.
const TAG_LEN: usize = 16;

const FLAG_DRAINING: u8 = 1 << 0;
const FLAG_IPV6: u16 = 1 << 0;
const FLAG_MPTCP: u16 = 1 << 1;

// The largest message still fits the payload of an Ethernet frame.
const _: () = assert!(Listening::buffer_len(ROWS_MAX) <= 1500);

/// The flow of a message from a board to an appliance: no ports, because it speaks of no connection.
const fn report_flow(board: Ipv4Addr, appliance: Ipv4Addr) -> Flow {
    Flow { client: board, client_port: 0, endpoint: appliance, endpoint_port: 0 }
}

/// Refuses another version of the body than this crate's.
fn check_version(kind: u8, version: u8) -> Result<(), Error> {
    if version == VERSION { Ok(()) } else { Err(Error::Version { kind, version }) }
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
        Ok(ServerState {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            draining: u8_at::<17, _>(message) & FLAG_DRAINING != 0,
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
        put::<17, 1, _>(message, [if self.draining { FLAG_DRAINING } else { 0 }]);
        put::<18, 2, _>(message, self.interval_ms.to_be_bytes());
        put::<20, 4, _>(message, self.epoch.to_be_bytes());
        put::<24, 4, _>(message, self.sequence.to_be_bytes());
        put::<28, 2, _>(message, self.options.0.to_be_bytes());
        put::<30, 2, _>(message, self.cpu_cores.to_be_bytes());
        put::<32, 2, _>(message, self.cpu_utilisation.to_be_bytes());
        put::<34, 2, _>(message, [0; 2]);
        put::<36, 4, _>(message, self.established.to_be_bytes());
        put::<40, 8, _>(message, self.memory.to_be_bytes());
        put::<48, 8, _>(message, self.memory_available.to_be_bytes());
        put::<56, 8, _>(message, self.link_speed_bps.to_be_bytes());
        put::<64, 8, _>(message, self.bandwidth_available_bps.to_be_bytes());
        put::<72, 4, _>(message, self.endpoints_held.to_be_bytes());
        put::<76, 4, _>(message, [0; 4]);
        put::<80, TAG_LEN, _>(message, self.tag);
        seal(message);
    }
}

/// One listening TCP socket of a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListeningRow {
    /// The address bound; 0.0.0.0 also for a dual-stack `[::]`.
    pub address: Ipv4Addr,
    /// The port bound.
    pub port: u16,
    /// Bound to `[::]`.
    pub ipv6: bool,
    /// Speaks MPTCP.
    pub mptcp: bool,
    /// Connections in the accept queue.
    pub queue_len: u32,
    /// Most connections that the accept queue takes.
    pub queue_max: u32,
    /// Process that owns the socket.
    pub pid: u32,
    /// The process's name, cut, padded with zeros.
    pub name: [u8; 12],
}

impl ListeningRow {
    /// A process name as a row carries it: cut at 12 octets, padded with zeros.
    #[must_use]
    pub fn name_from(comm: &str) -> [u8; 12] {
        let mut name = [0; 12];
        for (to, from) in name.iter_mut().zip(comm.bytes()) {
            *to = from;
        }
        name
    }

    /// The name up to its padding, or up to the first octet that is not UTF-8 (a character may have been cut).
    #[must_use]
    pub fn name_str(&self) -> &str {
        let name = self.name.split(|octet| *octet == 0).next().unwrap_or_default();
        name.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }

    fn parse(row: &[u8; ROW_LEN]) -> ListeningRow {
        let flags = u16_at::<6, _>(row);
        ListeningRow {
            address: ipv4_at::<0, _>(row),
            port: u16_at::<4, _>(row),
            ipv6: flags & FLAG_IPV6 != 0,
            mptcp: flags & FLAG_MPTCP != 0,
            queue_len: u32_at::<8, _>(row),
            queue_max: u32_at::<12, _>(row),
            pid: u32_at::<16, _>(row),
            name: take::<20, 12, _>(row),
        }
    }

    fn emit(&self, row: &mut [u8; ROW_LEN]) {
        let ipv6 = if self.ipv6 { FLAG_IPV6 } else { 0 };
        let mptcp = if self.mptcp { FLAG_MPTCP } else { 0 };
        put::<0, 4, _>(row, self.address.octets());
        put::<4, 2, _>(row, self.port.to_be_bytes());
        put::<6, 2, _>(row, (ipv6 | mptcp).to_be_bytes());
        put::<8, 4, _>(row, self.queue_len.to_be_bytes());
        put::<12, 4, _>(row, self.queue_max.to_be_bytes());
        put::<16, 4, _>(row, self.pid.to_be_bytes());
        put::<20, 12, _>(row, self.name);
    }
}

/// Rows in their buffer. Two lists are equal when their rows say the same; reserved bits say nothing.
#[derive(Debug, Clone, Copy)]
struct Rows<'a>(&'a [[u8; ROW_LEN]]);

impl PartialEq for Rows<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(ListeningRow::parse).eq(other.0.iter().map(ListeningRow::parse))
    }
}

impl Eq for Rows<'_> {}

/// Listening sockets, type 0x11: one part of a board's list, seen in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening<'a> {
    /// The board that reports.
    pub board: Ipv4Addr,
    /// The appliance it reports to.
    pub appliance: Ipv4Addr,
    /// Which part of the report, from 0; below `parts`.
    pub part: u8,
    /// Parts in the report.
    pub parts: u8,
    /// When the agent started, Unix seconds.
    pub epoch: u32,
    /// Sequence of the report, alike in all its parts.
    pub sequence: u32,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; 16],
    rows: Rows<'a>,
}

impl<'a> Listening<'a> {
    /// Size of a message with `rows` rows, octets.
    #[must_use]
    pub const fn buffer_len(rows: usize) -> usize {
        LISTENING_FIXED_LEN + ROW_LEN * rows + TAG_LEN
    }

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not none), [`Error::Rows`], [`Error::Checksum`],
    /// [`Error::Version`] and [`Error::Part`].
    pub fn parse(buffer: &'a [u8]) -> Result<Listening<'a>, Error> {
        let header = Header::of(TYPE_LISTENING, Protocol::None, buffer)?;
        let fixed = first::<HEADER_LEN, LISTENING_FIXED_LEN>(Layer::IposBody, buffer)?;
        check_version(TYPE_LISTENING, u8_at::<16, _>(fixed))?;
        let count = u8_at::<19, _>(fixed);
        if usize::from(count) > ROWS_MAX {
            return Err(Error::Rows(count));
        }
        let required = Self::buffer_len(usize::from(count));
        let short = LengthError {
            layer: Layer::IposBody,
            offset: HEADER_LEN,
            required: required - HEADER_LEN,
            actual: buffer.len().saturating_sub(HEADER_LEN),
        };
        let message = buffer.get(..required).ok_or(short)?;
        verify(message)?;
        let (part, parts) = (u8_at::<17, _>(fixed), u8_at::<18, _>(fixed));
        if part >= parts {
            return Err(Error::Part { part, parts });
        }
        let (body, tag) = message.split_last_chunk::<TAG_LEN>().ok_or(short)?;
        let (rows, _) = body.get(LISTENING_FIXED_LEN..).ok_or(short)?.as_chunks();
        Ok(Listening {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            part,
            parts,
            epoch: u32_at::<20, _>(fixed),
            sequence: u32_at::<24, _>(fixed),
            tag: *tag,
            rows: Rows(rows),
        })
    }

    /// The sockets of this part.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = ListeningRow> + use<'a> {
        self.rows.0.iter().map(ListeningRow::parse)
    }

    /// Writes one part of a report for an open farm, with its checksum, and returns its size in octets
    /// ([`Self::buffer_len`] of the number of rows).
    ///
    /// # Panics
    /// When there are more than [`ROWS_MAX`] rows, or the buffer is shorter than the message.
    #[expect(
        clippy::too_many_arguments,
        reason = "they are the fields of the message, which borrows its rows"
    )]
    pub fn emit(
        board: Ipv4Addr,
        appliance: Ipv4Addr,
        part: u8,
        parts: u8,
        epoch: u32,
        sequence: u32,
        rows: &[ListeningRow],
        buffer: &mut [u8],
    ) -> usize {
        assert!(rows.len() <= ROWS_MAX, "{} rows do not fit one message of {ROWS_MAX}", rows.len());
        let len = Self::buffer_len(rows.len());
        assert!(len <= buffer.len(), "a buffer of {} octets cannot hold a message of {len}", buffer.len());
        let message = &mut buffer[..len];
        let (fixed, rest) = message.split_at_mut(LISTENING_FIXED_LEN);
        let fixed = first_mut::<LISTENING_FIXED_LEN>(fixed);
        let flow = report_flow(board, appliance);
        Header { flow, kind: TYPE_LISTENING, protocol: Protocol::None }.emit(fixed);
        // At most ROWS_MAX, which fits an octet.
        put::<16, 4, _>(fixed, [VERSION, part, parts, rows.len() as u8]);
        put::<20, 4, _>(fixed, epoch.to_be_bytes());
        put::<24, 4, _>(fixed, sequence.to_be_bytes());
        put::<28, 4, _>(fixed, [0; 4]);
        let (slots, tag) = rest.as_chunks_mut::<ROW_LEN>();
        for (row, slot) in rows.iter().zip(slots) {
            row.emit(slot);
        }
        tag.fill(0);
        seal(message);
        len
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::ipos::testing::{
        APPLIANCE, BOARD, any_address, assert_covered, assert_emit_needs, assert_length, emitted, reseal,
    };

    const STATE: [u8; 96] = [
        // source: the board 10.0.0.21, port 0
        0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
        0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
        0x10, 0x00, // checksum
        0xd0, 0x96, // version, flags: draining, interval 500 ms
        0x01, 0x01, 0x01, 0xf4, // epoch, sequence 7
        0x65, 0xf0, 0xa1, 0xb2, 0x00, 0x00, 0x00, 0x07, // options: all four; 8 cores
        0x00, 0x0f, 0x00, 0x08, // utilisation 43.21 %, zero
        0x10, 0xe1, 0x00, 0x00, // 1234 established
        0x00, 0x00, 0x04, 0xd2, // 16 GiB memory, 6 GiB available
        0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x80, 0x00, 0x00, 0x00,
        // 10 Gbit/s link, 9 Gbit/s available
        0x00, 0x00, 0x00, 0x02, 0x54, 0x0b, 0xe4, 0x00, 0x00, 0x00, 0x00, 0x02, 0x18, 0x71, 0x1a, 0x00,
        // 99 endpoints held, zero
        0x00, 0x00, 0x00, 0x63, 0x00, 0x00, 0x00, 0x00, // tag
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    const LISTENING: [u8; 112] = [
        // source: the board 10.0.0.21, port 0
        0x0a, 0x00, 0x00, 0x15, 0x00, 0x00, // destination: the appliance 10.0.0.1, port 0
        0x0a, 0x00, 0x00, 0x01, 0x00, 0x00, // type, protocol
        0x11, 0x00, // checksum
        0xa1, 0xbe, // version, part 0 of 1, 2 rows
        0x01, 0x00, 0x01, 0x02, // epoch, sequence 7, zero
        0x65, 0xf0, 0xa1, 0xb2, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00,
        // address, port, flags
        0x00, 0x00, 0x00, 0x00, 0x00, 0x50, 0x00, 0x01,
        // accept queue length and limit, process id
        0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x01, 0xff, 0x00, 0x00, 0x10, 0x92, // process name
        0x6e, 0x67, 0x69, 0x6e, 0x78, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        // address, port, flags
        0x0a, 0x00, 0x00, 0x15, 0x1f, 0x90, 0x00, 0x02,
        // accept queue length and limit, process id
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x00, 0x00, 0x00, 0x4d, // process name
        0x68, 0x61, 0x70, 0x72, 0x6f, 0x78, 0x79, 0x2d, 0x6d, 0x61, 0x73, 0x74, // tag
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
            tag: [0; 16],
        }
    }

    fn golden_rows() -> [ListeningRow; 2] {
        [
            ListeningRow {
                address: Ipv4Addr::UNSPECIFIED,
                port: 80,
                ipv6: true,
                mptcp: false,
                queue_len: 3,
                queue_max: 511,
                pid: 4242,
                name: ListeningRow::name_from("nginx"),
            },
            ListeningRow {
                address: BOARD,
                port: 8080,
                ipv6: false,
                mptcp: true,
                queue_len: 0,
                queue_max: 128,
                pid: 77,
                name: ListeningRow::name_from("haproxy-master"),
            },
        ]
    }

    fn emit_listening(rows: &[ListeningRow], buffer: &mut [u8]) -> usize {
        Listening::emit(BOARD, APPLIANCE, 0, 1, EPOCH, 7, rows, buffer)
    }

    /// The golden listening message with one octet changed and the checksum right again.
    fn changed(at: usize, octet: u8) -> [u8; 112] {
        let mut message = LISTENING;
        message[at] = octet;
        reseal(&mut message, 112);
        message
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
    }

    #[test]
    fn deconstructs_the_golden_list() {
        let listening = Listening::parse(&LISTENING).expect("golden");
        assert_eq!((listening.board, listening.appliance), (BOARD, APPLIANCE));
        assert_eq!((listening.part, listening.parts), (0, 1));
        assert_eq!((listening.epoch, listening.sequence, listening.tag), (EPOCH, 7, [0; 16]));
        assert_eq!(listening.rows().len(), 2);
        assert!(listening.rows().eq(golden_rows()));
        assert!(listening.rows().map(|row| row.name_str() == "nginx").eq([true, false]));
    }

    #[test]
    fn constructs_the_golden_list_over_old_octets() {
        assert_eq!(Listening::buffer_len(2), 112);
        let message = emitted(112, |buffer| assert_eq!(emit_listening(&golden_rows(), buffer), 112));
        assert_eq!(message, LISTENING);
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let message = emitted(48, |buffer| assert_eq!(emit_listening(&[], buffer), 48));
        assert_eq!(Listening::parse(&message).expect("empty").rows().len(), 0);
    }

    #[test]
    fn the_longest_list_fits_and_a_longer_one_is_refused() {
        let rows = [golden_rows()[0]; ROWS_MAX + 1];
        let len = Listening::buffer_len(ROWS_MAX);
        let mut message = emitted(len, |buffer| assert_eq!(emit_listening(&rows[..ROWS_MAX], buffer), len));
        assert_eq!(Listening::parse(&message).expect("40 rows").rows().len(), ROWS_MAX);
        message.resize(1500, 0);
        message[19] = 41;
        reseal(&mut message, Listening::buffer_len(41));
        assert_eq!(Listening::parse(&message), Err(Error::Rows(41)));
        let outcome = std::panic::catch_unwind(|| emit_listening(&rows, &mut [0; 1500]));
        assert!(outcome.is_err(), "41 rows were emitted");
    }

    #[test]
    fn every_shorter_buffer_is_refused_and_padding_ignored() {
        assert_length(&STATE, ServerState::parse);
        assert_length(&LISTENING, Listening::parse);
    }

    #[test]
    fn emit_panics_on_a_short_buffer_only() {
        assert_emit_needs(96, |buffer| golden_state().emit(buffer));
        assert_emit_needs(112, |buffer| {
            emit_listening(&golden_rows(), buffer);
        });
    }

    #[test]
    fn the_checksum_covers_the_whole_message() {
        assert_covered(&STATE, 96, ServerState::parse);
        assert_covered(&LISTENING, 112, |message| Listening::parse(message).map(|_| ()));
    }

    #[test]
    fn reserved_bits_do_not_make_two_lists_differ() {
        let reserved = changed(38, 0x80);
        assert_eq!(Listening::parse(&reserved), Listening::parse(&LISTENING));
        let other_pid = changed(48, 1);
        assert_ne!(Listening::parse(&other_pid), Listening::parse(&LISTENING));
    }

    #[test]
    fn another_version_is_refused() {
        let mut message = STATE;
        message[16] = 2;
        reseal(&mut message, 96);
        assert_eq!(ServerState::parse(&message), Err(Error::Version { kind: 0x10, version: 2 }));
        assert_eq!(Listening::parse(&changed(16, 0)), Err(Error::Version { kind: 0x11, version: 0 }));
    }

    #[test]
    fn a_part_beyond_the_report_is_refused() {
        assert_eq!(Listening::parse(&changed(17, 1)), Err(Error::Part { part: 1, parts: 1 }));
        assert_eq!(Listening::parse(&changed(18, 0)), Err(Error::Part { part: 0, parts: 0 }));
        assert!(Listening::parse(&changed(18, 255)).is_ok());
    }

    #[test]
    fn reports_speak_of_no_connection() {
        assert_eq!(Listening::parse(&changed(13, 1)), Err(Error::Protocol { kind: 0x11, protocol: 1 }));
        let mut message = STATE;
        message[13] = 2;
        reseal(&mut message, 96);
        assert_eq!(ServerState::parse(&message), Err(Error::Protocol { kind: 0x10, protocol: 2 }));
    }

    #[test]
    fn a_report_is_not_read_as_the_other() {
        assert_eq!(ServerState::parse(&LISTENING), Err(Error::Type { expected: 0x10, found: 0x11 }));
        assert_eq!(Listening::parse(&STATE), Err(Error::Type { expected: 0x11, found: 0x10 }));
    }

    #[test]
    fn names_are_cut_at_twelve_octets_and_read_to_their_padding() {
        let named = |name| ListeningRow { name, ..golden_rows()[0] };
        assert_eq!(ListeningRow::name_from("haproxy-master"), *b"haproxy-mast");
        assert_eq!(named(ListeningRow::name_from("haproxy-master")).name_str(), "haproxy-mast");
        assert_eq!(named(ListeningRow::name_from("")).name_str(), "");
        assert_eq!(named(*b"ab\0cdefghijk").name_str(), "ab");
        // The cut went through the two octets of an accented letter.
        assert_eq!(named(ListeningRow::name_from("abcdefghijk\u{e9}")).name_str(), "abcdefghijk");
        assert_eq!(named([0xff; 12]).name_str(), "");
    }

    prop_compose! {
        fn any_row()(
            address in any_address(),
            (port, ipv6, mptcp) in any::<(u16, bool, bool)>(),
            (queue_len, queue_max, pid) in any::<(u32, u32, u32)>(),
            name in any::<[u8; 12]>(),
        ) -> ListeningRow {
            ListeningRow { address, port, ipv6, mptcp, queue_len, queue_max, pid, name }
        }
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

        #[test]
        fn lists_survive_a_round_trip(
            (board, appliance) in (any_address(), any_address()),
            parts in 1_u8..,
            (epoch, sequence) in any::<(u32, u32)>(),
            rows in prop::collection::vec(any_row(), 0..=ROWS_MAX),
        ) {
            let len = Listening::buffer_len(rows.len());
            let message = emitted(len, |buffer| {
                let part = parts - 1;
                Listening::emit(board, appliance, part, parts, epoch, sequence, &rows, buffer);
            });
            let listening = Listening::parse(&message).expect("just emitted");
            prop_assert_eq!((listening.board, listening.appliance), (board, appliance));
            prop_assert_eq!((listening.part, listening.parts), (parts - 1, parts));
            prop_assert_eq!((listening.epoch, listening.sequence), (epoch, sequence));
            prop_assert_eq!(listening.rows().collect::<Vec<_>>(), rows);
        }
    }
}
