//! P63 to P68 and P73 to P77: IPv6 headers, addresses, neighbours.

use std::net::Ipv6Addr;

use penstock_flow::Access;
use penstock_packet::DropReason::*;
use penstock_packet::build::{Base6, Frame};

use crate::node::*;
use crate::row::Fate::{self, Answered, Drop, Kernel};
use crate::row::{Row, Side, run, sides};

fn cut(frame: Frame, length: usize) -> Frame {
    Frame {
        bytes: frame.bytes[..length].to_vec(),
    }
}

/// One byte larger than the MTU everywhere.
fn large(frame: Frame) -> Frame {
    let mut bytes = frame.bytes;
    bytes.resize(14 + 1501, 0x61);
    let length = (1501 - 40u16).to_be_bytes();
    Frame { bytes }.fit().with(58, length).seal()
}

fn extensions(frame: Frame, count: usize) -> Frame {
    (0..count).fold(frame, |frame, _| frame.extension(60, &[0; 6]))
}

#[test]
fn header_rows_hold() {
    type Bend = fn(Frame) -> Frame;
    let table: [(&str, Bend, Fate); 18] = [
        ("P63 no header", |f| cut(f, 14), Drop(Ip6Short)),
        ("P63 cut header", |f| cut(f, 53), Drop(Ip6Short)),
        (
            "P63 payload length past the frame",
            |f| f.with(18, [0xff, 0]),
            Drop(Ip6Len),
        ),
        (
            "P64 jumbo option",
            |f| f.extension(0, &[0xc2, 4, 0, 1, 0, 0]).with(18, [0, 0]),
            Drop(Ip6Jumbo),
        ),
        (
            "P65 hop limit 1",
            |f| f.with(21, [1]),
            Answered(Ttl, [3, 0]),
        ),
        (
            "P65 hop limit 0",
            |f| f.with(21, [0]),
            Answered(Ttl, [3, 0]),
        ),
        (
            "P66 nine extension headers",
            |f| extensions(f, 9),
            Drop(Ip6Ext),
        ),
        (
            "P66 more than 256 bytes of them",
            |f| f.extension(60, &[0; 262]),
            Drop(Ip6Ext),
        ),
        (
            "P66 one that is cut",
            |f| cut(extensions(f, 1), 58).fit(),
            Drop(Ip6Ext),
        ),
        (
            "P66 one past the packet",
            |f| extensions(f, 1).with(55, [9]),
            Drop(Ip6Ext),
        ),
        (
            "P67 hop-by-hop second",
            |f| f.extension(0, &[0; 6]).extension(60, &[0; 6]),
            Drop(Ip6Ext),
        ),
        (
            "P67 hop-by-hop twice",
            |f| f.extension(0, &[0; 6]).extension(0, &[0; 6]),
            Drop(Ip6Ext),
        ),
        (
            "P68 routing header 0",
            |f| f.extension(43, &[0, 1, 0, 0, 0, 0]),
            Drop(Ip6Rh0),
        ),
        ("P77 too large", large, Answered(Mtu, [2, 0])),
        ("P66 eight extension headers", |f| extensions(f, 8), Kernel),
        ("P67 hop-by-hop first", |f| f.extension(0, &[0; 6]), Kernel),
        (
            "P32 to ::1",
            |f| f.with(38, Ipv6Addr::LOCALHOST.octets()).seal(),
            Drop(MartianDst),
        ),
        (
            "P32 to ::",
            |f| f.with(38, [0; 16]).seal(),
            Drop(MartianDst),
        ),
    ];
    let mut rows = Vec::new();
    for (text, bend, fate) in table {
        for Side {
            name: side,
            plain,
            ingress,
            ..
        } in sides(6)
        {
            rows.push(Row::new(format!("{text}, {side}")).packet(bend(plain), ingress, fate));
        }
    }
    for Side {
        name: side,
        plain,
        ingress,
        ..
    } in sides(6)
    {
        rows.push(
            Row::new(format!("P77 MTU told, {side}"))
                .packet(large(plain), ingress, Answered(Mtu, [2, 0]))
                .check(|_, outs| assert_eq!(outs[0].bytes[58..62], 1500u32.to_be_bytes())),
        );
    }
    run(rows);
}

#[test]
fn address_rows_hold() {
    let mut rows = Vec::new();
    let mapped = Ipv6Addr::from_bits(0xffff << 32 | 0x0a00_0065);
    for source in [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::from_bits(0xff02 << 112 | 1),
        mapped,
    ] {
        for Side {
            name: side,
            plain,
            ingress,
            ..
        } in sides(6)
        {
            let frame = plain.with(22, source.octets()).seal();
            let name = format!("P73 from {source}, {side}");
            rows.push(Row::new(name).packet(frame, ingress, Drop(MartianSrc)));
        }
    }
    let pod = |destination| from_pod6(0, destination).udp(1, 2, b"x");
    let wire = |source, destination| from_eni6(0, source, destination).udp(1, 2, b"x");
    let from = |source| {
        Base6 {
            source,
            ..from_pod6(0, PODS6[1])
        }
        .udp(1, 2, b"x")
    };
    let metadata = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);
    let group = Ipv6Addr::from_bits(0xff05 << 112 | 2);
    let link_local = Ipv6Addr::from_bits(0xfe80 << 112 | 1);
    let nobody = Ipv6Addr::from_bits(PEER6.to_bits() + 1);
    for (name, frame, ingress, fate) in [
        ("P33 LAND, from a pod", pod(PODS6[0]), TRUNK, Drop(Land)),
        (
            "P33 LAND, from the wire",
            wire(PODS6[0], PODS6[0]),
            ETH0,
            Drop(Land),
        ),
        ("P34 as the node", from(NODE6), TRUNK, Drop(SpoofIp)),
        (
            "P34 as somebody in the VPC",
            from(PEER6),
            TRUNK,
            Drop(SpoofIp),
        ),
        ("P34 as another pod", from(PODS6[2]), TRUNK, Drop(SpoofMac)),
        (
            "P35 a pod's address from the wire",
            wire(PODS6[1], PODS6[0]),
            ETH0,
            Drop(SpoofSelf),
        ),
        ("P36 not here", wire(PEER6, nobody), ETH0, Drop(NoLocal)),
        ("P38 multicast, from a pod", pod(group), TRUNK, Drop(Mcast)),
        (
            "P38 multicast, from the wire",
            wire(PEER6, group).with(0, [0x33, 0x33, 0, 0, 0, 2]),
            ETH0,
            Kernel,
        ),
        ("P41 the node", pod(NODE6), TRUNK, Kernel),
        ("P41 a link-local address", pod(link_local), TRUNK, Kernel),
        ("P76 metadata", pod(metadata), TRUNK, Drop(Imds)),
    ] {
        rows.push(Row::new(format!("{name}, IPv6")).packet(frame, ingress, fate));
    }
    rows.push(
        Row::new("P76 metadata, allowed")
            .on(|config| config.imds = Access::Allow)
            .packet(pod(metadata), TRUNK, Kernel),
    );
    run(rows);
}

/// P74, P75: what the worker sees of neighbour discovery. Whose target it is, the hook judges.
#[test]
fn neighbour_rows_hold() {
    let neighbour = |base: Base6, kind, hop_limit, body: &[u8]| {
        base.hop_limit(hop_limit).icmp(kind, 0, 0, body)
    };
    let target = PODS6[0].octets();
    let mut rows = Vec::new();
    for (text, kind, hop_limit, body, from_pod, from_wire) in [
        (
            "P74 router advertisement",
            134,
            255,
            &[0; 8][..],
            Drop(SpoofRa),
            Kernel,
        ),
        (
            "P74 redirect",
            137,
            255,
            &[0; 32][..],
            Drop(SpoofRa),
            Kernel,
        ),
        (
            "P75 solicitation of hop limit 254",
            135,
            254,
            &target[..],
            Drop(SpoofNd),
            Kernel,
        ),
        (
            "P75 advertisement of hop limit 64",
            136,
            64,
            &target[..],
            Drop(SpoofNd),
            Kernel,
        ),
        ("P75 solicitation", 135, 255, &target[..], Kernel, Kernel),
        ("P75 advertisement", 136, 255, &target[..], Kernel, Kernel),
    ] {
        let pod = neighbour(from_pod6(0, PEER6), kind, hop_limit, body);
        rows.push(Row::new(format!("{text}, from a pod")).packet(pod, TRUNK, from_pod));
        let wire = neighbour(from_eni6(0, PEER6, PODS6[0]), kind, hop_limit, body);
        rows.push(Row::new(format!("{text}, from the wire")).packet(wire, ETH0, from_wire));
    }
    run(rows);
}
