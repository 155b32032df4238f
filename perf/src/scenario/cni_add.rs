//! ADD and DEL as a runtime sees them: from starting the plugin to its end, alone and many at once,
//! beside the reference plugins `ptp` with `host-local` on the same machine in the same run.
//!
//! Two nodes of one lab take turns: node 1 runs Penstock, agent and dataplane included; node 2 runs
//! nothing, which is all that `ptp` needs. Where an ADD's time goes is told by the plugin itself
//! (`PENSTOCK_CNI_TIMES`) and by the agent's log.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use penstock_control_api::{Request, Response};
use penstock_lab::{Lab, LabConfig, NetNs, Node, find_binary};
use serde_json::{Value, json};

use super::Session;
use crate::report::{Chart, Figure, Report};
use crate::stats;
use crate::validity::Guard;

/// Attachments at a time, and one after the other.
const PARALLEL: usize = 50;
const ALONE: usize = 20;
/// Room for all of them while those before rest: 8 ENIs of 30 addresses.
const INSTANCE_TYPE: &str = "m5.4xlarge";
/// All ENIs from the start, so that no ADD waits for EC2; addresses rest briefly.
const SETTINGS: &[(&str, &str)] = &[("WARM_ENI_TARGET", "16"), ("IP_COOLDOWN_PERIOD", "1")];
const GROWS_WITHIN: Duration = Duration::from_secs(60);
/// Where distributions keep the reference plugins.
const REFERENCE_DIRECTORIES: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

pub(super) fn run(session: &Session) -> Result<Report> {
    session.expect(session.options.repeats);
    let guard = Guard::begin();
    let rig = Rig::build()?;
    let mut samples = Samples::default();
    for _ in 0..session.options.repeats {
        session.say("ADD and DEL");
        samples.ours.measure(&rig.ours)?;
        samples.reference.measure(&rig.reference)?;
        session.step();
    }
    let agent = agent_times(&rig.lab.nodes()[0])?;
    let mut report = Report::new("cni-add");
    for figure in samples.figures(&agent) {
        report.push(figure);
    }
    report.charts.push(samples.chart());
    guard.judge(&mut report);
    Ok(report)
}

struct Rig {
    // Sandboxes go before the lab they are in.
    ours: Contestant,
    reference: Contestant,
    lab: Lab,
}

impl Rig {
    fn build() -> Result<Self> {
        let config = LabConfig {
            instance_type: INSTANCE_TYPE.to_owned(),
            ..LabConfig::unique("cni")
        };
        let lab = Lab::up(config)?;
        let [node, other] = lab.nodes() else {
            bail!("the lab has two nodes");
        };
        node.start_dataplane(&[])?;
        node.start_control(SETTINGS)?;
        wait_grown(node)?;
        let ours = Contestant::new(
            node,
            find_binary("penstock-cni")?,
            json!({
                "cniVersion": "1.0.0", "name": penstock_lab::NETWORK, "type": "penstock-cni",
                "vethPrefix": "eni", "runDir": node.run_dir(),
            }),
        )?;
        let plugins = REFERENCE_DIRECTORIES.iter().map(Path::new);
        let ptp = plugins.map(|directory| directory.join("ptp"));
        let ptp = ptp.into_iter().find(|path| path.exists());
        let reference = Contestant::new(
            other,
            ptp.context(
                "the reference plugins are not here; `cargo xtask packages` installs them",
            )?,
            json!({
                "cniVersion": "1.0.0", "name": "reference", "type": "ptp",
                "ipam": {
                    "type": "host-local", "subnet": "10.200.0.0/16",
                    "dataDir": other.directory().join("host-local"),
                },
            }),
        )?;
        Ok(Self {
            ours,
            reference,
            lab,
        })
    }
}

/// Waits until no ADD will have to wait for an address.
fn wait_grown(node: &Node) -> Result<()> {
    let deadline = Instant::now() + GROWS_WITHIN;
    loop {
        match node.control_call(&Request::Status)? {
            Response::Status(status) if status.pool.total == status.pool.limit => return Ok(()),
            Response::Status(_) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(50));
            }
            other => bail!("the pool did not grow: {other:?}"),
        }
    }
}

/// One plugin on its node, with sandboxes to attach.
struct Contestant {
    node: NetNs,
    plugin: PathBuf,
    config: String,
    sandboxes: Vec<NetNs>,
}

/// What one call of a plugin took, and what it said of itself.
struct Call {
    took: Duration,
    times: Value,
}

impl Contestant {
    fn new(node: &Node, plugin: PathBuf, config: Value) -> Result<Self> {
        let name = node.netns().name();
        let sandbox = |n| NetNs::create(&format!("{name}-p{n}"));
        Ok(Self {
            node: NetNs::open(name)?,
            plugin,
            config: config.to_string(),
            sandboxes: (0..PARALLEL).map(sandbox).collect::<Result<_, _>>()?,
        })
    }

    /// Runs the plugin as a runtime does; `serial` makes the container's id unique.
    fn call(&self, verb: &str, sandbox: &NetNs, serial: &str) -> Result<Call> {
        let name = sandbox.name();
        let id = format!("{name}-{serial}");
        let directory = self.plugin.with_file_name("");
        let mut command = Command::new(&self.plugin);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &id)
            .env("CNI_NETNS", sandbox.path())
            .env("CNI_IFNAME", penstock_lab::IFNAME)
            .env("CNI_PATH", directory)
            .env(
                "CNI_ARGS",
                format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=perf;K8S_POD_NAME={id}"),
            )
            .env("PENSTOCK_CNI_TIMES", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let timed = || -> std::io::Result<_> {
            let started = Instant::now();
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(self.config.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            Ok((output, started.elapsed()))
        };
        let (output, took) = self.node.run(timed)??;
        let words = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{verb} of {id}: {words}");
        let times = serde_json::from_slice(&output.stderr).unwrap_or(Value::Null);
        Ok(Call { took, times })
    }

    /// The same call for all sandboxes, begun at the same moment.
    fn at_once(&self, verb: &str, serial: &str) -> Result<Vec<Call>> {
        let barrier = Barrier::new(self.sandboxes.len());
        thread::scope(|scope| {
            let start = |sandbox| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    self.call(verb, sandbox, serial)
                })
            };
            let threads: Vec<_> = self.sandboxes.iter().map(start).collect();
            let joined = threads.into_iter().map(|thread| {
                let panicked = |_| anyhow::anyhow!("a thread panicked");
                thread.join().map_err(panicked)?
            });
            joined.collect()
        })
    }
}

/// Milliseconds: one value per repeat, or per ADD where it says so.
#[derive(Default)]
struct Times {
    add_alone: Vec<f64>,
    del_alone: Vec<f64>,
    add_p50: Vec<f64>,
    add_p99: Vec<f64>,
    del_p50: Vec<f64>,
    del_p99: Vec<f64>,
    /// What the plugin said of each ADD alone.
    parts: Vec<Value>,
    repeats: u32,
}

#[derive(Default)]
struct Samples {
    ours: Times,
    reference: Times,
}

impl Times {
    fn measure(&mut self, contestant: &Contestant) -> Result<()> {
        self.repeats += 1;
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        for n in 0..ALONE {
            let serial = format!("{}-{n}", self.repeats);
            let sandbox = &contestant.sandboxes[n % contestant.sandboxes.len()];
            let add = contestant.call("ADD", sandbox, &serial)?;
            adds.push(add.took);
            self.parts.push(add.times);
            dels.push(contestant.call("DEL", sandbox, &serial)?.took);
        }
        self.add_alone.push(percentile(&mut adds, 50));
        self.del_alone.push(percentile(&mut dels, 50));
        let serial = format!("{}-all", self.repeats);
        let took = |calls: Vec<Call>| calls.iter().map(|call| call.took).collect::<Vec<_>>();
        let mut adds = took(contestant.at_once("ADD", &serial)?);
        let mut dels = took(contestant.at_once("DEL", &serial)?);
        self.add_p50.push(percentile(&mut adds, 50));
        self.add_p99.push(percentile(&mut adds, 99));
        self.del_p50.push(percentile(&mut dels, 50));
        self.del_p99.push(percentile(&mut dels, 99));
        Ok(())
    }

    /// A part of an ADD, in milliseconds.
    fn part(&self, key: &str) -> Vec<f64> {
        let micros = self.parts.iter().filter_map(|times| times[key].as_f64());
        micros.map(|micros| micros / 1000.0).collect()
    }
}

/// Milliseconds; nearest rank.
fn percentile(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort_unstable();
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    let chosen = samples.get(rank - 1).copied().unwrap_or_default();
    chosen.as_secs_f64() * 1e3
}

/// What the agent's log says of each attachment: (its field, milliseconds).
fn agent_times(node: &Node) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let log = std::fs::read_to_string(node.control_log())?;
    let live: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|event| event["fields"]["message"] == "pod is live")
        .collect();
    let field = |name: &'static str| {
        let micros = live
            .iter()
            .filter_map(|event| event["fields"][name].as_f64());
        (name, micros.map(|micros| micros / 1000.0).collect())
    };
    Ok(["path_us", "record_us", "hooks_us", "raise_us"]
        .map(field)
        .into())
}

impl Samples {
    fn figures(&self, agent: &[(&'static str, Vec<f64>)]) -> Vec<Figure> {
        let (ours, theirs) = (&self.ours, &self.reference);
        let ms = |name: &str, values: &[f64]| Figure::new(name, "ms", values);
        let mut figures = vec![
            ms("ADD alone", &ours.add_alone),
            ms("ADD, 50 at once, p50", &ours.add_p50),
            ms("ADD, 50 at once, p99", &ours.add_p99),
            ms("DEL alone", &ours.del_alone),
            ms("DEL, 50 at once, p50", &ours.del_p50),
            ms("DEL, 50 at once, p99", &ours.del_p99),
        ];
        for (name, key) in [
            ("of an ADD alone: start and namespaces", "open_us"),
            ("of an ADD alone: agent reserves", "reserve_us"),
            ("of an ADD alone: veth pair by netlink", "netlink_us"),
            ("of an ADD alone: agent makes it live", "confirm_us"),
        ] {
            figures.push(ms(name, &ours.part(key)));
        }
        for (key, values) in agent {
            let name = match *key {
                "path_us" => "agent, all ADDs: rules and neighbour",
                "record_us" => "agent, all ADDs: record on disk, meanwhile",
                "hooks_us" => "agent, all ADDs: dataplane and hooks, meanwhile",
                _ => "agent, all ADDs: link up and route",
            };
            figures.push(ms(name, values));
        }
        let reference = "ptp with host-local";
        let pairs = [
            ("ADD alone", &ours.add_alone, &theirs.add_alone),
            ("ADD, 50 at once, p50", &ours.add_p50, &theirs.add_p50),
            ("ADD, 50 at once, p99", &ours.add_p99, &theirs.add_p99),
            ("DEL alone", &ours.del_alone, &theirs.del_alone),
            ("DEL, 50 at once, p50", &ours.del_p50, &theirs.del_p50),
            ("DEL, 50 at once, p99", &ours.del_p99, &theirs.del_p99),
        ];
        for (name, ours, theirs) in pairs {
            figures.push(ms(&format!("{reference}: {name}"), theirs));
            let ratio = stats::ratios(ours, theirs);
            figures.push(Figure::new(format!("{name}, ratio"), "ratio", &ratio).against(reference));
        }
        figures
    }

    fn chart(&self) -> Chart {
        let names = ["alone", "50 at once, p50", "50 at once, p99"];
        let names = names.map(str::to_owned).into();
        let mut chart = Chart::bars("ADD as the runtime sees it", "pods", names, "ms");
        for (name, times) in [
            ("Penstock", &self.ours),
            ("ptp with host-local", &self.reference),
        ] {
            let values = [&times.add_alone, &times.add_p50, &times.add_p99];
            let bars = values.iter().enumerate();
            chart.add(
                name,
                bars.map(|(at, samples)| (at as f64, stats::median(samples)))
                    .collect(),
            );
        }
        chart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut samples: Vec<_> = (1..=50).rev().map(Duration::from_millis).collect();
        assert!((percentile(&mut samples, 50) - 25.0).abs() < 1e-9);
        assert!((percentile(&mut samples, 99) - 50.0).abs() < 1e-9);
        assert!((percentile(&mut samples[..1], 50) - 1.0).abs() < 1e-9);
    }
}
