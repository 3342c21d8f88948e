//! TCP segments (RFC 9293 section 3.1) and the options of a handshake (RFC 9293 section 3.2, RFC 7323, RFC 2018).

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::BitOr;

use crate::checksum;
use crate::error::{Layer, LengthError};
use crate::ipv4::PROTOCOL_TCP;
use crate::octets;
use crate::seq::Seq;

/// Octets of the header without options.
pub const HEADER_LEN: usize = 20;
/// Octets of options that fit a header.
pub const MAX_OPTIONS_LEN: usize = 40;
/// The largest shift of the window field (RFC 7323 section 2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const SRC_PORT: usize = 0;
const DST_PORT: usize = 2;
const SEQ: usize = 4;
const ACK: usize = 8;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;
const URGENT: usize = 18;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_TIMESTAMPS: u8 = 8;

/// Why octets are not a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Header or option cut short.
    #[error(transparent)]
    Length(#[from] LengthError),
    /// A data offset below the 20 octets that every header has.
    #[error("TCP header length of {0} octets is below 20")]
    HeaderLength(usize),
    /// An option whose length field contradicts its kind.
    #[error("TCP option {kind} says it has {len} octets")]
    OptionLength {
        /// The option's kind.
        kind: u8,
        /// The option's length field.
        len: u8,
    },
}

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Hand the data to the receiver without delay.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// Congestion was met (RFC 3168 section 6.1).
    pub const ECE: Flags = Flags(0x40);
    /// The congestion window was reduced (RFC 3168 section 6.1).
    pub const CWR: Flags = Flags(0x80);

    /// Whether every bit of `other` is set.
    #[inline]
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set.
    #[inline]
    pub const fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;

    #[inline]
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut separator = "";
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if self.0 == 0 { f.write_str("none") } else { Ok(()) }
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A view of a segment; the buffer must end where the IPv4 payload ends, because TCP has no length of its own.
///
/// Constructing one neither checks the checksum nor reads the options: ask [`Segment::checksum_ok`] and
/// [`Segment::options`].
#[derive(Debug, Clone, Copy)]
pub struct Segment<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Segment<T> {
    /// Checks the data offset against the fixed header and the buffer.
    ///
    /// # Errors
    ///
    /// [`Error::Length`], [`Error::HeaderLength`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Segment<T>, Error> {
        let available = buffer.as_ref().len();
        LengthError::check(Layer::Tcp, 0, HEADER_LEN, available)?;
        let segment = Segment { buffer };
        let header_len = segment.header_len();
        if header_len < HEADER_LEN {
            return Err(Error::HeaderLength(header_len));
        }
        LengthError::check(Layer::Tcp, 0, header_len, available)?;
        Ok(segment)
    }

    /// Gives the buffer back.
    pub fn into_inner(self) -> T {
        self.buffer
    }

    /// The sender's port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), SRC_PORT)
    }

    /// The receiver's port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), DST_PORT)
    }

    /// SEG.SEQ, the sequence number of the first octet, or of the SYN.
    #[inline]
    pub fn seq(&self) -> Seq {
        Seq(octets::u32(self.buffer.as_ref(), SEQ))
    }

    /// SEG.ACK, which counts only with [`Flags::ACK`].
    #[inline]
    pub fn ack(&self) -> Seq {
        Seq(octets::u32(self.buffer.as_ref(), ACK))
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.buffer.as_ref()[FLAGS])
    }

    /// SEG.WND as sent, not yet shifted by the window scale.
    #[inline]
    pub fn window(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), WINDOW)
    }

    /// Octets of the header with its options: 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.buffer.as_ref()[DATA_OFFSET] >> 4) * 4
    }

    /// The checksum as sent.
    #[inline]
    pub fn checksum(&self) -> u16 {
        octets::u16(self.buffer.as_ref(), CHECKSUM)
    }

    /// Whether the checksum is right between these addresses.
    #[inline]
    pub fn checksum_ok(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        checksum_over(self.buffer.as_ref(), src, dst) == 0
    }

    /// The options, unread.
    #[inline]
    pub fn options_raw(&self) -> &[u8] {
        &self.buffer.as_ref()[HEADER_LEN..self.header_len()]
    }

    /// The options, read.
    ///
    /// # Errors
    ///
    /// As [`Options::parse`].
    #[inline]
    pub fn options(&self) -> Result<Options, Error> {
        Options::parse(self.options_raw())
    }

    /// SEG.LEN: octets of payload, plus one each for SYN and FIN (RFC 9293 section 3.4).
    #[inline]
    pub fn seg_len(&self) -> u32 {
        let payload_len = (self.buffer.as_ref().len() - self.header_len()) as u32;
        let flags = self.flags();
        payload_len + u32::from(flags.intersects(Flags::SYN)) + u32::from(flags.intersects(Flags::FIN))
    }
}

impl<'a, T: AsRef<[u8]> + ?Sized> Segment<&'a T> {
    /// What follows the header. It outlives the view.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buffer.as_ref()[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Segment<T> {
    /// Changes the sender's port. After this and every other setter the checksum is wrong until
    /// [`Segment::fill_checksum`].
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        octets::put_u16(self.buffer.as_mut(), SRC_PORT, port);
    }

    /// Changes the receiver's port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        octets::put_u16(self.buffer.as_mut(), DST_PORT, port);
    }

    /// Changes SEG.SEQ.
    #[inline]
    pub fn set_seq(&mut self, seq: Seq) {
        octets::put_u32(self.buffer.as_mut(), SEQ, seq.0);
    }

    /// Changes SEG.ACK.
    #[inline]
    pub fn set_ack(&mut self, ack: Seq) {
        octets::put_u32(self.buffer.as_mut(), ACK, ack.0);
    }

    /// Changes the control bits.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        octets::put(self.buffer.as_mut(), FLAGS, &[flags.0]);
    }

    /// Changes the window field.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        octets::put_u16(self.buffer.as_mut(), WINDOW, window);
    }

    /// Computes the checksum anew for these addresses.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        fill_checksum(self.buffer.as_mut(), src, dst);
    }

    /// What follows the header, to be written.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let header_len = self.header_len();
        &mut self.buffer.as_mut()[header_len..]
    }
}

/// The complemented sum over pseudo header and segment.
fn checksum_over(data: &[u8], src: Ipv4Addr, dst: Ipv4Addr) -> u16 {
    !checksum::fold(checksum::pseudo_header(src, dst, PROTOCOL_TCP, data.len()) + checksum::sum(data))
}

fn fill_checksum(data: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) {
    octets::put_u16(data, CHECKSUM, 0);
    let checksum = checksum_over(data, src, dst);
    octets::put_u16(data, CHECKSUM, checksum);
}

/// The timestamps option (RFC 7323 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Timestamps {
    /// TSval, the sender's clock.
    pub tsval: u32,
    /// TSecr, the echo of the receiver's clock.
    pub tsecr: u32,
}

/// The options that a handshake settles, and the timestamps of every later segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Options {
    /// Maximum segment size in octets (RFC 9293 section 3.7.1).
    pub mss: Option<u16>,
    /// Shift of the window field, 0 to 14 (RFC 7323 section 2.2).
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgements are welcome (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// Timestamps (RFC 7323 section 3.2).
    pub timestamps: Option<Timestamps>,
}

impl Options {
    /// Reads a header's options. Unknown ones are skipped, of a repeated one the last counts, and a window scale above
    /// 14 reads as 14 (RFC 7323 section 2.3). Every step consumes an octet, so the work is bounded by the slice.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for an option that runs past the end, [`Error::OptionLength`] for one whose length field is
    /// below two or not that of its kind.
    pub fn parse(data: &[u8]) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut rest = data;
        while let [kind, tail @ ..] = rest {
            if *kind == OPTION_END {
                break;
            }
            if *kind == OPTION_NOP {
                rest = tail;
                continue;
            }
            let offset = data.len() - rest.len();
            LengthError::check(Layer::TcpOption, offset, 2, data.len())?;
            let len = rest[1];
            if len < 2 {
                return Err(Error::OptionLength { kind: *kind, len });
            }
            LengthError::check(Layer::TcpOption, offset, usize::from(len), data.len())?;
            let (option, behind) = rest.split_at(usize::from(len));
            options.take(option)?;
            rest = behind;
        }
        Ok(options)
    }

    /// Notes one whole option: kind, length, value.
    fn take(&mut self, option: &[u8]) -> Result<(), Error> {
        match *option {
            [OPTION_MSS, 4, a, b] => self.mss = Some(u16::from_be_bytes([a, b])),
            [OPTION_WINDOW_SCALE, 3, shift] => self.window_scale = Some(shift.min(MAX_WINDOW_SCALE)),
            [OPTION_SACK_PERMITTED, 2] => self.sack_permitted = true,
            [OPTION_TIMESTAMPS, 10, a, b, c, d, e, f, g, h] => {
                self.timestamps = Some(Timestamps {
                    tsval: u32::from_be_bytes([a, b, c, d]),
                    tsecr: u32::from_be_bytes([e, f, g, h]),
                });
            }
            [
                kind @ (OPTION_MSS | OPTION_WINDOW_SCALE | OPTION_SACK_PERMITTED | OPTION_TIMESTAMPS),
                len,
                ..,
            ] => {
                return Err(Error::OptionLength { kind, len });
            }
            _ => {}
        }
        Ok(())
    }

    /// Octets that [`Options::emit`] writes: a multiple of 4, at most 20.
    #[inline]
    pub const fn emitted_len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        // SACK-permitted takes the place of the two NOPs before the timestamps, where there are any.
        let stamps = match (self.timestamps.is_some(), self.sack_permitted) {
            (true, _) => 12,
            (false, true) => 4,
            (false, false) => 0,
        };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        mss + stamps + scale
    }

    /// Writes the options to the first [`Options::emitted_len`] octets of `buf`, in the order and with the padding of
    /// Linux: MSS; SACK-permitted and timestamps; NOP and window scale. Middleboxes know that order best.
    ///
    /// # Panics
    ///
    /// If `buf` is shorter.
    pub fn emit(&self, buf: &mut [u8]) {
        let mut at = 0;
        let mut write = |octets: &[u8]| {
            octets::put(buf, at, octets);
            at += octets.len();
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            write(&[OPTION_MSS, 4, a, b]);
        }
        if self.sack_permitted && self.timestamps.is_some() {
            write(&[OPTION_SACK_PERMITTED, 2]);
        } else if self.sack_permitted {
            write(&[OPTION_NOP, OPTION_NOP, OPTION_SACK_PERMITTED, 2]);
        } else if self.timestamps.is_some() {
            write(&[OPTION_NOP, OPTION_NOP]);
        }
        if let Some(Timestamps { tsval, tsecr }) = self.timestamps {
            write(&[OPTION_TIMESTAMPS, 10]);
            write(&tsval.to_be_bytes());
            write(&tsecr.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            write(&[OPTION_NOP, OPTION_WINDOW_SCALE, 3, shift.min(MAX_WINDOW_SCALE)]);
        }
    }
}

/// The values of a header. The urgent pointer is not among them: we send none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The sender's port.
    pub src_port: u16,
    /// The receiver's port.
    pub dst_port: u16,
    /// SEG.SEQ.
    pub seq: Seq,
    /// SEG.ACK.
    pub ack: Seq,
    /// The control bits.
    pub flags: Flags,
    /// SEG.WND as sent, already shifted by the window scale.
    pub window: u16,
    /// The options.
    pub options: Options,
}

impl Repr {
    /// Reads a segment's header and options.
    ///
    /// # Errors
    ///
    /// As [`Options::parse`].
    pub fn parse<T: AsRef<[u8]>>(segment: &Segment<T>) -> Result<Repr, Error> {
        Ok(Repr {
            src_port: segment.src_port(),
            dst_port: segment.dst_port(),
            seq: segment.seq(),
            ack: segment.ack(),
            flags: segment.flags(),
            window: segment.window(),
            options: segment.options()?,
        })
    }

    /// Octets of the header with its options.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.emitted_len()
    }

    /// Writes header, options, payload and checksum to `buf`.
    ///
    /// # Panics
    ///
    /// If `buf` is not exactly [`Repr::header_len`] and the payload long.
    pub fn emit(&self, buf: &mut [u8], payload: &[u8], src: Ipv4Addr, dst: Ipv4Addr) {
        let header_len = self.header_len();
        assert_eq!(buf.len(), header_len + payload.len(), "the buffer must fit the segment");
        octets::put_u16(buf, SRC_PORT, self.src_port);
        octets::put_u16(buf, DST_PORT, self.dst_port);
        octets::put_u32(buf, SEQ, self.seq.0);
        octets::put_u32(buf, ACK, self.ack.0);
        octets::put(buf, DATA_OFFSET, &[((header_len / 4) as u8) << 4]);
        octets::put(buf, FLAGS, &[self.flags.0]);
        octets::put_u16(buf, WINDOW, self.window);
        octets::put_u16(buf, URGENT, 0);
        self.options.emit(&mut buf[HEADER_LEN..header_len]);
        octets::put(buf, header_len, payload);
        fill_checksum(buf, src, dst);
    }
}
