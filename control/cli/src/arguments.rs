//! The command line. Exit statuses are part of it: scripts and probes read them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use penstock_dataplane_api::Offload;

use crate::doctor::DoctorArguments;
use crate::explain::ExplainArguments;
use crate::health::HealthArguments;
use crate::lab::LabCommand;
use crate::monitor::MonitorArguments;
use crate::top::TopArguments;
use crate::tune::TuneArguments;

/// Status of a command line that makes no sense (EX_USAGE, sysexits.h); clap's own 2 means "down"
/// here.
pub(crate) const USAGE_EXIT: u8 = 64;

const EXIT_STATUSES: &str = "\
Exit status:
  0   all is well
  1   degraded: traffic flows, but not all as it should; or the request failed
  2   down: the daemon that was asked does not answer
  64  the command line makes no sense

Examples:
  penstock status
  penstock get pods -o wide
  penstock get drops -o json
  penstock lab up
  penstock lab exec node1 -- penstock get flows --limit 20";

const EXPLAIN_HELP: &str = "\
Exit status:
  0   forwarded, or the kernel's
  1   dropped, or the question makes no sense
  2   the dataplane does not answer: the kernel carries everything

Examples:
  penstock explain --from default/web-0 --to default/db-0:5432
  penstock explain --from default/web-0 --to 203.0.113.7:443 --bytes 9001
  penstock explain --from default/web-0 --to 203.0.113.7 --protocol icmp -o json";

const MONITOR_HELP: &str = "\
Examples:
  penstock monitor
  penstock monitor --type drop
  penstock monitor --type flow,pod --pod default/web-0
  penstock monitor --duration 60 | jq -c 'select(.reason == \"nat_ports\")'";

const HEALTH_HELP: &str = "\
Exit status:
  0   ok
  1   not ready
  2   a daemon does not answer

Examples:
  penstock health --live --of dataplane
  penstock health --ready";

const LOG_LEVEL_HELP: &str = "\
Examples:
  penstock log-level debug
  penstock log-level info,penstock_dataplane::uplink=trace";

const DOCTOR_HELP: &str = "\
Exit status:
  0   nothing is wrong (a NOTE says what would be faster)
  1   WARN: trouble under load
  2   FAIL: packets or pods are lost

Examples:
  penstock doctor
  penstock doctor --quiet
  penstock doctor -o json | jq '.[] | select(.verdict == \"FAIL\")'";

const TUNE_HELP: &str = "\
Exit status:
  0   done; with --diff, nothing differs
  1   with --diff, something differs; or it failed

Examples:
  penstock tune --diff
  penstock tune --apply
  penstock tune --apply --only netdev-max-backlog
  penstock tune --revert
  penstock tune --level may --cores 2,3 --render bottlerocket";

/// Looks inside Penstock, and brings a lab up.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, after_help = EXIT_STATUSES)]
pub(crate) struct Arguments {
    /// Run directory of the daemons, where their sockets are.
    #[arg(
        long,
        global = true,
        env = "PENSTOCK_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/penstock"
    )]
    pub(crate) run_dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Is everything well? Exits 0, 1 or 2 accordingly.
    Status {
        /// Output format.
        #[arg(
            short = 'o',
            long = "output",
            value_name = "FORMAT",
            default_value = "table"
        )]
        format: Format,
    },
    /// Show what there is.
    Get(GetArguments),
    /// Whether established flows are carried by the hooks, past the workers, until the dataplane is
    /// started again.
    Offload {
        /// The setting.
        setting: OffloadSetting,
    },
    /// Say what would become of a packet, without sending one.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(ExplainArguments),
    /// Tell what changes, one JSON object a line: drops, pods, flows, daemons.
    #[command(after_help = MONITOR_HELP)]
    Monitor(MonitorArguments),
    /// Workers, ports and drops on a live screen.
    Top(TopArguments),
    /// One word and an exit status, for probes.
    #[command(after_help = HEALTH_HELP)]
    Health(HealthArguments),
    /// Change how much the dataplane logs, until it is started again.
    #[command(after_help = LOG_LEVEL_HELP)]
    LogLevel {
        /// Filter in RUST_LOG's words.
        filter: String,
    },
    /// Read back everything the node needs: PASS, NOTE, WARN or FAIL, and what to do.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(DoctorArguments),
    /// Apply, compare or put back the node's settings; render them for a new node.
    #[command(after_help = TUNE_HELP)]
    Tune(TuneArguments),
    /// A VPC on one machine, to try things in. Needs root.
    #[command(subcommand)]
    Lab(LabCommand),
    /// Versions of this command and of the daemons.
    Version,
    /// Write the man pages, one for each command.
    Man {
        /// Directory they go to, such as /usr/share/man/man1.
        directory: PathBuf,
    },
    /// Print a shell's completion script.
    Completion {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GetArguments {
    /// What to show.
    pub(crate) resource: Resource,
    /// Output format.
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) format: Format,
    /// Leave the column names out.
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Most flows to show.
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub(crate) limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Resource {
    /// Attached pods.
    Pods,
    /// Network interfaces of the instance.
    Enis,
    /// Flows in the workers' tables.
    Flows,
    /// Dropped packets by reason, hooks and workers together.
    Drops,
    /// Worker threads.
    Workers,
    /// AF_XDP sockets.
    Ports,
    /// BPF programs.
    Hooks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OffloadSetting {
    /// Every packet goes through a worker.
    Off,
    /// Established flows are offloaded.
    Established,
}

impl From<OffloadSetting> for Offload {
    fn from(setting: OffloadSetting) -> Self {
        match setting {
            OffloadSetting::Off => Self::Off,
            OffloadSetting::Established => Self::Established,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// The daemons' own rows.
    Json,
    /// The same as YAML.
    Yaml,
    /// As table, with every column.
    Wide,
}

impl Format {
    /// Whether programs read it: nothing but the answer may be written.
    pub(crate) fn is_for_machines(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_exit_statuses_are_in_the_help() {
        let help = Arguments::command().render_help().to_string();
        for status in ["0   all is well", "1   degraded", "2   down", "64 "] {
            assert!(help.contains(status), "{help}");
        }
    }
}
