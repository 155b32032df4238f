//! Detaching a pod, checking one, and clearing away what nobody detached.
//!
//! DEL always succeeds: what cannot be removed now is logged, and the address is taken back all the same once the pod's
//! interface is gone. Order: the interface goes, then the dataplane and the kernel's rules forget the pod, then the
//! address rests, then all of it is recorded. The interface is first because nothing can come from the pod any more
//! then, and because a hook that is still attached goes with it for free, where detaching one alone waits for the
//! kernel's readers under the lock of all network configuration. Until the dataplane has heard, packets for the pod are
//! delivered to an interface that is no more.

use std::time::Duration;

use penstock_control_api::{Attachment, AttachmentKey, Failure, code};

use crate::agent::{Agent, DATAPLANE_PATIENCE, failure};
use crate::attach::{answer, kernel_failure};
use crate::clock::Timestamp;
use crate::ipam::Record;
use crate::node::NodeError;
use crate::state::State;

/// A reservation nobody confirms is taken back after this long.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long a late ADD for a deleted attachment is refused.
pub const TOMBSTONE: Duration = Duration::from_secs(600);

/// More than any node sees in ten minutes; the oldest go first.
const MAX_TOMBSTONES: usize = 10_000;

impl Agent {
    /// Takes a pod down; nothing to do is success. With a `generation`, an ADD undoes itself: a reservation that is
    /// not its own stays, and the runtime may ADD again.
    pub(crate) async fn del(&self, key: &AttachmentKey, generation: u64) {
        let _turn = self.turn(key).await;
        if generation == 0 {
            self.bury(key);
        } else if !self.is_current(key, generation) {
            return;
        }
        self.detach(key).await;
    }

    fn is_current(&self, key: &AttachmentKey, generation: u64) -> bool {
        let state = self.lock();
        let record = state.records.get(key);
        record.is_some_and(|record| record.generation() == generation)
    }

    fn bury(&self, key: &AttachmentKey) {
        let mut state = self.lock();
        if state.tombstones.len() >= MAX_TOMBSTONES
            && let Some(oldest) = state.tombstones.iter().min_by_key(|(_, at)| **at)
        {
            let oldest = oldest.0.clone();
            state.tombstones.remove(&oldest);
        }
        state.tombstones.insert(key.clone(), Timestamp::now());
    }

    /// The work of DEL, for a caller that has the attachment's turn.
    async fn detach(&self, key: &AttachmentKey) {
        let Some(record) = self.lock().records.get(key).cloned() else {
            return;
        };
        if record.superseded {
            self.withdraw(key);
        } else {
            self.remove_interface(&record).await;
            self.withdraw(key);
            self.remove_path(&record).await;
        }
        {
            let mut state = self.lock();
            state.records.remove(key);
            state.pool.release(key, Timestamp::now());
        }
        self.pool_kick.notify_one();
        // A failure is logged by the writer, which tries again; DEL does not fail for it.
        let _ = self.journal.persist().await;
        tracing::info!(
            pod = %format_args!("{}/{}", record.pod.namespace, record.pod.name),
            address = %record.address, sandbox = %record.key.container_id, "pod detached"
        );
    }

    /// From now on no snapshot contains it.
    fn withdraw(&self, key: &AttachmentKey) {
        if let Some(record) = self.lock().records.get_mut(key) {
            record.link = None;
        }
    }

    /// Removes the interface and the path of a pod that was withdrawn; `record` is as it was before.
    pub(crate) async fn take_down(&self, record: &Record) {
        self.remove_interface(record).await;
        self.remove_path(record).await;
    }

    async fn remove_interface(&self, record: &Record) {
        if let Err(error) = self.delete_interface(record).await {
            tracing::warn!(%error, ifname = %record.host_ifname, "a pod's interface was not removed");
        }
    }

    /// The dataplane and the kernel's rules forget a pod.
    async fn remove_path(&self, record: &Record) {
        let ticket = self.publisher.changed();
        let forget = async {
            match State::path_of(record) {
                Some(path) => self.node.remove_pod(&path).await,
                None => Ok(()),
            }
        };
        let settled = self.publisher.settled(ticket, DATAPLANE_PATIENCE);
        let (forgotten, _) = tokio::join!(forget, settled);
        if let Err(error) = forgotten {
            tracing::warn!(%error, address = %record.address, "a pod's path was not removed");
        }
    }

    /// Deletes the interface if it is still this attachment's: a newer sandbox may have taken its name.
    async fn delete_interface(&self, record: &Record) -> Result<(), NodeError> {
        let Some(found) = self.node.link_by_name(&record.host_ifname).await? else {
            return Ok(());
        };
        let ours = match record.link {
            Some(link) => found.index == link.ifindex && found.mac == Some(link.host_mac),
            None => !self.name_is_taken(record),
        };
        if ours {
            self.node.delete_link(found.index).await
        } else {
            Ok(())
        }
    }

    fn name_is_taken(&self, record: &Record) -> bool {
        let state = self.lock();
        let mut others = state.records.values();
        others.any(|other| {
            other.key != record.key && other.host_ifname == record.host_ifname && !other.superseded
        })
    }

    /// Whether a pod's path is as it should be.
    ///
    /// # Errors
    /// A [`Failure`] that names what is missing.
    pub(crate) async fn check(&self, key: &AttachmentKey) -> Result<Attachment, Failure> {
        let record = self.lock().records.get(key).cloned();
        let Some(record) = record else {
            let details = "the agent has no record of it; the runtime must ADD";
            return Err(failure(
                code::UNKNOWN_CONTAINER,
                "unknown attachment",
                details,
            ));
        };
        let Some(path) = State::path_of(&record).filter(|_| record.is_live()) else {
            let details = "it was reserved but never confirmed, or a newer sandbox replaced it";
            return Err(failure(
                code::MISMATCH,
                "the attachment is not live",
                details,
            ));
        };
        let problems = self
            .node
            .check_pod(&path)
            .await
            .map_err(|error| kernel_failure(&error))?;
        match problems.is_empty() {
            true => Ok(answer(&record)),
            false => {
                let message = "the pod's network differs from what it should be";
                Err(failure(code::MISMATCH, message, problems.join("; ")))
            }
        }
    }

    /// Takes back reservations nobody confirmed and forgets old tombstones. To be called about once a second.
    pub async fn sweep(&self) {
        let now = Timestamp::now();
        let expired: Vec<AttachmentKey> = {
            let mut state = self.lock();
            state.tombstones.retain(|_, at| now.since(*at) < TOMBSTONE);
            let unconfirmed = |record: &&Record| {
                record.link.is_none()
                    && !record.superseded
                    && now.since(record.reserved_at) >= LEASE
            };
            state
                .records
                .values()
                .filter(unconfirmed)
                .map(|record| record.key.clone())
                .collect()
        };
        for key in expired {
            let _turn = self.turn(&key).await;
            if self
                .lock()
                .records
                .get(&key)
                .is_some_and(|record| record.link.is_none())
            {
                tracing::warn!(sandbox = %key.container_id, "reservation not confirmed in time, taken back");
                self.detach(&key).await;
            }
        }
    }

    /// Lets go of pods whose interface has gone without a DEL (the runtime forgot it, or the agent was away). To be
    /// called rarely: it lists all interfaces.
    ///
    /// # Errors
    /// When the interfaces cannot be listed.
    pub async fn collect_vanished(&self) -> Result<(), NodeError> {
        // The records first: an interface made after this look cannot be missed.
        let live: Vec<Record> = self
            .lock()
            .records
            .values()
            .filter(|record| record.is_live())
            .cloned()
            .collect();
        let links = self.node.links().await?;
        let gone = live.into_iter().filter(|record| {
            !links
                .iter()
                .any(|l| record.link.is_some_and(|link| l.index == link.ifindex))
        });
        for record in gone {
            let _turn = self.turn(&record.key).await;
            if self
                .lock()
                .records
                .get(&record.key)
                .is_some_and(|now| now.link == record.link)
            {
                tracing::warn!(
                    address = %record.address, ifname = %record.host_ifname,
                    "a pod's interface is gone without a DEL"
                );
                self.detach(&record.key).await;
            }
        }
        Ok(())
    }
}
