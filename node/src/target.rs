//! `nvferry target`: serves files as a segment until it is told to stop, and withdraws the segment then.

use crate::cli::{OfferArgs, TargetArgs};
use crate::descriptors;
use crate::files::{self, LocalFile};
use crate::log::Log;
use crate::output::{say, size};
use crate::signals::{StopSignal, Told};
use anyhow::{Context, Result, bail};
use nvferry_engine::{Deadline, TransferEngine};
use nvferry_nvmeof::NvmeofOptions;
use nvferry_observe::{Exporter, ExporterSocket, Observer};
use nvferry_target::userspace::limits;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Descriptors for all connections that a target takes (of hosts, and of strangers), its files, and its pipes; all that there
/// are where the system allows fewer.
const DESCRIPTORS: usize = limits::MAX_CONNECTIONS + 2 * limits::MAX_STRANGERS + 1024;
/// What is under way when it is told to stop has this long to end.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &TargetArgs, log: Log) -> Result<()> {
    let stop = StopSignal::install(args.offer.files_from.is_some())?;
    let transport =
        format!("{} target_driver={}", transport_text(&args.offer)?, one_word("target-driver", &args.target_driver)?);
    let mut files = wanted(&args.offer)?;
    descriptors::ask_for(DESCRIPTORS + files.len());
    let metrics = args.metrics_listen.as_deref().map(ExporterSocket::bind).transpose()?;
    let mut options = NvmeofOptions::new();
    if let Some(socket) = &metrics {
        options = options.status_url(socket.status_url(args.offer.traddr.parse().ok()));
    }
    let transports = nvferry_nvmeof::factory(options);
    let engine = TransferEngine::builder()
        .metadata(args.service.metadata_server.as_str())
        .cluster_id(args.service.cluster_id.as_deref())
        .server_name(&args.server_name)
        .transport(transports.clone())
        .build()?;
    let exporter = metrics.map(|socket| socket.serve(Observer::new(transports))).transpose()?;
    engine.install_transport(nvferry_nvmeof::PROTOCOL, transport.as_str())?;
    // When one of them fails, dropping the engine withdraws those before it.
    for file in &files {
        engine.register_local_file(&file.path, file.size_bytes)?;
    }
    let metrics_at = exporter.as_ref().map(Exporter::address);
    say(&ready(&engine, &files, args, metrics_at))?;
    log.serving();
    while stop.next() == Told::Reload {
        match wanted(&args.offer) {
            Ok(wanted) => change(&engine, &mut files, wanted),
            Err(error) => tracing::error!("the files served stay as they are: {error:#}"),
        }
        say(&ready(&engine, &files, args, metrics_at))?;
    }
    let ended = engine.shutdown(Deadline::after(DRAIN));
    ended.with_context(|| format!("segment {} has ended, but not in order", args.server_name))
}

/// The files that the command line and its list name now.
pub(crate) fn wanted(args: &OfferArgs) -> Result<Vec<LocalFile>> {
    let mut named = args.file.clone();
    if let Some(list) = &args.files_from {
        named.extend(files::read_list(list)?);
    }
    files::check(&named, &args.files)
}

/// Withdraws what is no longer wanted, and offers what is new. What fails is said, and left as it is; the rest is done.
fn change(engine: &TransferEngine, served: &mut Vec<LocalFile>, wanted: Vec<LocalFile>) {
    served.retain(|file| {
        wanted.contains(file)
            || engine.unregister_local_file(&file.path).map_err(|error| tracing::error!("{error}")).is_err()
    });
    for file in wanted {
        if served.contains(&file) {
            continue;
        }
        match engine.register_local_file(&file.path, file.size_bytes) {
            Ok(_) => served.push(file),
            Err(error) => tracing::error!("{error}"),
        }
    }
}

/// What is served, where and under which name.
fn ready(engine: &TransferEngine, files: &[LocalFile], args: &TargetArgs, metrics_at: Option<SocketAddr>) -> String {
    let total = files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.size_bytes));
    let count = if files.len() == 1 { "1 file".into() } else { format!("{} files", files.len()) };
    let address = engine.own_segment().map_or_else(|| "-".into(), |segment| crate::segment::address(&segment));
    format!(
        "serving {count} ({}) at {address} as segment {}, published at {}{}",
        size(total),
        args.server_name,
        args.service.metadata_server,
        metrics_at.map(|at| format!(", metrics at http://{at}/metrics")).unwrap_or_default()
    )
}

/// The transport's own text: its transport id, and what else the command line names.
pub(crate) fn transport_text(args: &OfferArgs) -> Result<String> {
    if args.traddr.parse().is_ok_and(|address: IpAddr| address.is_unspecified()) {
        bail!(
            "--traddr {} is no address that hosts can connect to, and it is what is published; \
             give the one by which they reach this machine",
            args.traddr
        );
    }
    let mut words =
        vec![format!("trtype={}", args.trtype), format!("traddr={}", args.traddr), format!("trsvcid={}", args.trsvcid)];
    words.extend(args.adrfam.as_ref().map(|adrfam| format!("adrfam={adrfam}")));
    words.extend(args.subnqn.as_ref().map(|subnqn| format!("subnqn={subnqn}")));
    words.extend(args.direct.as_ref().map(|direct| format!("direct={direct}")));
    words.extend(args.overwrite.then(|| "overwrite=on".to_owned()));
    words.extend(args.inline_data_bytes.map(|bytes| format!("inline_data_bytes={bytes}")));
    words.extend(args.max_queue_entries.map(|entries| format!("max_queue_entries={entries}")));
    words.extend(args.allowed_hosts.as_ref().map(|file| format!("allowed_hosts_file={file}")));
    // A blank within a value would be read as the next word.
    match words.iter().find(|word| word.contains(char::is_whitespace)) {
        Some(word) => bail!("--{}: a value without blanks is needed", word.replacen('=', " ", 1)),
        None => Ok(words.join(" ")),
    }
}

fn one_word<'a>(flag: &str, value: &'a str) -> Result<&'a str> {
    match value.contains(char::is_whitespace) || value.is_empty() {
        true => bail!("--{flag} {value}: a value without blanks is needed"),
        false => Ok(value),
    }
}
