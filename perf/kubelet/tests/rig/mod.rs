//! What the tests share: a lab of two nodes with Penstock on both, a client pod on the second, a
//! server outside, and the counts that must be equal before and after.

#![expect(
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "the fixtures of a test may fail it"
)]
#![allow(dead_code, reason = "each of the test crates uses some of it")]

pub mod shim;

use std::collections::{BTreeMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use penstock_control_api::{EniRow, PodRow, Request, Response, Status};
use penstock_kubelet::{GREETING, Kubelet, PodSpec};
use penstock_lab::{Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, Pod};

/// Room for 110 pods with what rests after use: 8 ENIs of 30 addresses.
const INSTANCE_TYPE: &str = "m5.4xlarge";
/// The server outside.
const OUTSIDE: SocketAddrV4 = SocketAddrV4::new(OUTSIDE_ADDRESSES[0], 8080);
/// Longest a request may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest until counts are equal again: namespaces are freed by the kernel's own worker.
const CONVERGES_WITHIN: Duration = Duration::from_secs(30);

pub struct Rig {
    pub lab: Lab,
}

impl Rig {
    /// Two nodes with agent and dataplane, and a server outside that answers whom it sees.
    pub fn start(id: &str) -> Self {
        let rig = Self::without_daemons(id);
        for node in rig.lab.nodes() {
            node.start_dataplane(&[]).expect("dataplane");
        }
        rig.node().start_control(SETTINGS).expect("agent");
        rig.lab.nodes()[1].start_control(&[]).expect("agent");
        rig.wait_grown();
        rig
    }

    /// Waits until the node has all the ENIs it will have, and the kernel's policy knows each.
    fn wait_grown(&self) {
        let deadline = Instant::now() + CONVERGES_WITHIN;
        loop {
            let pool = self.status().pool;
            if pool.total == pool.limit && self.policy_knows_uplinks() {
                return;
            }
            assert!(Instant::now() < deadline, "{pool:?}\n{}", self.agent_log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn policy_knows_uplinks(&self) -> bool {
        let list = ["list", "set", "ip", "penstock", "uplinks"];
        let Ok(set) = self.node().netns().tool("nft", &list) else {
            return false;
        };
        let quoted = |eni: EniRow| format!("\"{}\"", eni.ifname);
        self.enis()
            .into_iter()
            .all(|eni| set.contains(&quoted(eni)))
    }

    pub fn without_daemons(id: &str) -> Self {
        let config = LabConfig {
            instance_type: INSTANCE_TYPE.to_owned(),
            ..LabConfig::unique(id)
        };
        let lab = Lab::up(config).expect("lab");
        let bound = lab.outside().run(|| TcpListener::bind(OUTSIDE));
        let listener = bound.expect("namespace").expect("bind");
        // Ends with the test process; the namespace is the lab's.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that went away is judged by the client.
                let _ = answer(stream);
            }
        });
        Self { lab }
    }

    /// The node with the kubelet.
    pub fn node(&self) -> &Node {
        &self.lab.nodes()[0]
    }

    /// A pod on the other node, to fetch from.
    pub fn client(&self) -> Pod {
        let node = &self.lab.nodes()[1];
        node.add_pod("kube", "client").expect("client pod")
    }

    /// Pod number `n`.
    pub fn spec(&self, n: usize) -> PodSpec {
        PodSpec {
            namespace: "kube".to_owned(),
            name: format!("web-{n}"),
            outside: Some(OUTSIDE),
            ..PodSpec::default()
        }
    }

    /// The pod answers the client on the other node, and reaches the outside as its node.
    pub fn assert_serves(&self, client: &Pod, address: Ipv4Addr, n: usize) {
        let body = fetch(client.netns(), address, "/");
        let body = body.unwrap_or_else(|error| panic!("pod {n} at {address}: {error}"));
        assert_eq!(body, GREETING, "pod {n}");
        let seen = fetch(client.netns(), address, "/cgi-bin/outside");
        let seen = seen.unwrap_or_else(|error| panic!("pod {n} to the outside: {error}"));
        assert_eq!(seen, self.node().primary_address().to_string(), "pod {n}");
    }

    pub fn pods(&self) -> Vec<PodRow> {
        match self.node().control_call(&Request::Pods).expect("agent") {
            Response::Pods(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    pub fn enis(&self) -> Vec<EniRow> {
        match self.node().control_call(&Request::Enis).expect("agent") {
            Response::Enis(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the agent has no child: an `nft` that runs changes what is counted, and its pipes
    /// are files of the agent.
    fn wait_childless(&self) {
        let pid = self.node().control_pid().expect("agent");
        let deadline = Instant::now() + CONVERGES_WITHIN;
        while has_child(pid) {
            assert!(Instant::now() < deadline, "a child of the agent stays");
            thread::yield_now();
        }
    }

    /// What the agent said, for a failure's message.
    fn agent_log(&self) -> String {
        std::fs::read_to_string(self.node().control_log()).unwrap_or_default()
    }

    pub fn status(&self) -> Status {
        match self.node().control_call(&Request::Status).expect("agent") {
            Response::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// An empty namespace to attach.
    pub fn sandbox(&self, n: usize) -> NetNs {
        let name = format!("{}-s{n}", self.node().netns().name());
        NetNs::create(&name).expect("sandbox")
    }

    /// Host sides of pods on the node.
    pub fn pod_links(&self) -> usize {
        let links = self.node().netns().ip(&["-o", "link"]).expect("ip");
        let pods = links.lines().filter(|line| line.contains(": eni"));
        pods.count()
    }

    /// Addresses that rules of pods name: those to and from a single address.
    pub fn addresses_in_rules(&self) -> HashSet<Ipv4Addr> {
        let rules = self.node().netns().ip(&["rule"]).expect("ip");
        let of_pods = |line: &&str| line.starts_with("512:") || line.starts_with("1536:");
        rules
            .lines()
            .filter(of_pods)
            .flat_map(str::split_whitespace)
            .filter_map(|word| word.parse().ok())
            .collect()
    }

    /// Memory the daemons have, by name.
    pub fn resident_kib(&self) -> Resident {
        let node = self.node();
        let daemons = [
            ("agent", node.control_pid()),
            ("dataplane", node.dataplane_pid()),
        ];
        let resident = |pid: u32| -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.expect("VmRSS")
        };
        Resident(daemons.map(|(name, pid)| (name, resident(pid.expect("daemon")))))
    }
}

/// Memory of each daemon, in KiB.
#[derive(Debug)]
pub struct Resident([(&'static str, u64); 2]);

impl Resident {
    /// (daemon, then, now)
    pub fn grown_from(&self, before: &Self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let pairs = before.0.iter().zip(self.0.iter());
        pairs.map(|((name, before), (_, now))| (*name, *before, *now))
    }
}

/// A number the environment overrides a test's own by.
pub fn env_number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Addresses rest shorter than on a real node, so that churn does not wait for them, and all ENIs are
/// there from the start, so that counts do not change with them.
pub const SETTINGS: &[(&str, &str)] = &[("IP_COOLDOWN_PERIOD", "1"), ("WARM_ENI_TARGET", "16")];

/// A line for a line: whom the outside sees.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    let _ = stream.read(&mut [0; 16])?;
    write!(stream, "{}", peer.ip())
}

/// The body of `path` from port 80 of `address`, asked for from inside `from`.
pub fn fetch(from: &NetNs, address: Ipv4Addr, path: &str) -> std::io::Result<String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&(address, 80).into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: pod\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(head, body)| (head, body.to_owned()));
        match body {
            Some((head, body)) if head.contains(" 200 ") => Ok(body),
            _ => Err(std::io::Error::other(answer)),
        }
    };
    from.run(exchange).map_err(std::io::Error::other)?
}

/// BPF links, maps and programs, AF_XDP rings, files: each is a descriptor of its daemon. Sockets
/// are not counted: the AWS SDK keeps connections for a while as it sees fit.
fn open_files(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc");
    open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| !target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Whether any thread of `pid` has a child.
fn has_child(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
    let children = |thread: std::fs::DirEntry| {
        // A thread that ended meanwhile has none.
        std::fs::read_to_string(thread.path().join("children")).unwrap_or_default()
    };
    threads.flatten().any(|thread| !children(thread).is_empty())
}

/// Does `work` for each item, at most `at_once` at a time; results in the order of the items.
pub fn in_parallel<I: Send, T: Send>(
    at_once: usize,
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> T + Sync,
) -> Vec<T> {
    let queue: Mutex<Vec<(usize, I)>> = Mutex::new(items.into_iter().enumerate().collect());
    queue.lock().expect("queue").reverse();
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("queue").pop();
                    let Some((index, item)) = next else { return };
                    let result = work(item);
                    done.lock().expect("results").insert(index, result);
                }
            });
        }
    });
    done.into_inner().expect("results").into_values().collect()
}

/// Everything a pod can leave on its node, by name and number.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Baseline {
    counts: BTreeMap<String, usize>,
}

impl Baseline {
    pub fn take(rig: &Rig, kubelet: &Kubelet) -> Self {
        let mut all = Self::of_node(rig);
        all.count("sandboxes", kubelet.sandboxes().expect("containerd").len());
        all.count("runtime files", kubelet.pod_files().len());
        all
    }

    /// Without a runtime.
    pub fn of_node(rig: &Rig) -> Self {
        let mut all = Self {
            counts: BTreeMap::new(),
        };
        rig.wait_childless();
        let node = rig.node();
        let lists: [(&str, &str, &[&str]); 6] = [
            ("links", "ip", &["-o", "link"]),
            ("addresses", "ip", &["-4", "-o", "address"]),
            ("rules", "ip", &["rule"]),
            ("routes to pods", "ip", &["route", "show", "scope", "link"]),
            (
                "neighbours pinned",
                "ip",
                &["neigh", "show", "nud", "permanent"],
            ),
            ("nft elements", "nft", &["list", "ruleset"]),
        ];
        for (what, program, arguments) in lists {
            let text = node.netns().tool(program, arguments).expect(program);
            all.count(what, text.lines().count());
        }
        let pools = rig.status().pool;
        all.count("addresses held", pools.assigned as usize);
        all.count("attachments", rig.pods().len());
        for (what, pid) in [
            ("agent's files", node.control_pid()),
            ("dataplane's files", node.dataplane_pid()),
        ] {
            all.count(what, open_files(pid.expect("daemon")));
        }
        all
    }

    fn count(&mut self, what: &str, number: usize) {
        self.counts.insert(what.to_owned(), number);
    }

    /// Waits until everything is as it was.
    pub fn assert_back(&self, rig: &Rig, kubelet: &Kubelet) {
        self.assert_again(|| Self::take(rig, kubelet));
    }

    /// As [`Self::assert_back`], without a runtime.
    pub fn assert_node_back(&self, rig: &Rig) {
        self.assert_again(|| Self::of_node(rig));
    }

    fn assert_again(&self, look: impl Fn() -> Self) {
        let deadline = Instant::now() + CONVERGES_WITHIN;
        loop {
            let now = look();
            if now == *self {
                return;
            }
            assert!(Instant::now() < deadline, "before {self:?}\nnow {now:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}
