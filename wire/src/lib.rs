//! ipOS frames, the TCP control block and the packet headers around them.
//!
//! This crate turns octets into meaning and back. It does no I/O, allocates nothing, keeps no state and knows neither
//! DPDK nor the kernel, so that the appliance and the board agent share one reading of the wire.
//!
//! Every protocol has a file of its own with two types:
//!
//! - a **view** (`Frame`, `Packet`, `Segment`, `Datagram`) over borrowed or owned octets, and
//! - a **`Repr`**: the plain values of a header, made by `parse` and written by `emit`.
//!
//! # Panic contract
//!
//! A view's `new_checked` validates every length and every field that another field's place depends on. Once it has
//! returned `Ok`, no accessor panics, whatever the octets are. The functions that read a bare slice (`Options::parse`,
//! `checksum::of`, `echo_reply_in_place`) never panic either. The contract needs `as_ref` and `as_mut` of the buffer
//! to return the same octets every time, as those of slices, arrays and mbufs do. No setter can change a field that
//! `new_checked` relied on.
//!
//! `emit` writes values of our own, not of the wire. It panics when the caller hands it a buffer of the wrong size or
//! a payload that the format cannot express; each says so under "Panics". Its callers size buffers with constants or
//! with the same `Repr`'s `header_len`.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod arp;
pub mod checksum;
pub mod error;
pub mod ethernet;
pub mod flow;
pub mod icmp;
pub mod ipos;
pub mod ipv4;
pub mod mac;
pub mod quic;
pub mod seq;
pub mod tcb;
pub mod tcp;
pub mod tls;
pub mod udp;

/// Big-endian fields at fixed offsets. The views call these only within the length that `new_checked` has seen.
pub(crate) mod octets {
    use core::net::Ipv4Addr;

    use crate::mac::Mac;

    /// The `N` octets from `at` on.
    #[inline]
    pub(crate) fn array<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&data[at..at + N]);
        out
    }

    #[inline]
    pub(crate) fn u16(data: &[u8], at: usize) -> u16 {
        u16::from_be_bytes(array(data, at))
    }

    #[inline]
    pub(crate) fn u32(data: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(array(data, at))
    }

    #[inline]
    pub(crate) fn ip(data: &[u8], at: usize) -> Ipv4Addr {
        Ipv4Addr::from(array::<4>(data, at))
    }

    #[inline]
    pub(crate) fn mac(data: &[u8], at: usize) -> Mac {
        Mac(array(data, at))
    }

    /// Overwrites the octets from `at` on.
    #[inline]
    pub(crate) fn put(data: &mut [u8], at: usize, octets: &[u8]) {
        data[at..at + octets.len()].copy_from_slice(octets);
    }

    #[inline]
    pub(crate) fn put_u16(data: &mut [u8], at: usize, value: u16) {
        put(data, at, &value.to_be_bytes());
    }

    #[inline]
    pub(crate) fn put_u32(data: &mut [u8], at: usize, value: u32) {
        put(data, at, &value.to_be_bytes());
    }
}
