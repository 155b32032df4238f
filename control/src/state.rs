//! What the agent knows, in one place under one lock that is never held across a wait.
//!
//! Also what others are told of it: the dataplane's snapshot, the operator's rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use penstock_control_api::{AttachmentKey, EniRow, PodRow};
use penstock_dataplane_api::{Endpoint, FlowSettings, MacAddr, Node, Snapshot, Snat, Uplink};

use crate::clock::Timestamp;
use crate::config::Config;
use crate::ipam::Record;
use crate::ipam::checkpoint::{Checkpoint, Cooling, Returned, Tombstone};
use crate::ipam::plan::{Allowed, EniView, Kind, Limits, Role, Situation, Targets};
use crate::ipam::pool::Pool;
use crate::kubernetes::EniConfig;
use crate::node::{PodPath, table_of};
use crate::provision::Place;
use crate::provision::orders::{Orders, Refusals};

/// One ENI as kernel and cloud together show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEni {
    /// `eni-…`
    pub eni_id: String,
    /// Kernel's name.
    pub ifname: String,
    /// Kernel's index.
    pub ifindex: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Bytes of IP packet.
    pub mtu: u32,
    /// 0 is the primary.
    pub device_number: u32,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Range of its subnet.
    pub subnet: Ipv4Net,
    /// EC2's name of the subnet; empty when EC2 could not be asked.
    pub subnet_id: String,
    /// Security groups.
    pub groups: Vec<String>,
    /// Hardware address of the subnet's router, once resolved.
    pub gateway_mac: Option<MacAddr>,
    /// Being given back: the dataplane no longer hears of it.
    pub leaving: bool,
}

impl NodeEni {
    /// The subnet's router: base address + 1.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()).wrapping_add(1))
    }
}

/// Why the pool does not grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One line for people.
    pub text: String,
    /// Whether waiting alone may help.
    pub passing: bool,
}

/// Custom networking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Custom {
    /// Pods are where the primary ENI is.
    #[default]
    Off,
    /// It is on, and where pods are to be is not known, for this reason.
    Unknown(String),
    /// The ENIConfig of this name.
    Known(String, EniConfig),
}

/// Everything that changes.
#[derive(Debug)]
pub struct State {
    /// Addresses.
    pub pool: Pool,
    /// Attachments.
    pub records: HashMap<AttachmentKey, Record>,
    /// Attachments deleted lately.
    pub tombstones: HashMap<AttachmentKey, Timestamp>,
    /// ENIs in use, by EC2's name.
    pub enis: BTreeMap<String, NodeEni>,
    /// ENIs on the instance that are not ours to use.
    pub unmanaged: u32,
    /// Their device numbers, where they are on the first network card.
    pub foreign_devices: Vec<u32>,
    /// What the instance type allows.
    pub limits: Limits,
    /// Most pods the node may run, where that is known.
    pub max_pods: Option<u32>,
    /// Pods the cluster has sent here that have no address yet, by namespace and name.
    pub awaiting: BTreeSet<(String, String)>,
    /// No new pods are scheduled here.
    pub cordoned: bool,
    /// Custom networking.
    pub custom: Custom,
    /// Subnets closed to pods by their tag.
    pub closed: BTreeSet<String>,
    /// What is under way.
    pub orders: Orders,
    /// What was refused lately.
    pub refusals: Refusals,
    /// Where new ENIs are made, in order of preference; empty before the first look.
    pub places: Vec<Place>,
    /// When `places` was made.
    pub places_listed: Option<Timestamp>,
    /// The metadata service answers for another instance; nothing may be changed in EC2.
    pub estranged: bool,
    /// When EC2 last answered what ENIs there are.
    pub looked_at_ec2: Option<Timestamp>,
    /// Ranges of the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// The node's own addresses, whoever configured them.
    pub local_addresses: Vec<Ipv4Addr>,
    /// What EC2 refused last.
    pub refused: Option<Trouble>,
    /// Generation of the last snapshot built.
    pub generation: u64,
}

impl State {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(pool: Pool, limits: Limits) -> Self {
        Self {
            pool,
            records: HashMap::new(),
            tombstones: HashMap::new(),
            enis: BTreeMap::new(),
            unmanaged: 0,
            foreign_devices: Vec::new(),
            limits,
            max_pods: None,
            awaiting: BTreeSet::new(),
            cordoned: false,
            custom: Custom::Off,
            closed: BTreeSet::new(),
            orders: Orders::default(),
            refusals: Refusals::default(),
            places: Vec::new(),
            places_listed: None,
            estranged: false,
            looked_at_ec2: None,
            vpc_cidrs: Vec::new(),
            local_addresses: Vec::new(),
            refused: None,
            generation: 0,
        }
    }

    /// The primary ENI; absent only before the first look at the node.
    #[must_use]
    pub fn primary(&self) -> Option<&NodeEni> {
        self.enis.values().find(|eni| eni.device_number == 0)
    }

    /// What the plan is made from.
    #[must_use]
    pub fn situation(&self, config: &Config, waiting: u32, now: Timestamp) -> Situation {
        let provisioning = self.may_provision(config);
        let waiting = waiting.max(self.expected());
        // On a cordoned node only pods that are here already need addresses.
        let quiet = self.cordoned && !config.stock_when_cordoned;
        let growth = provisioning && self.refusals.growth_allowed(now) && (!quiet || waiting > 0);
        let places = !matches!(self.custom, Custom::Unknown(_))
            && (self.places.is_empty() || self.place_for_eni(now).is_some());
        Situation {
            enis: self.eni_views(now),
            ordered_enis: self.orders.new_enis(),
            unmanaged: self.unmanaged,
            targets: self.targets(config),
            limits: self.limits,
            max_pods: self.max_pods,
            waiting,
            fragmented: !self.places.is_empty() && self.unfragmented(now).is_none(),
            allowed: Allowed {
                fill: growth,
                new_enis: growth && places && self.refusals.new_enis_allowed(now),
                release: provisioning && self.refusals.returns_allowed(now),
                remove_enis: provisioning && !quiet && self.refusals.returns_allowed(now),
            },
        }
    }

    /// Why the pool does not grow, if it should.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        let because = |text: String| Trouble {
            text,
            passing: true,
        };
        match &self.custom {
            Custom::Unknown(why) => Some(because(why.clone())),
            _ if self.estranged => Some(because(
                "the metadata service answers for another instance; nothing is changed in EC2"
                    .to_owned(),
            )),
            Custom::Off | Custom::Known(..) => self.refused.clone(),
        }
    }

    /// What an ENI is for.
    fn role_of(&self, eni: &NodeEni) -> Role {
        if eni.device_number == 0 && self.custom != Custom::Off {
            Role::Host
        } else if self.closed.contains(&eni.subnet_id) {
            Role::Retired
        } else {
            Role::Pods
        }
    }

    /// Security groups an ENI is to have, `own` being the primary's; `None` when they are not ours to choose.
    pub(crate) fn groups_for<'a>(
        &'a self,
        eni: &NodeEni,
        own: &'a [String],
    ) -> Option<&'a [String]> {
        if eni.device_number == 0 || eni.leaving {
            return None;
        }
        match &self.custom {
            Custom::Off => Some(own),
            Custom::Unknown(_) => None,
            Custom::Known(_, config) if config.subnet_id != eni.subnet_id => None,
            Custom::Known(_, config) if config.groups.is_empty() => Some(own),
            Custom::Known(_, config) => Some(&config.groups),
        }
    }

    /// Tells the pool what each ENI is for; to be called when an ENI, [`Self::custom`] or [`Self::closed`] changed.
    pub fn assign_roles(&mut self) {
        for eni in self.enis.values() {
            if let Err(error) = self.pool.set_role(&eni.eni_id, self.role_of(eni)) {
                tracing::error!(%error, "an ENI is in use that the pool does not know");
            }
        }
    }

    /// Takes over where custom networking puts pods' ENIs; `false` when nothing changed.
    pub fn set_custom(&mut self, custom: Custom) -> bool {
        if self.custom == custom {
            return false;
        }
        self.custom = custom;
        self.places.clear();
        self.places_listed = None;
        self.assign_roles();
        true
    }

    /// Pods that will ask for an address and have not done so yet.
    fn expected(&self) -> u32 {
        if self.awaiting.is_empty() {
            return 0;
        }
        let here: BTreeSet<(&str, &str)> = self.records.values().map(Record::pod_name).collect();
        let mut awaiting = self.awaiting.iter();
        let to_come = awaiting
            .by_ref()
            .filter(|(namespace, name)| !here.contains(&(namespace.as_str(), name.as_str())));
        u32::try_from(to_come.count()).unwrap_or(u32::MAX)
    }

    /// Whether anything may be changed in EC2.
    #[must_use]
    pub fn may_provision(&self, config: &Config) -> bool {
        config.provisioning && !self.estranged
    }

    /// Prefixes only where the instance type has them.
    fn targets(&self, config: &Config) -> Targets {
        let kind = match self.limits.prefixes {
            true => config.targets.kind,
            false => Kind::Address,
        };
        Targets {
            kind,
            ..config.targets
        }
    }

    fn eni_views(&self, now: Timestamp) -> Vec<EniView> {
        let mut views = self.pool.views(now);
        for view in &mut views {
            let subnet = self.enis.get(&view.eni_id).map(|eni| &eni.subnet_id);
            let refused = subnet.is_some_and(|id| self.refusals.is_full(id, now));
            view.subnet_full = refused || self.refusals.is_crowded(&view.eni_id, now);
            view.fragmented = subnet.is_some_and(|id| self.refusals.is_fragmented(id, now));
            view.ordered = self.orders.for_eni(&view.eni_id);
        }
        views
    }

    /// The first subnet for new ENIs that has addresses.
    #[must_use]
    pub fn place_for_eni(&self, now: Timestamp) -> Option<&Place> {
        let mut places = self.places.iter();
        places.find(|place| !self.refusals.is_full(&place.subnet_id, now))
    }

    /// The first subnet for new ENIs that has prefixes, or else addresses.
    #[must_use]
    pub fn place_for_prefixes(&self, now: Timestamp) -> Option<&Place> {
        self.unfragmented(now).or_else(|| self.place_for_eni(now))
    }

    fn unfragmented(&self, now: Timestamp) -> Option<&Place> {
        let mut places = self.places.iter();
        places.find(|place| {
            let id = &place.subnet_id;
            !self.refusals.is_full(id, now) && !self.refusals.is_fragmented(id, now)
        })
    }

    /// What the kernel must know of a confirmed attachment.
    #[must_use]
    pub fn path_of(record: &Record) -> Option<PodPath> {
        let link = record.link?;
        Some(PodPath {
            address: record.address,
            ifindex: link.ifindex,
            ifname: record.host_ifname.clone(),
            pod_mac: link.pod_mac,
            table: table_of(record.device_number),
        })
    }

    /// What must survive a restart.
    #[must_use]
    pub fn checkpoint(&self, boot_id: &str, now: Timestamp) -> Checkpoint {
        let mut attachments: Vec<Record> = self.records.values().cloned().collect();
        attachments.sort_by(|a, b| a.key.cmp(&b.key));
        let cooling = self.pool.cooling(now).into_iter();
        let tombstones = self.tombstones.iter();
        Checkpoint {
            boot_id: boot_id.to_owned(),
            attachments,
            cooling: cooling
                .map(|(address, since)| Cooling { address, since })
                .collect(),
            tombstones: tombstones
                .map(|(key, at)| Tombstone {
                    key: key.clone(),
                    at: *at,
                })
                .collect(),
            enis: self.enis.keys().cloned().collect(),
            returned: self
                .pool
                .returned(now)
                .map(|(what, at)| Returned { what, at })
                .collect(),
            restraint: None,
        }
    }

    /// The node as the dataplane must see it; `None` before the primary ENI is known. Each one has a higher
    /// generation than the one before, also over restarts within a boot.
    pub fn snapshot(&mut self, config: &Config, name: &str, now: Timestamp) -> Option<Snapshot> {
        let primary_address = self.primary()?.address;
        self.generation = now.0.max(self.generation + 1);
        Some(Snapshot {
            generation: self.generation,
            node: Node {
                name: name.to_owned(),
                primary_address,
                primary_address6: None,
            },
            vpc_cidrs: self.vpc_cidrs.iter().copied().map(IpNet::V4).collect(),
            kernel_cidrs: self.kernel_cidrs(config),
            snat: Snat {
                mode: config.snat_mode,
                exclude_cidrs: config.snat_exclusions.clone(),
                address: primary_address,
                ports: config.snat_ports,
                port_choice: config.port_choice,
            },
            imds: config.imds,
            flow: FlowSettings::default(),
            uplinks: self.uplinks(),
            endpoints: self.endpoints(),
        })
    }

    fn kernel_cidrs(&self, config: &Config) -> Vec<IpNet> {
        let own = self.enis.values().map(|eni| eni.address);
        let others = self.local_addresses.iter().copied();
        let hosts = own
            .chain(others.filter(|address| !address.is_link_local()))
            .map(Ipv4Net::from);
        let link_local = Ipv4Net::new(Ipv4Addr::new(169, 254, 0, 0), 16);
        let mut all: Vec<Ipv4Net> = hosts
            .chain(config.service_cidrs.iter().copied())
            .chain(config.external_service_cidrs.iter().copied())
            .chain(link_local)
            .collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(IpNet::V4).collect()
    }

    fn uplinks(&self) -> Vec<Uplink> {
        let mut enis: Vec<&NodeEni> = self.enis.values().filter(|eni| !eni.leaving).collect();
        enis.sort_by_key(|eni| eni.device_number);
        let uplink = |eni: &NodeEni| Uplink {
            eni_id: eni.eni_id.clone(),
            ifname: eni.ifname.clone(),
            ifindex: eni.ifindex,
            mac: eni.mac,
            mtu: eni.mtu,
            primary: eni.device_number == 0,
            address: eni.address,
            gateway: eni.gateway(),
            address6: None,
            gateway6: None,
            gateway_mac: eni.gateway_mac,
        };
        enis.into_iter().map(uplink).collect()
    }

    /// Pods whose hardware address is unknown, or whose ENI is gone, are left to the kernel.
    fn endpoints(&self) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self
            .records
            .values()
            .filter(|record| {
                self.enis
                    .get(&record.eni_id)
                    .is_some_and(|eni| !eni.leaving)
            })
            .filter_map(|record| {
                let link = record.link.filter(|_| record.is_live())?;
                Some(Endpoint {
                    addresses: vec![record.address.into()],
                    eni_id: record.eni_id.clone(),
                    ifname: record.host_ifname.clone(),
                    ifindex: link.ifindex,
                    host_mac: link.host_mac,
                    pod_mac: link.pod_mac?,
                    mtu: record.mtu,
                    namespace: record.pod.namespace.clone(),
                    pod: record.pod.name.clone(),
                    container_id: record.key.container_id.clone(),
                })
            })
            .collect();
        endpoints.sort_by_key(Endpoint::address4);
        endpoints
    }

    /// Pods for the operator, by namespace and name.
    #[must_use]
    pub fn pod_rows(&self) -> Vec<PodRow> {
        let row = |record: &Record| PodRow {
            namespace: record.pod.namespace.clone(),
            pod: record.pod.name.clone(),
            address: record.address,
            eni_id: record.eni_id.clone(),
            device_number: record.device_number,
            host_ifname: record.host_ifname.clone(),
            network: record.key.network.clone(),
            container_id: record.key.container_id.clone(),
            ifname: record.key.ifname.clone(),
            confirmed: record.is_live(),
        };
        let mut rows: Vec<PodRow> = self.records.values().map(row).collect();
        rows.sort_by(|a, b| {
            (&a.namespace, &a.pod, a.address).cmp(&(&b.namespace, &b.pod, b.address))
        });
        rows
    }

    /// ENIs for the operator, by device number.
    #[must_use]
    pub fn eni_rows(&self, now: Timestamp) -> Vec<EniRow> {
        let views = self.pool.views(now);
        let mut rows: Vec<EniRow> = self
            .enis
            .values()
            .map(|eni| {
                let view = views.iter().find(|view| view.eni_id == eni.eni_id);
                EniRow {
                    eni_id: eni.eni_id.clone(),
                    ifname: eni.ifname.clone(),
                    device_number: eni.device_number,
                    address: eni.address,
                    subnet_id: eni.subnet_id.clone(),
                    table: table_of(eni.device_number),
                    addresses: view.map_or(0, EniView::total),
                    assigned: view.map_or(0, |view| view.assigned),
                    mtu: eni.mtu,
                }
            })
            .collect();
        rows.sort_by_key(|row| row.device_number);
        rows
    }
}
