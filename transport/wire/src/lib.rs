//! NVMe/TCP as bytes: what host and target say to each other, and nothing of how they send it.
//!
//! In come bytes from a peer that nobody has reason to trust, out come typed values, or an error that says what
//! is wrong and what to tell the peer; and the way back. No I/O, no unsafe code, no panic on any input, no
//! allocation on the data path. The way in, from the outside:
//!
//! - [`pdu`]: the protocol data units of the TCP transport, their checks and their layout; [`digest`] is their CRC32C.
//! - [`sqe`] and [`cqe`]: the command and the completion that capsules carry; [`sgl`]: where a command's data is;
//!   [`status`]: how it ended, and whether a retry makes sense.
//! - [`fabrics`] (Connect, properties, Disconnect), [`admin`] and [`nvm`]: what the commands say.
//! - [`auth`]: the commands and messages of in-band authentication.
//! - [`identify`], [`log_page`], [`feature`], [`async_event`]: what the admin commands return.
//! - [`ids`], [`nqn`], [`trid`]: names of things. Below all of it, `codec` is the bounded reader and writer.
//!
//! Section numbers are those of NVM Express Base 2.0, NVM Command Set 1.0 and TCP Transport 1.0.

#![forbid(unsafe_code)]

pub mod admin;
pub mod async_event;
pub mod auth;
mod codec;
pub mod cqe;
pub mod digest;
mod error;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod ids;
pub mod log_page;
pub mod nqn;
pub mod nvm;
pub mod pdu;
pub mod sgl;
pub mod sqe;
pub mod status;
pub mod trid;

pub use cqe::Cqe;
pub use error::WireError;
pub use ids::{BlockCount, CommandId, ControllerId, HostId, Lba, Nguid, Nsid, QueueId, TransferTag};
pub use nqn::Nqn;
pub use sgl::SglDescriptor;
pub use sqe::Sqe;
pub use status::{RetryAdvice, Status, StatusCode};
pub use trid::TransportId;
