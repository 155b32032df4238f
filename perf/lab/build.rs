//! Compiles the fabric's BPF program with clang. Only the object is kept; the crate embeds and
//! loads it itself.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const SOURCE: &str = "src/bpf/fabric.bpf.c";
    let object = PathBuf::from(env::var("OUT_DIR")?).join("fabric.bpf.o");
    let mut arguments = vec!["-Wall".to_owned(), "-Werror".to_owned()];
    // Debian keeps <asm/types.h> per architecture, where a compiler for BPF does not look.
    let machine = env::var("CARGO_CFG_TARGET_ARCH")?;
    arguments.push(format!("-I/usr/include/{machine}-linux-gnu"));
    libbpf_cargo::SkeletonBuilder::new()
        .source(SOURCE)
        .obj(&object)
        .clang_args(arguments)
        .build()?;
    println!("cargo:rerun-if-changed={SOURCE}");
    Ok(())
}
