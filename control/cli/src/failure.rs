//! What can go wrong, each with what to do next.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The daemon is not there, or silent.
    #[error(
        "{daemon} does not answer at {}: {cause}\n{}",
        path.display(),
        advice(daemon, path, cause)
    )]
    Away {
        daemon: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The daemon answered, and said no.
    #[error("{daemon} refused: {message}")]
    Refused {
        daemon: &'static str,
        message: String,
    },
    /// The lab cannot be what it was asked to be.
    #[error("{0}")]
    Lab(String),
    /// The node cannot be looked at or changed as it was asked to be.
    #[error("{0}")]
    Node(String),
    /// Standard output, or a file of the lab, cannot be read or written.
    #[error("input or output failed: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit status as documented in the help.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Away { .. } => ExitCode::from(2),
            _ => ExitCode::from(1),
        }
    }
}

fn advice(daemon: &str, path: &std::path::Path, cause: &io::Error) -> String {
    let run_dir = path.parent().unwrap_or(path).display();
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "Start it with `{daemon} --run-dir {run_dir}`, or say where it runs with --run-dir."
        ),
        io::ErrorKind::PermissionDenied => "Its socket is root's: use sudo.".to_owned(),
        io::ErrorKind::InvalidData => {
            format!("This command and {daemon} are of different releases; install the same.")
        }
        _ => format!("It is there but stuck: see its log, then restart {daemon}."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away(kind: io::ErrorKind) -> Failure {
        Failure::Away {
            daemon: "penstock-control",
            path: PathBuf::from("/run/x/control.sock"),
            cause: kind.into(),
        }
    }

    #[test]
    fn a_missing_daemon_is_named_with_how_to_start_it() {
        let text = away(io::ErrorKind::NotFound).to_string();
        assert!(text.contains("/run/x/control.sock"), "{text}");
        assert!(
            text.contains("`penstock-control --run-dir /run/x`"),
            "{text}"
        );
    }

    #[test]
    fn other_causes_get_other_advice() {
        let kinds = [
            (io::ErrorKind::PermissionDenied, "sudo"),
            (io::ErrorKind::WouldBlock, "stuck"),
            (io::ErrorKind::InvalidData, "different releases"),
        ];
        for (kind, word) in kinds {
            let text = away(kind).to_string();
            assert!(text.contains(word), "{text}");
        }
    }
}
