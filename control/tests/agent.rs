//! The agent's binary on a node of the lab: real kernel, real EC2 client, requests as the shim sends them. No dataplane
//! runs, so all of it also shows that the agent does not need one.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, with what it was doing"
)]

mod rig;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use penstock_control_api::{Attachment, code};
use penstock_lab::NetNs;
use rig::Rig;

#[test]
#[ignore = "needs root and network namespaces"]
fn a_pod_lives_from_add_to_del() {
    let rig = Rig::start(&[]);
    let pod = rig.attach("c1", "web-0");
    assert_eq!(
        rig.add("c1", "web-0").unwrap(),
        Attachment {
            confirmed: true,
            ..pod.clone()
        }
    );
    assert!(rig.check("c1").unwrap().confirmed);
    let traces = rig.traces(pod.address);
    assert_eq!(traces.len(), 2, "a rule and a route: {traces:?}");
    let link = rig
        .netns()
        .ip(&["link", "show", "dev", &pod.host_ifname])
        .unwrap();
    assert!(link.contains("UP"), "the host side is up: {link}");

    rig.netns()
        .ip(&["rule", "del", "to", &pod.address.to_string()])
        .unwrap();
    let failure = rig.check("c1").unwrap_err();
    assert_eq!(failure.code, code::MISMATCH);
    assert!(failure.details.contains("ip rule 512"), "{failure:?}");

    rig.del("c1");
    assert!(!rig.has_link(&pod.host_ifname));
    assert!(rig.traces(pod.address).is_empty());
    assert_eq!(
        (rig.status().pool.assigned, rig.status().pool.cooling),
        (0, 1)
    );
    rig.del("c1");
    rig.del("never-there");
    let late = rig.add("c1", "web-0").unwrap_err();
    assert_eq!(late.code, code::UNKNOWN_CONTAINER, "{late:?}");
    assert_eq!(rig.check("c1").unwrap_err().code, code::UNKNOWN_CONTAINER);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_new_sandbox_takes_the_name_and_the_old_one_cannot_take_it_back() {
    let rig = Rig::start(&[]);
    let old = rig.attach("old", "web-0");
    let new = rig.add("new", "web-0").unwrap();
    assert_eq!(new.host_ifname, old.host_ifname);
    assert_ne!(new.address, old.address);
    assert!(
        !rig.has_link(&old.host_ifname),
        "the name is free for the shim"
    );
    assert!(rig.traces(old.address).is_empty());
    rig.make_veth(&new.host_ifname);
    rig.confirm("new", &new.host_ifname).unwrap();
    assert_eq!(
        rig.confirm("old", &new.host_ifname).unwrap_err().code,
        code::UNKNOWN_CONTAINER
    );

    rig.del("old");
    assert!(
        rig.has_link(&new.host_ifname),
        "the late DEL leaves the newer sandbox alone"
    );
    assert!(rig.check("new").is_ok());
}

#[test]
#[ignore = "needs root and network namespaces"]
fn confirm_takes_only_the_interface_the_shim_was_told_to_make() {
    let rig = Rig::start(&[]);
    let pod = rig.add("c1", "a").unwrap();
    rig.make_veth("enidecoy");
    assert_eq!(
        rig.confirm("c1", "enidecoy").unwrap_err().code,
        code::MISMATCH
    );
    assert!(rig.traces(pod.address).is_empty());
    assert_eq!(
        rig.confirm("c2", "enidecoy").unwrap_err().code,
        code::UNKNOWN_CONTAINER
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_restart_keeps_pods_repairs_paths_and_lets_go_of_the_dead() {
    let rig = Rig::start(&[]);
    let kept = rig.attach("kept", "a");
    let dead = rig.attach("dead", "b");
    rig.node().kill_control();
    rig.netns().ip(&["link", "del", &dead.host_ifname]).unwrap();
    rig.netns()
        .ip(&["rule", "del", "to", &kept.address.to_string()])
        .unwrap();
    rig.node().start_control(&[]).unwrap();

    let pods = rig.pods();
    assert_eq!(
        pods.iter().map(|pod| pod.address).collect::<Vec<_>>(),
        [kept.address]
    );
    assert!(rig.check("kept").is_ok(), "the missing rule is back");
    assert!(rig.traces(dead.address).is_empty());
    assert_eq!(rig.status().pool.cooling, 1, "the dead pod's address rests");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_damaged_checkpoint_is_set_aside_and_running_pods_are_found() {
    let rig = Rig::start(&[("IP_COOLDOWN_PERIOD", "0")]);
    let pod = rig.attach("c1", "a");
    rig.node().kill_control();
    let path = rig.node().state_dir().join("ipam.checkpoint");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    rig.node()
        .start_control(&[("IP_COOLDOWN_PERIOD", "0")])
        .unwrap();

    assert_eq!(
        fs::read(path.with_extension("checkpoint.bad")).unwrap(),
        bytes
    );
    assert_eq!(
        rig.pods().iter().map(|pod| pod.address).collect::<Vec<_>>(),
        [pod.address]
    );
    assert_eq!(rig.traces(pod.address).len(), 2);
    for n in 0..8 {
        let other = rig.add(&format!("x{n}"), &format!("x{n}")).unwrap();
        assert_ne!(
            other.address, pod.address,
            "a running pod's address is not handed out"
        );
    }
    assert!(rig.add("x9", "x9").is_err(), "nine addresses in all");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn nothing_is_handed_out_that_cannot_be_recorded() {
    let rig = Rig::start(&[]);
    let pod = rig.attach("c1", "a");
    // A directory in the way of the temporary file stands for a full disk, also for root.
    let obstacle = rig.node().state_dir().join("ipam.checkpoint.new");
    fs::create_dir(&obstacle).unwrap();
    let failure = rig.add("c2", "b").unwrap_err();
    assert_eq!(failure.code, code::TRY_AGAIN, "{failure:?}");
    assert_eq!(rig.status().pool.assigned, 1, "the reservation is undone");
    rig.del("c1");
    assert!(!rig.has_link(&pod.host_ifname), "DEL works all the same");
    fs::remove_dir(&obstacle).unwrap();
    assert!(rig.add("c2", "b").is_ok());
    rig.node().kill_control();
    rig.node().start_control(&[]).unwrap();
    assert_eq!(
        rig.pods().len(),
        1,
        "what was done meanwhile was recorded later"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_exhausted_pool_says_why_and_recovers() {
    let rig = Rig::start(&[("IP_COOLDOWN_PERIOD", "2")]);
    let mut addresses = std::collections::BTreeSet::new();
    for n in 0..9 {
        addresses.insert(rig.add(&format!("c{n}"), &format!("p{n}")).unwrap().address);
    }
    assert_eq!(addresses.len(), 9, "no address twice");
    let started = Instant::now();
    let failure = rig.add("c9", "p9").unwrap_err();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "a hopeless wait is not waited"
    );
    assert_eq!(failure.code, code::NO_ADDRESS);
    assert!(
        failure
            .details
            .contains("9 assigned, 0 cooling, 0 free of at most 9"),
        "{failure:?}"
    );

    rig.del("c3");
    let started = Instant::now();
    assert!(rig.add("c10", "p10").is_ok(), "waits out the cool-down");
    assert!(started.elapsed() >= Duration::from_secs(1), "and not less");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn ec2_faults_reach_only_those_who_need_ec2() {
    let rig = Rig::start(&[("WARM_ENI_TARGET", "0")]);
    rig.eventually("a first batch of addresses", 10, |rig| {
        rig.status().pool.free == 3
    });
    let fault = |code: &str| {
        let error_code = code.to_owned();
        rig.lab.cloud().inject(ec2_sim::Fault {
            action: "*".into(),
            error_code,
            count: 1000,
        });
    };
    fault("InsufficientFreeAddressesInSubnet");
    for n in 0..3 {
        rig.add(&format!("c{n}"), &format!("p{n}"))
            .expect("the pool serves without EC2");
    }
    rig.eventually("the cause is known", 10, |rig| {
        rig.status().problem.contains("subnet")
    });
    let failure = rig.add("c4", "p4").unwrap_err();
    assert_eq!(failure.code, code::NO_ADDRESS);
    assert!(
        failure
            .details
            .contains("InsufficientFreeAddressesInSubnet"),
        "{failure:?}"
    );
    rig.del("c0");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_socket_is_private_and_survives_bad_peers() {
    let rig = Rig::start(&[]);
    let socket = rig.node().run_dir().join("control.sock");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&socket), mode(&rig.node().run_dir())), (0o600, 0o700));

    let mut silent: Vec<UnixStream> = (0..40)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    for bytes in [
        &[0xff; 64][..],
        &[0, 0, 0, 4, b'{', b'{', b'{', b'{'],
        &[0, 0],
    ] {
        let mut peer = UnixStream::connect(&socket).unwrap();
        peer.write_all(bytes).unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = Vec::new();
        // Whatever comes back, the peer is let go; a reset is as good as an end.
        let _ = peer.read_to_end(&mut answer);
    }
    assert!(rig.status().ready, "others are served meanwhile");
    silent[0]
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(
        silent[0].read(&mut [0; 1]).unwrap(),
        0,
        "a silent peer is hung up on"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn going_away_leaves_everything_but_the_socket() {
    let rig = Rig::start(&[("WARM_ENI_TARGET", "0")]);
    let pod = rig.attach("c1", "a");
    // Stateless: counters move by themselves.
    let list = || rig.netns().tool("nft", &["-s", "list", "ruleset"]).unwrap();
    let rules = list();
    assert!(rules.contains("table ip penstock"));
    rig.node().stop_control().unwrap();
    assert!(!rig.node().run_dir().join("control.sock").exists());
    assert_eq!(rig.traces(pod.address).len(), 2);
    assert!(rig.has_link(&pod.host_ifname));
    assert_eq!(list(), rules);
}

#[test]
#[ignore = "needs root and network namespaces"]
fn bad_settings_end_the_agent_with_every_problem_named() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_penstock-control"))
        .args(["--run-dir", "/nonexistent", "--log-format", "text"])
        .env("WARM_ENI_TARGET", "many")
        .env("AWS_VPC_ENI_MTU", "9002")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.contains("WARM_ENI_TARGET") && log.contains("AWS_VPC_ENI_MTU"),
        "{log}"
    );
}

#[test]
fn max_pods_are_counted_by_addresses_and_settings() {
    let ask = |arguments: &[&str], settings: &[(&str, &str)]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_penstock-control"))
            .args(["max-pods", "--instance-type"])
            .args(arguments)
            .envs(settings.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let prefixes = ("ENABLE_PREFIX_DELEGATION", "true");
    let custom = ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true");
    assert_eq!(ask(&["m5.large"], &[]), "29");
    assert_eq!(ask(&["m5.large"], &[custom]), "20");
    assert_eq!(ask(&["m5.large"], &[prefixes]), "434");
    assert_eq!(ask(&["m5.large", "--vcpus", "2"], &[prefixes]), "110");
}

/// Slow: the lease is 30 s.
#[test]
#[ignore = "needs root and network namespaces"]
fn a_reservation_nobody_confirms_is_taken_back() {
    let rig = Rig::start(&[]);
    let kept = rig.attach("kept", "a");
    rig.add("lost", "b").unwrap();
    rig.eventually("the lease ends", 40, |rig| rig.status().pool.assigned == 1);
    assert_eq!(rig.pods()[0].address, kept.address);
    let link = rig.add("lost", "b").unwrap().host_ifname;
    rig.make_veth(&link);
    rig.confirm("lost", &link)
        .expect("a rolled back attachment may be added again");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn the_kernel_is_set_as_documented() {
    let rig = Rig::start(&[]);
    rig.add("c1", "a").unwrap();
    rig.eventually("a second ENI", 20, |rig| rig.has_link("eth1"));
    rig.eventually("its rule", 5, |rig| {
        rig.netns()
            .ip(&["rule"])
            .is_ok_and(|rules| rules.contains("32765:"))
    });
    let read = |key: &str| {
        rig.netns()
            .tool("cat", &[&format!("/proc/sys/net/ipv4/{key}")])
            .unwrap()
    };
    assert_eq!(read("ip_forward").trim(), "1");
    assert_eq!(read("ip_local_reserved_ports").trim(), "11000-29999");
    assert_eq!(read("conf/eth0/rp_filter").trim(), "2");
    assert_eq!(read("conf/eth1/rp_filter").trim(), "2");
    let rules = rig.netns().ip(&["rule"]).unwrap();
    assert!(
        rules.contains("1024:\tfrom all fwmark 0x80/0x80 lookup main"),
        "{rules}"
    );
    let table = rig.netns().ip(&["route", "show", "table", "2"]).unwrap();
    assert!(table.contains("default via 10.0.0.1 dev eth1"), "{table}");
    let main = rig.netns().ip(&["route"]).unwrap();
    assert!(
        !main.contains("dev eth1"),
        "the subnet is reached by the primary ENI: {main}"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_others_remove_is_put_back_and_service_networks_are_routed_by_main() {
    let rig = Rig::start(&[("AWS_EXTERNAL_SERVICE_CIDRS", "203.0.113.0/24")]);
    let pods: Vec<Attachment> = (0..4)
        .map(|n| rig.attach(&format!("c{n}"), &format!("p{n}")))
        .collect();
    rig.eventually("three ENIs and their rules", 30, |rig| {
        let rules = rig.netns().ip(&["rule"]).unwrap();
        rules.contains("lookup 2") && rules.contains("lookup 3")
    });
    let rules = rig.netns().ip(&["rule"]).unwrap();
    assert!(
        rules.contains("1535:\tfrom all to 203.0.113.0/24 lookup main"),
        "{rules}"
    );
    // As a network manager does that thinks it owns the host.
    for rule in rules.lines() {
        let priority = rule.split(':').next().unwrap();
        if !["0", "1535", "32766", "32767"].contains(&priority) {
            rig.netns().ip(&["rule", "del", "pref", priority]).unwrap();
        }
    }
    for pod in &pods {
        let address = pod.address.to_string();
        rig.netns().ip(&["route", "del", &address]).unwrap();
    }
    rig.netns().ip(&["route", "flush", "table", "2"]).unwrap();
    rig.eventually("everything is back", 10, |rig| {
        let whole = (0..4).all(|n| rig.check(&format!("c{n}")).is_ok());
        let now = rig.netns().ip(&["rule"]).unwrap();
        let table = rig.netns().ip(&["route", "show", "table", "2"]);
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        whole && sorted(&now) == sorted(&rules) && table.unwrap_or_default().contains("default via")
    });
}

/// Slow: an ENI must be a minute old before it is given back.
#[test]
#[ignore = "needs root and network namespaces"]
fn a_surplus_eni_goes_back_to_ec2() {
    let rig = Rig::start(&[("WARM_ENI_TARGET", "1"), ("IP_COOLDOWN_PERIOD", "1")]);
    for n in 0..4 {
        rig.add(&format!("c{n}"), &format!("p{n}")).unwrap();
    }
    rig.eventually("three ENIs", 20, |rig| rig.status().pool.total == 9);
    assert!(rig.has_link("eth2"));
    for n in 0..4 {
        rig.del(&format!("c{n}"));
    }
    rig.eventually("one ENI given back", 120, |rig| {
        rig.status().pool.total == 6
    });
    rig.eventually("its interface gone", 10, |rig| !rig.has_link("eth2"));
    rig.eventually("its rule gone", 10, |rig| {
        let rules = rig.netns().ip(&["rule"]).unwrap();
        rules.matches("32765:").count() == 1
    });
    rig.eventually(
        "a second ENI given back is never the last spare",
        5,
        |rig| rig.status().pool.total == 6,
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_plugin_that_was_overtaken_changes_nothing() {
    let rig = Rig::start(&[]);
    let late = rig.add("c1", "web-0").expect("ADD");
    rig.make_veth(&late.host_ifname);
    // The runtime lost patience with the first plugin and started a second one.
    let next = rig.add("c1", "web-0").expect("second ADD");
    assert_eq!((next.address, next.confirmed), (late.address, false));
    assert!(next.generation > late.generation);
    assert!(!rig.has_link(&late.host_ifname), "half of a pair was left");

    rig.make_veth(&next.host_ifname);
    let refused = rig.confirm_as("c1", &next.host_ifname, late.generation);
    assert_eq!(refused.unwrap_err().code, code::UNKNOWN_CONTAINER);
    rig.confirm_as("c1", &next.host_ifname, next.generation)
        .expect("the second one's Confirm");
    rig.undo("c1", late.generation);
    rig.check("c1").expect("the pod is still attached");

    rig.undo("c1", next.generation);
    assert!(rig.pods().is_empty());
    rig.add("c1", "web-0")
        .expect("an undone ADD may be repeated");
    rig.del("c1");
    assert_eq!(
        rig.add("c1", "web-0").unwrap_err().code,
        code::UNKNOWN_CONTAINER,
        "an ADD after the DEL is late"
    );
}

#[test]
#[ignore = "needs root and network namespaces"]
fn an_interface_that_is_no_pods_keeps_its_name() {
    let rig = Rig::start(&[]);
    let name = rig.add("c1", "web-0").expect("ADD").host_ifname;
    rig.del("c1");
    let ip = ["link", "add", &name, "type", "bridge"];
    rig.netns().ip(&ip).expect("bridge");
    let refused = rig.add("c2", "web-0").unwrap_err();
    assert_eq!(refused.code, code::KERNEL);
    assert!(refused.details.contains(&name), "{refused:?}");
    assert!(rig.has_link(&name));
}

/// Many tasks of the agent list at the same time, and the kernel gives one list at a time a socket.
#[test]
#[ignore = "needs root and network namespaces"]
fn lists_of_the_kernel_are_read_side_by_side() {
    const PAIRS: usize = 40;
    let netns = NetNs::create(&format!("pstk-list-{}", std::process::id())).expect("namespace");
    for n in 0..PAIRS {
        let ip = ["link", "add", &format!("a{n}"), "type", "veth"];
        netns.ip(&ip).expect("veth pair");
    }
    let read = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let node = penstock_control::node::Node::open().expect("netlink");
            let links = || async { node.links().await.map(|links| links.len()) };
            futures::future::try_join_all((0..8).map(|_| links())).await
        })
    };
    let counts = netns.run(read).expect("namespace").expect("lists");
    assert_eq!(counts, [2 * PAIRS + 1; 8]);
}
