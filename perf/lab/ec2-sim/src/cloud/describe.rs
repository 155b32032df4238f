//! The read side: lookups by id, filters and paging.
//!
//! Guarantees: results come ordered by id, so a page token (the last id given) stays valid while things come and go.

mod field;
mod search;

use crate::cloud::Cloud;
use crate::cloud::state::{State, check_id};
use crate::{ApiError, Eni, Instance, InstanceType, SecurityGroupConfig, SubnetConfig, Tags};
use field::{
    eni_values, group_values, instance_values, subnet_values, tag_values, type_values, vpc_values,
};
use search::{paged, select};

/// One filter: any of the values; `*` and `?` are wildcards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// For example `attachment.instance-id` or `tag:Name`.
    pub name: String,
    /// Any of these.
    pub values: Vec<String>,
}

/// What part of the results is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// At most this many.
    pub max_results: Option<usize>,
    /// The token of the page before.
    pub next_token: Option<String>,
}

/// What a call accepts and does about paging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// Smallest `MaxResults`.
    pub min: usize,
    /// Largest `MaxResults`.
    pub max: usize,
    /// Page size when none is asked for.
    pub default: usize,
}

impl PageLimits {
    /// Most calls.
    pub const USUAL: Self = Self {
        min: 5,
        max: 1000,
        default: 1000,
    };
    /// `DescribeInstanceTypes`.
    pub const INSTANCE_TYPES: Self = Self {
        min: 5,
        max: 100,
        default: 100,
    };
}

/// One page of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The results.
    pub items: Vec<T>,
    /// How to get the rest; `None` when this is all.
    pub next_token: Option<String>,
}

/// A subnet and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetView {
    /// As configured.
    pub config: SubnetConfig,
    /// The VPC it is in.
    pub vpc_id: String,
    /// Addresses nobody has.
    pub free_addresses: usize,
}

/// The VPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VpcView {
    /// Its id.
    pub vpc_id: String,
    /// Its ranges, the primary one first.
    pub cidrs: Vec<ipnet::Ipv4Net>,
    /// Tags.
    pub tags: Tags,
}

/// One tag of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagView {
    /// Whose.
    pub resource_id: String,
    /// For example `network-interface`.
    pub resource_type: &'static str,
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
}

impl Cloud {
    /// `DescribeNetworkInterfaces`.
    ///
    /// # Errors
    /// An unknown id or filter, ids together with `max_results`, a bad token.
    pub fn describe_network_interfaces(
        &self,
        ids: &[String],
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<Eni>, ApiError> {
        let now = self.now();
        let state = self.lock();
        let shown = state.shown(now);
        for id in ids {
            check_id(id, "eni-", "InvalidNetworkInterfaceId.Malformed")?;
            if shown.iter().all(|eni| eni.eni_id != *id) {
                return Err(ApiError::no_interface(id));
            }
        }
        let found = select(
            shown.into_iter(),
            ids,
            filters,
            |eni| eni.eni_id.clone(),
            eni_values,
        )?;
        paged(found, ids, page, PageLimits::USUAL, |eni| {
            eni.eni_id.clone()
        })
    }

    /// `DescribeInstances`: the instances and their interfaces by device index.
    ///
    /// # Errors
    /// An unknown id or filter, ids together with `max_results`, a bad token.
    pub fn describe_instances(
        &self,
        ids: &[String],
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<(Instance, Vec<Eni>)>, ApiError> {
        let state = self.lock();
        for id in ids {
            state.instance_record(id)?;
        }
        let all = state
            .instances
            .keys()
            .filter_map(|id| state.instance_view(id));
        let found = select(
            all,
            ids,
            filters,
            |i| i.instance_id.clone(),
            |i, name| instance_values(&state, i, name),
        )?;
        let page = paged(found, ids, page, PageLimits::USUAL, |i| {
            i.instance_id.clone()
        })?;
        let with_enis = |instance: Instance| {
            let enis = state.enis_of(&instance.instance_id);
            (instance, enis)
        };
        Ok(Page {
            items: page.items.into_iter().map(with_enis).collect(),
            next_token: page.next_token,
        })
    }

    /// `DescribeInstanceTypes`.
    ///
    /// # Errors
    /// An unknown type (`InvalidInstanceType`) or filter, names together with `max_results`, a bad token.
    pub fn describe_instance_types(
        &self,
        names: &[String],
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<InstanceType>, ApiError> {
        let state = self.lock();
        for name in names {
            state.instance_type(name)?;
        }
        let found = select(
            state.types.iter().cloned(),
            names,
            filters,
            |t| t.name.clone(),
            type_values,
        )?;
        paged(found, names, page, PageLimits::INSTANCE_TYPES, |t| {
            t.name.clone()
        })
    }

    /// `DescribeSubnets`.
    ///
    /// # Errors
    /// An unknown id or filter, ids together with `max_results`, a bad token.
    pub fn describe_subnets(
        &self,
        ids: &[String],
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<SubnetView>, ApiError> {
        let state = self.lock();
        for id in ids {
            check_id(id, "subnet-", "InvalidSubnetID.Malformed")?;
            if !state.subnets.contains_key(id) {
                return Err(ApiError::no_subnet(id));
            }
        }
        let all = state.subnets.values().map(|record| SubnetView {
            config: record.config.clone(),
            vpc_id: state.vpc_id.clone(),
            free_addresses: record.pool.free(),
        });
        let found = select(
            all,
            ids,
            filters,
            |s| s.config.subnet_id.clone(),
            subnet_values,
        )?;
        paged(found, ids, page, PageLimits::USUAL, |s| {
            s.config.subnet_id.clone()
        })
    }

    /// `DescribeVpcs`.
    ///
    /// # Errors
    /// An unknown id or filter, ids together with `max_results`, a bad token.
    pub fn describe_vpcs(
        &self,
        ids: &[String],
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<VpcView>, ApiError> {
        let state = self.lock();
        if let Some(unknown) = ids.iter().find(|id| **id != state.vpc_id) {
            return Err(ApiError::no_vpc(unknown));
        }
        let cidrs = self.config().vpc_cidrs.clone();
        let vpc = VpcView {
            vpc_id: state.vpc_id.clone(),
            cidrs,
            tags: state.vpc_tags.clone(),
        };
        let found = select(
            [vpc].into_iter(),
            ids,
            filters,
            |v| v.vpc_id.clone(),
            vpc_values,
        )?;
        paged(found, ids, page, PageLimits::USUAL, |v| v.vpc_id.clone())
    }

    /// `DescribeSecurityGroups`.
    ///
    /// # Errors
    /// An unknown id or filter, ids together with `max_results`, a bad token.
    pub fn describe_security_groups(
        &self,
        ids: &[String],
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<SecurityGroupConfig>, ApiError> {
        let state = self.lock();
        if let Some(unknown) = ids
            .iter()
            .find(|id| state.groups.iter().all(|g| g.group_id != **id))
        {
            return Err(ApiError::no_group(unknown));
        }
        let vpc_id = state.vpc_id.clone();
        let values = |group: &SecurityGroupConfig, name: &str| group_values(group, &vpc_id, name);
        let found = select(
            state.groups.iter().cloned(),
            ids,
            filters,
            |g| g.group_id.clone(),
            values,
        )?;
        paged(found, ids, page, PageLimits::USUAL, |g| g.group_id.clone())
    }

    /// `DescribeTags`.
    ///
    /// # Errors
    /// An unknown filter or a bad token.
    pub fn describe_tags(
        &self,
        filters: &[Filter],
        page: &PageRequest,
    ) -> Result<Page<TagView>, ApiError> {
        let all = self.lock().all_tags();
        let key = |tag: &TagView| format!("{} {}", tag.resource_id, tag.key);
        let found = select(all.into_iter(), &[], filters, key, tag_values)?;
        paged(found, &[], page, PageLimits::USUAL, key)
    }
}

impl State {
    fn all_tags(&self) -> Vec<TagView> {
        let enis = self
            .enis
            .iter()
            .map(|(id, record)| (id, "network-interface", &record.eni.tags));
        let instances = self
            .instances
            .iter()
            .map(|(id, record)| (id, "instance", &record.tags));
        let subnets = self
            .subnets
            .iter()
            .map(|(id, record)| (id, "subnet", &record.config.tags));
        let groups = self
            .groups
            .iter()
            .map(|group| (&group.group_id, "security-group", &group.tags));
        let vpc = std::iter::once((&self.vpc_id, "vpc", &self.vpc_tags));
        let all = enis
            .chain(instances)
            .chain(subnets)
            .chain(groups)
            .chain(vpc);
        let views = all.flat_map(|(id, resource_type, tags)| {
            tags.iter().map(move |(key, value)| TagView {
                resource_id: id.clone(),
                resource_type,
                key: key.clone(),
                value: value.clone(),
            })
        });
        views.collect()
    }
}
