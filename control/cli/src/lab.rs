//! `penstock lab`: a VPC on one machine, brought up, looked into and taken down by hand.
//!
//! `up` starts this same binary again as `lab serve`, which owns the lab until `down` (or a signal)
//! ends it; the two speak over a socket in the lab's directory, so no process id is ever guessed.
//! What a crashed owner left is removed by `down` and `sweep`.

mod enter;
mod serve;

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use penstock_control_api::frame;
use penstock_lab::LabConfig;

use crate::demo::{self, DemoOptions};
use crate::failure::Failure;
use crate::table::{Column, View, number, text};

/// Longest a `down` waits for the owner to take everything down.
const DOWN_DEADLINE: Duration = Duration::from_secs(60);

/// What `serve` writes when the lab is up; the only line of its standard output.
const READY: &str = "up";

const DEFAULT_ID: &str = "lab";

/// `penstock lab`'s commands.
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    /// Bring a lab up and leave it running.
    Up(LabShape),
    /// Show the main job from end to end, each claim proved by a counter.
    Demo(DemoOptions),
    /// Take a lab down; succeeds when there is none.
    Down(LabId),
    /// Run a command in the network namespace of a node, a pod, `outside` or `fabric`.
    Exec {
        #[command(flatten)]
        lab: LabId,
        /// `node1`, a pod's name, `outside` or `fabric`.
        place: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Show the labs of this machine.
    List {
        /// Output format.
        #[arg(
            short = 'o',
            long = "output",
            value_name = "FORMAT",
            default_value = "table"
        )]
        format: crate::arguments::Format,
    },
    /// Remove what crashed labs left behind; labs that run are not touched.
    Sweep,
    /// Own a lab until it is taken down; what `up` starts in the background.
    #[command(hide = true)]
    Serve {
        #[command(flatten)]
        shape: LabShape,
        /// Leave the terminal once the lab is up.
        #[arg(long)]
        detach: bool,
    },
}

/// Which lab.
#[derive(Debug, Clone, Args)]
pub(crate) struct LabId {
    /// Name of the lab: up to 16 lower-case letters and digits.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ID)]
    pub(crate) id: String,
}

/// What the lab is made of.
#[derive(Debug, Clone, Args)]
pub(crate) struct LabShape {
    #[command(flatten)]
    pub(crate) lab: LabId,
    /// Number of nodes.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub(crate) nodes: usize,
    /// Pods on each node.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    pub(crate) pods: usize,
    /// EC2 instance type of the nodes: decides how many ENIs and addresses they have.
    #[arg(long, value_name = "TYPE", default_value = "m5.large")]
    pub(crate) instance_type: String,
    /// Bytes of IP packet the VPC carries.
    #[arg(long, value_name = "BYTES", default_value_t = 9001)]
    pub(crate) mtu: u32,
    /// Leave the dataplane out: traffic takes the kernel path.
    #[arg(long)]
    pub(crate) no_dataplane: bool,
    /// Only the network and the cloud: no daemons, no pods.
    #[arg(long, conflicts_with = "no_dataplane")]
    pub(crate) bare: bool,
}

impl LabShape {
    fn config(&self) -> LabConfig {
        LabConfig {
            id: self.lab.id.clone(),
            nodes: self.nodes,
            instance_type: self.instance_type.clone(),
            mtu: self.mtu,
            ..LabConfig::default()
        }
    }

    /// The same shape as `serve` takes it.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--id={}", self.lab.id),
            format!("--nodes={}", self.nodes),
            format!("--pods={}", self.pods),
            format!("--instance-type={}", self.instance_type),
            format!("--mtu={}", self.mtu),
        ];
        let switches = [("--no-dataplane", self.no_dataplane), ("--bare", self.bare)];
        arguments.extend(
            switches
                .iter()
                .filter(|(_, on)| *on)
                .map(|(switch, _)| (*switch).to_owned()),
        );
        arguments
    }
}

/// Runs one of the commands.
pub(crate) fn run(command: &LabCommand, output: &mut impl Write) -> Result<ExitCode, Failure> {
    match command {
        LabCommand::Up(shape) => up(shape, output)?,
        LabCommand::Demo(options) => return demo::run(options, output),
        LabCommand::Down(lab) => down(&lab.id, output)?,
        LabCommand::Exec {
            lab,
            place,
            command,
        } => enter::exec(&lab.id, place, command)?,
        LabCommand::List { format } => list()?.write(*format, true, output)?,
        LabCommand::Sweep => sweep(output)?,
        LabCommand::Serve { shape, detach } => serve::serve(shape, *detach, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(shape: &LabShape, output: &mut impl Write) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let mut owner = Command::new(program)
        .args(["lab", "serve", "--detach"])
        .args(shape.arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = owner.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    if line.trim_end() != READY {
        // It has said why on standard error, which it shares with us.
        let status = owner.wait()?;
        return Err(Failure::Lab(format!(
            "lab {} did not come up ({status})",
            shape.lab.id
        )));
    }
    let id = &shape.lab.id;
    let option = if id == DEFAULT_ID {
        String::new()
    } else {
        format!(" --id {id}")
    };
    writeln!(output, "Lab {id} is up. Try:")?;
    writeln!(
        output,
        "  penstock lab exec{option} node1 -- penstock status"
    )?;
    writeln!(output, "  penstock lab exec{option} node1 -- ip address")?;
    writeln!(output, "  penstock lab down{option}")?;
    Ok(())
}

fn down(id: &str, output: &mut impl Write) -> Result<(), Failure> {
    if let Ok(mut stream) = UnixStream::connect(socket_of(id)) {
        stream.set_read_timeout(Some(DOWN_DEADLINE))?;
        let answer: Option<String> = frame::read(&mut stream, frame::MAX_MESSAGE_BYTES)?;
        return match answer {
            Some(problem) if problem.is_empty() => {
                writeln!(output, "Lab {id} is down.").map_err(Failure::from)
            }
            Some(problem) => Err(Failure::Lab(problem)),
            None => Err(Failure::Lab(format!(
                "the owner of lab {id} ended without a word; run `penstock lab sweep`"
            ))),
        };
    }
    if penstock_lab::sweep(id)? {
        writeln!(output, "Lab {id} had crashed; what it left is removed.")?;
        return Ok(());
    }
    if penstock_lab::list()?.iter().any(|known| known == id) {
        return Err(Failure::Lab(format!(
            "lab {id} belongs to a running test or demo; end that to take it down"
        )));
    }
    writeln!(output, "There is no lab {id}.")?;
    Ok(())
}

fn sweep(output: &mut impl Write) -> Result<(), Failure> {
    for id in penstock_lab::sweep_stale()? {
        writeln!(output, "Removed what lab {id} had left.")?;
    }
    Ok(())
}

fn list() -> Result<View, Failure> {
    const COLUMNS: &[Column] = &[text("LAB"), text("OWNER"), number("NODES"), number("PODS")];
    let mut ids = penstock_lab::list()?;
    ids.sort();
    let (mut rows, mut json) = (Vec::new(), Vec::new());
    for id in ids {
        let places = enter::places(&id)?;
        let count = |prefix: &str| places.iter().filter(|p| p.starts_with(prefix)).count();
        let owner = if socket_of(&id).exists() {
            "penstock lab"
        } else {
            "another process"
        };
        let (nodes, pods) = (count("node"), count("pod-"));
        json.push(serde_json::json!({ "id": id, "owner": owner, "nodes": nodes, "pods": pods }));
        rows.push(vec![
            id,
            owner.to_owned(),
            nodes.to_string(),
            pods.to_string(),
        ]);
    }
    Ok(View {
        json: json.into(),
        columns: COLUMNS,
        rows,
    })
}

fn directory_of(id: &str) -> PathBuf {
    Path::new(penstock_lab::DIRECTORY).join(id)
}

/// Where the owner of a lab listens.
fn socket_of(id: &str) -> PathBuf {
    directory_of(id).join("owner.sock")
}

impl From<penstock_lab::Error> for Failure {
    fn from(error: penstock_lab::Error) -> Self {
        let denied = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<io::Error>())
            .is_some_and(|source| source.kind() == io::ErrorKind::PermissionDenied);
        let advice = if denied {
            "\nA lab needs root: use sudo."
        } else {
            ""
        };
        Self::Lab(format!("{error}{advice}"))
    }
}
