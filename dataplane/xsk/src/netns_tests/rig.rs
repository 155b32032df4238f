//! A network namespace with one veth pair, and ports on it.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::bpf::Redirect;
use crate::{Batch, BindMode, Port, PortConfig, RingSize, Umem, UmemConfig, link, wait};

/// How long a test waits for packets before it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `test` on a thread with an empty network namespace that dies with it.
pub(super) fn in_namespace<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (root is needed)");
        test()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(super) fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("ip runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
}

/// A veth pair `a`, `b` with two queues each, up, silent, of the given MTU; returns the indices.
pub(super) fn veth(mtu: u32) -> (u32, u32) {
    let queues = "numtxqueues 2 numrxqueues 2";
    ip(&format!(
        "link add dev a {queues} type veth peer name b {queues}"
    ));
    for name in ["a", "b"] {
        ip(&format!("link set dev {name} addrgenmode none"));
        ip(&format!("link set dev {name} mtu {mtu}"));
        ip(&format!("link set dev {name} up"));
    }
    (index("a"), index("b"))
}

fn index(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("the interface exists")
}

/// Copy mode, rings of 256, multi-buffer.
pub(super) fn small(ifindex: u32, queue: u32) -> PortConfig {
    let ring = RingSize::new(256).expect("a power of two");
    PortConfig {
        rx: ring,
        tx: ring,
        fill: ring,
        completion: ring,
        mode: BindMode::Copy,
        ..PortConfig::new(ifindex, queue)
    }
}

/// A UMEM of 4096-byte chunks.
pub(super) fn umem(frames: u32) -> Umem {
    Umem::new(UmemConfig::new(frames)).expect("memory")
}

/// A bound port.
pub(super) fn port(config: &PortConfig, umem: &Umem) -> Port {
    Port::bind(config, &umem.handle(), None).expect("bind")
}

/// A program on an interface that redirects to ports.
pub(super) struct Hook {
    pub(super) redirect: Redirect,
    _link: OwnedFd,
}

impl Hook {
    pub(super) fn attach(ifindex: u32) -> Self {
        let redirect = Redirect::load().expect("the program loads");
        let link = link::attach_xdp_native(redirect.program.as_fd(), ifindex).expect("attach");
        Self {
            redirect,
            _link: link,
        }
    }

    /// Fills a port's ring and lets traffic in, in this order.
    pub(super) fn open(&self, port: &mut Port, umem: &mut Umem) {
        port.refill(umem);
        self.redirect
            .point(port.config().queue, port.as_fd())
            .expect("XSKMAP update");
    }
}

/// Receives until `count` packets were handed to `each` or patience ends; returns the number.
pub(super) fn collect(
    port: &mut Port,
    umem: &mut Umem,
    count: usize,
    mut each: impl FnMut(&Umem, &crate::Packet),
) -> usize {
    let mut batch = Batch::new();
    let mut got = 0;
    let deadline = Instant::now() + PATIENCE;
    while got < count && Instant::now() < deadline {
        if port.receive(umem, &mut batch) == 0 {
            wait(&[port.as_fd()], Duration::from_millis(20)).expect("poll");
        }
        for packet in batch.drain() {
            each(umem, &packet);
            umem.free_packet(packet);
            got += 1;
        }
        port.refill(umem);
    }
    got
}

/// Flushes and reclaims until nothing is with the kernel for sending.
pub(super) fn drain(port: &mut Port, umem: &mut Umem) {
    let deadline = Instant::now() + PATIENCE;
    while umem.audit().sending > 0 && Instant::now() < deadline {
        port.flush();
        port.reclaim(umem);
    }
    assert_eq!(umem.audit().sending, 0, "completions are missing");
}

/// A broadcast Ethernet frame of `len` bytes of an experimental type, numbered and filled.
pub(super) fn ethernet(len: usize, number: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i as u32 ^ number) as u8).collect();
    bytes[..6].fill(0xff);
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}
