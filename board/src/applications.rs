//! The Application Information Table (Fig. 12) of this board: what each process that owns a listening socket needs, with its
//! descendants (docs/wire.md "0x12 application information").
//!
//! Each reading takes `/proc/PID/stat` of the processes that are known to belong; who belongs is looked up among all
//! processes only now and then (`docs/board.md` "What the reports cost").

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use ipos_wire::ipos::{ApplicationRow, name_from};
use nix::time::{ClockId, clock_gettime};
use procfs::process::Stat;

use crate::{
    effort::{Effort, Work},
    procs::{self, MANAGER, Owner, Owners},
};

/// The processes are looked through again at the reading after a change, since who comes or goes is seldom alone, and then
/// ever more seldom, down to one reading in so many.
const READINGS_PER_LOOK: u32 = 8;

/// A process that belongs to an application.
#[derive(Debug, Clone, Copy)]
struct Member {
    /// The process that owns a listening socket: itself, or its nearest ancestor that does.
    root: u32,
    /// See [`Owner::started`].
    started: u64,
    /// CPU time so far, clock ticks.
    ticks: u64,
}

/// What is summed over an application's processes.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    processes: u32,
    pages: u64,
    ticks: u64,
}

/// Takes readings; CPU is over the time between two of them.
#[derive(Debug)]
pub struct Census {
    ticks_per_s: u64,
    page_octets: u64,
    members: HashMap<u32, Member>,
    effort: Effort,
    /// Readings until the next look, and between the last two.
    readings_left: u32,
    readings_between: u32,
    last: Option<(Instant, u64)>,
    looks: u64,
}

impl Census {
    /// Nobody counted yet.
    pub fn new() -> Census {
        Census {
            ticks_per_s: procfs::ticks_per_second().max(1),
            page_octets: procfs::page_size(),
            members: HashMap::new(),
            effort: Effort::default(),
            readings_left: 0,
            readings_between: 1,
            last: None,
            looks: 0,
        }
    }

    /// Reads what the owners of listening sockets and their descendants use now; one row for each owner. Owners that have
    /// ended are taken out of `owners`.
    pub fn read(&mut self, owners: &mut Owners, cores: u16, now: Instant) -> Vec<ApplicationRow> {
        let interval = self.last.map_or(Duration::ZERO, |(then, _)| now.saturating_duration_since(then));
        let since = self.last.map(|(_, ticks)| ticks);
        self.last = Some((now, self.ticks_since_boot()));
        let before = self.members.clone();
        let stats = self.stats(owners, now);
        let mut sums: BTreeMap<u32, Sum> = BTreeMap::new();
        for (pid, stat) in &stats {
            let Some(member) = self.members.get_mut(pid) else { continue };
            let ticks = stat.utime + stat.stime;
            let known = before.get(pid).filter(|known| known.started == member.started);
            let used = match (known, since) {
                (Some(known), _) => ticks.saturating_sub(known.ticks),
                // It began after the last reading: all that it has used is new.
                (None, Some(since)) if stat.starttime >= since => ticks,
                (None, _) => 0,
            };
            member.ticks = ticks;
            let sum = sums.entry(member.root).or_default();
            sum.processes += 1;
            sum.pages += stat.rss;
            sum.ticks += used;
        }
        let row = |(pid, owner): (&u32, &Owner)| {
            let is_new = before.get(pid).is_none_or(|known| known.started != owner.started);
            let interval = if is_new { Duration::ZERO } else { interval };
            Some(self.row(owner, sums.get(pid)?, cores, interval))
        };
        owners.processes().iter().filter_map(row).collect()
    }

    fn row(&self, owner: &Owner, sum: &Sum, cores: u16, interval: Duration) -> ApplicationRow {
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        let used = sum.ticks.saturating_mul(10_000 * 1_000_000) / self.ticks_per_s;
        // Ticks end where they like: what was used in the interval may seem more than there was.
        let most = u64::from(cores) * 10_000;
        let cpu = used.checked_div(micros).unwrap_or(0).min(most);
        ApplicationRow {
            pid: owner.pid,
            processes: u16::try_from(sum.processes).unwrap_or(u16::MAX),
            interval_ms: u16::try_from(interval.as_millis()).unwrap_or(u16::MAX),
            memory: sum.pages.saturating_mul(self.page_octets),
            cpu: u32::try_from(cpu).unwrap_or(u32::MAX),
            name: name_from(&owner.name),
        }
    }

    /// Brings the members up to date and returns what `/proc` says of each.
    fn stats(&mut self, owners: &mut Owners, now: Instant) -> HashMap<u32, Stat> {
        let mut stats = HashMap::new();
        self.members.retain(|_, member| owners.processes().contains_key(&member.root));
        let mut changed = false;
        for pid in owners.processes().keys().copied().collect::<Vec<u32>>() {
            changed |= self.members.get(&pid).is_none_or(|member| member.root != pid);
            match procs::stat(pid).filter(|stat| is_owner(owners, pid, stat)) {
                Some(stat) => {
                    owners.rename(pid, &stat.comm);
                    stats.insert(pid, stat);
                }
                None => {
                    changed = true;
                    owners.ended(pid);
                }
            }
        }
        let others: Vec<(u32, u64)> = self
            .members
            .iter()
            .filter(|(pid, _)| !owners.processes().contains_key(pid))
            .map(|(pid, member)| (*pid, member.started))
            .collect();
        for (pid, started) in others {
            match procs::stat(pid).filter(|stat| stat.starttime == started) {
                Some(stat) => {
                    stats.insert(pid, stat);
                }
                None => changed = true,
            }
        }
        self.readings_left = self.readings_left.saturating_sub(1);
        if (changed || self.readings_left == 0) && self.effort.is_allowed(now) {
            self.readings_between =
                if changed { 1 } else { (self.readings_between * 2).min(READINGS_PER_LOOK) };
            self.readings_left = self.readings_between;
            stats = self.look(owners);
        }
        self.assign(owners, &stats);
        stats
    }

    /// Every process of this machine.
    fn look(&mut self, owners: &Owners) -> HashMap<u32, Stat> {
        self.looks += 1;
        let work = Work::begin();
        let mut all: HashMap<u32, Stat> =
            procs::all_pids().into_iter().filter_map(|pid| Some((pid, procs::stat(pid)?))).collect();
        let parents: HashMap<u32, u32> =
            all.iter().map(|(pid, stat)| (*pid, u32::try_from(stat.ppid).unwrap_or(0))).collect();
        all.retain(|pid, _| root_of(*pid, &parents, owners.processes()).is_some());
        self.members = all
            .iter()
            .filter_map(|(pid, stat)| {
                let root = root_of(*pid, &parents, owners.processes())?;
                Some((*pid, Member { root, started: stat.starttime, ticks: 0 }))
            })
            .collect();
        self.effort.rest(work, 1);
        all
    }

    /// Members are those of whom there is a reading; an owner without descendants so far is its own.
    fn assign(&mut self, owners: &Owners, stats: &HashMap<u32, Stat>) {
        self.members.retain(|pid, _| stats.contains_key(pid));
        for (pid, owner) in owners.processes() {
            if stats.contains_key(pid) {
                let member = Member { root: *pid, started: owner.started, ticks: 0 };
                self.members.insert(*pid, member);
            }
        }
    }

    /// As `/proc/PID/stat` counts the time of a start.
    fn ticks_since_boot(&self) -> u64 {
        let Ok(time) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return u64::MAX };
        let (s, ns) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
        s.unwrap_or(0) * self.ticks_per_s + ns.unwrap_or(0) * self.ticks_per_s / 1_000_000_000
    }
}

/// Whether the process with that id is still the owner of that name, and not a later one.
fn is_owner(owners: &Owners, pid: u32, stat: &Stat) -> bool {
    owners.processes().get(&pid).is_some_and(|owner| owner.started == stat.starttime)
}

/// The nearest process at or above this one that owns a listening socket. What a manager started is not its own.
fn root_of(pid: u32, parents: &HashMap<u32, u32>, owners: &BTreeMap<u32, Owner>) -> Option<u32> {
    let mut at = pid;
    // A generation more than there are processes: what the kernel told at different moments could go round.
    for _ in 0..=parents.len() {
        if let Some(owner) = owners.get(&at) {
            return (at == pid || owner.name != MANAGER).then_some(at);
        }
        at = *parents.get(&at)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        io::{BufRead, BufReader},
        net::TcpListener,
        os::{fd::AsRawFd, unix::process::CommandExt},
        process::{Child, Command, Stdio},
    };

    use super::*;

    fn own_owner() -> (TcpListener, Owners) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let link = std::fs::read_link(path).expect("a descriptor").to_string_lossy().into_owned();
        let inode = link.trim_start_matches("socket:[").trim_end_matches(']').parse().expect("an inode");
        let mut owners = Owners::default();
        owners.update(&[inode], Instant::now());
        (listener, owners)
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            // With its child, which would hold the test's output open for long after.
            let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }

    /// A shell that has a child of its own; both run when this returns.
    fn family() -> (Ended, u32) {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("a pipe")).read_line(&mut line).expect("it says its child");
        (Ended(shell), line.trim().parse().expect("an id"))
    }

    #[test]
    fn descendants_are_counted_with_the_owner_and_cpu_over_the_time_between() {
        let (_listener, mut owners) = own_owner();
        let mut census = Census::new();
        let start = Instant::now();
        let own = |rows: Vec<ApplicationRow>| {
            rows.into_iter().find(|row| row.pid == std::process::id()).expect("this process")
        };
        let first = own(census.read(&mut owners, 4, start));
        assert_eq!((first.interval_ms, first.cpu), (0, 0), "no figure yet");
        assert!(first.memory > 1 << 20, "{first:?}");

        let (shell, child) = family();
        // Until the kernel has counted some of the work.
        let before = procs::stat(std::process::id()).map(|stat| stat.utime + stat.stime);
        while procs::stat(std::process::id()).map(|stat| stat.utime + stat.stime) < before.map(|t| t + 5) {}
        census.readings_left = 0;
        census.effort = Effort::default();
        let row = own(census.read(&mut owners, 4, start + Duration::from_secs(1)));
        // Other tests of this process may have children of their own.
        assert!(row.processes >= first.processes + 2, "{first:?} {row:?}");
        let family = [shell.0.id(), child];
        assert!(
            family.iter().all(|pid| census.members.get(pid).is_some_and(|m| m.root == std::process::id()))
        );
        assert_eq!(row.interval_ms, 1000);
        assert!(row.cpu >= 500, "five ticks in a second are 5 % of a core: {row:?}");
        assert!(own(census.read(&mut owners, 4, start + Duration::from_millis(1001))).cpu <= 40_000);
    }

    #[test]
    fn looks_become_rare_while_nothing_changes() {
        let (_listener, mut owners) = own_owner();
        let mut census = Census::new();
        let start = Instant::now();
        let mut looked = Vec::new();
        for reading in 0..30 {
            let looks = census.looks;
            // Whatever a look takes, it may be done again after an hour.
            census.read(&mut owners, 1, start + Duration::from_secs(3600 * reading));
            if census.looks > looks {
                looked.push(reading);
            }
            // Children of other tests come and go.
            census.members.retain(|pid, member| *pid == member.root);
        }
        assert_eq!(looked, [0, 1, 3, 7, 15, 23]);
        // Too soon after the last one, whatever has changed.
        let (soon, looks) = (Instant::now(), census.looks);
        census.members.clear();
        census.read(&mut owners, 1, soon);
        assert_eq!(census.looks, looks);
    }

    #[test]
    fn an_owner_that_has_ended_has_no_row_and_is_no_owner() {
        let (listener, mut owners) = own_owner();
        let mut census = Census::new();
        assert_eq!(census.read(&mut owners, 1, Instant::now()).len(), 1);
        // The same id, but a process of another time.
        let mut strange = Owners::default();
        std::mem::swap(&mut owners, &mut strange);
        strange.set_started(std::process::id(), 1);
        assert_eq!(census.read(&mut strange, 1, Instant::now()), []);
        assert_eq!(strange.processes().len(), 0);
        drop(listener);
    }

    #[test]
    fn each_process_belongs_to_its_nearest_owner_and_to_no_manager() {
        let owner = |pid, name: &str| (pid, Owner { pid, name: name.to_owned(), started: 1 });
        let owners = BTreeMap::from([owner(1, MANAGER), owner(10, "nginx"), owner(12, "app")]);
        let parents =
            HashMap::from([(1, 0), (10, 1), (11, 10), (12, 10), (13, 12), (20, 1), (30, 31), (31, 30)]);
        let root = |pid| root_of(pid, &parents, &owners);
        assert_eq!([root(10), root(11), root(12), root(13)], [Some(10), Some(10), Some(12), Some(12)]);
        assert_eq!((root(1), root(20), root(30), root(99)), (Some(1), None, None, None));
        let pids: HashSet<u32> = parents.keys().copied().collect();
        assert_eq!(pids.len(), 8);
    }

    #[test]
    fn cpu_never_exceeds_the_cores() {
        let census = Census { ticks_per_s: 100, page_octets: 4096, ..Census::new() };
        let owner = Owner { pid: 7, name: "app".to_owned(), started: 1 };
        let row = |ticks, micros| {
            let sum = Sum { processes: 2, pages: 3, ticks };
            census.row(&owner, &sum, 2, Duration::from_micros(micros))
        };
        let normal = row(50, 1_000_000);
        assert_eq!((normal.cpu, normal.memory, normal.processes), (5_000, 3 * 4096, 2));
        assert_eq!(row(205, 1_000_000).cpu, 20_000);
        assert_eq!((row(5, 0).cpu, row(5, 0).interval_ms), (0, 0));
        assert_eq!(row(1, 60_000_000).cpu, 1);
    }
}
