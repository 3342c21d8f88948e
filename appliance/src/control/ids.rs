//! Migration ids: epoch (16 bits), worker (8), counter (40). Unique per attempt for the life of a farm, never 0.

use ipos_pipelines::handoff::WorkerId;

/// Makes ids.
#[derive(Debug)]
pub struct Ids {
    epoch: u16,
    counter: u64,
}

const COUNTER_BITS: u32 = 40;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;

impl Ids {
    /// Ids of this start of the appliance.
    pub fn new(epoch: u16) -> Self {
        Self { epoch, counter: 0 }
    }

    /// The epoch that the ids carry.
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// An id that was not given before.
    pub fn next(&mut self, worker: WorkerId) -> u64 {
        // A counter of 0 is skipped, so that no id is 0 whatever epoch and worker are.
        self.counter = if self.counter == COUNTER_MASK { 1 } else { self.counter + 1 };
        u64::from(self.epoch) << 48 | u64::from(worker.0) << COUNTER_BITS | self.counter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_epoch_worker_and_number_and_are_never_zero() {
        let mut ids = Ids::new(0x1234);
        assert_eq!(ids.next(WorkerId(7)), 0x1234_0700_0000_0001);
        assert_eq!(ids.next(WorkerId(0)), 0x1234_0000_0000_0002);
        let mut last = Ids { epoch: 0, counter: COUNTER_MASK };
        assert_eq!(last.next(WorkerId(0)), 1);
    }
}
