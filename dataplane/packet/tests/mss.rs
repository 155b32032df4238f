//! MSS clamping: the offer goes down, the checksum stays right, and nothing else moves.

#![expect(clippy::panic, reason = "a failed test panics")]

mod fuzz;

use std::net::{Ipv4Addr, Ipv6Addr};

use fuzz::{Random, fuzz};
use penstock_packet::build::{Base, Base6, Frame};
use penstock_packet::{Ip, Parsed, TcpFlags, mss, parse};

const SYN: TcpFlags = TcpFlags::SYN;
const V4: Base = Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(8, 8, 8, 8));
const V6: Base6 = Base6::new(
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6),
);

fn read(frame: &Frame) -> Ip {
    match parse(&frame.bytes, frame.bytes.len()) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

/// A segment with `options`, which are whole words, in front of `payload`.
fn segment(v6: bool, flags: TcpFlags, options: &[u8], payload: &[u8]) -> Frame {
    let body = [options, payload].concat();
    let frame = match v6 {
        true => V6.tcp(1000, 80, flags, &body),
        false => V4.tcp(1000, 80, flags, &body),
    };
    let words = (5 + options.len() / 4) as u8;
    let at = frame.l4_offset() + 12;
    frame.with(at, [words << 4]).seal()
}

/// The frame after clamping to `mss`, and whether it says it changed.
fn clamped(frame: &Frame, mss: u16) -> (Frame, bool) {
    let mut after = frame.clone();
    let changed = mss::clamp(&mut after.bytes, &read(frame), mss);
    assert_eq!(changed, after != *frame);
    (after, changed)
}

#[test]
fn an_offer_is_lowered_in_place() {
    for v6 in [false, true] {
        for (options, within) in [
            (&[2, 4, 0x05, 0xb4][..], 2),
            (&[1, 1, 2, 4, 0x05, 0xb4, 0, 0], 4),
            (&[4, 2, 2, 4, 0x05, 0xb4, 0, 0], 4),
            // At an odd offset.
            (&[1, 2, 4, 0x05, 0xb4, 0, 0, 0], 3),
            (&[3, 3, 7, 2, 4, 0x05, 0xb4, 0], 5),
            // Behind one of another length, which is not an offer.
            (&[2, 3, 0x05, 2, 4, 0x05, 0xb4, 0], 5),
        ] {
            for flags in [SYN, SYN.and(TcpFlags::ACK)] {
                let frame = segment(v6, flags, options, b"");
                let at = frame.l4_offset() + 20 + within;
                let (after, changed) = clamped(&frame, 1400);
                assert!(changed);
                assert_eq!(after, frame.with(at, [0x05, 0x78]).seal(), "{options:?}");
            }
        }
    }
}

#[test]
fn what_fits_or_is_no_offer_is_left_alone() {
    let offer = [2, 4, 0x05, 0xb4];
    for (flags, options, mss) in [
        (SYN, &offer[..], 1460),
        (SYN, &offer, u16::MAX),
        (TcpFlags::ACK, &offer, 1000),
        (TcpFlags::ACK.and(TcpFlags::PSH), &offer, 1000),
        (SYN, &[], 1000),
        (SYN, &[1, 1, 1, 1], 1000),
        (SYN, &[0, 2, 4, 0x05, 0xb4, 0, 0, 0], 1000),
    ] {
        assert!(!clamped(&segment(false, flags, options, &offer), mss).1);
    }
    assert!(!clamped(&V4.udp(1, 2, &offer), 1000).1);
    let later = segment(true, SYN, &offer, b"").fragment(1, 64, false);
    assert!(!clamped(&later, 1000).1);
}

#[test]
fn p53_malformed_options_stop_the_search() {
    for options in [
        [3, 0, 2, 4, 0x05, 0xb4, 0, 0],
        [3, 1, 2, 4, 0x05, 0xb4, 0, 0],
        [3, 40, 2, 4, 0x05, 0xb4, 0, 0],
        [1, 1, 1, 1, 1, 2, 4, 0x05],
        [1, 1, 1, 1, 1, 1, 1, 2],
    ] {
        let frame = segment(false, SYN, &options, &[0xb4, 0xb4]);
        assert!(!clamped(&frame, 1000).1, "{options:?}");
    }
}

/// Whatever the options: the checksum stays right, only an offer's two bytes and the checksum's
/// move, and the result is a fixed point.
#[test]
fn options_of_any_kind() {
    fuzz(200_000, |random| {
        let kind = |random: &mut Random| match random.below(3) {
            0 => random.byte(),
            _ => random.one_of(&[0, 1, 2, 3, 4]),
        };
        let options: Vec<u8> = (0..random.below(11) * 4).map(|_| kind(random)).collect();
        let frame = segment(random.one_in(2), SYN, &options, &random.bytes(8));
        let mss = random.word();
        let (after, changed) = clamped(&frame, mss);
        assert!(after.is_sealed(), "{frame:?}");
        let l4 = frame.l4_offset();
        let moved: Vec<usize> = (0..frame.bytes.len())
            .filter(|at| frame.bytes[*at] != after.bytes[*at])
            .map(|at| at - l4)
            .filter(|at| !(16..18).contains(at))
            .collect();
        let within = 20..20 + options.len();
        assert!(
            moved.len() <= 2 && moved.iter().all(|at| within.contains(at)),
            "{frame:?}"
        );
        assert_eq!(changed, !moved.is_empty());
        assert!(!clamped(&after, mss).1);
    });
}
