//! Files and block devices that hold something are not offered unless the caller says to overwrite them (P10).
//!
//! A block device is refused while it is mounted, used as swap, has partitions, is held by device mapper, md or the
//! like, is open exclusively elsewhere, or bears the signature of a file system, partition table or volume. While it
//! is offered, it is held exclusively, so that nobody mounts it.
//!
//! A regular file with any other content is what targets are for; it is refused while it is active swap or behind a
//! loop device, or if it bears such a signature. But hosts may make a file system on what is offered to them: a file
//! that was offered before carries the mark `user.nvferry.served` (an extended attribute, where its file system has
//! them), and signatures in it are taken for theirs. Block devices have no place for such a mark.
//!
//! What is offered read-only cannot be harmed, and is not asked.

mod signature;

use crate::desired::NamespaceSpec;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use signature::find as find_signature;

/// The mark of files that were offered before.
const SERVED: &str = "user.nvferry.served";

/// Where the machine tells about itself.
#[derive(Debug, Clone)]
pub struct Machine {
    proc: PathBuf,
    sys: PathBuf,
}

impl Machine {
    /// procfs and sysfs at these places.
    #[must_use]
    pub fn at(proc: &Path, sys: &Path) -> Self {
        Self { proc: proc.to_owned(), sys: sys.to_owned() }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::at(Path::new("/proc"), Path::new("/sys"))
    }
}

/// What a file or device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holding {
    /// Mounted at this place.
    Mounted(String),
    /// Swap in use.
    Swap,
    /// Partitions, of which this is one.
    Partitions(String),
    /// Another block device is built on it.
    Holder(String),
    /// Open exclusively elsewhere.
    Claimed,
    /// Behind this loop device.
    Loop(String),
    /// This signature.
    Signature(&'static str),
}

impl std::fmt::Display for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mounted(at) => write!(f, "it is mounted at {at}"),
            Self::Swap => f.write_str("it is swap space in use"),
            Self::Partitions(name) => write!(f, "it has partitions ({name})"),
            Self::Holder(name) => write!(f, "{name} is built on it"),
            Self::Claimed => f.write_str("another program holds it"),
            Self::Loop(name) => write!(f, "it is behind the loop device {name}"),
            Self::Signature(what) => write!(f, "it holds {what}"),
        }
    }
}

/// Why something is not offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// It holds something.
    #[error(
        "will not offer {path}: {holding}, and hosts could destroy that; choose another, or say --overwrite \
         (overwrite=on) if it may be lost"
    )]
    Holds {
        /// The file or device.
        path: PathBuf,
        /// What it holds.
        holding: Holding,
    },
    /// It cannot be looked at.
    #[error("cannot tell whether {path} holds something: {source}; say --overwrite (overwrite=on) if it may be lost")]
    Look {
        /// The file or device.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl GuardError {
    /// Whether the only thing is that somebody holds it, which may be a target of ours.
    pub(crate) fn is_claimed(&self) -> bool {
        matches!(self, Self::Holds { holding: Holding::Claimed, .. })
    }
}

/// Holds a block device exclusively while it lives.
#[derive(Debug, Default)]
pub struct Claim {
    _device: Option<File>,
}

/// Refuses what holds something.
///
/// # Errors
/// What it holds, or that it cannot be looked at.
pub fn check(spec: &NamespaceSpec, machine: &Machine) -> Result<Claim, GuardError> {
    if spec.overwrite || spec.read_only {
        return Ok(Claim::default());
    }
    let path = &spec.path;
    let look = |source| GuardError::Look { path: path.clone(), source };
    let meta = fs::metadata(path).map_err(look)?;
    let (holding, claim) = if meta.file_type().is_block_device() {
        device(path, meta.rdev(), machine).map_err(look)?
    } else {
        (file(path, &meta, machine).map_err(look)?, Claim::default())
    };
    match holding {
        Some(holding) => Err(GuardError::Holds { path: path.clone(), holding }),
        None => Ok(claim),
    }
}

/// Why something cannot be opened, if that is because of what it holds: the kernel itself lets nobody write to a device
/// that is mounted.
pub(crate) fn why_not_opened(spec: &NamespaceSpec, machine: &Machine) -> Option<GuardError> {
    check(spec, machine).err().filter(|error| matches!(error, GuardError::Holds { .. }))
}

/// Marks a regular file as offered, so that what hosts write to it does not stand in the way of offering it again.
pub fn mark_served(path: &Path) {
    if !fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return;
    }
    if let Err(error) = rustix::fs::setxattr(path, SERVED, b"1", rustix::fs::XattrFlags::empty()) {
        tracing::debug!(target: "nvferry::target", path = %path.display(), %error, "a file could not be marked as served");
    }
}

fn was_served(path: &Path) -> bool {
    rustix::fs::getxattr(path, SERVED, &mut [0_u8; 8][..]).is_ok()
}

fn file(path: &Path, meta: &fs::Metadata, machine: &Machine) -> io::Result<Option<Holding>> {
    let same = |other: &Path| fs::metadata(other).is_ok_and(|it| (it.dev(), it.ino()) == (meta.dev(), meta.ino()));
    if swaps(machine).iter().any(|swap| same(swap)) {
        return Ok(Some(Holding::Swap));
    }
    for entry in fs::read_dir(machine.sys.join("block")).into_iter().flatten().flatten() {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if !backing.is_empty() && same(Path::new(backing.trim_end_matches('\n'))) {
            return Ok(Some(Holding::Loop(format!("/dev/{}", entry.file_name().to_string_lossy()))));
        }
    }
    if was_served(path) {
        return Ok(None);
    }
    Ok(signature::find(&File::open(path)?)?.map(Holding::Signature))
}

fn device(path: &Path, rdev: u64, machine: &Machine) -> io::Result<(Option<Holding>, Claim)> {
    let number = format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let found = |holding| Ok((Some(holding), Claim::default()));
    if let Some(at) = mounted_at(machine, &number) {
        return found(Holding::Mounted(at));
    }
    let is_it =
        |swap: &PathBuf| fs::metadata(swap).is_ok_and(|it| it.file_type().is_block_device() && it.rdev() == rdev);
    if swaps(machine).iter().any(is_it) {
        return found(Holding::Swap);
    }
    let of_device = machine.sys.join("dev/block").join(number);
    for entry in fs::read_dir(&of_device).into_iter().flatten().flatten() {
        if entry.path().join("partition").exists() {
            return found(Holding::Partitions(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    if let Some(entry) = fs::read_dir(of_device.join("holders")).into_iter().flatten().flatten().next() {
        return found(Holding::Holder(entry.file_name().to_string_lossy().into_owned()));
    }
    // On a block device O_EXCL means: nobody else who asks the same, which mounts and volume managers do.
    let exclusive = OpenOptions::new().read(true).custom_flags(OFlags::EXCL.bits() as i32).open(path);
    let device = match exclusive {
        Ok(device) => device,
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return found(Holding::Claimed),
        Err(error) => return Err(error),
    };
    let holding = signature::find(&device)?.map(Holding::Signature);
    Ok((holding, Claim { _device: Some(device) }))
}

/// Where the device is mounted, from the fields of `/proc/self/mountinfo`: id, parent, number, root, mount point.
fn mounted_at(machine: &Machine, number: &str) -> Option<String> {
    let text = fs::read_to_string(machine.proc.join("self/mountinfo")).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|fields| fields.get(2) == Some(&number)).and_then(|fields| Some(unescape(fields.get(4)?)))
}

fn swaps(machine: &Machine) -> Vec<PathBuf> {
    let text = fs::read_to_string(machine.proc.join("swaps")).unwrap_or_default();
    let lines = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    lines.map(|path| PathBuf::from(unescape(path))).collect()
}

/// The kernel writes blanks in paths as `\040`, and so on.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.as_bytes();
    while let Some((&first, rest)) = bytes.split_first() {
        let code = rest.get(..3).and_then(|code| str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) if first == b'\\' => {
                out.push(byte);
                bytes = &rest[3..];
            }
            _ => {
                out.push(first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
