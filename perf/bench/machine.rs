//! What the machine has: CPUs and memory, and how much of it a harness needs.

use std::fs;

use anyhow::{Context as _, bail, ensure};
use ipos_dpdk::eal::{EalConfig, Memory};
use serde::{Deserialize, Serialize};

/// Where a DPDK process takes its memory from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// Hugepages, reserved beforehand.
    Huge,
    /// Ordinary pages: for machines without; about half as fast.
    Ordinary,
}

impl Pages {
    /// What a figure's description says of them: nothing where they are as they should be.
    pub const fn remark(self) -> &'static str {
        match self {
            Pages::Huge => "",
            Pages::Ordinary => ", without hugepages",
        }
    }
}

/// The two CPUs of a measurement, and what memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Where the measuring side waits, and the control core runs.
    pub main_cpu: u32,
    /// Where what is measured runs: the same CPU for ours and for the baseline.
    pub cpu: u32,
}

impl Machine {
    /// The first and the last CPU that this process may use.
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn detect() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let cpus = list.map(str::trim).and_then(cpus).context("no CPUs in /proc/self/status")?;
        Ok(Self { main_cpu: cpus.0, cpu: cpus.1 })
    }

    /// The EAL of a process of ours: lcore 0 waits, lcore 1 is measured.
    pub fn eal(&self, pages: Pages, mb: u32, vdevs: Vec<String>) -> EalConfig {
        EalConfig {
            program: "ipos-bench".to_owned(),
            lcores: format!("0@{},1@{}", self.main_cpu, self.cpu),
            main_lcore: 0,
            memory: match pages {
                Pages::Huge => Memory::Hugepages { mb, in_memory: true },
                Pages::Ordinary => Memory::NoHuge { mb },
            },
            no_pci: true,
            vdevs,
            file_prefix: format!("ipos-bench-{}", std::process::id()),
            ..EalConfig::default()
        }
    }
}

/// The first and last CPU of a list such as `0-3,8`.
fn cpus(list: &str) -> Option<(u32, u32)> {
    let mut numbers = list.split(['-', ',']).map(str::parse);
    let first = numbers.next()?.ok()?;
    numbers.next_back().map_or(Some((first, first)), |last| Some((first, last.ok()?)))
}

/// Free hugepages of all sizes, MiB.
pub fn free_huge_mb() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let free = |size: fs::DirEntry| {
        let kb: u64 =
            size.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages: u64 = fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kb * pages / 1024)
    };
    sizes.flatten().filter_map(free).sum()
}

/// Memory that processes may still take in ordinary pages, MiB.
pub fn available_mb() -> u64 {
    let field = |text: String| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    fs::read_to_string("/proc/meminfo").ok().and_then(field).unwrap_or(0) / 1024
}

/// Where `dpdk_mb` for all DPDK processes together can come from, when the processes need `heap_mb` in ordinary pages
/// besides.
///
/// # Errors
/// In one line, what is missing.
pub fn pages_for(dpdk_mb: u64, heap_mb: u64) -> anyhow::Result<Pages> {
    let (huge, ordinary) = (free_huge_mb(), available_mb());
    ensure!(ordinary > heap_mb, "too little memory: {heap_mb} MiB are needed, {ordinary} MiB are available");
    if huge >= dpdk_mb {
        return Ok(Pages::Huge);
    }
    if ordinary > dpdk_mb + heap_mb {
        return Ok(Pages::Ordinary);
    }
    let pages = dpdk_mb.div_ceil(2);
    bail!(
        "too little memory: {dpdk_mb} MiB are needed, {huge} MiB of hugepages are free (`sysctl -w \
         vm.nr_hugepages={pages}`) and {ordinary} MiB of other memory"
    )
}

/// Memory of this process that is resident, hugepages included, octets.
pub fn resident_octets() -> u64 {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return 0 };
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    (field("VmRSS:").unwrap_or(0) + field("HugetlbPages:").unwrap_or(0)) * 1024
}

/// The machine in words, and how busy it is: a figure from a busy one is worth little.
pub fn about() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|pair| pair.1);
    let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{}, {cpus} CPUs, Linux {}, load average before {}, {} MiB of hugepages free",
        model.unwrap_or("an unknown CPU"),
        kernel.trim(),
        load.split(' ').next().unwrap_or("unknown"),
        free_huge_mb()
    )
}

/// What a pool of packet buffers takes, MiB: each has a header in front and is rounded up so that neighbours do not start
/// in the same memory channel.
pub fn pool_mb(mbufs: u64, data_room_octets: u64) -> u64 {
    (mbufs * (data_room_octets + 128 + 64 + 64)).div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_cpu_of_a_list() {
        assert_eq!(cpus("0-1"), Some((0, 1)));
        assert_eq!(cpus("3"), Some((3, 3)));
        assert_eq!(cpus("0-3,8,12-15"), Some((0, 15)));
        assert_eq!(cpus("none"), None);
    }

    #[test]
    fn this_machine_has_a_cpu_and_memory() {
        assert!(Machine::detect().is_ok());
        assert!(available_mb() > 0 && resident_octets() > 0);
    }

    #[test]
    fn too_little_memory_is_said_in_one_line_with_its_cure() {
        let error = pages_for(1 << 40, 1).expect_err("nobody has an exbibyte").to_string();
        assert!(error.contains("vm.nr_hugepages=549755813888") && !error.contains('\n'), "{error}");
        assert!(pages_for(1, 1 << 40).is_err());
    }
}
