//! The lab of network namespaces as a bench uses it: taken up by `deploy/lab`, spread over two CPUs, taken down whatever
//! happens.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::Machine;
use crate::process::Process;

/// Where a lab keeps its files.
const ROOT: &str = "/run/ipos-lab";

/// Boards behind every balancer.
pub const BOARDS: u32 = 2;

/// Namespaces that never belong to the balancer.
const OTHERS: [&str; 5] = ["client", "router", "switch", "board1", "board2"];

/// Those that do. HAProxy and nginx share one.
const BALANCERS: [&str; 2] = ["appliance", "haproxy"];

/// How long the appliance may take to serve again after it was stopped.
const SERVE_PATIENCE: Duration = Duration::from_secs(10);

/// Which CPU does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The balancers have one, client, router, switch and boards the other; each does its own receive work.
    OwnCpu,
    /// The same, but whoever sends also does the receiver's work: what veth does by itself.
    Unsteered,
    /// All on one.
    OneCpu,
}

/// When the appliance's threads sleep, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Empty turns of the control core before it does.
    pub control_polls: u32,
    /// Empty polls of the worker before it does.
    pub worker_polls: u32,
    /// Microseconds that both ask for; the kernel adds its timer slack.
    pub sleep_us: u32,
}

/// A lab that is up.
pub struct Lab {
    machine: Machine,
    has_haproxy: bool,
    // Last, so that it ends after everything that runs in the lab.
    _guard: Guard,
}

impl Lab {
    /// Takes one up. The appliance's control core and worker are both on the CPU that is measured.
    ///
    /// # Errors
    /// When a lab is up already, or something is missing; `deploy/lab` says what.
    pub fn up(machine: Machine, rest: Rest) -> anyhow::Result<Self> {
        Self::tied(machine, rest, &[])
    }

    /// As [`Self::up`], with requests that move their connections.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn moving(machine: Machine, rest: Rest) -> anyhow::Result<Self> {
        Self::tied(machine, rest, &["--moves".to_owned()])
    }

    fn tied(machine: Machine, rest: Rest, more: &[String]) -> anyhow::Result<Self> {
        ensure!(
            machine.cpu != machine.main_cpu,
            "the lab needs two CPUs: one for the balancer, one for the others"
        );
        let has_haproxy = is_installed("haproxy");
        let cpu = machine.cpu;
        let mut arguments = vec![format!("--boards={BOARDS}"), "--nginx-proxy".to_owned()];
        arguments.push(format!("--cpus={cpu},{cpu}"));
        arguments.push(format!("--after-polls={},{}", rest.control_polls, rest.worker_polls));
        arguments.push(format!("--sleep-us={}", rest.sleep_us));
        if has_haproxy {
            arguments.push("--haproxy".to_owned());
        }
        arguments.extend_from_slice(more);
        Self::up_with(machine, &arguments, has_haproxy)
    }

    /// Takes one up whose boards take so many milliseconds for a request, one at a time; nothing is tied to a CPU.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn unequal(machine: Machine, service_ms: &[u32]) -> anyhow::Result<Self> {
        let list: Vec<String> = service_ms.iter().map(ToString::to_string).collect();
        let arguments =
            [format!("--boards={}", service_ms.len()), format!("--service-ms={}", list.join(","))];
        Self::up_with(machine, &arguments, false)
    }

    fn up_with(machine: Machine, arguments: &[String], has_haproxy: bool) -> anyhow::Result<Self> {
        // Should this process die meanwhile, the lab is asked to clean up.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(script()).arg("up").args(arguments).stdin(Stdio::null());
        if let Some(directory) = binaries() {
            command.env("IPOS_BIN_DIR", directory);
        }
        let output = command.output().context("starting setpriv (install util-linux)")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("the lab does not come up: {}", said.trim().lines().collect::<Vec<_>>().join(" | "));
        }
        let lab = Self { machine, has_haproxy, _guard: Guard::new()? };
        // A new connection every 20 us for a few seconds takes more ports than the default has.
        inside("client", &["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"])?;
        Ok(lab)
    }

    /// Whether HAProxy is there to be compared with.
    pub fn has_haproxy(&self) -> bool {
        self.has_haproxy
    }

    /// Distributes everything over the CPUs.
    ///
    /// # Errors
    /// When a namespace or process cannot be reached.
    pub fn spread(&self, spread: Spread) -> anyhow::Result<()> {
        let Machine { cpu, main_cpu } = self.machine;
        let others_cpu = if spread == Spread::OneCpu { cpu } else { main_cpu };
        for (names, cpu) in [(OTHERS.as_slice(), others_cpu), (BALANCERS.as_slice(), cpu)] {
            for name in names {
                let cpus = cpu_mask(cpu);
                let mask = if spread == Spread::Unsteered { "0" } else { &cpus };
                let steer =
                    format!("for f in /sys/class/net/*/queues/rx-*/rps_cpus; do echo {mask} > $f; done");
                inside(name, &["sh", "-c", &steer])?;
                for pid in run("ip", &["netns", "pids", &format!("ipos-{name}")])?.split_whitespace() {
                    run("taskset", &["--all-tasks", "--cpu-list", "--pid", &cpu.to_string(), pid])?;
                }
            }
        }
        Ok(())
    }

    /// The CPU of the clients.
    pub fn client_cpu(&self, spread: Spread) -> u32 {
        if spread == Spread::OneCpu { self.machine.cpu } else { self.machine.main_cpu }
    }

    /// A process in a namespace, on the CPU that is not measured, to be spoken with in lines.
    ///
    /// # Errors
    /// When it does not start.
    pub fn spawn(
        &self,
        namespace: &str,
        cpu: u32,
        program: &str,
        arguments: &[String],
    ) -> anyhow::Result<Process> {
        let namespace = format!("ipos-{namespace}");
        let before = ["netns", "exec", &namespace, "taskset", "--cpu-list", &cpu.to_string(), program]
            .map(str::to_owned);
        let arguments: Vec<String> = before.into_iter().chain(arguments.iter().cloned()).collect();
        Process::spawn(program, "ip", &arguments)
    }

    /// The appliance's process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn appliance_pid(&self) -> anyhow::Result<u32> {
        let path = format!("{ROOT}/pids/appliance.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        text.split(' ')
            .next()
            .and_then(|pid| pid.parse().ok())
            .with_context(|| format!("{path} holds no pid"))
    }

    /// Stops the appliance where it is: it polls, and would take the CPU from whoever is measured.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause_appliance(&self) -> anyhow::Result<()> {
        self.signal_appliance(Signal::SIGSTOP)
    }

    /// Lets it go on, and waits until it serves: it has to hear of its boards again.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn resume_appliance(&self, address: &str) -> anyhow::Result<()> {
        self.signal_appliance(Signal::SIGCONT)?;
        let deadline = Instant::now() + SERVE_PATIENCE;
        let url = format!("http://{address}/");
        loop {
            match inside("client", &["curl", "-sS", "-f", "-m", "2", "-o", "/dev/null", &url]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the appliance does not serve again");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn signal_appliance(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.appliance_pid()?;
        kill(Pid::from_raw(pid as i32), signal).with_context(|| format!("the appliance: {signal}"))
    }
}

/// Takes the lab down once this process is done with it, or is gone: it waits for the end of a pipe.
struct Guard(Child);

impl Guard {
    fn new() -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r _; exec \"$0\" down"]).arg(script());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        // Not in the terminal's foreground: Ctrl-C ends the bench, and then this one does its work.
        command.process_group(0);
        Ok(Self(command.spawn().context("starting sh")?))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if !self.0.wait().is_ok_and(|status| status.success()) {
            eprintln!("ipos-bench: the lab did not come down; `deploy/lab down` says why");
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf()
}

fn script() -> PathBuf {
    repository().join("deploy/lab")
}

/// The appliance and the agent beside this program, unless the environment or `deploy/lab` know better.
fn binaries() -> Option<PathBuf> {
    if std::env::var_os("IPOS_BIN_DIR").is_some() {
        return None;
    }
    let directory = std::env::current_exe().ok()?.parent()?.to_path_buf();
    directory.join("ipos-appliance").exists().then_some(directory)
}

/// Whether a program is on the path.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Runs a command in a namespace to its end.
///
/// # Errors
/// When it fails, with what it said.
pub fn inside(namespace: &str, command: &[&str]) -> anyhow::Result<String> {
    let namespace = format!("ipos-{namespace}");
    let words: Vec<&str> = ["netns", "exec", &namespace].into_iter().chain(command.iter().copied()).collect();
    run("ip", &words)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program} (`make setup` installs what is missing)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{program} {}` failed: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel's bit mask of one CPU: groups of 32, the highest first.
fn cpu_mask(cpu: u32) -> String {
    format!("{:x}{}", 1u32 << (cpu % 32), ",00000000".repeat((cpu / 32) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_what_the_kernel_reads() {
        assert_eq!(cpu_mask(0), "1");
        assert_eq!(cpu_mask(5), "20");
        assert_eq!(cpu_mask(33), "2,00000000");
    }

    #[test]
    fn the_lab_has_its_script_where_the_bench_looks() {
        assert!(script().exists());
        assert!(is_installed("sh") && !is_installed("no-such-program"));
    }

    #[test]
    fn what_a_command_says_when_it_fails_is_in_the_error() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"]).expect_err("it fails").to_string();
        assert!(error.contains("broken"), "{error}");
    }
}
