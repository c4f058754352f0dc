//! The figures of targets.
//!
//! Each file, and each host that is told apart, has labels of its own: both are bounded, files by the target, hosts by
//! the list of allowed hosts or, where there is none, by a number. Series of a driver that does not count (the kernel's)
//! are left out: a zero would be a lie.

use crate::families::{Families, Labels, Of, bytes, count, seconds};
use nvferry_target::driver::FaultTotals;
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
fn commands(whose: &Labels, totals: &IoTotals) -> Vec<(Labels, u64)> {
    let row = |kind, status, count| (with(with(whose.clone(), "operation", operation(kind)), "status", status), count);
    let ended_well =
        [(CommandKind::Read, totals.reads), (CommandKind::Write, totals.writes), (CommandKind::Flush, totals.flushes)];
    let mut rows: Vec<_> = ended_well.map(|(kind, count)| row(kind, "success", count)).into();
    for kind in CommandKind::ALL {
        for class in ErrorClass::ALL {
            let count = totals.errors.get(kind, class);
            rows.extend((count > 0).then(|| row(kind, status(class), count)));
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
    families.moments(
        seconds("nvferry_target_start_time", "When the target was started, since 1970"),
        all.iter().map(|target| (of_target(target), target.since)),
    )?;
    let gauges: [Of<TargetStatus>; 2] = [
        (count("nvferry_target_draining", "1 while the target is being stopped and lets commands end"), |it| {
            it.draining.into()
        }),
        (count("nvferry_target_files", "Files offered"), |it| it.namespaces.len() as u64),
    ];
    for (family, value) in gauges {
        families.gauges(family, all.iter().map(|target| (of_target(target), value(target))))?;
    }
    families.gauges(
        count("nvferry_target_controllers", "Controllers of hosts that are connected"),
        all.iter().filter_map(|target| Some((of_target(target), target.controllers.as_ref()?.len() as u64))),
    )
}

fn encode_files(families: &mut Families<'_>, counting: &[&TargetStatus]) -> fmt::Result {
    let files = || counting.iter().flat_map(|target| target.namespaces.iter().map(move |file| (*target, file)));
    let gauges: [Of<NamespaceStatus>; 3] = [
        (bytes("nvferry_target_file_size", "Bytes of a file that are offered"), |file| file.info.size_bytes),
        (count("nvferry_target_commands_in_flight", "I/O commands taken and not ended"), |file| file.in_flight),
        (
            count("nvferry_target_commands_waiting", "Those of them that wait for a buffer or for the I/O engine"),
            |file| file.waiting,
        ),
    ];
    for (family, value) in gauges {
        families.gauges(family, files().map(|(target, file)| (of_file(target, file), value(file))))?;
    }
    let counters: [Of<NamespaceStatus>; 2] = [
        (bytes("nvferry_target_read", "Bytes of a file sent to hosts, by commands that ended well"), |file| {
            file.totals.read_bytes
        }),
        (bytes("nvferry_target_written", "Bytes of a file taken from hosts, by commands that ended well"), |file| {
            file.totals.written_bytes
        }),
    ];
    for (family, value) in counters {
        families.counters(family, files().map(|(target, file)| (of_file(target, file), value(file))))?;
    }
    families.counters(
        count("nvferry_target_commands", "I/O commands that ended, by what they did and how they ended"),
        files().flat_map(|(target, file)| commands(&of_file(target, file), &file.totals)),
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
    let counters: [Of<HostStatus>; 3] = [
        (count("nvferry_target_host_connects", "Controllers that a host was given"), |host| host.connects),
        (bytes("nvferry_target_host_read", "Bytes sent to a host"), |host| host.totals.read_bytes),
        (bytes("nvferry_target_host_written", "Bytes taken from a host"), |host| host.totals.written_bytes),
    ];
    for (family, value) in counters {
        families.counters(family, hosts().map(|(target, host)| (of_host(target, host), value(host))))?;
    }
    families.counters(
        count("nvferry_target_host_commands", "I/O commands of a host that ended, by what they did and how they ended"),
        hosts().flat_map(|(target, host)| commands(&of_host(target, host), &host.totals)),
    )
}

fn encode_connections(families: &mut Families<'_>, counting: &[&TargetStatus]) -> fmt::Result {
    families.gauges(
        count("nvferry_target_connections", "Open connections, those included that are no queue yet"),
        counting.iter().map(|target| (of_target(target), target.connections as u64)),
    )?;
    let faults: [Of<FaultTotals>; 7] = [
        (count("nvferry_target_accepted_connections", "Connections accepted"), |it| it.accepted_connections),
        (
            count("nvferry_target_refused_connections", "Connections refused or closed because there were too many"),
            |it| it.refused_connections,
        ),
        (
            count(
                "nvferry_target_created_controllers",
                "Controllers that hosts were given; more than hosts: they reconnected",
            ),
            |it| it.created_controllers,
        ),
        (
            count("nvferry_target_refused_hosts", "Hosts refused: not on the list, or they did not prove who they are"),
            |it| it.refused_hosts,
        ),
        (count("nvferry_target_protocol_errors", "Connections ended because of a breach of the protocol"), |it| {
            it.protocol_errors
        }),
        (count("nvferry_target_digest_errors", "Header and data digests that did not match"), |it| it.digest_errors),
        (count("nvferry_target_timeouts", "Connections ended because the host was silent or too slow"), |it| {
            it.timeouts
        }),
    ];
    for (family, value) in faults {
        families.counters(family, counting.iter().map(|target| (of_target(target), value(&target.faults))))?;
    }
    families.gauges(
        bytes("nvferry_target_pool", "Memory for data, by whether commands use it"),
        counting.iter().flat_map(|target| {
            let states = [("used", target.pools.in_use_bytes), ("free", target.pools.free_bytes)];
            states.map(|(state, bytes)| (with(of_target(target), "state", state), bytes))
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Page;
    use nvferry_target::driver::{FaultTotals, PoolTotals};
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, text};
    use prometheus_client::registry::Registry;
    use std::time::SystemTime;

    /// The kernel's target, of whose controllers there is what debugfs tells, or nothing.
    #[derive(Debug)]
    struct Kernel(TargetStatus);

    impl Collector for Kernel {
        fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
            encode(&mut Families(encoder), std::slice::from_ref(&self.0))
        }
    }

    fn told(controllers: Option<Vec<nvferry_target::ControllerStatus>>) -> (String, Page) {
        let status = TargetStatus {
            address: "trtype=tcp traddr=10.0.0.7 trsvcid=4420 subnqn=nqn.2016-06.io.mc:x".parse().unwrap(),
            since: SystemTime::now(),
            draining: false,
            accounts: false,
            connections: 0,
            allowed_hosts: None,
            controllers,
            namespaces: Vec::new(),
            hosts: Vec::new(),
            pools: PoolTotals::default(),
            reactors: Vec::new(),
            faults: FaultTotals::default(),
        };
        let page = Page::new(std::slice::from_ref(&status), &[]);
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(Kernel(status)));
        text::encode(&mut text, &registry).unwrap();
        (text, page)
    }

    #[test]
    fn what_a_kernel_does_not_tell_is_left_out_and_is_not_zero() {
        let controllers = |text: &str| {
            text.lines().filter(|line| line.starts_with("nvferry_target_controllers{")).map(str::to_owned).collect()
        };
        let (metrics, page) = told(Some(Vec::new()));
        let lines: Vec<String> = controllers(&metrics);
        assert!(lines.len() == 1 && lines[0].ends_with(" 0"), "{metrics}");
        assert_eq!(page.targets[0].hosts, Some(Vec::new()));

        let (metrics, page) = told(None);
        assert_eq!(controllers(&metrics), Vec::<String>::new(), "{metrics}");
        assert_eq!(page.targets[0].hosts, None);
        // What every target knows is there in both.
        assert!(metrics.contains("nvferry_target_files{"), "{metrics}");
        for counted in ["connections", "pool", "_total", "refused", "in_flight"] {
            assert!(!metrics.lines().any(|line| !line.starts_with('#') && line.contains(counted)), "{metrics}");
        }
    }
}
