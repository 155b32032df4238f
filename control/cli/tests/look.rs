//! `explain`, `monitor`, `health` and `log-level` on a node of the lab, held to what then happens.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use penstock_lab::traffic::{End, udp};
use penstock_lab::{Lab, LabConfig, Node, OUTSIDE_ADDRESSES, Pod};
use serde_json::Value;

const CONVERGES_WITHIN: Duration = Duration::from_secs(10);
/// Packets of one exchange.
const PACKETS: u32 = 10;

struct Bench {
    lab: Lab,
}

impl Bench {
    fn node(&self) -> &Node {
        &self.lab.nodes()[0]
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command
            .args(arguments)
            .env("PENSTOCK_RUN_DIR", self.node().run_dir())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        self.node().netns().spawn(command).unwrap()
    }

    fn penstock(&self, arguments: &[&str]) -> Output {
        self.spawn(arguments).wait_with_output().unwrap()
    }

    /// What `explain` says, and its exit status.
    fn explain(&self, arguments: &[&str]) -> (Value, Option<i32>) {
        let output = self.penstock(&[&["explain", "-o", "json"], arguments].concat());
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (answer["explanation"].clone(), output.status.code())
    }

    fn end<'a>(&self, pod: &'a Pod) -> End<'a> {
        End {
            netns: pod.netns(),
            address: pod.address(),
        }
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + CONVERGES_WITHIN;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "{what} within {CONVERGES_WITHIN:?}"
        );
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_is_said_is_what_happens() {
    let bench = Bench {
        lab: Lab::up(LabConfig {
            nodes: 1,
            ..LabConfig::unique("look")
        })
        .unwrap(),
    };
    health(&bench);
    let pods: Vec<_> = ["a", "b"]
        .map(|name| bench.node().add_pod("d", name).unwrap())
        .into();
    eventually("both pods are the workers'", || {
        let (answer, _) = bench.explain(&["--from", "d/a", "--to", "d/b:80"]);
        answer["to_pod"] == "d/b"
    });
    explain(&bench, &pods);
    monitor(&bench);
    log_level(&bench);
}

fn health(bench: &Bench) {
    let code = |arguments: &[&str]| {
        bench
            .penstock(&[&["health"], arguments].concat())
            .status
            .code()
    };
    assert_eq!(code(&["--live"]), Some(2), "nobody is there");
    bench.node().start_dataplane(&[]).unwrap();
    assert_eq!(code(&["--live", "--of", "dataplane"]), Some(0));
    assert_eq!(
        code(&["--ready", "--of", "dataplane"]),
        Some(1),
        "nothing is published"
    );
    bench.node().start_control(&[]).unwrap();
    eventually("all is ready", || code(&["--ready"]) == Some(0));
}

fn explain(bench: &Bench, pods: &[Pod]) {
    let node = bench.node().primary_address();
    let outside = OUTSIDE_ADDRESSES[0];
    let (here, code) = bench.explain(&["--from", "d/a", "--to", "d/b:80"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        here["fate"]["forwarded"]["ifname"],
        pods[1].host_ifname().unwrap()
    );
    assert!(here["snat"].is_null(), "{here}");

    let to = format!("{outside}:443");
    let (away, _) = bench.explain(&["--from", "d/a", "--to", &to]);
    assert_eq!(away["fate"]["forwarded"]["ifname"], "eth0", "{away}");
    assert_eq!(
        away["fate"]["forwarded"]["eni_id"],
        bench.node().primary_eni()
    );
    assert_eq!(away["snat"], node.to_string());
    assert!(away["flow"].is_null(), "nothing was sent: {away}");

    let server = End {
        netns: bench.lab.outside(),
        address: outside,
    };
    let report = udp(bench.end(&pods[0]), server, PACKETS, 64).unwrap();
    let seen: SocketAddrV4 = report.at_server.unwrap().source;
    assert_eq!(away["snat"], seen.ip().to_string(), "as it was said");
    let rows = bench.penstock(&["get", "flows", "-o", "json"]);
    let rows: Vec<Value> = serde_json::from_slice(&rows.stdout).unwrap();
    let row = rows
        .iter()
        .find(|row| row["snat_port"] == seen.port())
        .unwrap();
    let (from_port, to) = (
        row["pod_port"].to_string(),
        format!("{outside}:{}", row["remote_port"]),
    );
    let known = [
        "--protocol",
        "udp",
        "--from",
        "d/a",
        "--from-port",
        &from_port,
        "--to",
        &to,
    ];
    let (known, _) = bench.explain(&known);
    assert_eq!(known["flow"]["snat_port"], seen.port(), "{known}");

    let (kernel, code) = bench.explain(&["--from", "d/a", "--to", &format!("{node}:10250")]);
    assert_eq!(code, Some(0));
    assert_eq!(kernel["fate"]["kernel"]["cidr"], format!("{node}/32"));
    let dropped = |reason: &str, arguments: &[&str]| {
        let (answer, code) = bench.explain(&[&["--from", "d/a"], arguments].concat());
        assert_eq!(answer["fate"]["dropped"]["reason"], reason, "{answer}");
        assert_eq!(code, Some(1));
    };
    dropped("imds", &["--to", "169.254.169.254:80"]);
    dropped("martian_dst", &["--to", "127.0.0.1:80"]);
    dropped(
        "nat_proto",
        &["--to", &outside.to_string(), "--protocol", "sctp"],
    );
    dropped("nat_port0", &["--to", &format!("{outside}:0")]);

    let page = bench.penstock(&["explain", "--from", "d/a", "--to", "169.254.169.254:80"]);
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains("dropped, imds: "), "{page}");
    let stranger = bench.penstock(&["explain", "--from", "192.0.2.9", "--to", "192.0.2.8:1"]);
    assert_eq!(stranger.status.code(), Some(1));
}

/// A pod that comes and its forbidden packets are told, by name, one object a line.
fn monitor(bench: &Bench) {
    let mut watcher = bench.spawn(&["monitor", "--interval", "50", "--duration", "20"]);
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let late = bench.node().add_pod("d", "late").unwrap();
    let mut until = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        let found = lines.by_ref().map(|line| line.unwrap()).any(|line| {
            let event: Value = serde_json::from_str(&line).unwrap();
            assert!(
                event["time"].is_string() && event["event"].is_string(),
                "{line}"
            );
            wanted(&event)
        });
        assert!(found, "{what}");
    };
    until("the pod is told", &|event| {
        event["event"] == "pod_attached" && event["pod"] == "d/late"
    });
    let forbidden = late
        .netns()
        .run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            socket.send_to(b"x", "169.254.169.254:80")
        })
        .unwrap();
    forbidden.unwrap();
    until("the drop is told", &|event| {
        event["event"] == "drop" && event["reason"] == "imds" && event["packets"] == 1
    });
    late.del().unwrap();
    until("the pod's end is told", &|event| {
        event["event"] == "pod_detached" && event["pod"] == "d/late"
    });
    drop(lines);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(watcher.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(watcher.wait().unwrap().code(), Some(0));
}

fn log_level(bench: &Bench) {
    let code = |filter: &str| bench.penstock(&["log-level", filter]).status.code();
    assert_eq!(code("penstock=loud"), Some(1));
    let log = || std::fs::read_to_string(bench.node().dataplane_log()).unwrap();
    assert!(!log().contains("log filter changed"));
    assert_eq!(code("debug"), Some(0));
    assert!(log().contains("log filter changed"));
    assert_eq!(code("off"), Some(0));
}
