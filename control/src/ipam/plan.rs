//! How many addresses, prefixes and ENIs the node should have: a pure function of what it has, the targets and the limits.
//!
//! Semantics of WARM_ENI_TARGET, WARM_IP_TARGET, MINIMUM_IP_TARGET, WARM_PREFIX_TARGET and MAX_ENI as in the VPC CNI
//! (`pkg/ipamd/ipamd.go`: `isDatastorePoolTooLow`, `isDatastorePoolTooHigh`, `shouldRemoveExtraENIs`), with deliberate
//! differences: a cooling address is not available, because it cannot be handed out, and is never given back; nothing is
//! given back that would be asked for again at once; the warm stock ends at the pods the node may run; everything that
//! is short is ordered at once, over as many ENIs as it takes; waiting pods count as demand; a subnet without a free /28
//! is asked for single addresses instead.
//!
//! What is on order counts as there, so the plan may be made again at any time without ordering anything twice.

use std::time::Duration;

mod grow;
mod shrink;

/// Youngest age at which an ENI may be given back.
pub const MIN_ENI_AGE: Duration = Duration::from_secs(60);

/// Addresses of a delegated IPv4 prefix, a /28.
pub const PREFIX_ADDRESSES: u32 = 16;

/// What the instance type allows, from DescribeInstanceTypes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Network interfaces of the first network card.
    pub enis: u32,
    /// IPv4 addresses per interface, its own included.
    pub addresses_per_eni: u32,
    /// Whether prefixes can be delegated: Nitro and bare metal only.
    pub prefixes: bool,
}

impl Limits {
    /// Secondary addresses or prefixes one ENI can hold.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.addresses_per_eni.saturating_sub(1)
    }
}

/// What fills a slot of an ENI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// One secondary address.
    #[default]
    Address,
    /// A /28.
    Prefix,
}

impl Kind {
    /// Addresses in one slot.
    #[must_use]
    pub fn addresses(self) -> u32 {
        match self {
            Self::Address => 1,
            Self::Prefix => PREFIX_ADDRESSES,
        }
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Targets {
    /// ENABLE_PREFIX_DELEGATION.
    pub kind: Kind,
    /// WARM_ENI_TARGET: spare ENIs' worth of addresses.
    pub warm_enis: u32,
    /// WARM_PREFIX_TARGET: spare prefixes' worth of addresses.
    pub warm_prefixes: u32,
    /// WARM_IP_TARGET: spare addresses; 0 is unset.
    pub warm_ips: u32,
    /// MINIMUM_IP_TARGET: least addresses in all; 0 is unset.
    pub minimum_ips: u32,
    /// MAX_ENI; counts only between 1 and the instance's limit.
    pub max_enis: Option<u32>,
}

/// Which of the targets counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Ips,
    Prefixes,
    Enis,
}

impl Targets {
    fn rule(&self) -> Rule {
        match self.kind {
            _ if self.warm_ips > 0 || self.minimum_ips > 0 => Rule::Ips,
            Kind::Prefix => Rule::Prefixes,
            Kind::Address => Rule::Enis,
        }
    }
}

/// What an ENI is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Its addresses are for pods.
    #[default]
    Pods,
    /// The primary ENI under custom networking: no pods, and left as it is.
    Host,
    /// Its subnet is closed to pods: no new ones, what is unused goes back.
    Retired,
}

/// Addresses and prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Units {
    /// Single addresses.
    pub singles: u32,
    /// Prefixes.
    pub prefixes: u32,
}

impl Units {
    /// `count` of one kind.
    #[must_use]
    pub fn of(kind: Kind, count: u32) -> Self {
        match kind {
            Kind::Address => Self {
                singles: count,
                prefixes: 0,
            },
            Kind::Prefix => Self {
                singles: 0,
                prefixes: count,
            },
        }
    }

    /// Slots they take.
    #[must_use]
    pub fn slots(self) -> u32 {
        self.singles + self.prefixes
    }

    /// Addresses they hold.
    #[must_use]
    pub fn addresses(self) -> u32 {
        self.singles + self.prefixes * PREFIX_ADDRESSES
    }
}

/// One ENI, as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EniView {
    /// EC2's name.
    pub eni_id: String,
    /// 0 is the primary.
    pub device_number: u32,
    /// What it is for.
    pub role: Role,
    /// Addresses held by pods.
    pub assigned: u32,
    /// Addresses ready to hand out.
    pub free: u32,
    /// Addresses resting after use.
    pub cooling: u32,
    /// Everything on it, what is being given back included.
    pub held: Units,
    /// Of `held`, what nobody uses and nothing rests in: it could be given back.
    pub idle: Units,
    /// On order.
    pub ordered: Units,
    /// Time since the agent learnt of it.
    pub age: Duration,
    /// Being removed, or something of it being given back.
    pub draining: bool,
    /// Its subnet has just refused; nothing is ordered on it.
    pub subnet_full: bool,
    /// Its subnet has no free /28; single addresses are asked for.
    pub fragmented: bool,
}

impl EniView {
    /// Addresses on it that count.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.assigned + self.free + self.cooling
    }

    fn serves_pods(&self) -> bool {
        self.role == Role::Pods
    }

    fn open_slots(&self, limits: Limits) -> u32 {
        limits
            .slots()
            .saturating_sub(self.held.slots() + self.ordered.slots())
    }
}

/// The whole input.
#[derive(Debug, Clone)]
pub struct Situation {
    /// Managed ENIs, ordered by device number.
    pub enis: Vec<EniView>,
    /// What each ENI that is being made will hold.
    pub ordered_enis: Vec<Units>,
    /// ENIs on the instance that are not ours to use, and places kept for others; they take up room.
    pub unmanaged: u32,
    /// What the operator asked for.
    pub targets: Targets,
    /// What the instance type allows.
    pub limits: Limits,
    /// Most pods the node may run, where that is known.
    pub max_pods: Option<u32>,
    /// ADDs that wait for an address now.
    pub waiting: u32,
    /// No subnet for new ENIs has a free /28; they start with single addresses.
    pub fragmented: bool,
    /// What the plan may do now.
    pub allowed: Allowed,
}

/// What the plan may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Order addresses and prefixes on ENIs that are there.
    pub fill: bool,
    /// Make ENIs.
    pub new_enis: bool,
    /// Give addresses and prefixes back.
    pub release: bool,
    /// Give ENIs back.
    pub remove_enis: bool,
}

impl Allowed {
    /// Everything.
    pub const ALL: Self = Self {
        fill: true,
        new_enis: true,
        release: true,
        remove_enis: true,
    };
}

/// One thing to do; the actions of one plan do not depend on each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask for more on an ENI.
    Fill {
        /// The ENI.
        eni_id: String,
        /// What of; at least 1.
        units: Units,
    },
    /// Create and attach an ENI.
    AddEni {
        /// What it starts with; at least 1.
        units: Units,
    },
    /// Give back what nobody uses.
    Release {
        /// The ENI.
        eni_id: String,
        /// What of; at least 1.
        units: Units,
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

/// Most addresses for pods the node can ever hold.
#[must_use]
pub fn capacity(situation: &Situation) -> u32 {
    let without_pods = situation.enis.iter().filter(|eni| !eni.serves_pods());
    let enis = usable_enis(situation.targets, situation.limits, situation.unmanaged)
        .saturating_sub(count(without_pods.count()));
    enis * situation.limits.slots() * situation.targets.kind.addresses()
}

/// Decides what to do.
#[must_use]
pub fn plan(situation: &Situation) -> Vec<Action> {
    match Supply::of(situation).short(situation) {
        0 => shrink::shrink(situation),
        short => {
            let mut actions = grow::grow(situation, short);
            actions.extend(shrink::retire(situation));
            actions
        }
    }
}

/// Whether more could be ordered, were it needed.
#[must_use]
pub fn can_grow(situation: &Situation) -> bool {
    let on_order = !situation.ordered_enis.is_empty()
        || situation.enis.iter().any(|eni| eni.ordered.slots() > 0);
    on_order || !grow::grow(situation, 1).is_empty()
}

/// Sums over the ENIs that serve pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Supply {
    assigned: u32,
    cooling: u32,
    /// Free now.
    free: u32,
    /// On order.
    ordered: u32,
}

impl Supply {
    fn of(situation: &Situation) -> Self {
        let mut supply = Self::default();
        for eni in situation.enis.iter().filter(|eni| eni.serves_pods()) {
            supply.assigned += eni.assigned;
            supply.cooling += eni.cooling;
            supply.free += eni.free;
            supply.ordered += eni.ordered.addresses();
        }
        let enis = situation.ordered_enis.iter();
        supply.ordered += enis.map(|units| units.addresses()).sum::<u32>();
        supply
    }

    fn spare(&self) -> u32 {
        self.free + self.ordered
    }

    fn without(mut self, free: u32) -> Self {
        self.free = self.free.saturating_sub(free);
        self
    }

    /// Addresses to keep ready.
    fn wanted(&self, situation: &Situation) -> u32 {
        let targets = &situation.targets;
        let wanted = match targets.rule() {
            Rule::Ips => {
                let floor = targets
                    .minimum_ips
                    .saturating_sub(self.assigned + self.cooling);
                targets.warm_ips.max(floor)
            }
            Rule::Prefixes => (PREFIX_ADDRESSES * targets.warm_prefixes).max(1),
            Rule::Enis => (situation.limits.slots() * targets.warm_enis).max(1),
        };
        wanted.min(self.pods_to_come(situation))
    }

    fn pods_to_come(&self, situation: &Situation) -> u32 {
        situation
            .max_pods
            .map_or(u32::MAX, |max| max.saturating_sub(self.assigned))
    }

    /// Addresses that are missing.
    fn short(&self, situation: &Situation) -> u32 {
        self.wanted(situation)
            .max(situation.waiting)
            .saturating_sub(self.spare())
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
