//! Random valid frames of every kind the parser tells apart.

use std::net::{Ipv4Addr, Ipv6Addr};

use penstock_packet::build::{Base, Base6, Frame};

use super::Random;

/// A valid frame of either family.
pub(crate) fn any(random: &mut Random) -> Frame {
    match random.one_in(2) {
        true => any4(random),
        false => any6(random),
    }
}

/// A UDP, TCP or echo frame over IPv4, without options, whole.
pub(crate) fn plain4(random: &mut Random) -> Frame {
    let base = base4(random);
    let payload = payload(random);
    let (source, destination) = (random.word(), random.word());
    match random.below(4) {
        0 => base.udp(source, destination, &payload),
        1 => base.tcp(source, destination, random.flags(), &payload),
        _ => base.echo(random.one_in(2), source, &payload),
    }
}

/// A UDP, TCP or echo frame over IPv6, without extension headers, whole.
pub(crate) fn plain6(random: &mut Random) -> Frame {
    let base = base6(random);
    let payload = payload(random);
    let (source, destination) = (random.word(), random.word());
    match random.below(4) {
        0 => base.udp(source, destination, &payload),
        1 => base.tcp(source, destination, random.flags(), &payload),
        _ => base.echo(random.one_in(2), source, &payload),
    }
}

/// Short, so that many fit the time; once in a while as long as a jumbo frame.
fn payload(random: &mut Random) -> Vec<u8> {
    let end = if random.one_in(500) { 9000 } else { 64 };
    random.bytes(end)
}

fn base4(random: &mut Random) -> Base {
    let address = |random: &mut Random| Ipv4Addr::from_bits(random.address());
    Base::new(address(random), address(random)).ttl(random.byte())
}

fn base6(random: &mut Random) -> Base6 {
    let address = |random: &mut Random| {
        Ipv6Addr::from_bits(u128::from(random.next()) << 64 | u128::from(random.next()))
    };
    Base6::new(address(random), address(random)).hop_limit(random.byte())
}

/// A valid frame of IPv4.
pub(crate) fn any4(random: &mut Random) -> Frame {
    let frame = match random.below(4) {
        0 => base4(random).ip(random.byte(), &random.bytes(80)),
        1 => {
            let inner = plain4(random);
            let rest = random.next() as u32;
            base4(random).icmp(
                random.one_of(&[3, 4, 5, 11, 12, 13]),
                0,
                rest,
                &inner.bytes[14..],
            )
        }
        _ => plain4(random),
    };
    match random.below(4) {
        0 => frame.options(&random.bytes(41)),
        1 => {
            let last = 0x1fe0 + random.below(32) as u16;
            let flags = random.one_of(&[0x2000, 0x2001, 0x4000, 0x6000, 0x8000, 0x0001, last]);
            frame.with(20, u16::to_be_bytes(flags)).seal()
        }
        _ => frame,
    }
}

fn any6(random: &mut Random) -> Frame {
    let frame = match random.below(4) {
        0 => base6(random).ip(random.byte(), &random.bytes(80)),
        1 => {
            let inner = plain6(random);
            let rest = random.next() as u32;
            let kind = random.one_of(&[1, 2, 3, 4, 133, 134, 135, 136, 137, 143]);
            base6(random).icmp(kind, 0, rest, &inner.bytes[14..])
        }
        _ => plain6(random),
    };
    (0..random.one_of(&[0, 0, 0, 1, 2, 3, 8, 9])).fold(frame, |frame, _| match random.below(4) {
        0 => {
            let offset = random.one_of(&[0, 0, 8, 1448, 65_528]);
            frame.fragment(random.next() as u32, offset, random.one_in(2))
        }
        _ => {
            let kind = random.one_of(&[0, 43, 51, 60]);
            frame.extension(kind, &random.bytes(40))
        }
    })
}
