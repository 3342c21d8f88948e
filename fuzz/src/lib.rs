//! Fuzz targets, one per parser of what a stranger can send (fuzz/README.md).
//!
//! A target is a function of octets that panics when the parser breaks a promise: not only when the parser itself
//! panics, but also when what it read does not survive writing, or when it contradicts a slower second opinion. The
//! targets are plain functions, so that the corpus replay, the bounded exploration and a fuzzing engine all run the
//! same code.

pub mod farm;
pub mod hello;
pub mod mutate;
pub mod packets;
pub mod quic;
pub mod requests;

/// A parser under test and the name of its corpus.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Folder below `tests/__fuzz__/`.
    pub name: &'static str,
    /// Panics when the parser breaks a promise.
    pub check: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 14] = [
    Target { name: "ethernet", check: packets::ethernet },
    Target { name: "arp", check: packets::arp },
    Target { name: "ipv4", check: packets::ipv4 },
    Target { name: "tcp", check: packets::tcp },
    Target { name: "udp", check: packets::udp },
    Target { name: "icmp", check: packets::icmp },
    Target { name: "ipos", check: farm::message },
    Target { name: "tcb", check: farm::tcb },
    Target { name: "head", check: requests::head },
    Target { name: "assembly", check: requests::assembly },
    Target { name: "path", check: requests::path },
    Target { name: "hello", check: hello::hello },
    Target { name: "quic", check: quic::quic },
    Target { name: "cookie", check: requests::cookie },
];
