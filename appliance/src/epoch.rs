//! The epoch: a number that grows at every start, so that boards tell this life's messages from those of an earlier one.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Why there is no epoch.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The file cannot be read or written.
    #[error("cannot keep the epoch in {}: {source}; `state_directory` must exist, or be makeable, and be writable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no epoch (a number 0..=65535); mend or remove it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// Counts a start: reads the last epoch of the directory, and leaves the next there for good. Never 0; after 65535
/// comes 1.
///
/// # Errors
/// [`EpochError`].
pub fn next(directory: &Path) -> Result<u16, EpochError> {
    let path = directory.join("epoch");
    let io = |source| EpochError::Io { path: path.clone(), source };
    std::fs::create_dir_all(directory).map_err(io)?;
    let last: u16 = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| EpochError::Content { path: path.clone() })?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io(error)),
    };
    let epoch = last.checked_add(1).unwrap_or(1);
    // Written beside and renamed over, so that a crash leaves either the old or the new one.
    let beside = directory.join("epoch.new");
    let write = || {
        let mut file = std::fs::File::create(&beside)?;
        writeln!(file, "{epoch}")?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)
    };
    write().map_err(io)?;
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_grows_at_every_start_and_is_never_zero() {
        let directory = std::env::temp_dir().join(format!("ipos-epoch-{}", std::process::id()));
        let result = (|| {
            let first = [next(&directory)?, next(&directory)?];
            let file = directory.join("epoch");
            let io = |source| EpochError::Io { path: file.clone(), source };
            std::fs::write(&file, "65535\n").map_err(io)?;
            let wrapped = next(&directory)?;
            std::fs::write(&file, "x\n").map_err(io)?;
            Ok::<_, EpochError>((first, wrapped, next(&directory).is_err()))
        })();
        let _ = std::fs::remove_dir_all(&directory);
        assert_eq!(result.expect("a writable temporary directory"), ([1, 2], 1, true));
    }
}
