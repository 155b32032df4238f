//! The scenarios by name, and what a run of one gets.

mod cni_add;
mod cps;
mod crash;
mod forwarding;
mod pipeline;
mod rr;
mod scale;
mod tcp_bulk;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};

use crate::profile::{Profile, Stages};
use crate::report::Report;

/// How long, how often and what to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Interleaved repeats.
    pub repeats: u32,
    /// Seconds of load per measurement.
    pub seconds: f64,
    /// Numbers of pods on a node.
    pub pods: Vec<u32>,
    /// Flows of the scenario `scale`.
    pub flows: u32,
}

impl Options {
    /// Time of load per measurement.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// One run: its options, and the person who waits for it.
pub struct Session {
    /// What was asked for.
    pub options: Options,
    bar: ProgressBar,
    /// What each turn's time went into, when that is asked for.
    stages: Option<Mutex<BTreeMap<String, Stages>>>,
}

impl Session {
    /// A session whose progress is drawn on standard error when that is a terminal.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let style =
            ProgressStyle::with_template("{prefix:14} {msg:38} {wide_bar} {pos}/{len} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            options,
            bar: ProgressBar::no_length().with_style(style),
            stages: None,
        }
    }

    /// The same, with every turn profiled.
    #[must_use]
    pub fn profiled(options: Options) -> Self {
        Self {
            stages: Some(Mutex::default()),
            ..Self::new(options)
        }
    }

    /// Measures one contestant's turn, and where its time goes when that is asked for.
    ///
    /// # Errors
    /// What `work` fails by; or when the kernel does not let itself be sampled.
    pub fn turn<T>(&self, who: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(stages) = &self.stages else {
            return work();
        };
        let profile = Profile::start()?;
        let outcome = work();
        let seen = profile.stop()?;
        let label = format!("{who}: {}", self.bar.message());
        let mut stages = stages.lock().unwrap_or_else(PoisonError::into_inner);
        stages.entry(label).or_default().merge(seen);
        outcome
    }

    /// The profiled turns by contestant and point.
    #[must_use]
    pub fn stages(&self) -> BTreeMap<String, Stages> {
        self.stages.as_ref().map_or_else(BTreeMap::new, |stages| {
            stages
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        })
    }

    /// `steps` more steps will come.
    pub fn expect(&self, steps: u32) {
        self.bar.inc_length(u64::from(steps));
    }

    /// Says what is done now.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }
}

/// One scenario.
pub struct Scenario {
    /// What `run` takes.
    pub name: &'static str,
    /// One line for `list`.
    pub purpose: &'static str,
    run: fn(&Session) -> Result<Report>,
}

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// When the rig cannot be built; a measurement that breaks a validity rule is a report, not an
    /// error.
    pub fn run(&self, session: &Session) -> Result<Report> {
        let started = Instant::now();
        session.bar.set_length(0);
        session.bar.reset();
        session.bar.set_prefix(self.name);
        session.say("building");
        let outcome = (self.run)(session);
        session.bar.finish_and_clear();
        let mut report = outcome?;
        report.took_seconds = started.elapsed().as_secs_f64();
        Ok(report)
    }
}

/// All of them, in the order in which `run all` takes them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "pipeline",
        purpose: "the flow engine in memory: hit path by flows and batch, first packets, expiry",
        run: pipeline::run,
    },
    Scenario {
        name: "egress-snat",
        purpose: "pod to outside with SNAT by frame size, offload on and off, beside the kernel path",
        run: forwarding::egress,
    },
    Scenario {
        name: "ingress",
        purpose: "what the outside answers, to the pod, by frame size, likewise",
        run: forwarding::ingress,
    },
    Scenario {
        name: "tcp-bulk",
        purpose: "TCP throughput out, in, between nodes and on one, 1 and 8 streams, MTU 1500 and 9001",
        run: tcp_bulk::run,
    },
    Scenario {
        name: "rr",
        purpose: "request and response by UDP and TCP, idle and at half load: p50 and p99",
        run: rr::run,
    },
    Scenario {
        name: "cps",
        purpose: "new flows a second: generated UDP and TCP SYN, and real connections",
        run: cps::run,
    },
    Scenario {
        name: "scale",
        purpose: "a million flows of 250 pods against 64 of 4: the same packets' node cost",
        run: scale::run,
    },
    Scenario {
        name: "crash",
        purpose: "kill -9 of the dataplane under load: lost packets, gap, resets, worst of many",
        run: crash::run,
    },
    Scenario {
        name: "cni-add",
        purpose: "ADD and DEL at the plugin, alone and 50 at once, beside ptp with host-local",
        run: cni_add::run,
    },
];

/// Looks scenarios up; `all` stands for all of them.
///
/// # Errors
/// Names what there is when one is not among it.
pub fn by_names(names: &[String]) -> Result<Vec<&'static Scenario>> {
    if names.iter().any(|name| name == "all") {
        return Ok(ALL.iter().collect());
    }
    names.iter().map(|name| by_name(name)).collect()
}

/// Looks a scenario up.
///
/// # Errors
/// Names what there is when `name` is not among it.
pub fn by_name(name: &str) -> Result<&'static Scenario> {
    ALL.iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
            anyhow!("no scenario `{name}`; there are: all, {}", names.join(", "))
        })
}
