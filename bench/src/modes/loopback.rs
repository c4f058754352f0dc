//! Loopback mode: one engine that offers files and uses them, over real NVMe/TCP connections. What it is not given
//! it makes for itself: a temporary file, a metadata server, a free port.

use super::{node, say, use_segment};
use crate::cli::RunArgs;
use crate::failure::Usage;
use crate::files::{self, LocalFile};
use crate::signals::StopSignal;
use crate::size::show_size;
use crate::temp::TempFile;
use crate::workload::Workload;
use anyhow::{Context, Result, bail};
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
    for file in &given {
        check_block(&workload, file)?;
    }

    // Things end in the opposite order: the engine before its file and its metadata server.
    let temp = match given.is_empty() {
        true => Some(TempFile::create(args.file_size, workload.seed, signal)?),
        false => None,
    };
    let files = temp.as_ref().map_or(given, |temp| vec![temp.to_local_file()]);
    if let Some(temp) = &temp {
        let file = temp.to_local_file();
        check_block(&workload, &file)?;
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

    let engine = node::start(args, metadata, &name, node::Offers::Files { port: args.trsvcid.unwrap_or(0) })?;
    let ended = node::offer(&engine, &files)
        .and_then(|()| Ok(signal.check()?))
        .and_then(|()| use_segment(&engine, &segment, &workload, args, signal));
    let stopped = node::stop(&engine);
    ended.and(stopped)
}

/// A block that does not fit is better known before anything is published.
fn check_block(workload: &Workload, file: &LocalFile) -> Result<()> {
    let used_bytes = workload.range_bytes.map_or(file.size_bytes, |range| range.min(file.size_bytes));
    if workload.block_bytes > used_bytes {
        let (block, path, used) = (show_size(workload.block_bytes), file.path.display(), show_size(used_bytes));
        bail!("a block of {block} does not fit into the {used} used of {path}: lower --block_size");
    }
    Ok(())
}
