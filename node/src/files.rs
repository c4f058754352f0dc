//! The local files to serve, checked before anything is set up: what is wrong with them shows before a segment is
//! published.

use anyhow::{Context, Result, anyhow, bail};
pub(crate) use nvferry_target::ServableFile as LocalFile;
use nvferry_target::check_servable;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file as the command line names it: `PATH`, or `PATH:SIZE` for the first `SIZE` bytes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileArg {
    path: PathBuf,
    size_bytes: Option<u64>,
}

impl FromStr for FileArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A colon that no size follows is part of the name.
        let (path, size_bytes) = match text.rsplit_once(':').map(|(path, size)| (path, parse_size(size))) {
            Some((path, Some(size_bytes))) => (path, Some(size_bytes)),
            _ => (text, None),
        };
        if path.is_empty() {
            return Err("a path is needed, or PATH:SIZE".into());
        }
        if size_bytes == Some(0) {
            return Err("a size of 0 serves nothing; leave it out to serve all of the file".into());
        }
        Ok(Self { path: path.into(), size_bytes })
    }
}

/// Bytes, or a number with `k`, `M`, `G` or `T`, which count by 1024.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The files that a list names, one `PATH` or `PATH:SIZE` a line; empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// When the list cannot be read, or a line is wrong.
pub(crate) fn read_list(list: &Path) -> Result<Vec<FileArg>> {
    let text = std::fs::read_to_string(list).with_context(|| format!("cannot read the list {}", list.display()))?;
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| line.parse().map_err(|why| anyhow!("{}, line {number}: {why}", list.display())))
        .collect()
}

/// Checks all files: those given one by one, and those in lists separated by blanks.
///
/// # Errors
/// One sentence about the first that cannot be served.
pub(crate) fn check(single: &[FileArg], lists: &[String]) -> Result<Vec<LocalFile>> {
    let listed = lists.iter().flat_map(|list| list.split_whitespace());
    let listed = listed.map(|path| FileArg { path: path.into(), size_bytes: None });
    let mut seen: HashMap<_, PathBuf> = HashMap::new();
    let mut files = Vec::new();
    for arg in single.iter().cloned().chain(listed) {
        let (file, identity) = check_servable(&arg.path, arg.size_bytes)?;
        if let Some(before) = seen.insert(identity, arg.path) {
            bail!("{} and {} are the same file; give it once", before.display(), file.path.display());
        }
        files.push(file);
    }
    if files.is_empty() {
        bail!("there is no file to serve; give --file PATH, --files \"PATH PATH\", or --files-from LIST");
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_after_the_last_colon_counts_and_other_colons_do_not() {
        let parsed = |text: &str| text.parse().map(|arg: FileArg| (arg.path.display().to_string(), arg.size_bytes));
        for (text, path, size_bytes) in [
            ("/data/a", "/data/a", None),
            ("/data/a:4096", "/data/a", Some(4096)),
            ("/data/a:64G", "/data/a", Some(64 << 30)),
            ("/data/a:1MiB", "/data/a", Some(1 << 20)),
            ("/dev/disk/by-path/pci-0000:00:1f.2", "/dev/disk/by-path/pci-0000:00:1f.2", None),
            ("a:b:2k", "a:b", Some(2048)),
            ("a:99999999999999999999", "a:99999999999999999999", None),
            ("a:16777216T", "a:16777216T", None),
            ("a:", "a:", None),
        ] {
            assert_eq!(parsed(text), Ok((path.into(), size_bytes)), "{text}");
        }
        for text in ["", ":4k", "a:0"] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }
}
