//! nvmet's configfs in memory, as the kernel's `drivers/nvme/target/configfs.c` and `fs/configfs` behave, with faults:
//! the process dies before or just after an operation, or an operation fails.

use super::tree::Tree;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What goes wrong, and at which of the operations that change something (from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is killed before it.
    DieBefore(usize),
    /// The process is killed when it is done, before it knows.
    DieAfter(usize),
    /// It fails.
    Fail(usize, Errno),
}

/// A machine's nvmet; clones look at the same.
#[derive(Clone, Default)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
    /// An attribute that takes no value for now: whoever writes it hangs in the kernel.
    held: Arc<(Mutex<Option<String>>, Condvar)>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Node>,
    next_inode: u64,
    changes: usize,
    fault: Option<Fault>,
    dead: bool,
    /// Addresses that other programs than nvmet listen at, as `traddr:trsvcid`.
    taken: Vec<String>,
}

#[derive(Clone)]
enum Node {
    Dir(u64),
    Attribute(String),
    Link(u64, String),
}

fn err(errno: Errno) -> io::Error {
    errno.into()
}

impl Fake {
    /// nvmet just loaded.
    pub(super) fn new() -> Self {
        let fake = Self::default();
        let mut state = fake.state();
        for dir in ["subsystems", "ports", "hosts"] {
            state.dir(dir);
        }
        drop(state);
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From here on this goes wrong; a process that died lives again.
    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        let mut state = self.state();
        (state.fault, state.changes, state.dead) = (fault, 0, false);
    }

    /// Changes since the last fault was set.
    pub(super) fn changes(&self) -> usize {
        self.state().changes
    }

    /// Whoever writes this attribute hangs until another is held, or none.
    pub(super) fn hold(&self, attribute: Option<&str>) {
        let (held, changed) = &*self.held;
        *held.lock().unwrap() = attribute.map(str::to_owned);
        changed.notify_all();
    }

    pub(super) fn take_address(&self, address: &str) {
        self.state().taken.push(address.to_owned());
    }

    /// Everything below a path, for comparison.
    pub(super) fn dump(&self, below: &str) -> String {
        let state = self.state();
        let nodes = state.nodes.iter().filter(|(path, _)| path.starts_with(below));
        let line = |(path, node): (&String, &Node)| match node {
            Node::Dir(inode) => format!("{path}/ {inode}\n"),
            Node::Attribute(value) => format!("{path} = {value}\n"),
            Node::Link(inode, object) => format!("{path} -> {object} {inode}\n"),
        };
        nodes.map(line).collect()
    }

    fn change(&self, action: impl FnOnce(&mut State) -> Result<(), Errno>) -> io::Result<()> {
        let mut state = self.state();
        state.live()?;
        let this = state.changes;
        state.changes += 1;
        match state.fault {
            Some(Fault::DieBefore(at)) if at == this => {
                state.dead = true;
                state.live()
            }
            Some(Fault::DieAfter(at)) if at == this => {
                // What it did stands.
                let _ = action(&mut state);
                state.dead = true;
                state.live()
            }
            Some(Fault::Fail(at, errno)) if at == this => Err(err(errno)),
            _ => action(&mut state).map_err(err),
        }
    }
}

impl State {
    fn live(&self) -> io::Result<()> {
        if self.dead { Err(err(Errno::IO)) } else { Ok(()) }
    }

    fn dir(&mut self, path: &str) {
        self.next_inode += 1;
        self.nodes.insert(path.to_owned(), Node::Dir(self.next_inode));
    }

    fn attributes(&mut self, path: &str, attributes: &[(&str, &str)]) {
        for (name, value) in attributes {
            self.nodes.insert(format!("{path}/{name}"), Node::Attribute((*value).to_owned()));
        }
    }

    fn get(&self, path: &str) -> &str {
        match self.nodes.get(path) {
            Some(Node::Attribute(value)) => value,
            _ => "",
        }
    }

    fn is_dir(&self, path: &str) -> bool {
        matches!(self.nodes.get(path), Some(Node::Dir(_)))
    }

    fn children<'a>(&'a self, path: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
        let prefix = format!("{path}/");
        self.nodes.iter().filter_map(move |(path, node)| {
            let name = path.strip_prefix(&prefix)?;
            (!name.contains('/')).then_some((name, node))
        })
    }

    fn make(&mut self, path: &str) -> Result<(), Errno> {
        if self.nodes.contains_key(path) {
            return Err(Errno::EXIST);
        }
        let parts: Vec<&str> = path.split('/').collect();
        let parent = &path[..path.rfind('/').ok_or(Errno::PERM)?];
        if !self.is_dir(parent) {
            return Err(Errno::NOENT);
        }
        match parts[..] {
            ["subsystems", name] => {
                if name == nvferry_wire::nqn::DISCOVERY_NQN {
                    return Err(Errno::INVAL);
                }
                self.dir(path);
                self.dir(&format!("{path}/namespaces"));
                self.dir(&format!("{path}/allowed_hosts"));
                let serial = format!("{:020x}", self.next_inode);
                let defaults =
                    [("attr_allow_any_host", "0"), ("attr_serial", serial.as_str()), ("attr_model", "Linux")];
                self.attributes(path, &defaults);
            }
            ["subsystems", _, "namespaces", nsid] => {
                let nsid: u32 = nsid.parse().map_err(|_| Errno::INVAL)?;
                if nsid == 0 || nsid == u32::MAX {
                    return Err(Errno::INVAL);
                }
                self.dir(path);
                let uuid = "00000000-0000-0000-0000-000000000000";
                let names = [("device_uuid", uuid), ("device_nguid", uuid)];
                self.attributes(path, &names);
                self.attributes(path, &[("device_path", "(null)"), ("buffered_io", "0"), ("enable", "0")]);
            }
            ["ports", id] => {
                id.parse::<u16>().map_err(|_| Errno::INVAL)?;
                self.dir(path);
                self.dir(&format!("{path}/subsystems"));
                self.dir(&format!("{path}/referrals"));
                let unset = ["addr_trtype", "addr_adrfam", "addr_traddr", "addr_trsvcid"];
                self.attributes(path, &unset.map(|name| (name, "")));
                self.attributes(path, &[("param_inline_data_size", "-1")]);
            }
            ["hosts", _] => {
                self.dir(path);
                self.attributes(
                    path,
                    &[
                        ("dhchap_key", ""),
                        ("dhchap_ctrl_key", ""),
                        ("dhchap_hash", "hmac(sha256)"),
                        ("dhchap_dhgroup", "null"),
                    ],
                );
            }
            _ => return Err(Errno::PERM),
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) -> Result<(), Errno> {
        if !self.is_dir(path) {
            return Err(Errno::NOENT);
        }
        let parts: Vec<&str> = path.split('/').collect();
        let groups: &[&str] = match parts[..] {
            ["subsystems", _] => &["namespaces", "allowed_hosts"],
            ["ports", _] => &["subsystems", "referrals"],
            ["hosts", _] | ["subsystems", _, "namespaces", _] => &[],
            // Made by the kernel with their parents.
            _ => return Err(Errno::PERM),
        };
        if self.nodes.values().any(|node| matches!(node, Node::Link(_, object) if object == path)) {
            return Err(Errno::BUSY);
        }
        if groups.iter().any(|group| self.children(&format!("{path}/{group}")).next().is_some()) {
            return Err(Errno::NOTEMPTY);
        }
        let prefix = format!("{path}/");
        self.nodes.retain(|known, _| known != path && !known.starts_with(&prefix));
        Ok(())
    }

    fn link(&mut self, object: &str, path: &str) -> Result<(), Errno> {
        if self.nodes.contains_key(path) {
            return Err(Errno::EXIST);
        }
        if !self.is_dir(object) {
            return Err(Errno::NOENT);
        }
        let parent = path[..path.rfind('/').ok_or(Errno::PERM)?].to_owned();
        if !self.is_dir(&parent) {
            return Err(Errno::NOENT);
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["ports", id, "subsystems", _] => {
                if !object.starts_with("subsystems/") {
                    return Err(Errno::INVAL);
                }
                if self.children(&parent).next().is_none() {
                    self.enable_port(&format!("ports/{id}"))?;
                }
            }
            ["subsystems", name, "allowed_hosts", _] => {
                if !object.starts_with("hosts/") || self.get(&format!("subsystems/{name}/attr_allow_any_host")) == "1" {
                    return Err(Errno::INVAL);
                }
            }
            _ => return Err(Errno::PERM),
        }
        self.next_inode += 1;
        self.nodes.insert(path.to_owned(), Node::Link(self.next_inode, object.to_owned()));
        Ok(())
    }

    fn address(&self, port: &str) -> String {
        format!("{}:{}", self.get(&format!("{port}/addr_traddr")), self.get(&format!("{port}/addr_trsvcid")))
    }

    fn is_enabled(&self, port: &str) -> bool {
        self.children(&format!("{port}/subsystems")).next().is_some()
    }

    fn enable_port(&self, port: &str) -> Result<(), Errno> {
        let trtype = self.get(&format!("{port}/addr_trtype"));
        if !["tcp", "loop"].contains(&trtype) {
            // No such transport, or its module is not there.
            return Err(Errno::INVAL);
        }
        if trtype == "loop" {
            return Ok(());
        }
        let address = self.address(port);
        if address.starts_with("192.0.2.") {
            return Err(Errno::ADDRNOTAVAIL);
        }
        let others = self.children("ports").map(|(id, _)| format!("ports/{id}"));
        let mut enabled = others.filter(|other| other != port && self.is_enabled(other));
        if self.taken.contains(&address) || enabled.any(|other| self.address(&other) == address) {
            return Err(Errno::ADDRINUSE);
        }
        Ok(())
    }

    fn names_a_file(&self, namespace: &str) -> bool {
        std::path::Path::new(self.get(&format!("{namespace}/device_path"))).exists()
    }

    fn write(&mut self, path: &str, value: &str) -> Result<(), Errno> {
        match self.nodes.get(path) {
            Some(Node::Attribute(_)) => {}
            Some(_) => return Err(Errno::ISDIR),
            None => return Err(Errno::NOENT),
        }
        let parts: Vec<&str> = path.split('/').collect();
        let valid_bool = ["0", "1"].contains(&value);
        match parts[..] {
            ["ports", id, attribute] => {
                if self.is_enabled(&format!("ports/{id}")) {
                    return Err(Errno::ACCESS);
                }
                let valid = match attribute {
                    "addr_trtype" => ["tcp", "rdma", "loop", "fc"].contains(&value),
                    "addr_adrfam" => ["ipv4", "ipv6", "ib", "fc", "loop"].contains(&value),
                    "param_inline_data_size" => value.parse::<i32>().is_ok(),
                    _ => !value.is_empty(),
                };
                if !valid {
                    return Err(Errno::INVAL);
                }
            }
            ["subsystems", _, "namespaces", _, attribute] => {
                let dir = path[..path.rfind('/').ok_or(Errno::PERM)?].to_owned();
                let enabled = self.get(&format!("{dir}/enable")) == "1";
                match attribute {
                    "enable" if !valid_bool => return Err(Errno::INVAL),
                    "enable" if value == "1" && !self.names_a_file(&dir) => return Err(Errno::NOENT),
                    "enable" => {}
                    "buffered_io" if enabled || !valid_bool => return Err(Errno::INVAL),
                    _ if enabled => return Err(Errno::BUSY),
                    "device_uuid" | "device_nguid" if value.len() != 36 => return Err(Errno::INVAL),
                    _ => {}
                }
            }
            ["subsystems", name, "attr_allow_any_host"] => {
                let hosts = self.children(&format!("subsystems/{name}/allowed_hosts")).next().is_some();
                if !valid_bool || (value == "1" && hosts) {
                    return Err(Errno::INVAL);
                }
            }
            ["subsystems", _, "attr_serial"] if value.is_empty() || value.len() > 20 => return Err(Errno::INVAL),
            ["subsystems", _, "attr_model"] if value.is_empty() || value.len() > 40 => return Err(Errno::INVAL),
            _ => {}
        }
        self.nodes.insert(path.to_owned(), Node::Attribute(value.to_owned()));
        Ok(())
    }
}

impl Tree for Fake {
    fn read(&self, path: &str) -> io::Result<String> {
        let state = self.state();
        state.live()?;
        match state.nodes.get(path) {
            Some(Node::Attribute(value)) => Ok(value.clone()),
            Some(_) => Err(err(Errno::ISDIR)),
            None => Err(err(Errno::NOENT)),
        }
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let (held, changed) = &*self.held;
        drop(changed.wait_while(held.lock().unwrap(), |held| held.as_deref() == Some(path)).unwrap());
        self.change(|state| state.write(path, value))
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        self.change(|state| state.make(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        self.change(|state| state.remove(path))
    }

    fn link(&self, object: &str, path: &str) -> io::Result<()> {
        self.change(|state| state.link(object, path))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.change(|state| match state.nodes.get(path) {
            Some(Node::Link(..)) => {
                state.nodes.remove(path);
                Ok(())
            }
            Some(_) => Err(Errno::PERM),
            None => Err(Errno::NOENT),
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        state.live()?;
        if !state.is_dir(path) {
            return Err(err(Errno::NOENT));
        }
        Ok(state.children(path).map(|(name, _)| name.to_owned()).collect())
    }

    fn inode(&self, path: &str) -> io::Result<u64> {
        let state = self.state();
        state.live()?;
        match state.nodes.get(path) {
            Some(Node::Dir(inode) | Node::Link(inode, _)) => Ok(*inode),
            Some(Node::Attribute(_)) => Ok(0),
            None => Err(err(Errno::NOENT)),
        }
    }
}
