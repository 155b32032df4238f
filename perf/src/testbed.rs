//! The contestants side by side in one lab, and what each of them is measured from and to.
//!
//! Each contestant has a node of its own with the same number of pods, and where a scenario needs
//! it a second one like it, so that turns follow each other without anything being reconfigured.

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use penstock_dataplane_api::Counters;
use penstock_lab::fabric::{OUTSIDE_PORT, ROUTER_MAC};
use penstock_lab::{Lab, LabConfig, NetNs, Node, OUTSIDE_ADDRESSES, SUBNETS, find_binary};

use crate::generator::Stream;
use crate::place::Place;
use crate::reference_node::ReferenceNode;
use crate::report::Report;
use crate::scenario::Session;

/// The workers' core: the first. Generators take the last.
const WORKER_CORE: &str = "0";
/// Instance types with room for so many pods.
const INSTANCE_TYPES: [(u32, &str); 2] = [(200, "m5.4xlarge"), (700, "m5.24xlarge")];

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Penstock; established flows at the hooks.
    On,
    /// Penstock; every packet through a worker.
    Off,
    /// The kernel with the VPC CNI's rules.
    Kernel,
}

impl Who {
    /// All of them, in the order of their turns.
    pub const ALL: [Self; 3] = [Self::On, Self::Off, Self::Kernel];

    /// As figures and legends name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "offload on",
            Self::Off => "offload off",
            Self::Kernel => "kernel path",
        }
    }

    fn arguments(self) -> Vec<&'static str> {
        let mut arguments = vec!["--cores", WORKER_CORE];
        if knows_offload() {
            arguments.push(if self == Self::On {
                "--offload=established"
            } else {
                "--offload=off"
            });
        }
        arguments
    }
}

/// Whether this dataplane can be told where established flows go; one from before that cannot, and
/// is measured as `offload off` alone.
fn knows_offload() -> bool {
    find_binary("penstock-dataplane").is_ok_and(|binary| {
        Command::new(binary)
            .arg("--help")
            .output()
            .is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--offload"))
    })
}

/// One contestant.
pub struct Side {
    /// Who it is.
    pub who: Who,
    node: usize,
    peer: Option<usize>,
    arguments: Vec<&'static str>,
    places: Vec<Place>,
    peer_places: Vec<Place>,
    // Kept for their namespaces, and for DEL never: the lab goes as a whole.
    _held: Vec<Held>,
}

/// Whatever owns the pods' namespaces.
type Held = Box<dyn Any + Send + Sync>;

/// What a testbed is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Pods on each node.
    pub pods: u32,
    /// Who takes part.
    pub who: Vec<Who>,
    /// Whether each contestant has a second node, with so many pods as well.
    pub peers: bool,
    /// Nodes where nothing runs, for generators and baselines.
    pub bare: usize,
    /// More arguments of each dataplane.
    pub arguments: Vec<&'static str>,
}

impl Plan {
    /// All contestants, one node each.
    #[must_use]
    pub fn new(pods: u32) -> Self {
        Self {
            pods,
            who: Who::ALL.to_vec(),
            peers: false,
            bare: 0,
            arguments: Vec::new(),
        }
    }
}

/// All contestants.
pub struct Testbed {
    sides: Vec<Side>,
    outside: Place,
    /// Index of the first node where nothing runs.
    bare: usize,
    lab: Lab,
}

impl Testbed {
    /// Builds it.
    ///
    /// # Errors
    /// When the lab does not come up, or a pod cannot be attached.
    pub fn build(session: &Session, plan: &Plan) -> Result<Self> {
        session.say(format!("building nodes with {} pods", plan.pods));
        let able = knows_offload();
        let who: Vec<Who> = plan
            .who
            .iter()
            .copied()
            .filter(|&who| able || who != Who::On)
            .collect();
        let instance_type = INSTANCE_TYPES
            .iter()
            .find(|(room, _)| plan.pods <= *room)
            .with_context(|| format!("no instance type of the lab has {} pods", plan.pods))?;
        let nodes = who.len() * if plan.peers { 2 } else { 1 };
        let lab = Lab::up(LabConfig {
            instance_type: instance_type.1.to_owned(),
            nodes: nodes + plan.bare,
            ..LabConfig::unique("perf")
        })?;
        let parts = thread::scope(|scope| {
            let build = |index| {
                let (lab, who) = (&lab, who[index % who.len()]);
                scope.spawn(move || populate(lab, index, who, plan))
            };
            let threads: Vec<_> = (0..nodes).map(build).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("a builder panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        let mut parts = parts.into_iter();
        let mut sides: Vec<Side> = who
            .iter()
            .enumerate()
            .zip(parts.by_ref())
            .map(|((node, &who), (places, held))| Side {
                who,
                node,
                peer: None,
                arguments: arguments_of(who, plan),
                places,
                peer_places: Vec::new(),
                _held: vec![held],
            })
            .collect();
        for ((node, (places, held)), side) in (who.len()..).zip(parts).zip(&mut sides) {
            side.peer = Some(node);
            side.peer_places = places;
            side._held.push(held);
        }
        let outside = Place {
            netns: NetNs::open(lab.outside().name())?,
            ifname: "eth0".to_owned(),
            address: OUTSIDE_ADDRESSES[0],
            host_ifname: None,
        };
        Ok(Self {
            sides,
            outside,
            bare: nodes,
            lab,
        })
    }

    /// The contestants, in the order of their turns.
    #[must_use]
    pub fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The host outside the VPC.
    #[must_use]
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// A contestant's node.
    #[must_use]
    pub fn node(&self, side: &Side) -> &Node {
        &self.lab.nodes()[side.node]
    }

    /// A node where nothing runs.
    ///
    /// # Errors
    /// When the testbed was built with fewer.
    pub fn bare(&self, index: usize) -> Result<&Node> {
        let node = self.lab.nodes().get(self.bare + index);
        node.context("built without so many bare nodes")
    }

    /// A node's own interface as a place to send from, by a generator too.
    ///
    /// # Errors
    /// When its ENI is not plugged.
    pub fn host(&self, node: &Node) -> Result<Place> {
        self.run_napi(node.primary_eni())?;
        Ok(Place {
            netns: NetNs::open(node.netns().name())?,
            ifname: "eth0".to_owned(),
            address: node.primary_address(),
            host_ifname: None,
        })
    }

    /// A stream from the outside towards the VPC's router.
    ///
    /// # Errors
    /// When an interface is not there.
    pub fn stream_from_outside(&self) -> Result<Stream> {
        self.run_napi(OUTSIDE_PORT)?;
        self.outside.stream_to(ROUTER_MAC.0)
    }

    /// Makes the fabric's end of a port run NAPI, which live frames need.
    fn run_napi(&self, port: &str) -> Result<()> {
        let fabric = self.lab.fabric();
        let near = fabric.interface_of(port);
        let near = near.with_context(|| format!("the fabric has no port {port}"))?;
        fabric
            .netns()
            .tool("ethtool", &["-K", &near, "gro", "on"])?;
        Ok(())
    }

    /// Says in the report where everything runs, and who did not take part.
    pub fn describe(&self, report: &mut Report) {
        let cores = report.machine.cores;
        let mut note = format!(
            "{cores} cores: workers are pinned to core {WORKER_CORE}, generators to core {}",
            cores.saturating_sub(1)
        );
        if cores <= 2 {
            note.push_str(
                "; the kernel's work runs on the sender's core, so node cost tells more than packets \
                 per second",
            );
        }
        report.note(note);
        if !self.sides.iter().any(|side| side.who == Who::On) && !knows_offload() {
            report.note("this dataplane has no offload: only `offload off` was measured");
        }
    }

    /// Counters of every Penstock node, settled, with the contestant's name.
    pub fn counters(&self) -> Vec<(Who, penstock_lab::Result<Counters>)> {
        let penstock = self.sides.iter().filter(|side| side.who != Who::Kernel);
        penstock
            .flat_map(|side| {
                [Some(side.node), side.peer]
                    .into_iter()
                    .flatten()
                    .map(|node| (side.who, self.lab.nodes()[node].settled_counters()))
            })
            .collect()
    }
}

impl Side {
    /// The pod that is measured.
    #[must_use]
    pub fn pod(&self) -> &Place {
        &self.places[0]
    }

    /// Another pod of the same node.
    #[must_use]
    pub fn neighbor(&self) -> &Place {
        &self.places[1]
    }

    /// All pods of the node, those that can hold conversations first.
    #[must_use]
    pub fn pods(&self) -> &[Place] {
        &self.places
    }

    /// A pod of the contestant's second node.
    ///
    /// # Errors
    /// When the testbed was built without.
    pub fn peer(&self) -> Result<&Place> {
        self.peer_places.first().context("built without peers")
    }

    /// Starts the contestant's dataplane, as the testbed did.
    ///
    /// # Errors
    /// When it does not become ready, or runs already.
    pub fn start_dataplane(&self, node: &Node) -> Result<()> {
        node.start_dataplane(&self.arguments)?;
        Ok(())
    }

    /// Where the outside listens for this contestant's generators.
    #[must_use]
    pub fn discard(&self) -> SocketAddrV4 {
        SocketAddrV4::new(OUTSIDE_ADDRESSES[0], 9)
    }
}

/// Pods of node `index`.
fn populate(lab: &Lab, index: usize, who: Who, plan: &Plan) -> Result<(Vec<Place>, Held)> {
    if who == Who::Kernel {
        let base: Ipv4Addr = SUBNETS[index % SUBNETS.len()].network();
        let reference = Box::new(ReferenceNode::build(lab, index, plan.pods, base)?);
        let places = reference.live().iter().chain(reference.crowd());
        let places = places.map(reopen).collect::<Result<_>>()?;
        return Ok((places, reference));
    }
    let node = &lab.nodes()[index];
    node.start_dataplane(&arguments_of(who, plan))?;
    node.start_control(&[])?;
    let pods = (0..plan.pods)
        .map(|n| node.add_pod("perf", &format!("p{n}")))
        .collect::<Result<Vec<_>, _>>()?;
    let places = pods.iter().map(Place::of_pod).collect::<Result<_>>()?;
    Ok((places, Box::new(pods)))
}

fn arguments_of(who: Who, plan: &Plan) -> Vec<&'static str> {
    let mut arguments = who.arguments();
    arguments.extend(&plan.arguments);
    arguments
}

fn reopen(place: &Place) -> Result<Place> {
    Ok(Place {
        netns: NetNs::open(place.netns.name())?,
        ifname: place.ifname.clone(),
        address: place.address,
        host_ifname: place.host_ifname.clone(),
    })
}
