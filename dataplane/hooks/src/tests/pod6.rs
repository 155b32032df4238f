//! Hook `pod`, IPv6: every branch, named by the row of the table of malformed packets.

use std::net::Ipv6Addr;

use penstock_packet::DropReason::{self, *};

use super::ip6::{
    AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ICMP6, NOTHING, ROUTING, TCP, UDP, chain,
    extension, fragment, from_pod, group_of, icmp6, nd, nd_mac, udp, with_hops, with_source,
};
use super::{HOST_MAC, NODE6, OTHER_POD6, OUTSIDE6, Outcome, POD_MAC, POD6, Rig, SERVICE6, config};
use crate::{HookConfig, HookKind, ImdsAccess, PodEntry};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const MDNS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const IMDS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const NS: u8 = 135;
const NA: u8 = 136;

struct Pod(Rig);

impl Pod {
    fn new() -> Self {
        Self(Rig::new(1))
    }

    #[track_caller]
    fn expect(&self, frame: &[u8], outcome: Outcome) {
        self.0.expect(HookKind::Pod, frame, outcome);
    }

    #[track_caller]
    fn dropped(&self, frame: &[u8], reason: DropReason) {
        self.expect(frame, Outcome::Drop(reason));
    }
}

fn to_outside(next: u8, rest: &[u8]) -> Vec<u8> {
    from_pod(OUTSIDE6, next, rest)
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_the_workers_decide_goes_to_the_trunk() {
    let pod = Pod::new();
    let frames = [
        to_outside(UDP, &udp(40_000, 53)),
        from_pod(OTHER_POD6, UDP, &udp(40_000, 53)),
        to_outside(TCP, &[0; 20]),
        to_outside(ICMP6, &icmp6(128, &[0, 7, 0, 1])),
        to_outside(47, b"some GRE"),
        to_outside(NOTHING, b""),
        // P65: the worker answers it. P33: it names it.
        with_hops(to_outside(UDP, &udp(1, 2)), 1),
        from_pod(POD6, UDP, &udp(1, 2)),
        // Behind extension headers, even behind those that cannot be read through.
        to_outside(HOP_BY_HOP, &chain(&[extension(UDP, 1), udp(1, 2)])),
        to_outside(DESTINATION, &chain(&[extension(UDP, 32), udp(1, 2)])),
        to_outside(
            AUTHENTICATION,
            &chain(&[vec![UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], udp(1, 2)]),
        ),
    ];
    for frame in &frames {
        pod.expect(frame, Outcome::Worker);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p63_p64_p66_p67_p68_malformed_ip6_is_named_by_the_worker() {
    let pod = Pod::new();
    // Less than a fixed header cannot be given to a test run.
    let mut too_long = to_outside(UDP, &udp(1, 2));
    too_long[19] += 1;
    let mut jumbo = to_outside(
        HOP_BY_HOP,
        &chain(&[vec![UDP, 0, 0xc2, 4, 0, 1, 0, 0], udp(1, 2)]),
    );
    jumbo[18..20].copy_from_slice(&[0, 0]);
    let nine: Vec<Vec<u8>> = (0..9).map(|_| extension(DESTINATION, 1)).collect();
    let bent = [
        too_long,
        jumbo,
        to_outside(DESTINATION, &chain(&nine)),
        to_outside(DESTINATION, &chain(&[extension(UDP, 33), udp(1, 2)])),
        to_outside(DESTINATION, &extension(UDP, 2)[..8]),
        to_outside(DESTINATION, &[UDP, 0, 0]),
        to_outside(
            DESTINATION,
            &chain(&[extension(HOP_BY_HOP, 1), extension(UDP, 1), udp(1, 2)]),
        ),
        to_outside(
            ROUTING,
            &chain(&[vec![UDP, 0, 0, 1, 0, 0, 0, 0], udp(1, 2)]),
        ),
        to_outside(
            FRAGMENT,
            &chain(&[fragment(FRAGMENT, 1), fragment(UDP, 0), udp(1, 2)]),
        ),
    ];
    for frame in &bent {
        pod.expect(frame, Outcome::Worker);
    }
    // Not even the node's address or a group makes them the kernel's.
    for address in [NODE6, GATEWAY, ALL_NODES] {
        let hidden = from_pod(address, DESTINATION, &chain(&nine));
        pod.expect(&hidden, Outcome::Worker);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p73_p34_source_address() {
    let pod = Pod::new();
    let from = |source: &str| with_source(to_outside(UDP, &udp(1, 2)), source.parse().unwrap());
    for martian in ["::", "::1", "ff02::5", "::ffff:10.1.0.10"] {
        pod.dropped(&from(martian), MartianSrc);
    }
    for other in [
        "2001:db8:1::11",
        "2001:db8:1::4",
        "2001:db8:ffff::7",
        "fec0::1",
    ] {
        pod.dropped(&from(other), SpoofIp);
    }
    // The guard comes before the parser, and reads fragments too.
    let spoofed = with_source(to_outside(DESTINATION, &[0; 3]), OTHER_POD6);
    pod.dropped(&spoofed, SpoofIp);
    let piece = to_outside(FRAGMENT, &chain(&[fragment(UDP, 8), udp(1, 2)]));
    pod.dropped(&with_source(piece.clone(), OTHER_POD6), SpoofIp);
    pod.dropped(&with_source(piece, Ipv6Addr::UNSPECIFIED), MartianSrc);
    // Link-local addresses do not travel: whatever comes from one is the kernel's.
    pod.expect(&from("fe80::10"), Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn duplicate_address_detection_is_about_own_addresses() {
    let pod = Pod::new();
    let dad = |target: Ipv6Addr, group: Ipv6Addr, options: &[u8]| {
        let frame = from_pod(group, ICMP6, &nd(NS, target, options));
        with_hops(with_source(frame, Ipv6Addr::UNSPECIFIED), 255)
    };
    // RFC 7527: Linux sends a nonce with it.
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    pod.expect(&dad(POD6, group_of(POD6), &[]), Outcome::Kernel);
    pod.expect(&dad(POD6, group_of(POD6), &nonce), Outcome::Kernel);
    pod.expect(
        &dad(LINK_LOCAL, group_of(LINK_LOCAL), &nonce),
        Outcome::Kernel,
    );
    pod.dropped(&dad(OTHER_POD6, group_of(OTHER_POD6), &[]), SpoofNd);
    pod.dropped(&dad(NODE6, group_of(NODE6), &[]), SpoofNd);
    pod.dropped(&dad(POD6, group_of(OUTSIDE6), &[]), SpoofNd);
    pod.dropped(&dad(POD6, ALL_NODES, &[]), SpoofNd);
    pod.dropped(&with_hops(dad(POD6, group_of(POD6), &[]), 254), SpoofNd);
    let advertisement = from_pod(ALL_NODES, ICMP6, &nd(NA, POD6, &[]));
    let nobody = with_source(with_hops(advertisement, 255), Ipv6Addr::UNSPECIFIED);
    pod.dropped(&nobody, SpoofNd);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p74_a_pod_is_no_router() {
    let pod = Pod::new();
    for kind in [134, 137] {
        for address in [ALL_NODES, GATEWAY, NODE6, OTHER_POD6, OUTSIDE6] {
            for source in [LINK_LOCAL, POD6] {
                let frame = with_source(from_pod(address, ICMP6, &icmp6(kind, &[0; 12])), source);
                pod.dropped(&with_hops(frame.clone(), 255), SpoofRa);
                pod.dropped(&frame, SpoofRa);
            }
        }
        let hidden = chain(&[
            extension(DESTINATION, 1),
            extension(ICMP6, 1),
            icmp6(kind, &[0; 12]),
        ]);
        pod.dropped(&from_pod(ALL_NODES, HOP_BY_HOP, &hidden), SpoofRa);
        let first = chain(&[fragment(ICMP6, 1), icmp6(kind, &[0; 12])]);
        pod.dropped(&from_pod(GATEWAY, FRAGMENT, &first), SpoofRa);
        let atomic = chain(&[fragment(ICMP6, 0), icmp6(kind, &[0; 12])]);
        pod.dropped(&from_pod(GATEWAY, FRAGMENT, &atomic), SpoofRa);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p75_neighbour_discovery_of_the_pods_own() {
    let pod = Pod::new();
    let ask = |target, options: &[u8]| {
        with_hops(
            from_pod(group_of(target), ICMP6, &nd(NS, target, options)),
            255,
        )
    };
    let claim =
        |target, options: &[u8]| with_hops(from_pod(GATEWAY, ICMP6, &nd(NA, target, options)), 255);
    let own = nd_mac(1, POD_MAC);
    for target in [GATEWAY, NODE6, POD6] {
        pod.expect(&ask(target, &own), Outcome::Kernel);
    }
    for target in [POD6, LINK_LOCAL] {
        pod.expect(&claim(target, &nd_mac(2, POD_MAC)), Outcome::Kernel);
        pod.expect(&claim(target, &[]), Outcome::Kernel);
    }
    for target in [OTHER_POD6, OUTSIDE6] {
        pod.dropped(&ask(target, &own), SpoofNd);
    }
    for target in [OTHER_POD6, OUTSIDE6, NODE6] {
        pod.dropped(&claim(target, &nd_mac(2, POD_MAC)), SpoofNd);
    }
    // Another's MAC, also behind an option that says nothing, and options that lie.
    let foreign = nd_mac(2, HOST_MAC);
    let hidden = [vec![14, 2], vec![0; 14], foreign.clone()].concat();
    let lies: [&[u8]; 6] = [
        &foreign,
        &hidden,
        &[2, 0, 0, 0, 0, 0, 0, 0],
        &[2, 2, 0, 0, 0, 0, 0, 0],
        &[2, 1, 2],
        &[14, 1, 0, 0, 0, 0, 0, 0].repeat(5),
    ];
    for options in lies {
        pod.dropped(&claim(POD6, options), SpoofNd);
    }
    pod.dropped(&ask(GATEWAY, &nd_mac(1, HOST_MAC)), SpoofNd);
    // From afar, behind extension headers, in pieces, or cut.
    pod.dropped(&with_hops(ask(GATEWAY, &own), 64), SpoofNd);
    pod.dropped(&with_hops(claim(POD6, &[]), 254), SpoofNd);
    let message = nd(NA, POD6, &[]);
    let behind = chain(&[extension(ICMP6, 1), message.clone()]);
    pod.dropped(
        &with_hops(from_pod(GATEWAY, DESTINATION, &behind), 255),
        SpoofNd,
    );
    let piece = chain(&[fragment(ICMP6, 1), message.clone()]);
    pod.dropped(
        &with_hops(from_pod(GATEWAY, FRAGMENT, &piece), 255),
        SpoofNd,
    );
    pod.dropped(
        &with_hops(from_pod(GATEWAY, ICMP6, &message[..20]), 255),
        SpoofNd,
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn router_solicitation_and_multicast_listening_are_the_kernels() {
    let pod = Pod::new();
    let solicit = |options: &[u8]| {
        let rest = [vec![0; 4], options.to_vec()].concat();
        with_hops(from_pod(ALL_ROUTERS, ICMP6, &icmp6(133, &rest)), 255)
    };
    pod.expect(&solicit(&nd_mac(1, POD_MAC)), Outcome::Kernel);
    pod.expect(
        &with_source(solicit(&[]), Ipv6Addr::UNSPECIFIED),
        Outcome::Kernel,
    );
    pod.dropped(&solicit(&nd_mac(1, HOST_MAC)), SpoofNd);
    pod.dropped(&with_hops(solicit(&[]), 1), SpoofNd);
    for kind in [131, 132, 143] {
        let report = chain(&[vec![ICMP6, 0, 5, 2, 0, 0, 1, 0], icmp6(kind, &[0; 24])]);
        let report = with_hops(from_pod(MLD_ROUTERS, HOP_BY_HOP, &report), 1);
        for source in [LINK_LOCAL, Ipv6Addr::UNSPECIFIED] {
            pod.expect(&with_source(report.clone(), source), Outcome::Kernel);
        }
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p38_p73_destinations_that_do_not_travel() {
    let pod = Pod::new();
    for source in [POD6, LINK_LOCAL] {
        let to = |address| with_source(from_pod(address, UDP, &udp(1, 2)), source);
        for group in [MDNS, ALL_NODES, Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3)] {
            pod.dropped(&to(group), Mcast);
        }
        for nowhere in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
            pod.dropped(&to(nowhere), MartianDst);
        }
        pod.dropped(&to("::ffff:10.1.0.4".parse().unwrap()), MartianDst);
        pod.expect(&to(GATEWAY), Outcome::Kernel);
    }
    // A query is a router's.
    let query = with_source(
        from_pod(ALL_NODES, ICMP6, &icmp6(130, &[0; 20])),
        LINK_LOCAL,
    );
    pod.dropped(&query, Mcast);
    let mut elsewhere = to_outside(UDP, &udp(1, 2));
    elsewhere[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    pod.dropped(&elsewhere, L2NotOurs);
    elsewhere[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    pod.dropped(&elsewhere, Mcast);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p76_imds() {
    let pod = Pod::new();
    let frames = [
        from_pod(IMDS6, TCP, &[0; 20]),
        from_pod(IMDS6, FRAGMENT, &chain(&[fragment(TCP, 16), vec![0; 16]])),
        from_pod(
            IMDS6,
            DESTINATION,
            &chain(&[extension(TCP, 1), vec![0; 20]]),
        ),
        with_source(from_pod(IMDS6, TCP, &[0; 20]), LINK_LOCAL),
        with_hops(from_pod(IMDS6, ICMP6, &nd(NS, POD6, &[])), 255),
    ];
    for frame in &frames {
        pod.dropped(frame, Imds);
    }
    let allow = HookConfig {
        imds: ImdsAccess::Allow,
        ..config(1)
    };
    pod.0.hooks.configure(&allow).unwrap();
    pod.expect(&frames[0], Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p41_kernel_cidrs() {
    let mut pod = Pod::new();
    let to = |address| from_pod(address, UDP, &udp(1, 2));
    for address in [NODE6, SERVICE6] {
        pod.expect(&to(address), Outcome::Kernel);
    }
    let first = chain(&[fragment(UDP, 1), udp(1, 2)]);
    pod.expect(&from_pod(NODE6, FRAGMENT, &first), Outcome::Kernel);
    let cidrs = [
        "2001:db8:ffff::9/48".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ];
    pod.0.hooks.set_kernel_cidrs(&cidrs).unwrap();
    pod.expect(&to(OUTSIDE6), Outcome::Kernel);
    pod.expect(&to(SERVICE6), Outcome::Worker);
    pod.0.hooks.set_kernel_cidrs(&cidrs[1..]).unwrap();
    pod.expect(&to(OUTSIDE6), Outcome::Worker);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p69_p71_p72_fragments() {
    let pod = Pod::new();
    let piece =
        |next, word, rest: Vec<u8>| to_outside(FRAGMENT, &chain(&[fragment(next, word), rest]));
    for (next, bytes) in [(TCP, 24), (UDP, 8), (ICMP6, 8), (47, 0), (NOTHING, 0)] {
        pod.expect(&piece(next, 1, vec![0; bytes]), Outcome::Worker);
    }
    pod.expect(&piece(UDP, 16, vec![0; 3]), Outcome::Worker);
    pod.expect(&piece(UDP, 17, vec![0; 16]), Outcome::Worker);
    // P71: an atomic fragment is a whole packet, however short.
    pod.expect(&piece(UDP, 0, vec![0; 3]), Outcome::Worker);
    // P69: the first fragment lacks the header, or the chain to it.
    for (next, bytes) in [(TCP, 16), (UDP, 0), (ICMP6, 0), (DESTINATION, 0)] {
        pod.dropped(&piece(next, 1, vec![0; bytes]), FragNochain);
    }
    let behind = chain(&[extension(UDP, 1), vec![]]);
    pod.dropped(&piece(DESTINATION, 1, behind), FragNochain);
    // P72.
    pod.dropped(&piece(UDP, 1, vec![0; 12]), FragLen);
    pod.dropped(&piece(UDP, 9, vec![0; 7]), FragLen);
    // P24 and P26 are of both families.
    pod.dropped(&piece(TCP, 8, vec![0; 8]), FragOffset1);
    pod.expect(&piece(UDP, 65_528, vec![0; 7]), Outcome::Worker);
    pod.dropped(&piece(UDP, 65_528, vec![0; 8]), FragToolong);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_pod_may_have_one_family_or_both() {
    let mut pod = Pod::new();
    let six_only = PodEntry {
        address: None,
        ..super::pod()
    };
    pod.0.hooks.set_pod(&six_only).unwrap();
    pod.expect(&to_outside(UDP, &udp(1, 2)), Outcome::Worker);
    let four = super::from_pod(super::OUTSIDE).udp(1, 2, b"");
    pod.dropped(&four.bytes, SpoofIp);
    let nobody = std::net::Ipv4Addr::UNSPECIFIED;
    let probe = super::arp(POD_MAC, POD_MAC, nobody, super::OUTSIDE);
    pod.dropped(&probe, SpoofArp);
    pod.0.hooks.remove_pod(super::LOOPBACK).unwrap();
    pod.dropped(&to_outside(UDP, &udp(1, 2)), HookNoEndpoint);
}
