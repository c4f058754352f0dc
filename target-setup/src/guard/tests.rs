use super::*;
use nvferry_wire::Nsid;
use std::process::Command;

fn made_by(program: &str, args: &[&str], size: u64) -> Option<tempfile::NamedTempFile> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    let path = std::env::var("PATH").unwrap_or_default() + ":/sbin:/usr/sbin";
    let mut command = Command::new(program);
    match command.args(args).arg(file.path()).env("PATH", path).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
            Some(file)
        }
        Err(_) => {
            println!("skipped: {program} is not on this machine");
            None
        }
    }
}

fn checked(path: &Path) -> Result<Claim, GuardError> {
    check(&NamespaceSpec::new(Nsid(1), path, 1), &Machine::default())
}

#[test]
fn p10_what_real_tools_make_is_recognised() {
    for (program, args, what) in [
        ("mkfs.ext4", &["-q"][..], "ext4"),
        ("mkfs.ext2", &["-q", "-b", "1024"], "ext2"),
        ("mkfs.xfs", &["-q"], "XFS"),
        ("mkswap", &[], "swap"),
        ("mkfs.btrfs", &["-q"], "Btrfs"),
        ("mkfs.vfat", &[], "FAT"),
        ("mkfs.f2fs", &["-q"], "F2FS"),
        ("mkfs.ntfs", &["-F", "-q"], "NTFS"),
    ] {
        let Some(file) = made_by(program, args, 320 << 20) else { continue };
        let error = checked(file.path()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("--overwrite"), "{program}: {error}");
        let wanted = NamespaceSpec { overwrite: true, ..NamespaceSpec::new(Nsid(1), file.path(), 1) };
        assert!(check(&wanted, &Machine::default()).is_ok());
    }
}

#[test]
fn p10_every_mark_is_found_at_its_place() {
    for (at, mark, what) in [
        (512, &b"EFI PART"[..], "GPT"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (0x8001, b"CD001", "ISO"),
        (4096, &[0xFC, 0x4E, 0x2B, 0xA9], "md"),
        ((1 << 20) - (64 << 10), &[0xFC, 0x4E, 0x2B, 0xA9], "md"),
        ((1 << 20) - (8 << 10), &[0xFC, 0x4E, 0x2B, 0xA9], "md"),
        (130 << 10, &[0x0C, 0xB1, 0xBA, 0, 0, 0, 0, 0], "ZFS"),
        (0, b"hsqs", "SquashFS"),
        (1024, &[0xE2, 0xE1, 0xF5, 0xE0], "EROFS"),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        assert!(checked(file.path()).is_ok());
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), mark, at).unwrap();
        let error = checked(file.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn p10_lvm_and_partitions_are_found_and_a_bare_boot_mark_is_not() {
    let mut disk = vec![0_u8; 4096];
    disk[510..512].copy_from_slice(b"\x55\xaa");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &disk).unwrap();
    assert!(checked(file.path()).is_ok(), "two bytes are no partition table");
    disk[446 + 4] = 0x83;
    disk[446 + 9] = 8;
    disk[446 + 13] = 8;
    fs::write(file.path(), &disk).unwrap();
    assert!(checked(file.path()).unwrap_err().to_string().contains("MBR"));
    let mut volume = vec![0_u8; 4096];
    volume[512..520].copy_from_slice(b"LABELONE");
    assert!(signature_of(&volume).is_none());
    volume[536..544].copy_from_slice(b"LVM2 001");
    assert_eq!(signature_of(&volume), Some("an LVM physical volume"));
}

fn signature_of(content: &[u8]) -> Option<&'static str> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    find_signature(&File::open(file.path()).unwrap()).unwrap()
}

#[test]
fn p10_data_of_any_kind_is_no_signature() {
    // xorshift from a fixed seed.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..64 {
        let content: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(32 << 10)
        .flatten()
        .collect();
        assert_eq!(signature_of(&content), None, "round {round}");
    }
    for short in [0, 1, 511, 1081] {
        assert_eq!(signature_of(&vec![0; short]), None);
    }
}

#[test]
fn p10_a_file_that_was_served_is_served_again_whatever_hosts_wrote() {
    let Some(file) = made_by("mkfs.ext4", &["-q"], 16 << 20) else { return };
    mark_served(file.path());
    if !was_served(file.path()) {
        println!("skipped: {} has no extended attributes", file.path().display());
        return;
    }
    assert!(checked(file.path()).is_ok());
    // Another file under the same name is another file.
    let content = fs::read(file.path()).unwrap();
    fs::remove_file(file.path()).unwrap();
    fs::write(file.path(), content).unwrap();
    assert!(checked(file.path()).is_err());
}

#[test]
fn p10_swap_and_loop_files_are_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a b");
    fs::write(&path, [0; 512]).unwrap();
    let machine = Machine::at(&dir.path().join("proc"), &dir.path().join("sys"));
    let spec = NamespaceSpec::new(Nsid(1), &path, 512);
    assert!(check(&spec, &machine).is_ok());
    let loop_dir = dir.path().join("sys/block/loop3/loop");
    fs::create_dir_all(&loop_dir).unwrap();
    fs::write(loop_dir.join("backing_file"), format!("{}\n", path.display())).unwrap();
    mark_served(&path);
    assert!(check(&spec, &machine).unwrap_err().to_string().contains("/dev/loop3"));
    fs::create_dir_all(dir.path().join("proc")).unwrap();
    let escaped = path.display().to_string().replace(' ', "\\040");
    fs::write(dir.path().join("proc/swaps"), format!("Filename Type\n{escaped} file 512\n")).unwrap();
    assert!(check(&spec, &machine).unwrap_err().to_string().contains("swap"));
}

#[test]
fn p10_what_mountinfo_says_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("self")).unwrap();
    let text = "23 1 8:17 / /mnt/a\\040b rw shared:1 - ext4 /dev/sdb1 rw\n";
    fs::write(dir.path().join("self/mountinfo"), text).unwrap();
    let machine = Machine::at(dir.path(), dir.path());
    assert_eq!(mounted_at(&machine, "8:17"), Some("/mnt/a b".into()));
    assert_eq!(mounted_at(&machine, "8:1"), None);
}
