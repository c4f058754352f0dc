//! An open file or block device, with the size and the alignment that it really has.
//!
//! Direct I/O is what the caller asked for and never quietly something else: where a file system cannot do it, opening
//! says so ([`FileError::DirectUnsupported`]) and the caller decides.

use crate::memory::AlignedBuf;
use crate::sys::{check, check_size};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The block size that every NVMe host understands, in bytes.
pub const SECTOR_BYTES: u32 = 512;

/// The alignment asked of Direct I/O where the kernel cannot say: no device met so far needs more.
const CAUTIOUS_ALIGN_BYTES: u32 = 4096;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOptions {
    /// Go past the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Allow writes, too.
    pub write: bool,
}

impl Default for FileOptions {
    /// Direct I/O, reads and writes.
    fn default() -> Self {
        Self { direct: true, write: true }
    }
}

/// What was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
}

/// The units in which a file takes I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The logical block: the smallest unit that a namespace on this file can have, in bytes.
    pub block_bytes: u32,
    /// What a buffer's address must be a multiple of under Direct I/O, in bytes.
    pub dio_mem_align_bytes: u32,
    /// What offsets and lengths must be multiples of under Direct I/O, in bytes.
    pub dio_offset_align_bytes: u32,
}

/// What tells one file from another, whatever its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIdentity {
    /// The device that holds the file; of a block device, its own number.
    pub device: u64,
    /// The inode number; 0 for a block device.
    pub inode: u64,
}

/// Why a file could not be opened or looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Nothing has that name.
    #[error("there is no file {path}: check the path, or create the file with the size it shall have")]
    Missing {
        /// As asked.
        path: PathBuf,
    },
    /// It is a directory.
    #[error("{path} is a directory: name a file or a block device in it")]
    Directory {
        /// As asked.
        path: PathBuf,
    },
    /// The permissions forbid it.
    #[error("no permission to open {path} for {access}: check its owner and mode, and those of its directories")]
    Permission {
        /// As asked.
        path: PathBuf,
        /// "reading" or "reading and writing".
        access: &'static str,
    },
    /// The file system or the device is mounted or set read-only.
    #[error("{path} is on read-only storage: open it for reading only, or make the storage writable")]
    ReadOnly {
        /// As asked.
        path: PathBuf,
    },
    /// It is neither a file nor a block device.
    #[error("{path} is {what}: only regular files and block devices can hold data")]
    NotStorage {
        /// As asked.
        path: PathBuf,
        /// "a socket", "a pipe", …
        what: &'static str,
    },
    /// The file system has no Direct I/O.
    #[error("the file system of {path} has no Direct I/O: open it buffered, or move it to one that has")]
    DirectUnsupported {
        /// As asked.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {action} {path}: {source}")]
    Os {
        /// What was attempted.
        action: &'static str,
        /// As asked.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// An open regular file or block device. Clones are the same open file: threads that each have one of their own do not
/// count references in the same place.
#[derive(Debug, Clone)]
pub struct IoFile(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    file: File,
    path: PathBuf,
    kind: FileKind,
    identity: FileIdentity,
    geometry: Geometry,
    direct: bool,
    writable: bool,
    memory_backed: bool,
    /// Set once the file system said that it cannot tell whether an operation would block.
    no_nowait: AtomicBool,
    /// Its size, if it belongs to a simulated machine.
    #[cfg(feature = "simulation")]
    simulated_bytes: Option<u64>,
}

impl IoFile {
    /// Opens `path`, which must exist.
    ///
    /// # Errors
    /// A [`FileError`] that says what a person can do.
    pub fn open(path: impl AsRef<Path>, options: FileOptions) -> Result<Self, FileError> {
        let path = path.as_ref();
        #[cfg(feature = "simulation")]
        if let Some(world) = crate::simulation::world() {
            let missing = || FileError::Missing { path: path.to_path_buf() };
            return Self::simulated(path, options, world.file(path).ok_or_else(missing)?);
        }
        // Before opening, as opening a pipe would block.
        let metadata = std::fs::metadata(path).map_err(|error| explain(path, options, error))?;
        kind_of(path, &metadata)?;
        let flags = if options.direct { libc::O_DIRECT } else { 0 };
        let file = OpenOptions::new()
            .read(true)
            .write(options.write)
            .custom_flags(flags | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| explain(path, options, error))?;
        note_no_access_times(&file);
        Self::new(file, path)
    }

    /// A file of which only the engines of a simulated machine know the bytes.
    #[cfg(feature = "simulation")]
    fn simulated(path: &Path, options: FileOptions, file: crate::simulation::SimulatedFile) -> Result<Self, FileError> {
        let os = |source| FileError::Os { action: "open", path: path.to_path_buf(), source };
        let opened = Opened {
            file: File::open("/dev/null").map_err(os)?,
            path: path.to_path_buf(),
            kind: FileKind::Regular,
            identity: file.identity,
            geometry: file.geometry,
            direct: options.direct,
            writable: options.write,
            memory_backed: false,
            no_nowait: AtomicBool::new(false),
            simulated_bytes: Some(file.size_bytes),
        };
        Ok(Self(Arc::new(opened)))
    }

    /// Takes a descriptor that is open already. `name` is for messages.
    ///
    /// # Errors
    /// When it is neither a file nor a block device, or cannot be asked.
    pub fn from_fd(fd: OwnedFd, name: impl AsRef<Path>) -> Result<Self, FileError> {
        Self::new(File::from(fd), name.as_ref())
    }

    /// Makes an anonymous file of `size_bytes` zeroes in memory, which ends with this value.
    ///
    /// # Errors
    /// When the system has no memory or descriptors left.
    pub fn in_memory(name: &str, size_bytes: u64) -> Result<Self, FileError> {
        let os = |source| FileError::Os { action: "make the memory file", path: PathBuf::from(name), source };
        let c_name = std::ffi::CString::new(name).map_err(|error| os(error.into()))?;
        // SAFETY: a C string that lives during the call.
        let fd = check(unsafe { libc::memfd_create(c_name.as_ptr(), libc::MFD_CLOEXEC) }).map_err(os)?;
        // SAFETY: a fresh descriptor that nothing else owns.
        let file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        file.set_len(size_bytes).map_err(os)?;
        Self::new(file, Path::new(name))
    }

    fn new(file: File, path: &Path) -> Result<Self, FileError> {
        let os = |action| move |source| FileError::Os { action, path: path.to_path_buf(), source };
        let metadata = file.metadata().map_err(os("read the attributes of"))?;
        let kind = kind_of(path, &metadata)?;
        // SAFETY: only reads the flags of an open descriptor.
        let flags =
            check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) }).map_err(os("read the open flags of"))?;
        let memory_backed =
            kind == FileKind::Regular && on_memory_file_system(&file).map_err(os("find the file system of"))?;
        let identity = match kind {
            FileKind::Regular => FileIdentity { device: metadata.dev(), inode: metadata.ino() },
            FileKind::BlockDevice => FileIdentity { device: metadata.rdev(), inode: 0 },
        };
        let direct = flags & libc::O_DIRECT != 0;
        let geometry = geometry_of(&file, kind, direct, memory_backed).map_err(os("find the alignment of"))?;
        let opened = Opened {
            file,
            path: path.to_path_buf(),
            kind,
            identity,
            geometry,
            direct,
            writable: flags & libc::O_ACCMODE != libc::O_RDONLY,
            memory_backed,
            no_nowait: AtomicBool::new(false),
            #[cfg(feature = "simulation")]
            simulated_bytes: None,
        };
        Ok(Self(Arc::new(opened)))
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> FileKind {
        self.0.kind
    }

    /// Which file it is, whatever its path.
    #[must_use]
    pub fn identity(&self) -> FileIdentity {
        self.0.identity
    }

    /// The units in which it takes I/O.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.0.geometry
    }

    /// Whether I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }

    /// Whether it may be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.0.writable
    }

    /// Whether its bytes are memory (tmpfs, ramfs, memfd): I/O on it never waits for a device.
    #[must_use]
    pub fn is_memory_backed(&self) -> bool {
        self.0.memory_backed
    }

    /// Whether the file takes this operation as it is. Buffered files take any.
    #[must_use]
    pub fn is_aligned(&self, offset: u64, len: u64, address: usize) -> bool {
        let unit = u64::from(self.0.geometry.dio_offset_align_bytes);
        !self.0.direct
            || (offset.is_multiple_of(unit)
                && len.is_multiple_of(unit)
                && address.is_multiple_of(self.0.geometry.dio_mem_align_bytes as usize))
    }

    /// The size now, in bytes: files grow and shrink under their users.
    ///
    /// # Errors
    /// [`FileError::Os`] when the system cannot say.
    pub fn size_bytes(&self) -> Result<u64, FileError> {
        #[cfg(feature = "simulation")]
        if let Some(bytes) = self.0.simulated_bytes {
            return Ok(bytes);
        }
        let size = match self.0.kind {
            FileKind::Regular => self.0.file.metadata().map(|metadata| metadata.len()),
            FileKind::BlockDevice => device_size_bytes(&self.0.file),
        };
        size.map_err(|source| FileError::Os { action: "find the size of", path: self.0.path.clone(), source })
    }

    /// Reads until `into` is full or the file ends, on this thread. Direct I/O needs its alignment here, too.
    ///
    /// # Errors
    /// The system's.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all of `from`, on this thread. Direct I/O needs its alignment here, too.
    ///
    /// # Errors
    /// The system's.
    pub fn write_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.0.file.write_all_at(from, offset)
    }

    /// Whether trying without blocking (`RWF_NOWAIT`) makes sense here.
    pub(crate) fn may_try_nowait(&self) -> bool {
        !self.0.no_nowait.load(Ordering::Relaxed)
    }

    /// Remembers that it does not.
    pub(crate) fn never_try_nowait(&self) {
        self.0.no_nowait.store(true, Ordering::Relaxed);
    }
}

impl AsFd for IoFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

fn explain(path: &Path, options: FileOptions, error: io::Error) -> FileError {
    let path = path.to_path_buf();
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => FileError::Missing { path },
        Some(libc::EISDIR) => FileError::Directory { path },
        Some(libc::EACCES | libc::EPERM) => {
            FileError::Permission { path, access: if options.write { "reading and writing" } else { "reading" } }
        }
        Some(libc::EROFS) => FileError::ReadOnly { path },
        Some(libc::EINVAL) if options.direct => FileError::DirectUnsupported { path },
        _ => FileError::Os { action: "open", path, source: error },
    }
}

/// Reads do not note when the file was read last (`O_NOATIME`), where that is allowed: it costs some percent of a small one.
fn note_no_access_times(file: &File) {
    // SAFETY: both calls only read and set flags of an open descriptor; without the right to, it stays as it was.
    unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        if flags >= 0 {
            libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NOATIME);
        }
    }
}

fn kind_of(path: &Path, metadata: &std::fs::Metadata) -> Result<FileKind, FileError> {
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        return Ok(FileKind::Regular);
    } else if kind.is_block_device() {
        return Ok(FileKind::BlockDevice);
    } else if kind.is_dir() {
        return Err(FileError::Directory { path: path.to_path_buf() });
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "something else"
    };
    Err(FileError::NotStorage { path: path.to_path_buf(), what })
}

fn on_memory_file_system(file: &File) -> io::Result<bool> {
    // The kernel's magic.h; libc has no name for ramfs.
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    // SAFETY: all-zero is a valid statfs, which the call fills.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor and a struct to fill.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) })?;
    #[allow(clippy::unnecessary_cast, reason = "the types of both differ between platforms")]
    let magic = stat.f_type as i64;
    #[allow(clippy::unnecessary_cast, reason = "the types of both differ between platforms")]
    Ok(magic == libc::TMPFS_MAGIC as i64 || magic == RAMFS_MAGIC)
}

fn device_size_bytes(file: &File) -> io::Result<u64> {
    // BLKGETSIZE64 of linux/fs.h.
    const BLKGETSIZE64: u64 = nix::request_code_read!(0x12, 114, size_of::<usize>()) as u64;
    let mut size: u64 = 0;
    // SAFETY: the call stores one u64.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size) })?;
    Ok(size)
}

fn device_block_bytes(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the call stores one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::BLKSSZGET, &raw mut size) })?;
    Ok(u32::try_from(size).unwrap_or(SECTOR_BYTES).max(SECTOR_BYTES))
}

fn geometry_of(file: &File, kind: FileKind, direct: bool, memory_backed: bool) -> io::Result<Geometry> {
    let device_block = match kind {
        FileKind::BlockDevice => Some(device_block_bytes(file)?),
        FileKind::Regular => None,
    };
    let (mem, offset) = if let Some(reported) = reported_alignment(file)? {
        reported
    } else if memory_backed {
        // tmpfs takes O_DIRECT since Linux 6.6 and then ignores it.
        (1, 1)
    } else if let Some(block) = device_block {
        (SECTOR_BYTES, block)
    } else if direct {
        let align = tried_alignment(file)?;
        (align, align)
    } else {
        (CAUTIOUS_ALIGN_BYTES, CAUTIOUS_ALIGN_BYTES)
    };
    let block_bytes = device_block.unwrap_or(if direct { offset.max(SECTOR_BYTES) } else { SECTOR_BYTES });
    Ok(Geometry { block_bytes, dio_mem_align_bytes: mem, dio_offset_align_bytes: offset })
}

/// What `statx(STATX_DIOALIGN)` says (Linux 6.1): address and offset alignment, or nothing.
fn reported_alignment(file: &File) -> io::Result<Option<(u32, u32)>> {
    // SAFETY: all-zero is a valid statx, which the call fills.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: an empty C string stands for the descriptor itself; the struct is there to be filled.
    let result = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, &raw mut stat) };
    match check(result) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(None),
        Err(error) => return Err(error),
    }
    let (mem, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
    let said = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok((said && mem.is_power_of_two() && offset.is_power_of_two()).then_some((mem, offset)))
}

/// The smallest unit in which reads past the page cache succeed. Reading is harmless, so trying is, too; a file too
/// short to try on gets the cautious answer, as reads at its end succeed whatever their alignment.
fn tried_alignment(file: &File) -> io::Result<u32> {
    let cautious = CAUTIOUS_ALIGN_BYTES as usize;
    if file.metadata()?.len() < 2 * cautious as u64 {
        return Ok(CAUTIOUS_ALIGN_BYTES);
    }
    let mut buffer = AlignedBuf::zeroed(2 * cautious, 2 * cautious);
    for align in [512_usize, 1024, 2048] {
        let into = &mut buffer[align..2 * align];
        // SAFETY: the slice is valid for as many bytes as the call may store.
        let read = unsafe { libc::pread(file.as_raw_fd(), into.as_mut_ptr().cast(), align, align as libc::off_t) };
        if check_size(read).is_ok_and(|n| n == align) {
            return Ok(align as u32);
        }
    }
    Ok(CAUTIOUS_ALIGN_BYTES)
}
