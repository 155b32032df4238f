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
        self.remove_stale(&wanted.host_ifname)?;
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
            let _ = self.remove_host_end(&wanted.host_ifname);
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

    /// The agent derives the host name from the pod's, so a re-created pod finds its
    /// predecessor's link under it. Whatever is not a veth is not ours.
    fn remove_stale(&mut self, host_ifname: &str) -> Result<(), Failure> {
        match self.host.link_by_name(host_ifname) {
            Ok(link) if link.kind == "veth" => self.remove_host_end(host_ifname),
            Ok(link) => Err(failure(
                code::KERNEL,
                format!("the node has an interface {host_ifname} that is not a pod's"),
                format!("its kind is {:?}; rename or delete it", link.kind),
            )),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(kernel(&error)),
        }
    }

    /// Deletes the pair by its host end; done when it is gone, whoever removed it.
    pub(crate) fn remove_host_end(&mut self, host_ifname: &str) -> Result<(), Failure> {
        let removed = self
            .host
            .link_by_name(host_ifname)
            .and_then(|link| self.host.delete_link(link.index));
        match removed {
            Err(error) if !error.is_not_found() => Err(kernel(&error)),
            _ => Ok(()),
        }
    }

    /// Deletes the pair by its pod end, if that is one of ours: a veth whose peer is in the node
    /// under a name with our prefix.
    pub(crate) fn remove_pod_end(&mut self, ifname: &str, veth_prefix: &str) -> Result<(), Error> {
        let pod = self.pod.link_by_name(ifname)?;
        let Some(peer) = pod.peer_index.filter(|_| pod.kind == "veth") else {
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

    /// Compares what is there with what should be; the first difference is the error.
    pub(crate) fn inspect(&mut self, ifname: &str, wanted: &Attachment) -> Result<Pair, Failure> {
        let pod = present(self.pod.link_by_name(ifname), "interface", ifname)?;
        let host_name = &wanted.host_ifname;
        let host = present(self.host.link_by_name(host_name), "interface", host_name)?;
        let paired = (pod.peer_index, host.peer_index) == (Some(host.index), Some(pod.index));
        require(paired, || {
            format!("{ifname} and {host_name} are not a pair")
        })?;
        for link in [&pod, &host] {
            let (name, mtu) = (&link.name, link.mtu);
            require(link.up, || format!("{name} is down"))?;
            require(mtu == wanted.mtu, || {
                format!("{name} has MTU {mtu}, not {}", wanted.mtu)
            })?;
        }
        self.inspect_addresses(&pod, wanted.address)?;
        let there = self
            .pod
            .routes(MAIN_TABLE)
            .map_err(|error| kernel(&error))?;
        for route in routes(pod.index) {
            require(there.contains(&route), || {
                format!("the pod has no route to {}", route.destination)
            })?;
        }
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

    fn inspect_addresses(&mut self, pod: &Link, wanted: Ipv4Addr) -> Result<(), Failure> {
        let wanted = Ipv4Net::from(wanted);
        let found = self
            .pod
            .addresses(pod.index)
            .map_err(|error| kernel(&error))?;
        require(found.iter().any(|address| address.net == wanted), || {
            format!("{} lacks address {wanted}", pod.name)
        })?;
        match found.iter().find(|address| address.net != wanted) {
            Some(foreign) => require(false, || {
                format!("{} has a foreign address {}", pod.name, foreign.net)
            }),
            None => Ok(()),
        }
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
