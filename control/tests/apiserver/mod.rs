//! An API server as far as a client sees one: lists, watches from a version, forgets old versions (410), closes and
//! drops watches, is away, merges patches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Collections by the path they are served under.
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const PODS: &str = "/api/v1/pods";
pub(crate) const ENI_CONFIGS: &str = "/apis/crd.k8s.amazonaws.com/v1alpha1/eniconfigs";
pub(crate) const CNI_NODES: &str = "/apis/vpcresources.k8s.aws/v1alpha1/cninodes";

#[derive(Default)]
struct Inner {
    version: u64,
    /// Versions up to this one are forgotten.
    compacted: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    /// (version, collection, type, object)
    history: Vec<(u64, &'static str, &'static str, Value)>,
    away: bool,
    /// (method, path, body) of everything that was written.
    written: Vec<(String, String, Value)>,
    lists: usize,
}

#[derive(Clone)]
pub(crate) struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    /// (version, watches closed so many times): whoever streams waits for either to move.
    moved: Arc<watch::Sender<(u64, u64)>>,
    pub(crate) address: SocketAddr,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            inner: Arc::default(),
            moved: Arc::new(watch::channel((0, 0)).0),
            address: listener.local_addr().unwrap(),
        };
        let router = Router::new()
            .route(NODES, any(collection))
            .route(PODS, any(collection))
            .route(ENI_CONFIGS, any(collection))
            .route("/api/v1/namespaces/{namespace}/events", any(write))
            .route("/api/v1/namespaces/{namespace}/pods/{name}", any(pod))
            .route(&format!("{CNI_NODES}/{{name}}"), any(cni_node))
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        server
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, collection: &'static str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let version = {
            let mut inner = self.lock();
            inner.version += 1;
            let version = inner.version;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let before = inner.objects.insert((collection, name), object.clone());
            let kind = if before.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            inner.history.push((version, collection, kind, object));
            version
        };
        self.moved.send_modify(|moved| moved.0 = version);
    }

    pub(crate) fn delete(&self, collection: &'static str, name: &str) {
        let version = {
            let mut inner = self.lock();
            inner.version += 1;
            let version = inner.version;
            let mut object = inner
                .objects
                .remove(&(collection, name.to_owned()))
                .unwrap();
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            inner.history.push((version, collection, "DELETED", object));
            version
        };
        self.moved.send_modify(|moved| moved.0 = version);
    }

    /// Ends all watches, as a server does every few minutes.
    pub(crate) fn close_watches(&self) {
        self.moved.send_modify(|moved| moved.1 += 1);
    }

    /// Forgets the history: who resumes from it is told 410.
    pub(crate) fn compact(&self) {
        let mut inner = self.lock();
        inner.version += 1;
        inner.compacted = inner.version;
        inner.history.clear();
    }

    /// Answers nothing but 503 for a while.
    pub(crate) fn set_away(&self, away: bool) {
        self.lock().away = away;
        if away {
            self.close_watches();
        }
    }

    pub(crate) fn lists(&self) -> usize {
        self.lock().lists
    }

    pub(crate) fn written(&self) -> Vec<(String, String, Value)> {
        self.lock().written.clone()
    }

    pub(crate) fn object(&self, collection: &'static str, name: &str) -> Value {
        self.lock().objects[&(collection, name.to_owned())].clone()
    }
}

fn refused(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": reason })
}

fn status(code: u16, reason: &str) -> Response {
    let text = refused(code, reason).to_string();
    (
        StatusCode::from_u16(code).unwrap(),
        [("content-type", "application/json")],
        text,
    )
        .into_response()
}

fn reply(value: &Value) -> Response {
    ([("content-type", "application/json")], value.to_string()).into_response()
}

fn selected(object: &Value, selector: Option<&String>) -> bool {
    selector
        .and_then(|selector| selector.split_once('='))
        .is_none_or(|(field, value)| {
            let pointer = format!("/{}", field.replace('.', "/"));
            object.pointer(&pointer).and_then(Value::as_str) == Some(value)
        })
}

fn known(path: &str) -> &'static str {
    [NODES, PODS, ENI_CONFIGS]
        .into_iter()
        .find(|known| *known == path)
        .unwrap()
}

async fn collection(
    State(server): State<ApiServer>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let collection = known(uri.path());
    let selector = query.get("fieldSelector").cloned();
    let mut inner = server.lock();
    if inner.away {
        return status(503, "ServiceUnavailable");
    }
    if query
        .get("watch")
        .is_none_or(|watch| watch != "true" && watch != "1")
    {
        inner.lists += 1;
        let items = inner
            .objects
            .iter()
            .filter(|((of, _), _)| *of == collection);
        let items: Vec<&Value> = items
            .map(|(_, object)| object)
            .filter(|object| selected(object, selector.as_ref()))
            .collect();
        return reply(&json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": { "resourceVersion": inner.version.to_string() }, "items": items,
        }));
    }
    let from: u64 = query
        .get("resourceVersion")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if from < inner.compacted {
        let line = json!({ "type": "ERROR", "object": refused(410, "Expired") });
        return format!("{line}\n").into_response();
    }
    drop(inner);
    let moved = server.moved.subscribe();
    let closed = moved.borrow().1;
    let lines = stream::unfold((server, moved, from), move |(server, mut moved, from)| {
        let selector = selector.clone();
        async move {
            loop {
                let next = {
                    let inner = server.lock();
                    let mut later = inner.history.iter();
                    later
                        .find(|(version, of, ..)| *version > from && *of == collection)
                        .cloned()
                };
                if moved.borrow_and_update().1 != closed {
                    return None;
                }
                if let Some((version, _, kind, object)) = next {
                    let line = match selected(&object, selector.as_ref()) {
                        true => format!("{}\n", json!({ "type": kind, "object": object })),
                        false => String::new(),
                    };
                    return Some((
                        Ok::<_, Infallible>(Bytes::from(line)),
                        (server, moved, version),
                    ));
                }
                moved.changed().await.ok()?;
            }
        }
    });
    Body::from_stream(lines).into_response()
}

async fn write(State(server): State<ApiServer>, method: Method, uri: Uri, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let mut inner = server.lock();
    if inner.away {
        return status(503, "ServiceUnavailable");
    }
    inner
        .written
        .push((method.to_string(), uri.path().to_owned(), body.clone()));
    reply(&body)
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                merge(&mut into[key], value);
            }
        }
        other => *into = other.clone(),
    }
}

async fn pod(
    State(server): State<ApiServer>,
    method: Method,
    uri: Uri,
    Path((_, name)): Path<(String, String)>,
    body: Bytes,
) -> Response {
    let patch: Value = serde_json::from_slice(&body).unwrap();
    let Some(mut object) = server.lock().objects.get(&(PODS, name)).cloned() else {
        return status(404, "NotFound");
    };
    merge(&mut object, &patch);
    server.put(PODS, object.clone());
    let mut inner = server.lock();
    inner
        .written
        .push((method.to_string(), uri.path().to_owned(), patch));
    reply(&object)
}

async fn cni_node(
    State(server): State<ApiServer>,
    method: Method,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let Some(mut object) = server.lock().objects.get(&(CNI_NODES, name)).cloned() else {
        return status(404, "NotFound");
    };
    if method == Method::PATCH {
        merge(&mut object, &serde_json::from_slice(&body).unwrap());
        server.put(CNI_NODES, object.clone());
    }
    reply(&object)
}
