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
