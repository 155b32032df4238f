//! T09 and T23: plugin and agent die in the middle of what they do.

#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, with what it was doing"
)]

mod rig;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock_control_api::Request;
use penstock_lab::NetNs;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rig::shim::Shim;
use rig::{Baseline, Rig, SETTINGS, env_number};

/// A twentieth of what a release is held to (`PENSTOCK_CHAOS_OPERATIONS=10000`).
const OPERATIONS: u64 = 500;
/// Runtimes work on several pods at a time.
const WORKERS: u64 = 4;
/// Longest an ADD may be in vain: the agent is away for shorter.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which addresses pods have now, and who must not get them.
type Held = Mutex<BTreeMap<Ipv4Addr, String>>;

#[test]
#[ignore = "needs root and network namespaces"]
fn t09_plugin_and_agent_killed_at_random_leak_nothing_and_double_nothing() {
    let rig = Rig::start("chao");
    let before = Baseline::of_node(&rig);
    let shim = Shim::of(rig.node());
    let left = AtomicU64::new(env_number("PENSTOCK_CHAOS_OPERATIONS").unwrap_or(OPERATIONS));
    let over = AtomicBool::new(false);
    let held = Held::default();
    let kills = thread::scope(|scope| {
        let killer = scope.spawn(|| kill_now_and_then(&rig, &over));
        let workers: Vec<_> = (0..WORKERS)
            .map(|n| {
                let (rig, shim, left, held) = (&rig, &shim, &left, &held);
                scope.spawn(move || churn(rig, shim, n, left, held))
            })
            .collect();
        for worker in workers {
            worker.join().expect("a worker's checks hold");
        }
        over.store(true, Ordering::Relaxed);
        killer.join().expect("the agent comes back each time")
    });
    eprintln!("the agent was killed {kills} times");
    assert!(kills > 0);
    // The runtime has no sandbox any more.
    shim.collect_garbage(&[]).expect("GC");
    assert!(rig.pods().is_empty(), "{:?}", rig.pods());
    assert_eq!(rig.pod_links(), 0);
    assert!(rig.addresses_in_rules().is_empty());
    before.assert_node_back(&rig);
}

/// Returns how often.
fn kill_now_and_then(rig: &Rig, over: &AtomicBool) -> u32 {
    let mut random = StdRng::seed_from_u64(9);
    let mut kills = 0;
    while !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(random.random_range(200..1_500)));
        rig.node().kill_control();
        kills += 1;
        rig.node().start_control(SETTINGS).expect("agent");
    }
    kills
}

/// One pod after the other, as a runtime does: ADD until it works, CHECK, DEL until it works; now and then the plugin
/// is killed on the way.
fn churn(rig: &Rig, shim: &Shim, worker: u64, left: &AtomicU64, held: &Held) {
    let mut random = StdRng::seed_from_u64(worker);
    let sandbox = rig.sandbox(usize::try_from(worker).expect("few"));
    let take = || {
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(3)
        })
    };
    let mut serial = 0;
    while take().is_ok() {
        let pod = format!("w{worker}");
        let (container, address) = attach(shim, &pod, &mut serial, &sandbox, &mut random);
        let other = held
            .lock()
            .expect("held")
            .insert(address, container.clone());
        assert_eq!(other, None, "{address} of {container} was given out twice");
        if random.random_bool(0.5) {
            // Away is no answer; what is wrong with a pod is.
            let checked = shim.check(&container, &sandbox);
            assert!(
                checked.is_ok() || away(&checked),
                "{container}: {checked:?}"
            );
        }
        held.lock().expect("held").remove(&address);
        if random.random_bool(0.2) {
            let after = Duration::from_micros(random.random_range(0..15_000));
            shim.del_and_kill(&container, &sandbox, after)
                .expect("plugin");
        }
        shim.del(&container, Some(&sandbox)).expect("DEL");
    }
}

/// A fresh container for each attempt, as kubelet does it.
fn attach(
    shim: &Shim,
    pod: &str,
    serial: &mut u64,
    sandbox: &NetNs,
    random: &mut StdRng,
) -> (String, Ipv4Addr) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        *serial += 1;
        let container = format!("{pod}-{serial}");
        if random.random_bool(0.2) {
            let after = Duration::from_micros(random.random_range(0..25_000));
            shim.add_and_kill(&container, pod, sandbox, after)
                .expect("plugin");
        } else {
            match shim.add(&container, pod, sandbox) {
                Ok(address) => return (container, address),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
        shim.del(&container, Some(sandbox)).expect("DEL");
    }
}

fn away(checked: &Result<(), String>) -> bool {
    checked
        .as_ref()
        .is_err_and(|said| said.contains("\"code\":11"))
}

/// Calls of the agent at which it is killed, and at most the how manieth of each.
const POINTS: &[(&str, u32)] = &[
    ("fsync", 4),
    ("rename", 2),
    ("openat", 3),
    ("write", 4),
    ("sendto", 9),
    ("sendmsg", 2),
];

/// An agent under strace, which kills it at the `nth` call of a kind in one of its threads.
struct Trap(Child);

impl Trap {
    fn set(rig: &Rig, call: &str, nth: u32) -> Self {
        let pid = rig.node().control_pid().expect("agent");
        let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
        let trap = Command::new("strace")
            .args([
                "-f",
                "-qqq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
            ])
            .args(["-e", &inject, "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace");
        let traced = || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
            tasks.flatten().all(|task| {
                let status =
                    std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            })
        };
        let deadline = Instant::now() + PATIENCE;
        while !traced() {
            assert!(Instant::now() < deadline, "strace does not attach");
            thread::yield_now();
        }
        Self(trap)
    }

    /// Whether it has sprung; the agent runs untraced again if not.
    fn lift(mut self, rig: &Rig) -> bool {
        // SIGTERM makes strace let go; a tracee of a killed one would go on as well.
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").arg(&pid).status();
        let _ = self.0.wait();
        if rig.node().control_call(&Request::Status).is_ok() {
            return false;
        }
        let deadline = Instant::now() + PATIENCE;
        while rig.node().control_pid().is_some() {
            assert!(
                Instant::now() < deadline,
                "the agent neither answers nor ends"
            );
            thread::yield_now();
        }
        true
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t23_an_agent_killed_at_any_call_leaves_before_or_after_and_nothing_between() {
    let rig = Rig::start("crsh");
    let before = Baseline::of_node(&rig);
    let shim = Shim::of(rig.node());
    let sandbox = rig.sandbox(0);
    let every = env_number("PENSTOCK_CRASH_STEP").unwrap_or(3).max(1);
    let points = POINTS
        .iter()
        .flat_map(|(call, most)| (1..=*most).map(move |nth| (*call, nth)));
    let mut sprung = 0;
    for (serial, (call, nth)) in points
        .enumerate()
        .filter(|(n, _)| (*n as u64).is_multiple_of(every))
    {
        let container = format!("c{serial}");
        let at = format!("{call} {nth}");
        let trap = Trap::set(&rig, call, nth);
        let added = shim.add(&container, "web", &sandbox);
        sprung += restart(&rig, trap);
        let rows = rig.pods();
        assert!(rows.len() <= 1, "{at}: {rows:?}");
        let whole = rows
            .iter()
            .all(|row| !row.confirmed || rig.pod_links() == 1);
        assert!(whole, "{at}: recorded as attached, but it is not");
        if added.is_ok() {
            shim.check(&container, &sandbox)
                .unwrap_or_else(|said| panic!("{at}: {said}"));
        }
        let address = added.or_else(|_| {
            // The runtime gives up this sandbox and makes another.
            shim.del(&container, Some(&sandbox))?;
            shim.add(&format!("{container}b"), "web", &sandbox)
        });
        let address = address.unwrap_or_else(|said| panic!("{at}: {said}"));
        let trap = Trap::set(&rig, call, nth);
        for container in [container.clone(), format!("{container}b")] {
            shim.del(&container, Some(&sandbox))
                .unwrap_or_else(|said| panic!("{at}: {said}"));
        }
        sprung += restart(&rig, trap);
        for container in [container.clone(), format!("{container}b")] {
            shim.del(&container, Some(&sandbox))
                .unwrap_or_else(|said| panic!("{at}: {said}"));
        }
        assert!(rig.pods().is_empty(), "{at}: {:?}", rig.pods());
        assert_eq!(rig.pod_links(), 0, "{at}");
        assert!(!rig.addresses_in_rules().contains(&address), "{at}");
    }
    eprintln!("the agent was killed at {sprung} points");
    assert!(sprung >= 5, "{sprung}");
    before.assert_node_back(&rig);
}

/// 1 when the trap has sprung.
fn restart(rig: &Rig, trap: Trap) -> u32 {
    let sprung = trap.lift(rig);
    if sprung {
        rig.node().start_control(SETTINGS).expect("agent");
    }
    sprung.into()
}
