//! Ring index arithmetic, apart from the memory the rings live in.
//!
//! Producer and consumer indices are free-running `u32`s that wrap; a slot is `index & mask`
//! (include/uapi/linux/if_xdp.h, net/xdp/xsk_queue.h). The other side's index comes from memory
//! the kernel writes, so an impossible value is refused and the last good one kept.
//!
//! Guarantees: a producer never has more than `size` entries out, a consumer never reads an entry
//! that was not produced, whatever the other side's index says.

/// Our side of a ring we produce into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProducerIndex {
    next: u32,
    consumed: u32,
    size: u32,
}

impl ProducerIndex {
    /// Starts at the index both sides agree on; `size` is a power of two.
    pub(crate) fn new(start: u32, size: u32) -> Self {
        Self {
            next: start,
            consumed: start,
            size,
        }
    }

    /// Index of the next entry to write; what a commit publishes.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Entries written and not yet known to be consumed.
    pub(crate) fn outstanding(&self) -> u32 {
        self.next.wrapping_sub(self.consumed)
    }

    /// Entries that can be written now.
    pub(crate) fn room(&self) -> u32 {
        self.size - self.outstanding()
    }

    /// Takes note of the consumer's index; false if it is impossible.
    pub(crate) fn observe(&mut self, consumer: u32) -> bool {
        let possible = self.next.wrapping_sub(consumer) <= self.outstanding();
        if possible {
            self.consumed = consumer;
        }
        possible
    }

    /// Claims the next entry.
    pub(crate) fn claim(&mut self) -> Option<u32> {
        if self.room() == 0 {
            return None;
        }
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        Some(index)
    }
}

/// Our side of a ring we consume from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConsumerIndex {
    next: u32,
    produced: u32,
    size: u32,
}

impl ConsumerIndex {
    /// Starts at the index both sides agree on; `size` is a power of two.
    pub(crate) fn new(start: u32, size: u32) -> Self {
        Self {
            next: start,
            produced: start,
            size,
        }
    }

    /// Index of the next entry to read; what a commit releases up to.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Entries known to be readable.
    pub(crate) fn available(&self) -> u32 {
        self.produced.wrapping_sub(self.next)
    }

    /// Takes note of the producer's index; false if it is impossible.
    pub(crate) fn observe(&mut self, producer: u32) -> bool {
        let total = producer.wrapping_sub(self.next);
        let possible = total <= self.size && total >= self.available();
        if possible {
            self.produced = producer;
        }
        possible
    }

    /// Takes the next readable entry.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.available() == 0 {
            return None;
        }
        let index = self.next;
        self.next = self.next.wrapping_add(1);
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTS: [u32; 4] = [0, 5, u32::MAX - 3, u32::MAX];

    #[test]
    fn a_producer_fills_the_ring_and_no_more_across_the_wrap() {
        for start in STARTS {
            let mut producer = ProducerIndex::new(start, 8);
            for step in 0..8 {
                assert_eq!(producer.claim(), Some(start.wrapping_add(step)));
            }
            assert_eq!(producer.claim(), None);
            assert!(producer.observe(start.wrapping_add(3)));
            assert_eq!(producer.room(), 3);
            assert_eq!(producer.claim(), Some(start.wrapping_add(8)));
        }
    }

    #[test]
    fn a_consumer_reads_what_was_produced_and_no_more_across_the_wrap() {
        for start in STARTS {
            let mut consumer = ConsumerIndex::new(start, 8);
            assert_eq!(consumer.take(), None);
            assert!(consumer.observe(start.wrapping_add(8)));
            for step in 0..8 {
                assert_eq!(consumer.take(), Some(start.wrapping_add(step)));
            }
            assert_eq!(consumer.take(), None);
        }
    }

    #[test]
    fn impossible_indices_are_refused_and_the_last_good_one_kept() {
        for start in STARTS {
            let mut producer = ProducerIndex::new(start, 8);
            producer.claim();
            assert!(
                !producer.observe(start.wrapping_add(2)),
                "consumed more than produced"
            );
            assert!(
                !producer.observe(start.wrapping_sub(1)),
                "consumer moved back"
            );
            assert_eq!(producer.room(), 7);

            let mut consumer = ConsumerIndex::new(start, 8);
            assert!(
                !consumer.observe(start.wrapping_add(9)),
                "more than the ring holds"
            );
            assert!(consumer.observe(start.wrapping_add(4)));
            assert!(
                !consumer.observe(start.wrapping_add(3)),
                "producer moved back"
            );
            assert_eq!(consumer.available(), 4);
        }
    }
}
