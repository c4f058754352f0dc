//! `nvferry target plan`: the steps by which the kernel's target would be set up.

use crate::cli::PlanArgs;
use crate::output::say;
use crate::{files, target};
use anyhow::{Context, Result};
use nvferry_target::configfs::{NvmetOptions, Preview, Roots, Step, preview};
use nvferry_target::{NamespaceSpec, TargetSpec};
use nvferry_wire::{Nqn, Nsid, TransportId};
use serde_json::json;

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let offer = &args.offer;
    // Read as serving reads it, so that both refuse the same.
    target::transport_text(offer)?;
    let fields = [
        ("trtype", Some(offer.trtype.as_str())),
        ("adrfam", offer.adrfam.as_deref()),
        ("traddr", Some(offer.traddr.as_str())),
        ("trsvcid", Some(offer.trsvcid.as_str())),
    ];
    let given = fields.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let transport = TransportId::from_fields(given)?;
    let subsystem = match &offer.subnqn {
        Some(name) => Nqn::new(name)?,
        None => Nqn::new(format!("{}{}", nvferry_nvmeof::SUBNQN_PREFIX, args.server_name)).context("give --subnqn")?,
    };
    let direct = match offer.direct.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("off" | "0" | "false" | "no") => false,
        None | Some("on" | "1" | "true" | "yes") => true,
        Some(other) => anyhow::bail!("--direct {other}: must be on or off"),
    };
    let mut spec = TargetSpec::new(transport, subsystem);
    for (index, file) in files::check(&offer.file, &offer.files)?.into_iter().enumerate() {
        let namespace = NamespaceSpec::new(Nsid(index as u32 + 1), file.path, file.size_bytes);
        spec.namespaces.push(NamespaceSpec { direct, overwrite: offer.overwrite, ..namespace });
    }
    let roots = Roots::other(&args.configfs_root, &args.record_dir);
    let preview = preview(&spec, &NvmetOptions { roots, ..NvmetOptions::default() })?;
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
