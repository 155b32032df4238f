//! What a simulated cloud is made of: one VPC, its subnets, its security groups and the delays of its API.
//!
//! [`CloudConfig::default`] is a usable small VPC. Validation happens once, in [`crate::Cloud::new`].

use std::time::Duration;

use ipnet::Ipv4Net;

use crate::{InstanceType, Tags};

/// One subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetConfig {
    /// `subnet-...`.
    pub subnet_id: String,
    /// Its range, /16 to /28, inside one of the VPC's.
    pub cidr: Ipv4Net,
    /// One of the configured zones.
    pub availability_zone: String,
    /// Tags.
    pub tags: Tags,
}

/// One security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroupConfig {
    /// `sg-...`.
    pub group_id: String,
    /// Its name.
    pub name: String,
    /// Tags.
    pub tags: Tags,
}

/// The whole cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudConfig {
    /// For example `eu-west-1`.
    pub region: String,
    /// For example `eu-west-1a`.
    pub availability_zones: Vec<String>,
    /// `vpc-...`.
    pub vpc_id: String,
    /// Primary range first, then the associated ones.
    pub vpc_cidrs: Vec<Ipv4Net>,
    /// Subnets, at least one.
    pub subnets: Vec<SubnetConfig>,
    /// Security groups; the first is what an interface gets when none is named.
    pub security_groups: Vec<SecurityGroupConfig>,
    /// Instance types added to (or replacing entries of) the built-in table.
    pub instance_types: Vec<InstanceType>,
    /// Owner of everything, twelve digits.
    pub account_id: String,
    /// Role whose credentials the metadata service hands out.
    pub iam_role: String,
    /// Seed of the ids and MACs.
    pub seed: u32,
    /// From `AttachNetworkInterface` to `attached`.
    pub attach_delay: Duration,
    /// From `DetachNetworkInterface` to `available`.
    pub detach_delay: Duration,
    /// For how long after its creation an interface is unknown to every call but its creator's reply (EC2 is
    /// eventually consistent).
    pub create_visibility_delay: Duration,
    /// How long every API call takes.
    pub latency: Duration,
}

impl Default for CloudConfig {
    /// One VPC 10.0.0.0/16 in two zones, a /24 in each, one security group, no delays.
    fn default() -> Self {
        let subnet = |id: &str, third: u8, zone: &str| SubnetConfig {
            subnet_id: id.to_owned(),
            cidr: Ipv4Net::new_assert([10, 0, third, 0].into(), 24),
            availability_zone: zone.to_owned(),
            tags: Tags::new(),
        };
        Self {
            region: "eu-west-1".to_owned(),
            availability_zones: vec!["eu-west-1a".to_owned(), "eu-west-1b".to_owned()],
            vpc_id: "vpc-00000000000000001".to_owned(),
            vpc_cidrs: vec![Ipv4Net::new_assert([10, 0, 0, 0].into(), 16)],
            subnets: vec![
                subnet("subnet-0000000000000000a", 1, "eu-west-1a"),
                subnet("subnet-0000000000000000b", 2, "eu-west-1b"),
            ],
            security_groups: vec![SecurityGroupConfig {
                group_id: "sg-00000000000000001".to_owned(),
                name: "nodes".to_owned(),
                tags: Tags::new(),
            }],
            instance_types: Vec::new(),
            account_id: "123456789012".to_owned(),
            iam_role: "penstock-node".to_owned(),
            seed: 1,
            attach_delay: Duration::ZERO,
            detach_delay: Duration::ZERO,
            create_visibility_delay: Duration::ZERO,
            latency: Duration::ZERO,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A list that needs an entry has none.
    #[error("the cloud needs at least one {0}")]
    Missing(&'static str),
    /// An id appears twice.
    #[error("{0} is configured twice")]
    Duplicate(String),
    /// A subnet is too large or too small for EC2.
    #[error("subnet {subnet_id}: {cidr} is not between /16 and /28")]
    SubnetSize {
        /// The subnet.
        subnet_id: String,
        /// Its range.
        cidr: Ipv4Net,
    },
    /// A subnet is not part of the VPC.
    #[error("subnet {subnet_id}: {cidr} is outside the VPC")]
    SubnetOutsideVpc {
        /// The subnet.
        subnet_id: String,
        /// Its range.
        cidr: Ipv4Net,
    },
    /// Two subnets share addresses.
    #[error("subnets {0} and {1} overlap")]
    SubnetsOverlap(String, String),
    /// A subnet names a zone that is not configured.
    #[error("subnet {subnet_id}: unknown availability zone {availability_zone}")]
    UnknownZone {
        /// The subnet.
        subnet_id: String,
        /// The zone it names.
        availability_zone: String,
    },
}

impl CloudConfig {
    /// Checks what EC2 would not let anybody create.
    ///
    /// # Errors
    /// The first problem found.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        require(&self.availability_zones, "availability zone")?;
        require(&self.vpc_cidrs, "VPC range")?;
        require(&self.subnets, "subnet")?;
        require(&self.security_groups, "security group")?;
        for (i, subnet) in self.subnets.iter().enumerate() {
            self.validate_subnet(subnet)?;
            for other in self.subnets.iter().take(i) {
                reject_overlap(subnet, other)?;
            }
        }
        for (i, group) in self.security_groups.iter().enumerate() {
            if self
                .security_groups
                .iter()
                .take(i)
                .any(|g| g.group_id == group.group_id)
            {
                return Err(ConfigError::Duplicate(group.group_id.clone()));
            }
        }
        Ok(())
    }

    fn validate_subnet(&self, subnet: &SubnetConfig) -> Result<(), ConfigError> {
        let (subnet_id, cidr) = (subnet.subnet_id.clone(), subnet.cidr.trunc());
        if !(16..=28).contains(&cidr.prefix_len()) {
            return Err(ConfigError::SubnetSize { subnet_id, cidr });
        }
        if !self.vpc_cidrs.iter().any(|vpc| vpc.contains(&cidr)) {
            return Err(ConfigError::SubnetOutsideVpc { subnet_id, cidr });
        }
        if !self.availability_zones.contains(&subnet.availability_zone) {
            let availability_zone = subnet.availability_zone.clone();
            return Err(ConfigError::UnknownZone {
                subnet_id,
                availability_zone,
            });
        }
        Ok(())
    }
}

fn require<T>(list: &[T], what: &'static str) -> Result<(), ConfigError> {
    if list.is_empty() {
        Err(ConfigError::Missing(what))
    } else {
        Ok(())
    }
}

fn reject_overlap(a: &SubnetConfig, b: &SubnetConfig) -> Result<(), ConfigError> {
    if a.subnet_id == b.subnet_id {
        return Err(ConfigError::Duplicate(a.subnet_id.clone()));
    }
    if a.cidr.contains(&b.cidr) || b.cidr.contains(&a.cidr) {
        return Err(ConfigError::SubnetsOverlap(
            b.subnet_id.clone(),
            a.subnet_id.clone(),
        ));
    }
    Ok(())
}
