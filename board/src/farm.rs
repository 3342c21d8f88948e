//! The agent's voice on the farm: whole ipOS frames on a packet socket (docs/wire.md).

use std::{
    fs::File,
    io::{self, Write},
};

use ipos_wire::{
    ethernet,
    flow::Flow,
    ipos::{
        Ack, Closed, ClosedReason, List, Listening, OFFERS_MAX, Offer, Offers, Outcome, Protocol, ROWS_MAX,
        RefusalReason, Refused, ReportPart, Row, ServerState, Trailer,
    },
    mac::Mac,
};

use crate::sys;

/// The smallest frame without FCS (IEEE 802.3); real ports pad, veth does not.
const FRAME_MIN: usize = 60;
const FRAME_MAX: usize = ethernet::HEADER_LEN + 1500;

const _: () = assert!(Listening::buffer_len(ROWS_MAX) <= 1500 && Offers::buffer_len(OFFERS_MAX) <= 1500);

/// Sends from the farm interface.
#[derive(Debug)]
pub struct Farm {
    socket: File,
    mac: Mac,
    ethertype: u16,
    buffer: [u8; FRAME_MAX],
}

impl Farm {
    /// A sender on the interface with this index and Ethernet address.
    ///
    /// # Errors
    /// EPERM without CAP_NET_RAW.
    pub fn open(ifindex: u32, mac: [u8; 6], ethertype: u16) -> io::Result<Farm> {
        let socket = File::from(sys::packet_sender(ifindex)?);
        Ok(Farm { socket, mac: Mac(mac), ethertype, buffer: [0; FRAME_MAX] })
    }

    /// 0x03.
    ///
    /// # Errors
    /// What the interface says; ENOBUFS when its queue is full.
    pub fn ack(&mut self, to: [u8; 6], flow: Flow, id: u64) -> io::Result<()> {
        let message = Ack { flow, protocol: Protocol::Tcp, trailer: Some(Trailer::open(id)) };
        self.send(to, message.buffer_len(), |buffer| message.emit(buffer))
    }

    /// 0x04.
    ///
    /// # Errors
    /// As [`Farm::ack`].
    pub fn refused(&mut self, to: [u8; 6], flow: Flow, id: u64, reason: RefusalReason) -> io::Result<()> {
        let message = Refused { flow, protocol: Protocol::Tcp, reason, trailer: Trailer::open(id) };
        self.send(to, Refused::LEN, |buffer| message.emit(buffer))
    }

    /// 0x07.
    ///
    /// # Errors
    /// As [`Farm::ack`].
    pub fn closed(&mut self, to: [u8; 6], flow: Flow, id: u64, reason: ClosedReason) -> io::Result<()> {
        let message = Closed { flow, protocol: Protocol::Tcp, reason, trailer: Trailer::open(id) };
        self.send(to, Closed::LEN, |buffer| message.emit(buffer))
    }

    /// 0x10.
    ///
    /// # Errors
    /// As [`Farm::ack`].
    pub fn server_state(&mut self, to: [u8; 6], state: &ServerState) -> io::Result<()> {
        self.send(to, ServerState::LEN, |buffer| state.emit(buffer))
    }

    /// 0x11 or 0x12, in as many parts as the rows need; an empty list is a part without rows. `report` says all but the parts.
    ///
    /// # Errors
    /// As [`Farm::ack`].
    pub fn list<R: Row>(&mut self, to: [u8; 6], report: ReportPart, rows: &[R]) -> io::Result<()> {
        // The part number has one octet: what is past 255 parts is not told.
        let parts: Vec<&[R]> =
            if rows.is_empty() { vec![&[]] } else { rows.chunks(ROWS_MAX).take(255).collect() };
        let count = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        for (part, rows) in (0..count).zip(parts) {
            let report = ReportPart { part, parts: count, ..report };
            self.send(to, List::<R>::buffer_len(rows.len()), |buffer| {
                List::emit(&report, rows, buffer);
            })?;
        }
        Ok(())
    }

    /// 0x21.
    ///
    /// # Errors
    /// As [`Farm::ack`].
    pub fn outcome(&mut self, to: [u8; 6], outcome: &Outcome) -> io::Result<()> {
        self.send(to, Outcome::LEN, |buffer| outcome.emit(buffer))
    }

    /// 0x22, in as many parts as the rows need; nothing without rows. `report` says all but the parts.
    ///
    /// # Errors
    /// As [`Farm::ack`].
    pub fn offers(&mut self, to: [u8; 6], report: &ReportPart, rows: &[Offer]) -> io::Result<()> {
        let parts = u8::try_from(rows.len().div_ceil(OFFERS_MAX)).unwrap_or(u8::MAX);
        for (part, rows) in (0..parts).zip(rows.chunks(OFFERS_MAX)) {
            let report = ReportPart { part, parts, ..*report };
            self.send(to, Offers::buffer_len(rows.len()), |buffer| {
                Offers::emit(&report, rows, buffer);
            })?;
        }
        Ok(())
    }

    fn send(&mut self, to: [u8; 6], length: usize, emit: impl FnOnce(&mut [u8])) -> io::Result<()> {
        self.buffer.fill(0);
        let (header, message) = self.buffer.split_at_mut(ethernet::HEADER_LEN);
        ethernet::Repr { dst: Mac(to), src: self.mac, ethertype: self.ethertype }.emit(header);
        emit(message);
        let frame = (ethernet::HEADER_LEN + length).max(FRAME_MIN);
        self.socket.write_all(self.buffer.get(..frame).unwrap_or(&self.buffer))
    }
}
