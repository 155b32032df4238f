//! Bounded single-producer, single-consumer lanes between workers.
//!
//! A packet that arrives at a worker which does not own its flow crosses by copy, because a frame
//! never leaves its UMEM. Buffers are allocated at start and travel in a circle: empty to the
//! sender, full to the receiver. A full lane refuses; it never blocks and never grows.
//!
//! ```text
//!   worker a ── full ──► worker b        one lane for each ordered pair of workers
//!       ▲───── empty ──────┘
//! ```

#[cfg(test)]
mod model;

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Packets a lane holds: two batches, so one busy loop of the receiver loses nothing.
pub const DEPTH: usize = 128;

/// Longest packet that can cross, Ethernet header included: MTU 9001 and room to spare.
pub const MAX_BYTES: usize = 9_216;

/// A packet on its way; `T` says where it came from.
#[derive(Debug)]
struct Crossing<T> {
    origin: Option<T>,
    length: usize,
    bytes: Box<[u8]>,
}

/// A bounded queue between threads. A trait so that a model checker can stand in for crossbeam's.
trait Queue {
    type Item;

    /// Adds at the end; gives back what finds no place.
    fn push(&self, item: Self::Item) -> Result<(), Self::Item>;
    fn pop(&self) -> Option<Self::Item>;
}

impl<C> Queue for ArrayQueue<C> {
    type Item = C;

    fn push(&self, item: C) -> Result<(), C> {
        Self::push(self, item)
    }

    fn pop(&self) -> Option<C> {
        Self::pop(self)
    }
}

#[derive(Debug)]
struct Lane<Q> {
    full: Q,
    empty: Q,
}

type ArrayLane<T> = Lane<ArrayQueue<Crossing<T>>>;

/// The lane is full, or the packet is longer than [`MAX_BYTES`]: drop it by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// The sending end of one lane.
#[derive(Debug)]
pub struct Sender<T>(Arc<ArrayLane<T>>);

/// The receiving end of one lane.
#[derive(Debug)]
pub struct Receiver<T>(Arc<ArrayLane<T>>);

/// All lane ends of one worker.
#[derive(Debug)]
pub struct Ends<T> {
    /// By receiving worker; absent for the worker itself.
    pub to: Vec<Option<Sender<T>>>,
    /// From every other worker, in their order.
    pub from: Vec<Receiver<T>>,
}

/// Lanes between `workers` workers, each with every other.
#[must_use]
pub fn mesh<T>(workers: usize) -> Vec<Ends<T>> {
    let mut ends: Vec<Ends<T>> = (0..workers)
        .map(|_| Ends {
            to: Vec::new(),
            from: Vec::new(),
        })
        .collect();
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                ends[from].to.push(None);
                continue;
            }
            let queue = || ArrayQueue::new(DEPTH);
            let lane = Arc::new(Lane::new(queue(), queue(), DEPTH));
            ends[from].to.push(Some(Sender(Arc::clone(&lane))));
            ends[to].from.push(Receiver(lane));
        }
    }
    ends
}

impl<T, Q: Queue<Item = Crossing<T>>> Lane<Q> {
    /// A lane over two empty queues that hold `depth` packets each.
    fn new(full: Q, empty: Q, depth: usize) -> Self {
        for _ in 0..depth {
            // Cannot be refused: the queue was made for exactly this many.
            let _ = empty.push(Crossing {
                origin: None,
                length: 0,
                bytes: vec![0; MAX_BYTES].into_boxed_slice(),
            });
        }
        Self { full, empty }
    }

    fn send(&self, origin: T, length: usize, write: impl FnOnce(&mut [u8])) -> Result<(), Refused> {
        if length > MAX_BYTES {
            return Err(Refused);
        }
        let mut crossing = self.empty.pop().ok_or(Refused)?;
        write(&mut crossing.bytes[..length]);
        crossing.origin = Some(origin);
        crossing.length = length;
        self.full.push(crossing).map_err(|_| Refused)
    }

    fn receive(&self, take: impl FnOnce(T, &[u8])) -> bool {
        let Some(mut crossing) = self.full.pop() else {
            return false;
        };
        if let Some(origin) = crossing.origin.take() {
            take(origin, &crossing.bytes[..crossing.length]);
        }
        // As many buffers as places: the push cannot fail.
        let _ = self.empty.push(crossing);
        true
    }
}

impl<T> Sender<T> {
    /// Sends a packet of `length` bytes that `write` copies into the lane's buffer.
    ///
    /// # Errors
    /// [`Refused`], and `write` has not been called.
    pub fn send(
        &self,
        origin: T,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<(), Refused> {
        self.0.send(origin, length, write)
    }
}

impl<T> Receiver<T> {
    /// Gives the oldest packet to `take`; `false` when the lane is empty.
    pub fn receive(&self, take: impl FnOnce(T, &[u8])) -> bool {
        self.0.receive(take)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.full.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_joins_every_pair_once() {
        let ends = mesh::<u8>(3);
        for (worker, end) in ends.iter().enumerate() {
            assert_eq!(end.from.len(), 2);
            assert!(end.to[worker].is_none());
            assert_eq!(end.to.iter().flatten().count(), 2);
        }
        let send = |from: usize, to: usize, tag: u8| {
            let lane = ends[from].to[to].as_ref().unwrap();
            lane.send(tag, 1, |bytes| bytes[0] = tag).unwrap();
        };
        send(0, 2, 7);
        send(1, 2, 8);
        let mut seen = Vec::new();
        for lane in &ends[2].from {
            while lane.receive(|tag, bytes| seen.push((tag, bytes.to_vec()))) {}
        }
        assert_eq!(seen, [(7, vec![7]), (8, vec![8])]);
        assert!(ends[0].from.iter().all(Receiver::is_empty));
    }

    #[test]
    fn a_full_lane_refuses_and_recovers() {
        let ends = mesh::<usize>(2);
        let sender = ends[0].to[1].as_ref().unwrap();
        for packet in 0..DEPTH {
            sender.send(packet, 60, |_| ()).unwrap();
        }
        assert_eq!(
            sender.send(0, 60, |_| panic!("written though refused")),
            Err(Refused)
        );
        assert!(ends[1].from[0].receive(|packet, _| assert_eq!(packet, 0)));
        sender.send(DEPTH, 60, |_| ()).unwrap();
    }

    #[test]
    fn a_packet_longer_than_a_buffer_is_refused() {
        let ends = mesh::<()>(2);
        let sender = ends[0].to[1].as_ref().unwrap();
        assert_eq!(sender.send((), MAX_BYTES + 1, |_| ()), Err(Refused));
        sender.send((), MAX_BYTES, |_| ()).unwrap();
        assert!(ends[1].from[0].receive(|(), bytes| assert_eq!(bytes.len(), MAX_BYTES)));
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let mut ends = mesh::<u32>(2);
        let to = ends[0].to[1].take().unwrap();
        let from = ends.remove(1).from.remove(0);
        const PACKETS: u32 = 100_000;
        let producer = std::thread::spawn(move || {
            for packet in 0..PACKETS {
                while to
                    .send(packet, 4, |bytes| {
                        bytes.copy_from_slice(&packet.to_be_bytes());
                    })
                    .is_err()
                {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < PACKETS {
            let received = from.receive(|packet, bytes| {
                assert_eq!(packet, expected);
                assert_eq!(bytes, expected.to_be_bytes());
            });
            if received {
                expected += 1;
            } else {
                std::thread::yield_now();
            }
        }
        producer.join().unwrap();
        assert!(from.is_empty());
    }
}
