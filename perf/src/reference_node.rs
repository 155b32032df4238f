//! A lab node whose kernel is laid out as the Amazon VPC CNI lays it out, with real veth pairs.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use penstock_lab::{NetNs, Node, VPC_CIDR};
use penstock_netlink::{LinkChange, Netlink, VethEnd, VethSpec};
use penstock_xsk::ethtool::{self, Feature};

use crate::generator::Stream;
use crate::reference::{self, ReferencePod};

/// Addresses per ENI that pods can have, as on the instance types the design compares.
const PODS_PER_ENI: u32 = 29;

/// The node's pods; all their interfaces live in one namespace, since only the node is measured.
pub struct ReferenceNode {
    pods_netns: NetNs,
    stream: Stream,
    host_ifname: String,
}

impl ReferenceNode {
    /// Lays `node` out for `pods` pods whose addresses begin at `first_address`. The pod in the
    /// middle sends: rules are scanned in the order pods came, so its cost is the mean.
    ///
    /// # Errors
    /// When a link, rule or chain is refused.
    pub fn build(node: &Node, pods: u32, first_address: Ipv4Addr) -> Result<Self> {
        let netns = NetNs::create(&format!("{}-refpods", node.netns().name()))?;
        let rows: Vec<ReferencePod> = (0..pods).map(|n| row(n, first_address)).collect();
        let sender = rows.len() / 2;
        let inside = std::fs::File::open(netns.path())?;
        let (_, destination_mac) = node.netns().run(|| -> Result<(u32, [u8; 6])> {
            let mut netlink = Netlink::open()?;
            for (index, pod) in rows.iter().enumerate() {
                add_pair(&mut netlink, pod, index, &inside)?;
            }
            reference::feed("ip", &["-batch", "-"], &reference::rules(&rows))?;
            let chains = reference::iptables("eth0", node.primary_address(), &VPC_CIDR.to_string());
            reference::feed("iptables-restore", &[], &chains)?;
            let link = netlink.link_by_name(&rows[sender].host_ifname)?;
            Ok((link.index, link.mac.context("veth without an address")?))
        })??;
        node.netns().sysctl("ipv4/ip_forward", "1")?;
        node.netns().sysctl("ipv4/conf/eth0/rp_filter", "2")?;
        let (ifindex, source_mac) = netns.run(|| -> Result<(u32, [u8; 6])> {
            let mut netlink = Netlink::open()?;
            for index in 0..rows.len() {
                let link = netlink.link_by_name(&pod_ifname(index))?;
                netlink.set_link(
                    link.index,
                    &LinkChange {
                        up: Some(true),
                        ..LinkChange::default()
                    },
                )?;
            }
            let link = netlink.link_by_name(&pod_ifname(sender))?;
            Ok((link.index, link.mac.context("veth without an address")?))
        })??;
        let stream = Stream {
            destination_mac,
            source_mac,
            source: rows[sender].address,
            ifindex,
            ..Stream::default()
        };
        Ok(Self {
            pods_netns: netns,
            stream,
            host_ifname: rows[sender].host_ifname.clone(),
        })
    }

    /// Namespace to generate from.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.pods_netns
    }

    /// A stream from the sending pod; destination and ports are the caller's.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Host side of the sending pod's veth pair.
    #[must_use]
    pub fn host_ifname(&self) -> &str {
        &self.host_ifname
    }
}

fn row(n: u32, first_address: Ipv4Addr) -> ReferencePod {
    let device = n / PODS_PER_ENI;
    ReferencePod {
        address: Ipv4Addr::from(u32::from(first_address) + n),
        host_ifname: format!("eni{n:011x}"),
        table: (device > 0).then_some(device + 1),
    }
}

fn pod_ifname(index: usize) -> String {
    format!("pod{index}")
}

fn add_pair(
    netlink: &mut Netlink,
    pod: &ReferencePod,
    index: usize,
    inside: &std::fs::File,
) -> Result<()> {
    let peer_name = pod_ifname(index);
    netlink.create_veth(&VethSpec {
        name: &pod.host_ifname,
        mac: None,
        mtu: 9001,
        queues: 1,
        peer: VethEnd {
            name: &peer_name,
            mac: None,
            mtu: 9001,
            queues: 1,
            netns: Some(inside.as_fd()),
        },
    })?;
    let link = netlink.link_by_name(&pod.host_ifname)?;
    netlink.set_link(
        link.index,
        &LinkChange {
            up: Some(true),
            ..LinkChange::default()
        },
    )?;
    // NAPI on the receiving side: live frames are lost in silence without it.
    ethtool::set_feature(&pod.host_ifname, Feature::Gro, true)?;
    Ok(())
}
