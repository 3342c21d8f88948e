//! Finds the installed libdpdk, binds it, and compiles the wrappers of its inline functions.
//!
//! Poll mode drivers are not linked: a shared libdpdk loads them itself, all that the distribution ships, from its
//! plugin directory (`RTE_EAL_PMD_PATH`) when the EAL starts. So `--as-needed` cannot lose one.

use std::env;
use std::path::{Path, PathBuf};
use std::process::exit;

const OLDEST: &str = "22.11";
const INSTALL: &str = "On Debian 12: apt-get install libdpdk-dev";

/// The functions that the safe crate calls, and nothing else.
const FUNCTIONS: &[&str] = &[
    "dpdk_sys_.*",
    "rte_dev_probe",
    "rte_eal_(init|cleanup|remote_launch|wait_lcore|mp_wait_lcore|has_hugepages|get_runtime_dir)",
    "rte_eth_dev_(configure|start|stop|close|info_get|adjust_nb_rx_tx_desc|set_mtu|get_mtu|socket_id)",
    "rte_eth_dev_(get_port_by_name|get_name_by_port|rss_reta_update)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_(macaddr_get|stats_get|promiscuous_enable|find_next)",
    "rte_get_(main_lcore|next_lcore|tsc_hz)",
    "rte_hash_(create|free|add_key|lookup|lookup_bulk)",
    "rte_lcore_to_(socket|cpu)_id",
    "rte_mempool_(avail_count|in_use_count|free)",
    "rte_openlog_stream",
    "rte_pktmbuf_free_bulk",
    "rte_strerror",
    "rte_thread_(register|unregister)",
    "rte_version",
];

fn fail(what: &str) -> ! {
    // A build script has no better way to speak: the last lines of stderr are what cargo shows.
    eprintln!("\nerror: dpdk-sys: {what}\n");
    exit(1);
}

fn main() {
    println!("cargo:rerun-if-changed=src/wrapper.h");
    println!("cargo:rerun-if-changed=src/wrapper.c");
    let library = match pkg_config::Config::new().atleast_version(OLDEST).probe("libdpdk") {
        Ok(library) => library,
        Err(error) => fail(&format!(
            "libdpdk {OLDEST} or later was not found through pkg-config. {INSTALL}\n\
             (a DPDK of your own: set PKG_CONFIG_PATH to the directory of its libdpdk.pc)\n{error}"
        )),
    };
    require_shared(&library.link_paths);
    let flags = compiler_flags();
    bind(&flags);
    compile_wrappers(&flags);
}

/// A static libdpdk would lose every driver that nothing refers to, silently: refuse it.
fn require_shared(link_paths: &[PathBuf]) {
    let libdir = pkg_config::get_variable("libdpdk", "libdir").map(PathBuf::from);
    let mut directories: Vec<&Path> = link_paths.iter().map(PathBuf::as_path).collect();
    if let Ok(libdir) = &libdir {
        directories.push(libdir);
    }
    if !directories.iter().any(|directory| directory.join("librte_eal.so").exists()) {
        fail(&format!(
            "librte_eal.so is not in {directories:?}: drivers are loaded as plugins, which needs DPDK's shared \
             libraries (meson option default_library=shared or both). {INSTALL}"
        ));
    }
}

/// pkg-config's own words, in its order: `-march` and `-include rte_config.h` are flags that the library must be
/// used with, and the `pkg-config` crate drops them.
fn compiler_flags() -> Vec<String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    match std::process::Command::new(&program).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        outcome => fail(&format!("`{program} --cflags libdpdk` failed: {outcome:?}. {INSTALL}")),
    }
}

fn bind(flags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("src/wrapper.h")
        .clang_args(flags)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .use_core()
        .derive_default(true)
        .derive_debug(false)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(true)
        .allowlist_var("DPDK_SYS_.*")
        // Fields are read at the offsets that the C compiler gives (DPDK_SYS_MBUF_*): the names of the anonymous
        // unions change from one DPDK to the next.
        .opaque_type("rte_mbuf")
        .opaque_type("rte_mempool")
        .opaque_type("rte_device")
        .opaque_type("rte_hash")
        .opaque_type("rte_eth_fdir_conf|rte_fdir_conf")
        .blocklist_type("FILE|_IO_.*")
        .raw_line("/// The C library's stream: only ever passed by address.")
        .raw_line("pub type FILE = core::ffi::c_void;");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let bindings = match builder.generate() {
        Ok(bindings) => bindings,
        Err(error) => fail(&format!(
            "the headers of libdpdk could not be bound: {error}. bindgen needs libclang (Debian: apt-get install \
             libclang-dev)"
        )),
    };
    let Some(out) = env::var_os("OUT_DIR") else { fail("OUT_DIR is not set: run this through cargo") };
    let file = Path::new(&out).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&file) {
        fail(&format!("{} could not be written: {error}", file.display()));
    }
}

fn compile_wrappers(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("src/wrapper.c").opt_level(3).warnings(true).flag("-Wno-unused-parameter");
    // Two words of which the second names a file: they must stay together, so flags go in as they are.
    for flag in flags {
        build.flag(flag);
    }
    build.compile("dpdk_sys_wrapper");
}
