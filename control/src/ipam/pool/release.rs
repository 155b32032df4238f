//! Giving addresses and prefixes back to EC2: chosen, set aside, then forgotten or kept.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{Eni, Pool, PoolError, Slot, cools, count};
use crate::clock::Timestamp;
use crate::ipam::plan::Units;

/// What is on its way back to EC2.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parting {
    /// Single addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Prefixes.
    pub prefixes: Vec<Ipv4Net>,
}

impl Parting {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.prefixes.is_empty()
    }
}

impl Pool {
    /// What of an ENI nobody holds and nothing rests in.
    pub(super) fn idle(&self, eni: &Eni, now: Timestamp) -> Units {
        let (singles, prefixes) = self.idle_of(eni, now);
        Units {
            singles: count(singles.len()),
            prefixes: count(prefixes.len()),
        }
    }

    /// Idle single addresses, longest unused first, and idle prefixes.
    fn idle_of(&self, eni: &Eni, now: Timestamp) -> (Vec<Ipv4Addr>, Vec<Ipv4Net>) {
        let free = |slot: &Slot| match slot {
            Slot::Idle { released: Some(at) } => !cools(*at, self.cooldown, now),
            Slot::Idle { released: None } => true,
            Slot::Assigned(_) | Slot::Leaving => false,
        };
        let busy: HashSet<Ipv4Net> = eni
            .slots
            .iter()
            .filter(|(_, slot)| !free(slot))
            .filter_map(|(address, _)| eni.prefix_of(*address))
            .collect();
        let mut singles: Vec<_> = eni
            .slots
            .iter()
            .filter(|(address, slot)| free(slot) && eni.prefix_of(**address).is_none())
            .map(|(address, slot)| match slot {
                Slot::Idle { released } => (*released, *address),
                Slot::Assigned(_) | Slot::Leaving => (None, *address),
            })
            .collect();
        singles.sort_unstable();
        let prefixes = eni.prefixes.iter().filter(|prefix| !busy.contains(prefix));
        (
            singles.into_iter().map(|(_, address)| address).collect(),
            prefixes.copied().collect(),
        )
    }

    /// Sets up to `units` of what is idle aside; from now on nobody gets it.
    ///
    /// # Errors
    /// When the ENI is unknown.
    pub fn part_with(
        &mut self,
        eni_id: &str,
        units: Units,
        now: Timestamp,
    ) -> Result<Parting, PoolError> {
        let eni = self.enis.get(eni_id);
        let eni = eni.ok_or_else(|| PoolError::UnknownEni(eni_id.to_owned()))?;
        let (mut addresses, mut prefixes) = self.idle_of(eni, now);
        addresses.truncate(units.singles as usize);
        prefixes.truncate(units.prefixes as usize);
        let parting = Parting {
            addresses,
            prefixes,
        };
        self.mark(eni_id, &parting, |_| Slot::Leaving);
        Ok(parting)
    }

    /// EC2 has taken it back.
    pub fn parted(&mut self, eni_id: &str, parting: &Parting, now: Timestamp) {
        self.returned
            .retain(|_, when| now.since(*when) < super::DISBELIEF);
        for address in &parting.addresses {
            self.drop_slot(eni_id, *address);
            self.returned.insert(Ipv4Net::from(*address), now);
        }
        for prefix in &parting.prefixes {
            if let Some(eni) = self.enis.get_mut(eni_id) {
                eni.prefixes.remove(prefix);
            }
            super::addresses_of(*prefix).for_each(|address| self.drop_slot(eni_id, address));
            self.returned.insert(*prefix, now);
        }
    }

    /// EC2 has refused, or it is not known what it did: it may be handed out again, which is safe only because the
    /// caller has made sure that EC2 still shows it.
    pub fn keep(&mut self, eni_id: &str, parting: &Parting) {
        self.mark(eni_id, parting, |_| Slot::Idle { released: None });
    }

    fn mark(&mut self, eni_id: &str, parting: &Parting, state: impl Fn(Ipv4Addr) -> Slot) {
        let Some(eni) = self.enis.get_mut(eni_id) else {
            return;
        };
        let of_prefixes = parting
            .prefixes
            .iter()
            .flat_map(|p| super::addresses_of(*p));
        for address in parting.addresses.iter().copied().chain(of_prefixes) {
            if let Some(slot) = eni.slots.get_mut(&address)
                && !matches!(slot, Slot::Assigned(_))
            {
                *slot = state(address);
            }
        }
    }

    fn drop_slot(&mut self, eni_id: &str, address: Ipv4Addr) {
        if let Some(eni) = self.enis.get_mut(eni_id) {
            eni.slots.remove(&address);
            self.owners.remove(&address);
        }
    }
}
