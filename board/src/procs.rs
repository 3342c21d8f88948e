//! Which process owns a listening socket.

use std::collections::HashMap;

use procfs::process::{self, FDTarget, Process};

/// A process as a report names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// 0 when unknown.
    pub pid: u32,
    /// The kernel's `comm`.
    pub name: String,
}

/// Socket inodes to their owners. A walk over every process is dear, so it is made only when an inode is new or its owner
/// is gone, and not in every report for one that has no owner (kernel sockets, other users' processes).
#[derive(Debug, Default)]
pub struct Owners {
    known: HashMap<u32, Owner>,
    /// Reports that are still to pass before unknown inodes are looked for again.
    holdoff: u32,
    walks: u64,
}

const HOLDOFF_REPORTS: u32 = 20;

impl Owners {
    /// Brings the table up to the inodes that are there now.
    pub fn update(&mut self, inodes: &[u32]) {
        self.known.retain(|inode, owner| inodes.contains(inode) && is_alive(owner));
        self.holdoff = self.holdoff.saturating_sub(1);
        let missing = inodes.iter().any(|inode| *inode != 0 && !self.known.contains_key(inode));
        if !missing || self.holdoff > 0 {
            return;
        }
        self.walks += 1;
        self.walk(inodes);
        if inodes.iter().any(|inode| *inode != 0 && !self.known.contains_key(inode)) {
            self.holdoff = HOLDOFF_REPORTS;
        }
    }

    /// The owner of a socket, with pid 0 when it is not known.
    pub fn owner(&self, inode: u32) -> Owner {
        self.known.get(&inode).cloned().unwrap_or_default()
    }

    /// Several processes may share a listener: the oldest, with the lowest pid, stands for all (nginx's master).
    fn walk(&mut self, inodes: &[u32]) {
        let Ok(all) = process::all_processes() else { return };
        let mut processes: Vec<Process> = all.flatten().collect();
        processes.sort_by_key(|process| process.pid);
        for process in processes {
            // A process may end meanwhile, or belong to somebody else: it is then not an owner we can name.
            let Ok(descriptors) = process.fd() else { continue };
            for descriptor in descriptors.flatten() {
                let FDTarget::Socket(inode) = descriptor.target else { continue };
                let Ok(inode) = u32::try_from(inode) else { continue };
                if inodes.contains(&inode) && !self.known.contains_key(&inode) {
                    self.known.insert(inode, name_of(&process));
                }
            }
        }
    }
}

fn name_of(process: &Process) -> Owner {
    let name = process.stat().map(|stat| stat.comm).unwrap_or_default();
    Owner { pid: u32::try_from(process.pid).unwrap_or(0), name }
}

/// A reused pid almost always has another name, and a listener's inode goes when its last process does.
fn is_alive(owner: &Owner) -> bool {
    std::fs::read_to_string(format!("/proc/{}/comm", owner.pid))
        .is_ok_and(|comm| comm.trim_end() == owner.name)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsRawFd};

    use super::*;

    fn inode(listener: &TcpListener) -> u32 {
        let link =
            std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).expect("a descriptor");
        let text = link.to_string_lossy().into_owned();
        text.trim_start_matches("socket:[").trim_end_matches(']').parse().expect("an inode")
    }

    #[test]
    fn the_owner_is_found_by_one_walk_and_then_remembered() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let inode = inode(&listener);
        let mut owners = Owners::default();
        for _ in 0..3 {
            owners.update(&[inode]);
            assert_eq!(owners.owner(inode).pid, std::process::id());
        }
        assert_eq!(owners.walks, 1);
        owners.update(&[]);
        assert_eq!(owners.owner(inode), Owner::default());
    }

    #[test]
    fn an_inode_without_owner_does_not_cost_a_walk_in_every_report() {
        let mut owners = Owners::default();
        for _ in 0..10 {
            owners.update(&[u32::MAX]);
        }
        assert_eq!(owners.walks, 1);
        assert_eq!(owners.owner(u32::MAX).pid, 0);
    }
}
