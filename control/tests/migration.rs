//! A node the VPC CNI has laid out - ENIs, addresses, rules, routes, NAT, pods, its checkpoint - on which our agent starts
//! while the pods talk.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod rig;

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use ec2_sim::cloud::{AddressChoice, AssignRequest, AttachRequest, CreateRequest};
use penstock_control::host_ifname;
use penstock_control_api::{AttachmentKey, PodIdentity, Request, Response};
use penstock_lab::{NetNs, OUTSIDE_ADDRESSES};
use rig::Rig;
use rig::traffic::Conversation;
use serde_json::json;

/// As the VPC CNI gives its pods.
const GATEWAY: &str = "169.254.1.1";

struct Pod {
    name: String,
    key: AttachmentKey,
    netns: NetNs,
    address: Ipv4Addr,
    host: String,
}

fn ip(netns: &NetNs, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    netns
        .ip(&words)
        .unwrap_or_else(|error| panic!("ip {command}: {error}"));
}

fn iptables(netns: &NetNs, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let done = netns.tool("iptables", &words);
    done.unwrap_or_else(|error| panic!("iptables {command}: {error}"));
}

/// Reference: route tables, rules and NAT of a secondary-address node with node SNAT.
fn lay_out_node(rig: &Rig) -> (Vec<Ipv4Addr>, Vec<Ipv4Addr>) {
    let (cloud, node) = (rig.lab.cloud(), rig.netns());
    let id = rig.node().instance_id().to_owned();
    let own = cloud.assign_private_ip_addresses(&AssignRequest {
        eni_id: rig.node().primary_eni().to_owned(),
        choice: AddressChoice::Count(3),
        allow_reassignment: false,
    });
    let own = own.expect("addresses").addresses;
    let subnet_id = cloud.instance(&id).unwrap().primary_eni.subnet_id;
    let tags = [("node.k8s.amazonaws.com/instance_id".to_owned(), id.clone())].into();
    let second = cloud.create_network_interface(&CreateRequest {
        subnet_id,
        description: format!("aws-K8S-{id}"),
        secondary_count: 3,
        tags,
        ..CreateRequest::default()
    });
    let second = second.expect("ENI");
    let request = AttachRequest {
        eni_id: second.eni_id.clone(),
        instance_id: id,
        device_index: 1,
    };
    cloud
        .attach_network_interface(&request)
        .expect("attachment");
    rig.eventually("the second ENI", 10, |rig| rig.has_link("eth1"));
    let base = u32::from(second.subnet_cidr.network());
    let gateway = Ipv4Addr::from(base + 1);
    let primary = second.primary;
    for command in [
        "link set eth1 up mtu 9001".to_owned(),
        format!(
            "addr add {primary}/{} dev eth1",
            second.subnet_cidr.prefix_len()
        ),
        format!("route add {gateway} dev eth1 scope link table 2"),
        format!("route add default via {gateway} dev eth1 table 2"),
        format!("route del {} dev eth1", second.subnet_cidr),
        format!("rule add from {primary} lookup 2 pref 32765"),
        "rule add fwmark 0x80/0x80 lookup main pref 1024".to_owned(),
    ] {
        ip(node, &command);
    }
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/eth0/rp_filter", "2"),
        ("ipv4/conf/eth1/rp_filter", "2"),
    ] {
        node.sysctl(key, value).expect("sysctl");
    }
    let node_address = rig.node().primary_address();
    for command in [
        "-t nat -N AWS-SNAT-CHAIN-0".to_owned(),
        "-t nat -A POSTROUTING -j AWS-SNAT-CHAIN-0".to_owned(),
        "-t nat -A AWS-SNAT-CHAIN-0 -d 10.0.0.0/16 -j RETURN".to_owned(),
        format!(
            "-t nat -A AWS-SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source {node_address} --random-fully"
        ),
        "-t nat -N AWS-CONNMARK-CHAIN-0".to_owned(),
        "-t nat -A PREROUTING -i eni+ -j AWS-CONNMARK-CHAIN-0".to_owned(),
        "-t nat -A AWS-CONNMARK-CHAIN-0 -d 10.0.0.0/16 -j RETURN".to_owned(),
        "-t nat -A AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80".to_owned(),
        "-t nat -A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80".to_owned(),
        "-t mangle -A PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80"
            .to_owned(),
    ] {
        iptables(node, &command);
    }
    (own, second.secondaries)
}

/// Reference: the pod's pair, routes and rules.
fn lay_out_pod(rig: &Rig, n: usize, address: Ipv4Addr, table: Option<u32>) -> Pod {
    let name = format!("web-{n}");
    let key = AttachmentKey {
        network: "aws-cni".into(),
        container_id: format!("{n:064x}"),
        ifname: "eth0".into(),
    };
    let identity = PodIdentity {
        namespace: "default".into(),
        name: name.clone(),
        uid: String::new(),
    };
    let host = host_ifname("eni", &identity, &key);
    let netns = NetNs::create(&format!("{}-{name}", rig.netns().name())).expect("namespace");
    let node = rig.netns();
    ip(
        node,
        &format!(
            "link add {host} mtu 9001 type veth peer name eth0 mtu 9001 netns {}",
            netns.name()
        ),
    );
    let (_, mac) = rig.link(&host);
    ip(node, &format!("link set {host} up"));
    for command in [
        "link set lo up".to_owned(),
        "link set eth0 up".to_owned(),
        format!("addr add {address}/32 dev eth0"),
        format!("route add {GATEWAY} dev eth0 scope link"),
        format!("route add default via {GATEWAY} dev eth0"),
        format!("neigh replace {GATEWAY} lladdr {mac} nud permanent dev eth0"),
    ] {
        ip(&netns, &command);
    }
    ip(
        node,
        &format!("route add {address}/32 dev {host} scope link"),
    );
    ip(node, &format!("rule add to {address} lookup main pref 512"));
    if let Some(table) = table {
        ip(
            node,
            &format!("rule add from {address} lookup {table} pref 1536"),
        );
    }
    Pod {
        name,
        key,
        netns,
        address,
        host,
    }
}

fn checkpoint(pods: &[Pod]) -> String {
    let allocation = |pod: &Pod| {
        json!({
            "networkName": pod.key.network, "containerID": pod.key.container_id, "ifName": pod.key.ifname,
            "ipv4": pod.address, "allocationTimestamp": 1_700_000_000_000_000_000u64,
            "metadata": { "k8sPodNamespace": "default", "k8sPodName": pod.name, "interfacesCount": 1 },
        })
    };
    let allocations: Vec<_> = pods.iter().map(allocation).collect();
    json!({ "version": "vpc-cni-ipam/1", "allocations": allocations }).to_string()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_node_of_the_vpc_cni_is_taken_over_while_its_pods_talk() {
    let rig = Rig::bare();
    let (own, second) = lay_out_node(&rig);
    let pods = [
        lay_out_pod(&rig, 0, own[0], None),
        lay_out_pod(&rig, 1, own[1], None),
        lay_out_pod(&rig, 2, second[0], Some(2)),
        lay_out_pod(&rig, 3, second[1], Some(2)),
    ];
    let file = rig.node().directory().join("ipam.json");
    std::fs::write(&file, checkpoint(&pods)).unwrap();

    let end = |n: usize| (&pods[n].netns, pods[n].address);
    let outside = (rig.lab.outside(), OUTSIDE_ADDRESSES[0]);
    let talks = [
        ("primary ENI to second", Conversation::start(end(0), end(2))),
        (
            "primary ENI to outside",
            Conversation::start(end(1), outside),
        ),
        (
            "second ENI to outside",
            Conversation::start(end(3), outside),
        ),
    ];
    thread::sleep(Duration::from_millis(300));
    let settings = [("AWS_VPC_K8S_CNI_BACKING_STORE", file.to_str().unwrap())];
    let took = rig.node().start_control(&settings).expect("agent");
    rig.eventually("EC2's view", 10, |rig| rig.status().pool.total >= 6);
    thread::sleep(Duration::from_secs(1));
    eprintln!("taken over in {took:?}");
    for (path, talk) in talks {
        let report = talk.end();
        eprintln!("{path}: {report:?}");
        assert!(report.sent > 100, "{path}: {report:?}");
        assert_eq!(report.lost, 0, "{path}");
    }

    let mut rows = rig.pods();
    rows.sort_by(|a, b| a.pod.cmp(&b.pod));
    assert_eq!(rows.len(), pods.len());
    for (row, pod) in rows.iter().zip(&pods) {
        let known = (
            &row.pod,
            row.address,
            &row.container_id,
            &row.host_ifname,
            &row.network,
        );
        let own = (
            &pod.name,
            pod.address,
            &pod.key.container_id,
            &pod.host,
            &pod.key.network,
        );
        assert_eq!(known, own);
        assert!(row.confirmed);
        let key = pod.key.clone();
        let checked = rig.call(&Request::Check { key });
        assert!(matches!(checked, Response::Attachment(_)), "{checked:?}");
    }
    // The runtime ends a pod by the name it began it with.
    let key = pods[3].key.clone();
    let ended = rig.call(&Request::Del { key, generation: 0 });
    assert_eq!(ended, Response::Done);
    assert!(!rig.has_link(&pods[3].host));
    assert!(rig.traces(pods[3].address).is_empty());
    let status = rig.status().pool;
    assert_eq!((status.assigned, status.cooling), (3, 1));
}
