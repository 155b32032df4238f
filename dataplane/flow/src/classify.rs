//! What a packet is to this node: for the kernel, for a pod, from a pod. Rules only, no state.
//!
//! Asked once per flow, and for what belongs to no flow. The order of the tests is the order in
//! which a packet's faults are named.

use std::net::Ipv4Addr;

use penstock_packet::{DropReason, Ip, L4};

use crate::config::{Access, Endpoint, Uplink};
use crate::{Ingress, Snapshot, UplinkId};

/// Instance metadata service.
const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

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

/// Addresses that no packet may carry (P31 to P33).
#[inline]
pub(crate) fn addresses(packet: &Ip) -> Result<(), DropReason> {
    let (from, to) = packet.addresses4().ok_or(DropReason::Ip6Disabled)?;
    let ([source, ..], [destination, ..]) = (from.octets(), to.octets());
    if matches!(source, 0 | 127 | 224..) {
        Err(DropReason::MartianSrc)
    } else if matches!(destination, 0 | 127) {
        Err(DropReason::MartianDst)
    } else if from == to {
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
    let (source, destination) = packet.addresses4().ok_or(DropReason::Ip6Disabled)?;
    match ingress {
        Ingress::Trunk => from_pod(snapshot, source, destination, source_mac),
        Ingress::Uplink(id) => from_uplink(snapshot, packet, id),
    }
}

/// Classifies a packet of a pod by its addresses.
pub(crate) fn from_pod(
    snapshot: &Snapshot,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    source_mac: [u8; 6],
) -> Result<Class<'_>, DropReason> {
    let from = snapshot.endpoint(source).ok_or(DropReason::SpoofIp)?;
    if source_mac != from.pod_mac {
        return Err(DropReason::SpoofMac);
    }
    if destination.is_broadcast() {
        return Err(DropReason::Bcast);
    }
    if destination.is_multicast() {
        return Err(DropReason::Mcast);
    }
    if destination == IMDS && snapshot.imds == Access::Deny {
        return Err(DropReason::Imds);
    }
    if destination.is_link_local() || snapshot.is_kernels(destination) {
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
    let (source, destination) = packet.addresses4().ok_or(DropReason::Ip6Disabled)?;
    if snapshot.endpoint(source).is_some() {
        return Err(DropReason::SpoofSelf);
    }
    if let Some(to) = snapshot.endpoint(destination) {
        let uplink = snapshot.uplink(id).ok_or(DropReason::NoUplink)?;
        return Ok(Class::Arriving { to, uplink });
    }
    if to_snat_range(snapshot, destination, packet.l4) {
        return Ok(Class::ToSnatRange);
    }
    let group = destination.is_multicast() || destination.is_broadcast();
    if group || snapshot.is_kernels(destination) {
        return Ok(Class::Kernel);
    }
    Err(DropReason::NoLocal)
}

/// Whether only a session of ours could make sense of this packet. Echoes are not among them:
/// the node answers those itself.
fn to_snat_range(snapshot: &Snapshot, destination: Ipv4Addr, l4: L4) -> bool {
    let Some(range) = snapshot.snat_ports(destination) else {
        return false;
    };
    match l4 {
        L4::Tcp {
            destination: port, ..
        }
        | L4::Udp {
            destination: port, ..
        } => (range.first..=range.last).contains(&port),
        _ => false,
    }
}
