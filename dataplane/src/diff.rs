//! What must be undone and what must be done to get from what is in force to what is wanted.
//!
//! Compares with what was really achieved, not with the last snapshot: what failed is tried again
//! with every publication. Something that changed is undone and done anew.

use std::collections::BTreeMap;

/// Steps from one set of things to another.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference<K, V> {
    /// In force, no longer wanted as it is.
    pub gone: Vec<K>,
    /// Wanted, not in force as it should be.
    pub new: Vec<(K, V)>,
}

/// Compares `have` with `want`, both by key.
pub fn between<K: Ord + Clone, V: PartialEq>(
    have: &BTreeMap<K, V>,
    want: BTreeMap<K, V>,
) -> Difference<K, V> {
    let gone = have
        .iter()
        .filter(|(key, value)| want.get(key) != Some(value))
        .map(|(key, _)| key.clone())
        .collect();
    let new = want
        .into_iter()
        .filter(|(key, value)| have.get(key) != Some(value))
        .collect();
    Difference { gone, new }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_things_are_left_alone() {
        let have = BTreeMap::from([(1, "a"), (2, "b"), (3, "c")]);
        let want = BTreeMap::from([(1, "a"), (2, "B"), (4, "d")]);
        let difference = between(&have, want);
        assert_eq!(difference.gone, [2, 3]);
        assert_eq!(difference.new, [(2, "B"), (4, "d")]);
    }

    #[test]
    fn applying_the_difference_reaches_the_goal() {
        let sets: Vec<BTreeMap<u8, u8>> = (0..64u8)
            .map(|seed| {
                (0..4)
                    .filter(|key| seed & (1 << key) != 0)
                    .map(|key| (key, seed >> 4))
                    .collect()
            })
            .collect();
        for have in &sets {
            for want in &sets {
                let mut reached = have.clone();
                let difference = between(have, want.clone());
                for key in difference.gone {
                    reached.remove(&key);
                }
                reached.extend(difference.new);
                assert_eq!(&reached, want);
            }
        }
    }
}
