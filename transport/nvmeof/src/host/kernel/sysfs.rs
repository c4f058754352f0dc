//! What the kernel says about its NVMe controllers and namespaces, in sysfs.
//!
//! Both roots (`/sys`, `/dev`) are injected, so that made-up trees can be walked in tests. Nothing here waits: whoever
//! needs a device that is not there yet asks again.
//!
//! With native multipath a controller's namespace `nvme0c1n2` is a hidden path, and the device that can be used is its
//! head `nvme0n2`, wherever the subsystem's number differs from the controller's. The number at the end counts heads and
//! is *not* the namespace id, which is in the attribute `nsid`.

use nvferry_auth::Secret;
use nvferry_wire::{Nguid, Nsid};
use std::fs::Permissions;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes of the unit in which sysfs counts a device's size, whatever its block.
const SYSFS_SECTOR_BYTES: u64 = 512;
/// Where the kernel shows what a controller's host proves to know.
const SECRET: &str = "dhchap_secret";
/// The same of the target.
const CONTROLLER_SECRET: &str = "dhchap_ctrl_secret";

/// The kernel's view of NVMe.
#[derive(Debug, Clone)]
pub(crate) struct Sysfs {
    sys: PathBuf,
    dev: PathBuf,
    /// The number of the block device at a path; nothing where it is something else.
    block_device_at: fn(&Path) -> io::Result<Option<u64>>,
}

/// A controller of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Controller {
    /// Such as `nvme3`.
    pub(crate) name: String,
    /// `tcp`, `rdma`, `pcie`, …
    pub(crate) transport: String,
    pub(crate) traddr: Option<IpAddr>,
    pub(crate) trsvcid: Option<u16>,
    pub(crate) subsysnqn: String,
    pub(crate) hostnqn: String,
    pub(crate) hostid: String,
    /// `live`, `connecting`, `deleting`, …
    pub(crate) state: String,
}

impl Controller {
    /// Whether it is on its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        self.state.starts_with("deleting") || self.state == "dead"
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == "live"
    }
}

/// A namespace's block device, ready to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelDevice {
    /// Such as `/dev/nvme0n2`.
    pub(crate) path: PathBuf,
    /// Its device number, as `stat` says it.
    pub(crate) number: u64,
    /// Differs for a device that was removed and made again, also where the name is the same.
    pub(crate) incarnation: u64,
    pub(crate) size_bytes: u64,
    /// Which file it is, where its target tells.
    pub(crate) nguid: Option<Nguid>,
    /// The longest operation that the device takes as one.
    pub(crate) max_transfer_bytes: u32,
}

impl Sysfs {
    /// This machine's.
    pub(crate) fn of_this_machine() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), block_device_at }
    }

    /// A made-up one. Regular files with something in them stand for block devices, all with the number 0.
    #[cfg(test)]
    pub(crate) fn fake(root: &Path) -> Self {
        let look = |path: &Path| Ok((std::fs::metadata(path)?.len() > 0).then_some(0));
        Self { sys: root.join("sys"), dev: root.join("dev"), block_device_at: look }
    }

    fn class(&self) -> PathBuf {
        self.sys.join("class/nvme")
    }

    /// Where connections are asked for.
    pub(crate) fn fabrics_node(&self) -> PathBuf {
        self.dev.join("nvme-fabrics")
    }

    /// The kernel's log.
    pub(crate) fn kernel_log(&self) -> PathBuf {
        self.dev.join("kmsg")
    }

    /// Whether whoever made this connection had the kernel ask the target to prove that it knows this secret.
    pub(crate) fn asks_for_proof(&self, controller: &str, secret: &Secret) -> bool {
        let asked = read_attribute(&self.class().join(controller).join(CONTROLLER_SECRET));
        // The kernel shows it as it was given, which need not be as it is written here.
        asked.and_then(|asked| asked.parse::<Secret>().ok()).is_some_and(|asked| asked == *secret)
    }

    /// Makes a controller's secrets unreadable to other users, to whom the kernel shows them.
    pub(crate) fn close_secrets(&self, controller: &str) {
        for attribute in [SECRET, CONTROLLER_SECRET] {
            let path = self.class().join(controller).join(attribute);
            if let Err(error) = std::fs::set_permissions(&path, Permissions::from_mode(0o600))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(
                    target: "nvferry::host", path = %path.display(), %error,
                    "every user of this machine can read a secret there: the file could not be closed"
                );
            }
        }
    }

    /// All controllers. Those that go meanwhile are left out.
    pub(crate) fn controllers(&self) -> Vec<Controller> {
        let Ok(entries) = std::fs::read_dir(self.class()) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| self.controller(&name)).collect()
    }

    /// A controller by name.
    pub(crate) fn controller(&self, name: &str) -> Option<Controller> {
        let dir = self.class().join(name);
        let attribute = |name: &str| read_attribute(&dir.join(name)).unwrap_or_default();
        let subsysnqn = read_attribute(&dir.join("subsysnqn"))?;
        let address = attribute("address");
        let part = |key: &str| address.split(',').find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='));
        Some(Controller {
            name: name.to_owned(),
            transport: attribute("transport"),
            traddr: part("traddr").and_then(|text| text.split('%').next()?.parse().ok()),
            trsvcid: part("trsvcid").and_then(|text| text.parse().ok()),
            subsysnqn,
            hostnqn: attribute("hostnqn"),
            hostid: attribute("hostid"),
            state: attribute("state"),
        })
    }

    /// The block device of a controller's namespace.
    ///
    /// # Errors
    /// What it lacks yet, in words.
    pub(crate) fn device(&self, controller: &str, nsid: Nsid) -> Result<KernelDevice, String> {
        let disks = self.disks(controller);
        let disk = disks.iter().find_map(|(id, disk)| (*id == nsid).then_some(disk));
        let disk = disk.ok_or_else(|| match disks.as_slice() {
            [] => format!("the kernel shows no namespace of {controller}"),
            some => {
                let ids: Vec<_> = some.iter().map(|(id, _)| id.0.to_string()).collect();
                format!("the kernel shows namespaces {} of {controller}, not {}", ids.join(", "), nsid.0)
            }
        })?;
        self.disk(disk)
    }

    /// The namespaces of a controller with the names of the devices to use.
    fn disks(&self, controller: &str) -> Vec<(Nsid, String)> {
        let dir = self.class().join(controller);
        let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
        let mut disks: Vec<_> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let disk = usable_disk(&name)?;
                // The path's own attribute; older kernels have it at the head only.
                let nsid = read_attribute(&dir.join(&name).join("nsid"))
                    .or_else(|| read_attribute(&self.sys.join("block").join(&disk).join("nsid")))?;
                Some((Nsid(nsid.parse().ok()?), disk))
            })
            .collect();
        disks.sort();
        disks
    }

    fn disk(&self, disk: &str) -> Result<KernelDevice, String> {
        let dir = self.sys.join("block").join(disk);
        let number = |name: &str| read_attribute(&dir.join(name)).and_then(|text| text.parse::<u64>().ok());
        let incarnation = std::fs::metadata(&dir).map_err(|_| format!("the kernel has not made {disk} yet"))?.ino();
        let number_text = read_attribute(&dir.join("dev")).ok_or_else(|| format!("{disk} has no device number yet"))?;
        let expected = device_number(&number_text).ok_or_else(|| format!("{disk} has the number {number_text:?}"))?;
        let size_bytes = number("size").unwrap_or(0).saturating_mul(SYSFS_SECTOR_BYTES);
        if size_bytes == 0 {
            return Err(format!("{disk} has no size: the namespace is being set up, or was removed"));
        }
        let path = self.dev.join(disk);
        match (self.block_device_at)(&path) {
            Ok(Some(found)) if found == expected => {}
            Ok(Some(_)) => return Err(format!("{} is another device's node", path.display())),
            Ok(None) => {
                return Err(format!("{} is no block device: remove that file, it hides the device", path.display()));
            }
            Err(error) => return Err(format!("there is no {} yet ({error})", path.display())),
        }
        let limit = ["queue/max_sectors_kb", "queue/max_hw_sectors_kb"].into_iter().filter_map(number).min();
        let max_transfer_bytes = limit.map_or(u32::MAX, |kib| u32::try_from(kib << 10).unwrap_or(u32::MAX));
        let nguid = read_attribute(&dir.join("nguid")).and_then(|text| Nguid::from_text(&text));
        Ok(KernelDevice { path, number: expected, incarnation, size_bytes, nguid, max_transfer_bytes })
    }

    /// Has the kernel look for new namespaces. It does so by itself when the target announces them.
    pub(crate) fn rescan(&self, controller: &str) -> io::Result<()> {
        self.order(controller, "rescan_controller")
    }

    /// Has the kernel disconnect and forget a controller. Returns when that is done.
    pub(crate) fn delete(&self, controller: &str) -> io::Result<()> {
        self.order(controller, "delete_controller")
    }

    fn order(&self, controller: &str, attribute: &str) -> io::Result<()> {
        let path = self.class().join(controller).join(attribute);
        // Never makes a file.
        let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
        io::Write::write_all(&mut file, b"1")
    }

    /// Whether a module is in the kernel, loaded or built in.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        self.sys.join("module").join(name.replace('-', "_")).exists()
    }
}

/// An attribute's text, without blanks around it.
fn read_attribute(path: &Path) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The name of the device to use for an entry of a controller's directory; nothing where the entry is no namespace.
fn usable_disk(name: &str) -> Option<String> {
    let rest = name.strip_prefix("nvme")?;
    let (before, namespace) = rest.rsplit_once('n')?;
    let (subsystem, path) = before.split_once('c').map_or((before, None), |(subsystem, path)| (subsystem, Some(path)));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(subsystem) && path.is_none_or(is_number) && is_number(namespace))
        .then(|| format!("nvme{subsystem}n{namespace}"))
}

/// A device number from sysfs's `major:minor`, as `stat` gives it.
pub(super) fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    Some((major & 0xFFF) << 8 | (major & !0xFFF) << 32 | (minor & 0xFF) | (minor & !0xFF) << 12)
}

fn block_device_at(path: &Path) -> io::Result<Option<u64>> {
    let metadata = std::fs::metadata(path)?;
    Ok(metadata.file_type().is_block_device().then(|| metadata.rdev()))
}
