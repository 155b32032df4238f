//! Comparing what we think with what the cloud shows.
//!
//! Nothing is believed on one source's word: an address comes when the metadata service and EC2 both show it, and goes
//! when neither does and no pod has it; a partial or missing answer takes nothing away. EC2 is asked only when the
//! metadata service shows something else than we know, and every [`FULL_LOOK`] in any case.

use std::collections::BTreeSet;
use std::time::Duration;

use super::place::{self, Place};
use super::work::Worker;
use super::{ProvisionError, Site};
use crate::discover::{self, Discovery, Found, Origin, Trust};
use crate::ec2::{Ec2Error, ErrorKind, Observed, SubnetFilter};
use crate::ipam::plan::Units;
use crate::kubernetes::EniConfig;
use crate::state::{Custom, NodeEni, State};

/// Longest time between two questions to EC2 when nothing seems to have changed.
const FULL_LOOK: Duration = Duration::from_secs(600);
/// How long a list of subnets is good for: that one is full is learnt by its refusals, and tags change rarely.
const PLACES_LIFE: Duration = FULL_LOOK;
/// How long this node goes on with what the metadata service says while EC2 is silent.
const EC2_PATIENCE: Duration = Duration::from_secs(120);

impl<S: Site> Worker<S> {
    /// Looks at the cloud and takes over what is certain.
    pub(super) async fn refresh(&self) {
        let site = &self.site;
        let observed = match self.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(%error, "the metadata service was not looked at; the last good view stands");
                return;
            }
        };
        let now = site.clock().now();
        let leisure = site.ec2().is_at_leisure();
        let due = {
            let state = site.lock();
            let last = state.looked_at_ec2;
            let age = now.since(last.unwrap_or(self.born));
            let stale = last.is_none() || age >= FULL_LOOK || differs(&state, &observed);
            stale && (leisure || age >= FULL_LOOK * 2)
        };
        if due && !site.config().imds_only {
            let asked = discover::ask(
                site.ec2(),
                site.instance(),
                site.config(),
                (site.clock(), EC2_PATIENCE),
            );
            let described = asked.await;
            if described.is_some() {
                site.lock().looked_at_ec2 = Some(now);
            }
            let known = site.lock().enis.keys().cloned().collect();
            let trust = Trust::Known(known);
            self.take_over(&discover::combine(&observed, described.as_ref(), &trust))
                .await;
        } else if site.config().imds_only {
            self.take_over(&discover::combine(&observed, None, &Trust::All))
                .await;
        } else {
            self.note_ranges(&observed);
        }
        self.follow_groups(&observed).await;
        if site.config().provisioning && leisure {
            self.update_places().await;
        }
        if let Err(error) = site.publish().await {
            tracing::error!(error, "the kernel's policy is not up to date");
        }
        site.changed();
    }

    /// What the metadata service shows, if it is still that of our instance. With another one's identity (a restored
    /// image, a proxy gone wrong) nothing it says is about us, and nothing is changed until it is ours again.
    async fn observe(&self) -> Result<Vec<Observed>, Ec2Error> {
        let site = &self.site;
        let (ours, theirs) = (&site.instance().id, site.ec2().instance().await?.id);
        let estranged = *ours != theirs;
        let before = std::mem::replace(&mut site.lock().estranged, estranged);
        if estranged {
            return Err(Ec2Error {
                call: "instance metadata",
                kind: ErrorKind::Other,
                code: String::new(),
                message: format!(
                    "it answers for {theirs}, we are {ours}; nothing is changed in EC2"
                ),
            });
        }
        if before {
            tracing::info!("the metadata service answers for us again");
        }
        discover::observe(site.ec2()).await
    }

    fn note_ranges(&self, observed: &[Observed]) {
        let primary = observed.iter().find(|eni| is_primary(eni));
        if let Some(eni) = primary {
            set_ranges(&mut self.site.lock(), &eni.vpc_cidrs);
        }
    }

    async fn take_over(&self, discovery: &Discovery) {
        let strangers = self.reconcile(discovery);
        for found in strangers {
            if let Err(error) = self.put_to_use(&found, None).await {
                tracing::error!(%error, eni = %found.eni_id, "a new ENI is not used");
            }
        }
        for eni in self.gone(discovery) {
            if self.site.plugged_in(&eni).await {
                continue;
            }
            self.forget(&eni).await;
        }
    }

    /// Takes over what the two sources agree on; returns managed ENIs that are not in use yet.
    fn reconcile(&self, discovery: &Discovery) -> Vec<Found> {
        let now = self.now();
        let mut state = self.site.lock();
        discover::note_foreign(&mut state, discovery);
        set_ranges(&mut state, &discovery.vpc_cidrs);
        let ordering = !state.orders.new_enis().is_empty();
        let mut strangers = Vec::new();
        for found in discovery.enis.iter().filter(|eni| eni.managed) {
            let Some(eni) = state.enis.get_mut(&found.eni_id) else {
                // An ENI that is being made is its order's to bring in.
                if (found.certain || self.site.config().imds_only) && !ordering {
                    strangers.push(found.clone());
                }
                continue;
            };
            if !found.subnet_id.is_empty() {
                eni.subnet_id.clone_from(&found.subnet_id);
            }
            if !found.groups.is_empty() {
                eni.groups.clone_from(&found.groups);
            }
            discover::sight(&mut state, found, Origin::Sighted, now);
            if found.certain && state.orders.for_eni(&found.eni_id) == Units::default() {
                forget_vanished(&mut state, found);
            }
        }
        strangers
    }

    /// ENIs that neither view shows any more, while both answered.
    fn gone(&self, discovery: &Discovery) -> Vec<NodeEni> {
        if !discovery.complete {
            return Vec::new();
        }
        let state = self.site.lock();
        let shown: BTreeSet<&str> = discovery
            .enis
            .iter()
            .map(|eni| eni.eni_id.as_str())
            .chain(discovery.only_described.iter().map(String::as_str))
            .collect();
        state
            .enis
            .values()
            .filter(|eni| !eni.leaving && eni.device_number != 0)
            .filter(|eni| !shown.contains(eni.eni_id.as_str()))
            .cloned()
            .collect()
    }

    /// Secondary ENIs have the primary's security groups; under custom networking, in the ENIConfig's subnet, those of
    /// the ENIConfig, if it names any.
    async fn follow_groups(&self, observed: &[Observed]) {
        let site = &self.site;
        let Some(primary) = observed.iter().find(|eni| is_primary(eni)) else {
            return;
        };
        if !site.config().provisioning || primary.groups.is_empty() {
            return;
        }
        let changes: Vec<(String, Vec<String>)> = {
            let mut state = site.lock();
            if let Some(eni) = state.enis.get_mut(&primary.eni_id) {
                eni.groups.clone_from(&primary.groups);
            }
            let change = |eni: &Observed| {
                let ours = state.enis.get(&eni.eni_id)?;
                let groups = state.groups_for(ours, &primary.groups)?;
                let differ = sorted(&eni.groups) != sorted(groups);
                differ.then(|| (eni.eni_id.clone(), groups.to_vec()))
            };
            observed.iter().filter_map(change).collect()
        };
        for (eni_id, groups) in changes {
            match site.ec2().set_groups(&eni_id, groups.clone()).await {
                Ok(()) => tracing::info!(eni = %eni_id, ?groups, "security groups followed"),
                Err(error) => {
                    tracing::warn!(%error, eni = %eni_id, "security groups not followed");
                }
            }
        }
    }

    /// Where to make the next ENI.
    pub(super) async fn choose_place(&self, units: Units) -> Result<Place, ProvisionError> {
        self.update_places().await;
        let state = self.site.lock();
        let now = self.now();
        let place = match units.prefixes > 0 {
            true => state.place_for_prefixes(now),
            false => state.place_for_eni(now),
        };
        let place = place.cloned();
        place.ok_or_else(|| {
            ProvisionError::State(match &state.custom {
                Custom::Unknown(why) => why.clone(),
                Custom::Known(name, config) if state.places.is_empty() => {
                    let subnet = &config.subnet_id;
                    format!("ENIConfig {name} names {subnet}, which EC2 does not show in this zone")
                }
                Custom::Off | Custom::Known(..) => "every subnet for pods is full".to_owned(),
            })
        })
    }

    async fn update_places(&self) {
        let _turn = self.listing.lock().await;
        let site = &self.site;
        let now = site.clock().now();
        let (primary, fresh) = {
            let state = site.lock();
            let listed = state.places_listed;
            let fresh = listed.is_some_and(|listed| now.since(listed) < PLACES_LIFE);
            (state.primary().cloned(), fresh && !state.places.is_empty())
        };
        let Some(primary) = primary else {
            return;
        };
        if fresh {
            return;
        }
        let custom = site.lock().custom.clone();
        let (places, closed) = match &custom {
            Custom::Off => self.open_places(&primary).await,
            Custom::Unknown(_) => (Vec::new(), BTreeSet::new()),
            Custom::Known(_, config) => (
                self.configured_places(config, &primary).await,
                BTreeSet::new(),
            ),
        };
        let mut state = site.lock();
        if state.custom != custom {
            // Overtaken: the next look lists anew.
            return;
        }
        state.places = places;
        state.places_listed = Some(now);
        if state.closed != closed {
            tracing::info!(?closed, "subnets closed to pods");
            state.closed = closed;
            state.assign_roles();
        }
    }

    /// By tag, and which subnets are closed; the primary's subnet alone when EC2 will not say.
    async fn open_places(&self, primary: &NodeEni) -> (Vec<Place>, BTreeSet<String>) {
        let site = &self.site;
        let own = Place {
            subnet_id: primary.subnet_id.clone(),
            cidr: primary.subnet,
            groups: primary.groups.clone(),
        };
        if !site.config().subnet_discovery {
            return (vec![own], BTreeSet::new());
        }
        match site.ec2().subnets(self.zone()).await {
            Ok(subnets) => {
                let cluster = site.config().cluster_name.as_deref();
                let closed = place::closed(&subnets);
                let open = place::open_places(subnets, &own.subnet_id, cluster, &own.groups);
                (open, closed)
            }
            Err(error) => {
                tracing::warn!(%error, "subnets not listed; using the primary ENI's");
                (vec![own], site.lock().closed.clone())
            }
        }
    }

    /// The subnet an ENIConfig names, if it is in the node's zone: an ENI elsewhere could not be attached.
    async fn configured_places(&self, config: &EniConfig, primary: &NodeEni) -> Vec<Place> {
        match self.site.ec2().subnets(self.zone()).await {
            Ok(subnets) => {
                let groups = match config.groups.is_empty() {
                    true => &primary.groups,
                    false => &config.groups,
                };
                let named = subnets
                    .into_iter()
                    .find(|subnet| subnet.id == config.subnet_id);
                let place = named.map(|subnet| Place {
                    subnet_id: subnet.id,
                    cidr: subnet.cidr,
                    groups: groups.clone(),
                });
                place.into_iter().collect()
            }
            Err(error) => {
                tracing::warn!(%error, "subnets not listed; the last list stands");
                self.site.lock().places.clone()
            }
        }
    }

    fn zone(&self) -> SubnetFilter {
        SubnetFilter::Zone {
            vpc_id: self.site.instance().vpc_id.clone(),
            availability_zone: self.site.instance().availability_zone.clone(),
        }
    }
}

fn is_primary(eni: &Observed) -> bool {
    eni.device_number == 0 && eni.network_card == 0
}

fn sorted(groups: &[String]) -> Vec<&String> {
    let mut groups: Vec<_> = groups.iter().collect();
    groups.sort_unstable();
    groups
}

fn set_ranges(state: &mut State, ranges: &[ipnet::Ipv4Net]) {
    if !ranges.is_empty() && state.vpc_cidrs != ranges {
        tracing::info!(from = ?state.vpc_cidrs, to = ?ranges, "VPC ranges changed");
        state.vpc_cidrs = ranges.to_vec();
    }
}

/// Whether the metadata service shows something else than we know. What is on order is expected to differ.
fn differs(state: &State, observed: &[Observed]) -> bool {
    let ours = state.enis.values().filter(|eni| !eni.leaving).count();
    let theirs = observed
        .iter()
        .filter(|eni| state.enis.contains_key(&eni.eni_id))
        .count();
    if ours != theirs || (state.orders.new_enis().is_empty() && strangers(state, observed)) {
        return true;
    }
    observed.iter().any(|eni| {
        let known = state.enis.contains_key(&eni.eni_id);
        known && state.orders.for_eni(&eni.eni_id) == Units::default() && {
            let singles: BTreeSet<_> = state.pool.singles(&eni.eni_id).collect();
            let prefixes: BTreeSet<_> = state.pool.prefixes(&eni.eni_id).collect();
            singles != eni.addresses.iter().skip(1).copied().collect()
                || prefixes != eni.prefixes.iter().copied().collect()
        }
    })
}

fn strangers(state: &State, observed: &[Observed]) -> bool {
    let unknown = observed
        .iter()
        .filter(|eni| !state.enis.contains_key(&eni.eni_id));
    unknown.count() != state.unmanaged as usize
}

/// What neither view shows is gone, unless a pod has it.
fn forget_vanished(state: &mut State, found: &Found) {
    let singles: Vec<_> = state.pool.singles(&found.eni_id).collect();
    for address in singles.into_iter().filter(|a| !found.rumoured.contains(a)) {
        match state.pool.remove_address(address) {
            Ok(()) => tracing::warn!(%address, "address is gone from EC2, forgotten"),
            Err(_) => tracing::error!(%address, "EC2 has lost an address a pod uses; kept"),
        }
    }
    let prefixes: Vec<_> = state.pool.prefixes(&found.eni_id).collect();
    for prefix in prefixes
        .into_iter()
        .filter(|p| !found.rumoured_prefixes.contains(p))
    {
        match state.pool.remove_prefix(&found.eni_id, prefix) {
            Ok(()) => tracing::warn!(%prefix, "prefix is gone from EC2, forgotten"),
            Err(_) => tracing::error!(%prefix, "EC2 has lost a prefix a pod uses; kept"),
        }
    }
}
