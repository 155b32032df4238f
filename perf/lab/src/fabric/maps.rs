//! The fabric program's maps as bytes: what `bpf/fabric.bpf.c` declares, mirrored field by field.
//!
//! Integers are in the machine's byte order except addresses, which are in the network's.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder};
use penstock_dataplane_api::MacAddr;

use crate::error::{Error, Result};

use super::counters::{PortCounters, VERDICTS};

/// Most address ranges of the VPC; MAX_VPC_CIDRS.
pub(super) const MAX_VPC_CIDRS: usize = 4;

/// Most ports of a fabric; MAX_PORTS.
pub(super) const MAX_PORTS: u32 = 512;

/// A port, as `struct port`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub(super) slot: u32,
    pub(super) outside: bool,
    pub(super) gateway: Ipv4Addr,
    pub(super) mac: MacAddr,
    pub(super) source_check: bool,
    pub(super) sink_protocol: u8,
}

impl Port {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(self.slot.to_ne_bytes());
        bytes.extend(u32::from(self.outside).to_ne_bytes());
        bytes.extend(self.gateway.octets());
        bytes.extend(self.mac.0);
        bytes.push(self.source_check.into());
        bytes.push(self.sink_protocol);
        bytes
    }
}

/// Where an address is delivered, as `struct owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) ifindex: u32,
    pub(super) slot: u32,
    pub(super) mtu: u32,
    pub(super) mac: MacAddr,
    pub(super) node_primary: bool,
}

impl Owner {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(self.ifindex.to_ne_bytes());
        bytes.extend(self.slot.to_ne_bytes());
        bytes.extend(self.mtu.to_ne_bytes());
        bytes.extend(self.mac.0);
        bytes.push(self.node_primary.into());
        bytes.push(0);
        bytes
    }
}

/// The VPC as a whole, as `struct vpc`.
#[derive(Debug, Clone)]
pub(super) struct Vpc {
    pub(super) outside: Owner,
    pub(super) outside_accepts_any: bool,
    pub(super) cidrs: Vec<Ipv4Net>,
    pub(super) router_mac: MacAddr,
}

impl Vpc {
    fn bytes(&self) -> Vec<u8> {
        let cidrs = self.cidrs.iter().take(MAX_VPC_CIDRS);
        let mut bytes = self.outside.bytes();
        bytes.extend(u32::from(self.outside_accepts_any).to_ne_bytes());
        bytes.extend((cidrs.len() as u32).to_ne_bytes());
        let mut table: Vec<u8> = cidrs
            .flat_map(|cidr| [cidr.network().octets(), cidr.netmask().octets()])
            .flatten()
            .collect();
        table.resize(MAX_VPC_CIDRS * 8, 0);
        bytes.extend(table);
        bytes.extend(self.router_mac.0);
        bytes.extend([0, 0]);
        bytes
    }
}

/// The loaded program and its maps.
pub(super) struct Program {
    object: Object,
    ports: MapHandle,
    owners: MapHandle,
    vpc: MapHandle,
    counters: MapHandle,
}

impl Program {
    pub(super) fn load() -> Result<Self> {
        const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fabric.bpf.o"));
        let object = ObjectBuilder::default()
            .open_memory(BYTES)
            .and_then(libbpf_rs::OpenObject::load)
            .map_err(bpf("load the fabric program"))?;
        let map = |name: &str| {
            let found = object.maps().find(|map| map.name() == name);
            let map = found.ok_or_else(|| missing(name))?;
            MapHandle::try_from(&map).map_err(bpf("open a fabric map"))
        };
        Ok(Self {
            ports: map("ports")?,
            owners: map("owners")?,
            vpc: map("vpc")?,
            counters: map("counters")?,
            object,
        })
    }

    /// Attaches to a link of the calling thread's namespace.
    pub(super) fn attach(&self, ifindex: u32) -> Result<std::os::fd::OwnedFd> {
        use std::os::fd::AsFd;
        let program = self
            .object
            .progs()
            .find(|program| program.name() == "fabric");
        let program = program.ok_or_else(|| missing("fabric"))?;
        penstock_xsk::link::attach_tcx_ingress(program.as_fd(), ifindex).map_err(|error| {
            Error::Bpf {
                what: format!("attach the fabric program to link {ifindex}"),
                cause: error.to_string(),
            }
        })
    }

    pub(super) fn set_port(&self, ifindex: u32, port: Port) -> Result<()> {
        self.ports
            .update(&ifindex.to_ne_bytes(), &port.bytes(), MapFlags::ANY)
            .map_err(bpf("set a fabric port"))
    }

    /// Removing what is not there is success.
    pub(super) fn remove_port(&self, ifindex: u32) {
        let _ = self.ports.delete(&ifindex.to_ne_bytes());
    }

    pub(super) fn set_owner(&self, address: Ipv4Addr, owner: Owner) -> Result<()> {
        self.owners
            .update(&address.octets(), &owner.bytes(), MapFlags::ANY)
            .map_err(bpf("set an address owner"))
    }

    /// Removing what is not there is success.
    pub(super) fn remove_owner(&self, address: Ipv4Addr) {
        let _ = self.owners.delete(&address.octets());
    }

    pub(super) fn set_vpc(&self, vpc: &Vpc) -> Result<()> {
        self.vpc
            .update(&0u32.to_ne_bytes(), &vpc.bytes(), MapFlags::ANY)
            .map_err(bpf("configure the fabric"))
    }

    /// Counters of one slot, summed over CPUs.
    pub(super) fn counters(&self, slot: u32) -> Result<PortCounters> {
        let per_cpu = self
            .counters
            .lookup_percpu(&slot.to_ne_bytes(), MapFlags::ANY)
            .map_err(bpf("read fabric counters"))?
            .unwrap_or_default();
        let mut sum = [0u64; 5 + VERDICTS];
        for cpu in &per_cpu {
            for (total, bytes) in sum.iter_mut().zip(cpu.chunks_exact(8)) {
                *total += bytes.try_into().map_or(0, u64::from_ne_bytes);
            }
        }
        Ok(PortCounters::from_words(&sum))
    }

    /// Forgets what a slot counted, before another port takes it.
    pub(super) fn clear_counters(&self, slot: u32) -> Result<()> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(bpf("count CPUs"))?;
        let zeros = vec![vec![0; (5 + VERDICTS) * 8]; cpus];
        self.counters
            .update_percpu(&slot.to_ne_bytes(), &zeros, MapFlags::ANY)
            .map_err(bpf("clear fabric counters"))
    }
}

fn missing(name: &str) -> Error {
    Error::Bpf {
        what: format!("find `{name}` in the fabric program"),
        cause: "not in the object file".to_owned(),
    }
}

fn bpf(what: &'static str) -> impl Fn(libbpf_rs::Error) -> Error {
    move |error| Error::Bpf {
        what: what.to_owned(),
        cause: format!("{error:#}"),
    }
}
