//! One worker of the ipOS appliance: the packet's road from a received burst to a sent one.
//!
//! The files are the road: [`io`] receives, [`parse`] reads the headers, [`steer`] finds the owner, [`classify`] looks the
//! connection up, and one of [`handshake`], [`request`], [`migrate`], [`forward`], [`layer4`], [`admit`], [`datagram`], [`local`], [`recover`],
//! [`reply`] acts, [`too_big`] for what does not fit;
//! [`expire`] acts when time is up, [`by_board`] and [`listing`] when the control core asks. [`worker`] is the loop, [`core`] what its stages share, [`handoff`] how it talks to the
//! control core.

pub mod admit;
pub mod answers;
pub mod by_board;
pub mod classify;
pub mod clock;
pub mod config;
pub mod core;
pub mod counters;
pub mod datagram;
pub mod ended;
pub mod entry;
pub mod expire;
pub mod fast_path;
pub mod forward;
pub mod handoff;
pub mod handshake;
pub mod io;
pub mod layer4;
pub mod limit;
pub mod listing;
pub mod local;
pub mod maglev;
pub mod migrate;
pub mod parse;
pub mod quic;
pub mod recover;
pub mod reply;
pub mod request;
pub mod segment;
pub mod services;
pub mod sessions;
pub mod steer;
pub mod table;
pub mod tlsmap;
pub mod too_big;
pub mod urlmap;
pub mod verdict;
pub mod watch;
pub mod worker;
