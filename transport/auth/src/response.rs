//! What both sides compute alike: augmented challenges and responses (base specification 8.13.5.5).

use crate::hash::{self, Digest};
use nvferry_wire::Nqn;
use nvferry_wire::auth::AuthHash;

/// Which side a response is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Controller,
}

/// Who proves what to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parties {
    pub(crate) host: Nqn,
    pub(crate) subsystem: Nqn,
}

/// What a response is to.
pub(crate) struct Question<'a> {
    pub(crate) hash: AuthHash,
    pub(crate) challenge: &'a [u8],
    pub(crate) sequence: u32,
    pub(crate) transaction: u16,
    /// The secret of the DH exchange, where there was one.
    pub(crate) session_key: Option<&'a [u8]>,
}

impl Parties {
    /// The response that proves knowledge of `key`.
    pub(crate) fn response(&self, side: Side, key: &[u8], question: &Question<'_>) -> Digest {
        let Question { hash, challenge, sequence, transaction, session_key } = *question;
        let augmented =
            session_key.map(|session_key| hash::hmac(hash, hash::hash(hash, session_key).as_slice(), &[challenge]));
        let challenge = augmented.as_ref().map_or(challenge, Digest::as_slice);
        let (host, subsystem) = (self.host.as_str().as_bytes(), self.subsystem.as_str().as_bytes());
        let (label, own, peer): (&[u8], _, _) = match side {
            Side::Host => (b"HostHost", host, subsystem),
            Side::Controller => (b"Controller", subsystem, host),
        };
        // SC_C is 0: no secure channel is ever agreed on.
        let numbers = [&sequence.to_le_bytes()[..], &transaction.to_le_bytes(), &[0]].concat();
        hash::hmac(hash, key, &[challenge, &numbers, label, own, &[0], peer])
    }
}
