//! ICMPv6 errors: what they quote, and those we write.

#![expect(clippy::panic, reason = "a failed test panics")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::icmp::{self, Envelope, Error, QuotedL4, build_error, quote};
use penstock_packet::{DropReason, ErrorKind, Ip, L4, Parsed, parse};

const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 5);
const PEER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Offset of an ICMPv6 message right behind the IPv6 header, and of what it quotes.
const MESSAGE: usize = 54;
const INNER: usize = 62;

#[track_caller]
fn read(frame: &Frame) -> Ip {
    match parse(&frame.bytes, frame.bytes.len()) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn pod() -> Base6 {
    Base6::new(POD, PEER)
}

/// An error from the router to the pod, about `inner` without its Ethernet header.
fn about(inner: &[u8]) -> Frame {
    Base6::new(ROUTER, POD).icmp(2, 0, 1280, inner)
}

fn ask(frame: &Frame) -> Result<icmp::Quote, DropReason> {
    quote(&frame.bytes, &read(frame))
}

#[test]
fn quotes_are_read() {
    let sent = pod().udp(4000, 53, b"question");
    let quoted = ask(&about(&sent.bytes[14..62])).unwrap();
    assert_eq!(quoted.source, IpAddr::V6(POD));
    assert_eq!(quoted.destination, IpAddr::V6(PEER));
    assert_eq!((quoted.ip_offset, quoted.l4_offset), (INNER, INNER + 40));
    let ports = QuotedL4::Ports {
        source: 4000,
        destination: 53,
    };
    assert_eq!((quoted.protocol, quoted.l4), (17, ports));

    let behind = pod().udp(4000, 53, b"question").extension(60, &[]);
    let quoted = ask(&about(&behind.bytes[14..])).unwrap();
    assert_eq!((quoted.l4_offset, quoted.l4), (INNER + 48, ports));

    let id = 9;
    let echo = |request| ask(&about(&pod().echo(request, id, b"").bytes[14..])).unwrap();
    assert_eq!(echo(true).l4, QuotedL4::EchoRequest { id });
    assert_eq!(echo(false).l4, QuotedL4::EchoReply { id });
    let other = pod().ip(47, &[0; 8]);
    assert_eq!(ask(&about(&other.bytes[14..])).unwrap().l4, QuotedL4::Other);
    let first = pod().udp(4000, 53, b"question").fragment(1, 0, true);
    assert_eq!(ask(&about(&first.bytes[14..])).unwrap().l4, ports);
}

#[test]
fn p56_p59_p60_quotes_nobody_may_believe() {
    let sent = pod().udp(4000, 53, b"question");
    let inner = |frame: &Frame| ask(&about(&frame.bytes[14..]));
    let bad = about(&sent.bytes[14..]).with(MESSAGE + 2, [1, 2]);
    assert_eq!(ask(&bad), Err(DropReason::IcmpCsum));
    for length in 0..48 {
        let cut = ask(&about(&sent.bytes[14..14 + length]));
        assert_eq!(cut, Err(DropReason::IcmpInner), "{length}");
    }
    let foreign = Base6::new(PEER, POD).udp(1, 2, b"foreign");
    assert_eq!(inner(&foreign), Err(DropReason::IcmpInner));
    let later = sent.clone().fragment(1, 8, true);
    assert_eq!(inner(&later), Err(DropReason::IcmpInner));
    let nested = (0..9).fold(sent.clone(), |frame, _| frame.extension(60, &[]));
    assert_eq!(inner(&nested), Err(DropReason::IcmpInner));
    let v4 = Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(8, 8, 8, 8)).udp(1, 2, &[0; 40]);
    assert_eq!(inner(&v4), Err(DropReason::IcmpInner));
    // Over several chunks the checksum cannot be checked.
    let long = about(&sent.bytes[14..]);
    let packet = read(&long);
    let cut = quote(&long.bytes[..long.bytes.len() - 1], &packet);
    assert_eq!(cut, Err(DropReason::IcmpCsum));
}

const ENVELOPE: Envelope = Envelope {
    source_mac: [2, 0, 0, 0, 0, 7],
    destination_mac: [2, 0, 0, 0, 0, 8],
    source: IpAddr::V6(ROUTER),
};

fn built(error: Error, offender: &Frame) -> Frame {
    let mut out = vec![0xaa; icmp::MAX_ERROR];
    let packet = read(offender);
    let length = build_error(&mut out, error, &ENVELOPE, &offender.bytes, &packet);
    let Some(length) = length else {
        panic!("nothing built");
    };
    out.truncate(length);
    Frame { bytes: out }
}

#[test]
fn types_codes_and_mtu_of_errors() {
    let offender = pod().udp(1, 2, b"x");
    for (error, header, kind) in [
        (
            Error::TimeExceeded,
            [3, 0, 0, 0, 0, 0],
            ErrorKind::TimeExceeded,
        ),
        (
            Error::HostUnreachable,
            [1, 3, 0, 0, 0, 0],
            ErrorKind::Unreachable,
        ),
        (
            Error::TooBig { mtu: 9001 },
            [2, 0, 0, 0, 0x23, 0x29],
            ErrorKind::TooBig,
        ),
        (
            Error::Prohibited,
            [1, 1, 0, 0, 0, 0],
            ErrorKind::Unreachable,
        ),
    ] {
        let frame = built(error, &offender);
        let message = &frame.bytes[MESSAGE..];
        assert_eq!([&message[..2], &message[4..8]].concat(), header);
        assert_eq!(read(&frame).l4, L4::IcmpError(kind));
    }
}

#[test]
fn built_errors_are_valid_and_quote_the_offender() {
    for payload in [0, 1, 7, 100, 1183, 1184, 1185, 1186, 5000] {
        let offender = pod().udp(4000, 53, &vec![0x5a; payload]);
        let frame = built(Error::TimeExceeded, &offender);
        assert!(frame.is_sealed(), "{payload}");
        let packet = read(&frame);
        assert_eq!(packet.source, IpAddr::V6(ROUTER));
        assert_eq!(packet.destination, IpAddr::V6(POD));
        assert_eq!(frame.bytes[..12], [2, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 7]);
        // As much as fits the least MTU, and not a byte more.
        let quoted = offender.bytes.len().min(14 + 1280 - 48) - 14;
        assert_eq!(frame.bytes.len(), INNER + quoted, "{payload}");
        assert_eq!(frame.bytes[INNER..], offender.bytes[14..14 + quoted]);
        let read_back = quote(&frame.bytes, &packet).unwrap();
        assert_eq!(read_back.destination, IpAddr::V6(PEER));
    }
}

#[test]
fn a_trailer_is_not_quoted() {
    let mut offender = pod().udp(1, 2, b"x");
    let length = offender.bytes.len();
    offender.bytes.extend_from_slice(&[0xee; 20]);
    let frame = built(Error::Prohibited, &offender);
    assert_eq!(frame.bytes.len(), INNER + length - 14);
}

#[test]
fn families_do_not_mix_and_room_is_asked_for() {
    let offender = pod().udp(1, 2, b"x");
    let packet = read(&offender);
    let mut out = vec![0; icmp::MAX_ERROR];
    let v4 = Envelope {
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
        ..ENVELOPE
    };
    let error = Error::TimeExceeded;
    assert_eq!(
        build_error(&mut out, error, &v4, &offender.bytes, &packet),
        None
    );
    out.pop();
    assert_eq!(
        build_error(&mut out, error, &ENVELOPE, &offender.bytes, &packet),
        None
    );
}
