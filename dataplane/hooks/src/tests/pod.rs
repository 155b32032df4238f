//! Hook `pod`: every branch, named by the row of the table of malformed packets it belongs to.

use std::net::Ipv4Addr;

use libbpf_rs::ProgramInput;
use penstock_packet::DropReason::{self, *};
use penstock_packet::TcpFlags;
use penstock_packet::build::{Base, Frame};

use super::{
    HOST_MAC, IMDS, NODE, OTHER_POD, OUTSIDE, Outcome, POD, POD_MAC, Rig, SERVICE, arp,
    as_fragment, config, from_pod, with_options,
};
use crate::limits::MAX_PODS;
use crate::{HookConfig, HookError, HookKind, ImdsAccess};

#[track_caller]
fn expect(frame: &[u8], outcome: Outcome) {
    Rig::new(1).expect(HookKind::Pod, frame, outcome);
}

#[track_caller]
fn dropped(frame: &[u8], reason: DropReason) {
    expect(frame, Outcome::Drop(reason));
}

fn udp(destination: Ipv4Addr) -> Frame {
    from_pod(destination).udp(40_000, 53, b"hello")
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_the_workers_decide_goes_to_the_trunk() {
    let rig = Rig::new(1);
    let frames = [
        udp(OUTSIDE),
        udp(OTHER_POD),
        from_pod(OUTSIDE).tcp(40_000, 443, TcpFlags::SYN, b""),
        from_pod(OUTSIDE).echo(true, 7, b"ping"),
        from_pod(OUTSIDE).ip(47, b"some GRE"),
        // P52 and P43: without translation these are forwarded, so the worker must see them.
        from_pod(OTHER_POD).udp(0, 0, b""),
        from_pod(OTHER_POD).ip(6, b"cut"),
        // P17 and P33: the worker answers or names them.
        from_pod(OUTSIDE).ttl(1).udp(40_000, 53, b""),
        udp(POD),
        // P28: the reserved flag is nothing to judge by.
        udp(OUTSIDE).with(20, [0x80, 0]).seal(),
    ];
    for frame in &frames {
        rig.expect(HookKind::Pod, &frame.bytes, Outcome::Worker);
    }
    // P02 and P15: padding behind a short packet.
    let mut padded = from_pod(OUTSIDE).udp(40_000, 53, b"").bytes;
    padded.resize(60, 0);
    rig.expect(HookKind::Pod, &padded, Outcome::Worker);
    rig.expect(
        HookKind::Pod,
        &from_pod(OUTSIDE).ip(17, b"").bytes,
        Outcome::Worker,
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_interface_without_a_pod_sends_nothing() {
    let mut rig = Rig::new(1);
    rig.hooks.remove_pod(super::LOOPBACK).unwrap();
    rig.hooks.remove_pod(super::LOOPBACK).unwrap();
    rig.expect(
        HookKind::Pod,
        &udp(OUTSIDE).bytes,
        Outcome::Drop(HookNoEndpoint),
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p01_short_frames() {
    // Frames under 14 bytes cannot be given to a test run.
    let mut cut_tag = udp(OUTSIDE).bytes[..16].to_vec();
    cut_tag[12..14].copy_from_slice(&[0x81, 0]);
    dropped(&cut_tag, L2Short);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p03_p04_source_mac() {
    for mac in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        dropped(&udp(OUTSIDE).with(6, mac).bytes, L2SrcBad);
    }
    dropped(&udp(OUTSIDE).with(6, HOST_MAC).bytes, SpoofMac);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn link_layer_destination_must_be_the_gateway() {
    dropped(&udp(OUTSIDE).with(0, [2, 9, 9, 9, 9, 9]).bytes, L2NotOurs);
    dropped(&udp(OUTSIDE).with(0, [0xff; 6]).bytes, Bcast);
    dropped(&udp(OUTSIDE).with(0, [1, 0, 0x5e, 0, 0, 1]).bytes, Mcast);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p06_p07_ethertypes() {
    dropped(&udp(OUTSIDE).with(12, [0x88, 0xcc]).bytes, L2Ethertype);
    dropped(&udp(OUTSIDE).with(12, [0x00, 0x40]).bytes, L2Ethertype);
    dropped(&udp(OUTSIDE).with(12, [0x81, 0x00]).bytes, L2Vlan);
    dropped(&udp(OUTSIDE).with(12, [0x88, 0xa8]).bytes, L2Vlan);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p08_p09_p10_arp() {
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    let good = arp(POD_MAC, POD_MAC, POD, gateway);
    expect(&good, Outcome::Kernel);
    dropped(&arp(POD_MAC, HOST_MAC, POD, gateway), SpoofArp);
    dropped(&arp(POD_MAC, POD_MAC, OTHER_POD, gateway), SpoofArp);
    dropped(&arp(POD_MAC, POD_MAC, gateway, gateway), SpoofArp);
    dropped(&arp(HOST_MAC, POD_MAC, POD, gateway), SpoofMac);
    dropped(&good[..41], ArpBad);
    for (at, value) in [(18, 7), (19, 16), (15, 6), (16, 0x86)] {
        let mut bad = good.clone();
        bad[at] = value;
        dropped(&bad, ArpBad);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p11_p13_p14_p16_malformed_ip4_is_named_by_the_worker() {
    let rig = Rig::new(1);
    let whole = udp(OUTSIDE);
    let bent = [
        whole.clone().with(14, [0x65]),
        whole.clone().with(14, [0x44]),
        whole.clone().with(14, [0x4f]),
        whole.clone().with(16, [0, 19]),
        whole.clone().with(16, [0xff, 0xff]),
        whole.clone().with(24, [0xde, 0xad]),
    ];
    for frame in &bent {
        rig.expect(HookKind::Pod, &frame.bytes, Outcome::Worker);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p11_ip6() {
    let ip6 = from_pod(OUTSIDE)
        .udp(40_000, 53, &[0; 40])
        .with(12, [0x86, 0xdd]);
    dropped(&ip6.bytes, IpVersion);
    // A pod without an IPv6 address has no IPv6 at all.
    let mut rig = Rig::new(1);
    let ip4_only = crate::PodEntry {
        address6: None,
        ..super::pod()
    };
    rig.hooks.set_pod(&ip4_only).unwrap();
    let frame = ip6.with(14, [0x60]).bytes;
    rig.expect(HookKind::Pod, &frame, Outcome::Drop(Ip6Disabled));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p18_p19_p20_options() {
    let rig = Rig::new(1);
    let whole = udp(OUTSIDE);
    let record_route = [7, 7, 4, 0, 0, 0, 0, 0];
    for benign in [
        &record_route[..],
        &[1, 1, 1, 1],
        &[1, 1, 1, 0],
        &[0, 9, 9, 9],
    ] {
        let frame = with_options(&whole, benign);
        rig.expect(HookKind::Pod, &frame, Outcome::Kernel);
    }
    for route in [[131, 4, 4, 0], [137, 4, 4, 0], [1, 131, 3, 4]] {
        let frame = with_options(&whole, &route);
        rig.expect(HookKind::Pod, &frame, Outcome::Drop(Ip4Srcroute));
    }
    for bad in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
        let frame = with_options(&whole, &bad);
        rig.expect(HookKind::Pod, &frame, Outcome::Drop(Ip4Opt));
    }
    // The longest header, its last option cut by it; and behind it nothing at all.
    let bare = from_pod(OUTSIDE).ip(200, b"");
    let mut options = [1; 40];
    rig.expect(
        HookKind::Pod,
        &with_options(&bare, &options),
        Outcome::Kernel,
    );
    options[39] = 7;
    rig.expect(
        HookKind::Pod,
        &with_options(&bare, &options),
        Outcome::Drop(Ip4Opt),
    );
    options[38..].copy_from_slice(&[7, 2]);
    rig.expect(
        HookKind::Pod,
        &with_options(&bare, &options),
        Outcome::Kernel,
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p21_to_p26_fragments() {
    let rig = Rig::new(1);
    let expect = |bytes: Vec<u8>, outcome| rig.expect(HookKind::Pod, &bytes, outcome);
    let tcp = from_pod(OUTSIDE).tcp(40_000, 443, TcpFlags::SYN, b"12345678");
    let datagram = udp(OUTSIDE);
    let tiny = |protocol, bytes: &[u8]| as_fragment(&from_pod(OUTSIDE).ip(protocol, bytes), 0x2000);
    expect(as_fragment(&tcp, 0x2000), Outcome::Worker);
    expect(as_fragment(&datagram, 0x2000), Outcome::Worker);
    expect(as_fragment(&datagram, 0x2001), Outcome::Worker);
    expect(as_fragment(&datagram, 0x0010), Outcome::Worker);
    expect(tiny(6, &[0; 19]), Outcome::Drop(FragTiny));
    expect(tiny(17, &[0; 7]), Outcome::Drop(FragTiny));
    expect(tiny(1, &[0; 7]), Outcome::Drop(FragTiny));
    expect(tiny(47, &[0; 1]), Outcome::Worker);
    expect(as_fragment(&tcp, 0x0001), Outcome::Drop(FragOffset1));
    expect(as_fragment(&tcp, 0x2001), Outcome::Drop(FragOffset1));
    expect(as_fragment(&datagram, 0x1fff), Outcome::Drop(FragToolong));
    // The last byte a datagram can have: 65,515 bytes of payload.
    let last = from_pod(OUTSIDE).ip(17, &[0; 3]);
    expect(as_fragment(&last, 0x1ffd), Outcome::Worker);
    let past = from_pod(OUTSIDE).ip(17, &[0; 4]);
    expect(as_fragment(&past, 0x1ffd), Outcome::Drop(FragToolong));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p31_p34_source_address() {
    let from = |source: [u8; 4]| Base::new(source.into(), OUTSIDE).macs(POD_MAC, HOST_MAC);
    for source in [
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [240, 0, 0, 1],
        [255; 4],
    ] {
        dropped(&from(source).udp(1, 2, b"").bytes, MartianSrc);
    }
    for source in [OTHER_POD, NODE, OUTSIDE] {
        dropped(&from(source.octets()).udp(1, 2, b"").bytes, SpoofIp);
    }
    // Whatever else is wrong with it: the guard comes before the parser.
    dropped(
        &from(NODE.octets()).udp(1, 2, b"").with(14, [0x44]).bytes,
        SpoofIp,
    );
    dropped(
        &as_fragment(&from(NODE.octets()).udp(1, 2, b"12345678"), 0x2000),
        SpoofIp,
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p32_p37_p38_destinations_that_do_not_travel() {
    dropped(&udp(Ipv4Addr::LOCALHOST).bytes, MartianDst);
    dropped(&udp(Ipv4Addr::new(0, 0, 0, 1)).bytes, MartianDst);
    dropped(&udp(Ipv4Addr::BROADCAST).bytes, Bcast);
    dropped(&udp(Ipv4Addr::new(224, 0, 0, 251)).bytes, Mcast);
    dropped(&udp(Ipv4Addr::new(239, 255, 255, 255)).bytes, Mcast);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p39_imds() {
    let rig = Rig::new(1);
    let frame = from_pod(IMDS).tcp(40_000, 80, TcpFlags::SYN, b"");
    rig.expect(HookKind::Pod, &frame.bytes, Outcome::Drop(Imds));
    let fragment = as_fragment(&from_pod(IMDS).udp(1, 80, b"12345678"), 0x2000);
    rig.expect(HookKind::Pod, &fragment, Outcome::Drop(Imds));
    let options = with_options(&frame, &[1, 1, 1, 1]);
    rig.expect(HookKind::Pod, &options, Outcome::Drop(Imds));
    let allow = HookConfig {
        imds: ImdsAccess::Allow,
        ..config(1)
    };
    rig.hooks.configure(&allow).unwrap();
    rig.expect(HookKind::Pod, &frame.bytes, Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn p40_p41_kernel_cidrs() {
    let mut rig = Rig::new(1);
    for address in [NODE, SERVICE, Ipv4Addr::new(169, 254, 169, 253)] {
        rig.expect(HookKind::Pod, &udp(address).bytes, Outcome::Kernel);
    }
    rig.hooks
        .set_kernel_cidrs(&["198.51.100.99/24".parse().unwrap()])
        .unwrap();
    rig.expect(HookKind::Pod, &udp(SERVICE).bytes, Outcome::Worker);
    rig.expect(HookKind::Pod, &udp(OUTSIDE).bytes, Outcome::Kernel);
    rig.hooks.set_kernel_cidrs(&[]).unwrap();
    rig.expect(HookKind::Pod, &udp(OUTSIDE).bytes, Outcome::Worker);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_super_packet_counts_as_its_segments() {
    /// Offset of `gso_segs` in `struct __sk_buff`, and its size in kernel 6.18.
    const GSO_SEGS: usize = 164;
    const SK_BUFF: usize = 192;
    let rig = Rig::new(1);
    let frame = from_pod(OUTSIDE).tcp(40_000, 443, TcpFlags::ACK, &[0; 900]);
    let mut context = [0; SK_BUFF];
    context[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&5_u32.to_ne_bytes());
    let input = ProgramInput {
        data_in: Some(&frame.bytes),
        context_in: Some(&mut context),
        ..ProgramInput::default()
    };
    rig.expect_input(HookKind::Pod, input, Outcome::Worker, 5);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_pod_that_changes_its_address_leaves_nothing_behind() {
    let mut rig = Rig::new(1);
    let moved = crate::PodEntry {
        address: Some(Ipv4Addr::new(10, 1, 0, 99)),
        ..super::pod()
    };
    rig.hooks.set_pod(&moved).unwrap();
    rig.expect(HookKind::Pod, &udp(OUTSIDE).bytes, Outcome::Drop(SpoofIp));
    let to = |address: Option<_>| Base::new(OUTSIDE, address.unwrap()).udp(1, 2, b"").bytes;
    rig.expect(HookKind::Trunk, &to(Some(POD)), Outcome::Kernel);
    rig.expect(HookKind::Trunk, &to(moved.address), Outcome::Pod);
    // An address that passed to another interface survives the old one's removal.
    let heir = crate::PodEntry {
        ifindex: 78,
        ..moved
    };
    rig.hooks.set_pod(&heir).unwrap();
    rig.hooks.remove_pod(moved.ifindex).unwrap();
    rig.expect(HookKind::Trunk, &to(moved.address), Outcome::Pod);
    rig.hooks.remove_pod(heir.ifindex).unwrap();
    rig.expect(HookKind::Trunk, &to(moved.address), Outcome::Kernel);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn full_maps_refuse_and_keep_nothing_of_it() {
    let mut rig = Rig::new(1);
    let numbered = |number: u32| crate::PodEntry {
        ifindex: 1_000 + number,
        address: Some(Ipv4Addr::from_bits(
            Ipv4Addr::new(10, 9, 0, 0).to_bits() + number,
        )),
        address6: None,
        ..super::pod()
    };
    // The rig has two.
    for number in 2..MAX_PODS {
        rig.hooks.set_pod(&numbered(number)).unwrap();
    }
    let refused = rig.hooks.set_pod(&numbered(MAX_PODS));
    assert!(matches!(refused, Err(HookError::Map { .. })), "{refused:?}");
    // An address more on a known interface does not fit either, and its guard stays.
    let moved = crate::PodEntry {
        address: Some(Ipv4Addr::new(10, 8, 0, 1)),
        ..numbered(2)
    };
    assert!(rig.hooks.set_pod(&moved).is_err());
    rig.hooks.remove_pod(numbered(2).ifindex).unwrap();
    rig.hooks.set_pod(&numbered(MAX_PODS)).unwrap();
}
