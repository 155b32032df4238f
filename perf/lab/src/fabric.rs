//! The VPC's network: one namespace whose ports are the far ends of every ENI and of the outside.
//!
//! A BPF program on every port forwards by address ownership (`bpf/fabric.bpf.c`). Guarantees: a
//! frame reaches only the ENI that owns its destination, and leaves only from the ENI that owns
//! its source; what enters a node is finished (whole checksums, no packet above the MTU), as on a
//! wire. Must not: touch interfaces of other namespaces, or TTL.

mod counters;
mod maps;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use penstock_dataplane_api::MacAddr;

pub use counters::{FabricCounters, PortCounters, Verdict};
use maps::{Owner, Port, Program, Vpc};

use crate::error::{Context, Error, Result};
use crate::netns::NetNs;

/// The Ethernet address every gateway answers with.
pub const ROUTER_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x01]);

/// Name of the outside's port in [`FabricCounters::ports`].
pub const OUTSIDE_PORT: &str = "outside";

/// Name in [`FabricCounters::ports`] of what came in by a cable that was being plugged or pulled.
pub const UNPLUGGED: &str = "unplugged";

/// How long the kernel is given to notice a carrier.
const CARRIER_DEADLINE: Duration = Duration::from_secs(5);

/// Pause between two looks.
const CARRIER_POLL: Duration = Duration::from_millis(1);

/// Which packets a sink port counts and drops instead of delivering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// None: the port delivers.
    Off,
    /// Those of one IP protocol; not 0 and not 255.
    Protocol(u8),
    /// All IPv4.
    Everything,
}

/// One cable: where it ends in the fabric and where outside of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cable<'a> {
    /// Name in [`FabricCounters::ports`].
    pub(crate) name: &'a str,
    /// Name of the fabric's end.
    pub(crate) near: &'a str,
    /// Namespace of the other end.
    pub(crate) netns: &'a NetNs,
    /// Name of the other end.
    pub(crate) far: &'a str,
    /// Ethernet address of the other end.
    pub(crate) mac: MacAddr,
    /// Network whose first address is the gateway.
    pub(crate) subnet: Ipv4Net,
}

/// One ENI's part in forwarding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ownership {
    pub(crate) addresses: BTreeSet<Ipv4Addr>,
    /// The address that may leave the VPC, when this is a node's primary ENI.
    pub(crate) node_primary: Option<Ipv4Addr>,
    pub(crate) source_check: bool,
}

/// The fabric of one lab.
pub struct Fabric {
    netns: NetNs,
    program: Program,
    mtu: u32,
    queues: u32,
    state: Mutex<State>,
}

struct State {
    vpc: Vpc,
    ports: BTreeMap<String, Attached>,
    owned: BTreeMap<String, Ownership>,
}

struct Attached {
    near: String,
    ifindex: u32,
    port: Port,
    /// Holds the program on the port.
    _link: OwnedFd,
}

impl Fabric {
    /// An empty fabric in a new namespace.
    pub(crate) fn create(netns: NetNs, cidrs: Vec<Ipv4Net>, shape: (u32, u32)) -> Result<Self> {
        let (mtu, queues) = shape;
        if cidrs.len() > maps::MAX_VPC_CIDRS {
            return Err(Error::Invalid(format!(
                "a lab's VPC has at most {} address ranges",
                maps::MAX_VPC_CIDRS
            )));
        }
        quiet(&netns)?;
        let vpc = Vpc {
            outside: Owner {
                ifindex: 0,
                slot: 0,
                mtu,
                mac: MacAddr([0; 6]),
                node_primary: false,
            },
            outside_accepts_any: false,
            cidrs,
            router_mac: ROUTER_MAC,
        };
        let program = Program::load()?;
        program.set_vpc(&vpc)?;
        Ok(Self {
            netns,
            program,
            mtu,
            queues,
            state: Mutex::new(State {
                vpc,
                ports: BTreeMap::new(),
                owned: BTreeMap::new(),
            }),
        })
    }

    /// The fabric's namespace, for captures and a look around.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// All counters, now.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn counters(&self) -> Result<FabricCounters> {
        let mut ports = BTreeMap::new();
        ports.insert(UNPLUGGED.to_owned(), self.program.counters(0)?);
        for (name, attached) in &self.lock().ports {
            ports.insert(name.clone(), self.program.counters(attached.port.slot)?);
        }
        Ok(FabricCounters { ports })
    }

    /// Name of the fabric's end of a port, for captures; `None` when there is no such port.
    #[must_use]
    pub fn interface_of(&self, port: &str) -> Option<String> {
        Some(self.lock().ports.get(port)?.near.clone())
    }

    /// Makes a port count what enters there and drop it instead of delivering, so that a
    /// measurement does not pay for the receiver. All checks still apply.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown port.
    pub fn set_sink(&self, port: &str, sink: Sink) -> Result<()> {
        let protocol = match sink {
            Sink::Off => 0,
            Sink::Protocol(protocol) => protocol,
            Sink::Everything => u8::MAX,
        };
        self.change_port(port, |port| port.sink_protocol = protocol)
    }

    /// Whether the outside takes packets from any source, as behind a NAT or transit gateway, or
    /// only those from a node's primary address.
    ///
    /// # Errors
    /// When the kernel refuses the change.
    pub fn set_outside_accepts_any(&self, accepts: bool) -> Result<()> {
        let mut state = self.lock();
        state.vpc.outside_accepts_any = accepts;
        self.program.set_vpc(&state.vpc)
    }

    /// Plugs a cable: the pair, its offloads, the program. The far end is left down for whoever
    /// configures it; nothing is delivered there before it owns an address.
    pub(crate) fn plug(&self, cable: Cable<'_>) -> Result<()> {
        let mut state = self.lock();
        let slot = free_slot(&state.ports)?;
        self.program.clear_counters(slot)?;
        self.create_pair(&cable)?;
        let near = cable.near;
        let plugged = self.configure_pair(&cable).and_then(|()| {
            self.netns.run(|| {
                let ifindex = if_nametoindex(near).context(|| format!("find {near}"))?;
                let link = self.program.attach(ifindex)?;
                Ok((ifindex, link))
            })?
        });
        let (ifindex, link) = match plugged {
            Ok(plugged) => plugged,
            Err(error) => {
                let _ = self.netns.ip(&["link", "del", near]);
                return Err(error);
            }
        };
        let port = Port {
            slot,
            outside: cable.name == OUTSIDE_PORT,
            gateway: gateway_of(cable.subnet),
            mac: cable.mac,
            source_check: true,
            sink_protocol: 0,
        };
        self.program.set_port(ifindex, port)?;
        if port.outside {
            state.vpc.outside.ifindex = ifindex;
            state.vpc.outside.slot = slot;
            state.vpc.outside.mac = cable.mac;
            self.program.set_vpc(&state.vpc)?;
        }
        let attached = Attached {
            near: near.to_owned(),
            ifindex,
            port,
            _link: link,
        };
        state.ports.insert(cable.name.to_owned(), attached);
        Ok(())
    }

    /// Waits until the fabric can send to a port whose far end has just been brought up: the kernel
    /// gives the near end its queue when it notices the carrier, and drops what is sent before.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown port, or when the far end stays down.
    pub fn wait_carrier(&self, port: &str) -> Result<()> {
        let near = self
            .interface_of(port)
            .ok_or_else(|| Error::Invalid(format!("the fabric has no port {port}")))?;
        let deadline = Instant::now() + CARRIER_DEADLINE;
        loop {
            let link = self.netns.ip(&["-o", "link", "show", &near])?;
            if link.contains("state UP") && !link.contains("qdisc noop ") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Invalid(format!(
                    "port {port} has no carrier: {link}"
                )));
            }
            thread::sleep(CARRIER_POLL);
        }
    }

    /// Pulls a cable; pulling one that is not there is success.
    pub(crate) fn unplug(&self, name: &str) -> Result<()> {
        let mut state = self.lock();
        if let Some(owned) = state.owned.remove(name) {
            for address in owned.addresses {
                self.program.remove_owner(address);
            }
        }
        let Some(attached) = state.ports.remove(name) else {
            return Ok(());
        };
        self.program.remove_port(attached.ifindex);
        self.netns.ip(&["link", "del", &attached.near]).map(drop)
    }

    /// Makes `name` own exactly what `now` says. Without a port the addresses reach nobody.
    pub(crate) fn set_ownership(&self, name: &str, now: Ownership) -> Result<()> {
        let mut state = self.lock();
        let before = state.owned.remove(name).unwrap_or_default();
        for &address in before.addresses.difference(&now.addresses) {
            self.program.remove_owner(address);
        }
        let Some(attached) = state.ports.get_mut(name) else {
            for &address in &before.addresses {
                self.program.remove_owner(address);
            }
            return Ok(());
        };
        if attached.port.source_check != now.source_check {
            attached.port.source_check = now.source_check;
            self.program.set_port(attached.ifindex, attached.port)?;
        }
        for &address in &now.addresses {
            let owner = Owner {
                ifindex: attached.ifindex,
                slot: attached.port.slot,
                mtu: self.mtu,
                mac: attached.port.mac,
                node_primary: now.node_primary == Some(address),
            };
            self.program.set_owner(address, owner)?;
        }
        state.owned.insert(name.to_owned(), now);
        Ok(())
    }

    fn change_port(&self, name: &str, change: impl FnOnce(&mut Port)) -> Result<()> {
        let mut state = self.lock();
        let attached = state
            .ports
            .get_mut(name)
            .ok_or_else(|| Error::Invalid(format!("the fabric has no port {name}")))?;
        change(&mut attached.port);
        self.program.set_port(attached.ifindex, attached.port)
    }

    fn create_pair(&self, cable: &Cable<'_>) -> Result<()> {
        let (mtu, queues) = (self.mtu.to_string(), self.queues.to_string());
        let mac = cable.mac.to_string();
        let netns = cable.netns.name();
        #[rustfmt::skip]
        let arguments = [
            "link", "add", cable.near, "mtu", &mtu, "numtxqueues", &queues, "numrxqueues", &queues,
            "type", "veth",
            "peer", "name", cable.far, "address", &mac, "mtu", &mtu,
            "numtxqueues", &queues, "numrxqueues", &queues, "netns", netns,
        ];
        self.netns.ip(&arguments).map(drop)
    }

    /// A wire carries finished packets, so the fabric's end offers no offload to what it sends;
    /// GRO on the far end runs its NAPI, which XDP redirects towards it need.
    fn configure_pair(&self, cable: &Cable<'_>) -> Result<()> {
        #[rustfmt::skip]
        let finished = ["-K", cable.near, "tx", "off", "tso", "off", "gso", "off"];
        self.netns.tool("ethtool", &finished)?;
        cable
            .netns
            .tool("ethtool", &["-K", cable.far, "gro", "on"])?;
        self.netns.ip(&["link", "set", cable.near, "up"]).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subnet's router: its base address plus one.
#[must_use]
pub fn gateway_of(subnet: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// No IPv6 in namespaces where nobody lives: its chatter would only show up in counters.
pub(crate) fn quiet(netns: &NetNs) -> Result<()> {
    for scope in ["all", "default"] {
        netns.sysctl(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
    }
    Ok(())
}

fn free_slot(ports: &BTreeMap<String, Attached>) -> Result<u32> {
    let taken: BTreeSet<u32> = ports.values().map(|attached| attached.port.slot).collect();
    // Slot 0 collects what comes in where no port is configured.
    (1..maps::MAX_PORTS)
        .find(|slot| !taken.contains(slot))
        .ok_or_else(|| Error::Invalid(format!("the fabric has {} ports already", taken.len())))
}
