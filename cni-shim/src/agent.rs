//! Calls to `penstock-control`, each under one deadline from connecting to the last byte.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use penstock_control_api::{
    Attachment, AttachmentKey, Failure, PodRow, Request, Response, SOCKET_NAME, code, frame,
};

use crate::config::{Config, ValidAttachment};
use crate::failure::{CONFIG, LIMITED, failure};

/// Longest a DEL waits before it goes on without the agent.
pub(crate) const DEL_DEADLINE: Duration = Duration::from_secs(5);
const STATUS_DEADLINE: Duration = Duration::from_secs(2);
const GC_DEADLINE: Duration = Duration::from_secs(30);

/// One request, one answer; a refusal by the agent is an error.
///
/// # Errors
/// The agent's own [`Failure`], or code 11 when it did not answer by `deadline`.
pub(crate) fn ask(
    run_dir: &Path,
    request: &Request,
    deadline: Instant,
) -> Result<Response, Failure> {
    let path = run_dir.join(SOCKET_NAME);
    match exchange(&path, request, deadline) {
        Ok(Response::Error(failure)) => Err(failure),
        Ok(response) => Ok(response),
        Err(error) => Err(failure(
            code::TRY_AGAIN,
            "penstock-control does not answer",
            format!(
                "{}: {error}; check that penstock-control runs on this node and that runDir is \
                 its --run-dir; the runtime will retry",
                path.display()
            ),
        )),
    }
}

/// As [`ask`], for the requests that are answered by an attachment.
pub(crate) fn ask_attachment(
    run_dir: &Path,
    request: &Request,
    deadline: Instant,
) -> Result<Attachment, Failure> {
    match ask(run_dir, request, deadline)? {
        Response::Attachment(attachment) => Ok(attachment),
        other => Err(unexpected(&other)),
    }
}

/// STATUS: can ADD be served?
pub(crate) fn status(config: &Config) -> Result<(), Failure> {
    let deadline = Instant::now() + STATUS_DEADLINE;
    let status = match ask(&config.run_dir, &Request::Status, deadline) {
        Ok(Response::Status(status)) => status,
        Ok(other) => return Err(unexpected(&other)),
        Err(cause) => {
            return Err(Failure {
                code: code::NOT_AVAILABLE,
                ..cause
            });
        }
    };
    if !status.ready {
        return Err(failure(
            code::NOT_AVAILABLE,
            "penstock-control is not ready to attach pods",
            status.problem,
        ));
    }
    if status.dataplane_generation == 0 {
        return Err(failure(
            LIMITED,
            "penstock-dataplane is away; traffic takes the kernel path",
            "start penstock-dataplane on this node",
        ));
    }
    Ok(())
}

/// GC: takes down every attachment of this network that the runtime no longer has.
pub(crate) fn collect_garbage(config: &Config) -> Result<(), Failure> {
    let valid = config.valid_attachments.as_deref().ok_or_else(|| {
        failure(
            CONFIG,
            "network configuration: `cni.dev/valid-attachments` is missing",
            "without the list nothing is removed",
        )
    })?;
    let deadline = Instant::now() + GC_DEADLINE;
    let pods = match ask(&config.run_dir, &Request::Pods, deadline)? {
        Response::Pods(pods) => pods,
        other => return Err(unexpected(&other)),
    };
    let problems: Vec<_> = stale(pods, &config.name, valid)
        .map(|key| Request::Del { key, generation: 0 })
        .filter_map(|request| ask(&config.run_dir, &request, deadline).err())
        .map(|failure| format!("{failure}: {}", failure.details))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(failure(
        code::KERNEL,
        format!("{} stale attachments could not be removed", problems.len()),
        problems.join("; "),
    ))
}

fn stale<'a>(
    pods: Vec<PodRow>,
    network: &'a str,
    valid: &'a [ValidAttachment],
) -> impl Iterator<Item = AttachmentKey> + 'a {
    pods.into_iter()
        .map(|pod| AttachmentKey {
            network: pod.network,
            container_id: pod.container_id,
            ifname: pod.ifname,
        })
        .filter(move |key| {
            key.network == network
                && !valid
                    .iter()
                    .any(|live| live.container_id == key.container_id && live.ifname == key.ifname)
        })
}

pub(crate) fn unexpected(response: &Response) -> Failure {
    let text: String = format!("{response:?}").chars().take(200).collect();
    failure(
        code::TRY_AGAIN,
        "penstock-control answered something else than was asked",
        format!("{text}; are shim and agent of the same release?"),
    )
}

fn exchange(path: &Path, request: &Request, deadline: Instant) -> io::Result<Response> {
    // Non-blocking: a listener that no longer accepts makes connect(2) wait without end.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    let mut stream = Timed { stream, deadline };
    frame::write(&mut stream, request)?;
    frame::read(&mut stream, frame::MAX_MESSAGE_BYTES)?
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A stream whose every call ends by the same instant, however slowly the peer drips.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
