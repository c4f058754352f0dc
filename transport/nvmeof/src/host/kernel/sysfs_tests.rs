//! Made-up sysfs trees, as kernels of several kinds show them.

use super::sysfs::Sysfs;
use nvferry_wire::Nsid;
use std::path::{Path, PathBuf};

/// A tree that a test fills.
pub(super) struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    pub(super) fn new() -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(tree.path("dev")).unwrap();
        tree
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(super) fn sysfs(&self) -> Sysfs {
        Sysfs::fake(self.dir.path())
    }

    pub(super) fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(super) fn append(&self, below: &str, text: &str) {
        let mut file = std::fs::OpenOptions::new().append(true).open(self.path(below)).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    }

    pub(super) fn controller(&self, name: &str, subsysnqn: &str, address: &str) {
        for (attribute, text) in [
            ("transport", "tcp\n"),
            ("address", &format!("{address}\n")),
            ("hostnqn", "nqn.2014-08.org.nvmexpress:uuid:host\n"),
            ("hostid", "00000000-0000-0000-0000-0000000000ff\n"),
            ("state", "live\n"),
            ("delete_controller", ""),
            ("rescan_controller", ""),
            // Last: a controller without it is not there yet.
            ("subsysnqn", &format!("{subsysnqn}\n")),
        ] {
            self.write(&format!("sys/class/nvme/{name}/{attribute}"), text);
        }
    }

    /// A namespace: the controller's entry for it, and the disk with its node, a file of that many bytes.
    pub(super) fn namespace(&self, controller: &str, entry: &str, nsid: u32, disk: &str, bytes: u64) {
        self.write(&format!("dev/{disk}"), "");
        let node = std::fs::OpenOptions::new().write(true).open(self.path(&format!("dev/{disk}"))).unwrap();
        node.set_len(bytes).unwrap();
        self.write(&format!("sys/block/{disk}/dev"), "0:0\n");
        self.write(&format!("sys/block/{disk}/size"), &format!("{}\n", bytes / 512));
        self.write(&format!("sys/block/{disk}/queue/max_sectors_kb"), "512\n");
        self.write(&format!("sys/block/{disk}/queue/max_hw_sectors_kb"), "1024\n");
        self.write(&format!("sys/class/nvme/{controller}/{entry}/nsid"), &format!("{nsid}\n"));
    }

    pub(super) fn remove(&self, below: &str) {
        let path: &Path = &self.path(below);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
}

const TCP: &str = "traddr=127.0.0.1,trsvcid=4420,src_addr=127.0.0.1";

#[test]
fn p12_hidden_multipath_names_lead_to_the_head() {
    let tree = Tree::new();
    // The subsystem is number 3, the controller number 7; heads are numbered as they came, not by nsid.
    tree.controller("nvme7", "nqn.a:b", TCP);
    tree.namespace("nvme7", "nvme3c7n1", 5, "nvme3n1", 1 << 20);
    tree.namespace("nvme7", "nvme3c7n2", 1, "nvme3n2", 2 << 20);
    // Another subsystem's disks have names that could be mistaken for these.
    tree.controller("nvme3", "nqn.a:other", "traddr=127.0.0.2,trsvcid=4420");
    tree.namespace("nvme3", "nvme7c3n1", 5, "nvme7n1", 8 << 20);
    let sysfs = tree.sysfs();
    let five = sysfs.device("nvme7", Nsid(5)).unwrap();
    assert_eq!((five.path, five.size_bytes), (tree.path("dev/nvme3n1"), 1 << 20));
    let one = sysfs.device("nvme7", Nsid(1)).unwrap();
    assert_eq!((one.path, one.size_bytes, one.max_transfer_bytes), (tree.path("dev/nvme3n2"), 2 << 20, 512 << 10));
    assert_eq!(sysfs.device("nvme3", Nsid(5)).unwrap().path, tree.path("dev/nvme7n1"));
}

#[test]
fn p12_names_without_multipath_are_used_as_they_are() {
    let tree = Tree::new();
    tree.controller("nvme0", "nqn.a:b", TCP);
    tree.namespace("nvme0", "nvme0n2", 9, "nvme0n2", 1 << 20);
    // What else a controller's directory has.
    for other in ["ng0n1", "hwmon3", "power", "nvme0n", "nvmen1", "nvme0cn1", "nvme0n1p1"] {
        tree.write(&format!("sys/class/nvme/nvme0/{other}/nsid"), "9");
    }
    assert_eq!(tree.sysfs().device("nvme0", Nsid(9)).unwrap().path, tree.path("dev/nvme0n2"));
}

#[test]
fn p12_a_device_that_is_not_ready_says_what_it_lacks() {
    let tree = Tree::new();
    tree.controller("nvme0", "nqn.a:b", TCP);
    let sysfs = tree.sysfs();
    let why = |nsid| sysfs.device("nvme0", Nsid(nsid)).unwrap_err();
    assert!(why(1).contains("shows no namespace of nvme0"), "{}", why(1));
    tree.namespace("nvme0", "nvme0c0n1", 1, "nvme0n1", 1 << 20);
    sysfs.device("nvme0", Nsid(1)).unwrap();
    assert!(why(2).contains("namespaces 1 of nvme0, not 2"), "{}", why(2));
    // A file that somebody's dd left where the node belongs.
    tree.write("dev/nvme0n1", "");
    assert!(why(1).contains("no block device: remove that file"), "{}", why(1));
    tree.remove("dev/nvme0n1");
    assert!(why(1).contains("dev/nvme0n1 yet"), "{}", why(1));
    tree.write("sys/block/nvme0n1/size", "0\n");
    assert!(why(1).contains("has no size"), "{}", why(1));
    tree.remove("sys/block/nvme0n1");
    assert!(why(1).contains("has not made nvme0n1 yet"), "{}", why(1));
    assert!(!tree.path("dev/nvme0n1").exists(), "looking makes no file");
}

#[test]
fn a_device_that_was_made_again_is_another() {
    let tree = Tree::new();
    tree.controller("nvme0", "nqn.a:b", TCP);
    tree.namespace("nvme0", "nvme0c0n1", 1, "nvme0n1", 1 << 20);
    let before = tree.sysfs().device("nvme0", Nsid(1)).unwrap();
    // The old directory stays, so that its number is not used again at once, as sysfs never does.
    std::fs::rename(tree.path("sys/block/nvme0n1"), tree.path("sys/old")).unwrap();
    tree.namespace("nvme0", "nvme0c0n1", 1, "nvme0n1", 1 << 20);
    let after = tree.sysfs().device("nvme0", Nsid(1)).unwrap();
    assert_eq!(before.path, after.path);
    assert_ne!(before, after);
}

#[test]
fn controllers_are_read_whatever_they_are_of() {
    let tree = Tree::new();
    tree.controller("nvme0", "nqn.a:b", "traddr=fe80::1%eth0,trsvcid=4421,host_traddr=fe80::2");
    // A local disk: it has neither port nor host.
    tree.write("sys/class/nvme/nvme1/subsysnqn", "nqn.2014-08.org.nvmexpress:disk\n");
    tree.write("sys/class/nvme/nvme1/address", "0000:01:00.0\n");
    let sysfs = tree.sysfs();
    let mut controllers = sysfs.controllers();
    controllers.sort_by(|a, b| a.name.cmp(&b.name));
    let fabric = &controllers[0];
    assert_eq!((fabric.traddr, fabric.trsvcid), ("fe80::1".parse().ok(), Some(4421)));
    assert!(fabric.is_live() && !fabric.is_leaving());
    assert_eq!((controllers[1].traddr, controllers[1].trsvcid, &*controllers[1].hostnqn), (None, None, ""));
    tree.write("sys/class/nvme/nvme0/state", "deleting (no IO)\n");
    assert!(sysfs.controller("nvme0").unwrap().is_leaving());
    assert!(sysfs.controller("nvme9").is_none());
}

#[test]
fn p06_the_kernel_is_told_to_look_and_never_a_file_made() {
    let tree = Tree::new();
    tree.controller("nvme0", "nqn.a:b", TCP);
    tree.sysfs().rescan("nvme0").unwrap();
    assert_eq!(std::fs::read_to_string(tree.path("sys/class/nvme/nvme0/rescan_controller")).unwrap(), "1");
    tree.remove("sys/class/nvme/nvme0/delete_controller");
    assert!(tree.sysfs().delete("nvme0").is_err());
    assert!(!tree.path("sys/class/nvme/nvme0/delete_controller").exists());
}

#[test]
fn device_numbers_are_as_stat_gives_them() {
    use std::os::unix::fs::MetadataExt;
    // Every Linux has this one, whoever asks.
    let metadata = std::fs::metadata("/dev/null").unwrap();
    assert_eq!(super::sysfs::device_number("1:3"), Some(metadata.rdev()));
    assert_eq!(super::sysfs::device_number("259:70000"), Some(259 << 8 | 70000 & 0xFF | (70000 & !0xFF) << 12));
    assert_eq!(super::sysfs::device_number("259"), None);
}
