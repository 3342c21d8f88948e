//! Timers of one fixed delay: what is set first is due first, so a queue does, at O(1) each.

use std::collections::VecDeque;

/// Things that are due a fixed delay after they were added.
#[derive(Debug)]
pub struct Delays<T> {
    delay_ns: u64,
    capacity: usize,
    queue: VecDeque<(u64, T)>,
}

impl<T> Delays<T> {
    /// Timers that run for `delay_ns`, at most `capacity`, whose memory is reserved.
    pub fn new(delay_ns: u64, capacity: usize) -> Self {
        Self { delay_ns, capacity, queue: VecDeque::with_capacity(capacity) }
    }

    /// Starts one; false when there are too many.
    pub fn add(&mut self, now_ns: u64, what: T) -> bool {
        let has_room = self.queue.len() < self.capacity;
        if has_room {
            self.queue.push_back((now_ns.saturating_add(self.delay_ns), what));
        }
        has_room
    }

    /// The next that is due.
    pub fn due(&mut self, now_ns: u64) -> Option<T> {
        match self.queue.front() {
            Some((due_ns, _)) if *due_ns <= now_ns => self.queue.pop_front().map(|(_, what)| what),
            _ => None,
        }
    }

    /// The oldest, due or not.
    pub fn oldest(&mut self) -> Option<T> {
        self.queue.pop_front().map(|(_, what)| what)
    }

    /// How many run.
    pub fn count(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_first_is_due_first_and_not_before_its_time() {
        let mut delays = Delays::new(10, 2);
        assert!(delays.add(0, 'a') && delays.add(5, 'b') && !delays.add(6, 'c'));
        assert_eq!(delays.due(9), None);
        assert_eq!(delays.due(10), Some('a'));
        assert_eq!(delays.due(14), None);
        assert_eq!((delays.due(20), delays.due(20), delays.count()), (Some('b'), None, 0));
    }
}
