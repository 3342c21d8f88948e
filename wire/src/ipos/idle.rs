//! Close idle, type 0x13: an appliance asks a board to close those of its connections that are idle (docs/wire.md).

use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, TYPE_CLOSE_IDLE, seal, verify};
use super::octets::{first, first_mut, put, take, u8_at, u16_at};
use super::state::{TAG_LEN, check_version, report_flow};
use crate::error::Layer;

/// Close idle, type 0x13. Repeated while there is something to close, so a lost one needs no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloseIdle {
    /// The board that is asked.
    pub board: Ipv4Addr,
    /// The appliance whose connections are meant.
    pub appliance: Ipv4Addr,
    /// How long a connection must have been quiet, milliseconds.
    pub idle_ms: u16,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; TAG_LEN],
}

impl CloseIdle {
    /// Size of the message, octets.
    pub const LEN: usize = HEADER_LEN + 4 + TAG_LEN;

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not none), [`Error::Checksum`] and [`Error::Version`].
    pub fn parse(buffer: &[u8]) -> Result<CloseIdle, Error> {
        let header = Header::of(TYPE_CLOSE_IDLE, Protocol::None, buffer)?;
        let message = first::<HEADER_LEN, { Self::LEN }>(Layer::IposBody, buffer)?;
        verify(message)?;
        check_version(TYPE_CLOSE_IDLE, u8_at::<16, _>(message))?;
        Ok(CloseIdle {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            idle_ms: u16_at::<18, _>(message),
            tag: take::<20, TAG_LEN, _>(message),
        })
    }

    /// Writes the message with its checksum.
    ///
    /// # Panics
    /// When the buffer is shorter than [`Self::LEN`].
    pub fn emit(&self, buffer: &mut [u8]) {
        let message = first_mut::<{ Self::LEN }>(buffer);
        let flow = report_flow(self.board, self.appliance);
        Header { flow, kind: TYPE_CLOSE_IDLE, protocol: Protocol::None }.emit(message);
        put::<16, 2, _>(message, [super::state::VERSION, 0]);
        put::<18, 2, _>(message, self.idle_ms.to_be_bytes());
        put::<20, TAG_LEN, _>(message, self.tag);
        seal(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipos::testing::{APPLIANCE, BOARD};

    #[test]
    fn golden() {
        let message = CloseIdle { board: BOARD, appliance: APPLIANCE, idle_ms: 1000, tag: [0; 16] };
        let mut octets = [0xa5; CloseIdle::LEN + 4];
        message.emit(&mut octets);
        let mut expected = [0u8; CloseIdle::LEN];
        expected[..4].copy_from_slice(&BOARD.octets());
        expected[6..10].copy_from_slice(&APPLIANCE.octets());
        expected[12] = 0x13;
        expected[16..20].copy_from_slice(&[1, 0, 0x03, 0xe8]);
        assert_eq!(octets[..14], expected[..14]);
        assert_eq!(octets[16..36], expected[16..36]);
        assert_eq!(octets[36..], [0xa5; 4], "nothing behind it");
        assert_eq!(CloseIdle::parse(&octets), Ok(message));
        octets[16] = 2;
        crate::ipos::testing::reseal(&mut octets, CloseIdle::LEN);
        assert_eq!(CloseIdle::parse(&octets), Err(Error::Version { kind: 0x13, version: 2 }));
        octets[17] ^= 1;
        assert!(matches!(CloseIdle::parse(&octets), Err(Error::Checksum { .. })));
    }
}
