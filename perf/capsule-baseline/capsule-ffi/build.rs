//! Finds the installed libdpdk, binds what capsule calls, and compiles the wrappers of its inline functions.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

const OLDEST: &str = "22.11";
const INSTALL: &str = "On Debian 12: apt-get install libdpdk-dev libclang-dev";

/// What capsule calls without its features, and what the baseline calls itself.
const FUNCTIONS: &[&str] = &[
    "_rte_.*",
    "numa_node_of_cpu",
    "rte_eal_(init|cleanup)",
    "rte_eth_(allmulticast|promiscuous)_(disable|enable)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|get_port_by_name|info_get|socket_id|start|stop)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_(macaddr_get|stats_get)",
    "rte_mempool_free",
    "rte_pktmbuf_pool_create",
    "rte_socket_(count|id|id_by_idx)",
    "rte_strerror",
    "rte_thread_(register|set_affinity)",
];

fn fail(what: &str) -> ! {
    // A build script has no better way to speak: the last lines of stderr are what cargo shows.
    eprintln!("\nerror: capsule-ffi: {what}. {INSTALL}\n");
    exit(1);
}

fn main() {
    println!("cargo:rerun-if-changed=src/wrapper.h");
    println!("cargo:rerun-if-changed=src/wrapper.c");
    if let Err(error) = pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk") {
        fail(&format!("libdpdk {OLDEST} or later was not found through pkg-config: {error}"));
    }
    // capsule asks it for the NUMA node of a CPU; libdpdk itself needs it, so that it is there.
    println!("cargo:rustc-link-lib=numa");
    let flags = compiler_flags();
    bind(&flags);
    let mut build = cc::Build::new();
    build.file("src/wrapper.c").opt_level(3);
    for flag in &flags {
        build.flag(flag);
    }
    build.compile("capsule_ffi_wrapper");
}

/// pkg-config's own words, in its order: the crate of that name drops `-march` and `-include rte_config.h`.
fn compiler_flags() -> Vec<String> {
    match Command::new("pkg-config").args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        outcome => fail(&format!("`pkg-config --cflags libdpdk` failed: {outcome:?}")),
    }
}

fn bind(flags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("src/wrapper.h")
        .clang_args(flags)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .derive_default(true)
        .prepend_enum_name(false)
        .generate_comments(false)
        .allowlist_type("rte_eth_rx_mq_mode")
        .allowlist_var("CAPSULE_FFI_.*")
        .allowlist_var("RTE_MBUF_DEFAULT_BUF_SIZE");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let bindings = match builder.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!("the headers of libdpdk could not be bound: {error}")),
    };
    let Some(out) = env::var_os("OUT_DIR") else { fail("OUT_DIR is not set: run this through cargo") };
    let file = PathBuf::from(out).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&file) {
        fail(&format!("{} could not be written: {error}", file.display()));
    }
}
