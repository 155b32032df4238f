//! The plugin called as no well-behaved runtime would: bursts, repeats, DELs of the unknown, churn.

mod rig;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use penstock_lab::NetNs;
use rig::shim::Shim;
use rig::{Baseline, Rig, in_parallel};

/// T11.
const BURST: usize = 50;
/// T12: in each of four ways.
const DELS: usize = 250;
/// T46 at the speed the machine has; the first half also warms caches and allocators up.
const CHURN: usize = 200;
const CHURN_AT_ONCE: usize = 8;

#[test]
#[ignore = "needs root and network namespaces"]
fn t11_a_burst_of_adds_and_dels_succeeds_as_a_whole() {
    let rig = Rig::start("burs");
    let before = Baseline::of_node(&rig);
    let shim = Shim::of(rig.node());
    let sandboxes: Vec<NetNs> = (0..BURST).map(|n| rig.sandbox(n)).collect();
    let pods = in_parallel(BURST, sandboxes.iter().enumerate(), |(n, sandbox)| {
        let started = Instant::now();
        let result = shim.add(&format!("c{n}"), &format!("p{n}"), sandbox);
        (result.expect("ADD"), started.elapsed())
    });
    let addresses: HashSet<String> = pods.iter().map(|(pod, _)| pod.to_string()).collect();
    assert_eq!(addresses.len(), BURST, "each pod has its own address");
    assert!(rig.pods().iter().all(|row| row.confirmed));
    let dels = in_parallel(BURST, sandboxes.iter().enumerate(), |(n, sandbox)| {
        let started = Instant::now();
        shim.del(&format!("c{n}"), Some(sandbox)).expect("DEL");
        started.elapsed()
    });
    let slowest = pods.iter().map(|(_, took)| *took).max().unwrap_or_default();
    let slowest_del = dels.into_iter().max().unwrap_or_default();
    eprintln!("slowest ADD {slowest:?}, slowest DEL {slowest_del:?}");
    before.assert_node_back(&rig);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t12_every_del_succeeds_within_a_second() {
    let rig = Rig::start("dels");
    let shim = Shim::of(rig.node());
    let sandbox = rig.sandbox(0);
    let del = |container: &str, sandbox: Option<&NetNs>| {
        let started = Instant::now();
        shim.del(container, sandbox).expect("DEL");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(1), "{container}: {took:?}");
    };
    for n in 0..DELS {
        del(&format!("unknown-{n}"), Some(&sandbox));
        del(&format!("nowhere-{n}"), None);
    }
    shim.add("once", "pod", &sandbox).expect("ADD");
    (0..DELS).for_each(|_| del("once", Some(&sandbox)));
    assert!(rig.pods().is_empty());
    rig.node().kill_control();
    (0..DELS).for_each(|_| del("away", Some(&sandbox)));
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t46_churn_leaves_nothing_and_takes_no_memory() {
    let rig = Rig::start("chur");
    let shim = Shim::of(rig.node());
    let sandboxes: Vec<NetNs> = (0..CHURN_AT_ONCE).map(|n| rig.sandbox(n)).collect();
    let churn = |round: usize| {
        in_parallel(
            CHURN_AT_ONCE,
            sandboxes.iter().enumerate(),
            |(place, sandbox)| {
                for n in 0..CHURN / CHURN_AT_ONCE {
                    let name = format!("{round}-{place}-{n}");
                    shim.add(&name, &name, sandbox).expect("ADD");
                    shim.del(&name, Some(sandbox)).expect("DEL");
                }
            },
        );
    };
    churn(0);
    let (before, memory) = (Baseline::of_node(&rig), rig.resident_kib());
    churn(1);
    before.assert_node_back(&rig);
    for (name, before, now) in rig.resident_kib().grown_from(&memory) {
        // A few kilobytes a pod would show: 200 pods are too few for 2 % to be more than noise.
        let grown = now.saturating_sub(before);
        assert!(grown <= before / 10, "{name}: {before} KiB, then {now}");
    }
}
