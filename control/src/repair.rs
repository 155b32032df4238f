//! Putting back what others changed: network managers flush rules and routes they do not know, udev renames hardware
//! addresses, somebody flushes nftables.
//!
//! The kernel's path must stand whether or not the dataplane runs, so the policy, a pod's rules, route and interface, an
//! ENI's table and interface and the rule for marked packets are looked for every few seconds. Whatever is put back is
//! logged, counted and named in the status: somebody should know. Asked rather than told: the kernel's notices of all pods'
//! comings and goings cost more than the listings, and nftables' do not say what a table looks like now.

use penstock_control_api::AttachmentKey;

use crate::agent::{Agent, locked};
use crate::discover::setup_of;
use crate::ipam::Record;
use crate::node::{LinkWish, Missing, NodeError};
use crate::state::{NodeEni, State};

impl Agent {
    /// Looks once and repairs what is missing or changed. To be called every few seconds.
    ///
    /// # Errors
    /// When the kernel refuses a listing; what cannot be put back is logged.
    pub async fn repair(&self) -> Result<(), NodeError> {
        match self.repair_policy().await {
            Ok(true) => self.repaired("the nftables tables".to_owned()),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the kernel's policy cannot be looked after"),
        }
        let (pods, enis) = self.expected();
        self.repair_links(&pods, &enis).await?;
        let networks = &self.config.external_service_cidrs;
        if !networks.is_empty() && self.node.set_service_rules(networks).await? {
            self.repaired("rules for Service networks".to_owned());
        }
        self.repair_paths(&pods, &enis).await
    }

    fn repaired(&self, what: String) {
        tracing::warn!(what, "others changed this; put back");
        locked(&self.repairs).note(what);
    }

    async fn repair_links(&self, pods: &[Record], enis: &[NodeEni]) -> Result<(), NodeError> {
        let hosts = pods.iter().filter_map(|record| {
            let link = record.link?;
            Some(LinkWish {
                index: link.ifindex,
                name: record.host_ifname.clone(),
                mac: link.host_mac,
                mtu: record.mtu,
            })
        });
        let uplinks = enis.iter().map(|eni| LinkWish {
            index: eni.ifindex,
            name: eni.ifname.clone(),
            mac: eni.mac,
            mtu: eni.mtu,
        });
        let wishes = hosts.chain(uplinks).collect();
        for (wish, changes) in self.node.changed_links(wishes).await? {
            match self.node.restore_link(&wish).await {
                Ok(()) => self.repaired(format!("{}: {changes:?}", wish.name)),
                Err(error) => tracing::error!(%error, ?changes, "an interface was changed"),
            }
        }
        Ok(())
    }

    async fn repair_paths(&self, pods: &[Record], enis: &[NodeEni]) -> Result<(), NodeError> {
        let paths: Vec<_> = pods.iter().filter_map(State::path_of).collect();
        let secondary = || enis.iter().filter(|eni| eni.device_number != 0);
        let tables: Vec<_> = secondary()
            .map(|eni| (eni.address, setup_of(eni).table))
            .collect();
        let missing = self.node.missing(&paths, &tables).await?;
        if missing.is_nothing() {
            return Ok(());
        }
        self.repaired(format!("rules and routes: {missing:?}"));
        if missing.mark_rule {
            self.node.add_mark_rule().await?;
        }
        let primary = enis.iter().find(|eni| eni.device_number == 0);
        if let Some(eni) = primary.filter(|_| missing.main_default)
            && let Err(error) = self.repair_main(eni).await
        {
            tracing::error!(%error, "the main table has no default route");
        }
        for eni in secondary().filter(|eni| missing.tables.contains(&setup_of(eni).table)) {
            if let Err(error) = self.repair_eni(eni).await {
                tracing::error!(%error, eni = %eni.eni_id, "an ENI's table is incomplete");
            }
        }
        self.repair_pods(pods, &missing).await;
        Ok(())
    }

    async fn repair_pods(&self, pods: &[Record], missing: &Missing) {
        for record in pods
            .iter()
            .filter(|record| missing.pods.contains(&record.address))
        {
            if let Err(error) = self.repair_pod(&record.key).await {
                tracing::error!(%error, address = %record.address, "a running pod's path is incomplete");
            }
        }
    }

    async fn repair_main(&self, eni: &NodeEni) -> Result<(), NodeError> {
        match self.node.link_by_name(&eni.ifname).await? {
            Some(link) => self.node.set_main_default(&link, &setup_of(eni)).await,
            None => Ok(()),
        }
    }

    fn expected(&self) -> (Vec<Record>, Vec<NodeEni>) {
        let state = self.lock();
        let live = state.records.values().filter(|record| record.is_live());
        let staying = state.enis.values().filter(|eni| !eni.leaving);
        (live.cloned().collect(), staying.cloned().collect())
    }

    async fn repair_eni(&self, eni: &NodeEni) -> Result<(), NodeError> {
        let leaving = || {
            let state = self.lock();
            state.enis.get(&eni.eni_id).is_none_or(|eni| eni.leaving)
        };
        match self.node.link_by_name(&eni.ifname).await? {
            Some(link) if !leaving() => self.node.set_up_eni(&link, &setup_of(eni)).await,
            _ => Ok(()),
        }
    }

    /// Under the attachment's turn, so that nothing comes back of a pod that goes meanwhile.
    async fn repair_pod(&self, key: &AttachmentKey) -> Result<(), NodeError> {
        let _turn = self.turn(key).await;
        let record = self.lock().records.get(key).cloned();
        let live = record.filter(Record::is_live);
        let Some(path) = live.as_ref().and_then(State::path_of) else {
            return Ok(());
        };
        self.node.prepare_pod(&path).await?;
        self.node.raise_pod(&path).await
    }
}
