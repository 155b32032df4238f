//! A node, two pods and an outside, each in a network namespace of its own.
//!
//! ```text
//!  pod 1 ── eni…1 ┐                         ┌ 10.0.0.1 the subnet's router
//!                 ├ node ── eth0 ══ wire ── out
//!  pod 2 ── eni…2 ┘  10.0.0.10              └ 198.51.100.1 the outside
//! ```
//!
//! Everything is named after the test's process and removed on drop, also after a panic. The wire
//! side of `eth0` has its offloads off: a wire carries finished packets.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use penstock_dataplane_api::{
    Access, Endpoint, FlowSettings, MacAddr, Node, PortChoice, PortRange, Snapshot, Snat, SnatMode,
    Uplink,
};

pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
pub(crate) const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const POD_1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 101);
pub(crate) const POD_2: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 102);
pub(crate) const UPLINK: &str = "eth0";
pub(crate) const WIRE: &str = "wire0";

pub(crate) mod daemon;
pub(crate) mod traffic;

const DEADLINE: Duration = Duration::from_secs(20);

/// A network namespace; deleted on drop.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        let all: Vec<&str> = ["-n", &self.0]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        ip(&all);
    }

    /// Runs a program inside; its output.
    pub(crate) fn exec(&self, command: &[&str]) -> String {
        let all: Vec<&str> = ["netns", "exec", &self.0]
            .into_iter()
            .chain(command.iter().copied())
            .collect();
        ip(&all)
    }

    /// Runs `work` on a thread inside; panics travel to the caller.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = PathBuf::from("/run/netns").join(&self.0);
        thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    fn mac(&self, link: &str) -> MacAddr {
        self.run_sysfs(link, "address").parse().unwrap()
    }

    pub(crate) fn ifindex(&self, link: &str) -> u32 {
        self.run_sysfs(link, "ifindex").parse().unwrap()
    }

    fn run_sysfs(&self, link: &str, file: &str) -> String {
        let path = format!("/sys/class/net/{link}/{file}");
        self.exec(&["cat", &path]).trim().to_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs ip(8); its output.
pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The whole stage.
pub(crate) struct Stage {
    pub(crate) node: Namespace,
    pub(crate) pods: [Namespace; 2],
    pub(crate) out: Namespace,
    pub(crate) queues: u32,
    pub(crate) mtu: u32,
}

/// What varies between tests.
pub(crate) struct Plan {
    pub(crate) tag: &'static str,
    pub(crate) queues: u32,
    pub(crate) mtu: u32,
}

impl Stage {
    pub(crate) fn new(plan: &Plan) -> Self {
        let name = |role: &str| format!("psdp{}-{}-{role}", std::process::id(), plan.tag);
        let stage = Self {
            node: Namespace::new(name("node")),
            pods: [Namespace::new(name("pod1")), Namespace::new(name("pod2"))],
            out: Namespace::new(name("out")),
            queues: plan.queues,
            mtu: plan.mtu,
        };
        stage.lay_wire();
        stage.node.exec(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        for pod in 0..2 {
            stage.attach_pod(pod);
        }
        stage
    }

    fn lay_wire(&self) {
        let (queues, mtu) = (self.queues.to_string(), self.mtu.to_string());
        self.node.ip(&[
            "link",
            "add",
            UPLINK,
            "mtu",
            &mtu,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "type",
            "veth",
            "peer",
            "name",
            WIRE,
            "mtu",
            &mtu,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "netns",
            &self.out.0,
        ]);
        self.out.exec(&[
            "ethtool", "-K", WIRE, "tx", "off", "tso", "off", "gso", "off",
        ]);
        self.node
            .ip(&["addr", "add", "10.0.0.10/24", "dev", UPLINK]);
        self.node.ip(&["link", "set", UPLINK, "up"]);
        self.out.ip(&["addr", "add", "10.0.0.1/24", "dev", WIRE]);
        self.out
            .ip(&["addr", "add", "198.51.100.1/32", "dev", "lo"]);
        self.out.ip(&["link", "set", WIRE, "up"]);
        self.node
            .ip(&["route", "add", "default", "via", "10.0.0.1"]);
        let eni = self.node.mac(UPLINK).to_string();
        for address in [POD_1, POD_2] {
            // What a VPC does: the address is the ENI's.
            let address = address.to_string();
            self.out.ip(&[
                "neigh",
                "add",
                &address,
                "lladdr",
                &eni,
                "dev",
                WIRE,
                "nud",
                "permanent",
            ]);
        }
    }

    fn attach_pod(&self, pod: usize) {
        let (host, inside, mtu) = (host_side(pod), &self.pods[pod], self.mtu.to_string());
        self.node.ip(&[
            "link", "add", &host, "mtu", &mtu, "type", "veth", "peer", "name", "eth0", "mtu", &mtu,
            "netns", &inside.0,
        ]);
        self.node.ip(&["link", "set", &host, "up"]);
        inside.ip(&["link", "set", "eth0", "up"]);
        let address = pod_address(pod).to_string();
        inside.ip(&["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
        inside.ip(&[
            "route",
            "add",
            "169.254.1.1",
            "dev",
            "eth0",
            "scope",
            "link",
        ]);
        inside.ip(&["route", "add", "default", "via", "169.254.1.1"]);
        let gateway_mac = self.node.mac(&host).to_string();
        inside.ip(&[
            "neigh",
            "add",
            "169.254.1.1",
            "lladdr",
            &gateway_mac,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ]);
        self.node
            .ip(&["route", "add", &address, "dev", &host, "scope", "link"]);
    }

    /// What control would publish.
    pub(crate) fn snapshot(&self, generation: u64) -> Snapshot {
        self.snapshot_of(generation, &[0, 1])
    }

    /// The same for some of the pods.
    pub(crate) fn snapshot_of(&self, generation: u64, pods: &[usize]) -> Snapshot {
        Snapshot {
            generation,
            node: Node {
                name: "node".to_owned(),
                primary_address: NODE,
                primary_address6: None,
            },
            vpc_cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            kernel_cidrs: vec![
                "10.0.0.10/32".parse().unwrap(),
                "169.254.0.0/16".parse().unwrap(),
            ],
            snat: Snat {
                mode: SnatMode::Node,
                exclude_cidrs: Vec::new(),
                address: NODE,
                ports: PortRange {
                    first: 11_000,
                    last: 29_999,
                },
                port_choice: PortChoice::Prng,
            },
            imds: Access::Deny,
            flow: FlowSettings::default(),
            uplinks: vec![Uplink {
                eni_id: "eni-1".to_owned(),
                ifname: UPLINK.to_owned(),
                ifindex: self.node.ifindex(UPLINK),
                mac: self.node.mac(UPLINK),
                mtu: self.mtu,
                primary: true,
                address: NODE,
                gateway: ROUTER,
                address6: None,
                gateway6: None,
                gateway_mac: Some(self.out.mac(WIRE)),
            }],
            endpoints: pods.iter().map(|&pod| self.endpoint(pod)).collect(),
        }
    }

    fn endpoint(&self, pod: usize) -> Endpoint {
        let host = host_side(pod);
        Endpoint {
            addresses: vec![pod_address(pod).into()],
            eni_id: "eni-1".to_owned(),
            ifindex: self.node.ifindex(&host),
            host_mac: self.node.mac(&host),
            pod_mac: self.pods[pod].mac("eth0"),
            ifname: host,
            mtu: self.mtu,
            namespace: "default".to_owned(),
            pod: format!("pod-{pod}"),
            container_id: format!("container-{pod}"),
        }
    }
}

/// Node's side of a pod's veth.
pub(crate) fn host_side(pod: usize) -> String {
    format!("eni0000000000{pod}")
}

fn pod_address(pod: usize) -> Ipv4Addr {
    [POD_1, POD_2][pod]
}

/// Waits until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
