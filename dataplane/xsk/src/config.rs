//! What a UMEM and a port are built from: sizes as checked types, choices as enums.
//!
//! Guarantees: a value of these types is one the kernel accepts, as far as that can be known
//! without asking it.

use crate::error::SetupError;
use crate::frame::FrameSize;

/// Whether packet memory lives on 2 MiB pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Use reserved huge pages when there are enough, otherwise ordinary (transparently huge)
    /// pages.
    #[default]
    Try,
    /// Ordinary pages only.
    Never,
    /// Fail without reserved huge pages.
    Require,
}

/// How a UMEM is built.
#[derive(Debug, Clone, Copy)]
pub struct UmemConfig {
    /// Number of frames. A worker needs the sum of [`PortConfig::frames`] of its ports, plus
    /// what it holds itself.
    pub frames: u32,
    /// Size of one chunk.
    pub frame_size: FrameSize,
    /// Kind of pages.
    pub huge_pages: HugePages,
}

impl UmemConfig {
    /// `frames` chunks of 4096 bytes, huge pages if there are any.
    #[must_use]
    pub fn new(frames: u32) -> Self {
        Self {
            frames,
            frame_size: FrameSize::default(),
            huge_pages: HugePages::Try,
        }
    }
}

/// Entries of one ring: a power of two, 32 to 65,536.
///
/// The kernel wants a power of two (net/xdp/xsk.c `xsk_init_queue`); 32 is the least TX ring for
/// which its default budget makes sense, 65,536 a bound on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingSize(u32);

impl RingSize {
    /// Checks `entries`.
    ///
    /// # Errors
    ///
    /// [`SetupError::Config`] if it is not a power of two within the bounds.
    pub fn new(entries: u32) -> Result<Self, SetupError> {
        if entries.is_power_of_two() && (32..=65_536).contains(&entries) {
            return Ok(Self(entries));
        }
        Err(SetupError::Config {
            what: "a ring size",
            expected: "a power of two from 32 to 65536",
            got: u64::from(entries),
        })
    }

    /// Number of entries.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// What bind asks the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BindMode {
    /// Zero-copy if the driver has it, otherwise copy.
    #[default]
    Auto,
    /// Copy.
    Copy,
    /// Zero-copy or fail.
    ZeroCopy,
}

/// What bind got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The kernel copies between its buffers and the UMEM.
    Copy,
    /// The device reads and writes the UMEM.
    ZeroCopy,
}

/// How one port is bound.
#[derive(Debug, Clone, Copy)]
pub struct PortConfig {
    /// Interface.
    pub ifindex: u32,
    /// Queue of that interface.
    pub queue: u32,
    /// RX ring entries.
    pub rx: RingSize,
    /// TX ring entries.
    pub tx: RingSize,
    /// Fill ring entries.
    pub fill: RingSize,
    /// Completion ring entries; at least as many as the TX ring, or sending stalls.
    pub completion: RingSize,
    /// Copy or zero-copy. Ignored when the port shares another port's registration: the kernel
    /// makes it inherit.
    pub mode: BindMode,
    /// Packets of several chunks in both directions. Never with the ENA driver in zero-copy: it
    /// ignores the continuation flag when it sends. Must be the same for ports that share a
    /// registration.
    pub multi_buffer: bool,
    /// Let the kernel say when it wants to be woken (saves system calls in zero-copy).
    pub need_wakeup: bool,
    /// Packets the kernel sends per wake-up in copy mode (`XDP_MAX_TX_SKB_BUDGET`, Linux 6.18);
    /// clamped to 32..=TX ring. `None` keeps the kernel's 32. Older kernels ignore it.
    pub skb_budget: Option<u32>,
    /// Bytes of socket send buffer to ask for: in copy mode it bounds what is in flight. `None`
    /// keeps the system's default.
    pub send_buffer_bytes: Option<u32>,
}

impl PortConfig {
    /// Defaults for one queue: rings of 2048, multi-buffer and need-wakeup on, budget 128.
    #[must_use]
    pub fn new(ifindex: u32, queue: u32) -> Self {
        let ring = RingSize(2048);
        Self {
            ifindex,
            queue,
            rx: ring,
            tx: ring,
            fill: ring,
            completion: ring,
            mode: BindMode::Auto,
            multi_buffer: true,
            need_wakeup: true,
            skb_budget: Some(128),
            send_buffer_bytes: Some(4 << 20),
        }
    }

    /// Frames this port can hold at once: fill ring, RX ring, and TX ring until completion.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.fill.get() + self.rx.get() + self.tx.get()
    }
}
