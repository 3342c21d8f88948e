//! A board in a namespace of its own, and the far end of its farm link in another. All of it goes when the world is dropped,
//! also by a failing test.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use crate::appliance::Appliance;

pub const BOARD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
pub const APPLIANCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Not taken over, so not guarded.
pub const L4_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// An agent that shall end has so long.
const AGENT_ENDS_WITHIN: Duration = Duration::from_secs(20);

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// What a test may choose.
pub struct Options {
    pub ethertype: u16,
    pub xdp_mode: &'static str,
    pub endpoints_max: u32,
    pub pending_s: u32,
    pub tombstone_s: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { ethertype: 0x88b5, xdp_mode: "auto", endpoints_max: 1024, pending_s: 30, tombstone_s: 60 }
    }
}

pub struct World {
    pub directory: PathBuf,
    board: String,
    far: String,
    ethertype: u16,
    children: Vec<Child>,
    agent: Option<Child>,
}

pub fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("sh runs");
    assert!(
        output.status.success(),
        "{command}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl World {
    /// Namespaces, link, addresses and configuration; no agent yet.
    pub fn new(options: &Options) -> World {
        let unique = format!("{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let (board, far) = (format!("ipos-tb-{unique}"), format!("ipos-tf-{unique}"));
        let directory = std::env::temp_dir().join(format!("ipos-board-test-{unique}"));
        let world = World {
            directory: directory.clone(),
            board: board.clone(),
            far: far.clone(),
            ethertype: options.ethertype,
            children: Vec::new(),
            agent: None,
        };
        let place = directory.display();
        shell(&format!(
            "mkdir -p {place}/bpf {place}/www; mount -t bpf bpf {place}/bpf
             ip netns add {board}; ip netns add {far}
             ip link add farm0 netns {board} type veth peer name far0 netns {far}
             ip -n {board} link set lo up; ip -n {board} address add {BOARD}/24 dev farm0; ip -n {board} link set farm0 up
             ip -n {board} address add {SERVICE}/32 dev lo; ip -n {board} address add {L4_SERVICE}/32 dev lo
             ip -n {far} address add {APPLIANCE}/24 dev far0; ip -n {far} link set far0 up
             ip -n {board} route add default via {APPLIANCE}
             ip netns exec {board} sysctl -qw net.ipv4.conf.farm0.arp_ignore=1 net.ipv4.conf.farm0.arp_announce=2 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.farm0.rp_filter=0"
        ));
        let configuration = format!(
            "interface = \"farm0\"\naddress = \"{BOARD}\"\nethertype = {}\nappliances = [\"{APPLIANCE}\"]\n\
             services = [{{ address = \"{SERVICE}\", kind = \"http\" }}, {{ address = \"{L4_SERVICE}\", kind = \"l4\" }}]\n\
             pin_directory = \"{place}/bpf/ipos\"\nxdp_mode = \"{}\"\nreport_interval_ms = 50\nendpoints_max = {}\n\
             pending_s = {}\ntombstone_s = {}\n",
            options.ethertype,
            options.xdp_mode,
            options.endpoints_max,
            options.pending_s,
            options.tombstone_s
        );
        fs::write(directory.join("board.toml"), configuration).expect("configuration written");
        world
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.join("board.toml")
    }

    pub fn pins(&self) -> PathBuf {
        self.directory.join("bpf/ipos")
    }

    pub fn board_namespace(&self) -> &str {
        &self.board
    }

    pub fn far_namespace(&self) -> &str {
        &self.far
    }

    /// A command inside the board.
    pub fn on_board(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.board, program]);
        command
    }

    pub fn agent_command(&self, verb: &str) -> Command {
        let mut command = self.on_board(env!("CARGO_BIN_EXE_ipos-board"));
        command.arg(verb).arg("--config").arg(self.configuration());
        command
    }

    pub fn start_agent(&mut self) {
        let log = fs::File::create(self.directory.join("agent.log")).expect("log");
        let agent = self.agent_command("run").stderr(log).spawn().expect("the agent starts");
        assert!(self.agent.replace(agent).is_none(), "one agent at a time");
    }

    /// SIGKILL, as a crash would be.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("an agent runs");
        agent.kill().expect("killed");
        agent.wait().expect("reaped");
    }

    /// SIGTERM; its exit status.
    pub fn stop_agent(&mut self) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("an agent runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        agent.wait().expect("ends")
    }

    /// Awaits that the agent ends by itself.
    pub fn wait_for_agent(&mut self) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("an agent runs");
        let pid = nix::unistd::Pid::from_raw(agent.id() as i32);
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(agent.wait().expect("a child to wait for")));
        end.recv_timeout(AGENT_ENDS_WITHIN).unwrap_or_else(|_| {
            // Ours, and not waited for yet: the pid cannot be another's.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            panic!("the agent still runs after {AGENT_ENDS_WITHIN:?}");
        })
    }

    /// The distribution's nginx with a configuration of its own; its pid.
    pub fn start_nginx(&mut self, listen: &str, extra: &str) -> u32 {
        let place = self.directory.display();
        let configuration = format!(
            "daemon off; worker_processes 1; user root; pid {place}/nginx.pid; error_log {place}/error.log;\n\
             events {{ worker_connections 2048; }}\n\
             http {{ access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p;\n\
             fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
             server {{ listen {listen}; root {place}/www; {extra} }} }}\n"
        );
        let path = self.directory.join("nginx.conf");
        fs::write(&path, configuration).expect("written");
        let mut command = self.on_board("nginx");
        command.arg("-e").arg(self.directory.join("error.log")).arg("-c").arg(path);
        self.spawn(command)
    }

    pub fn write_page(&self, name: &str, body: &[u8]) {
        fs::write(self.directory.join("www").join(name), body).expect("page written");
    }

    pub fn spawn(&mut self, mut command: Command) -> u32 {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts");
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// Ends a child started by this world.
    pub fn end(&mut self, pid: u32) {
        let at = self.children.iter().position(|child| child.id() == pid).expect("a child of this world");
        let mut child = self.children.swap_remove(at);
        stop(&mut child);
    }

    /// Runs `work` on a thread inside the board's namespace.
    pub fn inside_board<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.board, work)
    }

    /// The scripted appliance, client and router at the far end of the link.
    pub fn appliance(&self) -> Appliance {
        let ethertype = self.ethertype;
        let index = link_index(&self.far, "far0");
        let (mac, board_mac) = (mac(&self.far, "far0"), mac(&self.board, "farm0"));
        inside(&self.far, move || Appliance::open(index, mac, board_mac, ethertype))
    }

    /// One counter of the programs.
    pub fn counter(&self, name: &str) -> u64 {
        let output = self.agent_command("status").output().expect("status runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no counter {name} in {text}"));
        line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).expect("a number")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("agent.log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- agent of {}:\n{}", self.board, self.log());
            if self.pins().exists() {
                let status = self.agent_command("status").output();
                let text = status.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                eprintln!("{}", text.unwrap_or_default());
            }
        }
        for child in self.agent.iter_mut().chain(&mut self.children) {
            stop(child);
        }
        let place = self.directory.display();
        // Every step is tried, whatever became of the one before: dropping must not panic.
        for step in [
            format!("ip netns del {}", self.board),
            format!("ip netns del {}", self.far),
            format!("umount {place}/bpf"),
            format!("rm -rf --one-file-system {place}"),
        ] {
            let done = Command::new("sh").args(["-c", &step]).status();
            if !done.is_ok_and(|status| status.success()) {
                eprintln!("not cleaned up: {step}");
            }
        }
    }
}

/// SIGTERM lets nginx take its workers along.
fn stop(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
    }
    let _ = child.wait();
}

fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let path = Path::new("/run/netns").join(namespace);
    thread::spawn(move || {
        setns(fs::File::open(path).expect("the namespace"), CloneFlags::CLONE_NEWNET).expect("entered");
        work()
    })
    .join()
    .expect("the work inside succeeds")
}

fn mac(namespace: &str, interface: &str) -> [u8; 6] {
    let text = shell(&format!("ip netns exec {namespace} cat /sys/class/net/{interface}/address"));
    let octets: Vec<u8> =
        text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal")).collect();
    octets.try_into().expect("six octets")
}

fn link_index(namespace: &str, interface: &str) -> i32 {
    let text = shell(&format!("ip netns exec {namespace} cat /sys/class/net/{interface}/ifindex"));
    text.trim().parse().expect("an index")
}
