//! How many flows one pod may have (RFC 6888 REQ-4, REQ-5; N13).
//!
//! A flow belongs to an account, an account to a pod's address. Memory is fixed at the start,
//! taking and giving back cost a constant number of steps, and a count is exactly the number of
//! flows that were taken and not given back. A pod at its limit harms nobody else, and one that
//! is gone cannot be harmed by what it left behind: [`Quota::retire`] closes its account to new
//! flows, so that the next pod with the same address starts at nothing.
//!
//! Each worker counts for itself, because workers share nothing: of a node-wide limit each gets
//! an equal part, rounded up. Flows spread over workers by a hash the pod does not know, so a pod
//! with many flows comes close to the whole.

use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::seeded::{Seed, mix};

/// Most accounts [`Quota::new`] makes room for.
pub const MAX_ACCOUNTS: u16 = 32_768;

/// No account.
const NONE: u16 = u16::MAX;

/// What a flow is charged to; fits in a flow entry. Plain: good for as long as the flow it was
/// given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Account(u16);

impl Account {
    /// As a plain integer, for memory that outlives this process.
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// From any integer; one that names no account makes every later use a no-op.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

/// Why a flow may not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The pod has as many flows as it may.
    Limit,
    /// There are more pods, living and dead, with flows than there are accounts.
    Accounts,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    address: IpAddr,
    flows: u32,
    /// Whether the address still finds this account.
    open: bool,
    /// Next account of the same bucket, or of the free list.
    next: u16,
}

/// One worker's accounts.
#[derive(Debug)]
pub struct Quota {
    limit: u32,
    workers: u16,
    seed: Seed,
    slots: Box<[Slot]>,
    buckets: Box<[u16]>,
    free: u16,
}

impl Quota {
    /// Accounts for up to `accounts` pods that have flows at one time, dead ones' leftovers
    /// included; at least 1, at most [`MAX_ACCOUNTS`]. There is no limit yet.
    #[must_use]
    pub fn new(workers: u16, accounts: u16, seed: Seed) -> Self {
        let accounts = accounts.clamp(1, MAX_ACCOUNTS);
        let slot = |index: u16| Slot {
            address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            flows: 0,
            open: false,
            next: if index + 1 < accounts {
                index + 1
            } else {
                NONE
            },
        };
        let buckets = usize::from(accounts).next_power_of_two();
        Self {
            limit: u32::MAX,
            workers: workers.max(1),
            seed,
            slots: (0..accounts).map(slot).collect(),
            buckets: vec![NONE; buckets].into(),
            free: 0,
        }
    }

    /// Sets how many flows one pod may have on the whole node, from now on. A pod that has more
    /// keeps them.
    pub fn set_limit(&mut self, limit: Option<NonZeroU32>) {
        let share = |limit: NonZeroU32| limit.get().div_ceil(u32::from(self.workers));
        self.limit = limit.map_or(u32::MAX, share);
    }

    /// Flows one pod may have at this worker.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Charges one more flow to the pod at `address`.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn take(&mut self, address: IpAddr) -> Result<Account, Refused> {
        let index = match self.find(address) {
            Some(index) => index,
            None => self.open(address).ok_or(Refused::Accounts)?,
        };
        let limit = self.limit;
        let slot = self.slot_mut(index).ok_or(Refused::Accounts)?;
        if slot.flows >= limit {
            return Err(Refused::Limit);
        }
        slot.flows += 1;
        Ok(Account(index))
    }

    /// Ends the charge of one flow. An account without flows is free for any pod.
    pub fn give(&mut self, account: Account) {
        let Some(slot) = self.slot_mut(account.0) else {
            return;
        };
        if slot.flows == 0 {
            return;
        }
        slot.flows -= 1;
        if slot.flows > 0 {
            return;
        }
        let (open, address) = (slot.open, slot.address);
        if open {
            self.unlink(account.0, address);
        }
        let free = self.free;
        if let Some(slot) = self.slot_mut(account.0) {
            slot.open = false;
            slot.next = free;
            self.free = account.0;
        }
    }

    /// The pod at `address` is gone: its flows stay charged to it until they end, but no new one
    /// is.
    pub fn retire(&mut self, address: IpAddr) {
        if let Some(index) = self.find(address) {
            self.unlink(index, address);
            if let Some(slot) = self.slot_mut(index) {
                slot.open = false;
            }
        }
    }

    /// Flows the pod at `address` has.
    #[must_use]
    pub fn flows(&self, address: IpAddr) -> u32 {
        let slot = self.find(address).and_then(|index| self.slot(index));
        slot.map_or(0, |slot| slot.flows)
    }

    fn slot(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    fn slot_mut(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index))
    }

    fn bucket(&self, address: IpAddr) -> usize {
        let bits = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        let hash = mix(self.seed, (bits >> 64) as u64, bits as u64);
        hash as usize & (self.buckets.len() - 1)
    }

    /// The open account of `address`. A bucket holds one on average and the seed is secret, so
    /// the chain is short.
    fn find(&self, address: IpAddr) -> Option<u16> {
        let mut at = *self.buckets.get(self.bucket(address))?;
        loop {
            let slot = self.slot(at)?;
            if slot.address == address {
                return Some(at);
            }
            at = slot.next;
        }
    }

    /// Makes a free account the open one of `address`.
    fn open(&mut self, address: IpAddr) -> Option<u16> {
        let index = self.free;
        let bucket = self.bucket(address);
        let head = *self.buckets.get(bucket)?;
        let slot = self.slots.get_mut(usize::from(index))?;
        self.free = slot.next;
        *slot = Slot {
            address,
            flows: 0,
            open: true,
            next: head,
        };
        *self.buckets.get_mut(bucket)? = index;
        Some(index)
    }

    /// Takes an open account out of its bucket.
    fn unlink(&mut self, index: u16, address: IpAddr) {
        let bucket = self.bucket(address);
        let next = self.slot(index).map_or(NONE, |slot| slot.next);
        let Some(mut at) = self.buckets.get(bucket).copied() else {
            return;
        };
        if at == index {
            if let Some(head) = self.buckets.get_mut(bucket) {
                *head = next;
            }
            return;
        }
        while let Some(slot) = self.slot_mut(at) {
            if slot.next == index {
                slot.next = next;
                return;
            }
            at = slot.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const SEED: Seed = [11, 12];

    fn pod(n: u8) -> IpAddr {
        match n % 2 {
            0 => Ipv4Addr::new(10, 0, 0, n).into(),
            _ => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into(),
        }
    }

    fn quota(limit: u32, workers: u16, accounts: u16) -> Quota {
        let mut quota = Quota::new(workers, accounts, SEED);
        quota.set_limit(NonZeroU32::new(limit));
        quota
    }

    /// T31, T32: a pod that opens flows without end is held at its limit, every refusal is told,
    /// and the others do not notice.
    #[test]
    fn t31_t32_a_flooding_pod_is_held_at_its_limit_alone() {
        let mut quota = quota(4_096, 1, 64);
        let mut accounts = Vec::new();
        let mut refused = 0;
        for flow in 0..100_000 {
            match quota.take(pod(0)) {
                Ok(account) => accounts.push(account),
                Err(reason) => {
                    assert_eq!(reason, Refused::Limit);
                    refused += 1;
                }
            }
            if flow % 1_000 == 0 {
                assert!(quota.take(pod(1)).is_ok());
            }
        }
        assert_eq!((accounts.len(), refused), (4_096, 100_000 - 4_096));
        assert_eq!((quota.flows(pod(0)), quota.flows(pod(1))), (4_096, 100));
        quota.give(accounts[17]);
        assert!(quota.take(pod(0)).is_ok());
        assert_eq!(quota.take(pod(0)), Err(Refused::Limit));
    }

    #[test]
    fn workers_share_the_limit() {
        assert_eq!(quota(4_096, 2, 1).limit(), 2_048);
        assert_eq!(quota(4_096, 3, 1).limit(), 1_366);
        assert_eq!(quota(1, 8, 1).limit(), 1);
        assert_eq!(quota(7, 0, 0).limit(), 7);
        assert_eq!(quota(0, 2, 1).limit(), u32::MAX, "no limit");
    }

    #[test]
    fn a_new_limit_holds_for_new_flows() {
        let mut quota = quota(3, 1, 2);
        let flows: Vec<Account> = (0..3).map(|_| quota.take(pod(0)).unwrap()).collect();
        quota.set_limit(NonZeroU32::new(1));
        quota.give(flows[0]);
        assert_eq!(quota.take(pod(0)), Err(Refused::Limit));
        assert_eq!(quota.flows(pod(0)), 2);
        quota.set_limit(None);
        assert!(quota.take(pod(0)).is_ok());
    }

    #[test]
    fn the_next_pod_of_an_address_starts_at_nothing() {
        let mut quota = quota(2, 1, 2);
        let old = [quota.take(pod(0)).unwrap(), quota.take(pod(0)).unwrap()];
        assert_eq!(quota.take(pod(0)), Err(Refused::Limit));
        quota.retire(pod(0));
        assert_eq!(quota.flows(pod(0)), 0);
        let new = quota.take(pod(0)).unwrap();
        assert_ne!(new, old[0]);
        // The dead pod's flows hold the last account until the last of them ends.
        assert_eq!(quota.take(pod(1)), Err(Refused::Accounts));
        quota.give(old[0]);
        assert_eq!(quota.flows(pod(0)), 1, "not the new pod's");
        assert_eq!(quota.take(pod(1)), Err(Refused::Accounts));
        quota.give(old[1]);
        assert!(quota.take(pod(1)).is_ok());
    }

    #[test]
    fn accounts_that_are_none_are_ignored() {
        let mut quota = quota(2, 1, 2);
        let account = quota.take(pod(0)).unwrap();
        quota.give(Account::from_bits(1));
        quota.give(Account::from_bits(2));
        quota.give(Account::from_bits(u16::MAX));
        assert_eq!(quota.flows(pod(0)), 1);
        quota.give(Account::from_bits(account.to_bits()));
        quota.give(account);
        assert_eq!(quota.flows(pod(0)), 0);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Take(u8),
        Give(usize),
        Retire(u8),
    }

    proptest! {
        /// Against the definition: a list of flows, each with its pod's incarnation.
        #[test]
        fn equals_a_list_of_flows(
            steps in proptest::collection::vec(
                prop_oneof![
                    5 => (0u8..12).prop_map(Step::Take),
                    4 => any::<usize>().prop_map(Step::Give),
                    1 => (0u8..12).prop_map(Step::Retire),
                ],
                1..400,
            ),
        ) {
            let mut quota = quota(5, 1, 8);
            let mut flows: Vec<(u8, u32, Account)> = Vec::new();
            let mut lives = [0u32; 12];
            for step in steps {
                match step {
                    Step::Take(n) => {
                        let life = lives[usize::from(n)];
                        let own = flows.iter().filter(|flow| (flow.0, flow.1) == (n, life)).count();
                        let mut holders: HashMap<(u8, u32), u32> = HashMap::new();
                        for flow in &flows {
                            *holders.entry((flow.0, flow.1)).or_default() += 1;
                        }
                        let expected = match (own, holders.len()) {
                            (5.., _) => Err(Refused::Limit),
                            (0, 8..) => Err(Refused::Accounts),
                            _ => Ok(()),
                        };
                        let taken = quota.take(pod(n));
                        prop_assert_eq!(taken.map(|_| ()), expected);
                        if let Ok(account) = taken {
                            flows.push((n, life, account));
                        }
                    }
                    Step::Give(at) if !flows.is_empty() => {
                        let flow = flows.swap_remove(at % flows.len());
                        quota.give(flow.2);
                    }
                    Step::Give(_) => {}
                    Step::Retire(n) => {
                        quota.retire(pod(n));
                        lives[usize::from(n)] += 1;
                    }
                }
                for n in 0..12 {
                    let life = lives[usize::from(n)];
                    let own = flows.iter().filter(|flow| (flow.0, flow.1) == (n, life)).count();
                    prop_assert_eq!(quota.flows(pod(n)) as usize, own);
                }
            }
        }
    }
}
