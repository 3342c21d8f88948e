//! The board's live state, from /proc: what the Server State Table (Fig. 12) holds.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use ipos_wire::ipos::Pressure;
use procfs::{
    CpuPressure, Current, CurrentSI, FromRead, KernelStats, Meminfo, MemoryPressure, net::DeviceStatus,
};

/// One reading of everything that a report needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// CPU cores.
    pub cores: u16,
    /// Of all cores since the reading before, hundredths of a percent.
    pub cpu_centipercent: u16,
    /// Established TCP connections of this network namespace.
    pub established: u32,
    /// Memory, octets.
    pub memory_octets: u64,
    /// Available memory, octets.
    pub available_octets: u64,
    /// The farm link's speed, bits per second; 0 unknown.
    pub link_bps: u64,
    /// What of it was free since the reading before, in the busier direction; 0 when the speed is unknown.
    pub free_bps: u64,
    /// Pressure; `None` where the kernel does not tell (CONFIG_PSI, `psi=1`).
    pub pressure: Option<Pressure>,
}

/// Jiffies since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    all: u64,
}

/// Octets that the farm interface moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Traffic {
    received: u64,
    sent: u64,
}

/// Takes readings; rates are over the time between two of them.
#[derive(Debug)]
pub struct Meter {
    interface: String,
    ifindex: u32,
    cpu: CpuTimes,
    cpu_centipercent: u16,
    traffic: Option<(Instant, Traffic)>,
    link_bps: u64,
    pressure: Option<Pressure>,
}

impl Meter {
    /// A meter for the farm interface.
    pub fn new(interface: &str, ifindex: u32) -> Meter {
        Meter {
            interface: interface.into(),
            ifindex,
            cpu: CpuTimes::default(),
            cpu_centipercent: 0,
            traffic: None,
            link_bps: 0,
            pressure: None,
        }
    }

    /// Reads everything now, what seldom changes (link speed, pressure) only when `all` says so.
    ///
    /// # Errors
    /// When /proc is not there or is not what it should be.
    pub fn read(&mut self, now: Instant, all: bool) -> io::Result<Load> {
        if all {
            self.link_bps = link_speed_bps(Path::new("/sys/class/net"), &self.interface, self.ifindex);
            self.pressure = pressure();
        }
        let link_bps = self.link_bps;
        let stat = KernelStats::current().map_err(io::Error::other)?;
        let cpu = cpu_times(&stat);
        self.cpu_centipercent = busy_share(self.cpu, cpu).unwrap_or(self.cpu_centipercent);
        self.cpu = cpu;
        let memory = Meminfo::current().map_err(io::Error::other)?;
        let snmp = fs::read_to_string("/proc/self/net/snmp")?;
        let traffic = traffic(&fs::read("/proc/self/net/dev")?, &self.interface)?;
        let free_bps = match self.traffic {
            Some((then, before)) => free_bps(link_bps, before, traffic, now.saturating_duration_since(then)),
            None => link_bps,
        };
        self.traffic = Some((now, traffic));
        Ok(Load {
            cores: u16::try_from(stat.cpu_time.len()).unwrap_or(u16::MAX),
            cpu_centipercent: self.cpu_centipercent,
            established: established(&snmp).unwrap_or(0),
            memory_octets: memory.mem_total,
            available_octets: memory.mem_available.unwrap_or(memory.mem_free),
            link_bps,
            free_bps,
            pressure: self.pressure,
        })
    }
}

/// `some avg10`, hundredths of a percent.
fn pressure() -> Option<Pressure> {
    let cpu = CpuPressure::current().ok()?.some.avg10;
    let memory = MemoryPressure::current().ok()?.some.avg10;
    Some(Pressure { cpu: hundredths(cpu), memory: hundredths(memory) })
}

fn hundredths(percent: f32) -> u16 {
    // A cast saturates, and makes 0 of what is no number.
    ((percent * 100.0).round() as u16).min(10_000)
}

fn cpu_times(stat: &KernelStats) -> CpuTimes {
    let total = &stat.total;
    let idle = total.idle + total.iowait.unwrap_or(0);
    // Guest time is in user time already (proc_stat(5)).
    let busy = total.user
        + total.nice
        + total.system
        + total.irq.unwrap_or(0)
        + total.softirq.unwrap_or(0)
        + total.steal.unwrap_or(0);
    CpuTimes { busy, all: busy + idle }
}

/// Hundredths of a percent; `None` when no jiffy passed.
fn busy_share(before: CpuTimes, after: CpuTimes) -> Option<u16> {
    let all = after.all.saturating_sub(before.all);
    let busy = after.busy.saturating_sub(before.busy);
    u16::try_from((busy * 10_000).checked_div(all)?.min(10_000)).ok()
}

/// CurrEstab of /proc/net/snmp: established and close-wait, both IP versions (RFC 4022 tcpCurrEstab).
fn established(snmp: &str) -> Option<u32> {
    let mut tcp = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let column = tcp.next()?.split_whitespace().position(|name| name == "CurrEstab")?;
    tcp.next()?.split_whitespace().nth(column)?.parse().ok()
}

fn traffic(dev: &[u8], interface: &str) -> io::Result<Traffic> {
    let all = procfs::net::InterfaceDeviceStatus::from_read(dev).map_err(io::Error::other)?;
    let status: &DeviceStatus = all
        .0
        .get(interface)
        .ok_or_else(|| io::Error::other(format!("/proc/self/net/dev has no interface {interface}")))?;
    Ok(Traffic { received: status.recv_bytes, sent: status.sent_bytes })
}

/// The speed in bits per second; 0 when unknown. sysfs may show another namespace's interfaces, so the index must agree.
fn link_speed_bps(class_net: &Path, interface: &str, ifindex: u32) -> u64 {
    let read = |file: &str| fs::read_to_string(class_net.join(interface).join(file)).ok();
    let same = read("ifindex").and_then(|text| text.trim().parse().ok()) == Some(ifindex);
    let megabits = read("speed").and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(-1);
    // -1 stands for unknown.
    if same { u64::try_from(megabits).unwrap_or(0) * 1_000_000 } else { 0 }
}

fn free_bps(link_bps: u64, before: Traffic, after: Traffic, passed: Duration) -> u64 {
    let octets = after.received.saturating_sub(before.received).max(after.sent.saturating_sub(before.sent));
    let used_bps = u128::from(octets) * 8_000_000 / passed.as_micros().max(1);
    link_bps.saturating_sub(u64::try_from(used_bps).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_utilisation_is_the_busy_share_of_the_time_between() {
        let before = CpuTimes { busy: 100, all: 1000 };
        assert_eq!(busy_share(before, CpuTimes { busy: 125, all: 1100 }), Some(2500));
        assert_eq!(busy_share(before, CpuTimes { busy: 200, all: 1100 }), Some(10_000));
        assert_eq!(busy_share(before, before), None, "no jiffy passed");
    }

    #[test]
    fn established_is_curr_estab() {
        let snmp = "Ip: Forwarding DefaultTTL\nIp: 1 64\n\
                    Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs\n\
                    Tcp: 1 200 120000 -1 5 6 7 8 42 100\nUdp: InDatagrams\nUdp: 3\n";
        assert_eq!(established(snmp), Some(42));
        assert_eq!(established("Ip: 1\n"), None);
        assert_eq!(established("Tcp: A CurrEstab\nTcp: 1\n"), None);
    }

    const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
        lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n  \
        eth0: 5000 7 0 0 0 0 0 0 9000 8 0 0 0 0 0 0\n";

    #[test]
    fn traffic_is_the_farm_interfaces_octets() {
        let traffic = traffic(DEV.as_bytes(), "eth0").expect("eth0");
        assert_eq!(traffic, Traffic { received: 5000, sent: 9000 });
        assert!(super::traffic(DEV.as_bytes(), "eth1").is_err());
    }

    #[test]
    fn free_bandwidth_is_what_the_busier_direction_leaves() {
        let before = Traffic { received: 0, sent: 0 };
        let after = Traffic { received: 1_000_000, sent: 12_500_000 };
        let second = Duration::from_secs(1);
        assert_eq!(free_bps(1_000_000_000, before, after, second), 900_000_000);
        assert_eq!(free_bps(0, before, after, second), 0, "unknown speed");
    }

    #[test]
    fn the_speed_of_another_namespaces_interface_is_not_ours() {
        let folder = std::env::temp_dir().join(format!("ipos-board-speed-{}", std::process::id()));
        let eth0 = folder.join("eth0");
        fs::create_dir_all(&eth0).expect("folder");
        fs::write(eth0.join("ifindex"), "7\n").expect("file");
        fs::write(eth0.join("speed"), "10000\n").expect("file");
        let speeds = [7, 8].map(|index| link_speed_bps(&folder, "eth0", index));
        fs::write(eth0.join("speed"), "-1\n").expect("file");
        let unknown = link_speed_bps(&folder, "eth0", 7);
        fs::remove_dir_all(&folder).expect("removed");
        assert_eq!((speeds, unknown), ([10_000_000_000, 0], 0));
    }

    #[test]
    fn pressure_is_told_in_hundredths_of_a_percent() {
        assert_eq!([0.0, 0.07, 12.34, 100.0].map(hundredths), [0, 7, 1234, 10_000]);
        assert_eq!([f32::NAN, -1.0, 1e9].map(hundredths), [0, 0, 10_000]);
        assert_eq!(pressure().is_some(), Path::new("/proc/pressure/cpu").exists());
    }

    #[test]
    fn this_machine_has_cores_memory_and_loopback_traffic() {
        let load = Meter::new("lo", 1).read(Instant::now(), true).expect("/proc");
        assert!(load.cores > 0 && load.cpu_centipercent <= 10_000, "{load:?}");
        assert!(load.memory_octets >= load.available_octets && load.available_octets > 0, "{load:?}");
    }
}
