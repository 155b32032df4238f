//! Z1: the parser on noise and on nearly valid frames of both families. It never panics, every
//! span lies inside the frame, it says what a slow parser written from the specification says, and a
//! glance says the same of what it reads.

mod fuzz;
mod reference;

use fuzz::{Random, frames, fuzz};
use penstock_packet::icmp::quote;
use penstock_packet::{
    Fragment, Glance4, Ip, L4, Parsed, TcpFlags, frame_length, glance4, mss, neighbor, parse,
};

/// Parses, compares with the reference, and lets every reader of the result loose on the bytes.
fn check(head: &[u8], length: usize) {
    let parsed = parse(head, length);
    assert_eq!(
        parsed,
        reference::parse(head, length),
        "{head:02x?} of {length}"
    );
    let plain = parsed.ok().and_then(|parsed| plain(&parsed));
    match glance4(head, length) {
        // A glance keeps silent where a TCP header would end outside the bytes at hand.
        None => assert!(plain.is_none() || head.len() < 54, "{head:02x?}"),
        Some(glance) => assert_eq!(Some(glance), plain, "{head:02x?} of {length}"),
    }
    if let Ok(Parsed::Ip(packet)) = parsed {
        spans(head, length, &packet);
        readers(head, &packet);
    }
}

/// What a glance should say of a packet: of whole TCP and UDP packets over plain IPv4, all.
fn plain(parsed: &Parsed) -> Option<Glance4> {
    let Parsed::Ip(packet) = parsed else {
        return None;
    };
    let (from, to) = packet.addresses4()?;
    let (source, destination, acknowledgment, flags) = match packet.l4 {
        L4::Tcp {
            source,
            destination,
            flags,
            acknowledgment,
            ..
        } => (source, destination, acknowledgment, flags),
        L4::Udp {
            source,
            destination,
        } => (source, destination, 0, TcpFlags::ACK),
        _ => return None,
    };
    let whole = packet.fragment == Fragment::None && !packet.has_options;
    whole.then_some(Glance4 {
        addresses: u64::from(from.to_bits()) << 32 | u64::from(to.to_bits()),
        ports: u32::from(source) << 16 | u32::from(destination),
        acknowledgment,
        ip_length: packet.ip_length() as u16,
        protocol: packet.protocol,
        ttl: packet.ttl,
        dont_fragment: packet.dont_fragment,
        flags,
    })
}

fn spans(head: &[u8], length: usize, packet: &Ip) {
    assert!(packet.frame_length <= length);
    assert!(packet.l4_offset <= packet.frame_length);
    assert!(packet.l4_offset <= head.len());
    assert_eq!(packet.frame_length, frame_length(head));
    assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    match packet.fragment {
        Fragment::None => {}
        Fragment::First(piece) => assert!(piece.offset == 0 && piece.more),
        Fragment::Later(piece) => {
            assert!(piece.offset > 0 && packet.l4 == L4::Other);
            assert!(usize::from(piece.offset) + usize::from(piece.length) <= 65_535);
        }
    }
}

fn readers(head: &[u8], packet: &Ip) {
    match packet.l4 {
        L4::IcmpError(_) => {
            if let Ok(quote) = quote(head, packet) {
                assert!(quote.ip_offset > packet.l4_offset);
                assert!(quote.l4_offset + 8 <= packet.frame_length);
                assert_eq!(quote.source, packet.destination);
            }
        }
        L4::Neighbor(kind) => {
            if let Ok(claim) = neighbor(head, packet) {
                assert_eq!(claim.kind, kind);
                assert_eq!(packet.ttl, 255);
            }
        }
        L4::Tcp { .. } => {
            let mut bytes = head.to_vec();
            mss::clamp(&mut bytes, packet, 1000);
            assert_eq!(bytes[..packet.l4_offset], head[..packet.l4_offset]);
        }
        _ => {}
    }
}

/// Cuts the frame, adds a trailer, or shows only its first bytes, as a frame in chunks does.
fn present(random: &mut Random, mut bytes: Vec<u8>) {
    match random.below(8) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.extend_from_slice(&random.bytes(60)),
        _ => {}
    }
    let length = bytes.len();
    if random.one_in(8) {
        bytes.truncate(random.below(length + 1));
    }
    check(&bytes, length);
}

#[test]
fn noise() {
    fuzz(150_000, |random| {
        let mut bytes = random.bytes(160);
        let ethertype = random.one_of(&[0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x0026]);
        if bytes.len() > 14 && !random.one_in(8) {
            bytes[6] &= 0xfe;
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            bytes[14] = random.one_of(&[0x45, 0x46, 0x60, bytes[14]]);
        }
        present(random, bytes);
    });
}

#[test]
fn nearly_valid() {
    fuzz(300_000, |random| {
        let frame = frames::any(random);
        let bent = random.bend(frame);
        // Mended, it gets further in.
        let bent = if random.one_in(4) { bent } else { bent.seal() };
        present(random, bent.bytes);
    });
}

/// The fuzz frames are worth something only if the parser takes most of them.
#[test]
fn unbent_frames_are_read() {
    const RUNS: usize = 20_000;
    let mut random = Random::start();
    let read = (0..RUNS)
        .map(|_| frames::any(&mut random).bytes)
        .filter(|bytes| parse(bytes, bytes.len()).is_ok())
        .count();
    assert!(read * 2 > RUNS, "{read} of {RUNS}");
}
