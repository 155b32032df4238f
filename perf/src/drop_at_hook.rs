//! Drops everything that enters an interface but ARP, and counts it: the rig's baseline.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use libbpf_rs::{MapCore as _, MapFlags, Object, ObjectBuilder};
use penstock_xsk::link;

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/drop.bpf.o"));

/// An attached drop program; dropping this value detaches it.
pub struct DropAtHook {
    object: Object,
    _link: OwnedFd,
}

impl DropAtHook {
    /// Attaches at TCX to the interface, in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses the program or the attachment.
    pub fn attach(ifindex: u32) -> Result<Self> {
        Self::load("drop", |program| {
            Ok(link::attach_tcx_ingress(program.as_fd(), ifindex)?)
        })
    }

    /// Attaches natively at XDP to the interface, in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel refuses the program or the attachment.
    pub fn attach_xdp(ifindex: u32) -> Result<Self> {
        Self::load("drop_xdp", |program| {
            Ok(link::attach_xdp_native(program.as_fd(), ifindex)?)
        })
    }

    fn load(
        name: &str,
        attach: impl FnOnce(&libbpf_rs::Program<'_>) -> Result<OwnedFd>,
    ) -> Result<Self> {
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)
            .and_then(libbpf_rs::OpenObject::load)
            .context("cannot load the drop program")?;
        let program = object
            .progs()
            .find(|program| program.name() == name)
            .with_context(|| format!("no program `{name}`"))?;
        let link = attach(&program)?;
        Ok(Self {
            object,
            _link: link,
        })
    }

    /// Packets dropped so far.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn packets(&self) -> Result<u64> {
        let map = self
            .object
            .maps()
            .find(|map| map.name() == "dropped")
            .context("no map `dropped`")?;
        let per_cpu = map
            .lookup_percpu(&0_u32.to_ne_bytes(), MapFlags::ANY)?
            .unwrap_or_default();
        Ok(per_cpu
            .iter()
            .filter_map(|value| Some(u64::from_ne_bytes(value.get(..8)?.try_into().ok()?)))
            .sum())
    }
}
