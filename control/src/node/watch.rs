//! What of our interfaces others have changed, and putting it back.

use std::collections::HashMap;

use penstock_dataplane_api::MacAddr;
use rtnetlink::LinkUnspec;

use super::{Link, Node, NodeError};

/// How one of our interfaces must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkWish {
    /// Kernel's index.
    pub index: u32,
    /// Kernel's name, for people.
    pub name: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// Bytes of IP packet.
    pub mtu: u32,
}

/// One difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// Switched off.
    Down,
    /// Another hardware address.
    Mac(MacAddr),
    /// Another MTU.
    Mtu(u32),
}

impl Node {
    /// Which of the interfaces differ from how they must be. Those that are gone are not named: whoever owns them
    /// notices by himself.
    ///
    /// # Errors
    /// When the kernel refuses the listing.
    pub async fn changed_links(
        &self,
        wishes: Vec<LinkWish>,
    ) -> Result<Vec<(LinkWish, Vec<LinkChange>)>, NodeError> {
        let links = self.links().await?;
        let present: HashMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
        let mut changed = Vec::new();
        for wish in wishes {
            let differences = present
                .get(&wish.index)
                .map(|link| differences(&wish, link));
            if let Some(differences) = differences.filter(|found| !found.is_empty()) {
                changed.push((wish, differences));
            }
        }
        Ok(changed)
    }

    /// Gives an interface back its hardware address and MTU, and switches it on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn restore_link(&self, wish: &LinkWish) -> Result<(), NodeError> {
        let change = LinkUnspec::new_with_index(wish.index)
            .address(wish.mac.0.to_vec())
            .mtu(wish.mtu)
            .up()
            .build();
        let done = self.netlink.link().set(change).execute().await;
        done.map_err(|cause| NodeError::netlink(format!("restore {}", wish.name), cause))
    }
}

fn differences(wish: &LinkWish, link: &Link) -> Vec<LinkChange> {
    let mut found = Vec::new();
    if !link.up {
        found.push(LinkChange::Down);
    }
    if let Some(mac) = link.mac.filter(|mac| *mac != wish.mac) {
        found.push(LinkChange::Mac(mac));
    }
    if link.mtu != wish.mtu {
        found.push(LinkChange::Mtu(link.mtu));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_named() {
        let wish = LinkWish {
            index: 7,
            name: "eni1".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: 9001,
        };
        let link = |mac, mtu, up| Link {
            index: 7,
            name: "eni1".into(),
            mac,
            mtu,
            up,
            veth: true,
        };
        assert_eq!(differences(&wish, &link(Some(wish.mac), 9001, true)), []);
        let other = MacAddr([2, 0, 0, 0, 0, 2]);
        assert_eq!(
            differences(&wish, &link(Some(other), 1500, false)),
            [
                LinkChange::Down,
                LinkChange::Mac(other),
                LinkChange::Mtu(1500)
            ]
        );
    }
}
