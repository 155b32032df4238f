//! P01 to P11: frames, MACs, ARP.

use penstock_packet::DropReason::*;
use penstock_packet::build::Frame;

use crate::node::*;
use crate::row::Fate::{Drop, Kernel};
use crate::row::{Row, Side, run, sides};

/// The flow a forwarded first packet leaves behind.
const ONE_FLOW: &[(&str, i64)] = &[("flows", 1), ("flows_created", 1)];

fn arp(kind: u8, mac: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Frame {
    let mut bytes = vec![0xff; 6];
    bytes.extend(mac);
    bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, kind]);
    bytes.extend(mac);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    Frame { bytes }
}

fn cut(frame: &Frame, length: usize) -> Frame {
    Frame {
        bytes: frame.bytes[..length].to_vec(),
    }
}

#[test]
fn rows_hold() {
    let mut rows = Vec::new();
    for family in [4, 6] {
        for Side {
            name: side,
            plain,
            ingress,
            forward,
            hop,
        } in sides(family)
        {
            let row = |text: &str| Row::new(format!("{text}, IPv{family}, {side}"));
            let pods = ingress == TRUNK;
            let foreign = |reason| if pods { Drop(reason) } else { Kernel };
            for length in 0..14 {
                let short = cut(&plain, length);
                rows.push(row("P01 cut Ethernet header").packet(short, ingress, Drop(L2Short)));
            }
            for length in 14..18 {
                let short = cut(&plain.clone().with(12, [0x81, 0]), length);
                rows.push(row("P01 cut VLAN tag").packet(short, ingress, Drop(L2Short)));
            }
            let mut padded = plain.clone();
            padded.bytes.resize(plain.bytes.len() + 17, 0xee);
            let unpadded = hop(&plain);
            rows.push(
                row("P02 P15 padding or trailer")
                    .packet(padded, ingress, forward)
                    .out(unpadded)
                    .moves(ONE_FLOW),
            );
            for mac in [[0; 6], [1, 0, 0, 0, 0, 1], [0xff; 6]] {
                let frame = plain.clone().with(6, mac);
                rows.push(row("P03 source MAC").packet(frame, ingress, Drop(L2SrcBad)));
            }
            let other = plain.clone().with(6, pod_mac(1));
            rows.push(match pods {
                true => row("P04 another pod's MAC").packet(other, ingress, Drop(SpoofMac)),
                false => row("P04 any router's MAC")
                    .packet(other, ingress, forward)
                    .moves(ONE_FLOW),
            });
            if !pods {
                let theirs = plain.clone().with(0, eni_mac(1));
                rows.push(row("P05 not our MAC").packet(theirs, ingress, Drop(L2NotOurs)));
                let group = plain.clone().with(0, [0xff; 6]);
                rows.push(row("P05 a group's MAC").packet(group, ingress, Kernel));
            }
            for ethertype in [[0x88, 0xcc], [0, 0x26], [5, 0xff]] {
                let frame = plain.clone().with(12, ethertype);
                rows.push(row("P06 EtherType").packet(frame, ingress, foreign(L2Ethertype)));
            }
            for ethertype in [[0x81, 0], [0x88, 0xa8], [0x91, 0]] {
                let frame = plain.clone().with(12, ethertype);
                let fate = match ethertype {
                    [0x91, 0] => foreign(L2Ethertype),
                    _ => foreign(L2Vlan),
                };
                rows.push(row("P07 VLAN tag").packet(frame, ingress, fate));
            }
            let wrong = match family {
                4 => [0x86, 0xdd],
                _ => [8, 0],
            };
            let frame = plain.clone().with(12, wrong);
            rows.push(row("P11 EtherType disagrees").packet(frame, ingress, Drop(IpVersion)));
            for version in [0x00, 0x50, 0x75, 0xf5] {
                let frame = plain.clone().with(14, [version]);
                rows.push(row("P11 version").packet(frame, ingress, Drop(IpVersion)));
            }
        }
    }
    run(rows);
}

#[test]
fn arp_rows_hold() {
    let mut rows = Vec::new();
    for (side, mac, ingress) in [
        ("from a pod", pod_mac(0), TRUNK),
        ("from the wire", gateway_mac(0), ETH0),
    ] {
        let row = |text: &str| Row::new(format!("{text}, {side}"));
        let ask = || arp(1, mac, PODS[0].octets(), [169, 254, 1, 1]);
        rows.push(row("P08 ARP that a hook let pass").packet(ask(), ingress, Kernel));
        for (text, frame) in [
            ("P10 ARP cut", cut(&ask(), 41)),
            ("P10 ARP hardware length", ask().with(18, [8])),
            ("P10 ARP protocol length", ask().with(19, [16])),
            ("P10 ARP not of Ethernet", ask().with(15, [6])),
            ("P10 ARP not for IPv4", ask().with(16, [0x86, 0xdd])),
        ] {
            rows.push(row(text).packet(frame, ingress, Drop(ArpBad)));
        }
    }
    run(rows);
}
