//! How many flows one pod may have (RFC 6888 REQ-4, REQ-5; N13).
//!
//! A flow belongs to an account, an account to a pod. Memory is fixed at the start, taking and
//! giving back cost a constant number of steps, and a count is exactly the number of flows that
//! were taken and not given back. A pod at its limit harms nobody else.
//!
//! A pod is whatever number the caller knows it by, and that should be one that no later pod
//! takes over, such as its MAC and not its address: then what a dead pod left behind does not
//! count against the next one, and both addresses of a pod count as one.
//!
//! Each worker counts for itself, because workers share nothing: of a node-wide limit each gets
//! an equal part, rounded up. Flows spread over workers by a hash the pod does not know, so a pod
//! with many flows comes close to the whole.

use std::num::NonZeroU32;

use crate::seeded::{Seed, mix};
use crate::slots::Chains;

/// Most accounts [`Quota::new`] makes room for.
pub const MAX_ACCOUNTS: u16 = 32_768;

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
    pod: u64,
    /// 0 in a free account.
    flows: u32,
}

/// One worker's accounts.
#[derive(Debug)]
pub struct Quota {
    limit: u32,
    workers: u16,
    seed: Seed,
    slots: Box<[Slot]>,
    by_pod: Chains,
    free: Vec<u16>,
}

impl Quota {
    /// Accounts for up to `accounts` pods that have flows at one time, dead ones' leftovers
    /// included; at least 1, at most [`MAX_ACCOUNTS`]. There is no limit yet.
    #[must_use]
    pub fn new(workers: u16, accounts: u16, seed: Seed) -> Self {
        let accounts = accounts.clamp(1, MAX_ACCOUNTS);
        Self {
            limit: u32::MAX,
            workers: workers.max(1),
            seed,
            slots: vec![Slot { pod: 0, flows: 0 }; accounts.into()].into(),
            by_pod: Chains::new(accounts),
            free: (0..accounts).rev().collect(),
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

    /// Charges one more flow to `pod`.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn take(&mut self, pod: u64) -> Result<Account, Refused> {
        if let Some(index) = self.find(pod) {
            let limit = self.limit;
            let slot = self.slots.get_mut(usize::from(index));
            let slot = slot
                .filter(|slot| slot.flows < limit)
                .ok_or(Refused::Limit)?;
            slot.flows += 1;
            return Ok(Account(index));
        }
        let index = self.free.pop().ok_or(Refused::Accounts)?;
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            *slot = Slot { pod, flows: 1 };
        }
        self.by_pod.link(mix(self.seed, pod, 0), index);
        Ok(Account(index))
    }

    /// Ends the charge of one flow. An account without flows is free for any pod.
    pub fn give(&mut self, account: Account) {
        let slot = self.slots.get_mut(usize::from(account.0));
        let Some(slot) = slot.filter(|slot| slot.flows > 0) else {
            return;
        };
        slot.flows -= 1;
        if slot.flows == 0 {
            let hash = mix(self.seed, slot.pod, 0);
            self.by_pod.unlink(hash, account.0);
            self.free.push(account.0);
        }
    }

    /// Flows `pod` has.
    #[must_use]
    pub fn flows(&self, pod: u64) -> u32 {
        let slot = self
            .find(pod)
            .and_then(|index| self.slots.get(usize::from(index)));
        slot.map_or(0, |slot| slot.flows)
    }

    fn find(&self, pod: u64) -> Option<u16> {
        let is = |index: u16| {
            self.slots
                .get(usize::from(index))
                .is_some_and(|slot| slot.pod == pod)
        };
        self.by_pod.find(mix(self.seed, pod, 0), is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SEED: Seed = [11, 12];

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
            match quota.take(0) {
                Ok(account) => accounts.push(account),
                Err(reason) => {
                    assert_eq!(reason, Refused::Limit);
                    refused += 1;
                }
            }
            if flow % 1_000 == 0 {
                assert!(quota.take(1).is_ok());
            }
        }
        assert_eq!((accounts.len(), refused), (4_096, 100_000 - 4_096));
        assert_eq!((quota.flows(0), quota.flows(1)), (4_096, 100));
        quota.give(accounts[17]);
        assert!(quota.take(0).is_ok());
        assert_eq!(quota.take(0), Err(Refused::Limit));
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
        let flows: Vec<Account> = (0..3).map(|_| quota.take(0).unwrap()).collect();
        quota.set_limit(NonZeroU32::new(1));
        quota.give(flows[0]);
        assert_eq!(quota.take(0), Err(Refused::Limit));
        assert_eq!(quota.flows(0), 2);
        quota.set_limit(None);
        assert!(quota.take(0).is_ok());
    }

    #[test]
    fn the_last_flow_frees_the_account() {
        let mut quota = quota(2, 1, 1);
        let flows = [quota.take(7).unwrap(), quota.take(7).unwrap()];
        assert_eq!(quota.take(7), Err(Refused::Limit));
        assert_eq!(quota.take(8), Err(Refused::Accounts));
        quota.give(flows[0]);
        assert_eq!(quota.take(8), Err(Refused::Accounts));
        quota.give(flows[1]);
        assert!(quota.take(8).is_ok());
        assert_eq!((quota.flows(7), quota.flows(8)), (0, 1));
    }

    #[test]
    fn accounts_that_are_none_are_ignored() {
        let mut quota = quota(2, 1, 2);
        let account = quota.take(0).unwrap();
        quota.give(Account::from_bits(1));
        quota.give(Account::from_bits(2));
        quota.give(Account::from_bits(u16::MAX));
        assert_eq!(quota.flows(0), 1);
        quota.give(Account::from_bits(account.to_bits()));
        quota.give(account);
        assert_eq!(quota.flows(0), 0);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Take(u64),
        Give(usize),
    }

    proptest! {
        /// Against the definition: a list of flows, each with its pod.
        #[test]
        fn equals_a_list_of_flows(
            steps in proptest::collection::vec(
                prop_oneof![
                    (0u64..12).prop_map(Step::Take),
                    any::<usize>().prop_map(Step::Give),
                ],
                1..400,
            ),
        ) {
            let mut quota = quota(5, 1, 8);
            let mut flows: Vec<(u64, Account)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(pod) => {
                        let own = flows.iter().filter(|flow| flow.0 == pod).count();
                        let pods: HashSet<u64> = flows.iter().map(|flow| flow.0).collect();
                        let expected = match (own, pods.len()) {
                            (5.., _) => Err(Refused::Limit),
                            (0, 8..) => Err(Refused::Accounts),
                            _ => Ok(()),
                        };
                        let taken = quota.take(pod);
                        prop_assert_eq!(taken.map(|_| ()), expected);
                        flows.extend(taken.ok().map(|account| (pod, account)));
                    }
                    Step::Give(at) if !flows.is_empty() => {
                        let flow = flows.swap_remove(at % flows.len());
                        quota.give(flow.1);
                    }
                    Step::Give(_) => {}
                }
                for pod in 0..12 {
                    let own = flows.iter().filter(|flow| flow.0 == pod).count();
                    prop_assert_eq!(quota.flows(pod) as usize, own);
                }
            }
        }
    }
}
