//! A cluster in a directory: Kubernetes objects as YAML or JSON files, which is the embedded default.
//!
//! Every `*.yaml`, `*.yml` and `*.json` file may hold several documents; what is neither our Node, a Pod bound to it, nor
//! an ENIConfig is passed over. The directory is looked at once a second and need not exist. A file that cannot be read
//! as a whole, for example while it is being written, leaves what was known before in place. Notices are appended to
//! [`NOTICES`] in it, one JSON object per line.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::view::{EniConfig, NodeFacts, POD_IPS, PodFacts, View};
use super::{Kubernetes, Notice, event_object};

/// Where notices are written.
pub const NOTICES: &str = "notices.jsonl";
/// Time between looks.
const PERIOD: Duration = Duration::from_secs(1);
/// More than any directory of objects needs; bounds what a stray file makes us read.
const MAX_BYTES: u64 = 16 << 20;

/// The directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    node: String,
}

/// Name, length and time of each file: when none changed there is nothing to read.
type Signature = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

impl Directory {
    /// Objects of the node named `node` in `path`.
    #[must_use]
    pub fn new(path: PathBuf, node: String) -> Self {
        Self { path, node }
    }

    fn signature(&self) -> std::io::Result<Signature> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Signature::new());
            }
            Err(error) => return Err(error),
        };
        let mut signature = Signature::new();
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let kind = path.extension().and_then(|extension| extension.to_str());
            if matches!(kind, Some("yaml" | "yml" | "json")) {
                let metadata = entry.metadata()?;
                signature.insert(path, (metadata.len(), metadata.modified().ok()));
            }
        }
        Ok(signature)
    }

    fn read(&self, files: &Signature) -> Result<View, String> {
        let mut view = View::default();
        for (path, (length, _)) in files {
            let wrong = |error: String| format!("{}: {error}", path.display());
            if *length > MAX_BYTES {
                return Err(wrong(format!("is over {MAX_BYTES} bytes")));
            }
            for object in documents(path).map_err(wrong)? {
                self.take(&mut view, object).map_err(wrong)?;
            }
        }
        Ok(view)
    }

    fn take(&self, view: &mut View, object: Value) -> Result<(), String> {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let wrong = |error: serde_json::Error| format!("{kind} {name:?}: {error}");
        match kind.as_str() {
            "List" => {
                let items = object.get("items").and_then(Value::as_array).cloned();
                for item in items.unwrap_or_default() {
                    self.take(view, item)?;
                }
            }
            "Node" if name == self.node => {
                view.node = Some(NodeFacts::of(
                    &serde_json::from_value(object.clone()).map_err(wrong)?,
                ));
            }
            "Pod" if text("/spec/nodeName") == self.node => {
                let facts = PodFacts::of(&serde_json::from_value(object.clone()).map_err(wrong)?);
                let namespace = match text("/metadata/namespace") {
                    namespace if namespace.is_empty() => "default".to_owned(),
                    namespace => namespace,
                };
                view.pods.insert((namespace, name), facts);
            }
            "ENIConfig" => {
                let config = EniConfig::of(&serde_json::from_value(object.clone()).map_err(wrong)?);
                view.eni_configs.insert(
                    name.clone(),
                    config.map_err(|error| format!("{kind} {name:?}: {error}"))?,
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn append(&self, notice: &Notice) -> Result<(), String> {
        let object = match notice {
            Notice::Event(event) => serde_json::to_value(event_object(event, &self.node, ""))
                .map_err(|error| error.to_string())?,
            Notice::PodAddress {
                namespace,
                name,
                address,
            } => json!({
                "kind": "Pod",
                "metadata": {
                    "namespace": namespace,
                    "name": name,
                    "annotations": { POD_IPS: address.map(|address| address.to_string()).unwrap_or_default() },
                },
            }),
            Notice::Feature { name, value } => json!({
                "kind": "CNINode",
                "metadata": { "name": self.node },
                "spec": { "features": [{ "name": name, "value": value }] },
            }),
        };
        let written = || -> std::io::Result<()> {
            std::fs::create_dir_all(&self.path)?;
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .create(true)
                .append(true)
                .open(self.path.join(NOTICES))?;
            // One write per line, so that readers see whole ones.
            file.write_all(format!("{object}\n").as_bytes())
        };
        written().map_err(|error| error.to_string())
    }
}

fn documents(path: &Path) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return serde_json::from_str(&text)
            .map(|one| vec![one])
            .map_err(|error| error.to_string());
    }
    let documents: Vec<Option<Value>> =
        serde_saphyr::from_multiple(&text).map_err(|error| error.to_string())?;
    Ok(documents.into_iter().flatten().collect())
}

impl Kubernetes for Directory {
    fn follow<'a>(&'a self, view: &'a watch::Sender<View>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut known = None;
            loop {
                match self.signature() {
                    Ok(files) if known.as_ref() == Some(&files) => {}
                    Ok(files) => {
                        match self.read(&files) {
                            Ok(read) => {
                                view.send_if_modified(|now| {
                                    std::mem::replace(now, read.clone()) != read
                                });
                            }
                            Err(error) => tracing::warn!(error, "objects are left as they were"),
                        }
                        known = Some(files);
                    }
                    Err(error) => {
                        tracing::warn!(%error, path = %self.path.display(), "objects not looked at");
                    }
                }
                tokio::time::sleep(PERIOD).await;
            }
        })
    }

    fn tell<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move { self.append(notice) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kubernetes::{Cluster, Event, Subject};

    const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: node1, uid: u-1, labels: {topology.kubernetes.io/zone: a}}
status: {capacity: {pods: '17'}}
---
apiVersion: v1
kind: Node
metadata: {name: node2}
status: {capacity: {pods: '99'}}
---
---
apiVersion: crd.k8s.amazonaws.com/v1alpha1
kind: ENIConfig
metadata: {name: a}
spec: {subnet: subnet-1, securityGroups: [sg-1]}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: p1}, spec: {nodeName: node1, containers: []}}
- {apiVersion: v1, kind: Pod, metadata: {name: p2, namespace: n}, spec: {nodeName: node2, containers: []}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
";

    async fn until(view: &mut watch::Receiver<View>, done: impl FnMut(&View) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(10), view.wait_for(done));
        waited.await.expect("in time").expect("followed");
    }

    #[tokio::test]
    async fn objects_are_read_changes_followed_and_broken_files_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let directory = Directory::new(path.clone(), "node1".to_owned());
        let cluster = Cluster::start(Arc::new(directory));
        let mut view = cluster.view();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("all.yaml"), OBJECTS).unwrap();
        until(&mut view, |view| view.node.is_some()).await;
        {
            let view = view.borrow();
            assert_eq!(view.node.as_ref().unwrap().max_pods, Some(17));
            assert_eq!(view.eni_configs["a"].subnet_id, "subnet-1");
            let pods: Vec<_> = view.pods.keys().map(|(_, name)| name.as_str()).collect();
            assert_eq!(pods, ["p1"]);
        }
        std::fs::write(path.join("half.yaml"), "kind: [").unwrap();
        std::fs::write(path.join("all.yaml"), OBJECTS.replace("'17'", "'18'")).unwrap();
        std::fs::write(path.join("README"), "not ours").unwrap();
        tokio::time::sleep(PERIOD * 2).await;
        assert_eq!(view.borrow().node.as_ref().unwrap().max_pods, Some(17));
        std::fs::remove_file(path.join("half.yaml")).unwrap();
        until(&mut view, |view| {
            view.node
                .as_ref()
                .is_some_and(|node| node.max_pods == Some(18))
        })
        .await;
        std::fs::remove_file(path.join("all.yaml")).unwrap();
        until(&mut view, |view| *view == View::default()).await;
    }

    #[tokio::test]
    async fn notices_are_one_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("not-made-yet");
        let cluster = Cluster::start(Arc::new(Directory::new(path.clone(), "node1".to_owned())));
        let event = Event {
            subject: Subject::Pod {
                namespace: "n".into(),
                name: "p".into(),
                uid: String::new(),
            },
            reason: "FailedAssignAddress",
            message: "the subnet\nis full".into(),
        };
        cluster.warn(event.clone());
        cluster.warn(event);
        cluster.notify(Notice::PodAddress {
            namespace: "n".into(),
            name: "p".into(),
            address: Some([10, 0, 0, 9].into()),
        });
        cluster.notify(Notice::Feature {
            name: "CustomNetworking",
            value: "a".into(),
        });
        let read = || async {
            loop {
                let text = std::fs::read_to_string(path.join(NOTICES)).unwrap_or_default();
                if text.lines().count() == 3 {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let text = tokio::time::timeout(Duration::from_secs(10), read())
            .await
            .expect("told");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["involvedObject"]["name"], "p");
        assert_eq!(lines[0]["message"], "the subnet\nis full");
        assert_eq!(lines[1]["metadata"]["annotations"][POD_IPS], "10.0.0.9");
        assert_eq!(lines[2]["spec"]["features"][0]["name"], "CustomNetworking");
    }
}
