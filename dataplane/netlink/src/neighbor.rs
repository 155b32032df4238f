//! IPv4 neighbours: who answers for an address on a link.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::MacAddr;
use crate::error::{Result, What};
use crate::socket::Netlink;

/// One entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// Index of the link.
    pub index: u32,
    /// Address on the link.
    pub address: Ipv4Addr,
    /// Its Ethernet address; absent while it is being resolved or when that failed.
    pub mac: Option<MacAddr>,
    /// Whether it never ages and is never probed (NUD_PERMANENT).
    pub permanent: bool,
}

impl Netlink {
    /// Fixes the Ethernet address of `address` on a link, replacing what was known.
    ///
    /// # Errors
    /// [`crate::Error::is_not_found`] when there is no such link; `ENETDOWN` when it is down;
    /// otherwise what the kernel reports.
    pub fn add_permanent_neighbor(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        mac: MacAddr,
    ) -> Result<()> {
        let mut message = entry(index, address);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let object = format!("{address} on link {index}");
        let what = What {
            op: "set neighbour",
            object: &object,
        };
        self.change(
            what,
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Deletes the entry of `address` on a link.
    ///
    /// # Errors
    /// [`crate::Error::is_not_found`] when there is none; otherwise what the kernel reports.
    pub fn delete_neighbor(&mut self, index: u32, address: Ipv4Addr) -> Result<()> {
        let object = format!("{address} on link {index}");
        let what = What {
            op: "delete neighbour",
            object: &object,
        };
        let message = RouteNetlinkMessage::DelNeighbour(entry(index, address));
        self.change(what, message, 0)
    }

    /// The IPv4 neighbours of a link.
    ///
    /// # Errors
    /// What the kernel reports. A link that does not exist has no neighbours.
    pub fn neighbors(&mut self, index: u32) -> Result<Vec<Neighbor>> {
        let what = What {
            op: "list",
            object: "neighbours",
        };
        let mut query = NeighbourMessage::default();
        query.header.family = AddressFamily::Inet;
        let found = self.dump(what, &RouteNetlinkMessage::GetNeighbour(query))?;
        Ok(found
            .into_iter()
            .filter_map(neighbor_from)
            .filter(|neighbor| neighbor.index == index)
            .collect())
    }
}

fn entry(index: u32, address: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message
        .attributes
        .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
            address,
        )));
    message
}

fn neighbor_from(message: RouteNetlinkMessage) -> Option<Neighbor> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    let mut address = None;
    let mut mac = None;
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(found),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbor {
        index: message.header.ifindex,
        address: address?,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}
