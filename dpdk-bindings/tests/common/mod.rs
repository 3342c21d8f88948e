//! What the tests here share. Each file under `tests/` is a process, hence an EAL, of its own.
#![allow(dead_code, reason = "no test file needs all of it")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ipos_dpdk::burst::Burst;
use ipos_dpdk::mbuf::Mbuf;
use ipos_dpdk::mempool::Mempool;
use ipos_dpdk::queue::{RxQueue, TxQueue};

/// EtherType for local experiments, which the kernel leaves alone (IEEE 802, 88b5).
pub const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

pub const PATIENCE: Duration = Duration::from_secs(10);

/// A number that no other user of this process has.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output().unwrap_or_else(|e| panic!("`{command}`: {e}"));
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two interfaces that are joined, in the current network namespace, gone when dropped.
pub struct Veth {
    pub a: String,
    pub b: String,
}

impl Veth {
    pub fn new() -> Self {
        let name = format!("v{:x}x{:x}", std::process::id(), unique());
        let pair = Self { a: format!("{name}a"), b: format!("{name}b") };
        run(&format!("ip link add {} type veth peer name {}", pair.a, pair.b));
        for end in [&pair.a, &pair.b] {
            // The port's frames shall be the only ones: the kernel has nothing to say on it.
            let ipv6 = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            if fs::exists(&ipv6).unwrap_or(false) {
                fs::write(&ipv6, "1").unwrap_or_else(|e| panic!("{ipv6}: {e}"));
            }
            run(&format!("ip link set {end} up"));
        }
        pair
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.a]).output();
    }
}

pub fn interface(name: &str, file: &str) -> String {
    let path = format!("/sys/class/net/{name}/{file}");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")).trim().to_owned()
}

/// A directory for the files of one test, gone when dropped.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ipos-dpdk-{}-{}", std::process::id(), unique()));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Directories of running (or badly ended) EALs whose prefix starts like this.
pub fn runtime_dirs(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/dpdk") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// A frame of our EtherType whose content is this number, repeated.
pub fn frame(pool: &Mempool, octets: usize, number: u8) -> Mbuf {
    let mut mbuf = pool.alloc().expect("an mbuf");
    let data = mbuf.append(octets).expect("room for the frame");
    data.fill(number);
    data[..6].fill(0xff);
    data[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    data[12..14].copy_from_slice(&ETHERTYPE);
    mbuf
}

/// Sends all of the burst, and panics when that takes too long.
pub fn send_all<const N: usize>(tx: &mut TxQueue, burst: &mut Burst<N>) {
    let deadline = Instant::now() + PATIENCE;
    while !burst.is_empty() {
        tx.send(burst);
        assert!(Instant::now() < deadline, "{} packets could not be sent", burst.len());
    }
}

/// Receives until `count` packets of our EtherType came, and panics when that takes too long.
pub fn receive_frames(rx: &mut [RxQueue], count: usize) -> Vec<Mbuf> {
    receive_where(rx, count, |mbuf| mbuf.data().get(12..14) == Some(&ETHERTYPE[..]))
}

/// Receives until `count` packets of the wanted kind came, and panics when that takes too long.
pub fn receive_where(rx: &mut [RxQueue], count: usize, wanted: impl Fn(&Mbuf) -> bool) -> Vec<Mbuf> {
    let deadline = Instant::now() + PATIENCE;
    let mut frames = Vec::new();
    let mut burst = Burst::<32>::new();
    while frames.len() < count {
        for queue in &mut *rx {
            queue.receive(&mut burst);
            frames.extend(burst.drain().filter(&wanted));
        }
        assert!(Instant::now() < deadline, "{} of {count} frames came", frames.len());
    }
    frames
}
