//! IPv6 frames for the hooks' tests, bent at will. The hooks check no checksums, so neither are
//! any made.

use std::net::Ipv6Addr;

use super::{ENI_MAC, HOST_MAC, OUTSIDE6, POD_MAC, POD6, WIRE_MAC};

pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const ICMP6: u8 = 58;
pub(super) const NOTHING: u8 = 59;
pub(super) const DESTINATION: u8 = 60;

/// Offset of the hop limit.
const HOP_LIMIT: usize = 21;

/// An IPv6 frame with hop limit 64 and this behind its fixed header.
pub(super) fn frame(
    macs: [[u8; 6]; 2],
    addresses: [Ipv6Addr; 2],
    next: u8,
    rest: &[u8],
) -> Vec<u8> {
    let [source_mac, destination_mac] = macs;
    let mut bytes = [destination_mac, source_mac].concat();
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(addresses.map(|address| address.octets()).concat());
    bytes.extend(rest);
    bytes
}

/// From the pod's address.
pub(super) fn from_pod(destination: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    frame([POD_MAC, HOST_MAC], [POD6, destination], next, rest)
}

/// From the wire.
pub(super) fn from_wire(destination: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    frame([WIRE_MAC, ENI_MAC], [OUTSIDE6, destination], next, rest)
}

/// The frame with another source address.
pub(super) fn with_source(mut frame: Vec<u8>, source: Ipv6Addr) -> Vec<u8> {
    frame[22..38].copy_from_slice(&source.octets());
    frame
}

/// The frame with another hop limit.
pub(super) fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    frame[HOP_LIMIT] = hops;
    frame
}

/// A UDP header and eight bytes.
pub(super) fn udp(source: u16, destination: u16) -> Vec<u8> {
    let words = [source, destination, 16, 0];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    bytes.extend(*b"12345678");
    bytes
}

/// An ICMPv6 message.
pub(super) fn icmp6(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(rest);
    bytes
}

/// A neighbour solicitation or advertisement about `target`.
pub(super) fn nd(kind: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; 4];
    rest.extend(target.octets());
    rest.extend(options);
    icmp6(kind, &rest)
}

/// An option of neighbour discovery that holds a MAC: 1 the sender's, 2 the target's.
pub(super) fn nd_mac(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![kind, 1];
    bytes.extend(mac);
    bytes
}

/// An extension header of `words` times 8 bytes that says `next` comes behind it.
pub(super) fn extension(next: u8, words: u8) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(words) * 8];
    // One PadN option over as much of the rest as it can fill; Pad1 behind it.
    let padding = (usize::from(words) * 8 - 4).min(250);
    bytes[..4].copy_from_slice(&[next, words - 1, 1, u8::try_from(padding).unwrap()]);
    bytes
}

/// A fragment header: `word` is offset and flags.
pub(super) fn fragment(next: u8, word: u16) -> Vec<u8> {
    let mut bytes = vec![next, 0];
    bytes.extend(word.to_be_bytes());
    bytes.extend([0, 0, 0, 7]);
    bytes
}

/// Headers one behind the other.
pub(super) fn chain(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// The solicited-node group of an address.
pub(super) fn group_of(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0x00ff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}
