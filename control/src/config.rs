//! Settings: the VPC CNI's environment names with its defaults, and Penstock's own.
//!
//! Raw strings become a validated [`Config`] in one step; every problem is reported at once. Reads through [`Source`],
//! so tests need no environment. Must not act on anything it reads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use penstock_dataplane_api::{Access, PortChoice, PortRange, SnatMode};

use crate::ec2::Instance;
use crate::ipam::plan::{Kind, Targets};

pub mod table;

use table::*;
pub use table::{Support, VARIABLES, Variable};

/// sysexits.h EX_CONFIG is 78, EX_USAGE 64; the house uses 64 for any bad configuration.
pub const EXIT_BAD_CONFIG: u8 = 64;

/// Where settings come from.
pub trait Source {
    /// The value of `name`; `None` when unset.
    fn get(&self, name: &str) -> Option<String>;
}

/// The process environment.
#[derive(Debug, Clone, Copy)]
pub struct Environment;

impl Source for Environment {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Source for BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        BTreeMap::get(self, name).map(|value| (*value).to_owned())
    }
}

/// Where the cluster's objects are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Objects {
    /// From the API server, at this URL if there is one.
    Server(Option<String>),
    /// From a directory; `None` is the one beside the sockets.
    Directory(Option<PathBuf>),
}

/// Where something is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// Validated settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How many addresses, prefixes and ENIs to have.
    pub targets: Targets,
    /// Rest of an address after use.
    pub cooldown: Duration,
    /// MTU of the ENIs.
    pub eni_mtu: u32,
    /// MTU of the pods' interfaces.
    pub pod_mtu: u32,
    /// Who translates pod addresses that leave the VPC.
    pub snat_mode: SnatMode,
    /// Networks outside the VPC reached without SNAT.
    pub snat_exclusions: Vec<Ipv4Net>,
    /// How SNAT ports are chosen.
    pub port_choice: PortChoice,
    /// Ports that belong to the dataplane.
    pub snat_ports: PortRange,
    /// Prefix of host interfaces.
    pub veth_prefix: String,
    /// URL of the EC2 API instead of the region's.
    pub ec2_endpoint: Option<String>,
    /// Tags for new ENIs besides our own.
    pub eni_tags: BTreeMap<String, String>,
    /// Marks the cluster's ENIs.
    pub cluster_name: Option<String>,
    /// Kubernetes name of the node.
    pub node_name: Option<String>,
    /// Service networks.
    pub service_cidrs: Vec<Ipv4Net>,
    /// Networks routed by the main table whatever ENI the pod is on.
    pub external_service_cidrs: Vec<Ipv4Net>,
    /// Whether pods' answers to NodePort clients leave by the primary ENI.
    pub node_ports: bool,
    /// Whether pods may reach the instance metadata service.
    pub imds: Access,
    /// Whether ENIs that others attached without our tag are ours to use.
    pub manage_untagged: bool,
    /// New ENIs also in subnets tagged for pods.
    pub subnet_discovery: bool,
    /// Nothing is changed in EC2.
    pub provisioning: bool,
    /// EC2 is not called at all.
    pub imds_only: bool,
    /// ENIs that other nodes left behind are deleted.
    pub leak_sweep: bool,
    /// Pods in the subnet and groups of an ENIConfig, none on the primary ENI.
    pub custom_networking: bool,
    /// Node annotation that names the ENIConfig.
    pub eni_config_annotation: String,
    /// Node label that names it.
    pub eni_config_label: String,
    /// A stock is kept also while the node is cordoned.
    pub stock_when_cordoned: bool,
    /// Pods get their address as an annotation.
    pub annotate_pods: bool,
    /// Where the cluster's objects are read.
    pub objects: Objects,
    /// Where introspection is served.
    pub introspection: Option<Listen>,
    /// Where metrics are served.
    pub metrics: Option<Listen>,
    /// Where the VPC CNI's checkpoint lies.
    pub backing_store: PathBuf,
    /// Longest a call to EC2 may take.
    pub call_deadline: Duration,
    /// What was set but is not honoured; for the log.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadConfig {
    /// One line per problem, each naming its variable.
    pub problems: Vec<String>,
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bad setting(s): {}",
            self.problems.len(),
            self.problems.join("; ")
        )
    }
}

impl std::error::Error for BadConfig {}

impl Config {
    /// Kubernetes' name of the node, or else EC2's.
    #[must_use]
    pub fn node_name<'a>(&'a self, instance: &'a Instance) -> &'a str {
        self.node_name.as_deref().unwrap_or(&instance.id)
    }

    /// Reads and checks all settings.
    ///
    /// # Errors
    /// [`BadConfig`] with every problem found.
    pub fn read(source: &impl Source) -> Result<Self, BadConfig> {
        let mut reader = Reader {
            source,
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        reader.unsupported();
        let eni_mtu = reader.mtu(ENI_MTU).unwrap_or(9001);
        let imds_only = reader.boolean(IMDS_ONLY);
        let config = Self {
            targets: reader.targets(),
            cooldown: reader.seconds(IP_COOLDOWN_PERIOD, 0..=86_400),
            eni_mtu,
            pod_mtu: reader
                .optional(POD_MTU, |reader| reader.mtu(POD_MTU))
                .unwrap_or(eni_mtu),
            snat_mode: match reader.boolean(EXTERNALSNAT) {
                true => SnatMode::External,
                false => SnatMode::Node,
            },
            snat_exclusions: reader.networks(EXCLUDE_SNAT_CIDRS),
            port_choice: reader.port_choice(),
            snat_ports: reader.ports(),
            veth_prefix: reader.veth_prefix(),
            ec2_endpoint: reader.text(EC2_ENDPOINT),
            eni_tags: reader.tags(),
            cluster_name: reader.text(CLUSTER_NAME),
            node_name: reader.text(NODE_NAME),
            service_cidrs: reader.networks(SERVICE_CIDRS),
            external_service_cidrs: reader.networks(EXTERNAL_SERVICE_CIDRS),
            node_ports: reader.boolean(NODE_PORT_SUPPORT),
            imds: reader.access(POD_IMDS),
            manage_untagged: reader.boolean(MANAGE_UNTAGGED_ENI),
            subnet_discovery: reader.boolean(ENABLE_SUBNET_DISCOVERY),
            provisioning: !reader.boolean(NO_PROVISIONING) && !imds_only,
            imds_only,
            leak_sweep: !reader.boolean(NO_LEAK_SWEEP),
            custom_networking: reader.boolean(CUSTOM_NETWORK),
            eni_config_annotation: reader.raw(ENI_CONFIG_ANNOTATION),
            eni_config_label: reader.raw(ENI_CONFIG_LABEL),
            stock_when_cordoned: reader.boolean(NON_SCHEDULABLE),
            annotate_pods: reader.boolean(ANNOTATE_POD_IP),
            objects: reader.objects(),
            introspection: reader.listen(INTROSPECTION_BIND_ADDRESS, DISABLE_INTROSPECTION),
            metrics: reader.listen(METRICS_BIND_ADDRESS, DISABLE_METRICS),
            backing_store: reader.raw(BACKING_STORE).into(),
            call_deadline: reader.seconds(HTTP_TIMEOUT, 10..=600),
            warnings: reader.warnings.clone(),
        };
        if config.pod_mtu > config.eni_mtu {
            reader.problem(POD_MTU, "is above AWS_VPC_ENI_MTU");
        }
        match reader.problems.is_empty() {
            true => Ok(config),
            false => Err(BadConfig {
                problems: reader.problems,
            }),
        }
    }
}

/// Collects problems while values are read.
struct Reader<'a, S: Source> {
    source: &'a S,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl<S: Source> Reader<'_, S> {
    /// Values of variables that are not honoured: refused or reported, never dropped in silence.
    fn unsupported(&mut self) {
        for variable in VARIABLES {
            let value = self.raw(*variable);
            if value == variable.default || same_truth(&value, variable.default) {
                continue;
            }
            match variable.support {
                Support::Honoured => {}
                Support::Refused(why) => {
                    let rather = match variable.default {
                        "" => "unset it".to_owned(),
                        default => format!("leave it at {default}"),
                    };
                    self.problem(*variable, format_args!("is not supported: {why}; {rather}"));
                }
                Support::Ignored(why) => {
                    let name = variable.name;
                    self.warnings
                        .push(format!("{name}={value:?} has no effect: {why}"));
                }
            }
        }
    }

    fn targets(&mut self) -> Targets {
        Targets {
            kind: match self.boolean(ENABLE_PREFIX_DELEGATION) {
                true => Kind::Prefix,
                false => Kind::Address,
            },
            warm_enis: self.number(WARM_ENI_TARGET, 0..=64).unwrap_or(1),
            warm_prefixes: self.number(WARM_PREFIX_TARGET, 0..=1000).unwrap_or(1),
            warm_ips: self.number(WARM_IP_TARGET, 0..=10_000).unwrap_or(0),
            minimum_ips: self.number(MINIMUM_IP_TARGET, 0..=10_000).unwrap_or(0),
            max_enis: self.optional(MAX_ENI, |reader| reader.number(MAX_ENI, 0..=1000)),
        }
    }

    /// Every pod's environment names the API server.
    fn objects(&mut self) -> Objects {
        let endpoint = self.text(CLUSTER_ENDPOINT);
        let in_a_pod = self.source.get("KUBERNETES_SERVICE_HOST").is_some();
        match self.raw(KUBERNETES).as_str() {
            "" if in_a_pod || endpoint.is_some() => Objects::Server(endpoint),
            "" => Objects::Directory(None),
            "api" => Objects::Server(endpoint),
            path if path.starts_with('/') => Objects::Directory(Some(path.into())),
            _ => {
                self.problem(KUBERNETES, "is neither `api` nor an absolute path");
                Objects::Directory(None)
            }
        }
    }

    fn listen(&mut self, variable: Variable, disabled: Variable) -> Option<Listen> {
        if self.boolean(disabled) {
            return None;
        }
        let text = self.raw(variable);
        let listen = match text.strip_prefix("unix:") {
            Some(path) => path.starts_with('/').then(|| Listen::Unix(path.into())),
            None => text.parse().ok().map(Listen::Tcp),
        };
        if listen.is_none() {
            self.problem(variable, "is neither ADDRESS:PORT nor unix:/PATH");
        }
        listen
    }

    fn seconds(&mut self, variable: Variable, range: std::ops::RangeInclusive<u32>) -> Duration {
        let seconds = self.number(variable, range).unwrap_or_default();
        Duration::from_secs(seconds.into())
    }

    fn raw(&self, variable: Variable) -> String {
        let value = self.source.get(variable.name).unwrap_or_default();
        match value.trim() {
            "" => variable.default.to_owned(),
            text => text.to_owned(),
        }
    }

    fn problem(&mut self, variable: Variable, what: impl fmt::Display) {
        let value = self.raw(variable);
        self.problems
            .push(format!("{}={value:?} {what}", variable.name));
    }

    fn text(&self, variable: Variable) -> Option<String> {
        Some(self.raw(variable)).filter(|text| !text.is_empty())
    }

    /// `None` when unset, without a problem.
    fn optional<T>(
        &mut self,
        variable: Variable,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        self.text(variable)?;
        read(self)
    }

    fn number(&mut self, variable: Variable, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        match self.raw(variable).parse() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let (low, high) = range.into_inner();
                self.problem(
                    variable,
                    format_args!("is not a whole number from {low} to {high}"),
                );
                None
            }
        }
    }

    /// VPC CNI entrypoint: 576 to 9001 for IPv4.
    fn mtu(&mut self, variable: Variable) -> Option<u32> {
        self.number(variable, 576..=9001)
    }

    /// The words of Go's `strconv.ParseBool`, which the VPC CNI reads by.
    fn boolean(&mut self, variable: Variable) -> bool {
        truth(&self.raw(variable)).unwrap_or_else(|| {
            self.problem(variable, "is neither true nor false");
            false
        })
    }

    fn networks(&mut self, variable: Variable) -> Vec<Ipv4Net> {
        let text = self.raw(variable);
        let mut networks = Vec::new();
        for entry in text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
        {
            match entry.parse::<Ipv4Net>() {
                Ok(network) => networks.push(network.trunc()),
                Err(_) => {
                    self.problem(
                        variable,
                        format_args!("{entry:?} is no IPv4 network a.b.c.d/n"),
                    );
                }
            }
        }
        networks
    }

    fn port_choice(&mut self) -> PortChoice {
        match self.raw(RANDOMIZESNAT).as_str() {
            "prng" => PortChoice::Prng,
            "hashrandom" => PortChoice::Hashrandom,
            "none" => PortChoice::None,
            _ => {
                self.problem(RANDOMIZESNAT, "is not one of prng, hashrandom, none");
                PortChoice::default()
            }
        }
    }

    /// Outside NodePorts (30000-32767) and the kernel's own ephemeral range (32768-60999), which its SNAT uses.
    fn ports(&mut self) -> PortRange {
        let fallback = PortRange {
            first: 11_000,
            last: 29_999,
        };
        let text = self.raw(SNAT_PORTS);
        let parsed = text.split_once('-').and_then(|(first, last)| {
            Some(PortRange {
                first: first.trim().parse().ok()?,
                last: last.trim().parse().ok()?,
            })
        });
        let Some(range) = parsed.filter(|range| range.first <= range.last) else {
            self.problem(SNAT_PORTS, "is no range FIRST-LAST of ports");
            return fallback;
        };
        if range.first < 1024 || (range.first <= 60_999 && range.last >= 30_000) {
            self.problem(
                SNAT_PORTS,
                "touches 0-1023, NodePorts or the kernel's range 30000-60999",
            );
            return fallback;
        }
        range
    }

    fn veth_prefix(&mut self) -> String {
        let prefix = self.raw(VETHPREFIX);
        let legal = prefix.len() <= 4 && prefix.bytes().all(|b| b.is_ascii_alphanumeric());
        if !legal || matches!(prefix.as_str(), "eth" | "lo" | "vlan") {
            self.problem(
                VETHPREFIX,
                "is not 1 to 4 letters or digits, or is eth, lo or vlan",
            );
        }
        prefix
    }

    fn access(&mut self, variable: Variable) -> Access {
        match self.raw(variable).as_str() {
            "deny" => Access::Deny,
            "allow" => Access::Allow,
            _ => {
                self.problem(variable, "is neither deny nor allow");
                Access::Deny
            }
        }
    }

    /// Keys containing `k8s.amazonaws.com` are the CNI's own and are left out, as in the VPC CNI.
    fn tags(&mut self) -> BTreeMap<String, String> {
        match serde_json::from_str::<BTreeMap<String, String>>(&self.raw(ADDITIONAL_ENI_TAGS)) {
            Ok(mut tags) => {
                tags.retain(|key, _| !key.contains("k8s.amazonaws.com"));
                tags
            }
            Err(_) => {
                self.problem(ADDITIONAL_ENI_TAGS, "is no JSON object of strings");
                BTreeMap::new()
            }
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn same_truth(a: &str, b: &str) -> bool {
    truth(a).is_some() && truth(a) == truth(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&'static str, &'static str)]) -> Result<Config, BadConfig> {
        Config::read(&values.iter().copied().collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn nothing_set_gives_the_documented_defaults() {
        let config = read(&[]).unwrap();
        assert_eq!(
            config.targets,
            Targets {
                kind: Kind::Address,
                warm_enis: 1,
                warm_prefixes: 1,
                warm_ips: 0,
                minimum_ips: 0,
                max_enis: None
            }
        );
        assert!(config.provisioning && config.leak_sweep && config.subnet_discovery);
        assert_eq!(config.call_deadline, Duration::from_secs(10));
        assert_eq!(config.cooldown, Duration::from_secs(30));
        assert_eq!((config.eni_mtu, config.pod_mtu), (9001, 9001));
        assert_eq!(config.snat_mode, SnatMode::Node);
        assert_eq!(config.port_choice, PortChoice::Prng);
        assert_eq!(
            config.snat_ports,
            PortRange {
                first: 11_000,
                last: 29_999
            }
        );
        assert_eq!(config.veth_prefix, "eni");
        assert_eq!(config.imds, Access::Deny);
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn every_value_can_be_set() {
        let config = read(&[
            ("WARM_ENI_TARGET", "0"),
            ("MAX_ENI", "2"),
            ("WARM_IP_TARGET", "3"),
            ("MINIMUM_IP_TARGET", "4"),
            ("WARM_PREFIX_TARGET", "5"),
            ("ENABLE_PREFIX_DELEGATION", "true"),
            ("ENABLE_IMDS_ONLY_MODE", "true"),
            ("IP_COOLDOWN_PERIOD", "0"),
            ("AWS_VPC_ENI_MTU", "1500"),
            ("POD_MTU", "1400"),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "True"),
            (
                "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS",
                " 10.9.8.7/16 , 192.0.2.0/24",
            ),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "none"),
            ("PENSTOCK_SNAT_PORTS", "61000-65535"),
            ("PENSTOCK_POD_IMDS", "allow"),
            (
                "ADDITIONAL_ENI_TAGS",
                r#"{"team":"net","node.k8s.amazonaws.com/x":"y"}"#,
            ),
        ])
        .unwrap();
        assert_eq!(
            config.targets,
            Targets {
                kind: Kind::Prefix,
                warm_enis: 0,
                warm_prefixes: 5,
                warm_ips: 3,
                minimum_ips: 4,
                max_enis: Some(2)
            }
        );
        assert!(config.imds_only && !config.provisioning);
        assert_eq!(config.cooldown, Duration::ZERO);
        assert_eq!((config.eni_mtu, config.pod_mtu), (1500, 1400));
        assert_eq!(config.snat_mode, SnatMode::External);
        let exclusions: Vec<_> = config
            .snat_exclusions
            .iter()
            .map(Ipv4Net::to_string)
            .collect();
        assert_eq!(exclusions, ["10.9.0.0/16", "192.0.2.0/24"]);
        assert_eq!(config.port_choice, PortChoice::None);
        assert_eq!(
            config.snat_ports,
            PortRange {
                first: 61_000,
                last: 65_535
            }
        );
        assert_eq!(config.imds, Access::Allow);
        assert_eq!(
            config.eni_tags,
            BTreeMap::from([("team".to_owned(), "net".to_owned())])
        );
    }

    #[test]
    fn all_problems_are_in_one_report() {
        let values = [
            ("WARM_ENI_TARGET", "-1"),
            ("MAX_ENI", "two"),
            ("IP_COOLDOWN_PERIOD", "30s"),
            ("AWS_VPC_ENI_MTU", "9002"),
            ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "yes"),
            ("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "10.0.0.0"),
            ("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "dice"),
            ("AWS_VPC_K8S_CNI_VETHPREFIX", "vlan"),
            ("PENSTOCK_SNAT_PORTS", "30000-40000"),
            ("PENSTOCK_POD_IMDS", "maybe"),
            ("ADDITIONAL_ENI_TAGS", "[]"),
            ("ENABLE_POD_ENI", "true"),
            ("ENABLE_IPv4", "false"),
            ("PENSTOCK_KUBERNETES", "some/where"),
            ("INTROSPECTION_BIND_ADDRESS", "localhost"),
            ("PENSTOCK_METRICS_BIND_ADDRESS", "unix:metrics.sock"),
        ];
        let problems = read(&values).unwrap_err().problems;
        assert_eq!(problems.len(), values.len(), "{problems:#?}");
        for (name, value) in values {
            assert!(
                problems
                    .iter()
                    .any(|line| line.starts_with(&format!("{name}={value:?}"))),
                "{name} is not reported in {problems:#?}"
            );
        }
    }

    #[test]
    fn what_has_no_effect_is_reported_and_its_default_is_not() {
        let values = [
            ("POD_SECURITY_GROUP_ENFORCING_MODE", "standard"),
            ("ENABLE_V4_EGRESS", "1"),
            ("DISABLE_METRICS", "False"),
            ("VPC_CNI_VERSION", ""),
        ];
        let warnings = read(&values).unwrap().warnings;
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert!(warning.starts_with("POD_SECURITY_GROUP_ENFORCING_MODE=\"standard\""));
    }

    #[test]
    fn every_unhonoured_variable_answers_for_itself() {
        for variable in VARIABLES {
            let other = match truth(variable.default) {
                Some(value) => (!value).to_string(),
                None => "12".to_owned(),
            };
            let source = BTreeMap::from([(variable.name, other.as_str())]);
            let outcome = Config::read(&source);
            match variable.support {
                Support::Honoured => {}
                Support::Refused(why) => {
                    let problems = outcome.unwrap_err().problems;
                    assert!(problems[0].contains(why), "{problems:?}");
                }
                Support::Ignored(why) => {
                    let warnings = outcome.unwrap().warnings;
                    assert!(warnings[0].contains(why), "{warnings:?}");
                }
            }
        }
    }

    #[test]
    fn the_manual_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/OPERATIONS.md");
        let manual = std::fs::read_to_string(path).unwrap();
        let (start, end) = ("<!-- settings -->\n", "<!-- end of settings -->\n");
        let (before, rest) = manual.split_once(start).unwrap();
        let (_, after) = rest.split_once(end).unwrap();
        let wanted = format!("{before}{start}{}{end}{after}", table::markdown());
        if std::env::var_os("PENSTOCK_WRITE_DOCS").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(
            manual == wanted,
            "docs/OPERATIONS.md differs from the code's table; PENSTOCK_WRITE_DOCS=1 cargo test -p penstock-control \
             writes it"
        );
    }

    #[test]
    fn a_pod_asks_the_api_server_and_others_a_directory() {
        let objects = |values: &[(&'static str, &'static str)]| read(values).unwrap().objects;
        let host = ("KUBERNETES_SERVICE_HOST", "10.96.0.1");
        let endpoint = ("CLUSTER_ENDPOINT", "https://api:6443");
        let url = || Some("https://api:6443".to_owned());
        assert_eq!(objects(&[]), Objects::Directory(None));
        assert_eq!(objects(&[host]), Objects::Server(None));
        assert_eq!(objects(&[endpoint]), Objects::Server(url()));
        assert_eq!(
            objects(&[("PENSTOCK_KUBERNETES", "api"), endpoint]),
            Objects::Server(url())
        );
        let directory = ("PENSTOCK_KUBERNETES", "/objects");
        assert_eq!(
            objects(&[host, directory]),
            Objects::Directory(Some("/objects".into()))
        );
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = VARIABLES.iter().map(|v| v.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
    }
}
