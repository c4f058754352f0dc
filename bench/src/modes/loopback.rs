//! Loopback mode: one engine that offers files and uses them, over real NVMe/TCP connections. What it is not given
//! it makes for itself: a temporary file, a metadata server, a free port.

use super::{node, say, use_segment};
use crate::cli::RunArgs;
use crate::failure::Usage;
use crate::files::{self, LocalFile};
use crate::signals::StopSignal;
use crate::size::show_size;
use crate::temp::{self, TempFile};
use crate::workload::Workload;
use anyhow::{Context, Result};
use nvferry_engine::{FileBufferDesc, FileBufferId};
use nvferry_store::{MetadataServer, MetadataServerOptions};

pub(super) fn main(args: &RunArgs, signal: &StopSignal) -> Result<()> {
    let workload = Workload::from_args(args)?;
    let name = args.local_server_name.clone().unwrap_or_else(|| format!("loopback-{}", std::process::id()));
    let segment = args.segment_id.clone().unwrap_or_else(|| name.clone());
    let given = files::check(&args.paths(), args.file_size)?;
    let is_own_file = given.is_empty() && segment == name;
    if workload.writes() && !is_own_file && !args.overwrite {
        return Err(Usage(format!(
            "this would overwrite {}: add --overwrite when what they hold may be lost",
            if segment == name { args.files.join(" ") } else { format!("the files of segment {segment}") }
        ))
        .into());
    }

    let temp_bytes = if given.is_empty() { Some(temp::choose_size(args.file_size)?) } else { None };
    if segment == name {
        let temp = temp_bytes.map(|size_bytes| LocalFile { path: "the temporary file".into(), size_bytes });
        check_fit(&workload, &segment, &temp.map_or(given.clone(), |temp| vec![temp]))?;
    }

    // Things end in the opposite order: the engine before its file and its metadata server.
    let temp = temp_bytes.map(|bytes| TempFile::create(bytes, workload.seed, signal)).transpose()?;
    let files = temp.as_ref().map_or(given, |temp| vec![temp.to_local_file()]);
    if let Some(temp) = &temp {
        let file = temp.to_local_file();
        say(args, &format!("Temporary file {} ({})", file.path.display(), show_size(file.size_bytes)));
    }
    let embedded = match &args.metadata_server {
        Some(_) => None,
        None => {
            let server = MetadataServer::start(MetadataServerOptions::default());
            Some(server.context("cannot start the embedded metadata server")?)
        }
    };
    let own_url = embedded.as_ref().map(|server| server.url().to_owned());
    let metadata = args.metadata_server.as_deref().or(own_url.as_deref()).unwrap_or_default();
    signal.check()?;

    let node = node::start(args, metadata, &name, node::Offers::Files { port: args.trsvcid.unwrap_or(0) })?;
    let ended = node::offer(&node.engine, &files)
        .and_then(|()| Ok(signal.check()?))
        .and_then(|()| use_segment(&node, &segment, &workload, args, signal));
    node::stop(&node, ended)
}

/// What does not fit the files is better known before anything is published.
fn check_fit(workload: &Workload, segment: &str, files: &[LocalFile]) -> Result<()> {
    let describe = |(index, file): (usize, &LocalFile)| {
        // The ids that the engine will give them.
        let id = FileBufferId(u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1));
        FileBufferDesc::new(id, file.path.to_string_lossy(), file.size_bytes, 1)
    };
    let descs: Vec<_> = files.iter().enumerate().map(describe).collect();
    workload.files(segment, &descs).map(drop)
}
