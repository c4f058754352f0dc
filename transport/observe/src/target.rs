//! The figures of targets.
//!
//! Each file, and each host that is told apart, has labels of its own: both are bounded, files by the target, hosts by
//! the list of allowed hosts or, where there is none, by a number. Series of a driver that does not count (the kernel's)
//! are left out: a zero would be a lie.

use crate::families::{Families, Labels, bytes, count, seconds};
use nvferry_target::{CommandKind, ErrorClass, HostStatus, IoTotals, NamespaceStatus, TargetStatus};
use std::fmt;

fn of_target(target: &TargetStatus) -> Labels {
    let subsystem = target.address.subnqn.as_ref().map(ToString::to_string).unwrap_or_default();
    vec![("subsystem", subsystem)]
}

fn of_file(target: &TargetStatus, file: &NamespaceStatus) -> Labels {
    let mut labels = of_target(target);
    labels.push(("nsid", file.info.nsid.0.to_string()));
    labels.push(("file", file.info.path.to_string_lossy().into_owned()));
    labels
}

fn of_host(target: &TargetStatus, host: &HostStatus) -> Labels {
    let mut labels = of_target(target);
    labels.push(("host", host.host.as_ref().map_or_else(|| "others".to_owned(), ToString::to_string)));
    labels
}

fn with(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

/// How a kind of command is called in labels.
pub(crate) fn operation(kind: CommandKind) -> &'static str {
    match kind {
        CommandKind::Read => "read",
        CommandKind::Write => "write",
        CommandKind::Flush => "flush",
        CommandKind::Other => "other",
    }
}

fn status(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Media => "media_error",
        ErrorClass::Transient => "transient_error",
        ErrorClass::Refused => "refused",
    }
}

/// Commands by what they did and how they ended. Those that failed appear once there is one.
fn commands(totals: &IoTotals) -> Vec<(&'static str, &'static str, u64)> {
    let ended_well = [("read", totals.reads), ("write", totals.writes), ("flush", totals.flushes)];
    let mut rows: Vec<_> = ended_well.map(|(operation, count)| (operation, "success", count)).into();
    for kind in CommandKind::ALL {
        for class in ErrorClass::ALL {
            let count = totals.errors.get(kind, class);
            rows.extend((count > 0).then_some((operation(kind), status(class), count)));
        }
    }
    rows
}

pub(crate) fn encode(families: &mut Families<'_>, all: &[TargetStatus]) -> fmt::Result {
    let counting: Vec<&TargetStatus> = all.iter().filter(|target| target.accounts).collect();
    encode_state(families, all)?;
    encode_files(families, &counting)?;
    encode_hosts(families, &counting)?;
    encode_connections(families, &counting)
}

fn encode_state(families: &mut Families<'_>, all: &[TargetStatus]) -> fmt::Result {
    let each = |value: fn(&TargetStatus) -> u64| all.iter().map(move |target| (of_target(target), value(target)));
    families.moments(
        seconds("nvferry_target_start_time", "When the target was started, since 1970"),
        all.iter().map(|target| (of_target(target), target.since)),
    )?;
    families.gauges(
        count("nvferry_target_draining", "1 while the target is being stopped and lets commands end"),
        each(|target| target.draining.into()),
    )?;
    families.gauges(count("nvferry_target_files", "Files offered"), each(|target| target.namespaces.len() as u64))?;
    families.gauges(
        count("nvferry_target_controllers", "Controllers of hosts that are connected"),
        each(|target| target.controllers.len() as u64),
    )
}

fn encode_files(families: &mut Families<'_>, counting: &[&TargetStatus]) -> fmt::Result {
    let files = || counting.iter().flat_map(|target| target.namespaces.iter().map(move |file| (*target, file)));
    let each = |value: fn(&NamespaceStatus) -> u64| files().map(move |(it, file)| (of_file(it, file), value(file)));
    families.gauges(
        bytes("nvferry_target_file_size", "Bytes of a file that are offered"),
        each(|file| file.info.size_bytes),
    )?;
    families.counters(
        bytes("nvferry_target_read", "Bytes of a file sent to hosts, by commands that ended well"),
        each(|file| file.totals.read_bytes),
    )?;
    families.counters(
        bytes("nvferry_target_written", "Bytes of a file taken from hosts, by commands that ended well"),
        each(|file| file.totals.written_bytes),
    )?;
    families.counters(
        count("nvferry_target_commands", "I/O commands that ended, by what they did and how they ended"),
        files().flat_map(|(target, file)| {
            commands(&file.totals).into_iter().map(move |(operation, status, count)| {
                (with(with(of_file(target, file), "operation", operation), "status", status), count)
            })
        }),
    )?;
    families.gauges(
        count("nvferry_target_commands_in_flight", "I/O commands taken and not ended"),
        each(|file| file.in_flight),
    )?;
    families.gauges(
        count("nvferry_target_commands_waiting", "Those of them that wait for a buffer or for the I/O engine"),
        each(|file| file.waiting),
    )?;
    families.latencies(
        seconds("nvferry_target_command_duration", "Time from taking an I/O command to ending it"),
        files().flat_map(|(target, file)| {
            let measured = file.latencies.iter().filter(|(_, totals)| totals.count() > 0);
            measured.map(move |(kind, totals)| (with(of_file(target, file), "operation", operation(*kind)), *totals))
        }),
    )
}

fn encode_hosts(families: &mut Families<'_>, counting: &[&TargetStatus]) -> fmt::Result {
    let hosts = || counting.iter().flat_map(|target| target.hosts.iter().map(move |host| (*target, host)));
    let each = |value: fn(&HostStatus) -> u64| hosts().map(move |(it, host)| (of_host(it, host), value(host)));
    families.counters(
        count("nvferry_target_host_connects", "Controllers that a host was given"),
        each(|host| host.connects),
    )?;
    families
        .counters(bytes("nvferry_target_host_read", "Bytes sent to a host"), each(|host| host.totals.read_bytes))?;
    families.counters(
        bytes("nvferry_target_host_written", "Bytes taken from a host"),
        each(|host| host.totals.written_bytes),
    )?;
    families.counters(
        count("nvferry_target_host_commands", "I/O commands of a host that ended, by what they did and how they ended"),
        hosts().flat_map(|(target, host)| {
            commands(&host.totals).into_iter().map(move |(operation, status, count)| {
                (with(with(of_host(target, host), "operation", operation), "status", status), count)
            })
        }),
    )
}

fn encode_connections(families: &mut Families<'_>, counting: &[&TargetStatus]) -> fmt::Result {
    let each = |value: fn(&TargetStatus) -> u64| counting.iter().map(move |target| (of_target(target), value(target)));
    families.gauges(
        count("nvferry_target_connections", "Open connections, those included that are no queue yet"),
        each(|target| target.connections as u64),
    )?;
    families.counters(
        count("nvferry_target_accepted_connections", "Connections accepted"),
        each(|target| target.faults.accepted_connections),
    )?;
    families.counters(
        count("nvferry_target_refused_connections", "Connections closed at once because there were too many"),
        each(|target| target.faults.refused_connections),
    )?;
    families.counters(
        count(
            "nvferry_target_created_controllers",
            "Controllers that hosts were given; more than hosts: they reconnected",
        ),
        each(|target| target.faults.created_controllers),
    )?;
    families.counters(
        count("nvferry_target_refused_hosts", "Hosts refused: not on the list, or they did not prove who they are"),
        each(|target| target.faults.refused_hosts),
    )?;
    families.counters(
        count("nvferry_target_protocol_errors", "Connections ended because of a breach of the protocol"),
        each(|target| target.faults.protocol_errors),
    )?;
    families.counters(
        count("nvferry_target_digest_errors", "Header and data digests that did not match"),
        each(|target| target.faults.digest_errors),
    )?;
    families.counters(
        count("nvferry_target_timeouts", "Connections ended because the host was silent or too slow"),
        each(|target| target.faults.timeouts),
    )?;
    families.gauges(
        bytes("nvferry_target_pool", "Memory for data, by whether commands use it"),
        counting.iter().flat_map(|target| {
            let states = [("used", target.pools.in_use_bytes), ("free", target.pools.free_bytes)];
            states.map(|(state, bytes)| (with(of_target(target), "state", state), bytes))
        }),
    )
}
