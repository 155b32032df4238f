//! What the tests on a node of the lab share: requests as the shim sends them, and looks at the kernel.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each of the test crates uses some of it"
)]

pub mod traffic;

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use penstock_control_api::{
    Attachment, AttachmentKey, Failure, MacAddr, PodIdentity, PodRow, Request, Response, Status,
};
use penstock_lab::{Lab, LabConfig, NetNs, Node};

/// A lab of one node whose agent runs; 3 ENIs with 3 secondary addresses each.
pub struct Rig {
    pub lab: Lab,
}

impl Rig {
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let rig = Self::bare();
        rig.node().start_control(settings).expect("agent");
        rig
    }

    pub fn bare() -> Self {
        Self::of_type("t3.small")
    }

    /// A lab of one node of that type, without an agent.
    pub fn of_type(instance_type: &str) -> Self {
        Self::of(LabConfig {
            instance_type: instance_type.to_owned(),
            ..LabConfig::unique("ctl")
        })
    }

    /// A lab of one node, without an agent.
    pub fn of(config: LabConfig) -> Self {
        let config = LabConfig { nodes: 1, ..config };
        Self {
            lab: Lab::up(config).expect("lab"),
        }
    }

    pub fn node(&self) -> &Node {
        &self.lab.nodes()[0]
    }

    pub fn netns(&self) -> &NetNs {
        self.node().netns()
    }

    pub fn call(&self, request: &Request) -> Response {
        self.node().control_call(request).expect("an answer")
    }

    pub fn add(&self, container: &str, pod: &str) -> Result<Attachment, Failure> {
        let request = Request::Add {
            key: key(container),
            pod: PodIdentity {
                namespace: "t".into(),
                name: pod.into(),
                uid: String::new(),
            },
            netns: format!("/run/netns/{container}"),
            veth_prefix: "eni".into(),
        };
        match self.call(&request) {
            Response::Attachment(attachment) => Ok(attachment),
            Response::Error(failure) => Err(failure),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn confirm(&self, container: &str, host: &str) -> Result<(), Failure> {
        self.confirm_as(container, host, 0)
    }

    pub fn confirm_as(&self, container: &str, host: &str, generation: u64) -> Result<(), Failure> {
        let (host_ifindex, host_mac) = self.link(host);
        let (_, pod_mac) = self.link(&peer(host));
        let key = key(container);
        match self.call(&Request::Confirm {
            key,
            host_ifindex,
            host_mac,
            pod_mac,
            generation,
        }) {
            Response::Done => Ok(()),
            Response::Error(failure) => Err(failure),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// ADD, a veth pair whose both ends stay on the node, Confirm.
    pub fn attach(&self, container: &str, pod: &str) -> Attachment {
        let attachment = self.add(container, pod).expect("ADD");
        self.make_veth(&attachment.host_ifname);
        self.confirm(container, &attachment.host_ifname)
            .expect("Confirm");
        attachment
    }

    pub fn make_veth(&self, host: &str) {
        let ip = [
            "link",
            "add",
            host,
            "type",
            "veth",
            "peer",
            "name",
            &peer(host),
        ];
        self.netns().ip(&ip).expect("veth pair");
        self.netns()
            .ip(&["link", "set", &peer(host), "up"])
            .expect("pod's side up");
    }

    pub fn del(&self, container: &str) {
        assert_eq!(
            self.call(&Request::Del {
                key: key(container),
                generation: 0,
            }),
            Response::Done
        );
    }

    /// An ADD that failed gives its reservation back.
    pub fn undo(&self, container: &str, generation: u64) {
        let key = key(container);
        assert_eq!(self.call(&Request::Del { key, generation }), Response::Done);
    }

    pub fn check(&self, container: &str) -> Result<Attachment, Failure> {
        match self.call(&Request::Check {
            key: key(container),
        }) {
            Response::Attachment(attachment) => Ok(attachment),
            Response::Error(failure) => Err(failure),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn pods(&self) -> Vec<PodRow> {
        match self.call(&Request::Pods) {
            Response::Pods(rows) => rows,
            other => panic!("unexpected {other:?}"),
        }
    }

    pub fn status(&self) -> Status {
        match self.call(&Request::Status) {
            Response::Status(status) => *status,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Index and hardware address by the file system the kernel shows them in.
    pub fn link(&self, name: &str) -> (u32, MacAddr) {
        let line = self
            .netns()
            .ip(&["-o", "link", "show", "dev", name])
            .expect("link");
        let index = line.split(':').next().unwrap().parse().unwrap();
        let mac = line
            .split("link/ether ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        (index, mac.parse().unwrap())
    }

    pub fn has_link(&self, name: &str) -> bool {
        self.netns().ip(&["link", "show", "dev", name]).is_ok()
    }

    /// Lines of `ip rule` and main-table routes that name the address.
    pub fn traces(&self, address: Ipv4Addr) -> Vec<String> {
        let rules = self.netns().ip(&["rule"]).expect("rules");
        let routes = self.netns().ip(&["route"]).expect("routes");
        let text = address.to_string();
        let names = |line: &&str| line.split_whitespace().any(|word| word == text);
        rules
            .lines()
            .chain(routes.lines())
            .filter(names)
            .map(str::to_owned)
            .collect()
    }

    pub fn eventually(&self, what: &str, patience: u64, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(patience);
        while !done(self) {
            assert!(Instant::now() < deadline, "not within {patience} s: {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

pub fn peer(host: &str) -> String {
    host.replacen("eni", "p", 1)
}

pub fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: "penstock".into(),
        container_id: container.into(),
        ifname: "eth0".into(),
    }
}
