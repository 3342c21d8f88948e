//! The shard of the connection tables that one worker owns.
//!
//! Temporary, Forward-Connect and Forward Table (Fig. 12; design: system.md, "The tables") are one table here: a flow is
//! in exactly one of the three at a time, so the entry carries its state, and a state change moves nothing.
//!
//! ```text
//!  Flow --keyed hash--> Index                 Slab                            Wheel
//!                       64-octet buckets,     64-octet slots:                 12 octets per slot:
//!                       10 x (tag, slot) -->  generation, flow, entry  <-->   previous, next, due tick
//! ```
//!
//! - **Owner**: the worker that created it. Nothing in here is shared, locked, or allocated after construction.
//! - **Cost of a lookup**: a hash and two cache lines, which a burst loads together; a miss is usually one line. In a
//!   shard that is full, 6 % of the hits and 22 % of the misses need one line more. A burst of 32 on one core (Zen 5,
//!   2 MiB pages, all flows hit at random): 9.4 ns per flow at 64 k flows, 26 ns at 1 M, 31 ns at 10 M; a loop
//!   over a half-empty `hashbrown` table with the same hash: 4.8, 31 and 55 ns.
//! - **Memory**: 64 (entry) + 12 (timer) + 8 (index, 80 % full) = 84 octets per flow in a full shard, 93.4 with nine of ten
//!   slots in use; the target is 96 (design: targets.md, P2).
//! - **Full**: an insertion that finds no place is refused and nothing else changes. There is no growth and no eviction.
//! - **Hostile input**: the hash is keyed, the search for room bounded, and so is the work of a timer call.

pub mod hash;
pub mod index;
pub mod memory;
pub mod shard;
pub mod slab;
pub mod wheel;

pub use hash::{FlowHasher, FlowKey};
pub use index::{Full, Index};
pub use memory::{Heap, Memory, OutOfMemory};
pub use shard::{LOOKUP_BURST, Refused, RefusedReason, Shard};
pub use slab::{EntryRef, MAX_CAPACITY, Slab};
pub use wheel::{Due, Wheel, Work};
