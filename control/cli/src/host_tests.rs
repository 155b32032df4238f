//! Readings of a root with known files, and of ethtool's recorded words.

use super::*;

fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let host = Host::at(root.path());
    (root, host)
}

fn value(text: &str) -> Reading {
    Reading::Value(text.to_owned())
}

#[test]
fn an_interface_may_have_a_dot_in_its_name() {
    let (_root, host) = host(&[("proc/sys/net/ipv4/conf/eth0.5/rp_filter", "1\n")]);
    let how = How::Sysctl {
        sysctl: "net.ipv4.conf.{if}.rp_filter".to_owned(),
    };
    let subject = Subject {
        ifname: "eth0.5".to_owned(),
        pid: None,
    };
    assert_eq!(host.read(&how, &subject).unwrap(), value("1"));
    host.write(&how, &subject, "2").unwrap();
    assert_eq!(host.read(&how, &subject).unwrap(), value("2"));
    let elsewhere = Subject {
        ifname: "eth9".to_owned(),
        pid: None,
    };
    assert!(matches!(
        host.read(&how, &elsewhere).unwrap(),
        Reading::Absent(_)
    ));
}

#[test]
fn memory_may_be_locked_by_limit_or_by_capability() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                  Max locked memory         8388608              8388608              bytes\n";
    let how = How::Limit {
        limit: "Max locked memory".to_owned(),
    };
    // Bit 14 is CAP_IPC_LOCK.
    for (mask, found) in [("0000000000000000", "8388608"), ("4000", "unlimited")] {
        let status = format!("Name:\tx\nCapEff:\t{mask}\n");
        let (_root, host) = host(&[("proc/7/limits", limits), ("proc/7/status", &status)]);
        let subject = Subject {
            ifname: String::new(),
            pid: Some(7),
        };
        assert_eq!(host.read(&how, &subject).unwrap(), value(found));
    }
}

#[test]
fn capabilities_are_bits_and_sys_admin_stands_for_bpf() {
    let subject = Subject {
        ifname: String::new(),
        pid: Some(7),
    };
    let held = |mask: u64, capability: &str| {
        let status = format!("CapEff:\t{mask:016x}\n");
        let (_root, host) = host(&[("proc/7/status", &status)]);
        let how = How::Capability {
            capability: capability.to_owned(),
        };
        host.read(&how, &subject).unwrap() == value("effective")
    };
    assert!(held(1 << 12, "CAP_NET_ADMIN"));
    assert!(!held(1 << 12, "CAP_NET_RAW"));
    assert!(held(1 << 39, "CAP_BPF"));
    assert!(held(1 << 21, "CAP_BPF"));
    assert!(!held(1 << 21, "CAP_SYS_NICE"));
}

#[test]
fn kubelets_later_files_win() {
    let how = How::Kubelet {
        kubelet: "cpuManagerPolicy".to_owned(),
    };
    let base = ("etc/kubernetes/kubelet/config.json", r#"{"maxPods": 29}"#);
    let subject = Subject::default();
    let (_root, plain) = host(&[base]);
    assert_eq!(plain.read(&how, &subject).unwrap(), value("none"));
    let drop_in = (
        "etc/kubernetes/kubelet/config.json.d/40-nodeadm.conf",
        r#"{"cpuManagerPolicy": "static"}"#,
    );
    let (_root, tuned) = host(&[base, drop_in]);
    assert_eq!(tuned.read(&how, &subject).unwrap(), value("static"));
    let (_root, none) = host(&[]);
    assert!(matches!(
        none.read(&how, &subject).unwrap(),
        Reading::Absent(_)
    ));
}

#[test]
fn assignments_may_be_quoted() {
    let (_root, host) = host(&[(
        "etc/default/irqbalance",
        "#IRQBALANCE_BANNED_CPULIST=1\nIRQBALANCE_BANNED_CPULIST=\"2-3\"\n",
    )]);
    let how = How::Line {
        line: "IRQBALANCE_BANNED_CPULIST".to_owned(),
        file: "/etc/default/irqbalance".to_owned(),
    };
    assert_eq!(host.read(&how, &Subject::default()).unwrap(), value("2-3"));
}

#[test]
fn what_ethtool_shows_now_is_read_not_what_it_could() {
    let rings = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t16384\nRX Mini:\tn/a\n\
                 TX:\t\t1024\nCurrent hardware settings:\nRX:\t\t1024\nRX Mini:\tn/a\nTX:\t\t512\n";
    assert_eq!(shown(rings, "rx").as_deref(), Some("1024"));
    assert_eq!(shown(rings, "tx").as_deref(), Some("512"));
    let coalescing =
        "Coalesce parameters for eth0:\nAdaptive RX: off  TX: n/a\nrx-usecs: 20\nrx-frames: n/a\n";
    assert_eq!(shown(coalescing, "adaptive-rx").as_deref(), Some("off"));
    assert_eq!(shown(coalescing, "rx-frames"), None);
}
