//! Instance types and their network limits.
//!
//! Figures are EC2's own, as the VPC CNI ships them and `DescribeInstanceTypes` answers.

/// What runs below the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// AWS Nitro.
    Nitro,
    /// Xen, the older generation.
    Xen,
    /// None: a bare metal instance.
    BareMetal,
}

/// The limits of one instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceType {
    /// For example `m5.large`.
    pub name: String,
    /// Interfaces on network card 0.
    pub max_enis: u32,
    /// Private IPv4 addresses per interface, the primary included.
    pub ipv4_per_eni: u32,
    /// Network cards, each of which takes `max_enis`.
    pub network_cards: u32,
    /// What runs below the guest.
    pub hypervisor: Hypervisor,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

use Hypervisor::{BareMetal, Nitro, Xen};

/// (name, interfaces, addresses per interface, network cards, hypervisor, virtual CPUs, memory in GiB)
type Row = (&'static str, u32, u32, u32, Hypervisor, u32, u64);

const TABLE: &[Row] = &[
    ("a1.medium", 2, 4, 1, Nitro, 1, 2),
    ("c5.large", 3, 10, 1, Nitro, 2, 4),
    ("c5.xlarge", 4, 15, 1, Nitro, 4, 8),
    ("c5.4xlarge", 8, 30, 1, Nitro, 16, 32),
    ("c5.metal", 15, 50, 1, BareMetal, 96, 192),
    ("c5n.18xlarge", 15, 50, 1, Nitro, 72, 192),
    ("c6in.large", 3, 10, 1, Nitro, 2, 4),
    ("c6in.xlarge", 4, 15, 1, Nitro, 4, 8),
    ("c6in.2xlarge", 4, 15, 1, Nitro, 8, 16),
    ("c6in.4xlarge", 8, 30, 1, Nitro, 16, 32),
    ("c6in.8xlarge", 8, 30, 1, Nitro, 32, 64),
    ("c6in.16xlarge", 15, 50, 1, Nitro, 64, 128),
    ("c6in.32xlarge", 8, 50, 2, Nitro, 128, 256),
    ("c7g.large", 3, 10, 1, Nitro, 2, 4),
    ("g4dn.xlarge", 3, 10, 1, Nitro, 4, 16),
    ("g5.xlarge", 4, 15, 1, Nitro, 4, 16),
    ("m4.large", 2, 10, 1, Xen, 2, 8),
    ("m4.4xlarge", 8, 30, 1, Xen, 16, 64),
    ("m5.large", 3, 10, 1, Nitro, 2, 8),
    ("m5.xlarge", 4, 15, 1, Nitro, 4, 16),
    ("m5.2xlarge", 4, 15, 1, Nitro, 8, 32),
    ("m5.4xlarge", 8, 30, 1, Nitro, 16, 64),
    ("m5.8xlarge", 8, 30, 1, Nitro, 32, 128),
    ("m5.12xlarge", 8, 30, 1, Nitro, 48, 192),
    ("m5.24xlarge", 15, 50, 1, Nitro, 96, 384),
    ("m5.metal", 15, 50, 1, BareMetal, 96, 384),
    ("m6a.4xlarge", 8, 30, 1, Nitro, 16, 64),
    ("m6i.large", 3, 10, 1, Nitro, 2, 8),
    ("m6i.32xlarge", 15, 50, 1, Nitro, 128, 512),
    ("m7i.large", 3, 10, 1, Nitro, 2, 8),
    ("m7i.48xlarge", 15, 50, 1, Nitro, 192, 768),
    ("p4d.24xlarge", 15, 50, 4, Nitro, 96, 1152),
    ("p5.48xlarge", 2, 50, 32, Nitro, 192, 2048),
    ("r5.large", 3, 10, 1, Nitro, 2, 16),
    ("t2.micro", 2, 2, 1, Xen, 1, 1),
    ("t3.micro", 2, 2, 1, Nitro, 2, 1),
    ("t3.small", 3, 4, 1, Nitro, 2, 2),
    ("t3.medium", 3, 6, 1, Nitro, 2, 4),
    ("t3.large", 3, 12, 1, Nitro, 2, 8),
    ("t3.xlarge", 4, 15, 1, Nitro, 4, 16),
    ("t3.2xlarge", 4, 15, 1, Nitro, 8, 32),
    ("t4g.medium", 3, 6, 1, Nitro, 2, 4),
];

/// The built-in table with `overrides` put over it, sorted by name.
pub(crate) fn table(overrides: &[InstanceType]) -> Vec<InstanceType> {
    let mut types: Vec<InstanceType> = TABLE.iter().map(from_row).collect();
    types.retain(|known| overrides.iter().all(|o| o.name != known.name));
    types.extend_from_slice(overrides);
    types.sort_by(|a, b| a.name.cmp(&b.name));
    types
}

fn from_row(row: &Row) -> InstanceType {
    let &(name, max_enis, ipv4_per_eni, network_cards, hypervisor, vcpus, memory_gib) = row;
    InstanceType {
        name: name.to_owned(),
        max_enis,
        ipv4_per_eni,
        network_cards,
        hypervisor,
        vcpus,
        memory_mib: memory_gib * 1024,
    }
}
