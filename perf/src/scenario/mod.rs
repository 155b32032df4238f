//! The scenarios by name.

mod cni_add;
mod egress_snat;
mod pipeline;

use anyhow::{Result, anyhow};

use crate::report::Report;

/// How long and how often to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Interleaved repeats.
    pub repeats: u32,
    /// Seconds of load per measurement.
    pub seconds: f64,
}

/// One scenario.
pub struct Scenario {
    /// What `run` takes.
    pub name: &'static str,
    /// One line for `list`.
    pub purpose: &'static str,
    run: fn(&Options) -> Result<Report>,
}

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// When the rig cannot be built; a measurement that breaks a validity rule is a report, not an
    /// error.
    pub fn run(&self, options: &Options) -> Result<Report> {
        (self.run)(options)
    }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "egress-snat",
        purpose: "pod to outside with SNAT, offload off, beside the kernel path with the VPC CNI's rules",
        run: egress_snat::run,
    },
    Scenario {
        name: "pipeline",
        purpose: "the flow engine in memory: hit path by flows and batch, first packets, expiry",
        run: pipeline::run,
    },
    Scenario {
        name: "cni-add",
        purpose: "ADD and DEL at the plugin, alone and 50 at once, beside ptp with host-local",
        run: cni_add::run,
    },
];

/// Looks a scenario up.
///
/// # Errors
/// Names what there is when `name` is not among it.
pub fn by_name(name: &str) -> Result<&'static Scenario> {
    ALL.iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            anyhow!("no scenario `{name}`; there are: {}", names.join(", "))
        })
}
