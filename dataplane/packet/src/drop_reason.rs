//! Why a packet was not forwarded: one name for each reason, for hooks and workers alike.
//!
//! The numbers index counter arrays and reach the hooks through a generated C header; they may
//! change between builds of one release train because both sides are built together. The labels
//! are what people and metrics see: they are stable. This module knows nothing of packets.

macro_rules! drop_reasons {
    ($($variant:ident = $label:literal, $when:literal;)+) => {
        /// The one name under which a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $when] $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Number of reasons; the length of a counter array.
            pub const COUNT: usize = Self::ALL.len();

            /// Stable snake_case name.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// When the counter of this reason moves, in one sentence.
            #[must_use]
            pub const fn when(self) -> &'static str {
                match self { $(Self::$variant => $when),+ }
            }
        }
    };
}

drop_reasons! {
    L2Short = "l2_short", "The frame ends inside its Ethernet header or VLAN tag (P01).";
    L2SrcBad = "l2_src_bad", "The source MAC is zero, multicast or broadcast (P03).";
    SpoofMac = "spoof_mac", "A pod sent with a source MAC that is not its own (P04).";
    L2NotOurs = "l2_not_ours", "An uplink received a unicast frame for another MAC (P05).";
    L2Ethertype = "l2_ethertype", "A pod sent an EtherType that is neither IP nor ARP (P06).";
    L2Vlan = "l2_vlan", "A pod sent a VLAN-tagged frame (P07).";
    SpoofArp = "spoof_arp", "A pod sent ARP with a sender address or MAC not its own (P09).";
    SpoofRa = "spoof_ra", "A pod sent an IPv6 router advertisement (P74).";
    SpoofNd = "spoof_nd", "Neighbor discovery about an address not the sender's, from afar or malformed (P75).";
    ArpBad = "arp_bad", "ARP is short or not Ethernet over IPv4 (P10).";
    IpVersion = "ip_version", "EtherType and IP version disagree, or the version is unknown (P11).";
    Ip4Short = "ip4_short", "The frame ends inside the fixed IPv4 header (P12).";
    Ip4Ihl = "ip4_ihl", "The IPv4 header length is under 20 bytes or past the frame (P13).";
    Ip4Len = "ip4_len", "The IPv4 total length is under the header's or past the frame (P14).";
    Ip4Csum = "ip4_csum", "The IPv4 header checksum is wrong (P16).";
    Ttl = "ttl", "A packet to be forwarded has a TTL of 0 or 1; answered with ICMP 11/0 (P17).";
    Ip4Srcroute = "ip4_srcroute", "A loose or strict source route option is present (P19).";
    Ip4Opt = "ip4_opt", "An IPv4 option has a length of 0 or 1 or runs past the header (P20).";
    Ip6Short = "ip6_short", "The frame ends inside the fixed IPv6 header (P63).";
    Ip6Len = "ip6_len", "The IPv6 payload length is past the frame (P63).";
    Ip6Jumbo = "ip6_jumbo", "A jumbo payload option is present (P64).";
    Ip6Ext = "ip6_ext", "IPv6 extension headers are cut, too many, too long or out of order (P66, P67).";
    Ip6Rh0 = "ip6_rh0", "An IPv6 routing header of type 0 is present (P68).";
    FragTiny = "frag_tiny", "A first fragment does not hold its L4 header (P23).";
    FragOffset1 = "frag_offset1", "A TCP fragment starts at offset 1, inside the TCP header (P24).";
    FragToolong = "frag_toolong", "A fragment ends past byte 65,535 of its datagram (P26).";
    FragNochain = "frag_nochain", "A first IPv6 fragment does not hold the whole header chain (P69).";
    FragLen = "frag_len", "An IPv6 fragment that is not the last has a length no multiple of 8 (P72).";
    FragOverlap = "frag_overlap", "A fragment overlaps one before it; its whole datagram is dropped (P25, P70).";
    FragLimit = "frag_limit", "A fragment found no room among the datagrams being followed (P27).";
    Mtu = "mtu", "DF is set and the packet is larger than the way out; answered with ICMP 3/4 (P29).";
    MartianSrc = "martian_src", "The source is 0/8, 127/8, 224/4 or 240/4, or IPv6's like (P31, P73).";
    MartianDst = "martian_dst", "The destination is 0/8 or 127/8 (P32).";
    Land = "land", "Source and destination are the same address (P33).";
    SpoofIp = "spoof_ip", "A pod sent with a source address that is not its own (P34).";
    SpoofSelf = "spoof_self", "An uplink received a packet from an address of this node's pods (P35).";
    NoLocal = "no_local", "An uplink received a packet for an address not on this node (P36).";
    Bcast = "bcast", "A pod sent to the limited broadcast address (P37).";
    Mcast = "mcast", "A pod sent to a multicast group (P38).";
    Imds = "imds", "A pod that may not sent to the instance metadata service (P39).";
    NatProto = "nat_proto", "A protocol without ports needs translation (P42).";
    TcpBad = "tcp_bad", "A TCP header that needs translation is cut or lies about its length (P43).";
    TcpFlags = "tcp_flags", "Impossible TCP flags on the translated path (P44).";
    NatNonsyn = "nat_nonsyn", "TCP without SYN and without a session needs translation (P45).";
    UdpLen = "udp_len", "A UDP header that needs translation is cut or lies about its length (P49).";
    UdpCsum6 = "udp_csum6", "UDP over IPv6 without a checksum needs translation (P78).";
    NatPort0 = "nat_port0", "A packet with L4 port 0 needs translation (P52).";
    IcmpBad = "icmp_bad", "An ICMP header that needs translation is cut.";
    IcmpCsum = "icmp_csum", "An ICMP error has a wrong checksum (P56).";
    IcmpInner = "icmp_inner", "An ICMP error quotes too little, or a packet of another direction (P59, P60).";
    IcmpRedirect = "icmp_redirect", "An ICMP redirect arrived (P61).";
    NatNosession = "nat_nosession", "A packet to the SNAT range, or an ICMP error, matches no session (P58, N11).";
    NatNoPort = "nat_no_port", "No SNAT port is free towards this remote endpoint; answered with ICMP 3/13.";
    PodQuota = "pod_quota", "A pod has as many flows as it may (N13).";
    FlowTableFull = "flow_table_full", "A new flow found no room in its worker's table.";
    NoUplink = "no_uplink", "The uplink the packet must leave by is not in the snapshot or not bound.";
    Ip6Disabled = "ip6_disabled", "A pod sent IPv6, which the dataplane does not carry yet.";
    RxToobig = "rx_toobig", "A packet is longer than a worker can hold or the trunk can carry (P30, P54).";
    TxFull = "tx_full", "The TX ring towards the way out stayed full.";
    TxBusy = "tx_busy", "The kernel kept refusing to send from the TX ring.";
    HandoffFull = "handoff_full", "The ring to the worker that owns the flow was full.";
    UmemEmpty = "umem_empty", "No free frame was left to hold the packet.";
    Stale = "stale", "The packet waited in a ring for longer than it is worth.";
    Reinject = "reinject", "The packet could not be put on the trunk for the kernel to take.";
    HookNoEndpoint = "hook_no_endpoint", "A hook on the trunk found no pod for a packet marked as a pod's.";
    HookRedirect = "hook_redirect", "A hook could not redirect the packet where it belongs.";
    HookRewrite = "hook_rewrite", "A hook had begun to rewrite the packet of an offloaded flow and could not end it.";
}

impl DropReason {
    /// The reason with this number, if there is one.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// Number of this reason: its place in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_labels_are_unique_and_invertible() {
        let mut labels = HashSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(DropReason::from_index(index), Some(*reason));
            assert!(labels.insert(reason.label()), "{reason} twice");
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(reason.label().chars().all(word), "{reason}");
            assert!(reason.when().ends_with('.'), "{reason}");
        }
        assert_eq!(DropReason::from_index(DropReason::COUNT), None);
    }
}
