//! What would become of a packet that is not sent.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The first packet of a conversation: a TCP SYN, a UDP datagram, an echo request, or a bare IP
/// packet of another protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// IP protocol number.
    pub protocol: u8,
    /// Who would send it: a pod of this node, or somebody who sends to one.
    pub from: IpAddr,
    /// Its source port, or ICMP identifier.
    pub from_port: u16,
    /// Where it would go; of the same family.
    pub to: IpAddr,
    /// Its destination port.
    pub to_port: u16,
    /// Bytes of IP packet; at least the headers' own.
    pub bytes: u16,
}

/// What the dataplane would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Generation it was judged by.
    pub generation: u64,
    /// What becomes of the packet.
    pub fate: Fate,
    /// `namespace/pod` of the sender, when it is a pod of this node.
    pub from_pod: Option<String>,
    /// `namespace/pod` of the receiver, likewise.
    pub to_pod: Option<String>,
    /// Address that would replace the sender's.
    pub snat: Option<IpAddr>,
    /// The established flow this packet would belong to, where there is one already.
    pub flow: Option<crate::FlowRow>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// A worker sends it on.
    Forwarded {
        /// `eni-…` it leaves by; empty when it goes to a pod of this node.
        eni_id: String,
        /// Interface it leaves by.
        ifname: String,
    },
    /// It is the kernel's.
    Kernel {
        /// The entry of `kernel_cidrs` it belongs to, where that is why.
        cidr: Option<String>,
    },
    /// It is dropped.
    Dropped {
        /// Stable label of the reason.
        reason: String,
        /// The reason in a sentence.
        meaning: String,
    },
}
