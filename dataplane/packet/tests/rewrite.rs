//! Rewrites by the cases of RFC 768; by many random packets in `z3_translation.rs`.

#![expect(clippy::panic, reason = "a failed test panics")]

use std::net::Ipv4Addr;

use penstock_packet::build::{Base, Frame};
use penstock_packet::rewrite::{End, Macs, Rewrite, Side, Translation};
use penstock_packet::{Ip, Parsed, parse};

fn ip4(frame: &Frame) -> Ip {
    match parse(&frame.bytes, frame.bytes.len()) {
        Ok(Parsed::Ip(packet)) => packet,
        other => panic!("{other:?}"),
    }
}

fn rewrite(translation: Option<Translation>) -> Rewrite {
    Rewrite {
        macs: Macs::new([2, 9, 9, 9, 9, 1], [2, 9, 9, 9, 9, 2]),
        translation: translation.unwrap_or(Translation::NONE),
    }
}

fn applied(frame: &Frame, rewrite: &Rewrite) -> Frame {
    let packet = ip4(frame);
    let mut changed = frame.clone();
    rewrite.apply(&mut changed.bytes, &packet);
    changed
}

/// P51: a UDP checksum of 0 stays 0; one that comes out as 0 is sent as 0xFFFF.
#[test]
fn udp_checksum_zero() {
    let base = Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(8, 8, 8, 8));
    let none = base.udp(1000, 53, b"abcd").with(40, [0, 0]);
    let old = End {
        address: Ipv4Addr::new(10, 0, 0, 5),
        port: 1000,
    };
    let new = |port| End {
        address: Ipv4Addr::new(10, 1, 2, 3),
        port,
    };
    let to = |port| rewrite(Some(Translation::new(Side::Source, 17, old, new(port))));
    assert_eq!(applied(&none, &to(2000)).bytes[40..42], [0, 0]);

    let some = base.udp(1000, 53, b"abcd");
    let ffff = (0..=u16::MAX)
        .map(|port| applied(&some, &to(port)))
        .inspect(|frame| assert_ne!(frame.bytes[40..42], [0, 0]))
        .filter(|frame| frame.bytes[40..42] == [0xff, 0xff])
        .inspect(|frame| assert!(frame.is_sealed()))
        .count();
    // Port 0 and port 65,535 count the same, so at least one and at most two ports come out so.
    assert!((1..=2).contains(&ffff), "{ffff}");
}

#[test]
fn untranslated_packets_change_macs_and_ttl_only() {
    let before = Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 6))
        .udp(1, 2, b"payload")
        .options(&[1, 1, 1, 1]);
    let after = applied(&before, &rewrite(None));
    assert!(after.is_sealed());
    let expected = before
        .with(0, [2, 9, 9, 9, 9, 1])
        .with(6, [2, 9, 9, 9, 9, 2])
        .with(22, [63])
        .seal();
    assert_eq!(after, expected);
}
