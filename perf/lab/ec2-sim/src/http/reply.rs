//! The cloud's things as EC2 writes them.
//!
//! Element names are those of the EC2 API reference (and of the parsers generated from its model). Elements that real
//! EC2 leaves out here are left out.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cloud::{SubnetView, TagView, VpcView};
use crate::http::xml::{Namespace, Xml};
use crate::{
    ApiError, CloudConfig, Eni, Hypervisor, Instance, InstanceType, SecurityGroupConfig, Tags,
};

/// The image every instance claims to run.
pub(crate) const IMAGE_ID: &str = "ami-00000000000000001";

pub(super) fn error(error: &ApiError, request_id: &str) -> String {
    Xml::document("Response", Namespace::None, |xml| {
        xml.node("Errors", |xml| {
            xml.node("Error", |xml| {
                xml.text("Code", &error.code);
                xml.text("Message", &error.message);
            });
        });
        xml.text("RequestID", request_id);
    })
}

/// A moment since the Unix epoch in ISO 8601.
pub(crate) fn timestamp(since_epoch: std::time::Duration) -> String {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment.format(&Rfc3339).unwrap_or_default()
}

pub(super) fn tags(xml: &mut Xml, tags: &Tags) {
    xml.set("tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

/// What a reply needs to know beside the thing it shows.
pub(super) struct Scene<'a> {
    pub(super) config: &'a CloudConfig,
    pub(super) groups: &'a [SecurityGroupConfig],
}

impl Scene<'_> {
    fn group_set(&self, xml: &mut Xml, ids: &[String]) {
        xml.set("groupSet", ids, |xml, id| {
            let name = self
                .groups
                .iter()
                .find(|g| g.group_id == *id)
                .map(|g| g.name.as_str());
            xml.text("groupId", id);
            xml.text("groupName", name.unwrap_or_default());
        });
    }

    fn dns_name(&self, address: std::net::Ipv4Addr) -> String {
        let dashed = address.to_string().replace('.', "-");
        format!("ip-{dashed}.{}.compute.internal", self.config.region)
    }

    fn addresses(&self, xml: &mut Xml, eni: &Eni) {
        xml.text("privateIpAddress", eni.primary);
        xml.text("privateDnsName", self.dns_name(eni.primary));
        xml.set("privateIpAddressesSet", eni.addresses(), |xml, address| {
            xml.text("privateIpAddress", address);
            xml.text("privateDnsName", self.dns_name(address));
            xml.text("primary", address == eni.primary);
        });
        xml.set("ipv4PrefixSet", &eni.prefixes, |xml, prefix| {
            xml.text("ipv4Prefix", prefix);
        });
        xml.node("ipv6AddressesSet", |_| {});
    }

    /// What a `NetworkInterface` and an instance's view of one have in common.
    fn eni_body(&self, xml: &mut Xml, eni: &Eni) {
        xml.text("networkInterfaceId", &eni.eni_id);
        xml.text("subnetId", &eni.subnet_id);
        xml.text("vpcId", &eni.vpc_id);
        xml.text("description", &eni.description);
        xml.text("ownerId", &self.config.account_id);
        xml.text("status", eni.status.as_str());
        xml.text("macAddress", eni.mac_text());
        xml.text("sourceDestCheck", eni.source_dest_check);
        xml.text("interfaceType", "interface");
        self.group_set(xml, &eni.groups);
        self.addresses(xml, eni);
    }

    pub(super) fn network_interface(&self, xml: &mut Xml, eni: &Eni) {
        self.eni_body(xml, eni);
        xml.text("availabilityZone", &eni.availability_zone);
        xml.text("requesterManaged", false);
        if let (Some(attachment_id), Some(instance_id)) = (&eni.attachment_id, &eni.instance_id) {
            xml.node("attachment", |xml| {
                xml.text("attachmentId", attachment_id);
                xml.text("instanceId", instance_id);
                xml.text("instanceOwnerId", &self.config.account_id);
                attachment_body(xml, eni);
            });
        }
        tags(xml, &eni.tags);
    }

    fn instance_interface(&self, xml: &mut Xml, eni: &Eni) {
        self.eni_body(xml, eni);
        xml.node("attachment", |xml| {
            xml.text(
                "attachmentId",
                eni.attachment_id.as_deref().unwrap_or_default(),
            );
            attachment_body(xml, eni);
        });
    }

    /// One reservation with one instance.
    pub(super) fn reservation(&self, xml: &mut Xml, (instance, enis): &(Instance, Vec<Eni>)) {
        xml.text(
            "reservationId",
            instance.instance_id.replacen("i-", "r-", 1),
        );
        xml.text("ownerId", &self.config.account_id);
        xml.node("groupSet", |_| {});
        xml.set("instancesSet", [instance], |xml, instance| {
            self.instance(xml, instance, enis);
        });
    }

    fn instance(&self, xml: &mut Xml, instance: &Instance, enis: &[Eni]) {
        let primary = &instance.primary_eni;
        xml.text("instanceId", &instance.instance_id);
        xml.text("imageId", IMAGE_ID);
        xml.node("instanceState", |xml| {
            // EC2's code for `running`.
            xml.text("code", 16);
            xml.text("name", "running");
        });
        xml.text("privateDnsName", &instance.private_dns_name);
        xml.text("privateIpAddress", primary.primary);
        xml.text("amiLaunchIndex", 0);
        xml.text("instanceType", &instance.instance_type);
        xml.text("launchTime", timestamp(instance.launch_time));
        xml.node("placement", |xml| {
            xml.text("availabilityZone", &instance.availability_zone);
            xml.text("tenancy", "default");
        });
        xml.text("subnetId", &instance.subnet_id);
        xml.text("vpcId", &primary.vpc_id);
        xml.text("architecture", "x86_64");
        xml.text("hypervisor", "xen");
        xml.text("virtualizationType", "hvm");
        xml.text("sourceDestCheck", primary.source_dest_check);
        self.group_set(xml, &primary.groups);
        xml.set("networkInterfaceSet", enis, |xml, eni| {
            self.instance_interface(xml, eni);
        });
        tags(xml, &instance.tags);
    }

    pub(super) fn subnet(&self, xml: &mut Xml, subnet: &SubnetView) {
        xml.text("subnetId", &subnet.config.subnet_id);
        xml.text("state", "available");
        xml.text("ownerId", &self.config.account_id);
        xml.text("vpcId", &subnet.vpc_id);
        xml.text("cidrBlock", subnet.config.cidr.trunc());
        xml.node("ipv6CidrBlockAssociationSet", |_| {});
        xml.text("availableIpAddressCount", subnet.free_addresses);
        xml.text("availabilityZone", &subnet.config.availability_zone);
        xml.text("defaultForAz", false);
        xml.text("mapPublicIpOnLaunch", false);
        tags(xml, &subnet.config.tags);
    }

    pub(super) fn vpc(&self, xml: &mut Xml, vpc: &VpcView) {
        xml.text("vpcId", &vpc.vpc_id);
        xml.text("ownerId", &self.config.account_id);
        xml.text("state", "available");
        if let Some(primary) = vpc.cidrs.first() {
            xml.text("cidrBlock", primary.trunc());
        }
        xml.set(
            "cidrBlockAssociationSet",
            vpc.cidrs.iter().enumerate(),
            |xml, (i, cidr)| {
                xml.text("associationId", format!("vpc-cidr-assoc-{i:017x}"));
                xml.text("cidrBlock", cidr.trunc());
                xml.node("cidrBlockState", |xml| xml.text("state", "associated"));
            },
        );
        xml.text("instanceTenancy", "default");
        xml.text("isDefault", false);
        tags(xml, &vpc.tags);
    }

    pub(super) fn security_group(&self, xml: &mut Xml, group: &SecurityGroupConfig) {
        xml.text("ownerId", &self.config.account_id);
        xml.text("groupId", &group.group_id);
        xml.text("groupName", &group.name);
        xml.text("groupDescription", &group.name);
        xml.text("vpcId", &self.config.vpc_id);
        xml.node("ipPermissions", |_| {});
        xml.node("ipPermissionsEgress", |_| {});
        tags(xml, &group.tags);
    }
}

fn attachment_body(xml: &mut Xml, eni: &Eni) {
    xml.text("deviceIndex", eni.device_index);
    xml.text("networkCardIndex", 0);
    xml.text("status", eni.attachment_status.as_str());
    xml.text("attachTime", timestamp(eni.attach_time));
    xml.text("deleteOnTermination", eni.delete_on_termination);
}

pub(super) fn instance_type(xml: &mut Xml, kind: &InstanceType) {
    xml.text("instanceType", &kind.name);
    xml.text("currentGeneration", kind.hypervisor != Hypervisor::Xen);
    xml.text("bareMetal", kind.hypervisor == Hypervisor::BareMetal);
    match kind.hypervisor {
        Hypervisor::Nitro => xml.text("hypervisor", "nitro"),
        Hypervisor::Xen => xml.text("hypervisor", "xen"),
        Hypervisor::BareMetal => {}
    }
    xml.node("vCpuInfo", |xml| xml.text("defaultVCpus", kind.vcpus));
    xml.node("memoryInfo", |xml| xml.text("sizeInMiB", kind.memory_mib));
    xml.node("networkInfo", |xml| {
        xml.text(
            "maximumNetworkInterfaces",
            kind.max_enis.saturating_mul(kind.network_cards),
        );
        xml.text("maximumNetworkCards", kind.network_cards);
        xml.text("defaultNetworkCardIndex", 0);
        xml.set("networkCards", 0..kind.network_cards, |xml, index| {
            xml.text("networkCardIndex", index);
            xml.text("maximumNetworkInterfaces", kind.max_enis);
        });
        xml.text("ipv4AddressesPerInterface", kind.ipv4_per_eni);
        xml.text("ipv6AddressesPerInterface", kind.ipv4_per_eni);
        xml.text("ipv6Supported", true);
        xml.text(
            "enaSupport",
            if kind.hypervisor == Hypervisor::Xen {
                "supported"
            } else {
                "required"
            },
        );
    });
}

pub(super) fn tag(xml: &mut Xml, tag: &TagView) {
    xml.text("resourceId", &tag.resource_id);
    xml.text("resourceType", tag.resource_type);
    xml.text("key", &tag.key);
    xml.text("value", &tag.value);
}
