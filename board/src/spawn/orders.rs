//! The orders of appliances (0x20) and what has come of them (0x21): a repeated id is the same order.

use std::{collections::VecDeque, net::Ipv4Addr};

use ipos_wire::ipos::{ApplicationName, Order, Outcome, Progress};

/// Orders that are remembered. A forgotten one that is repeated is carried out anew, which changes nothing: an
/// application that runs is not started, and one that does not is not stopped.
const REMEMBERED: usize = 256;

/// Names an order.
pub type Key = (Ipv4Addr, u64);

/// Orders, and the outcomes that are to be sent.
#[derive(Debug)]
pub struct Orders {
    board: Ipv4Addr,
    known: VecDeque<Outcome>,
    outbox: Vec<Outcome>,
}

impl Orders {
    /// None yet.
    pub fn new(board: Ipv4Addr) -> Orders {
        Orders { board, known: VecDeque::new(), outbox: Vec::new() }
    }

    /// Answers an order that is known; false when it is not.
    pub fn repeat(&mut self, order: &Order) -> bool {
        let key = (order.appliance, order.id);
        let Some(known) = self.known.iter().find(|known| key_of(known) == key) else { return false };
        self.outbox.push(*known);
        true
    }

    /// Takes note of an order and of what has come of it.
    pub fn answer(&mut self, order: &Order, progress: Progress, pid: u32, detail: u32, retry_ms: u32) {
        let (appliance, id, name) = (order.appliance, order.id, order.name);
        let tag = [0; 16];
        let outcome =
            Outcome { board: self.board, appliance, progress, retry_ms, id, pid, detail, name, tag };
        if self.known.len() >= REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back(outcome);
        self.outbox.push(outcome);
    }

    /// Something has come of an order.
    pub fn settle(&mut self, key: Key, progress: Progress, pid: u32, detail: u32, retry_ms: u32) {
        if let Some(known) = self.known.iter_mut().find(|known| key_of(known) == key) {
            *known = Outcome { progress, retry_ms, pid, detail, ..*known };
            self.outbox.push(*known);
        }
    }

    /// What is to be sent now.
    pub fn take(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outbox)
    }
}

fn key_of(outcome: &Outcome) -> Key {
    (outcome.appliance, outcome.id)
}

/// The key of an order.
pub fn key(order: &Order) -> Key {
    (order.appliance, order.id)
}

/// The name for messages of the log.
pub fn shown(name: &ApplicationName) -> String {
    name.as_str().escape_default().to_string()
}

#[cfg(test)]
mod tests {
    use ipos_wire::ipos::Action;

    use super::*;

    fn order(id: u64) -> Order {
        Order {
            board: Ipv4Addr::new(192, 0, 2, 11),
            appliance: Ipv4Addr::new(192, 0, 2, 2),
            action: Action::Start,
            id,
            name: ApplicationName::new("web").expect("a name"),
            tag: [0; 16],
        }
    }

    #[test]
    fn a_repeated_order_is_answered_with_what_has_come_of_it() {
        let mut orders = Orders::new(Ipv4Addr::new(192, 0, 2, 11));
        assert!(!orders.repeat(&order(7)));
        orders.answer(&order(7), Progress::Starting, 99, 0, 0);
        assert!(orders.repeat(&order(7)));
        orders.settle(key(&order(7)), Progress::Exited, 99, 3, 250);
        orders.settle((Ipv4Addr::LOCALHOST, 7), Progress::Listening, 0, 0, 0);
        assert!(orders.repeat(&order(7)) && !orders.repeat(&order(8)));
        let sent: Vec<_> = orders.take().iter().map(|out| (out.progress, out.detail, out.retry_ms)).collect();
        let exited = (Progress::Exited, 3, 250);
        assert_eq!(sent, [(Progress::Starting, 0, 0), (Progress::Starting, 0, 0), exited, exited]);
        assert_eq!(orders.take(), []);
    }

    #[test]
    fn old_orders_are_forgotten_and_memory_is_bounded() {
        let mut orders = Orders::new(Ipv4Addr::LOCALHOST);
        (0..1000).for_each(|id| orders.answer(&order(id), Progress::Unlisted, 0, 0, 0));
        assert_eq!(orders.known.len(), REMEMBERED);
        assert!(!orders.repeat(&order(743)) && orders.repeat(&order(744)));
    }
}
