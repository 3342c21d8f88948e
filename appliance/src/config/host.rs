//! What the machine has: the configuration names CPUs, interfaces and devices, and those have to exist.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use super::model::Device;

/// The machine, as far as the configuration speaks of it.
pub trait Host {
    /// Whether the CPU is online.
    fn has_cpu(&self, cpu: u16) -> bool;
    /// Which CPUs are online, for a message.
    fn cpus(&self) -> String;
    /// Whether this network namespace has the interface.
    fn has_interface(&self, name: &str) -> bool;
    /// Whether the device is on the PCI bus.
    fn has_pci(&self, address: &str) -> bool;
    /// Physical memory, octets.
    fn memory_octets(&self) -> u64;
    /// Hugepages, octets; those in use are counted too, so that a running appliance's configuration can be checked.
    fn hugepage_octets(&self) -> u64;
    /// The octets of a file, up to one more than `most`.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn file(&self, path: &Path, most: usize) -> std::io::Result<Vec<u8>>;
}

/// A machine that has all that one could name, and the files of this one: for what is read of a configuration elsewhere.
pub struct AnyHost;

impl Host for AnyHost {
    fn has_cpu(&self, _: u16) -> bool {
        true
    }

    fn cpus(&self) -> String {
        String::new()
    }

    fn has_interface(&self, _: &str) -> bool {
        true
    }

    fn has_pci(&self, _: &str) -> bool {
        true
    }

    fn memory_octets(&self) -> u64 {
        u64::MAX
    }

    fn hugepage_octets(&self) -> u64 {
        u64::MAX
    }

    fn file(&self, path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
        file(path, most)
    }
}

/// This machine.
pub struct ThisHost {
    online: String,
    cpus: BTreeSet<u16>,
    memory_octets: u64,
    hugepage_octets: u64,
}

impl ThisHost {
    /// Looks at the machine. What it does not tell is taken as absent.
    pub fn read() -> Self {
        let online = read_text("/sys/devices/system/cpu/online");
        let memory = read_text("/proc/meminfo");
        let page_octets = meminfo_kib(&memory, "Hugepagesize:") * 1024;
        Self {
            cpus: cpu_list(&online),
            online,
            memory_octets: meminfo_kib(&memory, "MemTotal:") * 1024,
            hugepage_octets: meminfo_kib(&memory, "HugePages_Total:") * page_octets,
        }
    }
}

impl Host for ThisHost {
    fn has_cpu(&self, cpu: u16) -> bool {
        self.cpus.contains(&cpu)
    }

    fn cpus(&self) -> String {
        self.online.clone()
    }

    fn has_interface(&self, name: &str) -> bool {
        // Asks the kernel rather than /sys, which shows the interfaces of the namespace that mounted it.
        nix::net::if_::if_nametoindex(name).is_ok()
    }

    fn has_pci(&self, address: &str) -> bool {
        Path::new("/sys/bus/pci/devices").join(address).exists()
    }

    fn memory_octets(&self) -> u64 {
        self.memory_octets
    }

    fn hugepage_octets(&self) -> u64 {
        self.hugepage_octets
    }

    fn file(&self, path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
        file(path, most)
    }
}

fn file(path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    // A pipe or a device would make the reader wait.
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut octets = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut octets)?;
    Ok(octets)
}

/// What is missing of a device on this machine, if anything.
pub fn missing(host: &impl Host, device: &Device) -> Option<String> {
    match device {
        Device::Pci(_) if !host.has_pci(device.name()) => {
            Some(format!("no device {} on the PCI bus; expected one that `lspci -D` lists", device.name()))
        }
        _ => device
            .interface()
            .filter(|interface| !host.has_interface(interface))
            .map(|interface| format!("no interface {interface} here; expected one that `ip link` lists")),
    }
}

fn read_text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
}

/// A line of /proc/meminfo; some of them count pages instead of KiB.
fn meminfo_kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A kernel CPU list: `0-3,8`.
fn cpu_list(text: &str) -> BTreeSet<u16> {
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_ranges_and_singles() {
        assert_eq!(cpu_list("0-2,7").into_iter().collect::<Vec<_>>(), [0, 1, 2, 7]);
        assert!(cpu_list("").is_empty());
    }

    #[test]
    fn this_machine_has_a_cpu_loopback_and_memory() {
        let host = ThisHost::read();
        assert!(host.cpus.iter().any(|cpu| host.has_cpu(*cpu)));
        assert!(host.has_interface("lo") && !host.has_interface("no-such-if"));
        assert!(host.memory_octets() > 1 << 20);
        let device: Device = "net_af_xdp0,iface=no-such-if".parse().expect("a device");
        assert!(missing(&host, &device).is_some_and(|what| what.contains("no-such-if")));
        assert_eq!(missing(&host, &"net_null0".parse().expect("a device")), None);
    }
}
