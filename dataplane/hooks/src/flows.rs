//! Flows that the hooks carry by themselves, once a worker has decided them.
//!
//! # Contract
//!
//! *Who.* The worker that owns a flow, or one thread that acts for all workers, is the only one to
//! put its pair in and to take it out. Every call is a system call, about a microsecond: not for
//! the packet path; a worker hands requests over in batches.
//!
//! *When in.* When the flow is established in both directions (TCP: the handshake is over; UDP and
//! ICMP: both sides were heard), with both rewrites, the epoch they were decided under and both
//! next hops known. [`FlowMap::install`] puts in both directions or none. The hooks carry only
//! whole, plain packets that fit [`FlowEntry::mtu`]: SYN, FIN and RST, fragments, IPv4 options,
//! extension headers, TTL 1, packets too big, wrong header checksums and whatever is malformed
//! still reach the worker, and so does every packet while [`crate::HookConfig::epoch`] is not the
//! entry's, or [`crate::HookConfig::offload`] is off. A worker must therefore accept packets of an offloaded flow at any
//! time, and must not judge them by sequence numbers it has not seen.
//!
//! *When out.* Before the flow leaves the worker's table, before its SNAT port is given to another
//! flow, and when a FIN or RST was seen. [`FlowMap::remove`] returns the last counters. A packet
//! that is inside a hook at that moment may still be carried; one of a [`Via::Tcx`] flow that is
//! between both hooks of an uplink becomes the host stack's, which must not answer it by a reset.
//! Entries are never evicted and never
//! age by themselves. After a new snapshot the entries of the old epoch stay where they are and
//! carry nothing; installing again replaces them and starts their counters at zero, so remove
//! first, or read first. Switch offload off before clearing.
//!
//! *Age.* A flow is idle when neither side's [`FlowUsage::last_seen_ns`] has moved; the clock is
//! CLOCK_MONOTONIC, coarse: up to one tick behind. [`FlowMap::walk`] reads the whole map in batches
//! while packets go on; [`FlowMap::usage`] reads one entry.
//!
//! *Path.* From a pod, the TCX hook on its veth carries the flow. From an uplink it is XDP, for
//! flows with [`Via::Xdp`] whose pod was named by [`crate::Hooks::set_pod_device`], and the TCX
//! hook of [`crate::Hooks::attach_uplink_tcx`] for those with [`Via::Tcx`], after GRO. Without
//! that hook such packets are the kernel's.
//!
//! What this must not do: decide, or know a worker's tables.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::AsFd;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use penstock_xsk::map::MapWalk;

use crate::error::HookError;
use crate::layout;

/// Entries a clearing walk reads at a time.
const CLEAR_BATCH: u32 = 1_024;

/// Where a flow's packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Zone {
    /// From a pod.
    Pods,
    /// From an uplink.
    Uplinks,
}

/// Both ends of one direction, as its packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ends {
    /// IPv4.
    V4 {
        /// Source address.
        source: Ipv4Addr,
        /// Destination address.
        destination: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source address.
        source: Ipv6Addr,
        /// Destination address.
        destination: Ipv6Addr,
    },
}

/// One direction of a flow, as its packets arrive.
///
/// An echo request's identifier stands for its source port, an echo reply's for its destination
/// port; the other one is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Addresses.
    pub ends: Ends,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number: TCP, UDP, ICMP or ICMPv6; the hooks carry no other.
    pub protocol: u8,
    /// Where the packets arrive.
    pub zone: Zone,
}

/// What replaces an address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// Nothing does.
    None,
    /// This replaces the source: a pod's packet on its way out.
    Source(SocketAddrV4),
    /// This replaces the destination: the answer on its way back.
    Destination(SocketAddrV4),
}

/// Where a direction leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By the uplink with this index.
    Uplink(u32),
    /// Into the pod behind the veth with this index of its host side.
    Pod(u32),
}

/// Which hook carries a direction that arrives on an uplink; of no meaning for [`Zone::Pods`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// XDP: most packets per second.
    Xdp,
    /// TCX, after GRO: most bytes per second of a stream.
    Tcx,
}

/// What the hooks do with one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Translation; IPv4 only.
    pub translation: Translation,
    /// MAC of the next hop.
    pub destination_mac: [u8; 6],
    /// MAC of the interface it leaves by.
    pub source_mac: [u8; 6],
    /// Where it leaves.
    pub exit: Exit,
    /// Bytes of IP packet the way out takes; of each segment, for a GSO super-packet.
    pub mtu: u16,
    /// Epoch the decision belongs to.
    pub epoch: u32,
    /// Which hook carries it.
    pub via: Via,
    /// What its owner knows it by: kept with it and given back by [`FlowMap::walk`].
    pub owner: u64,
}

/// What the hooks carried of one direction since it was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowUsage {
    /// CLOCK_MONOTONIC nanoseconds of the last packet, coarse; 0 for none yet.
    pub last_seen_ns: u64,
    /// Packets; segments, for a GSO super-packet.
    pub packets: u64,
    /// Bytes of the frames as the hook saw them: a super-packet has one header.
    pub bytes: u64,
}

/// One direction as a walk finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its packets.
    pub key: FlowKey,
    /// What was put in.
    pub entry: FlowEntry,
    /// What was carried since.
    pub usage: FlowUsage,
}

/// The maps of offloaded flows, for their owner. Independent of [`crate::Hooks`] once made, and
/// usable from any thread.
#[derive(Debug)]
pub struct FlowMap {
    four: MapHandle,
    six: MapHandle,
}

impl FlowMap {
    pub(crate) fn new(four: MapHandle, six: MapHandle) -> Self {
        Self { four, six }
    }

    /// Puts in both directions of a flow, replacing entries of the same keys. After a failure
    /// neither is in.
    ///
    /// # Errors
    /// [`HookError::Translation`] for IPv6 with a translation; [`HookError::Map`], also when the
    /// map is full: the flow then stays with its worker.
    pub fn install(&self, pair: &[(FlowKey, FlowEntry); 2]) -> Result<(), HookError> {
        if pair.iter().any(|(key, entry)| {
            matches!(key.ends, Ends::V6 { .. }) && entry.translation != Translation::None
        }) {
            return Err(HookError::Translation);
        }
        for (key, entry) in pair {
            self.put(key, entry).inspect_err(|_| {
                // Half a pair would count and age alone. The failure to report is this one.
                let _ = self.remove(&pair.map(|(key, _)| key));
            })?;
        }
        Ok(())
    }

    /// Takes out both directions of a flow and returns what was carried of each; `None` for one
    /// that was not in.
    ///
    /// # Errors
    /// [`HookError::Map`]; the second is taken out even when the first cannot be.
    pub fn remove(&self, pair: &[FlowKey; 2]) -> Result<[Option<FlowUsage>; 2], HookError> {
        let [first, second] = pair.each_ref().map(|key| self.take(key));
        Ok([first?, second?])
    }

    /// What was carried of one direction; `None` when it is not in.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn usage(&self, key: &FlowKey) -> Result<Option<FlowUsage>, HookError> {
        let (map, bytes) = self.place(key);
        let mut value = [0; layout::FLOW_BYTES];
        let found = map.lookup_into(bytes.as_slice(), &mut value, MapFlags::ANY);
        let found = found.map_err(|source| map_error("read", key, map, source))?;
        Ok(found.then(|| layout::flow_usage(&value)))
    }

    /// Begins a walk over all entries, `batch` of them with each system call.
    ///
    /// # Errors
    /// [`HookError::Walk`].
    pub fn walk(&self, batch: u32) -> Result<FlowWalk, HookError> {
        let begin = |map: &MapHandle| MapWalk::new(map.as_fd(), batch).map_err(walk_error);
        Ok(FlowWalk {
            four: begin(&self.four)?,
            six: begin(&self.six)?,
        })
    }

    /// Takes all entries out.
    ///
    /// # Errors
    /// [`HookError::Map`], [`HookError::Walk`]; what was met before is out.
    pub fn clear(&self) -> Result<(), HookError> {
        let mut walk = self.walk(CLEAR_BATCH)?;
        let mut found = Vec::new();
        while walk.next_batch(&mut found)? {
            for Found { key, .. } in found.drain(..) {
                self.take(&key)?;
            }
        }
        Ok(())
    }

    fn put(&self, key: &FlowKey, entry: &FlowEntry) -> Result<(), HookError> {
        let (map, bytes) = self.place(key);
        map.update(bytes.as_slice(), &layout::flow(entry), MapFlags::ANY)
            .map_err(|source| map_error("write", key, map, source))
    }

    /// Takes out one direction of a flow that has no owner; what was carried, if it was in.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn take(&self, key: &FlowKey) -> Result<Option<FlowUsage>, HookError> {
        let (map, bytes) = self.place(key);
        let mut value = [0; layout::FLOW_BYTES];
        let found = map.lookup_into_and_delete(bytes.as_slice(), &mut value);
        let found = found.map_err(|source| map_error("delete", key, map, source))?;
        Ok(found.then(|| layout::flow_usage(&value)))
    }

    fn place(&self, key: &FlowKey) -> (&MapHandle, layout::FlowKeyBytes) {
        let map = match key.ends {
            Ends::V4 { .. } => &self.four,
            Ends::V6 { .. } => &self.six,
        };
        (map, layout::flow_key(key))
    }
}

/// A walk over all offloaded flows; see [`FlowMap::walk`].
#[derive(Debug)]
pub struct FlowWalk {
    four: MapWalk,
    six: MapWalk,
}

impl FlowWalk {
    /// Reads one batch into `found`, behind what is there. Entries that come or go during the walk
    /// may be seen or not, all others are seen once. Whether the walk goes on.
    ///
    /// # Errors
    /// [`HookError::Walk`].
    pub fn next_batch(&mut self, found: &mut Vec<Found>) -> Result<bool, HookError> {
        for walk in [&mut self.four, &mut self.six] {
            if let Some(entries) = walk.next_batch().map_err(walk_error)? {
                found.extend(entries.filter_map(|(key, value)| {
                    Some(Found {
                        key: layout::parse_flow_key(key)?,
                        entry: layout::parse_flow(value)?,
                        usage: layout::flow_usage(value),
                    })
                }));
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn walk_error(source: std::io::Error) -> HookError {
    HookError::Walk { source }
}

fn map_error(
    op: &'static str,
    key: &FlowKey,
    map: &MapHandle,
    source: libbpf_rs::Error,
) -> HookError {
    HookError::Map {
        op,
        object: format!("{key:?}"),
        map: map.name().to_string_lossy().into_owned(),
        source,
    }
}
