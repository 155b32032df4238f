//! The node as it is driven now: publications in, reports out.
//!
//! A publication is put in force in this order, so that no packet reaches a worker that cannot
//! handle it and none is guarded by less than before:
//!
//! 1. validate and compile everything; refuse as a whole
//! 2. hooks of pods and uplinks that go are detached: their packets are the kernel's
//! 3. uplinks that come get their program (which passes to the kernel) and their sockets
//! 4. the snapshot is swapped, every worker has passed it and, the first time, taken up what a
//!    predecessor's hooks carry; then the hooks know its epoch
//! 5. kernel CIDRs, pods' entries
//! 6. sockets of uplinks that went are closed; those of uplinks that came are put in the hooks' map
//! 7. pods' hooks; the clerk goes on; hooks a predecessor left elsewhere are detached; the answer

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use penstock_dataplane_api as api;
use penstock_dataplane_api::{Response, Snapshot, UplinkMode};
use penstock_flow::UplinkId;
use penstock_hooks::{HookError, HookKind, HookLink, Hooks};

use crate::clerk::{Clerk, PodDevice, Terrain};
use crate::compile::{self, Local, Slots};
use crate::crew::{self, Command, Hand};
use crate::diff;
use crate::inherit::Inheritance;
use crate::live::Live;
use crate::stats::PortCells;
use crate::trunk::Trunk;
use crate::uplink::{self, Bound};
use crate::validate;

/// Everything the control side owns.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order: hooks first, so that traffic falls to the kernel.
    pods: BTreeMap<u32, (api::Endpoint, HookLink)>,
    pub(crate) uplinks: BTreeMap<UplinkId, Bound>,
    pub(crate) trunk_links: Vec<HookLink>,
    pub(crate) hooks: Hooks,
    pub(crate) crew: Vec<Hand>,
    pub(crate) clerk: Clerk,
    pub(crate) offload: api::Offload,
    pub(crate) trunk: Trunk,
    pub(crate) trunk_ports: Vec<Arc<PortCells>>,
    pub(crate) live: Arc<Live<penstock_flow::Snapshot>>,
    pub(crate) slots: Slots,
    pub(crate) problems: BTreeMap<UplinkId, String>,
    /// Until the first publication.
    inherited: Option<Inheritance>,
    pub(crate) current: Option<Snapshot>,
    pub(crate) umem_frames: u32,
    pub(crate) started: Instant,
}

/// What a node is made of at start.
pub struct Parts {
    /// The trunk's attached hooks.
    pub trunk_links: Vec<HookLink>,
    /// The loaded hooks.
    pub hooks: Hooks,
    /// The running workers.
    pub crew: Vec<Hand>,
    /// The keeper of offloaded flows.
    pub clerk: Clerk,
    /// Whether established flows are offloaded.
    pub offload: api::Offload,
    /// The trunk.
    pub trunk: Trunk,
    /// Counters of the trunk's sockets.
    pub trunk_ports: Vec<Arc<PortCells>>,
    /// What a predecessor's hooks carry.
    pub inherited: Inheritance,
    /// The snapshot the workers run by.
    pub live: Arc<Live<penstock_flow::Snapshot>>,
    /// Frames of each worker's UMEM.
    pub umem_frames: u32,
}

impl Node {
    /// A node without pods and uplinks.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            pods: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            trunk_links: parts.trunk_links,
            hooks: parts.hooks,
            crew: parts.crew,
            clerk: parts.clerk,
            offload: parts.offload,
            trunk: parts.trunk,
            trunk_ports: parts.trunk_ports,
            live: parts.live,
            slots: Slots::default(),
            problems: BTreeMap::new(),
            inherited: Some(parts.inherited),
            current: None,
            umem_frames: parts.umem_frames,
            started: Instant::now(),
        }
    }

    /// Number of worker threads.
    #[must_use]
    pub fn workers(&self) -> u32 {
        u32::try_from(self.crew.len()).unwrap_or(u32::MAX)
    }

    /// Number of pods with a hook attached.
    #[must_use]
    pub fn attached_pods(&self) -> usize {
        self.pods.len()
    }

    /// Puts a snapshot in force, or says why not.
    pub fn publish(&mut self, snapshot: Snapshot) -> Response {
        let current = self
            .current
            .as_ref()
            .map_or(0, |current| current.generation);
        if self.current.is_some() && snapshot.generation <= current {
            tracing::info!(
                offered = snapshot.generation,
                current,
                "old publication ignored"
            );
            return Response::Applied {
                generation: current,
            };
        }
        let mut problems = validate::problems(&snapshot, self.workers());
        if problems.is_empty() {
            problems = self
                .compile(&snapshot, &BTreeSet::new())
                .err()
                .unwrap_or_default();
        }
        if !problems.is_empty() {
            tracing::warn!(
                generation = snapshot.generation,
                ?problems,
                "publication refused"
            );
            return Response::Rejected { problems };
        }
        let applied = self.apply(snapshot);
        self.clerk.revise();
        match applied {
            Ok(generation) => Response::Applied { generation },
            Err(message) => {
                tracing::error!(message, "publication not complete");
                Response::Error { message }
            }
        }
    }

    fn apply(&mut self, snapshot: Snapshot) -> Result<u64, String> {
        let wanted: BTreeMap<u32, api::Endpoint> = snapshot
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.ifindex, endpoint.clone()))
            .collect();
        let have = self
            .pods
            .iter()
            .map(|(ifindex, (endpoint, _))| (*ifindex, endpoint.clone()))
            .collect();
        let pods = diff::between(&have, wanted);
        for ifindex in pods.gone {
            self.detach_pod(ifindex);
        }
        let fresh = self.change_uplinks(&snapshot);
        let swapped = self.swap(&snapshot);
        let told = self.hooks.set_kernel_cidrs(&snapshot.kernel_cidrs);
        let new: Vec<api::Endpoint> = pods.new.into_iter().map(|(_, pod)| pod).collect();
        let new: Vec<api::Endpoint> = new.into_iter().filter(|pod| self.admit_pod(pod)).collect();
        self.open_uplinks(&fresh);
        swapped?;
        told.map_err(|error| error.to_string())?;
        for endpoint in new {
            self.attach_pod(endpoint);
        }
        self.disown();
        let generation = snapshot.generation;
        tracing::info!(
            generation,
            pods = self.pods.len(),
            uplinks = self.uplinks.len(),
            "applied"
        );
        self.current = Some(snapshot);
        Ok(generation)
    }

    fn compile(
        &mut self,
        snapshot: &Snapshot,
        bound: &BTreeSet<UplinkId>,
    ) -> Result<penstock_flow::Snapshot, Vec<String>> {
        let local = self.local();
        compile::flow_snapshot(snapshot, &mut self.slots, bound, &local)
    }

    /// What the next snapshot is compiled with.
    fn local(&self) -> Local {
        Local {
            epoch: self.live.number() + 1,
            trunk_mac: self.trunk.kernel_side.mac.unwrap_or_default(),
            offload: self.offload,
        }
    }

    /// Where the clerk finds things under a snapshot.
    fn terrain(&self, snapshot: &Snapshot, epoch: u64) -> Terrain {
        let pods = snapshot.endpoints.iter().flat_map(|endpoint| {
            let device = PodDevice {
                ifindex: endpoint.ifindex,
                takes_xdp: false,
            };
            endpoint.addresses.iter().map(move |at| (*at, device))
        });
        let uplinks = self.uplinks.iter();
        Terrain {
            epoch,
            pods: pods.collect(),
            uplinks: uplinks
                .map(|(id, bound)| (*id, bound.identity.ifindex))
                .collect(),
        }
    }

    /// Switches offload; what is in the hooks is taken back by its owners.
    ///
    /// # Errors
    /// Why it is not in force everywhere.
    pub fn set_offload(&mut self, setting: api::Offload) -> Result<u64, String> {
        self.offload = setting;
        tracing::info!(?setting, "offload");
        let Some(current) = self.current.clone() else {
            return Ok(0);
        };
        let swapped = self.swap(&current);
        self.clerk.revise();
        swapped.map(|()| current.generation)
    }

    /// Swaps the workers' snapshot, waits until all have passed it, and tells the hooks its epoch:
    /// what they carry by themselves is then decided anew. The old one is freed here.
    fn swap(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let bound = self.uplinks.keys().copied().collect();
        let local = self.local();
        let compiled = self
            .compile(snapshot, &bound)
            .map_err(|problems| problems.join("; "))?;
        self.clerk.tell(self.terrain(snapshot, local.epoch));
        let (number, before) = self.live.publish(compiled);
        let late = crew::laggards(&self.crew, number);
        if !late.is_empty() {
            // They read the new one as soon as they run again; the hooks pass them by until then.
            tracing::error!(workers = ?late, "workers stalled, publication goes on without them");
        }
        drop(before);
        self.resume();
        let trunk = self.trunk.kernel_side.index;
        let config = compile::hook_config(snapshot, trunk, self.workers(), &local);
        let configured = self.hooks.configure(&config);
        configured.map_err(|error| error.to_string())
    }

    /// Lets workers take up what a predecessor's hooks carry, once.
    fn resume(&mut self) {
        let Some(inherited) = self.inherited.take() else {
            return;
        };
        let by_interface = self.uplinks.iter();
        let by_interface = by_interface
            .map(|(id, bound)| (bound.identity.ifindex, *id))
            .collect();
        let sessions: Arc<[_]> = inherited.sessions(&by_interface).into();
        if !sessions.is_empty() {
            let taken = crew::resume(&self.crew, &sessions);
            tracing::info!(found = sessions.len(), taken, "flows taken over");
        }
    }

    /// Detaches hooks a predecessor left where we are not.
    fn disown(&self) {
        let uplink = |ifindex| {
            let mut bound = self.uplinks.values();
            bound.any(|bound| bound.identity.ifindex == ifindex)
        };
        let used = |hook, ifindex| match hook {
            HookKind::Pod => self.pods.contains_key(&ifindex),
            HookKind::Uplink | HookKind::UplinkTcx => uplink(ifindex),
            HookKind::Trunk | HookKind::TrunkRx => false,
        };
        match self.hooks.disown(used) {
            Ok(0) => {}
            Ok(hooks) => tracing::info!(hooks, "a predecessor's hooks detached"),
            Err(error) => tracing::warn!(%error, "a predecessor's hooks are still attached"),
        }
    }

    /// Lets go of uplinks that go or changed, and prepares those that come; returns the latter.
    fn change_uplinks(&mut self, snapshot: &Snapshot) -> Vec<UplinkId> {
        let mut wanted = BTreeMap::new();
        for uplink in &snapshot.uplinks {
            wanted.extend(self.slots.id(&uplink.eni_id).map(|id| (id, uplink.clone())));
        }
        let have: BTreeMap<UplinkId, uplink::Identity> = self
            .uplinks
            .iter()
            .map(|(id, bound)| (*id, bound.identity.clone()))
            .collect();
        let identities = wanted
            .iter()
            .map(|(id, uplink)| (*id, uplink::Identity::of(uplink)))
            .collect();
        let changes = diff::between(&have, identities);
        for id in changes.gone {
            self.let_go(id);
        }
        self.problems.clear();
        let mut fresh = Vec::new();
        for (id, identity) in changes.new {
            match uplink::bind(id, identity, &self.hooks, &mut self.crew, self.umem_frames) {
                Ok(bound) => {
                    self.uplinks.insert(id, bound);
                    fresh.push(id);
                }
                Err(problem) => {
                    let ifname = wanted.get(&id).map_or("?", |uplink| uplink.ifname.as_str());
                    tracing::warn!(ifname, problem, "uplink stays with the kernel");
                    self.problems.insert(id, problem);
                }
            }
        }
        fresh
    }

    /// Directs the hooks of uplinks to their sockets, now that workers listen.
    fn open_uplinks(&mut self, fresh: &[UplinkId]) {
        for id in fresh {
            let Some(bound) = self.uplinks.get_mut(id) else {
                continue;
            };
            if let Err(error) = bound.open(&self.hooks) {
                tracing::warn!(ifname = bound.identity.ifname, %error, "uplink stays shut");
                self.let_go(*id);
                self.problems.insert(*id, error.to_string());
            }
        }
    }

    /// Detaches an uplink's hook and closes its sockets. What is on its way to them is lost.
    fn let_go(&mut self, id: UplinkId) {
        let Some(bound) = self.uplinks.remove(&id) else {
            return;
        };
        tracing::info!(ifname = bound.identity.ifname, "uplink let go");
        bound.close(&self.hooks, &mut self.crew);
        for hand in &self.crew {
            hand.tell(Command::Remove(id));
        }
    }

    /// Lets hooks know a pod; whether they do.
    fn admit_pod(&mut self, endpoint: &api::Endpoint) -> bool {
        let known = self.hooks.set_pod(&compile::pod_entry(endpoint));
        known
            .inspect_err(|error| self.leave_pod(endpoint, error))
            .is_ok()
    }

    fn attach_pod(&mut self, endpoint: api::Endpoint) {
        match self.hooks.attach_pod(endpoint.ifindex) {
            Ok(link) => {
                self.pods.insert(endpoint.ifindex, (endpoint, link));
            }
            Err(error) => self.leave_pod(&endpoint, &error),
        }
    }

    /// Its interface may have gone since; the next publication will know.
    fn leave_pod(&mut self, endpoint: &api::Endpoint, error: &HookError) {
        tracing::warn!(addresses = ?endpoint.addresses, %error, "pod stays with the kernel");
        self.forget_pod(endpoint.ifindex);
    }

    fn detach_pod(&mut self, ifindex: u32) {
        // Detach before forgetting: the hook drops what it does not know.
        drop(self.pods.remove(&ifindex));
        self.forget_pod(ifindex);
    }

    fn forget_pod(&mut self, ifindex: u32) {
        if let Err(error) = self.hooks.remove_pod(ifindex) {
            tracing::warn!(ifindex, %error, "pod not removed from the hooks");
        }
    }

    /// Looks after what can change without a publication.
    ///
    /// # Errors
    /// Why the dataplane cannot go on.
    pub fn tend(&mut self) -> Result<(), String> {
        if !self.trunk.is_whole() {
            return Err("the trunk is gone; start the dataplane again".to_owned());
        }
        if let Some(dead) = self.crew.iter().position(|hand| hand.thread.is_finished()) {
            return Err(format!("worker {dead} is dead; start the dataplane again"));
        }
        if self.clerk.is_finished() {
            return Err("the clerk is dead; start the dataplane again".to_owned());
        }
        let gone: Vec<UplinkId> = self
            .uplinks
            .iter()
            .filter(|(_, bound)| !bound.identity.is_there())
            .map(|(id, _)| *id)
            .collect();
        for id in &gone {
            self.let_go(*id);
            self.problems
                .insert(*id, "the interface is gone".to_owned());
        }
        match &self.current {
            Some(current) if !gone.is_empty() => {
                let current = current.clone();
                let swapped = self.swap(&current);
                self.clerk.revise();
                swapped
            }
            _ => Ok(()),
        }
    }

    /// How an uplink is driven now.
    #[must_use]
    pub fn uplink_mode(&self, id: UplinkId) -> UplinkMode {
        self.uplinks
            .get(&id)
            .map_or(UplinkMode::Kernel, |bound| bound.mode)
    }

    /// Hands everything back: hooks first, then sockets and threads, the trunk last.
    ///
    /// # Errors
    /// Never stops at an error; returns the last one.
    pub fn shut_down(mut self) -> Result<(), HookError> {
        self.pods.clear();
        let mut outcome = Ok(());
        for (_, bound) in std::mem::take(&mut self.uplinks) {
            bound.close(&self.hooks, &mut self.crew);
        }
        for worker in 0..self.workers() {
            outcome = outcome.and(self.hooks.clear_socket(0, worker));
        }
        for hand in &self.crew {
            hand.tell(Command::Stop);
        }
        for hand in std::mem::take(&mut self.crew) {
            if hand.thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
        self.clerk.stop();
        // What a predecessor left and no publication took over goes as well.
        outcome = outcome.and(self.hooks.disown(|_, _| false).map(|_| ()));
        self.trunk_links.clear();
        outcome
    }
}
