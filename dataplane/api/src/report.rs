//! What the dataplane says about itself.
//!
//! Counters only grow while the process lives and are summed by the reader. The conservation law
//! they obey is written at [`WorkerReport`] and [`HookReport`]; tests assert it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Answer to a status request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the dataplane binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_seconds: u64,
    /// Generation in force; 0 before the first publication.
    pub generation: u64,
    /// Pods with a hook attached.
    pub endpoints: u32,
    /// Number of worker threads.
    pub workers: u32,
    /// Queues on which hooks pass to the kernel because their worker's heartbeat is stale.
    pub fallback_queues: u32,
    /// Established flows and the hooks.
    pub offload: OffloadReport,
    /// What became of each uplink.
    pub uplinks: Vec<UplinkReport>,
}

/// Which flows hooks carry by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// None: every packet goes through a worker.
    #[default]
    Off,
    /// Those with packets in both directions and nothing left to decide.
    Established,
}

/// Offload of established flows; counts are since start but for `flows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OffloadReport {
    /// What is in force.
    pub setting: Offload,
    /// Flows the hooks know now, both directions of each.
    pub flows: u64,
    /// Flows made known to them, also again after a change of rules.
    pub installed: u64,
    /// Flows they were made to forget.
    pub removed: u64,
    /// Flows that stayed with their worker because the hooks had no room for them.
    pub refused: u64,
}

/// How an uplink is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkMode {
    /// AF_XDP, the driver gives up its buffers.
    ZeroCopy,
    /// AF_XDP, the kernel copies.
    Copy,
    /// Not bound; traffic takes the kernel path.
    Kernel,
}

/// One uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkReport {
    /// EC2's name of the ENI.
    pub eni_id: String,
    /// Interface name.
    pub ifname: String,
    /// Mode in force.
    pub mode: UplinkMode,
    /// Receive queues bound.
    pub queues: u32,
    /// Why it is not bound, and what to do; empty when it is.
    pub problem: String,
}

/// All counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The hook programs, summed over CPUs.
    pub hooks: Vec<HookReport>,
    /// The worker threads.
    pub workers: Vec<WorkerReport>,
    /// Each socket of each worker.
    pub ports: Vec<PortReport>,
}

/// One named drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// Stable label of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// Counters of one kind of hook. Conservation:
/// `seen = to_worker + to_kernel + to_pod + offloaded + sum(drops)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// `pod` (TCX on pod veths), `trunk` (TCX on trunk0), `trunk-rx` (XDP on trunk1),
    /// `uplink` (XDP) or `uplink-tcx` (TCX behind it: what `uplink` left to the kernel).
    pub hook: String,
    /// Packets the program ran for.
    pub seen: u64,
    /// Redirected towards a worker.
    pub to_worker: u64,
    /// Passed to the kernel because they are the kernel's: node addresses, Services, exceptions.
    pub to_kernel: u64,
    /// Passed to the kernel because the worker's heartbeat was stale; part of `to_kernel`.
    pub fallback: u64,
    /// Redirected into a pod.
    pub to_pod: u64,
    /// Carried to where they go, as packets of an offloaded flow.
    pub offloaded: u64,
    /// Bytes of their frames as the hook saw them: a super-packet has one header.
    pub offloaded_bytes: u64,
    /// Dropped, by reason; zero rows left out.
    pub drops: Vec<DropCount>,
}

/// Counters of one worker. Conservation once the worker is idle:
/// `rx + originated + handed_in = tx + to_kernel + handed_off + sum(drops)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Index of the worker, and of its queue on the trunk.
    pub worker: u32,
    /// Core it is pinned to; absent when pinning was refused.
    pub core: Option<u32>,
    /// Packets received from all its sockets.
    pub rx: u64,
    /// Packets handed to the kernel for transmission and not refused.
    pub tx: u64,
    /// Packets given to the kernel stack through the trunk.
    pub to_kernel: u64,
    /// Packets the worker itself made: ICMP errors.
    pub originated: u64,
    /// Packets given to other workers.
    pub handed_off: u64,
    /// Packets taken from other workers.
    pub handed_in: u64,
    /// Packets translated (either direction).
    pub snat: u64,
    /// Flows in the table now.
    pub flows: u64,
    /// Flows created since start.
    pub flows_created: u64,
    /// Flows removed by time since start.
    pub flows_expired: u64,
    /// SNAT ports in use now.
    pub snat_ports: u64,
    /// Flows now that hooks carry, or will or did a moment ago.
    pub offloaded: u64,
    /// Wishes about offload that found no room and are made again later, since start.
    pub offload_deferred: u64,
    /// Loop iterations.
    pub polls: u64,
    /// Loop iterations that found work.
    pub busy_polls: u64,
    /// Dropped, by reason; zero rows left out.
    pub drops: Vec<DropCount>,
    /// Where the UMEM's frames are.
    pub frames: Bucket,
}

/// UMEM frames by owner; their sum is the UMEM's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bucket {
    /// In the free list.
    pub free: u64,
    /// In fill rings or being received.
    pub receiving: u64,
    /// In TX rings or awaiting completion.
    pub sending: u64,
    /// Frames in all.
    pub total: u64,
}

/// One AF_XDP socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Owning worker.
    pub worker: u32,
    /// Interface name.
    pub ifname: String,
    /// Queue of the interface.
    pub queue: u32,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// XDP_STATISTICS: dropped by the kernel for other reasons, such as a frame too large.
    pub kernel_rx_dropped: u64,
    /// XDP_STATISTICS: dropped because the RX ring was full.
    pub kernel_rx_ring_full: u64,
    /// XDP_STATISTICS: dropped because the fill ring was empty.
    pub kernel_rx_fill_empty: u64,
    /// XDP_STATISTICS: descriptors of ours the kernel refused.
    pub kernel_tx_invalid: u64,
}

/// One flow, one row; both directions together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// Owning worker.
    pub worker: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's side (source as the pod sees it).
    pub pod: IpAddr,
    /// The pod's port or ICMP identifier.
    pub pod_port: u16,
    /// The other side.
    pub remote: IpAddr,
    /// The other side's port.
    pub remote_port: u16,
    /// Address that replaces the pod's, when translated.
    pub snat: Option<IpAddr>,
    /// Port that replaces the pod's, when translated.
    pub snat_port: u16,
    /// `eni-…` it leaves by, or the other pod's interface.
    pub out: String,
    /// TCP state, or `-`.
    pub state: String,
    /// Packets from the pod.
    pub packets_out: u64,
    /// Packets to the pod.
    pub packets_in: u64,
    /// Milliseconds since the last packet.
    pub idle_ms: u64,
}
