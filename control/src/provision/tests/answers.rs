//! What EC2 and the metadata service may answer (rows E of the reliability reference): endings, hangs, strangers.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ec2_sim::Fault;
use ec2_sim::cloud::{AddressChoice, AssignRequest};
use futures::future::join_all;

use super::world::{SimSite, World};
use super::{MINUTE, SECOND};
use crate::clock::Clock;
use crate::provision::{Site, keep_in_stock};

/// What EC2 has for the node's pods is what the node thinks it has, and nothing lies about.
fn agreed(world: &World, node: &SimSite) {
    let state = node.lock();
    let enis = world.cloud.enis();
    let ours: BTreeSet<_> = state.enis.keys().collect();
    let theirs: BTreeSet<_> = enis.iter().map(|eni| &eni.eni_id).collect();
    assert_eq!(ours, theirs);
    for eni in &enis {
        let ours: BTreeSet<_> = state.pool.addresses(&eni.eni_id).collect();
        let theirs: BTreeSet<_> = eni.secondaries.iter().copied().collect();
        assert_eq!(ours, theirs, "{}", eni.eni_id);
    }
}

#[test]
fn e01_a_throttled_agent_that_dies_does_not_begin_anew() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.idle_node("m5.large", &[]).await;
        let id = node.id().to_owned();
        let first = tokio::spawn(keep_in_stock(Arc::clone(&node)));
        node.until("a stock", 20, |node| node.stock() == (1, 9, 9))
            .await;
        world.cloud.inject(Fault {
            action: "*".into(),
            error_code: "RequestLimitExceeded".into(),
            count: u32::MAX,
        });
        for pod in 0..9 {
            node.try_add(pod).unwrap();
        }
        world.clock.sleep(5 * MINUTE).await;
        // It crashes once a minute from now on.
        let mut restraint = node.ec2().restraint().unwrap();
        first.abort();
        let began = world.clock.since_start();
        for _ in 0..5 {
            let node = world.restart(&id, &[], Some(&restraint)).await;
            let life = tokio::spawn(keep_in_stock(Arc::clone(&node)));
            world.clock.sleep(MINUTE).await;
            restraint = node.ec2().restraint().unwrap();
            life.abort();
        }
        let calls = world.calls_between(began, world.clock.since_start());
        assert!(calls <= 10, "{calls} calls in five minutes of crashing");

        world.cloud.clear_faults();
        let node = world.restart(&id, &[], Some(&restraint)).await;
        tokio::spawn(keep_in_stock(Arc::clone(&node)));
        // All nine look free to it: the pods of this test exist in no kernel.
        for pod in 0..9 {
            node.try_add(pod).unwrap();
        }
        node.until("the target", 90, |node| node.stock().2 >= 9)
            .await;
    });
}

#[test]
fn e09_a_missing_permission_is_asked_for_once_a_minute_and_named_in_the_cluster() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("m5.large", &[]).await;
        node.until("a stock", 20, |node| node.stock() == (1, 9, 9))
            .await;
        world.cloud.inject(Fault {
            action: "*".into(),
            error_code: "UnauthorizedOperation".into(),
            count: u32::MAX,
        });
        for pod in 0..9 {
            node.try_add(pod).expect("the pool serves");
        }
        world.clock.sleep(MINUTE).await;
        let began = world.clock.since_start();
        world.clock.sleep(10 * MINUTE).await;
        let calls = world.calls_between(began, began + 10 * MINUTE);
        // One a minute for the stock, and the few looks of any ten minutes.
        assert!(calls <= 15, "{calls} calls in ten minutes");
        let cause = node.lock().trouble().unwrap();
        assert!(
            !cause.passing && cause.text.contains("AmazonEKS_CNI_Policy"),
            "{cause:?}"
        );
        assert!(
            node.warnings
                .lock()
                .unwrap()
                .contains(&"MissingIAMPermissions")
        );
        world.cloud.clear_faults();
        node.until("the target", 90, |node| node.stock().2 >= 9)
            .await;
    });
}

#[test]
fn e11_an_address_nobody_asked_for_is_used_after_a_minute_only() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let settings = [("WARM_IP_TARGET", "2"), ("IP_COOLDOWN_PERIOD", "1")];
        let node = world.node("m5.large", &settings).await;
        node.until("a stock", 20, |node| node.stock() == (1, 2, 2))
            .await;
        let eni_id = world.cloud.enis()[0].eni_id.clone();
        let request = AssignRequest {
            eni_id,
            choice: AddressChoice::Count(1),
            allow_reassignment: false,
        };
        let began = world.clock.since_start();
        let stranger = world.cloud.assign_private_ip_addresses(&request);
        let stranger = stranger.unwrap().addresses[0];
        let known = |node: &SimSite| node.lock().pool.owner(stranger).is_some();
        node.until("it is adopted", 180, known).await;
        let took = world.clock.since_start() - began;
        assert!(took >= MINUTE, "after {took:?}");
    });
}

#[test]
fn e13_an_eni_that_hangs_while_it_attaches_is_given_up() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("t3.small", &[]).await;
        node.until("a stock", 20, |node| node.stock() == (1, 3, 3))
            .await;
        world.cloud.set_attachment_delays(20 * MINUTE, SECOND);
        let first: HashSet<_> = join_all((0..3).map(|pod| node.add(pod)))
            .await
            .into_iter()
            .collect();
        node.until("an ENI that hangs", 20, |_| world.cloud.enis().len() == 2)
            .await;
        // What is attached from now on is at once.
        world.cloud.set_attachment_delays(SECOND, SECOND);
        let began = world.clock.since_start();
        let second: HashSet<_> = join_all((3..6).map(|pod| node.add(pod)))
            .await
            .into_iter()
            .collect();
        let waited = world.clock.since_start() - began;
        assert!(waited < 6 * MINUTE, "pods waited for {waited:?}");
        assert!(first.is_disjoint(&second));
        world.clock.sleep(60 * MINUTE).await;
        assert_eq!(node.stock(), (3, 9, 3));
        agreed(&world, &node);
    });
}

#[test]
fn e13_an_eni_that_hangs_while_it_detaches_is_never_used_again() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let settings = [("IP_COOLDOWN_PERIOD", "1")];
        let node = world.node("t3.small", &settings).await;
        join_all((0..4).map(|pod| node.add(pod))).await;
        node.until("three ENIs", 30, |node| node.stock().0 == 3)
            .await;
        for pod in 0..4 {
            node.del(pod).unwrap();
        }
        world.cloud.set_attachment_delays(SECOND, 12 * MINUTE);
        let leaving = |node: &SimSite| node.lock().enis.values().any(|eni| eni.leaving);
        node.until("one is given back", 240, leaving).await;
        let going: HashSet<_> = {
            let state = node.lock();
            let eni = state.enis.values().find(|eni| eni.leaving).unwrap();
            state.pool.addresses(&eni.eni_id).collect()
        };
        world.clock.sleep(10 * MINUTE).await;
        for pod in 10..16 {
            if let Some(address) = node.try_add(pod) {
                assert!(!going.contains(&address), "{address} is about to vanish");
            }
        }
        world.cloud.set_attachment_delays(SECOND, SECOND);
        world.clock.sleep(60 * MINUTE).await;
        agreed(&world, &node);
    });
}

#[test]
fn e15_an_impostor_changes_nothing() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("m5.large", &[]).await;
        node.until("a stock", 20, |node| node.stock() == (1, 9, 9))
            .await;
        *world.impostor.lock().unwrap() = Some("i-0another".to_owned());
        world.clock.sleep(MINUTE).await;
        let before = world.calls.lock().unwrap().len();
        for pod in 0..9 {
            node.try_add(pod).expect("the pool serves");
        }
        world.clock.sleep(10 * MINUTE).await;
        let calls = world.calls.lock().unwrap().len() - before;
        assert_eq!(calls, 0, "EC2 was asked about somebody else");
        assert_eq!(node.stock(), (1, 9, 0));
        *world.impostor.lock().unwrap() = None;
        node.until("it goes on", 60, |node| node.stock().2 >= 9)
            .await;
    });
}

#[test]
fn e10_e15_a_partial_list_takes_nothing_away() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("m5.large", &[]).await;
        node.until("a stock", 20, |node| node.stock() == (1, 9, 9))
            .await;
        world.lies.lock().unwrap().omit_metadata = 1.0;
        world.clock.sleep(20 * MINUTE).await;
        assert_eq!(node.stock(), (1, 9, 9));
        let added: HashSet<_> = (0..9).map(|pod| node.try_add(pod).unwrap()).collect();
        assert_eq!(added.len(), 9);
        world.clock.sleep(Duration::from_secs(1)).await;
    });
}
