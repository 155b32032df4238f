//! Conversations the kernel translates are the kernel's, in both directions.
//!
//! Each test has a network namespace with an interface into the void, on which the node, a client and
//! a pod live: what a socket sends there makes real conntrack entries by real rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use penstock_packet::TcpFlags;
use penstock_packet::build::Base;
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::Namespace;
use super::trunk::xdp_socket;
use super::{
    ENI_MAC, NODE, OTHER_POD, OUTSIDE, OUTSIDE6, Outcome, POD, POD6, Rig, SERVICE, SERVICE6,
    WIRE_MAC, from_pod, ip6,
};
use crate::HookKind;

const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 1, 9, 9);
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A namespace with these addresses on an interface whose packets go nowhere, and these rules.
fn node(addresses: &[IpAddr], rules: &'static str) -> Namespace {
    let node = Namespace::new();
    node.command("ip link set lo up");
    node.command("ip link add void type veth peer name end");
    node.command("ip link set end up");
    node.command("ip link set void up");
    for address in addresses {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        node.command(&format!("ip addr add {address} dev void{nodad}"));
    }
    node.command("ip route add default dev void");
    node.command("ip -6 route add default dev void");
    node.run(move || {
        let file =
            std::env::temp_dir().join(format!("penstock-hooks-{}.nft", nix::unistd::gettid()));
        std::fs::write(&file, format!("{rules}\n")).unwrap();
        let done = std::process::Command::new("nft")
            .arg("-f")
            .arg(&file)
            .output();
        std::fs::remove_file(&file).unwrap();
        let done = done.unwrap();
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{complaint}");
    });
    node
}

fn send_udp(from: impl Into<SocketAddr>, to: impl Into<SocketAddr>) {
    let socket = UdpSocket::bind(from.into()).unwrap();
    socket.send_to(b"ask", to.into()).unwrap();
}

/// Sends a SYN; nobody answers it.
fn send_syn(from: SocketAddr, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&from.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let begun = socket.connect(&to.into()).unwrap_err();
    assert_eq!(begun.raw_os_error(), Some(nix::libc::EINPROGRESS));
    socket
}

fn udp_to_pod(source: (Ipv4Addr, u16), port: u16) -> Vec<u8> {
    let base = Base::new(source.0, POD).macs(WIRE_MAC, ENI_MAC);
    base.udp(source.1, port, b"answer").bytes
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_pods_answer_to_a_translated_client_is_the_kernels() {
    let rules = "table ip t { chain c { type nat hook output priority -100; \
                 udp dport 30080 dnat to 10.1.0.10:8080; }; };";
    let node = node(&[OUTSIDE.into()], rules);
    node.run(|| {
        let rig = Rig::new(1);
        send_udp((OUTSIDE, 5_000), (NODE, 30_080));
        let answer = |from, to| from_pod(OUTSIDE).udp(from, to, b"").bytes;
        rig.expect(HookKind::Pod, &answer(8_080, 5_000), Outcome::Kernel);
        rig.expect(HookKind::Pod, &answer(8_081, 5_000), Outcome::Worker);
        rig.expect(HookKind::Pod, &answer(8_080, 5_001), Outcome::Worker);
        let other = from_pod(OTHER_POD).udp(8_080, 5_000, b"").bytes;
        rig.expect(HookKind::Pod, &other, Outcome::Worker);
        let tcp = from_pod(OUTSIDE).tcp(8_080, 5_000, TcpFlags::SYN, b"");
        rig.expect(HookKind::Pod, &tcp.bytes, Outcome::Worker);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_remote_backends_answer_is_the_kernels() {
    let rules = "table ip t { chain c { type nat hook output priority -100; \
                 ip daddr 172.20.0.10 udp dport 53 dnat to 10.1.9.9:5353; }; };";
    let node = node(&[POD.into()], rules);
    node.run(|| {
        let rig = Rig::new(1);
        let socket = xdp_socket();
        rig.hooks.set_socket(1, 0, socket.as_fd()).unwrap();
        send_udp((POD, 6_000), (SERVICE, 53));
        let answer = udp_to_pod((REMOTE, 5_353), 6_000);
        rig.expect(HookKind::Uplink, &answer, Outcome::Kernel);
        let unasked = udp_to_pod((REMOTE, 5_353), 6_001);
        rig.expect(HookKind::Uplink, &unasked, Outcome::Worker);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn services_over_ip6_too() {
    let rules = "table ip6 t { chain c { type nat hook output priority -100; \
                 udp dport 53 dnat to [2001:db8:1::99]:5353; \
                 udp dport 80 dnat to [2001:db8:1::10]:8080; }; };";
    let addresses = [POD6.into(), OUTSIDE6.into()];
    let node = node(&addresses, rules);
    node.run(|| {
        let rig = Rig::new(1);
        let socket = xdp_socket();
        rig.hooks.set_socket(1, 0, socket.as_fd()).unwrap();
        send_udp((POD6, 6_000), (SERVICE6, 53));
        send_udp((OUTSIDE6, 5_000), (SERVICE6, 80));
        let remote = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x99);
        let udp = |ports: [u16; 2]| {
            [
                ports[0].to_be_bytes(),
                ports[1].to_be_bytes(),
                [0, 8],
                [0, 0],
            ]
            .concat()
        };
        let answer = |ports| ip6::with_source(ip6::from_wire(POD6, UDP, &udp(ports)), remote);
        rig.expect(HookKind::Uplink, &answer([5_353, 6_000]), Outcome::Kernel);
        rig.expect(HookKind::Uplink, &answer([5_353, 6_001]), Outcome::Worker);
        let answer = |ports| ip6::from_pod(OUTSIDE6, UDP, &udp(ports));
        rig.expect(HookKind::Pod, &answer([8_080, 5_000]), Outcome::Kernel);
        rig.expect(HookKind::Pod, &answer([8_081, 5_000]), Outcome::Worker);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn tcp_whose_source_the_kernel_translates_stays_with_it_and_udp_comes_back() {
    let rules = "table ip t { chain c { type nat hook postrouting priority srcnat; \
                 ip saddr 10.1.0.10 meta l4proto { tcp, udp } snat to 10.1.0.4:40000-50000; }; };";
    let node = node(&[POD.into()], rules);
    node.run(|| {
        let rig = Rig::new(1);
        let from = |port| SocketAddr::from((POD, port));
        let _open = send_syn(from(6_000), (OUTSIDE, 443).into());
        send_udp((POD, 6_000), (OUTSIDE, 443));
        let tcp = |port| from_pod(OUTSIDE).tcp(port, 443, TcpFlags::ACK, b"x").bytes;
        rig.expect(HookKind::Pod, &tcp(6_000), Outcome::Kernel);
        rig.expect(HookKind::Pod, &tcp(6_001), Outcome::Worker);
        let udp = from_pod(OUTSIDE).udp(6_000, 443, b"").bytes;
        rig.expect(HookKind::Pod, &udp, Outcome::Worker);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn what_conntrack_knows_untranslated_is_the_workers() {
    let node = node(
        &[OUTSIDE.into()],
        "table ip t { chain c { type nat hook output priority -100; }; };",
    );
    node.run(|| {
        let rig = Rig::new(1);
        send_udp((OUTSIDE, 5_000), (POD, 8_080));
        let answer = from_pod(OUTSIDE).udp(8_080, 5_000, b"").bytes;
        rig.expect(HookKind::Pod, &answer, Outcome::Worker);
    });
}

/// Rounds that nobody notes anything in: after two of them the filter knows only what came since.
fn forget(rig: &Rig) {
    let ends = rig.hooks.kernel_ends().unwrap();
    ends.begin_round().unwrap();
    ends.begin_round().unwrap();
}

#[test]
#[ignore = "needs root and network namespaces"]
fn conntrack_is_asked_only_about_ends_that_are_noted() {
    let rules = "table ip t { chain c { type nat hook output priority -100; \
                 ip daddr 172.20.0.10 dnat to 10.1.9.9; }; };";
    let node = node(&[POD.into()], rules);
    node.run(|| {
        let rig = Rig::new(1);
        let socket = xdp_socket();
        rig.hooks.set_socket(1, 0, socket.as_fd()).unwrap();
        send_udp((POD, 6_000), (SERVICE, 53));
        let answer = udp_to_pod((REMOTE, 53), 6_000);
        let ends = rig.hooks.kernel_ends().unwrap();

        forget(&rig);
        rig.expect(HookKind::Uplink, &answer, Outcome::Worker);
        // The hook notes what it gives the kernel, and so does whoever lists conversations.
        let ask = from_pod(SERVICE).udp(6_000, 53, b"").bytes;
        rig.expect(HookKind::Pod, &ask, Outcome::Kernel);
        rig.expect(HookKind::Uplink, &answer, Outcome::Kernel);
        ends.begin_round().unwrap();
        rig.expect(HookKind::Uplink, &answer, Outcome::Kernel);
        ends.begin_round().unwrap();
        rig.expect(HookKind::Uplink, &answer, Outcome::Worker);
        ends.note((POD, 6_000).into(), TCP).unwrap();
        rig.expect(HookKind::Uplink, &answer, Outcome::Worker);
        ends.note((POD, 6_000).into(), UDP).unwrap();
        rig.expect(HookKind::Uplink, &answer, Outcome::Kernel);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn every_way_to_the_kernel_notes_who_went() {
    let rules = "table ip t { chain c { type nat hook output priority -100; \
                 ip daddr 10.1.0.4 udp dport 30080 dnat to 10.1.0.10:8080; \
                 ip daddr 10.1.0.4 tcp dport 30080 dnat to 10.1.0.10:8080; }; };";
    let node = node(&[OUTSIDE.into()], rules);
    node.run(|| {
        let rig = Rig::new(1);
        send_udp((OUTSIDE, 5_000), (NODE, 30_080));
        let _open = send_syn((OUTSIDE, 5_000).into(), (NODE, 30_080).into());
        let wire = super::from_wire(NODE);
        let asks = [
            (HookKind::Uplink, wire.udp(5_000, 30_080, b"").bytes),
            (HookKind::Trunk, wire.udp(5_000, 30_080, b"").bytes),
        ];
        let answer = from_pod(OUTSIDE).udp(8_080, 5_000, b"").bytes;
        for (hook, ask) in asks {
            forget(&rig);
            rig.expect(HookKind::Pod, &answer, Outcome::Worker);
            rig.expect(hook, &ask, Outcome::Kernel);
            rig.expect(HookKind::Pod, &answer, Outcome::Kernel);
        }
        // A connection that begins while the worker is away: here its own first packet notes it.
        forget(&rig);
        rig.beat(0, super::monotonic_ns() - 1_000_000_000);
        let data = from_pod(OUTSIDE)
            .tcp(8_080, 5_000, TcpFlags::ACK, b"x")
            .bytes;
        rig.expect(HookKind::Pod, &data, Outcome::Fallback);
        rig.beat(0, super::monotonic_ns() + 60_000_000_000);
        rig.forget_lapses(1);
        rig.expect(HookKind::Pod, &data, Outcome::Kernel);
    });
}

#[test]
#[ignore = "needs root and network namespaces"]
fn ends_of_both_families_are_found_where_user_space_notes_them() {
    let rules = "table ip6 t { chain c { type nat hook output priority -100; \
                 udp dport 80 dnat to [2001:db8:1::10]:8080; }; };";
    let node = node(&[OUTSIDE6.into()], rules);
    node.run(|| {
        let rig = Rig::new(1);
        send_udp((OUTSIDE6, 5_000), (SERVICE6, 80));
        let ports = [
            8_080_u16.to_be_bytes(),
            5_000_u16.to_be_bytes(),
            [0, 8],
            [0, 0],
        ]
        .concat();
        let answer = ip6::from_pod(OUTSIDE6, UDP, &ports);
        forget(&rig);
        rig.expect(HookKind::Pod, &answer, Outcome::Worker);
        let ends = rig.hooks.kernel_ends().unwrap();
        ends.note((OUTSIDE6, 5_000).into(), UDP).unwrap();
        rig.expect(HookKind::Pod, &answer, Outcome::Kernel);
    });
}
