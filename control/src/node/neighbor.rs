//! Hardware addresses of neighbours, as the kernel knows them.

use std::net::{IpAddr, Ipv4Addr};

use penstock_dataplane_api::MacAddr;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{Node, NodeError};

impl Node {
    /// Makes the kernel resolve (or confirm) a neighbour, as `ip neigh replace ... use` does; does not wait for it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn probe_neighbor(&self, ifindex: u32, address: Ipv4Addr) -> Result<(), NodeError> {
        let probe = self
            .netlink
            .neighbours()
            .add(ifindex, IpAddr::V4(address))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        let done = probe.execute().await;
        done.map_err(|cause| NodeError::netlink(format!("resolve neighbour {address}"), cause))
    }

    /// All resolved IPv4 neighbours: (interface index, address, hardware address).
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn neighbors(&self) -> Result<Vec<(u32, Ipv4Addr, MacAddr)>, NodeError> {
        let ask = |netlink: &Handle| {
            let get = netlink.neighbours().get();
            get.set_address_family(AddressFamily::Inet).execute()
        };
        let all = self.list("list neighbours", ask).await?;
        Ok(all.iter().filter_map(parse).collect())
    }
}

fn parse(message: &NeighbourMessage) -> Option<(u32, Ipv4Addr, MacAddr)> {
    use NeighbourState::{Failed, Incomplete, None as Unset};
    if matches!(message.header.state, Failed | Incomplete | Unset) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(of)) => address = Some(*of),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, mac?))
}
