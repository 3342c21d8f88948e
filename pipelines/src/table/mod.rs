//! The shard of the connection tables that one worker owns.
//!
//! Temporary, Forward-Connect and Forward Table (Fig. 12; design: system.md, "The tables") are one table here: a flow is
//! in exactly one of the three at a time, so the entry carries its state, and a state change moves nothing.
//!
//! ```text
//!  Flow --endpoint's number--> key --keyed hash--> Index                 Slab                      Wheel
//!                                                  64-octet buckets,     48-octet slots:           12 octets per slot:
//!                                                  4 x (key, slot, hot)  generation, key, entry    previous, next, due
//! ```
//!
//! - **Owner**: the worker that created it. Nothing in here is shared, locked, or allocated after construction.
//! - **Cost of a packet of a settled flow**: a hash and one cache line, which a burst loads together; in a shard with nine of
//!   ten slots in use one packet in ten needs a line more. The board and the time of the last packet lie beside the key
//!   ([`hot`]); entry and timer are not touched. Figures: `make bench BENCH_ARGS="p2 p3"`.
//! - **Memory**: 48 (entry) + 12 (timer) + 20 (index, 80 % full) = 80 octets per flow in a full shard, 89 with nine of ten
//!   slots in use; the target is 96 (design: targets.md, P2). On hugepages where there are enough.
//! - **Full**: an insertion that finds no place is refused and nothing else changes. There is no growth and no eviction.
//! - **Hostile input**: the hash is keyed, the search for room bounded, and so is the work of a timer call.

pub mod endpoints;
pub mod hash;
pub mod hot;
pub mod index;
pub mod shard;
pub mod slab;
pub mod wheel;

pub use endpoints::ENDPOINTS_MAX;
pub use hash::{FlowHasher, FlowKey};
pub use index::{Index, Indexed, Search};
pub use ipos_dpdk::memory::OutOfMemory;
pub use shard::{LOOKUP_BURST, Refused, RefusedReason, Settled, Shard};
pub use slab::{EntryRef, MAX_CAPACITY, Slab};
pub use wheel::{Due, Wheel, Work};
