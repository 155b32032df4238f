//! The hot path takes no more instructions than it did: a regression guard that noise cannot touch.
//!
//! After a change that is meant to cost more, or less: `penstock-perf instructions --write
//! perf/runs/instructions.json`, in the profile that is judged.

use std::path::Path;
use std::process::Command;

#[test]
fn no_path_takes_more_instructions_than_the_baseline() {
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs/instructions.json");
    let output = Command::new(env!("CARGO_BIN_EXE_penstock-perf"))
        .args(["instructions", "--check"])
        .arg(baseline)
        .output()
        .expect("start penstock-perf");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    assert!(output.status.success(), "{said}{errors}");
}
