//! ADD, CHECK and DEL in real network namespaces, every property of the veth pair read back from
//! the kernel.
//!
//! Each test runs on a thread in a fresh namespace that plays the node; pods are further fresh
//! namespaces. All of them die with the test.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the fixtures of a test may fail it"
)]

mod rig;

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use penstock_control_api::{Failure, POD_GATEWAY, Request, Response};
use penstock_netlink::{
    Ipv4Net, Link, LinkChange, MAIN_TABLE, Neighbor, Netlink, Route, VethEnd, VethSpec,
};
use rig::{ADDRESS, Call, Control, GENERATION, HOST_IFNAME, MTU, attachment, config};
use serde_json::{Value, json};

const NODE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

const UP: LinkChange<'static> = LinkChange {
    up: Some(true),
    mtu: None,
    mac: None,
    name: None,
    netns: None,
};

/// Runs `test` on a thread in a fresh namespace: the node.
fn on_a_node(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
        test();
    };
    thread::spawn(run).join().expect("the test failed");
}

/// A pod's sandbox: a fresh namespace, alive as long as the file.
struct Pod {
    netns: File,
    netlink: Netlink,
}

impl Pod {
    fn new() -> Self {
        let enter = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            Self {
                netns: File::open("/proc/thread-self/ns/net").unwrap(),
                netlink: Netlink::open().unwrap(),
            }
        };
        thread::spawn(enter).join().unwrap()
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd())
    }

    fn call(&self, command: &str, config: &Value) -> Call {
        Call::new(command, config).with("CNI_NETNS", self.path())
    }

    fn eth0(&mut self) -> Link {
        self.netlink.link_by_name("eth0").unwrap()
    }
}

/// The name is another sandbox's no longer.
fn clear_name(node: &mut Netlink) {
    if let Ok(link) = node.link_by_name(HOST_IFNAME) {
        node.delete_link(link.index).unwrap();
    }
}

/// A control that takes the pod live as the real one does: the name cleared, host side up last.
fn control() -> Control {
    let mut confirmed = false;
    Control::serve(move |request| {
        Some(match request {
            Request::Add { .. } => {
                if !confirmed {
                    clear_name(&mut Netlink::open().unwrap());
                }
                Response::Attachment(attachment(confirmed))
            }
            Request::Check { .. } => Response::Attachment(attachment(confirmed)),
            Request::Confirm {
                host_ifindex,
                generation,
                ..
            } => {
                assert_eq!(*generation, GENERATION);
                let mut node = Netlink::open().unwrap();
                assert!(!node.link_by_index(*host_ifindex).unwrap().up);
                node.set_link(*host_ifindex, &UP).unwrap();
                confirmed = true;
                Response::Done
            }
            _ => {
                confirmed = false;
                Response::Done
            }
        })
    })
}

fn refusing_confirm() -> Control {
    Control::serve(|request| {
        Some(match request {
            Request::Add { .. } => Response::Attachment(attachment(false)),
            Request::Confirm { .. } => Response::Error(Failure {
                code: 101,
                message: "no route".to_owned(),
                details: "table 2 is full".to_owned(),
            }),
            _ => Response::Done,
        })
    })
}

fn assert_returned(control: &Control) {
    let asked = control.asked();
    assert!(
        matches!(
            asked.last(),
            Some(Request::Del {
                generation: GENERATION,
                ..
            })
        ),
        "the address was not returned, or more than that: {asked:?}"
    );
}

fn gone(node: &mut Netlink, name: &str) -> bool {
    node.link_by_name(name)
        .is_err_and(|error| error.is_not_found())
}

#[test]
#[ignore = "needs root and network namespaces"]
fn add_builds_exactly_the_documented_pair() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let config = config("1.0.0", &control.run_dir());
        let result = pod.call("ADD", &config).run().result();

        let mut node = Netlink::open().unwrap();
        let host = node.link_by_name(HOST_IFNAME).unwrap();
        let eth0 = pod.eth0();
        for link in [&host, &eth0] {
            assert_eq!(link.kind, "veth");
            assert_eq!(link.mtu, MTU);
            assert!(link.up && link.carrier, "{link:?}");
            let first = link.mac.unwrap()[0];
            assert_eq!(first & 3, 2, "locally administered unicast");
        }
        assert_ne!(host.mac, eth0.mac);
        assert_eq!(host.peer_index, Some(eth0.index));
        assert!(pod.netlink.link_by_name("lo").unwrap().up);
        assert_pod_layer_3(&mut pod, &eth0, &host);

        let mac = |link: &Link| penstock_control_api::MacAddr(link.mac.unwrap()).to_string();
        assert_eq!(
            result,
            json!({
                "cniVersion": "1.0.0",
                "interfaces": [
                    { "name": HOST_IFNAME, "mac": mac(&host) },
                    { "name": "eth0", "mac": mac(&eth0), "sandbox": pod.path() },
                ],
                "ips": [{ "address": "10.1.2.3/32", "gateway": "169.254.1.1", "interface": 1 }],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }],
                "dns": {},
            })
        );
        let asked = control.asked();
        let Request::Add {
            pod: identity,
            netns,
            veth_prefix,
            ..
        } = &asked[0]
        else {
            unreachable!("asked {asked:?}");
        };
        assert_eq!(
            (identity.namespace.as_str(), identity.name.as_str()),
            ("default", "sample-pod")
        );
        assert_eq!(
            (netns.as_str(), veth_prefix.as_str()),
            (pod.path().as_str(), "eni")
        );
        let Request::Confirm {
            host_ifindex,
            host_mac,
            pod_mac,
            ..
        } = &asked[1]
        else {
            unreachable!("asked {asked:?}");
        };
        assert_eq!(*host_ifindex, host.index);
        assert_eq!((Some(host_mac.0), Some(pod_mac.0)), (host.mac, eth0.mac));
    });
}

fn assert_pod_layer_3(pod: &mut Pod, eth0: &Link, host: &Link) {
    let addresses = pod.netlink.addresses(eth0.index).unwrap();
    assert_eq!(addresses.len(), 1);
    assert_eq!(addresses[0].net, Ipv4Net::from(ADDRESS));
    assert_eq!(
        pod.netlink.routes(MAIN_TABLE).unwrap(),
        [
            Route::default_via(POD_GATEWAY, eth0.index),
            Route::on_link(Ipv4Net::from(POD_GATEWAY), eth0.index),
        ]
    );
    let gateway = Neighbor {
        index: eth0.index,
        address: POD_GATEWAY,
        mac: host.mac,
        permanent: true,
    };
    assert!(
        pod.netlink
            .neighbors(eth0.index)
            .unwrap()
            .contains(&gateway)
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn results_take_the_shape_of_their_version() {
    on_a_node(|| {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let (pod, control) = (Pod::new(), control());
            let mut config = config(version, &control.run_dir());
            config["dns"] = json!({ "nameservers": ["10.0.0.2"] });
            let result = pod.call("ADD", &config).run().result();
            assert_eq!(result["cniVersion"], version);
            let family = result["ips"][0].get("version");
            assert_eq!(family.is_some(), version.starts_with("0."), "{result}");
            assert!(family.is_none_or(|family| family == "4"));
            let mtu = result["interfaces"][0].get("mtu");
            assert_eq!(mtu.is_some(), version == "1.1.0", "{result}");
            assert_eq!(result["dns"]["nameservers"][0], "10.0.0.2");
            pod.call("DEL", &config).run().done();
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c18_an_earlier_plugins_result_is_passed_on() {
    on_a_node(|| {
        let (pod, control) = (Pod::new(), control());
        let mut config = config("1.0.0", &control.run_dir());
        config["prevResult"] = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "net1", "sandbox": "x" }],
            "ips": [{ "address": "192.0.2.1/24", "interface": 0 }],
        });
        let result = pod.call("ADD", &config).run().result();
        assert_eq!(result["interfaces"][0]["name"], "net1");
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["ips"][0]["address"], "192.0.2.1/24");
        assert_eq!(result["ips"][1]["interface"], 2);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn f18_a_repeated_add_gives_the_same_answer() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let add = pod.call("ADD", &config("1.0.0", &control.run_dir()));
        let first = add.run().result();
        let index = pod.eth0().index;
        assert_eq!(add.run().result(), first);
        assert_eq!(pod.eth0().index, index, "the pair was rebuilt");
        assert_eq!(control.asked().len(), 3, "confirmed once");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_recreated_pod_takes_its_name_over() {
    on_a_node(|| {
        let (mut old, first) = (Pod::new(), control());
        old.call("ADD", &config("1.0.0", &first.run_dir()))
            .run()
            .result();
        let (mut new, second) = (Pod::new(), control());
        let config = config("1.0.0", &second.run_dir());
        new.call("ADD", &config).run().result();
        assert!(gone(&mut old.netlink, "eth0"));
        let index = new.eth0().index;
        old.call("DEL", &config).run().done();
        assert_eq!(
            new.eth0().index,
            index,
            "a late DEL must not touch the new pod"
        );
        assert!(!gone(&mut Netlink::open().unwrap(), HOST_IFNAME));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c11_check_finds_every_difference() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let mut config = config("1.0.0", &control.run_dir());
        config["prevResult"] = pod.call("ADD", &config).run().result();
        let check = pod.call("CHECK", &config);
        check.run().done();
        let mut node = Netlink::open().unwrap();
        let (host, eth0) = (node.link_by_name(HOST_IFNAME).unwrap(), pod.eth0());
        let finds = |what: &str| {
            let error = check.run().refused(102);
            assert!(error["msg"].as_str().unwrap().contains(what), "{error}");
        };

        let foreign: Ipv4Net = "10.9.9.9/32".parse().unwrap();
        pod.netlink.add_address(eth0.index, foreign).unwrap();
        finds("10.9.9.9");
        pod.netlink.delete_address(eth0.index, foreign).unwrap();

        let default = Route::default_via(POD_GATEWAY, eth0.index);
        pod.netlink.delete_route(&default).unwrap();
        finds("0.0.0.0/0");
        pod.netlink.add_route(&default).unwrap();

        pod.netlink
            .add_permanent_neighbor(eth0.index, POD_GATEWAY, [2, 1, 1, 1, 1, 1])
            .unwrap();
        finds("169.254.1.1");
        pod.netlink
            .add_permanent_neighbor(eth0.index, POD_GATEWAY, host.mac.unwrap())
            .unwrap();

        let small = LinkChange {
            mtu: Some(1400),
            ..LinkChange::default()
        };
        node.set_link(host.index, &small).unwrap();
        finds("MTU 1400");
        node.set_link(
            host.index,
            &LinkChange {
                mtu: Some(MTU),
                ..small
            },
        )
        .unwrap();
        node.set_link(
            host.index,
            &LinkChange {
                up: Some(false),
                ..LinkChange::default()
            },
        )
        .unwrap();
        finds("down");
        node.set_link(host.index, &UP).unwrap();
        check.run().done();

        let mut other = config.clone();
        other["prevResult"]["ips"][0]["address"] = "10.1.2.4/32".into();
        let error = pod.call("CHECK", &other).run().refused(102);
        assert!(
            error["msg"].as_str().unwrap().contains("10.1.2.3/32"),
            "{error}"
        );

        pod.netlink
            .delete_address(eth0.index, Ipv4Net::from(ADDRESS))
            .unwrap();
        finds("10.1.2.3/32");
        node.delete_link(host.index).unwrap();
        finds("eth0 is missing");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c11_check_allows_what_later_plugins_listed() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let mut config = config("1.1.0", &control.run_dir());
        config["prevResult"] = pod.call("ADD", &config).run().result();
        let netns = pod.path();
        let check = |config: &Value| Call::new("CHECK", config).with("CNI_NETNS", &netns);
        let eth0 = pod.netlink.link_by_name("eth0").unwrap();
        let extra: Ipv4Net = "10.9.9.9/32".parse().unwrap();
        pod.netlink.add_address(eth0.index, extra).unwrap();
        let small = LinkChange {
            mtu: Some(1400),
            ..LinkChange::default()
        };
        pod.netlink.set_link(eth0.index, &small).unwrap();
        let default = Route::default_via(POD_GATEWAY, eth0.index);
        pod.netlink.delete_route(&default).unwrap();

        let refuses = |config: &Value, what: &str| {
            let error = check(config).run().refused(102);
            assert!(error["msg"].as_str().unwrap().contains(what), "{error}");
        };
        refuses(&config, "MTU 1400");
        config["prevResult"]["interfaces"][1]["mtu"] = json!(1400);
        refuses(&config, "10.9.9.9");
        let listed = json!({ "address": "10.9.9.9/32", "interface": 1 });
        let ips = config["prevResult"]["ips"].as_array_mut().unwrap();
        ips.push(listed);
        refuses(&config, "0.0.0.0/0");
        config["prevResult"]["routes"] = json!([]);
        check(&config).run().done();

        config["prevResult"]["interfaces"][1]["mac"] = "02:00:00:00:00:01".into();
        refuses(&config, "02:00:00:00:00:01");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn del_leaves_another_pods_interface_alone() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let live = config("1.0.0", &control.run_dir());
        let result = pod.call("ADD", &live).run().result();
        // The path names another sandbox by now, as one with a process id in it may.
        let mut late = config("1.0.0", Path::new("/nonexistent/penstock"));
        late["prevResult"] = result.clone();
        late["prevResult"]["interfaces"][1]["mac"] = "02:00:00:00:00:01".into();
        pod.call("DEL", &late).run().done();
        let index = pod.eth0().index;
        late["prevResult"] = result;
        pod.call("DEL", &late).run().done();
        assert!(gone(&mut pod.netlink, "eth0"), "index {index}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn del_removes_the_pair_with_or_without_control() {
    on_a_node(|| {
        for away in [false, true] {
            let (mut pod, control) = (Pod::new(), control());
            let config_live = config("1.0.0", &control.run_dir());
            pod.call("ADD", &config_live).run().result();
            let nowhere = config("1.0.0", Path::new("/nonexistent/penstock"));
            let del = pod.call("DEL", if away { &nowhere } else { &config_live });
            del.run().done();
            assert!(gone(&mut Netlink::open().unwrap(), HOST_IFNAME));
            assert!(gone(&mut pod.netlink, "eth0"));
            del.run().done();
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c12_a_foreign_interface_is_left_alone_and_the_address_returned() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let spec = VethSpec {
            name: "foreign",
            mac: None,
            mtu: 1500,
            queues: 1,
            peer: VethEnd {
                name: "eth0",
                mac: None,
                mtu: 1500,
                queues: 1,
                netns: Some(pod.netns.as_fd()),
            },
        };
        Netlink::open().unwrap().create_veth(&spec).unwrap();
        let index = pod.eth0().index;
        let config = config("1.0.0", &control.run_dir());
        let error = pod.call("ADD", &config).run().refused(102);
        assert!(error["msg"].as_str().unwrap().contains("eth0"), "{error}");
        assert_returned(&control);
        pod.call("DEL", &config).run().done();
        assert_eq!(pod.eth0().index, index, "not ours to delete");
        assert!(gone(&mut Netlink::open().unwrap(), HOST_IFNAME));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_failed_add_leaves_nothing() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), refusing_confirm());
        let config = config("1.0.0", &control.run_dir());
        let error = pod.call("ADD", &config).run().refused(101);
        assert_eq!(
            (&error["msg"], &error["details"]),
            (&json!("no route"), &json!("table 2 is full"))
        );
        assert_returned(&control);
        assert!(gone(&mut pod.netlink, "eth0"));
        assert!(gone(&mut Netlink::open().unwrap(), HOST_IFNAME));

        let mut small = config.clone();
        small["mtu"] = json!("1500");
        pod.call("ADD", &small).run().refused(7);
        assert_returned(&control);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c17_an_add_nobody_listens_to_is_undone() {
    on_a_node(|| {
        let (mut pod, control) = (Pod::new(), control());
        let call = pod.call("ADD", &config("1.0.0", &control.run_dir()));
        let mut child = call.command().spawn().unwrap();
        drop(child.stdout.take());
        call.feed(&mut child);
        assert!(!child.wait().unwrap().success());
        assert_returned(&control);
        assert!(gone(&mut pod.netlink, "eth0"));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c17_an_add_without_standard_output_is_not_begun() {
    on_a_node(|| {
        let (pod, control) = (Pod::new(), control());
        let call = pod.call("ADD", &config("1.0.0", &control.run_dir()));
        for closed in [">&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/null"] {
            let script = format!("exec \"$0\" {closed}");
            let mut child = call.under(&["sh", "-c", &script]).spawn().unwrap();
            call.feed(&mut child);
            assert_eq!(child.wait().unwrap().code(), Some(1), "{closed}");
        }
        assert_eq!(control.asked().len(), 0);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c17_no_umask_is_in_the_way() {
    on_a_node(|| {
        let (pod, control) = (Pod::new(), control());
        let call = pod.call("ADD", &config("1.0.0", &control.run_dir()));
        let script = "umask 0777; exec \"$0\"";
        let mut child = call.under(&["sh", "-c", script]).spawn().unwrap();
        call.feed(&mut child);
        assert!(child.wait().unwrap().success());
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c16_an_agent_of_the_release_before_or_after_will_do() {
    on_a_node(|| {
        for release_after in [false, true] {
            let mut pod = Pod::new();
            let control = Control::serve_json(move |request| {
                let mut node = Netlink::open().unwrap();
                if let Some(confirm) = request.get("confirm") {
                    let index = confirm["host_ifindex"].as_u64().unwrap();
                    node.set_link(index.try_into().unwrap(), &UP).unwrap();
                    return json!("done");
                }
                if request.get("add").is_none() {
                    return json!("done");
                }
                clear_name(&mut node);
                let mut answer = json!({
                    "address": ADDRESS, "host_ifname": HOST_IFNAME, "mtu": MTU,
                    "device_number": 0, "eni_id": "eni-0", "confirmed": false,
                });
                if release_after {
                    answer["generation"] = 1.into();
                    answer["not_invented_yet"] = json!({ "a": 1 });
                }
                json!({ "attachment": answer })
            });
            let config = config("1.0.0", &control.run_dir());
            let result = pod.call("ADD", &config).run().result();
            assert_eq!(result["ips"][0]["address"], "10.1.2.3/32");
            pod.call("DEL", &config).run().done();
            assert!(gone(&mut pod.netlink, "eth0"));
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn c17_eight_descriptors_are_enough() {
    on_a_node(|| {
        let (pod, control) = (Pod::new(), control());
        let call = pod.call("ADD", &config("1.0.0", &control.run_dir()));
        let mut limited = call.under(&["prlimit", "--nofile=8:8"]);
        let mut child = limited.spawn().unwrap();
        call.feed(&mut child);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn f06_add_without_control_says_try_again_and_changes_nothing() {
    on_a_node(|| {
        let mut pod = Pod::new();
        let config = config("1.0.0", Path::new("/nonexistent/penstock"));
        let answer = pod.call("ADD", &config).run();
        let error = answer.refused(11);
        assert!(answer.took < Duration::from_secs(2), "{answer:?}");
        assert!(
            error["details"]
                .as_str()
                .unwrap()
                .contains("/nonexistent/penstock/control.sock")
        );
        assert!(gone(&mut pod.netlink, "eth0"));
        assert!(!pod.netlink.link_by_name("lo").unwrap().up);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn f07_control_that_dies_inside_add_is_rolled_back_here() {
    on_a_node(|| {
        let mut pod = Pod::new();
        let control = Control::serve(|request| match request {
            Request::Add { .. } => Some(Response::Attachment(attachment(false))),
            _ => None,
        });
        let error = pod
            .call("ADD", &config("1.0.0", &control.run_dir()))
            .run()
            .refused(11);
        assert!(
            error["details"]
                .as_str()
                .unwrap()
                .contains("returning the address failed")
        );
        assert!(gone(&mut pod.netlink, "eth0"));
        assert!(gone(&mut Netlink::open().unwrap(), HOST_IFNAME));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn another_kind_of_namespace_is_refused() {
    on_a_node(|| {
        let nowhere = config("1.0.0", Path::new("/nonexistent/penstock"));
        Call::new("ADD", &nowhere)
            .with("CNI_NETNS", "/proc/self/ns/mnt")
            .run()
            .refused(5);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_connection_crosses_the_pair_as_soon_as_add_returns() {
    on_a_node(|| {
        let (pod, control) = (Pod::new(), control());
        pod.call("ADD", &config("1.0.0", &control.run_dir()))
            .run()
            .result();
        let mut node = Netlink::open().unwrap();
        let host = node.link_by_name(HOST_IFNAME).unwrap().index;
        node.add_address(host, Ipv4Net::from(NODE)).unwrap();
        node.add_route(&Route::on_link(Ipv4Net::from(ADDRESS), host))
            .unwrap();
        let listener = TcpListener::bind((NODE, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        setns(&pod.netns, CloneFlags::CLONE_NEWNET).unwrap();
        let connected =
            TcpStream::connect_timeout(&(NODE, port).into(), Duration::from_secs(2)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, connected.local_addr().unwrap());
        assert_eq!(peer.ip(), ADDRESS);
    });
}
