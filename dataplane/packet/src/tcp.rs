//! TCP: the fixed header's names and numbers. References: RFC 9293 3.1.

use crate::wire::{self, u8_at, u16_at, u32_at};
use crate::{DropReason, L4};

/// TCP control bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push function.
    pub const PSH: Self = Self(0x08);
    /// Acknowledgment field significant.
    pub const ACK: Self = Self(0x10);
    /// Urgent pointer field significant.
    pub const URG: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    #[inline]
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether no honest stack sends this combination (P44): nothing at all, SYN with FIN or RST,
    /// FIN with RST, or FIN without ACK, which includes the "christmas tree".
    #[must_use]
    pub const fn is_nonsense(self) -> bool {
        let (fin, syn) = (self.has(Self::FIN), self.has(Self::SYN));
        let (rst, ack) = (self.has(Self::RST), self.has(Self::ACK));
        !(fin || syn || rst || ack) || syn && (fin || rst) || fin && (rst || !ack)
    }
}

/// Offset of the checksum in the header.
pub(crate) const CHECKSUM: usize = 16;

/// Bytes of the header at the start of `l4`, as it says.
#[inline]
pub(crate) fn header_length(l4: &[u8]) -> Option<usize> {
    Some(usize::from(u8_at(l4, 12)? >> 4) * 4)
}

/// Reads the header at the start of `l4`; `length` is what the packet says L4 has.
#[inline]
pub(crate) fn read(l4: &[u8], length: usize) -> L4 {
    header(l4, length).unwrap_or(L4::Malformed(DropReason::TcpBad))
}

#[inline]
fn header(l4: &[u8], length: usize) -> Option<L4> {
    let header: &[u8; wire::TCP] = l4.first_chunk()?;
    let header_length = header_length(header)?;
    if header_length < wire::TCP || header_length > length {
        return None;
    }
    Some(L4::Tcp {
        source: u16_at(header, 0)?,
        destination: u16_at(header, 2)?,
        flags: TcpFlags(u8_at(header, 13)? & 0x3f),
        sequence: u32_at(header, 4)?,
        acknowledgment: u32_at(header, 8)?,
    })
}
