//! libnvme, as much of it as connecting the kernel's NVMe host to a target takes.
//!
//! In goes a [`ConnectRequest`]; out comes the name of the kernel's controller, such as `nvme3`, or a [`ConnectError`]
//! with the library's number and its words. Everything else about controllers and namespaces is in sysfs, which needs
//! no library.
//!
//! The library is loaded when it is first needed (`LibNvme::load`), not linked: a program that was built with the
//! feature `libnvme` starts on machines that have no libnvme, and says there what is missing. Without the feature only
//! the plain types are here, and neither headers nor libclang are needed.
//!
//! - [`request`]: the plain types.
//! - `bindings`: what bindgen made of libnvme.h, 1.0 and newer.
//! - `config`: the one structure whose layout the library's versions disagree on, and how that is got around.
//! - `connect`: the safe face.

#![allow(unsafe_code, reason = "one of the three rooms that talk to C")]

#[cfg(feature = "libnvme")]
mod config;
#[cfg(feature = "libnvme")]
mod connect;
mod request;

#[cfg(feature = "libnvme")]
pub use connect::{LibNvme, LoadError};
pub use request::{ConnectError, ConnectOptions, ConnectRequest};

/// What bindgen made of libnvme.h.
#[cfg(feature = "libnvme")]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/libnvme.rs"));
}
