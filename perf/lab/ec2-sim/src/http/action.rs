//! The actions: parameters in, one call of the cloud, elements out.
//!
//! To add an action: one function and one line of [`ACTIONS`].

use crate::cloud::{
    AddressChoice, AssignRequest, Assigned, AttachRequest, CreateRequest, InterfaceChange, Page,
    PageRequest,
};
use crate::http::params::Params;
use crate::http::reply::{self, Scene};
use crate::http::xml::{Namespace, Xml};
use crate::{ApiError, Cloud, SecurityGroupConfig};

type Run = fn(&Cloud, Params, &mut Xml) -> Result<(), ApiError>;

/// One action of the API.
pub(super) struct Action {
    pub(super) name: &'static str,
    run: Run,
}

const ACTIONS: &[Action] = &[
    Action {
        name: "AssignPrivateIpAddresses",
        run: assign_private_ip_addresses,
    },
    Action {
        name: "AttachNetworkInterface",
        run: attach_network_interface,
    },
    Action {
        name: "CreateNetworkInterface",
        run: create_network_interface,
    },
    Action {
        name: "CreateTags",
        run: create_tags,
    },
    Action {
        name: "DeleteNetworkInterface",
        run: delete_network_interface,
    },
    Action {
        name: "DeleteTags",
        run: delete_tags,
    },
    Action {
        name: "DescribeInstanceTypes",
        run: describe_instance_types,
    },
    Action {
        name: "DescribeInstances",
        run: describe_instances,
    },
    Action {
        name: "DescribeNetworkInterfaces",
        run: describe_network_interfaces,
    },
    Action {
        name: "DescribeSecurityGroups",
        run: describe_security_groups,
    },
    Action {
        name: "DescribeSubnets",
        run: describe_subnets,
    },
    Action {
        name: "DescribeTags",
        run: describe_tags,
    },
    Action {
        name: "DescribeVpcs",
        run: describe_vpcs,
    },
    Action {
        name: "DetachNetworkInterface",
        run: detach_network_interface,
    },
    Action {
        name: "ModifyNetworkInterfaceAttribute",
        run: modify_network_interface_attribute,
    },
    Action {
        name: "UnassignPrivateIpAddresses",
        run: unassign_private_ip_addresses,
    },
];

impl Action {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ACTIONS.iter().find(|action| action.name == name)
    }

    pub(super) fn run(
        &self,
        cloud: &Cloud,
        params: Params,
        request_id: &str,
    ) -> Result<String, ApiError> {
        let mut outcome = Ok(());
        let root = format!("{}Response", self.name);
        let body = Xml::document(&root, Namespace::Ec2, |xml| {
            xml.text("requestId", request_id);
            outcome = (self.run)(cloud, params, xml);
        });
        outcome.map(|()| body)
    }
}

/// Calls that answer nothing but that they worked.
fn done(xml: &mut Xml) {
    xml.text("return", true);
}

fn listed<T>(xml: &mut Xml, set: &str, page: Page<T>, each: impl Fn(&mut Xml, &T)) {
    xml.set(set, &page.items, each);
    if let Some(token) = page.next_token {
        xml.text("nextToken", token);
    }
}

fn groups(cloud: &Cloud) -> Result<Vec<SecurityGroupConfig>, ApiError> {
    let page = cloud.describe_security_groups(&[], &[], &PageRequest::default())?;
    Ok(page.items)
}

fn create_network_interface(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let mut request = CreateRequest {
        subnet_id: params.required("SubnetId")?,
        description: params.text("Description")?.unwrap_or_default(),
        groups: params.list("SecurityGroupId")?,
        primary: params.parsed("PrivateIpAddress")?,
        secondaries: Vec::new(),
        secondary_count: params
            .parsed("SecondaryPrivateIpAddressCount")?
            .unwrap_or(0),
        prefix_count: params.parsed("Ipv4PrefixCount")?.unwrap_or(0),
        tags: params.tag_specification("network-interface")?,
        client_token: params
            .text("ClientToken")?
            .filter(|token| !token.is_empty()),
    };
    for mut member in params.members("PrivateIpAddresses")? {
        let address = member
            .parsed("PrivateIpAddress")?
            .ok_or_else(|| ApiError::missing("PrivateIpAddress"))?;
        let primary = member.flag("Primary")?;
        member.nothing_left()?;
        match (primary, request.primary) {
            (false, _) => request.secondaries.push(address),
            (true, None) => request.primary = Some(address),
            (true, Some(_)) => {
                return Err(ApiError::combination(
                    "Only one primary private IP address can be specified.",
                ));
            }
        }
    }
    interface_type_is_plain(&mut params)?;
    params.finish()?;
    let client_token = request.client_token.clone();
    let eni = cloud.create_network_interface(&request)?;
    let (config, groups) = (cloud.config(), &groups(cloud)?);
    xml.node("networkInterface", |xml| {
        Scene { config, groups }.network_interface(xml, &eni);
    });
    if let Some(token) = client_token {
        xml.text("clientToken", token);
    }
    Ok(())
}

/// There are no trunk or EFA interfaces here.
fn interface_type_is_plain(params: &mut Params) -> Result<(), ApiError> {
    match params.text("InterfaceType")?.as_deref() {
        None | Some("interface") => Ok(()),
        Some(other) => Err(ApiError::invalid_value(format!(
            "Value ({other}) for parameter InterfaceType is invalid."
        ))),
    }
}

fn attach_network_interface(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let request = AttachRequest {
        eni_id: params.required("NetworkInterfaceId")?,
        instance_id: params.required("InstanceId")?,
        device_index: params
            .parsed("DeviceIndex")?
            .ok_or_else(|| ApiError::missing("DeviceIndex"))?,
    };
    let card: u32 = params.parsed("NetworkCardIndex")?.unwrap_or(0);
    params.finish()?;
    if card != 0 {
        return Err(ApiError::invalid_value(format!(
            "Network card index '{card}' is not supported."
        )));
    }
    let attachment_id = cloud.attach_network_interface(&request)?;
    xml.text("attachmentId", attachment_id);
    xml.text("networkCardIndex", card);
    Ok(())
}

fn modify_network_interface_attribute(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let eni_id = params.required("NetworkInterfaceId")?;
    let mut changes = Vec::new();
    if let Some(text) = params.text("Description.Value")? {
        changes.push(InterfaceChange::Description(text));
    }
    if let Some(check) = params.parsed("SourceDestCheck.Value")? {
        changes.push(InterfaceChange::SourceDestCheck(check));
    }
    let groups = params.list("SecurityGroupId")?;
    if !groups.is_empty() {
        changes.push(InterfaceChange::Groups(groups));
    }
    if let Some(delete) = params.parsed("Attachment.DeleteOnTermination")? {
        let attachment_id = params.required("Attachment.AttachmentId")?;
        changes.push(InterfaceChange::DeleteOnTermination {
            attachment_id,
            delete,
        });
    }
    params.finish()?;
    match changes.as_slice() {
        [change] => cloud.modify_network_interface(&eni_id, change)?,
        [] => return Err(ApiError::combination("No attributes specified.")),
        _ => {
            return Err(ApiError::combination(
                "Fields for multiple attribute types specified.",
            ));
        }
    }
    done(xml);
    Ok(())
}

fn assign_private_ip_addresses(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let eni_id = params.required("NetworkInterfaceId")?;
    let list = params.addresses("PrivateIpAddress")?;
    let count: Option<usize> = params.parsed("SecondaryPrivateIpAddressCount")?;
    let prefixes: Option<usize> = params.parsed("Ipv4PrefixCount")?;
    let allow_reassignment = params.flag("AllowReassignment")?;
    params.finish()?;
    let choice = match (count, list.is_empty()) {
        (None, true) if prefixes.is_some() => AddressChoice::Prefixes(prefixes.unwrap_or(0)),
        _ if prefixes.is_some() => {
            let message = "ipv4PrefixCount cannot be combined with private IP addresses";
            return Err(ApiError::combination(message));
        }
        (Some(count), true) => AddressChoice::Count(count),
        (None, false) => AddressChoice::Exactly(list),
        (Some(_), false) => {
            let message =
                "secondaryPrivateIpAddressCount cannot be combined with privateIpAddresses";
            return Err(ApiError::combination(message));
        }
        (None, true) => return Err(ApiError::missing("secondaryPrivateIpAddressCount")),
    };
    let new = cloud.assign_private_ip_addresses(&AssignRequest {
        eni_id: eni_id.clone(),
        choice,
        allow_reassignment,
    })?;
    xml.text("networkInterfaceId", eni_id);
    xml.set(
        "assignedPrivateIpAddressesSet",
        new.addresses,
        |xml, address| {
            xml.text("privateIpAddress", address);
        },
    );
    xml.set("assignedIpv4PrefixSet", new.prefixes, |xml, prefix| {
        xml.text("ipv4Prefix", prefix);
    });
    done(xml);
    Ok(())
}

fn unassign_private_ip_addresses(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let eni_id = params.required("NetworkInterfaceId")?;
    let given = Assigned {
        addresses: params.addresses("PrivateIpAddress")?,
        prefixes: params.prefixes("Ipv4Prefix")?,
    };
    params.finish()?;
    cloud.unassign_private_ip_addresses(&eni_id, &given)?;
    done(xml);
    Ok(())
}

fn detach_network_interface(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let attachment_id = params.required("AttachmentId")?;
    // Force skips the guest's consent, of which there is none to skip.
    params.flag("Force")?;
    params.finish()?;
    cloud.detach_network_interface(&attachment_id)?;
    done(xml);
    Ok(())
}

fn delete_network_interface(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let eni_id = params.required("NetworkInterfaceId")?;
    params.finish()?;
    cloud.delete_network_interface(&eni_id)?;
    done(xml);
    Ok(())
}

fn resources(params: &mut Params) -> Result<Vec<String>, ApiError> {
    let ids = params.list("ResourceId")?;
    if ids.is_empty() {
        Err(ApiError::missing("resourceIdSet"))
    } else {
        Ok(ids)
    }
}

fn create_tags(cloud: &Cloud, mut params: Params, xml: &mut Xml) -> Result<(), ApiError> {
    let (ids, tags) = (resources(&mut params)?, params.tags()?);
    params.finish()?;
    if tags.is_empty() {
        return Err(ApiError::missing("tagSet"));
    }
    cloud.create_tags(&ids, &tags)?;
    done(xml);
    Ok(())
}

fn delete_tags(cloud: &Cloud, mut params: Params, xml: &mut Xml) -> Result<(), ApiError> {
    let (ids, tags) = (resources(&mut params)?, params.optional_tags()?);
    params.finish()?;
    cloud.delete_tags(&ids, &tags)?;
    done(xml);
    Ok(())
}

fn describe_network_interfaces(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let (ids, filters, page) = (
        params.list("NetworkInterfaceId")?,
        params.filters()?,
        params.page()?,
    );
    params.finish()?;
    let found = cloud.describe_network_interfaces(&ids, &filters, &page)?;
    let (config, groups) = (cloud.config(), &groups(cloud)?);
    listed(xml, "networkInterfaceSet", found, |xml, eni| {
        Scene { config, groups }.network_interface(xml, eni);
    });
    Ok(())
}

fn describe_instances(cloud: &Cloud, mut params: Params, xml: &mut Xml) -> Result<(), ApiError> {
    let (ids, filters, page) = (
        params.list("InstanceId")?,
        params.filters()?,
        params.page()?,
    );
    params.finish()?;
    let found = cloud.describe_instances(&ids, &filters, &page)?;
    let (config, groups) = (cloud.config(), &groups(cloud)?);
    let scene = Scene { config, groups };
    listed(xml, "reservationSet", found, |xml, view| {
        scene.reservation(xml, view);
    });
    Ok(())
}

fn describe_instance_types(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let (names, filters, page) = (
        params.list("InstanceType")?,
        params.filters()?,
        params.page()?,
    );
    params.finish()?;
    let found = cloud.describe_instance_types(&names, &filters, &page)?;
    listed(xml, "instanceTypeSet", found, reply::instance_type);
    Ok(())
}

fn describe_subnets(cloud: &Cloud, mut params: Params, xml: &mut Xml) -> Result<(), ApiError> {
    let (ids, filters, page) = (params.list("SubnetId")?, params.filters()?, params.page()?);
    params.finish()?;
    let found = cloud.describe_subnets(&ids, &filters, &page)?;
    let scene = Scene {
        config: cloud.config(),
        groups: &[],
    };
    listed(xml, "subnetSet", found, |xml, subnet| {
        scene.subnet(xml, subnet);
    });
    Ok(())
}

fn describe_vpcs(cloud: &Cloud, mut params: Params, xml: &mut Xml) -> Result<(), ApiError> {
    let (ids, filters, page) = (params.list("VpcId")?, params.filters()?, params.page()?);
    params.finish()?;
    let found = cloud.describe_vpcs(&ids, &filters, &page)?;
    let scene = Scene {
        config: cloud.config(),
        groups: &[],
    };
    listed(xml, "vpcSet", found, |xml, vpc| scene.vpc(xml, vpc));
    Ok(())
}

fn describe_security_groups(
    cloud: &Cloud,
    mut params: Params,
    xml: &mut Xml,
) -> Result<(), ApiError> {
    let (ids, filters, page) = (params.list("GroupId")?, params.filters()?, params.page()?);
    params.finish()?;
    let found = cloud.describe_security_groups(&ids, &filters, &page)?;
    let scene = Scene {
        config: cloud.config(),
        groups: &[],
    };
    listed(xml, "securityGroupInfo", found, |xml, group| {
        scene.security_group(xml, group);
    });
    Ok(())
}

fn describe_tags(cloud: &Cloud, mut params: Params, xml: &mut Xml) -> Result<(), ApiError> {
    let (filters, page) = (params.filters()?, params.page()?);
    params.finish()?;
    let found = cloud.describe_tags(&filters, &page)?;
    listed(xml, "tagSet", found, reply::tag);
    Ok(())
}
