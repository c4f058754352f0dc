//! `nvferry target plan`: the steps by which the kernel's target would be set up.

use crate::cli::PlanArgs;
use crate::output::say;
use crate::target;
use anyhow::Result;
use nvferry_nvmeof::desired_target;
use nvferry_target::configfs::{NvmetOptions, Preview, Roots, Step, preview};
use serde_json::json;

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let offer = &args.offer;
    let files = target::wanted(offer)?.into_iter().map(|file| (file.path, file.size_bytes));
    let text = format!("{} target_driver=nvmet", target::transport_text(offer)?);
    let (spec, options) = desired_target(&args.server_name, &text, files)?;
    let roots = Roots::other(&args.configfs_root, &args.record_dir);
    let preview = preview(&spec, &NvmetOptions { roots, ..options })?;
    say(&if args.json { as_json(&preview) } else { as_text(&preview) })
}

fn as_text(preview: &Preview) -> String {
    let mut lines = Vec::new();
    if let Some(pid) = preview.owner {
        lines.push(format!("# process {pid} serves this subsystem; starting another target for it would be refused"));
    }
    lines.extend(preview.preparation.iter().cloned());
    if !preview.leftovers.is_empty() {
        lines.push("# what a process that died left".to_owned());
        lines.extend(preview.leftovers.iter().map(Step::to_string));
    }
    if preview.steps.is_empty() {
        lines.push("# nothing to do: the target is as desired".to_owned());
    } else {
        lines.push("# below /sys/kernel/config/nvmet".to_owned());
        lines.extend(preview.steps.iter().map(Step::to_string));
    }
    lines.join("\n")
}

fn as_json(preview: &Preview) -> String {
    let steps = |steps: &[Step]| {
        let step = |step: &Step| json!({ "do": step.verb(), "path": step.path(), "text": step.to_string() });
        steps.iter().map(step).collect::<Vec<_>>()
    };
    let preview = json!({
        "owner_pid": preview.owner,
        "preparation": preview.preparation,
        "leftovers": steps(&preview.leftovers),
        "steps": steps(&preview.steps),
    });
    format!("{preview:#}")
}
