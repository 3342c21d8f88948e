//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Partial sums are `u64` values in the order of the wire: [`sum`] and [`pseudo_header`] may be added with `+`, and
//! [`fold`] brings the total down to 16 bits. What [`sum`] returns is at most 0xffff and a pseudo header stays below
//! 2^34, so no packet can overflow a total. Every part but the last must have an even number of octets.

use core::net::Ipv4Addr;

/// The partial sum of `data`; an odd last octet counts as the high half of a word (RFC 1071 section 4.1).
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    u64::from(fold(sum_as_read(data)).to_be())
}

/// Whether `data` holds its right checksum, together with this partial sum of what it covers besides.
#[inline]
pub fn is_right(data: &[u8], besides: u64) -> bool {
    fold(add_with_carry(sum_as_read(data), u64::from(fold(besides).to_be()))) == 0xffff
}

/// The sum of `data`, its octets in the order of the machine's words.
#[inline]
fn sum_as_read(data: &[u8]) -> u64 {
    // One's complement sums commute with swapping octets (RFC 1071 section 2 B), so words are added as the machine
    // reads them and only the result is swapped.
    let (blocks, rest) = data.as_chunks::<16>();
    let (mut even, mut odd) = (0_u64, 0_u64);
    // Counted apart, so that no addition waits for the carry of the one before.
    let (mut even_carries, mut odd_carries) = (0_u64, 0_u64);
    for block in blocks {
        let block = u128::from_ne_bytes(*block);
        let (sum, carried) = even.overflowing_add(block as u64);
        even = sum;
        even_carries += u64::from(carried);
        let (sum, carried) = odd.overflowing_add((block >> 64) as u64);
        odd = sum;
        odd_carries += u64::from(carried);
    }
    let mut total = add_with_carry(add_with_carry(even, odd), even_carries + odd_carries);
    // Each of these is there once or not at all: headers end in one or two of them.
    let (eight, rest) = rest.as_chunks::<8>();
    if let [eight] = eight {
        total = add_with_carry(total, u64::from_ne_bytes(*eight));
    }
    let (four, rest) = rest.as_chunks::<4>();
    if let [four] = four {
        total = add_with_carry(total, u64::from(u32::from_ne_bytes(*four)));
    }
    let (two, rest) = rest.as_chunks::<2>();
    if let [two] = two {
        total = add_with_carry(total, u64::from(u16::from_ne_bytes(*two)));
    }
    if let [last] = rest {
        total = add_with_carry(total, u64::from(u16::from_ne_bytes([*last, 0])));
    }
    total
}

/// Adds with the carry brought around, which one's complement sums of any width allow.
#[inline]
pub(crate) const fn add_with_carry(total: u64, word: u64) -> u64 {
    let (sum, carried) = total.overflowing_add(word);
    sum + carried as u64
}

/// Folds a partial sum to 16 bits with end-around carries; the result is not complemented.
///
/// It is zero only for a sum of zero.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    // Added to itself with its halves exchanged, the upper half gets the carry that the lower one makes.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
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
/// A wrong checksum stays wrong by the same amount. The word must lie at an even offset. When everything covered has
/// become zero the result is 0 where 0xffff is right; IPv4 headers and pseudo headers never are all zeros.
#[inline]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// As [`update_u16`] for a 32-bit field: an address, a sequence number, a timestamp.
#[inline]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn by_the_letter(data: &[u8]) -> u16 {
        let mut total = 0_u64;
        for pair in data.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn sums_the_example_of_rfc_1071() {
        // Section 3: the words 0001 f203 f4f5 f6f7 add up to ddf2 with the carries.
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&data), 0xddf2);
        assert_eq!(of(&data), 0x220d);
    }

    #[test]
    fn updates_the_example_of_rfc_1624() {
        // Section 4: the equation of RFC 1141 would yield 0xffff here.
        assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_odd_last_octet_is_a_high_half() {
        assert_eq!(sum(&[0xab]), 0xab00);
        assert_eq!(sum(&[0, 1, 0xab]), 0xab01);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn full_words_carry_around() {
        let data = vec![0xff; 65_535];
        assert_eq!(sum(&data), u64::from(by_the_letter(&data)));
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0x1_0000), 1);
        assert_eq!(fold(0xffff_0000_ffff), 0xffff);
        assert_eq!((fold(0x1_ffff_fffe), fold(0x1_ffff_ffff)), (0xffff, 1));
    }

    #[test]
    fn the_pseudo_header_is_its_twelve_octets() {
        let (src, dst) = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(255, 255, 255, 254));
        let octets = [203, 0, 113, 10, 255, 255, 255, 254, 0, 6, 0x05, 0xdc];
        assert_eq!(fold(pseudo_header(src, dst, 6, 1500)), by_the_letter(&octets));
    }

    proptest! {
        #[test]
        fn agrees_with_the_letter(data in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(sum(&data), u64::from(by_the_letter(&data)));
            let missing = !by_the_letter(&data);
            prop_assert!(is_right(&data, u64::from(missing)));
            prop_assert!(!is_right(&data, u64::from(missing ^ 0x40)));
        }

        #[test]
        fn parts_of_even_length_add_up(
            data in prop::collection::vec(any::<u8>(), 0..200), cut in 0..100_usize,
        ) {
            let (head, tail) = data.split_at((cut * 2).min(data.len() & !1));
            prop_assert_eq!(fold(sum(head) + sum(tail)), by_the_letter(&data));
        }

        #[test]
        fn an_update_is_as_good_as_a_new_sum(
            mut data in prop::collection::vec(any::<u8>(), 8..64), word: u16, long: u32,
        ) {
            // Real messages are not all zeros; those are the one case with two valid checksums.
            data[0] = 0x45;
            let checksum = of(&data);
            let old_word = u16::from_be_bytes([data[2], data[3]]);
            data[2..4].copy_from_slice(&word.to_be_bytes());
            let checksum = update_u16(checksum, old_word, word);
            prop_assert_eq!(checksum, of(&data));

            let old_long = u32::from_be_bytes([data[4], data[5], data[6], data[7]]);
            data[4..8].copy_from_slice(&long.to_be_bytes());
            prop_assert_eq!(update_u32(checksum, old_long, long), of(&data));
        }

        #[test]
        fn data_with_its_checksum_sums_to_zero(data in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut even: Vec<u8> = data;
            even.resize(even.len().next_multiple_of(2), 0);
            let checksum = of(&even);
            even.extend(checksum.to_be_bytes());
            prop_assert_eq!(of(&even), 0);
        }
    }
}
