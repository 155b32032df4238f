//! What a packet is to this node: for the kernel, for a pod, from a pod. Rules only, no state.
//!
//! Asked once per flow, and for what belongs to no flow. The order of the tests is the order in
//! which a packet's faults are named. Hooks have judged most of this before; the engine does not
//! rely on it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use penstock_packet::{DropReason, Ip, L4, NeighborKind};

use crate::config::{Access, Endpoint, Uplink};
use crate::{Ingress, Snapshot, UplinkId};

/// Instance metadata service.
const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same on IPv6.
const IMDS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// What a packet is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Class<'a> {
    /// The node's own, or nothing the engine carries.
    Kernel,
    /// From a pod to a pod of this node.
    Between {
        from: &'a Endpoint,
        to: &'a Endpoint,
    },
    /// From a pod to the world by `uplink`.
    Leaving {
        from: &'a Endpoint,
        uplink: &'a Uplink,
        translated: bool,
    },
    /// From the world to a pod.
    Arriving {
        to: &'a Endpoint,
        uplink: &'a Uplink,
    },
    /// From the world to the SNAT range.
    ToSnatRange,
}

impl Class<'_> {
    /// Whether the node's address takes the place of the pod's.
    pub(crate) const fn is_translated(&self) -> bool {
        matches!(
            self,
            Self::Leaving {
                translated: true,
                ..
            }
        )
    }
}

/// Addresses no packet may come from (P31, P73). Duplicate address detection, which does come
/// from the unspecified address, never reaches a worker.
pub(crate) fn is_martian_source(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [0 | 127 | 224.., ..]),
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.to_ipv4_mapped().is_some()
        }
    }
}

/// Addresses no packet may go to (P32).
fn is_martian_destination(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [0 | 127, ..]),
        IpAddr::V6(address) => {
            address.is_unspecified() || address.is_loopback() || address.to_ipv4_mapped().is_some()
        }
    }
}

/// Addresses that no packet may carry (P31 to P33, P73).
pub(crate) fn addresses(packet: &Ip) -> Result<(), DropReason> {
    if is_martian_source(packet.source) {
        Err(DropReason::MartianSrc)
    } else if is_martian_destination(packet.destination) {
        Err(DropReason::MartianDst)
    } else if packet.source == packet.destination {
        Err(DropReason::Land)
    } else {
        Ok(())
    }
}

/// Classifies a packet that arrived with `source_mac` on `ingress`.
pub(crate) fn classify<'a>(
    snapshot: &'a Snapshot,
    packet: &Ip,
    source_mac: [u8; 6],
    ingress: Ingress,
) -> Result<Class<'a>, DropReason> {
    match ingress {
        Ingress::Trunk => {
            guard_neighbors(packet)?;
            from_pod(snapshot, packet.source, packet.destination, source_mac)
        }
        Ingress::Uplink(id) => from_uplink(snapshot, packet, id),
    }
}

/// Neighbour discovery that no pod may send (P74, P75). Whether a target is the pod's own is the
/// hook's to judge: what it lets pass goes to the kernel and never comes here.
fn guard_neighbors(packet: &Ip) -> Result<(), DropReason> {
    match packet.l4 {
        L4::Neighbor(NeighborKind::RouterAdvertisement | NeighborKind::Redirect) => {
            Err(DropReason::SpoofRa)
        }
        L4::Neighbor(_) if packet.ttl != 255 => Err(DropReason::SpoofNd),
        _ => Ok(()),
    }
}

/// Whether `address` is every host's.
fn is_broadcast(address: IpAddr) -> bool {
    address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether `address` is only of a link.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Classifies a packet of a pod by its addresses.
pub(crate) fn from_pod(
    snapshot: &Snapshot,
    source: IpAddr,
    destination: IpAddr,
    source_mac: [u8; 6],
) -> Result<Class<'_>, DropReason> {
    let from = snapshot.endpoint(source).ok_or(DropReason::SpoofIp)?;
    if source_mac != from.pod_mac {
        return Err(DropReason::SpoofMac);
    }
    if is_broadcast(destination) {
        return Err(DropReason::Bcast);
    }
    if destination.is_multicast() {
        return Err(DropReason::Mcast);
    }
    let imds = destination == IpAddr::V4(IMDS) || destination == IpAddr::V6(IMDS6);
    if imds && snapshot.imds == Access::Deny {
        return Err(DropReason::Imds);
    }
    if imds || is_link_local(destination) || snapshot.is_kernels(destination) {
        return Ok(Class::Kernel);
    }
    if let Some(to) = snapshot.endpoint(destination) {
        return Ok(Class::Between { from, to });
    }
    let translated = snapshot.translates(destination);
    let uplink = match translated {
        true => snapshot.primary_uplink(),
        false => snapshot.uplink(from.uplink),
    };
    let uplink = uplink.ok_or(DropReason::NoUplink)?;
    Ok(Class::Leaving {
        from,
        uplink,
        translated,
    })
}

fn from_uplink<'a>(
    snapshot: &'a Snapshot,
    packet: &Ip,
    id: UplinkId,
) -> Result<Class<'a>, DropReason> {
    let destination = packet.destination;
    if snapshot.endpoint(packet.source).is_some() {
        return Err(DropReason::SpoofSelf);
    }
    if let Some(to) = snapshot.endpoint(destination) {
        let uplink = snapshot.uplink(id).ok_or(DropReason::NoUplink)?;
        return Ok(Class::Arriving { to, uplink });
    }
    if to_snat_range(snapshot, packet) {
        // Nothing is translated towards these: the kernel may have, for a Service.
        return Ok(match snapshot.translates(packet.source) {
            true => Class::ToSnatRange,
            false => Class::Kernel,
        });
    }
    let group = destination.is_multicast() || is_broadcast(destination);
    if group || is_link_local(destination) || snapshot.is_kernels(destination) {
        return Ok(Class::Kernel);
    }
    Err(DropReason::NoLocal)
}

/// Whether only a session of ours could make sense of this packet. Echoes are not among them:
/// the node answers those itself.
fn to_snat_range(snapshot: &Snapshot, packet: &Ip) -> bool {
    let Some(range) = snapshot.snat_ports(packet.destination) else {
        return false;
    };
    match packet.l4 {
        L4::Tcp { destination, .. } | L4::Udp { destination, .. } => {
            (range.first..=range.last).contains(&destination)
        }
        _ => false,
    }
}
