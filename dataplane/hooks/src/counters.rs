//! What the hooks counted, summed over CPUs.
//!
//! Counters only grow while the programs are loaded. For each hook
//! `seen = to_worker + to_kernel + to_pod + offloaded + sum(drops)`; a reader that races with a packet may see
//! one side of the sum a packet early.

use penstock_packet::DropReason;

/// A kind of hook; the number is its row in the counter map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookKind {
    /// TCX on the host side of pods' veths.
    Pod,
    /// TCX on trunk0.
    Trunk,
    /// XDP on trunk1.
    TrunkRx,
    /// XDP on ENIs.
    Uplink,
    /// TCX on ENIs, behind XDP.
    UplinkTcx,
}

impl HookKind {
    /// Every kind, in the order of its row.
    pub const ALL: [Self; 5] = [
        Self::Pod,
        Self::Trunk,
        Self::TrunkRx,
        Self::Uplink,
        Self::UplinkTcx,
    ];

    /// Stable name, as reports show it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Trunk => "trunk",
            Self::TrunkRx => "trunk-rx",
            Self::Uplink => "uplink",
            Self::UplinkTcx => "uplink-tcx",
        }
    }

    /// Row in the counter map: `enum hook` of `bpf/maps.h`.
    pub(crate) const fn row(self) -> u32 {
        match self {
            Self::Pod => 0,
            Self::Trunk => 1,
            Self::TrunkRx => 2,
            Self::Uplink => 3,
            Self::UplinkTcx => 4,
        }
    }
}

/// Counters of one kind of hook, in packets (segments, for a GSO super-packet).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCounters {
    /// The hook.
    pub hook: HookKind,
    /// Packets the program ran for.
    pub seen: u64,
    /// Redirected towards a worker.
    pub to_worker: u64,
    /// Left to the kernel's stack.
    pub to_kernel: u64,
    /// Left to the kernel because the worker was away or had no socket; part of `to_kernel`.
    pub fallback: u64,
    /// Redirected into a pod.
    pub to_pod: u64,
    /// Carried to where they go, as packets of an offloaded flow.
    pub offloaded: u64,
    /// Bytes of their frames as the hook saw them: a super-packet has one header.
    pub offloaded_bytes: u64,
    drops: [u64; DropReason::COUNT],
}

impl HookCounters {
    pub(crate) const fn zero(hook: HookKind) -> Self {
        Self {
            hook,
            seen: 0,
            to_worker: 0,
            to_kernel: 0,
            fallback: 0,
            to_pod: 0,
            offloaded: 0,
            offloaded_bytes: 0,
            drops: [0; DropReason::COUNT],
        }
    }

    /// Adds one CPU's `struct counters`; bytes that are missing count as zero.
    pub(crate) fn add(&mut self, row: &[u8]) {
        let (words, _) = row.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
        let totals = [
            &mut self.seen,
            &mut self.to_worker,
            &mut self.to_kernel,
            &mut self.fallback,
            &mut self.to_pod,
            &mut self.offloaded,
            &mut self.offloaded_bytes,
        ];
        for total in totals.into_iter().chain(&mut self.drops) {
            *total = total.wrapping_add(words.next().unwrap_or(0));
        }
    }

    /// Packets dropped under `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Packets dropped in all.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// The reasons that occurred, with their packets.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let all = DropReason::ALL.iter().copied().zip(self.drops);
        all.filter(|(_, packets)| *packets > 0)
    }
}
