//! Why a connection ended.

use nvferry_auth::HostAuthError;
use nvferry_wire::Status;
use nvferry_wire::pdu::{FatalErrorStatus, PduError};
use std::borrow::Cow;
use std::io;

/// Why a connection to a target ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// End of the stream.
    #[error("the target closed the connection")]
    Closed,
    /// The system says that it is broken.
    #[error("{}", broken(*.0))]
    Io(io::ErrorKind),
    /// The answer to the very first PDU is not NVMe/TCP's.
    #[error("what answers there is not an NVMe/TCP target: {0}")]
    NotNvmeTcp(PduError),
    /// A PDU that may not be.
    #[error("the target broke the protocol: {0}")]
    Pdu(PduError),
    /// A PDU that may not come now, or not with these values.
    #[error("the target broke the protocol: {what}")]
    Protocol {
        /// What it did.
        what: Cow<'static, str>,
        /// What it is told.
        fes: FatalErrorStatus,
    },
    /// The target ended it.
    #[error("the target ended the connection, giving as its reason: {0}")]
    Terminated(FatalErrorStatus),
    /// Connect, or another command that sets the connection up, was refused.
    #[error("the target refused {what}: {status}{detail}")]
    Refused {
        /// The command.
        what: &'static str,
        /// With what status.
        status: Status,
        /// More about it, or nothing.
        detail: Cow<'static, str>,
    },
    /// The target wants this host to prove itself, and it has no secret.
    #[error(
        "the target wants authentication and no secret is set: name the file that has it (dhchap_secret_file=), or set \
         NVFERRY_DHCHAP_SECRET"
    )]
    NoSecret,
    /// One side did not prove itself to the other.
    #[error(transparent)]
    Auth(HostAuthError),
    /// This side ended it.
    #[error("the connection was given up: {0}")]
    GivenUp(Cow<'static, str>),
}

impl LinkError {
    /// A PDU out of its place.
    pub(super) fn sequence(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Protocol { what: what.into(), fes: FatalErrorStatus::PduSequenceError }
    }

    /// Data outside what was asked for.
    pub(super) fn out_of_range(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Protocol { what: what.into(), fes: FatalErrorStatus::DataOutOfRange }
    }
}

/// What the system says of a connection, for a person.
fn broken(kind: io::ErrorKind) -> String {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match kind {
        ConnectionRefused => format!("nothing listens there ({kind}): is the target running?"),
        HostUnreachable | NetworkUnreachable => format!("no way leads there ({kind}): is the address right?"),
        _ => format!("the connection broke: {kind}"),
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}
