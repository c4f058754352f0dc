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
    let path = dir.path().join("file");
    std::fs::write(&path, b"x").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        println!("skipped: this user may open everything");
        return;
    }
    let error = IoFile::open(&path, BUFFERED).unwrap_err();
    assert!(matches!(error, FileError::Permission { access: "reading and writing", .. }), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert!(IoFile::open(&path, BUFFERED).is_err());
    assert!(IoFile::open(&path, FileOptions { direct: false, write: false }).is_ok());
}
