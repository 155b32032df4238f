//! `penstock lab` as a person uses it: the built binary, a bare lab, real namespaces.

#![expect(clippy::unwrap_used, reason = "the fixtures of a test may fail it")]

use std::process::{Command, Output};

/// A lab's name of this run, taken down whatever happens.
struct Named(String);

impl Named {
    fn new(prefix: &str) -> Self {
        Self(format!("{prefix}{:x}", std::process::id()))
    }

    fn lab(&self, verb: &str, rest: &[&str]) -> Output {
        penstock(&[&["lab", verb, "--id", &self.0], rest].concat())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.lab("down", &[]);
    }
}

fn penstock(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_penstock"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
#[ignore = "needs root and network namespaces"]
fn a_lab_comes_up_is_entered_and_goes() {
    let lab = Named::new("cli");
    let up = text(&lab.lab("up", &["--bare", "--nodes", "1"]));
    assert!(
        up.contains(&format!("penstock lab down --id {}", lab.0)),
        "{up}"
    );

    let address = text(&lab.lab("exec", &["node1", "--", "ip", "-br", "address"]));
    assert!(address.contains("eth0"), "{address}");
    let run_dir = text(&lab.lab("exec", &["node1", "--", "printenv", "PENSTOCK_RUN_DIR"]));
    assert!(run_dir.contains(&lab.0), "{run_dir}");
    let failing = lab.lab("exec", &["outside", "--", "sh", "-c", "exit 7"]);
    assert_eq!(failing.status.code(), Some(7), "the command's own status");
    let unknown = lab.lab("exec", &["node9", "--", "true"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("node1"),
        "{unknown:?}"
    );

    let listed = text(&penstock(&["lab", "list"]));
    let row = listed
        .lines()
        .find(|line| line.starts_with(&lab.0))
        .unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells[1..], ["penstock", "lab", "1", "0"], "{listed}");

    let twice = lab.lab("up", &["--bare"]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&twice.stderr).contains("is up already"),
        "{twice:?}"
    );

    assert_eq!(
        text(&lab.lab("down", &[])),
        format!("Lab {} is down.\n", lab.0)
    );
    let namespaces = text(&Command::new("ip").args(["netns", "list"]).output().unwrap());
    assert!(!namespaces.contains(&lab.0), "{namespaces}");
    let again = text(&lab.lab("down", &[]));
    assert_eq!(again, format!("There is no lab {}.\n", lab.0));
}
