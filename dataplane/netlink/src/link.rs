//! Links: read, create as veth pairs, change, delete.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use crate::MacAddr;
use crate::error::{Error, Result, What};
use crate::socket::Netlink;

/// A link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index, unique within its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Ethernet address; absent on links without one, such as tunnels.
    pub mac: Option<MacAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up (IFF_UP).
    pub up: bool,
    /// Whether it can carry packets now (IFF_LOWER_UP): for a veth, both ends are up.
    pub carrier: bool,
    /// Index of the peer or lower link, in the namespace it lives in (IFLA_LINK).
    pub peer_index: Option<u32>,
    /// Transmit queues.
    pub tx_queues: u32,
    /// Receive queues.
    pub rx_queues: u32,
    /// Driver's kind as `ip -d link` shows it, such as `veth`; empty for hardware and loopback.
    pub kind: String,
}

/// A veth pair to create; the first end lands in the socket's namespace.
#[derive(Debug, Clone, Copy)]
pub struct VethSpec<'a> {
    /// Name of the first end.
    pub name: &'a str,
    /// Its Ethernet address; random when absent.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its number of transmit queues, and of receive queues.
    pub queues: u32,
    /// The other end.
    pub peer: VethEnd<'a>,
}

/// The second end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Name.
    pub name: &'a str,
    /// Ethernet address; random when absent.
    pub mac: Option<MacAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Number of transmit queues, and of receive queues.
    pub queues: u32,
    /// Network namespace it is created in; the socket's own when absent.
    pub netns: Option<BorrowedFd<'a>>,
}

/// What to change on a link; absent fields stay as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Administrative state.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<MacAddr>,
    /// Name; the link must be down on kernels before 6.2.
    pub name: Option<&'a str>,
    /// Network namespace to move to; the index may differ there.
    pub netns: Option<BorrowedFd<'a>>,
}

impl Netlink {
    /// The link called `name`.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is none; otherwise what the kernel reports.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link> {
        let mut message = query();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.one_link(name, message)
    }

    /// The link with this index.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is none; otherwise what the kernel reports.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link> {
        let mut message = query();
        message.header.index = index;
        self.one_link(&format!("index {index}"), message)
    }

    fn one_link(&mut self, object: &str, message: LinkMessage) -> Result<Link> {
        let what = What {
            op: "read link",
            object,
        };
        self.get(what, RouteNetlinkMessage::GetLink(message))?
            .into_iter()
            .find_map(link_from)
            .ok_or_else(|| Error::refused(what, libc::ENODEV, None))
    }

    /// All links of the namespace, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel reports.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let what = What {
            op: "list",
            object: "links",
        };
        let found = self.dump(what, &RouteNetlinkMessage::GetLink(query()))?;
        Ok(found.into_iter().filter_map(link_from).collect())
    }

    /// Creates both ends of a veth pair, down, in one step.
    ///
    /// # Errors
    /// [`Error::is_exists`] when either name is taken in its namespace; otherwise what the kernel
    /// reports (`EPERM`, `EINVAL` for a bad name or MTU).
    pub fn create_veth(&mut self, spec: &VethSpec<'_>) -> Result<()> {
        let what = What {
            op: "create veth",
            object: spec.name,
        };
        let mut peer = LinkMessage::default();
        peer.attributes = end_attributes(&spec.peer);
        let mut message = LinkMessage::default();
        message.attributes = end_attributes(&VethEnd {
            name: spec.name,
            mac: spec.mac,
            mtu: spec.mtu,
            queues: spec.queues,
            netns: None,
        });
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.change(
            what,
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Changes a link; all changes are one request.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link; otherwise what the kernel reports.
    pub fn set_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up {
                LinkFlags::Up
            } else {
                LinkFlags::empty()
            };
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(
            change
                .name
                .map(|name| LinkAttribute::IfName(name.to_owned())),
        );
        attributes.extend(
            change
                .netns
                .map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())),
        );
        let object = format!("index {index}");
        let what = What {
            op: "change link",
            object: &object,
        };
        self.change(what, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes a link; a veth takes its peer with it.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link; otherwise what the kernel reports.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let object = format!("index {index}");
        let what = What {
            op: "delete link",
            object: &object,
        };
        self.change(what, RouteNetlinkMessage::DelLink(message), 0)
    }
}

/// A request for link attributes without the statistics, which nobody here reads.
fn query() -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

fn end_attributes(end: &VethEnd<'_>) -> Vec<LinkAttribute> {
    let mut attributes = vec![
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Mtu(end.mtu),
        LinkAttribute::NumTxQueues(end.queues),
        LinkAttribute::NumRxQueues(end.queues),
    ];
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(
        end.netns
            .map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())),
    );
    attributes
}

fn link_from(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        peer_index: None,
        tx_queues: 0,
        rx_queues: 0,
        kind: String::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => link.peer_index = Some(index),
            LinkAttribute::NumTxQueues(count) => link.tx_queues = count,
            LinkAttribute::NumRxQueues(count) => link.rx_queues = count,
            LinkAttribute::LinkInfo(parts) => link.kind = kind_of(&parts),
            _ => {}
        }
    }
    Some(link)
}

fn kind_of(parts: &[LinkInfo]) -> String {
    parts
        .iter()
        .find_map(|part| match part {
            LinkInfo::Kind(kind) => Some(kind.to_string()),
            _ => None,
        })
        .unwrap_or_default()
}
