//! What can keep a target from being as desired, in sentences for people.

use nvferry_io::file::FileError;
use nvferry_io::stream::BindError;
use nvferry_wire::{Nqn, Nsid, TransportId};
use std::io;
use std::path::PathBuf;

/// Why a target or a namespace is not as desired, and what a person can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The file could not be opened.
    #[error("cannot offer namespace {nsid}: {source}")]
    File {
        /// The namespace.
        nsid: Nsid,
        /// What is wrong with the file.
        source: FileError,
    },
    /// The file has no bytes.
    #[error("cannot offer {path}: it is empty; give it a size first, as with `truncate -s 1G`")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// No bytes were asked for.
    #[error(
        "cannot offer {path}: a size of 0 bytes was asked for; name how many of its {available_bytes} bytes to offer"
    )]
    ZeroSize {
        /// The file.
        path: PathBuf,
        /// Bytes that the file has.
        available_bytes: u64,
    },
    /// The file is smaller than what should be offered.
    #[error(
        "cannot offer {asked_bytes} bytes of {path}: it has only {available_bytes}; ask for fewer, or make it larger"
    )]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        asked_bytes: u64,
        /// Bytes that the file has.
        available_bytes: u64,
    },
    /// The block asked for cannot be served from this file.
    #[error("cannot offer {path} in blocks of {asked_bytes} bytes: {why}")]
    Block {
        /// The file.
        path: PathBuf,
        /// Bytes asked for.
        asked_bytes: u32,
        /// What is wrong with that.
        why: String,
    },
    /// The file or block device is offered already, perhaps by another path.
    #[error("cannot offer {path}: it is offered already, as namespace {nsid} ({offered_as}); remove that one first")]
    AlreadyOffered {
        /// The file.
        path: PathBuf,
        /// The namespace that has it.
        nsid: Nsid,
        /// The path that it was offered by.
        offered_as: PathBuf,
    },
    /// Another namespace has that id.
    #[error("cannot offer {path} as namespace {nsid}: that id belongs to {offered_as}; choose another")]
    NsidInUse {
        /// The file.
        path: PathBuf,
        /// The id.
        nsid: Nsid,
        /// What has it.
        offered_as: PathBuf,
    },
    /// The id cannot be a namespace's here.
    #[error("cannot offer {path} as namespace {nsid}: ids go from 1 to {max}")]
    InvalidNsid {
        /// The file.
        path: PathBuf,
        /// The id.
        nsid: Nsid,
        /// The highest there is.
        max: u32,
    },
    /// The target offers as much as it can.
    #[error("cannot offer {path}: this target offers {max} namespaces already, which is its limit")]
    TooManyNamespaces {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// No such namespace.
    #[error("there is no namespace {nsid} on this target")]
    UnknownNamespace {
        /// The id.
        nsid: Nsid,
    },
    /// Nobody can listen there.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The driver does not speak this transport.
    #[error(
        "cannot listen on {transport}: the userspace driver speaks tcp only: use trtype=tcp, or the kernel's target with target_driver=nvmet"
    )]
    Transport {
        /// As asked.
        transport: TransportId,
    },
    /// It holds something that would be lost.
    #[error(transparent)]
    Holds(#[from] crate::guard::GuardError),
    /// The kernel's target is not as desired.
    #[error(transparent)]
    Nvmet(#[from] crate::configfs::NvmetError),
    /// A subsystem cannot have the name of discovery services.
    #[error("cannot name a subsystem {subsystem}: that name belongs to discovery services; choose another")]
    SubsystemName {
        /// As asked.
        subsystem: Nqn,
    },
    /// A text does not fit its NVMe field.
    #[error("the {field} {value:?} cannot be used: {why}")]
    Text {
        /// "serial number" or "model number".
        field: &'static str,
        /// As asked.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A thread, descriptor or I/O engine could not be had.
    #[error("cannot {action}: {source}")]
    Os {
        /// What was attempted.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Commands did not end in time.
    #[error("cannot finish {action} by its deadline: {commands} commands are still under way")]
    StillBusy {
        /// What was attempted.
        action: String,
        /// Commands that had not ended.
        commands: u64,
    },
    /// The target has been stopped.
    #[error("this target has been stopped")]
    Stopped,
}
