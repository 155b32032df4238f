//! The sending half of a port: packets to the TX ring, wake-ups, completions to the free list.
//!
//! In copy mode the kernel sends only inside the wake-up call and at most a budget of packets per
//! call, so `flush` calls until the ring is drained. A packet the kernel took and dropped costs
//! one call (`EBUSY`).
//!
//! Guarantees: `flush` commits once, is bounded by the ring size, and what it could not send stays
//! in the ring for the next `flush`. A packet is queued whole or given back.

use std::io;
use std::os::fd::AsFd;

use super::Port;
use crate::config::Mode;
use crate::frame::Frame;
use crate::packet::Packet;
use crate::sys;
use crate::umem::Umem;

/// Wake-ups in a row without any progress before the rest waits for the next flush.
const FRUITLESS_KICKS: u32 = 2;

/// How a port stands after a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortState {
    /// Everything was handed over.
    #[default]
    Up,
    /// The kernel is short of buffers or completion slots; packets remain queued. Reclaim, then
    /// flush again.
    Later,
    /// The interface is down or gone. Close the port.
    Down,
}

/// What a flush did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlushOutcome {
    /// How the port stands.
    pub state: PortState,
    /// Descriptors still in the TX ring; in zero-copy the device works on them.
    pub pending: u32,
    /// Packets the kernel took and dropped (the receiver's queue was full).
    pub busy: u32,
    /// Wake-up calls made.
    pub kicks: u32,
}

/// What the result of a wake-up call means (net/xdp/xsk.c `__xsk_generic_xmit`, `xsk_xmit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kick {
    Done,
    Again,
    Dropped,
    Later,
    Down,
}

fn judge(result: io::Result<()>) -> Kick {
    let Err(error) = result else {
        return Kick::Done;
    };
    match error.raw_os_error() {
        // The budget of one call is used up, or the socket's send buffer is full.
        Some(libc::EAGAIN | libc::EINTR) => Kick::Again,
        Some(libc::EBUSY) => Kick::Dropped,
        Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::EBADF) => Kick::Down,
        // ENOBUFS, ENOMEM: memory is short now.
        _ => Kick::Later,
    }
}

impl Port {
    /// Queues a packet; the kernel does not see it before [`Port::flush`].
    ///
    /// # Errors
    ///
    /// Gives the packet back, unchanged, when the TX ring has no room for all of it, when a frame
    /// of it is empty (the kernel refuses those), or when it has several frames and the port has
    /// no multi-buffer.
    ///
    /// # Panics
    ///
    /// If `umem` is not the UMEM the port was bound with, or the packet is of another one.
    pub fn send(&mut self, umem: &mut Umem, packet: Packet) -> Result<(), Packet> {
        umem.check(self.umem);
        let count = packet.frame_count() as u32;
        let unsendable = count > 1 && !self.config.multi_buffer;
        if unsendable || self.tx.room(count) < count || packet.frames().any(Frame::is_empty) {
            return Err(packet);
        }
        let mut left = count;
        for frame in packet.into_frames() {
            left -= 1;
            let descriptor = libc::xdp_desc {
                len: frame.len() as u32,
                addr: umem.lend_for_sending(frame, self.id),
                options: if left > 0 { libc::XDP_PKT_CONTD } else { 0 },
            };
            let pushed = self.tx.push(descriptor);
            debug_assert!(pushed, "room was checked");
        }
        Ok(())
    }

    /// Makes everything queued visible to the kernel and wakes it as often as it takes.
    pub fn flush(&mut self) -> FlushOutcome {
        self.tx.commit();
        let mut outcome = FlushOutcome {
            pending: self.tx.outstanding(),
            ..Default::default()
        };
        if outcome.pending > 0 && self.wants_kick() {
            self.drain(&mut outcome);
            self.counters.kicks += u64::from(outcome.kicks);
            self.counters.tx_busy += u64::from(outcome.busy);
        }
        outcome
    }

    /// Takes sent frames from the completion ring to the free list; returns how many.
    ///
    /// # Panics
    ///
    /// If `umem` is not the UMEM the port was bound with.
    pub fn reclaim(&mut self, umem: &mut Umem) -> u32 {
        umem.check(self.umem);
        let mut freed = 0;
        while let Some(address) = self.completion.take() {
            if umem.take_completed(self.id, address) {
                freed += 1;
            } else {
                self.counters.bad_desc += 1;
            }
        }
        self.completion.commit();
        freed
    }

    /// In copy mode nothing is sent without a call; in zero-copy only when the driver sleeps.
    fn wants_kick(&self) -> bool {
        self.mode == Mode::Copy || !self.config.need_wakeup || self.tx.needs_wakeup()
    }

    fn drain(&mut self, outcome: &mut FlushOutcome) {
        let mut fruitless = 0;
        while outcome.pending > 0 && outcome.kicks <= self.config.tx.get() {
            let verdict = judge(sys::kick_tx(self.fd.as_fd()));
            outcome.kicks += 1;
            let before = std::mem::replace(&mut outcome.pending, self.tx.outstanding());
            let progress = outcome.pending < before;
            match verdict {
                Kick::Done if self.mode == Mode::ZeroCopy => return,
                // The kernel publishes its index late after a drop: that is progress too.
                Kick::Dropped => {
                    outcome.busy += 1;
                    fruitless = 0;
                    continue;
                }
                Kick::Done | Kick::Again => {}
                Kick::Later => {
                    outcome.state = PortState::Later;
                    return;
                }
                Kick::Down => {
                    outcome.state = PortState::Down;
                    return;
                }
            }
            fruitless = if progress { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_KICKS {
                break;
            }
        }
        if outcome.pending > 0 {
            outcome.state = PortState::Later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_of_a_wake_up_has_its_meaning() {
        let errno = |code| judge(Err(io::Error::from_raw_os_error(code)));
        assert_eq!(judge(Ok(())), Kick::Done);
        assert_eq!(errno(libc::EAGAIN), Kick::Again);
        assert_eq!(errno(libc::EINTR), Kick::Again);
        assert_eq!(errno(libc::EBUSY), Kick::Dropped);
        assert_eq!(errno(libc::ENOBUFS), Kick::Later);
        assert_eq!(errno(libc::ENETDOWN), Kick::Down);
        assert_eq!(errno(libc::ENXIO), Kick::Down);
    }
}
