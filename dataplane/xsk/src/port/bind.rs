//! Opening, sizing, mapping and binding an AF_XDP socket, in the order the kernel wants.
//!
//! Guarantees: on an error everything done so far is undone by dropping it. Wishes (send buffer,
//! TX budget) never fail a bind.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Port, PortCounters, receive};
use crate::config::{BindMode, Mode, PortConfig, RingSize};
use crate::error::SetupError;
use crate::ring::{self, Consumer, Producer};
use crate::sys;
use crate::umem::UmemHandle;

/// `XDP_MAX_TX_SKB_BUDGET` (include/uapi/linux/if_xdp.h, Linux 6.18): not in libc yet.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// The least budget the kernel accepts (net/xdp/xsk.c `TX_BATCH_SIZE`).
const LEAST_TX_BUDGET: u32 = 32;

/// How long a busy queue is tried; a closed socket was seen to linger for about 20 ms.
const BUSY_DEADLINE: Duration = Duration::from_secs(1);

/// Interface and queue in words, for messages.
pub(super) fn object(config: &PortConfig) -> String {
    let PortConfig { ifindex, queue, .. } = config;
    match sys::interface_name(*ifindex) {
        Some(name) => format!("{name} queue {queue}"),
        None => format!("interface {ifindex} queue {queue}"),
    }
}

pub(super) fn bind(
    config: &PortConfig,
    umem: &UmemHandle,
    share: Option<BorrowedFd<'_>>,
) -> Result<Port, SetupError> {
    let refused = |op| move |source| SetupError::os(op, object(config), source);
    let socket =
        sys::socket(libc::AF_XDP, libc::SOCK_RAW).map_err(refused("open an AF_XDP socket"))?;
    let fd = socket.as_fd();
    if share.is_none() {
        sys::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem.registration())
            .map_err(refused("register packet memory"))?;
    }
    for (name, size) in [
        (libc::XDP_UMEM_FILL_RING, config.fill),
        (libc::XDP_UMEM_COMPLETION_RING, config.completion),
        (libc::XDP_RX_RING, config.rx),
        (libc::XDP_TX_RING, config.tx),
    ] {
        sys::set_option(fd, libc::SOL_XDP, name, &size.get()).map_err(refused("size a ring"))?;
    }
    wish(fd, config);
    let rings = Rings::map(fd, config).map_err(refused("map the rings"))?;
    bind_socket(fd, config, share)?;
    let options: libc::xdp_options =
        sys::option(fd, libc::SOL_XDP, libc::XDP_OPTIONS).map_err(refused("read the mode"))?;
    let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
    Ok(rings.into_port(
        config,
        umem,
        socket,
        if zero_copy {
            Mode::ZeroCopy
        } else {
            Mode::Copy
        },
    ))
}

/// Asks for what makes sending faster; a refusal only makes it slower.
fn wish(fd: BorrowedFd<'_>, config: &PortConfig) {
    if let Some(bytes) = config.send_buffer_bytes {
        // The kernel doubles the value and wants an int.
        let bytes = libc::c_int::try_from(bytes / 2).unwrap_or(libc::c_int::MAX / 2);
        if sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
            let _wish = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
        }
    }
    if let Some(budget) = config.skb_budget {
        let budget = budget.clamp(LEAST_TX_BUDGET, config.tx.get());
        let _wish = sys::set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget);
    }
}

struct Rings {
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
}

impl Rings {
    fn map(fd: BorrowedFd<'_>, config: &PortConfig) -> io::Result<Self> {
        let offsets: libc::xdp_mmap_offsets =
            sys::option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let descriptor = size_of::<libc::xdp_desc>();
        let address = size_of::<u64>();
        let place = |offset: libc::xdp_ring_offset, entry, size: RingSize, page: u64| {
            ring::map(fd, offset.into(), entry, (size.get(), page))
        };
        let rx = place(
            offsets.rx,
            descriptor,
            config.rx,
            libc::XDP_PGOFF_RX_RING as u64,
        )?;
        let tx = place(
            offsets.tx,
            descriptor,
            config.tx,
            libc::XDP_PGOFF_TX_RING as u64,
        )?;
        let fill = place(
            offsets.fr,
            address,
            config.fill,
            libc::XDP_UMEM_PGOFF_FILL_RING,
        )?;
        let completion = place(
            offsets.cr,
            address,
            config.completion,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING,
        )?;
        let misplaced = || io::Error::from(io::ErrorKind::InvalidData);
        Ok(Self {
            rx: Consumer::new(rx, offsets.rx.into(), config.rx.get()).ok_or_else(misplaced)?,
            tx: Producer::new(tx, offsets.tx.into(), config.tx.get()).ok_or_else(misplaced)?,
            fill: Producer::new(fill, offsets.fr.into(), config.fill.get())
                .ok_or_else(misplaced)?,
            completion: Consumer::new(completion, offsets.cr.into(), config.completion.get())
                .ok_or_else(misplaced)?,
        })
    }

    fn into_port(self, config: &PortConfig, umem: &UmemHandle, fd: OwnedFd, mode: Mode) -> Port {
        let Self {
            rx,
            tx,
            fill,
            completion,
        } = self;
        Port {
            rx,
            tx,
            fill,
            completion,
            chain: receive::Chain::default(),
            counters: PortCounters::default(),
            id: umem.next_port(),
            umem: umem.id(),
            config: *config,
            mode,
            fd,
            _memory: umem.clone(),
        }
    }
}

/// The bind call, again and again while the queue is busy.
fn bind_socket(
    fd: BorrowedFd<'_>,
    config: &PortConfig,
    share: Option<BorrowedFd<'_>>,
) -> Result<(), SetupError> {
    let mut address = sys::zeroed::<libc::sockaddr_xdp>();
    address.sxdp_family = libc::AF_XDP as u16;
    address.sxdp_ifindex = config.ifindex;
    address.sxdp_queue_id = config.queue;
    match share {
        Some(other) => {
            address.sxdp_flags = libc::XDP_SHARED_UMEM;
            address.sxdp_shared_umem_fd = other.as_raw_fd().cast_unsigned();
        }
        None => address.sxdp_flags = flags(config),
    }
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let Err(source) = sys::bind_xdp(fd, &address) else {
            return Ok(());
        };
        if source.raw_os_error() != Some(libc::EBUSY) || started.elapsed() >= BUSY_DEADLINE {
            return Err(explain(config, started.elapsed(), source));
        }
        // The kernel has no event for "the queue is free": ask again.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn flags(config: &PortConfig) -> u16 {
    let mut flags = match config.mode {
        BindMode::Auto => 0,
        BindMode::Copy => libc::XDP_COPY,
        BindMode::ZeroCopy => libc::XDP_ZEROCOPY,
    };
    if config.multi_buffer {
        flags |= libc::XDP_USE_SG;
    }
    if config.need_wakeup {
        flags |= libc::XDP_USE_NEED_WAKEUP;
    }
    flags
}

#[cold]
fn explain(config: &PortConfig, waited: Duration, source: io::Error) -> SetupError {
    let object = object(config);
    match source.raw_os_error() {
        Some(libc::EBUSY) => SetupError::Busy {
            object,
            waited_ms: waited.as_millis(),
            source,
        },
        Some(libc::EOPNOTSUPP | libc::EINVAL) if config.mode == BindMode::ZeroCopy => {
            SetupError::ZeroCopyUnsupported { object, source }
        }
        _ => SetupError::os("bind an AF_XDP socket", object, source),
    }
}
