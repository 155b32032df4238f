//! Watches what the kernel learns by itself: the routers' hardware addresses and the node's own addresses.
//!
//! Polled, because the kernel reports neighbour changes of all pods to every listener; a look costs two listings.

use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane_api::MacAddr;
use tokio::time::sleep;

use crate::agent::Agent;
use crate::node::NodeError;

/// Between looks while a router is unknown.
const EAGER: Duration = Duration::from_millis(200);
/// Between looks when all are known.
const CALM: Duration = Duration::from_secs(5);

/// Runs for as long as the agent does.
pub async fn watch_kernel(agent: Arc<Agent>) {
    loop {
        let complete = match look(&agent).await {
            Ok(complete) => complete,
            Err(error) => {
                tracing::warn!(%error, "the kernel was not looked at");
                true
            }
        };
        tokio::select! {
            () = agent.eni_added.notified() => {}
            () = sleep(if complete { CALM } else { EAGER }) => {}
        }
    }
}

/// One look; whether all routers are known.
async fn look(agent: &Agent) -> Result<bool, NodeError> {
    let routers: Vec<_> = {
        let state = agent.lock();
        state
            .enis
            .values()
            .filter(|e| !e.leaving)
            .map(|e| (e.ifindex, e.gateway()))
            .collect()
    };
    for (ifindex, gateway) in routers {
        // The kernel asks again only when told; an ENI that just left is no error.
        if let Err(error) = agent.node.probe_neighbor(ifindex, gateway).await {
            tracing::debug!(%error, "router not probed");
        }
    }
    let neighbors = agent.node.neighbors().await?;
    let addresses = agent.node.local_addresses().await?;
    let mut state = agent.lock();
    let mut changed = state.local_addresses != addresses;
    state.local_addresses = addresses;
    let mut complete = true;
    for eni in state.enis.values_mut() {
        let gateway = eni.gateway();
        let known = neighbors
            .iter()
            .find(|(oif, of, _)| *oif == eni.ifindex && *of == gateway);
        match known.map(|(_, _, mac)| *mac) {
            Some(mac) if eni.gateway_mac == Some(mac) => {}
            Some(mac) => {
                tracing::info!(ifname = %eni.ifname, %gateway, %mac, was = ?eni.gateway_mac.map(text), "router resolved");
                eni.gateway_mac = Some(mac);
                changed = true;
            }
            // An entry that is being asked for again keeps its last answer.
            None => complete &= eni.gateway_mac.is_some(),
        }
    }
    drop(state);
    if changed {
        agent.publisher.changed();
    }
    Ok(complete)
}

fn text(mac: MacAddr) -> String {
    mac.to_string()
}
