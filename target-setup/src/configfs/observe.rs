//! What nvmet has now: as much of it as a plan needs.

use super::error::NvmetError;
use super::record::{Mark, Snapshot};
use super::tree::Tree;
use nvferry_wire::Nqn;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The engine's that asks.
    Us,
    /// Another engine's of ours, with its process.
    Engine(Option<u32>),
    /// Another program's.
    Foreign,
}

/// nvmet's state, seen from one subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The subsystem, if it is there.
    pub subsystem: Option<ObservedSubsystem>,
    /// All ports.
    pub ports: BTreeMap<u16, ObservedPort>,
    /// The hosts that nvmet knows by name.
    pub hosts: BTreeMap<String, Owner>,
}

/// A subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSubsystem {
    /// Whose it is.
    pub owner: Owner,
    /// Whether every host may connect.
    pub allow_any_host: bool,
    /// The hosts that may.
    pub allowed_hosts: BTreeSet<String>,
    /// Its serial number, where the kernel shows it.
    pub serial: Option<String>,
    /// Its model number, where the kernel shows it.
    pub model: Option<String>,
    /// Its namespaces.
    pub namespaces: BTreeMap<u32, ObservedNamespace>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedNamespace {
    /// The file or block device.
    pub device_path: String,
    /// How hosts recognise it.
    pub device_uuid: String,
    /// The same, as Identify Namespace says it.
    pub device_nguid: String,
    /// Whether I/O goes through the page cache.
    pub buffered_io: bool,
    /// Whether hosts see it.
    pub enabled: bool,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPort {
    /// Whose it is.
    pub owner: Owner,
    /// The fabric; empty where none is set.
    pub trtype: String,
    /// The address.
    pub traddr: String,
    /// The service.
    pub trsvcid: String,
    /// The subsystems that it offers.
    pub subsystems: BTreeSet<String>,
}

impl Observed {
    /// Looks. `own` is this engine's record, `others` those of all others.
    ///
    /// # Errors
    /// What cannot be read. Objects that vanish meanwhile are not there.
    pub fn look(tree: &dyn Tree, nqn: &Nqn, own: &Snapshot, others: &[Snapshot]) -> Result<Self, NvmetError> {
        let owner = |path: &str| owner(tree, path, own, others);
        let mut observed = Self::default();
        for name in list(tree, "ports")? {
            // nvmet takes 0x10 for a name, too.
            let id = match name.strip_prefix("0x") {
                Some(hex) => u16::from_str_radix(hex, 16).ok(),
                None => name.parse().ok(),
            };
            let Some(id) = id else { continue };
            let path = format!("ports/{name}");
            observed.ports.insert(
                id,
                ObservedPort {
                    owner: owner(&path),
                    trtype: read(tree, &format!("{path}/addr_trtype"))?.unwrap_or_default(),
                    traddr: read(tree, &format!("{path}/addr_traddr"))?.unwrap_or_default(),
                    trsvcid: read(tree, &format!("{path}/addr_trsvcid"))?.unwrap_or_default(),
                    subsystems: list(tree, &format!("{path}/subsystems"))?.into_iter().collect(),
                },
            );
        }
        for name in list(tree, "hosts")? {
            let owner = owner(&format!("hosts/{name}"));
            observed.hosts.insert(name, owner);
        }
        let path = super::paths::subsystem(nqn);
        if tree.exists(&path) {
            let mut namespaces = BTreeMap::new();
            for name in list(tree, &format!("{path}/namespaces"))? {
                let Ok(nsid) = name.parse() else { continue };
                let get = |attribute| read(tree, &format!("{path}/namespaces/{name}/{attribute}"));
                let namespace = ObservedNamespace {
                    device_path: get("device_path")?.unwrap_or_default(),
                    device_uuid: get("device_uuid")?.unwrap_or_default(),
                    device_nguid: get("device_nguid")?.unwrap_or_default(),
                    buffered_io: get("buffered_io")?.is_some_and(|value| value == "1"),
                    enabled: get("enable")?.is_some_and(|value| value == "1"),
                };
                namespaces.insert(nsid, namespace);
            }
            observed.subsystem = Some(ObservedSubsystem {
                owner: owner(&path),
                allow_any_host: read(tree, &format!("{path}/attr_allow_any_host"))?.is_some_and(|value| value == "1"),
                allowed_hosts: list(tree, &format!("{path}/allowed_hosts"))?.into_iter().collect(),
                serial: read(tree, &format!("{path}/attr_serial"))?,
                model: read(tree, &format!("{path}/attr_model"))?,
                namespaces,
            });
        }
        Ok(observed)
    }
}

fn owner(tree: &dyn Tree, path: &str, own: &Snapshot, others: &[Snapshot]) -> Owner {
    let Ok(inode) = tree.inode(path) else { return Owner::Foreign };
    let names = |record: &Snapshot| record.entries.iter().any(|it| it.path == path && it.mark == Mark::Made(inode));
    if names(own) {
        return Owner::Us;
    }
    match others.iter().find(|record| names(record)) {
        Some(record) => Owner::Engine(record.pid),
        None => Owner::Foreign,
    }
}

fn read(tree: &dyn Tree, path: &str) -> Result<Option<String>, NvmetError> {
    missing(path, tree.read(path))
}

fn list(tree: &dyn Tree, path: &str) -> Result<Vec<String>, NvmetError> {
    Ok(missing(path, tree.list(path))?.unwrap_or_default())
}

fn missing<T>(path: &str, result: io::Result<T>) -> Result<Option<T>, NvmetError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(NvmetError::Read { path: path.to_owned(), source }),
    }
}

impl Observed {
    /// What will be left after a step that removes something.
    pub(super) fn without(&mut self, step: &super::step::Step) {
        use super::step::Step;
        if let Step::Remove { path } = step {
            match path.split('/').collect::<Vec<_>>()[..] {
                ["ports", id] => self.ports.retain(|port, _| port.to_string() != id),
                ["hosts", host] => drop(self.hosts.remove(host)),
                // Only this subsystem was looked at.
                ["subsystems", _] => self.subsystem = None,
                _ => {}
            }
        }
    }
}
