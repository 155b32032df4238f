//! Pods in other subnets than their node: custom networking, and subnets opened and closed by tag.

use std::net::Ipv4Addr;

use futures::future::join_all;

use super::world::{OTHER_GROUP, POD_GROUP, POD_SUBNET, SimSite, World};
use super::{MINUTE, SECOND};
use crate::clock::Clock;
use crate::kubernetes::EniConfig;
use crate::provision::Site;
use crate::state::Custom;

const ON: &[(&str, &str)] = &[("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true")];

fn is_pods(address: &Ipv4Addr) -> bool {
    address.octets()[0] == 100
}

/// As the cluster's ENIConfig changes.
fn configure(node: &SimSite, subnet: &str, groups: &[&str]) {
    let config = EniConfig {
        subnet_id: subnet.to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    };
    node.lock()
        .set_custom(Custom::Known("zone-a".to_owned(), config));
    node.kick().notify_one();
}

#[test]
fn custom_networking_puts_all_pods_into_the_configured_subnet() {
    let world = World::with_pod_subnet("10.0.0.0/24", &[]);
    world.clock.run(async {
        let node = world.node("m5.large", ON).await;
        world.clock.sleep(2 * MINUTE).await;
        assert_eq!(node.stock(), (1, 0, 0), "nobody said where");
        let cause = node.lock().trouble().unwrap();
        assert!(
            cause.passing && cause.text.contains("not known"),
            "{cause:?}"
        );

        configure(&node, POD_SUBNET, &[POD_GROUP]);
        node.until("an ENI for pods", 30, |node| node.stock() == (2, 9, 9))
            .await;
        let addresses = join_all((0..18).map(|pod| node.add(pod))).await;
        assert!(addresses.iter().all(is_pods), "{addresses:?}");
        assert!(
            node.try_add(18).is_none(),
            "the primary ENI has none for pods"
        );
        let own = world
            .cloud
            .enis()
            .into_iter()
            .find(|eni| eni.device_index == 0);
        assert!(own.unwrap().secondaries.is_empty());
        let enis = world.cloud.enis();
        let pods = enis.iter().filter(|eni| eni.device_index > 0);
        for eni in pods {
            assert_eq!(
                (eni.subnet_id.as_str(), &eni.groups[..]),
                (POD_SUBNET, &[POD_GROUP.to_owned()][..])
            );
        }
    });
}

#[test]
fn security_groups_of_an_eni_config_are_followed_and_its_absence_is_named() {
    let world = World::with_pod_subnet("10.0.0.0/24", &[]);
    world.clock.run(async {
        let node = world.node("m5.large", ON).await;
        configure(&node, "subnet-00000000000000bad", &[]);
        node.until("the cause", 30, |node| {
            node.lock()
                .trouble()
                .is_some_and(|why| why.text.contains("subnet-00000000000000bad"))
        })
        .await;
        configure(&node, POD_SUBNET, &[POD_GROUP]);
        node.until("an ENI for pods", 60, |node| node.stock().0 == 2)
            .await;
        configure(&node, POD_SUBNET, &[OTHER_GROUP]);
        let groups = || {
            let enis = world.cloud.enis();
            let eni = enis.iter().find(|eni| eni.device_index == 1).cloned();
            eni.unwrap().groups
        };
        node.until("the new group", 60, |_| groups() == [OTHER_GROUP])
            .await;
        configure(&node, POD_SUBNET, &[]);
        let own = world
            .cloud
            .enis()
            .into_iter()
            .find(|eni| eni.device_index == 0);
        let own = own.unwrap().groups;
        node.until("the primary's groups", 60, |_| groups() == own)
            .await;
    });
}

#[test]
fn a_subnet_is_opened_by_its_tag_and_closed_again() {
    const ROLE: &str = "kubernetes.io/role/cni";
    let world = World::with_pod_subnet("10.0.0.0/28", &[(ROLE, "1")]);
    world.clock.run(async {
        let settings = [("IP_COOLDOWN_PERIOD", "1")];
        let node = world.node("m5.large", &settings).await;
        let addresses = join_all((0..12).map(|pod| node.add(pod))).await;
        assert!(addresses.iter().any(is_pods), "{addresses:?}");
        let tags = [(ROLE.to_owned(), "0".to_owned())].into();
        world
            .cloud
            .create_tags(&[POD_SUBNET.to_owned()], &tags)
            .unwrap();
        let held: Vec<_> = addresses
            .iter()
            .enumerate()
            .filter(|(_, address)| is_pods(address))
            .collect();
        let closed = |node: &SimSite| node.lock().closed.contains(POD_SUBNET);
        node.until("it is seen", 11 * 60, closed).await;
        if let Some(address) = node.try_add(20) {
            assert!(!is_pods(&address), "no new pods there");
        }
        for (pod, _) in &held {
            assert!(
                node.lock().pool.held(&super::world::key(*pod)).is_some(),
                "pods that run stay"
            );
            node.del(*pod);
        }
        let gone = |_: &SimSite| {
            world
                .cloud
                .enis()
                .iter()
                .all(|eni| eni.subnet_id != POD_SUBNET)
        };
        node.until("its ENIs are given back", 10 * 60, gone).await;
        world.clock.sleep(SECOND).await;
    });
}
