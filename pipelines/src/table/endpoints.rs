//! Numbers for endpoints, so that a flow's key is one word.
//!
//! A farm has few service addresses and many clients: client address, client port and the number of the endpoint are 64
//! bits, and a cache line has room for four of them with what a packet needs to know beside each. A number is given
//! when the first flow of an endpoint is entered and never changes, so that a reload of the services touches no flow.
//!
//! Owner: the worker, inside its shard. Cost of a look-up: one multiplication and, nearly always, one comparison.

use ipos_wire::flow::Flow;

/// Endpoints (address and port) that one shard tells apart, at most. Only endpoints of services are entered.
pub const ENDPOINTS_MAX: usize = 4096;

/// Twice as many places, so that searches stay short.
const PLACES: usize = 2 * ENDPOINTS_MAX;

const _: () = assert!(PLACES.is_power_of_two() && ENDPOINTS_MAX < u16::MAX as usize);

/// Address and port as one word, never zero for an endpoint that has a number: zero marks a free place.
#[inline(always)]
fn word(flow: &Flow) -> u64 {
    u64::from(flow.endpoint.to_bits()) << 16 | u64::from(flow.endpoint_port)
}

/// Every endpoint that ever had a flow here, by address and port, and by number.
pub struct Endpoints {
    /// Open addressing: words and numbers, a free place has word 0.
    places: Box<[(u64, u16)]>,
    /// The word of number `n + 1`.
    words: Vec<u64>,
}

impl Endpoints {
    /// None yet; takes all memory that it will ever use.
    pub fn new() -> Self {
        Self { places: vec![(0, 0); PLACES].into_boxed_slice(), words: Vec::with_capacity(ENDPOINTS_MAX) }
    }

    #[inline(always)]
    fn home(word: u64) -> usize {
        // Operators choose the endpoints, not clients: an unkeyed hash (Fibonacci hashing) does.
        (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PLACES.ilog2())) as usize
    }

    /// The place of a word, or the free one where it would go.
    #[inline(always)]
    fn place(&self, word: u64) -> usize {
        let mut place = Self::home(word);
        // Half of the places are free, so this ends.
        while self.places[place].0 != word && self.places[place].0 != 0 {
            place = (place + 1) % PLACES;
        }
        place
    }

    /// The number of the flow's endpoint, from 1; 0 when no flow of it was ever entered.
    #[inline(always)]
    pub fn find(&self, flow: &Flow) -> u16 {
        self.places[self.place(word(flow))].1
    }

    /// The number of the flow's endpoint, a new one if it has none yet; `None` when there are [`ENDPOINTS_MAX`] others.
    pub fn enter(&mut self, flow: &Flow) -> Option<u16> {
        let word = word(flow);
        let place = self.place(word);
        if word == 0 || self.places[place].1 != 0 {
            return (word != 0).then_some(self.places[place].1);
        }
        if self.words.len() == ENDPOINTS_MAX {
            return None;
        }
        self.words.push(word);
        let number = self.words.len() as u16;
        self.places[place] = (word, number);
        Some(number)
    }

    /// Address and port of a number, in the lower 48 bits; 0 when there is no such number.
    #[inline]
    pub fn word_of(&self, number: u16) -> u64 {
        usize::from(number).checked_sub(1).and_then(|place| self.words.get(place)).copied().unwrap_or(0)
    }

    /// Octets that they occupy.
    pub fn octets(&self) -> usize {
        self.places.len() * size_of::<(u64, u16)>() + self.words.capacity() * size_of::<u64>()
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn flow(address: u32, port: u16) -> Flow {
        Flow {
            client: Ipv4Addr::new(203, 0, 113, 1),
            client_port: 1,
            endpoint: Ipv4Addr::from_bits(address),
            endpoint_port: port,
        }
    }

    #[test]
    fn a_number_is_given_once_and_found_again() {
        let mut endpoints = Endpoints::new();
        assert_eq!(endpoints.find(&flow(0xc633_6401, 80)), 0);
        assert_eq!(endpoints.enter(&flow(0xc633_6401, 80)), Some(1));
        assert_eq!(endpoints.enter(&flow(0xc633_6401, 443)), Some(2));
        assert_eq!(endpoints.enter(&flow(0xc633_6401, 80)), Some(1));
        assert_eq!(endpoints.find(&flow(0xc633_6401, 443)), 2);
        assert_eq!(endpoints.word_of(2), 0xc633_6401 << 16 | 443);
        assert_eq!((endpoints.word_of(0), endpoints.word_of(3)), (0, 0));
    }

    #[test]
    fn as_many_as_promised_and_no_more() {
        let mut endpoints = Endpoints::new();
        let many = |n: usize| flow(0xc633_6400 + n as u32 / 16, 8000 + (n % 16) as u16);
        assert!((0..ENDPOINTS_MAX).all(|n| endpoints.enter(&many(n)) == Some(n as u16 + 1)));
        assert_eq!(endpoints.enter(&many(ENDPOINTS_MAX)), None);
        assert!((0..ENDPOINTS_MAX).all(|n| endpoints.find(&many(n)) == n as u16 + 1));
        assert_eq!(endpoints.find(&many(ENDPOINTS_MAX)), 0);
        assert_eq!(endpoints.enter(&many(7)), Some(8), "those that are known still are");
    }

    #[test]
    fn the_endpoint_that_is_all_zero_has_no_number() {
        let mut endpoints = Endpoints::new();
        assert_eq!((endpoints.enter(&flow(0, 0)), endpoints.find(&flow(0, 0))), (None, 0));
    }
}
