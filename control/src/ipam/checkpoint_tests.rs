//! Tests of the checkpoint: round trip, and damage of every kind.

use penstock_control_api::PodIdentity;

use super::*;
use crate::ipam::PodLink;

fn sample() -> Checkpoint {
    let record = |n: u8| Record {
        key: AttachmentKey {
            network: "penstock".into(),
            container_id: format!("sandbox-{n}"),
            ifname: "eth0".into(),
        },
        pod: PodIdentity {
            namespace: "default".into(),
            name: format!("web-{n}"),
            uid: String::new(),
        },
        netns: format!("/var/run/netns/{n}"),
        address: Ipv4Addr::new(10, 0, 1, n),
        eni_id: "eni-1".into(),
        device_number: 1,
        host_ifname: format!("eni{n:011x}"),
        mtu: 9001,
        reserved_at: Timestamp(17),
        link: n.is_multiple_of(2).then(|| PodLink {
            ifindex: u32::from(n) + 10,
            host_mac: "02:00:00:00:00:01".parse().unwrap(),
            pod_mac: Some("02:00:00:00:00:02".parse().unwrap()),
        }),
        superseded: false,
    };
    Checkpoint {
        boot_id: "b".into(),
        attachments: (1..=5).map(record).collect(),
        cooling: vec![Cooling {
            address: Ipv4Addr::new(10, 0, 1, 99),
            since: Timestamp(3),
        }],
        tombstones: vec![Tombstone {
            key: record(9).key,
            at: Timestamp(4),
        }],
        enis: vec!["eni-1".into()],
        returned: vec![Returned {
            what: "10.0.1.48/28".parse().unwrap(),
            at: Timestamp(5),
        }],
        restraint: Some(Restraint {
            severity: 4,
            failures: 2,
            closed_until: Timestamp(9),
            cause: "RequestLimitExceeded".into(),
        }),
    }
}

fn good(dir: &Path) -> Checkpoint {
    match load(dir).unwrap() {
        Loaded::Good(checkpoint) => checkpoint,
        other => panic!("expected a good checkpoint, got {other:?}"),
    }
}

#[test]
fn a_missing_file_is_a_fresh_node() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(load(dir.path()).unwrap(), Loaded::Absent));
}

#[test]
fn what_is_stored_is_loaded_and_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &sample()).unwrap();
    assert_eq!(good(dir.path()), sample());
    let smaller = Checkpoint {
        attachments: Vec::new(),
        ..sample()
    };
    store(dir.path(), &smaller).unwrap();
    assert_eq!(good(dir.path()), smaller);
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, [FILE_NAME], "no temporary file stays behind");
}

#[test]
fn a_write_that_fails_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &sample()).unwrap();
    // A directory in the way of the temporary file stands for any failing write, also for root.
    fs::create_dir(dir.path().join(format!("{FILE_NAME}.new"))).unwrap();
    store(dir.path(), &Checkpoint::default()).unwrap_err();
    assert_eq!(good(dir.path()), sample());
}

#[test]
fn any_damage_is_found_and_the_file_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &sample()).unwrap();
    let path = dir.path().join(FILE_NAME);
    let intact = fs::read(&path).unwrap();
    let mut cases = 0;
    let mut check = |damaged: &[u8], what: &str| {
        fs::write(&path, damaged).unwrap();
        match load(dir.path()).unwrap() {
            Loaded::Bad { aside, .. } => {
                assert_eq!(
                    fs::read(&aside).unwrap(),
                    damaged,
                    "{what}: kept for a person to see"
                );
                assert!(!path.exists(), "{what}: moved away");
            }
            other => panic!("{what}: went unnoticed: {other:?}"),
        }
        cases += 1;
    };
    let step = (intact.len() / 70).max(1);
    for at in (0..intact.len()).step_by(step) {
        let mut flipped = intact.clone();
        flipped[at] ^= 1 << (at % 8);
        check(&flipped, &format!("bit flipped in byte {at}"));
        check(&intact[..at], &format!("cut to {at} bytes"));
        let mut zeroed = intact.clone();
        zeroed[at..].fill(0);
        check(&zeroed, &format!("zero from byte {at}"));
    }
    check(&[&intact[..], b" "].concat(), "a byte appended");
    check(b"", "empty");
    assert!(cases >= 200, "only {cases} cases");
}

#[test]
fn after_a_reboot_nothing_runs_and_everything_that_was_used_rests() {
    let before = sample();
    let after = before.clone().after_reboot(Timestamp(9));
    assert!(after.attachments.is_empty() && after.tombstones.is_empty());
    assert_eq!(after.enis, before.enis);
    assert_eq!(after.cooling.len(), 5 + 1);
    assert!(
        after
            .cooling
            .iter()
            .all(|cooling| cooling.since == Timestamp(9))
    );
    assert_eq!(after.returned[0].at, Timestamp(9));
}

#[test]
fn another_version_is_not_guessed_at() {
    let body = serde_json::to_vec(&sample()).unwrap();
    let header = format!(
        "penstock-ipam/2 {:08x} {}\n",
        crc32fast::hash(&body),
        body.len()
    );
    let problem = decode(&[header.into_bytes(), body].concat()).unwrap_err();
    assert!(problem.contains("another version"), "{problem}");
}
