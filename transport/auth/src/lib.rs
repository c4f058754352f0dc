//! NVMe in-band authentication, DH-HMAC-CHAP (base specification 8.13.5), as pure computation for both sides.
//!
//! What comes in: secrets, and the peer's messages. What goes out: messages, and a verdict. No I/O, no clock, no
//! threads: the target and the host drive the same two state machines. May use `wire`, which has the messages' bytes;
//! this room stands beside it, so that the codec needs no cryptography. Hashes, big numbers and comparisons
//! are RustCrypto's and take the same time for every secret.
//!
//! - [`Secret`]: what both sides know, in the `DHHC-1:` text form; [`mod@file`]: where people keep it.
//! - [`ControllerExchange`] and [`HostExchange`]: the two sides, message by message.
//! - `response`, `group`, `hash`: what both compute alike.

#![forbid(unsafe_code)]

mod controller;
pub mod file;
mod group;
mod hash;
mod host;
mod primes;
mod response;
mod secret;
#[cfg(test)]
mod tests;

pub use controller::{ControllerExchange, ControllerTerms, Standing};
pub use host::{HostAuthError, HostExchange, HostFailure, HostTerms};

pub use nvferry_wire::auth::{AuthHash, DhGroup};
pub use secret::{RandomError, Secret, SecretError};

/// Bytes that nobody can foretell.
fn random(len: usize) -> Result<Vec<u8>, getrandom::Error> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
