//! Loads the programs, fills their maps, attaches them.
//!
//! One control thread owns [`Hooks`]. Everything is by file descriptor: programs and maps live as
//! long as this value, links as long as their [`HookLink`]; with [`Pins`], links and flows stay when
//! the process dies, and the next one takes them over, interface by interface. Updates are ordered so that packets in
//! between find either the old or the new entry, never none.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder};
use penstock_xsk::link;

use crate::counters::{HookCounters, HookKind};
use crate::error::HookError;
use crate::flows::FlowMap;
use crate::kernel_ends::KernelEnds;
use crate::layout::{self, HookConfig, PodEntry};
use crate::limits::{MAX_KERNEL_CIDRS, MAX_QUEUES, MAX_SLOTS};
use crate::pins::Pins;

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hooks.bpf.o"));

/// An attached program; dropping it detaches it, and removes its pin.
#[derive(Debug)]
#[must_use = "dropping the link detaches the hook"]
pub struct HookLink {
    kind: HookKind,
    ifindex: u32,
    pin: Option<PathBuf>,
    _link: OwnedFd,
}

impl Drop for HookLink {
    fn drop(&mut self) {
        if let Some(pin) = &self.pin {
            // Gone already is as good as removed.
            let _ = fs::remove_file(pin);
        }
    }
}

impl HookLink {
    /// Which program.
    #[must_use]
    pub const fn kind(&self) -> HookKind {
        self.kind
    }

    /// Interface it is attached to.
    #[must_use]
    pub const fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

/// A worker's absences as the hooks saw them; they look only when a packet needs the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lapse {
    /// CLOCK_MONOTONIC nanoseconds at which a hook last found the heartbeat stale; 0 for never.
    pub last_ns: u64,
    /// How often an absence began. CPUs that notice at the same moment may count one twice.
    pub count: u64,
}

/// The loaded programs and their maps.
#[derive(Debug)]
pub struct Hooks {
    programs: Programs,
    maps: Maps,
    pins: Option<Pins>,
    pods: HashMap<u32, PodEntry>,
    kernel_cidrs: BTreeSet<IpNet>,
}

#[derive(Debug)]
struct Programs {
    pod: OwnedFd,
    trunk: OwnedFd,
    trunk_rx: OwnedFd,
    uplink: OwnedFd,
    uplink_tcx: OwnedFd,
}

#[derive(Debug)]
struct Maps {
    endpoints: MapHandle,
    pods: MapHandle,
    pods6: MapHandle,
    kernel_cidrs: MapHandle,
    kernel_cidrs6: MapHandle,
    uplinks: MapHandle,
    xsks: MapHandle,
    heartbeat: MapHandle,
    lapses: MapHandle,
    config: MapHandle,
    counters: MapHandle,
    flows4: MapHandle,
    flows6: MapHandle,
    pod_devices: MapHandle,
    kernel_ends: MapHandle,
    kernel_round: MapHandle,
}

impl Hooks {
    /// Loads the programs. Until [`Self::configure`] they leave everything they do not drop to
    /// the kernel. `flows` is the number of offloaded flows, of each family, there is room for.
    ///
    /// # Errors
    /// [`HookError::Load`] when the kernel refuses them.
    pub fn load(flows: u32) -> Result<Self, HookError> {
        Self::from_object(&open(flows)?)
    }

    /// The offloaded flows, for whoever owns them.
    ///
    /// # Errors
    /// [`HookError::Load`] when the maps' descriptors cannot be duplicated.
    pub fn flow_map(&self) -> Result<FlowMap, HookError> {
        let own = |map| MapHandle::try_from(map).map_err(|source| HookError::Load { source });
        Ok(FlowMap::new(
            own(&self.maps.flows4)?,
            own(&self.maps.flows6)?,
        ))
    }

    /// The filter for conversations the kernel translates, for whoever begins its rounds.
    ///
    /// # Errors
    /// [`HookError::Load`] when the maps' descriptors cannot be duplicated.
    pub fn kernel_ends(&self) -> Result<KernelEnds, HookError> {
        let own = |map| MapHandle::try_from(map).map_err(|source| HookError::Load { source });
        Ok(KernelEnds::new(
            own(&self.maps.kernel_ends)?,
            own(&self.maps.kernel_round)?,
        ))
    }

    /// The same, with flows and links kept in `pins`: flows that are there are taken over at once,
    /// links when their interface is attached. Flows that do not fit what is loaded are removed,
    /// and all links with them.
    ///
    /// # Errors
    /// [`HookError::Load`], [`HookError::Pin`].
    pub fn load_pinned(flows: u32, pins: Pins) -> Result<Self, HookError> {
        let object = open_with(flows, Some(&pins)).or_else(|_| {
            pins.clear()?;
            open_with(flows, Some(&pins))
        })?;
        let mut hooks = Self::from_object(&object)?;
        hooks.pins = Some(pins);
        Ok(hooks)
    }

    /// Whether a predecessor's hook is still at work on an interface.
    #[must_use]
    pub fn is_inherited(&self, hook: HookKind, ifindex: u32) -> bool {
        let pins = self.pins.as_ref();
        pins.is_some_and(|pins| pins.link(hook, ifindex).exists())
    }

    /// Detaches what a predecessor left on interfaces that are not in use.
    ///
    /// # Errors
    /// [`HookError::Pin`].
    pub fn disown(&self, used: impl Fn(HookKind, u32) -> bool) -> Result<usize, HookError> {
        self.pins.as_ref().map_or(Ok(0), |pins| pins.retain(used))
    }

    /// Takes over programs and maps of a loaded object.
    pub(crate) fn from_object(object: &Object) -> Result<Self, HookError> {
        let programs = Programs {
            pod: program(object, "pod")?,
            trunk: program(object, "trunk")?,
            trunk_rx: program(object, "trunk_rx")?,
            uplink: program(object, "uplink")?,
            uplink_tcx: program(object, "uplink_tcx")?,
        };
        let maps = Maps {
            endpoints: map(object, "endpoints")?,
            pods: map(object, "pods")?,
            pods6: map(object, "pods6")?,
            kernel_cidrs: map(object, "kernel_cidrs")?,
            kernel_cidrs6: map(object, "kernel_cidrs6")?,
            uplinks: map(object, "uplinks")?,
            xsks: map(object, "xsks")?,
            heartbeat: map(object, "heartbeat")?,
            lapses: map(object, "lapses")?,
            config: map(object, "config")?,
            counters: map(object, "counters")?,
            flows4: map(object, "flows4")?,
            flows6: map(object, "flows6")?,
            pod_devices: map(object, "pod_devices")?,
            kernel_ends: map(object, "kernel_ends")?,
            kernel_round: map(object, "kernel_round")?,
        };
        Ok(Self {
            programs,
            maps,
            pins: None,
            pods: HashMap::new(),
            kernel_cidrs: BTreeSet::new(),
        })
    }

    /// Replaces the configuration. Not atomic towards packets: one may see old and new fields.
    ///
    /// # Errors
    /// [`HookError::Limit`] for more than [`MAX_QUEUES`] workers; [`HookError::Map`].
    pub fn configure(&self, config: &HookConfig) -> Result<(), HookError> {
        within("worker count", config.workers, MAX_QUEUES + 1)?;
        put(
            &self.maps.config,
            &0_u32.to_ne_bytes(),
            &layout::config(config),
            || "entry".into(),
        )
    }

    /// Adds or replaces a pod. Its own packets are guarded from here on; packets to it reach it.
    ///
    /// # Errors
    /// [`HookError::Map`], also when the maps are full.
    pub fn set_pod(&mut self, pod: &PodEntry) -> Result<(), HookError> {
        let before = self.pods.get(&pod.ifindex).copied();
        let index = pod.ifindex.to_ne_bytes();
        put(&self.maps.endpoints, &index, &layout::endpoint(pod), || {
            format!("interface {}", pod.ifindex)
        })?;
        for address in pod.addresses() {
            let (map, key) = self.place(address);
            let object = || format!("pod {address} (interface {})", pod.ifindex);
            put(map, &key, &index, object).inspect_err(|_| self.undo(pod, before.as_ref()))?;
        }
        self.pods.insert(pod.ifindex, *pod);
        let left = before.iter().flat_map(PodEntry::addresses);
        for address in left.filter(|address| pod.addresses().all(|kept| kept != *address)) {
            self.forget_address(pod.ifindex, address)?;
        }
        Ok(())
    }

    /// Takes out what a failed [`Self::set_pod`] put in. Its own failure is the one to report.
    fn undo(&self, pod: &PodEntry, before: Option<&PodEntry>) {
        for address in pod.addresses() {
            if before.is_none_or(|before| before.addresses().all(|kept| kept != address)) {
                let _ = self.forget_address(pod.ifindex, address);
            }
        }
        if before.is_none() {
            let _ = self.maps.endpoints.delete(&pod.ifindex.to_ne_bytes());
        }
    }

    /// Where an address of a pod is kept.
    fn place(&self, address: IpAddr) -> (&MapHandle, Vec<u8>) {
        match address {
            IpAddr::V4(address) => (&self.maps.pods, address.octets().to_vec()),
            IpAddr::V6(address) => (&self.maps.pods6, address.octets().to_vec()),
        }
    }

    /// Removes a pod: packets to it are no longer its, packets from it are dropped by name while
    /// the hook is still attached. Unknown pods are fine.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn remove_pod(&mut self, ifindex: u32) -> Result<(), HookError> {
        let Some(pod) = self.pods.get(&ifindex).copied() else {
            return Ok(());
        };
        for address in pod.addresses() {
            self.forget_address(ifindex, address)?;
        }
        let index = ifindex.to_ne_bytes();
        delete(&self.maps.endpoints, &index, || {
            format!("interface {ifindex}")
        })?;
        self.pods.remove(&ifindex);
        Ok(())
    }

    /// Removes a pod's address unless it has passed to another interface meanwhile.
    fn forget_address(&self, ifindex: u32, address: IpAddr) -> Result<(), HookError> {
        let (map, key) = self.place(address);
        let object = || format!("address {address}");
        let owner = get(map, &key, object)?;
        if owner.as_deref() != Some(ifindex.to_ne_bytes().as_slice()) {
            return Ok(());
        }
        delete(map, &key, object)
    }

    /// Replaces the destinations that belong to the kernel. New ones are added before old ones
    /// go, so no packet meets a gap; for a moment both sets hold, which must fit the map.
    ///
    /// # Errors
    /// [`HookError::Limit`] for more than [`MAX_KERNEL_CIDRS`]; [`HookError::Map`].
    pub fn set_kernel_cidrs(&mut self, cidrs: &[IpNet]) -> Result<(), HookError> {
        let wanted: BTreeSet<IpNet> = cidrs.iter().map(IpNet::trunc).collect();
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        within("number of kernel CIDRs", count, MAX_KERNEL_CIDRS + 1)?;
        let present = 1_u32.to_ne_bytes();
        for net in &wanted {
            if self.kernel_cidrs.contains(net) {
                continue;
            }
            let (map, key) = self.kernel_cidr(net);
            put(map, &key, &present, || net.to_string())?;
            self.kernel_cidrs.insert(*net);
        }
        let old: Vec<_> = self.kernel_cidrs.difference(&wanted).copied().collect();
        for net in old {
            let (map, key) = self.kernel_cidr(&net);
            delete(map, &key, || net.to_string())?;
            self.kernel_cidrs.remove(&net);
        }
        Ok(())
    }

    fn kernel_cidr(&self, net: &IpNet) -> (&MapHandle, Vec<u8>) {
        match net {
            IpNet::V4(net) => (&self.maps.kernel_cidrs, layout::cidr(net).to_vec()),
            IpNet::V6(net) => (&self.maps.kernel_cidrs6, layout::cidr6(net).to_vec()),
        }
    }

    /// Attaches hook `pod` to the host side of a pod's veth. Call [`Self::set_pod`] first.
    ///
    /// # Errors
    /// [`HookError::Attach`].
    pub fn attach_pod(&self, ifindex: u32) -> Result<HookLink, HookError> {
        let pins = self.pins.as_ref();
        attach((HookKind::Pod, pins), &self.programs.pod, ifindex)
    }

    /// Attaches hook `trunk` to trunk0.
    ///
    /// # Errors
    /// [`HookError::Attach`].
    pub fn attach_trunk(&self, ifindex: u32) -> Result<HookLink, HookError> {
        attach((HookKind::Trunk, None), &self.programs.trunk, ifindex)
    }

    /// Attaches hook `trunk-rx` to trunk1, in the driver.
    ///
    /// # Errors
    /// [`HookError::Attach`].
    pub fn attach_trunk_rx(&self, ifindex: u32) -> Result<HookLink, HookError> {
        attach((HookKind::TrunkRx, None), &self.programs.trunk_rx, ifindex)
    }

    /// Attaches hook `uplink` to an ENI, in the driver. `slot` is the ENI's row of sockets, 1 or
    /// more; `mac` the ENI's own address.
    ///
    /// # Errors
    /// [`HookError::Attach`], also when somebody else's XDP program is there, which stays;
    /// [`HookError::Limit`] for a slot past the map; [`HookError::Map`].
    pub fn attach_uplink(
        &self,
        ifindex: u32,
        slot: u32,
        mac: [u8; 6],
    ) -> Result<HookLink, HookError> {
        within("slot", slot, MAX_SLOTS)?;
        let key = ifindex.to_ne_bytes();
        let object = || format!("uplink {ifindex}");
        put(&self.maps.uplinks, &key, &layout::uplink(slot, mac), object)?;
        let uplink = (HookKind::Uplink, self.pins.as_ref());
        attach(uplink, &self.programs.uplink, ifindex).inspect_err(|_| {
            // The entry alone does nothing; the attachment's error is the one to report.
            let _ = self.maps.uplinks.delete(&key);
        })
    }

    /// Attaches hook `uplink-tcx` to an ENI, behind XDP. [`Self::attach_uplink`] comes first.
    ///
    /// # Errors
    /// [`HookError::Attach`].
    pub fn attach_uplink_tcx(&self, ifindex: u32) -> Result<HookLink, HookError> {
        let behind = (HookKind::UplinkTcx, self.pins.as_ref());
        attach(behind, &self.programs.uplink_tcx, ifindex)
    }

    /// Says that the pod behind this host side takes XDP frames: its own side runs NAPI, which it
    /// does with GRO on. The interface must be in the caller's network namespace; the kernel takes
    /// it out when it goes.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn set_pod_device(&self, ifindex: u32) -> Result<(), HookError> {
        let index = ifindex.to_ne_bytes();
        put(&self.maps.pod_devices, &index, &index, || {
            format!("interface {ifindex}")
        })
    }

    /// Forgets an uplink: should its hook still be attached, everything there is the kernel's.
    ///
    /// # Errors
    /// [`HookError::Map`]; an unknown uplink is fine.
    pub fn remove_uplink(&self, ifindex: u32) -> Result<(), HookError> {
        let (map, key) = (&self.maps.uplinks, ifindex.to_ne_bytes());
        let object = || format!("uplink {ifindex}");
        match get(map, &key, object)? {
            Some(_) => delete(map, &key, object),
            None => Ok(()),
        }
    }

    /// Directs `queue` of the interface in `slot` to an AF_XDP socket. The kernel clears the
    /// entry when the socket is closed.
    ///
    /// # Errors
    /// [`HookError::Limit`] outside the map; [`HookError::Map`], for instance when `socket` is
    /// not an AF_XDP socket.
    pub fn set_socket(
        &self,
        slot: u32,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), HookError> {
        let key = socket_key(slot, queue)?;
        put(
            &self.maps.xsks,
            &key,
            &socket.as_raw_fd().to_ne_bytes(),
            || format!("socket of slot {slot} queue {queue}"),
        )
    }

    /// Takes the socket of `queue` in `slot` out: an uplink's queue falls back to the kernel, the
    /// trunk's drops by name. An empty place is fine.
    ///
    /// # Errors
    /// [`HookError::Limit`] outside the map; [`HookError::Map`].
    pub fn clear_socket(&self, slot: u32, queue: u32) -> Result<(), HookError> {
        let key = socket_key(slot, queue)?;
        match self.maps.xsks.delete(&key) {
            Err(source) if source.kind() != libbpf_rs::ErrorKind::NotFound => Err(map_error(
                "delete",
                format!("socket of slot {slot} queue {queue}"),
                &self.maps.xsks,
                source,
            )),
            _ => Ok(()),
        }
    }

    /// The heartbeat array: [`MAX_QUEUES`] native 64-bit words, one per worker, to be mapped
    /// shared. A worker writes CLOCK_MONOTONIC nanoseconds into its word.
    #[must_use]
    pub fn heartbeat(&self) -> BorrowedFd<'_> {
        self.maps.heartbeat.as_fd()
    }

    /// Absences of the first `workers` workers.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn lapses(&self, workers: u32) -> Result<Vec<Lapse>, HookError> {
        let read = |worker: u32| {
            let bytes = get(&self.maps.lapses, &worker.to_ne_bytes(), || {
                format!("worker {worker}")
            })?;
            let (words, _) = bytes.as_deref().unwrap_or_default().as_chunks::<8>();
            let word = |at: usize| words.get(at).map_or(0, |word| u64::from_ne_bytes(*word));
            Ok(Lapse {
                last_ns: word(0),
                count: word(1),
            })
        };
        (0..workers.min(MAX_QUEUES)).map(read).collect()
    }

    /// Counters of every kind of hook, summed over CPUs.
    ///
    /// # Errors
    /// [`HookError::Map`].
    pub fn counters(&self) -> Result<[HookCounters; 5], HookError> {
        let mut all = HookKind::ALL.map(HookCounters::zero);
        for sum in &mut all {
            let key = sum.hook.row().to_ne_bytes();
            let rows = self
                .maps
                .counters
                .lookup_percpu(&key, MapFlags::ANY)
                .map_err(|source| {
                    map_error(
                        "read",
                        format!("hook {}", sum.hook.label()),
                        &self.maps.counters,
                        source,
                    )
                })?;
            for row in rows.unwrap_or_default() {
                sum.add(&row);
            }
        }
        Ok(all)
    }
}

/// Opens and loads the embedded object.
pub(crate) fn open(flows: u32) -> Result<Object, HookError> {
    open_with(flows, None)
}

fn open_with(flows: u32, pins: Option<&Pins>) -> Result<Object, HookError> {
    let failed = |source| HookError::Load { source };
    let mut object = ObjectBuilder::default()
        .open_memory(OBJECT)
        .map_err(failed)?;
    for mut map in object.maps_mut() {
        if map.name() == "flows4" || map.name() == "flows6" {
            // Two directions a flow.
            let entries = flows.saturating_mul(2).max(2);
            map.set_max_entries(entries).map_err(failed)?;
            if let Some(pins) = pins {
                let path = pins.map(&map.name().to_string_lossy());
                map.set_pin_path(path).map_err(failed)?;
            }
        }
    }
    object.load().map_err(failed)
}

fn program(object: &Object, name: &'static str) -> Result<OwnedFd, HookError> {
    let found = object.progs().find(|program| program.name() == name);
    let program = found.ok_or(HookError::Missing {
        kind: "program",
        name,
    })?;
    let descriptor = program.as_fd().try_clone_to_owned();
    descriptor.map_err(|source| HookError::Descriptor {
        what: format!("program `{name}`"),
        source,
    })
}

fn map(object: &Object, name: &'static str) -> Result<MapHandle, HookError> {
    let found = object.maps().find(|map| map.name() == name);
    let map = found.ok_or(HookError::Missing { kind: "map", name })?;
    MapHandle::try_from(&map).map_err(|source| HookError::Load { source })
}

/// Attaches a program, in place of a predecessor's where that is still at work, and pins the link
/// where there is a place for pins.
fn attach(
    (kind, pins): (HookKind, Option<&Pins>),
    program: &OwnedFd,
    ifindex: u32,
) -> Result<HookLink, HookError> {
    let pin = pins.map(|pins| pins.link(kind, ifindex));
    if let Some(link) = pin
        .as_deref()
        .and_then(|pin| inherit(pin, program, ifindex))
    {
        return Ok(HookLink {
            kind,
            ifindex,
            pin,
            _link: link,
        });
    }
    let attached = match kind {
        HookKind::Pod | HookKind::Trunk | HookKind::UplinkTcx => {
            link::attach_tcx_ingress(program.as_fd(), ifindex)
        }
        HookKind::TrunkRx | HookKind::Uplink => link::attach_xdp_native(program.as_fd(), ifindex),
    };
    let link = attached.map_err(|source| HookError::Attach {
        hook: kind.label(),
        source,
    })?;
    if let Some(path) = &pin {
        link::pin(link.as_fd(), path).map_err(|source| HookError::Pin {
            op: "pin",
            path: path.clone(),
            source,
        })?;
    }
    Ok(HookLink {
        kind,
        ifindex,
        pin,
        _link: link,
    })
}

/// The link pinned at `pin`, now with our program, if it is this interface's. What is of an
/// interface that is gone is removed.
fn inherit(pin: &Path, program: &OwnedFd, ifindex: u32) -> Option<OwnedFd> {
    let link = link::open_pinned(pin).ok()?;
    let ours = link::interface(link.as_fd()).is_ok_and(|index| index == ifindex);
    if ours && link::replace(link.as_fd(), program.as_fd()).is_ok() {
        return Some(link);
    }
    // A new pin takes its place; should that fail, its error is the one to report.
    let _ = fs::remove_file(pin);
    None
}

fn socket_key(slot: u32, queue: u32) -> Result<[u8; 4], HookError> {
    within("slot", slot, MAX_SLOTS)?;
    within("queue", queue, MAX_QUEUES)?;
    Ok((slot * MAX_QUEUES + queue).to_ne_bytes())
}

/// Checks `got < end`.
fn within(what: &'static str, got: u32, end: u32) -> Result<(), HookError> {
    if got < end {
        Ok(())
    } else {
        Err(HookError::Limit {
            what,
            got,
            limit: end - 1,
        })
    }
}

pub(crate) fn put(
    map: &MapHandle,
    key: &[u8],
    value: &[u8],
    object: impl Fn() -> String,
) -> Result<(), HookError> {
    map.update(key, value, MapFlags::ANY)
        .map_err(|source| map_error("write", object(), map, source))
}

pub(crate) fn get(
    map: &MapHandle,
    key: &[u8],
    object: impl Fn() -> String,
) -> Result<Option<Vec<u8>>, HookError> {
    map.lookup(key, MapFlags::ANY)
        .map_err(|source| map_error("read", object(), map, source))
}

fn delete(map: &MapHandle, key: &[u8], object: impl Fn() -> String) -> Result<(), HookError> {
    map.delete(key)
        .map_err(|source| map_error("delete", object(), map, source))
}

fn map_error(
    op: &'static str,
    object: String,
    map: &MapHandle,
    source: libbpf_rs::Error,
) -> HookError {
    HookError::Map {
        op,
        object,
        map: map.name().to_string_lossy().into_owned(),
        source,
    }
}
