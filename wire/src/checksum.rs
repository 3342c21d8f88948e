//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Partial sums are `u64` values in the order of the wire: [`sum`] and [`pseudo_header`] may be added with `+`, and
//! [`fold`] brings the total down to 16 bits. What [`sum`] returns is at most 0xffff and a pseudo header at most
//! 2^33 + 2^17, so no packet can overflow a total. Every part but the last must have an even number of octets.

use core::net::Ipv4Addr;

/// The partial sum of `data`; an odd last octet counts as the high half of a word (RFC 1071 section 4.1).
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    // One's complement sums commute with swapping octets (RFC 1071 section 2 B), so words are added as the machine
    // reads them and only the result is swapped.
    let mut total = 0_u64;
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let (added, carried) = total.overflowing_add(u64::from_ne_bytes(*word));
        total = added + u64::from(carried);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let (added, carried) = total.overflowing_add(u64::from_ne_bytes(last));
    total = added + u64::from(carried);
    u64::from(fold(total).to_be())
}

/// Folds a partial sum to 16 bits with end-around carries; the result is not complemented.
///
/// It is zero only for a sum of zero.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The checksum to store for `data` with its checksum field zeroed; zero for data that holds its right checksum.
#[inline]
pub fn of(data: &[u8]) -> u16 {
    !fold(sum(data))
}

/// The partial sum of the pseudo header that TCP (RFC 9293 section 3.1) and UDP (RFC 768) cover; `len` is the octets
/// of the transport header and its payload.
#[inline]
pub fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: usize) -> u64 {
    u64::from(src.to_bits()) + u64::from(dst.to_bits()) + u64::from(protocol) + (len as u64 & 0xffff_ffff)
}

/// The checksum after one 16-bit word that it covers went from `old` to `new` (RFC 1624 equation 3).
///
/// A wrong checksum stays wrong by the same amount. The word must lie at an even offset.
#[inline]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// As [`update_u16`] for a 32-bit field: an address, a sequence number, a timestamp.
#[inline]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}
