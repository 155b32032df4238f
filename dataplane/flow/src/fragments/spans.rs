//! Which bytes of a datagram were seen: a sorted list of spans that do not touch.
//!
//! A list, not a bitmap: a bitmap of eight-byte blocks takes 1 KiB for every datagram, a list of
//! [`MOST`] spans an eighth of it, and it counts bytes, so a piece whose length is no multiple of
//! eight needs no rule of its own. Pieces that arrive in order or in reverse never need more than
//! one span. A datagram of any length cut for IPv6's least MTU (1,280 bytes, so at most 54 pieces)
//! never needs more than 27, in whatever order they come.

/// Most spans that can be apart at one time.
pub(super) const MOST: usize = 32;

/// Bytes `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u16,
    end: u16,
}

/// The bytes seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spans {
    list: [Span; MOST],
    count: u8,
}

/// What adding bytes came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// All were new.
    New,
    /// Some were seen before; nothing has changed.
    Overlap,
    /// More than [`MOST`] spans would be apart; nothing has changed.
    TooMany,
}

impl Spans {
    pub(super) const EMPTY: Self = Self {
        list: [Span { start: 0, end: 0 }; MOST],
        count: 0,
    };

    /// Adds the bytes `start..end`; none when both are the same.
    pub(super) fn add(&mut self, start: u16, end: u16) -> Added {
        if start >= end {
            return Added::New;
        }
        let spans = self.spans();
        let at = spans.partition_point(|span| span.start < start);
        let before = at.checked_sub(1).and_then(|at| spans.get(at)).copied();
        let after = spans.get(at).copied();
        let touches = |span: Option<Span>| span.filter(|s| s.end == start || s.start == end);
        if before.is_some_and(|span| span.end > start) || after.is_some_and(|span| span.start < end)
        {
            return Added::Overlap;
        }
        match (touches(before), touches(after)) {
            (Some(before), Some(after)) => {
                self.set(at - 1, before.start, after.end);
                self.list.copy_within(at + 1..usize::from(self.count), at);
                self.count -= 1;
            }
            (Some(before), None) => self.set(at - 1, before.start, end),
            (None, Some(after)) => self.set(at, start, after.end),
            (None, None) => {
                if usize::from(self.count) == MOST {
                    return Added::TooMany;
                }
                self.list.copy_within(at..usize::from(self.count), at + 1);
                self.count += 1;
                self.set(at, start, end);
            }
        }
        Added::New
    }

    /// One past the last byte seen.
    pub(super) fn end(&self) -> u16 {
        self.spans().last().map_or(0, |span| span.end)
    }

    /// Whether exactly the first `total` bytes were seen.
    pub(super) fn are_the_first(&self, total: u16) -> bool {
        matches!(self.spans(), [only] if only.start == 0 && only.end == total)
    }

    fn spans(&self) -> &[Span] {
        self.list.get(..usize::from(self.count)).unwrap_or_default()
    }

    fn set(&mut self, at: usize, start: u16, end: u16) {
        if let Some(span) = self.list.get_mut(at) {
            *span = Span { start, end };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_order_reversed_and_filling_a_gap() {
        let mut spans = Spans::EMPTY;
        assert_eq!(spans.add(0, 8), Added::New);
        assert_eq!(spans.add(16, 65_535), Added::New);
        assert!(!spans.are_the_first(65_535));
        assert_eq!(spans.add(8, 16), Added::New);
        assert!(spans.are_the_first(65_535));
        assert!(!spans.are_the_first(65_534));
        assert_eq!(spans.count, 1);
        assert_eq!(spans.end(), 65_535);
    }

    #[test]
    fn as_many_apart_as_promised_and_no_more() {
        let mut spans = Spans::EMPTY;
        for n in 0..MOST as u16 {
            assert_eq!(spans.add(n * 16, n * 16 + 8), Added::New);
        }
        let next = MOST as u16 * 16;
        assert_eq!(spans.add(next, next + 8), Added::TooMany);
        assert_eq!(spans.add(next - 8, next + 8), Added::New, "grows the last");
        assert_eq!(spans.add(8, 16), Added::New, "joins two");
        assert_eq!(
            spans.add(1_000, 1_008),
            Added::New,
            "so there is room again"
        );
        assert_eq!(spans.add(2_000, 2_008), Added::TooMany);
    }

    proptest! {
        #[test]
        fn equal_a_map_of_bytes(
            pieces in proptest::collection::vec((0u16..90, 0u16..12), 1..80),
        ) {
            let mut spans = Spans::EMPTY;
            let mut seen = [false; 128];
            for (start, length) in pieces {
                let bytes = &mut seen[usize::from(start)..usize::from(start + length)];
                let overlaps = bytes.iter().any(|seen| *seen);
                let added = spans.add(start, start + length);
                prop_assert_eq!(added, if overlaps { Added::Overlap } else { Added::New });
                if added == Added::New {
                    bytes.fill(true);
                }
                let end = seen.iter().rposition(|seen| *seen).map_or(0, |at| at + 1);
                prop_assert_eq!(usize::from(spans.end()), end);
                for total in 0..100u16 {
                    let first = seen[..usize::from(total)].iter().all(|seen| *seen);
                    let exactly = first && end == usize::from(total);
                    prop_assert_eq!(spans.are_the_first(total), exactly && total > 0);
                }
            }
        }
    }
}
