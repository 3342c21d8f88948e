//! Numbers for endpoints, so that a flow's key is one word.
//!
//! A farm has few service addresses and many clients: client address, client port and the number of the endpoint are 64
//! bits, and a cache line has room for four of them with what a packet needs to know beside each. A number is given
//! when the first flow of an endpoint is entered and does not change while there is one, so that a reload of the services
//! touches no flow. When all numbers are given, one whose last flow is gone goes to the endpoint that needs one.
//!
//! Owner: the worker, inside its shard. Cost of a look-up: one multiplication and, nearly always, one comparison.

use ipos_wire::flow::Flow;

/// Endpoints (address and port) with flows that one shard tells apart, at most. Only endpoints of services are entered.
pub const ENDPOINTS_MAX: usize = 4096;

/// Twice as many places, so that searches stay short.
const PLACES: usize = 2 * ENDPOINTS_MAX;

const _: () = assert!(PLACES.is_power_of_two() && ENDPOINTS_MAX < u16::MAX as usize);

/// Address and port as one word, never zero for an endpoint that has a number: zero marks a free place.
#[inline(always)]
fn word(flow: &Flow) -> u64 {
    u64::from(flow.endpoint.to_bits()) << 16 | u64::from(flow.endpoint_port)
}

/// Endpoints that have flows here, or had some, by address and port, and by number.
pub struct Endpoints {
    /// Open addressing: words and numbers, a free place has word 0.
    places: Box<[(u64, u16)]>,
    /// The word of number `n + 1`.
    words: Vec<u64>,
    /// The flows of number `n + 1`.
    flows: Vec<u32>,
}

impl Endpoints {
    /// None yet; takes all memory that it will ever use.
    pub fn new() -> Self {
        Self {
            places: vec![(0, 0); PLACES].into_boxed_slice(),
            words: Vec::with_capacity(ENDPOINTS_MAX),
            flows: Vec::with_capacity(ENDPOINTS_MAX),
        }
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

    /// The number of the flow's endpoint, from 1; 0 when no flow of it is known.
    #[inline(always)]
    pub fn find(&self, flow: &Flow) -> u16 {
        self.places[self.place(word(flow))].1
    }

    /// The number of the flow's endpoint, which has one flow more now; `None` when [`ENDPOINTS_MAX`] others have flows.
    pub fn enter(&mut self, flow: &Flow) -> Option<u16> {
        let word = word(flow);
        if word == 0 {
            return None;
        }
        let known = self.places[self.place(word)].1;
        let number = if known == 0 { self.give(word)? } else { known };
        *self.flows.get_mut(usize::from(number) - 1)? += 1;
        Some(number)
    }

    /// A flow of this number is gone.
    #[inline]
    pub fn leave(&mut self, number: u16) {
        let place = usize::from(number).checked_sub(1);
        if let Some(flows) = place.and_then(|place| self.flows.get_mut(place)) {
            *flows = flows.saturating_sub(1);
        }
    }

    /// A number for an endpoint that has none: a new one, or that of an endpoint without flows.
    #[cold]
    fn give(&mut self, word: u64) -> Option<u16> {
        let place = if self.words.len() < ENDPOINTS_MAX {
            self.words.push(word);
            self.flows.push(0);
            self.words.len() - 1
        } else {
            let unused = self.flows.iter().position(|flows| *flows == 0)?;
            let before = std::mem::replace(&mut self.words[unused], word);
            self.take_out(before);
            unused
        };
        let number = place as u16 + 1;
        let free = self.place(word);
        self.places[free] = (word, number);
        Some(number)
    }

    /// Takes a word out of its place. Those behind it that were pushed on by it move up, so that no search ends too early.
    fn take_out(&mut self, word: u64) {
        let behind = |place: usize, other: usize| (place + PLACES - other) % PLACES;
        let mut hole = self.place(word);
        self.places[hole] = (0, 0);
        let mut next = (hole + 1) % PLACES;
        while self.places[next].0 != 0 {
            if behind(next, Self::home(self.places[next].0)) >= behind(next, hole) {
                self.places[hole] = std::mem::take(&mut self.places[next]);
                hole = next;
            }
            next = (next + 1) % PLACES;
        }
    }

    /// Address and port of a number, in the lower 48 bits; 0 when there is no such number.
    #[inline]
    pub fn word_of(&self, number: u16) -> u64 {
        usize::from(number).checked_sub(1).and_then(|place| self.words.get(place)).copied().unwrap_or(0)
    }

    /// Octets that they occupy.
    pub fn octets(&self) -> usize {
        self.places.len() * size_of::<(u64, u16)>()
            + self.words.capacity() * size_of::<u64>()
            + self.flows.capacity() * size_of::<u32>()
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
    fn a_number_goes_on_once_its_last_flow_is_gone_and_nobody_elses_changes() {
        let mut endpoints = Endpoints::new();
        let many = |n: usize| flow(0xc633_6400 + n as u32 / 16, 8000 + (n % 16) as u16);
        (0..ENDPOINTS_MAX).for_each(|n| assert_eq!(endpoints.enter(&many(n)), Some(n as u16 + 1)));
        assert_eq!(endpoints.enter(&many(40)), Some(41), "a second flow");
        endpoints.leave(41);
        assert_eq!(endpoints.enter(&many(9000)), None, "it has one left");
        // Life after life: each number goes to an endpoint that never had one.
        let mut number_of: Vec<usize> = (0..ENDPOINTS_MAX).collect();
        for new in 0..3 * ENDPOINTS_MAX {
            let place = new * 7 % ENDPOINTS_MAX;
            endpoints.leave(place as u16 + 1);
            assert_eq!(endpoints.enter(&many(ENDPOINTS_MAX + new)), Some(place as u16 + 1));
            assert_eq!(endpoints.find(&many(number_of[place])), 0, "its former endpoint");
            number_of[place] = ENDPOINTS_MAX + new;
        }
        for (place, n) in number_of.iter().enumerate() {
            assert_eq!(endpoints.find(&many(*n)), place as u16 + 1);
            assert_eq!(endpoints.word_of(place as u16 + 1), word(&many(*n)));
        }
    }

    #[test]
    fn the_endpoint_that_is_all_zero_has_no_number() {
        let mut endpoints = Endpoints::new();
        assert_eq!((endpoints.enter(&flow(0, 0)), endpoints.find(&flow(0, 0))), (None, 0));
    }
}
