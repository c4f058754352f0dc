//! The kernel's target, nvmet, configured through configfs.
//!
//! What comes in: the same [`TargetSpec`](crate::TargetSpec) that the userspace target serves. What goes out: objects
//! below `/sys/kernel/config/nvmet` that say the same, and a [`NvmetTarget`] that takes them down again.
//!
//! - [`modules`]: is nvmet there? Else load it, and mount configfs.
//! - [`tree`]: the few operations that configfs has, behind a trait.
//! - [`observe`]: what nvmet has now, and whose it is.
//! - [`plan`]: the difference between that and the desired target, as [`step::Step`]s. Pure.
//! - [`step`]: what one step is, and how it is done.
//! - [`record`]: what is ours, written down before it is made, so that a kill at any moment is recovered from.
//! - [`undo`]: taking down what is ours, in the kernel's order, and nothing else.
//! - [`backing`]: what nvmet makes of a file: all of it, in blocks of its storage's choice.
//! - `debugfs`: what the kernel tells of connected hosts.
//! - [`driver`]: all of this as a [`TargetDriver`](crate::TargetDriver).

mod backing;
mod debugfs;
pub mod driver;
mod error;
pub mod modules;
pub mod observe;
mod paths;
pub mod plan;
pub mod record;
pub mod step;
pub mod tree;
pub mod undo;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use driver::{NvmetOptions, NvmetTarget, Preview, preview};
pub use error::NvmetError;
pub use modules::Roots;
pub use plan::PortOptions;
pub use step::Step;
