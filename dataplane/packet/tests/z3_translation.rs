//! Z3: a translation changes what it says and nothing else, its checksums equal whole ones, and
//! the reverse translation brings the packet back.

mod fuzz;

use std::net::Ipv4Addr;

use fuzz::{Random, frames, fuzz};
use penstock_packet::build::Frame;
use penstock_packet::rewrite::{End, Macs, Rewrite, Side, Translation, apply6};
use penstock_packet::{Ip, Parsed, parse};

const TTL: usize = 22;
const HOP_LIMIT: usize = 21;
const MACS: [u8; 12] = [2, 9, 9, 9, 9, 1, 2, 9, 9, 9, 9, 2];

fn macs() -> Macs {
    Macs::new([2, 9, 9, 9, 9, 1], [2, 9, 9, 9, 9, 2])
}

fn read(frame: &Frame) -> Option<Ip> {
    match parse(&frame.bytes, frame.bytes.len()) {
        Ok(Parsed::Ip(packet)) => Some(packet),
        _ => None,
    }
}

/// A whole UDP, TCP or echo packet that may be forwarded there and back, now and then with
/// options.
fn packet(random: &mut Random) -> Frame {
    let frame = frames::plain4(random);
    let ttl = frame.bytes[TTL].clamp(2, 254);
    let frame = frame.with(TTL, [ttl]).seal();
    match random.one_in(8) {
        true => frame.options(&[1, 1, 1]),
        false => frame,
    }
}

/// Offsets of the address, the port or identifier, and the L4 checksum at `side` of `frame`.
fn places(frame: &Frame, side: Side) -> (usize, usize, usize) {
    let l4 = frame.l4_offset();
    let (address, port) = match side {
        Side::Source => (26, 0),
        Side::Destination => (30, 2),
    };
    match frame.bytes[23] {
        1 => (address, l4 + 4, l4 + 2),
        6 => (address, l4 + port, l4 + 16),
        _ => (address, l4 + port, l4 + 6),
    }
}

fn end(frame: &Frame, side: Side) -> End {
    let (address, port, _) = places(frame, side);
    let byte = |at: usize| frame.bytes[at];
    End {
        address: Ipv4Addr::from([0, 1, 2, 3].map(|at| byte(address + at))),
        port: u16::from_be_bytes([byte(port), byte(port + 1)]),
    }
}

fn any_end(random: &mut Random) -> End {
    End {
        address: Ipv4Addr::from_bits(random.address()),
        port: random.word(),
    }
}

/// The same by hand: everything replaced, and the checksums computed as if for the first time.
fn by_hand(frame: &Frame, side: Side, new: End) -> Frame {
    let (address, port, checksum) = places(frame, side);
    let none = frame.bytes[23] == 17 && frame.bytes[checksum..checksum + 2] == [0, 0];
    let changed = frame
        .clone()
        .with(0, MACS)
        .with(TTL, [frame.bytes[TTL] - 1])
        .with(address, new.address.octets())
        .with(port, new.port.to_be_bytes());
    // P51: no UDP checksum stays none.
    match none {
        true => changed.seal_header(),
        false => changed.seal(),
    }
}

fn applied(frame: &Frame, rewrite: &Rewrite) -> Frame {
    let mut changed = frame.clone();
    if let Some(packet) = read(frame) {
        rewrite.apply(&mut changed.bytes, &packet);
    }
    changed
}

#[test]
fn there_equals_by_hand_and_back_equals_the_original() {
    fuzz(400_000, |random| {
        let mut frame = packet(random);
        let side = random.one_of(&[Side::Source, Side::Destination]);
        let protocol = frame.bytes[23];
        if protocol == 17 && random.one_in(4) {
            let (_, _, checksum) = places(&frame, side);
            frame = frame.with(checksum, [0, 0]);
        }
        let (old, new) = (end(&frame, side), any_end(random));
        let there = Rewrite {
            macs: macs(),
            translation: Translation::new(side, protocol, old, new),
        };
        let changed = applied(&frame, &there);
        assert_eq!(changed, by_hand(&frame, side, new));

        let back = Rewrite {
            macs: Macs::new([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]),
            translation: Translation::new(side, protocol, new, old),
        };
        // From a TTL one higher than it left with, so that it ends where it began.
        let raised = changed.with(TTL, [frame.bytes[TTL] + 1]).seal_header();
        assert_eq!(applied(&raised, &back), frame);
    });
}

/// P47: what was wrong is neither mended nor hidden.
#[test]
fn a_wrong_checksum_stays_wrong() {
    fuzz(100_000, |random| {
        let frame = packet(random);
        let side = random.one_of(&[Side::Source, Side::Destination]);
        let (_, _, at) = places(&frame, side);
        let wrong = frame.clone().with(at, [random.byte(), random.byte()]);
        if wrong.is_sealed() || wrong.bytes[at..at + 2] == [0, 0] {
            return;
        }
        let translation =
            Translation::new(side, frame.bytes[23], end(&frame, side), any_end(random));
        let macs = macs();
        let after = applied(&wrong, &Rewrite { macs, translation });
        assert!(!after.is_sealed(), "{wrong:?} became {after:?}");
    });
}

#[test]
fn without_a_translation_macs_and_ttl_change_and_nothing_else() {
    let plain = Rewrite {
        macs: macs(),
        translation: Translation::NONE,
    };
    fuzz(100_000, |random| {
        let frame = packet(random);
        let (_, _, checksum) = places(&frame, Side::Source);
        // Right or wrong, the L4 checksum is not looked at.
        let frame = frame.with(checksum, random.word().to_be_bytes());
        let expected = frame.clone().with(0, MACS);
        let expected = expected.with(TTL, [frame.bytes[TTL] - 1]).seal_header();
        assert_eq!(applied(&frame, &plain), expected);
    });
}

#[test]
fn ip6_packets_change_macs_and_hop_limit_and_nothing_else() {
    fuzz(100_000, |random| {
        let frame = frames::plain6(random);
        let limit = frame.bytes[HOP_LIMIT].max(2);
        let frame = frame.with(HOP_LIMIT, [limit]);
        let mut changed = frame.clone();
        apply6(&mut changed.bytes, &macs());
        let expected = frame.with(0, MACS).with(HOP_LIMIT, [limit - 1]);
        assert_eq!(changed, expected);
        assert!(changed.is_sealed());
    });
}
