//! Links: finding, switching on, deleting.

use futures::TryStreamExt;
use nix::errno::Errno;
use penstock_dataplane_api::MacAddr;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};

use super::{Node, NodeError, errno};

/// One interface of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel's index.
    pub index: u32,
    /// Kernel's name.
    pub name: String,
    /// Hardware address, where it has one of six bytes.
    pub mac: Option<MacAddr>,
    /// Bytes of IP packet.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
}

impl Link {
    fn parse(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            veth: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => {
                    link.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                }
                _ => {}
            }
        }
        link
    }
}

impl Node {
    /// All links.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn links(&self) -> Result<Vec<Link>, NodeError> {
        let ask = |netlink: &Handle| netlink.link().get().execute();
        let messages = self.list("list links", ask).await?;
        Ok(messages.iter().map(Link::parse).collect())
    }

    /// The link called `name`.
    ///
    /// # Errors
    /// When the kernel refuses for any reason but the absence of the link.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NodeError> {
        let mut found = self.netlink.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::parse)),
            Err(cause) if errno(&cause) == Some(Errno::ENODEV) => Ok(None),
            Err(cause) => Err(NodeError::netlink(format!("find link {name}"), cause)),
        }
    }

    /// The link with this index.
    ///
    /// # Errors
    /// When the kernel refuses for any reason but the absence of the link.
    pub async fn link_by_index(&self, index: u32) -> Result<Option<Link>, NodeError> {
        let mut found = self.netlink.link().get().match_index(index).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::parse)),
            Err(cause) if errno(&cause) == Some(Errno::ENODEV) => Ok(None),
            Err(cause) => Err(NodeError::netlink(format!("find link {index}"), cause)),
        }
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn link_up(&self, index: u32) -> Result<(), NodeError> {
        let change = LinkUnspec::new_with_index(index).up().build();
        let done = self.netlink.link().set(change).execute().await;
        done.map_err(|cause| NodeError::netlink(format!("switch link {index} on"), cause))
    }

    /// Sets the MTU of a link and switches it on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn link_up_with_mtu(&self, index: u32, mtu: u32) -> Result<(), NodeError> {
        let change = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        let done = self.netlink.link().set(change).execute().await;
        done.map_err(|cause| {
            NodeError::netlink(
                format!("set MTU {mtu} of link {index} and switch it on"),
                cause,
            )
        })
    }

    /// Deletes a link; a veth's peer goes with it. Success when it is gone already. Several at a time cost little more
    /// than one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_link(&self, index: u32) -> Result<(), NodeError> {
        let done = self.deleter.delete(index).await;
        done.map_err(|cause| NodeError::netlink(format!("delete link {index}"), cause))
    }
}
