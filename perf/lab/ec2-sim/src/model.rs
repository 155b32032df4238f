//! What the cloud holds: network interfaces and instances, as plain data.
//!
//! Values here are copies of the state at one moment; changing one changes nothing in the cloud.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

/// Tags of one resource, key to value.
pub type Tags = BTreeMap<String, String>;

/// Life of a network interface, as `DescribeNetworkInterfaces` spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EniStatus {
    /// Not attached.
    Available,
    /// Attaching, attached or detaching.
    InUse,
    /// Gone; only ever seen by [`crate::Wire::addresses_changed`].
    Deleted,
}

impl EniStatus {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::InUse => "in-use",
            Self::Deleted => "deleted",
        }
    }
}

/// Life of an attachment, as the API spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachmentStatus {
    /// Not attached.
    Detached,
    /// Attach accepted; the interface is not there yet.
    Attaching,
    /// The interface is in the instance.
    Attached,
    /// Detach accepted; the interface is still there.
    Detaching,
}

impl AttachmentStatus {
    /// The API's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
        }
    }
}

/// An elastic network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eni {
    /// `eni-...`.
    pub eni_id: String,
    /// Hardware address, unique in the cloud, locally administered.
    pub mac: [u8; 6],
    /// The subnet it lives in.
    pub subnet_id: String,
    /// That subnet's range.
    pub subnet_cidr: Ipv4Net,
    /// The VPC it lives in.
    pub vpc_id: String,
    /// That subnet's availability zone.
    pub availability_zone: String,
    /// Primary private address; never changes.
    pub primary: Ipv4Addr,
    /// Secondary private addresses, in order of assignment.
    pub secondaries: Vec<Ipv4Addr>,
    /// Prefixes delegated to it, /28 each, in order of assignment.
    pub prefixes: Vec<Ipv4Net>,
    /// Position in the instance; 0 is the primary interface. Meaningless (and 0) while `attachment_id` is `None`.
    pub device_index: u32,
    /// `eni-attach-...` while attached.
    pub attachment_id: Option<String>,
    /// The instance it is attached to.
    pub instance_id: Option<String>,
    /// State of the attachment.
    pub attachment_status: AttachmentStatus,
    /// When the attachment was asked for, since the Unix epoch.
    pub attach_time: Duration,
    /// Whether it goes when its instance goes.
    pub delete_on_termination: bool,
    /// Security group ids.
    pub groups: Vec<String>,
    /// Tags.
    pub tags: Tags,
    /// Free text given at creation.
    pub description: String,
    /// Whether the VPC drops what it sends from, or for, addresses it does not own.
    pub source_dest_check: bool,
    /// State of the interface.
    pub status: EniStatus,
}

impl Eni {
    /// Every private address it owns one by one, the primary first.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        std::iter::once(self.primary).chain(self.secondaries.iter().copied())
    }

    /// Every private address the VPC delivers to it, those of its prefixes included.
    pub fn delivered(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let prefixes = self.prefixes.iter().flat_map(|prefix| {
            let range = u32::from(prefix.network())..=u32::from(prefix.broadcast());
            range.map(Ipv4Addr::from)
        });
        self.addresses().chain(prefixes)
    }

    /// How much of its limit it uses: an address and a prefix count the same.
    #[must_use]
    pub fn slots(&self) -> usize {
        1 + self.secondaries.len() + self.prefixes.len()
    }

    /// The hardware address as text, lower case with colons.
    #[must_use]
    pub fn mac_text(&self) -> String {
        MacText(self.mac).to_string()
    }
}

struct MacText([u8; 6]);

impl fmt::Display for MacText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `i-...`.
    pub instance_id: String,
    /// The `Name` tag.
    pub name: String,
    /// For example `m5.large`.
    pub instance_type: String,
    /// Subnet of the primary interface.
    pub subnet_id: String,
    /// Availability zone of that subnet.
    pub availability_zone: String,
    /// `ip-10-0-0-4.eu-west-1.compute.internal`.
    pub private_dns_name: String,
    /// The interface with device index 0.
    pub primary_eni: Eni,
    /// Launch time since the Unix epoch.
    pub launch_time: Duration,
    /// Tags.
    pub tags: Tags,
}

/// A scripted failure: the next `count` calls of `action` answer `error_code` and change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The action, for example `AssignPrivateIpAddresses`; `*` for any.
    pub action: String,
    /// The EC2 error code, for example `RequestLimitExceeded`.
    pub error_code: String,
    /// How many calls fail.
    pub count: u32,
}
