//! The rig around Penstock's binaries: what it says when they misbehave. What they do when they
//! work is the end-to-end tests' matter. Stand-ins are shell scripts under a directory of the test.

#![expect(
    clippy::unwrap_used,
    reason = "a failed test is a panic, in its helpers too"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use penstock_lab::{Error, Lab, LabConfig};

/// One test, because the directory of binaries is an environment variable of the process.
#[test]
#[ignore = "needs root and network namespaces"]
fn misbehaving_binaries_are_reported_with_what_they_said() {
    let Ok(directory) = std::env::var(DIRECTORY_OF_BINARIES) else {
        return run_again_with_stand_ins();
    };
    let directory = Path::new(&directory);
    let lab = Lab::up(LabConfig::unique("rig")).unwrap();
    let node = &lab.nodes()[0];

    let missing = node.start_dataplane(&[]).unwrap_err();
    assert!(matches!(missing, Error::MissingBinary { .. }), "{missing}");
    assert!(
        missing
            .to_string()
            .contains("cargo build -p penstock-dataplane")
    );

    script(
        directory,
        "penstock-dataplane",
        "echo no such uplink >&2; exit 64",
    );
    let ended = node.start_dataplane(&[]).unwrap_err();
    assert!(matches!(ended, Error::NotReady { .. }), "{ended}");
    let text = ended.to_string();
    assert!(
        text.contains("exit status: 64") && text.contains("no such uplink"),
        "{text}"
    );
    assert_eq!(node.dataplane_pid(), None);

    // A plugin sees the runtime's environment and input, inside the node.
    script(
        directory,
        "penstock-cni",
        r#"grep -q '"type":"penstock-cni"' || exit 1
ip -o address show eth0 >&2
test "$CNI_COMMAND" = DEL && exit 0
echo "{\"code\":100,\"msg\":\"$CNI_COMMAND of $CNI_IFNAME\",\"details\":\"$CNI_ARGS\"}"
exit 1"#,
    );
    let refused = node.add_pod("default", "web-0").unwrap_err();
    let Error::Cni {
        code,
        message,
        details,
        ..
    } = &refused
    else {
        panic!("{refused}");
    };
    assert_eq!((*code, message.as_str()), (100, "ADD of eth0"));
    assert!(details.contains("K8S_POD_NAME=web-0;"), "{details}");

    // An ADD that says nothing is told by its exit and its words.
    script(
        directory,
        "penstock-cni",
        "cat >/dev/null; echo broken >&2; exit 3",
    );
    let silent = node.add_pod("default", "web-1").unwrap_err().to_string();
    assert!(
        silent.contains("exit status: 3") && silent.contains("broken"),
        "{silent}"
    );
    let pods = penstock_lab::netns::list(&format!("pen-{}-pod-", lab.id())).unwrap();
    assert_eq!(
        pods,
        Vec::<String>::new(),
        "a refused pod leaves no namespace"
    );

    let answer = r#"cat >/dev/null
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eniabc","mac":"02:00:00:00:00:09"},{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.0.0.9/32","interface":1}]}'"#;
    script(directory, "penstock-cni", answer);
    let pod = node.add_pod("default", "web-2").unwrap();
    assert_eq!(pod.address().to_string(), "10.0.0.9");
    assert_eq!(pod.host_ifname(), Some("eniabc"));
    pod.check().unwrap();
    pod.del().unwrap();
}

const DIRECTORY_OF_BINARIES: &str = "PENSTOCK_BIN_DIR";

fn run_again_with_stand_ins() {
    let directory = std::env::temp_dir().join(format!("pen-rig-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("misbehaving_binaries_are_reported_with_what_they_said")
        .env(DIRECTORY_OF_BINARIES, &directory)
        .status();
    fs::remove_dir_all(&directory).unwrap();
    assert!(status.unwrap().success());
}

fn script(directory: &Path, name: &str, body: &str) {
    let path = directory.join(name);
    // A new file each time: one that is being executed cannot be written.
    let _ = fs::remove_file(&path);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}
