//! Waiting for packets when there is nothing to do.
//!
//! It must not be called while a TX ring has packets: in copy mode poll(2) sends them too
//! (net/xdp/xsk.c `xsk_poll`), and those the kernel drops then go uncounted. Flush until
//! [`PortState::Up`](crate::PortState::Up) first.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::sys;

/// Most descriptors waited on without touching the heap.
const INLINE: usize = 32;

/// Waits until one of the descriptors is readable (a port: its RX ring has packets) or `timeout`
/// is over; returns how many are ready. An interrupting signal counts as a timeout.
///
/// # Errors
///
/// The error of poll(2) when memory is short or there are too many descriptors.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<usize> {
    let entry = |fd: &BorrowedFd<'_>| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut inline = [libc::pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    }; INLINE];
    let result = match inline.get_mut(..fds.len()) {
        Some(entries) => {
            for (to, fd) in entries.iter_mut().zip(fds) {
                *to = entry(fd);
            }
            sys::poll(entries, timeout)
        }
        None => sys::poll(&mut fds.iter().map(entry).collect::<Vec<_>>(), timeout),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    #[test]
    fn wait_ends_with_the_first_readable_descriptor_or_the_timeout() {
        let (mut near, far) = UnixStream::pair().expect("socket pair");
        let started = Instant::now();
        assert_eq!(
            wait(&[far.as_fd()], Duration::from_millis(5)).expect("poll"),
            0
        );
        assert!(started.elapsed() >= Duration::from_millis(5));
        near.write_all(b"x").expect("write");
        assert_eq!(
            wait(&[far.as_fd()], Duration::from_secs(5)).expect("poll"),
            1
        );
        let many = vec![far.as_fd(); INLINE + 1];
        assert_eq!(
            wait(&many, Duration::from_secs(5)).expect("poll"),
            INLINE + 1
        );
    }
}
