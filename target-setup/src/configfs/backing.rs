//! What nvmet will make of a file or block device: it takes the whole of it, in blocks of its own choice.

use super::error::NvmetError;
use super::modules::Roots;
use crate::desired::NamespaceSpec;
use crate::driver::NamespaceInfo;
use crate::error::TargetError;
use crate::guard::{self, Machine};
use nvferry_io::file::{FileOptions, IoFile};
use nvferry_wire::Nqn;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// nvmet's blocks on files are at most this long.
const MAX_FILE_BLOCK_BYTES: u64 = 4096;

/// Which file it is, whatever it is called: device and inode, or a block device's own number.
pub(super) type Identity = (u64, u64);

/// Examines what should be offered; nothing is changed.
///
/// # Errors
/// nvmet cannot offer it as asked: it cannot offer a part of a file, cannot refuse writes, and chooses the block.
pub(super) fn examine(
    spec: &NamespaceSpec,
    subsystem: &Nqn,
    roots: &Roots,
) -> Result<(NamespaceInfo, Identity), TargetError> {
    let unfit = |why: String| TargetError::from(NvmetError::Unfit { path: spec.path.clone(), why });
    let in_file = |source| TargetError::File { nsid: spec.nsid, source };
    let os = |source| TargetError::Os { action: "look at the file to offer", source };
    if spec.read_only {
        return Err(unfit("nvmet cannot refuse writes; offer it with target_driver=userspace".into()));
    }
    let path = std::path::absolute(&spec.path).map_err(os)?;
    if path.to_str().is_none_or(|text| text.contains('\n') || text.trim() != text) {
        return Err(unfit("nvmet takes no path with line breaks, blanks at its end, or other than UTF-8".into()));
    }
    // Opened as nvmet will open it, so that what is wrong is told in clear words.
    let file = IoFile::open(&path, FileOptions { direct: spec.direct, write: true }).map_err(|source| {
        let held = guard::why_not_opened(spec, &Machine::at(&roots.proc, &roots.sys));
        held.map_or_else(|| in_file(source), TargetError::from)
    })?;
    if spec.direct && !file.is_direct() {
        return Err(unfit("its file system has no Direct I/O; ask for buffered I/O with direct=off".into()));
    }
    let available_bytes = file.size_bytes().map_err(in_file)?;
    let meta = fs::metadata(&path).map_err(os)?;
    let (block, identity) = if meta.file_type().is_block_device() {
        (device_block_bytes(roots, meta.rdev()).unwrap_or(512), (u64::MAX, meta.rdev()))
    } else {
        (file_block_bytes(&path, &meta).map_err(os)?, (meta.dev(), meta.ino()))
    };
    let offered_bytes = available_bytes / block * block;
    if available_bytes == 0 {
        return Err(TargetError::Empty { path });
    }
    if spec.size_bytes == 0 {
        return Err(TargetError::ZeroSize { path, available_bytes });
    }
    if spec.size_bytes > available_bytes {
        return Err(TargetError::TooSmall { path, asked_bytes: spec.size_bytes, available_bytes });
    }
    if spec.size_bytes != offered_bytes {
        return Err(unfit(if spec.size_bytes == available_bytes {
            format!(
                "its {available_bytes} bytes are no multiple of the block of {block} bytes, and nvmet would cut off the \
                 last {}; make it longer or shorter, or use target_driver=userspace, which serves every byte",
                available_bytes - offered_bytes
            )
        } else {
            format!(
                "{} of its {available_bytes} bytes were asked for, and nvmet offers nothing but all of it \
                 ({offered_bytes} bytes); offer all of it, or use target_driver=userspace",
                spec.size_bytes
            )
        }));
    }
    if let Some(asked_bytes) = spec.block_bytes.filter(|&asked| u64::from(asked) != block) {
        let why = format!("nvmet takes the block of the storage below, which is {block} here");
        return Err(TargetError::Block { path, asked_bytes, why });
    }
    let info = NamespaceInfo {
        nsid: spec.nsid,
        path: spec.path.clone(),
        size_bytes: offered_bytes,
        block_bytes: block as u32,
        blocks: offered_bytes / block,
        direct: spec.direct,
        read_only: false,
        uuid: spec.uuid(subsystem),
    };
    Ok((info, identity))
}

/// nvmet takes the inode's block size, at most 4096. `stat` tells it, but some file systems (xfs) tell there what is
/// good to read at once; `statvfs` tells theirs.
fn file_block_bytes(path: &Path, meta: &fs::Metadata) -> std::io::Result<u64> {
    let system = rustix::fs::statvfs(path)?.f_bsize;
    let smallest = meta.blksize().min(system).clamp(512, MAX_FILE_BLOCK_BYTES);
    Ok(if smallest.is_power_of_two() { smallest } else { 512 })
}

/// A device's logical block; a partition's is its disk's.
fn device_block_bytes(roots: &Roots, rdev: u64) -> Option<u64> {
    let device = device_dir(roots, rdev);
    let own = device.join("queue/logical_block_size");
    let of_disk = fs::canonicalize(&device).ok()?.parent()?.join("queue/logical_block_size");
    let text = fs::read_to_string(own).or_else(|_| fs::read_to_string(of_disk)).ok()?;
    text.trim().parse().ok()
}

fn device_dir(roots: &Roots, rdev: u64) -> PathBuf {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    roots.sys.join(format!("dev/block/{major}:{minor}"))
}
