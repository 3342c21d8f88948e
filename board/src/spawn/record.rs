//! What runs is kept in the run directory, one file per instance, so that the next agent adopts it: process id and start
//! time, by which a reused id is told apart.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use procfs::process::Process;

/// One instance, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The application's name.
    pub name: String,
    /// Which of its instances, from 1.
    pub number: u16,
    /// The process.
    pub pid: u32,
    /// When it started, clock ticks since boot.
    pub started_ticks: u64,
    /// It has been told to end.
    pub ending: bool,
}

impl Record {
    /// Its name among cgroups and files.
    pub fn label(name: &str, number: u16) -> String {
        format!("{name}.{number}")
    }

    fn path(directory: &Path, name: &str, number: u16) -> PathBuf {
        directory.join(format!("{}.pid", Record::label(name, number)))
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let path = Record::path(directory, &self.name, self.number);
        let draft = path.with_extension("new");
        let state = if self.ending { "ending" } else { "running" };
        fs::write(&draft, format!("{} {} {state}\n", self.pid, self.started_ticks))?;
        fs::rename(draft, path)
    }

    /// Removes the file of an instance.
    pub fn remove(directory: &Path, name: &str, number: u16) {
        // A file that stays names a process that is gone, and is removed when it is next read.
        let _ = fs::remove_file(Record::path(directory, name, number));
    }

    /// The instances that an earlier agent left and that still run. Files of those that do not are removed.
    pub fn read_all(directory: &Path) -> Vec<Record> {
        let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
        let mut records: Vec<Record> = files
            .flatten()
            .filter_map(|file| {
                let path = file.path();
                let record = read(&path)?;
                if started_ticks(record.pid) == Some(record.started_ticks) {
                    return Some(record);
                }
                let _ = fs::remove_file(path);
                None
            })
            .collect();
        records.sort_by(|one, other| (&one.name, one.number).cmp(&(&other.name, other.number)));
        records
    }
}

fn read(path: &Path) -> Option<Record> {
    let label = path.file_name()?.to_str()?.strip_suffix(".pid")?;
    let (name, number) = label.rsplit_once('.')?;
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    Some(Record {
        name: name.to_owned(),
        number: number.parse().ok()?,
        pid: words.next()?.parse().ok()?,
        started_ticks: words.next()?.parse().ok()?,
        ending: words.next()? == "ending",
    })
}

/// When a process started, clock ticks since boot; `None` when there is none, or only a zombie.
pub fn started_ticks(pid: u32) -> Option<u64> {
    let stat = Process::new(i32::try_from(pid).ok()?).and_then(|process| process.stat()).ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some(stat.starttime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_read_back_and_what_does_not_is_forgotten() {
        let directory = std::env::temp_dir().join(format!("ipos-board-records-{}", std::process::id()));
        let ticks = started_ticks(std::process::id()).expect("this process runs");
        let own = Record {
            name: "a.b".to_owned(),
            number: 2,
            pid: std::process::id(),
            started_ticks: ticks,
            ending: true,
        };
        own.write(&directory).expect("written");
        // A process of that id that started at another time is another one.
        Record { number: 3, started_ticks: ticks + 1, ..own.clone() }.write(&directory).expect("written");
        fs::write(directory.join("garbage.pid"), "x").expect("written");
        let read = Record::read_all(&directory);
        let left = directory.join("a.b.3.pid").exists();
        Record::remove(&directory, "a.b", 2);
        let none = Record::read_all(&directory);
        fs::remove_dir_all(&directory).expect("removed");
        assert_eq!((read, left, none), (vec![own], false, vec![]));
    }
}
