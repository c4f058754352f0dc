//! What a running target does now: its status page, fetched over HTTP, as tables or as JSON.

use crate::cli::StatusArgs;
use crate::output::{printable, say, size, table};
use crate::segment::subnqn;
use anyhow::{Context, Result, bail};
use nvferry_engine::SegmentDesc;
use nvferry_observe::page::{File, Host, Io, Page, Target};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// For one look at a page.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same beside other things that were asked for.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// The longest page that is read: thousands of files and hosts.
const MAX_PAGE_BYTES: u64 = 64 << 20;

pub(crate) fn run(args: &StatusArgs) -> Result<()> {
    let asked = || format!("cannot ask {} what it does", args.metrics_listen);
    let text = fetch(&args.metrics_listen, PATIENCE).with_context(asked)?;
    if args.json {
        return say(text.trim_end());
    }
    let page = read(&text).with_context(asked)?;
    let (mut page, mut before) = (page, None);
    if args.interval > 0 {
        let begun = Instant::now();
        std::thread::sleep(Duration::from_secs(args.interval));
        let later = read(&fetch(&args.metrics_listen, PATIENCE).with_context(asked)?).with_context(asked)?;
        before = Some((std::mem::replace(&mut page, later), begun.elapsed()));
    }
    if page.targets.is_empty() {
        return say("it offers nothing");
    }
    let shown: Vec<String> = page
        .targets
        .iter()
        .map(|target| {
            let then = before.as_ref().and_then(|(page, time)| Some((target_of(page, &target.subnqn)?, *time)));
            show(target, then)
        })
        .collect();
    say(&shown.join("\n\n"))
}

/// What the target of a published segment does now, or why that is not known.
pub(crate) fn of_segment(url: &str, desc: &SegmentDesc) -> String {
    let told = || -> Result<String> {
        let address = url.strip_prefix("http://").and_then(|url| url.strip_suffix("/status"));
        let address = address.context("it is no such address")?;
        let begun = Instant::now();
        let before = read(&fetch(address, SHORT_PATIENCE)?)?;
        std::thread::sleep(Duration::from_secs(1));
        let now = read(&fetch(address, SHORT_PATIENCE)?)?;
        let nqn = subnqn(desc).unwrap_or_default();
        let target = target_of(&now, nqn).context("it offers something else now")?;
        Ok(show(target, target_of(&before, nqn).map(|before| (before, begun.elapsed()))))
    };
    told().unwrap_or_else(|error| format!("what it does now is told at {}, but: {error:#}", printable(url)))
}

fn target_of<'a>(page: &'a Page, subnqn: &str) -> Option<&'a Target> {
    page.targets.iter().find(|target| target.subnqn == subnqn)
}

fn read(text: &str) -> Result<Page> {
    serde_json::from_str(text).context("its answer is no status page")
}

/// Fetches the page.
fn fetch(address: &str, patience: Duration) -> Result<String> {
    let until = Instant::now() + patience;
    let mut failed = None;
    for socket in address.to_socket_addrs().context("it is no address such as 127.0.0.1:9420")? {
        match fetch_from(socket, until) {
            Ok(answer) => return body(&answer),
            Err(error) => failed = Some(error),
        }
    }
    let error = failed.context("the name has no address")?;
    let hint = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "; is a target running with --metrics-listen?",
        _ => "",
    };
    bail!("{error}{hint}")
}

fn fetch_from(socket: SocketAddr, until: Instant) -> std::io::Result<Vec<u8>> {
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let left = || until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(late);
    let mut stream = TcpStream::connect_timeout(&socket, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET /status HTTP/1.1\r\nhost: {socket}\r\nconnection: close\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > MAX_PAGE_BYTES {
            return Err(std::io::Error::other("its answer does not end"));
        }
    }
}

fn body(answer: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(answer).context("its answer is no text")?;
    let (head, body) = text.split_once("\r\n\r\n").context("its answer is not HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some(status) => {
            bail!(
                "it answered with HTTP status {}; is that the address of a target's --metrics-listen?",
                printable(status)
            )
        }
        None => bail!("its answer is not HTTP"),
    }
}

/// Who may connect.
fn access(target: &Target) -> String {
    let Some(hosts) = &target.allowed_hosts else { return "every host may connect".into() };
    let with_secret = hosts.iter().filter(|host| host.has_secret).count();
    match hosts.len() {
        0 => "no host may connect".into(),
        some => format!("hosts that may connect: {some}, of which {with_secret} have a secret"),
    }
}

/// In place of the table of hosts.
const NOT_KNOWN: &str = "which hosts are connected is not known: the kernel does not tell (root sees it from Linux 6.11 on, \
    in debugfs, if the kernel was built with CONFIG_NVME_TARGET_DEBUGFS)";

/// A target as tables; rates are told where there was an earlier look.
fn show(target: &Target, before: Option<(&Target, Duration)>) -> String {
    let head = [
        ["target".to_owned(), printable(&target.address)],
        ["state".into(), format!("{}, since {}", printable(&target.state), printable(&target.since))],
        ["access".into(), access(target)],
    ];
    let mut parts = vec![table(&head)];
    if !target.accounts {
        parts.push("the kernel's target does not tell of I/O, queues and errors".into());
    }
    let mut rows = vec![
        ["ID", "READ", "WRITTEN", "READ/s", "WRITTEN/s", "OPS/s", "IN FLIGHT", "WAITING", "ERRORS", "SINCE", "PATH"]
            .map(str::to_owned),
    ];
    rows.extend(target.files.iter().map(|file| {
        let then = before.and_then(|(target, time)| {
            Some((target.files.iter().find(|then| then.id == file.id && then.since == file.since)?.io?, time))
        });
        file_row(file, then)
    }));
    parts.push(table(&rows));
    let mut rows = vec![
        ["HOST", "ADDRESS", "CNTLID", "QUEUES", "AUTHENTICATED", "READ", "WRITTEN", "READ/s", "WRITTEN/s", "SINCE"]
            .map(str::to_owned),
    ];
    let known = target.hosts.as_deref();
    rows.extend(known.unwrap_or_default().iter().map(|host| {
        let then = before.and_then(|(target, time)| {
            let hosts = target.hosts.as_ref()?;
            Some((hosts.iter().find(|then| then.cntlid == host.cntlid && then.nqn == host.nqn)?.io?, time))
        });
        host_row(host, then)
    }));
    parts.push(match known {
        None => NOT_KNOWN.into(),
        Some([]) => "no host is connected".into(),
        Some(_) => table(&rows),
    });
    if let (Some(faults), Some(connections)) = (target.faults, target.connections) {
        parts.push(format!(
            "{connections} connections; since the start: {} hosts and {} connections refused, {} timeouts, \
             {} protocol errors, {} digest errors",
            faults.refused_hosts,
            faults.refused_connections,
            faults.timeouts,
            faults.protocol_errors,
            faults.digest_errors
        ));
    }
    parts.join("\n\n")
}

fn file_row(file: &File, before: Option<(Io, Duration)>) -> [String; 11] {
    let [read, written, ops] = rates(file.io, before);
    [
        file.id.to_string(),
        told(file.io.map(|io| size(io.read_bytes))),
        told(file.io.map(|io| size(io.written_bytes))),
        told(read.map(size)),
        told(written.map(size)),
        told(ops),
        told(file.in_flight),
        told(file.waiting),
        told(file.io.map(|io| io.errors)),
        printable(&file.since),
        printable(&file.path),
    ]
}

fn host_row(host: &Host, before: Option<(Io, Duration)>) -> [String; 10] {
    let [read, written, _] = rates(host.io, before);
    [
        printable(&host.nqn),
        told(host.address.as_ref().map(printable)),
        host.cntlid.to_string(),
        if host.discovery { "discovery".into() } else { told(host.io_queues) },
        told(host.authenticated.map(|proved| if proved { "yes" } else { "not yet" })),
        told(host.io.map(|io| size(io.read_bytes))),
        told(host.io.map(|io| size(io.written_bytes))),
        told(read.map(size)),
        told(written.map(size)),
        printable(&host.since),
    ]
}

/// Bytes read, bytes written and commands per second.
fn rates(now: Option<Io>, before: Option<(Io, Duration)>) -> [Option<u64>; 3] {
    let (Some(now), Some((before, time))) = (now, before) else { return [None; 3] };
    let commands = |io: &Io| io.reads + io.writes + io.flushes + io.errors;
    let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / time.as_secs_f64()).round() as u64;
    [
        Some(rate(now.read_bytes, before.read_bytes)),
        Some(rate(now.written_bytes, before.written_bytes)),
        Some(rate(commands(&now), commands(&before))),
    ]
}

fn told(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_which_nothing_is_known_are_not_said_to_be_none() {
        let target = |hosts: &str| -> Target {
            serde_json::from_str(&format!(
                r#"{{"subnqn":"nqn.2016-06.io.mc:x","address":"trtype=tcp","state":"serving","since":"2026-11-21T10:50:12Z",
                    "accounts":false,"connections":null,"files":[],"allowed_hosts":null,"hosts":{hosts},"faults":null,
                    "pool_used_bytes":null,"pool_free_bytes":null}}"#
            ))
            .unwrap()
        };
        let unknown = show(&target("null"), None);
        assert!(unknown.contains("is not known") && !unknown.contains("no host is connected"), "{unknown}");
        let none = show(&target("[]"), None);
        assert!(none.contains("no host is connected") && !none.contains("is not known"), "{none}");
    }
}
