//! The steps that a plan is made of, and how each is done.

use super::record::Record;
use super::tree::Tree;
use std::fmt;
use std::io;

/// One change of the tree. Paths are relative to `/sys/kernel/config/nvmet`.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// Make an object: a subsystem, a namespace, a port, a host.
    Make {
        /// Its directory.
        path: String,
    },
    /// Give an attribute a value.
    Set {
        /// The attribute.
        path: String,
        /// The value.
        value: String,
        /// Passed over where this kernel does not have the attribute.
        optional: bool,
    },
    /// Let a port offer a subsystem, or a host into one.
    Link {
        /// The link.
        path: String,
        /// What it leads to.
        object: String,
    },
    /// Take a link away.
    Unlink {
        /// The link.
        path: String,
    },
    /// Take an object away.
    Remove {
        /// Its directory.
        path: String,
    },
}

impl Step {
    pub(super) fn make(path: impl Into<String>) -> Self {
        Self::Make { path: path.into() }
    }

    pub(super) fn set(path: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Set { path: path.into(), value: value.into(), optional: false }
    }

    pub(super) fn set_if_there(path: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Set { path: path.into(), value: value.into(), optional: true }
    }

    pub(super) fn link(object: impl Into<String>, path: impl Into<String>) -> Self {
        Self::Link { path: path.into(), object: object.into() }
    }

    /// What the step changes.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Make { path }
            | Self::Set { path, .. }
            | Self::Link { path, .. }
            | Self::Unlink { path }
            | Self::Remove { path } => path,
        }
    }

    /// What kind of step it is, in one word.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Make { .. } => "make",
            Self::Set { .. } => "set",
            Self::Link { .. } => "link",
            Self::Unlink { .. } => "unlink",
            Self::Remove { .. } => "remove",
        }
    }

    /// Does the step. What it makes is written into the record first, so that being killed at any moment leaves
    /// nothing that the next start cannot recognise.
    pub(super) fn apply(&self, tree: &dyn Tree, record: &Record) -> Result<(), StepError> {
        let failed = |source| StepError { step: self.clone(), source };
        match self {
            Self::Make { path } => {
                record.intend(path).map_err(failed)?;
                if let Err(error) = tree.make_dir(path) {
                    if error.kind() == io::ErrorKind::AlreadyExists {
                        // Somebody else's.
                        record.forget(path).map_err(failed)?;
                    }
                    return Err(failed(error));
                }
                let inode = tree.inode(path).map_err(failed)?;
                record.made(path, inode).map_err(failed)
            }
            Self::Set { path, value, optional } => match tree.write(path, value) {
                Err(error) if *optional && error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result.map_err(failed),
            },
            Self::Link { path, object } => {
                record.intend(path).map_err(failed)?;
                tree.link(object, path).map_err(failed)?;
                let inode = tree.inode(path).map_err(failed)?;
                record.made(path, inode).map_err(failed)
            }
            Self::Unlink { path } => {
                tree.unlink(path).or_else(gone_already).map_err(failed)?;
                record.forget(path).map_err(failed)
            }
            Self::Remove { path } => {
                tree.remove_dir(path).or_else(gone_already).map_err(failed)?;
                record.forget(path).map_err(failed)
            }
        }
    }
}

fn gone_already(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Does steps in order, up to the first that fails.
pub(super) fn apply_all(steps: &[Step], tree: &dyn Tree, record: &Record) -> Result<(), StepError> {
    for step in steps {
        tracing::debug!(target: "nvferry::nvmet", "{step}");
        step.apply(tree, record)?;
    }
    Ok(())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make { path } => write!(f, "make   {path}"),
            Self::Set { path, .. } if path.ends_with("_key") => write!(f, "set    {path} = (a secret)"),
            Self::Set { path, value, optional: false } => write!(f, "set    {path} = {value}"),
            Self::Set { path, value, optional: true } => {
                write!(f, "set    {path} = {value} (where this kernel has it)")
            }
            Self::Link { path, object } => write!(f, "link   {path} -> {object}"),
            Self::Unlink { path } => write!(f, "unlink {path}"),
            Self::Remove { path } => write!(f, "remove {path}"),
        }
    }
}

/// As people read it: secrets stay out of logs.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A step that failed.
#[derive(Debug)]
pub struct StepError {
    /// The step.
    pub step: Step,
    /// The system's reason.
    pub source: io::Error,
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        write!(f, "the step \"{step}\" failed: {}", self.source)
    }
}

impl std::error::Error for StepError {}
