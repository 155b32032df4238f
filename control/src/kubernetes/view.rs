//! What the agent needs of Kubernetes objects, read out of them; pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::DynamicObject;
use serde::Deserialize;

/// Annotation with a pod's address.
pub const POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
/// Label that names the ENIConfig before all others.
const EXTERNAL_LABEL: &str = "vpc.amazonaws.com/externalEniConfig";
/// Name of the ENIConfig of nodes that name none.
const DEFAULT_CONFIG: &str = "default";
/// Taint of a cordoned node.
const CORDON: &str = "node.kubernetes.io/unschedulable";

/// The objects as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Our node, once seen.
    pub node: Option<NodeFacts>,
    /// ENIConfigs by name.
    pub eni_configs: BTreeMap<String, EniConfig>,
    /// Pods bound to our node, by namespace and name.
    pub pods: BTreeMap<(String, String), PodFacts>,
}

/// What counts of our node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Identity of the object.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Most pods the kubelet runs.
    pub max_pods: Option<u32>,
    /// No new pods are scheduled here.
    pub cordoned: bool,
}

/// Where pods' ENIs are made under custom networking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EniConfig {
    /// `subnet-…`
    pub subnet_id: String,
    /// Security groups; empty means the primary ENI's.
    pub groups: Vec<String>,
}

/// What counts of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFacts {
    /// Identity of the object.
    pub uid: String,
    /// It is bound here, needs an address and has none yet.
    pub awaits_address: bool,
    /// Address in its annotation.
    pub annotated: Option<String>,
}

impl NodeFacts {
    /// Reads a node.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let capacity = node
            .status
            .as_ref()
            .and_then(|status| status.capacity.as_ref());
        let pods = capacity.and_then(|capacity| capacity.get("pods"));
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref());
        let mut taints = taints.into_iter().flatten();
        let tainted = taints.any(|taint| taint.key == CORDON && taint.effect == "NoSchedule");
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            annotations: node.metadata.annotations.clone().unwrap_or_default(),
            max_pods: pods.and_then(|pods| pods.0.parse().ok()),
            cordoned: tainted || spec.and_then(|spec| spec.unschedulable) == Some(true),
        }
    }

    /// Name of the node's ENIConfig: the external label, the annotation, the label, or `default`; the keys of the latter
    /// two are settings.
    #[must_use]
    pub fn eni_config(&self, annotation: &str, label: &str) -> &str {
        let named = [
            self.labels.get(EXTERNAL_LABEL),
            self.annotations.get(annotation),
            self.labels.get(label),
        ];
        let mut named = named.into_iter().flatten();
        named
            .find(|name| !name.is_empty())
            .map_or(DEFAULT_CONFIG, String::as_str)
    }
}

impl PodFacts {
    /// Reads a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let hosted = spec.and_then(|spec| spec.host_network) == Some(true);
        let phase = status.and_then(|status| status.phase.as_deref());
        let addressed = status.is_some_and(|status| status.pod_ip.is_some());
        let ending = pod.metadata.deletion_timestamp.is_some();
        let annotations = pod.metadata.annotations.as_ref();
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            awaits_address: !hosted
                && !ending
                && !addressed
                && matches!(phase, None | Some("Pending")),
            annotated: annotations.and_then(|all| all.get(POD_IPS)).cloned(),
        }
    }
}

impl EniConfig {
    /// Reads an ENIConfig (`crd.k8s.amazonaws.com/v1alpha1`).
    ///
    /// # Errors
    /// Text for people when it names no subnet.
    pub fn of(object: &DynamicObject) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            spec: Spec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            #[serde(default)]
            subnet: String,
            #[serde(default)]
            security_groups: Vec<String>,
        }
        let body: Body =
            serde_json::from_value(object.data.clone()).map_err(|error| error.to_string())?;
        if body.spec.subnet.is_empty() {
            return Err("spec.subnet is empty".to_owned());
        }
        Ok(Self {
            subnet_id: body.spec.subnet,
            groups: body.spec.security_groups,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(value: Value) -> NodeFacts {
        NodeFacts::of(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_node_says_how_many_pods_and_whether_more_may_come() {
        let plain = node(
            json!({ "metadata": { "name": "n" }, "status": { "capacity": { "pods": "29" } } }),
        );
        assert_eq!((plain.max_pods, plain.cordoned), (Some(29), false));
        let cordon = json!([{ "key": CORDON, "effect": "NoSchedule" }]);
        let other = json!([{ "key": CORDON, "effect": "PreferNoSchedule" }]);
        for (spec, cordoned) in [
            (json!({ "taints": cordon }), true),
            (json!({ "taints": other }), false),
            (json!({ "unschedulable": true }), true),
        ] {
            let facts = node(json!({ "metadata": { "name": "n" }, "spec": spec }));
            assert_eq!((facts.max_pods, facts.cordoned), (None, cordoned));
        }
    }

    #[test]
    fn the_eni_config_is_named_in_the_documented_order() {
        let (annotation, label) = ("a/config", "topology.kubernetes.io/zone");
        let mut facts = NodeFacts::default();
        assert_eq!(facts.eni_config(annotation, label), "default");
        facts.labels.insert(label.into(), "zone-a".into());
        assert_eq!(facts.eni_config(annotation, label), "zone-a");
        facts.annotations.insert(annotation.into(), "mine".into());
        assert_eq!(facts.eni_config(annotation, label), "mine");
        facts.labels.insert(EXTERNAL_LABEL.into(), "theirs".into());
        assert_eq!(facts.eni_config(annotation, label), "theirs");
        facts.labels.insert(EXTERNAL_LABEL.into(), String::new());
        assert_eq!(facts.eni_config(annotation, label), "mine");
    }

    #[test]
    fn only_pods_that_need_an_address_await_one() {
        for (pod, awaits) in [
            (
                json!({ "spec": { "containers": [] }, "status": { "phase": "Pending" } }),
                true,
            ),
            (json!({ "spec": { "containers": [] } }), true),
            (
                json!({ "spec": { "containers": [], "hostNetwork": true } }),
                false,
            ),
            (
                json!({ "status": { "phase": "Pending", "podIP": "10.0.0.9" } }),
                false,
            ),
            (json!({ "status": { "phase": "Succeeded" } }), false),
            (
                json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
                false,
            ),
        ] {
            let text = pod.to_string();
            let mut pod = pod;
            if pod["metadata"].is_null() {
                pod["metadata"] = json!({});
            }
            let facts = PodFacts::of(&serde_json::from_value(pod).unwrap());
            assert_eq!(facts.awaits_address, awaits, "{text}");
        }
    }

    #[test]
    fn an_eni_config_needs_a_subnet() {
        let of = |spec: Value| {
            let object = json!({
                "apiVersion": "crd.k8s.amazonaws.com/v1alpha1", "kind": "ENIConfig",
                "metadata": { "name": "x" }, "spec": spec,
            });
            EniConfig::of(&serde_json::from_value(object).unwrap())
        };
        let config = of(json!({ "subnet": "subnet-1", "securityGroups": ["sg-1"] })).unwrap();
        assert_eq!(
            (config.subnet_id.as_str(), config.groups),
            ("subnet-1", vec!["sg-1".to_owned()])
        );
        assert!(
            of(json!({ "subnet": "subnet-1" }))
                .unwrap()
                .groups
                .is_empty()
        );
        assert!(of(json!({ "securityGroups": [] })).is_err());
        assert!(of(json!({ "subnet": 7 })).is_err());
    }
}
