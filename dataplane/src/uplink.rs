//! Driving an ENI: its programs, its sockets, and whose they are.
//!
//! Queue q belongs to worker q mod n. An interface whose program or sockets are refused stays as
//! it was, with the kernel; a program that is not ours is never touched.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::net::if_::if_nametoindex;
use penstock_dataplane_api::{self as api, UplinkMode};
use penstock_flow::UplinkId;
use penstock_hooks::limits::MAX_QUEUES;
use penstock_hooks::{HookError, HookKind, HookLink, Hooks};
use penstock_xsk::{Mode, Port, PortConfig, RingSize, ethtool};

use crate::compile;
use crate::crew::{Command, Hand};
use crate::ports::NewPort;
use crate::stats::PortCells;

/// Entries of each ring of an uplink's socket: a quarter of the trunk's, since a node has many
/// (fifteen ENIs of two queues fit one worker's default UMEM).
const RING: u32 = 512;

/// What makes an interface another one, for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Kernel's name.
    pub ifname: String,
    /// Kernel's index.
    pub ifindex: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
}

/// An uplink that is ours.
#[derive(Debug)]
pub struct Bound {
    /// Which interface.
    pub identity: Identity,
    /// How its sockets are bound.
    pub mode: UplinkMode,
    /// Its sockets' counters, by queue.
    pub ports: Vec<Arc<PortCells>>,
    sockets: Vec<OwnedFd>,
    slot: u32,
    // Dropped in this order: what XDP leaves to the hook behind it must find it.
    link: Option<HookLink>,
    behind: Option<HookLink>,
}

impl Identity {
    /// Of a published uplink.
    #[must_use]
    pub fn of(uplink: &api::Uplink) -> Self {
        Self {
            ifname: uplink.ifname.clone(),
            ifindex: uplink.ifindex,
            mac: uplink.mac.0,
        }
    }

    /// Whether the interface with this name still has this index.
    #[must_use]
    pub fn is_there(&self) -> bool {
        if_nametoindex(self.ifname.as_str()) == Ok(self.ifindex)
    }
}

/// Attaches our program, which passes everything to the kernel as long as there are no sockets in
/// its map, and gives every queue's socket to its worker.
///
/// # Errors
/// Why the interface stays with the kernel, for people; nothing of ours is left on it.
pub fn bind(
    id: UplinkId,
    identity: Identity,
    hooks: &Hooks,
    crew: &mut [Hand],
    umem_frames: u32,
) -> Result<Bound, String> {
    if !identity.is_there() {
        return Err(format!(
            "there is no {} with index {}",
            identity.ifname, identity.ifindex
        ));
    }
    let queues = queues(&identity.ifname)?;
    let slot = compile::hook_slot(id);
    let mut bound = Bound {
        identity,
        mode: UplinkMode::Copy,
        ports: Vec::new(),
        sockets: Vec::new(),
        slot,
        link: None,
        behind: None,
    };
    // A predecessor's hooks stay at work until ours have all they need.
    if !hooks.is_inherited(HookKind::Uplink, bound.identity.ifindex)
        && let Err(error) = bound.attach(hooks)
    {
        forget(hooks, bound.identity.ifindex);
        return Err(error.to_string());
    }
    let mut opened = Vec::new();
    for queue in 0..queues {
        let worker = queue as usize % crew.len();
        match bound.open_queue(queue, worker, &crew[worker], umem_frames) {
            Ok(port) => {
                crew[worker].promised_frames += RING;
                opened.push((worker, port));
            }
            Err(problem) => {
                for (worker, _) in &opened {
                    crew[*worker].promised_frames -= RING;
                }
                forget(hooks, bound.identity.ifindex);
                return Err(problem);
            }
        }
    }
    for (worker, (port, cells)) in opened {
        crew[worker].tell(Command::Add(Box::new(NewPort {
            uplink: Some(id),
            port,
            cells,
        })));
    }
    Ok(bound)
}

impl Bound {
    fn open_queue(
        &mut self,
        queue: u32,
        worker: usize,
        hand: &Hand,
        umem_frames: u32,
    ) -> Result<(Port, Arc<PortCells>), String> {
        // A quarter is kept for what workers hold and make themselves.
        if hand.promised_frames + RING > umem_frames / 4 * 3 {
            return Err(format!(
                "worker {worker} has no frames left for another queue; raise --umem-frames"
            ));
        }
        let ring = RingSize::new(RING).map_err(|error| error.to_string())?;
        let config = PortConfig {
            rx: ring,
            tx: ring,
            fill: ring,
            completion: ring,
            ..PortConfig::new(self.identity.ifindex, queue)
        };
        let port = Port::bind(&config, &hand.umem, None).map_err(|error| error.to_string())?;
        self.mode = match port.mode() {
            Mode::Copy => UplinkMode::Copy,
            Mode::ZeroCopy => UplinkMode::ZeroCopy,
        };
        let socket = port.as_fd().try_clone_to_owned();
        self.sockets
            .push(socket.map_err(|error| error.to_string())?);
        let worker = u32::try_from(worker).unwrap_or(u32::MAX);
        let cells = Arc::new(PortCells::new(worker, &self.identity.ifname, queue));
        self.ports.push(Arc::clone(&cells));
        Ok((port, cells))
    }

    /// Lets packets through to the sockets, also those of a predecessor's hooks.
    ///
    /// # Errors
    /// When the hooks' map refuses one, or an inherited interface our programs.
    pub fn open(&mut self, hooks: &Hooks) -> Result<(), HookError> {
        for (queue, socket) in (0..).zip(&self.sockets) {
            hooks.set_socket(self.slot, queue, socket.as_fd())?;
        }
        match self.link {
            Some(_) => Ok(()),
            None => self.attach(hooks),
        }
    }

    /// Attaches both hooks; XDP first, which leaves the other nothing it would not know.
    fn attach(&mut self, hooks: &Hooks) -> Result<(), HookError> {
        let Identity { ifindex, mac, .. } = self.identity;
        self.link = Some(hooks.attach_uplink(ifindex, self.slot, mac)?);
        self.behind = Some(hooks.attach_uplink_tcx(ifindex)?);
        Ok(())
    }

    /// Leaves the interface to the kernel. Sockets are the workers' to close.
    pub fn close(self, hooks: &Hooks, crew: &mut [Hand]) {
        for (queue, _) in (0..).zip(&self.sockets) {
            let worker = queue as usize % crew.len();
            crew[worker].promised_frames -= RING;
            if let Err(error) = hooks.clear_socket(self.slot, queue) {
                tracing::warn!(ifname = self.identity.ifname, %error, "socket not cleared");
            }
        }
        drop(self.link);
        drop(self.behind);
        forget(hooks, self.identity.ifindex);
    }
}

fn forget(hooks: &Hooks, ifindex: u32) {
    if let Err(error) = hooks.remove_uplink(ifindex) {
        tracing::warn!(ifindex, %error, "uplink not removed from the hooks");
    }
}

fn queues(ifname: &str) -> Result<u32, String> {
    let channels = ethtool::channels(ifname).map_err(|error| error.to_string())?;
    match channels.rx_queues() {
        0 => Err(format!("{ifname} has no receive queue")),
        queues if queues > MAX_QUEUES => Err(format!(
            "{ifname} has {queues} queues; reduce them to {MAX_QUEUES} with `ethtool -L`"
        )),
        queues => Ok(queues),
    }
}
