//! What of our rules and routes others have removed. A look costs two listings; putting back is the caller's.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use super::pod::host_route;
use super::rule::{PodRule, rule_ids};
use super::{MAIN_TABLE, Node, NodeError, PodPath, priority};

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// Addresses of pods of whose path something is missing.
    pub pods: HashSet<Ipv4Addr>,
    /// Tables of ENIs of which the rule or a route is missing.
    pub tables: HashSet<u32>,
    /// The rule for packets marked for the primary ENI is missing.
    pub mark_rule: bool,
    /// The main table has no default route.
    pub main_default: bool,
}

impl Missing {
    /// Whether all is well.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.pods.is_empty() && self.tables.is_empty() && !self.mark_rule && !self.main_default
    }
}

impl Node {
    /// Compares pods' paths and secondary ENIs (own address, table) with the kernel.
    ///
    /// # Errors
    /// When the kernel refuses a listing.
    pub async fn missing(
        &self,
        pods: &[PodPath],
        enis: &[(Ipv4Addr, u32)],
    ) -> Result<Missing, NodeError> {
        let rules: HashSet<PodRule> = rule_ids(&self.list_rules().await?).into_iter().collect();
        let routes = self.list_routes().await?;
        let hosts: HashSet<(Ipv4Addr, u32)> = routes.iter().filter_map(host_route).collect();
        let defaults: HashSet<u32> = routes.iter().filter_map(default_table).collect();
        let whole = |pod: &PodPath| {
            let wanted = PodRule::of_pod(pod.address, pod.table);
            hosts.contains(&(pod.address, pod.ifindex))
                && wanted.iter().all(|rule| rules.contains(rule))
        };
        let broken = pods.iter().filter(|pod| !whole(pod));
        let routed = |eni: &&(Ipv4Addr, u32)| {
            let rule = PodRule {
                priority: priority::FROM_ENI,
                address: eni.0,
                table: eni.1,
            };
            rules.contains(&rule) && defaults.contains(&eni.1)
        };
        let lost = enis.iter().filter(|eni| !routed(eni));
        Ok(Missing {
            pods: broken.map(|pod| pod.address).collect(),
            tables: lost.map(|(_, table)| *table).collect(),
            main_default: !defaults.contains(&MAIN_TABLE),
            mark_rule: !rules.iter().any(|rule| rule.priority == priority::MARK),
        })
    }
}

/// The table of a default route.
fn default_table(message: &RouteMessage) -> Option<u32> {
    let named = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    let table = named.unwrap_or_else(|| message.header.table.into());
    (message.header.destination_prefix_length == 0).then_some(table)
}
