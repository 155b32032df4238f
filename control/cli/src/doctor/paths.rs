//! The ways packets take through the kernel: interfaces, sizes, routes, rules.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use penstock_control_api::{EniRow, PodRow};
use penstock_netlink::{Ipv4Net, MAIN_TABLE, Netlink, Route, Rule};

use super::{Finding, Verdict, merged};
use crate::failure::Failure;
use crate::scene::{Scene, TRUNK, TRUNK_WORKERS, driver};

/// Rules of the VPC CNI (`control/src/node/mod.rs`).
const TO_POD: u32 = 512;
const MARK: u32 = 1024;
const FROM_POD: u32 = 1536;

/// Bytes of IP packet that fit a chunk of 4096 with the headroom ENA's zero-copy needs.
const ZERO_COPY_MTU: u32 = 3502;

/// The kernel's lists.
struct Lists {
    rules: Vec<Rule>,
    /// By table.
    routes: BTreeMap<u32, Vec<Route>>,
}

/// All of it.
///
/// # Errors
/// When the kernel does not list its rules or routes.
pub(super) fn check(scene: &Scene) -> Result<Vec<Finding>, Failure> {
    let lists = lists(scene).map_err(|error| Failure::Node(format!("cannot look: {error}")))?;
    let mut findings = trunk(scene)?;
    for eni in &scene.enis {
        findings.extend(uplink(scene, &lists, eni));
    }
    let live = scene.pods.iter().filter(|pod| pod.confirmed);
    let of_pods = live.flat_map(|pod| pod_path(scene, &lists, pod)).collect();
    findings.extend(merged(of_pods, "pods"));
    if scene.control.is_ok() {
        findings.push(mark_rule(&lists));
    }
    Ok(findings)
}

fn lists(scene: &Scene) -> penstock_netlink::Result<Lists> {
    let mut netlink = Netlink::open()?;
    let rules = netlink.rules()?;
    let mut routes = BTreeMap::from([(MAIN_TABLE, netlink.routes(MAIN_TABLE)?)]);
    for eni in &scene.enis {
        routes.insert(eni.table, netlink.routes(eni.table)?);
    }
    Ok(Lists { rules, routes })
}

/// Both ends of the trunk, while there is a dataplane to have one.
fn trunk(scene: &Scene) -> Result<Vec<Finding>, Failure> {
    if scene.dataplane.is_err() {
        return Ok(Vec::new());
    }
    let restart = "restart penstock-dataplane, which makes it anew";
    let mut findings = Vec::new();
    for name in [TRUNK, TRUNK_WORKERS] {
        findings.push(match scene.link(name) {
            Some(link) if link.up => Finding::pass("trunk", name, "up"),
            Some(_) => {
                let found = "down: no packet of a pod reaches a worker";
                let fix = format!("ip link set {name} up");
                Finding::bad(Verdict::Fail, ("trunk", name), found, fix)
            }
            None => Finding::bad(Verdict::Fail, ("trunk", name), "missing", restart),
        });
    }
    if let Some(link) = scene.link(TRUNK) {
        let addresses = Netlink::open()
            .and_then(|mut netlink| netlink.addresses(link.index))
            .map_err(|error| Failure::Node(format!("cannot list addresses: {error}")))?;
        let name = ("trunk-address", TRUNK);
        findings.push(match addresses.first() {
            Some(address) => Finding::pass(name.0, name.1, address.net.to_string()),
            None => {
                let found = "none: the kernel refuses what workers give back to it";
                Finding::bad(Verdict::Fail, name, found, restart)
            }
        });
    }
    Ok(findings)
}

fn uplink(scene: &Scene, lists: &Lists, eni: &EniRow) -> Vec<Finding> {
    let on = eni.ifname.as_str();
    let Some(link) = scene.link(on) else {
        let found = format!("{} has no interface {on}", eni.eni_id);
        let fix = "restart penstock-control, which finds it under its new name";
        return vec![Finding::bad(Verdict::Fail, ("eni", on), found, fix)];
    };
    let mut findings = Vec::new();
    findings.push(if link.up {
        Finding::pass("eni", on, "up")
    } else {
        let fix = format!("ip link set {on} up");
        Finding::bad(Verdict::Fail, ("eni", on), "down", fix)
    });
    findings.push(if link.mtu == eni.mtu {
        size(on, link.mtu)
    } else {
        let found = format!(
            "{}, the agent set {}: larger packets are lost",
            link.mtu, eni.mtu
        );
        let fix = format!("ip link set {on} mtu {}", eni.mtu);
        Finding::bad(Verdict::Fail, ("mtu", on), found, fix)
    });
    let routes = lists.routes.get(&eni.table);
    let by_it =
        |route: &Route| route.destination.prefix_len() == 0 && route.oif == Some(link.index);
    findings.push(if routes.is_some_and(|routes| routes.iter().any(by_it)) {
        Finding::pass("default-route", on, format!("in table {}", eni.table))
    } else {
        let found = format!("table {} has none by {on}", eni.table);
        let fix = "restart penstock-control, or systemd-networkd for the primary ENI";
        Finding::bad(Verdict::Fail, ("default-route", on), found, fix)
    });
    findings
}

/// Whether packets of this size fit a chunk, so that ENA need not copy.
fn size(on: &str, mtu: u32) -> Finding {
    if mtu > ZERO_COPY_MTU && driver(on) == "ena" {
        let found = format!("{mtu}: over {ZERO_COPY_MTU} ENA cannot do without a copy");
        let fix =
            format!("AWS_VPC_ENI_MTU={ZERO_COPY_MTU} on every node, where packets matter more");
        return Finding::bad(Verdict::Note, ("mtu", on), found, fix);
    }
    Finding::pass("mtu", on, mtu.to_string())
}

fn pod_path(scene: &Scene, lists: &Lists, pod: &PodRow) -> Vec<Finding> {
    let on = format!("{}/{}", pod.namespace, pod.pod);
    let ifname = &pod.host_ifname;
    let Some(link) = scene.link(ifname) else {
        let found = format!("interface {ifname} is missing");
        let fix = format!("kubectl delete pod -n {} {}", pod.namespace, pod.pod);
        return vec![Finding::bad(Verdict::Fail, ("pod", &on), found, fix)];
    };
    let mut findings = Vec::new();
    findings.push(if link.up {
        Finding::pass("pod", &on, "up")
    } else {
        let fix = format!("ip link set {ifname} up");
        let found = format!("interface {ifname} is down");
        Finding::bad(Verdict::Fail, ("pod", &on), found, fix)
    });
    let eni = scene.enis.iter().find(|eni| eni.eni_id == pod.eni_id);
    if let Some(eni) = eni
        && link.mtu > eni.mtu
    {
        let found = format!("{}, its ENI carries {}", link.mtu, eni.mtu);
        let fix = "set POD_MTU to the ENI's, then replace the pod";
        findings.push(Finding::bad(Verdict::Warn, ("pod-mtu", &on), found, fix));
    }
    let routed =
        |route: &Route| route.destination == host(pod.address) && route.oif == Some(link.index);
    let main = lists.routes.get(&MAIN_TABLE);
    findings.push(if main.is_some_and(|routes| routes.iter().any(routed)) {
        Finding::pass("pod-route", &on, "present")
    } else {
        let found = format!("{}/32 dev {ifname} is missing", pod.address);
        let fix = format!("ip route add {}/32 dev {ifname} scope link", pod.address);
        Finding::bad(Verdict::Fail, ("pod-route", &on), found, fix)
    });
    findings.push(pod_rules(
        lists,
        (pod, &on),
        eni.map_or(MAIN_TABLE, |eni| eni.table),
    ));
    findings
}

fn pod_rules(lists: &Lists, (pod, on): (&PodRow, &str), table: u32) -> Finding {
    let name = ("pod-rule", on);
    let to = |rule: &Rule| {
        rule.priority == TO_POD && rule.to == Some(host(pod.address)) && rule.table == MAIN_TABLE
    };
    let from = |rule: &Rule| {
        rule.priority == FROM_POD && rule.from == Some(host(pod.address)) && rule.table == table
    };
    let address = pod.address;
    if !lists.rules.iter().any(to) {
        let found = format!("no rule {TO_POD} to {address}");
        let fix = format!("ip rule add priority {TO_POD} to {address} lookup main");
        return Finding::bad(Verdict::Fail, name, found, fix);
    }
    if table != MAIN_TABLE && !lists.rules.iter().any(from) {
        let found = format!("no rule {FROM_POD} from {address}: it leaves by the wrong ENI");
        let fix = format!("ip rule add priority {FROM_POD} from {address} lookup {table}");
        return Finding::bad(Verdict::Fail, name, found, fix);
    }
    Finding::pass(name.0, name.1, "present")
}

fn mark_rule(lists: &Lists) -> Finding {
    let name = ("mark-rule", "node");
    if lists
        .rules
        .iter()
        .any(|rule| rule.priority == MARK && rule.fwmark.is_some())
    {
        return Finding::pass(name.0, name.1, "present");
    }
    let found = format!("no rule {MARK}: what is translated leaves by the wrong ENI");
    let fix = format!("ip rule add priority {MARK} fwmark 0x80/0x80 lookup main");
    Finding::bad(Verdict::Fail, name, found, fix)
}

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}
