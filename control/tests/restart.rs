//! The agent dies and comes back under traffic, or is not there, or cannot write.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod rig;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use penstock_control_api::code;
use penstock_lab::{Error, OUTSIDE_ADDRESSES};
use rig::Rig;
use rig::traffic::Conversation;

/// As many as a large node runs.
const PODS: usize = 250;
/// Seconds an agent may take from its start until it serves ADD.
const READY: Duration = Duration::from_secs(2);

/// Full counts with PENSTOCK_SCALE=1.
fn scaled(full: usize) -> usize {
    match std::env::var("PENSTOCK_SCALE").as_deref() {
        Ok("1") => full,
        _ => full / 10,
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t08_an_agent_that_is_killed_loses_no_packet_and_is_back_in_two_seconds() {
    let rig = Rig::of_type("m5.24xlarge");
    rig.node().start_control(&[]).expect("agent");
    let real = ["a", "b"].map(|name| rig.node().add_pod("t", name).expect("pod"));
    let others = PODS - real.len();
    for n in 0..others {
        rig.attach(&format!("c{n}"), &format!("p{n}"));
    }
    let [a, b] = &real;
    let local = Conversation::start((a.netns(), a.address()), (b.netns(), b.address()));
    let outside = (rig.lab.outside(), OUTSIDE_ADDRESSES[0]);
    let away = Conversation::start((a.netns(), a.address()), outside);
    let mut times = Vec::new();
    for _ in 0..scaled(100) {
        rig.node().kill_control();
        times.push(rig.node().start_control(&[]).expect("agent"));
        assert_eq!(rig.pods().len(), PODS);
    }
    times.sort();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "ready with {PODS} pods: median {median:?}, slowest {slowest:?} of {}",
        times.len()
    );
    for (path, conversation) in [("pod to pod", local), ("pod to outside", away)] {
        let report = conversation.end();
        eprintln!("{path}: {report:?}");
        assert!(report.sent > 100, "{path}: {report:?}");
        assert_eq!(report.lost, 0, "{path}");
    }
    assert!(median <= READY, "{median:?}");
    for pod in real {
        pod.del().expect("DEL");
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t10_without_the_agent_add_is_to_be_tried_again_and_works_soon_after() {
    let rig = Rig::start(&[]);
    rig.node().kill_control();
    let began = Instant::now();
    let failure = rig
        .node()
        .add_pod("t", "a")
        .map(|pod| pod.address())
        .expect_err("no agent");
    let took = began.elapsed();
    assert!(matches!(failure, Error::Cni { code: 11, .. }), "{failure}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    rig.node().start_control(&[]).expect("agent");
    let began = Instant::now();
    // As a kubelet: a new sandbox every time.
    let pod = rig.node().add_pod("t", "a").expect("ADD");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    pod.del().expect("DEL");
}

/// A file system of a megabyte in place of a directory, until it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: PathBuf) -> Self {
        mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=1m"),
        )
        .expect("tmpfs");
        Self(path)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Writes until nothing fits any more.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.filler()).unwrap();
        for size in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The agent may still hold it: it goes when the agent does.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn t21_a_full_disk_gives_nothing_out_and_keeps_nothing_back() {
    let rig = Rig::bare();
    let disk = SmallDisk::at(rig.node().state_dir());
    rig.node()
        .start_control(&[("IP_COOLDOWN_PERIOD", "0")])
        .expect("agent");
    for n in 0..3 {
        rig.attach(&format!("c{n}"), &format!("p{n}"));
    }
    disk.fill();
    for round in 0..10 {
        let refused = rig.add(&format!("x{round}"), "x").unwrap_err();
        assert_eq!(refused.code, code::TRY_AGAIN, "{refused:?}");
        assert!(
            refused.details.contains("could not be recorded"),
            "{refused:?}"
        );
    }
    rig.del("c0");
    rig.del("c1");
    assert_eq!(rig.pods().len(), 1);
    fs::remove_file(disk.filler()).unwrap();
    let began = Instant::now();
    rig.eventually("normal", 5, |rig| rig.add("after", "after").is_ok());
    eprintln!("normal again after {:?}", began.elapsed());
    rig.node().kill_control();
    rig.node()
        .start_control(&[("IP_COOLDOWN_PERIOD", "0")])
        .expect("agent");
    let pods: Vec<String> = rig.pods().into_iter().map(|pod| pod.container_id).collect();
    assert_eq!(
        pods,
        ["after", "c2"],
        "what was done on the full disk is known later"
    );
    rig.node().stop_control().expect("agent ends");
}
