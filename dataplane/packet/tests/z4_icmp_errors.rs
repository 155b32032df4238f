//! Z4: an ICMP error through a translation. Outer and inner headers tell the same story, every
//! checksum equals a whole one, and the length does not change. And errors of ours are valid.

mod fuzz;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fuzz::{Random, frames, fuzz};
use penstock_packet::build::{Base, Frame};
use penstock_packet::icmp::{self, Envelope, Error, build_error, quote};
use penstock_packet::rewrite::{End, Macs, Rewrite, Side, Translation};
use penstock_packet::{Ip, Parsed, parse};

/// Offset of the quoted packet in an error, and of its TCP checksum in the quote.
const INNER: usize = 42;
const TCP_CHECKSUM: usize = 36;

fn read(frame: &Frame) -> Option<Ip> {
    match parse(&frame.bytes, frame.bytes.len()) {
        Ok(Parsed::Ip(packet)) => Some(packet),
        _ => None,
    }
}

fn any_end(random: &mut Random) -> End {
    End {
        address: Ipv4Addr::from_bits(random.address()),
        port: random.word(),
    }
}

/// Replaces one end of a plain packet by hand.
fn with_end(frame: &Frame, side: Side, new: End) -> Frame {
    let (address, port) = match (side, frame.bytes[23]) {
        (Side::Source, 1) => (26, 38),
        (Side::Destination, 1) => (30, 38),
        (Side::Source, _) => (26, 34),
        (Side::Destination, _) => (30, 36),
    };
    let changed = frame.clone().with(address, new.address.octets());
    changed.with(port, new.port.to_be_bytes()).seal()
}

#[test]
fn translated_errors_equal_errors_about_the_untranslated_packet() {
    fuzz(300_000, |random| {
        // The pod's end of a packet, and what the world knows it as. An error goes out about what
        // the pod was sent, or comes in about what it sent.
        let (pod, outside) = (any_end(random), any_end(random));
        let from_pod = random.one_in(2);
        let (old, new) = if from_pod {
            (pod, outside)
        } else {
            (outside, pod)
        };
        let (side, other) = match from_pod {
            true => (Side::Source, Side::Destination),
            false => (Side::Destination, Side::Source),
        };
        let packet = frames::plain4(random);
        let (quoted, expected) = (with_end(&packet, other, old), with_end(&packet, other, new));
        let cut = 14 + (28 + random.below(40)).min(packet.bytes.len() - 14);
        let (about, mut known) = (&quoted.bytes[14..cut], expected.bytes[14..cut].to_vec());
        if packet.bytes[23] == 6 && known.len() == TCP_CHECKSUM + 1 {
            // Half a checksum cannot be mended and is left alone.
            known[TCP_CHECKSUM] = about[TCP_CHECKSUM];
        }

        // Whoever sent the packet gets the error.
        let sender = Ipv4Addr::from([26, 27, 28, 29].map(|at| packet.bytes[at]));
        let far = match from_pod {
            true => sender,
            false => Ipv4Addr::from_bits(random.address()),
        };
        let kind = random.one_of(&[3, 4, 11, 12]);
        let rest = random.next() as u32;
        let ttl = 2 + random.byte() % 200;
        let error = |end: End, body: &[u8], ttl| {
            let ends = match from_pod {
                true => Base::new(end.address, far),
                false => Base::new(far, end.address),
            };
            ends.ttl(ttl).icmp(kind, 0, rest, body)
        };
        let mut frame = error(old, about, ttl);
        let Some(outer) = read(&frame) else {
            panic!("unreadable");
        };
        let Ok(quote) = quote(&frame.bytes, &outer) else {
            panic!("{frame:?} quotes nothing");
        };
        let rewrite = Rewrite {
            macs: Macs::new([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]),
            translation: Translation::new(side, packet.bytes[23], old, new),
        };
        rewrite.apply_to_error(&mut frame.bytes, &outer, &quote);
        assert_eq!(frame, error(new, &known, ttl - 1));
    });
}

/// An envelope with an address of ours.
fn envelope(source: IpAddr) -> Envelope {
    Envelope {
        source_mac: [2, 0, 0, 0, 0, 7],
        destination_mac: [2, 0, 0, 0, 0, 8],
        source,
    }
}

#[test]
fn our_errors_are_valid_and_quote_the_offender() {
    fuzz(100_000, |random| {
        let v6 = random.one_in(2);
        let (offender, ours): (_, IpAddr) = match v6 {
            true => (frames::plain6(random), Ipv6Addr::LOCALHOST.into()),
            false => (
                frames::plain4(random),
                Ipv4Addr::from_bits(random.address()).into(),
            ),
        };
        let Some(packet) = read(&offender) else {
            panic!("unreadable");
        };
        let mtu = random.word();
        let error = random.one_of(&[
            Error::TimeExceeded,
            Error::HostUnreachable,
            Error::TooBig { mtu },
            Error::Prohibited,
        ]);
        let mut out = vec![0xaa; icmp::MAX_ERROR];
        let built = build_error(&mut out, error, &envelope(ours), &offender.bytes, &packet);
        let Some(length) = built else {
            panic!("nothing built");
        };
        out.truncate(length);
        let built = Frame { bytes: out };
        assert!(built.is_sealed(), "{built:?}");
        let Some(answer) = read(&built) else {
            panic!("unreadable");
        };
        assert_eq!((answer.source, answer.destination), (ours, packet.source));
        assert_eq!(answer.frame_length, built.bytes.len());
        let quote = quote(&built.bytes, &answer).map(|quote| (quote.destination, quote.protocol));
        assert_eq!(quote, Ok((packet.destination, packet.protocol)));
        let inner = if v6 { 62 } else { INNER };
        assert_eq!(
            built.bytes[inner..],
            offender.bytes[14..14 + built.bytes.len() - inner]
        );
    });
}

/// A translation must not be confused by a quote that lies about what follows it.
#[test]
fn errors_about_anything_keep_their_length_and_stay_in_bounds() {
    fuzz(100_000, |random| {
        let (old, new) = (any_end(random), any_end(random));
        let inner = frames::any4(random);
        let bent = random.bend(inner).with(26, old.address.octets());
        let body = &bent.bytes[14..];
        let mut frame = Base::new(Ipv4Addr::from_bits(random.address()), old.address).icmp(
            random.one_of(&[3, 11, 12]),
            0,
            0,
            body,
        );
        let (Some(outer), before) = (read(&frame), frame.clone()) else {
            return;
        };
        let Ok(quote) = quote(&frame.bytes, &outer) else {
            return;
        };
        let rewrite = Rewrite {
            macs: Macs::default(),
            translation: Translation::new(Side::Destination, quote.protocol, old, new),
        };
        // Behind the packet lies a trailer, which is not ours to touch.
        frame.bytes.extend([0xee; 40]);
        rewrite.apply_to_error(&mut frame.bytes, &outer, &quote);
        let (packet, trailer) = frame.bytes.split_at(before.bytes.len());
        assert_eq!(trailer, [0xee; 40]);
        let after = Frame {
            bytes: packet.to_vec(),
        };
        assert!(after.is_sealed(), "{before:?} became {after:?}");
    });
}
