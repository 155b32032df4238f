//! The cloud as the agent uses it: a trait, plain types, and errors that say whether a retry makes sense.
//!
//! [`aws::Aws`] is the real one; nothing outside that module names an SDK type. Calls are bounded in time by the
//! implementation and are made without holding any lock.

pub mod aws;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use penstock_dataplane_api::MacAddr;

use crate::ipam::plan::Limits;

/// Tag that names the instance an ENI was made for.
pub const TAG_INSTANCE: &str = "node.k8s.amazonaws.com/instance_id";
/// Tag with the time of creation, RFC 3339.
pub const TAG_CREATED: &str = "node.k8s.amazonaws.com/createdAt";
/// Tag that takes an ENI out of our hands when it says `true`.
pub const TAG_NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
/// Tag with the cluster's name.
pub const TAG_CLUSTER: &str = "cluster.k8s.amazonaws.com/name";

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
    /// Range of its subnet.
    pub subnet: Ipv4Net,
    /// Ranges of the VPC.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// All its addresses, its own first.
    pub addresses: Vec<Ipv4Addr>,
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
    /// Where it is plugged in.
    pub attachment: Option<Attachment>,
    /// Tags.
    pub tags: Tags,
}

impl Described {
    /// The primary ENI always is; others unless tagged `no_manage=true`.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        let primary = self
            .attachment
            .as_ref()
            .is_some_and(|plug| plug.device_number == 0);
        primary
            || self
                .tags
                .get(TAG_NO_MANAGE)
                .is_none_or(|value| value != "true")
    }
}

/// Where an ENI is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// `eni-attach-…`
    pub id: String,
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
    /// Secondary addresses to start with.
    pub secondary_addresses: u32,
}

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// EC2 asks us to slow down.
    Throttled,
    /// The subnet has no address left.
    SubnetFull,
    /// The ENI holds all the addresses it can.
    AddressLimit,
    /// The instance holds all the ENIs it can.
    EniLimit,
    /// Not there, or not visible yet.
    NotFound,
    /// Missing permission or bad credentials.
    Unauthorized,
    /// No answer, or one that makes no sense; the call may have had its effect.
    Transport,
    /// Anything else EC2 says.
    Other,
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

/// Reads an EC2 error code. Codes: EC2 API reference, "Error codes".
#[must_use]
pub fn classify(code: &str) -> ErrorKind {
    match code {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "EC2ThrottledException"
        | "SlowDown" => ErrorKind::Throttled,
        "InsufficientFreeAddressesInSubnet" | "InsufficientCidrBlocks" => ErrorKind::SubnetFull,
        "PrivateIpAddressLimitExceeded" => ErrorKind::AddressLimit,
        "AttachmentLimitExceeded" | "NetworkInterfaceLimitExceeded" => ErrorKind::EniLimit,
        "UnauthorizedOperation"
        | "AuthFailure"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "InvalidClientTokenId"
        | "AccessDenied" => ErrorKind::Unauthorized,
        code if code.ends_with(".NotFound") => ErrorKind::NotFound,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" => {
            ErrorKind::Transport
        }
        _ => ErrorKind::Other,
    }
}

/// The calls the agent makes. Every future ends within the implementation's deadline.
pub trait Ec2: Send + Sync {
    /// Who we are (metadata service).
    fn instance(&self) -> BoxFuture<'_, Result<Instance, Ec2Error>>;
    /// Our ENIs (metadata service).
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, Ec2Error>>;
    /// DescribeInstanceTypes.
    fn limits<'a>(&'a self, instance_type: &'a str) -> BoxFuture<'a, Result<Limits, Ec2Error>>;
    /// DescribeNetworkInterfaces, all pages.
    fn describe(&self, filter: Filter) -> BoxFuture<'_, Result<Vec<Described>, Ec2Error>>;
    /// CreateNetworkInterface; the new ENI's id.
    fn create(&self, eni: NewEni) -> BoxFuture<'_, Result<String, Ec2Error>>;
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
    /// AssignPrivateIpAddresses; the addresses EC2 says it assigned.
    fn assign<'a>(
        &'a self,
        eni_id: &'a str,
        count: u32,
    ) -> BoxFuture<'a, Result<Vec<Ipv4Addr>, Ec2Error>>;
    /// UnassignPrivateIpAddresses.
    fn unassign<'a>(
        &'a self,
        eni_id: &'a str,
        addresses: Vec<Ipv4Addr>,
    ) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// DetachNetworkInterface.
    fn detach<'a>(&'a self, attachment_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>>;
    /// DeleteNetworkInterface.
    fn delete<'a>(&'a self, eni_id: &'a str) -> BoxFuture<'a, Result<(), Ec2Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_mean_what_the_pool_loop_needs() {
        for (code, kind) in [
            ("RequestLimitExceeded", ErrorKind::Throttled),
            ("InsufficientFreeAddressesInSubnet", ErrorKind::SubnetFull),
            ("PrivateIpAddressLimitExceeded", ErrorKind::AddressLimit),
            ("AttachmentLimitExceeded", ErrorKind::EniLimit),
            ("InvalidNetworkInterfaceID.NotFound", ErrorKind::NotFound),
            ("UnauthorizedOperation", ErrorKind::Unauthorized),
            ("InternalError", ErrorKind::Transport),
            ("InvalidParameterValue", ErrorKind::Other),
        ] {
            assert_eq!(classify(code), kind, "{code}");
        }
    }
}
