//! A blocking caller for any service that speaks [`crate::frame`].

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame;

/// Sends one request to the socket at `path` and returns the answer.
///
/// # Errors
/// Whatever connecting, writing or reading reports; `TimedOut` or `WouldBlock` when the peer is
/// silent for `deadline`; `UnexpectedEof` when it hangs up without answering.
pub fn call<Q: Serialize, A: DeserializeOwned>(
    path: &Path,
    request: &Q,
    deadline: Duration,
) -> io::Result<A> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    frame::write(&mut stream, request)?;
    frame::read(&mut stream, frame::MAX_MESSAGE_BYTES)?
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
