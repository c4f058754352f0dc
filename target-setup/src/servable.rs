//! Whether a local file can be served, found out before anything is set up: what is wrong with one shows before others are
//! offered and anything is published.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file or block device that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServableFile {
    /// Where it is, from the root: who finds it published may stand in another directory.
    pub path: PathBuf,
    /// Bytes of it to serve, from its start.
    pub size_bytes: u64,
}

/// What makes two paths the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileIdentity {
    /// A file's device and inode.
    Regular(u64, u64),
    /// A block device's own number.
    Device(u64),
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum NotServable {
    /// It cannot be looked at.
    #[error("cannot serve {path}: {cause}; give a file or block device that is there")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// It is of another kind.
    #[error("cannot serve {path}: it is a directory; give files or block devices")]
    Directory {
        /// The file.
        path: PathBuf,
    },
    /// It is of another kind.
    #[error("cannot serve {path}: it is neither a regular file nor a block device")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot serve {path}: it cannot be opened for reading and writing")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing to serve.
    #[error("cannot serve {path}: it is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// More is asked for than there is.
    #[error("cannot serve {asked_bytes} bytes of {path}: it has {there_bytes} bytes; make it larger first")]
    TooShort {
        /// The file.
        path: PathBuf,
        /// What is to be served.
        asked_bytes: u64,
        /// What there is.
        there_bytes: u64,
    },
}

/// Checks that a file can be served: its first `asked_bytes`, or all of it.
///
/// # Errors
/// One sentence about why it cannot.
pub fn check_servable(path: &Path, asked_bytes: Option<u64>) -> Result<(ServableFile, FileIdentity), NotServable> {
    let named = || path.to_owned();
    let missing = |cause| NotServable::Missing { path: named(), cause };
    let meta = std::fs::metadata(path).map_err(missing)?;
    let kind = meta.file_type();
    if kind.is_dir() {
        return Err(NotServable::Directory { path: named() });
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(NotServable::Kind { path: named() });
    }
    let open = |write| OpenOptions::new().read(true).write(write).open(path);
    let opened = match open(true) {
        // So says the kernel of a mounted device. Whoever offers it finds out, and tells what holds it.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => open(false),
        opened => opened,
    };
    let mut file = opened.map_err(|source| NotServable::Open { path: named(), source })?;
    let there_bytes = file.seek(SeekFrom::End(0)).map_err(missing)?;
    if there_bytes == 0 {
        return Err(NotServable::Empty { path: named() });
    }
    let size_bytes = asked_bytes.unwrap_or(there_bytes);
    if size_bytes > there_bytes {
        return Err(NotServable::TooShort { path: named(), asked_bytes: size_bytes, there_bytes });
    }
    let identity = if kind.is_block_device() {
        FileIdentity::Device(meta.rdev())
    } else {
        FileIdentity::Regular(meta.dev(), meta.ino())
    };
    Ok((ServableFile { path: std::path::absolute(path).map_err(missing)?, size_bytes }, identity))
}
