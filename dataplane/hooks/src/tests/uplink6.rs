//! Hooks `uplink` and `trunk`, IPv6.

use std::net::Ipv6Addr;
use std::os::fd::AsFd;

use penstock_packet::DropReason::{self, *};

use super::ip6::{
    DESTINATION, FRAGMENT, ICMP6, ROUTING, TCP, UDP, chain, extension, fragment, from_wire,
    group_of, icmp6, nd, udp, with_hops, with_source,
};
use super::trunk::xdp_socket;
use super::{NODE6, OTHER_POD6, OUTSIDE6, Outcome, POD6, Rig, SERVICE6, config};
use crate::{HookConfig, HookKind, PodEntry};

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

struct Wire(
    Rig,
    #[expect(dead_code, reason = "the kernel clears the map when it closes")] socket2::Socket,
);

impl Wire {
    fn new() -> Self {
        let rig = Rig::new(1);
        let socket = xdp_socket();
        rig.hooks.set_socket(1, 0, socket.as_fd()).unwrap();
        Self(rig, socket)
    }

    #[track_caller]
    fn expect(&self, frame: &[u8], outcome: Outcome) {
        self.0.expect(HookKind::Uplink, frame, outcome);
    }

    #[track_caller]
    fn dropped(&self, frame: &[u8], reason: DropReason) {
        self.expect(frame, Outcome::Drop(reason));
    }
}

fn pieces(address: Ipv6Addr) -> [Vec<u8>; 3] {
    let piece = |word| from_wire(address, FRAGMENT, &chain(&[fragment(UDP, word), udp(1, 2)]));
    [piece(1), piece(17), piece(16)]
}

#[test]
#[ignore = "needs root and network namespaces"]
fn pods_traffic_is_the_workers() {
    let wire = Wire::new();
    let frames = [
        from_wire(POD6, UDP, &udp(53, 40_000)),
        from_wire(POD6, TCP, &[0; 20]),
        from_wire(POD6, ICMP6, &icmp6(129, &[0; 4])),
        from_wire(
            OTHER_POD6,
            DESTINATION,
            &chain(&[extension(UDP, 1), udp(1, 2)]),
        ),
        // P36 and what the worker names (P63, P66, P68, P05).
        from_wire(OUTSIDE6, UDP, &udp(1, 2)),
        from_wire(POD6, DESTINATION, &[0; 3]),
        from_wire(
            NODE6,
            ROUTING,
            &chain(&[vec![UDP, 0, 0, 1, 0, 0, 0, 0], udp(1, 2)]),
        ),
        from_wire(POD6, UDP, &udp(1, 2))[..14 + 39].to_vec(),
    ];
    for frame in frames.iter().chain(&pieces(POD6)) {
        wire.expect(frame, Outcome::Worker);
    }
    let mut foreign = from_wire(POD6, UDP, &udp(1, 2));
    foreign[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    wire.expect(&foreign, Outcome::Worker);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_nodes_and_all_discovery_are_the_kernels() {
    let wire = Wire::new();
    for address in [NODE6, SERVICE6] {
        wire.expect(&from_wire(address, UDP, &udp(1, 2)), Outcome::Kernel);
        for piece in &pieces(address) {
            wire.expect(piece, Outcome::Kernel);
        }
    }
    let link_local = with_source(from_wire(ROUTER, UDP, &udp(1, 2)), ROUTER);
    wire.expect(&link_local, Outcome::Kernel);
    // A router that looks whether a pod's address is still there.
    for kind in [133, 134, 135, 136, 137] {
        let message = with_hops(from_wire(POD6, ICMP6, &nd(kind, POD6, &[])), 255);
        wire.expect(&message, Outcome::Kernel);
        // From afar it is no discovery, and the pod's stack will say so.
        wire.expect(&with_hops(message, 254), Outcome::Worker);
    }
    let mut solicitation = from_wire(group_of(POD6), ICMP6, &nd(135, POD6, &[]));
    solicitation[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 0x10]);
    wire.expect(&with_hops(solicitation, 255), Outcome::Kernel);
    // RFC 4291 2.5.6: what comes from a link-local address stays on its link.
    let near = with_source(from_wire(POD6, UDP, &udp(1, 2)), ROUTER);
    wire.expect(&near, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p69_p72_p73_never_reach_the_kernel() {
    let wire = Wire::new();
    for address in [POD6, NODE6] {
        for martian in ["::", "::1", "ff02::5", "::ffff:10.1.0.10"] {
            let frame = from_wire(address, UDP, &udp(1, 2));
            wire.dropped(&with_source(frame, martian.parse().unwrap()), MartianSrc);
        }
        let piece = |next, word, bytes: usize| {
            from_wire(
                address,
                FRAGMENT,
                &chain(&[fragment(next, word), vec![0; bytes]]),
            )
        };
        wire.dropped(&piece(TCP, 1, 16), FragNochain);
        wire.dropped(&piece(UDP, 1, 12), FragLen);
        wire.dropped(&piece(TCP, 8, 8), FragOffset1);
        wire.dropped(&piece(UDP, 65_528, 8), FragToolong);
    }
    for nowhere in ["::", "::1", "::ffff:10.1.0.4"] {
        let frame = from_wire(nowhere.parse().unwrap(), UDP, &udp(1, 2));
        wire.dropped(&frame, MartianDst);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_node_without_ip6_has_the_kernel_judge_all_but_pods_packets() {
    let wire = Wire::new();
    let without = HookConfig {
        node6: None,
        ..config(1)
    };
    wire.0.hooks.configure(&without).unwrap();
    for address in [NODE6, OUTSIDE6, Ipv6Addr::LOCALHOST] {
        wire.expect(&from_wire(address, UDP, &udp(1, 2)), Outcome::Kernel);
    }
    let cut = &from_wire(NODE6, UDP, &[])[..14 + 39];
    wire.expect(cut, Outcome::Kernel);
    wire.expect(&from_wire(POD6, UDP, &udp(1, 2)), Outcome::Worker);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_trunk_delivers_by_ip6_destination() {
    let mut rig = Rig::new(1);
    let expect = |rig: &Rig, address, outcome| {
        rig.expect(
            HookKind::Trunk,
            &from_wire(address, UDP, &udp(1, 2)),
            outcome,
        );
    };
    expect(&rig, POD6, Outcome::Pod);
    expect(&rig, OTHER_POD6, Outcome::Pod);
    expect(&rig, OUTSIDE6, Outcome::Kernel);
    let moved = PodEntry {
        address6: Some(OUTSIDE6),
        ..super::pod()
    };
    rig.hooks.set_pod(&moved).unwrap();
    expect(&rig, POD6, Outcome::Kernel);
    expect(&rig, OUTSIDE6, Outcome::Pod);
}
