//! Rules such as kube-proxy and portmap write, for nft and for iptables.
//!
//! The parts that matter to a dataplane beside them are theirs: hooks and priorities, marks 0x4000
//! and 0x2000, masquerading to random ports, and the drop of what conntrack finds invalid.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use penstock_lab::Node;

/// Who writes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Nft,
    Iptables,
}

/// externalTrafficPolicy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Any backend; the client's address is replaced by the node's.
    Cluster,
    /// A backend of this node only; the client's address stays.
    Local,
}

/// What a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Front {
    /// Address and port of a Service.
    ClusterIp(SocketAddrV4),
    /// A port of every address of the node.
    NodePort(u16, Policy),
    /// The same for one pod.
    HostPort(u16),
}

/// One way to one backend, for TCP and for UDP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) front: Front,
    pub(crate) backend: SocketAddrV4,
}

/// Puts the rules in force on a node.
pub(crate) fn install(node: &Node, tool: Tool, ways: &[Way]) {
    let (program, arguments, text) = match tool {
        Tool::Nft => ("nft", &["-f"][..], nft(ways)),
        Tool::Iptables => ("iptables-restore", &["--noflush"][..], iptables(ways)),
    };
    let file = node.directory().join("services.rules");
    std::fs::write(&file, text).expect("write the rules");
    let mut arguments = arguments.to_vec();
    let path = file.to_str().expect("a path in UTF-8");
    arguments.push(path);
    node.netns()
        .tool(program, &arguments)
        .expect("the rules are accepted");
}

fn nft(ways: &[Way]) -> String {
    let mut chains = String::new();
    let mut dispatch = String::new();
    for (number, way) in ways.iter().enumerate() {
        for protocol in ["tcp", "udp"] {
            let backend = way.backend;
            let chain = format!("way{number}-{protocol}");
            let (to, masquerade) = match way.front {
                Front::ClusterIp(at) => (
                    format!("ip daddr {} {protocol} dport {}", at.ip(), at.port()),
                    false,
                ),
                Front::NodePort(port, policy) => (
                    format!("fib daddr type local {protocol} dport {port}"),
                    policy == Policy::Cluster,
                ),
                Front::HostPort(port) => (
                    format!("fib daddr type local {protocol} dport {port}"),
                    false,
                ),
            };
            let _ = writeln!(dispatch, "    {to} jump {chain}");
            let _ = writeln!(chains, "  chain {chain} {{");
            if masquerade {
                chains.push_str("    meta mark set meta mark or 0x4000\n");
            }
            // A pod that reaches itself must see somebody else.
            let _ = writeln!(
                chains,
                "    ip saddr {} meta mark set meta mark or 0x4000",
                backend.ip()
            );
            let _ = writeln!(
                chains,
                "    meta l4proto {protocol} dnat to {backend}\n  }}"
            );
        }
    }
    format!(
        "table ip kube-proxy {{\n{chains}  chain services {{\n{dispatch}  }}\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    jump services\n  }}\n  \
         chain output {{\n    type nat hook output priority -100;\n    jump services\n  }}\n  \
         chain postrouting {{\n    type nat hook postrouting priority srcnat;\n    \
         meta mark and 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade fully-random\n  }}\n  \
         chain forward {{\n    type filter hook forward priority filter;\n    ct state invalid drop\n  }}\n}}\n"
    )
}

fn iptables(ways: &[Way]) -> String {
    let mut chains = String::new();
    let mut rules = String::new();
    for (number, way) in ways.iter().enumerate() {
        for protocol in ["tcp", "udp"] {
            let Way { front, backend } = *way;
            let chain = format!("KUBE-SEP-{number}{protocol}");
            let _ = writeln!(chains, ":{chain} - [0:0]");
            let (parent, to, mark) = match front {
                Front::ClusterIp(at) => (
                    "KUBE-SERVICES",
                    format!("-d {}/32 -p {protocol} --dport {}", at.ip(), at.port()),
                    None,
                ),
                Front::NodePort(port, Policy::Cluster) => (
                    "KUBE-NODEPORTS",
                    format!("-p {protocol} --dport {port}"),
                    Some("KUBE-MARK-MASQ"),
                ),
                Front::NodePort(port, Policy::Local) => (
                    "KUBE-NODEPORTS",
                    format!("-p {protocol} --dport {port}"),
                    None,
                ),
                Front::HostPort(port) => (
                    "CNI-HOSTPORT-DNAT",
                    format!("-p {protocol} --dport {port}"),
                    None,
                ),
            };
            let _ = writeln!(rules, "-A {parent} {to} -j {chain}");
            if let Some(mark) = mark {
                let _ = writeln!(rules, "-A {chain} -j {mark}");
            }
            let hairpin = match front {
                Front::HostPort(_) => "CNI-HOSTPORT-SETMARK",
                _ => "KUBE-MARK-MASQ",
            };
            let _ = writeln!(rules, "-A {chain} -s {}/32 -j {hairpin}", backend.ip());
            let _ = writeln!(
                rules,
                "-A {chain} -p {protocol} -j DNAT --to-destination {backend}"
            );
        }
    }
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
         :CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n-A POSTROUTING -j CNI-HOSTPORT-MASQ\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         {rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n\
         *filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n"
    )
}

/// The address of a Service.
pub(crate) const fn service(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 20, 0, number)
}
