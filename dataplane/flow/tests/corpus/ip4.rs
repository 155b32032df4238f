//! P12 to P20 and P28 to P41: IPv4 headers, addresses, sizes.

use std::net::Ipv4Addr;

use penstock_flow::Access;
use penstock_packet::DropReason::*;
use penstock_packet::build::{Base, Frame};

use crate::node::*;
use crate::row::Fate::{self, Answered, Drop, Kernel};
use crate::row::{Row, Side, run, sides};

const ONE_FLOW: &[(&str, i64)] = &[("flows", 1), ("flows_created", 1)];

type Bend = fn(Frame) -> Frame;

/// A bent frame, from both sides, to the same fate.
fn bent(rows: &mut Vec<Row>, text: &str, bend: Bend, fate: Fate) {
    for Side {
        name: side,
        plain,
        ingress,
        ..
    } in sides(4)
    {
        rows.push(Row::new(format!("{text}, {side}")).packet(bend(plain), ingress, fate));
    }
}

fn cut(frame: Frame, length: usize) -> Frame {
    Frame {
        bytes: frame.bytes[..length].to_vec(),
    }
}

#[test]
fn header_rows_hold() {
    let mut rows = Vec::new();
    let table: [(&str, Bend, Fate); 21] = [
        ("P12 cut header", |f| cut(f, 33), Drop(Ip4Short)),
        ("P12 no header", |f| cut(f, 14), Drop(Ip4Short)),
        ("P13 IHL under 5", |f| f.with(14, [0x44]), Drop(Ip4Ihl)),
        (
            "P13 IHL past the frame",
            |f| f.with(14, [0x4f]),
            Drop(Ip4Ihl),
        ),
        (
            "P14 total length under the header",
            |f| f.with(16, [0, 19]),
            Drop(Ip4Len),
        ),
        (
            "P14 total length past the frame",
            |f| f.with(16, [0xff, 0]),
            Drop(Ip4Len),
        ),
        (
            "P16 bad checksum",
            |f| {
                let low = f.bytes[25] ^ 1;
                f.with(25, [low])
            },
            Drop(Ip4Csum),
        ),
        (
            "P17 TTL 1",
            |f| f.with(22, [1]).seal(),
            Answered(Ttl, [11, 0]),
        ),
        (
            "P17 TTL 0",
            |f| f.with(22, [0]).seal(),
            Answered(Ttl, [11, 0]),
        ),
        (
            "P18 record route",
            |f| f.options(&[7, 7, 4, 0, 0, 0, 0]),
            Kernel,
        ),
        (
            "P18 timestamp",
            |f| f.options(&[68, 8, 5, 0, 0, 0, 0, 0]),
            Kernel,
        ),
        ("P18 no operation", |f| f.options(&[1, 1, 1, 0]), Kernel),
        (
            "P19 loose source route",
            |f| f.options(&[131, 3, 4, 0]),
            Drop(Ip4Srcroute),
        ),
        (
            "P19 strict source route",
            |f| f.options(&[137, 3, 4, 0]),
            Drop(Ip4Srcroute),
        ),
        (
            "P20 option length 0",
            |f| f.options(&[7, 0, 0, 0]),
            Drop(Ip4Opt),
        ),
        (
            "P20 option length 1",
            |f| f.options(&[7, 1, 0, 0]),
            Drop(Ip4Opt),
        ),
        (
            "P20 option past the header",
            |f| f.options(&[7, 9, 4, 0]),
            Drop(Ip4Opt),
        ),
        (
            "P29 too large, DF",
            |f| large(f).dont_fragment(),
            Answered(Mtu, [3, 4]),
        ),
        ("P29 too large", large, Kernel),
        (
            "P32 to 127/8",
            |f| f.with(30, [127, 0, 0, 1]).seal(),
            Drop(MartianDst),
        ),
        (
            "P32 to 0/8",
            |f| f.with(30, [0, 9, 9, 9]).seal(),
            Drop(MartianDst),
        ),
    ];
    for (text, bend, fate) in table {
        bent(&mut rows, text, bend, fate);
    }
    for Side {
        name: side,
        plain,
        ingress,
        forward,
        hop,
    } in sides(4)
    {
        let row = |text: &str| Row::new(format!("{text}, {side}"));
        let reserved = plain.with(20, [0x80, 0]).seal();
        let same = hop(&reserved);
        rows.push(
            row("P28 reserved flag")
                .packet(reserved, ingress, forward)
                .out(same)
                .moves(ONE_FLOW),
        );
    }
    run(rows);
}

/// A packet one byte larger than the MTU everywhere.
fn large(frame: Frame) -> Frame {
    let mut bytes = frame.bytes;
    bytes.resize(14 + 1501, 0x61);
    let length = (1501 - 20u16).to_be_bytes();
    Frame { bytes }.fit().with(38, length).seal()
}

#[test]
fn p29_the_answer_tells_the_mtu() {
    run(sides(4)
        .into_iter()
        .map(
            |Side {
                 name: side,
                 plain,
                 ingress,
                 ..
             }| {
                let fate = Answered(Mtu, [3, 4]);
                Row::new(format!("P29 MTU told, {side}"))
                    .packet(large(plain).dont_fragment(), ingress, fate)
                    .check(|_, outs| assert_eq!(outs[0].bytes[40..42], 1500u16.to_be_bytes()))
            },
        )
        .collect());
}

#[test]
fn address_rows_hold() {
    let mut rows = Vec::new();
    for source in [
        [0, 0, 0, 0],
        [0, 1, 2, 3],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [239, 1, 1, 1],
        [240, 0, 0, 1],
        [255, 255, 255, 255],
    ] {
        for Side {
            name: side,
            plain,
            ingress,
            ..
        } in sides(4)
        {
            let frame = plain.with(26, source).seal();
            let name = format!("P31 from {}, {side}", Ipv4Addr::from(source));
            rows.push(Row::new(name).packet(frame, ingress, Drop(MartianSrc)));
        }
    }
    let from = |source: Ipv4Addr| {
        Base {
            source,
            ..from_pod(0, PODS[1])
        }
        .udp(1, 2, b"x")
    };
    let wire = |source, destination| from_eni(0, source, destination).udp(1, 2, b"x");
    let pod = |destination| from_pod(0, destination).udp(1, 2, b"x");
    let nobody = Ipv4Addr::new(10, 0, 0, 200);
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let everybody = Ipv4Addr::BROADCAST;
    for (name, frame, ingress, fate) in [
        ("P33 LAND, from a pod", pod(PODS[0]), TRUNK, Drop(Land)),
        (
            "P33 LAND, from the wire",
            wire(PODS[0], PODS[0]),
            ETH0,
            Drop(Land),
        ),
        ("P34 as the node", from(NODE), TRUNK, Drop(SpoofIp)),
        (
            "P34 as somebody in the VPC",
            from(PEER),
            TRUNK,
            Drop(SpoofIp),
        ),
        ("P34 as the outside", from(OUTSIDE), TRUNK, Drop(SpoofIp)),
        ("P34 as another pod", from(PODS[2]), TRUNK, Drop(SpoofMac)),
        (
            "P35 a pod's address from the wire",
            wire(PODS[1], PODS[0]),
            ETH0,
            Drop(SpoofSelf),
        ),
        (
            "P36 to somebody in the VPC",
            wire(OUTSIDE, PEER),
            ETH0,
            Drop(NoLocal),
        ),
        (
            "P36 to the outside",
            wire(PEER, OUTSIDE),
            ETH0,
            Drop(NoLocal),
        ),
        (
            "P36 to an address without a pod",
            wire(PEER, nobody),
            ETH0,
            Drop(NoLocal),
        ),
        (
            "P37 broadcast, from a pod",
            pod(everybody),
            TRUNK,
            Drop(Bcast),
        ),
        (
            "P37 broadcast, from the wire",
            wire(PEER, everybody).with(0, [0xff; 6]),
            ETH0,
            Kernel,
        ),
        ("P38 multicast, from a pod", pod(group), TRUNK, Drop(Mcast)),
        (
            "P38 multicast, from the wire",
            wire(PEER, group).with(0, [1, 0, 0x5e, 1, 2, 3]),
            ETH0,
            Kernel,
        ),
        (
            "P39 metadata",
            pod(Ipv4Addr::new(169, 254, 169, 254)),
            TRUNK,
            Drop(Imds),
        ),
        (
            "P40 resolver",
            pod(Ipv4Addr::new(169, 254, 169, 253)),
            TRUNK,
            Kernel,
        ),
        (
            "P40 clock",
            pod(Ipv4Addr::new(169, 254, 169, 123)),
            TRUNK,
            Kernel,
        ),
        (
            "P40 pod identity",
            pod(Ipv4Addr::new(169, 254, 170, 23)),
            TRUNK,
            Kernel,
        ),
        ("P41 N15 the node", pod(NODE), TRUNK, Kernel),
        (
            "P41 N15 the node's second address",
            pod(Ipv4Addr::new(10, 0, 1, 10)),
            TRUNK,
            Kernel,
        ),
        (
            "P41 a service",
            pod(Ipv4Addr::new(172, 20, 0, 10)),
            TRUNK,
            Kernel,
        ),
        (
            "P17 TTL 1 to the node",
            from_pod(0, NODE).ttl(1).udp(1, 2, b"x"),
            TRUNK,
            Kernel,
        ),
        (
            "P17 TTL 1 to the node",
            from_eni(0, PEER, NODE).ttl(1).udp(1, 2, b"x"),
            ETH0,
            Kernel,
        ),
    ] {
        rows.push(Row::new(name).packet(frame, ingress, fate));
    }
    rows.push(
        Row::new("P39 metadata, allowed")
            .on(|config| config.imds = Access::Allow)
            .packet(pod(Ipv4Addr::new(169, 254, 169, 254)), TRUNK, Kernel),
    );
    run(rows);
}
