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
        let awaiting = view.pods.iter().filter(|(_, pod)| pod.awaits_address);
        state.awaiting = awaiting.map(|(name, _)| name.clone()).collect();
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
    let live = state.records.values().filter(|record| record.is_live());
    let addresses: HashMap<_, _> = live
        .map(|record| (record.pod_name(), record.address))
        .collect();
    for (key, pod) in &view.pods {
        let address = addresses.get(&(key.0.as_str(), key.1.as_str())).copied();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::ipam::plan::Limits;
    use crate::ipam::pool::Pool;
    use crate::ipam::{PodLink, Record};
    use crate::kubernetes::{EniConfig, NodeFacts, PodFacts};
    use penstock_control_api::AttachmentKey;

    fn config(settings: &[(&str, &str)]) -> Config {
        let settings: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
        Config::read(&settings).unwrap()
    }

    fn eni_config(subnet: &str) -> EniConfig {
        EniConfig {
            subnet_id: subnet.to_owned(),
            groups: Vec::new(),
        }
    }

    fn state() -> State {
        let limits = Limits {
            enis: 3,
            addresses_per_eni: 10,
            prefixes: true,
        };
        State::new(Pool::new(Duration::ZERO), limits)
    }

    fn record(pod: &str, last: u8) -> Record {
        Record {
            key: AttachmentKey {
                network: "n".into(),
                container_id: pod.into(),
                ifname: "eth0".into(),
            },
            pod: PodIdentity {
                namespace: "t".into(),
                name: pod.into(),
                uid: String::new(),
            },
            netns: String::new(),
            address: [10, 0, 0, last].into(),
            eni_id: "eni-1".into(),
            device_number: 0,
            host_ifname: "eni1".into(),
            mtu: 1500,
            reserved_at: Timestamp(1),
            link: Some(PodLink {
                ifindex: 1,
                host_mac: "02:00:00:00:00:01".parse().unwrap(),
                pod_mac: None,
            }),
            superseded: false,
        }
    }

    #[test]
    fn the_nodes_eni_config_is_found_named_when_missing_and_kept_when_it_vanishes() {
        let config = config(&[]);
        let mut view = View::default();
        let unknown = |custom: &Custom, word: &str| match custom {
            Custom::Unknown(why) => assert!(why.contains(word), "{why}"),
            other => panic!("{other:?}"),
        };
        let mut now = custom(&view, &config, &Custom::Off);
        unknown(&now, "the node");
        view.node = Some(NodeFacts::default());
        now = custom(&view, &config, &now);
        unknown(&now, "\"default\"");
        view.eni_configs
            .insert("default".into(), eni_config("subnet-1"));
        now = custom(&view, &config, &now);
        assert_eq!(now, Custom::Known("default".into(), eni_config("subnet-1")));
        view.eni_configs
            .insert("default".into(), eni_config("subnet-2"));
        now = custom(&view, &config, &now);
        assert_eq!(now, Custom::Known("default".into(), eni_config("subnet-2")));
        let known = now.clone();
        view.eni_configs.clear();
        assert_eq!(custom(&view, &config, &known), known);
        assert_eq!(custom(&View::default(), &config, &known), known);
        let facts = view.node.as_mut().unwrap();
        facts
            .labels
            .insert("k8s.amazonaws.com/eniConfig".into(), "b".into());
        unknown(&custom(&view, &config, &known), "\"b\"");
    }

    #[test]
    fn pods_to_come_count_until_they_have_come() {
        let mut state = state();
        let config = config(&[]);
        let waiting = |state: &State, adds| state.situation(&config, adds, Timestamp(0)).waiting;
        state.awaiting = ["a", "b", "c"]
            .map(|name| ("t".to_owned(), name.to_owned()))
            .into();
        assert_eq!(waiting(&state, 1), 3);
        let here = record("b", 9);
        state.records.insert(here.key.clone(), here);
        assert_eq!(waiting(&state, 1), 2);
        assert_eq!(waiting(&state, 7), 7);
    }

    #[test]
    fn annotations_are_written_where_they_differ_and_again_when_they_do_not_show() {
        let mut state = state();
        for (pod, last) in [("right", 1), ("wrong", 2), ("none", 3)] {
            let record = record(pod, last);
            state.records.insert(record.key.clone(), record);
        }
        let pod = |annotated: Option<&str>| PodFacts {
            annotated: annotated.map(str::to_owned),
            ..PodFacts::default()
        };
        let pods = [
            ("right", pod(Some("10.0.0.1"))),
            ("wrong", pod(Some("10.0.0.9"))),
            ("none", pod(None)),
            ("gone", pod(Some("10.0.0.4"))),
            ("never", pod(None)),
        ];
        let view = View {
            pods: pods
                .map(|(name, pod)| (("t".to_owned(), name.to_owned()), pod))
                .into(),
            ..View::default()
        };
        let mut written = Written::new();
        let mut told = |seconds: u64| -> Vec<_> {
            let notices = annotations(&view, &state, &mut written, Timestamp(seconds * 1000));
            let told = notices.into_iter().map(|notice| match notice {
                Notice::PodAddress { name, address, .. } => {
                    (name, address.map(|address| address.to_string()))
                }
                other => panic!("{other:?}"),
            });
            told.collect()
        };
        let all = [
            ("gone", None),
            ("none", Some("10.0.0.3")),
            ("wrong", Some("10.0.0.2")),
        ]
        .map(|(name, address)| (name.to_owned(), address.map(str::to_owned)));
        assert_eq!(told(0), all);
        assert_eq!(told(59), []);
        assert_eq!(told(60), all);
    }
}
