//! What each filter name means for each kind of thing.
//!
//! A name that is not here is not a filter of that call: the caller answers an error, as EC2 does.

use crate::cloud::State;
use crate::cloud::describe::search::Values;
use crate::cloud::describe::{SubnetView, TagView, VpcView};
use crate::{Eni, Hypervisor, Instance, InstanceType, SecurityGroupConfig, Tags};

fn tag_filter(tags: &Tags, name: &str) -> Values {
    if name == "tag-key" {
        return Some(tags.keys().cloned().collect());
    }
    let key = name.strip_prefix("tag:")?;
    Some(tags.get(key).cloned().into_iter().collect())
}

pub(super) fn eni_values(eni: &Eni, name: &str) -> Values {
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

pub(super) fn instance_values(state: &State, instance: &Instance, name: &str) -> Values {
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

pub(super) fn type_values(kind: &InstanceType, name: &str) -> Values {
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

pub(super) fn subnet_values(subnet: &SubnetView, name: &str) -> Values {
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

pub(super) fn vpc_values(vpc: &VpcView, name: &str) -> Values {
    let cidrs = || vpc.cidrs.iter().map(|cidr| cidr.trunc().to_string());
    match name {
        "vpc-id" => Some(vec![vpc.vpc_id.clone()]),
        "cidr" | "cidr-block" => Some(cidrs().take(1).collect()),
        "cidr-block-association.cidr-block" => Some(cidrs().collect()),
        "state" => Some(vec!["available".to_owned()]),
        _ => tag_filter(&vpc.tags, name),
    }
}

pub(super) fn group_values(group: &SecurityGroupConfig, vpc_id: &str, name: &str) -> Values {
    match name {
        "group-id" => Some(vec![group.group_id.clone()]),
        "group-name" => Some(vec![group.name.clone()]),
        "vpc-id" => Some(vec![vpc_id.to_owned()]),
        _ => tag_filter(&group.tags, name),
    }
}

pub(super) fn tag_values(tag: &TagView, name: &str) -> Values {
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
