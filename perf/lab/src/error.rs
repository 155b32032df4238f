//! What can go wrong while a lab is built, driven or taken down.
//!
//! Every error names what was attempted on what object; those a person can mend say how.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;

/// Why a lab operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program the lab runs ended with an error.
    #[error("`{command}` failed with {status}: {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote to standard error, or to standard output when that was empty.
        output: String,
    },
    /// One of Penstock's own binaries is not where it should be.
    #[error(
        "{name} is not built: looked in {}; run `cargo build -p {name}` or set PENSTOCK_BIN_DIR",
        searched.display()
    )]
    MissingBinary {
        /// Name of the binary.
        name: String,
        /// Directory it was looked for in.
        searched: PathBuf,
    },
    /// A BPF program or map was refused.
    #[error("{what}: {cause}")]
    Bpf {
        /// What was attempted, on what.
        what: String,
        /// The cause, with libbpf's text.
        cause: String,
    },
    /// A daemon did not come up.
    #[error("{daemon} of {node} is not ready after {waited_ms} ms: {last}\nend of {}:\n{tail}", log.display())]
    NotReady {
        /// Name of the binary.
        daemon: &'static str,
        /// Name of the node.
        node: String,
        /// How long it was given.
        waited_ms: u64,
        /// What the last attempt said.
        last: String,
        /// Its log.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// The CNI plugin answered with an error.
    #[error("CNI {verb} of {pod} failed (code {code}): {message}; {details}")]
    Cni {
        /// ADD, DEL or CHECK.
        verb: String,
        /// `<namespace>/<name>`.
        pod: String,
        /// CNI error code; 0 when the plugin printed no error object.
        code: u64,
        /// `msg` of the error object, or what the plugin wrote instead.
        message: String,
        /// `details` of the error object.
        details: String,
    },
    /// The caller asked for something a lab cannot be or do.
    #[error("{0}")]
    Invalid(String),
    /// The EC2 simulator refused.
    #[error("EC2 simulator: {0}")]
    Cloud(String),
    /// A traffic probe saw something other than it should.
    #[error("{0}")]
    Traffic(String),
}

/// Result of a lab operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Gives an I/O error the name of what was attempted.
pub(crate) trait Context<T> {
    /// Wraps the error; `what` is only built when there is one.
    fn context<W: Display>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<W: Display>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|error| Error::Io {
            what: what().to_string(),
            source: error.into(),
        })
    }
}
