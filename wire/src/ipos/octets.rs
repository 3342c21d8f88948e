//! Fields at fixed offsets of fixed-size messages. Offsets are const parameters, so that a field that would reach past
//! its message does not compile; nothing here can panic on wire data.

use core::net::Ipv4Addr;

use crate::error::{Layer, LengthError};

/// The `M` octets at offset `AT` of a message of `N` octets.
pub(crate) fn take<const AT: usize, const M: usize, const N: usize>(message: &[u8; N]) -> [u8; M] {
    const { assert!(AT + M <= N, "the field reaches past the message") };
    let mut field = [0; M];
    field.copy_from_slice(&message[AT..AT + M]);
    field
}

/// Writes `field` at offset `AT` of a message of `N` octets.
pub(crate) fn put<const AT: usize, const M: usize, const N: usize>(message: &mut [u8; N], field: [u8; M]) {
    const { assert!(AT + M <= N, "the field reaches past the message") };
    message[AT..AT + M].copy_from_slice(&field);
}

/// The octet at offset `AT`.
pub(crate) fn u8_at<const AT: usize, const N: usize>(message: &[u8; N]) -> u8 {
    u8::from_be_bytes(take::<AT, 1, N>(message))
}

/// The 16-bit number at offset `AT`.
pub(crate) fn u16_at<const AT: usize, const N: usize>(message: &[u8; N]) -> u16 {
    u16::from_be_bytes(take::<AT, 2, N>(message))
}

/// The 32-bit number at offset `AT`.
pub(crate) fn u32_at<const AT: usize, const N: usize>(message: &[u8; N]) -> u32 {
    u32::from_be_bytes(take::<AT, 4, N>(message))
}

/// The 64-bit number at offset `AT`.
pub(crate) fn u64_at<const AT: usize, const N: usize>(message: &[u8; N]) -> u64 {
    u64::from_be_bytes(take::<AT, 8, N>(message))
}

/// The IPv4 address at offset `AT`.
pub(crate) fn ipv4_at<const AT: usize, const N: usize>(message: &[u8; N]) -> Ipv4Addr {
    Ipv4Addr::from(take::<AT, 4, N>(message))
}

/// The first `N` octets of `buffer`, the last of which are `layer`, from offset `AT` on.
///
/// # Errors
/// [`LengthError`] for that layer when the buffer is shorter.
pub(crate) fn first<const AT: usize, const N: usize>(
    layer: Layer,
    buffer: &[u8],
) -> Result<&[u8; N], LengthError> {
    const { assert!(AT <= N, "the layer starts behind its end") };
    let actual = buffer.len().saturating_sub(AT);
    buffer.first_chunk().ok_or(LengthError { layer, offset: AT, required: N - AT, actual })
}

/// The first `N` octets of a buffer to emit into.
///
/// # Panics
/// When the buffer is shorter: its size is the caller's choice, never the wire's. This is the panic contract of every
/// `emit` in [`crate::ipos`] and [`crate::tcb`].
pub(crate) fn first_mut<const N: usize>(buffer: &mut [u8]) -> &mut [u8; N] {
    let actual = buffer.len();
    match buffer.first_chunk_mut() {
        Some(message) => message,
        None => panic!("a buffer of {actual} octets cannot hold a message of {N}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn fields_are_big_endian_and_reach_the_last_octet() {
        assert_eq!(u8_at::<15, _>(&MESSAGE), b'f');
        assert_eq!(u16_at::<14, _>(&MESSAGE), 0x6566);
        assert_eq!(u32_at::<12, _>(&MESSAGE), 0x6364_6566);
        assert_eq!(u64_at::<8, _>(&MESSAGE), 0x3839_6162_6364_6566);
        assert_eq!(ipv4_at::<12, _>(&MESSAGE), Ipv4Addr::new(0x63, 0x64, 0x65, 0x66));
        assert_eq!(take::<3, 4, _>(&MESSAGE), *b"3456");
    }

    #[test]
    fn put_touches_its_field_alone() {
        let mut message = [0xa5; 6];
        put::<2, 3, _>(&mut message, [1, 2, 3]);
        assert_eq!(message, [0xa5, 0xa5, 1, 2, 3, 0xa5]);
    }

    #[test]
    fn a_shortage_names_the_layer_that_is_cut() {
        let error = |actual| LengthError { layer: Layer::IposBody, offset: 12, required: 4, actual };
        assert_eq!(first::<12, 16>(Layer::IposBody, &MESSAGE), Ok(&MESSAGE));
        assert_eq!(first::<12, 16>(Layer::IposBody, &MESSAGE[..15]), Err(error(3)));
        assert_eq!(first::<12, 16>(Layer::IposBody, &MESSAGE[..12]), Err(error(0)));
        assert_eq!(first::<12, 16>(Layer::IposBody, &[]), Err(error(0)));
    }
}
