//! A baseline of P1: capsule forwards what one port receives to another, and does nothing else.
//!
//! A line on standard input is a question, answered with `forwarded: ` and the packets that the second port has sent so
//! far; when the input ends, so does the program. `ipos-bench` starts it, and stops and continues it as it does testpmd.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::BufRead as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use capsule::batch::{self, Pipeline};
use capsule::config::RuntimeConfig;
use capsule::{PortQueue, Runtime};
use toml::Value;

const USAGE: &str = "usage: capsule-baseline MAIN_CPU CPU MBUFS FROM_DEVICE TO_DEVICE [EAL_OPTION..]";

/// As testpmd and ipOS have them in the bench.
const DESCRIPTORS: u32 = 1024;
const MBUFS_CACHED: u32 = 256;

/// The names of the ports.
const FROM: &str = "from";
const TO: &str = "to";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsule-baseline: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [main_cpu, cpu, mbufs, from, to, eal @ ..] = arguments else { bail!(USAGE) };
    let number = |text: &String| text.parse::<u32>().with_context(|| format!("{text} is no number; {USAGE}"));
    let (main_cpu, cpu) = (number(main_cpu)?, number(cpu)?);
    let config = table([
        ("app_name", format!("capsule-baseline-{}", std::process::id()).into()),
        ("master_core", main_cpu.into()),
        ("mempool", table([("capacity", number(mbufs)?.into()), ("cache_size", MBUFS_CACHED.into())])),
        ("ports", Value::Array(vec![port(FROM, from, cpu), port(TO, to, cpu)])),
        ("dpdk_args", eal.join(" ").into()),
    ]);
    let config: RuntimeConfig = config.try_into().context("capsule's configuration")?;
    let mut runtime = Runtime::build(config).context("capsule does not start")?;
    // The EAL's own thread is registered already.
    let is_foreign = cpu != main_cpu;
    runtime.add_pipeline_to_core(cpu as usize, move |ports| {
        if is_foreign {
            register();
        }
        forward(ports)
    })?;
    let counted = port_id(to)?;
    std::thread::spawn(move || answer(counted));
    runtime.execute()
}

fn table<const FIELDS: usize>(fields: [(&str, Value); FIELDS]) -> Value {
    Value::Table(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A port of capsule's configuration, from a device in the EAL's words: its name, and after a comma its arguments.
fn port(name: &str, device: &str, cpu: u32) -> Value {
    let (device, arguments) = device.split_once(',').unwrap_or((device, ""));
    table([
        ("name", name.into()),
        ("device", device.into()),
        ("args", arguments.into()),
        ("cores", Value::Array(vec![cpu.into()])),
        ("rxd", DESCRIPTORS.into()),
        ("txd", DESCRIPTORS.into()),
    ])
}

/// Gives the calling thread a cache of packet buffers, as testpmd and ipOS have one. capsule starts its threads without DPDK
/// and never does this: it forwards 1.6 times as fast with it.
fn register() {
    // SAFETY: any thread may ask for it, once.
    let error = unsafe { capsule_ffi::rte_thread_register() };
    assert_eq!(error, 0, "the forwarding thread could not be registered with DPDK");
}

/// The least that capsule can do: its own splice of a port with a port.
fn forward(mut ports: HashMap<String, PortQueue>) -> impl Pipeline {
    match (ports.remove(FROM), ports.remove(TO)) {
        (Some(from), Some(to)) => batch::splice(from, to),
        _ => unreachable!("both ports are on this core"),
    }
}

fn port_id(device: &str) -> anyhow::Result<u16> {
    let name = device.split(',').next().unwrap_or(device);
    let c_name = CString::new(name)?;
    let mut id = 0;
    // SAFETY: the name is a string, and the number is written only during the call.
    let error = unsafe { capsule_ffi::rte_eth_dev_get_port_by_name(c_name.as_ptr(), &mut id) };
    ensure!(error == 0, "there is no port {name}");
    Ok(id)
}

/// Answers until the input ends.
fn answer(port: u16) {
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        let mut stats = capsule_ffi::rte_eth_stats::default();
        // SAFETY: any thread may read them; DPDK checks that there is such a port, and writes only during the call.
        unsafe { capsule_ffi::rte_eth_stats_get(port, &mut stats) };
        println!("forwarded: {}", stats.opackets);
    }
    // capsule stops on a signal, and on nothing else.
    // SAFETY: it is sent to this process itself.
    unsafe { libc::raise(libc::SIGTERM) };
}
