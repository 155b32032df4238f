//! `penstock doctor` and `penstock tune` on a node of the lab: nothing on a good one, and each of
//! many things that are broken on purpose is named.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use penstock_dataplane_api::{Request, Response};
use penstock_lab::{IMDS_ENDPOINT, Lab, LabConfig, Node};
use serde_json::Value;

/// The agent puts back what others remove: what is broken may be whole again when it is looked at.
const ATTEMPTS: u32 = 5;
const CONVERGES_WITHIN: Duration = Duration::from_secs(20);

struct Bench {
    lab: Lab,
    files: tempfile::TempDir,
}

struct Answer {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Bench {
    /// A node with both daemons, pods on both ENIs, and the runtime's files.
    fn new() -> Self {
        let lab = Lab::up(LabConfig {
            nodes: 1,
            ..LabConfig::unique("doc")
        })
        .unwrap();
        let files = tempfile::tempdir().unwrap();
        for directory in ["net.d", "bin"] {
            fs::create_dir(files.path().join(directory)).unwrap();
        }
        let bench = Self { lab, files };
        fs::write(bench.conf("05-penstock.conflist"), "{}").unwrap();
        let plugin = penstock_lab::find_binary("penstock-cni").unwrap();
        std::os::unix::fs::symlink(plugin, bench.files.path().join("bin/penstock-cni")).unwrap();
        bench
    }

    fn node(&self) -> &Node {
        &self.lab.nodes()[0]
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.files.path().join("net.d").join(name)
    }

    fn penstock(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        let metadata = format!("http://{}", IMDS_ENDPOINT.trim_end_matches(":80"));
        command
            .args(arguments)
            .env("PENSTOCK_RUN_DIR", self.node().run_dir())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let child = self.node().netns().spawn(command).unwrap();
        child.wait_with_output().unwrap()
    }

    fn doctor(&self) -> Answer {
        let conf = self.files.path().join("net.d");
        let bin = self.files.path().join("bin");
        let output = self.penstock(&[
            "doctor",
            "-o",
            "json",
            "--cni-conf-dir",
            conf.to_str().unwrap(),
            "--cni-bin-dir",
            bin.to_str().unwrap(),
        ]);
        let findings = serde_json::from_slice(&output.stdout);
        Answer {
            status: output.status.code(),
            findings: findings.unwrap_or_else(|error| panic!("{error}: {output:?}")),
        }
    }

    /// Runs a shell command in the node's namespace.
    fn sh(&self, script: &str) {
        let mut command = Command::new("sh");
        command.args(["-ec", script]);
        let mut child = self.node().netns().spawn(command).unwrap();
        assert!(child.wait().unwrap().success(), "{script}");
    }

    /// Breaks, looks until the check says so, mends, and looks until nothing is wrong.
    fn breaks(&self, check: &str, script: &str, mend: &str) {
        let found = (0..ATTEMPTS).any(|_| {
            self.sh(script);
            self.doctor().names(check)
        });
        assert!(found, "{check} is not found after {script}");
        self.sh(mend);
        self.recovers(check);
    }

    /// The agent may need a while for what it puts back itself.
    fn recovers(&self, what: &str) {
        let deadline = Instant::now() + CONVERGES_WITHIN;
        loop {
            let answer = self.doctor();
            if answer.status == Some(0) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "after {what}: {:?}",
                answer.wrong()
            );
        }
    }
}

impl Answer {
    fn wrong(&self) -> Vec<&Value> {
        let bad = |finding: &&Value| matches!(finding["verdict"].as_str(), Some("WARN" | "FAIL"));
        self.findings.iter().filter(bad).collect()
    }

    /// Whether the check is among what is wrong, with something to do about it.
    fn names(&self, check: &str) -> bool {
        let wrong = self.wrong();
        let named = wrong.iter().find(|finding| finding["check"] == check);
        if let Some(finding) = named {
            let fix = finding["fix"].as_str().unwrap_or_default();
            assert!(!fix.is_empty() && !fix.contains('\n'), "{finding}");
            assert_ne!(self.status, Some(0));
        }
        named.is_some()
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn doctor_finds_what_is_broken_and_nothing_else() {
    let bench = Bench::new();
    let node = bench.node();
    node.start_dataplane(&[]).unwrap();
    node.start_control(&[]).unwrap();
    // More than the primary ENI of an m5.large carries (9), so that some are on the second.
    let pods: Vec<_> = (0..11)
        .map(|index| node.add_pod("d", &format!("p{index}")).unwrap())
        .collect();
    let second = pods.iter().find(|pod| secondary(node, pod.address()));
    let second = second.unwrap();
    bench.recovers("nothing");

    let veth = pods[0].host_ifname().unwrap();
    let address = second.address();
    let sysctl = |key: &str, value: &str| format!("sysctl -qw {key}={value}");
    let both = |key: &str, bad: &str, good: &str| (sysctl(key, bad), sysctl(key, good));
    let broken = [
        ("ip-forward", both("net.ipv4.ip_forward", "0", "1")),
        (
            "rp-filter-uplink",
            both("net.ipv4.conf.eth0.rp_filter", "1", "2"),
        ),
        (
            "rp-filter-uplink",
            both("net.ipv4.conf.eth1.rp_filter", "1", "2"),
        ),
        (
            "rp-filter-pod",
            both(&format!("net.ipv4.conf.{veth}.rp_filter"), "1", "2"),
        ),
        (
            "accept-ra-pod",
            both(&format!("net.ipv6.conf.{veth}.accept_ra"), "1", "0"),
        ),
        (
            "rp-filter-trunk",
            both("net.ipv4.conf.trunk0.rp_filter", "1", "2"),
        ),
        (
            "reserved-ports",
            both("net.ipv4.ip_local_reserved_ports", "8080", "11000-29999"),
        ),
        ("trunk-tx", offload("tx")),
        ("trunk-gso", offload("gso")),
        (
            "mtu",
            pair("ip link set eth1 mtu 1500", "ip link set eth1 mtu 9001"),
        ),
        (
            "trunk-address",
            pair(
                "ip address del 169.254.1.2/32 dev trunk0",
                "ip address add 169.254.1.2/32 scope link dev trunk0",
            ),
        ),
        (
            "pod-route",
            pair(
                &format!("ip route del {}/32", pods[0].address()),
                &format!(
                    "ip route replace {}/32 dev {veth} scope link",
                    pods[0].address()
                ),
            ),
        ),
        (
            "pod-rule",
            pair(&format!("ip rule del priority 1536 from {address}"), "true"),
        ),
        ("mark-rule", pair("ip rule del priority 1024", "true")),
        (
            "default-route",
            pair("ip route del default table 2", "true"),
        ),
    ];
    for (check, (script, mend)) in &broken {
        bench.breaks(check, script, mend);
    }
    host_files(&bench);
    the_daemons(&bench);
}

fn pair(bad: &str, good: &str) -> (String, String) {
    (bad.to_owned(), good.to_owned())
}

fn offload(name: &str) -> (String, String) {
    pair(
        &format!("ethtool -K trunk0 {name} on"),
        &format!("ethtool -K trunk0 {name} off"),
    )
}

/// Whether the address belongs to another ENI than the primary one.
fn secondary(node: &Node, address: std::net::Ipv4Addr) -> bool {
    match node.control_call(&penstock_control_api::Request::Pods) {
        Ok(penstock_control_api::Response::Pods(rows)) => rows
            .iter()
            .any(|row| row.address == address && row.device_number > 0),
        other => panic!("{other:?}"),
    }
}

fn host_files(bench: &Bench) {
    let foreign = bench.conf("00-other.conflist");
    let create = format!("echo '{{}}' > {}", foreign.display());
    bench.breaks(
        "cni-configuration",
        &create,
        &format!("rm {}", foreign.display()),
    );
    let plugin = bench.files.path().join("bin/penstock-cni");
    let away = plugin.with_extension("away");
    bench.breaks(
        "cni-plugin",
        &format!(
            "test -e {0} || mv {1} {0}",
            away.display(),
            plugin.display()
        ),
        &format!("mv {} {}", away.display(), plugin.display()),
    );
}

/// Killed, frozen, refused.
fn the_daemons(bench: &Bench) {
    let node = bench.node();
    node.signal_dataplane(Signal::SIGSTOP);
    let frozen = bench.doctor();
    node.signal_dataplane(Signal::SIGCONT);
    assert!(frozen.names("dataplane"), "{:?}", frozen.wrong());
    bench.recovers("a frozen dataplane");

    node.kill_dataplane();
    assert!(bench.doctor().names("dataplane"));
    node.start_dataplane(&[]).unwrap();
    bench.recovers("a killed dataplane");

    node.kill_control();
    let answer = bench.doctor();
    assert!(answer.names("agent"), "{:?}", answer.wrong());
    bench.sh("nft delete table ip penstock");
    assert!(bench.doctor().names("policy-table"));
    node.start_control(&[]).unwrap();
    bench.recovers("a killed agent");

    match node.dataplane_call(&Request::Status).unwrap() {
        Response::Status(status) => assert_eq!(status.endpoints, 11),
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn tune_applies_once_and_puts_back() {
    let bench = Bench::new();
    // Without an agent the primary interface is that of the default route.
    bench.sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1 net.ipv4.ip_forward=0");
    bench.sh("sysctl -qw net.ipv4.ip_local_reserved_ports=8080");
    let changed = |arguments: &[&str]| -> Vec<(String, String)> {
        let output = bench.penstock(&[&["tune", "-o", "json"], arguments].concat());
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let cell = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        rows.iter()
            .map(|row| (cell(row, "setting"), cell(row, "to")))
            .collect()
    };
    let expected = [
        ("ip-forward", "1"),
        ("rp-filter-uplink", "2"),
        ("reserved-ports", "8080,11000-29999"),
    ]
    .map(|(setting, to)| (setting.to_owned(), to.to_owned()));
    let must = ["--level", "must"];
    assert_eq!(changed(&[&["--diff"][..], &must].concat()), expected);
    assert_eq!(changed(&[&["--apply"][..], &must].concat()), expected);
    let sysctls = "net.ipv4.ip_forward net.ipv4.conf.eth0.rp_filter";
    bench.sh(&format!("test \"$(sysctl -n {sysctls} | xargs)\" = '1 2'"));
    let ports = "sysctl -n net.ipv4.ip_local_reserved_ports";
    bench.sh(&format!("test \"$({ports})\" = 8080,11000-29999"));

    assert_eq!(changed(&[&["--apply"][..], &must].concat()), []);
    let reverted = changed(&["--revert"]);
    assert_eq!(reverted.len(), 3, "{reverted:?}");
    bench.sh(&format!("test \"$(sysctl -n {sysctls} | xargs)\" = '0 1'"));
    bench.sh(&format!("test \"$({ports})\" = 8080"));
    assert_eq!(changed(&["--revert"]), []);
}
