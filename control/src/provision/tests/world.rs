//! Nodes without kernels on a simulated account: the real stock keeper, gate, plan and pool against `ec2_sim::Cloud`,
//! all on one test clock.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ec2_sim::cloud::{
    AddressChoice, AssignRequest, Assigned, AttachRequest, CreateRequest, FaultKind,
    Filter as SimFilter, InterfaceChange, PageRequest,
};
use ec2_sim::{ApiError, Cloud, CloudConfig, Eni};
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use penstock_control_api::AttachmentKey;
use penstock_dataplane_api::MacAddr;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;

use super::time::TestClock;
use crate::boot::EC2_PATIENCE;
use crate::clock::Clock;
use crate::config::Config;
use crate::discover::{self, Found, Origin, PlugError, Trust};
use crate::ec2::gate::{Gate, Restraint};
use crate::ec2::{
    Attachment, Created, DESCRIPTION_PREFIX, Described, Ec2, Ec2Error, Filter, Granted, Instance,
    NewEni, Observed, Subnet, SubnetFilter, TAG_CLUSTER, TAG_INSTANCE, Tags, classify,
};
use crate::ipam::plan::{Limits, Units};
use crate::ipam::pool::{Parting, Pool};
use crate::node::NodeError;
use crate::provision::{Site, keep_in_stock};
use crate::state::{Custom, NodeEni, State};

/// How both views may lie.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Lies {
    /// Chance that an address is left out of a view.
    pub(super) omit: f64,
    /// The same for the metadata service alone.
    pub(super) omit_metadata: f64,
    /// Chance that a view invents an address; the two never invent the same.
    pub(super) invent: f64,
}

/// The subnet for pods of [`World::with_pod_subnet`].
pub(super) const POD_SUBNET: &str = "subnet-0000000000000000d";
/// Security groups it also has.
pub(super) const POD_GROUP: &str = "sg-0000000000000000d";
/// Another one.
pub(super) const OTHER_GROUP: &str = "sg-0000000000000000e";

/// How often an action was called.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calls {
    pub(super) made: usize,
    pub(super) refused: usize,
}

/// One account and its time.
#[derive(Clone)]
pub(super) struct World {
    pub(super) clock: TestClock,
    pub(super) cloud: Arc<Cloud>,
    /// Moments of all calls to EC2.
    pub(super) calls: Arc<Mutex<Vec<(Duration, &'static str)>>>,
    /// Which of them the account's budget refused.
    refused: Arc<Mutex<Vec<&'static str>>>,
    /// Chance that a change takes effect and its answer is lost.
    pub(super) loss: Arc<Mutex<f64>>,
    pub(super) lies: Arc<Mutex<Lies>>,
    /// As which instance the metadata service answers, if not as the one it is asked by.
    pub(super) impostor: Arc<Mutex<Option<String>>>,
    random: Arc<Mutex<StdRng>>,
}

impl World {
    pub(super) fn new(seed: u64, subnet: &str) -> Self {
        let mut config = CloudConfig {
            vpc_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            ..CloudConfig::default()
        };
        config.subnets.truncate(1);
        config.subnets[0].cidr = subnet.parse().unwrap();
        Self::with(seed, config)
    }

    /// As [`Self::new`], with a second subnet in the same zone for pods, [`POD_SUBNET`].
    pub(super) fn with_pod_subnet(subnet: &str, tags: &[(&str, &str)]) -> Self {
        let mut config = CloudConfig::default();
        config.vpc_cidrs.push("100.64.0.0/16".parse().unwrap());
        config.subnets[0].cidr = subnet.parse().unwrap();
        let zone = config.subnets[0].availability_zone.clone();
        let pods = &mut config.subnets[1];
        POD_SUBNET.clone_into(&mut pods.subnet_id);
        pods.cidr = "100.64.0.0/24".parse().unwrap();
        pods.availability_zone = zone;
        let tags = tags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pods.tags = tags.collect();
        for group in [POD_GROUP, OTHER_GROUP] {
            let mut more = config.security_groups[0].clone();
            group.clone_into(&mut more.group_id);
            group.clone_into(&mut more.name);
            config.security_groups.push(more);
        }
        Self::with(1, config)
    }

    fn with(seed: u64, config: CloudConfig) -> Self {
        let clock = TestClock::default();
        let time = clock.clone();
        let now = move || Duration::from_secs(1_700_000_000) + time.since_start();
        Self {
            clock,
            cloud: Cloud::with_clock(config, Arc::new(now)).unwrap(),
            calls: Arc::default(),
            refused: Arc::default(),
            loss: Arc::default(),
            lies: Arc::default(),
            impostor: Arc::default(),
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    pub(super) fn chance(&self, share: f64) -> bool {
        share > 0.0 && self.random.lock().unwrap().random_bool(share)
    }

    pub(super) fn pick(&self, below: usize) -> usize {
        self.random.lock().unwrap().random_range(0..below)
    }

    pub(super) fn calls_between(&self, from: Duration, to: Duration) -> usize {
        let calls = self.calls.lock().unwrap();
        let inside = calls.iter().filter(|(at, _)| *at >= from && *at < to);
        inside.count()
    }

    pub(super) fn calls_by_action(&self) -> BTreeMap<&'static str, Calls> {
        let mut sums: BTreeMap<&str, Calls> = BTreeMap::new();
        for (_, action) in self.calls.lock().unwrap().iter() {
            sums.entry(action).or_default().made += 1;
        }
        for action in self.refused.lock().unwrap().iter() {
            sums.entry(action).or_default().refused += 1;
        }
        sums
    }

    /// A node whose stock is kept.
    pub(super) async fn node(
        &self,
        instance_type: &str,
        settings: &[(&str, &str)],
    ) -> Arc<SimSite> {
        let node = self.idle_node(instance_type, settings).await;
        tokio::spawn(keep_in_stock(Arc::clone(&node)));
        node
    }

    /// A node nobody keeps yet.
    pub(super) async fn idle_node(
        &self,
        instance_type: &str,
        settings: &[(&str, &str)],
    ) -> Arc<SimSite> {
        let subnet = &self.cloud.config().subnets[0].subnet_id;
        let launched = self.cloud.launch_instance(instance_type, subnet, "node");
        let id = launched.unwrap().instance_id;
        self.restart(&id, settings, None).await
    }

    /// The agent of an instance, as it starts; `restraint` is what its checkpoint says.
    pub(super) async fn restart(
        &self,
        id: &str,
        settings: &[(&str, &str)],
        restraint: Option<&Restraint>,
    ) -> Arc<SimSite> {
        let settings: BTreeMap<&str, &str> = settings.iter().copied().collect();
        let config = Config::read(&settings).unwrap();
        let sim = Arc::new(SimEc2 {
            world: self.clone(),
            instance_id: id.to_owned(),
        });
        let instance = sim.instance().await.unwrap();
        let limits = sim.limits(&instance.instance_type).await.unwrap();
        let mut state = State::new(Pool::new(config.cooldown), limits);
        if config.custom_networking {
            state.set_custom(Custom::Unknown("not known yet".to_owned()));
        }
        let observed = discover::observe(sim.as_ref()).await.unwrap();
        let ec2 = Gate::new(sim, Arc::new(self.clock.clone()), Arc::default());
        if let Some(restraint) = restraint {
            ec2.restrain(restraint);
        }
        let patience = (&self.clock as &dyn Clock, EC2_PATIENCE);
        let told = discover::ask(&ec2, &instance, &config, patience).await;
        state.looked_at_ec2 = told.is_some().then(|| self.clock.now());
        for found in discover::combine(&observed, told.as_ref(), &Trust::All).enis {
            let eni = node_eni(&found);
            discover::enter(&mut state, eni, &found, Origin::Present, self.clock.now());
        }
        Arc::new(SimSite {
            config,
            instance,
            ec2,
            clock: self.clock.clone(),
            state: Mutex::new(state),
            kick: Notify::new(),
            changed: Notify::new(),
            waiting: AtomicU32::new(0),
            unknown_pods: Mutex::default(),
            warnings: Mutex::default(),
        })
    }
}

fn node_eni(found: &Found) -> NodeEni {
    NodeEni {
        eni_id: found.eni_id.clone(),
        ifname: format!("eth{}", found.device_number),
        ifindex: found.device_number + 2,
        mac: found.mac,
        mtu: 9001,
        device_number: found.device_number,
        address: found.address,
        subnet: found.subnet,
        subnet_id: found.subnet_id.clone(),
        groups: found.groups.clone(),
        gateway_mac: None,
        leaving: false,
    }
}

/// One node.
pub(super) struct SimSite {
    config: Config,
    instance: Instance,
    ec2: Gate,
    clock: TestClock,
    state: Mutex<State>,
    kick: Notify,
    changed: Notify,
    waiting: AtomicU32,
    /// Addresses of pods that no record knows.
    pub(super) unknown_pods: Mutex<HashSet<Ipv4Addr>>,
    /// Reasons of warnings.
    pub(super) warnings: Mutex<Vec<&'static str>>,
}

pub(super) fn key(pod: usize) -> AttachmentKey {
    AttachmentKey {
        network: "penstock".into(),
        container_id: format!("c{pod}"),
        ifname: "eth0".into(),
    }
}

impl SimSite {
    /// As a runtime and kubelet do it: an ADD that fails is tried again. Returns the address.
    pub(super) async fn add(&self, pod: usize) -> Ipv4Addr {
        loop {
            let changed = self.changed.notified();
            if let Some(address) = self.try_add(pod) {
                return address;
            }
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.kick.notify_one();
            tokio::select! {
                () = changed => {}
                () = self.clock.sleep(Duration::from_secs(8)) => {}
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Straight from the pool, or nothing.
    pub(super) fn try_add(&self, pod: usize) -> Option<Ipv4Addr> {
        let assigned = self.lock().pool.assign(&key(pod), self.clock.now());
        self.kick.notify_one();
        assigned.ok().map(|(address, _)| address)
    }

    pub(super) fn del(&self, pod: usize) -> Option<Ipv4Addr> {
        let released = self.lock().pool.release(&key(pod), self.clock.now());
        self.kick.notify_one();
        released
    }

    pub(super) fn id(&self) -> &str {
        &self.instance.id
    }

    /// (ENIs, addresses in all, free)
    pub(super) fn stock(&self) -> (usize, u32, u32) {
        let state = self.lock();
        let report = state.pool.report(self.clock.now(), 0);
        (state.enis.len(), report.total, report.free)
    }

    pub(super) async fn until(&self, what: &str, patience: u64, done: impl Fn(&Self) -> bool) {
        let deadline = self.clock.since_start() + Duration::from_secs(patience);
        while !done(self) {
            let now = self.clock.since_start();
            assert!(
                now < deadline,
                "not within {patience} s: {what}; {:?}",
                self.stock()
            );
            self.clock.sleep(Duration::from_millis(250)).await;
        }
    }
}

impl Site for SimSite {
    fn config(&self) -> &Config {
        &self.config
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn ec2(&self) -> &dyn Ec2 {
        &self.ec2
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    fn warn(&self, reason: &'static str, _message: String) {
        self.warnings.lock().unwrap().push(reason);
    }

    fn kick(&self) -> &Notify {
        &self.kick
    }

    fn changed(&self) {
        self.changed.notify_waiters();
    }

    fn plug<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Result<NodeEni, PlugError>> {
        Box::pin(async move { Ok(node_eni(found)) })
    }

    fn unplug<'a>(&'a self, _eni: &'a NodeEni) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn plugged_in<'a>(&'a self, _eni: &'a NodeEni) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }

    fn live(&self) -> BoxFuture<'_, Result<HashSet<Ipv4Addr>, NodeError>> {
        Box::pin(async { Ok(self.unknown_pods.lock().unwrap().clone()) })
    }

    fn publish(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn persist(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// The calls of one node, without a wire.
struct SimEc2 {
    world: World,
    instance_id: String,
}

fn failed(call: &'static str, error: &ApiError) -> Ec2Error {
    Ec2Error {
        call,
        kind: classify(&error.code, &error.message),
        code: error.code.to_string(),
        message: error.message.clone(),
    }
}

impl SimEc2 {
    async fn call<T>(
        &self,
        action: &'static str,
        run: impl FnOnce(&Cloud) -> Result<T, ApiError>,
    ) -> Result<T, Ec2Error> {
        let world = &self.world;
        let began = world.clock.since_start();
        world.calls.lock().unwrap().push((began, action));
        world.clock.sleep(world.cloud.latency()).await;
        let lost = || ApiError::new("", "the answer was lost");
        let result = match world.cloud.admit(action) {
            None if !action.starts_with("Describe")
                && world.chance(*world.loss.lock().unwrap()) =>
            {
                let _ = run(&world.cloud);
                world.clock.sleep(Duration::from_secs(10)).await;
                Err(lost())
            }
            None => run(&world.cloud),
            Some(FaultKind::LostReply) => run(&world.cloud).and_then(|_| Err(lost())),
            Some(FaultKind::Error(code)) => {
                world.refused.lock().unwrap().push(action);
                Err(ApiError::new(code, "injected by the test"))
            }
            Some(FaultKind::Body { .. }) => Err(lost()),
        };
        result.map_err(|error| failed(action, &error))
    }

    /// What a view makes of an address list.
    fn view(
        &self,
        addresses: Vec<Ipv4Addr>,
        subnet: Ipv4Net,
        (omit, invented_from): (f64, u32),
    ) -> Vec<Ipv4Addr> {
        let world = &self.world;
        let lies = *world.lies.lock().unwrap();
        let mut shown: Vec<Ipv4Addr> = addresses
            .into_iter()
            .filter(|_| !world.chance(omit.max(lies.omit)))
            .collect();
        if world.chance(lies.invent) {
            let offset = invented_from + u32::try_from(world.pick(8)).unwrap();
            let invented = Ipv4Addr::from(u32::from(subnet.broadcast()) - offset);
            if !shown.contains(&invented) {
                shown.push(invented);
            }
        }
        shown
    }

    fn described(&self, eni: &Eni) -> Described {
        Described {
            eni_id: eni.eni_id.clone(),
            mac: MacAddr(eni.mac),
            subnet_id: eni.subnet_id.clone(),
            groups: eni.groups.clone(),
            primary: eni.primary,
            secondaries: self.view(eni.secondaries.clone(), eni.subnet_cidr, (0.0, 20)),
            prefixes: eni.prefixes.clone(),
            description: eni.description.clone(),
            attachment: eni.attachment_id.as_ref().map(|id| Attachment {
                id: id.clone(),
                instance_id: eni.instance_id.clone().unwrap_or_default(),
                device_number: eni.device_index,
                network_card: 0,
            }),
            tags: eni.tags.clone(),
        }
    }

    fn observed(&self, eni: &Eni) -> Observed {
        let omit = self.world.lies.lock().unwrap().omit_metadata;
        let secondaries = self.view(eni.secondaries.clone(), eni.subnet_cidr, (omit, 40));
        Observed {
            eni_id: eni.eni_id.clone(),
            mac: MacAddr(eni.mac),
            device_number: eni.device_index,
            network_card: 0,
            subnet_id: eni.subnet_id.clone(),
            subnet: eni.subnet_cidr,
            vpc_cidrs: self.world.cloud.config().vpc_cidrs.clone(),
            groups: eni.groups.clone(),
            addresses: std::iter::once(eni.primary).chain(secondaries).collect(),
            prefixes: eni.prefixes.clone(),
        }
    }
}

fn sim_filter(name: &str, value: &str) -> SimFilter {
    SimFilter {
        name: name.to_owned(),
        values: vec![value.to_owned()],
    }
}

impl Ec2 for SimEc2 {
    fn instance(&self) -> BoxFuture<'_, Result<Instance, Ec2Error>> {
        Box::pin(async {
            let instance = self.world.cloud.instance(&self.instance_id).unwrap();
            let impostor = self.world.impostor.lock().unwrap().clone();
            Ok(Instance {
                id: impostor.unwrap_or(instance.instance_id),
                instance_type: instance.instance_type,
                availability_zone: instance.availability_zone,
                primary_mac: MacAddr(instance.primary_eni.mac),
                vpc_id: instance.primary_eni.vpc_id,
            })
        })
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, Ec2Error>> {
        Box::pin(async {
            let enis = self.world.cloud.metadata_enis(&self.instance_id);
            Ok(enis.iter().map(|eni| self.observed(eni)).collect())
        })
    }

    fn observe_eni(&self, mac: MacAddr) -> BoxFuture<'_, Result<Option<Observed>, Ec2Error>> {
        Box::pin(async move {
            let enis = self.world.cloud.metadata_enis(&self.instance_id);
            let eni = enis.iter().find(|eni| eni.mac == mac.0);
            Ok(eni.map(|eni| self.observed(eni)))
        })
    }

    fn limits<'a>(&'a self, instance_type: &'a str) -> BoxFuture<'a, Result<Limits, Ec2Error>> {
        Box::pin(async move { Ok(crate::ec2::known_limits(instance_type).unwrap()) })
    }

    fn describe(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Described>, Ec2Error>> {
        Box::pin(async move {
            let (ids, filters) = match filter {
                Filter::Instance(id) => (vec![], vec![sim_filter("attachment.instance-id", &id)]),
                Filter::Orphans(id) => {
                    let tag = sim_filter(&format!("tag:{TAG_INSTANCE}"), &id);
                    (vec![], vec![tag, sim_filter("status", "available")])
                }
                Filter::Leaked { vpc_id, cluster } => {
                    let mut filters = vec![
                        sim_filter("tag-key", TAG_INSTANCE),
                        sim_filter("status", "available"),
                        sim_filter("vpc-id", &vpc_id),
                        sim_filter("description", &format!("{DESCRIPTION_PREFIX}*")),
                    ];
                    let cluster =
                        cluster.map(|name| sim_filter(&format!("tag:{TAG_CLUSTER}"), &name));
                    filters.extend(cluster);
                    (vec![], filters)
                }
                Filter::Eni(id) => (vec![id], vec![]),
            };
            let page = PageRequest::default();
            let enis = self.call("DescribeNetworkInterfaces", |cloud| {
                cloud.describe_network_interfaces(&ids, &filters, &page)
            });
            let enis = enis.await?.items;
            Ok(enis.iter().map(|eni| self.described(eni)).collect())
        })
    }

    fn create(&self, eni: NewEni) -> BoxFuture<'_, Result<Created, Ec2Error>> {
        Box::pin(async move {
            let request = CreateRequest {
                subnet_id: eni.subnet_id,
                description: eni.description,
                groups: eni.groups,
                secondary_count: eni.units.singles as usize,
                prefix_count: eni.units.prefixes as usize,
                tags: eni.tags,
                client_token: Some(eni.client_token),
                ..CreateRequest::default()
            };
            let made = self.call("CreateNetworkInterface", |cloud| {
                cloud.create_network_interface(&request)
            });
            let made = made.await?;
            Ok(Created {
                eni_id: made.eni_id,
                mac: MacAddr(made.mac),
                granted: Granted {
                    addresses: made.secondaries,
                    prefixes: made.prefixes,
                },
            })
        })
    }

    fn attach<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
        device_number: u32,
    ) -> BoxFuture<'a, Result<String, Ec2Error>> {
        Box::pin(async move {
            let request = AttachRequest {
                eni_id: eni_id.to_owned(),
                instance_id: instance_id.to_owned(),
                device_index: device_number,
            };
            self.call("AttachNetworkInterface", |cloud| {
                cloud.attach_network_interface(&request)
            })
            .await
        })
    }

    fn delete_on_termination<'a>(
        &'a self,
        eni_id: &'a str,
        attachment_id: &'a str,
    ) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(async move {
            let change = InterfaceChange::DeleteOnTermination {
                attachment_id: attachment_id.to_owned(),
                delete: true,
            };
            self.call("ModifyNetworkInterfaceAttribute", |cloud| {
                cloud.modify_network_interface(eni_id, &change)
            })
            .await
        })
    }

    fn assign<'a>(
        &'a self,
        eni_id: &'a str,
        units: Units,
    ) -> BoxFuture<'a, Result<Granted, Ec2Error>> {
        Box::pin(async move {
            let request = AssignRequest {
                eni_id: eni_id.to_owned(),
                choice: match units.prefixes {
                    0 => AddressChoice::Count(units.singles as usize),
                    prefixes => AddressChoice::Prefixes(prefixes as usize),
                },
                allow_reassignment: false,
            };
            let assigned = self.call("AssignPrivateIpAddresses", |cloud| {
                cloud.assign_private_ip_addresses(&request)
            });
            let assigned = assigned.await?;
            Ok(Granted {
                addresses: assigned.addresses,
                prefixes: assigned.prefixes,
            })
        })
    }

    fn unassign<'a>(
        &'a self,
        eni_id: &'a str,
        parting: Parting,
    ) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(async move {
            let given = Assigned {
                addresses: parting.addresses,
                prefixes: parting.prefixes,
            };
            self.call("UnassignPrivateIpAddresses", |cloud| {
                cloud.unassign_private_ip_addresses(eni_id, &given)
            })
            .await
        })
    }

    fn set_groups<'a>(
        &'a self,
        eni_id: &'a str,
        groups: Vec<String>,
    ) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(async move {
            let change = InterfaceChange::Groups(groups);
            self.call("ModifyNetworkInterfaceAttribute", |cloud| {
                cloud.modify_network_interface(eni_id, &change)
            })
            .await
        })
    }

    fn tag<'a>(&'a self, eni_id: &'a str, tags: Tags) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(async move {
            let ids = [eni_id.to_owned()];
            self.call("CreateTags", |cloud| cloud.create_tags(&ids, &tags))
                .await
        })
    }

    fn subnets(&self, _filter: SubnetFilter) -> BoxFuture<'_, Result<Vec<Subnet>, Ec2Error>> {
        Box::pin(async {
            let page = self.call("DescribeSubnets", |cloud| {
                cloud.describe_subnets(&[], &[], &PageRequest::default())
            });
            let subnets = page.await?.items.into_iter().map(|subnet| Subnet {
                id: subnet.config.subnet_id,
                cidr: subnet.config.cidr,
                free: u32::try_from(subnet.free_addresses).unwrap(),
                tags: subnet.config.tags,
            });
            Ok(subnets.collect())
        })
    }

    fn detach<'a>(&'a self, attachment_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(async move {
            self.call("DetachNetworkInterface", |cloud| {
                cloud.detach_network_interface(attachment_id)
            })
            .await
        })
    }

    fn delete<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>> {
        Box::pin(async move {
            self.call("DeleteNetworkInterface", |cloud| {
                cloud.delete_network_interface(eni_id)
            })
            .await
        })
    }
}
