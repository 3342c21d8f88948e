//! What can be checked before the EAL starts, because DPDK itself would say it less plainly, and after it started,
//! because DPDK lets a device go missing.

use std::fs;
use std::path::Path;

use dpdk_sys as sys;

use crate::eal::{EalConfig, EalError, Memory};
use crate::port;

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages";
const PCI_DEVICES: &str = "/sys/bus/pci/devices";
const CPUS_ONLINE: &str = "/sys/devices/system/cpu/online";

/// Checks the configuration against the machine.
pub(crate) fn before(config: &EalConfig) -> Result<(), EalError> {
    check_lcores(config, &read(CPUS_ONLINE))?;
    if let Memory::Hugepages { mb, .. } = config.memory {
        check_hugepages(mb.into(), &hugepages(Path::new(HUGEPAGES)), default_hugepage_kb())?;
    }
    for device in &config.allow {
        check_pci(device)?;
    }
    Ok(())
}

/// Checks that every device asked for became a port: the EAL only logs those that did not.
pub(crate) fn after(config: &EalConfig, log: &str) -> Result<(), EalError> {
    let ports = port::names();
    for vdev in &config.vdevs {
        let name = device_name(vdev);
        let is_port = name.starts_with("net_") || name.starts_with("eth_");
        if is_port && !ports.iter().any(|port| port == name) {
            return Err(EalError::Vdev { vdev: vdev.clone(), said: last_words(log) });
        }
    }
    for device in &config.allow {
        let Some(address) = pci_address(device) else { continue };
        if !ports.iter().any(|port| port.starts_with(&address)) {
            let driver = fs::read_link(Path::new(PCI_DEVICES).join(&address).join("driver"));
            let driver = driver.ok().and_then(|d| Some(d.file_name()?.to_string_lossy().into_owned()));
            let driver = driver.unwrap_or_else(|| "no driver".to_owned());
            return Err(EalError::PciNotProbed { address, driver, said: last_words(log) });
        }
    }
    Ok(())
}

/// The last lines of DPDK's log, which are about what stopped it, on one line.
pub(crate) fn last_words(log: &str) -> String {
    const LINES: usize = 6;
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "nothing".to_owned();
    }
    lines.iter().skip(lines.len().saturating_sub(LINES)).copied().collect::<Vec<_>>().join("; ")
}

/// Name of a device without its arguments.
fn device_name(device: &str) -> &str {
    device.split(',').next().unwrap_or(device)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// One group of the lcore map: these lcores on these CPUs.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    lcores: Vec<u32>,
    cpus: Vec<u32>,
}

fn check_lcores(config: &EalConfig, online: &str) -> Result<(), EalError> {
    let lcores = || config.lcores.clone();
    let groups = parse_lcores(&config.lcores)
        .map_err(|at| EalError::LcoreMap { lcores: lcores(), at: at.to_owned() })?;
    let last = sys::DPDK_SYS_MAX_LCORE - 1;
    if let Some(&lcore) = groups.iter().flat_map(|g| &g.lcores).find(|&&lcore| lcore > last) {
        return Err(EalError::NoSuchLcore { lcores: lcores(), lcore, last });
    }
    // A kernel that does not tell which CPUs it has leaves the check to the EAL.
    if let Some(present) = parse_set(online)
        && let Some(&cpu) = groups.iter().flat_map(|g| &g.cpus).find(|&cpu| !present.contains(cpu))
    {
        return Err(EalError::NoSuchCpu { lcores: lcores(), cpu, online: online.to_owned() });
    }
    if !groups.iter().any(|group| group.lcores.contains(&config.main_lcore)) {
        return Err(EalError::MainLcore { main_lcore: config.main_lcore, lcores: lcores() });
    }
    Ok(())
}

/// Reads `--lcores`: groups between commas, each `lcores` or `lcores@cpus`, both a number, a range or a set in
/// parentheses. The error is the group that cannot be read.
fn parse_lcores(map: &str) -> Result<Vec<Group>, &str> {
    let mut groups = Vec::new();
    let mut depth = 0_u32;
    let outside = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    for group in map.split(outside) {
        let (lcores, cpus) = match group.split_once('@') {
            Some((lcores, cpus)) => (parse_part(lcores), parse_part(cpus)),
            None => (parse_part(group), parse_part(group)),
        };
        let (Some(lcores), Some(cpus)) = (lcores, cpus) else { return Err(group) };
        groups.push(Group { lcores, cpus });
    }
    Ok(groups)
}

fn parse_part(part: &str) -> Option<Vec<u32>> {
    let part = part.trim();
    match part.strip_prefix('(') {
        Some(rest) => parse_set(rest.strip_suffix(')')?),
        None => parse_set(part),
    }
}

/// Reads `0,2-5`.
fn parse_set(set: &str) -> Option<Vec<u32>> {
    /// Above any machine; bounds what a mistyped range costs.
    const LARGEST: u32 = 8191;
    let mut numbers = Vec::new();
    for part in set.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > LARGEST {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Hugepages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hugepages {
    size_kb: u64,
    total: u64,
    free: u64,
}

fn hugepages(directory: &Path) -> Vec<Hugepages> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let size_of = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size_kb = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |file: &str| read(entry.path().join(file)).parse::<u64>().unwrap_or(0);
        Some(Hugepages { size_kb, total: count("nr_hugepages"), free: count("free_hugepages") })
    };
    entries.flatten().filter_map(size_of).collect()
}

fn default_hugepage_kb() -> u64 {
    let meminfo = read("/proc/meminfo");
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"));
    line.and_then(|size| size.split_whitespace().next()?.parse().ok()).unwrap_or(2048)
}

fn check_hugepages(wanted_mb: u64, pages: &[Hugepages], default_kb: u64) -> Result<(), EalError> {
    let free_kb: u64 = pages.iter().map(|p| p.size_kb * p.free).sum();
    if free_kb >= wanted_mb * 1024 {
        return Ok(());
    }
    let default_kb = default_kb.max(1);
    let used = pages.iter().find(|p| p.size_kb == default_kb).map_or(0, |p| p.total.saturating_sub(p.free));
    let pages = used + (wanted_mb * 1024).div_ceil(default_kb);
    Err(EalError::Hugepages { wanted_mb, free_mb: free_kb / 1024, pages })
}

/// The PCI address in an allow-list entry in its long form, if it is a PCI address.
fn pci_address(device: &str) -> Option<String> {
    let name = device_name(device);
    let name = name.strip_prefix("pci:").unwrap_or(name);
    let is_hex =
        |part: &str| !part.is_empty() && part.len() <= 8 && part.chars().all(|c| c.is_ascii_hexdigit());
    let (rest, function) = name.rsplit_once('.')?;
    let parts: Vec<&str> = rest.split(':').collect();
    if !is_hex(function) || !parts.iter().all(|part| is_hex(part)) {
        return None;
    }
    match parts.as_slice() {
        [_bus, _device] => Some(format!("0000:{name}").to_lowercase()),
        [_domain, _bus, _device] => Some(name.to_lowercase()),
        _ => None,
    }
}

fn check_pci(device: &str) -> Result<(), EalError> {
    let Some(address) = pci_address(device) else { return Ok(()) };
    if Path::new(PCI_DEVICES).join(&address).exists() {
        return Ok(());
    }
    let mut present: Vec<String> = fs::read_dir(PCI_DEVICES)
        .map(|entries| {
            let network = |path: &Path| read(path.join("class")).starts_with("0x02");
            entries
                .flatten()
                .filter(|e| network(&e.path()))
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default();
    present.sort();
    let present = if present.is_empty() { "none".to_owned() } else { present.join(", ") };
    Err(EalError::NoSuchPciDevice { address, present })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(map: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
        let groups = parse_lcores(map).unwrap_or_else(|at| panic!("{map}: {at}"));
        groups.into_iter().map(|group| (group.lcores, group.cpus)).collect()
    }

    #[test]
    fn lcore_maps_are_read_as_the_eal_reads_them() {
        assert_eq!(groups("0"), [(vec![0], vec![0])]);
        assert_eq!(groups("0@2,1@3"), [(vec![0], vec![2]), (vec![1], vec![3])]);
        assert_eq!(groups("1-3"), [(vec![1, 2, 3], vec![1, 2, 3])]);
        assert_eq!(groups("(0-1,5)@(2,4-5),6@7"), [(vec![0, 1, 5], vec![2, 4, 5]), (vec![6], vec![7])]);
        for (map, at) in
            [("", ""), ("0,,1", ""), ("0@", "0@"), ("0@1,3-2", "3-2"), ("(0", "(0"), ("0@x", "0@x")]
        {
            assert_eq!(parse_lcores(map), Err(at), "{map}");
        }
        assert_eq!(parse_lcores("0-4294967295"), Err("0-4294967295"), "a bounded range");
    }

    #[test]
    fn hugepages_of_all_sizes_count_and_the_cure_is_in_the_default_size() {
        let pages = [
            Hugepages { size_kb: 2048, total: 100, free: 10 },
            Hugepages { size_kb: 1 << 20, total: 1, free: 1 },
        ];
        assert!(check_hugepages(1044, &pages, 2048).is_ok());
        let error = check_hugepages(1045, &pages, 2048).expect_err("one MiB too many");
        assert!(
            matches!(error, EalError::Hugepages { wanted_mb: 1045, free_mb: 1044, pages: 613 }),
            "{error}"
        );
        let error = check_hugepages(1, &[], 0).expect_err("there are none");
        assert!(error.to_string().contains("0 MiB are free"), "{error}");
    }

    #[test]
    fn pci_addresses_are_told_from_other_devices() {
        assert_eq!(pci_address("03:00.0").as_deref(), Some("0000:03:00.0"));
        assert_eq!(pci_address("pci:0001:AF:00.1,dv_flow_en=1").as_deref(), Some("0001:af:00.1"));
        for other in ["net_null0", "auxiliary:mlx5_core.sf.0", "", ".", ":", "0000:03:00", "1:2:3:4.0"] {
            assert_eq!(pci_address(other), None, "{other}");
        }
    }

    #[test]
    fn the_end_of_the_log_is_quoted_on_one_line() {
        assert_eq!(last_words("  \n"), "nothing");
        assert_eq!(last_words("EAL: a\n\nEAL: b\n"), "EAL: a; EAL: b");
        let long: String = (0..20).map(|line| format!("{line}\n")).collect();
        assert_eq!(last_words(&long), "14; 15; 16; 17; 18; 19");
    }
}
