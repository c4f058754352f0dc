//! What a process holds of the system.

use std::fs::{read_dir, read_to_string};

/// What a process holds: what must not grow with what came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Memory of its own that is in use, in bytes: resident, and not of a file.
    pub memory_bytes: u64,
}

impl Usage {
    /// Of the calling process.
    #[must_use]
    pub fn here() -> Self {
        Self::at("/proc/self")
    }

    /// Of another process of this user.
    #[must_use]
    pub fn of(process: u32) -> Self {
        Self::at(&format!("/proc/{process}"))
    }

    fn at(place: &str) -> Self {
        let entries = |name: &str| read_dir(format!("{place}/{name}")).unwrap().count();
        let status = read_to_string(format!("{place}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        Self { descriptors: entries("fd"), threads: entries("task"), memory_bytes: kib << 10 }
    }
}
