//! A cgroup (version 2) for each instance, where cgroups can be written: it keeps its processes together, whatever they
//! become, and holds them to limits.

use std::{
    fs::{self, File, OpenOptions},
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use tracing::{info, warn};

use crate::config::Limits;

/// The period over which CPU time is dealt out, microseconds (Documentation/admin-guide/cgroup-v2.rst).
const CPU_PERIOD_US: u64 = 100_000;

/// Where instances get their cgroups.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
}

impl Cgroups {
    /// The configured place, or one beside the agent's own cgroup, named like the board: several agents may share a machine.
    /// `None`, said in the log, when no cgroup can be made there.
    pub fn open(configured: Option<&Path>, board: Ipv4Addr) -> Option<Cgroups> {
        let base = match configured {
            Some(path) => path.to_path_buf(),
            None => beside(&format!("ipos-board-{board}"))?,
        };
        match Cgroups::at(&base) {
            Ok(cgroups) => Some(cgroups),
            Err(error) => {
                warn!(path = %base.display(), %error, "no cgroup can be made here: applications run without, and their \
                    `limits` hold nothing; name one with `cgroup`, or let systemd delegate one (Delegate=yes)");
                None
            }
        }
    }

    fn at(base: &Path) -> io::Result<Cgroups> {
        fs::create_dir_all(base)?;
        if statfs(base)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(io::Error::other("this is no cgroup version 2"));
        }
        // A controller that is not there, or that a parent does not hand down, is said when a limit needs it.
        for controller in ["+memory", "+cpu"] {
            if let Some(parent) = base.parent() {
                let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
            }
            let _ = fs::write(base.join("cgroup.subtree_control"), controller);
        }
        Ok(Cgroups { base: base.to_path_buf() })
    }

    /// The cgroup of an instance, made if need be, with its limits. Limits that cannot be set are said in the log.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn group(&self, name: &str, limits: Limits) -> io::Result<Cgroup> {
        let path = self.base.join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let octets = limits.memory_mb.map(|mb| (u64::from(mb) << 20).to_string());
        let share = limits
            .cpu_percent
            .map(|percent| format!("{} {CPU_PERIOD_US}", u64::from(percent) * CPU_PERIOD_US / 100));
        for (file, value) in [("memory.max", octets), ("cpu.max", share)] {
            if let Some(value) = value
                && let Err(error) = fs::write(path.join(file), &value)
            {
                warn!(name, limit = file, value, %error, "a limit cannot be set: its controller is not handed down to this cgroup");
            }
        }
        Ok(Cgroup { path })
    }

    /// The cgroup that an earlier agent made.
    pub fn existing(&self, name: &str) -> Option<Cgroup> {
        let path = self.base.join(name);
        path.is_dir().then_some(Cgroup { path })
    }
}

/// One instance's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The file by which a process enters the cgroup.
    ///
    /// # Errors
    /// When it may not be written.
    pub fn entrance(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))
    }

    /// SIGKILL to everything in it.
    pub fn kill(&self) {
        if let Err(error) = fs::write(self.path.join("cgroup.kill"), "1") {
            warn!(path = %self.path.display(), %error, "not killed");
        }
    }

    /// Removes it, if nothing is in it any more.
    pub fn remove(&self) {
        // What is still in it is on its way out; the next instance finds and uses the cgroup.
        let _ = fs::remove_dir(&self.path);
    }
}

/// A cgroup of this name beside the agent's own.
pub fn beside(name: &str) -> Option<PathBuf> {
    own().map(|own| own.join(name))
}

/// The agent's own cgroup, or its parent where systemd has put the agent into a leaf of its own (DelegateSubgroup=agent).
fn own() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    let Some(mount) = mount else {
        info!(
            "no cgroup version 2 is mounted here: applications run without, and their `limits` hold nothing"
        );
        return None;
    };
    let own = mount.join(path.trim_start_matches('/'));
    if own.ends_with("agent") { own.parent().map(Path::to_path_buf) } else { Some(own) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_folder_is_no_cgroup() {
        let folder = std::env::temp_dir().join(format!("ipos-board-cgroup-{}", std::process::id()));
        let refused = Cgroups::at(&folder).map(|_| ()).map_err(|error| error.to_string());
        let _ = fs::remove_dir(&folder);
        assert_eq!(refused, Err("this is no cgroup version 2".to_owned()));
        assert!(Cgroups::open(Some(Path::new("/proc/none")), Ipv4Addr::LOCALHOST).is_none());
    }
}
