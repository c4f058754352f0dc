//! Taking down what is ours, in the order that the kernel wants, and nothing else.

use super::paths::{self, Kind};
use super::record::{Entry, Mark, Record};
use super::step::{Step, StepError};
use super::tree::Tree;
use rustix::io::Errno;
use std::io::ErrorKind;

/// The steps that remove what a record names, as far as it is there and really ours.
#[must_use]
pub fn plan(entries: &[Entry], tree: &dyn Tree) -> Vec<Step> {
    let mut doomed: Vec<(Kind, &str)> = entries
        .iter()
        .filter(|entry| is_ours(entry, entries, tree))
        .filter_map(|entry| Some((paths::kind(&entry.path)?, entry.path.as_str())))
        .collect();
    doomed.sort_by_key(|&(kind, _)| kind);
    let mut steps = Vec::new();
    for (kind, path) in doomed {
        let path = path.to_owned();
        match kind {
            Kind::PortLink | Kind::HostLink => steps.push(Step::Unlink { path }),
            Kind::Namespace => {
                if tree.read(&format!("{path}/enable")).is_ok_and(|enabled| enabled == "1") {
                    steps.push(Step::set(format!("{path}/enable"), "0"));
                }
                steps.push(Step::Remove { path });
            }
            Kind::Subsystem | Kind::Host | Kind::Port => steps.push(Step::Remove { path }),
        }
    }
    steps
}

/// Whether what is there is what the entry speaks of.
fn is_ours(entry: &Entry, entries: &[Entry], tree: &dyn Tree) -> bool {
    let Ok(inode) = tree.inode(&entry.path) else { return false };
    match (entry.mark, paths::kind(&entry.path)) {
        (_, None) => false,
        (Mark::Made(made), _) => made == inode,
        // Within a port or subsystem of ours, under a name that we were about to make.
        (Mark::Intended, Some(Kind::PortLink | Kind::HostLink | Kind::Namespace)) => {
            let parent = entry.path.split('/').take(2).collect::<Vec<_>>().join("/");
            entries.iter().any(|entry| entry.path == parent && is_ours(entry, entries, tree))
        }
        (Mark::Intended, Some(Kind::Subsystem | Kind::Host | Kind::Port)) => is_blank(&entry.path, tree),
    }
}

/// Whether an object is as it was when it was made: we were killed between making it and noting so. One that somebody
/// has done anything with is not ours.
fn is_blank(path: &str, tree: &dyn Tree) -> bool {
    let empty = |dir: &str| tree.list(&format!("{path}/{dir}")).is_ok_and(|names| names.is_empty());
    let unset = |attribute: &str| tree.read(&format!("{path}/{attribute}")).is_ok_and(|value| value.is_empty());
    match paths::kind(path) {
        Some(Kind::Port) => unset("addr_traddr") && unset("addr_trtype") && empty("subsystems"),
        Some(Kind::Subsystem) => empty("namespaces") && empty("allowed_hosts"),
        Some(Kind::Host) => !tree.exists(&format!("{path}/dhchap_key")) || unset("dhchap_key"),
        _ => false,
    }
}

/// Removes what the record names and forgets what is gone. Goes on after a step that fails: what can go goes.
///
/// # Errors
/// The first step that failed. What others still use (a port or a subsystem of ours that another program linked to)
/// stays, and stays in the record.
pub(super) fn run(record: &Record, tree: &dyn Tree) -> Result<(), StepError> {
    let steps = plan(&record.entries(), tree);
    let mut first = Ok(());
    for step in &steps {
        tracing::debug!(target: "nvferry::nvmet", "{step}");
        match step.apply(tree, record) {
            Ok(()) => {}
            // A removal that took longer than its caller waited has ended meanwhile.
            Err(StepError { step: Step::Set { .. }, source }) if source.kind() == ErrorKind::NotFound => {}
            // Another engine's subsystem still lets this host in, and removes it: its record names it, too.
            Err(error) if is_shared_host(&error) => {
                if let Err(source) = record.forget(step.path()) {
                    first = first.and(Err(StepError { step: step.clone(), source }));
                }
            }
            Err(error) => first = first.and(Err(error)),
        }
    }
    // What is not there any more, or somebody else's by now, is not named any longer.
    let entries = record.entries();
    for entry in entries.iter().filter(|entry| !is_ours(entry, &entries, tree)) {
        // A tree that cannot be looked at tells nothing.
        if tree.inode(&entry.path).is_err_and(|error| error.kind() != ErrorKind::NotFound) {
            continue;
        }
        if let Err(source) = record.forget(&entry.path) {
            first = first.and(Err(StepError { step: Step::Remove { path: entry.path.clone() }, source }));
        }
    }
    first
}

fn is_shared_host(error: &StepError) -> bool {
    let busy = error.source.raw_os_error() == Some(Errno::BUSY.raw_os_error());
    busy && matches!(error.step, Step::Remove { .. }) && paths::kind(error.step.path()) == Some(Kind::Host)
}
