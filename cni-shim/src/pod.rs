//! The veth pair of one pod: built, inspected, removed.
//!
//! The pair is created inside the pod's namespace with its other end placed directly in the
//! node's, where it stays down: making it live is the agent's last step. Both ends get explicit
//! MAC addresses at creation so that udev's MACAddressPolicy never changes them.

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;

use penstock_control_api::{Attachment, Failure, MacAddr, POD_GATEWAY, code};
use penstock_netlink::{
    Error, Ipv4Net, Link, LinkChange, MAIN_TABLE, Neighbor, Netlink, Route, VethEnd, VethSpec,
};

use crate::failure::{IO, failure};
use crate::netns::Namespace;
use crate::previous::Previous;

/// Both sides of the wall.
pub(crate) struct Sides {
    /// The node's namespace, to place links in.
    pub(crate) own: Namespace,
    /// A socket in the node's namespace.
    pub(crate) host: Netlink,
    /// A socket in the pod's namespace.
    pub(crate) pod: Netlink,
}

/// The two ends as the kernel has them.
pub(crate) struct Pair {
    pub(crate) host: Link,
    pub(crate) pod: Link,
}

impl Sides {
    /// Creates and configures the pair; on failure nothing is left.
    pub(crate) fn build(&mut self, ifname: &str, wanted: &Attachment) -> Result<Pair, Failure> {
        match self.pod.link_by_name(ifname) {
            Ok(_) => return Err(taken(ifname)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(kernel(&error)),
        }
        let [host_mac, pod_mac] = random_macs()?;
        let spec = VethSpec {
            name: ifname,
            mac: Some(pod_mac.0),
            mtu: wanted.mtu,
            queues: 1,
            peer: VethEnd {
                name: &wanted.host_ifname,
                mac: Some(host_mac.0),
                mtu: wanted.mtu,
                queues: 1,
                netns: Some(self.own.fd()),
            },
        };
        self.pod
            .create_veth(&spec)
            .map_err(|error| kernel(&error))?;
        self.configure(ifname, wanted, host_mac).map_err(|error| {
            // By the name in the pod, which was free a moment ago: the one on the node may be another's.
            let made = self.pod.link_by_name(ifname);
            let _ = made.and_then(|link| self.pod.delete_link(link.index));
            kernel(&error)
        })
    }

    fn configure(
        &mut self,
        ifname: &str,
        wanted: &Attachment,
        host_mac: MacAddr,
    ) -> Result<Pair, Error> {
        let index = self.pod.link_by_name(ifname)?.index;
        let loopback = self.pod.link_by_name("lo")?.index;
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        self.pod.set_link(loopback, &up)?;
        self.pod.set_link(index, &up)?;
        self.pod.add_address(index, Ipv4Net::from(wanted.address))?;
        for route in routes(index) {
            self.pod.add_route(&route)?;
        }
        self.pod
            .add_permanent_neighbor(index, POD_GATEWAY, host_mac.0)?;
        Ok(Pair {
            host: self.host.link_by_name(&wanted.host_ifname)?,
            pod: self.pod.link_by_index(index)?,
        })
    }

    /// Deletes a pair this process built; done when it is gone, whoever removed it.
    pub(crate) fn remove(&mut self, pair: &Pair) -> Result<(), Failure> {
        match self.pod.delete_link(pair.pod.index) {
            Err(error) if !error.is_not_found() => Err(kernel(&error)),
            _ => Ok(()),
        }
    }

    /// Deletes the pair by its pod end, if that is one of ours: a veth with the address ADD gave it,
    /// where that is known, whose peer is in the node under a name with our prefix.
    pub(crate) fn remove_pod_end(
        &mut self,
        ifname: &str,
        veth_prefix: &str,
        mac: Option<MacAddr>,
    ) -> Result<(), Error> {
        let pod = self.pod.link_by_name(ifname)?;
        let another = mac.is_some_and(|MacAddr(mac)| pod.mac != Some(mac));
        let Some(peer) = pod.peer_index.filter(|_| pod.kind == "veth" && !another) else {
            return Ok(());
        };
        let host = self.host.link_by_index(peer)?;
        if host.peer_index == Some(pod.index) && host.name.starts_with(veth_prefix) {
            self.pod.delete_link(pod.index)?;
        }
        Ok(())
    }

    /// Whether the pod's interface exists, whatever it is.
    pub(crate) fn exists(&mut self, ifname: &str) -> bool {
        self.pod.link_by_name(ifname).is_ok()
    }

    /// Compares what is there with what should be; the first difference is the error. What later
    /// plugins of the chain changed and listed in their result is as it should be.
    pub(crate) fn inspect(
        &mut self,
        ifname: &str,
        wanted: &Attachment,
        result: Option<Previous<'_>>,
    ) -> Result<Pair, Failure> {
        let pod = present(self.pod.link_by_name(ifname), "interface", ifname)?;
        let host_name = &wanted.host_ifname;
        let host = present(self.host.link_by_name(host_name), "interface", host_name)?;
        let paired = (pod.peer_index, host.peer_index) == (Some(host.index), Some(pod.index));
        require(paired, || {
            format!("{ifname} and {host_name} are not a pair")
        })?;
        for link in [&pod, &host] {
            inspect_link(link, wanted.mtu, result)?;
        }
        self.inspect_addresses(&pod, wanted.address, result)?;
        self.inspect_routes(&pod, result)?;
        let gateway = Neighbor {
            index: pod.index,
            address: POD_GATEWAY,
            mac: host.mac,
            permanent: true,
        };
        let neighbors = self
            .pod
            .neighbors(pod.index)
            .map_err(|error| kernel(&error))?;
        require(neighbors.contains(&gateway), || {
            format!("{POD_GATEWAY} is not fixed to {host_name}'s address")
        })?;
        Ok(Pair { host, pod })
    }

    fn inspect_addresses(
        &mut self,
        pod: &Link,
        wanted: Ipv4Addr,
        result: Option<Previous<'_>>,
    ) -> Result<(), Failure> {
        let wanted = Ipv4Net::from(wanted);
        let found = self
            .pod
            .addresses(pod.index)
            .map_err(|error| kernel(&error))?;
        require(found.iter().any(|address| address.net == wanted), || {
            format!("{} lacks address {wanted}", pod.name)
        })?;
        let listed = |net| result.is_some_and(|result| result.has_address(net));
        let mut others = found.iter().map(|address| address.net);
        match others.find(|net| *net != wanted && !listed(*net)) {
            Some(foreign) => require(false, || {
                format!("{} has a foreign address {foreign}", pod.name)
            }),
            None => Ok(()),
        }
    }

    fn inspect_routes(&mut self, pod: &Link, result: Option<Previous<'_>>) -> Result<(), Failure> {
        if result.is_some_and(|result| !result.has_default_route()) {
            // A later plugin has taken the pod's routing over.
            return Ok(());
        }
        let there = self
            .pod
            .routes(MAIN_TABLE)
            .map_err(|error| kernel(&error))?;
        for route in routes(pod.index) {
            require(there.contains(&route), || {
                format!("the pod has no route to {}", route.destination)
            })?;
        }
        Ok(())
    }
}

fn inspect_link(link: &Link, mtu: u32, result: Option<Previous<'_>>) -> Result<(), Failure> {
    let name = &link.name;
    require(link.up, || format!("{name} is down"))?;
    let mtu = result.and_then(|result| result.mtu(name)).unwrap_or(mtu);
    require(link.mtu == mtu, || {
        format!("{name} has MTU {}, not {mtu}", link.mtu)
    })?;
    match result.and_then(|result| result.mac(name)) {
        Some(mac) => require(link.mac == Some(mac.0), || {
            format!("{name} has another hardware address than {mac}")
        }),
        None => Ok(()),
    }
}

/// The pod's routes: the gateway on the link, everything else by it.
fn routes(index: u32) -> [Route; 2] {
    [
        Route::on_link(Ipv4Net::from(POD_GATEWAY), index),
        Route::default_via(POD_GATEWAY, index),
    ]
}

/// Two random locally administered unicast addresses (IEEE 802, bits 1 and 0 of the first octet).
fn random_macs() -> Result<[MacAddr; 2], Failure> {
    let mut bytes = [0; 12];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| failure(IO, "cannot read /dev/urandom", error.to_string()))?;
    let [a, b, c, d, e, f, rest @ ..] = bytes;
    Ok([[a, b, c, d, e, f], rest].map(|mut mac| {
        mac[0] = mac[0] & 0xfc | 0x02;
        MacAddr(mac)
    }))
}

fn taken(ifname: &str) -> Failure {
    failure(
        code::MISMATCH,
        format!("the pod already has an interface {ifname}"),
        "another plugin made it, or the sandbox is reused; the address was returned",
    )
}

fn present(link: Result<Link, Error>, what: &str, name: &str) -> Result<Link, Failure> {
    link.map_err(|error| {
        if error.is_not_found() {
            mismatch(format!("{what} {name} is missing"))
        } else {
            kernel(&error)
        }
    })
}

fn require(holds: bool, problem: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(mismatch(problem()))
    }
}

pub(crate) fn mismatch(problem: String) -> Failure {
    failure(
        code::MISMATCH,
        problem,
        "the attachment is not as it was made; re-create the pod",
    )
}

fn kernel(error: &Error) -> Failure {
    failure(
        code::KERNEL,
        "the node's kernel refused a change",
        error.to_string(),
    )
}
