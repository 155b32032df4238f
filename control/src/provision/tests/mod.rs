//! The stock keeper against a simulated account, on a clock on which hours pass at once: bursts, faults, lag, lies.
//!
//! Counts are a tenth unless PENSTOCK_SCALE=1 asks for all.

#![expect(clippy::print_stdout, reason = "the figures are for people to see")]

mod answers;
mod subnets;
mod time;
mod world;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use ec2_sim::Fault;
use futures::future::join_all;

use super::Site;
use crate::clock::Clock;
use world::{Lies, World, key};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn scaled(full: usize) -> usize {
    match std::env::var("PENSTOCK_SCALE").as_deref() {
        Ok("1") => full,
        _ => full / 10,
    }
}

#[test]
fn a_fresh_node_fills_its_stock_and_gives_a_surplus_back() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("t3.small", &[]).await;
        node.until("a first ENI's worth", 10, |node| node.stock() == (1, 3, 3))
            .await;
        for pod in 0..5 {
            node.add(pod).await;
        }
        node.until("three ENIs", 20, |node| node.stock() == (3, 9, 4))
            .await;
        for pod in 0..5 {
            node.del(pod);
        }
        node.until("one ENI again", 240, |node| node.stock() == (1, 3, 3))
            .await;
        world.clock.sleep(300 * SECOND).await;
        assert_eq!(node.stock(), (1, 3, 3), "the spare ones stay");
        assert_eq!(world.cloud.enis().len(), 1, "and nothing is left behind");
    });
}

#[test]
fn prefixes_fall_back_to_addresses_and_return() {
    let world = World::new(1, "10.0.0.0/25");
    world.clock.run(async {
        let subnet = world.cloud.config().subnets[0].subnet_id.clone();
        for sixteenth in 0..8 {
            let address = [10, 0, 0, sixteenth * 16 + 9].into();
            world.cloud.occupy(&subnet, address).unwrap();
        }
        let settings = [("ENABLE_PREFIX_DELEGATION", "true")];
        let node = world.node("m5.large", &settings).await;
        node.until("single addresses", 20, |node| node.stock().2 >= 9)
            .await;
        let prefixes = |node: &world::SimSite| {
            let state = node.lock();
            let ids: Vec<String> = state.enis.keys().cloned().collect();
            ids.iter()
                .map(|id| state.pool.prefixes(id).count())
                .sum::<usize>()
        };
        assert_eq!(prefixes(&node), 0);
        for sixteenth in 1..4 {
            let address = [10, 0, 0, sixteenth * 16 + 9].into();
            world.cloud.vacate(&subnet, address).unwrap();
        }
        world.clock.sleep(150 * SECOND).await;
        join_all((0..20).map(|pod| node.add(pod))).await;
        node.until("a prefix", 200, |node| prefixes(node) > 0).await;
    });
}

#[test]
fn two_hundred_and_fifty_pods_on_an_empty_node() {
    const CALL: Duration = Duration::from_millis(100);
    let world = World::new(1, "10.0.0.0/20");
    world.cloud.set_latency(CALL);
    // The account's budget as EC2 documents it for this class of calls.
    world.cloud.set_budget(100, 20.0);
    let took = world.clock.run(async {
        let node = world.node("m5.24xlarge", &[]).await;
        let addresses = join_all((0..250).map(|pod| node.add(pod))).await;
        let distinct: HashSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 250);
        world.clock.since_start()
    });
    // The VPC CNI's loop by its own constants: 5 s a pass, in which one ENI is filled or made; an ENI takes create,
    // describe, attach, modify and a first look at the metadata service 100 ms later. 49 addresses an ENI.
    let passes = 250u32.div_ceil(49);
    let serial = 5 * SECOND * passes + CALL + (4 * CALL + CALL) * (passes - 1);
    println!(
        "250 pods: {took:?}; one ENI at a time: {serial:?}; {} calls",
        world.calls.lock().unwrap().len()
    );
    assert!(took * 5 <= serial, "{took:?} is over a fifth of {serial:?}");
}

#[test]
fn five_hundred_nodes_on_one_account() {
    const PODS: usize = 20;
    let nodes = scaled(500);
    // The account's budget as EC2 documents it for this class of calls; fewer nodes get their share.
    let (burst, rate) = (100.0, 20.0);
    let share = nodes as f64 / 500.0;
    let (burst, rate) = (burst * share, rate * share);
    let world = World::new(1, "10.0.0.0/16");
    world.cloud.set_budget(burst as u32, rate);
    world.cloud.set_latency(Duration::from_millis(100));
    let (served, settled) = world.clock.run(async {
        let all = join_all((0..nodes).map(|_| world.node("m5.large", &[]))).await;
        let pods = all
            .iter()
            .flat_map(|node| (0..PODS).map(move |pod| node.add(pod)));
        let addresses = join_all(pods).await;
        let served = world.clock.since_start();
        let distinct: HashSet<_> = addresses.iter().collect();
        assert_eq!(
            distinct.len(),
            nodes * PODS,
            "no ADD is lost, no address given twice"
        );
        for node in &all {
            node.until("a full stock", 3600, |node| node.stock().1 == 27)
                .await;
        }
        (served, world.clock.since_start())
    });
    let calls = world.calls_by_action();
    let made: usize = calls.values().map(|calls| calls.made).sum();
    let refused: usize = calls.values().map(|calls| calls.refused).sum();
    // By its own constants the VPC CNI makes at least these calls a node: describe at start with tags, one fill, and for
    // each of two more ENIs create, describe, attach, modify; were not one of them refused, the budget takes this long.
    let needed = nodes as f64 * (2.0 + 2.0 * 4.0);
    let serial = Duration::from_secs_f64((needed - burst) / rate);
    println!(
        "{nodes} nodes: last pod {served:?}, all full {settled:?}; the VPC CNI's calls alone: {serial:?}; {made} calls, \
         {refused} refused: {calls:?}"
    );
    // A node finds its share of the budget by doubling its pauses; its first answer comes after as many doublings.
    assert!(refused <= nodes * 10, "too many calls are refused");
    assert!(served < serial, "slower than the calls of one by one");
}

/// T14.
#[test]
fn ten_minutes_of_throttling_are_waited_out_quietly() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("m5.large", &[]).await;
        node.until("a stock", 20, |node| node.stock() == (1, 9, 9))
            .await;
        world.cloud.inject(Fault {
            action: "*".into(),
            error_code: "RequestLimitExceeded".into(),
            count: u32::MAX,
        });
        let began = world.clock.since_start();
        for pod in 0..9 {
            assert!(node.try_add(pod).is_some(), "the pool serves");
        }
        world.clock.sleep(600 * SECOND).await;
        let calls =
            |from: u32, to: u32| world.calls_between(began + SECOND * from, began + SECOND * to);
        assert!(calls(0, 60) <= 30, "{} in the first minute", calls(0, 60));
        for minute in 5..10 {
            let seen = calls(minute * 60, minute * 60 + 60);
            assert!(seen <= 2, "{seen} in minute {minute}");
        }
        for second in 0..600 {
            assert!(calls(second, second + 1) <= 5);
        }
        world.cloud.clear_faults();
        node.until("the target", 90, |node| node.stock().2 >= 9)
            .await;
    });
}

/// T15.
#[test]
fn slow_calls_delay_nobody_who_needs_none() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("m5.large", &[]).await;
        node.until("a stock", 20, |node| node.stock().2 == 9).await;
        world.cloud.set_latency(30 * SECOND);
        let before = world.clock.since_start();
        for pod in 0..9 {
            node.add(pod).await;
        }
        assert_eq!(world.clock.since_start(), before, "not even a moment");
        node.add(9).await;
        node.until("the target", 300, |node| node.stock().2 >= 9)
            .await;
    });
}

/// T16.
#[test]
fn lagging_views_make_no_extra_eni_and_leak_none() {
    for lag in [5, 30, 120] {
        let world = World::new(lag, "10.0.0.0/24");
        world.clock.run(async {
            let node = world.idle_node("m5.large", &[]).await;
            world.cloud.set_view_lag(Duration::from_secs(lag));
            tokio::spawn(super::keep_in_stock(std::sync::Arc::clone(&node)));
            join_all((0..12).map(|pod| node.add(pod))).await;
            world.clock.sleep(600 * SECOND).await;
            assert_eq!(node.stock(), (3, 27, 15), "lag of {lag} s");
            assert_eq!(world.cloud.enis().len(), 3, "lag of {lag} s");
        });
    }
}

/// T18.
#[test]
fn lost_answers_leak_nothing_and_double_nothing() {
    for seed in 0..scaled(100) as u64 {
        let world = World::new(seed, "10.0.0.0/24");
        *world.loss.lock().unwrap() = 0.2;
        world.clock.run(async {
            let node = world
                .node("t3.medium", &[("IP_COOLDOWN_PERIOD", "1")])
                .await;
            for round in 0..3 {
                let pods = (0..12).map(|pod| node.add(round * 100 + pod));
                let addresses: HashSet<_> = join_all(pods).await.into_iter().collect();
                assert_eq!(addresses.len(), 12, "seed {seed}");
                (0..12).for_each(|pod| {
                    node.del(round * 100 + pod);
                });
                world.clock.sleep(400 * SECOND).await;
            }
            *world.loss.lock().unwrap() = 0.0;
            world.clock.sleep(4_000 * SECOND).await;
            let state = node.lock();
            let enis = world.cloud.enis();
            let ours: BTreeSet<_> = state.enis.keys().collect();
            let theirs: BTreeSet<_> = enis.iter().map(|eni| &eni.eni_id).collect();
            assert_eq!(ours, theirs, "seed {seed}");
            for eni in &enis {
                let ours: BTreeSet<_> = state.pool.addresses(&eni.eni_id).collect();
                let theirs: BTreeSet<_> = eni.secondaries.iter().copied().collect();
                assert_eq!(ours, theirs, "seed {seed}");
            }
        });
    }
}

/// T17: views that omit and invent, at start and later.
#[test]
fn lying_views_neither_take_nor_give() {
    for seed in 0..scaled(1_000) as u64 {
        let world = World::new(seed, "10.0.0.0/24");
        world.clock.run(async {
            let settings = [("WARM_IP_TARGET", "2"), ("IP_COOLDOWN_PERIOD", "5")];
            let node = world.node("t3.medium", &settings).await;
            let mut held = std::collections::BTreeMap::new();
            for pod in 0..4 {
                held.insert(pod, node.add(pod).await);
            }
            *world.lies.lock().unwrap() = Lies {
                omit: 0.3,
                invent: 0.5,
                ..Lies::default()
            };
            for step in 4..30 {
                match world.pick(3) {
                    0 if held.len() < 8 => {
                        if let Some(address) = node.try_add(step) {
                            held.insert(step, address);
                        }
                    }
                    1 => {
                        if let Some((pod, _)) = held.pop_first() {
                            node.del(pod);
                        }
                    }
                    _ => world.clock.sleep(Duration::from_secs(40)).await,
                }
                let owned: HashSet<_> = world
                    .cloud
                    .enis()
                    .into_iter()
                    .flat_map(|eni| eni.secondaries)
                    .collect();
                for (pod, address) in &held {
                    assert!(
                        owned.contains(address),
                        "seed {seed}: {address} of a pod is not the node's"
                    );
                    let known = node
                        .lock()
                        .pool
                        .held(&key(*pod))
                        .map(|(address, _)| address);
                    assert_eq!(known, Some(*address), "seed {seed}: forgotten");
                }
            }
        });
    }
}

#[test]
fn a_pod_no_record_knows_keeps_its_address() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let settings = [("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "4")];
        let node = world.node("m5.large", &settings).await;
        node.until("four addresses", 20, |node| node.stock().2 == 4)
            .await;
        let known: Vec<_> = (0..4).map(|pod| node.try_add(pod).unwrap()).collect();
        (0..4).for_each(|pod| {
            node.del(pod);
        });
        node.unknown_pods.lock().unwrap().insert(known[0]);
        // More than wanted: something goes back once it has cooled.
        join_all((10..18).map(|pod| node.add(pod))).await;
        (10..18).for_each(|pod| {
            node.del(pod);
        });
        node.until("the surplus is given back", 600, |node| node.stock().1 <= 6)
            .await;
        world.clock.sleep(300 * SECOND).await;
        let owned: HashSet<_> = world
            .cloud
            .enis()
            .into_iter()
            .flat_map(|eni| eni.secondaries)
            .collect();
        assert!(owned.contains(&known[0]), "it was not given back");
    });
}

#[test]
fn a_full_subnet_says_so_and_is_not_hammered() {
    let world = World::new(1, "10.0.0.0/28");
    world.clock.run(async {
        let node = world.node("m5.large", &[("WARM_ENI_TARGET", "2")]).await;
        node.until("what there is", 60, |node| node.stock().1 >= 8)
            .await;
        world.clock.sleep(30 * SECOND).await;
        let before = world.calls.lock().unwrap().len();
        world.clock.sleep(600 * SECOND).await;
        let more = world.calls.lock().unwrap().len() - before;
        assert!(more <= 40, "{more} calls in ten minutes");
        let trouble = node.lock().trouble().unwrap();
        assert!(trouble.text.contains("subnet is full"), "{trouble:?}");
    });
}

#[test]
fn enis_others_attached_and_security_groups_are_followed() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("m5.large", &[]).await;
        join_all((0..2).map(|pod| node.add(pod))).await;
        node.until("two ENIs", 30, |node| node.stock().0 == 2).await;
        let subnet_id = world.cloud.config().subnets[0].subnet_id.clone();
        let foreign = world
            .cloud
            .create_network_interface(&ec2_sim::cloud::CreateRequest {
                subnet_id,
                secondary_count: 2,
                tags: [(
                    "node.k8s.amazonaws.com/no_manage".to_owned(),
                    "true".to_owned(),
                )]
                .into(),
                ..Default::default()
            });
        let attach = ec2_sim::cloud::AttachRequest {
            eni_id: foreign.unwrap().eni_id,
            instance_id: node.id().to_owned(),
            device_index: 2,
        };
        world.cloud.attach_network_interface(&attach).unwrap();
        world.clock.sleep(60 * SECOND).await;
        let state = node.lock();
        assert_eq!((state.enis.len(), state.unmanaged), (2, 1));
        assert_eq!(state.foreign_devices, [2]);
    });
}

#[test]
fn a_cordoned_node_serves_its_pods_and_keeps_no_stock() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("t3.small", &[]).await;
        node.until("a stock", 20, |node| node.stock() == (1, 3, 3))
            .await;
        node.lock().cordoned = true;
        join_all((0..3).map(|pod| node.add(pod))).await;
        world.clock.sleep(2 * MINUTE).await;
        assert_eq!(
            node.stock(),
            (1, 3, 0),
            "no stock for pods that will not come"
        );
        node.add(3).await;
        assert_eq!(node.stock().0, 2, "one that is here gets its address");
        for pod in 0..4 {
            node.del(pod);
        }
        world.clock.sleep(10 * MINUTE).await;
        assert_eq!(node.stock().0, 2, "nothing is given back meanwhile");
        node.lock().cordoned = false;
        node.until("one ENI again", 240, |node| node.stock().0 == 1)
            .await;
    });
}

#[test]
fn pods_the_cluster_sends_are_provided_for_before_they_ask() {
    let world = World::new(1, "10.0.0.0/24");
    world.clock.run(async {
        let node = world.node("t3.small", &[("WARM_IP_TARGET", "1")]).await;
        node.until("a stock", 20, |node| node.stock().2 == 1).await;
        let coming = |n: usize| ("t".to_owned(), format!("p{n}"));
        node.lock().awaiting = (0..7).map(coming).collect();
        node.kick().notify_one();
        node.until("addresses for all", 20, |node| node.stock().2 >= 7)
            .await;
        node.lock().awaiting.clear();
        node.until("the surplus goes back", 600, |node| node.stock().2 <= 3)
            .await;
    });
}
