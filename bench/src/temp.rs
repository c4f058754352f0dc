//! The temporary file of a loopback run: filled with real data, removed whatever happens (but SIGKILL).

use crate::files::LocalFile;
use crate::pattern::DataPattern;
use crate::progress;
use crate::signals::StopSignal;
use crate::size::show_size;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statvfs::statvfs;
use nvferry_engine::FileBufferId;
use nvferry_io::AlignedBuf;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tempfile::TempPath;

/// Bytes of the file, where there is room and nothing else was asked for.
const DEFAULT_BYTES: u64 = 1 << 30;
/// Bytes written at a time.
const FILL_BYTES: usize = 4 << 20;

/// The file's path, for [`remove_now`].
static PATH: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A temporary file that is removed when this goes.
pub(crate) struct TempFile {
    path: TempPath,
    size_bytes: u64,
}

impl TempFile {
    /// Makes a file in the directory for temporary files (`TMPDIR`, else /tmp) and fills it with data made from
    /// `seed`, past the page cache where the file system allows it.
    ///
    /// # Errors
    /// When there is no room or no right to, or a signal came meanwhile.
    pub(crate) fn create(size_bytes: u64, seed: u64, stop: &StopSignal) -> Result<Self> {
        let dir = std::env::temp_dir();
        let what = || format!("cannot make a temporary file of {} in {}", show_size(size_bytes), dir.display());
        let named = tempfile::Builder::new().prefix("transfer-bench-").tempfile_in(&dir).with_context(what)?;
        let (file, path) = named.into_parts();
        *PATH.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_path_buf());
        let temp = Self { path, size_bytes };
        temp.fill(file, seed, stop).with_context(what)?;
        Ok(temp)
    }

    /// The file, as one to serve.
    pub(crate) fn to_local_file(&self) -> LocalFile {
        LocalFile { path: self.path.to_path_buf(), size_bytes: self.size_bytes }
    }

    fn fill(&self, buffered: File, seed: u64, stop: &StopSignal) -> Result<()> {
        let mut file = match OpenOptions::new().write(true).custom_flags(OFlag::O_DIRECT.bits()).open(&self.path) {
            Ok(direct) => direct,
            Err(_) => buffered.try_clone()?,
        };
        let pattern = DataPattern::new(seed, FileBufferId(1));
        let mut data = AlignedBuf::pages(FILL_BYTES);
        let bar = progress::bytes_bar("filling the temporary file", self.size_bytes);
        let mut at = 0;
        while at < self.size_bytes {
            stop.check()?;
            let len = (self.size_bytes - at).min(FILL_BYTES as u64) as usize;
            pattern.fill(at, &mut data[..len]);
            match file.write_all_at(&data[..len], at) {
                // The file system takes no Direct I/O after all, or not of a last odd piece.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                    file = buffered.try_clone()?;
                    file.write_all_at(&data[..len], at)?;
                }
                written => written?,
            }
            at += len as u64;
            bar.set_position(at);
        }
        bar.finish_and_clear();
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // The path removes the file when it goes; here only the note for `remove_now`.
        *PATH.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Removes the file, if there is one, for an end without further ado.
pub(crate) fn remove_now() {
    if let Some(path) = PATH.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = std::fs::remove_file(path);
    }
}

/// The size of a temporary file: as asked, or as it fits.
///
/// # Errors
/// When it would not fit.
pub(crate) fn choose_size(asked_bytes: Option<u64>) -> Result<u64> {
    let dir = std::env::temp_dir();
    let elsewhere = "set TMPDIR to another directory";
    let fs = statvfs(&dir)
        .map_err(io::Error::from)
        .with_context(|| format!("cannot make a temporary file in {}: {elsewhere}", dir.display()))?;
    let free_bytes = fs.blocks_available() as u64 * fs.fragment_size() as u64;
    let free = || format!("only {} are free in {}", show_size(free_bytes), dir.display());
    match asked_bytes {
        Some(0) => bail!("cannot make a temporary file of 0 bytes: give another --file_size"),
        Some(asked) if asked > free_bytes => {
            bail!("cannot make a temporary file of {}: {}, {elsewhere}", show_size(asked), free())
        }
        Some(asked) => Ok(asked),
        None => match (free_bytes / 2).min(DEFAULT_BYTES) >> 20 << 20 {
            0 => bail!("cannot make a temporary file: {}, {elsewhere}", free()),
            fitting => Ok(fitting),
        },
    }
}
