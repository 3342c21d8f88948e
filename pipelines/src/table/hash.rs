//! The keyed hash of a flow.
//!
//! Clients choose their ports, and whoever has a /16 also addresses: with a hash that they can compute (CRC, Jenkins with
//! a fixed seed, which is what exact-match forwarders ship) they can make all their flows meet in two buckets. The key
//! is drawn at start, never leaves the process, and hash values are never sent, so that nothing is learned to choose by.

use std::hash::Hasher;
use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;
use siphasher::sip::SipHasher13;

/// A flow in the form in which it is hashed, compared and stored: client address and endpoint address as they are on the
/// wire, and both ports in one word. (Twelve single octets made the processor wait for its own stores: three times the
/// time per hash.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowKey([u32; 3]);

const _: () = assert!(size_of::<FlowKey>() == 12 && align_of::<FlowKey>() == 4);

impl From<&Flow> for FlowKey {
    #[inline(always)]
    fn from(flow: &Flow) -> Self {
        Self([
            u32::from_ne_bytes(flow.client.octets()),
            u32::from_ne_bytes(flow.endpoint.octets()),
            u32::from(flow.client_port) << 16 | u32::from(flow.endpoint_port),
        ])
    }
}

impl From<&FlowKey> for Flow {
    #[inline]
    fn from(FlowKey([client, endpoint, ports]): &FlowKey) -> Self {
        Self {
            client: Ipv4Addr::from(client.to_ne_bytes()),
            client_port: (ports >> 16) as u16,
            endpoint: Ipv4Addr::from(endpoint.to_ne_bytes()),
            endpoint_port: *ports as u16,
        }
    }
}

/// A flow's key in a shard: client address, client port, and the number that the shard has given the endpoint
/// ([`super::endpoints`]), in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Key(u64);

impl Key {
    /// No flow's key: no endpoint has number 0.
    pub const NONE: Self = Self(0);

    /// A key for tests of what knows no flows.
    #[cfg(test)]
    pub const fn of(word: u64) -> Self {
        Self(word)
    }

    /// The key of a flow whose endpoint has this number; none when the number is 0.
    #[inline(always)]
    pub fn new(flow: &Flow, endpoint: u16) -> Self {
        let client = u64::from(flow.client.to_bits()) << 32 | u64::from(flow.client_port) << 16;
        Self(if endpoint == 0 { 0 } else { client | u64::from(endpoint) })
    }

    /// The client's address.
    #[inline]
    pub fn client(self) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.0 >> 32) as u32)
    }

    /// The client's port.
    #[inline]
    pub const fn client_port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The number of the endpoint.
    #[inline]
    pub const fn endpoint(self) -> u16 {
        self.0 as u16
    }
}

/// Two rounds of a folded 64x64 -> 128 bit multiplication with four secret words.
///
/// Cost, keys in a loop of 4,096 (Zen 5, throughput): 1.0 ns. SipHash-1-3: 4.5 ns when its twelve octets lie ready, 10 ns
/// with their making, as much as the whole rest of a lookup at 64 k flows. The price is a weaker promise (universal
/// hashing, not a PRF), enough where an attacker sees no output and a full pair of buckets refuses only his own flow.
#[derive(Clone)]
pub struct FlowHasher {
    words: [u64; 4],
}

// Not derived: the words are a secret and belong in no log.
impl std::fmt::Debug for FlowHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowHasher")
    }
}

/// High and low half of the product, folded: every bit of either factor reaches the whole result.
#[inline(always)]
fn folded_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl FlowHasher {
    /// A hasher with the given secret, 128 bits from the operating system's random source.
    pub fn new(key: [u64; 2]) -> Self {
        // SipHash is a PRF: the four words are independent as far as anybody without the key can tell.
        let word = |number: u8| {
            let mut sip = SipHasher13::new_with_keys(key[0], key[1]);
            sip.write_u8(number);
            sip.finish()
        };
        // The last factor is odd, so that it never maps two intermediate values to zero.
        Self { words: [word(0), word(1), word(2), word(3) | 1] }
    }

    /// The 64-bit hash of a flow.
    #[inline(always)]
    pub fn hash(&self, FlowKey([client, endpoint, ports]): &FlowKey) -> u64 {
        let head = u64::from(*client) | u64::from(*endpoint) << 32;
        // The client's address is in both words, so that neither factor is ever a short number.
        let tail = u64::from(*ports) | u64::from(*client) << 32;
        let mixed = folded_multiply(head ^ self.words[0], tail ^ self.words[1]);
        folded_multiply(mixed ^ self.words[2], self.words[3])
    }

    /// The 64-bit hash of a shard's key.
    #[inline(always)]
    pub fn hash_key(&self, key: Key) -> u64 {
        // Both factors depend on all of the key, so that neither is ever one that the client knows.
        let mixed = folded_multiply(key.0 ^ self.words[0], key.0.rotate_left(32) ^ self.words[1]);
        folded_multiply(mixed ^ self.words[2], self.words[3])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn port_key(port: u16) -> FlowKey {
        FlowKey::from(&Flow {
            client: Ipv4Addr::new(192, 0, 2, 1),
            client_port: port,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 80,
        })
    }

    #[test]
    fn flow_survives_its_way_through_the_key() {
        let flow = Flow {
            client: Ipv4Addr::new(192, 0, 2, 200),
            client_port: 0x1234,
            endpoint: Ipv4Addr::new(198, 51, 100, 7),
            endpoint_port: 0xfedc,
        };
        assert_eq!(Flow::from(&FlowKey::from(&flow)), flow);
    }

    #[test]
    fn key_decides_the_hash() {
        let (one, other) = (FlowHasher::new([1, 2]), FlowHasher::new([1, 3]));
        assert_eq!(one.hash(&port_key(7)), FlowHasher::new([1, 2]).hash(&port_key(7)));
        assert_ne!(one.hash(&port_key(7)), other.hash(&port_key(7)));
    }

    #[test]
    fn every_input_bit_reaches_about_half_of_the_output() {
        let hasher = FlowHasher::new([0x0123_4567_89ab_cdef, 42]);
        for bit in 0..96 {
            let mut flipped_total = 0;
            for port in 0..256 {
                let mut key = port_key(port * 251);
                let before = hasher.hash(&key);
                key.0[bit / 32] ^= 1 << (bit % 32);
                flipped_total += (before ^ hasher.hash(&key)).count_ones();
            }
            let mean = f64::from(flipped_total) / 256.0;
            assert!((28.0..36.0).contains(&mean), "input bit {bit} flips {mean} of 64 output bits");
        }
    }

    #[test]
    fn ports_of_one_client_collide_in_no_64_bit_hash_and_spread_evenly() {
        let hasher = FlowHasher::new([5, 6]);
        let hashes: HashSet<u64> = (0..=u16::MAX).map(|port| hasher.hash(&port_key(port))).collect();
        assert_eq!(hashes.len(), 65_536);
        // 256 cells of 256 each expected, for the bits that choose the bucket and for those that make the tag.
        for shift in [56, 8, 0] {
            let mut cells = [0u32; 256];
            hashes.iter().for_each(|hash| cells[(hash >> shift) as u8 as usize] += 1);
            let chi_squared: f64 = cells.iter().map(|&n| (f64::from(n) - 256.0).powi(2) / 256.0).sum();
            assert!(
                chi_squared < 400.0,
                "shift {shift}: chi squared {chi_squared} with 255 degrees of freedom"
            );
        }
    }

    #[test]
    fn debug_output_keeps_the_secret() {
        assert_eq!(format!("{:?}", FlowHasher::new([1, 2])), "FlowHasher");
    }
}
