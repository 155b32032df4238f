//! One lane under loom: a sender and a receiver in every interleaving of their queue operations.
//! The queues are the specification of what crossbeam promises (one operation at a time, bounded);
//! what is checked is the lane's use of two of them as a circle.

use std::collections::VecDeque;

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{Crossing, Lane, Queue, Refused};

/// Buffers of the lane: fewer than packets, so that it is full at times.
const BUFFERS: usize = 2;
const PACKETS: u8 = 3;
/// Attempts of a side that finds the lane full or empty.
const TRIES: usize = 3;

struct Bounded<C>(Mutex<VecDeque<C>>);

impl<C> Bounded<C> {
    fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl<C> Queue for Bounded<C> {
    type Item = C;

    fn push(&self, item: C) -> Result<(), C> {
        let mut queue = self.0.lock().unwrap();
        if queue.len() == BUFFERS {
            return Err(item);
        }
        queue.push_back(item);
        Ok(())
    }

    fn pop(&self) -> Option<C> {
        self.0.lock().unwrap().pop_front()
    }
}

type ModelLane = Lane<Bounded<Crossing<u8>>>;

/// Sends `1..=PACKETS` in order, each tried a few times; returns how many crossed.
fn send_all(lane: &ModelLane) -> u8 {
    for packet in 1..=PACKETS {
        let mut sent = Err(Refused);
        for _ in 0..TRIES {
            let mut written = false;
            sent = lane.send(packet, usize::from(packet), |bytes| {
                bytes.fill(packet);
                written = true;
            });
            assert_eq!(written, sent.is_ok(), "a refusal writes nothing");
            if sent.is_ok() {
                break;
            }
            thread::yield_now();
        }
        if sent.is_err() {
            return packet - 1;
        }
    }
    PACKETS
}

fn receive_one(lane: &ModelLane, received: &mut u8) -> bool {
    lane.receive(|packet, bytes| {
        *received += 1;
        assert_eq!(packet, *received, "in order, once");
        assert_eq!(bytes, vec![packet; usize::from(packet)], "its own bytes");
    })
}

#[test]
fn no_packet_and_no_buffer_is_lost_or_doubled() {
    loom::model(|| {
        let lane: ModelLane = Lane::new(Bounded::new(), Bounded::new(), BUFFERS);
        let lane = Arc::new(lane);
        let theirs = Arc::clone(&lane);
        let sender = thread::spawn(move || send_all(&theirs));
        let mut received = 0;
        for _ in 0..TRIES {
            while receive_one(&lane, &mut received) {}
            if received == PACKETS {
                break;
            }
            thread::yield_now();
        }
        let sent = sender.join().unwrap();
        while receive_one(&lane, &mut received) {}
        assert_eq!(received, sent);
        assert_eq!((lane.full.len(), lane.empty.len()), (0, BUFFERS));
    });
}
