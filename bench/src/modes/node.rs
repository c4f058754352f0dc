//! An engine with the NVMe-oF transport in it, as the command line wants both.

use super::say;
use crate::cli::{AddressFamily, Digests, Fabric, Protocol, RunArgs, Switch, TargetDriver};
use crate::failure::Usage;
use crate::files::LocalFile;
use crate::report::{Threads, word};
use anyhow::{Context, Result};
use nvferry_engine::null::NullTransportFactory;
use nvferry_engine::{Deadline, SegmentDesc, TransferEngine, null};
use nvferry_nvmeof::{NvmeofFactory, NvmeofOptions};
use nvferry_observe::{Exporter, ExporterSocket, Observer};
use std::time::Duration;

/// The NVMe-oF transport's name.
const NVMEOF: &str = "nvmeof_generic";
/// How long an engine may take to end what it has under way and withdraw what it published.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// The same after a failure: whatever failed may not answer any more, and a person waits to hear of it.
const SHUTDOWN_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Whether an engine offers files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offers {
    /// On this port; 0 takes a free one.
    Files { port: u16 },
    /// Nothing.
    Nothing,
}

/// An engine, and what can be asked about its transport.
pub(super) struct Node {
    pub(super) engine: TransferEngine,
    transports: NvmeofFactory,
    /// Tells metrics as long as it is there.
    _exporter: Option<Exporter>,
}

impl Node {
    /// What its threads did so far.
    pub(super) fn threads(&self) -> Threads {
        let mut threads = Threads::default();
        for transport in self.transports.installed() {
            let status = transport.status();
            threads.driven_waits += status.driven_waits;
            threads.workers.extend(status.worker_paths);
            threads.reactors.extend(transport.target().map(|target| target.status().reactors).unwrap_or_default());
        }
        threads
    }
}

/// Makes an engine of this name, and tells its metrics where that is asked for. Nothing is published yet.
///
/// # Errors
/// [`Usage`] for a fabric that the target driver does not have; otherwise the engine's.
pub(super) fn start(args: &RunArgs, metadata: &str, name: &str, offers: Offers) -> Result<Node> {
    let is_userspace = args.target_driver == TargetDriver::Userspace;
    if offers != Offers::Nothing && args.trtype != Fabric::Tcp && is_userspace {
        return Err(Usage(format!(
            "--trtype={} is for the kernel's target: use it with --target_driver=nvmet",
            word(args.trtype)
        ))
        .into());
    }
    let metrics = args.metrics_listen.as_deref().map(ExporterSocket::bind).transpose()?;
    let mut options = NvmeofOptions::new();
    if let Some(socket) = &metrics {
        say(args, &format!("Metrics at http://{}/metrics", socket.address()));
        options = options.status_url(socket.status_url(args.traddr.parse().ok()));
    }
    let transports = nvferry_nvmeof::factory(options);
    let engine = TransferEngine::builder()
        .metadata(metadata)
        .server_name(name)
        .request_timeout(args.timeout)
        .control_timeout(args.control_timeout)
        .transport(transports.clone())
        .transport(NullTransportFactory::default())
        .build()?;
    match args.protocol {
        Protocol::Nvmeof => engine.install_transport(NVMEOF, transport_text(args, offers).as_str())?,
        Protocol::Null => engine.install_transport(null::PROTOCOL, "")?,
    }
    let exporter = metrics.map(|socket| socket.serve(Observer::new(transports.clone()))).transpose()?;
    Ok(Node { engine, transports, _exporter: exporter })
}

/// The transport's own text: its transport id, and every setting that the command line names.
fn transport_text(args: &RunArgs, offers: Offers) -> String {
    let mut words = Vec::new();
    if let Offers::Files { port } = offers {
        words.push(format!("trtype={}", word(args.trtype)));
        let family = args.adrfam.unwrap_or(match args.traddr.contains(':') {
            true => AddressFamily::Ipv6,
            false => AddressFamily::Ipv4,
        });
        words.push(format!("adrfam={}", if family == AddressFamily::Ipv4 { "ipv4" } else { "ipv6" }));
        words.push(format!("traddr={}", args.traddr));
        words.push(format!("trsvcid={port}"));
        words.push(format!("target_driver={}", word(args.target_driver)));
        words.extend(args.overwrite.then(|| "overwrite=on".to_owned()));
        words.extend(args.allowed_hosts.as_ref().map(|file| format!("allowed_hosts_file={file}")));
    }
    words.push(format!("host_driver={}", word(args.host_driver)));
    let on_off = |on: bool| if on { "on" } else { "off" };
    if let Some(digests) = args.digests {
        words.push(format!("hdgst={}", on_off(matches!(digests, Digests::Header | Digests::Both))));
        words.push(format!("ddgst={}", on_off(matches!(digests, Digests::Data | Digests::Both))));
    }
    words.extend(args.workers.map(|workers| format!("workers={workers}")));
    words.extend(args.spin_us.map(|us| format!("spin_us={us}")));
    words.extend(args.direct.map(|direct| format!("direct={}", on_off(direct == Switch::On))));
    words.extend(args.hostnqn.as_ref().map(|nqn| format!("hostnqn={nqn}")));
    words.extend(args.dhchap_secret_file.as_ref().map(|file| format!("dhchap_secret_file={file}")));
    words.extend(args.dhchap_ctrl_secret_file.as_ref().map(|file| format!("dhchap_ctrl_secret_file={file}")));
    words.join(" ")
}

/// Offers the files, all or none: what was offered before one failed goes with the engine.
pub(super) fn offer(engine: &TransferEngine, files: &[LocalFile]) -> Result<()> {
    for file in files {
        engine.register_local_file(&file.path, file.size_bytes)?;
    }
    Ok(())
}

/// Ends an engine after what it was for has ended so: withdraws what it published. The first failure counts.
pub(super) fn stop(node: &Node, ended: Result<()>) -> Result<()> {
    let patience = if ended.is_ok() { SHUTDOWN } else { SHUTDOWN_AFTER_FAILURE };
    let stopped = node.engine.shutdown(Deadline::after(patience)).context("cannot end the engine as it should");
    ended.and(stopped)
}

/// Where a segment's target listens, as people read it; nothing where it does not say.
pub(super) fn address(segment: &SegmentDesc) -> String {
    let trid = segment.extra.get("nvmeof_generic_trid");
    let field = |name: &str| trid.and_then(|trid| trid.get(name)).and_then(|value| value.as_str());
    match (field("traddr"), field("trsvcid")) {
        (Some(address), Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        _ => format!("the transport {}", segment.protocol),
    }
}

/// This machine's name.
pub(super) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into())
}
