//! The control core: one lcore that talks to the boards, owns the farm's state tables and decides.
//!
//! The road: [`turn`] takes events and time to [`core`]; [`input`] reads the boards' frames; [`boards`], [`board`], [`state`],
//! [`standing`], [`life`], [`listening`] and [`applications`] are the tables, [`gather`] puts those together that come in parts;
//! [`admission`] limits what comes in, [`attempts`] with [`placement`] and [`detaches`] migrates endpoints; [`moves`] has boards give
//! them up between requests; [`holders`] asks who has one; [`sessions`] is the Cookie Map; [`checks`] with
//! [`check_client`] sees whether boards serve, [`health`] what came of it; [`spawn`] with [`offers`] has applications started
//! and stopped; [`operate`] does what operators want, [`census`] counts what is left of a board; [`outlet`] with [`emit`] carries it
//! all away. All but `turn` and `outlet` are pure state machines.

pub mod absurd;
pub mod admission;
pub mod applications;
pub mod attempts;
pub mod board;
pub mod board_set;
pub mod boards;
pub mod census;
pub mod check_client;
pub mod checks;
pub mod context;
pub mod cookies;
pub mod core;
pub mod counters;
pub mod datagrams;
pub mod delays;
pub mod detaches;
pub mod emit;
pub mod gather;
pub mod health;
pub mod holders;
pub mod ids;
pub mod input;
pub mod life;
pub mod listening;
pub mod moves;
pub mod offers;
pub mod operate;
pub mod outlet;
pub mod placement;
pub mod sessions;
pub mod sink;
pub mod snapshot;
pub mod spawn;
pub mod standing;
pub mod standings;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;
pub mod trace;
pub mod turn;
pub mod under_way;
