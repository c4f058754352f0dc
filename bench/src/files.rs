//! The local files to serve, checked before anything is set up: what is wrong with them shows before a segment is
//! published.

use crate::failure::Usage;
use anyhow::Result;
pub(crate) use nvferry_target::ServableFile as LocalFile;
use nvferry_target::check_servable;
use std::collections::HashMap;
use std::path::PathBuf;

/// Checks that every path can be served: `size_bytes` of it, or all.
///
/// # Errors
/// One sentence about the first that cannot.
pub(crate) fn check(paths: &[PathBuf], size_bytes: Option<u64>) -> Result<Vec<LocalFile>> {
    let mut seen = HashMap::new();
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let (file, identity) = check_servable(path, size_bytes)?;
        if let Some(before) = seen.insert(identity, path) {
            return Err(if before == path {
                Usage(format!("{} is listed twice in --files", path.display())).into()
            } else {
                Usage(format!("{} and {} in --files are the same file", before.display(), path.display())).into()
            });
        }
        files.push(file);
    }
    Ok(files)
}
