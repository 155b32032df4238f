//! When to look at a flow again: a timer wheel of one-second slots with lazy re-arming.
//!
//! A packet never touches the wheel; a flow is looked at when its slot comes round and put back
//! if it has lived meanwhile, so a flow costs one look per idle time. Fixed memory: one link per
//! flow. All work is by [`Wheel::pop_due`], one flow at a time, so the caller bounds it.

use crate::Timestamp;
use crate::table::FlowId;

/// Nanoseconds of a slot.
const TICK: u64 = 1_000_000_000;

/// Slots; longer waits are cut to this and looked at again. Covers the longest default timeout.
const SLOTS: usize = 8192;

/// No flow.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    /// Slot it waits in; [`NONE`] when it does not wait.
    slot: u32,
}

/// Bytes of timer a flow takes.
pub(crate) const BYTES_PER_FLOW: usize = size_of::<Link>();

/// The timers of all flows of a table.
#[derive(Debug)]
pub(crate) struct Wheel {
    heads: Box<[u32]>,
    links: Box<[Link]>,
    /// Ticks below this have been emptied.
    cursor: u64,
}

impl Wheel {
    /// Timers for the flows of a table of `capacity`, which start no earlier than `now`.
    pub(crate) fn new(capacity: usize, now: Timestamp) -> Self {
        let idle = Link {
            previous: NONE,
            next: NONE,
            slot: NONE,
        };
        Self {
            heads: vec![NONE; SLOTS].into(),
            links: vec![idle; capacity].into(),
            cursor: now.as_nanos() / TICK,
        }
    }

    /// Wants `id` to be looked at after `deadline`, whatever was wanted before.
    pub(crate) fn arm(&mut self, id: FlowId, deadline: Timestamp) {
        self.disarm(id);
        let tick = deadline.as_nanos() / TICK + 1;
        let tick = tick.clamp(self.cursor + 1, self.cursor + SLOTS as u64 - 1);
        let slot = (tick % SLOTS as u64) as usize;
        let Some(head) = self.heads.get_mut(slot) else {
            return;
        };
        let next = std::mem::replace(head, id.0);
        if let Some(link) = self.links.get_mut(next as usize) {
            link.previous = id.0;
        }
        if let Some(link) = self.links.get_mut(id.0 as usize) {
            *link = Link {
                previous: NONE,
                next,
                slot: slot as u32,
            };
        }
    }

    /// Wants `id` to be looked at within a tick or two.
    pub(crate) fn arm_soon(&mut self, id: FlowId) {
        self.arm(id, Timestamp::from_nanos(self.cursor * TICK));
    }

    /// Forgets `id`.
    pub(crate) fn disarm(&mut self, id: FlowId) {
        let Some(link) = self.links.get_mut(id.0 as usize) else {
            return;
        };
        let Link {
            previous,
            next,
            slot,
        } = *link;
        if slot == NONE {
            return;
        }
        link.slot = NONE;
        match self.links.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => {
                if let Some(head) = self.heads.get_mut(slot as usize) {
                    *head = next;
                }
            }
        }
        if let Some(next) = self.links.get_mut(next as usize) {
            next.previous = previous;
        }
    }

    /// Takes out one flow whose time has come; `None` when none is left before `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<FlowId> {
        let now = now.as_nanos() / TICK;
        // After a pause longer than the wheel every slot has come round: once each is enough.
        self.cursor = self.cursor.max((now + 1).saturating_sub(SLOTS as u64));
        loop {
            let head = *self.heads.get((self.cursor % SLOTS as u64) as usize)?;
            if head != NONE && self.cursor <= now {
                self.disarm(FlowId(head));
                return Some(FlowId(head));
            }
            if self.cursor >= now {
                return None;
            }
            self.cursor += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_nanos(seconds * TICK)
    }

    proptest! {
        /// Against a map: nothing fires early, everything fires by its time or, when it lies
        /// beyond the wheel, by the wheel's end; nothing fires twice or after being disarmed.
        #[test]
        fn fires_what_is_due_and_nothing_else(
            steps in proptest::collection::vec((0u32..32, 0u64..20_000, 0u64..400, any::<bool>()), 1..200),
        ) {
            let mut wheel = Wheel::new(32, at(5));
            let mut model: HashMap<u32, u64> = HashMap::new();
            let mut now = 5;
            for (id, wait, pause, disarm) in steps {
                if disarm {
                    wheel.disarm(FlowId(id));
                    model.remove(&id);
                } else {
                    wheel.arm(FlowId(id), at(now + wait));
                    model.insert(id, (now + wait + 1).min(now + SLOTS as u64 - 1).max(now + 1));
                }
                now += pause;
                while let Some(FlowId(id)) = wheel.pop_due(at(now)) {
                    let due = model.remove(&id);
                    prop_assert!(due.is_some_and(|due| due <= now), "{id} {due:?} at {now}");
                }
                prop_assert!(model.values().all(|due| *due > now), "{model:?} at {now}");
            }
        }
    }

    #[test]
    fn a_long_pause_costs_one_round() {
        let mut wheel = Wheel::new(2, at(0));
        wheel.arm(FlowId(0), at(10));
        assert_eq!(wheel.pop_due(at(1_000_000_000)), Some(FlowId(0)));
        assert_eq!(wheel.pop_due(at(1_000_000_000)), None);
    }
}
