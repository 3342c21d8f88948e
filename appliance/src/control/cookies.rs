//! The secrets of the SYN cookies: made at random at the start, changed from time to time.

use ipos_pipelines::handshake::cookie::{CookieKeys, SLOT_S};

/// Between two changes: two slots. A cookie lives for its own slot and the next, and a secret for its own period and the
/// next, so no secret goes before the cookies that it made.
const PERIOD_NS: u64 = 2 * SLOT_S * 1_000_000_000;

/// Where secrets come from.
pub type Random = Box<dyn FnMut() -> [u8; 16]>;

/// The two live secrets.
pub struct Cookies {
    keys: CookieKeys,
    random: Random,
    next_ns: u64,
}

impl Cookies {
    /// Two fresh secrets.
    pub fn new(mut random: Random, now_ns: u64) -> Self {
        Self { keys: CookieKeys::new(&random(), &random()), random, next_ns: now_ns + PERIOD_NS }
    }

    /// The secrets now.
    pub fn keys(&self) -> &CookieKeys {
        &self.keys
    }

    /// Changes the secret when it is time to.
    pub fn due(&mut self, now_ns: u64) -> Option<&CookieKeys> {
        if now_ns < self.next_ns {
            return None;
        }
        self.next_ns = now_ns + PERIOD_NS;
        self.keys.rotate(&(self.random)());
        Some(&self.keys)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ipos_pipelines::handshake::cookie::Offer;
    use ipos_wire::flow::Flow;
    use ipos_wire::seq::Seq;
    use std::net::Ipv4Addr;

    /// Different at every call.
    pub fn counting() -> Random {
        let mut count = 0;
        Box::new(move || {
            count += 1;
            [count; 16]
        })
    }

    #[test]
    fn a_cookie_outlives_one_change_of_the_secret_and_not_two() {
        let flow = Flow {
            client: Ipv4Addr::new(203, 0, 113, 7),
            client_port: 9,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 80,
        };
        let mut cookies = Cookies::new(counting(), 0);
        let iss = cookies.keys().make(&flow, Seq(1), Offer::default(), 5);
        let holds = |cookies: &Cookies| cookies.keys().check(&flow, Seq(1), iss, 6).is_some();
        assert!(cookies.due(PERIOD_NS - 1).is_none() && holds(&cookies));
        assert!(cookies.due(PERIOD_NS).is_some() && holds(&cookies));
        assert!(cookies.due(PERIOD_NS + 1).is_none());
        assert!(cookies.due(2 * PERIOD_NS).is_some() && !holds(&cookies));
    }
}
