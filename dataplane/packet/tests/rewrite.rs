//! Rewrites against whole recomputation, against their reverse, and the cases of RFC 768.

#![expect(clippy::panic, reason = "a failed test panics")]

use std::net::Ipv4Addr;

use penstock_packet::build::{Base, Frame};
use penstock_packet::icmp::{self, Envelope, quote};
use penstock_packet::rewrite::{End, Macs, Rewrite, Side, Translation};
use penstock_packet::{Ip, Parsed, TcpFlags, parse};
use proptest::prelude::*;

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

/// Values that ones' complement treats specially, often.
fn word() -> impl Strategy<Value = u16> {
    prop_oneof![3 => any::<u16>(), 1 => Just(0), 1 => Just(0xffff)]
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (word(), word()).prop_map(|(a, b)| Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b)))
}

fn frame() -> impl Strategy<Value = Frame> {
    let ends = (address(), address(), word(), word());
    let payload = proptest::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(0xff)], 0..40);
    (ends, 0u8..3, 2u8.., payload).prop_map(|((from, to, sport, dport), kind, ttl, payload)| {
        let base = Base::new(from, to).ttl(ttl);
        match kind {
            0 => base.udp(sport, dport, &payload),
            1 => base.tcp(sport, dport, TcpFlags::ACK, &payload),
            _ => base.echo(true, sport, &payload),
        }
    })
}

/// The end of `frame` at `side`; an echo has one identifier, at both.
fn end(frame: &Frame, side: Side) -> End {
    let word = |at: usize| u16::from_be_bytes([frame.bytes[at], frame.bytes[at + 1]]);
    let packet = ip4(frame);
    let Some((source, destination)) = packet.addresses4() else {
        panic!("not IPv4");
    };
    match (packet.protocol, side) {
        (1, Side::Source) => End {
            address: source,
            port: word(38),
        },
        (1, Side::Destination) => End {
            address: destination,
            port: word(38),
        },
        (_, Side::Source) => End {
            address: source,
            port: word(34),
        },
        (_, Side::Destination) => End {
            address: destination,
            port: word(36),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn deltas_equal_whole_checksums_and_reverse_is_identity(
        frame in frame(), to in (address(), word()), source: bool,
    ) {
        let side = if source { Side::Source } else { Side::Destination };
        let (old, new) = (end(&frame, side), End { address: to.0, port: to.1 });
        let protocol = ip4(&frame).protocol;
        let there = rewrite(Some(Translation::new(side, protocol, old, new)));
        let changed = applied(&frame, &there);
        prop_assert!(changed.is_sealed(), "{:?}", changed);
        prop_assert_eq!(end(&changed, side), new);
        prop_assert_eq!(ip4(&changed).ttl, ip4(&frame).ttl - 1);
        // TCP has two zeros and a sender sends either; everything else must match to the bit.
        if protocol != 6 {
            prop_assert_eq!(&changed, &changed.clone().seal());
        }

        // Back, from a TTL one higher so that it ends where it began.
        let raised = changed.with(22, [ip4(&frame).ttl.saturating_add(1)]).seal();
        let back = Rewrite {
            macs: Macs::new([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]),
            translation: Translation::new(side, protocol, new, old),
        };
        prop_assume!(ip4(&frame).ttl < 255);
        prop_assert_eq!(applied(&raised, &back).seal(), frame.seal());
    }

    /// P47: a wrong L4 checksum is neither mended nor hidden.
    #[test]
    fn a_wrong_checksum_stays_wrong(frame in frame(), to in (address(), word()), bit in 0u8..8) {
        let old = end(&frame, Side::Source);
        let packet = ip4(&frame);
        let at = match packet.protocol { 6 => 50, 17 => 40, _ => 36 };
        let wrong = frame.clone().with(at, [frame.bytes[at] ^ (1 << bit)]);
        prop_assume!(wrong.bytes[at..at + 2] != [0, 0]);
        prop_assume!(!wrong.is_sealed());
        let new = End { address: to.0, port: to.1 };
        let there = rewrite(Some(Translation::new(Side::Source, packet.protocol, old, new)));
        prop_assert!(!applied(&wrong, &there).is_sealed());
    }

    /// An error's quote, translated, equals the quote of the untranslated packet; the outside is
    /// sealed again.
    #[test]
    fn errors_are_translated_with_their_quotes(
        inside in frame(), to in (address(), word()), router in address(), quoted in 28usize..60,
    ) {
        let protocol = ip4(&inside).protocol;
        let (pod, snat) = (end(&inside, Side::Source), End { address: to.0, port: to.1 });
        let out = rewrite(Some(Translation::new(Side::Source, protocol, pod, snat)));
        let back = rewrite(Some(Translation::new(Side::Destination, protocol, snat, pod)));
        let outside = applied(&inside, &out);
        let about = &outside.bytes[14..outside.bytes.len().min(14 + quoted)];
        let error = Base::new(router, snat.address).icmp(11, 0, 0, about);
        let packet = ip4(&error);
        let quote = quote(&error.bytes, &packet).unwrap();
        let mut changed = error.clone();
        back.apply_to_error(&mut changed.bytes, &packet, &quote);
        prop_assert!(changed.is_sealed());
        prop_assert_eq!(ip4(&changed).destination, pod.address);
        prop_assert_eq!(ip4(&changed).source, router);
        // The quote left the pod with a TTL one higher; else, and but for TCP's zeros, it is
        // what the pod sent.
        let mut expected = inside.with(22, [ip4(&outside).ttl]).seal().bytes[14..14 + about.len()].to_vec();
        let mut got = changed.bytes[42..].to_vec();
        if protocol == 6 && about.len() > 36 {
            // Half a checksum cannot be mended and is left alone.
            let end = about.len().min(38);
            expected[36..end].fill(0);
            got[36..end].fill(0);
        }
        prop_assert_eq!(got, expected);
    }

    /// Errors of ours are valid packets that quote the offender.
    #[test]
    fn built_errors_are_valid(offender in frame(), mtu: u16, ours in address()) {
        let envelope = Envelope {
            source_mac: [2, 0, 0, 0, 0, 7], destination_mac: [2, 0, 0, 0, 0, 8], source: ours.into(),
        };
        let packet = ip4(&offender);
        for error in [icmp::Error::TimeExceeded, icmp::Error::TooBig { mtu }, icmp::Error::Prohibited] {
            let mut out = vec![0xaa; icmp::MAX_ERROR];
            let length = icmp::build_error(&mut out, error, &envelope, &offender.bytes, &packet).unwrap();
            let built = Frame { bytes: out[..length].to_vec() };
            prop_assert!(built.is_sealed());
            let read = ip4(&built);
            prop_assert_eq!((read.source, read.destination), (ours.into(), packet.source));
            prop_assert_eq!(quote(&built.bytes, &read).unwrap().destination, packet.destination);
            prop_assert_eq!(&built.bytes[42..62], &offender.bytes[14..34]);
        }
    }
}

#[test]
fn types_codes_and_mtu_of_errors() {
    let offender = Base::new(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(8, 8, 8, 8)).udp(1, 2, b"x");
    let envelope = Envelope {
        source_mac: [2, 0, 0, 0, 0, 7],
        destination_mac: [2, 0, 0, 0, 0, 8],
        source: Ipv4Addr::new(10, 0, 0, 1).into(),
    };
    for (error, header) in [
        (icmp::Error::TimeExceeded, [11, 0, 0, 0, 0, 0]),
        (icmp::Error::HostUnreachable, [3, 1, 0, 0, 0, 0]),
        (icmp::Error::TooBig { mtu: 1500 }, [3, 4, 0, 0, 0x05, 0xdc]),
        (icmp::Error::Prohibited, [3, 13, 0, 0, 0, 0]),
    ] {
        let mut out = vec![0; icmp::MAX_ERROR];
        let packet = ip4(&offender);
        icmp::build_error(&mut out, error, &envelope, &offender.bytes, &packet).unwrap();
        assert_eq!(
            [out[34], out[35], out[38], out[39], out[40], out[41]],
            header
        );
        let mut short = vec![0; icmp::MAX_ERROR - 1];
        assert!(
            icmp::build_error(&mut short, error, &envelope, &offender.bytes, &packet).is_none()
        );
    }
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
