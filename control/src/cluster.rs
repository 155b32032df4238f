//! Taking over what the cluster says about the node, and telling it what we know better.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use penstock_control_api::{Failure, PodIdentity, code};

use crate::agent::Agent;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::kubernetes::{Event, Notice, Subject, View};
use crate::state::{Custom, State};

/// An annotation that does not show after so long is written again.
const ANNOTATION_PATIENCE: Duration = Duration::from_secs(60);
/// Time between looks at annotations when nothing else wakes us.
const PERIOD: Duration = Duration::from_secs(1);

/// Annotations written lately: what each pod was given, and when.
type Written = HashMap<(String, String), (String, Timestamp)>;

impl Agent {
    /// Follows the cluster's view for as long as the agent runs.
    pub async fn follow_cluster(self: Arc<Self>) {
        let mut view = self.cluster.view();
        let mut written = Written::new();
        loop {
            let seen = view.borrow_and_update().clone();
            self.take_over(&seen);
            if self.config.annotate_pods {
                let notices = annotations(&seen, &self.lock(), &mut written, Timestamp::now());
                for notice in notices {
                    self.cluster.notify(notice);
                }
            }
            let pause = match self.config.annotate_pods {
                true => PERIOD,
                false => Duration::MAX,
            };
            // A view whose follower has ended does not change any more.
            if let Ok(Err(_)) = tokio::time::timeout(pause, view.changed()).await {
                std::future::pending::<()>().await;
            }
        }
    }

    fn take_over(&self, view: &View) {
        let mut state = self.lock();
        let before = (state.max_pods, state.cordoned);
        if let Some(node) = &view.node {
            state.max_pods = node.max_pods.or(state.max_pods);
            state.cordoned = node.cordoned;
        }
        if before != (state.max_pods, state.cordoned) {
            tracing::info!(
                max_pods = state.max_pods,
                cordoned = state.cordoned,
                "the cluster's view of the node"
            );
        }
        state.expected = expected(view, &state);
        if self.config.custom_networking {
            let custom = custom(view, &self.config, &state.custom);
            if state.set_custom(custom.clone()) {
                tracing::info!(?custom, "custom networking");
                drop(state);
                self.announce_custom(custom);
            }
        }
        self.pool_kick.notify_one();
    }

    /// The VPC resource controller reads the choice from the CNINode.
    fn announce_custom(&self, custom: Custom) {
        match custom {
            Custom::Known(value, _) => {
                let name = "CustomNetworking";
                self.cluster.notify(Notice::Feature { name, value });
            }
            Custom::Unknown(message) => self.cluster.warn(Event {
                subject: Subject::Node,
                reason: "NoENIConfig",
                message,
            }),
            Custom::Off => {}
        }
    }

    /// Warns on the pod that it got no address, and why.
    pub(crate) fn warn_pod(&self, pod: &PodIdentity, failure: &Failure) {
        if pod.name.is_empty() || ![code::TRY_AGAIN, code::NO_ADDRESS].contains(&failure.code) {
            return;
        }
        self.cluster.warn(Event {
            subject: Subject::Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            },
            reason: "FailedAssignAddress",
            message: format!("{}: {}", failure.message, failure.details),
        });
    }
}

/// Pods that will ask for an address and have not done so yet.
fn expected(view: &View, state: &State) -> u32 {
    let waiting = view.pods.iter().filter(|(_, pod)| pod.awaits_address);
    let unknown = waiting.filter(|((namespace, name), _)| {
        let mut records = state.records.values();
        !records.any(|record| record.pod.namespace == *namespace && record.pod.name == *name)
    });
    u32::try_from(unknown.count()).unwrap_or(u32::MAX)
}

/// Which ENIConfig is the node's. What was known stays while the cluster does not show it.
fn custom(view: &View, config: &Config, before: &Custom) -> Custom {
    let Some(node) = &view.node else {
        return match before {
            Custom::Known(..) => before.clone(),
            Custom::Off | Custom::Unknown(_) => Custom::Unknown(
                "custom networking waits for the cluster to show the node".to_owned(),
            ),
        };
    };
    let name = node.eni_config(&config.eni_config_annotation, &config.eni_config_label);
    match (view.eni_configs.get(name), before) {
        (Some(found), _) => Custom::Known(name.to_owned(), found.clone()),
        // A config that is deleted while nodes use it must not strand them.
        (None, Custom::Known(known, _)) if known == name => before.clone(),
        (None, _) => Custom::Unknown(format!(
            "there is no ENIConfig {name:?}; create it, or name another one on the node"
        )),
    }
}

/// Annotations that differ from what pods have.
fn annotations(view: &View, state: &State, written: &mut Written, now: Timestamp) -> Vec<Notice> {
    written.retain(|pod, _| view.pods.contains_key(pod));
    let mut notices = Vec::new();
    for (key, pod) in &view.pods {
        let mut records = state.records.values().filter(|record| record.is_live());
        let record =
            records.find(|record| record.pod.namespace == key.0 && record.pod.name == key.1);
        let address = record.map(|record| record.address);
        let wanted = address
            .map(|address| address.to_string())
            .unwrap_or_default();
        let lately = written
            .get(key)
            .is_some_and(|(text, at)| *text == wanted && now.since(*at) < ANNOTATION_PATIENCE);
        if pod.annotated.clone().unwrap_or_default() == wanted || lately {
            continue;
        }
        written.insert(key.clone(), (wanted, now));
        notices.push(Notice::PodAddress {
            namespace: key.0.clone(),
            name: key.1.clone(),
            address: address.map(Into::into),
        });
    }
    notices
}
