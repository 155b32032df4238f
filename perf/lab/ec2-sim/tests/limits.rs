//! Every limit and refusal of the cloud, without a socket.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ec2_sim::cloud::{
    AddressChoice, AssignRequest, Assigned, AttachRequest, CreateRequest, Filter, InterfaceChange,
    PageRequest,
};
use ec2_sim::{
    ApiError, AttachmentStatus, Cloud, CloudConfig, ConfigError, Eni, EniStatus, Instance,
    SubnetConfig, Tags,
};

const SUBNET_A: &str = "subnet-0000000000000000a";
const SUBNET_B: &str = "subnet-0000000000000000b";
const NO_ENI: &str = "eni-00000000000000bad";

fn cloud() -> Arc<Cloud> {
    Cloud::new(CloudConfig::default()).unwrap()
}

/// A cloud whose subnet A has eleven addresses.
fn small_cloud() -> Arc<Cloud> {
    let mut config = CloudConfig::default();
    config.subnets[0].cidr = "10.0.1.0/28".parse().unwrap();
    Cloud::new(config).unwrap()
}

fn node(cloud: &Cloud, instance_type: &str) -> Instance {
    cloud
        .launch_instance(instance_type, SUBNET_A, "node")
        .unwrap()
}

fn create(cloud: &Cloud, secondary_count: usize) -> Result<Eni, ApiError> {
    let subnet_id = SUBNET_A.to_owned();
    cloud.create_network_interface(&CreateRequest {
        subnet_id,
        secondary_count,
        ..CreateRequest::default()
    })
}

fn attach(
    cloud: &Cloud,
    eni: &Eni,
    instance: &Instance,
    device_index: u32,
) -> Result<String, ApiError> {
    let (eni_id, instance_id) = (eni.eni_id.clone(), instance.instance_id.clone());
    cloud.attach_network_interface(&AttachRequest {
        eni_id,
        instance_id,
        device_index,
    })
}

fn assign(cloud: &Cloud, eni: &Eni, choice: AddressChoice) -> Result<Vec<Ipv4Addr>, ApiError> {
    let eni_id = eni.eni_id.clone();
    let assigned = cloud.assign_private_ip_addresses(&AssignRequest {
        eni_id,
        choice,
        allow_reassignment: false,
    })?;
    Ok(assigned.addresses)
}

#[track_caller]
fn assert_code<T: std::fmt::Debug>(result: Result<T, ApiError>, code: &str) {
    assert_eq!(result.unwrap_err().code, code);
}

fn free(cloud: &Cloud) -> usize {
    let page = cloud.describe_subnets(&[SUBNET_A.to_owned()], &[], &PageRequest::default());
    page.unwrap().items[0].free_addresses
}

#[test]
fn ids_and_macs_are_a_function_of_the_seed_and_unique() {
    let once = node(&cloud(), "m5.large");
    let again = node(&cloud(), "m5.large");
    assert_eq!(once.instance_id, again.instance_id);
    assert_eq!(once.primary_eni.mac, again.primary_eni.mac);

    let cloud = cloud();
    for _ in 0..100 {
        create(&cloud, 0).unwrap();
    }
    let enis = cloud.enis();
    let macs: std::collections::BTreeSet<_> = enis.iter().map(|eni| eni.mac).collect();
    assert_eq!(macs.len(), 100);
    assert!(
        macs.iter().all(|mac| mac[0] & 0x03 == 0x02),
        "locally administered, unicast"
    );
    assert!(enis.iter().all(|eni| eni.eni_id.len() == "eni-".len() + 17));
}

#[test]
fn a_launched_instance_has_its_primary_interface() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    let primary = &instance.primary_eni;
    assert_eq!(primary.primary, Ipv4Addr::new(10, 0, 1, 4));
    assert_eq!(primary.instance_id.as_ref(), Some(&instance.instance_id));
    assert_eq!(
        (primary.device_index, primary.status),
        (0, EniStatus::InUse)
    );
    assert_eq!(primary.attachment_status, AttachmentStatus::Attached);
    assert!(primary.delete_on_termination);
    assert_eq!(
        instance.private_dns_name,
        "ip-10-0-1-4.eu-west-1.compute.internal"
    );
    assert_eq!(cloud.instance(&instance.instance_id), Some(instance));
}

#[test]
fn an_unknown_type_or_subnet_is_not_launched() {
    let cloud = cloud();
    assert_code(
        cloud.launch_instance("m5.tiny", SUBNET_A, "n"),
        "InvalidInstanceType",
    );
    assert_code(
        cloud.launch_instance("m5.large", "subnet-00000000000000bad", "n"),
        "InvalidSubnetID.NotFound",
    );
    assert!(cloud.enis().is_empty());
}

#[test]
fn an_instance_takes_no_more_interfaces_than_its_type() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    for index in 1..3 {
        attach(&cloud, &create(&cloud, 0).unwrap(), &instance, index).unwrap();
    }
    let one_more = create(&cloud, 0).unwrap();
    assert_code(
        attach(&cloud, &one_more, &instance, 3),
        "AttachmentLimitExceeded",
    );
    assert_eq!(cloud.eni(&one_more.eni_id), Some(one_more));
}

#[test]
fn a_device_index_is_taken_once() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    attach(&cloud, &create(&cloud, 0).unwrap(), &instance, 1).unwrap();
    let other = create(&cloud, 0).unwrap();
    assert_code(
        attach(&cloud, &other, &instance, 1),
        "InvalidParameterValue",
    );
    assert_code(
        attach(&cloud, &other, &instance, 0),
        "InvalidParameterValue",
    );
    attach(&cloud, &other, &instance, 2).unwrap();
}

#[test]
fn attaching_needs_both_ends_free_and_in_one_zone() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    let eni = create(&cloud, 0).unwrap();
    attach(&cloud, &eni, &instance, 1).unwrap();
    assert_code(
        attach(&cloud, &eni, &instance, 2),
        "InvalidNetworkInterface.InUse",
    );

    let missing = Eni {
        eni_id: NO_ENI.to_owned(),
        ..eni.clone()
    };
    assert_code(
        attach(&cloud, &missing, &instance, 2),
        "InvalidNetworkInterfaceID.NotFound",
    );
    let garbled = Eni {
        eni_id: "eni-../../x".to_owned(),
        ..eni
    };
    assert_code(
        attach(&cloud, &garbled, &instance, 2),
        "InvalidNetworkInterfaceId.Malformed",
    );
    let nobody = Instance {
        instance_id: "i-00000000000000bad".to_owned(),
        ..instance.clone()
    };
    let fresh = create(&cloud, 0).unwrap();
    assert_code(
        attach(&cloud, &fresh, &nobody, 2),
        "InvalidInstanceID.NotFound",
    );

    let request = CreateRequest {
        subnet_id: SUBNET_B.to_owned(),
        ..CreateRequest::default()
    };
    let elsewhere = cloud.create_network_interface(&request).unwrap();
    assert_code(
        attach(&cloud, &elsewhere, &instance, 2),
        "InvalidParameterCombination",
    );
}

#[test]
fn an_interface_with_too_many_addresses_for_the_instance_is_not_attached() {
    let cloud = cloud();
    let instance = node(&cloud, "t3.medium");
    let eni = create(&cloud, 6).unwrap();
    assert_code(
        attach(&cloud, &eni, &instance, 1),
        "PrivateIpAddressLimitExceeded",
    );
}

#[test]
fn an_interface_owns_no_more_addresses_than_its_instance_allows() {
    let cloud = cloud();
    let eni = node(&cloud, "t3.medium").primary_eni;
    let new = assign(&cloud, &eni, AddressChoice::Count(4)).unwrap();
    assert_eq!(new.len(), 4);
    assert!(
        !new.contains(&eni.primary),
        "only the new ones are answered"
    );
    let before = free(&cloud);
    assert_code(
        assign(&cloud, &eni, AddressChoice::Count(2)),
        "PrivateIpAddressLimitExceeded",
    );
    assert_code(
        assign(&cloud, &eni, AddressChoice::Count(usize::MAX)),
        "PrivateIpAddressLimitExceeded",
    );
    assert_eq!(free(&cloud), before, "a refused call takes nothing");
    let last = assign(&cloud, &eni, AddressChoice::Count(1)).unwrap();
    assert!(!new.contains(&last[0]));
    assert_eq!(cloud.eni(&eni.eni_id).unwrap().addresses().count(), 6);
}

#[test]
fn an_unattached_interface_owns_no_more_addresses_than_any_instance_allows() {
    let cloud = cloud();
    assert_code(create(&cloud, 50), "PrivateIpAddressLimitExceeded");
    assert_code(create(&cloud, usize::MAX), "PrivateIpAddressLimitExceeded");
    let eni = create(&cloud, 49).unwrap();
    assert_code(
        assign(&cloud, &eni, AddressChoice::Count(1)),
        "PrivateIpAddressLimitExceeded",
    );
}

#[test]
fn a_full_subnet_gives_nothing_and_takes_nothing() {
    let cloud = small_cloud();
    let eni = node(&cloud, "m5.4xlarge").primary_eni;
    assert_eq!(free(&cloud), 10);
    assert_code(
        assign(&cloud, &eni, AddressChoice::Count(11)),
        "InsufficientFreeAddressesInSubnet",
    );
    assert_code(create(&cloud, 10), "InsufficientFreeAddressesInSubnet");
    assert_eq!((free(&cloud), cloud.enis().len()), (10, 1));
    assign(&cloud, &eni, AddressChoice::Count(10)).unwrap();
    assert_code(create(&cloud, 0), "InsufficientFreeAddressesInSubnet");
    assert_code(
        cloud.launch_instance("m5.large", SUBNET_A, "n"),
        "InsufficientFreeAddressesInSubnet",
    );
    assert_eq!(cloud.instances().len(), 1);
}

#[test]
fn chosen_addresses_must_be_free_usable_and_given_once() {
    let cloud = cloud();
    let eni = node(&cloud, "m5.large").primary_eni;
    let host = |last| Ipv4Addr::new(10, 0, 1, last);
    let exactly =
        |list: &[u8]| AddressChoice::Exactly(list.iter().map(|&last| host(last)).collect());
    assert_eq!(
        assign(&cloud, &eni, exactly(&[77, 78])).unwrap(),
        [host(77), host(78)]
    );
    for reserved in [0, 1, 2, 3, 255] {
        assert_code(
            assign(&cloud, &eni, exactly(&[reserved])),
            "InvalidParameterValue",
        );
    }
    assert_code(
        assign(&cloud, &eni, exactly(&[77])),
        "InvalidIPAddress.InUse",
    );
    assert_code(
        assign(&cloud, &eni, exactly(&[90, 90])),
        "InvalidParameterValue",
    );
    assert_code(assign(&cloud, &eni, exactly(&[])), "InvalidParameterValue");
    let outside = AddressChoice::Exactly(vec![Ipv4Addr::new(10, 0, 2, 9)]);
    assert_code(assign(&cloud, &eni, outside), "InvalidParameterValue");
    assert_code(
        assign(&cloud, &eni, exactly(&[91, 77])),
        "InvalidIPAddress.InUse",
    );
    assert_eq!(
        assign(&cloud, &eni, exactly(&[91])).unwrap(),
        [host(91)],
        "the refused call did not take it"
    );
}

#[test]
fn reassignment_moves_secondary_addresses_only() {
    let cloud = cloud();
    let from = node(&cloud, "m5.large").primary_eni;
    let to = node(&cloud, "m5.large").primary_eni;
    let moved = assign(&cloud, &from, AddressChoice::Count(2)).unwrap();
    let request = |list: Vec<Ipv4Addr>| AssignRequest {
        eni_id: to.eni_id.clone(),
        choice: AddressChoice::Exactly(list),
        allow_reassignment: true,
    };
    assert_code(
        cloud.assign_private_ip_addresses(&request(vec![from.primary])),
        "InvalidIPAddress.InUse",
    );
    let before = free(&cloud);
    cloud
        .assign_private_ip_addresses(&request(moved[..1].to_vec()))
        .unwrap();
    assert_eq!(cloud.eni(&from.eni_id).unwrap().secondaries, moved[1..]);
    assert_eq!(cloud.eni(&to.eni_id).unwrap().secondaries, moved[..1]);
    assert_eq!(free(&cloud), before);
    let own = cloud.assign_private_ip_addresses(&request(moved[..1].to_vec()));
    assert_code(own, "InvalidIPAddress.InUse");
}

#[test]
fn only_owned_secondary_addresses_are_unassigned() {
    let cloud = cloud();
    let eni = node(&cloud, "m5.large").primary_eni;
    let owned = assign(&cloud, &eni, AddressChoice::Count(3)).unwrap();
    let given = |list: &[Ipv4Addr]| Assigned {
        addresses: list.to_vec(),
        prefixes: Vec::new(),
    };
    let unassign =
        |list: &[Ipv4Addr]| cloud.unassign_private_ip_addresses(&eni.eni_id, &given(list));
    assert_code(unassign(&[eni.primary]), "InvalidParameterValue");
    assert_code(
        unassign(&[owned[0], Ipv4Addr::new(10, 0, 1, 200)]),
        "InvalidParameterValue",
    );
    assert_code(unassign(&[]), "MissingParameter");
    assert_code(
        cloud.unassign_private_ip_addresses(NO_ENI, &given(&owned)),
        "InvalidNetworkInterfaceID.NotFound",
    );
    assert_eq!(cloud.eni(&eni.eni_id).unwrap().secondaries, owned);
    let before = free(&cloud);
    unassign(&owned[..2]).unwrap();
    assert_eq!(cloud.eni(&eni.eni_id).unwrap().secondaries, owned[2..]);
    assert_eq!(free(&cloud), before + 2);
    assert_code(unassign(&owned[..1]), "InvalidParameterValue");
}

#[test]
fn the_primary_interface_stays_and_an_attached_one_is_not_deleted() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    let primary = instance.primary_eni.attachment_id.clone().unwrap();
    assert_code(
        cloud.detach_network_interface(&primary),
        "OperationNotPermitted",
    );
    assert_code(
        cloud.detach_network_interface("eni-attach-00000000000000bad"),
        "InvalidAttachmentID.NotFound",
    );

    let eni = create(&cloud, 3).unwrap();
    let attachment = attach(&cloud, &eni, &instance, 1).unwrap();
    assert_code(
        cloud.delete_network_interface(&eni.eni_id),
        "InvalidNetworkInterface.InUse",
    );
    let before = free(&cloud);
    cloud.detach_network_interface(&attachment).unwrap();
    assert_eq!(cloud.eni(&eni.eni_id).unwrap().status, EniStatus::Available);
    cloud.delete_network_interface(&eni.eni_id).unwrap();
    assert_eq!(free(&cloud), before + 4, "its addresses are free again");
    assert_code(
        cloud.delete_network_interface(&eni.eni_id),
        "InvalidNetworkInterfaceID.NotFound",
    );
}

#[test]
fn a_client_token_makes_creation_idempotent() {
    let cloud = cloud();
    let request = CreateRequest {
        subnet_id: SUBNET_A.to_owned(),
        client_token: Some("once".to_owned()),
        ..CreateRequest::default()
    };
    let first = cloud.create_network_interface(&request).unwrap();
    assert_eq!(cloud.create_network_interface(&request).unwrap(), first);
    assert_eq!(cloud.enis().len(), 1);
    let other = CreateRequest {
        secondary_count: 1,
        ..request
    };
    assert_code(
        cloud.create_network_interface(&other),
        "IdempotentParameterMismatch",
    );
}

#[test]
fn groups_must_exist_and_be_few() {
    let cloud = cloud();
    let request = |groups: Vec<String>| CreateRequest {
        subnet_id: SUBNET_A.to_owned(),
        groups,
        ..CreateRequest::default()
    };
    let unknown = request(vec!["sg-00000000000000bad".to_owned()]);
    assert_code(
        cloud.create_network_interface(&unknown),
        "InvalidGroup.NotFound",
    );
    let group = "sg-00000000000000001".to_owned();
    let many = request(vec![group.clone(); 6]);
    assert_code(
        cloud.create_network_interface(&many),
        "SecurityGroupsPerInterfaceLimitExceeded",
    );
    assert_eq!(create(&cloud, 0).unwrap().groups, [group]);
}

#[test]
fn modification_is_by_attribute_and_checks_the_attachment() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    let eni = create(&cloud, 0).unwrap();
    let attachment_id = attach(&cloud, &eni, &instance, 1).unwrap();
    let modify = |change| cloud.modify_network_interface(&eni.eni_id, &change);
    let delete = |attachment_id| InterfaceChange::DeleteOnTermination {
        attachment_id,
        delete: true,
    };
    assert_code(
        modify(delete("eni-attach-00000000000000bad".to_owned())),
        "InvalidAttachmentID.NotFound",
    );
    modify(delete(attachment_id)).unwrap();
    modify(InterfaceChange::SourceDestCheck(false)).unwrap();
    modify(InterfaceChange::Description("pods".to_owned())).unwrap();
    assert_code(
        modify(InterfaceChange::Description("x".repeat(256))),
        "InvalidParameterValue",
    );
    assert_code(
        modify(InterfaceChange::Groups(vec!["sg-x".to_owned()])),
        "InvalidGroup.NotFound",
    );
    let now = cloud.eni(&eni.eni_id).unwrap();
    assert!(now.delete_on_termination && !now.source_dest_check);
    assert_eq!(now.description, "pods");
}

#[test]
fn tags_have_limits_and_are_all_or_nothing() {
    let cloud = cloud();
    let eni = create(&cloud, 0).unwrap();
    let tags = |pairs: &[(&str, &str)]| -> Tags {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let ids = vec![eni.eni_id.clone(), NO_ENI.to_owned()];
    assert_code(
        cloud.create_tags(&ids, &tags(&[("a", "1")])),
        "InvalidNetworkInterfaceID.NotFound",
    );
    assert!(cloud.eni(&eni.eni_id).unwrap().tags.is_empty());
    let ids = &ids[..1];
    assert_code(
        cloud.create_tags(ids, &tags(&[("aws:x", "1")])),
        "InvalidParameterValue",
    );
    assert_code(
        cloud.create_tags(ids, &tags(&[("", "1")])),
        "InvalidParameterValue",
    );
    assert_code(
        cloud.create_tags(&["vol-1".to_owned()], &tags(&[("a", "1")])),
        "InvalidID",
    );
    let fifty: Tags = (0..50)
        .map(|i| (format!("k{i:02}"), "v".to_owned()))
        .collect();
    cloud.create_tags(ids, &fifty).unwrap();
    assert_code(
        cloud.create_tags(ids, &tags(&[("one", "more")])),
        "TagLimitExceeded",
    );
    cloud.create_tags(ids, &tags(&[("k00", "new")])).unwrap();

    let value = |text: &str| Some(text.to_owned());
    cloud
        .delete_tags(
            ids,
            &[("k00".to_owned(), value("old")), ("k01".to_owned(), None)],
        )
        .unwrap();
    let left = cloud.eni(&eni.eni_id).unwrap().tags;
    assert_eq!((left.len(), left.get("k00").cloned()), (49, value("new")));
    cloud.delete_tags(ids, &[]).unwrap();
    assert!(cloud.eni(&eni.eni_id).unwrap().tags.is_empty());
}

#[test]
fn pages_cover_everything_once_and_refuse_bad_sizes() {
    let cloud = cloud();
    for _ in 0..15 {
        create(&cloud, 0).unwrap();
    }
    let mut page = PageRequest {
        max_results: Some(5),
        next_token: None,
    };
    let mut seen = Vec::new();
    let mut sizes = Vec::new();
    loop {
        let got = cloud.describe_network_interfaces(&[], &[], &page).unwrap();
        sizes.push(got.items.len());
        seen.extend(got.items.into_iter().map(|eni| eni.eni_id));
        page.next_token = got.next_token;
        if page.next_token.is_none() {
            break;
        }
    }
    assert_eq!(sizes, [5, 5, 5], "no token that leads to nothing");
    let all: Vec<_> = cloud.enis().into_iter().map(|eni| eni.eni_id).collect();
    assert_eq!(seen, all);
    for max_results in [0, 4, 1001] {
        let page = PageRequest {
            max_results: Some(max_results),
            next_token: None,
        };
        assert_code(
            cloud.describe_network_interfaces(&[], &[], &page),
            "InvalidParameterValue",
        );
    }
    let page = PageRequest {
        max_results: Some(5),
        next_token: None,
    };
    assert_code(
        cloud.describe_network_interfaces(&all[..1], &[], &page),
        "InvalidParameterCombination",
    );
    let page = PageRequest {
        max_results: Some(101),
        next_token: None,
    };
    assert_code(
        cloud.describe_instance_types(&[], &[], &page),
        "InvalidParameterValue",
    );
}

#[test]
fn filters_narrow_and_unknown_ones_are_refused() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    let mut request = CreateRequest {
        subnet_id: SUBNET_B.to_owned(),
        ..CreateRequest::default()
    };
    request.description = "aws-K8S-i-1".to_owned();
    request.tags.insert("owner".to_owned(), "me".to_owned());
    let eni = cloud
        .create_network_interface(&CreateRequest {
            secondary_count: 1,
            ..request
        })
        .unwrap();
    let find = |filters: &[(&str, &str)]| {
        let one = |(name, value): &(&str, &str)| Filter {
            name: (*name).to_owned(),
            values: vec![(*value).to_owned()],
        };
        let filters: Vec<Filter> = filters.iter().map(one).collect();
        let page = cloud.describe_network_interfaces(&[], &filters, &PageRequest::default())?;
        Ok::<_, ApiError>(
            page.items
                .into_iter()
                .map(|eni| eni.eni_id)
                .collect::<Vec<_>>(),
        )
    };
    let (mine, primary) = (
        vec![eni.eni_id.clone()],
        vec![instance.primary_eni.eni_id.clone()],
    );
    assert_eq!(
        find(&[("attachment.instance-id", &instance.instance_id)]).unwrap(),
        primary
    );
    assert_eq!(find(&[("attachment.device-index", "0")]).unwrap(), primary);
    assert_eq!(find(&[("attachment.status", "attached")]).unwrap(), primary);
    for filter in [
        ("tag:owner", "me"),
        ("tag-key", "owner"),
        ("status", "available"),
        ("description", "aws-K8S-*"),
        ("subnet-id", SUBNET_B),
        (
            "addresses.private-ip-address",
            &eni.secondaries[0].to_string(),
        ),
        ("private-ip-address", &eni.primary.to_string()),
        ("network-interface-id", &eni.eni_id),
    ] {
        assert_eq!(find(&[filter]).unwrap(), mine, "{filter:?}");
    }
    assert_eq!(
        find(&[("vpc-id", "vpc-00000000000000001")]).unwrap().len(),
        2
    );
    assert!(
        find(&[("status", "available"), ("subnet-id", SUBNET_A)])
            .unwrap()
            .is_empty()
    );
    assert_code(find(&[("colour", "red")]), "InvalidParameterValue");
}

#[test]
fn a_new_interface_is_unknown_until_it_is_visible() {
    let time = Arc::new(std::sync::atomic::AtomicU64::new(1000));
    let reader = Arc::clone(&time);
    let clock =
        Arc::new(move || Duration::from_secs(reader.load(std::sync::atomic::Ordering::SeqCst)));
    let create_visibility_delay = Duration::from_secs(3);
    let config = CloudConfig {
        create_visibility_delay,
        ..CloudConfig::default()
    };
    let cloud = Cloud::with_clock(config, clock).unwrap();
    let eni = create(&cloud, 0).unwrap();
    let look = || {
        cloud.describe_network_interfaces(
            std::slice::from_ref(&eni.eni_id),
            &[],
            &PageRequest::default(),
        )
    };
    assert_code(look(), "InvalidNetworkInterfaceID.NotFound");
    time.store(1003, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(look().unwrap().items, std::slice::from_ref(&eni));
}

#[test]
fn configurations_ec2_would_refuse_are_refused() {
    let with = |change: fn(&mut CloudConfig)| {
        let mut config = CloudConfig::default();
        change(&mut config);
        Cloud::new(config).err()
    };
    assert_eq!(
        with(|c| c.subnets.clear()),
        Some(ConfigError::Missing("subnet"))
    );
    let size = with(|c| c.subnets[0].cidr = "10.0.1.0/29".parse().unwrap());
    assert!(matches!(size, Some(ConfigError::SubnetSize { .. })));
    let outside = with(|c| c.subnets[0].cidr = "10.1.0.0/24".parse().unwrap());
    assert!(matches!(
        outside,
        Some(ConfigError::SubnetOutsideVpc { .. })
    ));
    let overlap = with(|c| c.subnets[0].cidr = "10.0.2.0/25".parse().unwrap());
    assert!(matches!(overlap, Some(ConfigError::SubnetsOverlap(..))));
    let zone = with(|c| c.subnets[0].availability_zone = "mars-1a".to_owned());
    assert!(matches!(zone, Some(ConfigError::UnknownZone { .. })));
    let twice: fn(&mut CloudConfig) = |c| {
        let copy: SubnetConfig = c.subnets[0].clone();
        c.subnets.push(copy);
    };
    assert_eq!(
        with(twice),
        Some(ConfigError::Duplicate(SUBNET_A.to_owned()))
    );
}

fn prefixes(cloud: &Cloud, eni: &Eni, count: usize) -> Result<Assigned, ApiError> {
    cloud.assign_private_ip_addresses(&AssignRequest {
        eni_id: eni.eni_id.clone(),
        choice: AddressChoice::Prefixes(count),
        allow_reassignment: false,
    })
}

#[test]
fn a_prefix_takes_one_slot_and_sixteen_addresses() {
    let cloud = cloud();
    let instance = node(&cloud, "t3.small");
    let eni = &instance.primary_eni;
    let before = free(&cloud);
    let given = prefixes(&cloud, eni, 2).unwrap();
    assert_eq!(free(&cloud), before - 32);
    assert_code(prefixes(&cloud, eni, 2), "PrivateIpAddressLimitExceeded");
    assert_eq!(
        assign(&cloud, eni, AddressChoice::Count(1)).unwrap().len(),
        1
    );
    let eni = cloud.eni(&eni.eni_id).unwrap();
    assert_eq!((eni.slots(), eni.delivered().count()), (4, 2 + 32));
    cloud
        .unassign_private_ip_addresses(&eni.eni_id, &given)
        .unwrap();
    assert_code(
        cloud.unassign_private_ip_addresses(&eni.eni_id, &given),
        "InvalidParameterValue",
    );
    assert_eq!(free(&cloud), before - 1);
}

#[test]
fn a_fragmented_subnet_has_addresses_and_no_prefix() {
    let cloud = cloud();
    let instance = node(&cloud, "m5.large");
    for sixteenth in 0..16 {
        let address = Ipv4Addr::new(10, 0, 1, sixteenth * 16 + 9);
        cloud.occupy(SUBNET_A, address).unwrap();
    }
    assert!(free(&cloud) > 200);
    assert_code(
        prefixes(&cloud, &instance.primary_eni, 1),
        "InsufficientCidrBlocks",
    );
    let request = CreateRequest {
        subnet_id: SUBNET_A.to_owned(),
        prefix_count: 1,
        ..CreateRequest::default()
    };
    let refused = cloud.create_network_interface(&request).unwrap_err();
    assert_eq!(refused.code, "InvalidParameterValue");
    assert!(
        refused
            .message
            .contains("no sufficient free addresses or prefixes")
    );
    cloud.vacate(SUBNET_A, Ipv4Addr::new(10, 0, 1, 25)).unwrap();
    let given = prefixes(&cloud, &instance.primary_eni, 1).unwrap();
    assert_eq!(given.prefixes[0].to_string(), "10.0.1.16/28");
}

#[test]
fn prefixes_need_nitro() {
    let cloud = cloud();
    let instance = node(&cloud, "m4.large");
    assert_code(
        prefixes(&cloud, &instance.primary_eni, 1),
        "InvalidParameterValue",
    );
}

fn clocked() -> (Arc<Cloud>, Arc<std::sync::atomic::AtomicU64>) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let seconds = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::clone(&seconds);
    let now = move || Duration::from_secs(clock.load(Ordering::Relaxed));
    let cloud = Cloud::with_clock(CloudConfig::default(), Arc::new(now)).unwrap();
    (cloud, seconds)
}

#[test]
fn a_budget_is_spent_and_fills_again() {
    let (cloud, seconds) = clocked();
    cloud.set_budget(3, 0.5);
    let refused = |cloud: &Cloud| cloud.admit("DescribeSubnets").is_some();
    let outcomes: Vec<bool> = (0..4).map(|_| refused(&cloud)).collect();
    assert_eq!(outcomes, [false, false, false, true]);
    seconds.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
    assert_eq!((refused(&cloud), refused(&cloud)), (false, true));
}

#[test]
fn lagging_views_show_what_was() {
    let (cloud, seconds) = clocked();
    let instance = node(&cloud, "m5.large");
    cloud.set_view_lag(Duration::from_secs(5));
    let new = assign(&cloud, &instance.primary_eni, AddressChoice::Count(1)).unwrap();
    let shown = |cloud: &Cloud| {
        let ids = [instance.primary_eni.eni_id.clone()];
        let page = cloud.describe_network_interfaces(&ids, &[], &PageRequest::default());
        let described = page.unwrap().items[0].secondaries.clone();
        let metadata = cloud.metadata_enis(&instance.instance_id)[0]
            .secondaries
            .clone();
        assert_eq!(described, metadata);
        described
    };
    assert!(shown(&cloud).is_empty());
    let eni = create(&cloud, 0).unwrap();
    assert_code(
        cloud.describe_network_interfaces(
            std::slice::from_ref(&eni.eni_id),
            &[],
            &PageRequest::default(),
        ),
        "InvalidNetworkInterfaceID.NotFound",
    );
    seconds.fetch_add(5, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(shown(&cloud), new);
    assert_eq!(cloud.enis().len(), 2);
}
