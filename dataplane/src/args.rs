//! What the daemon can be told: flags, their environment variables, defaults and bounds.
//!
//! Every bound is checked here, so that the rest of the crate can rely on [`Args`].

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use penstock_dataplane_api as api;

use crate::cpu::CoreList;

/// Most worker threads; the hooks' per-worker arrays are sized for it.
pub const MAX_WORKERS: u32 = 64;

/// Pinned AF_XDP workers for the pods of this node.
#[derive(Debug, Clone, Parser)]
#[command(name = "penstock-dataplane", version)]
pub struct Args {
    /// Directory of the socket; created with mode 0700 when absent.
    #[arg(long, env = "PENSTOCK_RUN_DIR", default_value = "/run/penstock")]
    pub run_dir: PathBuf,

    /// Directory where hooks and the flows they carry stay should the daemon die, and where the
    /// next start takes them over; a BPF file system is mounted there. Default: `bpf` in the
    /// directory of the socket.
    #[arg(long, env = "PENSTOCK_PINS")]
    pub pins: Option<PathBuf>,

    /// Remove what a dead dataplane left (hooks, flows, trunk, socket), and exit.
    #[arg(long)]
    pub remove: bool,

    /// Worker threads; each takes one queue of the trunk and its share of every uplink's queues.
    #[arg(long, env = "PENSTOCK_WORKERS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WORKERS)))]
    pub workers: u32,

    /// Cores to pin workers to, such as 2,4-6; default: the allowed cores, highest first.
    #[arg(long, env = "PENSTOCK_CORES")]
    pub cores: Option<CoreList>,

    /// What a worker without packets does: spin at 100 % of its core, or sleep in poll(2).
    #[arg(long, env = "PENSTOCK_IDLE", value_enum, default_value = "poll")]
    pub idle: Idle,

    /// Frames of 4096 bytes in each worker's UMEM.
    #[arg(long, env = "PENSTOCK_UMEM_FRAMES", default_value_t = 24_576,
          value_parser = clap::value_parser!(u32).range(4_096..=1_048_576))]
    pub umem_frames: u32,

    /// IPv4 flows each worker's table has room for, at 190 to 230 bytes each.
    #[arg(long, env = "PENSTOCK_FLOWS", default_value_t = 131_072,
          value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    pub flows: u32,

    /// IPv6 flows each worker's table has room for, at 210 to 250 bytes each.
    #[arg(long, env = "PENSTOCK_FLOWS6", default_value_t = 65_536,
          value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    pub flows6: u32,

    /// Whether established flows are carried by the hooks, past the workers; can be switched later.
    #[arg(
        long,
        env = "PENSTOCK_OFFLOAD",
        value_enum,
        default_value = "established"
    )]
    pub offload: Offload,

    /// Huge pages for the UMEM.
    #[arg(long, env = "PENSTOCK_HUGE_PAGES", value_enum, default_value = "try")]
    pub huge_pages: HugePages,

    /// Shape of the log lines on standard error; `RUST_LOG` filters them.
    #[arg(long, env = "PENSTOCK_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

impl Args {
    /// Directory of the pins.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        let pins = self.pins.clone();
        pins.unwrap_or_else(|| self.run_dir.join("bpf"))
    }
}

/// What a worker without packets does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Never sleep: lowest latency, a whole core.
    Spin,
    /// Sleep in poll(2) after a short while without packets.
    Poll,
}

/// Which flows the hooks carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Offload {
    /// None: every packet goes through a worker.
    Off,
    /// Established ones.
    Established,
}

impl From<Offload> for api::Offload {
    fn from(setting: Offload) -> Self {
        match setting {
            Offload::Off => Self::Off,
            Offload::Established => Self::Established,
        }
    }
}

/// Whether the UMEM lies in huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HugePages {
    /// When the kernel has them to give.
    Try,
    /// Never.
    Never,
    /// Refuse to start without.
    Require,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_own_bounds() {
        let args = Args::try_parse_from(["penstock-dataplane"]).unwrap();
        assert_eq!(args.workers, 1);
        assert_eq!(args.idle, Idle::Poll);
        assert_eq!(args.offload, Offload::Established);
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for bad in [
            ["--workers", "0"],
            ["--workers", "65"],
            ["--umem-frames", "1"],
            ["--flows", "0"],
            ["--idle", "doze"],
            ["--offload", "all"],
            ["--cores", "3-1"],
        ] {
            let arguments = ["penstock-dataplane"].into_iter().chain(bad);
            assert!(Args::try_parse_from(arguments).is_err(), "{bad:?}");
        }
    }
}
