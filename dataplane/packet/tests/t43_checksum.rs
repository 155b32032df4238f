//! T43: ten million random rewrites, by difference and by whole recomputation, must agree to the
//! bit, the two zeros of ones' complement included.

mod fuzz;

use fuzz::fuzz;
use penstock_packet::checksum::{Delta, Sum};

/// The checksum over `words`, one carry at a time.
fn whole(words: &[u16]) -> u16 {
    let sum = words.iter().fold(0, |sum, word| {
        let (sum, carry) = u16::overflowing_add(sum, *word);
        sum + u16::from(carry)
    });
    !sum
}

#[test]
fn differences_equal_whole_sums() {
    fuzz(10_000_000, |random| {
        let mut words = [0; 10];
        words.fill_with(|| random.word());
        // No header is all zeros, for which alone the two zeros cannot be told apart.
        words[0] = 0x4500;
        let before = whole(&words);
        let mut delta = Delta::ZERO;
        for _ in 0..=random.below(4) {
            let at = 1 + random.below(words.len() - 1);
            let new = random.word();
            delta = delta.word(words[at], new);
            words[at] = new;
        }
        assert_eq!(delta.apply(before), whole(&words), "{words:04x?}");
    });
}

/// A flow's rewrite: an address and a port, added up apart and applied to two checksums.
#[test]
fn parts_add_up() {
    fuzz(1_000_000, |random| {
        let (old, new) = (random.address(), random.address());
        let (port, other) = (random.word(), random.word());
        let halves = |address: u32| [(address >> 16) as u16, address as u16];
        let sum = |address: u32, port: u16| {
            let [high, low] = halves(address);
            whole(&[0x4500, high, low, port])
        };
        let address = Delta::ZERO.address(old, new);
        let both = address.and(Delta::ZERO.word(port, other));
        assert_eq!(address.apply(sum(old, port)), sum(new, port));
        assert_eq!(both.apply(sum(old, port)), sum(new, other));
    });
}

#[test]
fn sums_of_bytes_equal_sums_of_words() {
    fuzz(200_000, |random| {
        let bytes = random.bytes(80);
        let words: Vec<u16> = bytes
            .chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
            .collect();
        let sum = Sum::ZERO.bytes(&bytes);
        assert_eq!(sum.checksum(), whole(&words));
        let by_word = words.iter().fold(Sum::ZERO, |sum, word| sum.word(*word));
        assert_eq!(by_word.checksum(), sum.checksum());
    });
}
