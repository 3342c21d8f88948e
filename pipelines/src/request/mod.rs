//! The client's request while the appliance still holds the connection: octets in any order become a contiguous
//! stream (`assembly`), the stream becomes a request head (`head`, with `fields` and `target`), the head's path becomes the one
//! spelling that the URL map is asked with (`path`, `route`), its session is found (`cookie`), and where the next request begins is
//! followed (`framing`); or it becomes a ClientHello (`hello`). `stage` takes a segment along
//! that road.
//!
//! Everything here is packet path on hostile input: nothing allocates, nothing panics, every loop is bounded by the
//! octets that arrived. Source: design: system.md, "The life of a connection", steps 2 to 5.

pub mod assembly;
pub mod cookie;
pub mod fields;
pub mod framing;
pub mod head;
pub mod hello;
pub mod path;
pub mod route;
pub mod stage;
pub mod target;
