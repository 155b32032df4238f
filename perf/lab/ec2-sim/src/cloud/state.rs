//! The cloud's memory and its only mutable thing: interfaces, instances, subnets, and work for the wire.
//!
//! Guarantees: every address of every interface is taken in its subnet's pool and in no other; an interface is
//! `in-use` exactly while it has an attachment. Pure: time comes in as an argument, nothing is called.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::cloud::{Budget, CreateRequest, FaultKind};
use crate::subnet::AddressPool;
use crate::{
    ApiError, AttachmentStatus, CloudConfig, Eni, EniStatus, Instance, InstanceType,
    SecurityGroupConfig, SubnetConfig, Tags, instance_type,
};

/// How many refusals of the wire are remembered.
pub(crate) const WIRE_ERRORS_KEPT: usize = 64;

/// Something the wire has to be told.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Attach { instance_id: String, eni: Eni },
    Detach { instance_id: String, eni: Eni },
    Addresses(Eni),
}

#[derive(Debug)]
pub(crate) struct EniRecord {
    pub(crate) eni: Eni,
    /// When calls other than the creating one start to know it.
    pub(crate) visible_at: Duration,
    /// When the attaching or detaching under way is over.
    pub(crate) transition_due: Option<Duration>,
    /// Whether somebody has undertaken to settle the cloud then.
    pub(crate) timer_set: bool,
    /// The request that made it, if it carried a client token.
    pub(crate) created_by: Option<CreateRequest>,
}

#[derive(Debug)]
pub(crate) struct InstanceRecord {
    pub(crate) instance_type: InstanceType,
    pub(crate) primary_eni_id: String,
    pub(crate) private_dns_name: String,
    pub(crate) launch_time: Duration,
    pub(crate) tags: Tags,
}

#[derive(Debug)]
pub(crate) struct SubnetRecord {
    pub(crate) config: SubnetConfig,
    pub(crate) pool: AddressPool,
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) region: String,
    pub(crate) vpc_id: String,
    pub(crate) vpc_tags: Tags,
    pub(crate) attach_delay: Duration,
    pub(crate) detach_delay: Duration,
    pub(crate) visibility_delay: Duration,
    pub(crate) latency: Duration,
    pub(crate) types: Vec<InstanceType>,
    pub(crate) groups: Vec<SecurityGroupConfig>,
    pub(crate) subnets: BTreeMap<String, SubnetRecord>,
    pub(crate) enis: BTreeMap<String, EniRecord>,
    pub(crate) instances: BTreeMap<String, InstanceRecord>,
    pub(crate) faults: Vec<(String, FaultKind, u32)>,
    /// The account's budget of calls, if it has one.
    pub(crate) budget: Option<Budget>,
    /// Views lag this much behind.
    pub(crate) lag: Duration,
    /// What views showed, oldest first; kept only while they lag.
    pub(crate) past: VecDeque<(Duration, BTreeMap<String, Eni>)>,
    pub(crate) calls: BTreeMap<String, u64>,
    pub(crate) wire_errors: VecDeque<String>,
    pub(super) queue: VecDeque<Work>,
    seed: u32,
    issued: u32,
}

impl State {
    pub(super) fn new(config: &CloudConfig) -> Self {
        let subnet = |s: &SubnetConfig| {
            let pool = AddressPool::new(s.cidr);
            (
                s.subnet_id.clone(),
                SubnetRecord {
                    config: s.clone(),
                    pool,
                },
            )
        };
        Self {
            region: config.region.clone(),
            vpc_id: config.vpc_id.clone(),
            vpc_tags: Tags::new(),
            attach_delay: config.attach_delay,
            detach_delay: config.detach_delay,
            visibility_delay: config.create_visibility_delay,
            latency: config.latency,
            types: instance_type::table(&config.instance_types),
            groups: config.security_groups.clone(),
            subnets: config.subnets.iter().map(subnet).collect(),
            enis: BTreeMap::new(),
            instances: BTreeMap::new(),
            faults: Vec::new(),
            budget: None,
            lag: Duration::ZERO,
            past: VecDeque::new(),
            calls: BTreeMap::new(),
            wire_errors: VecDeque::new(),
            queue: VecDeque::new(),
            seed: config.seed,
            issued: 0,
        }
    }

    fn issue(&mut self) -> u32 {
        self.issued = self.issued.wrapping_add(1);
        self.issued
    }

    /// A fresh id: `prefix`, then seventeen hexadecimal digits as EC2 has them.
    pub(super) fn new_id(&mut self, prefix: &str) -> String {
        let serial = self.issue();
        format!("{prefix}0{:08x}{serial:08x}", self.seed)
    }

    /// A fresh locally administered unicast MAC.
    pub(super) fn new_mac(&mut self) -> [u8; 6] {
        let [a, b, c, d] = self.issue().to_be_bytes();
        let [.., s] = self.seed.to_be_bytes();
        [0x02, s, a, b, c, d]
    }

    /// The interface, if calls know it by now.
    pub(super) fn visible(&self, eni_id: &str, now: Duration) -> Result<&EniRecord, ApiError> {
        check_id(eni_id, "eni-", "InvalidNetworkInterfaceId.Malformed")?;
        let record = self
            .enis
            .get(eni_id)
            .filter(|record| record.visible_at <= now);
        record.ok_or_else(|| ApiError::no_interface(eni_id))
    }

    /// As [`Self::visible`], to change it.
    pub(super) fn visible_mut(
        &mut self,
        eni_id: &str,
        now: Duration,
    ) -> Result<&mut EniRecord, ApiError> {
        self.visible(eni_id, now)?;
        self.enis
            .get_mut(eni_id)
            .ok_or_else(|| ApiError::no_interface(eni_id))
    }

    pub(super) fn instance_record(&self, instance_id: &str) -> Result<&InstanceRecord, ApiError> {
        check_id(instance_id, "i-", "InvalidInstanceID.Malformed")?;
        self.instances
            .get(instance_id)
            .ok_or_else(|| ApiError::no_instance(instance_id))
    }

    pub(crate) fn instance_type(&self, name: &str) -> Result<&InstanceType, ApiError> {
        let found = self.types.iter().find(|t| t.name == name);
        found.ok_or_else(|| {
            ApiError::new(
                "InvalidInstanceType",
                format!("The following supplied instance types do not exist: [{name}]"),
            )
        })
    }

    /// How many addresses an interface may own: its instance's limit, or the largest there is while it has none.
    pub(super) fn address_limit(&self, eni: &Eni) -> usize {
        let instance = eni
            .instance_id
            .as_ref()
            .and_then(|id| self.instances.get(id));
        let largest = || self.types.iter().map(|t| t.ipv4_per_eni).max().unwrap_or(0);
        instance.map_or_else(largest, |i| i.instance_type.ipv4_per_eni) as usize
    }

    pub(super) fn enis_of(&self, instance_id: &str) -> Vec<Eni> {
        let enis = self.enis.values().map(|record| &record.eni);
        let mut enis: Vec<Eni> = enis
            .filter(|eni| eni.instance_id.as_deref() == Some(instance_id))
            .cloned()
            .collect();
        enis.sort_by_key(|eni| eni.device_index);
        enis
    }

    pub(super) fn instance_view(&self, instance_id: &str) -> Option<Instance> {
        let record = self.instances.get(instance_id)?;
        let primary_eni = self.enis.get(&record.primary_eni_id)?.eni.clone();
        Some(Instance {
            instance_id: instance_id.to_owned(),
            name: record.tags.get("Name").cloned().unwrap_or_default(),
            instance_type: record.instance_type.name.clone(),
            subnet_id: primary_eni.subnet_id.clone(),
            availability_zone: primary_eni.availability_zone.clone(),
            private_dns_name: record.private_dns_name.clone(),
            primary_eni,
            launch_time: record.launch_time,
            tags: record.tags.clone(),
        })
    }

    /// The interfaces as views show them now: those calls know by now, as they were a while ago if views lag.
    pub(crate) fn shown(&self, now: Duration) -> Vec<Eni> {
        if self.lag.is_zero() {
            let known = self.enis.values().filter(|record| record.visible_at <= now);
            return known.map(|record| record.eni.clone()).collect();
        }
        let until = now.saturating_sub(self.lag);
        let past = self.past.iter().rev().find(|(at, _)| *at <= until);
        past.map(|(_, enis)| enis.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Keeps what is the case now for views that lag.
    pub(crate) fn remember(&mut self, now: Duration) {
        if self.lag.is_zero() {
            return;
        }
        let until = now.saturating_sub(self.lag);
        while self.past.get(1).is_some_and(|(at, _)| *at <= until) {
            self.past.pop_front();
        }
        let enis = self.enis.iter();
        let enis = enis.map(|(id, record)| (id.clone(), record.eni.clone()));
        self.past.push_back((now, enis.collect()));
    }

    /// Tells the wire about the addresses `eni_id` has now.
    pub(super) fn announce(&mut self, eni_id: &str) {
        if let Some(record) = self.enis.get(eni_id) {
            self.queue.push_back(Work::Addresses(record.eni.clone()));
        }
    }

    /// Removes an interface and gives its addresses back.
    pub(super) fn remove_eni(&mut self, eni_id: &str) {
        let Some(EniRecord { mut eni, .. }) = self.enis.remove(eni_id) else {
            return;
        };
        if let Some(subnet) = self.subnets.get_mut(&eni.subnet_id) {
            eni.addresses()
                .for_each(|address| subnet.pool.give_back(address));
            let prefixes = eni.prefixes.iter();
            prefixes.for_each(|prefix| subnet.pool.give_back_prefix(*prefix));
        }
        clear_attachment(&mut eni);
        eni.status = EniStatus::Deleted;
        self.queue.push_back(Work::Addresses(eni));
    }

    /// The earliest end of an attaching or detaching under way.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.enis
            .values()
            .filter_map(|record| record.transition_due)
            .min()
    }

    /// The ends nobody watches yet; the caller undertakes to.
    pub(super) fn take_timers(&mut self) -> Vec<Duration> {
        let unwatched = self.enis.values_mut().filter(|record| !record.timer_set);
        let taken = unwatched.filter_map(|record| {
            let due = record.transition_due?;
            record.timer_set = true;
            Some(due)
        });
        taken.collect()
    }

    /// What the wire has to hear next: announcements in order, then what is due at `now`, earliest first.
    pub(super) fn next_work(&mut self, now: Duration) -> Option<Work> {
        if let Some(work) = self.queue.pop_front() {
            return Some(work);
        }
        let due = |record: &EniRecord| record.transition_due.filter(|&due| due <= now);
        let ready = self
            .enis
            .values_mut()
            .filter(|record| due(record).is_some());
        let record = ready.min_by_key(|record| record.transition_due)?;
        record.transition_due = None;
        let eni = record.eni.clone();
        let instance_id = eni.instance_id.clone()?;
        Some(match eni.attachment_status {
            AttachmentStatus::Detaching => Work::Detach { instance_id, eni },
            _ => Work::Attach { instance_id, eni },
        })
    }

    pub(super) fn attach_done(&mut self, eni_id: &str, result: Result<(), String>) {
        let failed = result.is_err();
        self.note("attach", eni_id, result);
        let Some(record) = self.enis.get_mut(eni_id) else {
            return;
        };
        if failed {
            clear_attachment(&mut record.eni);
        } else {
            record.eni.attachment_status = AttachmentStatus::Attached;
        }
        self.announce(eni_id);
    }

    pub(super) fn detach_done(&mut self, eni_id: &str, result: Result<(), String>) {
        self.note("detach", eni_id, result);
        let Some(record) = self.enis.get_mut(eni_id) else {
            return;
        };
        if record.eni.attachment_status == AttachmentStatus::Detaching {
            clear_attachment(&mut record.eni);
            self.announce(eni_id);
        }
    }

    fn note(&mut self, call: &str, eni_id: &str, result: Result<(), String>) {
        let Err(error) = result else { return };
        tracing::error!(call, eni_id, error, "wire refused");
        if self.wire_errors.len() == WIRE_ERRORS_KEPT {
            self.wire_errors.pop_front();
        }
        self.wire_errors
            .push_back(format!("{call} {eni_id}: {error}"));
    }

    /// See [`crate::Cloud::launch_instance`].
    pub(super) fn launch(
        &mut self,
        instance_type: &str,
        subnet_id: &str,
        tags: Tags,
        now: Duration,
    ) -> Result<Instance, ApiError> {
        let instance_type = self.instance_type(instance_type)?.clone();
        let request = CreateRequest {
            subnet_id: subnet_id.to_owned(),
            ..CreateRequest::default()
        };
        let eni_id = self.create(&request, now)?;
        let instance_id = self.new_id("i-");
        let attachment_id = self.new_id("eni-attach-");
        let mut private_dns_name = String::new();
        if let Some(record) = self.enis.get_mut(&eni_id) {
            let dashed = record.eni.primary.to_string().replace('.', "-");
            private_dns_name = format!("ip-{dashed}.{}.compute.internal", self.region);
            let eni = &mut record.eni;
            eni.instance_id = Some(instance_id.clone());
            eni.attachment_id = Some(attachment_id);
            eni.attachment_status = AttachmentStatus::Attached;
            eni.attach_time = now;
            eni.delete_on_termination = true;
            eni.status = EniStatus::InUse;
            record.visible_at = now;
        }
        let primary_eni_id = eni_id.clone();
        let record = InstanceRecord {
            instance_type,
            primary_eni_id,
            private_dns_name,
            launch_time: now,
            tags,
        };
        self.instances.insert(instance_id.clone(), record);
        self.announce(&eni_id);
        self.instance_view(&instance_id)
            .ok_or_else(|| ApiError::no_instance(&instance_id))
    }

    /// See [`crate::Cloud::terminate_instance`].
    pub(super) fn terminate(&mut self, instance_id: &str) -> Result<(), ApiError> {
        self.instance_record(instance_id)?;
        for eni in self.enis_of(instance_id) {
            let eni_id = eni.eni_id.clone();
            let plugged =
                eni.device_index != 0 && eni.attachment_status != AttachmentStatus::Attaching;
            if plugged {
                self.queue.push_back(Work::Detach {
                    instance_id: instance_id.to_owned(),
                    eni: eni.clone(),
                });
            }
            if eni.delete_on_termination {
                self.remove_eni(&eni_id);
            } else if let Some(record) = self.enis.get_mut(&eni_id) {
                record.transition_due = None;
                clear_attachment(&mut record.eni);
                self.announce(&eni_id);
            }
        }
        self.instances.remove(instance_id);
        Ok(())
    }
}

fn clear_attachment(eni: &mut Eni) {
    eni.attachment_id = None;
    eni.instance_id = None;
    eni.device_index = 0;
    eni.attachment_status = AttachmentStatus::Detached;
    eni.attach_time = Duration::ZERO;
    eni.delete_on_termination = false;
    eni.status = EniStatus::Available;
}

/// Ids are the prefix and 8 or 17 hexadecimal digits; anything else is refused before it is looked up.
pub(super) fn check_id(id: &str, prefix: &str, code: &'static str) -> Result<(), ApiError> {
    let digits = id.strip_prefix(prefix).unwrap_or_default();
    let well_formed =
        matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if well_formed {
        return Ok(());
    }
    let shown: String = id.chars().take(64).collect();
    Err(ApiError::new(
        code,
        format!("Invalid id: \"{shown}\" (expecting \"{prefix}...\")"),
    ))
}
