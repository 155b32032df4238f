//! A lab node whose kernel is laid out as the Amazon VPC CNI lays it out, with real veth pairs.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use ec2_sim::cloud::{AddressChoice, AssignRequest};
use penstock_lab::{Lab, NetNs, Node, VPC_CIDR};
use penstock_netlink::{LinkChange, Netlink, VethEnd, VethSpec};
use penstock_xsk::ethtool::{self, Feature};

use crate::place::Place;
use crate::reference::{self, ReferencePod};

/// Addresses per ENI that pods can have, as on the instance types the design compares.
const PODS_PER_ENI: u32 = 29;
/// Pods with a namespace of their own, which can hold conversations.
const LIVE: usize = 2;
/// Where the plugin points pods' default routes.
const GATEWAY: &str = "169.254.1.1";
const MTU: u32 = 9001;

/// The node's pods. All but [`LIVE`] share one namespace, since only the node is measured.
pub struct ReferenceNode {
    live: Vec<Place>,
    crowd: Vec<Place>,
    _crowd_netns: NetNs,
    _live_netns: Vec<NetNs>,
}

impl ReferenceNode {
    /// Lays node `index` of the lab out for `pods` pods. The live ones are those in the middle:
    /// rules are scanned in the order pods came, so their cost is the mean. Their addresses are
    /// the primary ENI's own; the others' are taken from the upper half of `subnet_base`'s subnet,
    /// where nothing else is.
    ///
    /// # Errors
    /// When there are fewer pods than live ones, or a link, rule or chain is refused.
    pub fn build(lab: &Lab, index: usize, pods: u32, subnet_base: Ipv4Addr) -> Result<Self> {
        ensure!(pods as usize >= LIVE, "a reference node has {LIVE} pods");
        let node = &lab.nodes()[index];
        let own = lab
            .cloud()
            .assign_private_ip_addresses(&AssignRequest {
                eni_id: node.primary_eni().to_owned(),
                choice: AddressChoice::Count(LIVE),
                allow_reassignment: false,
            })
            .map_err(|error| anyhow::anyhow!("addresses for the reference pods: {error:?}"))?
            .addresses;
        let first = (pods as usize - LIVE) / 2;
        let mut rows: Vec<ReferencePod> = (0..pods).map(|n| row(n, subnet_base)).collect();
        for (row, address) in rows[first..].iter_mut().zip(own) {
            (row.address, row.table) = (address, None);
        }
        let name = node.netns().name();
        let crowd_netns = NetNs::create(&format!("{name}-crowd"))?;
        let live_netns = (0..LIVE)
            .map(|n| NetNs::create(&format!("{name}-live{n}")))
            .collect::<Result<Vec<_>, _>>()?;
        let (mut live, mut crowd) = (Vec::new(), Vec::new());
        for (at, row) in rows.iter().enumerate() {
            let own = at.checked_sub(first).and_then(|n| live_netns.get(n));
            let place = attach(node, row, at, own.unwrap_or(&crowd_netns))?;
            if own.is_some() {
                live.push(place);
            } else {
                crowd.push(place);
            }
        }
        node.netns().run(|| -> Result<()> {
            reference::feed("ip", &["-batch", "-"], &reference::rules(&rows))?;
            let chains = reference::iptables("eth0", node.primary_address(), &VPC_CIDR.to_string());
            reference::feed("iptables-restore", &[], &chains)
        })??;
        node.netns().sysctl("ipv4/ip_forward", "1")?;
        node.netns().sysctl("ipv4/conf/eth0/rp_filter", "2")?;
        for place in &live {
            configure(node, place)?;
        }
        Ok(Self {
            live,
            crowd,
            _crowd_netns: crowd_netns,
            _live_netns: live_netns,
        })
    }

    /// Pods that can hold conversations.
    #[must_use]
    pub fn live(&self) -> &[Place] {
        &self.live
    }

    /// The other pods: a generator can send from them, and nobody listens there.
    #[must_use]
    pub fn crowd(&self) -> &[Place] {
        &self.crowd
    }
}

fn row(n: u32, subnet_base: Ipv4Addr) -> ReferencePod {
    let device = n / PODS_PER_ENI;
    ReferencePod {
        address: Ipv4Addr::from(u32::from(subnet_base) + 2048 + n),
        host_ifname: format!("eni{n:011x}"),
        table: (device > 0).then_some(device + 1),
    }
}

/// The pair, both ends up, NAPI on both: live frames and redirects are lost in silence without it.
fn attach(node: &Node, pod: &ReferencePod, index: usize, netns: &NetNs) -> Result<Place> {
    let ifname = format!("pod{index}");
    let inside = File::open(netns.path())?;
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    node.netns().run(|| -> Result<()> {
        let mut netlink = Netlink::open()?;
        let end = |name, netns| VethEnd {
            name,
            mac: None,
            mtu: MTU,
            queues: 1,
            netns,
        };
        netlink.create_veth(&VethSpec {
            name: &pod.host_ifname,
            mac: None,
            mtu: MTU,
            queues: 1,
            peer: end(&ifname, Some(inside.as_fd())),
        })?;
        let link = netlink.link_by_name(&pod.host_ifname)?;
        netlink.set_link(link.index, &up)?;
        Ok(())
    })??;
    netns.run(|| -> Result<()> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link_by_name(&ifname)?;
        netlink.set_link(link.index, &up)?;
        Ok(())
    })??;
    Ok(Place {
        netns: NetNs::open(netns.name())?,
        ifname,
        address: pod.address,
        host_ifname: Some(pod.host_ifname.clone()),
    })
}

/// Address, route and static neighbours, as the plugin sets a pod up.
fn configure(node: &Node, place: &Place) -> Result<()> {
    let host_ifname = place.host_ifname.as_deref().context("no host interface")?;
    let mac = |netns: &NetNs, ifname: &str| -> Result<String> {
        let mac = netns.run(|| Netlink::open()?.link_by_name(ifname))??.mac;
        let bytes = mac.with_context(|| format!("{ifname} has no address"))?;
        Ok(bytes.map(|byte| format!("{byte:02x}")).join(":"))
    };
    let host_mac = mac(node.netns(), host_ifname)?;
    let own = place.address.to_string();
    let ifname = place.ifname.as_str();
    place
        .netns
        .ip(&["address", "add", &format!("{own}/32"), "dev", ifname])?;
    place
        .netns
        .ip(&["route", "add", GATEWAY, "dev", ifname, "scope", "link"])?;
    place
        .netns
        .ip(&["route", "add", "default", "via", GATEWAY, "dev", ifname])?;
    #[rustfmt::skip]
    let neighbor = ["neigh", "add", GATEWAY, "lladdr", &host_mac, "dev", ifname, "nud", "permanent"];
    place.netns.ip(&neighbor)?;
    let pod_mac = mac(&place.netns, ifname)?;
    #[rustfmt::skip]
    let neighbor = ["neigh", "add", &own, "lladdr", &pod_mac, "dev", host_ifname, "nud", "permanent"];
    node.netns().ip(&neighbor)?;
    node.netns()
        .run(|| ethtool::set_feature(host_ifname, Feature::Gro, true))??;
    Ok(())
}
