//! Why a hook could not be loaded, filled or attached.
//!
//! Every message names the object and, where there is something to do, what to do. Nothing here
//! retries.

use penstock_xsk::AttachError;

/// What went wrong with the hooks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// The kernel's verifier or libbpf refused the programs. Retrying does not help.
    #[error(
        "cannot load the hooks: {source}. They need kernel 6.6 or newer and CAP_BPF, CAP_NET_ADMIN \
         and CAP_PERFMON"
    )]
    Load {
        /// libbpf's report.
        #[source]
        source: libbpf_rs::Error,
    },
    /// The object lacks a map or program: the build is broken.
    #[error("the hooks' object has no {kind} `{name}`: rebuild")]
    Missing {
        /// `map` or `program`.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map refused an operation.
    #[error("cannot {op} {object} in map `{map}`: {source}")]
    Map {
        /// The operation.
        op: &'static str,
        /// The entry.
        object: String,
        /// The map.
        map: String,
        /// The kernel's answer.
        #[source]
        source: libbpf_rs::Error,
    },
    /// More of something than the maps have room for. Retrying does not help.
    #[error("{what} {got} is over the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// What was asked for.
        got: u32,
        /// How much there is room for.
        limit: u32,
    },
    /// A program could not be attached; nothing that was attached before has been detached.
    #[error("hook `{hook}`: {source}")]
    Attach {
        /// The hook.
        hook: &'static str,
        /// What the attachment reported; names the interface.
        #[source]
        source: AttachError,
    },
    /// An IPv6 flow was to be translated, which the hooks never do.
    #[error("IPv6 flows are carried untranslated; this one has a translation")]
    Translation,
    /// The offloaded flows could not be read in batches.
    #[error("cannot read the offloaded flows: {source}")]
    Walk {
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// What outlives the process could not be kept or found.
    #[error("cannot {op} {}: {source}", path.display())]
    Pin {
        /// The operation.
        op: &'static str,
        /// What it was done to.
        path: std::path::PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The object's file descriptors could not be duplicated.
    #[error("cannot keep {what}: {source}")]
    Descriptor {
        /// The object.
        what: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
}
