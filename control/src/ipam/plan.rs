//! How many addresses and ENIs the node should have: a pure function of what it has, the targets and the limits.
//!
//! Semantics of WARM_ENI_TARGET and MAX_ENI as in the VPC CNI (`pkg/ipamd/ipamd.go`: `isDatastorePoolTooLow`,
//! `shouldRemoveExtraENIs`), with two deliberate differences: a cooling address does not count as available, because it
//! cannot be handed out; and an ENI is given back only when the rest would not ask for one again at once, which the VPC
//! CNI does with WARM_ENI_TARGET=0. One action per call, so that every step is taken on fresh facts.

use std::time::Duration;

/// Youngest age at which an ENI may be given back.
pub const MIN_ENI_AGE: Duration = Duration::from_secs(60);

/// What the instance type allows, from DescribeInstanceTypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Network interfaces of the first network card.
    pub enis: u32,
    /// IPv4 addresses per interface, its own included.
    pub addresses_per_eni: u32,
}

impl Limits {
    /// Secondary addresses one ENI can hold.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.addresses_per_eni.saturating_sub(1)
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// WARM_ENI_TARGET: spare ENIs' worth of addresses.
    pub warm_enis: u32,
    /// MAX_ENI; counts only between 1 and the instance's limit.
    pub max_enis: Option<u32>,
}

/// One ENI, as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniView {
    /// EC2's name.
    pub eni_id: String,
    /// 0 is the primary.
    pub device_number: u32,
    /// Addresses held by pods.
    pub assigned: u32,
    /// Addresses ready to hand out.
    pub free: u32,
    /// Addresses resting after use.
    pub cooling: u32,
    /// Time since the agent learnt of it.
    pub age: Duration,
    /// Being removed.
    pub draining: bool,
}

impl EniView {
    /// Secondary addresses on it.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.assigned + self.free + self.cooling
    }
}

/// The whole input.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// Managed ENIs, ordered by device number.
    pub enis: &'a [EniView],
    /// ENIs on the instance that are not ours to use; they take up room.
    pub unmanaged: u32,
    /// What the operator asked for.
    pub targets: Targets,
    /// What the instance type allows.
    pub limits: Limits,
    /// An ADD is waiting for an address now.
    pub starving: bool,
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The pool is as it should be, or cannot be better.
    Rest,
    /// Ask for `count` more addresses on an ENI.
    AddAddresses {
        /// The ENI.
        eni_id: String,
        /// How many; at least 1.
        count: u32,
    },
    /// Create and attach an ENI with `addresses` secondary addresses.
    AddEni {
        /// How many; at least 1.
        addresses: u32,
    },
    /// Give an unused ENI back.
    RemoveEni {
        /// The ENI.
        eni_id: String,
    },
}

/// ENIs the node may use, MAX_ENI and foreign ones considered.
#[must_use]
pub fn usable_enis(targets: Targets, limits: Limits, unmanaged: u32) -> u32 {
    let cap = match targets.max_enis {
        Some(max) if (1..limits.enis).contains(&max) => max,
        _ => limits.enis,
    };
    cap.saturating_sub(unmanaged)
}

/// Most secondary addresses the node can ever hold.
#[must_use]
pub fn capacity(targets: Targets, limits: Limits, unmanaged: u32) -> u32 {
    usable_enis(targets, limits, unmanaged) * limits.slots()
}

/// Decides the next action.
#[must_use]
pub fn next_action(situation: &Situation<'_>) -> Action {
    if situation.enis.iter().any(|eni| eni.draining) {
        return Action::Rest;
    }
    let available = available(situation.enis);
    if wants_more(situation, available) {
        grow(situation)
    } else {
        shrink(situation, available)
    }
}

fn available(enis: &[EniView]) -> u32 {
    enis.iter().map(|eni| eni.free).sum()
}

fn wants_more(situation: &Situation<'_>, available: u32) -> bool {
    let wanted = situation.limits.slots() * situation.targets.warm_enis;
    available < wanted
        || (available == 0 && (situation.targets.warm_enis == 0 || situation.starving))
}

fn grow(situation: &Situation<'_>) -> Action {
    let slots = situation.limits.slots();
    if let Some(eni) = situation.enis.iter().find(|eni| eni.total() < slots) {
        return Action::AddAddresses {
            eni_id: eni.eni_id.clone(),
            count: slots - eni.total(),
        };
    }
    let attached = u32::try_from(situation.enis.len()).unwrap_or(u32::MAX);
    let room = usable_enis(situation.targets, situation.limits, situation.unmanaged);
    if slots > 0 && attached < room {
        Action::AddEni { addresses: slots }
    } else {
        Action::Rest
    }
}

fn shrink(situation: &Situation<'_>, available: u32) -> Action {
    let surplus_from = situation.limits.slots() * (situation.targets.warm_enis + 1);
    if surplus_from == 0 || available < surplus_from {
        return Action::Rest;
    }
    let unused = |eni: &&EniView| {
        eni.device_number != 0
            && eni.assigned == 0
            && eni.cooling == 0
            && eni.age >= MIN_ENI_AGE
            && !wants_more(situation, available.saturating_sub(eni.free))
    };
    // The highest device number first keeps the low tables, which operators look at, stable.
    match situation.enis.iter().rev().find(unused) {
        Some(eni) => Action::RemoveEni {
            eni_id: eni.eni_id.clone(),
        },
        None => Action::Rest,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T3_SMALL: Limits = Limits {
        enis: 3,
        addresses_per_eni: 4,
    };

    fn eni(device_number: u32, assigned: u32, free: u32, cooling: u32) -> EniView {
        EniView {
            eni_id: format!("eni-{device_number}"),
            device_number,
            assigned,
            free,
            cooling,
            age: Duration::from_secs(600),
            draining: false,
        }
    }

    fn situation(enis: &[EniView], warm_enis: u32) -> Situation<'_> {
        let targets = Targets {
            warm_enis,
            max_enis: None,
        };
        Situation {
            enis,
            unmanaged: 0,
            targets,
            limits: T3_SMALL,
            starving: false,
        }
    }

    /// Runs the plan until it rests, `pods` packed in device order; returns (ENIs, addresses).
    fn settle(pods: u32, targets: Targets, limits: Limits) -> (usize, u32) {
        let mut totals = vec![0u32];
        for _ in 0..100 {
            let mut left = pods;
            let enis: Vec<EniView> = totals
                .iter()
                .zip(0u32..)
                .map(|(total, device)| {
                    let assigned = left.min(*total);
                    left -= assigned;
                    eni(device, assigned, total - assigned, 0)
                })
                .collect();
            let starving = left > 0;
            match next_action(&Situation {
                enis: &enis,
                unmanaged: 0,
                targets,
                limits,
                starving,
            }) {
                Action::Rest => return (totals.len(), totals.iter().sum()),
                Action::AddAddresses { eni_id, count } => {
                    let at = enis.iter().position(|eni| eni.eni_id == eni_id).unwrap();
                    totals[at] += count;
                }
                Action::AddEni { addresses } => totals.push(addresses),
                Action::RemoveEni { .. } => {
                    totals.pop();
                }
            }
        }
        panic!("the plan never rests for {pods} pods, {targets:?}, {limits:?}");
    }

    #[test]
    fn documented_warm_eni_targets_of_a_t3_small() {
        let one = Targets {
            warm_enis: 1,
            max_enis: None,
        };
        for (pods, expected) in [(0, (1, 3)), (1, (2, 6)), (5, (3, 9)), (9, (3, 9))] {
            assert_eq!(settle(pods, one, T3_SMALL), expected, "{pods} pods");
        }
        let none = Targets {
            warm_enis: 0,
            max_enis: None,
        };
        for (pods, expected) in [(0, (1, 3)), (3, (2, 6)), (4, (2, 6)), (6, (3, 9))] {
            assert_eq!(
                settle(pods, none, T3_SMALL),
                expected,
                "{pods} pods, no warm ENI"
            );
        }
    }

    #[test]
    fn max_eni_caps_growth_only_inside_the_instance_limit() {
        let capped = |max| Targets {
            warm_enis: 1,
            max_enis: Some(max),
        };
        assert_eq!(settle(5, capped(2), T3_SMALL), (2, 6));
        assert_eq!(settle(5, capped(0), T3_SMALL), (3, 9));
        assert_eq!(settle(5, capped(50), T3_SMALL), (3, 9));
    }

    #[test]
    fn foreign_enis_take_up_room() {
        let enis = [eni(0, 3, 0, 0)];
        let mut input = situation(&enis, 1);
        input.unmanaged = 2;
        assert_eq!(next_action(&input), Action::Rest);
        input.unmanaged = 1;
        assert_eq!(next_action(&input), Action::AddEni { addresses: 3 });
    }

    #[test]
    fn cooling_addresses_are_not_available() {
        let enis = [eni(0, 0, 0, 3)];
        assert_eq!(
            next_action(&situation(&enis, 1)),
            Action::AddEni { addresses: 3 }
        );
    }

    #[test]
    fn an_eni_is_given_back_only_when_nothing_hangs_on_it() {
        let full = |last: EniView| [eni(0, 0, 3, 0), eni(1, 0, 3, 0), last];
        let removed = |enis: &[EniView]| match next_action(&situation(enis, 1)) {
            Action::RemoveEni { eni_id } => Some(eni_id),
            Action::Rest => None,
            other => panic!("unexpected {other:?}"),
        };
        assert_eq!(removed(&full(eni(2, 0, 3, 0))).as_deref(), Some("eni-2"));
        assert_eq!(removed(&full(eni(2, 1, 2, 0))).as_deref(), Some("eni-1"));
        assert_eq!(removed(&full(eni(2, 0, 2, 1))).as_deref(), Some("eni-1"));
        let mut young = eni(2, 0, 3, 0);
        young.age = MIN_ENI_AGE - Duration::from_millis(1);
        assert_eq!(removed(&full(young)).as_deref(), Some("eni-1"));
        let mut draining = eni(2, 0, 3, 0);
        draining.draining = true;
        assert_eq!(removed(&full(draining)), None);
        assert_eq!(removed(&[eni(0, 0, 3, 0)]), None);
    }

    #[test]
    fn an_instance_type_without_secondary_addresses_does_nothing() {
        let enis = [eni(0, 0, 0, 0)];
        let mut input = situation(&enis, 1);
        input.limits = Limits {
            enis: 2,
            addresses_per_eni: 1,
        };
        input.starving = true;
        assert_eq!(next_action(&input), Action::Rest);
    }

    proptest! {
        #[test]
        fn the_plan_settles_within_the_limits_and_serves_the_pods(
            pods in 0..300u32,
            warm_enis in 0..4u32,
            max_enis in prop::option::of(0..20u32),
            enis in 1..16u32,
            addresses_per_eni in 2..51u32,
        ) {
            let limits = Limits { enis, addresses_per_eni };
            let targets = Targets { warm_enis, max_enis };
            let (count, total) = settle(pods, targets, limits);
            prop_assert!(count as u32 <= usable_enis(targets, limits, 0));
            prop_assert!(total <= capacity(targets, limits, 0));
            prop_assert!(total >= pods.min(capacity(targets, limits, 0)));
        }
    }
}
