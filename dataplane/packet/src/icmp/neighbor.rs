//! Neighbor discovery: what a message claims about addresses and MACs.
//!
//! Who may say what is the flow engine's to judge. References: RFC 4861, RFC 6980.

use std::net::Ipv6Addr;

use crate::DropReason;
use crate::ip::{Fragment, Ip, L4};
use crate::wire::{self, u8_at};

const OPTION_SOURCE_MAC: u8 = 1;
const OPTION_TARGET_MAC: u8 = 2;

/// Messages of neighbor discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighborKind {
    /// Type 133: a host asks for routers.
    RouterSolicitation,
    /// Type 134: a router speaks; from a pod always a lie (P74).
    RouterAdvertisement,
    /// Type 135: who has this address?
    Solicitation,
    /// Type 136: this address is mine.
    Advertisement,
    /// Type 137: another router is nearer.
    Redirect,
}

/// What a message of neighbor discovery claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbor {
    /// What it is.
    pub kind: NeighborKind,
    /// The address it is about; the router messages are about none.
    pub target: Option<Ipv6Addr>,
    /// The MAC it gives for its sender ([`NeighborKind::RouterSolicitation`],
    /// [`NeighborKind::RouterAdvertisement`], [`NeighborKind::Solicitation`]) or its target.
    pub mac: Option<[u8; 6]>,
}

/// Reads a message of neighbor discovery: `packet` is what [`crate::parse()`] said of `head`, and
/// its L4 is [`L4::Neighbor`].
///
/// Who may say what is for the caller to judge; here it is only read.
///
/// # Errors
/// [`DropReason::SpoofNd`] when the message has crossed a router (hop limit not 255) or is one
/// that no host may believe: fragmented, with a code, cut, or with an impossible option.
pub fn neighbor(head: &[u8], packet: &Ip) -> Result<Neighbor, DropReason> {
    let message = head.get(packet.l4_offset..packet.frame_length);
    match (packet.l4, message) {
        (L4::Neighbor(kind), Some(message))
            if packet.ttl == 255 && packet.fragment == Fragment::None =>
        {
            claims(kind, message)
        }
        _ => None,
    }
    .ok_or(DropReason::SpoofNd)
}

/// Reads target and MAC; `None` when the message is malformed.
fn claims(kind: NeighborKind, message: &[u8]) -> Option<Neighbor> {
    let (targeted, options, wanted) = match kind {
        NeighborKind::RouterSolicitation => (false, 8, OPTION_SOURCE_MAC),
        NeighborKind::RouterAdvertisement => (false, 16, OPTION_SOURCE_MAC),
        NeighborKind::Solicitation => (true, 24, OPTION_SOURCE_MAC),
        NeighborKind::Advertisement => (true, 24, OPTION_TARGET_MAC),
        NeighborKind::Redirect => (true, 40, OPTION_TARGET_MAC),
    };
    if u8_at(message, 1)? != 0 {
        return None;
    }
    let target = match targeted {
        true => Some(Ipv6Addr::from_octets(wire::array(message, 8)?)),
        false => None,
    };
    Some(Neighbor {
        kind,
        target,
        mac: mac_option(message.get(options..)?, wanted)?,
    })
}

/// The MAC of the first option of kind `wanted`; `None` for an option of length 0 or cut.
fn mac_option(mut options: &[u8], wanted: u8) -> Option<Option<[u8; 6]>> {
    let mut found = None;
    while let [kind, words, ..] = options {
        let (option, rest) = options.split_at_checked(usize::from(*words) * 8)?;
        if option.is_empty() {
            return None;
        }
        if *kind == wanted && found.is_none() {
            found = Some(wire::array(option, 2)?);
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}
