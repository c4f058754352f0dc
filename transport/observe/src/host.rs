//! The figures of the host side: what goes to and from other engines' targets.
//!
//! One label, `target`: its address and subsystem, bounded by the segments that are open and a number of those that
//! were.

use crate::families::{Families, Labels, Of, bytes, count, seconds};
use nvferry_io::tally::LatencyTotals;
use nvferry_nvmeof::{AttachmentStatus, ConnectionState, TargetTotals, TransportStatus};
use std::collections::BTreeMap;
use std::fmt;

fn of(target: &Option<String>) -> Labels {
    vec![("target", target.clone().unwrap_or_else(|| "others".to_owned()))]
}

fn with(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, value.to_owned()));
    labels
}

pub(crate) fn encode(families: &mut Families<'_>, all: &[TransportStatus]) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let mut totals: BTreeMap<&Option<String>, TargetTotals> = BTreeMap::new();
    for (target, more) in all.iter().flat_map(|transport| &transport.targets) {
        *totals.entry(target).or_default() += *more;
    }
    encode_totals(families, &totals)?;
    encode_now(families, all)?;
    let sum = |value: fn(&TransportStatus) -> u64| [(Vec::new(), all.iter().map(value).sum::<u64>())];
    families.gauges(count("nvferry_host_workers", "Worker threads"), sum(|it| it.workers as u64))?;
    families.counters(
        count("nvferry_host_driven_waits", "Waits of callers that drove a worker themselves meanwhile"),
        sum(|it| it.driven_waits),
    )?;
    families.gauges(
        bytes("nvferry_host_bounce_pool", "Memory for bounce buffers, by whether operations use it"),
        [
            (vec![("state", "used".to_owned())], all.iter().map(|it| it.bounce_in_use_bytes).sum()),
            (vec![("state", "free".to_owned())], all.iter().map(|it| it.bounce_free_bytes).sum()),
        ],
    )
}

fn encode_totals(families: &mut Families<'_>, totals: &BTreeMap<&Option<String>, TargetTotals>) -> fmt::Result {
    let counters: [Of<TargetTotals>; 10] = [
        (bytes("nvferry_host_read", "Bytes read from a target"), |it| it.counters.read_bytes),
        (bytes("nvferry_host_written", "Bytes written to a target"), |it| it.counters.written_bytes),
        (bytes("nvferry_host_bounced", "Bytes that went through a bounce buffer"), |it| it.counters.bounced_bytes),
        (count("nvferry_host_retries", "Operations tried again"), |it| it.counters.retries),
        (count("nvferry_host_digest_errors", "Header and data digests that did not match"), |it| {
            it.counters.digest_errors
        }),
        (count("nvferry_host_reconnects", "Times that a target was found again after its connection was lost"), |it| {
            it.reconnects
        }),
        (count("nvferry_host_queue_connects", "I/O queues that were connected"), |it| it.counters.connects),
        (count("nvferry_host_queue_disconnects", "I/O queues whose connection ended, or was not made"), |it| {
            it.counters.disconnects
        }),
        (count("nvferry_host_send_calls", "Calls that sent to a socket"), |it| it.counters.sends),
        (count("nvferry_host_receive_calls", "Calls that received from a socket"), |it| it.counters.receives),
    ];
    for (family, value) in counters {
        families.counters(family, totals.iter().map(|(target, it)| (of(target), value(it))))?;
    }
    families.counters(
        count("nvferry_host_slices", "Slices (parts of requests) that ended, by how"),
        totals.iter().flat_map(|(target, it)| {
            [
                ("read", "success", it.counters.reads),
                ("write", "success", it.counters.writes),
                ("any", "timeout", it.counters.timeouts),
                ("any", "failure", it.counters.failures),
            ]
            .map(|(operation, status, count)| (with(with(of(target), "operation", operation), "status", status), count))
        }),
    )?;
    let latencies: [Of<TargetTotals, [LatencyTotals; 2]>; 2] = [
        (
            seconds(
                "nvferry_host_slice_duration",
                "Time from the submit of a request to the end of a slice that was moved",
            ),
            |it| it.slices,
        ),
        (
            seconds(
                "nvferry_host_operation_duration",
                "Time from beginning a slice's operation on its device to its end",
            ),
            |it| it.operations,
        ),
    ];
    for (family, value) in latencies {
        families.latencies(
            family,
            totals.iter().flat_map(|(target, it)| {
                let measured = ["read", "write"].into_iter().zip(value(it)).filter(|(_, totals)| totals.count() > 0);
                measured.map(|(operation, totals)| (with(of(target), "operation", operation), totals))
            }),
        )?;
    }
    Ok(())
}

fn encode_now(families: &mut Families<'_>, all: &[TransportStatus]) -> fmt::Result {
    // A target may be attached more than once, and is one series.
    let mut now: BTreeMap<Option<String>, [u64; 4]> = BTreeMap::new();
    let values = |it: &AttachmentStatus| {
        [u64::from(it.state == ConnectionState::Connected), it.in_flight, it.waiting, it.queues as u64]
    };
    for attachment in all.iter().flat_map(|transport| &transport.attachments) {
        let sums = now.entry(Some(attachment.target.clone())).or_default();
        sums.iter_mut().zip(values(attachment)).for_each(|(sum, value)| *sum += value);
    }
    let families_now = [
        count("nvferry_host_connected", "Segments of a target whose connection stands"),
        count("nvferry_host_operations_in_flight", "Operations under way"),
        count("nvferry_host_slices_waiting", "Slices, or parts of them, that wait for their turn"),
        count("nvferry_host_queues", "I/O queues that a target grants"),
    ];
    for (at, family) in families_now.into_iter().enumerate() {
        families.gauges(family, now.iter().map(|(target, sums)| (of(target), sums[at])))?;
    }
    Ok(())
}
