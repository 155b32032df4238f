//! IPv4 addresses of links.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::{Result, What};
use crate::socket::Netlink;

/// One address of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub index: u32,
    /// The address with its prefix length; host bits kept.
    pub net: Ipv4Net,
}

impl Netlink {
    /// Gives a link an address.
    ///
    /// # Errors
    /// [`crate::Error::is_exists`] when it has it; [`crate::Error::is_not_found`] when there is no
    /// such link; otherwise what the kernel reports.
    pub fn add_address(&mut self, index: u32, net: Ipv4Net) -> Result<()> {
        self.add_scoped(index, net, AddressScope::Universe)
    }

    /// Gives a link an address that is valid on this link only (scope link): the kernel never picks
    /// it as the source of what leaves by another one.
    ///
    /// # Errors
    /// As [`Netlink::add_address`].
    pub fn add_link_address(&mut self, index: u32, net: Ipv4Net) -> Result<()> {
        self.add_scoped(index, net, AddressScope::Link)
    }

    fn add_scoped(&mut self, index: u32, net: Ipv4Net, scope: AddressScope) -> Result<()> {
        let object = format!("{net} of link {index}");
        let what = What {
            op: "add address",
            object: &object,
        };
        let mut message = message(index, net);
        message.header.scope = scope;
        let message = RouteNetlinkMessage::NewAddress(message);
        self.change(what, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// [`crate::Error::is_not_found`] when the link does not have it; otherwise what the kernel
    /// reports.
    pub fn delete_address(&mut self, index: u32, net: Ipv4Net) -> Result<()> {
        let object = format!("{net} of link {index}");
        let what = What {
            op: "delete address",
            object: &object,
        };
        self.change(
            what,
            RouteNetlinkMessage::DelAddress(message(index, net)),
            0,
        )
    }

    /// The IPv4 addresses of a link.
    ///
    /// # Errors
    /// What the kernel reports. A link that does not exist has no addresses.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let what = What {
            op: "list",
            object: "addresses",
        };
        let mut query = AddressMessage::default();
        query.header.family = AddressFamily::Inet;
        let found = self.dump(what, &RouteNetlinkMessage::GetAddress(query))?;
        Ok(found
            .into_iter()
            .filter_map(address_from)
            .filter(|address| address.index == index)
            .collect())
    }
}

fn message(index: u32, net: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    let address = IpAddr::V4(net.addr());
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

fn address_from(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    // IFA_LOCAL is the link's own address; IFA_ADDRESS is the peer's on point-to-point links.
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
    Some(Address {
        index: message.header.index,
        net: Ipv4Net::new(local, message.header.prefix_len).ok()?,
    })
}
