//! The node's addresses for pods and their states: free, assigned, cooling, leaving.
//!
//! Guarantees: an address has at most one holder and belongs to one ENI; a key holds at most one address; a released
//! address is not handed out until its cool-down has passed, even if EC2 takes it away and brings it back meanwhile;
//! what is cooling is not counted as free and not given back; what was given back is not believed to be there again
//! before [`DISBELIEF`] has passed, because both of EC2's views lag.
//! Must not: read clocks, talk to EC2 or the kernel, or persist anything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use penstock_control_api::{AttachmentKey, PoolReport};

use crate::clock::Timestamp;
use crate::ipam::plan::{EniView, Role, Units};

mod release;

pub use release::Parting;

/// For how long a sighting of something given back is put down to a lagging view; EC2's own advice for eventual
/// consistency is to wait up to five minutes.
pub const DISBELIEF: Duration = Duration::from_secs(300);

/// For how long both of EC2's views must have shown something nobody here asked for before it is used: they may both
/// lag behind a return that another process made.
pub const SIGHT_PATIENCE: Duration = Duration::from_secs(60);

/// Length of a delegated IPv4 prefix.
pub const PREFIX_LENGTH: u8 = 28;

/// State of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    /// Held by nobody; cooling until the cool-down after `released` has passed.
    Idle { released: Option<Timestamp> },
    /// Held by an attachment.
    Assigned(AttachmentKey),
    /// Being given back to EC2; not to be handed out.
    Leaving,
}

/// One ENI's share of the pool.
#[derive(Debug, Clone)]
struct Eni {
    device_number: u32,
    added: Timestamp,
    /// Being removed: hands out nothing.
    draining: bool,
    role: Role,
    /// Delegated prefixes; each has all its addresses in `slots`.
    prefixes: BTreeSet<Ipv4Net>,
    slots: BTreeMap<Ipv4Addr, Slot>,
}

impl Eni {
    fn assigned(&self) -> usize {
        let is_assigned = |slot: &&Slot| matches!(slot, Slot::Assigned(_));
        self.slots.values().filter(is_assigned).count()
    }

    /// The delegated prefix an address came with.
    fn prefix_of(&self, address: Ipv4Addr) -> Option<Ipv4Net> {
        let prefix = prefix_around(address);
        prefix.filter(|prefix| self.prefixes.contains(prefix))
    }

    fn hands_out(&self) -> bool {
        !self.draining && self.role == Role::Pods
    }

    /// Addresses of a prefix, or the one address.
    fn slots_of(&self, prefix: Ipv4Net) -> impl Iterator<Item = (Ipv4Addr, &Slot)> + '_ {
        let range = prefix.network()..=prefix.broadcast();
        self.slots
            .range(range)
            .map(|(address, slot)| (*address, slot))
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
    /// A prefix of a size EC2 does not delegate.
    #[error("{0} is no delegated prefix, which is a /28")]
    NotDelegated(Ipv4Net),
}

/// All secondary addresses of the node.
#[derive(Debug, Clone)]
pub struct Pool {
    cooldown: Duration,
    enis: BTreeMap<String, Eni>,
    holders: HashMap<AttachmentKey, Ipv4Addr>,
    owners: HashMap<Ipv4Addr, String>,
    /// When addresses that are not here now were last released.
    absent: HashMap<Ipv4Addr, Timestamp>,
    /// What was given back, and when; a single address as a /32.
    returned: HashMap<Ipv4Net, Timestamp>,
    /// What was sighted that nobody asked for: first and last time.
    sighted: HashMap<Ipv4Net, (Timestamp, Timestamp)>,
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
            absent: HashMap::new(),
            returned: HashMap::new(),
            sighted: HashMap::new(),
        }
    }

    /// Adds an ENI without addresses; no effect when it is there.
    pub fn add_eni(&mut self, eni_id: &str, device_number: u32, now: Timestamp) {
        self.enis.entry(eni_id.to_owned()).or_insert(Eni {
            device_number,
            added: now,
            draining: false,
            role: Role::Pods,
            prefixes: BTreeSet::new(),
            slots: BTreeMap::new(),
        });
    }

    /// Says what an ENI is for.
    ///
    /// # Errors
    /// When the ENI is unknown.
    pub fn set_role(&mut self, eni_id: &str, role: Role) -> Result<(), PoolError> {
        self.eni_mut(eni_id)?.role = role;
        Ok(())
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

    /// Forgets an ENI and its addresses, which EC2 has now.
    ///
    /// # Errors
    /// When the ENI is unknown or in use.
    pub fn remove_eni(&mut self, eni_id: &str, now: Timestamp) -> Result<(), PoolError> {
        if self.eni_mut(eni_id)?.assigned() > 0 {
            return Err(PoolError::InUse(eni_id.to_owned()));
        }
        if let Some(eni) = self.enis.remove(eni_id) {
            for (address, slot) in eni.slots {
                self.remember(address, &slot);
                self.returned.insert(Ipv4Net::from(address), now);
            }
            let prefixes = eni.prefixes.into_iter();
            self.returned.extend(prefixes.map(|prefix| (prefix, now)));
        }
        self.owners.retain(|_, owner| owner != eni_id);
        Ok(())
    }

    /// Adds a free address that EC2 has just granted; no effect when the ENI has it already.
    ///
    /// # Errors
    /// When the ENI is unknown or another one owns the address.
    pub fn add_address(&mut self, eni_id: &str, address: Ipv4Addr) -> Result<(), PoolError> {
        self.owned_by_no_other(eni_id, address)?;
        let released = self.absent.get(&address).copied();
        let eni = self.eni_mut(eni_id)?;
        eni.slots.entry(address).or_insert(Slot::Idle { released });
        self.owners.insert(address, eni_id.to_owned());
        self.absent.remove(&address);
        self.returned.remove(&Ipv4Net::from(address));
        Ok(())
    }

    /// Adds a prefix that EC2 has just granted, with all its addresses; no effect when the ENI has it already.
    ///
    /// # Errors
    /// When the ENI is unknown, another one owns an address of it, or it is no /28.
    pub fn add_prefix(&mut self, eni_id: &str, prefix: Ipv4Net) -> Result<(), PoolError> {
        if prefix.prefix_len() != PREFIX_LENGTH {
            return Err(PoolError::NotDelegated(prefix));
        }
        let addresses: Vec<Ipv4Addr> = addresses_of(prefix).collect();
        for address in &addresses {
            self.owned_by_no_other(eni_id, *address)?;
        }
        self.eni_mut(eni_id)?.prefixes.insert(prefix.trunc());
        for address in addresses {
            self.add_address(eni_id, address)?;
        }
        self.returned.remove(&prefix.trunc());
        Ok(())
    }

    /// Adds an address that a look at the cloud shows, unless it was given back lately; once the agent runs
    /// (`settled`), only when it has been sighted for [`SIGHT_PATIENCE`].
    ///
    /// # Errors
    /// As [`Self::add_address`].
    pub fn sight_address(
        &mut self,
        eni_id: &str,
        address: Ipv4Addr,
        (settled, now): (bool, Timestamp),
    ) -> Result<(), PoolError> {
        let known = self.owner(address).is_some_and(|owner| owner == eni_id);
        match known || self.believes(Ipv4Net::from(address), settled, now) {
            true => self.add_address(eni_id, address),
            false => self.owned_by_no_other(eni_id, address),
        }
    }

    /// Adds a prefix that a look at the cloud shows, as [`Self::sight_address`].
    ///
    /// # Errors
    /// As [`Self::add_prefix`].
    pub fn sight_prefix(
        &mut self,
        eni_id: &str,
        prefix: Ipv4Net,
        (settled, now): (bool, Timestamp),
    ) -> Result<(), PoolError> {
        let known = self.prefixes(eni_id).any(|has| has == prefix);
        match known || self.believes(prefix, settled, now) {
            true => self.add_prefix(eni_id, prefix),
            false => Ok(()),
        }
    }

    fn believes(&mut self, what: Ipv4Net, settled: bool, now: Timestamp) -> bool {
        let what = what.trunc();
        let returned = self.returned.get(&what);
        if returned.is_some_and(|when| now.since(*when) < DISBELIEF) {
            return false;
        }
        // What was out of sight for that long begins anew.
        self.sighted
            .retain(|_, (_, last)| now.since(*last) < SIGHT_PATIENCE);
        let (first, last) = self.sighted.entry(what).or_insert((now, now));
        *last = now;
        let believed = !settled || now.since(*first) >= SIGHT_PATIENCE;
        if believed {
            self.sighted.remove(&what);
        }
        believed
    }

    fn owned_by_no_other(&self, eni_id: &str, address: Ipv4Addr) -> Result<(), PoolError> {
        match self.owners.get(&address) {
            Some(owner) if owner != eni_id => Err(PoolError::Duplicate {
                address,
                eni_id: owner.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// An address that goes keeps its cool-down.
    fn remember(&mut self, address: Ipv4Addr, slot: &Slot) {
        if let Slot::Idle {
            released: Some(released),
        } = slot
        {
            self.absent.insert(address, *released);
        }
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
        let slot = eni.slots.remove(&address);
        self.owners.remove(&address);
        if let Some(slot) = slot {
            self.remember(address, &slot);
        }
        Ok(())
    }

    /// Forgets a prefix none of whose addresses is held.
    ///
    /// # Errors
    /// When an address of it is in use; the prefix then stays whole.
    pub fn remove_prefix(&mut self, eni_id: &str, prefix: Ipv4Net) -> Result<(), PoolError> {
        let eni = self.eni_mut(eni_id)?;
        let held = |(_, slot): (Ipv4Addr, &Slot)| matches!(slot, Slot::Assigned(_));
        if eni.slots_of(prefix).any(held) {
            return Err(PoolError::InUse(prefix.to_string()));
        }
        if eni.prefixes.remove(&prefix) {
            for address in addresses_of(prefix) {
                self.remove_address(address)?;
            }
        }
        Ok(())
    }

    /// Hands out an address: of the fullest ENI that has one free and its fullest prefix, the one unused for longest.
    /// Pods that are packed leave ENIs and prefixes to give back. A key that holds one gets the same again.
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
            .filter(|(_, eni)| eni.hands_out())
            .filter_map(|(id, eni)| best_free(eni, cooldown, now).map(|free| (id, eni, free)))
            .max_by_key(|(_, eni, _)| (eni.assigned(), Reverse(eni.device_number)))
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
        let cooldown = self.cooldown;
        self.absent.retain(|_, at| cools(*at, cooldown, now));
        self.take_back(key, Some(now))
    }

    /// Takes back an address the holder never learnt of: it may be handed out at once.
    pub fn undo(&mut self, key: &AttachmentKey) -> Option<Ipv4Addr> {
        self.take_back(key, None)
    }

    /// Restores a cool-down that began before a restart; no effect for an address that is held. An address that is not
    /// here yet will cool when it comes.
    pub fn set_cooling(&mut self, address: Ipv4Addr, since: Timestamp) {
        let Some(owner) = self.owners.get(&address) else {
            self.absent.insert(address, since);
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

    /// What was given back so lately that a sighting of it is not believed.
    pub fn returned(&self, now: Timestamp) -> impl Iterator<Item = (Ipv4Net, Timestamp)> + '_ {
        let all = self.returned.iter().map(|(what, at)| (*what, *at));
        all.filter(move |(_, at)| now.since(*at) < DISBELIEF)
    }

    /// Restores what was given back before a restart.
    pub fn set_returned(&mut self, what: Ipv4Net, at: Timestamp) {
        self.returned.insert(what.trunc(), at);
    }

    /// Delegated prefixes of one ENI, in order.
    pub fn prefixes(&self, eni_id: &str) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.enis
            .get(eni_id)
            .into_iter()
            .flat_map(|eni| eni.prefixes.iter().copied())
    }

    /// Addresses of one ENI that came one by one, in order.
    pub fn singles(&self, eni_id: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let eni = self.enis.get(eni_id).into_iter();
        eni.flat_map(|eni| {
            let addresses = eni.slots.keys().copied();
            addresses.filter(|address| eni.prefix_of(*address).is_none())
        })
    }

    /// Addresses that are cooling, with the moment each was released; those that are not here now included.
    #[must_use]
    pub fn cooling(&self, now: Timestamp) -> Vec<(Ipv4Addr, Timestamp)> {
        let here = self.cooling_here(now);
        let absent = self.absent.iter().map(|(address, at)| (*address, *at));
        here.chain(absent.filter(|(_, at)| cools(*at, self.cooldown, now)))
            .collect()
    }

    fn cooling_here(&self, now: Timestamp) -> impl Iterator<Item = (Ipv4Addr, Timestamp)> + '_ {
        let slots = self.enis.values().flat_map(|eni| &eni.slots);
        slots.filter_map(move |(address, slot)| match slot {
            Slot::Idle { released: Some(at) } if cools(*at, self.cooldown, now) => {
                Some((*address, *at))
            }
            _ => None,
        })
    }

    /// What the plan needs to know of each ENI, ordered by device number.
    #[must_use]
    pub fn views(&self, now: Timestamp) -> Vec<EniView> {
        let mut views: Vec<EniView> = self
            .enis
            .iter()
            .map(|(id, eni)| self.view(id, eni, now))
            .collect();
        views.sort_by_key(|view| view.device_number);
        views
    }

    fn view(&self, eni_id: &str, eni: &Eni, now: Timestamp) -> EniView {
        let (free, cooling) = idle_counts(eni, self.cooldown, now);
        let leaving = eni.slots.values().any(|slot| *slot == Slot::Leaving);
        EniView {
            eni_id: eni_id.to_owned(),
            device_number: eni.device_number,
            role: eni.role,
            assigned: count(eni.assigned()),
            // What is not handed out is of no use to a pod.
            free: if eni.draining { 0 } else { free },
            cooling,
            held: Units {
                singles: count(self.singles(eni_id).count()),
                prefixes: count(eni.prefixes.len()),
            },
            idle: self.idle(eni, now),
            ordered: Units::default(),
            age: now.since(eni.added),
            draining: eni.draining || leaving,
            subnet_full: false,
            fragmented: false,
        }
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
        let cooling: Vec<_> = self.cooling_here(now).collect();
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

/// The free address whose prefix has most pods, and of these the one unused for longest. Single addresses come before
/// a prefix nobody uses yet.
fn best_free(eni: &Eni, cooldown: Duration, now: Timestamp) -> Option<Ipv4Addr> {
    let mut pods: HashMap<Ipv4Net, u32> = HashMap::new();
    for (address, slot) in &eni.slots {
        if matches!(slot, Slot::Assigned(_))
            && let Some(prefix) = eni.prefix_of(*address)
        {
            *pods.entry(prefix).or_default() += 1;
        }
    }
    let weight = |address: Ipv4Addr| match eni.prefix_of(address) {
        Some(prefix) => pods.get(&prefix).copied().unwrap_or(0),
        None => 1,
    };
    let free = eni.slots.iter().filter_map(|(address, slot)| match slot {
        Slot::Idle { released: Some(at) } if cools(*at, cooldown, now) => None,
        Slot::Idle { released } => Some((Reverse(weight(*address)), *released, *address)),
        Slot::Assigned(_) | Slot::Leaving => None,
    });
    free.min().map(|(_, _, address)| address)
}

/// The /28 an address lies in.
fn prefix_around(address: Ipv4Addr) -> Option<Ipv4Net> {
    Ipv4Net::new(address, PREFIX_LENGTH)
        .ok()
        .map(|net| net.trunc())
}

/// Every address of a prefix, the first and the last included: pods may have them.
pub fn addresses_of(prefix: Ipv4Net) -> impl Iterator<Item = Ipv4Addr> {
    let range = u32::from(prefix.network())..=u32::from(prefix.broadcast());
    range.map(Ipv4Addr::from)
}

/// (free, cooling)
fn idle_counts(eni: &Eni, cooldown: Duration, now: Timestamp) -> (u32, u32) {
    let mut free = 0;
    let mut cooling = 0;
    for slot in eni.slots.values() {
        match slot {
            Slot::Idle { released: Some(at) } if cools(*at, cooldown, now) => cooling += 1,
            Slot::Idle { .. } => free += 1,
            Slot::Assigned(_) | Slot::Leaving => {}
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
