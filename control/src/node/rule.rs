//! ip rules.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RuleAddRequest};

use super::{MAIN_TABLE, Node, NodeError, PRIMARY_MARK, priority, unless};

/// One rule of ours, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PodRule {
    pub(super) priority: u32,
    pub(super) address: Ipv4Addr,
    pub(super) table: u32,
}

impl PodRule {
    fn to_pod(address: Ipv4Addr) -> Self {
        Self {
            priority: priority::TO_POD,
            address,
            table: MAIN_TABLE,
        }
    }

    fn from_pod(address: Ipv4Addr, table: u32) -> Self {
        Self {
            priority: priority::FROM_POD,
            address,
            table,
        }
    }

    /// The rules of a pod whose ENI has `table`.
    pub(super) fn of_pod(address: Ipv4Addr, table: u32) -> Vec<Self> {
        let mut rules = vec![Self::to_pod(address)];
        if table != MAIN_TABLE {
            rules.push(Self::from_pod(address, table));
        }
        rules
    }

    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        let address = IpAddr::V4(self.address);
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        match self.priority {
            priority::TO_POD => {
                message.header.dst_len = 32;
                message.attributes.push(RuleAttribute::Destination(address));
            }
            _ => {
                message.header.src_len = 32;
                message.attributes.push(RuleAttribute::Source(address));
            }
        }
        message
            .attributes
            .push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Table(self.table));
        message
    }

    fn parse(message: &RuleMessage) -> Option<Self> {
        let mut rule = Self {
            priority: 0,
            address: Ipv4Addr::UNSPECIFIED,
            table: message.header.table.into(),
        };
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Destination(IpAddr::V4(address))
                | RuleAttribute::Source(IpAddr::V4(address)) => rule.address = *address,
                _ => {}
            }
        }
        matches!(
            rule.priority,
            priority::TO_POD | priority::FROM_POD | priority::FROM_ENI | priority::MARK
        )
        .then_some(rule)
    }

    fn is_pods(&self) -> bool {
        matches!(self.priority, priority::TO_POD | priority::FROM_POD)
    }
}

/// Our rules among all, those with a destination network apart.
pub(super) fn rule_ids(messages: &[RuleMessage]) -> Vec<PodRule> {
    messages.iter().filter_map(PodRule::parse).collect()
}

/// The network of a rule of [`priority::TO_SERVICE`].
fn service_network(message: &RuleMessage) -> Option<Ipv4Net> {
    let mut ours = false;
    let mut network = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => ours = *priority == priority::TO_SERVICE,
            RuleAttribute::Destination(IpAddr::V4(address)) => {
                network = Ipv4Net::new(*address, message.header.dst_len).ok();
            }
            _ => {}
        }
    }
    network.filter(|_| ours)
}

fn to_service(network: Ipv4Net) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.header.dst_len = network.prefix_len();
    message.attributes = vec![
        RuleAttribute::Destination(IpAddr::V4(network.network())),
        RuleAttribute::Priority(priority::TO_SERVICE),
        RuleAttribute::Table(MAIN_TABLE),
    ];
    message
}

impl Node {
    /// Marked packets leave by the primary ENI.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_mark_rule(&self) -> Result<(), NodeError> {
        let mut add: RuleAddRequest<Ipv4Addr> = self
            .netlink
            .rule()
            .add()
            .v4()
            .action(RuleAction::ToTable)
            .priority(priority::MARK)
            .table_id(MAIN_TABLE)
            .fw_mark(PRIMARY_MARK);
        add.message_mut()
            .attributes
            .push(RuleAttribute::FwMask(PRIMARY_MARK));
        unless(Errno::EEXIST, add.execute().await)
            .map_err(|cause| NodeError::netlink("add the rule for marked packets", cause))
    }

    /// Packets from `address` are routed by `table`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_rule_from(
        &self,
        address: Ipv4Addr,
        table: u32,
        priority: u32,
    ) -> Result<(), NodeError> {
        self.add_rule(PodRule {
            priority,
            address,
            table,
        })
        .await
    }

    /// Removes what [`Self::add_rule_from`] added.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn delete_rule_from(
        &self,
        address: Ipv4Addr,
        table: u32,
        priority: u32,
    ) -> Result<(), NodeError> {
        self.delete_rule(PodRule {
            priority,
            address,
            table,
        })
        .await
    }

    pub(super) async fn add_rule(&self, rule: PodRule) -> Result<(), NodeError> {
        let mut add = self.netlink.rule().add();
        *add.message_mut() = rule.message();
        unless(Errno::EEXIST, add.execute().await)
            .map_err(|cause| NodeError::netlink(format!("add {rule:?}"), cause))
    }

    pub(super) async fn delete_rule(&self, rule: PodRule) -> Result<(), NodeError> {
        let done = self.netlink.rule().del(rule.message()).execute().await;
        unless(Errno::ENOENT, done)
            .map_err(|cause| NodeError::netlink(format!("delete {rule:?}"), cause))
    }

    pub(super) async fn list_rules(&self) -> Result<Vec<RuleMessage>, NodeError> {
        let ask = |netlink: &Handle| netlink.rule().get(IpVersion::V4).execute();
        self.list("list rules", ask).await
    }

    pub(super) async fn pod_rules(&self) -> Result<Vec<PodRule>, NodeError> {
        let mut rules = rule_ids(&self.list_rules().await?);
        rules.retain(PodRule::is_pods);
        Ok(rules)
    }

    /// Makes `networks` the ones that are routed by main whatever ENI the pod is on; others of that priority go. Whether
    /// anything had to change.
    ///
    /// # Errors
    /// The first rule the kernel refuses to list, add or delete.
    pub async fn set_service_rules(&self, networks: &[Ipv4Net]) -> Result<bool, NodeError> {
        let mut changed = false;
        let rules = self.list_rules().await?;
        let present: Vec<Ipv4Net> = rules.iter().filter_map(service_network).collect();
        for network in networks.iter().filter(|network| !present.contains(network)) {
            changed = true;
            let mut add = self.netlink.rule().add();
            *add.message_mut() = to_service(*network);
            unless(Errno::EEXIST, add.execute().await).map_err(|cause| {
                NodeError::netlink(format!("add the rule for {network}"), cause)
            })?;
        }
        for network in present.iter().filter(|network| !networks.contains(network)) {
            changed = true;
            let done = self
                .netlink
                .rule()
                .del(to_service(*network))
                .execute()
                .await;
            unless(Errno::ENOENT, done).map_err(|cause| {
                NodeError::netlink(format!("delete the rule for {network}"), cause)
            })?;
        }
        Ok(changed)
    }

    /// Deletes rules of pods that are not in `pods` (address to table); returns how many.
    ///
    /// # Errors
    /// The first rule the kernel refuses to list or delete.
    pub async fn sweep_pod_rules(&self, pods: &HashMap<Ipv4Addr, u32>) -> Result<usize, NodeError> {
        let mut swept = 0;
        for rule in self.pod_rules().await? {
            let table = pods.get(&rule.address);
            let wanted = table.is_some_and(|t| PodRule::of_pod(rule.address, *t).contains(&rule));
            if !wanted {
                self.delete_rule(rule).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
