//! One pod's path through the kernel: rules, route, neighbour.

use std::net::{IpAddr, Ipv4Addr};

use futures::future::{join_all, try_join_all};
use nix::errno::Errno;
use penstock_dataplane_api::MacAddr;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};

use super::rule::PodRule;
use super::{MAIN_TABLE, Node, NodeError, sysctl, unless};

/// What the kernel must know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPath {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Kernel's index of the host side.
    pub ifindex: u32,
    /// Kernel's name of the host side.
    pub ifname: String,
    /// Address of the pod's side, where it is known.
    pub pod_mac: Option<MacAddr>,
    /// Table of the ENI that owns the address.
    pub table: u32,
}

impl Node {
    /// Everything that can be there before the pod's link is up: rules, settings, neighbour.
    ///
    /// # Errors
    /// The first step the kernel refuses.
    pub async fn prepare_pod(&self, pod: &PodPath) -> Result<(), NodeError> {
        sysctl::write(&format!("net/ipv4/conf/{}/rp_filter", pod.ifname), "2")?;
        sysctl::write_if_there(&format!("net/ipv6/conf/{}/accept_ra", pod.ifname), "0")?;
        let rules = PodRule::of_pod(pod.address, pod.table);
        try_join_all(rules.into_iter().map(|rule| self.add_rule(rule))).await?;
        match pod.pod_mac {
            Some(mac) => self.pin_neighbor(pod.ifindex, pod.address, mac).await,
            None => Ok(()),
        }
    }

    /// The pod goes live: host side up, then the route, which the kernel accepts only by a link that is up.
    ///
    /// # Errors
    /// The first step the kernel refuses.
    pub async fn raise_pod(&self, pod: &PodPath) -> Result<(), NodeError> {
        self.link_up(pod.ifindex).await?;
        self.replace_route(pod_route(pod), "pod's route", &pod.ifname)
            .await
    }

    /// Takes away all of a pod's path but its link; goes on after a refusal and reports the first.
    ///
    /// # Errors
    /// The first step the kernel refused.
    pub async fn remove_pod(&self, pod: &PodPath) -> Result<(), NodeError> {
        let route = self.netlink.route().del(pod_route(pod)).execute().await;
        let route = unless(Errno::ESRCH, unless(Errno::ENODEV, route)).map_err(|cause| {
            NodeError::netlink(format!("delete the route of {}", pod.address), cause)
        });
        let rules = PodRule::of_pod(pod.address, pod.table);
        let rules = join_all(rules.into_iter().map(|rule| self.delete_rule(rule))).await;
        rules.into_iter().fold(route, Result::and)
    }

    /// What of a pod's path is missing or wrong; empty when all is well.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn check_pod(&self, pod: &PodPath) -> Result<Vec<String>, NodeError> {
        let mut problems = Vec::new();
        match self.link_by_index(pod.ifindex).await? {
            None => problems.push(format!("interface {} is missing", pod.ifname)),
            Some(link) if link.name != pod.ifname => {
                problems.push(format!("interface {} is called {}", pod.ifname, link.name));
            }
            Some(link) if !link.up => problems.push(format!("interface {} is down", pod.ifname)),
            Some(_) => {}
        }
        if self.pod_route_oif(pod.address).await? != Some(pod.ifindex) {
            problems.push(format!(
                "route {}/32 dev {} is missing",
                pod.address, pod.ifname
            ));
        }
        let present = self.pod_rules().await?;
        for rule in PodRule::of_pod(pod.address, pod.table) {
            if !present.contains(&rule) {
                problems.push(format!(
                    "ip rule {} for {} is missing",
                    rule.priority, pod.address
                ));
            }
        }
        Ok(problems)
    }

    /// Pods' routes in main: address and interface index of every /32 with link scope.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn pod_routes(&self) -> Result<Vec<(Ipv4Addr, u32)>, NodeError> {
        let messages = self.list_routes().await?;
        Ok(messages.iter().filter_map(host_route).collect())
    }

    /// Every IPv4 route, of all tables.
    pub(super) async fn list_routes(&self) -> Result<Vec<RouteMessage>, NodeError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        self.list("list routes", |netlink| netlink.route().get(all).execute())
            .await
    }

    async fn pod_route_oif(&self, address: Ipv4Addr) -> Result<Option<u32>, NodeError> {
        let routes = self.pod_routes().await?;
        Ok(routes
            .into_iter()
            .find(|(to, _)| *to == address)
            .map(|(_, oif)| oif))
    }
}

fn pod_route(pod: &PodPath) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod.address, 32)
        .output_interface(pod.ifindex)
        .scope(RouteScope::Link)
        .build()
}

pub(super) fn host_route(message: &RouteMessage) -> Option<(Ipv4Addr, u32)> {
    let header = &message.header;
    if u32::from(header.table) != MAIN_TABLE
        || header.destination_prefix_length != 32
        || header.scope != RouteScope::Link
    {
        return None;
    }
    let mut address = None;
    let mut oif = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => address = Some(*to),
            RouteAttribute::Oif(index) => oif = Some(*index),
            _ => {}
        }
    }
    Some((address?, oif?))
}

impl Node {
    /// A permanent neighbour entry: the kernel never asks a pod for its hardware address.
    async fn pin_neighbor(
        &self,
        ifindex: u32,
        address: Ipv4Addr,
        mac: MacAddr,
    ) -> Result<(), NodeError> {
        let add = self.netlink.neighbours().add(ifindex, IpAddr::V4(address));
        let done = add.link_layer_address(&mac.0).replace().execute().await;
        done.map_err(|cause| NodeError::netlink(format!("pin neighbour {address}"), cause))
    }
}
