//! The lab as a whole: brings namespaces, fabric, cloud and nodes up in order, and takes them down.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ec2_sim::{Cloud, CloudConfig, Instance, NoWire, SubnetConfig, Tags};
use ipnet::Ipv4Net;
use penstock_dataplane_api::MacAddr;
use tokio::runtime::Runtime;

use crate::cabling::Cabling;
use crate::error::{Context, Error, Result};
use crate::fabric::{self, Cable, Fabric, OUTSIDE_PORT};
use crate::netns::NetNs;
use crate::node::{EC2_ENDPOINT, IMDS_ENDPOINT, Node, Parts};
use crate::registry::{Registry, prefix};

/// The VPC's address range.
pub const VPC_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 16);

/// The VPC's subnets, each large enough for a node with 250 pods and more.
pub const SUBNETS: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 20),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 16, 0), 20),
];

/// The outside's network; RFC 5737 documentation range.
pub const OUTSIDE_CIDR: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24);

/// The outside's hosts: one machine with two addresses.
pub const OUTSIDE_ADDRESSES: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 10),
    Ipv4Addr::new(198, 51, 100, 11),
];

/// MAC of the outside host's interface.
const OUTSIDE_MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0x02]);

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct LabConfig {
    /// Names the lab: 1 to 16 lower-case letters and digits, unique on the machine.
    pub id: String,
    /// How many nodes; they are spread over the subnets in turn.
    pub nodes: usize,
    /// EC2 instance type of the nodes; decides how many ENIs and addresses they can have.
    pub instance_type: String,
    /// Bytes of IP packet the VPC carries: 9001 as EC2, or less.
    pub mtu: u32,
    /// Receive and transmit queues of every ENI.
    pub queues: u32,
    /// Whether the outside takes packets from any source (external SNAT), not only from node
    /// primary addresses.
    pub outside_accepts_any: bool,
    /// The cloud's behaviour: delays, limits, faults. Ranges and subnets are the lab's.
    pub cloud: CloudConfig,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            id: "lab".to_owned(),
            nodes: 2,
            instance_type: "m5.large".to_owned(),
            mtu: 9001,
            queues: 2,
            outside_accepts_any: false,
            cloud: CloudConfig::default(),
        }
    }
}

impl LabConfig {
    /// The default lab under an id no other process and no other call of this one gets.
    /// `prefix` should be short: at most 4 letters or digits are used.
    #[must_use]
    pub fn unique(prefix: &str) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix: String = prefix.chars().take(4).collect();
        Self {
            id: format!("{prefix}{:x}x{serial:x}", std::process::id()),
            ..Self::default()
        }
    }
}

/// A running lab. Dropping it takes everything down.
pub struct Lab {
    // Dropped in this order: daemons, servers, fabric, names.
    nodes: Vec<Node>,
    runtime: Option<Runtime>,
    cloud: Arc<Cloud>,
    fabric: Arc<Fabric>,
    outside: NetNs,
    config: LabConfig,
    registry: Registry,
    down: bool,
}

impl Lab {
    /// Brings a lab up. What a dead earlier run of the same id left is removed first.
    ///
    /// # Errors
    /// The first thing that failed, after what was made is gone again. [`Error::Invalid`] when a
    /// lab of that id is up.
    pub fn up(config: LabConfig) -> Result<Self> {
        check(&config)?;
        let registry = Registry::claim(&config.id)?;
        match Self::build(config, registry.clone()) {
            Ok(lab) => Ok(lab),
            Err(error) => {
                if let Err(leftover) = registry.release() {
                    tracing::warn!(%leftover, "a lab that did not come up was not fully removed");
                }
                Err(error)
            }
        }
    }

    fn build(config: LabConfig, registry: Registry) -> Result<Self> {
        let named = |name: &str| NetNs::create(&format!("{}{name}", prefix(&config.id)));
        let shape = (config.mtu, config.queues);
        let fabric = Arc::new(Fabric::create(named("fabric")?, vec![VPC_CIDR], shape)?);
        let outside = named("outside")?;
        build_outside(&fabric, &outside)?;
        fabric.set_outside_accepts_any(config.outside_accepts_any)?;

        let cloud =
            Cloud::new(cloud_config(&config)).map_err(|error| Error::Cloud(error.to_string()))?;
        let cabling = Arc::new(Cabling::new(Arc::clone(&fabric)));
        cloud.set_wire(Arc::clone(&cabling) as Arc<dyn ec2_sim::Wire>);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lab-cloud")
            .enable_all()
            .build()
            .context(|| "start the cloud's runtime")?;

        let mut lab = Self {
            nodes: Vec::new(),
            runtime: Some(runtime),
            cloud,
            fabric,
            outside,
            config,
            registry,
            down: false,
        };
        for index in 0..lab.config.nodes {
            let node = lab.build_node(index, &cabling)?;
            lab.nodes.push(node);
        }
        Ok(lab)
    }

    /// An instance, its namespace, its primary ENI as the machine image sets it up, its endpoints.
    fn build_node(&self, index: usize, cabling: &Cabling) -> Result<Node> {
        let name = format!("node{}", index + 1);
        let netns = Arc::new(NetNs::create(&format!(
            "{}{name}",
            prefix(&self.config.id)
        ))?);
        let subnets = &self.cloud.config().subnets;
        let subnet = &subnets[index % subnets.len()].subnet_id;
        let instance = self
            .cloud
            .launch_instance(&self.config.instance_type, subnet, &name)
            .map_err(|error| Error::Cloud(error.to_string()))?;
        cabling.place(&instance.instance_id, index, Arc::clone(&netns));
        cabling.plug(&instance.instance_id, &instance.primary_eni)?;
        cabling.own(&instance.primary_eni)?;
        boot(&netns, &instance)?;
        self.fabric.wait_carrier(&instance.primary_eni.eni_id)?;
        self.serve(&netns, &instance)?;
        Node::new(Parts {
            lab_id: self.config.id.clone(),
            name,
            index,
            netns,
            instance,
            region: self.cloud.config().region.clone(),
            mtu: self.config.mtu,
            registry: self.registry.clone(),
        })
    }

    /// The EC2 API and the instance's metadata, listening inside the node.
    fn serve(&self, netns: &NetNs, instance: &Instance) -> Result<()> {
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let api = ec2_sim::http::router(Arc::clone(&self.cloud));
        let metadata = ec2_sim::imds::router(Arc::clone(&self.cloud), &instance.instance_id);
        for (endpoint, router) in [(EC2_ENDPOINT, api), (IMDS_ENDPOINT, metadata)] {
            let listener = netns
                .run(|| TcpListener::bind(endpoint))?
                .context(|| format!("listen on {endpoint} in {}", netns.name()))?;
            ec2_sim::http::serve(runtime.handle(), listener, router)
                .context(|| format!("serve {endpoint} in {}", netns.name()))?;
        }
        Ok(())
    }

    /// The lab's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.config.id
    }

    /// What it was built from.
    #[must_use]
    pub fn config(&self) -> &LabConfig {
        &self.config
    }

    /// The nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The VPC's network.
    #[must_use]
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// The cloud, for scripted faults and for what it knows.
    #[must_use]
    pub fn cloud(&self) -> &Arc<Cloud> {
        &self.cloud
    }

    /// The outside host: a namespace with [`OUTSIDE_ADDRESSES`] on `eth0`.
    #[must_use]
    pub fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// Starts a process inside one of the lab's namespaces that the sweep finds and ends should
    /// this process die first.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_recorded(&self, netns: &NetNs, command: Command) -> Result<Child> {
        let child = netns.spawn(command)?;
        self.registry.record_child(child.id())?;
        Ok(child)
    }

    /// Takes everything down and says whether that worked; dropping the lab does the same silently.
    ///
    /// # Errors
    /// When something could not be removed; the rest is removed all the same.
    pub fn down(mut self) -> Result<()> {
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.down, true) {
            return Ok(());
        }
        for node in &self.nodes {
            node.down();
        }
        self.cloud.set_wire(Arc::new(NoWire));
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.registry.release()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            tracing::warn!(lab = self.config.id, %error, "lab not fully removed");
        }
    }
}

fn check(config: &LabConfig) -> Result<()> {
    let problem = if config.nodes == 0 {
        "a lab needs a node"
    } else if !(576..=9001).contains(&config.mtu) {
        "a VPC's MTU is between 576 and 9001"
    } else if !(1..=64).contains(&config.queues) {
        "an ENI has between 1 and 64 queues"
    } else {
        return Ok(());
    };
    Err(Error::Invalid(problem.to_owned()))
}

fn cloud_config(config: &LabConfig) -> CloudConfig {
    let zones = &config.cloud.availability_zones;
    let subnets = SUBNETS
        .iter()
        .enumerate()
        .map(|(index, &cidr)| SubnetConfig {
            subnet_id: format!("subnet-{:017x}", index + 1),
            cidr,
            availability_zone: zones
                .get(index % zones.len().max(1))
                .cloned()
                .unwrap_or_default(),
            tags: Tags::new(),
        });
    CloudConfig {
        vpc_cidrs: vec![VPC_CIDR],
        subnets: subnets.collect(),
        ..config.cloud.clone()
    }
}

/// The outside host: addresses and a way back through the fabric.
fn build_outside(fabric: &Fabric, outside: &NetNs) -> Result<()> {
    fabric::quiet(outside)?;
    fabric.plug(Cable {
        name: OUTSIDE_PORT,
        near: "outside",
        netns: outside,
        far: "eth0",
        mac: OUTSIDE_MAC,
        subnet: OUTSIDE_CIDR,
    })?;
    for address in OUTSIDE_ADDRESSES {
        let address = format!("{address}/{}", OUTSIDE_CIDR.prefix_len());
        outside.ip(&["address", "add", &address, "dev", "eth0"])?;
    }
    outside.ip(&["link", "set", "eth0", "up"])?;
    let gateway = fabric::gateway_of(OUTSIDE_CIDR).to_string();
    outside.ip(&["route", "add", "default", "via", &gateway])?;
    fabric.wait_carrier(OUTSIDE_PORT)
}

/// What DHCP and an EKS machine image do before any agent runs: the primary ENI configured,
/// forwarding on. The metadata address is local, where EC2 has it behind the link.
fn boot(netns: &NetNs, instance: &Instance) -> Result<()> {
    let eni = &instance.primary_eni;
    let address = format!("{}/{}", eni.primary, eni.subnet_cidr.prefix_len());
    let gateway = fabric::gateway_of(eni.subnet_cidr).to_string();
    // Of host scope, since an instance does not have it: the kernel must not masquerade to it.
    netns.ip(&[
        "address",
        "add",
        "169.254.169.254/32",
        "dev",
        "lo",
        "scope",
        "host",
    ])?;
    netns.ip(&["address", "add", &address, "dev", "eth0"])?;
    netns.ip(&["link", "set", "eth0", "up"])?;
    netns.ip(&["route", "add", "default", "via", &gateway, "dev", "eth0"])?;
    netns.sysctl("ipv4/ip_forward", "1")
}
