//! Consistent hashing: weighted rendezvous. Every address has its own order of the boards, in which a board's place depends on
//! that board alone: when one leaves, only its clients move, and each to the next of its own order.

use std::net::Ipv4Addr;

/// How far back a board stands in the order of a client, per unit of weight: the smallest comes first. Boards are drawn in
/// proportion to their weights (the minimum of exponential variables). There is no secret in it: an appliance that was
/// restarted, and a second one, must come to the same order.
pub fn distance(client: Ipv4Addr, board: Ipv4Addr) -> f64 {
    let mixed = mix(u64::from(client.to_bits()) << 32 | u64::from(board.to_bits()));
    // 53 bits, and never 0 or 1: the logarithm is finite and not 0.
    let uniform = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -uniform.ln()
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), twice: neighbouring addresses differ in every bit.
fn mix(value: u64) -> u64 {
    let once = |mut z: u64| {
        z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    once(once(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_the_same_everywhere_and_always() {
        let distance = distance(Ipv4Addr::new(203, 0, 113, 7), Ipv4Addr::new(192, 0, 2, 11));
        assert!(distance > 0.0 && distance.is_finite());
        assert_eq!(mix(0), once_zero(), "a change of the mix moves every client");
    }

    /// SplitMix64 with seed 0 gives 0xe220a8397b1dcdaf first (its published test vector); then that one mixed.
    fn once_zero() -> u64 {
        let mut z = 0xe220_a839_7b1d_cdaf_u64.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
