//! What is ours: one small file for each subsystem, locked while its engine lives.
//!
//! Before an object is made, its path is written here; after it is made, its inode number too. Whoever is killed
//! leaves a record from which the next start knows exactly what to remove:
//! - made, with the inode number that the tree still shows: ours. With another number: somebody removed ours and made
//!   their own, which is left alone.
//! - only intended: ours if it is there and as blank as the moment after it was made ([`super::undo`] looks).
//!
//! The kernel's configuration does not survive a reboot, so records of another boot mean nothing.
//!
//! ```text
//! nvferry nvmet record 1
//! boot 5d7b...
//! pid 4711
//! making subsystems/nqn.2016-06.io.mc:node7
//! made 81234 subsystems/nqn.2016-06.io.mc:node7
//! gone subsystems/nqn.2016-06.io.mc:node7
//! ```

use super::error::NvmetError;
use nvferry_wire::Nqn;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const FIRST_LINE: &str = "nvferry nvmet record 1";

/// How far the making of an object is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// About to be made; perhaps it was.
    Intended,
    /// Made, and then it had this inode number.
    Made(u64),
}

/// An object that a record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path.
    pub path: String,
    /// How far it came.
    pub mark: Mark,
}

/// The record of one subsystem, held for writing: nobody else holds it.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    entries: Vec<Entry>,
}

/// A record as somebody else may read it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The process that wrote it.
    pub pid: Option<u32>,
    /// Whether that still holds it.
    pub alive: bool,
    /// What it made, in order.
    pub entries: Vec<Entry>,
}

impl Record {
    /// Takes the subsystem's record, with what a dead owner left in it.
    ///
    /// # Errors
    /// [`NvmetError::Owned`] while another process (or another target of this one) holds it; or the directory cannot
    /// be written.
    pub fn take(dir: &Path, subsystem: &Nqn, boot: &str) -> Result<Self, NvmetError> {
        let path = file_of(dir, subsystem);
        let broken = |source| NvmetError::Record { path: path.clone(), source };
        fs::create_dir_all(dir).map_err(broken)?;
        loop {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(broken)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let pid = read(&path, boot).ok().and_then(|snapshot| snapshot.pid);
                    return Err(NvmetError::Owned { subsystem: subsystem.clone(), pid });
                }
                Err(TryLockError::Error(source)) => return Err(broken(source)),
            }
            // The owner before may have removed the file between our opening and locking it.
            let named = fs::metadata(&path).map(|meta| meta.ino()).ok();
            if named != Some(file.metadata().map_err(broken)?.ino()) {
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(broken)?;
            // A line cut short by a kill goes; then the new owner signs. Parsing keeps the entries of the same boot.
            let whole_bytes = text.rfind('\n').map_or(0, |end| end + 1);
            file.set_len(whole_bytes as u64).map_err(broken)?;
            file.seek(io::SeekFrom::End(0)).map_err(broken)?;
            let head = format!("{FIRST_LINE}\nboot {boot}\npid {}\n", std::process::id());
            file.write_all(head.as_bytes()).map_err(broken)?;
            let entries = parse(&format!("{}{head}", &text[..whole_bytes]), boot).entries;
            return Ok(Self { path, inner: Mutex::new(Inner { file, entries }) });
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can panic half way, so a poisoned lock is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is ours now, in the order in which it was made.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.inner().entries.clone()
    }

    /// Whether this path is ours, or about to be.
    #[must_use]
    pub fn names(&self, path: &str) -> bool {
        self.inner().entries.iter().any(|entry| entry.path == path)
    }

    /// Notes that the object is about to be made.
    pub(super) fn intend(&self, path: &str) -> io::Result<()> {
        self.note(Entry { path: path.to_owned(), mark: Mark::Intended })
    }

    /// Notes that the object was made.
    pub(super) fn made(&self, path: &str, inode: u64) -> io::Result<()> {
        self.note(Entry { path: path.to_owned(), mark: Mark::Made(inode) })
    }

    fn note(&self, entry: Entry) -> io::Result<()> {
        let mut inner = self.inner();
        inner.file.write_all(line(&entry).as_bytes())?;
        put(&mut inner.entries, entry);
        Ok(())
    }

    /// Notes that the object is not ours any more.
    pub(super) fn forget(&self, path: &str) -> io::Result<()> {
        let mut inner = self.inner();
        inner.file.write_all(format!("gone {path}\n").as_bytes())?;
        inner.entries.retain(|entry| entry.path != path);
        Ok(())
    }

    /// Ends the record where it names nothing any more; else it stays, for the next start.
    pub(super) fn close(&self) -> io::Result<()> {
        let inner = self.inner();
        if inner.entries.is_empty() { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

fn line(entry: &Entry) -> String {
    match entry.mark {
        Mark::Intended => format!("making {}\n", entry.path),
        Mark::Made(inode) => format!("made {inode} {}\n", entry.path),
    }
}

/// Where the record of a subsystem is. Names that do not fit a file's name are cut and told apart by a hash.
#[must_use]
pub fn file_of(dir: &Path, subsystem: &Nqn) -> PathBuf {
    let mut name = String::new();
    for byte in subsystem.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b':' | b'_' => name.push(char::from(byte)),
            _ => name += &format!("%{byte:02X}"),
        }
    }
    if name.len() > 200 {
        name.truncate(180);
        name +=
            &format!("%{:016x}", crate::desired::fnv1a_64(subsystem.as_str().as_bytes(), crate::desired::FNV_BASIS));
    }
    dir.join(format!("{name}.record"))
}

/// Reads a record without taking it.
///
/// # Errors
/// The system's; no record is `NotFound`.
pub fn read(path: &Path, boot: &str) -> io::Result<Snapshot> {
    let mut file = File::open(path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let alive = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    Ok(Snapshot { alive, ..parse(&text, boot) })
}

/// All records in the directory.
#[must_use]
pub fn read_all(dir: &Path, boot: &str) -> Vec<Snapshot> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let records = files.filter(|path| path.extension().is_some_and(|extension| extension == "record"));
    records.filter_map(|path| read(&path, boot).ok()).collect()
}

/// A line that was cut short by a kill stands at the end and is no line: what it was about did not begin.
fn parse(text: &str, boot: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let mut of_this_boot = false;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    for line in whole.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        match word {
            "boot" => {
                of_this_boot = rest == boot;
                if !of_this_boot {
                    snapshot.entries.clear();
                }
            }
            "pid" => snapshot.pid = rest.parse().ok(),
            "making" if of_this_boot => {
                put(&mut snapshot.entries, Entry { path: rest.to_owned(), mark: Mark::Intended });
            }
            "made" if of_this_boot => {
                if let Some((inode, path)) = rest.split_once(' ')
                    && let Ok(inode) = inode.parse()
                {
                    put(&mut snapshot.entries, Entry { path: path.to_owned(), mark: Mark::Made(inode) });
                }
            }
            "gone" => snapshot.entries.retain(|entry| entry.path != rest),
            _ => {}
        }
    }
    snapshot
}

/// What is known last counts; the place in the order is that of the first.
fn put(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.iter_mut().find(|known| known.path == entry.path) {
        Some(known) => known.mark = entry.mark,
        None => entries.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nqn() -> Nqn {
        Nqn::new("nqn.2016-06.io.mc:a/b").unwrap()
    }

    #[test]
    fn p09_what_was_made_is_known_to_the_next_owner_and_only_in_the_same_boot() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::take(dir.path(), &nqn(), "boot1").unwrap();
        record.intend("ports/1").unwrap();
        record.made("ports/1", 7).unwrap();
        record.intend("ports/2").unwrap();
        record.intend("ports/3").unwrap();
        record.forget("ports/3").unwrap();
        let left = record.entries();
        drop(record);
        let expected = [("ports/1", Mark::Made(7)), ("ports/2", Mark::Intended)];
        assert_eq!(left, expected.map(|(path, mark)| Entry { path: path.into(), mark }));
        for _ in 0..2 {
            assert_eq!(Record::take(dir.path(), &nqn(), "boot1").unwrap().entries(), left);
        }
        assert_eq!(Record::take(dir.path(), &nqn(), "boot2").unwrap().entries(), []);
    }

    #[test]
    fn p09_a_record_that_lives_is_taken_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::take(dir.path(), &nqn(), "b").unwrap();
        let error = Record::take(dir.path(), &nqn(), "b").unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(read_all(dir.path(), "b")[0].alive);
        record.close().unwrap();
        drop(record);
        assert!(Record::take(dir.path(), &nqn(), "b").is_ok());
    }

    #[test]
    fn a_line_cut_short_is_no_line() {
        let text = format!("{FIRST_LINE}\nboot b\npid 1\nmaking ports/12\nmade 5 ports/1");
        let entries = parse(&text, "b").entries;
        assert_eq!(entries, [Entry { path: "ports/12".into(), mark: Mark::Intended }]);
    }
}
