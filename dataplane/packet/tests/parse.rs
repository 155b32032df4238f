//! Every malformed packet the parser must name, as literal bytes.

#![expect(clippy::panic, reason = "a failed test panics")]

use std::net::{IpAddr, Ipv4Addr};

use penstock_packet::build::{Base, Frame};
use penstock_packet::icmp::{ErrorKind, QuotedL4, quote};
use penstock_packet::{DropReason, Fragment, Ip, L4, Parsed, Piece, TcpFlags, frame_length, parse};

/// 10.0.0.5:1000 -> 10.0.0.6:53, UDP, payload "abcd"; checksums by an independent tool.
const UDP: [u8; 46] = [
    0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
    0x45, 0, 0, 32, 0x12, 0x34, 0, 0, 64, 17, 0x54, 0x8f, 10, 0, 0, 5, 10, 0, 0, 6, // IPv4
    0x03, 0xe8, 0, 53, 0, 12, 0x22, 0xe8, b'a', b'b', b'c', b'd', // UDP
];

fn whole(bytes: &[u8]) -> Result<Parsed, DropReason> {
    parse(bytes, bytes.len())
}

fn ip4(bytes: &[u8]) -> Ip {
    match whole(bytes) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn udp() -> Frame {
    Frame {
        bytes: UDP.to_vec(),
    }
}

fn base() -> Base {
    Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6))
}

#[track_caller]
fn refused(frame: &Frame, reason: DropReason) {
    assert_eq!(whole(&frame.bytes), Err(reason));
}

#[test]
fn a_plain_datagram_is_read_right() {
    let packet = ip4(&UDP);
    assert_eq!(
        packet,
        Ip {
            frame_length: 46,
            l4_offset: 34,
            source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)),
            destination: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 6)),
            protocol: 17,
            ttl: 64,
            dont_fragment: false,
            has_options: false,
            fragment: Fragment::None,
            l4: L4::Udp {
                source: 1000,
                destination: 53
            },
        }
    );
    assert_eq!(packet.ip_length(), 32);
    assert_eq!(frame_length(&UDP), 46);
    assert!(udp().is_sealed(), "the literal's checksums");
    assert_eq!(udp().seal(), udp(), "the builder computes the same");
}

#[test]
fn p01_short_ethernet() {
    for length in 0..14 {
        assert_eq!(whole(&UDP[..length]), Err(DropReason::L2Short), "{length}");
    }
    for length in 14..18 {
        let tagged = udp().with(12, [0x81, 0x00]);
        assert_eq!(
            whole(&tagged.bytes[..length]),
            Err(DropReason::L2Short),
            "{length}"
        );
    }
}

#[test]
fn p03_source_mac_that_no_station_has() {
    refused(&udp().with(6, [0; 6]), DropReason::L2SrcBad);
    refused(
        &udp().with(6, [0x01, 0, 0x5e, 0, 0, 1]),
        DropReason::L2SrcBad,
    );
    refused(&udp().with(6, [0xff; 6]), DropReason::L2SrcBad);
}

#[test]
fn p06_p07_foreign_ethertypes() {
    refused(&udp().with(12, [0x88, 0x47]), DropReason::L2Ethertype);
    refused(&udp().with(12, [0x00, 0x26]), DropReason::L2Ethertype);
    refused(&udp().with(12, [0x81, 0x00]), DropReason::L2Vlan);
    refused(&udp().with(12, [0x88, 0xa8]), DropReason::L2Vlan);
}

#[test]
fn p10_arp() {
    let arp = |fixed: [u8; 6], length: usize| {
        let mut bytes = udp().with(12, [0x08, 0x06]).with(14, fixed).bytes;
        bytes.resize(length, 0);
        whole(&bytes)
    };
    assert_eq!(arp([0, 1, 8, 0, 6, 4], 42), Ok(Parsed::Arp));
    assert_eq!(arp([0, 1, 8, 0, 6, 4], 41), Err(DropReason::ArpBad));
    assert_eq!(arp([0, 1, 8, 0, 8, 4], 42), Err(DropReason::ArpBad));
    assert_eq!(arp([0, 1, 8, 0, 6, 16], 42), Err(DropReason::ArpBad));
    assert_eq!(arp([0, 1, 0x86, 0xdd, 6, 4], 42), Err(DropReason::ArpBad));
}

#[test]
fn p11_version() {
    refused(&udp().with(14, [0x65]), DropReason::IpVersion);
    refused(&udp().with(14, [0x05]), DropReason::IpVersion);
    refused(&udp().with(12, [0x86, 0xdd]), DropReason::IpVersion);
}

#[test]
fn p12_cut_header() {
    for length in 14..34 {
        assert_eq!(whole(&UDP[..length]), Err(DropReason::Ip4Short), "{length}");
    }
}

#[test]
fn p13_header_length() {
    refused(&udp().with(14, [0x44]), DropReason::Ip4Ihl);
    refused(&udp().with(14, [0x40]), DropReason::Ip4Ihl);
    refused(&udp().with(14, [0x4f]), DropReason::Ip4Ihl);
}

#[test]
fn p14_total_length() {
    refused(&udp().with(16, [0, 19]), DropReason::Ip4Len);
    refused(&udp().with(16, [0, 33]), DropReason::Ip4Len);
    refused(&udp().with(16, [0xff, 0xff]), DropReason::Ip4Len);
}

#[test]
fn p02_p15_padding_and_trailers_are_cut() {
    let mut bytes = UDP.to_vec();
    bytes.resize(60, 0xee);
    assert_eq!(ip4(&bytes), ip4(&UDP));
    assert_eq!(frame_length(&bytes), 46);
}

#[test]
fn p16_header_checksum() {
    refused(&udp().with(24, [0x54, 0x91]), DropReason::Ip4Csum);
    refused(&udp().with(22, [63]), DropReason::Ip4Csum);
}

#[test]
fn p18_benign_options() {
    // NOP, record route with room for one, end of list.
    let packet = ip4(&udp().options(&[1, 7, 7, 4, 0, 0, 0, 0, 0]).bytes);
    assert!(packet.has_options);
    assert_eq!(
        packet.l4,
        L4::Udp {
            source: 1000,
            destination: 53
        }
    );
    // What follows the end of the list is not looked at.
    assert!(ip4(&udp().options(&[0, 7, 0, 0]).bytes).has_options);
}

#[test]
fn p19_p20_options_that_must_not_travel() {
    refused(
        &udp().options(&[131, 7, 4, 10, 0, 0, 9]),
        DropReason::Ip4Srcroute,
    );
    refused(
        &udp().options(&[1, 137, 7, 4, 10, 0, 0, 9]),
        DropReason::Ip4Srcroute,
    );
    refused(&udp().options(&[7, 0, 4, 0]), DropReason::Ip4Opt);
    refused(&udp().options(&[7, 1, 4, 0]), DropReason::Ip4Opt);
    refused(&udp().options(&[7, 5, 4, 0]), DropReason::Ip4Opt);
    refused(&udp().options(&[1, 1, 1, 7]), DropReason::Ip4Opt);
}

#[test]
fn p21_p24_fragments() {
    let fragment = |frame: Frame, flags: u16| frame.with(20, flags.to_be_bytes()).seal();
    let is_first = |ip: Ip| matches!(ip.fragment, Fragment::First(_));
    let whole = Piece {
        id: 0x1234,
        offset: 0,
        length: 12,
        more: true,
    };
    let first = ip4(&fragment(udp(), 0x2000).bytes);
    assert_eq!(first.fragment, Fragment::First(whole));
    assert_eq!(
        first.l4,
        L4::Udp {
            source: 1000,
            destination: 53
        }
    );
    let later = ip4(&fragment(udp(), 0x0010).bytes);
    let last = Piece {
        offset: 128,
        more: false,
        ..whole
    };
    assert_eq!(later.fragment, Fragment::Later(last));
    assert_eq!(later.l4, L4::Other);
    let tcp = base().tcp(1, 2, TcpFlags::SYN, &[]);
    assert!(is_first(ip4(&fragment(tcp.clone(), 0x2000).bytes)));
    refused(&fragment(tcp.clone(), 0x2001), DropReason::FragOffset1);
    refused(&fragment(tcp.clone(), 0x0001), DropReason::FragOffset1);
    let second = ip4(&fragment(udp(), 0x0001).bytes).fragment;
    assert!(matches!(second, Fragment::Later(Piece { offset: 8, .. })));
    for (protocol, least) in [(17, 8), (1, 8), (6, 20)] {
        for length in 0..least {
            let tiny = fragment(base().ip(protocol, &vec![0; length]), 0x2000);
            refused(&tiny, DropReason::FragTiny);
        }
        let enough = fragment(base().ip(protocol, &vec![0x55; least]), 0x2000);
        assert!(is_first(ip4(&enough.bytes)), "{protocol}");
    }
    // P26: 8,190 * 8 + 12 bytes end past the longest datagram's last byte.
    refused(&fragment(udp(), 0x1fff), DropReason::FragToolong);
    // P28: DF with MF is what its bits say; the reserved bit alone is no fragment.
    let both = ip4(&fragment(udp(), 0x6000).bytes);
    assert!(is_first(both) && both.dont_fragment);
    assert_eq!(ip4(&fragment(udp(), 0x8000).bytes).fragment, Fragment::None);
}

#[test]
fn p43_p49_p50_p52_l4_headers_are_reported_not_judged() {
    let l4 = |frame: Frame| ip4(&frame.bytes).l4;
    let tcp = base().tcp(0, 2, TcpFlags::SYN, &[]);
    let flags = TcpFlags::SYN;
    assert_eq!(
        l4(tcp.clone()),
        L4::Tcp {
            source: 0,
            destination: 2,
            flags,
            sequence: 0x100,
            acknowledgment: 0x200,
        }
    );
    assert_eq!(
        l4(tcp.clone().with(46, [0x40])),
        L4::Malformed(DropReason::TcpBad)
    );
    assert_eq!(l4(tcp.with(46, [0x60])), L4::Malformed(DropReason::TcpBad));
    assert_eq!(
        l4(base().ip(6, &[0; 19])),
        L4::Malformed(DropReason::TcpBad)
    );
    assert_eq!(
        l4(base().ip(17, &[0; 7])),
        L4::Malformed(DropReason::UdpLen)
    );
    assert_eq!(
        l4(udp().with(38, [0, 7])),
        L4::Malformed(DropReason::UdpLen)
    );
    assert_eq!(
        l4(udp().with(38, [0, 13])),
        L4::Malformed(DropReason::UdpLen)
    );
    assert_eq!(
        l4(base().udp(9, 0, &[])),
        L4::Udp {
            source: 9,
            destination: 0
        }
    );
    assert_eq!(
        l4(base().ip(1, &[8, 0, 0])),
        L4::Malformed(DropReason::IcmpBad)
    );
    assert_eq!(l4(base().ip(47, &[])), L4::Other);
    assert_eq!(l4(base().echo(true, 77, b"x")), L4::EchoRequest { id: 77 });
    assert_eq!(l4(base().echo(false, 77, b"x")), L4::EchoReply { id: 77 });
    assert_eq!(l4(base().icmp(13, 0, 0, &[])), L4::IcmpOther);
    assert_eq!(
        l4(base().icmp(5, 0, 0, &[])),
        L4::IcmpError(ErrorKind::Redirect)
    );
}

#[test]
fn p44_flag_nonsense() {
    let (fin, syn, rst) = (TcpFlags::FIN, TcpFlags::SYN, TcpFlags::RST);
    let (psh, ack, urg) = (TcpFlags::PSH, TcpFlags::ACK, TcpFlags::URG);
    for bad in [
        TcpFlags(0),
        psh,
        fin,
        fin.and(psh).and(urg),
        syn.and(fin),
        syn.and(fin).and(ack),
        syn.and(rst),
        fin.and(rst).and(ack),
        TcpFlags(0x3f),
    ] {
        assert!(bad.is_nonsense(), "{bad:?}");
    }
    for good in [
        syn,
        syn.and(ack),
        ack,
        fin.and(ack),
        rst,
        rst.and(ack),
        psh.and(ack),
        urg.and(ack),
    ] {
        assert!(!good.is_nonsense(), "{good:?}");
    }
}

#[test]
fn a_packet_over_several_chunks_is_read_from_its_first() {
    let long = base().udp(5, 6, &[7; 4000]);
    let Ok(Parsed::Ip(packet)) = parse(&long.bytes[..200], long.bytes.len()) else {
        panic!("not read");
    };
    assert_eq!(packet.frame_length, long.bytes.len());
    assert_eq!(
        packet.l4,
        L4::Udp {
            source: 5,
            destination: 6
        }
    );
    assert_eq!(
        parse(&long.bytes[..200], long.bytes.len() - 1),
        Err(DropReason::Ip4Len)
    );
}

#[test]
fn p56_p59_p60_quotes() {
    let inner = Base::new(Ipv4Addr::new(10, 0, 0, 6), Ipv4Addr::new(8, 8, 8, 8));
    let inner = inner.udp(4000, 53, b"question");
    let error = |body: &[u8]| base().icmp(3, 3, 0, body);
    let ask = |frame: &Frame| quote(&frame.bytes, &ip4(&frame.bytes));

    let good = ask(&error(&inner.bytes[14..42])).unwrap();
    assert_eq!(good.source, Ipv4Addr::new(10, 0, 0, 6));
    assert_eq!(good.destination, Ipv4Addr::new(8, 8, 8, 8));
    assert_eq!(
        good.l4,
        QuotedL4::Ports {
            source: 4000,
            destination: 53
        }
    );
    assert_eq!((good.ip_offset, good.l4_offset), (42, 62));

    assert_eq!(
        ask(&error(&inner.bytes[14..41])),
        Err(DropReason::IcmpInner)
    );
    assert_eq!(ask(&error(&[])), Err(DropReason::IcmpInner));
    let wrong = error(&inner.bytes[14..42]).with(36, [1, 2]);
    assert_eq!(ask(&wrong), Err(DropReason::IcmpCsum));
    let foreign = base().udp(4000, 53, b"question");
    assert_eq!(
        ask(&error(&foreign.bytes[14..42])),
        Err(DropReason::IcmpInner)
    );
    let later = inner.with(20, [0, 1]).seal();
    assert_eq!(
        ask(&error(&later.bytes[14..42])),
        Err(DropReason::IcmpInner)
    );
}
