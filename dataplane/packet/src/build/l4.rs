//! Bytes of L4 headers with their payload, checksums blank.

use crate::TcpFlags;
use crate::wire::{self, put};

pub(super) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(wire::UDP + payload.len()).unwrap_or(u16::MAX);
    let mut l4 = Vec::new();
    for word in [source, destination, length, 0] {
        l4.extend_from_slice(&word.to_be_bytes());
    }
    l4.extend_from_slice(payload);
    l4
}

/// Sequence number 0x100, acknowledgment number 0x200.
pub(super) fn tcp(source: u16, destination: u16, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let mut l4 = vec![0; wire::TCP];
    put(&mut l4, 0, source.to_be_bytes());
    put(&mut l4, 2, destination.to_be_bytes());
    put(&mut l4, 4, [0, 0, 1, 0, 0, 0, 2, 0, 0x50, flags.0, 0x20, 0]);
    l4.extend_from_slice(payload);
    l4
}

pub(super) fn icmp(kind: u8, code: u8, rest: u32, body: &[u8]) -> Vec<u8> {
    let mut l4 = vec![kind, code, 0, 0];
    l4.extend_from_slice(&rest.to_be_bytes());
    l4.extend_from_slice(body);
    l4
}

/// The rest-of-header word of an echo with sequence number 1.
pub(super) const fn echo(id: u16) -> u32 {
    (id as u32) << 16 | 1
}
