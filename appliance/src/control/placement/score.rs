//! The score of `least-load`: the milliseconds that a board is expected to need for what it has and one connection more, made
//! longer by what is scarce there (docs/placement.md has it with an example).
//!
//! ```text
//! score = (connections + 1) x time / (free x weight)
//! ```
//!
//! - *connections*: reported, and what came and went since, see [`super::traffic`]. So a burst between two reports spreads.
//! - *time*: what a connection takes there of late, milliseconds, see [`super::traffic`].
//! - *free*: the share of CPU, memory or bandwidth that is free, whichever is scarcest.
//! - *weight*: 1 for a board of weight 100 that a list names with weight 100, and joined long ago.

use super::super::state::State;

/// Below this share, scarce is scarce: what is left is noise between two reports, and the limits' business.
pub const FREE_MIN: f64 = 0.2;

/// The free share of the scarcest resource, [`FREE_MIN`]..=1. A link of unknown speed does not count.
pub fn free(state: &State) -> f64 {
    let cpu = 1.0 - f64::from(state.cpu_hundredths) / 10_000.0;
    let memory = state.memory_free_octets as f64 / state.memory_octets.max(1) as f64;
    let bandwidth = match state.link_bits {
        0 => 1.0,
        link_bits => state.bandwidth_free_bits as f64 / link_bits as f64,
    };
    cpu.min(memory).min(bandwidth).clamp(FREE_MIN, 1.0)
}

/// The score, see above; `time_ns` in nanoseconds.
pub fn score(connections: u64, time_ns: u64, free: f64, weight: f64) -> f64 {
    (connections as f64 + 1.0) * (time_ns as f64 / 1e6) / (free * weight)
}

#[cfg(test)]
mod tests {
    use super::super::super::state::tests::QUIET;
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn the_scarcest_resource_counts_and_an_unknown_link_does_not() {
        let state = State {
            cpu_hundredths: 4000,
            memory_octets: 100,
            memory_free_octets: 50,
            link_bits: 10,
            bandwidth_free_bits: 9,
            ..QUIET
        };
        assert!(close(free(&state), 0.5), "memory");
        assert!(close(free(&State { cpu_hundredths: 7000, ..state }), 0.3), "CPU");
        assert!(close(free(&State { bandwidth_free_bits: 3, ..state }), 0.3), "bandwidth");
        assert!(close(free(&State { link_bits: 0, bandwidth_free_bits: 0, ..state }), 0.5));
        assert!(close(free(&State { memory_free_octets: 0, ..state }), FREE_MIN));
    }

    #[test]
    fn the_documented_example_comes_out() {
        // docs/placement.md: 12 connections of 4 ms each, half of the memory free, weight 100.
        assert!(close(score(12, 4_000_000, 0.5, 1.0), 104.0));
        // Twice the weight, half the score.
        assert!(close(score(12, 4_000_000, 0.5, 2.0), 52.0));
    }
}
