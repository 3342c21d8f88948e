//! Builds the BPF programs with the distribution's clang and generates their skeleton.

use std::{env, path::PathBuf};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "bpf/takeover.bpf.c";

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("cargo sets CARGO_CFG_TARGET_ARCH")?;
    // Debian keeps asm/types.h in the multiarch folder, which clang does not search for -target bpf.
    let args = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-mcpu=v3"]
        .map(String::from)
        .into_iter()
        .chain([format!("-I/usr/include/{arch}-linux-gnu")]);
    SkeletonBuilder::new()
        .source(SOURCE)
        .clang_args(args)
        .build_and_generate(out.join("takeover.skel.rs"))
        .with_context(|| {
            format!("{SOURCE} does not build: apt install clang libelf-dev zlib1g-dev linux-libc-dev")
        })
}
