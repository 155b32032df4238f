//! Hashes with a secret: pods choose their tuples, so nothing an index or a port depends on may
//! be computable by them.
//!
//! [`mix`] is for the table: two multiplications, enough that collisions cannot be planned
//! without the seed. [`siphash`] is for SNAT ports, which the outside world gets to see
//! (RFC 6056 3.3.3 asks for a keyed cryptographic hash). Reference: Aumasson and Bernstein,
//! "SipHash: a fast short-input PRF".

/// A secret drawn once, at start.
pub type Seed = [u64; 2];

/// Spreads two words over 64 bits.
#[inline]
pub(crate) const fn mix(seed: Seed, first: u64, second: u64) -> u64 {
    let [k0, k1] = seed;
    let product = ((first ^ k0) as u128).wrapping_mul((second ^ k1 | 1) as u128);
    let folded = product as u64 ^ (product >> 64) as u64;
    let product = ((folded ^ k1) as u128).wrapping_mul((second ^ 0x9E37_79B9_7F4A_7C15) as u128);
    product as u64 ^ (product >> 64) as u64 ^ folded
}

/// SipHash-2-4 of whole words.
pub(crate) fn siphash(seed: Seed, words: &[u64]) -> u64 {
    let [k0, k1] = seed;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let length = (words.len() as u64 * 8) << 56;
    for word in words.iter().chain([&length]) {
        v[3] ^= word;
        v = round(round(v));
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    let [a, b, c, d] = round(round(round(round(v))));
    a ^ b ^ c ^ d
}

const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siphash_reference_vectors() {
        // vectors_sip64 of the reference implementation: key 00..0f, input 00..(n-1).
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(key, &[key[0]]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash(key, &key), 0x3f2a_cc7f_57c2_9bdb);
    }

    #[test]
    fn mix_spreads_neighbours() {
        let seed = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
        let mut buckets = [0u32; 256];
        for port in 0..65_536u64 {
            buckets[(mix(seed, 0x0a00_0a05_0808_0808, port << 32 | 6) & 255) as usize] += 1;
        }
        // 256 expected in each; six standard deviations are 96.
        assert!(
            buckets.iter().all(|n| (160..352).contains(n)),
            "{buckets:?}"
        );
    }
}
