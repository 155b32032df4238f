//! Tuning of a root with known files.

use std::fs;

use super::*;

const KEY: &str = "netdev-max-backlog";
const FILE: &str = "proc/sys/net/core/netdev_max_backlog";

fn node(value: &str) -> (tempfile::TempDir, Host, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join(FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, value).unwrap();
    let host = Host::at(root.path());
    let record = record::path(&root.path().join("run"));
    (root, host, record)
}

fn now(root: &tempfile::TempDir) -> String {
    fs::read_to_string(root.path().join(FILE)).unwrap()
}

fn scene() -> Scene {
    let away = || Failure::Node("away".to_owned());
    Scene {
        control: Err(away()),
        dataplane: Err(away()),
        counters: None,
        enis: Vec::new(),
        pods: Vec::new(),
        links: Vec::new(),
        snat_ports: "11000-29999".to_owned(),
    }
}

fn knobs() -> Vec<Knob> {
    let all = knob::all().unwrap();
    all.into_iter().filter(|knob| knob.id == KEY).collect()
}

#[test]
fn applied_twice_and_reverted_it_is_as_before() {
    let (root, host, record) = node("1000\n");
    let changes = differences(&host, &scene(), &knobs()).unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!((&*changes[0].from, &*changes[0].to), ("1000", "8192"));
    apply(&host, &record, &changes).unwrap();
    assert_eq!(now(&root), "8192");

    let again = differences(&host, &scene(), &knobs()).unwrap();
    assert!(again.is_empty(), "{again:?}");
    // Somebody changes it, and it is applied once more: the first value is the one kept.
    fs::write(root.path().join(FILE), "2000").unwrap();
    let third = differences(&host, &scene(), &knobs()).unwrap();
    apply(&host, &record, &third).unwrap();

    let done = revert(&host, &record, &[]).unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!(now(&root), "1000");
    assert!(!record.exists(), "nothing is left to revert");
    assert!(revert(&host, &record, &[]).unwrap().is_empty());
}

#[test]
fn more_than_enough_stays() {
    let (_root, host, _) = node("10000\n");
    let changes = differences(&host, &scene(), &knobs()).unwrap();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn only_what_is_named_is_reverted() {
    let (root, host, record) = node("1000");
    let changes = differences(&host, &scene(), &knobs()).unwrap();
    apply(&host, &record, &changes).unwrap();
    assert!(
        revert(&host, &record, &["ip-forward".to_owned()])
            .unwrap()
            .is_empty()
    );
    assert_eq!(now(&root), "8192");
}

#[test]
fn what_is_gone_is_forgotten() {
    let (root, host, record) = node("1000");
    let changes = differences(&host, &scene(), &knobs()).unwrap();
    apply(&host, &record, &changes).unwrap();
    fs::remove_file(root.path().join(FILE)).unwrap();
    assert!(revert(&host, &record, &[]).unwrap().is_empty());
    assert!(!record.exists());
}

#[test]
fn a_record_that_is_none_is_not_overwritten() {
    let (root, host, record) = node("1000");
    fs::create_dir_all(record.parent().unwrap()).unwrap();
    fs::write(&record, "not json").unwrap();
    let changes = differences(&host, &scene(), &knobs()).unwrap();
    apply(&host, &record, &changes).unwrap_err();
    assert_eq!(now(&root), "1000", "nothing was written");
    assert_eq!(fs::read_to_string(&record).unwrap(), "not json");
}
