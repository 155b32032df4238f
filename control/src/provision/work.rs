//! The actions of a plan, carried out against EC2 and the kernel.
//!
//! Each copes by itself with what EC2 does on the way: answers that are lost, things that are not visible yet, subnets
//! that hold less than was asked for. An address goes into the pool only when a second source shows what EC2 granted,
//! and leaves the node only when neither our records nor the kernel know a pod that has it.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::orders::{OrderId, Trial};
use super::{ProvisionError, Site};
use crate::clock::{Clock, Timestamp};
use crate::ec2::{Ec2Error, ErrorKind, Filter, Granted};
use crate::ipam::plan::Units;
use crate::ipam::pool::{Parting, addresses_of};
use crate::node::table_of;
use crate::state::{NodeEni, State};
use penstock_control_api::AttachmentKey;

mod add;
mod remove;

pub(super) use add::created_now;

/// Longest wait for what EC2 has confirmed to become visible; EC2's own figure for eventual consistency.
const VISIBLE_PATIENCE: Duration = Duration::from_secs(300);
/// Longest pause between two looks.
const MAX_LOOK_PAUSE: Duration = Duration::from_secs(5);
/// The metadata service is asked that many times before EC2 is asked once.
const LOOKS_PER_CALL: u32 = 8;
/// Most times a call whose answer was lost is made again.
const MAX_REPEATS: u32 = 5;

/// Carries out actions; clones work on the same node.
#[derive(Debug)]
pub(super) struct Worker<S> {
    pub(super) site: Arc<S>,
    /// Held while subnets are listed: ENIs that are made side by side share one list.
    pub(super) listing: Arc<tokio::sync::Mutex<()>>,
    /// When the work began.
    pub(super) born: Timestamp,
}

impl<S: Site> Worker<S> {
    pub(super) fn new(site: Arc<S>) -> Self {
        Self {
            born: site.clock().now(),
            site,
            listing: Arc::default(),
        }
    }
}

impl<S> Clone for Worker<S> {
    fn clone(&self) -> Self {
        Self {
            site: Arc::clone(&self.site),
            listing: Arc::clone(&self.listing),
            born: self.born,
        }
    }
}

/// Waits that double.
struct Pause<'a> {
    clock: &'a dyn Clock,
    next: Duration,
    deadline: Timestamp,
}

impl Pause<'_> {
    /// Waits; `false` when there is no time left to.
    async fn again(&mut self) -> bool {
        if self.clock.now() >= self.deadline {
            return false;
        }
        self.clock.sleep(self.next).await;
        self.next = (self.next * 2).min(MAX_LOOK_PAUSE);
        true
    }
}

impl<S: Site> Worker<S> {
    fn pause(&self, patience: Duration) -> Pause<'_> {
        let clock = self.site.clock();
        Pause {
            clock,
            next: Duration::from_millis(100),
            deadline: clock.now().plus(patience),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.site.clock().now()
    }

    /// Gets more for an ENI that is there.
    pub(super) async fn fill(
        &self,
        order: OrderId,
        eni_id: &str,
        units: Units,
    ) -> Result<(), ProvisionError> {
        let eni = self.known(eni_id)?;
        let granted = self.ask_for(&eni, units).await?;
        self.enter_shown(order, &eni, granted).await
    }

    fn known(&self, eni_id: &str) -> Result<NodeEni, ProvisionError> {
        let known = self.site.lock().enis.get(eni_id).cloned();
        known.ok_or_else(|| ProvisionError::State(format!("{eni_id} is unknown")))
    }

    async fn ask_for(&self, eni: &NodeEni, units: Units) -> Result<Granted, ProvisionError> {
        let mut wanted = units;
        loop {
            let error = match self.site.ec2().assign(&eni.eni_id, wanted).await {
                Ok(granted) => return Ok(granted),
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::Transport => return self.granted_all_the_same(eni, error).await,
                ErrorKind::SubnetFull if halve(&mut wanted) => self.exhausted(&eni.subnet_id),
                ErrorKind::AddressLimit => {
                    // Somebody else gave it addresses: take them over.
                    self.refresh().await;
                    return Err(error.into());
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// Less than was asked for is better than nothing, and the next one need not ask.
    fn exhausted(&self, subnet_id: &str) {
        let now = self.now();
        self.site.lock().refusals.exhausted(subnet_id, now);
    }

    /// The answer was lost, the addresses may be there: whatever EC2 shows that we do not know.
    async fn granted_all_the_same(
        &self,
        eni: &NodeEni,
        error: Ec2Error,
    ) -> Result<Granted, ProvisionError> {
        let filter = Filter::Eni(eni.eni_id.clone());
        let Some(shown) = self.site.ec2().describe(filter).await?.pop() else {
            return Err(error.into());
        };
        let state = self.site.lock();
        let mut granted = Granted {
            addresses: shown.secondaries,
            prefixes: shown.prefixes,
        };
        let known = |prefix| state.pool.prefixes(&eni.eni_id).any(|has| has == prefix);
        granted
            .addresses
            .retain(|address| state.pool.owner(*address).is_none());
        granted.prefixes.retain(|prefix| !known(*prefix));
        match granted.addresses.is_empty() && granted.prefixes.is_empty() {
            true => Err(error.into()),
            false => Ok(granted),
        }
    }

    /// Enters what was granted as soon as a second source shows it.
    async fn enter_shown(
        &self,
        order: OrderId,
        eni: &NodeEni,
        mut granted: Granted,
    ) -> Result<(), ProvisionError> {
        let mut pause = self.pause(VISIBLE_PATIENCE);
        for look in 1u32.. {
            let shown = self.look_at(eni, look).await;
            {
                let mut state = self.site.lock();
                enter_common(&mut state, &eni.eni_id, &mut granted, &shown)?;
                if granted.addresses.is_empty() && granted.prefixes.is_empty() {
                    state.orders.close(order);
                    tracing::info!(eni = %eni.eni_id, "the pool grew");
                    return Ok(());
                }
            }
            self.site.changed();
            if !pause.again().await {
                break;
            }
        }
        Err(ProvisionError::State(format!(
            "{} was granted {granted:?}, which neither EC2 nor the metadata service show after {VISIBLE_PATIENCE:?}",
            eni.eni_id
        )))
    }

    /// What the metadata service, or every so often EC2, shows on an ENI; nothing when it does not answer.
    async fn look_at(&self, eni: &NodeEni, look: u32) -> Granted {
        let ec2 = self.site.ec2();
        let shown = if look.is_multiple_of(LOOKS_PER_CALL) && !self.site.config().imds_only {
            let described = ec2.describe(Filter::Eni(eni.eni_id.clone())).await;
            described.map(|mut enis| {
                enis.pop().map(|eni| Granted {
                    addresses: eni.secondaries,
                    prefixes: eni.prefixes,
                })
            })
        } else {
            let observed = ec2.observe_eni(eni.mac).await;
            observed.map(|eni| {
                eni.map(|eni| Granted {
                    addresses: eni.addresses,
                    prefixes: eni.prefixes,
                })
            })
        };
        match shown {
            Ok(shown) => shown.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, eni = %eni.eni_id, "not shown yet");
                Granted::default()
            }
        }
    }

    /// Gives back what nobody uses.
    pub(super) async fn release(&self, eni_id: &str, units: Units) -> Result<(), ProvisionError> {
        let live = self.site.live().await;
        let live = live.map_err(|error| ProvisionError::State(error.to_string()))?;
        let now = self.now();
        let parting = {
            let mut state = self.site.lock();
            let parting = state.pool.part_with(eni_id, units, now);
            parting.map_err(|error| ProvisionError::State(error.to_string()))?
        };
        let (parting, used) = split(parting, |address| live.contains(&address));
        if !used.is_empty() {
            tracing::error!(
                ?used,
                eni = eni_id,
                "idle by our records, but a pod has it; kept"
            );
            self.hold_for_unknown(eni_id, &used, &live);
        }
        if parting.is_empty() {
            return Ok(());
        }
        let outcome = self.site.ec2().unassign(eni_id, parting.clone()).await;
        let kept = match &outcome {
            Ok(()) => Parting::default(),
            Err(_) => self.still_there(eni_id, &parting).await,
        };
        {
            let mut state = self.site.lock();
            let now = self.now();
            let gone = without(&parting, &kept);
            state.pool.parted(eni_id, &gone, now);
            state.pool.keep(eni_id, &kept);
            state.refusals.returned(now);
            tracing::info!(eni = eni_id, ?gone, ?kept, "addresses given back");
        }
        if let Err(error) = self.site.persist().await {
            tracing::warn!(error, "what was given back is not on disk yet");
        }
        match outcome {
            Err(error) if !kept.is_empty() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A live interface wins: what it has is held, and the rest of it stays in stock.
    fn hold_for_unknown(&self, eni_id: &str, used: &Parting, live: &HashSet<Ipv4Addr>) {
        let mut state = self.site.lock();
        state.pool.keep(eni_id, used);
        let of_prefixes = used
            .prefixes
            .iter()
            .flat_map(|prefix| addresses_of(*prefix));
        let all = used.addresses.iter().copied().chain(of_prefixes);
        for address in all.filter(|address| live.contains(address)) {
            let key = AttachmentKey {
                network: crate::restore::RECOVERED.to_owned(),
                container_id: address.to_string(),
                ifname: "eth0".to_owned(),
            };
            if let Err(error) = state.pool.adopt(&key, eni_id, address) {
                tracing::error!(%error, %address, "a pod's address is not held");
            }
        }
    }

    /// What of `parting` EC2 still shows after a return that failed. What cannot be found out counts as gone: it is then
    /// not handed out, and comes back when both sources show it for long enough.
    async fn still_there(&self, eni_id: &str, parting: &Parting) -> Parting {
        let described = self
            .site
            .ec2()
            .describe(Filter::Eni(eni_id.to_owned()))
            .await;
        let Some(shown) = described.ok().and_then(|mut enis| enis.pop()) else {
            return Parting::default();
        };
        let mut kept = parting.clone();
        kept.addresses
            .retain(|address| shown.secondaries.contains(address));
        kept.prefixes
            .retain(|prefix| shown.prefixes.contains(prefix));
        kept
    }

    /// The subnet a growth was refused by.
    pub(super) fn in_subnet(trial: &mut Trial, subnet: &str) {
        if let Trial::Growth { subnet_id, .. } = trial {
            *subnet_id = Some(subnet.to_owned());
        }
    }
}

/// Half as many, if that is any.
fn halve(units: &mut Units) -> bool {
    let possible = units.prefixes == 0 && units.singles > 1;
    if possible {
        units.singles /= 2;
    }
    possible
}

/// Moves what is in both `granted` and `shown` into the pool.
fn enter_common(
    state: &mut State,
    eni_id: &str,
    granted: &mut Granted,
    shown: &Granted,
) -> Result<(), ProvisionError> {
    let refused = |error: crate::ipam::pool::PoolError| ProvisionError::State(error.to_string());
    for address in take_common(&mut granted.addresses, &shown.addresses) {
        state.pool.add_address(eni_id, address).map_err(refused)?;
    }
    for prefix in take_common(&mut granted.prefixes, &shown.prefixes) {
        state.pool.add_prefix(eni_id, prefix).map_err(refused)?;
    }
    Ok(())
}

fn take_common<T: Copy + PartialEq>(wanted: &mut Vec<T>, shown: &[T]) -> Vec<T> {
    let common = wanted
        .iter()
        .copied()
        .filter(|item| shown.contains(item))
        .collect();
    wanted.retain(|item| !shown.contains(item));
    common
}

/// (what may go, what some address of is used)
fn split(parting: Parting, used: impl Fn(Ipv4Addr) -> bool) -> (Parting, Parting) {
    let (kept, addresses) = parting.addresses.into_iter().partition(|a| used(*a));
    let (kept_prefixes, prefixes) = parting
        .prefixes
        .into_iter()
        .partition(|prefix| addresses_of(*prefix).any(&used));
    (
        Parting {
            addresses,
            prefixes,
        },
        Parting {
            addresses: kept,
            prefixes: kept_prefixes,
        },
    )
}

/// `all` but what is in `kept`.
fn without(all: &Parting, kept: &Parting) -> Parting {
    let mut gone = all.clone();
    gone.addresses
        .retain(|address| !kept.addresses.contains(address));
    gone.prefixes
        .retain(|prefix| !kept.prefixes.contains(prefix));
    gone
}

fn table_name(eni: &NodeEni) -> u32 {
    table_of(eni.device_number)
}
