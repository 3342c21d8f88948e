//! Mutations of a corpus from a fixed seed, so that two runs explore the same inputs.
//!
//! They are the blind ones of every fuzzer: a bit, an octet, a number at the edge of its range, a piece cut out, doubled,
//! or taken from another input. An engine with coverage (fuzz/README.md) goes deeper; this goes everywhere at once, on a
//! laptop, in seconds.

/// Longest input that a mutation makes, octets: past every limit of the parsers under test.
pub const LEN_MAX: usize = 20_000;

/// Numbers at which parsers err: zero, ones, signs, and the sizes of headers and windows.
const EDGES: [u32; 16] =
    [0, 1, 2, 15, 16, 20, 40, 64, 127, 128, 255, 16_383, 16_384, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// SplitMix64 (Steele, Lea, Flood 2014): small, even, and the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for every seed and name.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Random {
        // FNV-1a over the name: any spread of bits will do.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        });
        Random(seed ^ hash)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0 when that is 0. Slightly uneven, which does not matter here.
    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder fits, because the bound does.
        if bound == 0 { 0 } else { (self.next_u64() % bound as u64) as usize }
    }
}

/// An input made from one of `corpus` by one to six mutations; empty when the corpus is.
pub fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let Some(mut input) = corpus.get(random.below(corpus.len())).cloned() else { return Vec::new() };
    for _ in 0..=random.below(6) {
        mutate(random, &mut input, corpus);
    }
    input.truncate(LEN_MAX);
    input
}

fn mutate(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.below(input.len());
    let piece_len = random.below((input.len() - at).min(64) + 1);
    let piece = at..at + piece_len;
    match random.below(9) {
        0 => input[piece].iter_mut().take(1).for_each(|octet| *octet ^= 1 << random.below(8)),
        1 => input[piece].iter_mut().take(1).for_each(|octet| *octet = random.next_u64() as u8),
        2 => overwrite_with_edge(random, &mut input[at..]),
        3 => drop(input.drain(piece)),
        4 => input.truncate(at),
        5 => {
            let most = if random.below(8) == 0 { 512 } else { 4 };
            let times = 1 + random.below(most);
            let doubled = input[piece].repeat(times);
            input.splice(at..at, doubled);
        }
        6 => input.splice(at..at, [random.next_u64() as u8]).for_each(drop),
        7 => input[piece].fill(random.next_u64() as u8),
        _ => {
            let Some(other) = corpus.get(random.below(corpus.len())) else { return };
            let from = random.below(other.len());
            let to = from + random.below(other.len() - from + 1);
            input.splice(piece, other[from..to].iter().copied());
        }
    }
    input.truncate(LEN_MAX);
}

/// Puts a number of one, two or four octets, big-endian, at the start of `field`.
fn overwrite_with_edge(random: &mut Random, field: &mut [u8]) {
    let edge = EDGES[random.below(EDGES.len())].to_be_bytes();
    let width = [1, 2, 4][random.below(3)];
    for (slot, octet) in field.iter_mut().zip(&edge[4 - width..]) {
        *slot = *octet;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u64, name: &str) -> Vec<Vec<u8>> {
        let corpus = vec![b"GET / HTTP/1.1".to_vec(), Vec::new(), vec![0; 100]];
        let mut random = Random::new(seed, name);
        (0..2_000).map(|_| mutated(&mut random, &corpus)).collect()
    }

    #[test]
    fn the_same_seed_explores_the_same_inputs() {
        assert_eq!(sample(1, "arp"), sample(1, "arp"));
    }

    #[test]
    fn other_seeds_and_names_explore_others() {
        assert_ne!(sample(1, "arp"), sample(2, "arp"));
        assert_ne!(sample(1, "arp"), sample(1, "tcp"));
    }

    #[test]
    fn inputs_are_many_and_bounded() {
        let mut inputs = sample(1, "arp");
        assert!(inputs.iter().all(|input| input.len() <= LEN_MAX));
        assert!(inputs.iter().any(|input| input.len() > 1_000), "repetition makes long ones");
        inputs.sort();
        inputs.dedup();
        assert!(inputs.len() > 1_000, "only {} different inputs of 2000", inputs.len());
    }

    #[test]
    fn an_empty_corpus_gives_empty_inputs() {
        assert_eq!(mutated(&mut Random::new(1, ""), &[]), []);
    }
}
