//! Fixed arrays that are taken from the system once and never grow: what flow tables lie in.
//!
//! Guarantees: zeroed at first, touched at construction (so a later packet never waits for a page
//! fault), on huge pages where the system gives them, kept out of core dumps and child processes.
//! Elements are plain bytes in a fixed layout, so an array may also lie in memory that outlives
//! the process. It must not allocate after construction.

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::{Advice, MmapMut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What can lie in a [`Slab`]: plain bytes, valid whatever they are.
pub(crate) trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Plain for T {}

/// A fixed array of `T`.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    map: MmapMut,
    elements: PhantomData<T>,
}

impl<T: Plain> Slab<T> {
    /// An array of `length` zeroed elements; at least one.
    ///
    /// # Errors
    /// When the system has not that much memory to give.
    pub(crate) fn new(length: usize) -> io::Result<Self> {
        let bytes = length.max(1).saturating_mul(size_of::<T>());
        let map = MmapMut::map_anon(bytes)?;
        // Advice only: on kernels and settings without it the memory is the same, only slower.
        for advice in [
            Advice::HugePage,
            Advice::DontFork,
            Advice::DontDump,
            Advice::PopulateWrite,
        ] {
            let _ = map.advise(advice);
        }
        Ok(Self {
            map,
            elements: PhantomData,
        })
    }
}

impl<T: Plain> Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // A mapping is page-aligned and a whole number of elements long: this cannot fail.
        <[T]>::ref_from_bytes(&self.map).unwrap_or_default()
    }
}

impl<T: Plain> DerefMut for Slab<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        <[T]>::mut_from_bytes(&mut self.map).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_writable_and_as_long_as_asked() {
        let mut slab = Slab::<[u64; 3]>::new(1000).unwrap();
        assert_eq!(slab.len(), 1000);
        assert!(slab.iter().all(|element| *element == [0; 3]));
        slab[999] = [1, 2, 3];
        assert_eq!(slab[999], [1, 2, 3]);
        assert_eq!(Slab::<u8>::new(0).unwrap().len(), 1);
    }

    #[test]
    fn more_than_there_is_is_refused() {
        assert!(Slab::<u64>::new(1 << 58).is_err());
    }
}
