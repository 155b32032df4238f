//! What operators read over HTTP: introspection by the VPC CNI's paths, and metrics.
//!
//! Read-only; nothing here waits for EC2, the kernel or the dataplane. A port that is taken does not stop the agent: it is
//! asked for again until it is free.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};

use crate::agent::Agent;
use crate::clock::Timestamp;
use crate::config::{Environment, Listen, Source, VARIABLES};
use crate::kubernetes::View;
use crate::meter;
use crate::state::{Custom, State};

/// Pause before a port is asked for again.
const RETRY: Duration = Duration::from_secs(10);

/// Paths of introspection.
const PATHS: [&str; 6] = [
    "/v1/enis",
    "/v1/eni-configs",
    "/v1/pods",
    "/v1/networkutils-env-settings",
    "/v1/ipamd-env-settings",
    "/v1/env-settings",
];

type Shared = Extract<Arc<Agent>>;

/// Serves introspection and metrics where the settings say, for as long as the agent runs.
pub async fn serve(agent: Arc<Agent>) {
    let introspection = introspection().with_state(Arc::clone(&agent));
    let metrics = Router::new()
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(&agent));
    let config = &agent.config;
    tokio::join!(
        listen(
            config.introspection.as_ref(),
            introspection,
            "introspection"
        ),
        listen(config.metrics.as_ref(), metrics, "metrics"),
    );
}

async fn listen(at: Option<&Listen>, router: Router, what: &str) {
    let Some(at) = at else {
        return;
    };
    let mut quiet = false;
    loop {
        let Err(error) = serve_at(at, router.clone()).await else {
            return;
        };
        if !std::mem::replace(&mut quiet, true) {
            tracing::warn!(%error, ?at, "{what} not served; trying again every {RETRY:?}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn serve_at(at: &Listen, router: Router) -> io::Result<()> {
    match at {
        Listen::Tcp(address) => axum::serve(TcpListener::bind(address).await?, router).await,
        Listen::Unix(path) => {
            // What is left of an earlier life; one that lives still answers.
            if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
                std::fs::remove_file(path)?;
            }
            axum::serve(UnixListener::bind(path)?, router).await
        }
    }
}

fn introspection() -> Router<Arc<Agent>> {
    let settings = || async { page(&settings()) };
    Router::new()
        .route("/", get(|| async { page(&json!({ "AvailableCommands": PATHS })) }))
        .route(PATHS[0], get(|Extract(agent): Shared| async move { page(&enis(&agent.lock(), Timestamp::now())) }))
        .route(PATHS[1], get(|Extract(agent): Shared| async move { page(&eni_configs(&agent)) }))
        .route(PATHS[2], get(|Extract(agent): Shared| async move { page(&json!(agent.lock().pod_rows())) }))
        .route(PATHS[3], get(settings))
        .route(PATHS[4], get(settings))
        .route(PATHS[5], get(settings))
}

fn page(value: &Value) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        value.to_string(),
    )
        .into_response()
}

async fn metrics(Extract(agent): Shared) -> Response {
    match agent.meter.page(&agent.reading()) {
        Ok(text) => ([(header::CONTENT_TYPE, meter::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The pool as the VPC CNI shows its own; container ids are left out as there.
fn enis(state: &State, now: Timestamp) -> Value {
    let report = state.pool.report(now, 0);
    let by_address: BTreeMap<_, _> = state
        .records
        .values()
        .map(|record| (record.address, record))
        .collect();
    let entries = |net: ipnet::Ipv4Net| {
        let held = by_address.range(net.network()..=net.broadcast());
        let entry = |record: &crate::ipam::Record| {
            json!({
                "Address": record.address,
                "IPAMKey": { "networkName": record.key.network, "containerID": "", "ifName": record.key.ifname },
                "IPAMMetadata": {
                    "k8sPodNamespace": record.pod.namespace, "k8sPodName": record.pod.name, "interfacesCount": 1,
                },
            })
        };
        held.map(|(address, record)| (address.to_string(), entry(record)))
            .collect::<BTreeMap<_, _>>()
    };
    let cidr = |net: ipnet::Ipv4Net, is_prefix: bool| {
        let body = json!({
            "Cidr": { "IP": net.network(), "Mask": net.netmask() },
            "IPAddresses": entries(net),
            "IsPrefix": is_prefix,
            "AddressFamily": "ipv4",
        });
        (net.to_string(), body)
    };
    let of_eni = |eni: &crate::state::NodeEni| {
        let singles = state
            .pool
            .singles(&eni.eni_id)
            .map(|address| cidr(address.into(), false));
        let prefixes = state
            .pool
            .prefixes(&eni.eni_id)
            .map(|prefix| cidr(prefix, true));
        let cidrs: BTreeMap<String, Value> = singles.chain(prefixes).collect();
        json!({
            "ID": eni.eni_id,
            "IsPrimary": eni.device_number == 0,
            "IsTrunk": false,
            "IsEFA": false,
            "DeviceNumber": eni.device_number,
            "RouteTableID": crate::node::table_of(eni.device_number),
            "SubnetID": eni.subnet_id,
            "IPv4Addresses": {},
            "AvailableIPv4Cidrs": cidrs,
        })
    };
    let enis: BTreeMap<_, _> = state
        .enis
        .values()
        .map(|eni| (&eni.eni_id, of_eni(eni)))
        .collect();
    json!({
        "0": { "TotalIPs": report.total, "AssignedIPs": report.assigned, "CooldownIPs": report.cooling, "ENIs": enis },
    })
}

fn eni_configs(agent: &Agent) -> Value {
    let view: View = agent.cluster.view().borrow().clone();
    let configs = view.eni_configs.iter().map(|(name, config)| {
        (
            name,
            json!({ "subnet": config.subnet_id, "securityGroups": config.groups }),
        )
    });
    let configs: BTreeMap<_, _> = configs.collect();
    let (ours, problem) = match &agent.lock().custom {
        Custom::Off => (None, None),
        Custom::Unknown(why) => (None, Some(why.clone())),
        Custom::Known(name, _) => (Some(name.clone()), None),
    };
    json!({ "ENIConfigs": configs, "NodeENIConfig": ours, "Problem": problem })
}

/// Every setting as it is, by its name.
fn settings() -> Value {
    let value = |name: &str, default: &str| {
        let set = Environment
            .get(name)
            .filter(|value| !value.trim().is_empty());
        set.unwrap_or_else(|| default.to_owned())
    };
    let all = VARIABLES
        .iter()
        .map(|variable| (variable.name, value(variable.name, variable.default)));
    json!(all.collect::<BTreeMap<_, _>>())
}
