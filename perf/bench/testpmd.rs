//! The baseline of packet rates: `dpdk-testpmd` of the distribution, on the same capture, devices and CPU.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::cputime;
use crate::machine::{Machine, Pages};
use crate::process::Process;

/// How long it may take to start: large pools take a while.
pub const START_PATIENCE: Duration = Duration::from_secs(120);
/// How long an answer may take.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Let it run so long before it counts: its caches are cold after a pause.
const WARM_UP: Duration = Duration::from_millis(150);

/// Packet buffers as both sides have them.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// How many.
    pub mbufs: u32,
    /// Octets of each, headroom included.
    pub data_room_octets: u16,
    /// Memory of the whole process, MiB.
    pub mb: u32,
}

/// How packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// In by the first port, out by the second.
    Paired,
    /// In and out by the first.
    Loop,
}

/// A running testpmd.
pub struct Testpmd {
    process: Process,
    mode: String,
}

/// The virtual devices of a measurement: a capture that is replayed for ever, and a port that swallows everything.
pub fn devices(capture: &Path) -> Vec<String> {
    vec![format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display()), "net_null0,no-rx=1".to_owned()]
}

impl Testpmd {
    /// Starts it, paused.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(
        machine: &Machine,
        pages: Pages,
        pool: Pool,
        capture: &Path,
        topology: Topology,
    ) -> anyhow::Result<Self> {
        let arguments = arguments(machine, pages, pool, capture, topology);
        let mut process = Process::spawn("dpdk-testpmd", "dpdk-testpmd", &arguments)?;
        process.say("start")?;
        process
            .hear(START_PATIENCE, |line| line.contains("packet forwarding - ports=").then_some(()))
            .context("the baseline dpdk-testpmd does not run (Debian: apt-get install dpdk)")?;
        process.pause()?;
        Ok(Self { process, mode: "io".to_owned() })
    }

    /// The rate at which it forwards in a mode (`io`, `macswap`), packets per second of its CPU time, over `window`. Paused
    /// again then.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn rate(&mut self, mode: &str, window: Duration) -> anyhow::Result<f64> {
        self.process.resume()?;
        if mode != self.mode {
            for command in ["stop", &format!("set fwd {mode}"), "start"] {
                self.process.say(command)?;
            }
            self.mode = mode.to_owned();
        }
        let rate = rate_over(&mut self.process, window, |process| {
            process.say("show port stats 0")?;
            process.hear(ANSWER_PATIENCE, rx_packets)
        })?;
        self.process.pause()?;
        Ok(rate)
    }
}

/// The rate of a process that runs, packets per second of its CPU time, over `window`; `packets` asks it how many there were
/// so far.
///
/// # Errors
/// When it does not answer, or there are none.
pub fn rate_over(
    process: &mut Process,
    window: Duration,
    packets: impl Fn(&mut Process) -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let look = |process: &mut Process| anyhow::Ok((packets(process)?, cputime::process_ns(process.pid())?));
    std::thread::sleep(WARM_UP);
    let (packets_before, ns_before) = look(process)?;
    std::thread::sleep(window);
    let (packets_after, ns_after) = look(process)?;
    ensure!(ns_after > ns_before && packets_after > packets_before, "{} does not forward", process.name());
    Ok((packets_after - packets_before) as f64 * 1e9 / (ns_after - ns_before) as f64)
}

/// Of the port, not of the forwarding engine, which speaks of `RX-dropped` there.
fn rx_packets(line: &str) -> Option<u64> {
    line.split_once("RX-missed:")?;
    line.trim().strip_prefix("RX-packets:")?.split_whitespace().next()?.parse().ok()
}

/// What a baseline tells its EAL besides CPUs and devices.
pub fn eal_options(pages: Pages, mb: u32) -> Vec<String> {
    let pages = match pages {
        Pages::Huge => "--in-memory",
        Pages::Ordinary => "--no-huge --no-shconf",
    };
    let options = format!("--log-level=error --no-pci --no-telemetry -m{mb} {pages}");
    options.split(' ').map(str::to_owned).collect()
}

fn arguments(machine: &Machine, pages: Pages, pool: Pool, capture: &Path, topology: Topology) -> Vec<String> {
    let Machine { main_cpu, cpu } = machine;
    let mut arguments = vec![
        format!("--lcores=0@{main_cpu},1@{cpu}"),
        "--main-lcore=0".to_owned(),
        format!("--file-prefix=ipos-bench-testpmd-{}", std::process::id()),
    ];
    arguments.extend(eal_options(pages, pool.mb));
    arguments.extend(devices(capture).into_iter().map(|device| format!("--vdev={device}")));
    let topology = if topology == Topology::Loop { "loop" } else { "paired" };
    arguments.extend([
        "--".to_owned(),
        "-i".to_owned(),
        "--forward-mode=io".to_owned(),
        format!("--port-topology={topology}"),
        "--nb-cores=1".to_owned(),
        "--burst=32".to_owned(),
        "--rxd=1024".to_owned(),
        "--txd=1024".to_owned(),
        "--mbcache=256".to_owned(),
        "--no-flush-rx".to_owned(),
        format!("--total-num-mbufs={}", pool.mbufs),
        format!("--mbuf-size={}", pool.data_room_octets),
    ]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_packets_are_read_from_its_own_words() {
        assert_eq!(
            rx_packets("  RX-packets: 61234567   RX-missed: 0          RX-bytes:  392"),
            Some(61_234_567)
        );
        assert_eq!(rx_packets("  TX-packets: 61234567   TX-errors: 0          TX-bytes:  392"), None);
        assert_eq!(
            rx_packets("  RX-packets: 142426720      RX-dropped: 0             RX-total: 142426720"),
            None
        );
        assert_eq!(rx_packets("  Rx-pps:            0          Rx-bps:            0"), None);
    }
}
