//! A clock on which hours pass at once: when nobody can go on, it jumps to the next moment somebody waits for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::clock::{Clock, Timestamp};

/// Rounds through all tasks without anybody new waiting, after which nobody can go on. A wake-up passes through a few
/// tasks at most before somebody waits for time again.
const QUIET_ROUNDS: u32 = 12;

#[derive(Debug, Clone, Default)]
pub(super) struct TestClock(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: u64,
    serial: u64,
    sleepers: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

impl TestClock {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Runs `work` and everything it spawns to its end.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            // All tasks that can go on do, before the clock is asked again.
            .event_interval(1_000_000)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::select! {
                biased;
                done = work => done,
                () = self.drive() => unreachable!("the clock never ends"),
            }
        })
    }

    async fn drive(&self) {
        loop {
            let mut quiet = 0;
            let mut seen = self.lock().serial;
            while quiet < QUIET_ROUNDS {
                tokio::task::yield_now().await;
                let serial = self.lock().serial;
                quiet = if serial == seen { quiet + 1 } else { 0 };
                seen = serial;
            }
            self.jump();
        }
    }

    fn jump(&self) {
        let mut inner = self.lock();
        let first = inner.sleepers.keys().next().copied();
        let (at, _) = first.expect("somebody waits for time, or nothing will ever happen");
        inner.now = at;
        let later = inner.sleepers.split_off(&(at + 1, 0));
        let due = std::mem::replace(&mut inner.sleepers, later);
        drop(inner);
        for sleeper in due.into_values() {
            // Who no longer waits need not be woken.
            let _ = sleeper.send(());
        }
    }

    pub(super) fn since_start(&self) -> Duration {
        Duration::from_millis(self.lock().now)
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        // Not zero: some things are older than the start.
        Timestamp(1_000_000 + self.lock().now)
    }

    fn sleep(&self, pause: Duration) -> BoxFuture<'static, ()> {
        let (sender, woken) = oneshot::channel();
        {
            let mut inner = self.lock();
            inner.serial += 1;
            let at = inner.now + u64::try_from(pause.as_millis()).unwrap();
            let key = (at, inner.serial);
            inner.sleepers.insert(key, sender);
        }
        Box::pin(async move {
            let _ = woken.await;
        })
    }
}
