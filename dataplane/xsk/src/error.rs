//! Errors of set-up calls: what was tried, on what, and what the operator can do.
//!
//! Guarantees: every message names the operation and its object and ends with something to do.
//! The packet path has no errors, only counters.

use std::io;

/// Why a UMEM or a port could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A value in the configuration that the kernel would refuse. Retrying does not help.
    #[error("{what} must be {expected}, not {got}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// Huge pages were required and there are none. Retry after reserving them.
    #[error(
        "cannot reserve {bytes} bytes of 2 MiB huge pages for packet memory: {source}. \
         Reserve them with `sysctl vm.nr_hugepages=N`, or let the dataplane fall back to \
         ordinary pages"
    )]
    HugePages {
        /// Bytes asked for.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The driver has no zero-copy AF_XDP for this queue. Retrying does not help.
    #[error(
        "{object} has no zero-copy AF_XDP (driver, MTU or ring settings refuse it): {source}. \
         Use copy mode for this interface"
    )]
    ZeroCopyUnsupported {
        /// Interface and queue.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another socket held the queue for as long as we were willing to wait.
    #[error(
        "{object} is bound to another AF_XDP socket and was not released within {waited_ms} ms: \
         {source}. Stop the process that holds it (`ss --xdp` lists them)"
    )]
    Busy {
        /// Interface and queue.
        object: String,
        /// How long we tried.
        waited_ms: u128,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Any other refusal.
    #[error("cannot {op} for {object}: {source}. {advice}")]
    Os {
        /// The operation.
        op: &'static str,
        /// Its object.
        object: String,
        /// What to do.
        advice: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl SetupError {
    pub(crate) fn os(op: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        let advice = setup_advice(&source);
        Self::Os {
            op,
            object: object.into(),
            advice,
            source,
        }
    }
}

/// What an `errno` of an AF_XDP set-up call asks the operator to do (net/xdp/xsk.c, xdp_umem.c).
fn setup_advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "Run with CAP_NET_RAW, and with CAP_IPC_LOCK or a large enough RLIMIT_MEMLOCK"
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => {
            "Raise RLIMIT_MEMLOCK (or grant CAP_IPC_LOCK), free memory, or configure fewer frames"
        }
        Some(libc::EOPNOTSUPP) => {
            "The driver or the kernel lacks this feature: use copy mode, or turn multi-buffer off"
        }
        Some(libc::EINVAL) => {
            "Check that the queue exists (`ethtool -l`); before Linux 6.6, turn multi-buffer off"
        }
        Some(libc::ENODEV) => "The interface is gone: check `ip link`",
        Some(libc::ENETDOWN) => "The interface is down: set it up first",
        Some(libc::EAFNOSUPPORT) => "The kernel has no AF_XDP: build it with CONFIG_XDP_SOCKETS=y",
        Some(libc::EMFILE | libc::ENFILE) => "Raise the limit of open files (RLIMIT_NOFILE)",
        _ => "See the kernel log for the driver's reason",
    }
}

/// Why a BPF program could not be attached. Nothing was detached or replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Another program is attached. Retry after it is gone.
    #[error(
        "cannot attach {what} to {object}: another program is attached and was left alone: \
         {source}. Find it with `bpftool net show`, remove it if it is not needed, then retry"
    )]
    Foreign {
        /// The kind of program.
        what: &'static str,
        /// The interface.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The driver, its settings or the kernel cannot take the program.
    #[error(
        "cannot attach {what} to {object}: {source}. The driver or kernel does not support it with \
         the present MTU and queues: lower the MTU, halve the queues (`ethtool -L`), or use \
         another uplink mode"
    )]
    Unsupported {
        /// The kind of program.
        what: &'static str,
        /// The interface.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Capabilities are missing.
    #[error("cannot attach {what} to {object}: {source}. Run with CAP_BPF and CAP_NET_ADMIN")]
    Permission {
        /// The kind of program.
        what: &'static str,
        /// The interface.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Any other refusal.
    #[error("cannot attach {what} to {object}: {source}. Check that the interface exists")]
    Os {
        /// The kind of program.
        what: &'static str,
        /// The interface.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Why an ethtool request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EthtoolError {
    /// The kernel or driver refused. Retrying helps only after the cause is gone.
    #[error("cannot {op} of {ifname}: {source}. {advice}")]
    Os {
        /// The operation.
        op: &'static str,
        /// The interface.
        ifname: String,
        /// What to do.
        advice: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The driver accepted the request and kept its old setting.
    #[error(
        "{ifname} keeps {feature} {kept} although the driver accepted the change. \
         See `ethtool -k {ifname}`: a [fixed] feature cannot be changed"
    )]
    Kept {
        /// The interface.
        ifname: String,
        /// The feature.
        feature: &'static str,
        /// `on` or `off`: its setting now.
        kept: &'static str,
    },
}
