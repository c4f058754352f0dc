//! Opening files: what is told about them, and what is said when they cannot be opened.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "the standard library makes no pipes with names")]

use nvferry_io::IoFile;
use nvferry_io::file::{FileError, FileKind, FileOptions, Geometry};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

const BUFFERED: FileOptions = FileOptions { direct: false, write: true };
const DIRECT: FileOptions = FileOptions { direct: true, write: true };

fn is_valid(geometry: Geometry) -> bool {
    geometry.block_bytes >= 512
        && geometry.block_bytes.is_power_of_two()
        && geometry.dio_mem_align_bytes.is_power_of_two()
        && geometry.dio_offset_align_bytes.is_power_of_two()
}

fn mkfifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string that lives during the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn a_file_tells_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, vec![1; 12_345]).unwrap();
    let file = IoFile::open(&path, BUFFERED).unwrap();
    assert_eq!((file.kind(), file.path()), (FileKind::Regular, path.as_path()));
    assert_eq!(file.size_bytes().unwrap(), 12_345);
    assert!(file.is_writable() && !file.is_direct());
    assert_eq!(file.geometry().block_bytes, 512);
    assert!(is_valid(file.geometry()));
    assert!(file.is_aligned(1, 3, 5), "buffered files take anything");
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((file.identity().device, file.identity().inode), (metadata.dev(), metadata.ino()));
    let other = dir.path().join("link");
    symlink(&path, &other).unwrap();
    assert_eq!(IoFile::open(&other, BUFFERED).unwrap().identity(), file.identity());

    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(500).unwrap();
    assert_eq!(file.size_bytes().unwrap(), 500, "the size is asked for anew");
    let read_only = IoFile::open(&path, FileOptions { direct: false, write: false }).unwrap();
    assert!(!read_only.is_writable());
    assert!(read_only.write_at(b"x", 0).is_err());
}

/// The alignment that is told must be one that works, or everything built on it fails.
#[test]
fn the_alignment_told_is_one_that_works() {
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let Ok(dir) = tempfile::tempdir_in(&dir) else {
            println!("skipped: cannot write to {}", dir.display());
            continue;
        };
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..1_u32 << 16).map(|n| (n / 11) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = match IoFile::open(&path, DIRECT) {
            Ok(file) => file,
            Err(error @ FileError::DirectUnsupported { .. }) => {
                println!("skipped: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(file.is_direct());
        let geometry = file.geometry();
        assert!(is_valid(geometry), "{geometry:?}");
        let (mem, unit) = (geometry.dio_mem_align_bytes as usize, geometry.dio_offset_align_bytes as usize);
        println!("{}: {geometry:?}", path.display());
        // An address that is a multiple of just that, and of no more.
        let mut buffer = nvferry_io::AlignedBuf::zeroed(3 * unit + 2 * mem, 2 * mem);
        let into = &mut buffer[mem..][..2 * unit];
        assert!(file.is_aligned(unit as u64, into.len() as u64, into.as_ptr() as usize));
        assert_eq!(file.read_at(into, unit as u64).unwrap(), 2 * unit);
        assert_eq!(*into, content[unit..3 * unit]);
        file.write_at(into, 5 * unit as u64).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[5 * unit..7 * unit], content[unit..3 * unit]);
    }
}

#[test]
fn files_in_memory_are_known_as_such() {
    let file = IoFile::in_memory("test", 100_000).unwrap();
    assert!(file.is_memory_backed() && file.is_writable() && !file.is_direct());
    assert_eq!(file.size_bytes().unwrap(), 100_000);
    file.write_at(b"abc", 99_998).unwrap();
    assert_eq!(file.size_bytes().unwrap(), 100_001);
    let mut end = [0; 10];
    assert_eq!(file.read_at(&mut end, 99_998).unwrap(), 3);
    assert_eq!(&end[..3], b"abc");
    if let Ok(shm) = tempfile::NamedTempFile::new_in("/dev/shm") {
        assert!(IoFile::open(shm.path(), BUFFERED).unwrap().is_memory_backed());
    } else {
        println!("skipped: cannot write to /dev/shm");
    }
}

#[test]
fn a_descriptor_that_is_open_already_can_be_used() {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"hello").unwrap();
    let file = IoFile::from_fd(OwnedFd::from(file), "anonymous").unwrap();
    assert_eq!((file.size_bytes().unwrap(), file.path()), (5, Path::new("anonymous")));
    let (pipe, _other) = std::io::pipe().unwrap();
    let error = IoFile::from_fd(OwnedFd::from(pipe), "pipe").unwrap_err();
    assert!(matches!(error, FileError::NotStorage { what: "a pipe", .. }), "{error}");
}

#[test]
fn what_cannot_be_opened_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), b"x").unwrap();
    mkfifo(&at("fifo"));
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink(at("nothing"), at("dangling")).unwrap();
    for (path, expected, told) in [
        (at("missing"), "Missing", "there is no file"),
        (at("file/below"), "Missing", "there is no file"),
        (at("dangling"), "Missing", "there is no file"),
        (dir.path().to_path_buf(), "Directory", "is a directory"),
        (at("fifo"), "NotStorage", "a pipe"),
        (at("socket"), "NotStorage", "a socket"),
        ("/dev/null".into(), "NotStorage", "a character device"),
    ] {
        for options in [BUFFERED, DIRECT] {
            let error = IoFile::open(&path, options).unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(told) && text.contains(path.to_str().unwrap()), "{text}");
        }
    }
}

#[test]
fn no_permission_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"x").unwrap();
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    let open_as_nobody = |options| {
        let path = path.clone();
        // Root may open everything, so a thread of its own looks at files as nobody; for others this does nothing.
        let open = move || {
            // SAFETY: changes what this thread, which ends soon, may do with files.
            unsafe { libc::syscall(libc::SYS_setfsuid, 65_534) };
            IoFile::open(&path, options)
        };
        std::thread::spawn(open).join().unwrap()
    };
    mode(0o000);
    let error = open_as_nobody(BUFFERED).unwrap_err();
    assert!(matches!(error, FileError::Permission { access: "reading and writing", .. }), "{error}");
    mode(0o444);
    let error = open_as_nobody(DIRECT).unwrap_err();
    assert!(error.to_string().contains("check its owner and mode"), "{error}");
    assert!(open_as_nobody(FileOptions { direct: false, write: false }).is_ok());
}

/// Looks at the first block device that this user may read. Nothing is written.
#[test]
fn a_block_device_tells_what_sysfs_tells() {
    let names = std::fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.file_name());
    for name in names {
        let sysfs = |file: &str| std::fs::read_to_string(Path::new("/sys/block").join(&name).join(file)).unwrap();
        let size_bytes = sysfs("size").trim().parse::<u64>().unwrap() * 512;
        let options = FileOptions { direct: true, write: false };
        let Ok(device) = IoFile::open(Path::new("/dev").join(&name), options) else { continue };
        if size_bytes < 1 << 20 {
            continue;
        }
        assert_eq!((device.kind(), device.identity().inode), (FileKind::BlockDevice, 0));
        assert_eq!(device.size_bytes().unwrap(), size_bytes);
        assert!(device.is_direct() && !device.is_writable() && !device.is_memory_backed());
        let geometry = device.geometry();
        assert_eq!(geometry.block_bytes, sysfs("queue/logical_block_size").trim().parse::<u32>().unwrap());
        let unit = geometry.dio_offset_align_bytes as usize;
        let mut buffer = nvferry_io::AlignedBuf::zeroed(unit, geometry.dio_mem_align_bytes as usize);
        assert_eq!(device.read_at(&mut buffer, size_bytes - unit as u64).unwrap(), unit);
        println!("{}: {size_bytes} bytes, {geometry:?}", device.path().display());
        return;
    }
    println!("skipped: no block device that this user may read");
}
