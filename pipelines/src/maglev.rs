//! Maglev: which board a flow belongs to, from a table that is the same wherever and whenever it is built (Eisenbud et al.,
//! "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Input: a service's boards, with their addresses and weights. Output: a table of a prime number of slots, each of which names a
//! board. Owner: built by the appliance, off the packet path, and handed to the workers within
//! [`crate::services::Services`]; never changed. Cost: a look-up is one hash and one cache line of the table; a build is a few
//! milliseconds for 65,537 slots.
//!
//! The table depends on the boards' addresses and weights alone, and no key goes into the hash, so that a restarted appliance
//! sends a flow that it does not know to the board that has it. Anybody can compute it, therefore, and choose ports that
//! lead to one board; `[service.limits]` bounds what that board gets.

use std::net::Ipv4Addr;

use ipos_wire::flow::Flow;

use crate::handoff::BoardId;

/// Slots of a table unless the configuration says otherwise: a hundred times as many as boards make shares even to 1 %.
pub const SLOTS_DEFAULT: u32 = 65_537;

/// Looks at the table for one flow before the boards are tried in order.
const PROBES: u32 = 32;

/// What of a flow is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashBy {
    /// The client's address and port: each flow for itself.
    #[default]
    Flow,
    /// The client's address: all flows of a client meet at one board, as protocols of several connections want it.
    Client,
}

/// A board of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub board: BoardId,
    /// Its address on the farm network, by which it has its slots.
    pub address: Ipv4Addr,
    /// Its share of the slots; with 0 it gets none.
    pub weight: u32,
}

/// The table of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    by: HashBy,
    members: Vec<Member>,
    slots: Box<[BoardId]>,
}

/// The finalizer of SplitMix64: every bit of the input reaches every bit of the result.
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// A place below `len`, evenly.
#[inline(always)]
fn place(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}

impl Maglev {
    /// Builds the table. `slots` is a prime, and at least the number of boards.
    pub fn build(by: HashBy, mut members: Vec<Member>, slots: u32) -> Self {
        // In the order of their addresses, so that numbers and the order in the configuration do not count.
        members.sort_by_key(|member| member.address);
        members.retain(|member| member.weight > 0);
        let slots = fill(&members, u64::from(slots.max(1)));
        Self { by, members, slots }
    }

    /// Whether the table has been built from just this.
    pub fn is_of(&self, by: HashBy, members: &[Member], slots: u32) -> bool {
        let weighted = members.iter().filter(|member| member.weight > 0);
        let mut sorted: Vec<Member> = weighted.copied().collect();
        sorted.sort_by_key(|member| member.address);
        self.by == by && self.members == sorted && self.slots.len() == slots as usize
    }

    /// Its boards, without those of weight 0.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The board that the flow belongs to among those that may have it. When its own may not, it is looked for at other places,
    /// so that the flows of a board that is passed over spread over all others, and no other flow moves. `None` when none may.
    #[inline]
    pub fn choose(&self, flow: &Flow, may: impl Fn(BoardId) -> bool) -> Option<BoardId> {
        let mut hash = self.hash(flow);
        for _ in 0..PROBES {
            let board = *self.slots.get(place(hash, self.slots.len()))?;
            if may(board) {
                return Some(board);
            }
            hash = mix(hash);
        }
        // Hardly any board may: whoever is next.
        let start = place(hash, self.members.len());
        let (before, after) = self.members.split_at_checked(start)?;
        after.iter().chain(before).map(|member| member.board).find(|board| may(*board))
    }

    #[inline]
    fn hash(&self, flow: &Flow) -> u64 {
        let port = if self.by == HashBy::Flow { flow.client_port } else { 0 };
        let client = u64::from(flow.client.to_bits()) << 16 | u64::from(port);
        let endpoint = u64::from(flow.endpoint.to_bits()) << 16 | u64::from(flow.endpoint_port);
        mix(mix(client.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ endpoint)
    }
}

/// Each board takes the free slot that it likes best, in turns, as often as its weight says.
fn fill(members: &[Member], len: u64) -> Box<[BoardId]> {
    /// A board's permutation of the slots, and how far it has come.
    struct Turn {
        next: u64,
        skip: u64,
        credit: u64,
    }
    let Some(heaviest) = members.iter().map(|member| u64::from(member.weight)).max() else {
        return Box::default();
    };
    let mut turns: Vec<Turn> = members
        .iter()
        .map(|member| {
            let seed = mix(u64::from(member.address.to_bits()).wrapping_add(0x9e37_79b9_7f4a_7c15));
            // The length is a prime, so that any skip below it leads through all slots.
            Turn { next: seed % len, skip: mix(seed) % (len - 1).max(1) + 1, credit: 0 }
        })
        .collect();
    let mut slots: Vec<Option<BoardId>> = vec![None; len as usize];
    let mut free = slots.len();
    while free > 0 {
        for (member, turn) in members.iter().zip(&mut turns) {
            turn.credit += u64::from(member.weight);
            if turn.credit < heaviest || free == 0 {
                continue;
            }
            turn.credit -= heaviest;
            while let Some(Some(_)) = slots.get(turn.next as usize) {
                turn.next = (turn.next + turn.skip) % len;
            }
            if let Some(slot) = slots.get_mut(turn.next as usize) {
                *slot = Some(member.board);
                free -= 1;
            }
        }
    }
    slots.into_iter().flatten().collect()
}

/// Whether a number of slots is a prime: otherwise a board could miss slots for ever.
pub fn is_prime(number: u32) -> bool {
    let number = u64::from(number);
    number >= 2 && (2..).take_while(|factor| factor * factor <= number).all(|factor| number % factor != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = SLOTS_DEFAULT;

    fn member(number: u16, weight: u32) -> Member {
        let address = Ipv4Addr::from_bits(0xc000_020b + u32::from(number));
        Member { board: BoardId(number), address, weight }
    }

    fn table(weights: &[u32]) -> Maglev {
        let members = weights.iter().enumerate().map(|(number, weight)| member(number as u16, *weight));
        Maglev::build(HashBy::Flow, members.collect(), SLOTS)
    }

    fn flows() -> impl Iterator<Item = Flow> {
        (0..40_000u32).map(|number| Flow {
            client: Ipv4Addr::from_bits(0xcb00_7100 + number / 1000),
            client_port: 20_000 + (number % 1000) as u16,
            endpoint: Ipv4Addr::new(198, 51, 100, 1),
            endpoint_port: 5201,
        })
    }

    fn chosen(table: &Maglev) -> Vec<Option<BoardId>> {
        flows().map(|flow| table.choose(&flow, |_| true)).collect()
    }

    fn moved(before: &[Option<BoardId>], after: &[Option<BoardId>], gone: Option<BoardId>) -> f64 {
        let stayed = before.iter().zip(after).filter(|(before, _)| **before != gone);
        let (count, moved) =
            stayed.fold((0, 0), |(n, m), (before, after)| (n + 1, m + i32::from(before != after)));
        f64::from(moved) / f64::from(count)
    }

    #[test]
    fn shares_are_as_the_weights_to_a_hundredth() {
        for weights in [&[100u32; 10][..], &[1, 2, 4, 8], &[1, 1000]] {
            let table = table(weights);
            let total: u32 = weights.iter().sum();
            for (number, weight) in weights.iter().enumerate() {
                let have = table.slots.iter().filter(|board| usize::from(board.0) == number).count() as f64;
                let due = f64::from(SLOTS) * f64::from(*weight) / f64::from(total);
                assert!((have - due).abs() <= f64::from(SLOTS) / 100.0, "{weights:?}: {have} of {due}");
            }
        }
        let counts = chosen(&table(&[100; 4])).into_iter().fold([0; 4], |mut counts, board| {
            counts[usize::from(board.expect("a board").0)] += 1;
            counts
        });
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_board_that_leaves_or_joins_moves_hardly_any_flow_but_its_own() {
        let ten = chosen(&table(&[100; 10]));
        let mut weights = [100; 10];
        weights[4] = 0;
        let nine = chosen(&table(&weights));
        let share = moved(&ten, &nine, Some(BoardId(4)));
        assert!(share < 0.03, "{share}");
        assert!(nine.iter().all(|board| *board != Some(BoardId(4))));
        let back = moved(&nine, &ten, None);
        assert!((0.09..0.14).contains(&back), "a tenth comes back, and no more than is moved: {back}");
    }

    #[test]
    fn a_board_that_is_passed_over_moves_no_flow_but_its_own_and_those_spread_over_all() {
        let table = table(&[100; 5]);
        let (mut counts, dead) = ([0u32; 5], BoardId(2));
        for flow in flows() {
            let before = table.choose(&flow, |_| true).expect("a board");
            let after = table.choose(&flow, |board| board != dead).expect("another board");
            assert_ne!(after, dead);
            if before == dead {
                counts[usize::from(after.0)] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        let total: u32 = counts.iter().sum();
        let even = total / 5..total * 3 / 10;
        assert!([0, 1, 3, 4].iter().all(|board| even.contains(&counts[*board])), "{counts:?}");
    }

    #[test]
    fn the_last_board_of_a_thousand_is_found_and_none_where_there_is_none() {
        let table = table(&[1; 1000]);
        let flow = flows().next().expect("a flow");
        assert_eq!(table.choose(&flow, |board| board == BoardId(999)), Some(BoardId(999)));
        assert_eq!(table.choose(&flow, |_| false), None);
        let empty = Maglev::build(HashBy::Flow, vec![member(1, 0)], SLOTS);
        assert_eq!((empty.choose(&flow, |_| true), empty.members()), (None, &[][..]));
    }

    #[test]
    fn numbers_and_order_do_not_count_and_the_same_is_built_again() {
        let table = table(&[100, 50, 25]);
        let renumbered = [member(2, 25), member(0, 100), member(1, 50)]
            .map(|member| Member { board: BoardId(7 - member.board.0), ..member });
        let other = Maglev::build(HashBy::Flow, renumbered.to_vec(), SLOTS);
        assert!(table.slots.iter().zip(&other.slots).all(|(one, other)| one.0 == 7 - other.0));
        let members = [member(1, 50), member(0, 100), member(2, 25), member(3, 0)];
        assert!(table.is_of(HashBy::Flow, &members, SLOTS));
        assert!(!table.is_of(HashBy::Client, &members, SLOTS) && !table.is_of(HashBy::Flow, &members, 17));
        assert!(!table.is_of(HashBy::Flow, &members[..2], SLOTS));
    }

    #[test]
    fn by_client_all_flows_of_a_client_meet_and_clients_spread() {
        let members = (0..4).map(|number| member(number, 1)).collect();
        let table = Maglev::build(HashBy::Client, members, SLOTS);
        let by_client = |number: u32, port| {
            let client = Ipv4Addr::from_bits(0xcb00_7100 + number);
            let flow = Flow { client, client_port: port, ..flows().next().expect("a flow") };
            table.choose(&flow, |_| true).expect("a board")
        };
        let mut seen = [false; 4];
        for number in 0..64 {
            let board = by_client(number, 1);
            assert!((2..100).all(|port| by_client(number, port) == board));
            seen[usize::from(board.0)] = true;
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn primes_are_told_from_other_numbers() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(SLOTS_DEFAULT) && !is_prime(65_536) && !is_prime(65_537 * 3));
    }
}
