//! Packet-level tests: scripts of segments through one worker, or two, on real mbufs. Time, wires, boards and the control
//! core are the test's (design: style.md, test ladder).

#[path = "../common/mod.rs"]
mod common;

mod admit;
mod answers;
mod control;
mod datagram;
mod drops;
mod end;
mod forward;
mod handshake;
mod layer4;
mod limits;
mod local;
mod migrate;
mod moves;
mod noise;
mod quic;
mod recover;
mod reply;
mod request;
mod reuse;
mod server_first;
mod sessions;
mod states;
mod steering;
mod tls;
