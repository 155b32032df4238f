//! Counts what the agent does, and shows counts and state as Prometheus text.
//!
//! Ours are `penstock_*`. Beside them stand the VPC CNI's `awscni_*` by their old names, so that dashboards and alerts keep
//! working; they are gauges even where they count, because the text format would add `_total` to a counter's name.
//! Counting never waits and never fails.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use penstock_control_api::{PoolReport, Request, Response, code};
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::ec2::Ec2Error;
use crate::state::State;

pub use prometheus_text::CONTENT_TYPE;

type Labels = Vec<(&'static str, String)>;
type Counts = Family<Labels, Counter>;
/// A count under an old name.
type Alias = Family<Labels, Gauge<f64, AtomicU64>>;
type Times = Family<Labels, Histogram, fn() -> Histogram>;

/// Seconds: the target for an ADD is 15 ms, the longest call takes 10 s.
const BUCKETS: [f64; 13] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The counts; shared by everything that counts.
#[derive(Debug)]
pub struct Meter {
    requests: Counts,
    request_seconds: Times,
    calls: Counts,
    call_seconds: Times,
    adds: Alias,
    dels: Alias,
    without_address: Alias,
    api_calls: Alias,
    api_errors: Alias,
    api_error_codes: Alias,
    /// Encoding takes a while and is nobody's hot path.
    scrape: Mutex<()>,
}

impl Default for Meter {
    fn default() -> Self {
        let times = || Times::new_with_constructor(histogram);
        let meter = Self {
            requests: Counts::default(),
            request_seconds: times(),
            calls: Counts::default(),
            call_seconds: times(),
            adds: Alias::default(),
            dels: Alias::default(),
            without_address: Alias::default(),
            api_calls: Alias::default(),
            api_errors: Alias::default(),
            api_error_codes: Alias::default(),
            scrape: Mutex::new(()),
        };
        // Shown from the start: an alert on a rate needs the zero before the first one.
        for alias in [&meter.adds, &meter.without_address] {
            alias.get_or_create(&Labels::new()).set(0.0);
        }
        meter
    }
}

fn count(alias: &Alias, labels: Labels) {
    alias.get_or_create(&labels).inc();
}

impl Meter {
    /// Counts a request of the plugin; what operators ask is not counted.
    pub fn request(&self, verb: Option<&'static str>, response: &Response, took: Duration) {
        let Some(verb) = verb else {
            return;
        };
        let failed = match response {
            Response::Error(failure) => Some(failure.code),
            _ => None,
        };
        let outcome = failed.map_or_else(|| "ok".to_owned(), |code| code.to_string());
        let labels = vec![("verb", verb.to_owned()), ("outcome", outcome)];
        self.requests.get_or_create(&labels).inc();
        let seconds = took.as_secs_f64();
        let of_verb = vec![("verb", verb.to_owned())];
        self.request_seconds
            .get_or_create(&of_verb)
            .observe(seconds);
        match verb {
            "ADD" => count(&self.adds, Labels::new()),
            "DEL" => count(&self.dels, vec![("reason", "PodDeleted".to_owned())]),
            _ => {}
        }
        if failed.is_some_and(|code| [code::TRY_AGAIN, code::NO_ADDRESS].contains(&code))
            && verb == "ADD"
        {
            count(&self.without_address, Labels::new());
        }
    }

    /// Counts a call to EC2.
    pub fn call(&self, action: &'static str, error: Option<&Ec2Error>, took: Duration) {
        let outcome = match error {
            None => "ok",
            Some(error) if error.code.is_empty() => "no_answer",
            Some(error) => error.code.as_str(),
        };
        let of_action = |key: &'static str| vec![(key, action.to_owned())];
        let labels = vec![
            ("action", action.to_owned()),
            ("outcome", outcome.to_owned()),
        ];
        self.calls.get_or_create(&labels).inc();
        let times = self.call_seconds.get_or_create(&of_action("action"));
        times.observe(took.as_secs_f64());
        drop(times);
        count(&self.api_calls, of_action("fn"));
        if error.is_some() {
            count(&self.api_errors, of_action("fn"));
            let labels = vec![("api", action.to_owned()), ("error", outcome.to_owned())];
            count(&self.api_error_codes, labels);
        }
    }

    /// Everything, as Prometheus text.
    ///
    /// # Errors
    /// When the text cannot be formatted, which does not happen.
    pub fn page(&self, reading: &Reading) -> Result<String, std::fmt::Error> {
        let _one = self.scrape.lock();
        let mut registry = Registry::default();
        self.register(&mut registry);
        reading.register(&mut registry);
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn register(&self, registry: &mut Registry) {
        let ours = registry.sub_registry_with_prefix("penstock");
        ours.register(
            "cni_requests",
            "Requests of the plugin by outcome; an outcome that is a number is a CNI error code",
            self.requests.clone(),
        );
        ours.register(
            "cni_request_seconds",
            "Time the agent took for a request of the plugin",
            self.request_seconds.clone(),
        );
        ours.register("ec2_calls", "Calls to EC2 by outcome", self.calls.clone());
        ours.register(
            "ec2_call_seconds",
            "Time EC2 took for a call",
            self.call_seconds.clone(),
        );
        let theirs = registry.sub_registry_with_prefix("awscni");
        theirs.register("add_ip_req_count", "ADD requests", self.adds.clone());
        theirs.register("del_ip_req_count", "DEL requests", self.dels.clone());
        theirs.register(
            "no_available_ip_addresses",
            "ADD requests without an address",
            self.without_address.clone(),
        );
        theirs.register("ec2api_req_count", "Calls to EC2", self.api_calls.clone());
        theirs.register(
            "ec2api_error_count",
            "Calls to EC2 that failed",
            self.api_errors.clone(),
        );
        theirs.register(
            "aws_api_error_count",
            "Calls to EC2 that failed, by error",
            self.api_error_codes.clone(),
        );
    }
}

/// Which of the plugin's verbs a request is part of.
#[must_use]
pub fn verb(request: &Request) -> Option<&'static str> {
    match request {
        Request::Add { .. } => Some("ADD"),
        Request::Confirm { .. } => Some("CONFIRM"),
        Request::Del { .. } => Some("DEL"),
        Request::Check { .. } => Some("CHECK"),
        Request::Status | Request::Pods | Request::Enis => None,
    }
}

/// The state at one moment, as numbers.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The pool.
    pub pool: PoolReport,
    /// Prefixes held.
    pub prefixes: u32,
    /// ENIs in use, and most that may be.
    pub enis: (u32, u32),
    /// Pods' addresses by ENI.
    pub by_eni: Vec<(String, u32)>,
    /// Pods' addresses by address or prefix.
    pub by_cidr: Vec<(String, u32)>,
    /// ADDs that wait for an address.
    pub waiting: u32,
    /// Most pods, where it is known.
    pub max_pods: Option<u32>,
    /// How far the pauses before calls to EC2 have grown.
    pub severity: u32,
    /// (published, confirmed) generations of the dataplane's snapshot.
    pub generations: (u64, u64),
    /// Whether something keeps the pool from growing.
    pub trouble: bool,
}

impl Reading {
    /// Reads the pool's part.
    #[must_use]
    pub fn of(state: &State, pool: PoolReport, most: u32) -> Self {
        let mut reading = Self {
            pool,
            max_pods: state.max_pods,
            trouble: state.trouble().is_some(),
            ..Self::default()
        };
        for eni_id in state.enis.keys() {
            let held = |prefix: ipnet::Ipv4Net| {
                let within = state
                    .records
                    .values()
                    .filter(|record| prefix.contains(&record.address));
                u32::try_from(within.count()).unwrap_or(u32::MAX)
            };
            let singles = state.pool.singles(eni_id).map(ipnet::Ipv4Net::from);
            let prefixes: Vec<_> = state.pool.prefixes(eni_id).collect();
            reading.prefixes += u32::try_from(prefixes.len()).unwrap_or(u32::MAX);
            let of_eni: Vec<_> = singles
                .chain(prefixes)
                .map(|cidr| (cidr.to_string(), held(cidr)))
                .collect();
            reading
                .by_eni
                .push((eni_id.clone(), of_eni.iter().map(|(_, held)| held).sum()));
            reading.by_cidr.extend(of_eni);
        }
        reading.enis = (u32::try_from(state.enis.len()).unwrap_or(u32::MAX), most);
        reading
    }

    fn register(&self, registry: &mut Registry) {
        let plain = |value: u32| vec![(Labels::new(), f64::from(value))];
        let by = |key: &'static str, rows: &[(String, u32)]| {
            let rows = rows.iter();
            let rows = rows.map(|(name, value)| (vec![(key, name.clone())], f64::from(*value)));
            rows.collect::<Vec<_>>()
        };
        let pool = &self.pool;
        let ours = registry.sub_registry_with_prefix("penstock");
        let states = [
            ("free", pool.free),
            ("assigned", pool.assigned),
            ("cooling", pool.cooling),
        ]
        .map(|(state, value)| (state.to_owned(), value));
        gauge(
            ours,
            ("pool_addresses", "Addresses for pods by state"),
            by("state", &states),
        );
        gauge(
            ours,
            ("pool_capacity", "Most addresses for pods the node can hold"),
            plain(pool.limit),
        );
        gauge(ours, ("enis", "ENIs in use"), plain(self.enis.0));
        gauge(
            ours,
            ("adds_waiting", "ADDs that wait for an address"),
            plain(self.waiting),
        );
        gauge(
            ours,
            (
                "pool_trouble",
                "1 while something keeps the pool from growing",
            ),
            plain(self.trouble.into()),
        );
        gauge(
            ours,
            (
                "ec2_restraint",
                "How far the pauses before calls to EC2 have grown, 0 to 18",
            ),
            plain(self.severity),
        );
        if let Some(most) = self.max_pods {
            gauge(
                ours,
                ("max_pods", "Most pods by the node's capacity"),
                plain(most),
            );
        }
        let behind = self.generations.0.saturating_sub(self.generations.1) > 0;
        gauge(
            ours,
            (
                "dataplane_behind",
                "1 while the dataplane has not confirmed the latest snapshot",
            ),
            plain(behind.into()),
        );
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        gauge(
            ours,
            ("build_info", "1, with the version"),
            vec![(version.clone(), 1.0)],
        );
        let theirs = registry.sub_registry_with_prefix("awscni");
        gauge(theirs, ("eni_max", "Most ENIs"), plain(self.enis.1));
        gauge(
            theirs,
            ("ip_max", "Most addresses for pods"),
            plain(pool.limit),
        );
        gauge(theirs, ("eni_allocated", "ENIs in use"), plain(self.enis.0));
        gauge(
            theirs,
            ("total_ip_addresses", "Addresses for pods"),
            plain(pool.total),
        );
        gauge(
            theirs,
            ("assigned_ip_addresses", "Addresses pods have"),
            plain(pool.assigned),
        );
        gauge(
            theirs,
            ("total_ipv4_prefixes", "IPv4 prefixes"),
            plain(self.prefixes),
        );
        gauge(
            theirs,
            ("assigned_ip_per_eni", "Addresses pods have, by ENI"),
            by("eni", &self.by_eni),
        );
        gauge(
            theirs,
            (
                "assigned_ip_per_cidr",
                "Addresses pods have, by address or prefix",
            ),
            by("cidr", &self.by_cidr),
        );
        gauge(
            theirs,
            (
                "force_removed_enis",
                "ENIs forgotten while pods used them; there are none",
            ),
            plain(0),
        );
        gauge(
            theirs,
            (
                "force_removed_ips",
                "Addresses forgotten while pods used them; there are none",
            ),
            plain(0),
        );
        gauge(
            theirs,
            ("build_info", "1, with the version"),
            vec![(version, 1.0)],
        );
    }
}

fn gauge(registry: &mut Registry, (name, help): (&str, &str), rows: Vec<(Labels, f64)>) {
    let family = Alias::default();
    for (labels, value) in rows {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::ErrorKind;
    use penstock_control_api::Failure;

    #[test]
    fn both_families_of_names_show_the_same_counts() {
        let meter = Meter::default();
        let took = Duration::from_millis(7);
        meter.request(Some("ADD"), &Response::Done, took);
        let failure = Failure {
            code: code::NO_ADDRESS,
            message: String::new(),
            details: String::new(),
        };
        meter.request(Some("ADD"), &Response::Error(failure), took);
        meter.request(Some("DEL"), &Response::Done, took);
        meter.request(None, &Response::Done, took);
        meter.call("AssignPrivateIpAddresses", None, took);
        let error = Ec2Error {
            call: "AssignPrivateIpAddresses",
            kind: ErrorKind::Throttled,
            code: "RequestLimitExceeded".to_owned(),
            message: String::new(),
        };
        meter.call("AssignPrivateIpAddresses", Some(&error), took);
        let reading = Reading {
            pool: PoolReport {
                total: 9,
                assigned: 4,
                cooling: 2,
                free: 3,
                limit: 27,
            },
            enis: (1, 3),
            by_eni: vec![("eni-1".to_owned(), 4)],
            ..Reading::default()
        };
        let page = meter.page(&reading).unwrap();
        for line in [
            "penstock_cni_requests_total{verb=\"ADD\",outcome=\"ok\"} 1",
            "penstock_cni_requests_total{verb=\"DEL\",outcome=\"ok\"} 1",
            "awscni_add_ip_req_count 2",
            "awscni_del_ip_req_count{reason=\"PodDeleted\"} 1",
            "awscni_no_available_ip_addresses 1",
            "penstock_ec2_calls_total{action=\"AssignPrivateIpAddresses\",outcome=\"RequestLimitExceeded\"} 1",
            "awscni_ec2api_req_count{fn=\"AssignPrivateIpAddresses\"} 2",
            "awscni_aws_api_error_count{api=\"AssignPrivateIpAddresses\",error=\"RequestLimitExceeded\"} 1",
            "penstock_pool_addresses{state=\"cooling\"} 2",
            "awscni_total_ip_addresses 9",
            "awscni_assigned_ip_addresses 4",
            "awscni_eni_max 3",
            "awscni_assigned_ip_per_eni{eni=\"eni-1\"} 4",
            "penstock_ec2_call_seconds_bucket{action=\"AssignPrivateIpAddresses\",le=\"0.01\"} 2",
        ] {
            let same = |shown: &str| shown == line || shown.strip_suffix(".0") == Some(line);
            let shown = page.lines().any(same);
            assert!(shown, "{line} is not in\n{page}");
        }
    }
}
