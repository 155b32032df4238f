//! What goes into the maps, and how it lies there.
//!
//! The byte layouts mirror the structures in `bpf/maps.h` and `bpf/flow.h`, field by field; a length that does not
//! match is refused by libbpf. Addresses and MACs are in network order, everything else in the
//! machine's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::flows::{Ends, Exit, FlowEntry, FlowKey, FlowUsage, Translation, Via, Zone};

/// What all hooks decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookConfig {
    /// Kernel's index of `trunk0`.
    pub trunk_ifindex: u32,
    /// Number of workers and so of the trunk's queues; 0 leaves everything to the kernel.
    pub workers: u32,
    /// Address and ports whose answers are the workers'; absent when the node does not translate.
    pub snat: Option<SnatRange>,
    /// The node's own IPv6 address; without one, IPv6 that is for no pod is the kernel's.
    pub node6: Option<Ipv6Addr>,
    /// Whether pods may reach 169.254.169.254 and fd00:ec2::254.
    pub imds: ImdsAccess,
    /// Whether hooks carry flows by themselves.
    pub offload: Offload,
    /// Epoch that offloaded flows must be of.
    pub epoch: u32,
    /// Age at which a worker's heartbeat is stale.
    pub stale_after: Duration,
}

/// Inclusive range of L4 ports and ICMP identifiers on one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnatRange {
    /// Address that replaces the pods'.
    pub address: Ipv4Addr,
    /// Lowest.
    pub first: u16,
    /// Highest.
    pub last: u16,
}

/// What becomes of packets to the instance metadata service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImdsAccess {
    /// They are the kernel's.
    Allow,
    /// They are dropped by name.
    Deny,
}

/// Which flows the hooks carry by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// None: what their entries say is not looked at.
    Off,
    /// Those that workers have installed.
    Established,
}

/// One pod's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodEntry {
    /// Kernel's index of the veth's host side.
    pub ifindex: u32,
    /// The pod's IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// The pod's IPv6 address; without one, no IPv6 of the pod is carried.
    pub address6: Option<Ipv6Addr>,
    /// MAC of the pod's side.
    pub pod_mac: [u8; 6],
    /// MAC of the host side.
    pub host_mac: [u8; 6],
}

impl PodEntry {
    /// The pod's addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let address = self.address.map(IpAddr::V4);
        address.into_iter().chain(self.address6.map(IpAddr::V6))
    }
}

/// `struct config`.
pub(crate) fn config(config: &HookConfig) -> [u8; 56] {
    let none = SnatRange {
        address: Ipv4Addr::UNSPECIFIED,
        first: 1,
        last: 0,
    };
    let snat = config.snat.unwrap_or(none);
    let stale_ns = u64::try_from(config.stale_after.as_nanos()).unwrap_or(u64::MAX >> 1);
    let imds = match config.imds {
        ImdsAccess::Allow => 1_u32,
        ImdsAccess::Deny => 0,
    };
    let mut bytes = [0; 56];
    bytes[0..8].copy_from_slice(&stale_ns.to_ne_bytes());
    bytes[8..12].copy_from_slice(&config.trunk_ifindex.to_ne_bytes());
    bytes[12..16].copy_from_slice(&config.workers.to_ne_bytes());
    bytes[16..20].copy_from_slice(&snat.address.octets());
    bytes[20..22].copy_from_slice(&snat.first.to_ne_bytes());
    bytes[22..24].copy_from_slice(&snat.last.to_ne_bytes());
    bytes[24..28].copy_from_slice(&imds.to_ne_bytes());
    bytes[32..48].copy_from_slice(&octets6(config.node6));
    let offload = match config.offload {
        Offload::Off => 0_u32,
        Offload::Established => 1,
    };
    bytes[48..52].copy_from_slice(&offload.to_ne_bytes());
    bytes[52..56].copy_from_slice(&config.epoch.to_ne_bytes());
    bytes
}

/// `struct endpoint`.
pub(crate) fn endpoint(pod: &PodEntry) -> [u8; 32] {
    let mut bytes = [0; 32];
    let address = pod.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    bytes[0..4].copy_from_slice(&address.octets());
    bytes[4..10].copy_from_slice(&pod.pod_mac);
    bytes[10..16].copy_from_slice(&pod.host_mac);
    bytes[16..32].copy_from_slice(&octets6(pod.address6));
    bytes
}

/// `struct uplink`.
pub(crate) fn uplink(slot: u32, mac: [u8; 6]) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0..4].copy_from_slice(&slot.to_ne_bytes());
    bytes[4..10].copy_from_slice(&mac);
    bytes
}

/// `struct cidr`: a key of the kernel's longest-prefix-match trie.
pub(crate) fn cidr(net: &Ipv4Net) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0..4].copy_from_slice(&u32::from(net.prefix_len()).to_ne_bytes());
    bytes[4..8].copy_from_slice(&net.network().octets());
    bytes
}

/// `struct cidr6`: the same for IPv6.
pub(crate) fn cidr6(net: &Ipv6Net) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0..4].copy_from_slice(&u32::from(net.prefix_len()).to_ne_bytes());
    bytes[4..20].copy_from_slice(&net.network().octets());
    bytes
}

/// `struct address6`; zeros are none.
fn octets6(address: Option<Ipv6Addr>) -> [u8; 16] {
    address.unwrap_or(Ipv6Addr::UNSPECIFIED).octets()
}

/// Size of `struct flow`.
pub(crate) const FLOW_BYTES: usize = 64;
/// Sizes of `struct flow_key4` and `struct flow_key6`.
const KEY4_BYTES: usize = 16;
const KEY6_BYTES: usize = 40;

/// The bytes of a flow's key, of either family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlowKeyBytes {
    bytes: [u8; KEY6_BYTES],
    length: usize,
}

impl FlowKeyBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// `struct flow_key4` or `struct flow_key6`.
pub(crate) fn flow_key(key: &FlowKey) -> FlowKeyBytes {
    let mut bytes = [0; KEY6_BYTES];
    let ports = match key.ends {
        Ends::V4 {
            source,
            destination,
        } => {
            bytes[0..4].copy_from_slice(&source.octets());
            bytes[4..8].copy_from_slice(&destination.octets());
            8
        }
        Ends::V6 {
            source,
            destination,
        } => {
            bytes[0..16].copy_from_slice(&source.octets());
            bytes[16..32].copy_from_slice(&destination.octets());
            32
        }
    };
    bytes[ports..ports + 2].copy_from_slice(&key.source_port.to_be_bytes());
    bytes[ports + 2..ports + 4].copy_from_slice(&key.destination_port.to_be_bytes());
    bytes[ports + 4] = key.protocol;
    bytes[ports + 5] = match key.zone {
        Zone::Pods => 0,
        Zone::Uplinks => 1,
    };
    FlowKeyBytes {
        bytes,
        length: ports + 8,
    }
}

/// The key that lies in `bytes`; `None` for what is none.
pub(crate) fn parse_flow_key(bytes: &[u8]) -> Option<FlowKey> {
    let (ends, rest) = match bytes.len() {
        KEY4_BYTES => {
            let (addresses, rest) = bytes.split_first_chunk::<8>()?;
            let [a, b, c, d, e, f, g, h] = *addresses;
            let ends = Ends::V4 {
                source: [a, b, c, d].into(),
                destination: [e, f, g, h].into(),
            };
            (ends, rest)
        }
        KEY6_BYTES => {
            let (source, rest) = bytes.split_first_chunk::<16>()?;
            let (destination, rest) = rest.split_first_chunk::<16>()?;
            let ends = Ends::V6 {
                source: (*source).into(),
                destination: (*destination).into(),
            };
            (ends, rest)
        }
        _ => return None,
    };
    let [s0, s1, d0, d1, protocol, zone, ..] = *rest else {
        return None;
    };
    Some(FlowKey {
        ends,
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        protocol,
        zone: match zone {
            0 => Zone::Pods,
            1 => Zone::Uplinks,
            _ => return None,
        },
    })
}

/// `struct flow`, its counters at zero.
pub(crate) fn flow(entry: &FlowEntry) -> [u8; FLOW_BYTES] {
    let (rewrite, to) = match entry.translation {
        Translation::None => (0, None),
        Translation::Source(to) => (1, Some(to)),
        Translation::Destination(to) => (2, Some(to)),
    };
    let (out, ifindex) = match entry.exit {
        Exit::Uplink(ifindex) => (0, ifindex),
        Exit::Pod(ifindex) => (1, ifindex),
    };
    let mut bytes = [0; FLOW_BYTES];
    bytes[24..28].copy_from_slice(&entry.epoch.to_ne_bytes());
    bytes[28..32].copy_from_slice(&ifindex.to_ne_bytes());
    if let Some(to) = to {
        bytes[32..36].copy_from_slice(&to.ip().octets());
        bytes[36..38].copy_from_slice(&to.port().to_be_bytes());
    }
    bytes[38..40].copy_from_slice(&entry.mtu.to_ne_bytes());
    bytes[40..46].copy_from_slice(&entry.destination_mac);
    bytes[46..52].copy_from_slice(&entry.source_mac);
    bytes[52] = rewrite;
    bytes[53] = out;
    bytes[54] = match entry.via {
        Via::Xdp => 1,
        Via::Tcx => 0,
    };
    bytes[56..64].copy_from_slice(&entry.owner.to_ne_bytes());
    bytes
}

/// What lies in a `struct flow`, counters aside; `None` for what is none.
pub(crate) fn parse_flow(bytes: &[u8]) -> Option<FlowEntry> {
    let bytes: &[u8; FLOW_BYTES] = bytes.try_into().ok()?;
    let word = |at: usize| {
        let word = bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*word))
    };
    let mac = |at: usize| bytes.get(at..)?.first_chunk::<6>().copied();
    let address = Ipv4Addr::from([bytes[32], bytes[33], bytes[34], bytes[35]]);
    let to = SocketAddrV4::new(address, u16::from_be_bytes([bytes[36], bytes[37]]));
    Some(FlowEntry {
        translation: match bytes[52] {
            0 => Translation::None,
            1 => Translation::Source(to),
            2 => Translation::Destination(to),
            _ => return None,
        },
        destination_mac: mac(40)?,
        source_mac: mac(46)?,
        exit: match bytes[53] {
            0 => Exit::Uplink(word(28)?),
            1 => Exit::Pod(word(28)?),
            _ => return None,
        },
        mtu: u16::from_ne_bytes([bytes[38], bytes[39]]),
        epoch: word(24)?,
        via: match bytes[54] {
            0 => Via::Tcx,
            _ => Via::Xdp,
        },
        owner: u64::from_ne_bytes(*bytes.last_chunk()?),
    })
}

/// The counters in a `struct flow`; bytes that are missing count as zero.
pub(crate) fn flow_usage(bytes: &[u8]) -> FlowUsage {
    let (words, _) = bytes.as_chunks::<8>();
    let word = |at: usize| words.get(at).map_or(0, |word| u64::from_ne_bytes(*word));
    FlowUsage {
        last_seen_ns: word(0),
        packets: word(1),
        bytes: word(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_flows_read_back() {
        let ends4 = Ends::V4 {
            source: [10, 1, 0, 10].into(),
            destination: [198, 51, 100, 7].into(),
        };
        let ends6 = Ends::V6 {
            source: [1; 16].into(),
            destination: [2; 16].into(),
        };
        for (ends, length) in [(ends4, KEY4_BYTES), (ends6, KEY6_BYTES)] {
            for zone in [Zone::Pods, Zone::Uplinks] {
                let key = FlowKey {
                    ends,
                    source_port: 40_000,
                    destination_port: 443,
                    protocol: 6,
                    zone,
                };
                let bytes = flow_key(&key);
                assert_eq!(bytes.as_slice().len(), length);
                assert_eq!(parse_flow_key(bytes.as_slice()), Some(key));
            }
        }
        assert_eq!(parse_flow_key(&[0; 17]), None);
    }

    #[test]
    fn flows_read_back() {
        let to = SocketAddrV4::new([10, 0, 0, 10].into(), 11_000);
        for (translation, exit, via) in [
            (Translation::None, Exit::Pod(7), Via::Tcx),
            (Translation::Source(to), Exit::Uplink(8), Via::Xdp),
            (Translation::Destination(to), Exit::Pod(9), Via::Xdp),
        ] {
            let entry = FlowEntry {
                translation,
                destination_mac: [1, 2, 3, 4, 5, 6],
                source_mac: [7, 8, 9, 10, 11, 12],
                exit,
                mtu: 9_001,
                epoch: 0x0102_0304,
                via,
                owner: u64::MAX - 5,
            };
            let bytes = flow(&entry);
            assert_eq!(parse_flow(&bytes), Some(entry));
            assert_eq!(flow_usage(&bytes), FlowUsage::default());
            assert_eq!(parse_flow(&bytes[1..]), None);
        }
    }
}
