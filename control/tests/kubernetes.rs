//! The `kube` path against a server that lists, watches, forgets, closes and is away as an API server does.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, with what it was doing"
)]

mod apiserver;

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, CNI_NODES, ENI_CONFIGS, NODES, PODS};
use kube::{Client, Config};
use penstock_control::kubernetes::server::{Server, Settings};
use penstock_control::kubernetes::{Cluster, Event, Notice, Subject, View};
use serde_json::{Value, json};
use tokio::sync::watch;

fn settings() -> Settings {
    Settings {
        node: "node1".to_owned(),
        endpoint: None,
        eni_configs: true,
    }
}

fn follow(server: &ApiServer) -> Cluster {
    let mut config = Config::new(format!("http://{}", server.address).parse().unwrap());
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    Cluster::start(Arc::new(Server::with_client(settings(), client)))
}

async fn until(view: &mut watch::Receiver<View>, what: &str, done: impl FnMut(&View) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), view.wait_for(done));
    let seen = waited.await;
    assert!(seen.is_ok_and(|seen| seen.is_ok()), "not in time: {what}");
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn node(name: &str, pods: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "uid": "u-1" },
        "status": { "capacity": { "pods": pods.to_string() } },
    })
}

fn pod(name: &str, on: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "n", "uid": name },
        "spec": { "nodeName": on, "containers": [] }, "status": { "phase": "Pending" },
    })
}

fn eni_config(name: &str, subnet: &str) -> Value {
    json!({
        "apiVersion": "crd.k8s.amazonaws.com/v1alpha1", "kind": "ENIConfig",
        "metadata": { "name": name }, "spec": { "subnet": subnet },
    })
}

fn max_pods(view: &View) -> Option<u32> {
    view.node.as_ref().and_then(|node| node.max_pods)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_followed_over_closed_watches_old_versions_and_absence() {
    let server = ApiServer::start().await;
    server.put(NODES, node("node1", 29));
    server.put(NODES, node("node2", 99));
    server.put(PODS, pod("mine", "node1"));
    server.put(PODS, pod("others", "node2"));
    server.put(ENI_CONFIGS, eni_config("a", "subnet-1"));
    let cluster = follow(&server);
    let mut view = cluster.view();
    until(&mut view, "all kinds", |view| {
        max_pods(view) == Some(29) && view.pods.len() == 1 && view.eni_configs.len() == 1
    })
    .await;
    let after_start = server.lists();

    server.put(NODES, node("node1", 30));
    until(&mut view, "a change", |view| max_pods(view) == Some(30)).await;
    server.close_watches();
    server.put(NODES, node("node1", 31));
    server.put(PODS, pod("later", "node1"));
    until(&mut view, "changes while nobody watched", |view| {
        max_pods(view) == Some(31) && view.pods.len() == 2
    })
    .await;
    assert_eq!(server.lists(), after_start, "resumed, not listed anew");

    // Deleted while the watch was closed, and its history forgotten: only a new list shows it.
    server.set_away(true);
    server.delete(PODS, "later");
    server.put(NODES, node("node1", 32));
    server.compact();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        view.borrow().pods.len(),
        2,
        "what was seen stands while the server is away"
    );
    server.set_away(false);
    until(&mut view, "the new list", |view| {
        max_pods(view) == Some(32) && view.pods.len() == 1
    })
    .await;
    assert!(server.lists() > after_start);
    server.delete(ENI_CONFIGS, "a");
    until(&mut view, "a deletion", |view| view.eni_configs.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_late_is_followed_then() {
    let server = ApiServer::start().await;
    server.set_away(true);
    let cluster = follow(&server);
    let mut view = cluster.view();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*view.borrow(), View::default());
    server.put(NODES, node("node1", 29));
    server.set_away(false);
    until(&mut view, "the node", |view| max_pods(view) == Some(29)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_annotations_and_features_are_written() {
    let server = ApiServer::start().await;
    server.put(PODS, pod("mine", "node1"));
    let features = json!([{ "name": "SecurityGroupsForPods" }, { "name": "CustomNetworking", "value": "old" }]);
    server.put(
        CNI_NODES,
        json!({
            "apiVersion": "vpcresources.k8s.aws/v1alpha1", "kind": "CNINode",
            "metadata": { "name": "node1" }, "spec": { "features": features },
        }),
    );
    let cluster = follow(&server);
    let event = Event {
        subject: Subject::Pod {
            namespace: "n".into(),
            name: "mine".into(),
            uid: "u-2".into(),
        },
        reason: "FailedAssignAddress",
        message: "the subnet is full".into(),
    };
    // The server is away when the first attempt is made.
    server.set_away(true);
    cluster.warn(event.clone());
    cluster.warn(event);
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.set_away(false);
    eventually("the event", || !server.written().is_empty()).await;
    let (method, path, body) = server.written().remove(0);
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("POST", "/api/v1/namespaces/n/events")
    );
    assert_eq!(body["involvedObject"]["uid"], "u-2");
    assert_eq!(
        (&body["reason"], &body["type"]),
        (&json!("FailedAssignAddress"), &json!("Warning"))
    );

    let address = |name: &str, address: Option<[u8; 4]>| Notice::PodAddress {
        namespace: "n".into(),
        name: name.into(),
        address: address.map(Into::into),
    };
    // One that is gone already must not hold up the others.
    cluster.notify(address("gone", Some([10, 0, 0, 8])));
    cluster.notify(address("mine", Some([10, 0, 0, 9])));
    let annotated = |text: &str| {
        server.object(PODS, "mine")["metadata"]["annotations"]["vpc.amazonaws.com/pod-ips"] == text
    };
    eventually("the annotation", || annotated("10.0.0.9")).await;
    cluster.notify(address("mine", None));
    eventually("its end", || annotated("")).await;

    cluster.notify(Notice::Feature {
        name: "CustomNetworking",
        value: "zone-a".into(),
    });
    let features = || server.object(CNI_NODES, "node1")["spec"]["features"].clone();
    let wanted = json!([{ "name": "SecurityGroupsForPods" }, { "name": "CustomNetworking", "value": "zone-a" }]);
    eventually("the feature", || features() == wanted).await;
    let events = server
        .written()
        .into_iter()
        .filter(|(_, path, _)| path.ends_with("/events"));
    assert_eq!(events.count(), 1, "the same warning once");
}
