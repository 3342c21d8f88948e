//! One running instance: a child of this agent, or one that an earlier agent left.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::Child,
    time::Instant,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use procfs::process::{self, FDTarget, Process};

use super::{
    cgroup::Cgroup,
    record::{self, Record},
};
use crate::{sockets::Listener, sys};

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It runs and does not listen yet.
    Starting {
        /// By when it must.
        until: Instant,
        /// Whether an order waits for it; else the agent started it again by itself.
        ordered: bool,
    },
    /// It listens.
    Listening {
        /// Since when.
        since: Instant,
    },
    /// It has been told to end.
    Ending {
        /// When it is killed.
        kill_at: Instant,
    },
}

/// One instance.
#[derive(Debug)]
pub struct Instance {
    /// Which of its application's, from 1.
    pub number: u16,
    /// Its process, the leader of its process group.
    pub pid: u32,
    /// When that started, clock ticks since boot.
    pub started_ticks: u64,
    /// When it was started, or adopted.
    pub begun: Instant,
    /// Where it is in its life.
    pub phase: Phase,
    pidfd: OwnedFd,
    child: Option<Child>,
    cgroup: Option<Cgroup>,
}

impl Instance {
    /// A child that has just been made.
    ///
    /// # Errors
    /// When it cannot be watched; it is killed then.
    pub fn of_child(
        mut child: Child,
        number: u16,
        cgroup: Option<Cgroup>,
        phase: Phase,
        now: Instant,
    ) -> io::Result<Instance> {
        let pid = child.id();
        match sys::pidfd(pid) {
            Ok(pidfd) => {
                // A zombie has no start time here, but has ended, which the descriptor tells.
                let started_ticks = record::started_ticks(pid).unwrap_or(0);
                let child = Some(child);
                Ok(Instance { number, pid, started_ticks, begun: now, phase, pidfd, child, cgroup })
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// An instance that an earlier agent left.
    ///
    /// # Errors
    /// When it ended meanwhile.
    pub fn adopted(
        record: &Record,
        cgroup: Option<Cgroup>,
        phase: Phase,
        now: Instant,
    ) -> io::Result<Instance> {
        let pidfd = sys::pidfd(record.pid)?;
        // The id may have been given to another process before the descriptor was opened.
        if record::started_ticks(record.pid) != Some(record.started_ticks) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (number, pid, started_ticks) = (record.number, record.pid, record.started_ticks);
        Ok(Instance { number, pid, started_ticks, begun: now, phase, pidfd, child: None, cgroup })
    }

    /// What to poll for its end.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has ended, and how: exit status, or 128 and the signal's number; `None` for one that was adopted, whose
    /// status only its parent learns.
    /// What its leader has left behind is killed.
    pub fn ended(&mut self) -> Option<Option<u32>> {
        let mut descriptor = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut descriptor, PollTimeout::ZERO), Ok(1..)) {
            return None;
        }
        // Before it is waited for: until then nobody else can get the id, as which the group is known.
        self.kill();
        let Some(child) = &mut self.child else { return Some(None) };
        let status = child.try_wait().ok()??;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Some(code.and_then(|code| u32::try_from(code).ok()))
    }

    /// SIGTERM to all of its processes.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGKILL to all of its processes.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid) {
            // ESRCH: it ended by itself, which its descriptor tells.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// It has ended: its cgroup goes.
    pub fn clear_away(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }

    /// Whether one of these listeners is its own: held by its leader, or by a process of its group.
    pub fn owns_one(&self, listeners: &[&Listener]) -> bool {
        if listeners.is_empty() {
            return false;
        }
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        if Process::new(pid).is_ok_and(|leader| holds(&leader, listeners)) {
            return true;
        }
        let Ok(all) = process::all_processes() else { return false };
        all.flatten().any(|process| {
            process.pid != pid
                && process.stat().is_ok_and(|stat| stat.pgrp == pid)
                && holds(&process, listeners)
        })
    }
}

fn holds(process: &Process, listeners: &[&Listener]) -> bool {
    // A process may end meanwhile.
    let Ok(descriptors) = process.fd() else { return false };
    descriptors.flatten().any(|descriptor| match descriptor.target {
        FDTarget::Socket(inode) => listeners.iter().any(|listener| u64::from(listener.inode) == inode),
        _ => false,
    })
}
