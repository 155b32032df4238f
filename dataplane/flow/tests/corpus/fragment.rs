//! P21 to P28 and P69 to P72: fragments of both families.

use penstock_packet::DropReason::*;
use penstock_packet::TcpFlags;
use penstock_packet::build::Frame;

use crate::node::*;
use crate::row::Fate::{self, Drop};
use crate::row::{Row, Side, run, sides};

/// The frame as a piece of an IPv4 datagram.
fn piece(frame: Frame, offset: u16, more: bool) -> Frame {
    let field = (offset / 8) | if more { 0x2000 } else { 0 };
    frame.with(20, field.to_be_bytes()).seal()
}

fn cut(frame: Frame, length: usize) -> Frame {
    Frame {
        bytes: frame.bytes[..length].to_vec(),
    }
    .fit()
    .seal()
}

#[test]
fn ip4_rows_hold() {
    let mut rows = Vec::new();
    for Side {
        name: side,
        plain,
        ingress,
        forward,
        ..
    } in sides(4)
    {
        let tcp = match ingress {
            TRUNK => from_pod(0, PEER).tcp(1, 2, TcpFlags::SYN, b"abcdefgh"),
            _ => from_eni(0, PEER, PODS[0]).tcp(1, 2, TcpFlags::SYN, b"abcdefgh"),
        };
        let table: [(&str, Frame, Fate); 10] = [
            ("P21 first fragment", piece(plain.clone(), 0, true), forward),
            (
                "P22 middle fragment",
                piece(plain.clone(), 16, true),
                forward,
            ),
            (
                "P22 last fragment",
                piece(plain.clone(), 16, false),
                forward,
            ),
            (
                "P23 first with 7 bytes of UDP",
                piece(cut(plain.clone(), 41), 0, true),
                Drop(FragTiny),
            ),
            (
                "P23 first with 19 bytes of TCP",
                piece(cut(tcp.clone(), 53), 0, true),
                Drop(FragTiny),
            ),
            (
                "P24 TCP at offset 1",
                piece(tcp.clone(), 8, false),
                Drop(FragOffset1),
            ),
            (
                "P24 UDP at offset 1 is legal",
                piece(plain.clone(), 8, false),
                forward,
            ),
            (
                "P26 past 65,535",
                piece(plain.clone(), 65_528, false),
                Drop(FragToolong),
            ),
            (
                "P28 DF with MF",
                piece(plain.clone(), 0, true).with(20, [0x60, 0]).seal(),
                forward,
            ),
            (
                "P24 TCP at offset 2 is legal",
                piece(tcp, 16, false),
                forward,
            ),
        ];
        for (text, frame, fate) in table {
            rows.push(Row::new(format!("{text}, {side}")).packet(frame, ingress, fate));
        }
    }
    run(rows);
}

#[test]
fn ip6_rows_hold() {
    let mut rows = Vec::new();
    for Side {
        name: side,
        plain,
        ingress,
        forward,
        ..
    } in sides(6)
    {
        let l4 = 14 + 40 + 8;
        let table: [(&str, Frame, Fate); 8] = [
            (
                "P21 first fragment",
                long(&plain).fragment(7, 0, true),
                forward,
            ),
            (
                "P22 middle fragment",
                long(&plain).fragment(7, 16, true),
                forward,
            ),
            (
                "P22 last fragment",
                plain.clone().fragment(7, 16, false),
                forward,
            ),
            (
                "P69 first without its L4 header",
                cut(long(&plain).fragment(7, 0, true), l4),
                Drop(FragNochain),
            ),
            (
                "P69 first with half of it",
                cut(long(&plain).fragment(7, 0, true), l4 + 7),
                Drop(FragLen),
            ),
            (
                "P72 not the last, no multiple of 8",
                plain.clone().fragment(7, 16, true),
                Drop(FragLen),
            ),
            (
                "P26 past 65,535",
                long(&plain).fragment(7, 65_528, false),
                Drop(FragToolong),
            ),
            (
                "P69 chain goes on in the next",
                dangling(&plain),
                Drop(FragNochain),
            ),
        ];
        for (text, frame, fate) in table {
            rows.push(Row::new(format!("{text}, {side}")).packet(frame, ingress, fate));
        }
    }
    for Side {
        name: side,
        plain,
        ingress,
        forward,
        hop,
    } in sides(6)
    {
        let atomic = plain.fragment(7, 0, false);
        let out = hop(&atomic);
        rows.push(
            Row::new(format!("P71 atomic fragment, {side}"))
                .packet(atomic, ingress, forward)
                .out(out)
                .moves(&[("flows", 1), ("flows_created", 1)]),
        );
    }
    run(rows);
}

/// With a payload that is a multiple of eight.
fn long(plain: &Frame) -> Frame {
    let mut bytes = plain.bytes.clone();
    bytes.resize(14 + 40 + 16, 0x61);
    let length = (16u16).to_be_bytes();
    Frame { bytes }.fit().with(14 + 40 + 4, length).seal()
}

/// A first fragment whose last extension header announces another that is not there.
fn dangling(plain: &Frame) -> Frame {
    let whole = plain.clone().extension(60, &[0; 6]).fragment(7, 0, true);
    let header = 14 + 40 + 8;
    cut(whole.with(header, [60]), header + 8)
}
