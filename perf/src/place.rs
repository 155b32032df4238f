//! One end of a measurement: a namespace, an interface in it and its address.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use penstock_lab::{NetNs, Node, Pod};
use penstock_netlink::Netlink;
use penstock_xsk::ethtool::{self, Feature};

use crate::generator::Stream;

/// Where a generator, a socket or a counter is put.
#[derive(Debug)]
pub struct Place {
    /// The namespace.
    pub netns: NetNs,
    /// Its interface.
    pub ifname: String,
    /// The interface's address.
    pub address: Ipv4Addr,
    /// The node's end of the interface's pair, for pods.
    pub host_ifname: Option<String>,
}

impl Place {
    /// A pod that the plugin attached.
    ///
    /// # Errors
    /// When its namespace is gone.
    pub fn of_pod(pod: &Pod) -> Result<Self> {
        Ok(Self {
            netns: NetNs::open(pod.netns().name())?,
            ifname: penstock_lab::IFNAME.to_owned(),
            address: pod.address(),
            host_ifname: pod.host_ifname().map(str::to_owned),
        })
    }

    /// A stream from here into the node: destinations and lengths are the caller's. Makes the
    /// node's end run NAPI, which live frames need.
    ///
    /// # Errors
    /// When an interface is not there.
    pub fn stream(&self, node: &Node) -> Result<Stream> {
        let host_ifname = self.host_ifname.as_deref().context("not a pod")?;
        let destination_mac = node.netns().run(|| -> Result<[u8; 6]> {
            ethtool::set_feature(host_ifname, Feature::Gro, true)?;
            mac_of(host_ifname)
        })??;
        self.stream_to(destination_mac)
    }

    /// A stream from here to a next hop.
    ///
    /// # Errors
    /// When the interface is not there.
    pub fn stream_to(&self, destination_mac: [u8; 6]) -> Result<Stream> {
        let (ifindex, source_mac) = self.netns.run(|| -> Result<(u32, [u8; 6])> {
            let index = Netlink::open()?.link_by_name(&self.ifname)?.index;
            Ok((index, mac_of(&self.ifname)?))
        })??;
        Ok(Stream {
            ifindex,
            source_mac,
            destination_mac,
            source: self.address,
            ..Stream::default()
        })
    }
}

fn mac_of(ifname: &str) -> Result<[u8; 6]> {
    Netlink::open()?
        .link_by_name(ifname)?
        .mac
        .with_context(|| format!("{ifname} has no address"))
}
