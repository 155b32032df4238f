//! Both ends of a ring under loom: every interleaving of two threads, and every value the memory
//! model lets a load see. The checker itself reports an entry that one side touches while the
//! other may; the tests add that what is taken is what was pushed, in order, once.
//!
//! The kernel's ends are ours turned round: `net/xdp/xsk_queue.h` has the same acquire loads and
//! release stores.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::{ConsumerEnd, Memory, Ordering, ProducerEnd, Word};

/// Two entries: the smallest ring that has a middle, a wrap and a full state.
const SIZE: u32 = 2;
/// One more than the ring holds, so that a slot is used twice.
const ENTRIES: u64 = 3;
/// Attempts of a side that finds the ring full or empty.
const TRIES: usize = 3;

struct Ring {
    producer: AtomicU32,
    consumer: AtomicU32,
    entries: [UnsafeCell<u64>; SIZE as usize],
}

impl Ring {
    fn new(start: u32) -> Arc<Self> {
        Arc::new(Self {
            producer: AtomicU32::new(start),
            consumer: AtomicU32::new(start),
            entries: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn cell(&self, index: u32) -> &UnsafeCell<u64> {
        &self.entries[(index % SIZE) as usize]
    }
}

impl Word for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        Self::load(self, order)
    }

    fn store(&self, value: u32, order: Ordering) {
        Self::store(self, value, order);
    }
}

impl Memory for Arc<Ring> {
    type Word = AtomicU32;
    type Entry = u64;

    fn producer(&self) -> &AtomicU32 {
        &self.producer
    }

    fn consumer(&self) -> &AtomicU32 {
        &self.consumer
    }

    fn write(&self, index: u32, entry: u64) {
        // SAFETY: the pointer is the cell's own; loom fails the test if anyone else may use it now.
        self.cell(index).with_mut(|cell| unsafe { *cell = entry });
    }

    fn read(&self, index: u32) -> u64 {
        // SAFETY: as for `write`.
        self.cell(index).with(|cell| unsafe { *cell })
    }
}

/// Pushes `1..=ENTRIES`, committing after every `batch`; returns how many were committed.
fn produce(ring: Arc<Ring>, batch: u64) -> u64 {
    let mut end = ProducerEnd::over(ring, SIZE);
    let mut next = 1;
    for _ in 0..TRIES {
        while next <= ENTRIES && end.room(1) > 0 {
            assert!(end.push(next));
            if next % batch == 0 {
                end.commit();
            }
            next += 1;
        }
        end.commit();
        if next > ENTRIES {
            break;
        }
        thread::yield_now();
    }
    next - 1
}

/// Takes until there was nothing `TRIES` times; returns how many, which came in order.
fn consume(ring: Arc<Ring>, batch: u64) -> (ConsumerEnd<Arc<Ring>>, u64) {
    let mut end = ConsumerEnd::over(ring, SIZE);
    let mut taken = 0;
    for _ in 0..TRIES {
        while let Some(entry) = end.take() {
            taken += 1;
            assert_eq!(entry, taken);
            if taken % batch == 0 {
                end.commit();
            }
        }
        end.commit();
        if taken == ENTRIES {
            break;
        }
        thread::yield_now();
    }
    (end, taken)
}

fn explore(start: u32, batch: u64) {
    let mut model = loom::model::Builder::new();
    // Every bug of a ring needs few switches between the two; without a bound the search of the
    // retries takes minutes.
    model.preemption_bound = Some(4);
    model.check(move || {
        let ring = Ring::new(start);
        let theirs = Arc::clone(&ring);
        let producer = thread::spawn(move || produce(theirs, batch));
        let (mut end, mut taken) = consume(ring, batch);
        let pushed = producer.join().unwrap();
        while let Some(entry) = end.take() {
            taken += 1;
            assert_eq!(entry, taken);
        }
        assert_eq!(taken, pushed, "nothing committed is lost");
    });
}

#[test]
fn every_entry_arrives_once_and_in_order() {
    explore(0, 1);
}

#[test]
fn so_it_does_in_batches_and_across_the_wrap() {
    explore(u32::MAX, 2);
}

/// The model can tell: an index that is stored too early lets the other side read a slot that is
/// being written.
#[test]
#[should_panic(expected = "Causality violation")]
fn a_commit_without_release_is_found() {
    loom::model(|| {
        let ring = Ring::new(0);
        let theirs = Arc::clone(&ring);
        let producer = thread::spawn(move || {
            theirs.write(0, 1);
            theirs.producer.store(1, Ordering::Relaxed);
        });
        let mut end = ConsumerEnd::over(ring, SIZE);
        let _ = end.take();
        producer.join().unwrap();
    });
}
