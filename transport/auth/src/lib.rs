//! NVMe in-band authentication, DH-HMAC-CHAP (base specification 8.13.5), as pure computation for both sides.
//!
//! What comes in: secrets, and the peer's messages. What goes out: messages, and a verdict. No I/O, no clock, no
//! threads: the target and the host drive the same two state machines. May use `wire`, which has the messages' bytes;
//! this room stands beside it, so that the codec needs no cryptography. Hashes, big numbers and comparisons
//! are RustCrypto's and take the same time for every secret.
//!
//! - [`Secret`]: what both sides know, in the `DHHC-1:` text form; [`file`]: where people keep it.

#![forbid(unsafe_code)]

pub mod file;
mod hash;
mod secret;

pub use nvferry_wire::auth::{AuthHash, DhGroup};
pub use secret::{RandomError, Secret, SecretError};
