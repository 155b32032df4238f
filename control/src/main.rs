//! `penstock-control`: the node agent's process.
//!
//! Reads flags and environment, boots, serves until SIGTERM or SIGINT. On the way out it removes its socket and nothing
//! else: pods, routes, rules and the dataplane keep working without it. `install` and `uninstall` are for the container
//! runtime's directories and talk to the agent that runs.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use penstock_control::agent::Agent;
use penstock_control::boot::{Setup, boot};
use penstock_control::clock::MachineClock;
use penstock_control::config::{Config, EXIT_BAD_CONFIG, Environment};
use penstock_control::ec2::aws::{Aws, Endpoints};
use penstock_control::ec2::gate::Gate;
use penstock_control::ec2::{Ec2 as _, known_limits};
use penstock_control::install::{Chained, PLUGIN, Target};
use penstock_control::ipam::max_pods::{self, Primary};
use penstock_control::pages;
use penstock_control::server::Server;
use penstock_control::watch::watch_kernel;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// The Penstock node agent: addresses, ENIs, routes and rules for pods.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Without one, the agent runs.
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Directory of the daemons' sockets.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/penstock",
        global = true
    )]
    run_dir: PathBuf,
    /// Directory of what must survive a restart.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/penstock")]
    state_dir: PathBuf,
    /// How to write the log, on stderr; RUST_LOG chooses how much.
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Put the plugin and its configuration where the container runtime looks, as soon as the agent serves ADD.
    Install {
        #[command(flatten)]
        directories: Directories,
        /// The plugin to install; by default the one beside this program.
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
        /// Plugins after ours; each must be in the runtime's directory.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "portmap")]
        chain: Vec<Chained>,
        /// Seconds to wait for the agent.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        wait: u64,
    },
    /// Print how many pods a node of a type can run, for the kubelet's maxPods: by its addresses, with the settings of
    /// prefix delegation and custom networking in the environment.
    MaxPods {
        /// For example m5.large; one that is in no table here is asked of EC2.
        #[arg(long, value_name = "TYPE")]
        instance_type: String,
        /// Virtual CPUs of the type: the answer is then no more than EKS recommends, 110 below 30 and 250 from there.
        #[arg(long, value_name = "N")]
        vcpus: Option<u32>,
    },
    /// Take both away again; refused while pods are attached.
    Uninstall {
        #[command(flatten)]
        directories: Directories,
        /// Do not ask the agent: pods that are attached cannot be deleted in order afterwards.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct Directories {
    /// The container runtime's directory of plugins.
    #[arg(
        long,
        value_name = "DIR",
        env = "HOST_CNI_BIN_PATH",
        default_value = "/opt/cni/bin"
    )]
    cni_bin_dir: PathBuf,
    /// The container runtime's directory of network configurations.
    #[arg(
        long,
        value_name = "DIR",
        env = "HOST_CNI_CONFDIR_PATH",
        default_value = "/etc/cni/net.d"
    )]
    cni_conf_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log_format);
    let config = match Config::read(&Environment) {
        Ok(config) => config,
        Err(bad) => {
            for problem in &bad.problems {
                tracing::error!(problem, "bad setting");
            }
            return ExitCode::from(EXIT_BAD_CONFIG);
        }
    };
    for warning in &config.warnings {
        tracing::warn!(warning, "a setting is not honoured");
    }
    if let Some(verb) = arguments.verb {
        return match serve_verb(verb, arguments.run_dir, &config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "not done");
                ExitCode::FAILURE
            }
        };
    }
    let setup = Setup {
        run_dir: arguments.run_dir,
        state_dir: arguments.state_dir,
        config,
        meter: Arc::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(setup)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the agent cannot go on");
            ExitCode::FAILURE
        }
    }
}

/// Serves the verbs that are not the agent.
fn serve_verb(
    verb: Verb,
    run_dir: PathBuf,
    config: &Config,
) -> Result<(), Box<dyn std::error::Error>> {
    let veth_prefix = config.veth_prefix.clone();
    let target = |directories: Directories, chain| Target {
        bin_dir: directories.cni_bin_dir,
        conf_dir: directories.cni_conf_dir,
        run_dir,
        veth_prefix,
        chain,
    };
    match verb {
        Verb::Install {
            directories,
            plugin,
            chain,
            wait,
        } => {
            let plugin = match plugin {
                Some(plugin) => plugin,
                None => std::env::current_exe()?.with_file_name(PLUGIN),
            };
            let target = target(directories, chain);
            let changed = target.install(&plugin, Duration::from_secs(wait))?;
            let (bin_dir, conf_dir) = (target.bin_dir.display(), target.conf_dir.display());
            tracing::info!(changed, %bin_dir, %conf_dir, "installed");
        }
        Verb::MaxPods {
            instance_type,
            vcpus,
        } => {
            let pods = max_pods(config, &instance_type, vcpus)?;
            writeln!(std::io::stdout(), "{pods}")?;
        }
        Verb::Uninstall { directories, force } => {
            target(directories, Vec::new()).uninstall(force)?;
            tracing::info!("uninstalled");
        }
    }
    Ok(())
}

fn max_pods(
    config: &Config,
    instance_type: &str,
    vcpus: Option<u32>,
) -> Result<u32, Box<dyn std::error::Error>> {
    let limits = match known_limits(instance_type) {
        Some(limits) => limits,
        None => {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build()?.block_on(async {
                let aws = Aws::connect(&endpoints(config)).await?;
                aws.limits(instance_type).await
            })?
        }
    };
    let primary = match config.custom_networking {
        true => Primary::Host,
        false => Primary::Pods,
    };
    let kind = config.targets.kind;
    Ok(match vcpus {
        Some(vcpus) => max_pods::recommended(limits, kind, primary, vcpus),
        None => max_pods::by_addresses(limits, kind, primary),
    })
}

fn endpoints(config: &Config) -> Endpoints {
    Endpoints {
        ec2: config.ec2_endpoint.clone(),
        imds: None,
        deadline: Some(config.call_deadline),
    }
}

async fn run(setup: Setup) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The socket is taken first, so that two agents never work on one node.
    let server = Server::bind(&setup.run_dir)?;
    let (ready, agent) = watch::channel(None);
    let working = async {
        let aws = Aws::connect(&endpoints(&setup.config)).await?;
        let meter = Arc::clone(&setup.meter);
        let gate = Gate::new(Arc::new(aws), Arc::new(MachineClock), meter);
        let agent = boot(&setup, Arc::new(gate)).await?;
        ready.send_replace(Some(Arc::clone(&agent)));
        tracing::info!(run_dir = %setup.run_dir.display(), "ready");
        tokio::spawn(watch_kernel(Arc::clone(&agent)));
        tokio::spawn(sweep(Arc::clone(&agent)));
        tokio::spawn(Arc::clone(&agent).follow_cluster());
        tokio::spawn(pages::serve(Arc::clone(&agent)));
        agent.keep_in_stock().await;
        Ok::<(), Box<dyn std::error::Error>>(())
    };
    tokio::select! {
        outcome = working => outcome,
        () = server.run(agent) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

/// Time between looks for rules and routes others removed.
const REPAIR_SECONDS: u64 = 3;

/// Every second what is cheap, every thirtieth what is not.
async fn sweep(agent: Arc<Agent>) {
    for second in 0u64.. {
        agent.sweep().await;
        agent.record_restraint().await;
        if second % REPAIR_SECONDS == 0
            && let Err(error) = agent.repair().await
        {
            tracing::warn!(%error, "removed rules and routes not looked for");
        }
        if second % 30 == 29
            && let Err(error) = agent.collect_vanished().await
        {
            tracing::warn!(%error, "vanished pods not looked for");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,netlink_packet_route=error"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.with_ansi(false).init(),
    }
}
