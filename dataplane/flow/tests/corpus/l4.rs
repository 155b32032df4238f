//! P42 to P53 and P78: L4 headers, which matter only where they are translated.

use penstock_flow::{OutIf, TcpState, UplinkId};
use penstock_packet::DropReason::{self, *};
use penstock_packet::TcpFlags;
use penstock_packet::build::{Base, Frame};

use crate::node::*;
use crate::row::Fate::{Drop, Forward};
use crate::row::{Row, Side, run, sides};

const ONE_FLOW: &[(&str, i64)] = &[("flows", 1), ("flows_created", 1)];
const ONE_SNAT: &[(&str, i64)] = &[
    ("flows", 1),
    ("flows_created", 1),
    ("snat_ports", 1),
    ("translated", 1),
];
const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const SYN_ACK: TcpFlags = TcpFlags(0x12);
const RST: TcpFlags = TcpFlags::RST;
const OUT: OutIf = OutIf::Uplink(UplinkId(0));

type Build = fn(Base) -> Frame;

/// What a header is untranslated: forwarded, with a flow left behind or without.
#[derive(Clone, Copy)]
enum Leaves {
    Flow,
    Nothing,
}
use Leaves::{Flow, Nothing};

#[test]
fn headers_are_judged_where_they_are_translated() {
    let table: [(&str, Build, DropReason, Leaves); 16] = [
        ("P42 SCTP", |b| b.ip(132, &[0; 16]), NatProto, Flow),
        ("P42 GRE", |b| b.ip(47, &[0; 8]), NatProto, Flow),
        ("P42 no payload at all", |b| b.ip(253, &[]), NatProto, Flow),
        ("P43 TCP cut", |b| b.ip(6, &[0; 19]), TcpBad, Nothing),
        (
            "P43 TCP data offset under 5",
            |b| b.tcp(1, 2, SYN, &[]).with(46, [0x40]),
            TcpBad,
            Nothing,
        ),
        (
            "P43 TCP data offset past the segment",
            |b| b.tcp(1, 2, SYN, &[]).with(46, [0x60]),
            TcpBad,
            Nothing,
        ),
        (
            "P44 TCP null",
            |b| b.tcp(1, 2, TcpFlags(0), &[]),
            TcpFlags_,
            Nothing,
        ),
        (
            "P44 TCP xmas",
            |b| b.tcp(1, 2, TcpFlags(0x29), &[]),
            TcpFlags_,
            Nothing,
        ),
        (
            "P44 TCP SYN and FIN",
            |b| b.tcp(1, 2, TcpFlags(0x03), &[]),
            TcpFlags_,
            Nothing,
        ),
        (
            "P44 TCP SYN and RST",
            |b| b.tcp(1, 2, TcpFlags(0x06), &[]),
            TcpFlags_,
            Nothing,
        ),
        (
            "P45 TCP without SYN",
            |b| b.tcp(1, 2, ACK, b"x"),
            NatNonsyn,
            Flow,
        ),
        (
            "P45 TCP SYN and ACK",
            |b| b.tcp(1, 2, SYN_ACK, b""),
            NatNonsyn,
            Flow,
        ),
        ("P45 TCP RST", |b| b.tcp(1, 2, RST, b""), NatNonsyn, Nothing),
        (
            "P49 UDP length under 8",
            |b| b.udp(1, 2, b"x").with(38, [0, 7]),
            UdpLen,
            Nothing,
        ),
        (
            "P49 UDP length past the packet",
            |b| b.udp(1, 2, b"x").with(38, [0, 10]),
            UdpLen,
            Nothing,
        ),
        ("P52 TCP port 0", |b| b.tcp(1, 0, SYN, b""), NatPort0, Flow),
    ];
    let mut rows = Vec::new();
    for (text, build, reason, leaves) in table {
        let moves = match leaves {
            Flow => ONE_FLOW,
            Nothing => &[],
        };
        let row = |path: &str| Row::new(format!("{text}, {path}"));
        let translated = build(from_pod(0, OUTSIDE));
        rows.push(row("translated").packet(translated, TRUNK, Drop(reason)));
        let out = build(from_pod(0, PEER));
        let same = hop_over(&out, gateway_mac(0), eni_mac(0));
        rows.push(
            row("from a pod")
                .packet(out, TRUNK, Forward(OUT))
                .out(same)
                .moves(moves),
        );
        let back = build(from_eni(0, PEER, PODS[0]));
        let same = hop_over(&back, pod_mac(0), host_mac(0));
        rows.push(
            row("from the wire")
                .packet(back, ETH0, Forward(OutIf::Endpoint))
                .out(same)
                .moves(moves),
        );
    }
    for source in [0, 1] {
        let frame = from_pod(0, OUTSIDE).udp(source, 1 - source, b"x");
        rows.push(Row::new("P52 UDP port 0, translated").packet(frame, TRUNK, Drop(NatPort0)));
    }
    run(rows);
}

use DropReason::TcpFlags as TcpFlags_;

/// One hop on, with the L4 part as it is: nobody mends what is wrong in it.
fn hop_over(frame: &Frame, destination: [u8; 6], source: [u8; 6]) -> Frame {
    let sealed = hop(frame, destination, source);
    let mut bytes = sealed.bytes;
    bytes[34..].copy_from_slice(&frame.bytes[34..]);
    Frame { bytes }
}

/// The words an incremental update keeps: how far a checksum is off.
fn error(frame: &Frame, at: usize) -> u16 {
    let word = |frame: &Frame| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
    let (sent, right) = (word(frame), word(&frame.clone().seal()));
    let difference = u32::from(sent) + u32::from(!right);
    (difference & 0xffff) as u16 + (difference >> 16) as u16
}

#[test]
fn checksums_and_odd_but_legal_headers() {
    let mut rows = Vec::new();
    for (text, frame, at) in [
        (
            "P47 bad UDP checksum",
            from_pod(0, OUTSIDE).udp(1, 2, b"x").with(40, [0x12, 0x34]),
            40,
        ),
        (
            "P47 bad TCP checksum",
            from_pod(0, OUTSIDE)
                .tcp(1, 2, SYN, b"x")
                .with(50, [0x12, 0x34]),
            50,
        ),
    ] {
        let before = error(&frame, at);
        assert_ne!(before, 0);
        rows.push(
            Row::new(format!("{text}, translated"))
                .packet(frame, TRUNK, Forward(OUT))
                .check(move |_, outs| assert_eq!(error(&outs[0], at), before, "as wrong as before"))
                .moves(ONE_SNAT),
        );
    }
    for family in [4, 6] {
        for Side {
            name: side,
            plain,
            ingress,
            forward,
            hop,
        } in sides(family)
        {
            let l4 = plain.l4_offset();
            let row = |text: &str| Row::new(format!("{text}, IPv{family}, {side}"));
            let zero = plain.clone().with(l4 + 6, [0, 0]);
            let out = hop(&plain).with(l4 + 6, [0, 0]);
            rows.push(
                row("P51 P78 UDP checksum 0")
                    .packet(zero, ingress, forward)
                    .out(out)
                    .moves(ONE_FLOW),
            );
            let mut bytes = plain.bytes;
            bytes.truncate(l4 + 8);
            let empty = Frame { bytes }.fit().with(l4 + 4, [0, 8]).seal();
            let out = hop(&empty);
            rows.push(
                row("P50 empty UDP")
                    .packet(empty, ingress, forward)
                    .out(out)
                    .moves(ONE_FLOW),
            );
        }
    }
    rows.push(
        Row::new("P51 UDP checksum 0, translated")
            .packet(
                from_pod(0, OUTSIDE).udp(1, 2, b"x").with(40, [0, 0]),
                TRUNK,
                Forward(OUT),
            )
            .check(|_, outs| assert_eq!(outs[0].bytes[40..42], [0, 0]))
            .moves(ONE_SNAT),
    );
    rows.push(
        Row::new("P50 empty UDP, translated")
            .packet(from_pod(0, OUTSIDE).udp(1, 2, b""), TRUNK, Forward(OUT))
            .moves(ONE_SNAT),
    );
    for options in [[2, 0, 0, 0], [2, 9, 0, 0], [2, 1, 5, 0xb4]] {
        let frame = from_pod(0, OUTSIDE)
            .tcp(1, 2, SYN, &options)
            .with(46, [0x60])
            .seal();
        rows.push(
            Row::new("P53 malformed TCP options, translated")
                .packet(frame, TRUNK, Forward(OUT))
                .check(move |_, outs| assert_eq!(outs[0].bytes[54..58], options))
                .moves(ONE_SNAT),
        );
    }
    run(rows);
}

/// P44 on an open conversation: dropped where translated, and nothing changes.
#[test]
fn p44_nonsense_changes_no_conversation() {
    let mut rows = Vec::new();
    for flags in (0..64).map(TcpFlags).filter(|flags| flags.is_nonsense()) {
        let nonsense = from_pod(0, OUTSIDE).tcp(1, 2, flags, b"");
        rows.push(
            open("P44 on an open conversation")
                .packet(nonsense, TRUNK, Drop(TcpFlags_))
                .state(TcpState::Established)
                .moves(&[
                    ("flows", 1),
                    ("flows_created", 1),
                    ("snat_ports", 1),
                    ("translated", 3),
                ]),
        );
    }
    run(rows);
}

/// An established translated conversation of pod port 1 with outside port 2.
pub(crate) fn open(name: &str) -> Row {
    Row::new(name)
        .packet(
            from_pod(0, OUTSIDE).tcp(1, 2, SYN, b""),
            TRUNK,
            Forward(OUT),
        )
        .then(|outs| reply(outs, SYN_ACK), ETH0, Forward(OutIf::Endpoint))
        .packet(
            from_pod(0, OUTSIDE).tcp(1, 2, ACK, b""),
            TRUNK,
            Forward(OUT),
        )
        .state(TcpState::Established)
}

/// A segment from outside port 2 to the conversation that the first packet opened.
pub(crate) fn reply(outs: &[Frame], flags: TcpFlags) -> Frame {
    let port = names(&outs[0]).2;
    from_eni(0, OUTSIDE, NODE).tcp(2, port, flags, b"")
}
