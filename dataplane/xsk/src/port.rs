//! A port: one AF_XDP socket on one queue of one interface, used by one worker.
//!
//! A port is bound on a control thread from a [`UmemHandle`] and moved to the worker that owns
//! the UMEM. The worker calls [`Port::refill`] before the socket is put into the XSKMAP; until
//! then its fill ring is empty and redirected packets would be counted in
//! [`Statistics::fill_ring_empty`]. That order also holds for zero-copy: the driver finds the fill
//! ring empty at bind, asks for a wake-up, and the first [`Port::refill`] gives it.
//!
//! Each step of a worker: [`receive`](Port::receive), [`send`](Port::send) for every packet,
//! [`flush`](Port::flush), [`reclaim`](Port::reclaim), [`refill`](Port::refill).
//!
//! Guarantees: frames move between the four rings and the worker by the ownership law of
//! [`crate::umem`]; nothing is sent before `flush`; descriptors the kernel should not have written
//! are counted and dropped. It must not look into packets.

mod bind;
mod receive;
mod transmit;

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::{Mode, PortConfig};
use crate::error::SetupError;
use crate::ring::{Consumer, Producer};
use crate::sys;
use crate::umem::{PortId, Umem, UmemHandle};

pub use transmit::{FlushOutcome, PortState};

/// `XDP_STATISTICS`: what the kernel lost on this socket (net/xdp/xsk.c).
///
/// In copy mode a packet redirected to the socket is in the RX ring, or in `rx_dropped`, or in
/// `rx_ring_full`; `fill_ring_empty` says why some of `rx_dropped` were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Received packets dropped for other reasons, such as being too long for a chunk without
    /// multi-buffer.
    pub rx_dropped: u64,
    /// Fill ring entries the kernel refused.
    pub rx_invalid_descs: u64,
    /// TX ring entries the kernel refused.
    pub tx_invalid_descs: u64,
    /// Received packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Times the kernel found the fill ring empty.
    pub fill_ring_empty: u64,
    /// Times the kernel found the TX ring empty.
    pub tx_ring_empty: u64,
}

/// What this side counted on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Packets of more than [`Packet::MAX_FRAMES`](crate::Packet::MAX_FRAMES) frames, freed whole.
    pub rx_toobig: u64,
    /// Descriptors that named a chunk the kernel did not have, or bytes outside it.
    pub bad_desc: u64,
    /// Packets the kernel took from the TX ring and dropped.
    pub tx_busy: u64,
    /// System calls made to wake the kernel.
    pub kicks: u64,
}

/// One AF_XDP socket with its four rings.
#[derive(Debug)]
pub struct Port {
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    chain: receive::Chain,
    counters: PortCounters,
    id: PortId,
    umem: NonZeroU32,
    config: PortConfig,
    mode: Mode,
    fd: OwnedFd,
    /// The memory stays mapped for as long as a socket has it registered.
    _memory: UmemHandle,
}

impl Port {
    /// Opens and binds a socket on `config.queue` of `config.ifindex`, an interface of the calling
    /// thread's network namespace.
    ///
    /// With `share` set to a port of the same UMEM, the socket joins that port's registration
    /// (`XDP_SHARED_UMEM`) and inherits its mode and multi-buffer setting. With `None` it
    /// registers the memory itself; several registrations of one UMEM are fine, cost one more
    /// pinning of its pages, and let copy and zero-copy ports live on the same UMEM. Either way
    /// the port has its own fill and completion rings.
    ///
    /// Closing a socket is asynchronous, so a queue that was just released can be busy for some
    /// milliseconds: bind is tried again for up to a second. Call it on a control thread.
    ///
    /// # Errors
    ///
    /// [`SetupError`] naming the operation, the interface and what to do.
    pub fn bind(
        config: &PortConfig,
        umem: &UmemHandle,
        share: Option<BorrowedFd<'_>>,
    ) -> Result<Self, SetupError> {
        bind::bind(config, umem, share)
    }

    /// Copy or zero-copy, as the kernel reports it.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The configuration the port was bound with.
    #[must_use]
    pub fn config(&self) -> &PortConfig {
        &self.config
    }

    /// What this side counted.
    #[must_use]
    pub fn counters(&self) -> PortCounters {
        self.counters
    }

    /// What the kernel counted: one system call, not for every batch.
    ///
    /// # Errors
    ///
    /// [`SetupError::Os`] if the socket is no longer usable.
    pub fn statistics(&self) -> Result<Statistics, SetupError> {
        let raw: libc::xdp_statistics =
            sys::option(self.fd.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS).map_err(
                |source| SetupError::os("read statistics", bind::object(&self.config), source),
            )?;
        Ok(Statistics {
            rx_dropped: raw.rx_dropped,
            rx_invalid_descs: raw.rx_invalid_descs,
            tx_invalid_descs: raw.tx_invalid_descs,
            rx_ring_full: raw.rx_ring_full,
            fill_ring_empty: raw.rx_fill_ring_empty_descs,
            tx_ring_empty: raw.tx_ring_empty_descs,
        })
    }

    /// Closes the socket and returns every frame it had to the free list. Returns how many frames
    /// are written off instead, because somebody may still write into them:
    ///
    /// - in zero-copy, the device, until its driver lets go, which no call reports;
    /// - in copy mode none, unless a clone of the socket's descriptor is still open (the kernel
    ///   then keeps it bound) or procfs is missing, without which that cannot be told. Drop clones
    ///   first, and do not fork in another thread meanwhile.
    ///
    /// In copy mode the kernel touches the UMEM only inside system calls and receive interrupts of
    /// a bound socket, and its release waits for the latter (net/xdp/xsk.c `xsk_release`).
    ///
    /// # Panics
    ///
    /// If `umem` is not the UMEM the port was bound with.
    pub fn close(mut self, umem: &mut Umem) -> u32 {
        umem.check(self.umem);
        self.reclaim(umem);
        self.chain.abandon(umem);
        while let Some(descriptor) = self.rx.take() {
            if let Some(raw) = umem.take_received(self.id, descriptor.addr, descriptor.len) {
                umem.free_raw(raw);
            }
        }
        let (id, mode) = (self.id, self.mode);
        let witness = sys::Witness::new(self.fd.as_fd());
        drop(self);
        let released = witness.is_ok_and(|witness| witness.is_released());
        umem.settle(id, mode == Mode::ZeroCopy || !released)
    }
}

impl AsFd for Port {
    /// The socket: for the XSKMAP, and for [`wait`](crate::wait) (readable when the RX ring has
    /// packets). A clone that outlives [`Port::close`] keeps the queue bound and costs the frames.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
