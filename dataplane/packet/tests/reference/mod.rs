//! A slow parser written from the table of bad packets, not from the real one: it copies, loops
//! over single bytes and words, and knows the frame as a list of parts.

use std::net::{Ipv4Addr, Ipv6Addr};

use penstock_packet::icmp::{ErrorKind, NeighborKind};
use penstock_packet::{DropReason, Fragment, Ip, L4, Parsed, Piece, TcpFlags};

/// Bytes behind an offset, as far as they are at hand.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn has(&self, length: usize) -> bool {
        self.0.len() >= length
    }

    /// The number in `count` bytes from `at` on.
    fn number(&self, at: usize, count: usize) -> usize {
        self.0[at..at + count]
            .iter()
            .fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn from(&self, at: usize) -> Self {
        Self(&self.0[at..])
    }

    fn up_to(&self, end: usize) -> Self {
        Self(&self.0[..end.min(self.0.len())])
    }
}

/// What a frame is: the same question as `penstock_packet::parse` answers.
pub(crate) fn parse(head: &[u8], length: usize) -> Result<Parsed, DropReason> {
    let frame = Bytes(head);
    if !frame.has(14) {
        return Err(DropReason::L2Short);
    }
    let group = head[6] % 2 == 1;
    if frame.number(6, 6) == 0 || group {
        return Err(DropReason::L2SrcBad);
    }
    let packet = frame.from(14);
    match frame.number(12, 2) {
        0x0800 => ip4(&packet, length - 14).map(Parsed::Ip),
        0x86dd => ip6(&packet, length - 14).map(Parsed::Ip),
        0x0806 if !packet.has(28) => Err(DropReason::ArpBad),
        0x0806 if packet.number(0, 6) != 0x0001_0800_0604 => Err(DropReason::ArpBad),
        0x0806 => Ok(Parsed::Arp),
        0x8100 | 0x88a8 if !packet.has(4) => Err(DropReason::L2Short),
        0x8100 | 0x88a8 => Err(DropReason::L2Vlan),
        _ => Err(DropReason::L2Ethertype),
    }
}

fn ip4(packet: &Bytes<'_>, length: usize) -> Result<Ip, DropReason> {
    if packet.has(1) && packet.number(0, 1) / 16 != 4 {
        return Err(DropReason::IpVersion);
    }
    if !packet.has(20) {
        return Err(DropReason::Ip4Short);
    }
    let header = packet.number(0, 1) % 16 * 4;
    let total = packet.number(2, 2);
    if header < 20 || !packet.has(header) {
        return Err(DropReason::Ip4Ihl);
    }
    if total < header || total > length {
        return Err(DropReason::Ip4Len);
    }
    let mut sum: usize = (0..header).step_by(2).map(|at| packet.number(at, 2)).sum();
    while sum > 0xffff {
        sum = sum % 0x1_0000 + sum / 0x1_0000;
    }
    if sum != 0xffff {
        return Err(DropReason::Ip4Csum);
    }
    options4(&packet.up_to(header).from(20))?;
    let word = packet.number(6, 2);
    let (offset, more) = (word % 0x2000 * 8, word & 0x2000 != 0);
    let protocol = packet.0[9];
    let l4 = packet.up_to(total).from(header);
    let fragment = fragment4(packet, (offset, more), total - header)?;
    if fragment != Fragment::None {
        let least = match protocol {
            6 => 20,
            1 | 17 => 8,
            _ => 0,
        };
        if offset == 0 && !l4.has(least) {
            return Err(DropReason::FragTiny);
        }
        if offset == 8 && protocol == 6 {
            return Err(DropReason::FragOffset1);
        }
    }
    let address = |at: usize| Ipv4Addr::from_bits(packet.number(at, 4) as u32).into();
    Ok(Ip {
        frame_length: 14 + total,
        l4_offset: 14 + header,
        source: address(12),
        destination: address(16),
        protocol,
        ttl: packet.0[8],
        dont_fragment: word & 0x4000 != 0,
        has_options: header > 20,
        fragment,
        l4: match protocol {
            1 if !is_later(fragment) => icmp4(&l4),
            58 => L4::Other,
            _ => l4_header(protocol, &l4, total - header, fragment),
        },
    })
}

fn options4(options: &Bytes<'_>) -> Result<(), DropReason> {
    let mut at = 0;
    while options.has(at + 1) {
        match options.number(at, 1) {
            0 => return Ok(()),
            1 => at += 1,
            131 | 137 => return Err(DropReason::Ip4Srcroute),
            _ if !options.has(at + 2) => return Err(DropReason::Ip4Opt),
            _ => {
                let length = options.number(at + 1, 1);
                if length < 2 || !options.has(at + length) {
                    return Err(DropReason::Ip4Opt);
                }
                at += length;
            }
        }
    }
    Ok(())
}

fn fragment4(
    packet: &Bytes<'_>,
    (offset, more): (usize, bool),
    length: usize,
) -> Result<Fragment, DropReason> {
    if offset == 0 && !more {
        return Ok(Fragment::None);
    }
    // With its header, no datagram is longer than 65,535 bytes.
    if 20 + offset + length > 65_535 {
        return Err(DropReason::FragToolong);
    }
    let piece = Piece {
        id: packet.number(4, 2) as u32,
        offset: offset as u16,
        length: length as u16,
        more,
    };
    Ok(match offset {
        0 => Fragment::First(piece),
        _ => Fragment::Later(piece),
    })
}

fn is_later(fragment: Fragment) -> bool {
    matches!(fragment, Fragment::Later(_))
}

fn l4_header(protocol: u8, l4: &Bytes<'_>, length: usize, fragment: Fragment) -> L4 {
    if is_later(fragment) {
        return L4::Other;
    }
    let ports = |l4: &Bytes<'_>| (l4.number(0, 2) as u16, l4.number(2, 2) as u16);
    match protocol {
        6 => {
            let true_length = |bytes| (20..=length).contains(&bytes);
            if !l4.has(20) || !true_length(l4.number(12, 1) / 16 * 4) {
                return L4::Malformed(DropReason::TcpBad);
            }
            let (source, destination) = ports(l4);
            L4::Tcp {
                source,
                destination,
                flags: TcpFlags(l4.0[13] % 64),
                sequence: l4.number(4, 4) as u32,
                acknowledgment: l4.number(8, 4) as u32,
            }
        }
        17 => {
            let most = if fragment == Fragment::None {
                length
            } else {
                65_535
            };
            if !l4.has(8) || !(8..=most).contains(&l4.number(4, 2)) {
                return L4::Malformed(DropReason::UdpLen);
            }
            let (source, destination) = ports(l4);
            L4::Udp {
                source,
                destination,
            }
        }
        58 => icmp6(l4),
        _ => L4::Other,
    }
}

fn icmp4(l4: &Bytes<'_>) -> L4 {
    if !l4.has(8) {
        return L4::Malformed(DropReason::IcmpBad);
    }
    let id = l4.number(4, 2) as u16;
    match l4.0[0] {
        0 => L4::EchoReply { id },
        3 => L4::IcmpError(ErrorKind::Unreachable),
        4 => L4::IcmpError(ErrorKind::SourceQuench),
        5 => L4::IcmpError(ErrorKind::Redirect),
        8 => L4::EchoRequest { id },
        11 => L4::IcmpError(ErrorKind::TimeExceeded),
        12 => L4::IcmpError(ErrorKind::ParameterProblem),
        _ => L4::IcmpOther,
    }
}

fn icmp6(l4: &Bytes<'_>) -> L4 {
    if !l4.has(8) {
        return L4::Malformed(DropReason::IcmpBad);
    }
    let id = l4.number(4, 2) as u16;
    match l4.0[0] {
        1 => L4::IcmpError(ErrorKind::Unreachable),
        2 => L4::IcmpError(ErrorKind::TooBig),
        3 => L4::IcmpError(ErrorKind::TimeExceeded),
        4 => L4::IcmpError(ErrorKind::ParameterProblem),
        128 => L4::EchoRequest { id },
        129 => L4::EchoReply { id },
        133 => L4::Neighbor(NeighborKind::RouterSolicitation),
        134 => L4::Neighbor(NeighborKind::RouterAdvertisement),
        135 => L4::Neighbor(NeighborKind::Solicitation),
        136 => L4::Neighbor(NeighborKind::Advertisement),
        137 => L4::Neighbor(NeighborKind::Redirect),
        _ => L4::IcmpOther,
    }
}

fn ip6(packet: &Bytes<'_>, length: usize) -> Result<Ip, DropReason> {
    if packet.has(1) && packet.number(0, 1) / 16 != 6 {
        return Err(DropReason::IpVersion);
    }
    if !packet.has(40) {
        return Err(DropReason::Ip6Short);
    }
    let payload = packet.number(4, 2);
    if 40 + payload > length {
        return Err(DropReason::Ip6Len);
    }
    let mut chain = Chain {
        next: packet.number(6, 1),
        at: 40,
        kinds: Vec::new(),
        fragment: Fragment::None,
    };
    if payload == 0 && EXTENSIONS.contains(&chain.next) {
        let jumbo = chain.next == 0 && options6(&header_of(packet)) == Err(DropReason::Ip6Jumbo);
        return Err(if jumbo {
            DropReason::Ip6Jumbo
        } else {
            DropReason::Ip6Ext
        });
    }
    let at_hand = packet.up_to(40 + payload);
    while EXTENSIONS.contains(&chain.next) && !is_later(chain.fragment) {
        chain.step(&at_hand, 40 + payload)?;
    }
    let l4 = at_hand.from(chain.at);
    let protocol = chain.next as u8;
    let least = match protocol {
        6 => 20,
        17 | 58 => 8,
        _ => 0,
    };
    if matches!(chain.fragment, Fragment::First(_)) && !l4.has(least) {
        return Err(DropReason::FragNochain);
    }
    let address = |at: usize| {
        let octets: [u8; 16] = packet.0[at..at + 16].try_into().unwrap_or_default();
        Ipv6Addr::from(octets).into()
    };
    Ok(Ip {
        frame_length: 54 + payload,
        l4_offset: 14 + chain.at,
        source: address(8),
        destination: address(24),
        protocol,
        ttl: packet.0[7],
        dont_fragment: true,
        has_options: chain.kinds.iter().any(|kind| *kind != 44),
        fragment: chain.fragment,
        l4: l4_header(protocol, &l4, 40 + payload - chain.at, chain.fragment),
    })
}

const EXTENSIONS: [usize; 5] = [0, 43, 44, 51, 60];

struct Chain {
    next: usize,
    at: usize,
    kinds: Vec<usize>,
    fragment: Fragment,
}

impl Chain {
    fn step(&mut self, packet: &Bytes<'_>, end: usize) -> Result<(), DropReason> {
        let kind = self.next;
        let misplaced = kind == 0 && !self.kinds.is_empty();
        let again = kind == 44 && self.kinds.contains(&44);
        if self.kinds.len() == 8 || misplaced || again {
            return Err(DropReason::Ip6Ext);
        }
        self.kinds.push(kind);
        let cut = match self.fragment {
            Fragment::First(_) => DropReason::FragNochain,
            _ => DropReason::Ip6Ext,
        };
        if !packet.has(self.at + 8) {
            return Err(cut);
        }
        let words = packet.number(self.at + 1, 1);
        let bytes = match kind {
            44 => 8,
            51 => 8 + words * 4,
            _ => 8 + words * 8,
        };
        if !packet.has(self.at + bytes) {
            return Err(cut);
        }
        let header = packet.up_to(self.at + bytes).from(self.at);
        match kind {
            0 => options6(&header)?,
            43 if header.number(2, 1) == 0 => return Err(DropReason::Ip6Rh0),
            44 => self.fragment = fragment6(&header, end - self.at - 8)?,
            _ => {}
        }
        self.next = header.number(0, 1);
        self.at += bytes;
        if self.at - 40 > 256 {
            return Err(DropReason::Ip6Ext);
        }
        Ok(())
    }
}

/// The extension header right behind the IPv6 header, if all of it is at hand.
fn header_of<'a>(packet: &Bytes<'a>) -> Bytes<'a> {
    let behind = Bytes(&packet.0[40..]);
    match behind.0 {
        [_, words, ..] if behind.has(8 + usize::from(*words) * 8) => {
            Bytes(&behind.0[..8 + usize::from(*words) * 8])
        }
        _ => Bytes(&[]),
    }
}

fn options6(header: &Bytes<'_>) -> Result<(), DropReason> {
    let mut at = 2;
    while header.has(at + 1) {
        match header.number(at, 1) {
            0 => at += 1,
            0xc2 => return Err(DropReason::Ip6Jumbo),
            _ if !header.has(at + 2) => return Err(DropReason::Ip6Ext),
            _ => {
                at += 2 + header.number(at + 1, 1);
                if !header.has(at) {
                    return Err(DropReason::Ip6Ext);
                }
            }
        }
    }
    Ok(())
}

fn fragment6(header: &Bytes<'_>, length: usize) -> Result<Fragment, DropReason> {
    let word = header.number(2, 2);
    let (offset, more) = (word / 8 * 8, word % 2 == 1);
    if offset + length > 65_535 {
        return Err(DropReason::FragToolong);
    }
    if more && !length.is_multiple_of(8) {
        return Err(DropReason::FragLen);
    }
    let piece = Piece {
        id: header.number(4, 4) as u32,
        offset: offset as u16,
        length: length as u16,
        more,
    };
    Ok(match (offset, more) {
        (0, false) => Fragment::None,
        (0, true) => Fragment::First(piece),
        _ => Fragment::Later(piece),
    })
}
