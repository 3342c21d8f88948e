//! Which process owns a socket.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::Read as _,
    time::Instant,
};

use procfs::{FromRead, process::Stat};

use crate::effort::{Effort, Work};

/// A process as a report names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// 0 when unknown.
    pub pid: u32,
    /// The kernel's `comm`.
    pub name: String,
    /// When it started, clock ticks since boot: with the id it is one process for ever, since ids are used again.
    pub started: u64,
}

/// Opens listening sockets for others before they run (socket activation): it owns one only when nobody else holds it.
pub const MANAGER: &str = "systemd";

/// Socket inodes to their owners. They are looked for in `/proc/*/fd` only when an inode is new; one that nobody holds
/// (the kernel's own sockets) is looked for ever more seldom.
#[derive(Debug, Default)]
pub struct Owners {
    by_inode: HashMap<u32, u32>,
    processes: BTreeMap<u32, Owner>,
    /// The inodes of the last update, when each of them had an owner.
    settled: Vec<u32>,
    /// Inodes that the last look did not find.
    sought: HashSet<u32>,
    effort: Effort,
    /// Doublings of the rest while nothing new was to be found.
    fruitless: u32,
    looks: u64,
}

/// At most 64 times the rest.
const FRUITLESS_MAX: u32 = 6;

impl Owners {
    /// Brings the table up to the inodes that are there now.
    pub fn update(&mut self, inodes: &[u32], now: Instant) {
        if !self.settled.is_empty() && self.settled == inodes {
            return;
        }
        self.settled.clear();
        let there: HashSet<u32> = inodes.iter().copied().filter(|inode| *inode != 0).collect();
        self.by_inode.retain(|inode, _| there.contains(inode));
        let missing: HashSet<u32> =
            there.iter().copied().filter(|inode| !self.by_inode.contains_key(inode)).collect();
        let new = missing.iter().any(|inode| !self.sought.contains(inode));
        if missing.is_empty() {
            self.settled = inodes.to_vec();
        }
        if missing.is_empty() || !(self.effort.is_allowed(now) || new && self.fruitless > 0) {
            self.forget_others();
            return;
        }
        self.looks += 1;
        let work = Work::begin();
        for (inode, owner) in holders(&missing) {
            self.by_inode.insert(inode, owner.pid);
            self.processes.insert(owner.pid, owner);
        }
        self.forget_others();
        self.sought = missing.into_iter().filter(|inode| !self.by_inode.contains_key(inode)).collect();
        self.fruitless =
            if self.sought.is_empty() || new { 0 } else { (self.fruitless + 1).min(FRUITLESS_MAX) };
        self.effort.rest(work, 1 << self.fruitless);
    }

    /// Forgets processes that own nothing any more.
    fn forget_others(&mut self) {
        let owning: HashSet<u32> = self.by_inode.values().copied().collect();
        self.processes.retain(|pid, _| owning.contains(pid));
    }

    /// The owner of a socket; `None` when it is not known.
    pub fn owner(&self, inode: u32) -> Option<&Owner> {
        self.processes.get(self.by_inode.get(&inode)?)
    }

    /// All owners, by process id.
    pub fn processes(&self) -> &BTreeMap<u32, Owner> {
        &self.processes
    }

    /// The process goes by another name now.
    pub fn rename(&mut self, pid: u32, name: &str) {
        if let Some(owner) = self.processes.get_mut(&pid)
            && owner.name != name
        {
            name.clone_into(&mut owner.name);
        }
    }

    #[cfg(test)]
    pub fn set_started(&mut self, pid: u32, started: u64) {
        if let Some(owner) = self.processes.get_mut(&pid) {
            owner.started = started;
        }
    }

    /// The process has ended; if its sockets are still there, others hold them.
    pub fn ended(&mut self, pid: u32) {
        self.settled.clear();
        self.by_inode.retain(|_, owner| *owner != pid);
        self.processes.remove(&pid);
        self.fruitless = 0;
    }
}

/// Ids of all processes now.
pub fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `/proc/PID/stat`; `None` when there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    // A line of at most 52 numbers and a name: it comes in one read.
    let mut line = [0; 2048];
    let len = fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line)).ok()?;
    Stat::from_read(line.get(..len)?).ok()
}

/// Who holds these sockets, by inode. Several processes may share one: the oldest stands for all (nginx's master).
pub fn holders(inodes: &HashSet<u32>) -> HashMap<u32, Owner> {
    let mut found: HashMap<u32, Owner> = HashMap::new();
    for pid in all_pids() {
        // A process may end meanwhile, or belong to somebody else: it is then not an owner we can name.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let mut owner = None;
        for descriptor in descriptors.flatten() {
            let Some(inode) = socket_inode(&descriptor.path()) else { continue };
            if !inodes.contains(&inode) {
                continue;
            }
            if owner.is_none() {
                owner = stat(pid).map(|stat| Owner { pid, name: stat.comm, started: stat.starttime });
            }
            let Some(owner) = &owner else { break };
            if found.get(&inode).is_none_or(|known| rank(owner) < rank(known)) {
                found.insert(inode, owner.clone());
            }
        }
    }
    found
}

/// Of those that hold a socket, the lowest owns it.
fn rank(owner: &Owner) -> (bool, u64, u32) {
    (owner.name == MANAGER, owner.started, owner.pid)
}

fn socket_inode(descriptor: &std::path::Path) -> Option<u32> {
    let target = fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd, time::Duration};

    use super::*;

    fn inode(listener: &TcpListener) -> u32 {
        let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
        socket_inode(std::path::Path::new(&path)).expect("a socket")
    }

    fn pid(owners: &Owners, inode: u32) -> Option<u32> {
        owners.owner(inode).map(|owner| owner.pid)
    }

    #[test]
    fn the_owner_is_found_by_one_look_and_then_remembered() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let inode = inode(&listener);
        let mut owners = Owners::default();
        let now = Instant::now();
        for _ in 0..3 {
            owners.update(&[inode, inode, 0], now);
            assert_eq!(pid(&owners, inode), Some(std::process::id()));
        }
        assert_eq!(owners.looks, 1);
        let stat = stat(std::process::id()).expect("this process");
        let own = owners.processes().get(&std::process::id()).expect("this process");
        assert_eq!((&own.name, own.started), (&stat.comm, stat.starttime));
        owners.rename(std::process::id(), "another");
        assert_eq!(owners.owner(inode).map(|owner| owner.name.as_str()), Some("another"));
        owners.update(&[], now);
        assert_eq!((pid(&owners, inode), owners.processes().len()), (None, 0));
    }

    #[test]
    fn a_socket_whose_owner_ended_is_looked_for_again() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let inode = inode(&listener);
        let mut owners = Owners::default();
        owners.update(&[inode], Instant::now());
        owners.ended(std::process::id());
        assert_eq!(pid(&owners, inode), None);
        owners.update(&[inode], Instant::now() + Duration::from_secs(3600));
        assert_eq!((pid(&owners, inode), owners.looks), (Some(std::process::id()), 2));
    }

    #[test]
    fn an_inode_without_owner_does_not_cost_a_look_in_every_report() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let mut owners = Owners::default();
        let begin = Instant::now();
        for _ in 0..10 {
            owners.update(&[u32::MAX], begin);
        }
        assert_eq!((owners.looks, pid(&owners, u32::MAX)), (1, None));
        for hour in 1..10 {
            owners.update(&[u32::MAX], begin + Duration::from_secs(3600 * hour));
        }
        assert_eq!((owners.looks, owners.fruitless), (10, FRUITLESS_MAX));
        // A new one is not made to wait for that.
        owners.update(&[u32::MAX, inode(&listener)], begin);
        assert_eq!(pid(&owners, inode(&listener)), Some(std::process::id()));
    }

    #[test]
    fn the_oldest_holder_owns_a_socket_and_a_manager_only_when_alone() {
        let owner = |pid, name: &str, started| Owner { pid, name: name.to_owned(), started };
        let (manager, master, worker) =
            (owner(1, MANAGER, 0), owner(9000, "nginx", 50), owner(20, "nginx", 60));
        assert!(rank(&master) < rank(&worker) && rank(&worker) < rank(&manager));
    }
}
