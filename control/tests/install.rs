//! Installing and removing the plugin, with an agent that answers on a real socket.

#![expect(clippy::unwrap_used, reason = "the fixtures of a test may fail it")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use penstock_control::install::{CONFLIST, Chained, InstallError, PLUGIN, Target};
use penstock_control_api::{
    MAX_REQUEST_BYTES, PodRow, PoolReport, Request, Response, SOCKET_NAME, Status, frame,
};
use serde_json::Value;

const NO_PATIENCE: Duration = Duration::ZERO;

struct Host {
    directory: tempfile::TempDir,
    ready_after: Arc<AtomicU32>,
    pods: Arc<Mutex<Vec<PodRow>>>,
}

impl Host {
    /// An agent that is ready after it was asked `ready_after` times.
    fn new(ready_after: u32) -> Self {
        let host = Self {
            directory: tempfile::tempdir().unwrap(),
            ready_after: Arc::new(AtomicU32::new(ready_after)),
            pods: Arc::default(),
        };
        for part in ["run", "bin", "net.d"] {
            fs::create_dir(host.path(part)).unwrap();
        }
        fs::write(host.path("bin/portmap"), "").unwrap();
        host.write_plugin("echo '{\"supportedVersions\":[\"1.1.0\"]}'");
        let listener = UnixListener::bind(host.path("run").join(SOCKET_NAME)).unwrap();
        let (ready_after, pods) = (Arc::clone(&host.ready_after), Arc::clone(&host.pods));
        // Lives as long as the test process.
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let answer = match frame::read::<Request>(&mut stream, MAX_REQUEST_BYTES) {
                    Ok(Some(Request::Pods)) => Response::Pods(pods.lock().unwrap().clone()),
                    _ => Response::Status(Box::new(status(&ready_after))),
                };
                let _ = frame::write(&mut stream, &answer);
            }
        });
        host
    }

    fn path(&self, part: &str) -> PathBuf {
        self.directory.path().join(part)
    }

    fn plugin(&self) -> PathBuf {
        self.path("plugin")
    }

    fn write_plugin(&self, body: &str) {
        fs::write(self.plugin(), format!("#!/bin/sh\n{body}\n")).unwrap();
    }

    fn target(&self) -> Target {
        Target {
            bin_dir: self.path("bin"),
            conf_dir: self.path("net.d"),
            run_dir: self.path("run"),
            veth_prefix: "eni".to_owned(),
            chain: vec![Chained::Portmap],
        }
    }

    /// Names in both directories, drafts included.
    fn installed(&self) -> Vec<String> {
        let mut names = Vec::new();
        for part in ["bin", "net.d"] {
            for entry in fs::read_dir(self.path(part)).unwrap() {
                names.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        names.retain(|name| name != "portmap");
        names.sort();
        names
    }
}

fn status(ready_after: &AtomicU32) -> Status {
    let left = ready_after.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        Some(left.saturating_sub(1))
    });
    Status {
        version: String::new(),
        pid: 1,
        uptime_seconds: 1,
        instance_id: String::new(),
        instance_type: String::new(),
        ready: left == Ok(0),
        problem: "no addresses yet".to_owned(),
        generation: 1,
        dataplane_generation: 1,
        pool: PoolReport::default(),
        repairs: 0,
        last_repair: String::new(),
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn installs_once_the_agent_is_ready() {
    let host = Host::new(2);
    let refused = host.target().install(&host.plugin(), NO_PATIENCE);
    let Err(InstallError::NotReady { problem, .. }) = refused else {
        unreachable!("{refused:?}");
    };
    assert_eq!(problem, "no addresses yet");
    assert!(host.installed().is_empty());

    let patience = Duration::from_secs(10);
    assert!(host.target().install(&host.plugin(), patience).unwrap());
    assert_eq!(host.installed(), [CONFLIST, PLUGIN]);
    let mode = |path: &str| fs::metadata(host.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&format!("bin/{PLUGIN}")), 0o755);
    assert_eq!(mode(&format!("net.d/{CONFLIST}")), 0o644);
    let text = fs::read(host.path("net.d").join(CONFLIST)).unwrap();
    let conflist: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(conflist["plugins"][0]["type"], PLUGIN);
    assert_eq!(conflist["plugins"][1]["capabilities"]["portMappings"], true);
}

#[test]
fn what_is_right_already_is_not_touched() {
    let host = Host::new(0);
    host.target().install(&host.plugin(), NO_PATIENCE).unwrap();
    let binary = host.path("bin").join(PLUGIN);
    let before = inode(&binary);
    assert!(!host.target().install(&host.plugin(), NO_PATIENCE).unwrap());
    assert_eq!(inode(&binary), before);

    host.write_plugin("echo '{\"supportedVersions\":[\"1.1.0\"],\"newer\":1}'");
    assert!(host.target().install(&host.plugin(), NO_PATIENCE).unwrap());
    assert_ne!(inode(&binary), before, "replaced, not written over");
}

#[test]
fn a_plugin_that_does_not_run_replaces_nothing() {
    let host = Host::new(0);
    host.target().install(&host.plugin(), NO_PATIENCE).unwrap();
    let good = fs::read(host.path("bin").join(PLUGIN)).unwrap();
    host.write_plugin("echo no such library >&2; exit 127");
    let refused = host.target().install(&host.plugin(), NO_PATIENCE);
    assert!(refused.unwrap_err().to_string().contains("no such library"));
    assert_eq!(fs::read(host.path("bin").join(PLUGIN)).unwrap(), good);
    assert_eq!(host.installed(), [CONFLIST, PLUGIN], "no draft is left");
}

#[test]
fn a_chain_with_a_missing_plugin_is_refused() {
    let host = Host::new(0);
    let mut target = host.target();
    target.chain = vec![Chained::Portmap, Chained::Tuning];
    let refused = target.install(&host.plugin(), NO_PATIENCE).unwrap_err();
    assert!(
        refused.to_string().starts_with("tuning is not in"),
        "{refused}"
    );
    assert!(host.installed().is_empty());
}

#[test]
fn a_full_or_missing_directory_is_told() {
    let host = Host::new(0);
    let mut target = host.target();
    target.conf_dir = host.path("plugin");
    let refused = target.install(&host.plugin(), NO_PATIENCE);
    let Err(InstallError::Io { cause, .. }) = refused else {
        unreachable!("{refused:?}");
    };
    assert_ne!(cause.kind(), ErrorKind::NotFound);
}

#[test]
fn nothing_is_removed_under_running_pods() {
    let host = Host::new(0);
    let target = host.target();
    target.install(&host.plugin(), NO_PATIENCE).unwrap();
    host.pods.lock().unwrap().push(PodRow {
        namespace: "default".to_owned(),
        pod: "p".to_owned(),
        address: std::net::Ipv4Addr::new(10, 0, 0, 1),
        eni_id: "eni-0".to_owned(),
        device_number: 0,
        host_ifname: "eni0".to_owned(),
        network: "penstock".to_owned(),
        container_id: "c".to_owned(),
        ifname: "eth0".to_owned(),
        confirmed: true,
    });
    let refused = target.uninstall(false).unwrap_err();
    assert!(
        refused.to_string().contains("1 pods are attached"),
        "{refused}"
    );
    let mut away = host.target();
    away.run_dir = host.path("nowhere");
    assert!(matches!(away.uninstall(false), Err(InstallError::InUse(_))));
    assert_eq!(host.installed(), [CONFLIST, PLUGIN]);

    host.pods.lock().unwrap().clear();
    target.uninstall(false).unwrap();
    assert!(host.installed().is_empty());
    target.uninstall(false).unwrap();
    away.uninstall(true).unwrap();
}
