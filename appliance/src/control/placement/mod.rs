//! Placement: which board gets a connection, and why (docs/placement.md).
//!
//! [`rules`] are a service's own: policy, limits, home, slow start. [`pools`] chooses among the boards of a pool that are fit;
//! [`score`] is what `least-load` goes by, [`traffic`] the board's connections at this moment, [`hash`] the order of boards
//! that an address has. [`record`] keeps the last decisions.

pub mod hash;
pub mod pools;
pub mod record;
pub mod rules;
pub mod score;
#[cfg(test)]
mod simulation;
pub mod traffic;

pub use pools::{Honours, Member, PoolSettings, Pools, Wanted};
pub use rules::{Limits, Policy, Rules};
