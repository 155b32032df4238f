//! The real SDK against the simulated EC2 and metadata service, over loopback HTTP.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::Arc;

use ec2_sim::{Cloud, CloudConfig, Fault, http, imds};
use penstock_control::ec2::aws::{Aws, Endpoints};
use penstock_control::ec2::{Ec2, ErrorKind, Filter, NewEni, TAG_INSTANCE, Tags};
use penstock_control::ipam::plan::Limits;

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
        secondary_addresses: 2,
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
            addresses_per_eni: 6
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
    assert!(described[0].is_managed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eni_lives_from_creation_to_deletion() {
    let rig = rig().await;
    let id = rig.aws.create(new_eni(&rig, "token-1")).await.unwrap();
    let again = rig.aws.create(new_eni(&rig, "token-1")).await.unwrap();
    assert_eq!(again, id, "same token, same ENI");

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
    let more = rig.aws.assign(&id, 3).await.unwrap();
    assert_eq!(more.len(), 3);
    let full = rig.aws.assign(&id, 1).await.unwrap_err();
    assert_eq!(full.kind, ErrorKind::AddressLimit, "{full}");

    let eni = rig
        .aws
        .describe(Filter::Eni(id.clone()))
        .await
        .unwrap()
        .remove(0);
    assert_eq!(eni.secondaries.len(), 5);
    assert_eq!(eni.attachment.as_ref().unwrap().device_number, 1);
    assert_eq!(eni.tags[TAG_INSTANCE], instance_id);
    assert_eq!(eni.groups, rig.instance.primary_eni.groups);

    rig.aws.unassign(&id, more.clone()).await.unwrap();
    let eni = rig
        .aws
        .describe(Filter::Eni(id.clone()))
        .await
        .unwrap()
        .remove(0);
    assert!(more.iter().all(|gone| !eni.secondaries.contains(gone)));

    rig.aws.detach(&attachment).await.unwrap();
    rig.aws.delete(&id).await.unwrap();
    let gone = rig.aws.describe(Filter::Eni(id)).await.unwrap_err();
    assert_eq!(gone.kind, ErrorKind::NotFound, "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripted_errors_arrive_with_their_meaning() {
    let rig = rig().await;
    let id = rig.instance.primary_eni.eni_id.clone();
    for (code, kind) in [
        ("RequestLimitExceeded", ErrorKind::Throttled),
        ("InsufficientFreeAddressesInSubnet", ErrorKind::SubnetFull),
        ("UnauthorizedOperation", ErrorKind::Unauthorized),
    ] {
        // More faults than the SDK has attempts, so that its own retries do not hide them.
        let action = "AssignPrivateIpAddresses".to_owned();
        rig.cloud.inject(Fault {
            action,
            error_code: code.into(),
            count: 3,
        });
        let error = rig.aws.assign(&id, 1).await.unwrap_err();
        assert_eq!((error.kind, error.code.as_str()), (kind, code), "{error}");
        rig.cloud.clear_faults();
    }
    assert_eq!(
        rig.aws.assign(&id, 1).await.unwrap().len(),
        1,
        "and the next call works"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_no_second_eni() {
    let rig = rig().await;
    rig.cloud.inject_lost_reply("CreateNetworkInterface", 1);
    let id = rig.aws.create(new_eni(&rig, "token-lost")).await.unwrap();
    let orphans = rig
        .aws
        .describe(Filter::Orphans(rig.instance.instance_id.clone()))
        .await;
    let ids: Vec<_> = orphans.unwrap().into_iter().map(|eni| eni.eni_id).collect();
    assert_eq!(ids, [id]);
}
