//! The read side: lookups by id, filters and paging.
//!
//! Guarantees: results come ordered by id, so a page token (the last id given) stays valid while things come and go.

use crate::cloud::Cloud;
use crate::cloud::state::{State, check_id};
use crate::{
    ApiError, Eni, Hypervisor, Instance, InstanceType, SecurityGroupConfig, SubnetConfig, Tags,
};

/// Values a filter may list (EC2 user guide, "List and filter your resources").
const FILTER_VALUES_MAX: usize = 200;

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
        for id in ids {
            state.visible(id, now)?;
        }
        let visible = state
            .enis
            .values()
            .filter(|record| record.visible_at <= now)
            .map(|record| record.eni.clone());
        let found = select(visible, ids, filters, |eni| eni.eni_id.clone(), eni_values)?;
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

/// The values a thing has under a filter's name; `None` if there is no such filter.
type Values = Option<Vec<String>>;

fn select<T>(
    all: impl Iterator<Item = T>,
    ids: &[String],
    filters: &[Filter],
    id_of: impl Fn(&T) -> String,
    values_of: impl Fn(&T, &str) -> Values,
) -> Result<Vec<T>, ApiError> {
    if let Some(filter) = filters.iter().find(|f| f.values.len() > FILTER_VALUES_MAX) {
        let message = format!(
            "The filter '{}' exceeds the limit of {FILTER_VALUES_MAX} values",
            filter.name
        );
        return Err(ApiError::new("FilterLimitExceeded", message));
    }
    let mut found = Vec::new();
    for item in all {
        let mut wanted = ids.is_empty() || ids.contains(&id_of(&item));
        for filter in filters {
            let unknown =
                || ApiError::invalid_value(format!("The filter '{}' is invalid", filter.name));
            let values = values_of(&item, &filter.name).ok_or_else(unknown)?;
            wanted &= values
                .iter()
                .any(|value| filter.values.iter().any(|pattern| wildcard(pattern, value)));
        }
        if wanted {
            found.push(item);
        }
    }
    found.sort_by_key(id_of);
    Ok(found)
}

fn paged<T>(
    found: Vec<T>,
    ids: &[String],
    page: &PageRequest,
    limits: PageLimits,
    id_of: impl Fn(&T) -> String,
) -> Result<Page<T>, ApiError> {
    if !ids.is_empty() && page.max_results.is_some() {
        let message = "MaxResults cannot be combined with a list of ids in the same request";
        return Err(ApiError::combination(message));
    }
    let size = page.max_results.unwrap_or(limits.default);
    if !(limits.min..=limits.max).contains(&size) {
        let (min, max) = (limits.min, limits.max);
        let message = format!(
            "Value ( {size} ) for parameter maxResults is invalid. Expecting {min} to {max}."
        );
        return Err(ApiError::invalid_value(message));
    }
    let after = page.next_token.as_deref().map(read_token).transpose()?;
    let mut items: Vec<T> = match after {
        Some(after) => found
            .into_iter()
            .filter(|item| id_of(item) > after)
            .collect(),
        None => found,
    };
    let more = items.len() > size;
    items.truncate(size);
    let next_token = items
        .last()
        .filter(|_| more)
        .map(|last| write_token(&id_of(last)));
    Ok(Page { items, next_token })
}

/// Tokens are the last id in hexadecimal, so that nobody takes them for ids.
fn write_token(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn read_token(token: &str) -> Result<String, ApiError> {
    let pairs = token.as_bytes().chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair)
            .ok()
            .filter(|text| text.len() == 2)?;
        u8::from_str_radix(text, 16).ok()
    });
    let bytes: Option<Vec<u8>> = pairs.collect();
    let id = bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|id| !id.is_empty());
    id.ok_or_else(|| ApiError::new("InvalidNextToken", "The token is not valid"))
}

/// Whether `text` matches `pattern`, in which `*` is any text, `?` any character and `\` takes both literally.
fn wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some('*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some('?'), Some(_)) => Some(1),
            (Some('\\'), Some(c)) if pattern.get(p + 1) == Some(c) => Some(2),
            (Some(literal), Some(c)) if literal == c && *literal != '\\' => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(width), _) => (p, t) = (p + width, t + 1),
            // Back to the last star, which takes one character more.
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                (p, t) = (after, from + 1);
            }
            (None, _) => return false,
        }
    }
}

fn tag_filter(tags: &Tags, name: &str) -> Values {
    if name == "tag-key" {
        return Some(tags.keys().cloned().collect());
    }
    let key = name.strip_prefix("tag:")?;
    Some(tags.get(key).cloned().into_iter().collect())
}

fn eni_values(eni: &Eni, name: &str) -> Values {
    let one = |value: &str| Some(vec![value.to_owned()]);
    let attached = |value: Option<String>| Some(value.into_iter().collect());
    let is_attached = eni.attachment_id.is_some();
    match name {
        "network-interface-id" => one(&eni.eni_id),
        "description" => one(&eni.description),
        "status" => one(eni.status.as_str()),
        "subnet-id" => one(&eni.subnet_id),
        "vpc-id" => one(&eni.vpc_id),
        "availability-zone" => one(&eni.availability_zone),
        "mac-address" => one(&eni.mac_text()),
        "interface-type" => one("interface"),
        "requester-managed" => one("false"),
        "private-ip-address" => one(&eni.primary.to_string()),
        "addresses.private-ip-address" => Some(eni.addresses().map(|a| a.to_string()).collect()),
        "group-id" => Some(eni.groups.clone()),
        "source-dest-check" => one(if eni.source_dest_check {
            "true"
        } else {
            "false"
        }),
        "attachment.attachment-id" => attached(eni.attachment_id.clone()),
        "attachment.instance-id" => attached(eni.instance_id.clone()),
        "attachment.device-index" => attached(is_attached.then(|| eni.device_index.to_string())),
        "attachment.status" => {
            attached(is_attached.then(|| eni.attachment_status.as_str().to_owned()))
        }
        "attachment.delete-on-termination" => {
            attached(is_attached.then(|| eni.delete_on_termination.to_string()))
        }
        _ => tag_filter(&eni.tags, name),
    }
}

fn instance_values(state: &State, instance: &Instance, name: &str) -> Values {
    let one = |value: &str| Some(vec![value.to_owned()]);
    match name {
        "instance-id" => one(&instance.instance_id),
        "instance-type" => one(&instance.instance_type),
        "instance-state-name" => one("running"),
        "availability-zone" => one(&instance.availability_zone),
        "subnet-id" => one(&instance.subnet_id),
        "vpc-id" => one(&state.vpc_id),
        "private-dns-name" => one(&instance.private_dns_name),
        "private-ip-address" => one(&instance.primary_eni.primary.to_string()),
        _ => tag_filter(&instance.tags, name),
    }
}

fn type_values(kind: &InstanceType, name: &str) -> Values {
    let one = |value: &str| Some(vec![value.to_owned()]);
    match name {
        "instance-type" => one(&kind.name),
        "hypervisor" => match kind.hypervisor {
            Hypervisor::Nitro => one("nitro"),
            Hypervisor::Xen => one("xen"),
            Hypervisor::BareMetal => Some(Vec::new()),
        },
        "bare-metal" => one(if kind.hypervisor == Hypervisor::BareMetal {
            "true"
        } else {
            "false"
        }),
        _ => None,
    }
}

fn subnet_values(subnet: &SubnetView, name: &str) -> Values {
    let one = |value: &str| Some(vec![value.to_owned()]);
    match name {
        "subnet-id" => one(&subnet.config.subnet_id),
        "vpc-id" => one(&subnet.vpc_id),
        "availability-zone" => one(&subnet.config.availability_zone),
        "cidr-block" | "cidrBlock" | "cidr" => one(&subnet.config.cidr.trunc().to_string()),
        "state" => one("available"),
        _ => tag_filter(&subnet.config.tags, name),
    }
}

fn vpc_values(vpc: &VpcView, name: &str) -> Values {
    let cidrs = || vpc.cidrs.iter().map(|cidr| cidr.trunc().to_string());
    match name {
        "vpc-id" => Some(vec![vpc.vpc_id.clone()]),
        "cidr" | "cidr-block" => Some(cidrs().take(1).collect()),
        "cidr-block-association.cidr-block" => Some(cidrs().collect()),
        "state" => Some(vec!["available".to_owned()]),
        _ => tag_filter(&vpc.tags, name),
    }
}

fn group_values(group: &SecurityGroupConfig, vpc_id: &str, name: &str) -> Values {
    match name {
        "group-id" => Some(vec![group.group_id.clone()]),
        "group-name" => Some(vec![group.name.clone()]),
        "vpc-id" => Some(vec![vpc_id.to_owned()]),
        _ => tag_filter(&group.tags, name),
    }
}

fn tag_values(tag: &TagView, name: &str) -> Values {
    match name {
        "resource-id" => Some(vec![tag.resource_id.clone()]),
        "resource-type" => Some(vec![tag.resource_type.to_owned()]),
        "key" | "tag-key" => Some(vec![tag.key.clone()]),
        "value" => Some(vec![tag.value.clone()]),
        _ => name
            .strip_prefix("tag:")
            .map(|key| Vec::from_iter((key == tag.key).then(|| tag.value.clone()))),
    }
}
