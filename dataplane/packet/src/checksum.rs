//! The Internet checksum: whole (RFC 1071) and by difference (RFC 1624).
//!
//! Byte order. The sum of 16-bit words in ones' complement does not care in which order the bytes
//! of each word are read, as long as it is the same for all of them and for the stored result
//! (RFC 1071, 2 (B)). Everything here reads and writes big-endian words and holds them as host
//! integers; a [`Delta`] may be kept in a table and applied on any machine.
//!
//! Two zeros. Ones' complement has 0x0000 and 0xFFFF for nought. A difference is applied with
//! equation 3 of RFC 1624, `HC' = ~(~HC + ~m + m')`, which keeps the right one of the two; the
//! equation of RFC 1141 does not. A checksum that was wrong stays wrong by the same amount:
//! nothing here repairs a packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Running ones' complement sum; folded only when asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds `bytes` as big-endian words; an odd last byte is the high half of a word.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut sum = self.0;
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_be_bytes(*word));
        }
        let (words, rest) = rest.as_chunks::<2>();
        for word in words {
            sum += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = rest {
            sum += u64::from(*last) << 8;
        }
        // A u64 holds 2^32 words of 32 bits: no packet overflows it.
        Self(sum)
    }

    /// Adds one word.
    #[must_use]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds a 32-bit value as two words.
    #[must_use]
    pub const fn address(self, address: u32) -> Self {
        Self(self.0 + address as u64)
    }

    /// The sum in 16 bits; 0xFFFF over data that contains its own valid checksum.
    #[must_use]
    pub const fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum as u16
    }

    /// The checksum field over the summed data.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Sum of the pseudo-header TCP and UDP prepend (RFC 9293 3.1, RFC 768).
#[must_use]
pub const fn pseudo_header(source: u32, destination: u32, protocol: u8, length: u16) -> Sum {
    Sum::ZERO
        .address(source)
        .address(destination)
        .word(protocol as u16)
        .word(length)
}

/// What replacing some words does to a checksum over them; add it up once, apply it per packet.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// Adds the replacement of one word.
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(add(self.0, add(!old, new)))
    }

    /// Adds the replacement of a 32-bit value.
    #[must_use]
    pub const fn address(self, old: u32, new: u32) -> Self {
        self.word((old >> 16) as u16, (new >> 16) as u16)
            .word(old as u16, new as u16)
    }

    /// Adds everything another difference stands for.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The checksum after the replacement (RFC 1624, equation 3).
    #[inline]
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        !add(!checksum, self.0)
    }
}

/// Ones' complement addition of two words.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.bytes(&data).fold(), 0xddf2);
    }

    #[test]
    fn rfc1624_example() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 must give 0x0000, not 0xFFFF.
        assert_eq!(Delta::ZERO.word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn odd_length_pads_with_zero() {
        assert_eq!(Sum::ZERO.bytes(&[0x12]).fold(), 0x1200);
        assert_eq!(
            Sum::ZERO.bytes(&[1, 2, 3, 4, 5]).fold(),
            0x0102 + 0x0304 + 0x0500
        );
    }

    /// Words with the values that break naive arithmetic well represented.
    fn word() -> impl Strategy<Value = u16> {
        prop_oneof![any::<u16>(), Just(0), Just(0xffff), Just(1), Just(0xfffe)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn delta_equals_full_sum(
            mut words in proptest::collection::vec(word(), 2..24),
            at in any::<prop::sample::Index>(),
            new in word(),
        ) {
            let full = |words: &[u16]| {
                words.iter().fold(Sum::ZERO, |sum, word| sum.word(*word)).checksum()
            };
            // A constant word keeps the data from being all zero, as every header's is.
            words.push(0x4500);
            let before = full(&words);
            let at = at.index(words.len() - 1);
            let delta = Delta::ZERO.word(words[at], new);
            words[at] = new;
            prop_assert_eq!(delta.apply(before), full(&words));
        }

        #[test]
        fn reference_sum_agrees(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut sum = 0u32;
            for pair in bytes.chunks(2) {
                sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(Sum::ZERO.bytes(&bytes).fold(), sum as u16);
        }

        #[test]
        fn an_error_is_kept(before: u16, wrong in 1u16.., old: u32, new: u32) {
            let delta = Delta::ZERO.address(old, new);
            let good = delta.apply(before);
            let bad = delta.apply(add(before, wrong));
            let same = |a: u16, b: u16| a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0);
            prop_assert!(same(bad, add(good, wrong)));
        }
    }
}
