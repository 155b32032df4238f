//! Where a packet goes next, and whether it may.

use penstock_packet::rewrite::{Macs, Translation, apply4, apply6};
use penstock_packet::{DropReason, Ip, icmp};

use crate::{Ingress, OutIf, Rejection, Verdict};

/// A neighbour by an interface: one pod, or the router of one ENI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// MACs a frame to it leaves with.
    pub(crate) macs: Macs,
    /// Interface it leaves by.
    pub(crate) out: OutIf,
    /// Bytes of IP packet that fit there.
    pub(crate) mtu: u16,
}

const _: () = assert!(size_of::<NextHop>() == 16);

impl NextHop {
    /// Whether a packet may take this hop: TTL to spare (P17, P65) and small enough (P29, P77).
    #[inline]
    pub(crate) fn fits(
        &self,
        ttl: u8,
        (ip_length, dont_fragment): (usize, bool),
        ingress: Ingress,
    ) -> Result<(), Verdict> {
        if ttl > 1 && ip_length <= usize::from(self.mtu) {
            return Ok(());
        }
        Err(self.refuse(ttl, dont_fragment, ingress))
    }

    /// Why a packet may not.
    #[cold]
    fn refuse(&self, ttl: u8, dont_fragment: bool, ingress: Ingress) -> Verdict {
        let reject = |reason, error| {
            Verdict::Reject(Rejection {
                reason,
                error,
                ingress,
            })
        };
        if ttl <= 1 {
            reject(DropReason::Ttl, icmp::Error::TimeExceeded)
        } else if dont_fragment {
            let mtu = self.mtu;
            reject(DropReason::Mtu, icmp::Error::TooBig { mtu })
        } else {
            Verdict::ToKernel
        }
    }

    /// Whether `ip` may take this hop.
    pub(crate) fn takes(&self, ip: &Ip, ingress: Ingress) -> Result<(), Verdict> {
        self.fits(ip.ttl, (ip.ip_length(), ip.dont_fragment), ingress)
    }

    /// Changes a packet for this hop.
    pub(crate) fn send(&self, head: &mut [u8], ip: &Ip, translation: &Translation) {
        if ip.source.is_ipv4() {
            apply4(head, &self.macs, translation, ip.l4_offset);
        } else {
            apply6(head, &self.macs);
        }
    }
}
