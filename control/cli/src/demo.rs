//! `penstock lab demo`: the main job shown from end to end, each claim proved by a counter.
//!
//! Brings a lab up, starts the daemons, attaches eight pods through the shim as a runtime would,
//! keeps traffic running under a live table, then checks every claim and says what proved it. What
//! it made is gone when it ends, however it ends, unless it was asked to keep it.

mod claims;
mod load;
mod screen;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use penstock_control_api::{Request, Response};
use penstock_lab::{Lab, LabConfig, Node, Pod};

use crate::failure::Failure;

/// Three ENIs of six addresses: the sixth pod of a node is on its second ENI.
const INSTANCE_TYPE: &str = "t3.medium";
/// Pods of the two nodes; the first node's last one must reach the second ENI.
const PODS: [usize; 2] = [6, 2];

/// What the demo takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoOptions {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// How long traffic runs under the live table.
    #[arg(long, value_name = "SECONDS", default_value_t = 8)]
    seconds: u64,
    /// Bytes of IP packet the VPC carries.
    #[arg(long, value_name = "BYTES", default_value_t = 9001)]
    mtu: u32,
}

/// A lab with daemons and pods.
struct Stage {
    lab: Lab,
    /// Pods by node.
    pods: Vec<Vec<Pod>>,
}

/// Runs the demo. The exit status says whether every claim held.
pub(crate) fn run(options: &DemoOptions, output: &mut impl Write) -> Result<ExitCode, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::Lab(format!("cannot catch Ctrl-C: {error}")))?;

    let stage = Stage::set(options, &interrupted, output)?;
    writeln!(
        output,
        "\nTraffic: every pod to its neighbour, the other node and the outside.\n"
    )?;
    let mut screen = screen::Screen::new(std::io::stdout().is_terminal());
    let seconds = Duration::from_secs(options.seconds);
    let load = load::Load {
        stage: &stage,
        interrupted: &interrupted,
    };
    load.run(seconds, |readings| screen.draw(readings, output))?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Lab(
            "interrupted; everything is taken down".to_owned(),
        ));
    }

    let claims = claims::prove(&stage)?;
    writeln!(output, "\nWhat was shown, and what proves it:\n")?;
    for claim in &claims {
        let mark = if claim.holds { "ok  " } else { "FAIL" };
        writeln!(output, "  {mark}  {}", claim.title)?;
        writeln!(output, "        {}", claim.proof)?;
    }
    let all = claims.iter().all(|claim| claim.holds);
    if options.keep {
        keep(&stage, &interrupted, output)?;
    }
    let verdict = if all {
        "Every claim holds."
    } else {
        "Not every claim holds."
    };
    writeln!(output, "\n{verdict}")?;
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

impl Stage {
    fn set(
        options: &DemoOptions,
        interrupted: &AtomicBool,
        output: &mut impl Write,
    ) -> Result<Self, Failure> {
        let config = LabConfig {
            nodes: PODS.len(),
            instance_type: INSTANCE_TYPE.to_owned(),
            mtu: options.mtu,
            ..LabConfig::unique("demo")
        };
        writeln!(
            output,
            "A VPC of {} {INSTANCE_TYPE} nodes on this machine ...",
            config.nodes
        )?;
        let lab = Lab::up(config)?;
        let mtu = options.mtu.to_string();
        for node in lab.nodes() {
            stop_if(interrupted)?;
            let dataplane = node.start_dataplane(&[])?;
            let control = node.start_control(&[("AWS_VPC_ENI_MTU", &mtu)])?;
            writeln!(
                output,
                "  {} {} {:<12} dataplane up in {} ms, agent ready in {} ms",
                node.name(),
                node.instance_id(),
                node.primary_address(),
                dataplane.as_millis(),
                control.as_millis()
            )?;
        }
        let mut pods = Vec::new();
        for (node, count) in lab.nodes().iter().zip(PODS) {
            pods.push(attach(node, count, interrupted, output)?);
        }
        Ok(Self { lab, pods })
    }
}

fn attach(
    node: &Node,
    count: usize,
    interrupted: &AtomicBool,
    output: &mut impl Write,
) -> Result<Vec<Pod>, Failure> {
    let mut pods = Vec::new();
    for number in 1..=count {
        stop_if(interrupted)?;
        let pod = node.add_pod("demo", &format!("{}-{number}", node.name()))?;
        let (eni, device) = eni_of(node, &pod)?;
        writeln!(
            output,
            "  pod {:<9} {:<12} of {eni} (eth{device}), attached in {} ms",
            pod.name(),
            pod.address(),
            pod.add_time().as_millis()
        )?;
        pods.push(pod);
    }
    Ok(pods)
}

/// The ENI that owns a pod's address, and its device number.
fn eni_of(node: &Node, pod: &Pod) -> Result<(String, u32), Failure> {
    match node.control_call(&Request::Pods)? {
        Response::Pods(rows) => rows
            .into_iter()
            .find(|row| row.address == pod.address())
            .map(|row| (row.eni_id, row.device_number))
            .ok_or_else(|| Failure::Lab(format!("the agent does not know {}", pod.address()))),
        other => Err(Failure::Lab(format!("the agent answered {other:?}"))),
    }
}

fn stop_if(interrupted: &AtomicBool) -> Result<(), Failure> {
    if interrupted.load(Ordering::Relaxed) {
        return Err(Failure::Lab(
            "interrupted; everything is taken down".to_owned(),
        ));
    }
    Ok(())
}

/// Says what to try and waits for Ctrl-C.
fn keep(stage: &Stage, interrupted: &AtomicBool, output: &mut impl Write) -> Result<(), Failure> {
    let node = &stage.lab.nodes()[0];
    let run_dir = node.run_dir();
    let run_dir = run_dir.display();
    let pod = &stage.pods[0][0];
    writeln!(
        output,
        "\nIt keeps running. In another terminal, as root, try:\n"
    )?;
    writeln!(output, "  penstock --run-dir {run_dir} status")?;
    writeln!(output, "  penstock --run-dir {run_dir} get flows")?;
    writeln!(output, "  penstock --run-dir {run_dir} get drops")?;
    writeln!(
        output,
        "  ip netns exec {} ping {}",
        pod.netns().name(),
        stage.pods[1][0].address()
    )?;
    writeln!(output, "\nCtrl-C takes everything down.")?;
    output.flush()?;
    while !interrupted.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(200));
    }
    Ok(())
}
