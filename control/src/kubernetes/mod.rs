//! What the cluster says about this node, and what we tell the cluster.
//!
//! Two implementations of one trait: [`directory`] reads objects from files, which is how the lab and a node without a
//! cluster do it; [`server`] asks an API server. Nothing waits for either: the agent starts and serves pods from what it
//! knows, and takes a [`View`] over when there is one.

pub mod directory;
mod recent;
pub mod server;
pub mod view;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff;
use tokio::sync::{mpsc, watch};

use crate::clock::Timestamp;
use recent::Recent;
pub use view::{EniConfig, NodeFacts, PodFacts, View};

/// Name under which our events appear.
pub const COMPONENT: &str = "penstock";
/// Notices that may wait to be told; more are dropped and counted.
const QUEUE: usize = 256;
/// Times a notice is tried.
const ATTEMPTS: u32 = 3;
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest a notice may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// This node.
    Node,
    /// A pod on it.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid, where the runtime told it.
        uid: String,
    },
}

/// A warning for people who look at the node or the pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// What it is about.
    pub subject: Subject,
    /// One word, as `FailedAssignAddress`.
    pub reason: &'static str,
    /// What happened and what to do.
    pub message: String,
}

/// Something the cluster is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A warning.
    Event(Event),
    /// A pod's address, as an annotation; `None` clears it.
    PodAddress {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
        /// Its address.
        address: Option<IpAddr>,
    },
    /// A feature in the node's CNINode, which the VPC resource controller reads.
    Feature {
        /// For example `CustomNetworking`.
        name: &'static str,
        /// For example the ENIConfig's name.
        value: String,
    },
}

/// Where the cluster's objects are read, and where notices go.
pub trait Kubernetes: Send + Sync + 'static {
    /// Keeps `view` up to date for as long as the agent runs; copes with failures by itself.
    fn follow<'a>(&'a self, view: &'a watch::Sender<View>) -> BoxFuture<'a, ()>;
    /// Carries out one notice; an error is text for people.
    fn tell<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Result<(), String>>;
}

/// The agent's end of it.
#[derive(Debug)]
pub struct Cluster {
    view: watch::Receiver<View>,
    notices: mpsc::Sender<Notice>,
    recent: Mutex<Recent>,
}

impl Cluster {
    /// Starts to follow and to tell; must be called inside a tokio runtime.
    #[must_use]
    pub fn start(kubernetes: Arc<dyn Kubernetes>) -> Self {
        let (sender, view) = watch::channel(View::default());
        let (notices, queue) = mpsc::channel(QUEUE);
        let followed = Arc::clone(&kubernetes);
        tokio::spawn(async move { followed.follow(&sender).await });
        tokio::spawn(tell(kubernetes, queue));
        Self {
            view,
            notices,
            recent: Mutex::default(),
        }
    }

    /// The objects as they are now, and a way to wait for others.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Warns, unless the same was said lately. Never waits.
    pub fn warn(&self, event: Event) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.is_news(&event, Timestamp::now()) {
            drop(recent);
            self.notify(Notice::Event(event));
        }
    }

    /// Has a notice carried out some time soon. Never waits; `false` when too many wait already.
    pub fn notify(&self, notice: Notice) -> bool {
        let sent = self.notices.try_send(notice);
        if let Err(error) = &sent {
            tracing::warn!(%error, "the cluster is not told");
        }
        sent.is_ok()
    }
}

async fn tell(kubernetes: Arc<dyn Kubernetes>, mut queue: mpsc::Receiver<Notice>) {
    while let Some(notice) = queue.recv().await {
        for attempt in 1..=ATTEMPTS {
            let told = tokio::time::timeout(PATIENCE, kubernetes.tell(&notice)).await;
            let error = match told {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(error, attempt, ?notice, "the cluster was not told");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The Event object of a warning.
fn event_object(event: &Event, node: &str, node_uid: &str) -> core::Event {
    let (kind, namespace, name, uid) = match &event.subject {
        // Events about nodes live in `default`, as the kubelet's do.
        Subject::Node => ("Node", "default", node, node_uid),
        Subject::Pod {
            namespace,
            name,
            uid,
        } => ("Pod", namespace.as_str(), name.as_str(), uid.as_str()),
    };
    let about = core::ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: (kind == "Pod").then(|| namespace.to_owned()),
        uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
        ..core::ObjectReference::default()
    };
    let now = Time(jiff::Timestamp::now());
    core::Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}.")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: about,
        reason: Some(event.reason.to_owned()),
        message: Some(event.message.clone()),
        type_: Some("Warning".to_owned()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        source: Some(core::EventSource {
            component: Some(COMPONENT.to_owned()),
            host: Some(node.to_owned()),
        }),
        ..core::Event::default()
    }
}
