//! The difference between what is and what should be, as steps. Nothing is read or changed here.

use super::error::NvmetError;
use super::observe::{Observed, ObservedNamespace, ObservedSubsystem, Owner};
use super::paths;
use super::step::Step;
use crate::desired::{AllowedHosts, FNV_BASIS, NamespaceSpec, TargetSpec, fnv1a_64};
use nvferry_wire::trid::TrType;
use nvferry_wire::{HostId, Nqn, TransportId};
use std::net::IpAddr;

/// What can be chosen about a port besides its address; `None` leaves it to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortOptions {
    /// Bytes of data that fit into a command capsule (`param_inline_data_size`).
    pub inline_data_bytes: Option<u32>,
    /// The most entries of a queue (`param_max_queue_size`).
    pub max_queue_entries: Option<u16>,
}

/// The steps from what is to what should be; none where nothing is to do.
///
/// Order: the subsystem and who may connect, its namespaces, and the port last, so that hosts never see half of it.
///
/// # Errors
/// What is there but not ours stands in the way, or nvmet cannot have it.
pub fn plan(observed: &Observed, spec: &TargetSpec, options: PortOptions) -> Result<Vec<Step>, NvmetError> {
    let nqn = &spec.subsystem;
    name_fits(nqn)?;
    let path = paths::subsystem(nqn);
    let mut steps = Vec::new();
    let there = match &observed.subsystem {
        Some(subsystem) if subsystem.owner == Owner::Foreign => {
            return Err(NvmetError::Foreign { subsystem: nqn.clone() });
        }
        Some(subsystem) => Some(subsystem),
        None => {
            steps.push(Step::make(&path));
            None
        }
    };
    if there.and_then(|it| it.serial.as_deref()) != Some(spec.serial.trim()) && !spec.serial.trim().is_empty() {
        steps.push(Step::set_if_there(format!("{path}/attr_serial"), &spec.serial));
    }
    if there.and_then(|it| it.model.as_deref()) != Some(spec.model.trim()) && !spec.model.trim().is_empty() {
        steps.push(Step::set_if_there(format!("{path}/attr_model"), &spec.model));
    }
    hosts(observed, there, spec, &mut steps)?;
    for namespace in &spec.namespaces {
        let known = there.and_then(|subsystem| subsystem.namespaces.get(&namespace.nsid.0));
        steps.extend(add_namespace(nqn, namespace, known));
    }
    for (nsid, namespace) in there.iter().flat_map(|subsystem| &subsystem.namespaces) {
        if !spec.namespaces.iter().any(|wanted| wanted.nsid.0 == *nsid) {
            steps.extend(remove_namespace(&format!("{path}/namespaces/{nsid}"), namespace.enabled));
        }
    }
    port(observed, spec, options, &mut steps)?;
    Ok(steps)
}

fn name_fits(nqn: &Nqn) -> Result<(), NvmetError> {
    let name = || nqn.clone();
    if nqn.is_discovery() {
        return Err(NvmetError::Name { name: name(), why: "that name belongs to discovery services; choose another" });
    }
    if nqn.as_str().contains('/') {
        let why = "there it is the name of a directory, which has no /; choose another name with subnqn=";
        return Err(NvmetError::Name { name: name(), why });
    }
    Ok(())
}

fn hosts(
    observed: &Observed,
    there: Option<&ObservedSubsystem>,
    spec: &TargetSpec,
    steps: &mut Vec<Step>,
) -> Result<(), NvmetError> {
    let nqn = &spec.subsystem;
    let attribute = format!("{}/attr_allow_any_host", paths::subsystem(nqn));
    let wanted = match &spec.allowed_hosts {
        AllowedHosts::Any => &[][..],
        AllowedHosts::Only(hosts) => hosts,
    };
    // nvmet knows either a list or everybody: a list ends before everybody may come, and the other way round.
    let linked = there.iter().flat_map(|subsystem| &subsystem.allowed_hosts);
    for host in linked.filter(|host| !wanted.iter().any(|it| it.nqn.as_str() == *host)) {
        steps.push(Step::Unlink { path: format!("{}/allowed_hosts/{host}", paths::subsystem(nqn)) });
    }
    let any = spec.allowed_hosts == AllowedHosts::Any;
    if there.is_none_or(|subsystem| subsystem.allow_any_host != any) {
        steps.push(Step::set(attribute, if any { "1" } else { "0" }));
    }
    for host in wanted {
        name_fits(&host.nqn)?;
        if there.is_some_and(|subsystem| subsystem.allowed_hosts.contains(host.nqn.as_str())) {
            continue;
        }
        let path = paths::host(&host.nqn);
        match observed.hosts.get(host.nqn.as_str()) {
            None => steps.push(Step::make(&path)),
            Some(_) if host.auth.is_some() => return Err(NvmetError::HostTaken { host: host.nqn.clone() }),
            Some(_) => {}
        }
        if let Some(auth) = &host.auth {
            steps.push(Step::set(format!("{path}/dhchap_hash"), auth.hash.kernel_name()));
            steps.push(Step::set(format!("{path}/dhchap_dhgroup"), auth.group.kernel_name()));
            steps.push(Step::set(format!("{path}/dhchap_key"), auth.secret.expose().as_str()));
            if let Some(secret) = &auth.controller_secret {
                steps.push(Step::set(format!("{path}/dhchap_ctrl_key"), secret.expose().as_str()));
            }
        }
        steps.push(Step::link(path, paths::allowed_host(nqn, &host.nqn)));
    }
    Ok(())
}

/// The steps that offer a namespace; `known` is what has its id now.
#[must_use]
pub fn add_namespace(nqn: &Nqn, spec: &NamespaceSpec, known: Option<&ObservedNamespace>) -> Vec<Step> {
    let path = paths::namespace(nqn, spec.nsid);
    let device_path = spec.path.to_string_lossy().into_owned();
    let device_uuid = HostId(spec.uuid(nqn)).to_string();
    let buffered_io = !spec.direct;
    let mut steps = Vec::new();
    match known {
        None => steps.push(Step::make(&path)),
        Some(known) => {
            let same = known.device_path == device_path
                && known.device_uuid.eq_ignore_ascii_case(&device_uuid)
                && known.device_nguid.eq_ignore_ascii_case(&device_uuid)
                && known.buffered_io == buffered_io;
            if same && known.enabled {
                return steps;
            }
            // None of these can change under hosts that use it.
            if known.enabled {
                steps.push(Step::set(format!("{path}/enable"), "0"));
            }
        }
    }
    steps.push(Step::set(format!("{path}/device_path"), device_path));
    // Hosts look at either; what Identify Namespace has is the NGUID.
    steps.push(Step::set(format!("{path}/device_nguid"), device_uuid.clone()));
    steps.push(Step::set(format!("{path}/device_uuid"), device_uuid));
    steps.push(Step::set(format!("{path}/buffered_io"), if buffered_io { "1" } else { "0" }));
    steps.push(Step::set(format!("{path}/enable"), "1"));
    steps
}

/// The steps that take a namespace away.
#[must_use]
pub fn remove_namespace(path: &str, enabled: bool) -> Vec<Step> {
    let disable = enabled.then(|| Step::set(format!("{path}/enable"), "0"));
    disable.into_iter().chain([Step::Remove { path: path.to_owned() }]).collect()
}

fn port(observed: &Observed, spec: &TargetSpec, options: PortOptions, steps: &mut Vec<Step>) -> Result<(), NvmetError> {
    let at = &spec.transport;
    let nqn = &spec.subsystem;
    let mut same = None;
    for (&id, port) in &observed.ports {
        let listens_there = listens_at(at, &port.trtype, &port.traddr, &port.trsvcid);
        match port.owner {
            Owner::Us if listens_there => same = Some((id, port)),
            // What we had elsewhere ends.
            Owner::Us => {
                if port.subsystems.contains(nqn.as_str()) {
                    steps.push(Step::Unlink { path: paths::port_link(id, nqn) });
                }
                if port.subsystems.iter().all(|linked| linked == nqn.as_str()) {
                    steps.push(Step::Remove { path: paths::port(id) });
                }
            }
            // The kernel has one port for an address. To hang our subsystem on another's port would bind our life to
            // its owner's, so every engine has a port of its own.
            owner if listens_there => {
                let pid = if let Owner::Engine(pid) = owner { pid } else { None };
                return Err(NvmetError::PortTaken { transport: at.clone(), port: id, pid });
            }
            _ => {}
        }
    }
    let id = match same {
        Some((_, port)) if port.subsystems.contains(nqn.as_str()) => return Ok(()),
        Some((id, _)) => id,
        None => {
            let id = free_id(observed, nqn);
            let path = paths::port(id);
            steps.push(Step::make(&path));
            for (attribute, value) in address(at) {
                steps.push(Step::set(format!("{path}/{attribute}"), value));
            }
            if let Some(bytes) = options.inline_data_bytes {
                steps.push(Step::set_if_there(format!("{path}/param_inline_data_size"), bytes.to_string()));
            }
            if let Some(entries) = options.max_queue_entries {
                steps.push(Step::set_if_there(format!("{path}/param_max_queue_size"), entries.to_string()));
            }
            id
        }
    };
    steps.push(Step::link(paths::subsystem(nqn), paths::port_link(id, nqn)));
    Ok(())
}

fn address(at: &TransportId) -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("addr_trtype", at.trtype.to_string()),
        ("addr_adrfam", if at.trtype == TrType::Loop { "loop".to_owned() } else { at.adrfam().to_string() }),
        ("addr_traddr", at.traddr.to_string()),
    ];
    if at.trtype != TrType::Loop {
        attributes.push(("addr_trsvcid", at.trsvcid.to_string()));
    }
    attributes
}

fn listens_at(at: &TransportId, trtype: &str, traddr: &str, trsvcid: &str) -> bool {
    let service = at.trtype == TrType::Loop || trsvcid.parse() == Ok(at.trsvcid);
    service && trtype == at.trtype.to_string() && traddr.parse::<IpAddr>().is_ok_and(|address| address == at.traddr)
}

/// A port id that nobody has. People and tools count from 1; ours begin far above, in a place that follows from the
/// subsystem's name, so that two programs seldom want the same one at the same time.
fn free_id(observed: &Observed, nqn: &Nqn) -> u16 {
    let start = (fnv1a_64(nqn.as_str().as_bytes(), FNV_BASIS) % 0x4000) as u16;
    let ids = (0..0x4000).map(|step| 0x4000 + (start + step) % 0x4000);
    let mut free = ids.chain(1..0x4000).chain(0x8000..=u16::MAX).filter(|id| !observed.ports.contains_key(id));
    // Of 65535 ids one is free: nvmet would not hold that many.
    free.next().unwrap_or(u16::MAX)
}
