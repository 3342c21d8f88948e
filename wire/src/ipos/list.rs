//! What the reports 0x11, 0x12 and 0x22 have in common: rows, in parts that make up one report (docs/wire.md "Lists").

use core::fmt::Debug;
use core::marker::PhantomData;
use core::net::Ipv4Addr;

use super::Error;
use super::header::{HEADER_LEN, Header, Protocol, seal, verify};
use super::octets::{first, first_mut, put, u8_at, u32_at};
use super::state::{TAG_LEN, VERSION, check_version, report_flow};
use crate::error::{Layer, LengthError};

/// Most rows in one message of sockets or processes.
pub const ROWS_MAX: usize = 40;
/// Size of a row of sockets or processes, octets.
pub const ROW_LEN: usize = 32;
/// Size of a process name in a row, octets.
pub const NAME_LEN: usize = 12;

/// Size of a message before its rows, octets.
const FIXED_LEN: usize = 32;

/// A process name as a row carries it: cut at 12 octets, padded with zeros.
#[must_use]
pub fn name_from(comm: &str) -> [u8; NAME_LEN] {
    let mut name = [0; NAME_LEN];
    for (to, from) in name.iter_mut().zip(comm.bytes()) {
        *to = from;
    }
    name
}

/// A row's name up to its padding, or up to the first octet that is not UTF-8 (a character may have been cut).
#[must_use]
pub fn name_str(name: &[u8; NAME_LEN]) -> &str {
    let name = name.split(|octet| *octet == 0).next().unwrap_or_default();
    name.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// A row of a list, `LEN` octets, and the type of the list's message.
pub trait Row<const LEN: usize = ROW_LEN>: Copy + Debug + Eq {
    /// The message's type.
    const KIND: u8;
    /// Most rows in one message.
    const MAX: usize = ROWS_MAX;

    /// Reads a row; reserved bits are passed over.
    fn parse(row: &[u8; LEN]) -> Self;

    /// Writes a row, every octet of it.
    fn emit(&self, row: &mut [u8; LEN]);
}

/// Which part of which report a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportPart {
    /// The board that reports.
    pub board: Ipv4Addr,
    /// The appliance it reports to.
    pub appliance: Ipv4Addr,
    /// Which part, from 0; below `parts`.
    pub part: u8,
    /// Parts in the report.
    pub parts: u8,
    /// When the agent started, Unix seconds.
    pub epoch: u32,
    /// Sequence of the report, alike in all its parts: that of the 0x10 that it was sent with.
    pub sequence: u32,
}

/// One part of a board's list, seen in its buffer. Two are equal when they say the same; reserved bits say nothing.
#[derive(Debug, Clone, Copy)]
pub struct List<'a, R, const LEN: usize = ROW_LEN> {
    /// Which part of which report.
    pub report: ReportPart,
    /// Authentication tag; zero in an open farm.
    pub tag: [u8; TAG_LEN],
    rows: &'a [[u8; LEN]],
    kind: PhantomData<R>,
}

impl<R: Row<LEN>, const LEN: usize> PartialEq for List<'_, R, LEN> {
    fn eq(&self, other: &Self) -> bool {
        (self.report, self.tag) == (other.report, other.tag) && self.rows().eq(other.rows())
    }
}

impl<R: Row<LEN>, const LEN: usize> Eq for List<'_, R, LEN> {}

impl<'a, R: Row<LEN>, const LEN: usize> List<'a, R, LEN> {
    /// The largest message fits the payload of an Ethernet frame.
    const FITS: () = assert!(Self::buffer_len(R::MAX) <= 1500);

    /// Size of a message with `rows` rows, octets.
    #[must_use]
    pub const fn buffer_len(rows: usize) -> usize {
        FIXED_LEN + LEN * rows + TAG_LEN
    }

    /// Reads the message at the start of `buffer`; what follows it is Ethernet padding.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Type`], [`Error::Protocol`] (not none), [`Error::Rows`], [`Error::Checksum`],
    /// [`Error::Version`] and [`Error::Part`].
    pub fn parse(buffer: &'a [u8]) -> Result<Self, Error> {
        let header = Header::of(R::KIND, Protocol::None, buffer)?;
        let fixed = first::<HEADER_LEN, FIXED_LEN>(Layer::IposBody, buffer)?;
        check_version(R::KIND, u8_at::<16, _>(fixed))?;
        let count = u8_at::<19, _>(fixed);
        if usize::from(count) > R::MAX {
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
        let (rows, _) = body.get(FIXED_LEN..).ok_or(short)?.as_chunks();
        let report = ReportPart {
            board: header.flow.client,
            appliance: header.flow.endpoint,
            part,
            parts,
            epoch: u32_at::<20, _>(fixed),
            sequence: u32_at::<24, _>(fixed),
        };
        Ok(List { report, tag: *tag, rows, kind: PhantomData })
    }

    /// The rows of this part.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = R> + use<'a, R, LEN> {
        self.rows.iter().map(R::parse)
    }

    /// Writes one part of a report for an open farm, with its checksum, and returns its size in octets
    /// ([`Self::buffer_len`] of the number of rows).
    ///
    /// # Panics
    /// When there are more than [`Row::MAX`] rows, or the buffer is shorter than the message.
    pub fn emit(report: &ReportPart, rows: &[R], buffer: &mut [u8]) -> usize {
        let () = Self::FITS;
        assert!(rows.len() <= R::MAX, "{} rows do not fit one message of {}", rows.len(), R::MAX);
        let len = Self::buffer_len(rows.len());
        assert!(len <= buffer.len(), "a buffer of {} octets cannot hold a message of {len}", buffer.len());
        let message = &mut buffer[..len];
        let (fixed, rest) = message.split_at_mut(FIXED_LEN);
        let fixed = first_mut::<FIXED_LEN>(fixed);
        let flow = report_flow(report.board, report.appliance);
        Header { flow, kind: R::KIND, protocol: Protocol::None }.emit(fixed);
        // At most R::MAX, which fits an octet.
        put::<16, 4, _>(fixed, [VERSION, report.part, report.parts, rows.len() as u8]);
        put::<20, 4, _>(fixed, report.epoch.to_be_bytes());
        put::<24, 4, _>(fixed, report.sequence.to_be_bytes());
        put::<28, 4, _>(fixed, [0; 4]);
        let (slots, tag) = rest.as_chunks_mut::<LEN>();
        for (row, slot) in rows.iter().zip(slots) {
            row.emit(slot);
        }
        tag.fill(0);
        seal(message);
        len
    }
}

/// What the tests of each list share.
#[cfg(test)]
pub(crate) mod testing {
    extern crate std;

    use std::vec;

    use super::*;
    use crate::ipos::testing::{
        APPLIANCE, BOARD, assert_covered, assert_emit_needs, assert_length, emitted, reseal,
    };

    /// The report of the golden vectors, which has one part.
    pub(crate) const REPORT: ReportPart =
        ReportPart { board: BOARD, appliance: APPLIANCE, part: 0, parts: 1, epoch: 0x65f0_a1b2, sequence: 7 };

    /// The message with one octet changed and the checksum right again.
    pub(crate) fn changed<const N: usize>(message: &[u8; N], at: usize, octet: u8) -> [u8; N] {
        let mut message = *message;
        message[at] = octet;
        reseal(&mut message, N);
        message
    }

    /// Everything that a golden message of some rows must stand, whatever its rows are.
    pub(crate) fn stands_its_tests<R, const LEN: usize, const N: usize>(golden: &'static [u8; N], rows: &[R])
    where
        R: Row<LEN> + std::panic::RefUnwindSafe,
    {
        let list = List::<R, LEN>::parse(golden).expect("golden");
        assert_eq!((list.report, list.tag), (REPORT, [0; 16]));
        assert_eq!(list.rows().len(), rows.len());
        assert!(list.rows().eq(rows.iter().copied()));
        assert_eq!(List::<R, LEN>::buffer_len(rows.len()), N);
        let again = emitted(N, |buffer| assert_eq!(List::<R, LEN>::emit(&REPORT, rows, buffer), N));
        assert_eq!(again, golden);

        assert_length(golden, List::<R, LEN>::parse);
        assert_emit_needs(N, |buffer| {
            List::<R, LEN>::emit(&REPORT, rows, buffer);
        });
        assert_covered(golden, N, |message| List::<R, LEN>::parse(message).map(|_| ()));

        let refused = |at, octet| {
            let message = changed(golden, at, octet);
            List::<R, LEN>::parse(&message).map(|_| ()).expect_err("refused")
        };
        let kind = R::KIND;
        assert_eq!(refused(12, 0x10), Error::Type { expected: kind, found: 0x10 });
        assert_eq!(refused(13, 1), Error::Protocol { kind, protocol: 1 });
        assert_eq!(refused(16, 0), Error::Version { kind, version: 0 });
        assert_eq!(refused(17, 1), Error::Part { part: 1, parts: 1 });
        assert_eq!(refused(18, 0), Error::Part { part: 0, parts: 0 });
        assert!(List::<R, LEN>::parse(&changed(golden, 18, 255)).is_ok());
        is_of_any_length::<R, LEN>(rows[0]);
    }

    fn is_of_any_length<R: Row<LEN> + std::panic::RefUnwindSafe, const LEN: usize>(row: R) {
        let message = emitted(48, |buffer| assert_eq!(List::<R, LEN>::emit(&REPORT, &[], buffer), 48));
        assert_eq!(List::<R, LEN>::parse(&message).expect("empty").rows().len(), 0);
        let max = R::MAX;
        let rows = vec![row; max + 1];
        let len = List::<R, LEN>::buffer_len(max);
        let mut message =
            emitted(len, |buffer| assert_eq!(List::<R, LEN>::emit(&REPORT, &rows[..max], buffer), len));
        assert_eq!(List::<R, LEN>::parse(&message).expect("so many rows").rows().len(), max);
        message.resize(1500, 0);
        message[19] = max as u8 + 1;
        reseal(&mut message, List::<R, LEN>::buffer_len(max + 1));
        assert_eq!(List::<R, LEN>::parse(&message), Err(Error::Rows(max as u8 + 1)));
        let outcome = std::panic::catch_unwind(|| List::<R, LEN>::emit(&REPORT, &rows, &mut [0; 1500]));
        assert!(outcome.is_err(), "more rows than fit were emitted");
    }

    /// Checks that a report of these rows is read as it was written.
    pub(crate) fn survives_a_round_trip<R: Row<LEN>, const LEN: usize>(report: ReportPart, rows: &[R]) {
        let len = List::<R, LEN>::buffer_len(rows.len());
        let message = emitted(len, |buffer| {
            List::<R, LEN>::emit(&report, rows, buffer);
        });
        let list = List::<R, LEN>::parse(&message).expect("just emitted");
        assert_eq!(list.report, report);
        assert!(list.rows().eq(rows.iter().copied()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_twelve_octets_and_read_to_their_padding() {
        assert_eq!(name_from("haproxy-master"), *b"haproxy-mast");
        assert_eq!(name_str(&name_from("haproxy-master")), "haproxy-mast");
        assert_eq!(name_str(&name_from("")), "");
        assert_eq!(name_str(b"ab\0cdefghijk"), "ab");
        // The cut went through the two octets of an accented letter.
        assert_eq!(name_str(&name_from("abcdefghijk\u{e9}")), "abcdefghijk");
        assert_eq!(name_str(&[0xff; 12]), "");
    }
}
