//! Whether this machine can take endpoints over, and for each thing that stands in the way the command that mends it.

use std::{collections::HashMap, fmt, fs, io::Read, path::Path};

use libbpf_rs::btf::{Btf, types};

use crate::{
    config::Config,
    interface::{Interface, interfaces},
    pins,
};

/// The kernel function without which no endpoint can be given to a listener (design: takeover.md).
const KFUNC: &str = "bpf_sk_assign_tcp_reqsk";

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Stands in the way; the text mends it.
    Fail(String),
    /// Cannot be judged from here; the text says what to look at.
    Note(String),
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub found: String,
    /// And what of it.
    pub outcome: Outcome,
}

/// Every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report(pub Vec<Check>);

impl Report {
    /// True when nothing stands in the way.
    pub fn passed(&self) -> bool {
        self.failures() == 0
    }

    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.0.iter().filter(|check| matches!(check.outcome, Outcome::Fail(_))).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.0.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
        for check in &self.0 {
            let (word, mend) = match &check.outcome {
                Outcome::Ok => ("ok", None),
                Outcome::Fail(mend) => ("FAIL", Some(mend)),
                Outcome::Note(hint) => ("note", Some(hint)),
            };
            writeln!(f, "{word:<5} {:<what$}  {}", check.what, check.found)?;
            if let Some(mend) = mend {
                writeln!(f, "      -> {mend}")?;
            }
        }
        match self.failures() {
            0 => write!(f, "preflight: ok"),
            failures => write!(f, "preflight: {failures} of {} checks failed", self.0.len()),
        }
    }
}

/// Looks at everything that `config` needs of this machine.
pub fn run(config: &Config) -> Report {
    let takes_over = config.services.iter().any(|service| service.kind.is_taken_over());
    let mut checks = Vec::new();
    checks.extend(kernel(takes_over));
    checks.extend(capabilities(config));
    let all = interfaces().unwrap_or_default();
    checks.extend(addresses(config, &all));
    checks.extend(sysctls(&config.interface, takes_over, &|key| read_sysctl(key)));
    checks.push(pin_directory(config));
    checks.push(conntrack(Path::new("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")));
    Report(checks)
}

fn check(what: impl Into<String>, found: impl Into<String>, ok: bool, mend: impl Into<String>) -> Check {
    let outcome = if ok { Outcome::Ok } else { Outcome::Fail(mend.into()) };
    Check { what: what.into(), found: found.into(), outcome }
}

fn kernel(takes_over: bool) -> Vec<Check> {
    const BACKPORTS: &str = "Debian 12's 6.1 kernel lacks it; install the backports kernel: \
        echo 'deb http://deb.debian.org/debian bookworm-backports main' > /etc/apt/sources.list.d/backports.list && \
        apt-get update && apt-get install -y -t bookworm-backports linux-image-amd64 && reboot";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_string();
    let btf = Btf::from_vmlinux();
    let mut checks = vec![check(
        "kernel BTF",
        if btf.is_ok() { "/sys/kernel/btf/vmlinux" } else { "missing" },
        btf.is_ok(),
        "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every Debian kernel since 11)",
    )];
    if takes_over {
        let found = btf.is_ok_and(|btf| btf.type_by_name::<types::Func<'_>>(KFUNC).is_some());
        checks.push(check(
            format!("kernel function {KFUNC}"),
            format!("{} in Linux {release}", if found { "present" } else { "missing" }),
            found,
            BACKPORTS,
        ));
    }
    let config = kernel_config(&release);
    for (option, needed) in [
        ("CONFIG_SYN_COOKIES", takes_over),
        ("CONFIG_NET_CLS_BPF", true),
        ("CONFIG_INET_DIAG_DESTROY", takes_over),
    ] {
        if needed {
            checks.push(kernel_option(config.as_deref(), option));
        }
    }
    checks
}

fn kernel_option(config: Option<&str>, option: &str) -> Check {
    let Some(config) = config else {
        return Check {
            what: option.into(),
            found: "unknown".into(),
            outcome: Outcome::Note(format!(
                "the kernel's configuration is not readable; it needs {option}=y or =m"
            )),
        };
    };
    let value = config.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
    check(
        option,
        value.unwrap_or("not set"),
        matches!(value, Some("y" | "m")),
        format!("use a kernel built with {option}=y, as Debian's are"),
    )
}

fn kernel_config(release: &str) -> Option<String> {
    let mut text = String::new();
    if fs::read_to_string(format!("/boot/config-{release}")).is_ok_and(|read| {
        text = read;
        true
    }) {
        return Some(text);
    }
    let packed = fs::File::open("/proc/config.gz").ok()?;
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).ok()?;
    Some(text)
}

/// linux/capability.h.
const CAPABILITIES: [(&str, u32); 5] =
    [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

fn capabilities(config: &Config) -> Vec<Check> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = effective_capabilities(&status).unwrap_or(0);
    let has = |bit: u32| effective & (1 << bit) != 0;
    let needs_mount = !pins::is_in_bpffs(&config.pin_directory);
    CAPABILITIES
        .iter()
        // Mounting is the only thing that needs more than the other four.
        .filter(|(name, _)| *name != "CAP_SYS_ADMIN" || needs_mount)
        .map(|(name, bit)| {
            check(
                *name,
                if has(*bit) { "effective" } else { "missing" },
                has(*bit),
                match *name {
                    "CAP_SYS_ADMIN" => {
                        format!("mount -t bpf bpf {}", pins::mount_point(&config.pin_directory).display())
                    }
                    _ => format!("run it as root, or with AmbientCapabilities={name} in its systemd unit"),
                },
            )
        })
        .collect()
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn addresses(config: &Config, all: &HashMap<String, Interface>) -> Vec<Check> {
    let name = &config.interface;
    let interface = all.get(name);
    let mut checks = vec![check(
        format!("interface {name}"),
        match interface {
            Some(Interface { up: true, .. }) => "up",
            Some(_) => "down",
            None => "missing",
        },
        interface.is_some_and(|interface| interface.up),
        if interface.is_some() {
            format!("ip link set {name} up")
        } else {
            let mut names: Vec<&str> = all.keys().map(String::as_str).collect();
            names.sort_unstable();
            format!("set `interface` in the configuration to one of: {}", names.join(", "))
        },
    )];
    let has = |interface: Option<&Interface>, address| {
        interface.is_some_and(|interface| interface.addresses.contains(&address))
    };
    let own = has(interface, config.address);
    checks.push(check(
        format!("board address {}", config.address),
        if own { format!("on {name}") } else { format!("not on {name}") },
        own,
        format!("ip address add {}/24 dev {name}   (with the farm's prefix length)", config.address),
    ));
    let mut services: Vec<_> = config.services.iter().map(|service| service.address).collect();
    services.dedup();
    for address in services {
        let on_lo = has(all.get("lo"), address);
        checks.push(check(
            format!("service address {address}"),
            if on_lo { "on lo" } else { "not on lo" },
            on_lo,
            format!("ip address add {address}/32 dev lo"),
        ));
    }
    checks
}

/// A number in /proc/sys of this network namespace; `key` with slashes.
pub fn read_sysctl(key: &str) -> Option<i64> {
    fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().parse().ok()
}

/// `sysctl` reads slashes as separators, so an interface name with a dot in it stays whole.
fn sysctl_command(key: &str, value: i64) -> String {
    format!("sysctl -w {}={value}", if key.contains('.') { key.to_string() } else { key.replace('/', ".") })
}

fn sysctls(interface: &str, takes_over: bool, read: &dyn Fn(&str) -> Option<i64>) -> Vec<Check> {
    let show = |value: Option<i64>| value.map_or_else(|| "unreadable".to_string(), |value| value.to_string());
    let mut checks = Vec::new();
    if takes_over {
        // Each of them off makes the kernel refuse, or reset, an endpoint whose control block has the option.
        for key in ["tcp_syncookies", "tcp_timestamps", "tcp_sack", "tcp_window_scaling", "tcp_ecn"] {
            let key = format!("net/ipv4/{key}");
            let value = read(&key);
            let mend = if key.ends_with("ecn") { 2 } else { 1 };
            checks.push(check(
                key.replace('/', "."),
                show(value),
                value.is_some_and(|value| value > 0),
                sysctl_command(&key, mend),
            ));
        }
    }
    // The kernel takes the larger of the interface's value and the one for all.
    type Rule = (&'static str, fn(i64) -> bool, i64, bool);
    let rules: [Rule; 3] = [
        ("rp_filter", |value| value != 1, 0, true),
        ("arp_ignore", |value| value >= 1, 1, false),
        ("arp_announce", |value| value == 2, 2, false),
    ];
    for (name, good, wanted, mend_both) in rules {
        let keys = ["all", interface].map(|at| format!("net/ipv4/conf/{at}/{name}"));
        let values = [read(&keys[0]), read(&keys[1])];
        let value = values.iter().flatten().max().copied();
        let culprits = keys.iter().zip(values).filter(|(_, value)| mend_both && *value == Some(1));
        let mends: Vec<String> = culprits.map(|(key, _)| sysctl_command(key, wanted)).collect();
        let mend = if mends.is_empty() { sysctl_command(&keys[1], wanted) } else { mends.join(" && ") };
        checks.push(check(format!("{name} of {interface}"), show(value), value.is_some_and(good), mend));
    }
    checks
}

fn pin_directory(config: &Config) -> Check {
    let directory = &config.pin_directory;
    let there = pins::is_in_bpffs(directory);
    let parent = pins::mount_point(directory);
    let found = if there { "in a BPF file system" } else { "no BPF file system; `run` mounts one" };
    let possible = there || fs::create_dir_all(parent).is_ok();
    check(
        format!("pin directory {}", directory.display()),
        found,
        possible,
        format!("mkdir -p {0} && mount -t bpf bpf {0}", parent.display()),
    )
}

/// Connection tracking sees a taken-over connection from its middle.
fn conntrack(loose: &Path) -> Check {
    let what = "connection tracking".to_string();
    match fs::read_to_string(loose).map(|text| text.trim() == "0") {
        Err(_) => Check { what, found: "not loaded".into(), outcome: Outcome::Ok },
        Ok(true) => check(what, "nf_conntrack_tcp_loose=0", false, "sysctl -w net.netfilter.nf_conntrack_tcp_loose=1"),
        Ok(false) => Check {
            what,
            found: "present".into(),
            outcome: Outcome::Note(
                "rules must not drop what looks mid-flow (`ct state invalid drop`) for the service addresses: \
                 nft list ruleset"
                    .into(),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::config;

    fn config() -> Config {
        config::parse(
            "interface = \"eth0\"\naddress = \"192.0.2.11\"\nappliances = [\"192.0.2.2\"]\n\
             services = [{ address = \"198.51.100.1\", kind = \"http\" }]\npin_directory = \"/run/none\"\n",
        )
        .expect("valid")
    }

    fn mend<'c>(checks: &'c [Check], what: &str) -> Option<&'c str> {
        let check = checks.iter().find(|check| check.what.contains(what)).expect(what);
        match &check.outcome {
            Outcome::Fail(mend) => Some(mend),
            _ => None,
        }
    }

    #[test]
    fn each_sysctl_that_breaks_takeover_fails_with_the_command_that_mends_it() {
        let all_good = |key: &str| {
            Some(i64::from(!key.ends_with("rp_filter")) * if key.ends_with("announce") { 2 } else { 1 })
        };
        assert!(sysctls("eth0", true, &all_good).iter().all(|check| check.outcome == Outcome::Ok));
        let all_bad = |key: &str| Some(i64::from(key.ends_with("rp_filter")));
        let checks = sysctls("eth0", true, &all_bad);
        assert_eq!(mend(&checks, "tcp_syncookies"), Some("sysctl -w net.ipv4.tcp_syncookies=1"));
        assert_eq!(mend(&checks, "tcp_ecn"), Some("sysctl -w net.ipv4.tcp_ecn=2"));
        assert_eq!(mend(&checks, "arp_ignore"), Some("sysctl -w net.ipv4.conf.eth0.arp_ignore=1"));
        assert_eq!(mend(&checks, "arp_announce"), Some("sysctl -w net.ipv4.conf.eth0.arp_announce=2"));
        assert_eq!(
            mend(&checks, "rp_filter"),
            Some("sysctl -w net.ipv4.conf.all.rp_filter=0 && sysctl -w net.ipv4.conf.eth0.rp_filter=0")
        );
    }

    #[test]
    fn services_that_terminate_nothing_need_no_tcp_sysctls() {
        let checks = sysctls("eth0.5", false, &|_| Some(0));
        assert_eq!(checks.len(), 3);
        assert_eq!(mend(&checks, "arp_ignore"), Some("sysctl -w net/ipv4/conf/eth0.5/arp_ignore=1"));
    }

    #[test]
    fn addresses_are_looked_for_where_they_belong() {
        let mut all =
            HashMap::from([("lo".to_string(), Interface { index: 1, up: true, ..Default::default() })]);
        let checks = addresses(&config(), &all);
        assert_eq!(
            mend(&checks, "interface eth0"),
            Some("set `interface` in the configuration to one of: lo")
        );
        let own =
            Interface { index: 2, up: false, addresses: vec![Ipv4Addr::new(198, 51, 100, 1)], mac: None };
        all.insert("eth0".into(), own);
        let checks = addresses(&config(), &all);
        assert_eq!(mend(&checks, "interface eth0"), Some("ip link set eth0 up"));
        assert_eq!(
            mend(&checks, "service address"),
            Some("ip address add 198.51.100.1/32 dev lo"),
            "the farm interface is no place for it"
        );
        assert!(mend(&checks, "board address").is_some());
    }

    #[test]
    fn a_kernel_option_is_read_from_the_configuration() {
        let text = "CONFIG_SYN_COOKIES=y\n# CONFIG_NET_CLS_BPF is not set\nCONFIG_SYN_COOKIES_X=n\n";
        assert_eq!(kernel_option(Some(text), "CONFIG_SYN_COOKIES").outcome, Outcome::Ok);
        assert!(matches!(kernel_option(Some(text), "CONFIG_NET_CLS_BPF").outcome, Outcome::Fail(_)));
        assert!(matches!(kernel_option(None, "CONFIG_NET_CLS_BPF").outcome, Outcome::Note(_)));
    }

    #[test]
    fn capabilities_are_read_from_the_process_status() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000008000003000\n"), Some(0x80_0000_3000));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }

    #[test]
    fn the_table_ends_with_the_verdict() {
        let report = Report(vec![check("a", "1", true, ""), check("b", "0", false, "mend b")]);
        assert!(!report.passed());
        assert_eq!(
            report.to_string(),
            "ok    a  1\nFAIL  b  0\n      -> mend b\npreflight: 1 of 2 checks failed"
        );
    }
}
