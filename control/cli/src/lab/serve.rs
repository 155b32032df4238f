//! The owner of a lab: holds it until asked to let go.
//!
//! Guarantees: a signal at any time, also while the lab is still being built, ends in an orderly
//! teardown; so does a starter that is gone before the lab is up.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::unistd::{dup2_stderr, dup2_stdout, setsid};
use penstock_control_api::frame;
use penstock_lab::{Lab, Pod};

use super::{LabShape, READY, directory_of, socket_of};
use crate::failure::Failure;

/// Why a lab ends.
enum End {
    Signal,
    /// Somebody connected; they are told how it went.
    Asked(UnixStream),
}

/// Brings the lab up, says so on `output`, and keeps it until the end.
pub(super) fn serve(
    shape: &LabShape,
    detach: bool,
    output: &mut impl Write,
) -> Result<(), Failure> {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    if detach {
        // Out of the terminal's reach: Ctrl-C there must not end the lab. A process group leader,
        // which is in a session of its own already, is refused.
        let _ = setsid();
    }
    let (ends, end) = channel();
    let signals = ends.clone();
    ctrlc::set_handler(move || {
        // Nobody listens any more when the teardown has begun.
        let _ = signals.send(End::Signal);
    })
    .map_err(|error| Failure::Lab(format!("cannot handle signals: {error}")))?;

    let lab = Lab::up(shape.config())?;
    let pods = if shape.bare {
        Vec::new()
    } else {
        furnish(&lab, shape)?
    };
    listen(shape, ends)?;
    writeln!(output, "{READY}")?;
    output.flush()?;
    if detach {
        leave_terminal(shape)?;
    }
    wait_and_tear_down(lab, pods, &end)
}

/// Daemons and pods.
fn furnish(lab: &Lab, shape: &LabShape) -> Result<Vec<Pod>, Failure> {
    let mut pods = Vec::new();
    for node in lab.nodes() {
        if !shape.no_dataplane {
            node.start_dataplane(&[])?;
        }
        node.start_control(&[])?;
        for number in 1..=shape.pods {
            let name = format!("{}-pod{number}", node.name());
            pods.push(node.add_pod("default", &name)?);
        }
    }
    Ok(pods)
}

fn listen(shape: &LabShape, ends: Sender<End>) -> Result<(), Failure> {
    let listener = UnixListener::bind(socket_of(&shape.lab.id))?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            if ends.send(End::Asked(stream)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Standard output and error go to a log beside the lab's other files.
fn leave_terminal(shape: &LabShape) -> Result<(), Failure> {
    let log = File::create(directory_of(&shape.lab.id).join("owner.log"))?;
    dup2_stdout(&log)
        .and_then(|()| dup2_stderr(&log))
        .map_err(|errno| Failure::Lab(format!("cannot leave the terminal: {errno}")))
}

fn wait_and_tear_down(lab: Lab, pods: Vec<Pod>, end: &Receiver<End>) -> Result<(), Failure> {
    let end = end.recv().unwrap_or(End::Signal);
    drop(pods);
    let outcome = lab.down();
    if let End::Asked(mut stream) = end {
        let problem = outcome
            .as_ref()
            .map_or_else(ToString::to_string, |()| String::new());
        // Who asked may have left; the lab is down all the same.
        let _ = frame::write(&mut stream, &problem);
    }
    outcome.map_err(Failure::from)
}
