//! The node as its daemons and its kernel describe it: what the settings are about.
//!
//! A daemon that is away leaves its part empty; nothing here is an error.

use std::net::Ipv4Addr;

use penstock_control_api::{EniRow, PodRow, Status as ControlStatus};
use penstock_dataplane_api::{Counters, Status as DataplaneStatus};
use penstock_netlink::{Link, Netlink};
use penstock_xsk::ethtool;

use crate::daemons::Daemons;
use crate::failure::Failure;
use crate::host::Subject;
use crate::knob::{Knob, Place};

/// The kernel's end of the trunk.
pub(crate) const TRUNK: &str = "trunk0";
/// The workers' end of the trunk.
pub(crate) const TRUNK_WORKERS: &str = "trunk1";

/// Bytes of one huge page.
const HUGE_PAGE: u64 = 2 << 20;
/// Bytes of one UMEM frame.
const FRAME: u64 = 4096;
/// The dataplane's default number of frames a worker; while it is away.
const DEFAULT_FRAMES: u64 = 24_576;

/// All that could be learned.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) control: Result<ControlStatus, Failure>,
    pub(crate) dataplane: Result<DataplaneStatus, Failure>,
    pub(crate) counters: Option<Counters>,
    pub(crate) enis: Vec<EniRow>,
    pub(crate) pods: Vec<PodRow>,
    pub(crate) links: Vec<Link>,
    /// Range of L4 ports the dataplane translates to, as `first-last`.
    pub(crate) snat_ports: String,
}

impl Scene {
    /// Asks everybody.
    ///
    /// # Errors
    /// When the kernel does not even list its interfaces.
    pub(crate) fn survey(daemons: &Daemons, snat_ports: &str) -> Result<Self, Failure> {
        let links = Netlink::open()
            .and_then(|mut netlink| netlink.links())
            .map_err(|error| Failure::Node(format!("cannot list interfaces: {error}")))?;
        let control = daemons.control_status();
        let dataplane = daemons.dataplane_status();
        // One that is away is not waited for three times.
        let (enis, pods) = match &control {
            Ok(_) => (daemons.enis(), daemons.pods()),
            Err(_) => (Ok(Vec::new()), Ok(Vec::new())),
        };
        let counters = dataplane
            .as_ref()
            .ok()
            .and_then(|_| daemons.counters().ok());
        Ok(Self {
            control,
            dataplane,
            counters,
            enis: enis.unwrap_or_default(),
            pods: pods.unwrap_or_default(),
            links,
            snat_ports: snat_ports.to_owned(),
        })
    }

    /// The interface of that name.
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Interfaces of the ENIs, the primary one first.
    pub(crate) fn uplinks(&self) -> Vec<String> {
        if self.enis.is_empty() {
            return self.hardware();
        }
        let mut enis: Vec<&EniRow> = self.enis.iter().collect();
        enis.sort_by_key(|eni| eni.device_number);
        enis.into_iter().map(|eni| eni.ifname.clone()).collect()
    }

    /// While the agent is away: the interfaces an `ena` drives, else the one of the default route.
    fn hardware(&self) -> Vec<String> {
        let named = self.links.iter().filter(|link| link.kind.is_empty());
        let ena: Vec<String> = named
            .map(|link| link.name.clone())
            .filter(|name| driver(name) == "ena")
            .collect();
        if ena.is_empty() {
            default_route(&self.links).into_iter().collect()
        } else {
            ena
        }
    }

    /// What has the setting, each with its name; nothing where the setting does not apply.
    pub(crate) fn subjects(&self, knob: &Knob) -> Vec<Subject> {
        let interface = |ifname: &str| Subject {
            ifname: ifname.to_owned(),
            pid: None,
        };
        let driven = |ifname: &str| {
            let wanted = knob.driver.as_deref();
            wanted.is_none_or(|wanted| driver(ifname) == wanted)
        };
        match knob.on {
            Place::Instance => Vec::new(),
            Place::Node => {
                let primary = self.uplinks().into_iter().next();
                let applies = knob.driver.is_none() || primary.as_deref().is_some_and(driven);
                applies.then(Subject::default).into_iter().collect()
            }
            Place::Uplinks => {
                let uplinks = self.uplinks();
                let meant = uplinks.iter().filter(|ifname| driven(ifname));
                meant.map(|ifname| interface(ifname)).collect()
            }
            Place::Pods => self
                .pods
                .iter()
                .filter(|pod| pod.confirmed && self.link(&pod.host_ifname).is_some())
                .map(|pod| interface(&pod.host_ifname))
                .collect(),
            Place::Trunk => self
                .link(TRUNK)
                .map(|link| interface(&link.name))
                .into_iter()
                .collect(),
            Place::Dataplane => {
                let process = self.dataplane.as_ref().map(|status| Subject {
                    ifname: String::new(),
                    pid: Some(status.pid),
                });
                process.into_iter().collect()
            }
        }
    }

    /// `text` with its placeholders filled; nothing when there is nothing to fill one with.
    pub(crate) fn fill(&self, text: &str) -> Option<String> {
        let cores = self.worker_cores();
        if text.contains("{worker-cores}") && cores.is_empty() {
            return None;
        }
        let workers = self.dataplane.as_ref().map_or(1, |status| status.workers);
        Some(
            text.replace("{worker-cores}", &cores)
                .replace("{workers}", &workers.to_string())
                .replace("{snat-ports}", &self.snat_ports)
                .replace("{huge-pages}", &self.huge_pages().to_string()),
        )
    }

    /// Cores the workers are pinned to, as a list.
    fn worker_cores(&self) -> String {
        let workers = self.counters.iter().flat_map(|counters| &counters.workers);
        let mut cores: Vec<u32> = workers.filter_map(|worker| worker.core).collect();
        cores.sort_unstable();
        cores.dedup();
        let cores: Vec<String> = cores.iter().map(u32::to_string).collect();
        cores.join(",")
    }

    /// Pages that hold every worker's UMEM and a tenth more.
    fn huge_pages(&self) -> u64 {
        let workers = self.counters.iter().flat_map(|counters| &counters.workers);
        let frames: u64 = workers.map(|worker| worker.frames.total).sum();
        let frames = if frames == 0 { DEFAULT_FRAMES } else { frames };
        (frames * FRAME * 11 / 10).div_ceil(HUGE_PAGE)
    }
}

/// Name of an interface's driver; empty when it does not say.
pub(crate) fn driver(ifname: &str) -> String {
    ethtool::driver(ifname).map_or_else(|_| String::new(), |driver| driver.name)
}

fn default_route(links: &[Link]) -> Option<String> {
    let routes = Netlink::open()
        .and_then(|mut netlink| netlink.routes(penstock_netlink::MAIN_TABLE))
        .ok()?;
    let index = routes
        .iter()
        .find(|route| {
            route.destination.prefix_len() == 0
                && route.destination.network() == Ipv4Addr::UNSPECIFIED
        })?
        .oif?;
    let link = links.iter().find(|link| link.index == index)?;
    Some(link.name.clone())
}
