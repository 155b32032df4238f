//! The node's secondary addresses and their states: free, assigned, cooling.
//!
//! Guarantees: an address has at most one holder and belongs to one ENI; a key holds at most one address; a released
//! address is not handed out until its cool-down has passed; what is cooling is not counted as free.
//! Must not: read clocks, talk to EC2 or the kernel, or persist anything.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use penstock_control_api::{AttachmentKey, PoolReport};

use crate::clock::Timestamp;
use crate::ipam::plan::EniView;

/// State of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    /// Held by nobody; cooling until the cool-down after `released` has passed.
    Idle { released: Option<Timestamp> },
    /// Held by an attachment.
    Assigned(AttachmentKey),
}

/// One ENI's share of the pool.
#[derive(Debug, Clone)]
struct Eni {
    device_number: u32,
    added: Timestamp,
    /// Being removed: hands out nothing.
    draining: bool,
    slots: BTreeMap<Ipv4Addr, Slot>,
}

impl Eni {
    fn assigned(&self) -> usize {
        let is_assigned = |slot: &&Slot| matches!(slot, Slot::Assigned(_));
        self.slots.values().filter(is_assigned).count()
    }
}

/// Why an address could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no free address ({cooling} cooling)")]
pub struct Exhausted {
    /// Addresses that only wait for their cool-down.
    pub cooling: u32,
    /// When the first of them may be used.
    pub next_free: Option<Timestamp>,
}

/// Why the pool refuses a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The ENI is not in the pool.
    #[error("{0} is not in the pool")]
    UnknownEni(String),
    /// Something still holds addresses of the ENI, or the address.
    #[error("{0} is in use")]
    InUse(String),
    /// The address belongs to another ENI.
    #[error("{address} already belongs to {eni_id}")]
    Duplicate {
        /// The address.
        address: Ipv4Addr,
        /// Its ENI.
        eni_id: String,
    },
}

/// All secondary addresses of the node.
#[derive(Debug, Clone)]
pub struct Pool {
    cooldown: Duration,
    enis: BTreeMap<String, Eni>,
    holders: HashMap<AttachmentKey, Ipv4Addr>,
    owners: HashMap<Ipv4Addr, String>,
}

impl Pool {
    /// An empty pool whose addresses rest for `cooldown` after use.
    #[must_use]
    pub fn new(cooldown: Duration) -> Self {
        Self {
            cooldown,
            enis: BTreeMap::new(),
            holders: HashMap::new(),
            owners: HashMap::new(),
        }
    }

    /// Adds an ENI without addresses; no effect when it is there.
    pub fn add_eni(&mut self, eni_id: &str, device_number: u32, now: Timestamp) {
        self.enis.entry(eni_id.to_owned()).or_insert(Eni {
            device_number,
            added: now,
            draining: false,
            slots: BTreeMap::new(),
        });
    }

    /// Stops or resumes handing out the addresses of an ENI.
    ///
    /// # Errors
    /// When the ENI is unknown, or to be drained and in use.
    pub fn set_draining(&mut self, eni_id: &str, draining: bool) -> Result<(), PoolError> {
        let eni = self.eni_mut(eni_id)?;
        if draining && eni.assigned() > 0 {
            return Err(PoolError::InUse(eni_id.to_owned()));
        }
        eni.draining = draining;
        Ok(())
    }

    /// Forgets an ENI and its addresses.
    ///
    /// # Errors
    /// When the ENI is unknown or in use.
    pub fn remove_eni(&mut self, eni_id: &str) -> Result<(), PoolError> {
        if self.eni_mut(eni_id)?.assigned() > 0 {
            return Err(PoolError::InUse(eni_id.to_owned()));
        }
        self.enis.remove(eni_id);
        self.owners.retain(|_, owner| owner != eni_id);
        Ok(())
    }

    /// Adds a free address; no effect when the ENI has it already.
    ///
    /// # Errors
    /// When the ENI is unknown or another one owns the address.
    pub fn add_address(&mut self, eni_id: &str, address: Ipv4Addr) -> Result<(), PoolError> {
        if let Some(owner) = self.owners.get(&address)
            && owner != eni_id
        {
            return Err(PoolError::Duplicate {
                address,
                eni_id: owner.clone(),
            });
        }
        let eni = self.eni_mut(eni_id)?;
        eni.slots
            .entry(address)
            .or_insert(Slot::Idle { released: None });
        self.owners.insert(address, eni_id.to_owned());
        Ok(())
    }

    /// Forgets an address nobody holds.
    ///
    /// # Errors
    /// When it is in use.
    pub fn remove_address(&mut self, address: Ipv4Addr) -> Result<(), PoolError> {
        let Some(owner) = self.owners.get(&address).cloned() else {
            return Ok(());
        };
        let eni = self.eni_mut(&owner)?;
        if matches!(eni.slots.get(&address), Some(Slot::Assigned(_))) {
            return Err(PoolError::InUse(address.to_string()));
        }
        eni.slots.remove(&address);
        self.owners.remove(&address);
        Ok(())
    }

    /// Hands out an address: of the fullest ENI that has one free, the one unused for longest. A key that holds one
    /// gets the same again.
    ///
    /// # Errors
    /// [`Exhausted`] when nothing is free.
    pub fn assign(
        &mut self,
        key: &AttachmentKey,
        now: Timestamp,
    ) -> Result<(Ipv4Addr, String), Exhausted> {
        if let Some((address, owner)) = self.held(key) {
            return Ok((address, owner));
        }
        let cooldown = self.cooldown;
        let choice = self
            .enis
            .iter()
            .filter(|(_, eni)| !eni.draining)
            .filter_map(|(id, eni)| oldest_free(eni, cooldown, now).map(|free| (id, eni, free)))
            .max_by_key(|(_, eni, _)| (eni.assigned(), std::cmp::Reverse(eni.device_number)))
            .map(|(id, _, free)| (id.clone(), free));
        let Some((eni_id, address)) = choice else {
            return Err(self.exhausted(now));
        };
        self.hold(key, &eni_id, address);
        Ok((address, eni_id))
    }

    /// Gives a particular address to `key`, as at a restart: adds the address when the ENI lacks it, for a running pod
    /// outweighs what EC2 says.
    ///
    /// # Errors
    /// When the ENI is unknown, or the address is another's.
    pub fn adopt(
        &mut self,
        key: &AttachmentKey,
        eni_id: &str,
        address: Ipv4Addr,
    ) -> Result<(), PoolError> {
        self.add_address(eni_id, address)?;
        match self.eni_mut(eni_id)?.slots.get(&address) {
            Some(Slot::Assigned(holder)) if holder != key => {
                return Err(PoolError::InUse(address.to_string()));
            }
            _ => {}
        }
        if self.holders.get(key).is_some_and(|held| *held != address) {
            return Err(PoolError::InUse(format!("{key:?}")));
        }
        self.hold(key, eni_id, address);
        Ok(())
    }

    /// Takes the address of `key` back; it cools from `now` on.
    pub fn release(&mut self, key: &AttachmentKey, now: Timestamp) -> Option<Ipv4Addr> {
        self.take_back(key, Some(now))
    }

    /// Takes back an address the holder never learnt of: it may be handed out at once.
    pub fn undo(&mut self, key: &AttachmentKey) -> Option<Ipv4Addr> {
        self.take_back(key, None)
    }

    /// Restores a cool-down that began before a restart; no effect for an address that is held or unknown.
    pub fn set_cooling(&mut self, address: Ipv4Addr, since: Timestamp) {
        let Some(owner) = self.owners.get(&address) else {
            return;
        };
        let slot = self
            .enis
            .get_mut(owner)
            .and_then(|eni| eni.slots.get_mut(&address));
        if let Some(Slot::Idle { released }) = slot {
            *released = Some(since);
        }
    }

    /// The address `key` holds, and its ENI.
    #[must_use]
    pub fn held(&self, key: &AttachmentKey) -> Option<(Ipv4Addr, String)> {
        let address = *self.holders.get(key)?;
        Some((address, self.owners.get(&address)?.clone()))
    }

    /// The ENI that owns `address`.
    #[must_use]
    pub fn owner(&self, address: Ipv4Addr) -> Option<&str> {
        self.owners.get(&address).map(String::as_str)
    }

    /// Addresses of one ENI, in order.
    pub fn addresses(&self, eni_id: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.enis
            .get(eni_id)
            .into_iter()
            .flat_map(|eni| eni.slots.keys().copied())
    }

    /// Addresses that are cooling, with the moment each was released.
    #[must_use]
    pub fn cooling(&self, now: Timestamp) -> Vec<(Ipv4Addr, Timestamp)> {
        let slots = self.enis.values().flat_map(|eni| &eni.slots);
        slots
            .filter_map(|(address, slot)| match slot {
                Slot::Idle { released: Some(at) } if cools(*at, self.cooldown, now) => {
                    Some((*address, *at))
                }
                _ => None,
            })
            .collect()
    }

    /// What the plan needs to know of each ENI, ordered by device number.
    #[must_use]
    pub fn views(&self, now: Timestamp) -> Vec<EniView> {
        let mut views: Vec<EniView> = self
            .enis
            .iter()
            .map(|(id, eni)| {
                let (free, cooling) = idle_counts(eni, self.cooldown, now);
                EniView {
                    eni_id: id.clone(),
                    device_number: eni.device_number,
                    assigned: count(eni.assigned()),
                    free,
                    cooling,
                    age: now.since(eni.added),
                    draining: eni.draining,
                }
            })
            .collect();
        views.sort_by_key(|view| view.device_number);
        views
    }

    /// Totals; `limit` is the most the instance type could hold.
    #[must_use]
    pub fn report(&self, now: Timestamp, limit: u32) -> PoolReport {
        let mut report = PoolReport {
            limit,
            ..PoolReport::default()
        };
        for view in self.views(now) {
            report.assigned += view.assigned;
            report.cooling += view.cooling;
            report.free += view.free;
        }
        report.total = report.assigned + report.cooling + report.free;
        report
    }

    fn exhausted(&self, now: Timestamp) -> Exhausted {
        let cooling = self.cooling(now);
        Exhausted {
            cooling: count(cooling.len()),
            next_free: cooling.iter().map(|(_, at)| at.plus(self.cooldown)).min(),
        }
    }

    fn hold(&mut self, key: &AttachmentKey, eni_id: &str, address: Ipv4Addr) {
        if let Some(eni) = self.enis.get_mut(eni_id) {
            eni.slots.insert(address, Slot::Assigned(key.clone()));
            self.holders.insert(key.clone(), address);
        }
    }

    fn take_back(&mut self, key: &AttachmentKey, released: Option<Timestamp>) -> Option<Ipv4Addr> {
        let address = self.holders.remove(key)?;
        let owner = self.owners.get(&address)?;
        let eni = self.enis.get_mut(owner)?;
        eni.slots.insert(address, Slot::Idle { released });
        Some(address)
    }

    fn eni_mut(&mut self, eni_id: &str) -> Result<&mut Eni, PoolError> {
        self.enis
            .get_mut(eni_id)
            .ok_or_else(|| PoolError::UnknownEni(eni_id.to_owned()))
    }
}

/// Still cooling at exactly the end of the period, as the VPC CNI has it.
fn cools(released: Timestamp, cooldown: Duration, now: Timestamp) -> bool {
    !cooldown.is_zero() && now.since(released) <= cooldown
}

fn oldest_free(eni: &Eni, cooldown: Duration, now: Timestamp) -> Option<Ipv4Addr> {
    let free = eni.slots.iter().filter_map(|(address, slot)| match slot {
        Slot::Idle { released: Some(at) } if cools(*at, cooldown, now) => None,
        Slot::Idle { released } => Some((*released, *address)),
        Slot::Assigned(_) => None,
    });
    free.min().map(|(_, address)| address)
}

/// (free, cooling)
fn idle_counts(eni: &Eni, cooldown: Duration, now: Timestamp) -> (u32, u32) {
    let mut free = 0;
    let mut cooling = 0;
    for slot in eni.slots.values() {
        match slot {
            Slot::Idle { released: Some(at) } if cools(*at, cooldown, now) => cooling += 1,
            Slot::Idle { .. } => free += 1,
            Slot::Assigned(_) => {}
        }
    }
    (free, cooling)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
