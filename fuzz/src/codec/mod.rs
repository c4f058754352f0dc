//! The codec: every decoder of `wire`, and what it decoded encoded again.

pub(crate) mod auth_message;
pub(crate) mod command;
pub(crate) mod identify_log;
pub(crate) mod pdu;
pub(crate) mod text;
