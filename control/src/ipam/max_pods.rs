//! How many pods a node can run, by its addresses: the VPC CNI's formula and EKS's caps.

use super::plan::{Kind, Limits};

/// Pods on the host's network that need no address: kube-proxy and the CNI's own.
const HOST_PODS: u32 = 2;
/// Virtual CPUs from which EKS allows [`LARGE_CAP`].
const LARGE_VCPUS: u32 = 30;
/// Most pods EKS recommends on a smaller node.
const SMALL_CAP: u32 = 110;
/// Most pods EKS recommends on a large node.
const LARGE_CAP: u32 = 250;

/// Whether the primary ENI carries pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Primary {
    /// It does.
    Pods,
    /// Custom networking: it does not.
    Host,
}

/// Addresses for pods and the pods on the host's network, uncapped. Of an instance with several network cards only the
/// first counts.
#[must_use]
pub fn by_addresses(limits: Limits, kind: Kind, primary: Primary) -> u32 {
    let enis = match primary {
        Primary::Pods => limits.enis,
        Primary::Host => limits.enis.saturating_sub(1),
    };
    let kind = match limits.prefixes {
        true => kind,
        false => Kind::Address,
    };
    enis * limits.slots() * kind.addresses() + HOST_PODS
}

/// What EKS recommends: never more than the addresses, never more than the cap.
#[must_use]
pub fn recommended(limits: Limits, kind: Kind, primary: Primary, vcpus: u32) -> u32 {
    let cap = match vcpus >= LARGE_VCPUS {
        true => LARGE_CAP,
        false => SMALL_CAP,
    };
    by_addresses(limits, kind, primary).min(cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::known_limits;

    #[test]
    fn the_documented_table() {
        // (type, single addresses, custom networking, prefixes; 0 where the type has none)
        let rows = [
            ("t2.micro", 4, 3, 0),
            ("t3.micro", 4, 3, 34),
            ("t3.small", 11, 8, 146),
            ("t3.medium", 17, 12, 242),
            ("t3.large", 35, 24, 530),
            ("t3.xlarge", 58, 44, 898),
            ("a1.medium", 8, 5, 98),
            ("m4.large", 20, 11, 0),
            ("m4.4xlarge", 234, 205, 0),
            ("m5.large", 29, 20, 434),
            ("m5.xlarge", 58, 44, 898),
            ("m5.4xlarge", 234, 205, 3714),
            ("m5.24xlarge", 737, 688, 11762),
            ("m5.metal", 737, 688, 11762),
            ("c6in.32xlarge", 394, 345, 6274),
            ("c8gn.48xlarge", 590, 541, 9410),
            ("c8in.96xlarge", 758, 695, 12098),
            ("g4dn.xlarge", 29, 20, 434),
            ("g5.48xlarge", 345, 296, 5490),
            ("p5.48xlarge", 100, 51, 1570),
            ("p5en.48xlarge", 198, 149, 3138),
            ("trn1.32xlarge", 247, 198, 3922),
        ];
        for (name, singles, custom, prefixes) in rows {
            let limits = known_limits(name).unwrap();
            let of = |kind, primary| by_addresses(limits, kind, primary);
            assert_eq!(of(Kind::Address, Primary::Pods), singles, "{name}");
            assert_eq!(of(Kind::Address, Primary::Host), custom, "{name}");
            let expected = if prefixes == 0 { singles } else { prefixes };
            assert_eq!(of(Kind::Prefix, Primary::Pods), expected, "{name}");
        }
    }

    #[test]
    fn eks_caps_what_the_addresses_allow() {
        let of = |name, vcpus| {
            let limits = known_limits(name).unwrap();
            recommended(limits, Kind::Prefix, Primary::Pods, vcpus)
        };
        assert_eq!(of("t3.nano", 2), 34);
        assert_eq!(of("m5.large", 2), 110);
        assert_eq!(of("m5.8xlarge", 32), 250);
    }
}
