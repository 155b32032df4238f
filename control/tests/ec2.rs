//! The real SDK against the simulated EC2 and metadata service, over loopback HTTP.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::Arc;

use ec2_sim::{Cloud, CloudConfig, Fault, http, imds};
use penstock_control::clock::MachineClock;
use penstock_control::ec2::aws::{Aws, Endpoints};
use penstock_control::ec2::gate::Gate;
use penstock_control::ec2::{Ec2, ErrorKind, Filter, NewEni, SubnetFilter, TAG_INSTANCE, Tags};
use penstock_control::ipam::plan::{Kind, Limits, Units};
use penstock_control::ipam::pool::Parting;

struct Rig {
    cloud: Arc<Cloud>,
    instance: ec2_sim::Instance,
    aws: Aws,
}

async fn rig() -> Rig {
    let cloud = Cloud::new(CloudConfig::default()).unwrap();
    let subnet = cloud.config().subnets[0].subnet_id.clone();
    let instance = cloud.launch_instance("t3.medium", &subnet, "node").unwrap();
    let runtime = tokio::runtime::Handle::current();
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (api, metadata) = (listen(), listen());
    let url = |listener: &TcpListener| Some(format!("http://{}", listener.local_addr().unwrap()));
    let endpoints = Endpoints {
        ec2: url(&api),
        imds: url(&metadata),
        deadline: None,
    };
    http::serve(&runtime, api, http::router(Arc::clone(&cloud))).unwrap();
    let routes = imds::router(Arc::clone(&cloud), &instance.instance_id);
    http::serve(&runtime, metadata, routes).unwrap();
    let aws = Aws::connect(&endpoints).await.unwrap();
    Rig {
        cloud,
        instance,
        aws,
    }
}

fn new_eni(rig: &Rig, token: &str) -> NewEni {
    let primary = &rig.instance.primary_eni;
    NewEni {
        client_token: token.into(),
        subnet_id: primary.subnet_id.clone(),
        groups: primary.groups.clone(),
        description: format!("aws-K8S-{}", rig.instance.instance_id),
        tags: Tags::from([(TAG_INSTANCE.to_owned(), rig.instance.instance_id.clone())]),
        units: Units::of(Kind::Address, 2),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_limits_and_the_primary_eni_agree_between_both_services() {
    let rig = rig().await;
    let instance = rig.aws.instance().await.unwrap();
    assert_eq!(instance.id, rig.instance.instance_id);
    assert_eq!(instance.instance_type, "t3.medium");
    let limits = rig.aws.limits("t3.medium").await.unwrap();
    assert_eq!(
        limits,
        Limits {
            enis: 3,
            addresses_per_eni: 6,
            prefixes: true
        }
    );

    let observed = rig.aws.observe().await.unwrap();
    let described = rig
        .aws
        .describe(Filter::Instance(instance.id))
        .await
        .unwrap();
    assert_eq!((observed.len(), described.len()), (1, 1));
    assert_eq!(observed[0].mac, instance.primary_mac);
    assert_eq!(observed[0].eni_id, described[0].eni_id);
    assert_eq!(observed[0].addresses, [described[0].primary]);
    assert_eq!(observed[0].device_number, 0);
    assert_eq!(observed[0].vpc_cidrs, rig.cloud.config().vpc_cidrs);
    assert!(described[0].is_managed(&rig.instance.instance_id, false));
    assert_eq!(instance.vpc_id, rig.cloud.config().vpc_id);
    assert_eq!(observed[0].groups, described[0].groups);
    assert_eq!(observed[0].subnet_id, described[0].subnet_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eni_lives_from_creation_to_deletion() {
    let rig = rig().await;
    let made = rig.aws.create(new_eni(&rig, "token-1")).await.unwrap();
    let again = rig.aws.create(new_eni(&rig, "token-1")).await.unwrap();
    assert_eq!(again, made, "same token, same ENI");
    let id = made.eni_id;
    assert_eq!(rig.aws.observe_eni(made.mac).await.unwrap(), None);

    let instance_id = rig.instance.instance_id.clone();
    let orphans = rig
        .aws
        .describe(Filter::Orphans(instance_id.clone()))
        .await
        .unwrap();
    assert_eq!(
        orphans.iter().map(|eni| &eni.eni_id).collect::<Vec<_>>(),
        [&id]
    );

    let attachment = rig.aws.attach(&id, &instance_id, 1).await.unwrap();
    rig.aws
        .delete_on_termination(&id, &attachment)
        .await
        .unwrap();
    let singles = |count| Units::of(Kind::Address, count);
    let more = rig.aws.assign(&id, singles(2)).await.unwrap().addresses;
    assert_eq!(more.len(), 2);
    let prefixes = rig.aws.assign(&id, Units::of(Kind::Prefix, 1)).await;
    let prefixes = prefixes.unwrap().prefixes;
    assert_eq!(prefixes.len(), 1);
    let full = rig.aws.assign(&id, singles(1)).await.unwrap_err();
    assert_eq!(full.kind, ErrorKind::AddressLimit, "{full}");

    let eni = rig
        .aws
        .describe(Filter::Eni(id.clone()))
        .await
        .unwrap()
        .remove(0);
    assert_eq!((eni.secondaries.len(), &eni.prefixes), (4, &prefixes));
    let seen = rig.aws.observe_eni(made.mac).await.unwrap().unwrap();
    assert_eq!(seen.addresses[1..], eni.secondaries);
    assert_eq!(seen.prefixes, prefixes);
    assert_eq!(eni.attachment.as_ref().unwrap().device_number, 1);
    assert_eq!(eni.tags[TAG_INSTANCE], instance_id);
    assert_eq!(eni.groups, rig.instance.primary_eni.groups);

    let parting = Parting {
        addresses: more.clone(),
        prefixes,
    };
    rig.aws.unassign(&id, parting.clone()).await.unwrap();
    let twice = rig.aws.unassign(&id, parting).await.unwrap_err();
    assert_eq!(twice.kind, ErrorKind::NotHeld, "{twice}");
    let eni = rig
        .aws
        .describe(Filter::Eni(id.clone()))
        .await
        .unwrap()
        .remove(0);
    assert!(more.iter().all(|gone| !eni.secondaries.contains(gone)));
    assert!(eni.prefixes.is_empty());

    rig.aws.detach(&attachment).await.unwrap();
    rig.aws.delete(&id).await.unwrap();
    let gone = rig.aws.describe(Filter::Eni(id)).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound, "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripted_errors_arrive_with_their_meaning() {
    let rig = rig().await;
    let id = rig.instance.primary_eni.eni_id.clone();
    let one = Units::of(Kind::Address, 1);
    for (code, kind) in [
        ("RequestLimitExceeded", ErrorKind::Throttled),
        ("InsufficientFreeAddressesInSubnet", ErrorKind::SubnetFull),
        ("InsufficientCidrBlocks", ErrorKind::NoPrefix),
        ("UnauthorizedOperation", ErrorKind::Unauthorized),
        ("InternalError", ErrorKind::Transport),
    ] {
        let action = "AssignPrivateIpAddresses".to_owned();
        rig.cloud.inject(Fault {
            action,
            error_code: code.into(),
            count: 1,
        });
        let error = rig.aws.assign(&id, one).await.unwrap_err();
        assert_eq!((error.kind, error.code.as_str()), (kind, code), "{error}");
    }
    let granted = rig.aws.assign(&id, one).await.unwrap();
    assert_eq!(granted.addresses.len(), 1, "and the next call works");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_no_answer_and_changes_nothing() {
    let rig = rig().await;
    let id = rig.instance.primary_eni.eni_id.clone();
    let huge = "x".repeat(8 << 20);
    for (status, body) in [
        (200, ""),
        (200, "<html><body>Welcome</body></html>"),
        (
            200,
            "<AssignPrivateIpAddressesResponse><networkInterfaceId>eni-",
        ),
        (500, "<html>Bad gateway</html>"),
        (503, ""),
        (200, huge.as_str()),
    ] {
        rig.cloud
            .inject_reply("AssignPrivateIpAddresses", status, body);
        let outcome = rig.aws.assign(&id, Units::of(Kind::Address, 1)).await;
        match outcome {
            Err(error) => assert_eq!(error.kind, ErrorKind::Transport, "{error}"),
            Ok(granted) => assert!(granted.addresses.is_empty(), "{granted:?}"),
        }
    }
    assert!(rig.cloud.eni(&id).unwrap().secondaries.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_repeats_itself_ends() {
    let rig = rig().await;
    let page = "<DescribeNetworkInterfacesResponse><networkInterfaceSet/><nextToken>again</nextToken>\
                </DescribeNetworkInterfacesResponse>";
    for _ in 0..2 {
        rig.cloud
            .inject_reply("DescribeNetworkInterfaces", 200, page);
    }
    let error = rig.aws.describe(Filter::Eni("eni-1".into())).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::Transport);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subnets_and_leaked_enis_are_found_by_tag() {
    let rig = rig().await;
    let zone = SubnetFilter::Zone {
        vpc_id: rig.cloud.config().vpc_id.clone(),
        availability_zone: "eu-west-1b".into(),
    };
    let subnets = rig.aws.subnets(zone).await.unwrap();
    let [subnet] = &subnets[..] else {
        panic!("{subnets:?}");
    };
    assert_eq!(subnet.id, rig.cloud.config().subnets[1].subnet_id);
    assert_eq!(
        (subnet.cidr, subnet.free),
        (rig.cloud.config().subnets[1].cidr, 251)
    );

    let id = rig.aws.create(new_eni(&rig, "t")).await.unwrap().eni_id;
    let leaked = |cluster: Option<&str>| {
        rig.aws.describe(Filter::Leaked {
            vpc_id: rig.cloud.config().vpc_id.clone(),
            cluster: cluster.map(str::to_owned),
        })
    };
    let found = leaked(None).await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].description.starts_with("aws-K8S-"));
    assert!(leaked(Some("blue")).await.unwrap().is_empty());
    let tags = Tags::from([(
        "cluster.k8s.amazonaws.com/name".to_owned(),
        "blue".to_owned(),
    )]);
    rig.aws.tag(&id, tags).await.unwrap();
    assert_eq!(leaked(Some("blue")).await.unwrap().len(), 1);
    rig.aws.set_groups(&id, vec![]).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_no_second_eni() {
    let rig = rig().await;
    rig.cloud.inject_lost_reply("CreateNetworkInterface", 1);
    let lost = rig.aws.create(new_eni(&rig, "token-lost")).await;
    assert_eq!(lost.unwrap_err().kind, ErrorKind::Transport);
    let id = rig.aws.create(new_eni(&rig, "token-lost")).await;
    let id = id.unwrap().eni_id;
    let orphans = rig
        .aws
        .describe(Filter::Orphans(rig.instance.instance_id.clone()))
        .await;
    let ids: Vec<_> = orphans.unwrap().into_iter().map(|eni| eni.eni_id).collect();
    assert_eq!(ids, [id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_hides_throttling_and_nothing_else() {
    let rig = rig().await;
    let id = rig.instance.primary_eni.eni_id.clone();
    let cloud = Arc::clone(&rig.cloud);
    let fault = |code: &str| Fault {
        action: "AssignPrivateIpAddresses".into(),
        error_code: code.into(),
        count: 1,
    };
    let gate = Gate::new(Arc::new(rig.aws), Arc::new(MachineClock), Arc::default());
    cloud.inject(fault("RequestLimitExceeded"));
    let one = Units::of(Kind::Address, 1);
    assert_eq!(gate.assign(&id, one).await.unwrap().addresses.len(), 1);
    assert_eq!(cloud.calls()["AssignPrivateIpAddresses"], 2);
    cloud.inject(fault("InternalError"));
    let error = gate.assign(&id, one).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transport, "its effect is unknown");
    assert!(gate.trouble().unwrap().contains("InternalError"));
}
