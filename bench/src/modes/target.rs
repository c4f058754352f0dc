//! Target mode: serves files until a signal comes, then withdraws its segment.

use super::{node, say};
use crate::cli::RunArgs;
use crate::cpu::cpu_seconds;
use crate::files;
use crate::signals::StopSignal;
use crate::size::show_size;
use anyhow::Result;

/// The port of NVMe/TCP I/O controllers that IANA assigned.
const NVME_PORT: u16 = 4420;

pub(super) fn main(args: &RunArgs, signal: &StopSignal) -> Result<()> {
    let files = files::check(&args.paths(), args.file_size)?;
    // `check_together` has seen to it that there is one.
    let metadata = args.metadata_server.as_deref().unwrap_or_default();
    let name = args.local_server_name.clone().unwrap_or_else(node::host_name);
    let port = args.trsvcid.unwrap_or(NVME_PORT);
    let node = node::start(args, metadata, &name, node::Offers::Files { port })?;
    let offered = node::offer(&node.engine, &files).and_then(|()| Ok(signal.check()?));
    if offered.is_ok() {
        let address = node.engine.own_segment().as_ref().map(node::address).unwrap_or_default();
        let list: Vec<_> =
            files.iter().map(|file| format!("{} ({})", file.path.display(), show_size(file.size_bytes))).collect();
        say(args, &format!("Serving segment {name} at {address}, published at {metadata}: {}", list.join(", ")));
        let cpu_before = cpu_seconds();
        let number = signal.wait();
        let cpu = cpu_seconds() - cpu_before;
        say(args, &format!("Signal {number}: withdrawing segment {name}, after {cpu:.2} s of CPU"));
    }
    node::stop(&node, offered)
}
