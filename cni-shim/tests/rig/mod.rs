//! What the black-box tests share: the built plugin as a runtime runs it, and a control that
//! answers on a real socket.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "the fixtures of a test may fail it, and stand beside two test crates"
)]
#![allow(dead_code, reason = "each of the test crates uses some of it")]

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use penstock_control_api::{Attachment, MAX_REQUEST_BYTES, Request, Response, SOCKET_NAME, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
pub const HOST_IFNAME: &str = "enicc21c2d7785";
pub const MTU: u32 = 8901;
pub const GENERATION: u64 = 4711;
pub const ARGS: &str = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=sample-pod;IgnoreUnknown=1";

/// One call of the plugin.
#[derive(Clone)]
pub struct Call {
    environment: Vec<(&'static str, String)>,
    input: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub struct Answer {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Call {
    /// A call with all variables set and `config` on standard input.
    pub fn new(command: &str, config: &Value) -> Self {
        let environment = vec![
            ("CNI_COMMAND", command.to_owned()),
            ("CNI_CONTAINERID", "0123abcd".to_owned()),
            ("CNI_NETNS", "/nonexistent/netns".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_ARGS", ARGS.to_owned()),
            ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ];
        Self {
            environment,
            input: config.to_string().into_bytes(),
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| *known != name);
        self
    }

    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    pub fn command(&self) -> Command {
        self.under(&[])
    }

    /// The same call run by another program, such as one that sets limits.
    pub fn under(&self, wrapper: &[&str]) -> Command {
        let plugin = env!("CARGO_BIN_EXE_penstock-cni");
        let (program, arguments) = wrapper.split_first().unwrap_or((&plugin, &[]));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !wrapper.is_empty() {
            command.arg(plugin);
        }
        command
    }

    /// Writes the configuration and closes standard input.
    pub fn feed(&self, child: &mut Child) {
        let mut stdin = child.stdin.take().unwrap();
        // A plugin that refuses early closes the pipe under us; that is its right.
        let _ = stdin.write_all(&self.input);
    }

    pub fn run(&self) -> Answer {
        let started = Instant::now();
        let mut child = self.command().spawn().unwrap();
        self.feed(&mut child);
        let output = child.wait_with_output().unwrap();
        Answer {
            status: output.status,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            took: started.elapsed(),
        }
    }
}

impl Answer {
    /// The result of a success.
    pub fn result(&self) -> Value {
        assert!(self.status.success(), "{self:?}");
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }

    /// Asserts a success that prints nothing, as of DEL and CHECK.
    pub fn done(&self) {
        assert!(self.status.success(), "{self:?}");
        assert_eq!(self.stdout, "");
    }

    /// Asserts a failure that is CNI error JSON with `code`; returns it.
    pub fn refused(&self, code: u32) -> Value {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let error: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|_| unreachable_output(&self.stdout));
        assert_eq!(error["code"], code, "{error}");
        for key in ["cniVersion", "msg", "details"] {
            let text = error[key].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{key} of {error}");
        }
        error
    }
}

fn unreachable_output(text: &str) -> Value {
    Value::String(format!("not JSON: {text:?}"))
}

/// A minimal valid configuration.
pub fn config(version: &str, run_dir: &Path) -> Value {
    json!({
        "cniVersion": version,
        "name": "penstock",
        "type": "penstock-cni",
        "runDir": run_dir,
    })
}

pub fn attachment(confirmed: bool) -> Attachment {
    Attachment {
        address: ADDRESS,
        host_ifname: HOST_IFNAME.to_owned(),
        mtu: MTU,
        device_number: 0,
        eni_id: "eni-0123".to_owned(),
        confirmed,
        generation: GENERATION,
    }
}

/// A control on a real socket in a run directory of its own; answers as `respond` says and
/// remembers what it was asked. `None` is a hang-up without an answer.
pub struct Control {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Control {
    pub fn serve(mut respond: impl FnMut(&Request) -> Option<Response> + Send + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let directory = listen(move |request: Request| {
            let response = respond(&request);
            log.lock().unwrap().push(request);
            response
        });
        Self { directory, asked }
    }

    /// One that speaks another release's protocol, word by word.
    pub fn serve_json(mut respond: impl FnMut(&Value) -> Value + Send + 'static) -> Self {
        let directory = listen(move |request: Value| Some(respond(&request)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        Self { directory, asked }
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

/// Serves one caller after the other. The thread lives as long as the test process, and holds
/// nothing but its socket.
fn listen<Q: DeserializeOwned, A: Serialize>(
    mut respond: impl FnMut(Q) -> Option<A> + Send + 'static,
) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(SOCKET_NAME)).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let request = frame::read::<Q>(&mut stream, MAX_REQUEST_BYTES);
            let Ok(Some(request)) = request else { continue };
            if let Some(response) = respond(request) {
                // A caller that gave up is its own business.
                let _ = frame::write(&mut stream, &response);
            }
        }
    });
    directory
}
