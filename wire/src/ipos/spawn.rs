//! Spawning messages, types 0x20 to 0x22: what an appliance orders, what came of it, and what a board may start
//! (docs/wire.md). In all of them the header names the pair: source is the board, destination the appliance.

use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_OFFERS, TYPE_ORDER, TYPE_OUTCOME, seal, verify};
use super::list::{List, Row};
use super::octets::{first, first_mut, ipv4_at, put, take, u8_at, u16_at, u32_at, u64_at};
use super::state::{TAG_LEN, VERSION, check_version, report_flow};
use crate::error::Layer;

/// Most rows in one message of offers.
pub const OFFERS_MAX: usize = 20;
/// Size of one row of offers, octets.
pub const OFFER_LEN: usize = 64;
/// Size of an application's name in a message, octets.
pub const NAME_LEN: usize = 32;

const FLAG_DRAINING: u16 = 1 << 0;

/// An application's name as messages carry it: padded with zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApplicationName(pub [u8; NAME_LEN]);

impl ApplicationName {
    /// The name, when it is one: 1 to 32 letters, digits, dots, dashes and underlines.
    #[must_use]
    pub fn new(text: &str) -> Option<ApplicationName> {
        let fits = (1..=NAME_LEN).contains(&text.len());
        let plain = text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet));
        if !fits || !plain {
            return None;
        }
        let mut name = [0; NAME_LEN];
        for (to, from) in name.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Some(ApplicationName(name))
    }

    /// The name up to its padding, or up to the first octet that is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let name = self.0.split(|octet| *octet == 0).next().unwrap_or_default();
        name.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }
}

impl core::str::FromStr for ApplicationName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        ApplicationName::new(text).ok_or(())
    }
}

/// What an order asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// An instance shall run and listen.
    Start,
    /// The instances shall end, once none holds a connection.
    Stop,
    /// A number that this version does not know.
    Other(u8),
}

impl Action {
    const fn from_code(code: u8) -> Action {
        match code {
            1 => Action::Start,
            2 => Action::Stop,
            other => Action::Other(other),
        }
    }

    /// The number in the message.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Action::Start => 1,
            Action::Stop => 2,
            Action::Other(code) => code,
        }
    }
}

/// Order, type 0x20: start or stop an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The board that shall do it.
    pub board: Ipv4Addr,
    /// The appliance that wants it.
    pub appliance: Ipv4Addr,
    /// What to do.
    pub action: Action,
    /// Names the order; never 0. The same id is the same order.
    pub id: u64,
    /// The application.
    pub name: ApplicationName,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; 16],
}

impl Order {
    /// Size of the message, octets.
    pub const LEN: usize = 88;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not none), [`Error::Checksum`] and [`Error::Version`].
    pub fn parse(buffer: &[u8]) -> Result<Order, Error> {
        let header = Header::of(TYPE_ORDER, Protocol::None, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposBody, buffer)?;
        verify(message)?;
        check_version(TYPE_ORDER, u8_at::<16, _>(message))?;
        Ok(Order {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            action: Action::from_code(u8_at::<17, _>(message)),
            id: u64_at::<24, _>(message),
            name: ApplicationName(take::<40, NAME_LEN, _>(message)),
            tag: take::<72, TAG_LEN, _>(message),
        })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        let flow = report_flow(self.board, self.appliance);
        Header { flow, kind: TYPE_ORDER, protocol: Protocol::None }.emit(message);
        put::<16, 2, _>(message, [VERSION, self.action.code()]);
        put::<18, 6, _>(message, [0; 6]);
        put::<24, 8, _>(message, self.id.to_be_bytes());
        put::<32, 8, _>(message, [0; 8]);
        put::<40, NAME_LEN, _>(message, self.name.0);
        put::<72, TAG_LEN, _>(message, self.tag);
        seal(message);
    }
}

/// What has come of an order so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Start: the process runs and does not listen yet.
    Starting,
    /// Start: it listens.
    Listening,
    /// Stop: no new connections; it ends when it holds none.
    Stopping,
    /// Stop: none runs.
    Stopped,
    /// Stop: it holds connections, and goes on; or somebody wants it again.
    Busy,
    /// The board's configuration does not list the application.
    Unlisted,
    /// Start: it ended before it listened.
    Exited,
    /// Start: it did not listen in time, and was ended.
    NeverListened,
    /// Start: it failed before; not before the time in `retry_ms`.
    BackingOff,
    /// Start: the process could not be made.
    Impossible,
    /// The action is not known.
    UnknownAction,
    /// A number that this version does not know.
    Other(u8),
}

impl Progress {
    const fn from_code(code: u8) -> Progress {
        match code {
            1 => Progress::Starting,
            2 => Progress::Listening,
            3 => Progress::Stopping,
            4 => Progress::Stopped,
            5 => Progress::Busy,
            16 => Progress::Unlisted,
            17 => Progress::Exited,
            18 => Progress::NeverListened,
            19 => Progress::BackingOff,
            20 => Progress::Impossible,
            21 => Progress::UnknownAction,
            other => Progress::Other(other),
        }
    }

    /// The number in the message.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Progress::Starting => 1,
            Progress::Listening => 2,
            Progress::Stopping => 3,
            Progress::Stopped => 4,
            Progress::Busy => 5,
            Progress::Unlisted => 16,
            Progress::Exited => 17,
            Progress::NeverListened => 18,
            Progress::BackingOff => 19,
            Progress::Impossible => 20,
            Progress::UnknownAction => 21,
            Progress::Other(code) => code,
        }
    }

    /// Whether nothing more will come of the order.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Progress::Starting | Progress::Stopping)
    }
}

/// Outcome, type 0x21: what has come of an order. Sent in answer to each 0x20, and when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The board that says so.
    pub board: Ipv4Addr,
    /// The appliance that ordered.
    pub appliance: Ipv4Addr,
    /// What has come of it.
    pub progress: Progress,
    /// Until it may be ordered again, milliseconds; 0 at once.
    pub retry_ms: u32,
    /// The order.
    pub id: u64,
    /// The process; 0 when there is none.
    pub pid: u32,
    /// Exited: exit status, or 128 and the signal's number. Impossible: the system's error number. Else 0.
    pub detail: u32,
    /// The application.
    pub name: ApplicationName,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; 16],
}

impl Outcome {
    /// Size of the message, octets.
    pub const LEN: usize = 88;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not none), [`Error::Checksum`] and [`Error::Version`].
    pub fn parse(buffer: &[u8]) -> Result<Outcome, Error> {
        let header = Header::of(TYPE_OUTCOME, Protocol::None, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposBody, buffer)?;
        verify(message)?;
        check_version(TYPE_OUTCOME, u8_at::<16, _>(message))?;
        Ok(Outcome {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            progress: Progress::from_code(u8_at::<17, _>(message)),
            retry_ms: u32_at::<20, _>(message),
            id: u64_at::<24, _>(message),
            pid: u32_at::<32, _>(message),
            detail: u32_at::<36, _>(message),
            name: ApplicationName(take::<40, NAME_LEN, _>(message)),
            tag: take::<72, TAG_LEN, _>(message),
        })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        let flow = report_flow(self.board, self.appliance);
        Header { flow, kind: TYPE_OUTCOME, protocol: Protocol::None }.emit(message);
        put::<16, 2, _>(message, [VERSION, self.progress.code()]);
        put::<18, 2, _>(message, [0; 2]);
        put::<20, 4, _>(message, self.retry_ms.to_be_bytes());
        put::<24, 8, _>(message, self.id.to_be_bytes());
        put::<32, 4, _>(message, self.pid.to_be_bytes());
        put::<36, 4, _>(message, self.detail.to_be_bytes());
        put::<40, NAME_LEN, _>(message, self.name.0);
        put::<72, TAG_LEN, _>(message, self.tag);
        seal(message);
    }
}

/// Offers, type 0x22: one part of the list of what a board may start, seen in its buffer.
pub type Offers<'a> = List<'a, Offer, OFFER_LEN>;

/// One application that a board may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: ApplicationName,
    /// Memory that an instance needs, octets, as the board's configuration declares it; 0 unknown.
    pub memory: u64,
    /// CPU that an instance needs, hundredths of a core; 0 unknown.
    pub cpu_hundredths: u16,
    /// Most instances at once.
    pub instances_max: u16,
    /// Instances that listen.
    pub listening: u16,
    /// Instances that have been started, or will be by themselves, and do not listen yet.
    pub starting: u16,
    /// Failures since it last ran for a while.
    pub failures: u16,
    /// It takes no new connections: it is being stopped.
    pub draining: bool,
    /// Until it may be started again, milliseconds; 0 at once.
    pub retry_ms: u32,
    /// The address that it listens on; 0.0.0.0 for all.
    pub address: Ipv4Addr,
    /// The port that it listens on.
    pub port: u16,
}

impl Row<OFFER_LEN> for Offer {
    const KIND: u8 = TYPE_OFFERS;
    const MAX: usize = OFFERS_MAX;

    fn parse(row: &[u8; OFFER_LEN]) -> Offer {
        Offer {
            name: ApplicationName(take::<0, NAME_LEN, _>(row)),
            memory: u64_at::<32, _>(row),
            cpu_hundredths: u16_at::<40, _>(row),
            instances_max: u16_at::<42, _>(row),
            listening: u16_at::<44, _>(row),
            starting: u16_at::<46, _>(row),
            failures: u16_at::<48, _>(row),
            draining: u16_at::<50, _>(row) & FLAG_DRAINING != 0,
            retry_ms: u32_at::<52, _>(row),
            address: ipv4_at::<56, _>(row),
            port: u16_at::<60, _>(row),
        }
    }

    fn emit(&self, row: &mut [u8; OFFER_LEN]) {
        put::<0, NAME_LEN, _>(row, self.name.0);
        put::<32, 8, _>(row, self.memory.to_be_bytes());
        put::<40, 2, _>(row, self.cpu_hundredths.to_be_bytes());
        put::<42, 2, _>(row, self.instances_max.to_be_bytes());
        put::<44, 2, _>(row, self.listening.to_be_bytes());
        put::<46, 2, _>(row, self.starting.to_be_bytes());
        put::<48, 2, _>(row, self.failures.to_be_bytes());
        put::<50, 2, _>(row, if self.draining { FLAG_DRAINING } else { 0 }.to_be_bytes());
        put::<52, 4, _>(row, self.retry_ms.to_be_bytes());
        put::<56, 4, _>(row, self.address.octets());
        put::<60, 2, _>(row, self.port.to_be_bytes());
        put::<62, 2, _>(row, [0; 2]);
    }
}

#[cfg(test)]
#[path = "spawn_tests.rs"]
mod tests;
