//! Every setting there is, as data: the VPC CNI's environment variables by their names and defaults, and Penstock's own.
//!
//! The table is what [`super::Config::read`] reads by and what docs/OPERATIONS.md shows ([`markdown`]; a test compares
//! them). A variable we do not honour says why, and a value other than its default is refused or reported, never
//! silently dropped.

/// One setting: its name, the value when it is unset, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// Name in the environment.
    pub name: &'static str,
    /// Value when unset or empty.
    pub default: &'static str,
    /// One line for people.
    pub meaning: &'static str,
    /// What we do with it.
    pub support: Support,
}

/// What we do with a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It works.
    Honoured,
    /// Any value but the default stops the start, for this reason.
    Refused(&'static str),
    /// Any value but the default is reported and has no effect, for this reason.
    Ignored(&'static str),
}

use Support::{Honoured, Ignored, Refused};

macro_rules! variables {
    ($($id:ident = $name:literal, $default:literal, $support:expr, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $id: Variable =
            Variable { name: $name, default: $default, meaning: $meaning, support: $support };)*
        /// Every setting, in the order people are shown them.
        pub const VARIABLES: &[Variable] = &[$($id),*];
    };
}

variables! {
    WARM_ENI_TARGET = "WARM_ENI_TARGET", "1", Honoured,
        "spare ENIs' worth of free addresses; counts when no other target is set";
    WARM_IP_TARGET = "WARM_IP_TARGET", "0", Honoured,
        "free addresses to keep; with this or MINIMUM_IP_TARGET the ENI and prefix targets do not count";
    MINIMUM_IP_TARGET = "MINIMUM_IP_TARGET", "0", Honoured, "least addresses in all, held by pods or free";
    WARM_PREFIX_TARGET = "WARM_PREFIX_TARGET", "1", Honoured,
        "spare prefixes' worth of free addresses, with prefix delegation";
    MAX_ENI = "MAX_ENI", "", Honoured, "most ENIs to use; empty means the instance's limit";
    IP_COOLDOWN_PERIOD = "IP_COOLDOWN_PERIOD", "30", Honoured,
        "seconds an address rests after use; it survives a restart and is not given back to EC2 meanwhile";
    ENABLE_PREFIX_DELEGATION = "ENABLE_PREFIX_DELEGATION", "false", Honoured,
        "/28 prefixes instead of single addresses; single addresses while the subnet has no free /28";
    CUSTOM_NETWORK = "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "false", Honoured,
        "pods in the subnet and groups of an ENIConfig; the primary ENI carries none";
    ENI_CONFIG_ANNOTATION = "ENI_CONFIG_ANNOTATION_DEF", "k8s.amazonaws.com/eniConfig", Honoured,
        "node annotation that names the ENIConfig; a label vpc.amazonaws.com/externalEniConfig goes before";
    ENI_CONFIG_LABEL = "ENI_CONFIG_LABEL_DEF", "k8s.amazonaws.com/eniConfig", Honoured,
        "node label that names the ENIConfig where the annotation does not; without both it is `default`";
    ENABLE_SUBNET_DISCOVERY = "ENABLE_SUBNET_DISCOVERY", "true", Honoured,
        "new ENIs also in subnets tagged kubernetes.io/role/cni=1, the one with most free addresses first";
    CLUSTER_NAME = "CLUSTER_NAME", "", Honoured,
        "tag value that marks the cluster's ENIs, and picks subnets tagged for a cluster";
    ADDITIONAL_ENI_TAGS = "ADDITIONAL_ENI_TAGS", "{}", Honoured,
        "JSON object of tags for new ENIs; keys with k8s.amazonaws.com in them are left out";
    MANAGE_UNTAGGED_ENI = "MANAGE_UNTAGGED_ENI", "true", Honoured,
        "whether ENIs without our tag that others attached are used";
    NON_SCHEDULABLE = "AWS_MANAGE_ENIS_NON_SCHEDULABLE", "false", Honoured,
        "whether a stock is kept and ENIs are given back while the node is cordoned; pods that wait are served in any case";
    NO_PROVISIONING = "DISABLE_NETWORK_RESOURCE_PROVISIONING", "false", Honoured,
        "true: use what is attached, change nothing in EC2";
    IMDS_ONLY = "ENABLE_IMDS_ONLY_MODE", "false", Honoured,
        "true: no EC2 call at all; implies DISABLE_NETWORK_RESOURCE_PROVISIONING";
    NO_LEAK_SWEEP = "DISABLE_LEAKED_ENI_CLEANUP", "false", Honoured,
        "true: unattached ENIs other nodes left behind are not deleted";
    EC2_ENDPOINT = "AWS_EC2_ENDPOINT", "", Honoured, "URL of the EC2 API instead of the region's";
    HTTP_TIMEOUT = "HTTP_TIMEOUT", "10", Honoured, "seconds one EC2 call may take, at least 10";
    ENI_MTU = "AWS_VPC_ENI_MTU", "9001", Honoured, "MTU of the ENIs, 576 to 9001";
    POD_MTU = "POD_MTU", "", Honoured, "MTU of the pods; empty means that of the ENIs";
    VETHPREFIX = "AWS_VPC_K8S_CNI_VETHPREFIX", "eni", Honoured, "prefix of host interfaces, 1 to 4 characters";
    EXTERNALSNAT = "AWS_VPC_K8S_CNI_EXTERNALSNAT", "false", Honoured, "true: the node does no SNAT";
    RANDOMIZESNAT = "AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng", Honoured, "prng, hashrandom or none";
    EXCLUDE_SNAT_CIDRS = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", "", Honoured,
        "comma list of IPv4 networks reached without SNAT";
    EXTERNAL_SERVICE_CIDRS = "AWS_EXTERNAL_SERVICE_CIDRS", "", Honoured,
        "comma list of IPv4 networks routed by the main table, whatever ENI the pod is on";
    NODE_PORT_SUPPORT = "AWS_VPC_CNI_NODE_PORT_SUPPORT", "true", Honoured,
        "answers of pods to NodePort clients leave by the primary ENI";
    CONNMARK = "AWS_VPC_K8S_CNI_CONNMARK", "0x80", Refused("the dataplane's hooks use this bit too"),
        "bit of the packet mark that means the primary ENI";
    NODE_NAME = "MY_NODE_NAME", "", Honoured, "Kubernetes name of the node; empty means the instance id";
    BACKING_STORE = "AWS_VPC_K8S_CNI_BACKING_STORE", "/var/run/aws-node/ipam.json", Honoured,
        "the VPC CNI's checkpoint: by it the runtime's names of its pods are known, whose interfaces are taken over";
    SNAT_PORTS = "PENSTOCK_SNAT_PORTS", "11000-29999", Honoured, "L4 ports the dataplane translates to";
    SERVICE_CIDRS = "PENSTOCK_SERVICE_CIDRS", "", Honoured, "comma list of Service networks, left to kube-proxy";
    POD_IMDS = "PENSTOCK_POD_IMDS", "deny", Honoured, "deny or allow pods the instance metadata service";
    ENABLE_IPV4 = "ENABLE_IPv4", "true", Refused("pods have IPv4 addresses"), "IPv4 for pods";
    ENABLE_IPV6 = "ENABLE_IPv6", "false", Refused("IPv6 pods are not built yet"), "IPv6 for pods";
    ENABLE_V6_EGRESS = "ENABLE_V6_EGRESS", "false", Refused("the egress interface is not built yet"),
        "IPv6 egress for IPv4 pods";
    ENABLE_V4_EGRESS = "ENABLE_V4_EGRESS", "true", Ignored("it only concerns IPv6 pods"),
        "IPv4 egress for IPv6 pods";
    DISABLE_POD_V6 = "DISABLE_POD_V6", "false", Ignored("pods get no IPv6 address in any case"),
        "no IPv6 in pods";
    ENABLE_POD_ENI = "ENABLE_POD_ENI", "false", Refused("security groups for pods are not built yet"),
        "branch ENIs for pods";
    POD_SG_MODE = "POD_SECURITY_GROUP_ENFORCING_MODE", "strict",
        Ignored("it only concerns ENABLE_POD_ENI"), "strict or standard";
    ENABLE_MULTI_NIC = "ENABLE_MULTI_NIC", "false", Refused("only the first network card is used"),
        "addresses on every network card";
    NETWORK_POLICY_MODE = "NETWORK_POLICY_ENFORCING_MODE", "",
        Refused("network policy is not enforced yet; a cluster that relies on it must not start"),
        "standard, strict or none";
    ANNOTATE_POD_IP = "ANNOTATE_POD_IP", "false", Honoured,
        "the pod's address as an annotation vpc.amazonaws.com/pod-ips; needs the right to patch pods";
    ENABLE_BANDWIDTH_PLUGIN = "ENABLE_BANDWIDTH_PLUGIN", "false",
        Ignored("chain it in the CNI configuration"), "bandwidth plugin in the chain";
    HOST_CNI_BIN_PATH = "HOST_CNI_BIN_PATH", "/host/opt/cni/bin",
        Ignored("who installs the plugin says where"), "where the plugin is installed";
    HOST_CNI_CONFDIR_PATH = "HOST_CNI_CONFDIR_PATH", "/host/etc/cni/net.d",
        Ignored("who installs the CNI configuration says where"), "where the CNI configuration is installed";
    CONFIGURE_RPFILTER = "AWS_VPC_K8S_CNI_CONFIGURE_RPFILTER", "true",
        Ignored("deprecated: loose reverse-path filtering is always set"), "reverse-path filter of the primary ENI";
    DISABLE_TCP_EARLY_DEMUX = "DISABLE_TCP_EARLY_DEMUX", "false",
        Ignored("it only concerns strict security groups for pods"), "kernel's tcp_early_demux off";
    ENABLE_NFTABLES = "ENABLE_NFTABLES", "false", Ignored("nftables is always used"), "nftables backend";
    LOGLEVEL = "AWS_VPC_K8S_CNI_LOGLEVEL", "DEBUG", Ignored("RUST_LOG chooses"), "how much the agent logs";
    LOG_FILE = "AWS_VPC_K8S_CNI_LOG_FILE", "/host/var/log/aws-routed-eni/ipamd.log",
        Ignored("the log goes to stderr"), "where the agent logs";
    PLUGIN_LOG_FILE = "AWS_VPC_K8S_PLUGIN_LOG_FILE", "/var/log/aws-routed-eni/plugin.log",
        Ignored("the plugin reports to the runtime"), "where the plugin logs";
    PLUGIN_LOG_LEVEL = "AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "DEBUG",
        Ignored("the plugin reports to the runtime"), "how much the plugin logs";
    EGRESS_V4_LOG_FILE = "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE",
        "/var/log/aws-routed-eni/egress-v4-plugin.log", Ignored("there is no egress plugin"),
        "where the IPv4 egress plugin logs";
    EGRESS_V4_LOG_LEVEL = "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_LEVEL", "DEBUG",
        Ignored("there is no egress plugin"), "how much the IPv4 egress plugin logs";
    EGRESS_V6_LOG_FILE = "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE",
        "/var/log/aws-routed-eni/egress-v6-plugin.log", Ignored("there is no egress plugin"),
        "where the IPv6 egress plugin logs";
    EGRESS_V6_LOG_LEVEL = "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_LEVEL", "DEBUG",
        Ignored("there is no egress plugin"), "how much the IPv6 egress plugin logs";
    INTROSPECTION_BIND_ADDRESS = "INTROSPECTION_BIND_ADDRESS", "127.0.0.1:61679", Honoured,
        "where introspection is served: an address and port, or `unix:` and a path";
    DISABLE_INTROSPECTION = "DISABLE_INTROSPECTION", "false", Honoured, "true: no introspection";
    DISABLE_METRICS = "DISABLE_METRICS", "false", Honoured, "true: no metrics";
    METRICS_BIND_ADDRESS = "PENSTOCK_METRICS_BIND_ADDRESS", "0.0.0.0:61678", Honoured,
        "where metrics are served, as text for Prometheus at /metrics: an address and port, or `unix:` and a path";
    CLUSTER_ENDPOINT = "CLUSTER_ENDPOINT", "", Honoured,
        "URL of the API server instead of the one kube-proxy makes reachable";
    KUBERNETES = "PENSTOCK_KUBERNETES", "", Honoured,
        "`api`, or a directory of objects as YAML or JSON; empty means the API server in a pod, else `kubernetes` in the run directory";
    POD_NAME = "MY_POD_NAME", "", Ignored("nothing depends on it"), "name of the agent's own pod";
    CNI_VERSION = "VPC_CNI_VERSION", "", Ignored("nothing depends on it"), "version the manifest names";
}

/// The table as docs/OPERATIONS.md has it.
#[must_use]
pub fn markdown() -> String {
    let mut text = "| variable | default | meaning |\n|---|---|---|\n".to_owned();
    for variable in VARIABLES {
        let default = match variable.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let note = match variable.support {
            Honoured => String::new(),
            Refused(why) => format!("; **another value is refused**: {why}"),
            Ignored(why) => format!("; *ignored*: {why}"),
        };
        text += &format!(
            "| `{}` | {default} | {}{note} |\n",
            variable.name, variable.meaning
        );
    }
    text
}
