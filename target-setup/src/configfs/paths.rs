//! Where things are below `/sys/kernel/config/nvmet`.

use nvferry_wire::{Nqn, Nsid};

pub(super) fn subsystem(nqn: &Nqn) -> String {
    format!("subsystems/{nqn}")
}

pub(super) fn namespace(nqn: &Nqn, nsid: Nsid) -> String {
    format!("subsystems/{nqn}/namespaces/{}", nsid.0)
}

pub(super) fn allowed_host(nqn: &Nqn, host: &Nqn) -> String {
    format!("subsystems/{nqn}/allowed_hosts/{host}")
}

pub(super) fn host(nqn: &Nqn) -> String {
    format!("hosts/{nqn}")
}

pub(super) fn port(id: u16) -> String {
    format!("ports/{id}")
}

pub(super) fn port_link(id: u16, nqn: &Nqn) -> String {
    format!("ports/{id}/subsystems/{nqn}")
}

/// What kind of object a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A port's link to a subsystem.
    PortLink,
    /// A namespace.
    Namespace,
    /// A subsystem's link to a host.
    HostLink,
    /// A subsystem.
    Subsystem,
    /// A host.
    Host,
    /// A port.
    Port,
}

/// Reads a path; the kinds are in the order in which things are taken down: first hosts are cut off, then namespaces
/// end, then what held them goes.
pub(super) fn kind(path: &str) -> Option<Kind> {
    match path.split('/').collect::<Vec<_>>()[..] {
        ["ports", _, "subsystems", _] => Some(Kind::PortLink),
        ["subsystems", _, "namespaces", _] => Some(Kind::Namespace),
        ["subsystems", _, "allowed_hosts", _] => Some(Kind::HostLink),
        ["subsystems", _] => Some(Kind::Subsystem),
        ["hosts", _] => Some(Kind::Host),
        ["ports", _] => Some(Kind::Port),
        _ => None,
    }
}
