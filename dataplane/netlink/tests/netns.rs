//! Every request against the real kernel, inside network namespaces that die with the test.
//!
//! Each test thread unshares its own namespace; nothing outside is touched.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the fixtures of a test may fail it"
)]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use penstock_netlink::{
    Ipv4Net, LinkChange, MAIN_TABLE, Neighbor, Netlink, Route, Rule, Scope, VethEnd, VethSpec,
};

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Runs `test` on a thread of its own in a fresh namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
        test();
    };
    thread::spawn(run).join().expect("the test failed");
}

/// A second fresh namespace, alive as long as the file.
fn another_namespace() -> File {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
        own_namespace()
    })
    .join()
    .unwrap()
}

fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn pair<'a>(name: &'a str, peer: VethEnd<'a>) -> VethSpec<'a> {
    VethSpec {
        name,
        mac: Some(HOST_MAC),
        mtu: 9001,
        queues: 1,
        peer,
    }
}

fn end(name: &str) -> VethEnd<'_> {
    VethEnd {
        name,
        mac: Some(POD_MAC),
        mtu: 1400,
        queues: 3,
        netns: None,
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_veth_pair_is_what_was_asked_for() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_veth(&pair("a0", end("a1"))).unwrap();
        let a0 = netlink.link_by_name("a0").unwrap();
        let a1 = netlink.link_by_name("a1").unwrap();
        assert_eq!((a0.mac, a0.mtu, a0.up), (Some(HOST_MAC), 9001, false));
        assert_eq!((a1.mac, a1.mtu, a1.up), (Some(POD_MAC), 1400, false));
        assert_eq!((a0.tx_queues, a0.rx_queues), (1, 1));
        assert_eq!((a1.tx_queues, a1.rx_queues), (3, 3));
        assert_eq!(a0.kind, "veth");
        assert_eq!(a0.peer_index, Some(a1.index));
        assert_eq!(netlink.link_by_index(a1.index).unwrap(), a1);
        assert_eq!(
            netlink.links().unwrap().len(),
            3,
            "loopback and the two ends"
        );

        let again = netlink.create_veth(&pair("a0", end("a2"))).unwrap_err();
        assert!(again.is_exists(), "{again}");
        netlink.delete_link(a0.index).unwrap();
        assert!(netlink.link_by_name("a1").unwrap_err().is_not_found());
        assert!(netlink.delete_link(a0.index).unwrap_err().is_not_found());
        assert!(netlink.link_by_index(a0.index).unwrap_err().is_not_found());
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_peer_is_created_in_its_namespace_and_links_can_move() {
    in_namespace(|| {
        let home = own_namespace();
        let away = another_namespace();
        let mut netlink = Netlink::open().unwrap();
        let peer = VethEnd {
            netns: Some(away.as_fd()),
            ..end("eth0")
        };
        netlink.create_veth(&pair("b0", peer)).unwrap();
        assert!(netlink.link_by_name("eth0").unwrap_err().is_not_found());

        setns(&away, CloneFlags::CLONE_NEWNET).unwrap();
        let mut remote = Netlink::open().unwrap();
        let eth0 = remote.link_by_name("eth0").unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(POD_MAC), 1400));
        assert!(
            netlink.link_by_name("b0").is_ok(),
            "a socket stays in the namespace it was opened in"
        );

        let change = LinkChange {
            name: Some("moved"),
            netns: Some(home.as_fd()),
            ..LinkChange::default()
        };
        remote.set_link(eth0.index, &change).unwrap();
        assert!(remote.link_by_name("eth0").unwrap_err().is_not_found());
        assert_eq!(netlink.link_by_name("moved").unwrap().mac, Some(POD_MAC));
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn links_change() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_veth(&pair("c0", end("c1"))).unwrap();
        let index = netlink.link_by_name("c0").unwrap().index;
        let change = LinkChange {
            up: Some(true),
            mtu: Some(1500),
            mac: Some([2, 9, 9, 9, 9, 9]),
            ..LinkChange::default()
        };
        netlink.set_link(index, &change).unwrap();
        let link = netlink.link_by_index(index).unwrap();
        assert!(link.up && !link.carrier, "the other end is down");
        assert_eq!((link.mtu, link.mac), (1500, Some([2, 9, 9, 9, 9, 9])));

        let too_large = LinkChange {
            mtu: Some(1 << 20),
            ..LinkChange::default()
        };
        let error = netlink.set_link(index, &too_large).unwrap_err();
        assert!(error.to_string().contains("mtu"), "{error}");
        let down = LinkChange {
            up: Some(false),
            ..LinkChange::default()
        };
        netlink.set_link(index, &down).unwrap();
        assert!(!netlink.link_by_index(index).unwrap().up);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_pods_addresses_routes_and_neighbour() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_veth(&pair("d0", end("d1"))).unwrap();
        let index = netlink.link_by_name("d1").unwrap().index;
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        netlink.set_link(index, &up).unwrap();

        let net: Ipv4Net = "10.1.2.3/32".parse().unwrap();
        netlink.add_address(index, net).unwrap();
        assert!(netlink.add_address(index, net).unwrap_err().is_exists());
        assert_eq!(netlink.addresses(index).unwrap()[0].net, net);

        let gateway = Route::on_link(Ipv4Net::from(GATEWAY), index);
        let default = Route::default_via(GATEWAY, index);
        let early = netlink.add_route(&default).unwrap_err();
        assert_eq!(early.errno(), Some(101), "ENETUNREACH: {early}");
        netlink.add_route(&gateway).unwrap();
        netlink.add_route(&default).unwrap();
        assert!(netlink.add_route(&default).unwrap_err().is_exists());
        netlink.replace_route(&default).unwrap();
        assert_eq!(netlink.routes(MAIN_TABLE).unwrap(), [default, gateway]);

        let far = Route {
            destination: "10.9.0.0/16".parse().unwrap(),
            table: 10_002,
            scope: Scope::Universe,
            ..default
        };
        netlink.add_route(&far).unwrap();
        assert_eq!(netlink.routes(10_002).unwrap(), [far]);
        netlink.delete_route(&far).unwrap();
        assert!(netlink.delete_route(&far).unwrap_err().is_not_found());

        netlink
            .add_permanent_neighbor(index, GATEWAY, POD_MAC)
            .unwrap();
        netlink
            .add_permanent_neighbor(index, GATEWAY, HOST_MAC)
            .unwrap();
        let expected = Neighbor {
            index,
            address: GATEWAY,
            mac: Some(HOST_MAC),
            permanent: true,
        };
        assert_eq!(netlink.neighbors(index).unwrap(), [expected]);
        netlink.delete_neighbor(index, GATEWAY).unwrap();
        netlink.delete_address(index, net).unwrap();
        assert!(
            netlink
                .delete_address(index, net)
                .unwrap_err()
                .is_not_found()
        );
        assert!(netlink.addresses(index).unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn rules_come_back_as_they_went_in() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let before = netlink.rules().unwrap().len();
        let source = Rule {
            priority: 1536,
            from: Some("10.1.2.3/32".parse().unwrap()),
            to: None,
            fwmark: None,
            fwmask: None,
            table: 2,
        };
        let marked = Rule {
            priority: 1024,
            from: None,
            to: Some("0.0.0.0/0".parse().unwrap()),
            fwmark: Some(0x80),
            fwmask: Some(0x80),
            table: MAIN_TABLE,
        };
        netlink.add_rule(&source).unwrap();
        netlink.add_rule(&Rule { to: None, ..marked }).unwrap();
        assert!(netlink.add_rule(&source).unwrap_err().is_exists());
        let rules = netlink.rules().unwrap();
        assert_eq!(rules.len(), before + 2);
        assert!(rules.contains(&source), "{rules:?}");
        assert!(rules.contains(&Rule { to: None, ..marked }), "{rules:?}");
        netlink.delete_rule(&source).unwrap();
        assert!(netlink.delete_rule(&source).unwrap_err().is_not_found());
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_dump_of_many_datagrams_is_whole() {
    in_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        for number in 0..100 {
            let (name, peer) = (format!("m{number}"), format!("n{number}"));
            netlink.create_veth(&pair(&name, end(&peer))).unwrap();
        }
        let links = netlink.links().unwrap();
        assert_eq!(links.len(), 201);
        assert!(links.iter().all(|link| !link.name.is_empty()));
    });
}

/// Runs a command in the calling thread's namespace; it must succeed.
fn command(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let output = std::process::Command::new(program)
        .args(words)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}`: {complaint}");
}

#[test]
#[ignore = "needs root and network namespaces"]
fn conversations_are_listed_with_what_the_kernel_translates() {
    in_namespace(|| {
        for line in [
            "ip link add out type veth peer name end",
            "ip link set out up",
            "ip link set end up",
            "ip addr add 10.0.0.1/24 dev out",
            "ip route add default dev out",
            "nft add table ip t",
            "nft add chain ip t c { type nat hook output priority -100; }",
            "nft add rule ip t c udp dport 53 dnat to 10.0.0.9:5353",
        ] {
            command(line);
        }
        let socket = std::net::UdpSocket::bind("10.0.0.1:5000").unwrap();
        for to in ["10.0.0.2:53", "10.0.0.2:54"] {
            socket.send_to(b"x", to).unwrap();
        }
        let mut seen = Vec::new();
        penstock_netlink::conntrack::conversations(|entry| seen.push(*entry)).unwrap();
        seen.sort_by_key(|entry| entry.original.destination);
        let [translated, plain] = seen[..] else {
            panic!("{seen:?}");
        };
        assert!(translated.destination_translated() && !plain.destination_translated());
        assert_eq!(translated.reply.source, "10.0.0.9:5353".parse().unwrap());
        assert_eq!(translated.original.source, "10.0.0.1:5000".parse().unwrap());
        assert_eq!(plain.protocol, 17);
    });
}
