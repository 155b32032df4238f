//! Settings: the VPC CNI's environment names with its defaults, and Penstock's own.
//!
//! Raw strings become a validated [`Config`] in one step; every problem is reported at once. Reads through [`Source`],
//! so tests need no environment. Must not act on anything it reads.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::Ipv4Net;
use penstock_dataplane_api::{Access, PortChoice, PortRange, SnatMode};

use crate::ipam::plan::Targets;

/// sysexits.h EX_CONFIG is 78, EX_USAGE 64; the house uses 64 for any bad configuration.
pub const EXIT_BAD_CONFIG: u8 = 64;

/// One setting: its name, the value when it is unset, and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name in the environment.
    pub name: &'static str,
    /// Value when unset or empty.
    pub default: &'static str,
    /// One line for people.
    pub meaning: &'static str,
}

macro_rules! variables {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $default:literal, $meaning:literal;)*) => {
        $($(#[$doc])* #[doc = $meaning] pub const $id: Variable =
            Variable { name: $name, default: $default, meaning: $meaning };)*
        /// Every setting the agent reads.
        pub const VARIABLES: &[Variable] = &[$($id),*];
    };
}

variables! {
    WARM_ENI_TARGET = "WARM_ENI_TARGET", "1", "spare ENIs' worth of free addresses to keep";
    MAX_ENI = "MAX_ENI", "", "most ENIs to use; empty means the instance's limit";
    IP_COOLDOWN_PERIOD = "IP_COOLDOWN_PERIOD", "30", "seconds an address rests after use";
    ENI_MTU = "AWS_VPC_ENI_MTU", "9001", "MTU of the ENIs, 576 to 9001";
    POD_MTU = "POD_MTU", "", "MTU of the pods; empty means that of the ENIs";
    EXTERNALSNAT = "AWS_VPC_K8S_CNI_EXTERNALSNAT", "false", "true: the node does no SNAT";
    EXCLUDE_SNAT_CIDRS = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "",
        "comma list of IPv4 networks reached without SNAT";
    RANDOMIZESNAT = "AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng", "prng, hashrandom or none";
    VETHPREFIX = "AWS_VPC_K8S_CNI_VETHPREFIX", "eni", "prefix of host interfaces, 1 to 4 characters";
    EC2_ENDPOINT = "AWS_EC2_ENDPOINT", "", "URL of the EC2 API instead of the region's";
    ADDITIONAL_ENI_TAGS = "ADDITIONAL_ENI_TAGS", "{}", "JSON object of tags for new ENIs";
    CLUSTER_NAME = "CLUSTER_NAME", "", "tag value that marks the cluster's ENIs";
    NODE_NAME = "MY_NODE_NAME", "", "Kubernetes name of the node; empty means the instance id";
    SNAT_PORTS = "PENSTOCK_SNAT_PORTS", "11000-29999", "L4 ports the dataplane translates to";
    SERVICE_CIDRS = "PENSTOCK_SERVICE_CIDRS", "", "comma list of Service networks, left to kube-proxy";
    POD_IMDS = "PENSTOCK_POD_IMDS", "deny", "deny or allow pods the instance metadata service";
    WARM_IP_TARGET = "WARM_IP_TARGET", "", "not built yet, ignored with a warning";
    MINIMUM_IP_TARGET = "MINIMUM_IP_TARGET", "", "not built yet, ignored with a warning";
    ENABLE_PREFIX_DELEGATION = "ENABLE_PREFIX_DELEGATION", "false", "not built yet, refused";
    CUSTOM_NETWORK = "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "false", "not built yet, refused";
    ENABLE_POD_ENI = "ENABLE_POD_ENI", "false", "not built yet, refused";
    ENABLE_IPV6 = "ENABLE_IPv6", "false", "not built yet, refused";
}

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

/// Validated settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// WARM_ENI_TARGET and MAX_ENI.
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
    /// Whether pods may reach the instance metadata service.
    pub imds: Access,
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
    /// Reads and checks all settings.
    ///
    /// # Errors
    /// [`BadConfig`] with every problem found.
    pub fn read(source: &impl Source) -> Result<Self, BadConfig> {
        let mut reader = Reader {
            source,
            problems: Vec::new(),
        };
        let eni_mtu = reader.mtu(ENI_MTU).unwrap_or(9001);
        let mut config = Self {
            targets: Targets {
                warm_enis: reader.number(WARM_ENI_TARGET, 0..=16).unwrap_or(1),
                max_enis: reader.optional(MAX_ENI, |reader| reader.number(MAX_ENI, 0..=1000)),
            },
            cooldown: Duration::from_secs(
                reader
                    .number(IP_COOLDOWN_PERIOD, 0..=86_400)
                    .unwrap_or(30)
                    .into(),
            ),
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
            imds: reader.access(POD_IMDS),
            warnings: Vec::new(),
        };
        if config.pod_mtu > config.eni_mtu {
            reader.problem(POD_MTU, "is above AWS_VPC_ENI_MTU");
        }
        for variable in [
            ENABLE_PREFIX_DELEGATION,
            CUSTOM_NETWORK,
            ENABLE_POD_ENI,
            ENABLE_IPV6,
        ] {
            if reader.boolean(variable) {
                reader.problem(variable, "is not supported yet; unset it");
            }
        }
        for variable in [WARM_IP_TARGET, MINIMUM_IP_TARGET] {
            if let Some(value) = reader.text(variable).filter(|value| value != "0") {
                config.warnings.push(format!(
                    "{}={value} is not supported yet; WARM_ENI_TARGET={} decides instead",
                    variable.name, config.targets.warm_enis
                ));
            }
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
}

impl<S: Source> Reader<'_, S> {
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
        match self.raw(variable).as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => {
                self.problem(variable, "is neither true nor false");
                false
            }
        }
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
                warm_enis: 1,
                max_enis: None
            }
        );
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
                warm_enis: 0,
                max_enis: Some(2)
            }
        );
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
            ("ENABLE_PREFIX_DELEGATION", "true"),
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
    fn later_targets_warn_and_do_not_fail() {
        let config = read(&[("WARM_IP_TARGET", "5"), ("MINIMUM_IP_TARGET", "0")]).unwrap();
        assert_eq!(config.warnings.len(), 1);
        assert!(config.warnings[0].starts_with("WARM_IP_TARGET=5"));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = VARIABLES.iter().map(|v| v.name).collect();
        assert_eq!(names.len(), VARIABLES.len());
    }
}
