//! Hook `uplink`: every branch, named by the row of the table of malformed packets it belongs to.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use penstock_packet::DropReason::*;
use penstock_packet::TcpFlags;
use penstock_packet::build::{Base, Frame};

use super::trunk::xdp_socket;
use super::{
    ENI_MAC, NODE, OUTSIDE, Outcome, POD, Rig, SERVICE, SNAT, WIRE_MAC, arp, as_fragment, config,
    from_wire, with_options,
};
use crate::{HookConfig, HookKind};

/// A rig whose uplink has a socket on queue 0, and the socket.
fn rig() -> (Rig, socket2::Socket) {
    let rig = Rig::new(1);
    let socket = xdp_socket();
    rig.hooks.set_socket(1, 0, socket.as_fd()).unwrap();
    (rig, socket)
}

#[track_caller]
fn expect(frame: &[u8], outcome: Outcome) {
    let (rig, _socket) = rig();
    rig.expect(HookKind::Uplink, frame, outcome);
}

fn udp(destination: Ipv4Addr) -> Frame {
    from_wire(destination).udp(53, 40_000, b"hello")
}

#[test]
#[ignore = "needs root and network namespaces"]
fn pods_traffic_is_the_workers() {
    let (rig, _socket) = rig();
    let mut padded = from_wire(POD).udp(53, 40_000, b"").bytes;
    padded.resize(60, 0);
    let frames = [
        udp(POD).bytes,
        from_wire(POD).tcp(443, 40_000, TcpFlags::SYN, b"").bytes,
        from_wire(POD).echo(true, 1, b"").bytes,
        from_wire(POD).udp(53, 40_000, &[0; 9_000 - 28]).bytes,
        padded,
    ];
    for frame in &frames {
        rig.expect(HookKind::Uplink, frame, Outcome::Worker);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn snat_range_edges() {
    let (rig, _socket) = rig();
    let cases = [
        (SNAT.first - 1, Outcome::Kernel),
        (SNAT.first, Outcome::Worker),
        (SNAT.last, Outcome::Worker),
        (SNAT.last + 1, Outcome::Kernel),
    ];
    for (port, outcome) in cases {
        let base = from_wire(NODE);
        rig.expect(HookKind::Uplink, &base.udp(53, port, b"").bytes, outcome);
        rig.expect(
            HookKind::Uplink,
            &base.tcp(443, port, TcpFlags::ACK, b"").bytes,
            outcome,
        );
        rig.expect(
            HookKind::Uplink,
            &base.echo(false, port, b"").bytes,
            outcome,
        );
    }
    // A request is somebody pinging the node, whatever its identifier.
    let ping = from_wire(NODE).echo(true, SNAT.first, b"");
    rig.expect(HookKind::Uplink, &ping.bytes, Outcome::Kernel);
    rig.hooks
        .configure(&HookConfig {
            snat: None,
            ..config(1)
        })
        .unwrap();
    let answer = from_wire(NODE).udp(53, SNAT.first, b"");
    rig.expect(HookKind::Uplink, &answer.bytes, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn icmp_errors_about_translated_packets_are_the_workers() {
    let (rig, _socket) = rig();
    let quoted = |inner: Frame| inner.bytes[14..14 + 28].to_vec();
    let inner = Base::new(NODE, OUTSIDE);
    let ours = [
        quoted(inner.udp(SNAT.first, 53, b"12345678")),
        quoted(inner.tcp(SNAT.last, 443, TcpFlags::SYN, b"")),
        quoted(inner.echo(true, SNAT.first, b"12345678")),
    ];
    for quote in &ours {
        for kind in [3, 11, 12] {
            let error = from_wire(NODE).icmp(kind, 0, 0, quote);
            rig.expect(HookKind::Uplink, &error.bytes, Outcome::Worker);
        }
        let quench = from_wire(NODE).icmp(5, 0, 0, quote);
        rig.expect(HookKind::Uplink, &quench.bytes, Outcome::Kernel);
    }
    let mut with_inner_options = ours[0].clone();
    with_inner_options.splice(20..20, [1; 4]);
    with_inner_options[0] = 0x46;
    let error = from_wire(NODE).icmp(3, 3, 0, &with_inner_options);
    rig.expect(HookKind::Uplink, &error.bytes, Outcome::Worker);

    let theirs = [
        quoted(inner.udp(SNAT.last + 1, 53, b"12345678")),
        quoted(Base::new(SERVICE, OUTSIDE).udp(SNAT.first, 53, b"12345678")),
        quoted(inner.echo(false, SNAT.first, b"12345678")),
        quoted(inner.ip(47, &[0; 8])),
        ours[0][..27].to_vec(),
        ours[0][..19].to_vec(),
        vec![],
    ];
    for quote in &theirs {
        let error = from_wire(NODE).icmp(3, 1, 0, quote);
        rig.expect(HookKind::Uplink, &error.bytes, Outcome::Kernel);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_nodes_own_traffic_is_the_kernels() {
    let (rig, _socket) = rig();
    for address in [NODE, SERVICE] {
        rig.expect(HookKind::Uplink, &udp(address).bytes, Outcome::Kernel);
    }
    let ssh = from_wire(NODE).tcp(50_000, 22, TcpFlags::SYN, b"");
    rig.expect(HookKind::Uplink, &ssh.bytes, Outcome::Kernel);
    // P37, P38: broadcast and multicast, by link or by address.
    for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        rig.expect(HookKind::Uplink, &udp(address).bytes, Outcome::Kernel);
    }
    rig.expect(
        HookKind::Uplink,
        &udp(POD).with(0, [0xff; 6]).bytes,
        Outcome::Kernel,
    );
    // P06, P07: other EtherTypes, tags, and ARP.
    for ethertype in [[0x88, 0xcc], [0x00, 0x40], [0x81, 0x00], [0x88, 0xa8]] {
        rig.expect(
            HookKind::Uplink,
            &udp(POD).with(12, ethertype).bytes,
            Outcome::Kernel,
        );
    }
    rig.expect(
        HookKind::Uplink,
        &arp(WIRE_MAC, WIRE_MAC, OUTSIDE, NODE),
        Outcome::Kernel,
    );
    // P18: benign options, also of pods.
    for address in [POD, NODE] {
        let options = with_options(&udp(address), &[7, 7, 4, 0, 0, 0, 0, 0]);
        rig.expect(HookKind::Uplink, &options, Outcome::Kernel);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p21_p22_fragments_for_pods_and_the_snat_address_are_the_workers() {
    let (rig, _socket) = rig();
    let all = |address, outcome| {
        for word in [0x2000, 0x2010, 0x0010] {
            let fragment = as_fragment(&udp(address), word);
            rig.expect(HookKind::Uplink, &fragment, outcome);
        }
    };
    all(POD, Outcome::Worker);
    all(NODE, Outcome::Worker);
    all(SERVICE, Outcome::Kernel);
    // One with options goes where the others of its datagram go.
    let options = udp(POD).options(&[7, 7, 4, 0, 0, 0, 0, 0]);
    let first = as_fragment(&options, 0x2000);
    rig.expect(HookKind::Uplink, &first, Outcome::Worker);
    let without = HookConfig {
        snat: None,
        ..config(1)
    };
    rig.hooks.configure(&without).unwrap();
    all(POD, Outcome::Worker);
    all(NODE, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p01_p03_p10_frames_nobody_should_see() {
    let mut cut_tag = udp(POD).bytes[..16].to_vec();
    cut_tag[12..14].copy_from_slice(&[0x81, 0]);
    expect(&cut_tag, Outcome::Drop(L2Short));
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        expect(&udp(POD).with(6, mac).bytes, Outcome::Drop(L2SrcBad));
    }
    let message = arp(WIRE_MAC, WIRE_MAC, OUTSIDE, NODE);
    expect(&message[..41], Outcome::Drop(ArpBad));
    let mut long_address = message;
    long_address[18] = 8;
    expect(&long_address, Outcome::Drop(ArpBad));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_the_worker_names() {
    let (rig, _socket) = rig();
    let whole = udp(POD);
    let spoofed = Base::new(POD, POD).macs(WIRE_MAC, ENI_MAC);
    let frames = [
        // P05, P36, P35 with P33.
        whole.clone().with(0, [2, 9, 9, 9, 9, 9]),
        udp(NODE).with(0, [2, 9, 9, 9, 9, 9]),
        udp(OUTSIDE),
        spoofed.udp(1, 2, b""),
        // P11, P13, P14, P16.
        whole.clone().with(14, [0x65]),
        whole.clone().with(14, [0x44]),
        whole.clone().with(14, [0x4f]),
        whole.clone().with(16, [0, 19]),
        whole.clone().with(16, [0xff, 0xff]),
        whole.clone().with(24, [0xde, 0xad]),
    ];
    for frame in &frames {
        rig.expect(HookKind::Uplink, &frame.bytes, Outcome::Worker);
    }
    // P12.
    rig.expect(HookKind::Uplink, &whole.bytes[..14 + 19], Outcome::Worker);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p19_to_p26_and_p31_p32_never_reach_the_kernel() {
    let (rig, _socket) = rig();
    for address in [POD, NODE] {
        let base = from_wire(address);
        let tcp = base.tcp(443, 40_000, TcpFlags::ACK, b"12345678");
        let cases = [
            (with_options(&udp(address), &[131, 4, 4, 0]), Ip4Srcroute),
            (with_options(&udp(address), &[7, 1, 0, 0]), Ip4Opt),
            (as_fragment(&base.ip(17, &[0; 7]), 0x2000), FragTiny),
            (as_fragment(&tcp, 0x0001), FragOffset1),
            (as_fragment(&udp(address), 0x1fff), FragToolong),
        ];
        for (frame, reason) in &cases {
            rig.expect(HookKind::Uplink, frame, Outcome::Drop(*reason));
        }
        for source in [
            [0, 0, 0, 1],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [240, 0, 0, 1],
            [255; 4],
        ] {
            let martian = Base::new(source.into(), address).macs(WIRE_MAC, ENI_MAC);
            let frame = martian.udp(1, 2, b"").bytes;
            rig.expect(HookKind::Uplink, &frame, Outcome::Drop(MartianSrc));
        }
    }
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(0, 1, 2, 3)] {
        rig.expect(
            HookKind::Uplink,
            &udp(address).bytes,
            Outcome::Drop(MartianDst),
        );
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn without_worker_or_socket_the_kernel_carries_on() {
    let (rig, socket) = rig();
    let frame = udp(POD).bytes;
    rig.expect(HookKind::Uplink, &frame, Outcome::Worker);
    rig.beat(0, 0);
    rig.expect(HookKind::Uplink, &frame, Outcome::Fallback);
    rig.beat(0, u64::MAX >> 2);
    rig.forget_lapses(1);
    rig.expect(HookKind::Uplink, &frame, Outcome::Worker);
    // The kernel takes a closed socket out of the map.
    drop(socket);
    rig.expect(HookKind::Uplink, &frame, Outcome::Fallback);
    rig.hooks.remove_uplink(super::LOOPBACK).unwrap();
    rig.hooks.remove_uplink(super::LOOPBACK).unwrap();
    rig.expect(HookKind::Uplink, &frame, Outcome::Fallback);
}
