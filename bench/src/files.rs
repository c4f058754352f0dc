//! The local files to serve, checked before anything is set up: what is wrong with them shows before a segment is
//! published.

use crate::failure::Usage;
use crate::size::show_size;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A file or block device that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalFile {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Bytes of it to serve.
    pub(crate) size_bytes: u64,
}

/// Checks that every path can be served: `size_bytes` of it, or all.
///
/// # Errors
/// One sentence about the first that cannot.
pub(crate) fn check(paths: &[PathBuf], size_bytes: Option<u64>) -> Result<Vec<LocalFile>> {
    let mut seen = HashMap::new();
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let (file, identity) = check_one(path, size_bytes)?;
        if let Some(before) = seen.insert(identity, path) {
            return Err(if before == path {
                Usage(format!("{} is listed twice in --files", path.display())).into()
            } else {
                Usage(format!("{} and {} in --files are the same file", before.display(), path.display())).into()
            });
        }
        files.push(file);
    }
    Ok(files)
}

/// What makes two paths the same file: device and inode, or a block device's own number.
type Identity = (u64, u64);

fn check_one(path: &Path, asked_bytes: Option<u64>) -> Result<(LocalFile, Identity)> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("cannot serve {shown}"))?;
    let kind = meta.file_type();
    if kind.is_dir() {
        bail!("cannot serve {shown}: it is a directory, give files or block devices");
    }
    if !kind.is_file() && !kind.is_block_device() {
        bail!("cannot serve {shown}: it is neither a regular file nor a block device");
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot serve {shown}: opening it for reading and writing failed"))?;
    let there_bytes = file.seek(SeekFrom::End(0)).with_context(|| format!("cannot tell the size of {shown}"))?;
    if there_bytes == 0 {
        bail!("cannot serve {shown}: it is empty");
    }
    let size_bytes = asked_bytes.unwrap_or(there_bytes);
    if size_bytes > there_bytes {
        bail!("cannot serve {} of {shown}: it has only {}", show_size(size_bytes), show_size(there_bytes));
    }
    let identity = if kind.is_block_device() { (u64::MAX, meta.rdev()) } else { (meta.dev(), meta.ino()) };
    Ok((LocalFile { path: path.to_owned(), size_bytes }, identity))
}
