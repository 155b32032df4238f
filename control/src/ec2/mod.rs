//! The cloud as the agent uses it: a trait, plain types, and errors that say whether a retry makes sense.
//!
//! [`aws::Aws`] is the real one; nothing outside that module names an SDK type. Calls are bounded in time by the
//! implementation and are made without holding any lock.

pub mod aws;
pub mod gate;
mod instance_type;
mod meaning;

pub use instance_type::known_limits;
pub use meaning::{ErrorKind, classify};

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use penstock_dataplane_api::MacAddr;

use crate::ipam::plan::{Limits, Units};
use crate::ipam::pool::Parting;

/// Tag that names the instance an ENI was made for.
pub const TAG_INSTANCE: &str = "node.k8s.amazonaws.com/instance_id";
/// Tag with the time of creation, RFC 3339.
pub const TAG_CREATED: &str = "node.k8s.amazonaws.com/createdAt";
/// Tag that takes an ENI out of our hands when it says `true`.
pub const TAG_NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
/// Tag with the cluster's name.
pub const TAG_CLUSTER: &str = "cluster.k8s.amazonaws.com/name";

/// Tag of a subnet: `0` closes it to pods, any other value opens it.
pub const TAG_SUBNET_ROLE: &str = "kubernetes.io/role/cni";
/// Tag of a subnet, followed by a cluster's name: only for that cluster.
pub const TAG_SUBNET_CLUSTER: &str = "cni.networking.k8s.aws/cluster/";
/// What the description of every ENI the VPC CNI or we make begins with.
pub const DESCRIPTION_PREFIX: &str = "aws-K8S-";

/// Tags of one resource.
pub type Tags = BTreeMap<String, String>;

/// Who this node is, from the instance metadata service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `i-…`
    pub id: String,
    /// For example `m5.large`.
    pub instance_type: String,
    /// For example `eu-west-1a`.
    pub availability_zone: String,
    /// Hardware address of the primary ENI.
    pub primary_mac: MacAddr,
    /// `vpc-…`
    pub vpc_id: String,
}

/// One ENI as the instance metadata service shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// `eni-…`
    pub eni_id: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// 0 is the primary.
    pub device_number: u32,
    /// 0 is the card with the primary.
    pub network_card: u32,
    /// EC2's name of its subnet.
    pub subnet_id: String,
    /// Range of its subnet.
    pub subnet: Ipv4Net,
    /// Ranges of the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Security groups.
    pub groups: Vec<String>,
    /// All its single addresses, its own first.
    pub addresses: Vec<Ipv4Addr>,
    /// Prefixes delegated to it.
    pub prefixes: Vec<Ipv4Net>,
}

/// One ENI as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `eni-…`
    pub eni_id: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// Subnet.
    pub subnet_id: String,
    /// Security groups.
    pub groups: Vec<String>,
    /// Its own address.
    pub primary: Ipv4Addr,
    /// Secondary addresses.
    pub secondaries: Vec<Ipv4Addr>,
    /// Prefixes delegated to it.
    pub prefixes: Vec<Ipv4Net>,
    /// Text given at creation.
    pub description: String,
    /// Where it is plugged in.
    pub attachment: Option<Attachment>,
    /// Tags.
    pub tags: Tags,
}

impl Described {
    /// Whether an ENI of instance `instance_id` is ours to use: the primary always, one tagged `no_manage=true` never,
    /// one tagged as made for the instance always, any other if `untagged`.
    #[must_use]
    pub fn is_managed(&self, instance_id: &str, untagged: bool) -> bool {
        let plug = self.attachment.as_ref();
        if plug.is_some_and(|plug| plug.device_number == 0 && plug.network_card == 0) {
            return true;
        }
        if self
            .tags
            .get(TAG_NO_MANAGE)
            .is_some_and(|value| value == "true")
        {
            return false;
        }
        let ours = self
            .tags
            .get(TAG_INSTANCE)
            .is_some_and(|id| id == instance_id);
        ours || untagged
    }
}

/// A subnet ENIs may be made in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// `subnet-…`
    pub id: String,
    /// Its range.
    pub cidr: Ipv4Net,
    /// Addresses nobody has; not necessarily in one piece.
    pub free: u32,
    /// Tags.
    pub tags: Tags,
}

/// Which subnets to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubnetFilter {
    /// All of a VPC in one zone.
    Zone {
        /// `vpc-…`
        vpc_id: String,
        /// For example `eu-west-1a`.
        availability_zone: String,
    },
    /// This one.
    Subnet(String),
}

/// What EC2 says it has assigned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Granted {
    /// Single addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Prefixes.
    pub prefixes: Vec<Ipv4Net>,
}

/// Where an ENI is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `eni-attach-…`
    pub id: String,
    /// The instance it is plugged into.
    pub instance_id: String,
    /// 0 is the primary.
    pub device_number: u32,
    /// Network card.
    pub network_card: u32,
}

/// Which ENIs to describe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Attached to this instance.
    Instance(String),
    /// Attached to nothing and tagged as made for this instance.
    Orphans(String),
    /// Attached to nothing, in this VPC, tagged as made for any instance, of this cluster if one is named.
    Leaked {
        /// `vpc-…`
        vpc_id: String,
        /// CLUSTER_NAME.
        cluster: Option<String>,
    },
    /// This one.
    Eni(String),
}

/// An ENI to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEni {
    /// Same token, same ENI: a retry after a lost answer makes no second one.
    pub client_token: String,
    /// Subnet to live in.
    pub subnet_id: String,
    /// Security groups.
    pub groups: Vec<String>,
    /// For people, and for the leak sweep of other nodes.
    pub description: String,
    /// Tags.
    pub tags: Tags,
    /// Secondary addresses or prefixes to start with.
    pub units: Units,
}

/// An ENI that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// `eni-…`
    pub eni_id: String,
    /// Hardware address, by which metadata service and kernel will show it.
    pub mac: MacAddr,
    /// What it was given besides its own address.
    pub granted: Granted,
}

/// A call that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ec2Error {
    /// API action or metadata path.
    pub call: &'static str,
    /// What it means.
    pub kind: ErrorKind,
    /// EC2's error code, or empty.
    pub code: String,
    /// Text for people.
    pub message: String,
}

impl fmt::Display for Ec2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code.as_str() {
            "" => write!(f, "{}: {}", self.call, self.message),
            code => write!(f, "{}: {code}: {}", self.call, self.message),
        }
    }
}

impl std::error::Error for Ec2Error {}

/// The calls the agent makes. Every future ends within the implementation's deadline, those of a [`gate::Gate`] when
/// EC2 lets them.
pub trait Ec2: Send + Sync {
    /// Who we are (metadata service).
    fn instance(&self) -> BoxFuture<'_, Result<Instance, Ec2Error>>;
    /// Our ENIs (metadata service).
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, Ec2Error>>;
    /// One of our ENIs (metadata service); `None` when it is not shown.
    fn observe_eni(&self, mac: MacAddr) -> BoxFuture<'_, Result<Option<Observed>, Ec2Error>>;
    /// DescribeInstanceTypes.
    fn limits<'a>(&'a self, instance_type: &'a str) -> BoxFuture<'a, Result<Limits, Ec2Error>>;
    /// DescribeNetworkInterfaces, all pages.
    fn describe(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Described>, Ec2Error>>;
    /// CreateNetworkInterface.
    fn create(&self, eni: NewEni) -> BoxFuture<'_, Result<Created, Ec2Error>>;
    /// AttachNetworkInterface; the attachment's id.
    fn attach<'a>(
        &'a self,
        eni_id: &'a str,
        instance_id: &'a str,
        device_number: u32,
    ) -> BoxFuture<'a, Result<String, Ec2Error>>;
    /// ModifyNetworkInterfaceAttribute: goes when the instance goes.
    fn delete_on_termination<'a>(
        &'a self,
        eni_id: &'a str,
        attachment_id: &'a str,
    ) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// AssignPrivateIpAddresses: single addresses or prefixes, not both; what EC2 says it assigned.
    fn assign<'a>(
        &'a self,
        eni_id: &'a str,
        units: Units,
    ) -> BoxFuture<'a, Result<Granted, Ec2Error>>;
    /// UnassignPrivateIpAddresses.
    fn unassign<'a>(
        &'a self,
        eni_id: &'a str,
        parting: Parting,
    ) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// ModifyNetworkInterfaceAttribute: security groups.
    fn set_groups<'a>(
        &'a self,
        eni_id: &'a str,
        groups: Vec<String>,
    ) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// CreateTags on an ENI.
    fn tag<'a>(&'a self, eni_id: &'a str, tags: Tags) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// DescribeSubnets, all pages.
    fn subnets(&self, filter: SubnetFilter) -> BoxFuture<'_, Result<Vec<Subnet>, Ec2Error>>;
    /// Returns when a call that nobody waits for takes nothing from those that pods wait for, here or on other nodes.
    fn at_leisure(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Whether [`Self::at_leisure`] would return at once.
    fn is_at_leisure(&self) -> bool {
        true
    }
    /// How EC2 has treated us lately, if that is worth keeping over a restart.
    fn restraint(&self) -> Option<gate::Restraint> {
        None
    }
    /// Takes up again where an earlier life of this agent stood.
    fn restrain(&self, _restraint: &gate::Restraint) {}
    /// Why calls take long, while they do.
    fn trouble(&self) -> Option<String> {
        None
    }
    /// DetachNetworkInterface.
    fn detach<'a>(&'a self, attachment_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// DeleteNetworkInterface.
    fn delete<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>>;
}
