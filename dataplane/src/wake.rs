//! Waking a worker that sleeps in poll(2).
//!
//! Whoever puts work where a worker looks for it calls [`Wake::notify`] afterwards. The worker
//! announces that it is about to sleep, looks once more, and only then sleeps: no work is missed,
//! and a busy worker costs its notifiers one load and no system call.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// One worker's alarm clock.
#[derive(Debug)]
pub struct Wake {
    event: EventFd,
    asleep: AtomicBool,
}

impl Wake {
    /// An alarm clock nobody sleeps by.
    ///
    /// # Errors
    /// Whatever eventfd(2) reports.
    pub fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            event: EventFd::from_flags(flags)?,
            asleep: AtomicBool::new(false),
        })
    }

    /// Wakes the worker if it sleeps or is about to. Call after the work is visible.
    pub fn notify(&self) {
        // Pairs with the fence in `sleep`: either the worker sees the work, or we see it asleep.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) {
            // EAGAIN means the counter is full, so the sleeper has been woken already.
            let _ = self.event.write(1);
        }
    }

    /// Runs `sleep` unless `work_waits`, with notifications on.
    pub fn sleep(&self, work_waits: impl FnOnce() -> bool, sleep: impl FnOnce()) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !work_waits() {
            sleep();
        }
        self.asleep.store(false, Ordering::Relaxed);
        // EAGAIN: nobody rang.
        let _ = self.event.read();
    }

    /// What to give to poll(2).
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn a_sleeper_is_woken_by_work_and_never_misses_it() {
        const ROUNDS: u32 = 2_000;
        let wake = Arc::new(Wake::new().unwrap());
        let work = Arc::new(AtomicU32::new(0));
        let notifier = {
            let (wake, work) = (Arc::clone(&wake), Arc::clone(&work));
            std::thread::spawn(move || {
                for _ in 0..ROUNDS {
                    work.fetch_add(1, Ordering::Release);
                    wake.notify();
                }
            })
        };
        let mut done = 0;
        while done < ROUNDS {
            wake.sleep(
                || work.load(Ordering::Acquire) > done,
                || {
                    let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
                    let rang = poll(&mut fds, PollTimeout::from(10_000u16)).unwrap();
                    assert_eq!(rang, 1, "slept through a notification");
                },
            );
            done = work.load(Ordering::Acquire);
        }
        notifier.join().unwrap();
    }

    #[test]
    fn nobody_asleep_costs_no_event() {
        let wake = Wake::new().unwrap();
        wake.notify();
        let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO).unwrap(), 0);
    }
}
