//! What is under way, and what was refused lately: the memory that keeps the plan from asking twice.
//!
//! Pure: time is passed in.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::Rng;

use crate::clock::Timestamp;
use crate::ec2::ErrorKind;
use crate::ipam::plan::{Action, Units};

/// How long a subnet that was full, or had no free /28, is not asked again; as in the VPC CNI.
const SUBNET_PAUSE: Duration = Duration::from_secs(120);
/// How long a limit of the instance or the account is taken for granted.
const LIMIT_PAUSE: Duration = Duration::from_secs(300);
/// How long a missing permission is waited for.
const PERMISSION_PAUSE: Duration = Duration::from_secs(60);
/// Longest wait after a failure of no known kind.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Least time between two returns of addresses, as in the VPC CNI.
const RETURN_PAUSE: Duration = Duration::from_secs(30);

/// One order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(u64);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub struct Orders {
    last: u64,
    fills: BTreeMap<OrderId, (String, Units)>,
    enis: BTreeMap<OrderId, NewEni>,
}

#[derive(Debug)]
struct NewEni {
    units: Units,
    /// Taken as soon as it is chosen, so that no other order chooses it.
    device_number: Option<u32>,
}

impl Orders {
    /// Notes an action that begins.
    pub fn place(&mut self, action: &Action) -> OrderId {
        self.last += 1;
        let id = OrderId(self.last);
        match action {
            Action::Fill { eni_id, units } => {
                self.fills.insert(id, (eni_id.clone(), *units));
            }
            Action::AddEni { units } => {
                let device_number = None;
                self.enis.insert(
                    id,
                    NewEni {
                        units: *units,
                        device_number,
                    },
                );
            }
            Action::Release { .. } | Action::RemoveEni { .. } => {}
        }
        id
    }

    /// Forgets an action that ended; no effect when it is forgotten already.
    pub fn close(&mut self, id: OrderId) {
        self.fills.remove(&id);
        self.enis.remove(&id);
    }

    /// Nothing is under way that adds addresses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fills.is_empty() && self.enis.is_empty()
    }

    /// A new ENI will bring nothing, but takes its room until the order is closed.
    pub fn give_up(&mut self, id: OrderId) {
        if let Some(eni) = self.enis.get_mut(&id) {
            eni.units = Units::default();
        }
    }

    /// On order for an ENI that is there.
    #[must_use]
    pub fn for_eni(&self, eni_id: &str) -> Units {
        let mut sum = Units::default();
        for (_, units) in self.fills.values().filter(|(id, _)| id == eni_id) {
            sum.singles += units.singles;
            sum.prefixes += units.prefixes;
        }
        sum
    }

    /// What each ENI that is being made will hold.
    #[must_use]
    pub fn new_enis(&self) -> Vec<Units> {
        self.enis.values().map(|eni| eni.units).collect()
    }

    /// The lowest device number that neither `taken` nor another order has; it is the order's from now on.
    pub fn choose_device_number(&mut self, id: OrderId, taken: &[u32]) -> u32 {
        let others: Vec<u32> = self
            .enis
            .iter()
            .filter(|(other, _)| **other != id)
            .filter_map(|(_, eni)| eni.device_number)
            .collect();
        let free = |number: &u32| !taken.contains(number) && !others.contains(number);
        let number = (1..).find(free).unwrap_or(u32::MAX);
        if let Some(eni) = self.enis.get_mut(&id) {
            eni.device_number = Some(number);
        }
        number
    }
}

/// What an action puts to the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// More from EC2.
    Growth {
        /// The subnet asked, where it is known.
        subnet_id: Option<String>,
        /// The ENI asked for; `None` for a new one.
        eni_id: Option<String>,
        /// Whether prefixes are asked for.
        prefixes: bool,
    },
    /// Something back to EC2.
    Return,
}

/// What was refused lately, and until when it is not asked for again.
#[derive(Debug, Default)]
pub struct Refusals {
    full: BTreeMap<String, Timestamp>,
    fragmented: BTreeMap<String, Timestamp>,
    crowded: BTreeMap<String, Timestamp>,
    new_enis: Option<Timestamp>,
    growth: Option<Timestamp>,
    returns: Option<Timestamp>,
    /// Failures of no known kind in a row.
    failures: u32,
}

/// What to tell people about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// What to do.
    pub text: &'static str,
    /// Whether waiting alone may help.
    pub passing: bool,
}

impl Refusals {
    /// Notes a refusal and says what to do about it.
    pub fn note(&mut self, trial: &Trial, kind: ErrorKind, now: Timestamp) -> Advice {
        let Trial::Growth {
            subnet_id,
            eni_id,
            prefixes,
        } = trial
        else {
            self.returns = Some(now.plus(RETURN_PAUSE));
            return passing("what was to be given back is kept for now");
        };
        let subnet = subnet_id.clone().unwrap_or_default();
        match kind {
            ErrorKind::NoPrefix | ErrorKind::SubnetFull if *prefixes => {
                self.fragmented.insert(subnet, now.plus(SUBNET_PAUSE));
                passing("the subnet has no free /28; single addresses are used instead")
            }
            ErrorKind::SubnetFull | ErrorKind::NoPrefix => {
                self.full.insert(subnet, now.plus(SUBNET_PAUSE));
                lasting(
                    "the subnet is full; enlarge it, or tag another one kubernetes.io/role/cni=1",
                )
            }
            ErrorKind::AddressLimit => {
                let eni_id = eni_id.clone().unwrap_or_default();
                self.crowded.insert(eni_id, now.plus(LIMIT_PAUSE));
                lasting("the ENI holds all it can; use a larger instance type")
            }
            ErrorKind::EniLimit => {
                self.new_enis = Some(now.plus(LIMIT_PAUSE));
                lasting(
                    "no more ENIs are allowed; use a larger instance type, or raise the account's quota",
                )
            }
            ErrorKind::Unauthorized => {
                self.growth = Some(now.plus(PERMISSION_PAUSE));
                lasting("the node's role lacks a permission; attach AmazonEKS_CNI_Policy")
            }
            ErrorKind::Throttled
            | ErrorKind::NotFound
            | ErrorKind::NotHeld
            | ErrorKind::DeviceTaken
            | ErrorKind::TokenReused
            | ErrorKind::Transport
            | ErrorKind::Other => {
                self.failures = self.failures.saturating_add(1);
                self.growth = Some(now.plus(backoff(self.failures)));
                passing("trying again")
            }
        }
    }

    /// An action worked.
    pub fn lifted(&mut self, trial: &Trial) {
        if matches!(trial, Trial::Growth { .. }) {
            self.failures = 0;
            self.growth = None;
        }
    }

    /// A subnet gave less than was asked for.
    pub fn exhausted(&mut self, subnet_id: &str, now: Timestamp) {
        self.full
            .insert(subnet_id.to_owned(), now.plus(SUBNET_PAUSE));
    }

    /// Addresses went back; the next ones wait a while.
    pub fn returned(&mut self, now: Timestamp) {
        self.returns = Some(now.plus(RETURN_PAUSE));
    }

    /// The subnet has no address.
    #[must_use]
    pub fn is_full(&self, subnet_id: &str, now: Timestamp) -> bool {
        self.full.get(subnet_id).is_some_and(|until| *until > now)
    }

    /// The subnet has no free /28.
    #[must_use]
    pub fn is_fragmented(&self, subnet_id: &str, now: Timestamp) -> bool {
        self.fragmented
            .get(subnet_id)
            .is_some_and(|until| *until > now)
    }

    /// The ENI takes no more, whatever the table of limits says.
    #[must_use]
    pub fn is_crowded(&self, eni_id: &str, now: Timestamp) -> bool {
        self.crowded.get(eni_id).is_some_and(|until| *until > now)
    }

    /// Whether anything may be ordered.
    #[must_use]
    pub fn growth_allowed(&self, now: Timestamp) -> bool {
        self.growth.is_none_or(|until| until <= now)
    }

    /// Whether ENIs may be made.
    #[must_use]
    pub fn new_enis_allowed(&self, now: Timestamp) -> bool {
        self.new_enis.is_none_or(|until| until <= now)
    }

    /// Whether anything may be given back.
    #[must_use]
    pub fn returns_allowed(&self, now: Timestamp) -> bool {
        self.returns.is_none_or(|until| until <= now)
    }

    /// When the next refusal ends.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let maps = [&self.full, &self.fragmented, &self.crowded];
        let mapped = maps.into_iter().flat_map(BTreeMap::values);
        let single = [&self.new_enis, &self.growth, &self.returns];
        let all = mapped.chain(single.into_iter().flatten());
        all.copied().filter(|until| *until > now).min()
    }
}

fn passing(text: &'static str) -> Advice {
    Advice {
        text,
        passing: true,
    }
}

fn lasting(text: &'static str) -> Advice {
    Advice {
        text,
        passing: false,
    }
}

/// Full jitter: anything up to a ceiling that doubles (AWS Architecture Blog, "Exponential backoff and jitter").
fn backoff(failures: u32) -> Duration {
    let ceiling = Duration::from_secs(1 << failures.min(6)).min(MAX_BACKOFF);
    ceiling.mul_f64(rand::rng().random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::plan::Kind;

    fn growth(prefixes: bool) -> Trial {
        Trial::Growth {
            subnet_id: Some("subnet-1".to_owned()),
            eni_id: Some("eni-1".to_owned()),
            prefixes,
        }
    }

    #[test]
    fn each_refusal_stops_what_it_is_about_and_no_more() {
        let now = Timestamp(1_000);
        let later = now.plus(SUBNET_PAUSE);
        let mut refusals = Refusals::default();
        assert!(
            refusals
                .note(&growth(true), ErrorKind::SubnetFull, now)
                .passing
        );
        assert!(refusals.is_fragmented("subnet-1", now));
        assert!(
            !refusals.is_full("subnet-1", now),
            "there may be single addresses"
        );
        assert!(
            !refusals
                .note(&growth(false), ErrorKind::SubnetFull, now)
                .passing
        );
        assert!(refusals.is_full("subnet-1", now) && !refusals.is_full("subnet-1", later));
        assert!(!refusals.is_full("subnet-2", now));
        assert!(refusals.growth_allowed(now) && refusals.new_enis_allowed(now));
        assert_eq!(refusals.next_end(now), Some(later));
        refusals.note(&growth(false), ErrorKind::EniLimit, now);
        assert!(!refusals.new_enis_allowed(now));
        refusals.note(&growth(false), ErrorKind::Unauthorized, now);
        assert!(!refusals.growth_allowed(now));
        refusals.lifted(&growth(false));
        assert!(refusals.growth_allowed(now));
        refusals.note(&Trial::Return, ErrorKind::Other, now);
        assert!(!refusals.returns_allowed(now) && refusals.growth_allowed(now));
    }

    #[test]
    fn two_new_enis_never_get_the_same_number() {
        let mut orders = Orders::default();
        let action = Action::AddEni {
            units: Units::of(Kind::Address, 1),
        };
        let (first, second) = (orders.place(&action), orders.place(&action));
        assert_eq!(orders.choose_device_number(first, &[0, 2]), 1);
        assert_eq!(orders.choose_device_number(second, &[0, 2]), 3);
        assert_eq!(
            orders.choose_device_number(first, &[0, 1, 2]),
            4,
            "its own is taken by now"
        );
        orders.close(second);
        assert_eq!(orders.new_enis().len(), 1);
    }
}
