//! Where a packet goes next, and whether it may.

use penstock_packet::rewrite::Rewrite;
use penstock_packet::{DropReason, Ip, icmp};

use crate::{Ingress, OutIf, Rejection, Verdict};

/// Where one direction's packets go, and how they must look there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Change to each packet.
    pub(crate) rewrite: Rewrite,
    /// Interface it leaves by.
    pub(crate) out: OutIf,
    /// Bytes of IP packet that fit there.
    pub(crate) mtu: u16,
}

impl Hop {
    /// Whether a packet may take this hop: TTL to spare (P17) and small enough (P29).
    #[inline]
    pub(crate) fn fits(&self, ip: &Ip, ingress: Ingress) -> Result<(), Verdict> {
        let reject = |reason, error| {
            Err(Verdict::Reject(Rejection {
                reason,
                error,
                ingress,
            }))
        };
        if ip.ttl <= 1 {
            reject(DropReason::Ttl, icmp::Error::TimeExceeded)
        } else if ip.ip_length() <= usize::from(self.mtu) {
            Ok(())
        } else if ip.dont_fragment {
            reject(DropReason::Mtu, icmp::Error::TooBig { mtu: self.mtu })
        } else {
            Err(Verdict::ToKernel)
        }
    }
}
