//! Attaching a pod: ADD reserves and persists an address, Confirm makes the pod live.
//!
//! Guarantees: an address is on disk before the shim hears of it; policy and dataplane know the pod before its link is
//! up; whatever fails is undone before the answer.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use penstock_control_api::{Attachment, AttachmentKey, Failure, PodIdentity, code};
use sha1::{Digest, Sha1};

use crate::agent::{Agent, DATAPLANE_PATIENCE, failure};
use crate::clock::Timestamp;
use crate::ipam::plan;
use crate::ipam::pool::Exhausted;
use crate::ipam::{PodLink, Record};
use crate::node::NodeError;
use crate::state::State;

/// Longest an ADD waits for the pool to grow; the shim gives up after 10 s.
pub const ADDRESS_PATIENCE: Duration = Duration::from_secs(8);

/// Name of the host side, as the VPC CNI has it: prefix and 11 hexadecimal digits of SHA-1(`namespace.pod`). Further
/// interfaces of a pod add their name, and what has no pod name is named by its sandbox.
#[must_use]
pub fn host_ifname(prefix: &str, pod: &PodIdentity, key: &AttachmentKey) -> String {
    let mut seed = match pod.name.as_str() {
        "" => key.container_id.clone(),
        name => format!("{}.{name}", pod.namespace),
    };
    if key.ifname != "eth0" {
        seed = format!("{seed}.{}", key.ifname);
    }
    let digest = Sha1::digest(seed.as_bytes());
    let hex: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{prefix}{}", &hex[..11])
}

impl Agent {
    /// Reserves an address.
    ///
    /// # Errors
    /// A [`Failure`] for the runtime, with what to do about it.
    pub(crate) async fn add(
        &self,
        key: AttachmentKey,
        pod: PodIdentity,
        netns: String,
        veth_prefix: &str,
    ) -> Result<Attachment, Failure> {
        self.admissible(&key, veth_prefix)?;
        let _turn = self.turn(&key).await;
        if let Some(known) = self.known(&key)? {
            // The plugin of an earlier ADD died or is late; its half-made pair is in the way.
            if !known.confirmed {
                self.clear_name(&known.host_ifname).await?;
            }
            return Ok(known);
        }
        let reserved = self.reserve(&key).await;
        let reserved = reserved.inspect_err(|failure| self.warn_pod(&pod, failure));
        let (address, eni_id) = reserved?;
        let (record, displaced) = self.enter(key, pod, netns, (address, eni_id));
        if let Err(error) = self.journal.persist().await {
            self.strike(&record.key, displaced.as_ref());
            let details = format!("the address could not be recorded: {error}; free the disk");
            return Err(failure(code::TRY_AGAIN, "no address assigned", details));
        }
        if let Some(displaced) = displaced {
            self.take_down(&displaced).await;
        }
        self.clear_name(&record.host_ifname).await?;
        tracing::info!(
            pod = %format_args!("{}/{}", record.pod.namespace, record.pod.name),
            address = %record.address, eni = %record.eni_id, sandbox = %record.key.container_id,
            "address reserved"
        );
        Ok(answer(&record))
    }

    fn admissible(&self, key: &AttachmentKey, veth_prefix: &str) -> Result<(), Failure> {
        if veth_prefix != self.config.veth_prefix {
            let details = format!(
                "vethPrefix of the CNI configuration is {veth_prefix:?}, \
                 AWS_VPC_K8S_CNI_VETHPREFIX of the agent is {:?}; make them the same",
                self.config.veth_prefix
            );
            return Err(failure(
                code::MISMATCH,
                "interface prefixes differ",
                details,
            ));
        }
        if key.container_id.is_empty() || key.ifname.is_empty() {
            let details = "container id and interface name must not be empty";
            return Err(failure(
                code::UNKNOWN_CONTAINER,
                "incomplete request",
                details,
            ));
        }
        Ok(())
    }

    /// The answer an earlier ADD gave; an error when a DEL came before this ADD. A reservation that was not confirmed
    /// is this ADD's from now on: the lease begins again and the earlier plugin is fenced off.
    fn known(&self, key: &AttachmentKey) -> Result<Option<Attachment>, Failure> {
        let mut state = self.lock();
        if state.tombstones.contains_key(key) {
            let details = "a DEL for this container came first; the runtime must use a new sandbox";
            return Err(failure(
                code::UNKNOWN_CONTAINER,
                "the attachment was deleted",
                details,
            ));
        }
        match state.records.get_mut(key) {
            Some(record) if record.superseded => {
                let details = "a newer sandbox of the same pod has taken its place";
                Err(failure(
                    code::UNKNOWN_CONTAINER,
                    "the attachment was replaced",
                    details,
                ))
            }
            Some(record) => {
                if record.link.is_none() {
                    let later = Timestamp(record.reserved_at.0 + 1);
                    record.reserved_at = Timestamp::now().max(later);
                }
                Ok(Some(answer(record)))
            }
            None => Ok(None),
        }
    }

    /// Takes an address from the pool, waiting a while for the pool to grow.
    async fn reserve(&self, key: &AttachmentKey) -> Result<(Ipv4Addr, String), Failure> {
        let deadline = Instant::now() + ADDRESS_PATIENCE;
        let mut waiting = None;
        loop {
            let changed = self.pool_changed.notified();
            let exhausted = match self.lock().pool.assign(key, Timestamp::now()) {
                Ok(assigned) => {
                    self.pool_kick.notify_one();
                    return Ok(assigned);
                }
                Err(exhausted) => exhausted,
            };
            waiting.get_or_insert_with(|| self.wait_for_address());
            self.pool_kick.notify_one();
            let left = deadline.saturating_duration_since(Instant::now());
            let now = Timestamp::now();
            let rest = exhausted
                .next_free
                .map(|at| at.since(now) + Duration::from_millis(1));
            let hopeful = rest.is_some_and(|rest| rest < left) || self.can_grow();
            if left.is_zero() || !hopeful {
                return Err(self.no_address(&exhausted));
            }
            let pause = rest.map_or(left, |rest| rest.min(left));
            // Whatever woke us, the pool is asked again.
            let _ = tokio::time::timeout(pause, changed).await;
        }
    }

    /// Whether the pool loop may find more addresses within an ADD's patience.
    fn can_grow(&self) -> bool {
        let state = self.lock();
        if state.trouble().is_some_and(|trouble| !trouble.passing) {
            return false;
        }
        plan::can_grow(&state.situation(&self.config, 1, Timestamp::now()))
            || state.enis.values().any(|eni| eni.leaving)
    }

    fn no_address(&self, exhausted: &Exhausted) -> Failure {
        let state = self.lock();
        let now = Timestamp::now();
        let capacity = plan::capacity(&state.situation(&self.config, 1, now));
        let report = state.pool.report(now, capacity);
        let slow = self.ec2.trouble();
        let (code, cause) = match state.trouble() {
            _ if slow.is_some() => (code::TRY_AGAIN, slow.unwrap_or_default()),
            Some(trouble) if trouble.passing => (code::TRY_AGAIN, trouble.text),
            Some(trouble) => (code::NO_ADDRESS, trouble.text),
            None if exhausted.cooling > 0 => {
                let cause =
                    "addresses rest after use; lower IP_COOLDOWN_PERIOD or use a larger pool";
                (code::TRY_AGAIN, cause.to_owned())
            }
            None if !self.config.provisioning => {
                let cause = "nothing is changed in EC2 by DISABLE_NETWORK_RESOURCE_PROVISIONING or ENABLE_IMDS_ONLY_MODE";
                (code::NO_ADDRESS, cause.to_owned())
            }
            None if report.total >= capacity => {
                let cause = "the instance type holds no more; use a larger one or fewer pods";
                (code::NO_ADDRESS, cause.to_owned())
            }
            None => (code::TRY_AGAIN, "the pool is still growing".to_owned()),
        };
        let details = format!(
            "{} assigned, {} cooling, {} free of at most {capacity} addresses: {cause}",
            report.assigned, report.cooling, report.free
        );
        failure(code, "no address for the pod", details)
    }

    /// Records the reservation. Also returns the older attachment that held the host interface's name, as it was.
    fn enter(
        &self,
        key: AttachmentKey,
        pod: PodIdentity,
        netns: String,
        (address, eni_id): (Ipv4Addr, String),
    ) -> (Record, Option<Record>) {
        let host_ifname = host_ifname(&self.config.veth_prefix, &pod, &key);
        let mut state = self.lock();
        let older = state.records.values_mut();
        let older = older
            .into_iter()
            .find(|old| old.host_ifname == host_ifname && !old.superseded);
        let displaced = older.map(|record| {
            let before = record.clone();
            record.superseded = true;
            record.link = None;
            before
        });
        let device_number = state.enis.get(&eni_id).map_or(0, |eni| eni.device_number);
        let record = Record {
            key: key.clone(),
            pod,
            netns,
            address,
            eni_id,
            device_number,
            host_ifname,
            mtu: self.config.pod_mtu,
            reserved_at: Timestamp::now(),
            link: None,
            superseded: false,
        };
        state.records.insert(key, record.clone());
        (record, displaced)
    }

    /// Undoes [`Self::enter`] and the reservation.
    fn strike(&self, key: &AttachmentKey, displaced: Option<&Record>) {
        let mut state = self.lock();
        state.records.remove(key);
        state.pool.undo(key);
        if let Some(before) = displaced {
            state.records.insert(before.key.clone(), before.clone());
        }
    }

    /// Removes the veth pair that still has the name the shim is about to use. What is no veth is not ours.
    async fn clear_name(&self, name: &str) -> Result<(), Failure> {
        let refused = |error: NodeError| kernel_failure(&error);
        match self.node.link_by_name(name).await.map_err(refused)? {
            Some(link) if link.veth => self.node.delete_link(link.index).await.map_err(refused),
            Some(_) => {
                let message = "the node has an interface of the pod's name that is not a pod's";
                let details = format!("{name} is not a veth; rename or delete it");
                Err(failure(code::KERNEL, message, details))
            }
            None => Ok(()),
        }
    }

    /// Makes the pod live.
    ///
    /// # Errors
    /// A [`Failure`] for the runtime; nothing of the pod's path is left then, only the reservation.
    pub(crate) async fn confirm(
        &self,
        key: &AttachmentKey,
        link: PodLink,
        generation: u64,
    ) -> Result<(), Failure> {
        let _turn = self.turn(key).await;
        let record = self.confirmable(key, generation)?;
        if record.link == Some(link) {
            return Ok(());
        }
        self.is_the_pods(&record, link).await?;
        let Some(record) = self.set_link(key, Some(link)) else {
            return Err(replaced());
        };
        let ticket = self.publisher.changed();
        if let Err(failure) = self.bring_up(&record, ticket).await {
            self.set_link(key, None);
            self.publisher.changed();
            if let Some(path) = State::path_of(&record)
                && let Err(error) = self.node.remove_pod(&path).await
            {
                tracing::warn!(%error, "an attachment that failed was not undone completely");
            }
            return Err(failure);
        }
        match self.lock().records.get(key).is_some_and(Record::is_live) {
            true => Ok(()),
            false => Err(replaced()),
        }
    }

    /// Policy, record and dataplane first, at the same time; the link last.
    async fn bring_up(&self, record: &Record, ticket: u64) -> Result<(), Failure> {
        let Some(path) = State::path_of(record) else {
            return Err(replaced());
        };
        let began = Instant::now();
        let ((prepared, path_time), (persisted, record_time), (told, hooks_time)) = tokio::join!(
            timed(self.node.prepare_pod(&path)),
            timed(self.journal.persist()),
            timed(self.publisher.settled(ticket, DATAPLANE_PATIENCE)),
        );
        let raising = Instant::now();
        prepared.map_err(|error| kernel_failure(&error))?;
        persisted.map_err(|error| {
            let details = format!("the attachment could not be recorded: {error}; free the disk");
            failure(code::TRY_AGAIN, "attachment not recorded", details)
        })?;
        self.node
            .raise_pod(&path)
            .await
            .map_err(|error| kernel_failure(&error))?;
        tracing::info!(
            pod = %format_args!("{}/{}", record.pod.namespace, record.pod.name),
            address = %record.address, ifname = %record.host_ifname, dataplane = told,
            path_us = micros(path_time), record_us = micros(record_time),
            hooks_us = micros(hooks_time), raise_us = micros(raising.elapsed()),
            took_us = micros(began.elapsed()), "pod is live"
        );
        Ok(())
    }

    fn confirmable(&self, key: &AttachmentKey, generation: u64) -> Result<Record, Failure> {
        match self.lock().records.get(key) {
            None => {
                let details =
                    "there is no reservation, or it was rolled back; the runtime must ADD";
                Err(failure(
                    code::UNKNOWN_CONTAINER,
                    "unknown attachment",
                    details,
                ))
            }
            Some(record) if record.superseded => Err(replaced()),
            Some(record) if ![0, record.generation()].contains(&generation) => Err(replaced()),
            Some(record) => Ok(record.clone()),
        }
    }

    /// The interface the shim names must be the one it was told to make.
    async fn is_the_pods(&self, record: &Record, link: PodLink) -> Result<(), Failure> {
        let found = self.node.link_by_index(link.ifindex).await;
        let found = found.map_err(|error| kernel_failure(&error))?;
        match found {
            Some(found) if found.name == record.host_ifname && found.mac == Some(link.host_mac) => {
                Ok(())
            }
            other => {
                let details = format!(
                    "expected interface {} with index {} and address {}, found {other:?}",
                    record.host_ifname, link.ifindex, link.host_mac
                );
                Err(failure(code::MISMATCH, "not the pod's interface", details))
            }
        }
    }

    /// `None` when the attachment is gone or replaced.
    fn set_link(&self, key: &AttachmentKey, link: Option<PodLink>) -> Option<Record> {
        let mut state = self.lock();
        let record = state
            .records
            .get_mut(key)
            .filter(|record| !record.superseded)?;
        record.link = link;
        Some(record.clone())
    }
}

/// What the shim needs to know of a record.
pub(crate) fn answer(record: &Record) -> Attachment {
    Attachment {
        address: record.address,
        host_ifname: record.host_ifname.clone(),
        mtu: record.mtu,
        device_number: record.device_number,
        eni_id: record.eni_id.clone(),
        confirmed: record.is_live(),
        generation: record.generation(),
    }
}

pub(crate) fn kernel_failure(error: &NodeError) -> Failure {
    failure(
        code::KERNEL,
        "the kernel refused a change",
        error.to_string(),
    )
}

/// What came of `work`, and how long it took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn replaced() -> Failure {
    let details = "a newer ADD of the same pod has taken the interface's name";
    failure(
        code::UNKNOWN_CONTAINER,
        "the attachment was replaced",
        details,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(namespace: &str, pod: &str, ifname: &str) -> String {
        let pod = PodIdentity {
            namespace: namespace.into(),
            name: pod.into(),
            uid: String::new(),
        };
        let key = AttachmentKey {
            network: "penstock".into(),
            container_id: "c".into(),
            ifname: ifname.into(),
        };
        host_ifname("eni", &pod, &key)
    }

    #[test]
    fn host_interfaces_have_the_vpc_cnis_names() {
        assert_eq!(
            name("kube-system", "coredns-57ff979f67-qqbdh", "eth0"),
            "enib5faff8a083"
        );
        assert_eq!(name("default", "sample-pod", "eth0"), "enicc21c2d7785");
        assert_eq!(name("default", "web-0", "eth0"), "eni0d7763386da");
        assert_ne!(
            name("default", "web-0", "net1"),
            name("default", "web-0", "eth0")
        );
    }
}
