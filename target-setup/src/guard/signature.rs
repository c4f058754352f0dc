//! Signatures of file systems, partition tables and volumes, at the places where each kind puts its own.
//!
//! Where the mark itself is short, as ext's two bytes, fields beside it are checked, too: a data file of random
//! content must not be taken for a file system.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

/// How much of the start is looked at: ZFS's labels end there.
const HEAD_BYTES: u64 = 256 << 10;

/// Plain marks: what it is, where, which bytes.
const MARKS: &[(&str, usize, &[u8])] = &[
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 0x10040, b"_BHRfS_M"),
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("a LUKS volume", 0x4000, b"SKUL\xba\xbe"),
    ("an F2FS file system", 1024, &0xF2F5_2010_u32.to_le_bytes()),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("a SquashFS file system", 0, b"hsqs"),
    ("an EROFS file system", 1024, &0xE0F5_E1E2_u32.to_le_bytes()),
    ("an ISO 9660 file system", 0x8001, b"CD001"),
    ("a JFS file system", 0x8000, b"JFS1"),
    ("a ReiserFS file system", 0x10034, b"ReIsEr"),
    ("an APFS container", 32, b"NXSB"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("swap space", 8182, b"SWAPSPACE2"),
    ("swap space", 16374, b"SWAPSPACE2"),
    ("swap space", 65526, b"SWAPSPACE2"),
    ("a suspended system", 4086, b"S1SUSPEND\0"),
    ("a member of an md array", 0, &0xA92B_4EFC_u32.to_le_bytes()),
    ("a member of an md array", 4096, &0xA92B_4EFC_u32.to_le_bytes()),
    ("a bcache or bcachefs device", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ("a bcachefs file system", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    ("a Ceph BlueStore device", 0, b"bluestore block device\n"),
    ("a Stratis pool", 4096 + 4, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("a VDO volume", 0, b"dmvdo001"),
    ("a dm-integrity device", 0, b"integrt\0"),
    ("a dm-verity device", 0, b"verity\0\0"),
];

/// What the file or device bears, if anything. Nothing is changed.
///
/// # Errors
/// The system's, when it cannot be read.
pub fn find(file: &File) -> io::Result<Option<&'static str>> {
    let size_bytes = (&mut &*file).seek(SeekFrom::End(0))?;
    let head = read_at(file, 0, HEAD_BYTES.min(size_bytes))?;
    let plain = MARKS.iter().find(|(_, at, mark)| bytes(&head, *at, mark.len()) == Some(mark)).map(|(what, ..)| *what);
    let found = plain
        .or_else(|| is_lvm(&head).then_some("an LVM physical volume"))
        .or_else(|| is_ext(&head).then_some("an ext2, ext3 or ext4 file system"))
        .or_else(|| is_fat(&head).then_some("a FAT file system"))
        .or_else(|| is_mbr(&head).then_some("an MBR partition table"))
        .or_else(|| is_zfs(&head).then_some("a member of a ZFS pool"))
        .or_else(|| is_hfs(&head).then_some("an HFS+ file system"));
    if found.is_some() {
        return Ok(found);
    }
    // md's older formats stand near the end, 64 KiB and 8 KiB from it, aligned.
    for (back, align) in [(64 << 10, 64 << 10), (8 << 10, 4 << 10)] {
        let at = (size_bytes & !(align - 1)).saturating_sub(back);
        if at >= HEAD_BYTES && read_at(file, at, 4)? == 0xA92B_4EFC_u32.to_le_bytes() {
            return Ok(Some("a member of an md array"));
        }
    }
    Ok(None)
}

fn read_at(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn bytes(head: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    head.get(at..at.checked_add(len)?)
}

fn u16_at(head: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes(head, at, 2)?.try_into().ok()?))
}

fn u32_at(head: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes(head, at, 4)?.try_into().ok()?))
}

/// A label in one of the first four sectors.
fn is_lvm(head: &[u8]) -> bool {
    let sectors = (0..4).map(|sector| sector * 512);
    let mut labels = sectors.filter(|&at| bytes(head, at, 8) == Some(b"LABELONE"));
    labels.any(|at| bytes(head, at + 24, 8) == Some(b"LVM2 001"))
}

fn is_ext(head: &[u8]) -> bool {
    let field = |at: usize| u32_at(head, 1024 + at);
    u16_at(head, 1024 + 56) == Some(0xEF53)
        && field(0).is_some_and(|inodes| inodes > 0)
        && field(4).is_some_and(|blocks| blocks > 0)
        && field(24).is_some_and(|log_block_size| log_block_size <= 6)
        && field(76).is_some_and(|revision| revision <= 1)
}

fn has_boot_mark(head: &[u8]) -> bool {
    bytes(head, 510, 2) == Some(b"\x55\xaa")
}

fn is_fat(head: &[u8]) -> bool {
    let named = |at, name: &[u8]| bytes(head, at, name.len()) == Some(name);
    has_boot_mark(head) && (named(82, b"FAT32   ") || named(54, b"FAT12   ") || named(54, b"FAT16   "))
}

/// Four entries that are each empty or sensible, and at least one that is not empty.
fn is_mbr(head: &[u8]) -> bool {
    let Some(entries) = bytes(head, 446, 64).filter(|_| has_boot_mark(head)) else { return false };
    let mut used = 0;
    for entry in entries.chunks_exact(16) {
        if entry.iter().all(|&byte| byte == 0) {
            continue;
        }
        let (start, sectors) = (u32_at(entry, 8), u32_at(entry, 12));
        if !matches!(entry[0], 0 | 0x80) || entry[4] == 0 || start == Some(0) || sectors == Some(0) {
            return false;
        }
        used += 1;
    }
    used > 0
}

/// An uberblock in the first label, of either byte order.
fn is_zfs(head: &[u8]) -> bool {
    const MAGIC: u64 = 0x00BA_B10C;
    let uberblocks = (128 << 10..HEAD_BYTES as usize).step_by(1024);
    let mut starts = uberblocks.filter_map(|at| bytes(head, at, 8));
    starts.any(|start| start == MAGIC.to_le_bytes() || start == MAGIC.to_be_bytes())
}

fn is_hfs(head: &[u8]) -> bool {
    matches!(bytes(head, 1024, 4), Some(b"H+\0\x04" | b"HX\0\x05"))
}
