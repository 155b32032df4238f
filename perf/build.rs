//! Compiles the BPF programs of generator, baseline and fault tests.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for name in ["generator", "drop", "foreign"] {
        let source = format!("bpf/{name}.bpf.c");
        println!("cargo:rerun-if-changed={source}");
        libbpf_cargo::SkeletonBuilder::new()
            .source(&source)
            .obj(out.join(format!("{name}.bpf.o")))
            .clang_args(["-Wall", "-Werror", &multiarch_headers()])
            .build()
            .map_err(|error| format!("{source}: {error:#} (is clang installed?)"))?;
    }
    Ok(())
}

/// Debian keeps `asm/types.h` where a clang that targets BPF does not look.
fn multiarch_headers() -> String {
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    format!("-I/usr/include/{target}-linux-gnu")
}
