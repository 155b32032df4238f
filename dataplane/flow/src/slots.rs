//! Book-keeping for a fixed number of slots, without owning what is in them: a hash index and
//! queues by arrival. Every operation but a search in a chain is a constant number of steps.
//!
//! A slot that does not exist is ignored everywhere; nothing panics or allocates after `new`.

/// No slot.
pub(crate) const NONE: u16 = u16::MAX;

/// Slots by hash: chained buckets, about one slot to each.
#[derive(Debug)]
pub(crate) struct Chains {
    heads: Box<[u16]>,
    next: Box<[u16]>,
}

impl Chains {
    pub(crate) fn new(slots: u16) -> Self {
        let slots = usize::from(slots);
        Self {
            heads: vec![NONE; slots.next_power_of_two()].into(),
            next: vec![NONE; slots].into(),
        }
    }

    /// The slot of this hash for which `is` says yes.
    pub(crate) fn find(&self, hash: u64, is: impl Fn(u16) -> bool) -> Option<u16> {
        let mut slot = *self.heads.get(self.bucket(hash))?;
        loop {
            let next = *self.next.get(usize::from(slot))?;
            if is(slot) {
                return Some(slot);
            }
            slot = next;
        }
    }

    /// Adds a slot that is in no chain.
    pub(crate) fn link(&mut self, hash: u64, slot: u16) {
        let bucket = self.bucket(hash);
        if let Some(head) = self.heads.get_mut(bucket)
            && let Some(next) = self.next.get_mut(usize::from(slot))
        {
            *next = *head;
            *head = slot;
        }
    }

    /// Takes out a slot that was added with this hash.
    pub(crate) fn unlink(&mut self, hash: u64, slot: u16) {
        let bucket = self.bucket(hash);
        let after = self.next.get(usize::from(slot)).copied().unwrap_or(NONE);
        let Some(mut link) = self.heads.get_mut(bucket) else {
            return;
        };
        while *link != slot {
            let at = usize::from(*link);
            let Some(next) = self.next.get_mut(at) else {
                return;
            };
            link = next;
        }
        *link = after;
    }

    fn bucket(&self, hash: u64) -> usize {
        hash as usize & (self.heads.len() - 1)
    }
}

/// A slot's neighbours in a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links {
    older: u16,
    younger: u16,
}

impl Links {
    pub(crate) const NONE: Self = Self {
        older: NONE,
        younger: NONE,
    };
}

/// Slots in the order in which they came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queue {
    oldest: u16,
    youngest: u16,
    length: u16,
}

impl Queue {
    pub(crate) const EMPTY: Self = Self {
        oldest: NONE,
        youngest: NONE,
        length: 0,
    };

    pub(crate) const fn length(&self) -> u16 {
        self.length
    }

    pub(crate) const fn oldest(&self) -> Option<u16> {
        match self.oldest {
            NONE => None,
            slot => Some(slot),
        }
    }

    /// Adds a slot that is in no queue of these links.
    pub(crate) fn push(&mut self, links: &mut [Links], slot: u16) {
        let Some(own) = links.get_mut(usize::from(slot)) else {
            return;
        };
        *own = Links {
            older: self.youngest,
            younger: NONE,
        };
        match links.get_mut(usize::from(self.youngest)) {
            Some(last) => last.younger = slot,
            None => self.oldest = slot,
        }
        self.youngest = slot;
        self.length += 1;
    }

    /// Takes out a slot that is in this queue.
    pub(crate) fn remove(&mut self, links: &mut [Links], slot: u16) {
        let Some(Links { older, younger }) = links.get(usize::from(slot)).copied() else {
            return;
        };
        match links.get_mut(usize::from(older)) {
            Some(neighbour) => neighbour.younger = younger,
            None => self.oldest = younger,
        }
        match links.get_mut(usize::from(younger)) {
            Some(neighbour) => neighbour.older = older,
            None => self.youngest = older,
        }
        self.length = self.length.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// A queue and an index against a list, whatever is taken out of where.
        #[test]
        fn equal_a_list(steps in proptest::collection::vec((0u16..6, 0u64..3), 1..200)) {
            let mut chains = Chains::new(6);
            let mut links = [Links::NONE; 6];
            let mut queue = Queue::EMPTY;
            let mut model: VecDeque<(u16, u64)> = VecDeque::new();
            for (slot, hash) in steps {
                match model.iter().position(|(present, _)| *present == slot) {
                    Some(at) => {
                        let (_, hash) = model.remove(at).unwrap();
                        chains.unlink(hash, slot);
                        queue.remove(&mut links, slot);
                    }
                    None => {
                        chains.link(hash, slot);
                        queue.push(&mut links, slot);
                        model.push_back((slot, hash));
                    }
                }
                prop_assert_eq!(queue.oldest(), model.front().map(|(slot, _)| *slot));
                prop_assert_eq!(usize::from(queue.length()), model.len());
                for slot in 0..6 {
                    for hash in 0..3 {
                        let present = model.contains(&(slot, hash));
                        prop_assert_eq!(chains.find(hash, |at| at == slot).is_some(), present);
                    }
                }
            }
        }
    }
}
