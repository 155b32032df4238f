//! The cluster's API server, by `kube`.
//!
//! Our Node, the Pods bound to it and, where wanted, the ENIConfigs are listed once and then watched; a watch that ends,
//! breaks off or has become too old (410) is resumed or begun anew with pauses that grow. What was seen stays until a
//! complete new list replaces it, so an API server that is away takes nothing from the agent.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, select_all};
use k8s_openapi::api::core::v1::{Event as EventObject, Node, Pod};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::Store;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};

use super::view::{EniConfig, NodeFacts, POD_IPS, PodFacts, View};
use super::{Kubernetes, Notice, event_object};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to read the credentials.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How long one watch is asked for; one that broke off without a word is noticed that late.
const WATCH_SECONDS: u32 = 240;

/// How the API server is reached and what is asked of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kubernetes' name of the node.
    pub node: String,
    /// URL to use instead of the one pods are given.
    pub endpoint: Option<String>,
    /// Whether ENIConfigs are wanted.
    pub eni_configs: bool,
}

/// The API server.
pub struct Server {
    settings: Settings,
    client: OnceCell<Client>,
}

impl Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            client: OnceCell::new(),
        }
    }

    /// With a client that stands already.
    #[must_use]
    pub fn with_client(settings: Settings, client: Client) -> Self {
        Self {
            settings,
            client: OnceCell::new_with(Some(client)),
        }
    }

    async fn client(&self) -> Result<&Client, String> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Client, String> {
        let mut config = match Config::incluster() {
            Ok(config) => config,
            Err(inside) => Config::infer()
                .await
                .map_err(|error| format!("{inside}; {error}"))?,
        };
        if let Some(endpoint) = &self.settings.endpoint {
            config.cluster_url = endpoint
                .parse()
                .map_err(|error| format!("{endpoint}: {error}"))?;
        }
        config.connect_timeout = Some(CONNECT);
        Client::try_from(config).map_err(|error| error.to_string())
    }

    async fn watch_all(&self, client: &Client, view: &watch::Sender<View>) {
        let settings = &self.settings;
        let config = || watcher::Config::default().timeout(WATCH_SECONDS);
        let resource = resource("crd.k8s.amazonaws.com", "v1alpha1", "ENIConfig");
        let (nodes, pods) = (Writer::<Node>::default(), Writer::<Pod>::default());
        let configs = Writer::<DynamicObject>::new(resource.clone());
        let stores = Stores {
            nodes: nodes.as_reader(),
            pods: pods.as_reader(),
            configs: configs.as_reader(),
        };
        let named = config().fields(&format!("metadata.name={}", settings.node));
        let bound = config().fields(&format!("spec.nodeName={}", settings.node));
        let mut streams = vec![
            follow(Api::all(client.clone()), named, nodes),
            follow(Api::all(client.clone()), bound, pods),
        ];
        if settings.eni_configs {
            let api = Api::all_with(client.clone(), &resource);
            streams.push(follow(api, config(), configs));
        }
        let mut changes = select_all(streams);
        while let Some(()) = changes.next().await {
            let read = stores.read(&settings.node);
            view.send_if_modified(|now| std::mem::replace(now, read.clone()) != read);
        }
    }

    async fn say(&self, client: Client, notice: &Notice) -> Result<(), kube::Error> {
        match notice {
            Notice::Event(event) => {
                let object = event_object(event, &self.settings.node, &self.settings.node);
                let namespace = object.metadata.namespace.clone().unwrap_or_default();
                let api: Api<EventObject> = Api::namespaced(client, &namespace);
                api.create(&PostParams::default(), &object).await.map(drop)
            }
            Notice::PodAddress {
                namespace,
                name,
                address,
            } => {
                let text = address.map(|address| address.to_string());
                let patch =
                    json!({ "metadata": { "annotations": { POD_IPS: text.unwrap_or_default() } } });
                let api: Api<Pod> = Api::namespaced(client, namespace);
                let (how, patch) = (PatchParams::default(), Patch::Merge(&patch));
                gone_is_fine(api.patch(name, &how, &patch).await.map(drop))
            }
            Notice::Feature { name, value } => self.add_feature(client, name, value).await,
        }
    }

    /// A merge replaces lists whole, so the features that are there are read first.
    async fn add_feature(
        &self,
        client: Client,
        name: &str,
        value: &str,
    ) -> Result<(), kube::Error> {
        let resource = resource("vpcresources.k8s.aws", "v1alpha1", "CNINode");
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let node = api.get(&self.settings.node).await?;
        let mut features = node
            .data
            .pointer("/spec/features")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let wanted = json!({ "name": name, "value": value });
        if features.contains(&wanted) {
            return Ok(());
        }
        features.retain(|feature| feature["name"] != name);
        features.push(wanted);
        let patch = json!({
            // Somebody else's change in between makes this one fail, and it is tried again.
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "features": features },
        });
        api.patch(
            &self.settings.node,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
        .map(drop)
    }
}

/// A pod that is gone needs no annotation.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// What has been listed and watched.
struct Stores {
    nodes: Store<Node>,
    pods: Store<Pod>,
    configs: Store<DynamicObject>,
}

impl Stores {
    fn read(&self, ours: &str) -> View {
        let nodes = self.nodes.state();
        let node = nodes.iter().find(|node| node.name_any() == ours);
        let pods = self.pods.state();
        let pods = pods.iter().map(|pod| {
            let key = (pod.namespace().unwrap_or_default(), pod.name_any());
            (key, PodFacts::of(pod))
        });
        let mut eni_configs = BTreeMap::new();
        for object in self.configs.state() {
            match EniConfig::of(&object) {
                Ok(config) => {
                    eni_configs.insert(object.name_any(), config);
                }
                Err(error) => {
                    tracing::warn!(
                        error,
                        name = object.name_any(),
                        "an ENIConfig is not understood"
                    );
                }
            }
        }
        View {
            node: node.map(|node| NodeFacts::of(node)),
            eni_configs,
            pods: pods.collect(),
        }
    }
}

/// Keeps a store up to date; says so after each change. Never ends.
fn follow<K>(api: Api<K>, config: watcher::Config, store: Writer<K>) -> BoxStream<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Clone + Eq + Hash + Send + Sync,
{
    let what = api.resource_url().to_owned();
    let changes = watcher(api, config).default_backoff().reflect(store);
    changes
        .filter_map(move |change| {
            let seen = match change {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                Ok(_) => Some(()),
                Err(error) => {
                    tracing::warn!(%error, what, "the API server is not followed; what was seen stands");
                    None
                }
            };
            std::future::ready(seen)
        })
        .boxed()
}

impl Kubernetes for Server {
    fn follow<'a>(&'a self, view: &'a watch::Sender<View>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut pause = Duration::from_millis(500);
            let client = loop {
                match self.client().await {
                    Ok(client) => break client,
                    Err(error) => tracing::warn!(error, "no credentials for the API server yet"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            };
            self.watch_all(client, view).await;
        })
    }

    fn tell<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let client = self.client().await?.clone();
            let said = self.say(client, notice).await;
            said.map_err(|error| error.to_string())
        })
    }
}
