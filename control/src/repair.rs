//! Putting back what others removed: network managers flush rules and routes they do not know.
//!
//! The kernel's path must stand whether or not the dataplane runs, so a pod's rules and route, an ENI's table and the
//! rule for marked packets are looked for every few seconds. Whatever is put back is logged: somebody should know.

use penstock_control_api::AttachmentKey;

use crate::agent::Agent;
use crate::discover::setup_of;
use crate::ipam::Record;
use crate::node::NodeError;
use crate::state::{NodeEni, State};

impl Agent {
    /// Looks once and repairs what is missing. To be called every few seconds.
    ///
    /// # Errors
    /// When the kernel refuses a listing; what cannot be put back is logged.
    pub async fn repair(&self) -> Result<(), NodeError> {
        let (pods, enis) = self.expected();
        let paths: Vec<_> = pods.iter().filter_map(State::path_of).collect();
        let tables: Vec<_> = enis
            .iter()
            .map(|eni| (eni.address, setup_of(eni).table))
            .collect();
        let missing = self.node.missing(&paths, &tables).await?;
        if missing.is_nothing() {
            return Ok(());
        }
        tracing::warn!(?missing, "rules or routes were removed; putting them back");
        if missing.mark_rule {
            self.node.add_mark_rule().await?;
        }
        for eni in enis
            .iter()
            .filter(|eni| missing.tables.contains(&setup_of(eni).table))
        {
            if let Err(error) = self.repair_eni(eni).await {
                tracing::error!(%error, eni = %eni.eni_id, "an ENI's table is incomplete");
            }
        }
        for record in pods
            .iter()
            .filter(|record| missing.pods.contains(&record.address))
        {
            if let Err(error) = self.repair_pod(&record.key).await {
                tracing::error!(%error, address = %record.address, "a running pod's path is incomplete");
            }
        }
        Ok(())
    }

    fn expected(&self) -> (Vec<Record>, Vec<NodeEni>) {
        let state = self.lock();
        let live = state.records.values().filter(|record| record.is_live());
        let secondary = |eni: &&NodeEni| eni.device_number != 0 && !eni.leaving;
        (
            live.cloned().collect(),
            state.enis.values().filter(secondary).cloned().collect(),
        )
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
