//! Somebody else's XDP program, for tests of what Penstock does when it meets one.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use libbpf_rs::{Object, ObjectBuilder};
use penstock_netlink::Netlink;
use penstock_xsk::link;

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/foreign.bpf.o"));

/// An attached program; dropping this value detaches it.
pub struct Foreign {
    _object: Object,
    _link: OwnedFd,
}

impl Foreign {
    /// Attaches natively to `ifname`, in the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses the program.
    pub fn attach(ifname: &str) -> Result<Self> {
        let object = ObjectBuilder::default()
            .open_memory(OBJECT)
            .and_then(libbpf_rs::OpenObject::load)
            .context("cannot load the foreign program")?;
        let ifindex = Netlink::open()?.link_by_name(ifname)?.index;
        let program = object
            .progs()
            .find(|program| program.name() == "foreign")
            .context("no program `foreign`")?;
        let link = link::attach_xdp_native(program.as_fd(), ifindex)?;
        Ok(Self {
            _object: object,
            _link: link,
        })
    }
}
