//! Finds Penstock's own binaries: those cargo built beside the program that is running.

use std::env;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};

/// Directory that overrides the search.
const VARIABLE: &str = "PENSTOCK_BIN_DIR";

/// Path of the binary `name`.
///
/// # Errors
/// [`Error::MissingBinary`], which names what to build.
pub fn find(name: &str) -> Result<PathBuf> {
    let directory = directory()?;
    let path = directory.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::MissingBinary {
        name: name.to_owned(),
        searched: directory,
    })
}

/// `target/<profile>`, whether the program itself is there or, as tests and examples are, below it.
fn directory() -> Result<PathBuf> {
    if let Some(directory) = env::var_os(VARIABLE) {
        return Ok(directory.into());
    }
    let mut directory = env::current_exe().context(|| "find this program's path")?;
    directory.pop();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    Ok(directory)
}
