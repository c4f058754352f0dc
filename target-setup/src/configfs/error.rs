//! What can keep the kernel's target from being as desired.

use super::step::{Step, StepError};
use nvferry_wire::{Nqn, TransportId};
use std::fmt;
use std::io;
use std::path::PathBuf;

const OTHER_WAY: &str = "the userspace driver (target_driver=userspace) needs neither root nor kernel modules";

/// Why the kernel's target is not as desired, and what a person can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmetError {
    /// Another living engine has the subsystem.
    #[error(
        "cannot set up subsystem {subsystem}: it belongs to {}, which is running; stop that one, or choose another name",
        Owner(*.pid)
    )]
    Owned {
        /// The subsystem.
        subsystem: Nqn,
        /// The process, where it is known.
        pid: Option<u32>,
    },
    /// Another program made the subsystem.
    #[error(
        "cannot set up subsystem {subsystem}: nvmet has one of that name that nvferry did not make, and it is left as \
         it is; choose another name with subnqn="
    )]
    Foreign {
        /// The subsystem.
        subsystem: Nqn,
    },
    /// nvmet cannot have a subsystem or host of this name.
    #[error("cannot set up {name} in nvmet: {why}")]
    Name {
        /// The name.
        name: Nqn,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another port listens there.
    #[error(
        "cannot listen on {transport}: port {port} of nvmet has that address, made by {}; choose another trsvcid",
        match .pid { Some(pid) => Owner(Some(*pid)).to_string(), None => "another program".into() }
    )]
    PortTaken {
        /// Where.
        transport: TransportId,
        /// The port's id.
        port: u16,
        /// The nvferry process that made it, if one did.
        pid: Option<u32>,
    },
    /// A host that should prove itself by a secret is known to nvmet already.
    #[error(
        "cannot set secrets of host {host}: nvmet has that host already, made by another program or with other secrets, \
         and it is left as it is; remove it, or allow the host without a secret here"
    )]
    HostTaken {
        /// The host.
        host: Nqn,
    },
    /// The record of what is ours cannot be kept.
    #[error("cannot keep the record of what nvferry makes in nvmet, {path}: {source}; {OTHER_WAY}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// nvmet cannot be had on this machine as it is.
    #[error("nvmet cannot be used: {step} failed: {why}; {OTHER_WAY}")]
    Unavailable {
        /// What was attempted.
        step: String,
        /// Why it failed.
        why: String,
    },
    /// A step failed.
    #[error("cannot set up the kernel's target: {0}{hint}", hint = hint(.0))]
    Step(#[from] StepError),
    /// The tree cannot be read.
    #[error("cannot read {path} of nvmet's configuration: {source}; {OTHER_WAY}")]
    Read {
        /// What.
        path: String,
        /// The system's reason.
        source: io::Error,
    },
    /// nvmet cannot offer the file as asked.
    #[error("cannot offer {path} through nvmet: {why}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The kernel takes its time.
    #[error(
        "{action} is not done by its deadline; the kernel still waits for I/O, and it is finished as soon as that ends"
    )]
    Slow {
        /// What was attempted.
        action: String,
    },
    /// Others use what was made here.
    #[error("some of what was made in nvmet could not be removed: {0}; it is removed by the next start that can")]
    Left(StepError),
}

/// A process that owns something.
struct Owner(Option<u32>);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) if pid == std::process::id() => write!(f, "another target of this process ({pid})"),
            Some(pid) => write!(f, "the nvferry process {pid}"),
            None => f.write_str("another nvferry process"),
        }
    }
}

/// What to do about a step that failed, where that is known.
fn hint(error: &StepError) -> String {
    use rustix::io::Errno;
    let errno = error.source.raw_os_error().map(Errno::from_raw_os_error);
    let enable = matches!(&error.step, Step::Set { path, .. } if path.ends_with("/enable"));
    let text = match (errno, &error.step) {
        (Some(Errno::ADDRINUSE), Step::Link { .. }) => {
            "something listens at that address already; choose another trsvcid"
        }
        (Some(Errno::ADDRNOTAVAIL), Step::Link { .. }) => {
            "that address is not on this machine; give one that is as traddr"
        }
        (Some(Errno::ACCESS | Errno::PERM), Step::Set { .. }) if enable => {
            "the kernel may not open the file for reading and writing"
        }
        (Some(Errno::ACCESS | Errno::PERM | Errno::ROFS), _) => return format!("; this needs root; {OTHER_WAY}"),
        (Some(Errno::INVAL), Step::Set { .. }) if enable => {
            "perhaps its file system has no Direct I/O; buffered I/O (direct=off) needs none"
        }
        (Some(Errno::INVAL | Errno::NOENT | Errno::PROTONOSUPPORT | Errno::NODEV), Step::Link { .. }) => {
            "perhaps the kernel module of this transport is missing, or no device speaks it"
        }
        _ => return String::new(),
    };
    format!("; {text}")
}
