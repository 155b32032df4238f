//! The image pods run: one layer with Debian's static busybox, made here and loaded from a file.
//!
//! It serves both as the sandbox's (`sleep`) and as the container's: an HTTP server on port 80 whose
//! `/cgi-bin/outside` connects, from inside the pod, to the host and port in `OUTSIDE`, sends a line
//! and passes on what comes. (That busybox's `wget` crashes on any answer but an error.)
//!
//! Format: a Docker archive, which containerd's importer takes (manifest.json, configuration,
//! layer.tar).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What the image is called.
pub(crate) const NAME: &str = "docker.io/penstock/pod:1";

/// The container's command.
pub(crate) const SERVE: [&str; 7] = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];

/// What `/` answers.
pub const GREETING: &str = "here is the pod\n";

/// Statically linked, from Debian's busybox-static.
const BUSYBOX: &str = "/bin/busybox";

/// Longest a sandbox lives that nobody removes, in seconds.
const SANDBOX_LIFE: &str = "7200";

const OUTSIDE_SCRIPT: &str = "#!/bin/busybox sh\n\
    printf 'Content-Type: text/plain\\r\\n\\r\\n'\n\
    echo | /bin/busybox nc -w 10 $OUTSIDE\n";

/// Writes the archive to `path`.
pub(crate) fn write(path: &Path) -> Result<()> {
    let layer = layer()?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": [BUSYBOX, "sleep", SANDBOX_LIFE] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
    });
    let config = config.to_string();
    let config_name = format!("{}.json", digest(config.as_bytes()));
    let manifest = json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut archive = Builder::new(file);
    add(&mut archive, "layer.tar", 0o644, &layer)?;
    add(&mut archive, &config_name, 0o644, config.as_bytes())?;
    let manifest = manifest.to_string();
    add(&mut archive, "manifest.json", 0o644, manifest.as_bytes())?;
    archive.into_inner()?.sync_all()?;
    Ok(())
}

fn layer() -> Result<Vec<u8>> {
    let busybox = fs::read(BUSYBOX)
        .with_context(|| format!("read {BUSYBOX}; `cargo xtask packages` installs it"))?;
    let mut layer = Builder::new(Vec::new());
    for directory in [
        "bin",
        "etc",
        "proc",
        "sys",
        "dev",
        "tmp",
        "www",
        "www/cgi-bin",
    ] {
        let mut header = header(0o755, 0);
        header.set_entry_type(EntryType::Directory);
        layer.append_data(&mut header, directory, std::io::empty())?;
    }
    add(&mut layer, "bin/busybox", 0o755, &busybox)?;
    add(&mut layer, "www/index.html", 0o644, GREETING.as_bytes())?;
    let script = OUTSIDE_SCRIPT.as_bytes();
    add(&mut layer, "www/cgi-bin/outside", 0o755, script)?;
    Ok(layer.into_inner()?)
}

fn add(archive: &mut Builder<impl Write>, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    Ok(archive.append_data(&mut header(mode, bytes.len()), name, bytes)?)
}

fn header(mode: u32, length: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(length as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
