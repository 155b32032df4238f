//! The snapshot in force, and how workers learn of a new one.
//!
//! A worker loads one number per batch; only when that has changed does it take the new snapshot.
//! Whoever publishes waits until every worker has passed, and keeps the old snapshot until then,
//! so that no worker ever frees one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

/// A snapshot and its number; numbers are the order of publication in this process.
#[derive(Debug)]
pub struct Numbered<S> {
    /// Its place in that order; later ones have larger numbers.
    pub number: u64,
    /// What to forward by.
    pub snapshot: S,
}

/// Where the snapshot in force is found.
#[derive(Debug)]
pub struct Live<S> {
    current: ArcSwap<Numbered<S>>,
    number: AtomicU64,
}

impl<S> Live<S> {
    /// Starts with `snapshot` as number `number`.
    #[must_use]
    pub fn new(snapshot: S, number: u64) -> Self {
        let first = Numbered { number, snapshot };
        Self {
            current: ArcSwap::from_pointee(first),
            number: AtomicU64::new(number),
        }
    }

    /// The number in force: one load, for every batch.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// The snapshot in force.
    #[must_use]
    pub fn load(&self) -> Arc<Numbered<S>> {
        self.current.load_full()
    }

    /// Puts `snapshot` in force; returns its number and what was in force before. One caller.
    pub fn publish(&self, snapshot: S) -> (u64, Arc<Numbered<S>>) {
        let number = self.number() + 1;
        let before = self.current.swap(Arc::new(Numbered { number, snapshot }));
        self.number.store(number, Ordering::Release);
        (number, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sees_the_number_gets_the_snapshot() {
        let live = Arc::new(Live::new(0_u64, 0));
        let reader = {
            let live = Arc::clone(&live);
            std::thread::spawn(move || {
                let mut number = 0;
                while number < 1_000 {
                    number = live.number();
                    let loaded = live.load();
                    assert!(loaded.number >= number);
                    assert_eq!(loaded.snapshot, loaded.number * 3);
                }
            })
        };
        for round in 1..=1_000 {
            let (number, before) = live.publish(round * 3);
            assert_eq!((number, before.number), (round, round - 1));
        }
        reader.join().unwrap();
    }
}
