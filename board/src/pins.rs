//! The pin directory: a folder in a BPF file system, one per board.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::{info, warn};

/// Why the pin directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{}: cannot {what}: {cause}", .path.display())]
    Io {
        /// Which path.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// Another agent works with it.
    #[error("{}: another ipos-board runs with this pin directory; give each board its own `pin_directory`", .path.display())]
    Locked {
        /// Which directory.
        path: PathBuf,
    },
    /// No BPF file system, and none can be mounted.
    #[error("{0} is in no BPF file system and none can be mounted there ({cause}): mount -t bpf bpf {0}", .path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        cause: nix::Error,
    },
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |cause| Error::Io { path, what, cause }
}

/// The nearest existing folder at or above `path`.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}

/// Whether `directory` is, or would be made, in a BPF file system.
pub fn is_in_bpffs(directory: &Path) -> bool {
    statfs(nearest(directory)).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Where a BPF file system has to be mounted for `directory`: `/sys/fs/bpf` if it lies below that (no folder can be
/// made in sysfs), else the directory itself.
pub fn mount_point(directory: &Path) -> &Path {
    let standard = Path::new("/sys/fs/bpf");
    if directory.starts_with(standard) { standard } else { directory }
}

/// Whether this process sees the same mounts as process 1: then mounts outlive it.
fn shares_mounts_with_init() -> bool {
    match (fs::read_link("/proc/self/ns/mnt"), fs::read_link("/proc/1/ns/mnt")) {
        (Ok(own), Ok(init)) => own == init,
        _ => false,
    }
}

/// Makes the directory usable, mounting a BPF file system when there is none.
///
/// # Errors
/// When it cannot be made or mounted; the message has the command that mends it.
pub fn prepare(directory: &Path) -> Result<(), Error> {
    if !is_in_bpffs(directory) {
        let point = mount_point(directory);
        fs::create_dir_all(point).map_err(io_error(point, "make the mount point"))?;
        mount(Some("bpf"), point, Some("bpf"), MsFlags::empty(), None::<&str>)
            .map_err(|cause| Error::Mount { path: point.to_path_buf(), cause })?;
        info!(path = %point.display(), "mounted a BPF file system");
        if !shares_mounts_with_init() {
            // `ip netns exec` gives every command its own mounts: they, and all pins, end with the command.
            warn!(
                path = %point.display(),
                "this mount ends with its mount namespace, and with it the programs; mount it before `ip netns exec`"
            );
        }
    }
    fs::create_dir_all(directory).map_err(io_error(directory, "make the pin directory"))
}

/// Held while an agent works with a pin directory; it ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

/// Takes the directory for this process.
///
/// # Errors
/// [`Error::Locked`] when another agent works with it.
pub fn lock(directory: &Path) -> Result<Lock, Error> {
    let file = File::open(directory).map_err(io_error(directory, "open the pin directory"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map(Lock)
        .map_err(|_| Error::Locked { path: directory.to_path_buf() })
}

/// Whether something is pinned at `path`.
///
/// # Errors
/// When the folder cannot be read.
pub fn exists(path: &Path) -> Result<bool, Error> {
    path.try_exists().map_err(io_error(path, "look for a pin"))
}

/// Removes a pin; false when there was none.
///
/// # Errors
/// When it exists and cannot be removed.
pub fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(path, "remove the pin")(error)),
    }
}

/// Puts the pin `from` in the place of `to`.
///
/// # Errors
/// When the file system refuses.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(io_error(from, "rename the pin"))
}

/// Removes the empty pin directory. A mount point is left for whoever mounted it.
///
/// # Errors
/// When other files are in it.
pub fn remove_directory(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir(directory) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => Ok(()),
        Err(error) => Err(io_error(directory, "remove the pin directory")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_sys_fs_bpf_the_standard_place_is_mounted_elsewhere_the_directory_itself() {
        assert_eq!(mount_point(Path::new("/sys/fs/bpf/ipos")), Path::new("/sys/fs/bpf"));
        assert_eq!(mount_point(Path::new("/run/ipos/board1")), Path::new("/run/ipos/board1"));
    }

    #[test]
    fn a_directory_is_locked_by_one_agent_at_a_time() {
        let folder = std::env::temp_dir().join(format!("ipos-board-lock-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("folder");
        let first = lock(&folder);
        let second = lock(&folder);
        assert!(first.is_ok() && matches!(second, Err(Error::Locked { .. })), "{second:?}");
        drop(first);
        let third = lock(&folder);
        fs::remove_dir(&folder).expect("removed");
        assert!(third.is_ok());
    }

    #[test]
    fn an_ordinary_folder_is_no_bpf_file_system() {
        assert!(!is_in_bpffs(Path::new("/proc/self")));
        assert!(!is_in_bpffs(Path::new("/tmp/surely/not/there")));
    }
}
