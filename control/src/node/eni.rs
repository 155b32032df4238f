//! ENIs: MTU, address, the table their pods' traffic is routed by.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use penstock_dataplane_api::MacAddr;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Link, Node, NodeError, priority, sysctl, unless};

/// What an ENI needs in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EniSetup {
    /// The primary ENI is configured by the host; only its MTU and reverse-path filter are ours.
    pub primary: bool,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Range of its subnet.
    pub subnet: Ipv4Net,
    /// The subnet's router.
    pub gateway: Ipv4Addr,
    /// Table its pods are routed by.
    pub table: u32,
    /// Bytes of IP packet.
    pub mtu: u32,
}

impl Node {
    /// The link with this hardware address; veth pairs of pods are not looked at.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn link_by_mac(
        &self,
        mac: MacAddr,
        pod_prefix: &str,
    ) -> Result<Option<Link>, NodeError> {
        let links = self.links().await?;
        let is_pods = |link: &Link| link.veth && link.name.starts_with(pod_prefix);
        Ok(links
            .into_iter()
            .find(|link| link.mac == Some(mac) && !is_pods(link)))
    }

    /// Makes the kernel use an ENI as a VPC node should.
    ///
    /// # Errors
    /// The first step the kernel refuses.
    pub async fn set_up_eni(&self, link: &Link, setup: &EniSetup) -> Result<(), NodeError> {
        self.link_up_with_mtu(link.index, setup.mtu).await?;
        // Replies may arrive on another ENI than the one the route points to.
        sysctl::write(&format!("net/ipv4/conf/{}/rp_filter", link.name), "2")?;
        if setup.primary {
            return Ok(());
        }
        self.replace_addresses(link, setup).await?;
        let dev = |message: RouteMessageBuilder<Ipv4Addr>| {
            message.output_interface(link.index).table_id(setup.table)
        };
        let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(setup.gateway, 32)
            .scope(RouteScope::Link);
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(setup.gateway);
        self.replace_route(dev(gateway).build(), "gateway", &link.name)
            .await?;
        self.replace_route(dev(default).build(), "default route", &link.name)
            .await?;
        self.add_rule_from(setup.address, setup.table, priority::FROM_ENI)
            .await?;
        self.drop_connected_route(link, setup).await
    }

    /// Gives the main table back its default route, by the primary ENI: the kernel drops it when the ENI goes down.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_main_default(&self, link: &Link, setup: &EniSetup) -> Result<(), NodeError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(setup.gateway)
            .output_interface(link.index)
            .build();
        self.replace_route(route, "default route", &link.name).await
    }

    /// Leaves exactly the ENI's own address on the link.
    async fn replace_addresses(&self, link: &Link, setup: &EniSetup) -> Result<(), NodeError> {
        for message in self.addresses_of(link).await? {
            if local_address(&message) == Some(setup.address) {
                continue;
            }
            let done = self.netlink.address().del(message).execute().await;
            unless(Errno::EADDRNOTAVAIL, done).map_err(|cause| {
                NodeError::netlink(
                    format!("remove a foreign address from {}", link.name),
                    cause,
                )
            })?;
        }
        let address = IpAddr::V4(setup.address);
        let add = self
            .netlink
            .address()
            .add(link.index, address, setup.subnet.prefix_len());
        unless(Errno::EEXIST, add.execute().await)
            .map_err(|cause| NodeError::netlink(format!("add {address} to {}", link.name), cause))
    }

    /// The node's IPv4 addresses outside 127.0.0.0/8, in order.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn local_addresses(&self) -> Result<Vec<Ipv4Addr>, NodeError> {
        let ask = |netlink: &Handle| netlink.address().get().execute();
        let all = self.list("list addresses", ask).await?;
        let mut addresses: Vec<Ipv4Addr> = all.iter().filter_map(local_address).collect();
        addresses.retain(|address| !address.is_loopback());
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    async fn addresses_of(&self, link: &Link) -> Result<Vec<AddressMessage>, NodeError> {
        let ask = |netlink: &Handle| {
            let get = netlink.address().get();
            get.set_link_index_filter(link.index).execute()
        };
        let what = format!("list addresses of {}", link.name);
        let mut all = self.list(what, ask).await?;
        all.retain(|message| message.header.family == AddressFamily::Inet);
        Ok(all)
    }

    /// The kernel adds a route to the subnet with the address; in main it would send the primary ENI's traffic here.
    async fn drop_connected_route(&self, link: &Link, setup: &EniSetup) -> Result<(), NodeError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(setup.subnet.network(), setup.subnet.prefix_len())
            .output_interface(link.index)
            .scope(RouteScope::Link)
            .protocol(RouteProtocol::Kernel)
            .build();
        unless(
            Errno::ESRCH,
            self.netlink.route().del(route).execute().await,
        )
        .map_err(|cause| {
            NodeError::netlink(format!("delete the subnet route of {}", link.name), cause)
        })
    }

    pub(super) async fn replace_route(
        &self,
        route: RouteMessage,
        what: &str,
        ifname: &str,
    ) -> Result<(), NodeError> {
        let done = self.netlink.route().add(route).replace().execute().await;
        done.map_err(|cause| NodeError::netlink(format!("set the {what} by {ifname}"), cause))
    }
}

fn local_address(message: &AddressMessage) -> Option<Ipv4Addr> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })
}
