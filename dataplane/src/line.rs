//! A worker's line to the clerk, who keeps the hooks' flows for all workers (`clerk`).
//!
//! Two bounded queues, wishes out and news in. A worker never waits: what finds no room stays with
//! its engine, which wishes again.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use penstock_flow::offload::{News, Wish};
use penstock_flow::{Engine, Snapshot, Timestamp};

use crate::wake::Wake;

/// Wishes the clerk has not come to yet.
const WISHES: usize = 1_024;

/// News a worker has not come to yet.
const NEWS: usize = 1_024;

/// News a worker listens to in one loop: each touches a flow or two.
const NEWS_BUDGET: usize = 64;

/// What lies between one worker and the clerk.
#[derive(Debug)]
pub struct Queues {
    /// To the clerk.
    pub wishes: ArrayQueue<Wish>,
    /// To the worker.
    pub news: ArrayQueue<News>,
}

impl Queues {
    /// Nothing said yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            wishes: ArrayQueue::new(WISHES),
            news: ArrayQueue::new(NEWS),
        }
    }
}

impl Default for Queues {
    fn default() -> Self {
        Self::new()
    }
}

/// The worker's end.
#[derive(Debug)]
pub struct Line {
    queues: Arc<Queues>,
    clerk: Arc<Wake>,
}

impl Line {
    /// A line whose other end wakes up by `clerk`.
    #[must_use]
    pub const fn new(queues: Arc<Queues>, clerk: Arc<Wake>) -> Self {
        Self { queues, clerk }
    }

    /// Tells what the engine wishes, and the engine what the clerk says; how much that was.
    #[inline]
    pub(crate) fn talk(&self, engine: &mut Engine, snapshot: &Snapshot, now: Timestamp) -> usize {
        if !engine.has_wishes() && self.queues.news.is_empty() {
            return 0;
        }
        self.listen(engine, snapshot, now) + self.speak(engine)
    }

    #[cold]
    fn listen(&self, engine: &mut Engine, snapshot: &Snapshot, now: Timestamp) -> usize {
        let mut heard = 0;
        while heard < NEWS_BUDGET
            && let Some(news) = self.queues.news.pop()
        {
            engine.hear(&news, snapshot, now);
            heard += 1;
        }
        heard
    }

    fn speak(&self, engine: &mut Engine) -> usize {
        let mut told = 0;
        while !self.queues.wishes.is_full()
            && let Some(wish) = engine.wish()
        {
            // Only this worker pushes: there is room.
            let _ = self.queues.wishes.push(wish);
            told += 1;
        }
        if told > 0 {
            self.clerk.notify();
        }
        told
    }

    /// Whether news wait.
    pub(crate) fn has_news(&self) -> bool {
        !self.queues.news.is_empty()
    }
}
