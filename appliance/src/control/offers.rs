//! What a board may start (0x22, docs/wire.md), and what of it takes no new connections.

use std::net::Ipv4Addr;

use ipos_wire::ipos::{ApplicationName, Offer};

use super::gather::{Gathered, Part, Taken};

/// The list of one board.
#[derive(Debug, Default)]
pub struct Offers {
    table: Gathered<Offer>,
    /// Those that this appliance is about to stop.
    held_back: Vec<ApplicationName>,
}

/// Why there cannot be such rows.
fn wrong(rows: &[Offer]) -> Option<&'static str> {
    let twice = rows.iter().enumerate().any(|(at, row)| rows.iter().take(at).any(|old| old.name == row.name));
    if rows.iter().any(|row| row.instances_max == 0 || row.port == 0) {
        Some("an application that cannot run or listens nowhere")
    } else {
        twice.then_some("an application in two rows")
    }
}

impl Offers {
    /// The applications.
    pub fn rows(&self) -> &[Offer] {
        self.table.rows()
    }

    /// One of them.
    pub fn find(&self, name: &ApplicationName) -> Option<&Offer> {
        self.rows().iter().find(|row| row.name == *name)
    }

    /// Forgets everything: the board is dead.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// See [`Gathered::follow`].
    pub fn follow(&mut self, epoch: u32, sequence: u32) {
        self.table.follow(epoch, sequence);
    }

    /// Takes a part. A list replaces the one before once all its parts have come.
    pub fn take(&mut self, part: Part<Offer>) -> Taken {
        self.table.take(part, wrong)
    }

    /// An application gets no new connections here, until [`Self::release`].
    pub fn hold_back(&mut self, name: ApplicationName) {
        if !self.held_back.contains(&name) {
            self.held_back.push(name);
        }
    }

    /// It gets new connections again.
    pub fn release(&mut self, name: &ApplicationName) {
        self.held_back.retain(|held| held != name);
    }

    /// Whether an application is to be stopped: the board says so, or this appliance is about to.
    pub fn is_leaving(&self, offer: &Offer) -> bool {
        offer.draining || self.held_back.contains(&offer.name)
    }

    /// Whether what listens for this endpoint takes no new connections.
    pub fn are_leaving(&self, endpoint: (Ipv4Addr, u16)) -> bool {
        self.rows().iter().any(|row| {
            let covers = row.address.is_unspecified() || row.address == endpoint.0;
            covers && row.port == endpoint.1 && self.is_leaving(row)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A name.
    pub fn name(text: &str) -> ApplicationName {
        ApplicationName::new(text).expect("a name")
    }

    /// An application that listens on port 80 and does not run; 64 MiB and half a core.
    pub fn offer(called: &str) -> Offer {
        Offer {
            name: name(called),
            memory: 64 << 20,
            cpu_hundredths: 50,
            instances_max: 1,
            listening: 0,
            starting: 0,
            failures: 0,
            draining: false,
            retry_ms: 0,
            address: Ipv4Addr::UNSPECIFIED,
            port: 80,
        }
    }

    /// A list in one part.
    pub fn list(sequence: u32, rows: Vec<Offer>) -> Part<Offer> {
        Part { epoch: 1000, sequence, part: 0, parts: 1, rows }
    }

    const ENDPOINT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 80);

    #[test]
    fn what_is_about_to_stop_gets_no_new_connections() {
        let mut offers = Offers::default();
        assert!(!offers.are_leaving(ENDPOINT));
        assert_eq!(
            offers.take(list(1, vec![offer("web"), Offer { port: 81, ..offer("shop") }])),
            Taken::Complete
        );
        offers.hold_back(name("shop"));
        assert!(!offers.are_leaving(ENDPOINT) && offers.are_leaving((ENDPOINT.0, 81)));
        offers.hold_back(name("web"));
        offers.hold_back(name("web"));
        assert!(offers.are_leaving(ENDPOINT));
        offers.release(&name("web"));
        assert!(!offers.are_leaving(ENDPOINT));
        let elsewhere = Offer { address: Ipv4Addr::new(198, 51, 100, 2), draining: true, ..offer("web") };
        assert_eq!(offers.take(list(2, vec![elsewhere])), Taken::Complete);
        assert!(!offers.are_leaving(ENDPOINT), "another address");
        assert_eq!(offers.take(list(3, vec![Offer { draining: true, ..offer("web") }])), Taken::Complete);
        assert!(offers.are_leaving(ENDPOINT));
    }

    #[test]
    fn lists_that_cannot_be_are_refused() {
        let mut offers = Offers::default();
        for rows in [
            vec![offer("web"), offer("web")],
            vec![Offer { instances_max: 0, ..offer("web") }],
            vec![Offer { port: 0, ..offer("web") }],
        ] {
            assert!(matches!(offers.take(list(1, rows)), Taken::Absurd(_)));
        }
        assert!(offers.find(&name("web")).is_none());
    }
}
