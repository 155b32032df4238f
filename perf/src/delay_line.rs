//! A wire between two namespaces with a fixed delay and a fixed loss each way: the answer that a
//! measurement of it must give is known.
//!
//! Frames are taken off one interface and put on the other, in userspace, so that no queueing
//! discipline of the kernel is needed. Loss is every n-th frame of UDP or TCP, not a chance.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use penstock_lab::NetNs;

use crate::capture::Capture;
use crate::inject::Injector;

const ETHERTYPE: std::ops::Range<usize> = 12..14;
const IP4: [u8; 2] = [0x08, 0x00];
/// How often the wire looks whether all is over.
const GLANCE: Duration = Duration::from_millis(20);
const SOURCE: std::ops::Range<usize> = 6..12;

/// What the wire does to what passes.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// How long a frame is held, each way.
    pub delay: Duration,
    /// One IPv4 frame in so many is dropped on the way out; none when 0.
    pub drop_one_in: u64,
}

/// Carries frames between the interfaces `near` and `far` of `netns`, whose other ends have the
/// Ethernet addresses given, while `work` runs.
///
/// # Errors
/// When an interface is not there; or what `work` fails by.
pub fn carry<T: Send>(
    netns: &NetNs,
    (near, near_mac): (&str, [u8; 6]),
    (far, far_mac): (&str, [u8; 6]),
    answer: Answer,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    let (out, back) = netns.run(|| (Capture::open(near), Capture::open(far)))?;
    let (mut out, mut back) = (out?, back?);
    thread::scope(|scope| {
        let stop = &stop;
        let way_back = Answer {
            drop_one_in: 0,
            ..answer
        };
        let there =
            scope.spawn(move || netns.run(|| hold(&mut out, near_mac, far, answer, stop))?);
        let again =
            scope.spawn(move || netns.run(|| hold(&mut back, far_mac, near, way_back, stop))?);
        let outcome = work();
        stop.store(true, Ordering::Relaxed);
        for thread in [there, again] {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the wire panicked"))??;
        }
        outcome
    })
}

/// Moves what `from_mac` sent to the interface `to`, late and with losses. What this side put on
/// the interface itself is seen by the capture as well, and has another source.
fn hold(
    from: &mut Capture,
    from_mac: [u8; 6],
    to: &str,
    answer: Answer,
    stop: &AtomicBool,
) -> Result<()> {
    let to = Injector::open(to)?;
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut seen = 0;
    while !stop.load(Ordering::Relaxed) {
        wait(from, held.front().map(|(due, _)| *due))?;
        while let Some(frame) = from.frame_now()? {
            if frame.get(SOURCE) != Some(&from_mac) {
                continue;
            }
            let counted = frame.get(ETHERTYPE) == Some(&IP4);
            seen += u64::from(counted);
            let lost = counted && answer.drop_one_in > 0 && seen.is_multiple_of(answer.drop_one_in);
            if !lost {
                held.push_back((Instant::now() + answer.delay, frame.to_vec()));
            }
        }
        while held.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            if let Some((_, frame)) = held.pop_front() {
                to.send(&frame)?;
            }
        }
    }
    Ok(())
}

/// Returns when a frame has arrived, one is due, or it is time to look whether all is over.
fn wait(capture: &Capture, due: Option<Instant>) -> Result<()> {
    let until = due.map_or(GLANCE, |due| {
        due.saturating_duration_since(Instant::now()).min(GLANCE)
    });
    let mut ready = [PollFd::new(capture.as_fd(), PollFlags::POLLIN)];
    match ppoll(&mut ready, Some(TimeSpec::from_duration(until)), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
