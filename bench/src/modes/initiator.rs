//! Initiator mode: reads or writes the files of a segment that another process or machine offers.

use super::{node, use_segment};
use crate::cli::RunArgs;
use crate::failure::Usage;
use crate::signals::StopSignal;
use crate::workload::Workload;
use anyhow::Result;

pub(super) fn main(args: &RunArgs, signal: &StopSignal) -> Result<()> {
    let workload = Workload::from_args(args)?;
    if workload.writes() && !args.overwrite {
        return Err(Usage(
            "this would overwrite the files of the segment: add --overwrite when what they hold may be lost".into(),
        )
        .into());
    }
    // `check_together` has seen to it that there are both.
    let metadata = args.metadata_server.as_deref().unwrap_or_default();
    let segment = args.segment_id.as_deref().unwrap_or_default();
    let own_name = || format!("{}-{}", node::host_name(), std::process::id());
    let name = args.local_server_name.clone().unwrap_or_else(own_name);
    let node = node::start(args, metadata, &name, node::Offers::Nothing)?;
    let ended = use_segment(&node, segment, &workload, args, signal);
    node::stop(&node, ended)
}
