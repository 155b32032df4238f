//! Every malformed IPv6 packet the parser must name, and what it reads of the others.

#![expect(clippy::panic, reason = "a failed test panics")]

use std::net::{IpAddr, Ipv6Addr};

use penstock_packet::build::{Base6, Frame};
use penstock_packet::{
    DropReason, ErrorKind, Fragment, Ip, L4, Neighbor, NeighborKind, Parsed, Piece, TcpFlags,
    frame_length, is_martian_source6, neighbor, parse,
};

const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 5);
const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

/// [fd00::1]:1000 -> [fd00::2]:53, UDP, payload "abcd"; checksum by an independent tool.
const UDP: [u8; 66] = [
    0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x86, 0xdd, // Ethernet
    0x60, 0, 0, 0, 0, 12, 17, 64, // IPv6
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, // source
    0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, // destination
    0x03, 0xe8, 0, 53, 0, 12, 0x3c, 0xee, b'a', b'b', b'c', b'd', // UDP
];

/// Offset of the first byte behind the fixed header.
const BEHIND: usize = 54;

fn base() -> Base6 {
    Base6::new(POD, PEER)
}

fn udp() -> Frame {
    base().udp(1000, 53, b"abcd")
}

fn whole(bytes: &[u8]) -> Result<Parsed, DropReason> {
    parse(bytes, bytes.len())
}

#[track_caller]
fn read(frame: &Frame) -> Ip {
    match whole(&frame.bytes) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(frame: &Frame, reason: DropReason) {
    assert_eq!(whole(&frame.bytes), Err(reason));
}

const PORTS: L4 = L4::Udp {
    source: 1000,
    destination: 53,
};

#[test]
fn a_plain_datagram_is_read_right() {
    let frame = Frame {
        bytes: UDP.to_vec(),
    };
    assert_eq!(
        read(&frame),
        Ip {
            frame_length: 66,
            l4_offset: 54,
            source: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
            destination: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
            protocol: 17,
            ttl: 64,
            dont_fragment: true,
            has_options: false,
            fragment: Fragment::None,
            l4: PORTS,
        }
    );
    assert_eq!(read(&frame).ip_length(), 52);
    assert_eq!(frame_length(&UDP), 66);
    assert!(frame.is_sealed(), "the literal's checksum");
    assert_eq!(frame.clone().seal(), frame, "the builder computes the same");
}

#[test]
fn p11_version() {
    refused(&udp().with(14, [0x45]), DropReason::IpVersion);
    refused(&udp().with(14, [0x50]), DropReason::IpVersion);
    refused(&udp().with(12, [0x08, 0x00]), DropReason::IpVersion);
}

#[test]
fn p15_trailers_are_cut() {
    let mut bytes = UDP.to_vec();
    bytes.resize(90, 0xee);
    assert_eq!(whole(&bytes), whole(&UDP));
    assert_eq!(frame_length(&bytes), 66);
}

#[test]
fn p63_cut_headers_and_lying_lengths() {
    for length in 14..54 {
        assert_eq!(whole(&UDP[..length]), Err(DropReason::Ip6Short), "{length}");
    }
    for length in 54..66 {
        assert_eq!(whole(&UDP[..length]), Err(DropReason::Ip6Len), "{length}");
    }
    refused(&udp().with(18, [0, 13]), DropReason::Ip6Len);
    refused(&udp().with(18, [0xff, 0xff]), DropReason::Ip6Len);
    // In pieces, the frame's own length decides.
    assert!(parse(&UDP[..60], 66).is_ok());
}

#[test]
fn p64_jumbo_payload() {
    let jumbo = udp().extension(0, &[0xc2, 4, 0, 1, 0, 0]);
    refused(&jumbo.clone().with(18, [0, 0]), DropReason::Ip6Jumbo);
    refused(&jumbo, DropReason::Ip6Jumbo);
    // Payload length 0 and no jumbo: extension headers that are not there.
    let padded = udp().extension(0, &[1, 4, 0, 0, 0, 0]);
    refused(&padded.clone().with(18, [0, 0]), DropReason::Ip6Ext);
    let destination = udp().extension(60, &[0xc2, 4, 0, 1, 0, 0]);
    refused(&destination.with(18, [0, 0]), DropReason::Ip6Ext);
    assert!(read(&padded).has_options);
    assert_eq!(read(&base().ip(59, &[])).l4, L4::Other);
}

#[test]
fn p66_too_many_too_long_and_cut_extension_headers() {
    let chain = |headers: usize| (0..headers).fold(udp(), |frame, _| frame.extension(60, &[]));
    let most = read(&chain(8));
    assert_eq!((most.l4_offset, most.l4), (BEHIND + 64, PORTS));
    assert!(most.has_options);
    refused(&chain(9), DropReason::Ip6Ext);

    let long = |bytes: usize| udp().extension(60, &vec![0; bytes - 2]);
    assert_eq!(read(&long(256)).l4_offset, BEHIND + 256);
    refused(&long(264), DropReason::Ip6Ext);

    // Longer than the packet, and with no room for even its own length.
    refused(&udp().extension(60, &[]).with(55, [3]), DropReason::Ip6Ext);
    for left in 0..8 {
        refused(&base().ip(60, &vec![0; left]), DropReason::Ip6Ext);
    }
    // A whole chain whose packet goes on in another chunk is read; a chain that does is not.
    let frame = chain(2);
    assert!(parse(&frame.bytes[..BEHIND + 24], frame.bytes.len()).is_ok());
    let cut = parse(&frame.bytes[..BEHIND + 15], frame.bytes.len());
    assert_eq!(cut, Err(DropReason::Ip6Ext));
}

#[test]
fn p66_malformed_hop_by_hop_options() {
    refused(&udp().extension(0, &[5, 9, 0, 0, 0, 0]), DropReason::Ip6Ext);
    refused(&udp().extension(0, &[1, 3, 0, 0, 0, 5]), DropReason::Ip6Ext);
    // Router alert, as in MLD.
    assert!(read(&udp().extension(0, &[5, 2, 0, 0, 1, 0])).has_options);
}

#[test]
fn p67_hop_by_hop_must_be_first() {
    let frame = udp().extension(0, &[]).extension(60, &[]);
    refused(&frame, DropReason::Ip6Ext);
    refused(
        &udp().extension(0, &[]).extension(0, &[]),
        DropReason::Ip6Ext,
    );
    assert_eq!(read(&udp().extension(60, &[]).extension(0, &[])).l4, PORTS);
}

#[test]
fn p68_routing_header_0() {
    refused(&udp().extension(43, &[0, 1]), DropReason::Ip6Rh0);
    refused(&udp().extension(43, &[0, 0]), DropReason::Ip6Rh0);
    let segment = read(&udp().extension(43, &[4, 0]));
    assert_eq!((segment.l4, segment.has_options), (PORTS, true));
}

#[test]
fn authentication_headers_count_in_words() {
    let mut header = vec![17, 4];
    header.resize(24, 0);
    header.extend_from_slice(&udp().bytes[BEHIND..]);
    let packet = read(&base().ip(51, &header));
    assert_eq!((packet.l4_offset, packet.l4), (BEHIND + 24, PORTS));
}

#[test]
fn p69_first_fragments_hold_the_whole_chain() {
    for (protocol, least) in [(6, 20), (17, 8), (58, 8)] {
        for length in (0..least).step_by(8) {
            let tiny = base().ip(protocol, &vec![0; length]).fragment(1, 0, true);
            refused(&tiny, DropReason::FragNochain);
        }
        let enough = base().ip(protocol, &[0x55; 24]).fragment(1, 0, true);
        assert!(matches!(read(&enough).fragment, Fragment::First(_)));
    }
    let cut = base().ip(60, &[17, 1, 0, 0, 0, 0, 0, 0]);
    refused(&cut.fragment(1, 0, true), DropReason::FragNochain);
}

#[test]
fn fragments_say_where_they_belong() {
    let body = base().udp(1000, 53, &[7; 16]);
    let first = read(&body.clone().fragment(0xdead_beef, 0, true));
    let piece = Piece {
        id: 0xdead_beef,
        offset: 0,
        length: 24,
        more: true,
    };
    assert_eq!((first.fragment, first.l4), (Fragment::First(piece), PORTS));
    assert_eq!((first.l4_offset, first.has_options), (BEHIND + 8, false));

    let later = read(&body.clone().fragment(0xdead_beef, 1448, false));
    let last = Piece {
        offset: 1448,
        more: false,
        ..piece
    };
    assert_eq!(
        (later.fragment, later.l4),
        (Fragment::Later(last), L4::Other)
    );
    assert_eq!(later.protocol, 17);
    // What follows a later fragment's header is data, whatever it looks like.
    let data = read(&base().ip(43, &[0; 8]).fragment(1, 8, false));
    assert_eq!((data.protocol, data.l4), (43, L4::Other));
    // In front of a fragment header there may be others.
    let behind = read(&body.fragment(1, 0, true).extension(60, &[]));
    assert!(behind.has_options && matches!(behind.fragment, Fragment::First(_)));
}

#[test]
fn fragments_within_fragments_are_refused() {
    refused(
        &udp().fragment(1, 0, false).fragment(2, 0, false),
        DropReason::Ip6Ext,
    );
}

#[test]
fn p26_p72_lengths_of_fragments() {
    let odd = base().udp(1, 2, &[0; 13]);
    refused(&odd.clone().fragment(1, 0, true), DropReason::FragLen);
    refused(&odd.clone().fragment(1, 64, true), DropReason::FragLen);
    assert!(matches!(
        read(&odd.clone().fragment(1, 64, false)).fragment,
        Fragment::Later(_)
    ));
    let end = |frame: Frame| frame.fragment(1, 65_528, false);
    refused(&end(base().ip(17, &[0; 8])), DropReason::FragToolong);
    assert!(whole(&end(base().ip(17, &[0; 7])).bytes).is_ok());
}

#[test]
fn p71_atomic_fragments_are_whole_datagrams() {
    let atomic = read(&udp().fragment(77, 0, false));
    assert_eq!(atomic.fragment, Fragment::None);
    assert_eq!((atomic.l4, atomic.has_options), (PORTS, false));
    assert_eq!(atomic.l4_offset, BEHIND + 8);
}

#[test]
fn l4_headers_are_reported_not_judged() {
    let l4 = |frame: Frame| read(&frame).l4;
    assert_eq!(
        l4(base().tcp(1, 2, TcpFlags::SYN, &[])),
        L4::Tcp {
            source: 1,
            destination: 2,
            flags: TcpFlags::SYN,
            sequence: 0x100,
            acknowledgment: 0x200,
        }
    );
    assert_eq!(l4(base().echo(true, 7, b"x")), L4::EchoRequest { id: 7 });
    assert_eq!(l4(base().echo(false, 7, b"x")), L4::EchoReply { id: 7 });
    for (kind, meant) in [
        (1, ErrorKind::Unreachable),
        (2, ErrorKind::TooBig),
        (3, ErrorKind::TimeExceeded),
        (4, ErrorKind::ParameterProblem),
    ] {
        assert_eq!(l4(base().icmp(kind, 0, 0, &[])), L4::IcmpError(meant));
    }
    for (kind, meant) in [
        (133, NeighborKind::RouterSolicitation),
        (134, NeighborKind::RouterAdvertisement),
        (135, NeighborKind::Solicitation),
        (136, NeighborKind::Advertisement),
        (137, NeighborKind::Redirect),
    ] {
        assert_eq!(l4(base().icmp(kind, 0, 0, &[])), L4::Neighbor(meant));
    }
    for kind in [0, 5, 127, 130, 143, 255] {
        assert_eq!(l4(base().icmp(kind, 0, 0, &[])), L4::IcmpOther, "{kind}");
    }
    let cut = |protocol, length| l4(base().ip(protocol, &vec![0; length]));
    assert_eq!(cut(6, 19), L4::Malformed(DropReason::TcpBad));
    assert_eq!(cut(17, 7), L4::Malformed(DropReason::UdpLen));
    assert_eq!(cut(58, 7), L4::Malformed(DropReason::IcmpBad));
    // ICMP is IPv4's and ICMPv6 is IPv6's.
    assert_eq!(cut(1, 8), L4::Other);
}

#[test]
fn p73_martian_sources() {
    for bad in ["::", "::1", "ff02::1", "::ffff:10.0.0.1"] {
        assert!(is_martian_source6(bad.parse().unwrap()), "{bad}");
    }
    for good in ["fd00::1", "fe80::1", "2001:db8::1", "64:ff9b::a00:1"] {
        assert!(!is_martian_source6(good.parse().unwrap()), "{good}");
    }
}

/// A message of neighbor discovery: the target's octets, or nothing, and options.
fn discovery(kind: u8, fixed: &[u8], options: &[u8]) -> Frame {
    base()
        .hop_limit(255)
        .icmp(kind, 0, 0, &[fixed, options].concat())
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SOURCE_MAC: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 9];
const TARGET_MAC: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 9];

#[test]
fn p75_what_neighbors_claim() {
    let claimed = |frame: &Frame| neighbor(&frame.bytes, &read(frame));
    let target = PEER.octets();
    let solicitation = Neighbor {
        kind: NeighborKind::Solicitation,
        target: Some(PEER),
        mac: Some(MAC),
    };
    let asks = discovery(135, &target, &SOURCE_MAC);
    assert_eq!(claimed(&asks), Ok(solicitation));
    let mac = None;
    assert_eq!(
        claimed(&discovery(135, &target, &TARGET_MAC)),
        Ok(Neighbor {
            mac,
            ..solicitation
        })
    );
    assert_eq!(
        claimed(&discovery(136, &target, &TARGET_MAC)),
        Ok(Neighbor {
            kind: NeighborKind::Advertisement,
            ..solicitation
        })
    );
    // An option of another kind first.
    let two = [&[14, 1, 0, 0, 0, 0, 0, 0], &SOURCE_MAC[..]].concat();
    assert_eq!(
        claimed(&discovery(133, &[], &two)),
        Ok(Neighbor {
            kind: NeighborKind::RouterSolicitation,
            target: None,
            mac: Some(MAC),
        })
    );
    assert_eq!(
        claimed(&discovery(134, &[0; 8], &SOURCE_MAC)).map(|it| it.mac),
        Ok(Some(MAC))
    );
    let redirect = claimed(&discovery(137, &[target, target].concat(), &TARGET_MAC));
    assert_eq!(redirect.map(|it| it.target), Ok(Some(PEER)));
}

#[test]
fn p75_neighbors_nobody_may_believe() {
    let refused = |frame: &Frame| {
        let answer = neighbor(&frame.bytes, &read(frame));
        assert_eq!(answer, Err(DropReason::SpoofNd), "{frame:?}");
    };
    let target = PEER.octets();
    let good = discovery(135, &target, &SOURCE_MAC);
    refused(&good.clone().with(21, [254]));
    refused(&good.clone().with(BEHIND + 1, [1]).seal());
    refused(&good.fragment(1, 0, true));
    refused(&discovery(135, &target[..15], &[]));
    refused(&discovery(135, &target, &[1, 0, 0, 0, 0, 0, 0, 0]));
    refused(&discovery(135, &target, &[1, 2, 0, 0, 0, 0, 0, 0]));
    refused(&discovery(135, &target, &[1]));
    refused(&udp());
}
