//! What the kernel tells of connected hosts: `/sys/kernel/debug/nvmet/<subsystem>/ctrl<id>/`, since Linux 6.11 with
//! `CONFIG_NVME_TARGET_DEBUGFS`, and only to root. Of queues and I/O it tells nothing.

use crate::driver::{ControllerStatus, HostProof, IoTotals};
use nvferry_wire::{ControllerId, Nqn};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

/// The controllers of a subsystem, or `None` where they cannot be seen; `sys` is where sysfs is.
pub(super) fn controllers(sys: &Path, subsystem: &Nqn) -> Option<Vec<ControllerStatus>> {
    let directory = sys.join("kernel/debug/nvmet").join(subsystem.as_str());
    let mut list: Vec<_> =
        fs::read_dir(directory).ok()?.flatten().filter_map(|entry| controller(&entry.path())).collect();
    list.sort_unstable_by_key(|controller| controller.cntlid.0);
    Some(list)
}

/// One of them. It may go at any time, or be something else.
fn controller(path: &Path) -> Option<ControllerStatus> {
    let id = path.file_name()?.to_str()?.strip_prefix("ctrl")?.parse().ok()?;
    let read = |name| fs::read_to_string(path.join(name)).ok().map(|text| text.trim().to_owned());
    let host = read("hostnqn")?.parse().ok()?;
    let made = fs::metadata(path).and_then(|directory| directory.modified());
    Some(ControllerStatus {
        cntlid: ControllerId(id),
        host,
        discovery: false,
        peer: read("host_traddr").and_then(|address| peer(&address)),
        since: made.unwrap_or_else(|_| SystemTime::now()),
        authentication: HostProof::NotTold,
        io_queues: 0,
        totals: IoTotals::default(),
    })
}

/// With or without a port, as kernels differ.
fn peer(address: &str) -> Option<SocketAddr> {
    let whole = address.parse().ok();
    whole.or_else(|| address.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_read_and_what_is_none_is_passed_over() {
        let sys = tempfile::tempdir().unwrap();
        let subsystem: Nqn = "nqn.2016-06.io.mc:x".parse().unwrap();
        assert_eq!(controllers(sys.path(), &subsystem), None);
        let root = sys.path().join("kernel/debug/nvmet").join(subsystem.as_str());
        fs::create_dir_all(&root).unwrap();
        assert_eq!(controllers(sys.path(), &subsystem), Some(vec![]));
        for (name, file, text) in [
            ("ctrl2", "hostnqn", "nqn.2020-01.org.example:b\n"),
            ("ctrl1", "hostnqn", "nqn.2020-01.org.example:a\n"),
            ("ctrl1", "host_traddr", "10.0.0.9:41000\n"),
            ("ctrl2", "host_traddr", "fd00::9\n"),
            ("ctrl3", "state", "live\n"),
            ("other", "hostnqn", "nqn.2020-01.org.example:c\n"),
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join(file), text).unwrap();
        }
        let list = controllers(sys.path(), &subsystem).unwrap();
        let seen: Vec<_> = list.iter().map(|it| (it.cntlid.0, it.host.as_str(), it.peer)).collect();
        assert_eq!(
            seen,
            [
                (1, "nqn.2020-01.org.example:a", Some("10.0.0.9:41000".parse().unwrap())),
                (2, "nqn.2020-01.org.example:b", Some("[fd00::9]:0".parse().unwrap())),
            ]
        );
    }
}
